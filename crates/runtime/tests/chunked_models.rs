//! Models whose recurrences have the chunked form, with the chunked form forced: emulated kernels
//! against the interpreter, for a prefill and then runs from the state it leaves.

use fusec_fuse::{Device, Launch, Mode, Options, Shape, Storage, Template, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

use common::{Case, root};

mod common;

/// A device on which a step by itself takes so long that whatever can goes in chunks.
fn slow_steps() -> Device {
    let mut device = Device::find("h200").expect("profile");
    device.step_us.value = 1e6;
    device
}

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

/// Operations of each lane of the chunked template in a plan.
fn chunked_lanes(graph: &Graph, storage: Storage, batch: usize, time: usize) -> Vec<Vec<String>> {
    let device = slow_steps();
    let options = Options {
        shape: Shape { batch, time },
        storage,
        mode: Mode::Auto,
        device: &device,
        launch: Launch::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let kernels = planned.plan.kernels.iter();
    let lanes = kernels.flat_map(|k| k.phases.iter().flat_map(|p| &p.lanes));
    lanes
        .filter(|lane| lane.template == Template::Chunked)
        .map(|lane| {
            let names = lane.ops.iter().map(|id| planned.graph.op(*id).name.clone());
            names.collect()
        })
        .collect()
}

fn check(name: &str, graph: &Graph, storage: Storage, batch: usize, times: &[usize], bound: f64) {
    let longest = times.iter().copied().max().unwrap_or(1);
    let lanes = chunked_lanes(graph, storage, batch, longest);
    assert!(!lanes.is_empty(), "{name}: no lane goes in chunks");
    println!("{name} {storage} B={batch}: {lanes:?}");
    let case = Case {
        name,
        graph,
        storage,
        mode: Mode::Auto,
        batch,
        times,
        bound,
    };
    common::check_for(&case, &slow_steps()).unwrap_or_else(|why| panic!("{storage}: {why}"));
}

/// A small model of each family whose class has the form, and the operations that are expected to
/// share its lane.
fn families() -> Vec<(&'static str, Graph, &'static [&'static str])> {
    vec![
        (
            "rwkv6",
            model(
                "rwkv6.toml",
                &[("V", 64), ("L", 1), ("N", 32), ("R", 8), ("Rd", 16)],
            ),
            &["time_mix.d", "time_mix.y", "time_mix.y#2"],
        ),
        (
            "mamba2",
            model(
                "mamba2.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("G", 2),
                    ("Hg", 2),
                    ("P", 32),
                    ("Ns", 32),
                ],
            ),
            &[
                "mixer.x",
                "mixer.B",
                "mixer.C",
                "mixer.dt",
                "mixer.y",
                "mixer.y#2",
            ],
        ),
        (
            "gla",
            model("gla.toml", &[("V", 64), ("L", 1), ("C", 64), ("I", 64)]),
            &["mix.q", "mix.o", "mix.o#2"],
        ),
        (
            "retnet",
            model(
                "retnet.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("Dr", 16),
                    ("Dv", 96),
                    ("I", 64),
                ],
            ),
            &["mix.q", "mix.o"],
        ),
        (
            "hgrn2",
            model(
                "hgrn2.toml",
                &[
                    ("V", 64),
                    ("L", 2),
                    ("C", 64),
                    ("H", 2),
                    ("Dk", 24),
                    ("Dv", 40),
                    ("I", 64),
                ],
            ),
            &["mix.f", "mix.y"],
        ),
    ]
}

#[test]
fn every_family_with_the_form_in_f32() {
    for (name, graph, _) in families() {
        check(name, &graph, Storage::F32, 3, &[300, 1, 37], 2e-4);
        check(name, &graph, Storage::F32, 1, &[37, 1, 1, 5], 2e-4);
    }
}

#[test]
fn every_family_with_the_form_in_bf16() {
    for (name, graph, _) in families() {
        check(name, &graph, Storage::Bf16, 1, &[300, 1, 37], 4e-2);
        check(name, &graph, Storage::Bf16, 3, &[37, 1], 4e-2);
    }
}

#[test]
fn what_surrounds_the_recurrence_joins_its_lane() {
    for (name, graph, expected) in families() {
        let lanes = chunked_lanes(&graph, Storage::F32, 8, 2048);
        let joined = |lane: &Vec<String>| expected.iter().all(|op| lane.contains(&op.to_string()));
        assert!(
            lanes.iter().any(joined),
            "{name}: {expected:?} not in {lanes:?}"
        );
    }
}
