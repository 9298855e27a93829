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

#[test]
fn token_shift_bonus_and_group_norm() {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("H", 2),
        ("N", 32),
        ("R", 8),
        ("Rd", 16),
    ];
    let graph = model("rwkv6.toml", &axes);
    check("rwkv6", &graph, Storage::F32, 3, &[37, 300, 1, 5], 2e-4);
}

#[test]
fn convolutions_and_shared_keys() {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("C", 64),
        ("Hg", 4),
        ("P", 32),
        ("Ns", 32),
    ];
    let graph = model("mamba2.toml", &axes);
    check("mamba2", &graph, Storage::F32, 3, &[37, 300, 1, 5], 2e-4);
}
