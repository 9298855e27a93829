//! Kernels of differentiated recurrences equal the interpreter: the recurrence that hands out its states,
//! the one from the last row to the first, and what reads later rows.

use common::{Case, root};
use fusec_fuse::schedule::ScanTile;
use fusec_fuse::{Device, Mode, Options, Schedule, Shape, Storage, Submit, plan};
use fusec_ir::gradient::differentiate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Direction, Graph, Precision, ValueId};

mod common;

fn recurrence(name: &str) -> Graph {
    let path = root()
        .join("tests/recurrences")
        .join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// A model over these inputs.
fn model(name: &str, inputs: &str, definition: &str, flow: &str) -> Graph {
    let text = format!(
        "name = \"case\"\n[axes]\nH = 2\nI = 16\nJ = 8\nC = 24\nN = 32\nM = 48\n[input]\n{inputs}\n{definition}\n\
         [model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text(name, text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

/// The graph with its transpose, by its number inputs.
fn gradient(graph: &Graph) -> Graph {
    let numbers = |id: &&ValueId| graph.value(**id).precision != Precision::Index;
    let by: Vec<ValueId> = graph.inputs.iter().filter(numbers).copied().collect();
    let gradient = differentiate(graph, &graph.outputs, &by).expect("a derivative");
    assert_eq!(gradient.sums, [], "sums over rows belong to another test");
    gradient.graph
}

/// The graph under plans of every kind, runs of several lengths after each other: the states of the second
/// are not what they start with. Which random plan it is alternates with the length of the name.
fn check(name: &str, graph: &Graph, storage: Storage, bound: f64) {
    let h200 = Device::find("h200").expect("a device");
    let random = match name.len() % 2 {
        0 => (Mode::Random(3), 1, &[37, 1, 2][..]),
        _ => (Mode::Random(8), 3, &[65, 1, 37][..]),
    };
    for (mode, batch, times) in [
        (Mode::Unfused, 3, &[37, 1, 2][..]),
        (Mode::Auto, 1, &[65, 2, 1]),
        (Mode::Auto, 3, &[37, 1]),
        random,
    ] {
        let case = Case {
            name,
            graph,
            storage,
            mode,
            batch,
            times,
            bound,
        };
        common::check_for(&case, &h200).unwrap_or_else(|why| panic!("{name} {mode}: {why}"));
    }
}

macro_rules! recurrences {
    ($($test:ident: $name:literal;)*) => {
        $(#[test]
        fn $test() {
            check($name, &gradient(&recurrence($name)), Storage::F32, 2e-4);
        })*
    };
}

recurrences! {
    convex: "convex";
    counted: "counted";
    coupled_averages: "coupled-averages";
    delta_product: "delta-product";
    inner_loop: "inner-loop";
    inner_norm: "inner-norm";
    inner_normaliser: "inner-normaliser";
    linear_attention: "linear-attention";
    mlstm: "mlstm";
    rotating: "rotating";
    two_reads: "two-reads";
}

/// name, inputs, the recurrence, the flow.
const STEPS: &[(&str, &str, &str, &str)] = &[
    (
        "one number",
        "x = \"C\"",
        "[recurrence.r]\ninputs = \"x[], a[]\"\nstate = \"s[] = 0.5\"\noutputs = \"y[]\"\n\
         step = \"s = a * s + x\\ny = s * s\"",
        "return r(sum(x, C), sigmoid(max_over(x, C)))",
    ),
    (
        "a wide state of one axis",
        "x = \"H, M, N\"\na = \"H, M, N\"",
        "[recurrence.r]\ninputs = \"x[H, M, N], a[H, M, N]\"\nstate = \"s[H, M, N]\"\noutputs = \"y[H, M, N]\"\n\
         step = \"s = a * s + x\\ny = s\"",
        "return silu(r(x, f32(sigmoid(a))))",
    ),
    (
        "states from a value, and the one before",
        "x = \"C\"\na = \"C\"",
        "[recurrence.r]\ninputs = \"x[C], a[C]\"\nstate = \"top[C] = -1e30, mass[C], before[C] = 2\"\noutputs = \"y[C], old[C]\"\n\
         step = \"old = before * x\\nnew = max(top, x)\\nmass = mass * exp(top - new) * a + exp(x - new)\\ntop = new\\nbefore = x\\ny = mass\"",
        "y, old = r(x, sigmoid(a)); return y * old, tanh(y)",
    ),
    (
        "a head of 32 x 48",
        "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nw = \"H, N\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], w[H, j]\"\nstate = \"S[H, i = M, j = N]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = w * S + v * k\\ny = sum(S * q, j)\"",
        "return r(q, l2_norm(k, N, eps = 1e-6), silu(v), f32(exp(-softplus(w))))",
    ),
    (
        "a gate after it, an earlier row before it",
        "q = \"H, J\"\nk = \"H, J\"\nv = \"H, I\"\ng = \"H, I\"\nd = \"H\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H]\"\nstate = \"S[H, i = I, j = J]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = d * S + v * k\\ny = sum(S * q, j)\"",
        "y = r(q + shift(q), k, v * delay(v, 2), f32(sigmoid(d))); return rms_norm(y, I, eps = 1e-3) * silu(g) + delay(y, 3)",
    ),
    (
        "one recurrence after another",
        "x = \"C\"\na = \"C\"",
        "[recurrence.r]\ninputs = \"x[C], a[C]\"\nstate = \"s[C]\"\noutputs = \"y[C]\"\nstep = \"s = a * s + x\\ny = s\"",
        "h = r(x, sigmoid(a)); return r(h * shift(x), sigmoid(a + h))",
    ),
    (
        "no recurrence: earlier rows, sums and norms of them",
        "x = \"H, C\"\nz = \"H, C\"",
        "",
        "y = x * delay(x, 2) + shift(x * z); return layer_norm(y, C, eps = 1e-3) + sum(shift(y) * x, H) * shift(max_over(y, H))",
    ),
];

#[test]
fn steps_of_all_shapes() {
    for (name, inputs, definition, flow) in STEPS {
        let graph = gradient(&model(name, inputs, definition, flow));
        check(name, &graph, Storage::F32, 2e-4);
    }
}

#[test]
fn in_half_storage() {
    for (name, inputs, definition, flow) in &STEPS[3..6] {
        let graph = gradient(&model(name, inputs, definition, flow));
        check(name, &graph, Storage::Bf16, 6e-2);
    }
}

/// The bodies that a plan has for recurrences, in order.
fn walks(graph: &Graph, mode: Mode) -> Vec<ScanTile> {
    let device = Device::find("h200").expect("a device");
    let shape = Shape { batch: 2, time: 64 };
    let options = Options {
        shape,
        storage: Storage::F32,
        mode,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let kernels = planned.plan.kernels.iter();
    let lanes = kernels.flat_map(|k| k.phases.iter().flat_map(|p| &p.lanes));
    let walks = lanes.filter_map(|lane| match &lane.schedule {
        Schedule::Scan(tile) => Some(tile.clone()),
        _ => None,
    });
    walks.collect()
}

#[test]
fn a_plan_says_which_row_comes_first() {
    let graph = gradient(&recurrence("convex"));
    for mode in [Mode::Unfused, Mode::Auto] {
        let walks = walks(&graph, mode);
        let directions: Vec<Direction> = walks.iter().map(|tile| tile.direction).collect();
        assert_eq!(directions, [Direction::Forward, Direction::Reverse]);
        let written: Vec<String> = walks
            .iter()
            .map(|tile| serde_json::to_string(tile).expect("plain data"))
            .collect();
        assert!(!written[0].contains("direction") && written[1].contains("\"reverse\""));
        let said: Vec<String> = walks
            .into_iter()
            .map(|tile| Schedule::Scan(tile).to_string())
            .collect();
        assert!(!said[0].contains("last") && said[1].ends_with(", from the last row to the first"));
    }
}

/// What a block holds of a state is written as it lies in its registers, 16 bytes at a time.
#[test]
fn states_are_handed_out_in_whole_chunks() {
    let (name, inputs, definition, flow) = STEPS[3];
    let graph = gradient(&model(name, inputs, definition, flow));
    let case = Case {
        name,
        graph: &graph,
        storage: Storage::Bf16,
        mode: Mode::Unfused,
        batch: 1,
        times: &[64],
        bound: 0.0,
    };
    let h200 = Device::find("h200").expect("a device");
    let manifest = common::generated(&case, common::Conditions::on(&h200)).expect("kernels");
    let mut texts = manifest.kernels.iter().map(|kernel| &kernel.source);
    let whole = |text: &String| text.contains("store_chunks<float, 8, 4>(g_before + row * 3072");
    assert!(texts.any(whole));
}
