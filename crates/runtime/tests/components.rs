//! Kernels of the recurrences of tests/recurrences/ equal the interpreter, whole and in components,
//! step by step and in chunks, with states carried from run to run.

use common::{Case, root};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, Template, plan};
use fusec_ir::components::separate;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpKind, Pin, PinKind};

mod common;

fn graph(name: &str) -> Graph {
    let path = root()
        .join("tests/recurrences")
        .join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// A device on which a step takes so long that whatever can goes in chunks.
fn slow_steps() -> Device {
    let mut device = Device::find("h200").expect("a device");
    device.step_us.value = 1e7;
    device.fitted.step_cycles.value = 1e10;
    device
}

/// The graph in components, every scan in a kernel of its own.
fn kept_apart(mut graph: Graph) -> Graph {
    let scans = graph
        .ops
        .iter()
        .filter(|op| matches!(op.kind, OpKind::Scan { .. }));
    let values: Vec<String> = scans
        .map(|op| graph.value(op.outputs[0]).name.clone())
        .collect();
    let pin = Pin {
        kind: PinKind::Split,
        values,
        span: None,
    };
    if pin.values.len() > 1 {
        graph.pins.push(pin);
    }
    graph
}

/// The scans that go in chunks on that device.
fn in_chunks(graph: &Graph) -> Vec<String> {
    let device = slow_steps();
    let options = Options {
        shape: Shape {
            batch: 3,
            time: 300,
        },
        storage: Storage::F32,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let kernels = planned.plan.kernels.iter();
    let lanes = kernels.flat_map(|k| k.phases.iter().flat_map(|p| &p.lanes));
    let chunked = lanes.filter(|lane| lane.template() == Template::Chunked);
    let anchors = chunked.flat_map(|lane| lane.anchors().to_vec());
    let mut names: Vec<String> = anchors
        .map(|id| planned.graph.op(id).name.clone())
        .collect();
    names.sort();
    // Those in segments of T are in two phases.
    names.dedup();
    names
}

/// The recurrence under plans of every kind; `chunked` are the scans that can go in chunks.
fn check(name: &str, chunked: &[&str]) {
    let whole = graph(name);
    let apart = separate(&whole, |_| true);
    let alone = kept_apart(apart.clone());
    assert_eq!(in_chunks(&alone), chunked, "{name}");
    let h200 = Device::find("h200").expect("a device");
    let slow = slow_steps();
    for (graph, device, mode, batch, times) in [
        (&alone, &slow, Mode::Auto, 3, &[300, 1, 37][..]),
        (&whole, &h200, Mode::Auto, 1, &[65, 1, 2]),
        (&apart, &h200, Mode::Unfused, 1, &[37, 1, 65]),
        (&apart, &h200, Mode::Random(3), 3, &[2, 300, 1]),
    ] {
        let case = Case {
            name,
            graph,
            storage: Storage::F32,
            mode,
            batch,
            times,
            bound: 2e-4,
        };
        common::check_for(&case, device).unwrap_or_else(|why| panic!("{name} {mode}: {why}"));
    }
}

macro_rules! recurrences {
    ($($test:ident: $name:literal, $chunked:expr;)*) => {
        $(#[test]
        fn $test() {
            check($name, &$chunked);
        })*

        /// Every file has its test.
        #[test]
        fn all_are_tested() {
            let mut files: Vec<String> = std::fs::read_dir(root().join("tests/recurrences"))
                .expect("the recurrences")
                .map(|entry| entry.expect("an entry").path())
                .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
                .collect();
            files.sort();
            assert_eq!(files, [$($name),*]);
        }
    };
}

recurrences! {
    at_once: "at-once", ["out"];
    convex: "convex", ["out"];
    counted: "counted", ["counted.S"];
    coupled_averages: "coupled-averages", [];
    delta_product: "delta-product", ["out"];
    inner_loop: "inner-loop", ["out"];
    inner_norm: "inner-norm", [];
    inner_normaliser: "inner-normaliser", ["scaled.S", "scaled.S2"];
    leaky_maximum: "leaky-maximum", [];
    linear_attention: "linear-attention", ["normalised.S", "normalised.n"];
    mlstm: "mlstm", ["mlstm.C", "mlstm.n"];
    rotating: "rotating", [];
    rotating_matrix: "rotating-matrix", ["rotating.im", "rotating.re"];
    several_updates: "several-updates", ["out"];
    trapezoidal: "trapezoidal", ["out"];
    two_reads: "two-reads", ["both.y", "both.z"];
}

/// What a state becomes is computed with the step that takes it, also where it depends on no state.
#[test]
fn states_that_take_what_carries_no_state() {
    for next in ["k", "2 * k + 1"] {
        let text = format!(
            "name = \"delayed\"\n[axes]\nH = 2\nN = 32\nM = 32\n[input]\nk = \"H, M\"\nv = \"H, N\"\nf = \"H\"\n\
             [recurrence.r]\ninputs = \"k[H, j], v[H, i], f[H]\"\n\
             state = \"S[H, i = N, j = M], before[H, j = M]\"\noutputs = \"y[H, i]\"\n\
             step = \"\"\"\nS = f * S + v * before\nbefore = {next}\ny = sum(S * k, j)\n\"\"\"\n\
             [model]\nflow = \"return r(k, v, sigmoid(f))\"\n"
        );
        let graph = compile(
            &ModelSource::from_text("delayed", text),
            &Overrides::default(),
        )
        .unwrap_or_else(|e| panic!("{next}: {e:?}"));
        for mode in [Mode::Auto, Mode::Unfused, Mode::Random(3)] {
            let case = Case {
                name: next,
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch: 2,
                times: &[37, 1, 65],
                bound: 2e-4,
            };
            let h200 = Device::find("h200").expect("a device");
            common::check_for(&case, &h200).unwrap_or_else(|why| panic!("{next} {mode}: {why}"));
        }
    }
}
