//! Emulated kernels = interpreter, for whole models under several plans: prefill, then steps from
//! the carried state. Every value that a kernel stores is compared, so that a failure names the
//! first one that is wrong.

use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Launch, Mode, Options, Shape, Storage, plan};
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Interpreter, Keep, State, Tensor};
use fusec_ir::language::{ModelSource, Overrides, Setting, compile};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor, Fetch};
use fusec_runtime::weights::Weights;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    model_with(file, axes, &[])
}

fn model_with(file: &str, axes: &[(&str, usize)], settings: &[(&str, f64)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        settings: settings
            .iter()
            .map(|(n, v)| (n.to_string(), Setting::Number(*v)))
            .collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

fn ids(n: usize, vocabulary: usize, seed: u64) -> Vec<i32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x % vocabulary as u64) as i32
        })
        .collect()
}

/// The largest difference relative to the largest magnitude, NaN if either holds one.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b
        .iter()
        .fold(0f64, |m, x| m.max(f64::from(x.abs())))
        .max(1e-30);
    let mut worst = 0f64;
    for (x, y) in a.iter().zip(b) {
        let d = f64::from((x - y).abs());
        if d.is_nan() {
            return f64::NAN;
        }
        worst = worst.max(d);
    }
    worst / scale
}

fn check(
    name: &str,
    graph: &Graph,
    storage: Storage,
    mode: Mode,
    batch: usize,
    times: &[usize],
    bound: f64,
) {
    let weights = Weights::random(graph, 7).expect("weights");
    let device = Device::find("h200").expect("profile");
    let planned = |time| {
        let options = Options {
            shape: Shape { batch, time },
            storage,
            mode,
            device: &device,
            launch: Launch::Graph,
            pins: vec![],
        };
        plan(graph, &options).unwrap_or_else(|e| panic!("{name} {mode}: {e}"))
    };
    let (decode, prefill) = (planned(1), planned(times[0]));
    let manifest = generate(
        name,
        storage,
        90,
        &[
            Planned {
                name: "decode",
                min_time: 1,
                max_time: Some(1),
                graph: &decode.graph,
                plan: &decode.plan,
            },
            Planned {
                name: "prefill",
                min_time: 2,
                max_time: None,
                graph: &prefill.graph,
                plan: &prefill.plan,
            },
        ],
    )
    .unwrap_or_else(|e| panic!("{name} {mode}: {e}"));
    let cache = root().join("target/emulator-cache");
    let emulator = Emulator::new(&cache, EmulatorOptions::default()).expect("g++");
    let device = EmulatedDevice::new(&emulator, &manifest, 11)
        .unwrap_or_else(|e| panic!("{name} {mode}: {e}"));
    let mut executor = Executor::new(
        device,
        manifest.clone(),
        &weights,
        Shape {
            batch,
            time: times[0],
        },
    )
    .expect("executor");
    let vocabulary = graph.size(graph.value(graph.params[0].value).axes[0]);
    let mut state = State::zero(graph, batch);
    let mut references = BTreeMap::new();
    for regime in &manifest.regimes {
        // Half storages: the same rounded weights, f32 arithmetic; what is left is the rounding of
        // stored activations.
        let rounded = weights
            .rounded(&regime.graph, storage.into())
            .expect("weights");
        let interpreter =
            Interpreter::new(&regime.graph, rounded.into_params()).expect("interpreter");
        references.insert(regime.name.clone(), interpreter);
    }
    for (run, time) in times.iter().enumerate() {
        let tokens = ids(batch * time, vocabulary, run as u64 + 1);
        let result = executor
            .run(*time, &[Input::Ids(&tokens)], Fetch::Stored)
            .unwrap_or_else(|e| panic!("{name} {mode} T={time}: {e}"));
        let regime = &manifest.regimes[result.regime];
        let reference = &references[&regime.name];
        let inputs = BTreeMap::from([(regime.graph.inputs[0], Input::Ids(&tokens[..]))]);
        let expected = reference
            .run(&mut state, batch, *time, &inputs, Keep::All)
            .expect("reference");
        for (id, value) in &result.stored {
            let Tensor::Numbers(value) = value else {
                continue;
            };
            let Some(want) = expected.values.get(id).and_then(|t| t.numbers()) else {
                continue;
            };
            let d = difference(value, want);
            let v = regime.graph.value(*id);
            assert!(
                d <= bound,
                "{name} {mode} run {run} T={time}: `{}` of layer {:?} differs by {d:.2e}",
                v.name,
                v.layer
            );
        }
        let logits = result.outputs[0].numbers().expect("logits");
        let d = difference(
            logits,
            expected.values[&regime.graph.outputs[0]]
                .numbers()
                .expect("logits"),
        );
        assert!(
            d <= bound,
            "{name} {mode} run {run} T={time}: logits differ by {d:.2e}"
        );
    }
}

const MODES: [Mode; 6] = [
    Mode::Unfused,
    Mode::Auto,
    Mode::Greedy,
    Mode::Random(1),
    Mode::Random(2),
    Mode::Random(3),
];

#[test]
fn token_shift_and_outer_product() {
    let graph = model(
        "rwkv6.toml",
        &[
            ("V", 64),
            ("L", 2),
            ("H", 2),
            ("N", 32),
            ("R", 8),
            ("Rd", 16),
        ],
    );
    for mode in MODES {
        check("rwkv6", &graph, Storage::F32, mode, 2, &[19, 1, 1, 5], 2e-4);
    }
}

#[test]
fn convolution_and_state_space() {
    let graph = model(
        "mamba2.toml",
        &[
            ("V", 64),
            ("L", 2),
            ("C", 64),
            ("Hg", 4),
            ("P", 32),
            ("Ns", 32),
        ],
    );
    for mode in MODES {
        check(
            "mamba2",
            &graph,
            Storage::F32,
            mode,
            2,
            &[19, 1, 1, 5],
            2e-4,
        );
    }
}

/// Two branches that meet in attention over a cache shorter than the sequence: prefill and
/// steps read rows of the run, rows before it, and drop rows out of the window.
#[test]
fn attention_over_a_bounded_cache() {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("H", 2),
        ("N", 32),
        ("R", 8),
        ("Rd", 16),
        ("P", 32),
        ("Ns", 16),
    ];
    let graph = model_with("hybrid-cp.toml", &axes, &[("cache", 48.0)]);
    for times in [&[37, 1, 1, 65, 1][..], &[65, 1, 37, 1], &[1, 1, 65, 1, 3]] {
        for mode in [Mode::Unfused, Mode::Auto] {
            check("hybrid-cp", &graph, Storage::F32, mode, 2, times, 2e-4);
        }
    }
    // Unfused: a fused plan stores row means, which are near 0 and so have a large relative error.
    let times = [65, 1, 5];
    for storage in [Storage::Bf16, Storage::F16] {
        check("hybrid-cp", &graph, storage, Mode::Unfused, 1, &times, 4e-2);
    }
}

#[test]
fn half_precision_on_tensor_cores() {
    let rwkv6 = model(
        "rwkv6.toml",
        &[
            ("V", 64),
            ("L", 1),
            ("H", 2),
            ("N", 32),
            ("R", 8),
            ("Rd", 16),
        ],
    );
    let mamba2 = model(
        "mamba2.toml",
        &[
            ("V", 64),
            ("L", 1),
            ("C", 64),
            ("Hg", 4),
            ("P", 32),
            ("Ns", 32),
        ],
    );
    for storage in [Storage::Bf16, Storage::F16] {
        for mode in [Mode::Auto, Mode::Unfused] {
            check("rwkv6", &rwkv6, storage, mode, 1, &[37, 1], 4e-2);
            check("mamba2", &mamba2, storage, mode, 1, &[37, 1], 4e-2);
        }
    }
}
