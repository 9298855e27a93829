//! Emulated kernels = interpreter, for whole models under several plans: prefill, then steps from
//! the carried state. Every value that a kernel stores is compared, so that a failure names the
//! first one that is wrong.

use fusec_fuse::{Mode, Storage};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, Setting, compile};

use common::{Case, root};

mod common;

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

fn check(
    name: &str,
    graph: &Graph,
    storage: Storage,
    mode: Mode,
    batch: usize,
    times: &[usize],
    bound: f64,
) {
    let case = Case {
        name,
        graph,
        storage,
        mode,
        batch,
        times,
        bound,
    };
    common::check(&case).unwrap_or_else(|why| panic!("{why}"));
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
