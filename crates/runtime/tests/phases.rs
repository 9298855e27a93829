//! Kernels of two phases, a product of what another product makes: emulated kernels against the
//! interpreter, where the planner takes them and where the user asks for them.

use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::{Device, Mode, Options, Plan, Shape, Storage, Submit, plan};
use fusec_ir::interpret::Tensor;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, Pin, PinKind};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor, Fetch};
use fusec_runtime::weights::Weights;

use common::{Case, Given, check_for, check_pinned, inputs, root};

mod common;

/// A feed-forward network as a model. `F` is no multiple of anything.
fn ffn(flow: &str) -> Graph {
    let text = format!(
        "name = \"ffn\"\n[axes]\nV = 64\nC = 40\nF = 88\n\
         [param]\nemb = {{ shape = \"V, C\" }}\nmu = {{ shape = \"C\" }}\nnu = {{ shape = \"C\" }}\n\
         up = {{ shape = \"F, C\" }}\ngate = {{ shape = \"F, C\" }}\ndown = {{ shape = \"C, F\" }}\n\
         open = {{ shape = \"C, C\" }}\n\
         [model]\nflow = \"\"\"\nx = gather(emb, ids)\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text("ffn", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

const SQUARED_RELU: &str = "
n = layer_norm(x, C, eps = 1e-5)
z = n + (shift(n) - n) * mu
k = square(relu(z @ up))
return x + k @ down";
const SQUARED_RELU_GATED: &str = "
n = layer_norm(x, C, eps = 1e-5)
z = n + (shift(n) - n) * mu
w = n + (shift(n) - n) * nu
k = square(relu(z @ up))
return x + sigmoid(w @ open) * (k @ down)";
const SWIGLU: &str = "
n = rms_norm(x, C, eps = 1e-5)
h = silu(n @ gate) * (n @ up)
return x + h @ down";
/// A norm and an earlier row between the two products: the prologue of the second phase.
const NORM_BETWEEN: &str = "
h = silu(x @ up)
m = rms_norm(h, F, eps = 1e-5)
return x + (m + shift(m)) @ down";

/// Launches so dear, and barriers so cheap, that kernels hold all they can; or the reverse.
fn device(barriers: bool) -> Device {
    let mut device = Device::find("h200").expect("profile");
    let (dear, cheap) = (100.0, 1e-3);
    device.graph_launch_us.value = if barriers { dear } else { cheap };
    device.grid_barrier_us.value = if barriers { cheap } else { dear };
    device
}

fn options<'d>(device: &'d Device, storage: Storage, batch: usize, pins: &[Pin]) -> Options<'d> {
    Options {
        shape: Shape { batch, time: 1 },
        storage,
        mode: Mode::Auto,
        device,
        launch: Submit::Graph,
        pins: pins.to_vec(),
    }
}

fn in_phases(plan: &Plan) -> usize {
    plan.kernels.iter().filter(|k| k.phases.len() > 1).count()
}

fn bound(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 2e-4,
        Storage::F16 => 1e-2,
        Storage::Bf16 => 4e-2,
    }
}

#[test]
fn networks_of_two_products_for_single_steps() {
    let device = device(true);
    for flow in [SQUARED_RELU, SQUARED_RELU_GATED, SWIGLU, NORM_BETWEEN] {
        let graph = ffn(flow);
        for (storage, batch) in [
            (Storage::F32, 1),
            (Storage::F32, 3),
            (Storage::Bf16, 1),
            (Storage::Bf16, 3),
        ] {
            let planned = plan(&graph, &options(&device, storage, batch, &[])).expect("planned");
            assert_eq!(in_phases(&planned.plan), 1, "{flow}");
            let case = Case {
                name: "ffn",
                graph: &graph,
                storage,
                mode: Mode::Auto,
                batch,
                times: &[1, 5, 1, 1],
                bound: bound(storage),
            };
            check_for(&case, &device).unwrap_or_else(|why| panic!("{flow} {storage}: {why}"));
        }
    }
}

#[test]
fn two_products_that_the_user_keeps_together() {
    let device = device(false);
    for (flow, values) in [
        (SQUARED_RELU, ["z", "k", "x#2"]),
        (SWIGLU, ["h", "n", "x#2"]),
    ] {
        let graph = ffn(flow);
        let known = |name: &&&str| graph.values.iter().any(|v| v.name == ***name);
        let pin = Pin {
            kind: PinKind::Fuse,
            values: values.iter().filter(known).map(|v| v.to_string()).collect(),
            span: None,
        };
        let last = graph.value(graph.outputs[0]).name.clone();
        let pin = Pin {
            values: pin.values.into_iter().chain([last]).collect(),
            ..pin
        };
        for (storage, batch) in [(Storage::F32, 3), (Storage::Bf16, 1)] {
            let alone = plan(&graph, &options(&device, storage, batch, &[])).expect("planned");
            assert_eq!(in_phases(&alone.plan), 0, "{flow}");
            let pins = [pin.clone()];
            let planned = plan(&graph, &options(&device, storage, batch, &pins));
            let planned = planned.unwrap_or_else(|e| panic!("{flow}: {e}"));
            assert_eq!(in_phases(&planned.plan), 1, "{flow}");
            let case = Case {
                name: "ffn",
                graph: &graph,
                storage,
                mode: Mode::Auto,
                batch,
                times: &[1, 1],
                bound: bound(storage),
            };
            check_pinned(&case, &device, &pins).unwrap_or_else(|why| panic!("{flow}: {why}"));
        }
    }
}

fn zoo(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

#[test]
fn models_of_the_zoo_with_all_phases_that_they_can_have() {
    let device = device(true);
    let small = [("V", 64), ("L", 2)];
    for (file, more) in [
        ("rwkv6.toml", &[("N", 32), ("R", 8), ("Rd", 16)][..]),
        (
            "rwkv7.toml",
            &[("N", 32), ("Rw", 8), ("Ra", 8), ("Rv", 8), ("Rg", 8)],
        ),
        ("gla.toml", &[("C", 64), ("I", 96)]),
        ("gated-deltanet.toml", &[]),
    ] {
        let graph = zoo(file, &[&small[..], more].concat());
        // The reference rounds weights only, but tensor cores take activations in 16 bits: f16, whose
        // rounding leaves room for a bound that a wrong operand exceeds.
        for (storage, batch) in [(Storage::F32, 1), (Storage::F16, 3)] {
            let planned = plan(&graph, &options(&device, storage, batch, &[])).expect("planned");
            assert!(in_phases(&planned.plan) >= 2, "{file}");
            let case = Case {
                name: file,
                graph: &graph,
                storage,
                mode: Mode::Auto,
                batch,
                times: &[1, 1, 1],
                // As with a launch for each product: what is stored between them is rounded.
                bound: 2.0 * bound(storage),
            };
            check_for(&case, &device).unwrap_or_else(|why| panic!("{file} {storage}: {why}"));
        }
    }
}

/// The manifest of the gated network, and its plan's kernel of two phases.
fn manifest(graph: &Graph) -> (Manifest, usize) {
    let device = device(true);
    let planned = plan(graph, &options(&device, Storage::F32, 3, &[])).expect("planned");
    let regime = Planned {
        name: "decode",
        min_time: 1,
        max_time: None,
        graph: &planned.graph,
        plan: &planned.plan,
    };
    let manifest = generate("ffn", Storage::F32, &[regime]).expect("generated");
    let step = manifest.regimes[0].steps.iter().position(|s| s.cooperative);
    (manifest, step.expect("a launch with a barrier"))
}

#[test]
fn the_source_waits_once_and_reads_what_others_wrote_through_plain_pointers() {
    let (manifest, step) = manifest(&ffn(SQUARED_RELU));
    let step = &manifest.regimes[0].steps[step];
    let source = &manifest.kernels[step.kernel].source;
    let (first, second) = source
        .split_once("    grid_barrier();\n")
        .expect("a barrier between the phases");
    assert!(!second.contains("grid_barrier();"));
    assert!(first.contains("if (FUSEC_PHASE(0)) {") && second.contains("if (FUSEC_PHASE(1)) {"));
    assert!(
        source.contains(", after a barrier of the grid:"),
        "{source}"
    );
    assert!(source.contains("    float* g_k,"), "{source}");
    assert!(
        source.contains("const float* __restrict__ w_down,"),
        "{source}"
    );
    assert_eq!(step.lanes.len(), 2);
    // What one phase makes and the other reads is not given.
    let buffers = &manifest.regimes[0].buffers;
    let of = |name: &str| {
        buffers
            .iter()
            .position(|b| b.name == name)
            .expect("a buffer")
    };
    assert!(step.writes.contains(&of("k")) && !step.reads.contains(&of("k")));
}

/// The outputs of a step, in the emulator.
fn run(graph: &Graph, manifest: Manifest) -> Result<Vec<f32>, String> {
    let weights = Weights::random(graph, 7).expect("weights");
    let cache = root().join("target/emulator-cache");
    let emulator = Emulator::new(&cache, EmulatorOptions::default()).expect("g++");
    let device = EmulatedDevice::new(&emulator, &manifest, 5).map_err(|e| e.to_string())?;
    let shape = Shape { batch: 3, time: 1 };
    let mut executor =
        Executor::new(device, manifest, &weights, shape).map_err(|e| e.to_string())?;
    executor.reset(3).map_err(|e| e.to_string())?;
    let given = inputs(graph, 3, 1, 1);
    let given: Vec<_> = given.iter().map(Given::input).collect();
    let result = executor
        .run(1, &given, Fetch::All)
        .map_err(|e| e.to_string())?;
    match &result.outputs[0] {
        Tensor::Numbers(numbers) => Ok(numbers.to_vec()),
        Tensor::Ids(_) => Err("no numbers".into()),
    }
}

#[test]
fn a_kernel_without_its_barrier_and_a_launch_that_does_not_know_of_it_are_found() {
    let graph = ffn(SWIGLU);
    let (manifest, step) = manifest(&graph);
    let whole = run(&graph, manifest.clone()).expect("runs");
    assert!(whole.iter().all(|x| x.is_finite()));
    let mut missing = manifest.clone();
    let kernel = &mut missing.kernels[manifest.regimes[0].steps[step].kernel];
    kernel.source = kernel.source.replace("    grid_barrier();\n", "");
    let got = run(&graph, missing).expect("runs");
    assert!(got.iter().any(|x| x.is_nan()), "{got:?}");
    let mut unaware = manifest;
    unaware.regimes[0].steps[step].cooperative = false;
    let error = run(&graph, unaware).expect_err("refused");
    assert!(error.contains("need not be resident"), "{error}");
}
