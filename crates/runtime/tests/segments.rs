//! Recurrences whose T is cut into segments equal the interpreter: segments that are full, short and empty,
//! states carried from run to run, blocks and threads in more than one order.

use common::{Case, Conditions, root};
use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::context::Context;
use fusec_fuse::fit::forms;
use fusec_fuse::schedule::{Segments, launch};
use fusec_fuse::{Device, Mode, Options, Phase, Shape, Storage, Submit, Template, plan};
use fusec_ir::gradient::differentiate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpKind, Precision, ValueId};

mod common;

/// Rows that plans are made for: enough for several segments.
const PLANNED: usize = 512;
/// Runs one after the other: of the states that one leaves the next begins.
const TIMES: &[usize] = &[300, 37, 1, 2, 65, 15];

fn stored(name: &str, axes: &[(&str, usize)]) -> Graph {
    let path = root().join("models").join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// A model over these inputs.
fn written(name: &str, inputs: &str, definition: &str, flow: &str) -> Graph {
    let text = format!(
        "name = \"case\"\n[axes]\nH = 2\nI = 16\nJ = 8\nC = 24\nK = 3\nN = 32\nM = 48\n[input]\n{inputs}\n\
         [param]\ntaps = {{ shape = \"C, K\" }}\n{definition}\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text(name, text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

/// The graph with its transpose, by its number inputs.
fn gradient(graph: &Graph) -> Graph {
    let numbers = |id: &&ValueId| graph.value(**id).precision != Precision::Index;
    let by: Vec<ValueId> = graph.inputs.iter().filter(numbers).copied().collect();
    let gradient = differentiate(graph, &graph.outputs, &by).expect("a derivative");
    gradient.graph
}

/// The segments of a kernel's phases, if it has any, and the template that takes them.
fn cut(phases: &[Phase]) -> Option<(Segments, Template)> {
    let lanes = phases.iter().flat_map(|phase| &phase.lanes);
    let mut cut = lanes.filter_map(|lane| Some((lane.schedule.segments()?, lane.template())));
    cut.next()
}

/// Kernels of a plan in which every recurrence that can be in so many segments is, by a template; and how many
/// those are.
fn in_segments(
    case: &Case<'_>,
    device: &Device,
    (count, template, first): (u32, Template, bool),
) -> (Manifest, usize) {
    let shape = Shape {
        batch: case.batch,
        time: PLANNED,
    };
    let options = Options {
        shape,
        storage: case.storage,
        mode: case.mode,
        device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let mut planned = plan(case.graph, &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let launch_us = device.graph_launch_us.value;
    let ctx = Context::new(&planned.graph, shape, case.storage, device, launch_us);
    let mut found = 0;
    for kernel in &mut planned.plan.kernels {
        let is_scan = |id| matches!(planned.graph.op(id).kind, OpKind::Scan { .. });
        if !kernel.ops.iter().any(|id| is_scan(*id)) {
            continue;
        }
        let ways = forms(&ctx, &kernel.ops).expect("a kernel");
        let wanted = |phases: &Vec<Phase>| {
            cut(phases).is_some_and(|(segments, of)| segments.count == count && of == template)
        };
        let mut ways = ways.into_iter().filter(wanted);
        // They differ in how value columns are spread over blocks.
        let way = if first { ways.next() } else { ways.next_back() };
        if let Some(phases) = way {
            kernel.launch = launch(&ctx, &phases);
            kernel.phases = phases;
            found += 1;
        }
    }
    let regime = Planned {
        name: "any",
        min_time: 1,
        max_time: None,
        graph: &planned.graph,
        plan: &planned.plan,
    };
    let manifest = generate(case.name, case.storage, &[regime]);
    (
        manifest.unwrap_or_else(|e| panic!("{}: {e}", case.name)),
        found,
    )
}

/// A graph in segments, under several plans. At least `least` kernels of each have some.
fn check(name: &str, graph: &Graph, storage: Storage, template: Template, least: usize) {
    let mut device = Device::find("h200").expect("a device");
    // Lanes hold all they can.
    device.graph_launch_us.value = 100.0;
    let bound = if storage == Storage::F32 { 2e-4 } else { 6e-2 };
    for (mode, batch, count, order, first) in [
        (Mode::Auto, 1, 4, 11, true),
        (Mode::Auto, 3, 8, 0, false),
        (Mode::Unfused, 1, 8, 3, true),
    ] {
        // Where multiprocessors have little to do, chunks are cut into as many segments as can be.
        let count = if template == Template::Chunked {
            8
        } else {
            count
        };
        let case = Case {
            name,
            graph,
            storage,
            mode,
            batch,
            times: TIMES,
            bound,
        };
        let (manifest, found) = in_segments(&case, &device, (count, template, first));
        assert!(found >= least, "{name} {mode}: {found} kernels in segments");
        let conditions = Conditions {
            order,
            ..Conditions::on(&device)
        };
        common::compare(&case, manifest, conditions)
            .unwrap_or_else(|why| panic!("{name} {mode}, {count} segments: {why}"));
    }
}

/// name, inputs, the recurrence, the flow.
const STEPS: &[(&str, &str, &str, &str)] = &[
    (
        "one number",
        "x = \"C\"",
        "[recurrence.r]\ninputs = \"x[], a[]\"\nstate = \"s[] = 0.5\"\noutputs = \"y[]\"\n\
         step = \"s = a * s + x\\ny = s\"",
        "return r(sum(x, C), sigmoid(max_over(x, C)))",
    ),
    (
        "a convolution before, a gate after, two states",
        "x = \"C\"\nz = \"C\"\na = \"C\"",
        "[recurrence.r]\ninputs = \"x[C], a[C]\"\nstate = \"s[C] = 0.25, m[C]\"\noutputs = \"y[C], n[C]\"\n\
         step = \"s = a * s + x\\nm = 0.9 * m + x * a\\ny = s\\nn = m\"",
        "u = silu(conv(x, taps)); y, n = r(u + shift(u), f32(sigmoid(a))); return y * silu(z) + n",
    ),
    (
        "the larger and the smaller",
        "x = \"C\"\na = \"C\"",
        "[recurrence.r]\ninputs = \"x[C], a[C]\"\nstate = \"m[C] = -inf\"\noutputs = \"y[C]\"\n\
         step = \"m = max(m + a, x)\\ny = m\"\n\
         [recurrence.l]\ninputs = \"x[C], a[C]\"\nstate = \"m[C] = 1\"\noutputs = \"y[C]\"\n\
         step = \"y = m\\nm = min(m - a, x)\"",
        "a = f32(-softplus(a)); return r(x, a) + l(x, a)",
    ),
    (
        "a wide state of one axis",
        "x = \"H, M, N\"\na = \"H, M, N\"",
        "[recurrence.r]\ninputs = \"x[H, M, N], a[H, M, N]\"\nstate = \"s[H, M, N]\"\noutputs = \"y[H, M, N]\"\n\
         step = \"s = a * s + x\\ny = s\"",
        "return silu(r(x, f32(sigmoid(a))))",
    ),
    (
        "a head of 32 x 48, read before the step",
        "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nw = \"H, N\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], w[H, j]\"\nstate = \"S[H, i = M, j = N]\"\noutputs = \"y[H, i]\"\n\
         step = \"y = sum(S * q, j)\\nS = w * S + v * k\"",
        "return r(q, l2_norm(k, N, eps = 1e-6), silu(v), f32(exp(-softplus(w))))",
    ),
    (
        "a decay of a head, a norm and a gate after it",
        "q = \"H, J\"\nk = \"H, J\"\nv = \"H, I\"\ng = \"H, I\"\nd = \"H\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H]\"\nstate = \"S[H, i = I, j = J]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = d * S + v * k\\ny = sum(S * q, j)\"",
        "y = r(q + shift(q), k, v * delay(v, 2), f32(sigmoid(d))); return rms_norm(y, I, eps = 1e-3) * silu(g)",
    ),
];

#[test]
fn steps_of_all_shapes() {
    for (name, inputs, definition, flow) in STEPS {
        let graph = written(name, inputs, definition, flow);
        check(name, &graph, Storage::F32, Template::Scan, 1);
    }
}

#[test]
fn in_half_storage() {
    for (name, inputs, definition, flow) in &STEPS[1..5] {
        let graph = written(name, inputs, definition, flow);
        check(name, &graph, Storage::Bf16, Template::Scan, 1);
    }
}

/// Backward in time as well: both recurrences are cut.
#[test]
fn from_the_last_row_to_the_first() {
    for (name, inputs, definition, flow) in &STEPS[3..4] {
        let graph = gradient(&written(name, inputs, definition, flow));
        check(name, &graph, Storage::F32, Template::Scan, 2);
    }
}

/// As above, for what goes in chunks: each way in which decays come in.
const CHUNKS: &[(&str, &str, &str, &str)] = &[
    (
        "a decay of a head",
        "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nd = \"H\"\ng = \"H, M\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H]\"\nstate = \"S[H, i = M, j = N]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = d * S + v * k\\ny = sum(S * q, j)\"",
        "return rms_norm(r(q + shift(q), k, v, f32(sigmoid(d + 2))), M, eps = 1e-3) * silu(g)",
    ),
    (
        "a decay of each key, whatever it is",
        "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nw = \"H, N\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], w[H, j]\"\nstate = \"S[H, i = M, j = N] = 0.125\"\noutputs = \"y[H, i]\"\n\
         step = \"y = sum(S * q, j)\\nS = w * S + v * k\"",
        "return silu(r(q, k, v * shift(v), f32(sigmoid(4 * w))))",
    ),
    (
        "a decay of each key, away from zero",
        "q = \"H, J\"\nk = \"H, J\"\nv = \"H, I\"\nw = \"H, J\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], w[H, j]\"\nstate = \"S[H, j = J, i = I]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = w * S + v * k\\ny = sum(S * q, j)\"",
        "return r(q, k, v, f32(0.5 + 0.5 * sigmoid(w)))",
    ),
    (
        "two products",
        "q = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nd = \"H\"",
        "[recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], k0[H, j], v0[H, i], d[H]\"\n\
         state = \"S[H, i = M, j = N]\"\noutputs = \"y[H, i]\"\n\
         step = \"S = d * S + v * k + 0.5 * v0 * k0\\ny = sum(S * q, j)\"",
        "return r(q, k, v, shift(k), shift(v), f32(sigmoid(d + 2)))",
    ),
    (
        "two reads",
        "q = \"H, N\"\np = \"H, N\"\nk = \"H, N\"\nv = \"H, M\"\nw = \"H, N\"",
        "[recurrence.r]\ninputs = \"q[H, j], p[H, j], k[H, j], v[H, i], w[H, j]\"\nstate = \"S[H, i = M, j = N]\"\noutputs = \"y[H, i], z[H, i]\"\n\
         step = \"z = sum(S * p, j)\\nS = w * S + v * k\\ny = sum(S * q, j)\"",
        "y, z = r(q, p, k, v, f32(sigmoid(w))); return y * z",
    ),
];

#[test]
fn in_chunks() {
    for (name, inputs, definition, flow) in CHUNKS {
        let graph = written(name, inputs, definition, flow);
        for storage in [Storage::F32, Storage::Bf16] {
            check(name, &graph, storage, Template::Chunked, 1);
        }
    }
}

#[test]
fn whole_models_in_chunks() {
    for (name, axes) in [
        (
            "gla",
            &[("V", 40), ("C", 32), ("Dk", 16), ("Dv", 32), ("I", 24)][..],
        ),
        (
            "rwkv6",
            &[("V", 40), ("L", 1), ("N", 32), ("R", 8), ("Rd", 16)],
        ),
    ] {
        let graph = stored(name, axes);
        check(name, &graph, Storage::F32, Template::Chunked, 1);
    }
}

#[test]
fn whole_models() {
    for (name, axes) in [
        ("mamba1", &[("V", 40), ("C", 16), ("Di", 24)][..]),
        ("hgrn", &[("V", 40), ("C", 16), ("D", 24), ("I", 24)]),
        (
            "retnet",
            &[("V", 40), ("C", 16), ("Dr", 4), ("Dv", 16), ("I", 24)],
        ),
    ] {
        let graph = stored(name, axes);
        check(name, &graph, Storage::F32, Template::Scan, 1);
    }
}
