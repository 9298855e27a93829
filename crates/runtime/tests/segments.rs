//! Recurrences in segments of the sequence that run side by side, forced: emulated kernels against the f64
//! interpreter at lengths around the borders of segments and chunks, for a run and those that go on from
//! its state.

use fusec_codegen::{Planned, generate};
use fusec_fuse::context::Context;
use fusec_fuse::fit::forms;
use fusec_fuse::schedule::launch;
use fusec_fuse::{Body, Device, Mode, Options, Phase, Plan, Schedule, Shape, Storage, Submit, accept, plan};
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor, Fetch};
use fusec_runtime::weights::Weights;

use common::{Given, difference, inputs, interpret, root};

mod common;

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

/// Segments of a kernel, if its recurrence goes in segments.
fn segments(phases: &[Phase]) -> Option<u32> {
    let of = |body: &Body| match &body.schedule {
        Schedule::Chunked(chunk) => chunk.segments.map(|of| of.count),
        _ => None,
    };
    phases.first().and_then(|phase| phase.lanes.first()).and_then(of)
}

/// A plan in which every kernel that can goes in segments, form number `form` of those or the last; how
/// many forms the one with most has, and the numbers of segments.
fn forced(
    graph: &Graph,
    storage: Storage,
    shape: Shape,
    form: usize,
) -> ((Graph, Plan), usize, Vec<u32>) {
    let device = Device::find("h200").expect("profile");
    let options = Options {
        shape,
        storage,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let mut planned = plan(graph, &options).expect("planned");
    let ctx = Context::new(&planned.graph, shape, storage, &device, 0.0);
    let (mut most, mut counts) = (0, vec![]);
    for kernel in &mut planned.plan.kernels {
        let mut forms = forms(&ctx, &kernel.ops).expect("legal");
        forms.retain(|phases| segments(phases).is_some());
        most = most.max(forms.len());
        let last = forms.len().saturating_sub(1);
        let Some(phases) = forms.into_iter().nth(form.min(last)) else {
            continue;
        };
        counts.extend(segments(&phases));
        kernel.launch = launch(&ctx, &phases);
        kernel.phases = phases;
    }
    accept(&planned.graph, &planned.plan, &device).expect("a plan that the planner makes");
    ((planned.graph.clone(), planned.plan), most, counts)
}

fn check(name: &str, graph: &Graph, storage: Storage, batch: usize, sequences: &[&[usize]]) {
    let planned_for = 640;
    let shape = |time| Shape { batch, time };
    let (_, most, _) = forced(graph, storage, shape(planned_for), 0);
    assert!(most > 0, "{name}: nothing goes in segments");
    for form in 0..most {
        let ((decode_graph, decode), ..) = forced(graph, storage, shape(1), 0);
        let ((prefill_graph, prefill), _, counts) =
            forced(graph, storage, shape(planned_for), form);
        let regimes = [
            Planned {
                name: "decode",
                min_time: 1,
                max_time: Some(1),
                graph: &decode_graph,
                plan: &decode,
            },
            Planned {
                name: "prefill",
                min_time: 2,
                max_time: None,
                graph: &prefill_graph,
                plan: &prefill,
            },
        ];
        let manifest = generate(name, storage, &regimes).expect("generated");
        let emulator = Emulator::new(&root().join("target/emulator-cache"), EmulatorOptions::default());
        let emulator = emulator.expect("g++");
        let device = EmulatedDevice::new(&emulator, &manifest, 11)
            .unwrap_or_else(|e| panic!("{name} form {form}: {e}"));
        let weights = Weights::random(graph, 7).expect("weights");
        let mut executor = Executor::new(device, manifest, &weights, shape(planned_for)).expect("executor");
        let rounded = weights.rounded(graph, storage.into()).expect("weights");
        let exact = Interpreter::<f64>::new(graph, rounded.to_f64()).expect("interpreter");
        for times in sequences {
            executor.reset(batch).expect("reset");
            let mut state = State::zero(graph, batch);
            for (run, time) in times.iter().enumerate() {
                let given = inputs(graph, batch, *time, run as u64 + 1);
                let as_inputs: Vec<Input<'_, f32>> = given.iter().map(Given::input).collect();
                let got = executor
                    .run(*time, &as_inputs, Fetch::All)
                    .unwrap_or_else(|e| panic!("{name} T={time}: {e}"));
                let want = interpret(&exact, &mut state, batch, *time, &given, Keep::Outputs);
                for (at, id) in graph.outputs.iter().enumerate() {
                    let got = got.outputs[at].numbers().expect("numbers");
                    let d = difference(got, want[id].numbers().expect("numbers"));
                    let bound = if storage == Storage::F32 { 2e-5 } else { 4e-2 };
                    assert!(
                        d <= bound,
                        "{name} {storage}, segments {counts:?}: B={batch} T={time} of {times:?} differs by {d:.2e}"
                    );
                }
            }
        }
    }
}

/// Around the borders of chunks and segments, and so short that most segments are empty.
const LENGTHS: [&[usize]; 6] = [
    &[63, 64],
    &[65, 1, 128],
    &[2, 129, 192],
    &[193, 16, 17],
    &[255, 256, 3],
    &[639, 1, 640],
];

#[test]
fn a_decay_per_key() {
    let graph = model("bench/cases/gla.toml", &[("H", 2), ("Dk", 24), ("Dv", 40)]);
    for (storage, batch) in [(Storage::F32, 1), (Storage::Bf16, 3)] {
        check("gla", &graph, storage, batch, &LENGTHS);
    }
}

#[test]
fn a_read_before_the_update_with_a_bonus() {
    let graph = model("bench/cases/wkv6.toml", &[("H", 3), ("N", 32)]);
    check("wkv6", &graph, Storage::F32, 2, &LENGTHS);
}

#[test]
fn a_decay_per_token() {
    let graph = model("bench/cases/ssd.toml", &[("H", 3), ("P", 16), ("N", 32)]);
    check("ssd", &graph, Storage::F32, 1, &LENGTHS);
}

/// Stencils and activations before the recurrence, norms and gates after it.
#[test]
fn with_what_is_around_the_recurrence() {
    let axes = [("V", 64), ("L", 1), ("C", 64), ("G", 2), ("Hg", 2), ("P", 32), ("Ns", 32)];
    let mamba2 = model("models/mamba2.toml", &axes);
    check("mamba2", &mamba2, Storage::F32, 1, &[&[193, 1, 130], &[640, 2]]);
    let axes = [("V", 64), ("L", 1), ("N", 32), ("R", 8), ("Rd", 16)];
    let rwkv6 = model("models/rwkv6.toml", &axes);
    check("rwkv6", &rwkv6, Storage::F32, 1, &[&[193, 1, 130], &[640, 2]]);
}
