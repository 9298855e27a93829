//! Kernels of tensors that are cut, put one after the other, and paired equal the interpreter, and so do those of
//! steps with norms and blocks, under plans of every kind, with states carried from run to run.

use common::Case;
use fusec_fuse::{Device, Mode, Storage};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

mod common;

fn model(flow: &str) -> Graph {
    let text = format!(
        "name = \"parts\"\n[axes]\nH = 2\nN = 8\nM = 8\nN2 = 16\nA = 5\nB = 3\nC = \"H * N\"\n\
         [input]\nx = \"H, N\"\ny = \"H, A\"\n\
         [param]\nw = {{ shape = \"N2, N2\" }}\nb = {{ shape = \"H, B\", init = \"normal(1)\" }}\n\
         [block.turned]\nargs = [\"u\", \"v\", \"angle\"]\nflow = \"\"\"\n  c = cos(angle)\n  s = sin(angle)\n  \
         return c * u - s * v, s * u + c * v\n\"\"\"\n\
         [recurrence.r]\ninputs = \"u[H, N], angle[H, N]\"\nstate = \"S[H, N], Z[H, N]\"\noutputs = \"o[H, N]\"\n\
         step = \"\"\"\n  S, Z = turned(0.5 * S + u, 0.5 * Z, angle)\n  o = rms_norm(S + 0.1 * Z, N, eps = 0.1)\n\"\"\"\n\
         [model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text("parts", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

#[test]
fn kernels_equal_the_interpreter() {
    let h200 = Device::find("h200").expect("a device");
    for (name, flow) in [
        (
            "two inputs one after the other",
            "return concat(x, rename(x, N -> M), N -> N2, M -> N2)",
        ),
        (
            "inputs, rows before and a parameter",
            "return concat(y, shift(slice(x, N -> B, 5)), A -> N, B -> N) + concat(b, tanh(y), B -> N, A -> N)",
        ),
        (
            "around a product",
            "z = concat(x, silu(x), N -> N2, N -> N2) @ w\nreturn slice(z, N2 -> A, 3) * y",
        ),
        (
            "every pair",
            "p = outer(x, shift(x), N -> M)\nreturn sum(p * p * index(M), N)",
        ),
        (
            "a step with a norm and a block",
            "a, z = split(r(x, 3 * x), N -> A, B)\nreturn concat(z, a * y, B -> N, A -> N)",
        ),
    ] {
        let graph = model(flow);
        for (mode, batch, times) in [
            (Mode::Auto, 1, &[65, 1, 2][..]),
            (Mode::Auto, 3, &[300, 37]),
            (Mode::Unfused, 3, &[37, 1, 2]),
            (Mode::Random(5), 1, &[2, 65, 1]),
        ] {
            let case = Case {
                name,
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch,
                times,
                bound: 1e-4,
            };
            common::check_for(&case, &h200).unwrap_or_else(|why| panic!("{name} {mode}: {why}"));
        }
    }
}
