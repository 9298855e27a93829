//! Plans of this crate are accepted; plans that it does not make are not.

use fusec_fuse::{Device, Mode, Options, Planned, Schedule, Shape, Storage, Submit, accept, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpId};
use std::path::Path;

fn device() -> Device {
    Device::find("h200").expect("a profile")
}

fn zoo(name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../models/{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model text");
    compile(&source, &Overrides::default()).expect("a model")
}

fn planned(graph: &Graph, time: usize, storage: Storage, mode: Mode) -> Planned {
    let device = device();
    let options = Options {
        shape: Shape { batch: 2, time },
        storage,
        mode,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    plan(graph, &options).expect("a plan")
}

#[test]
fn every_plan_that_is_made_is_accepted() {
    for name in ["rwkv7", "mamba2", "hybrid", "gla", "hgrn", "deltanet"] {
        let graph = zoo(name);
        for (time, storage, mode) in [
            (1, Storage::F32, Mode::Auto),
            (1, Storage::Bf16, Mode::Auto),
            (300, Storage::Bf16, Mode::Auto),
            (300, Storage::F32, Mode::Unfused),
            (300, Storage::Bf16, Mode::Greedy),
            (37, Storage::F16, Mode::Random(3)),
            (37, Storage::Bf16, Mode::Random(4)),
        ] {
            let Planned { graph, plan, .. } = planned(&graph, time, storage, mode);
            if let Err(error) = accept(&graph, &plan, &device()) {
                panic!("{name}, T={time}, {storage}, {mode}: {error}");
            }
        }
    }
}

#[test]
fn a_plan_that_was_changed_is_refused_with_the_place() {
    type Change = fn(&mut Planned);
    let cases: [(Change, &str); 10] = [
        (|p| p.plan.version += 1, "version"),
        (|p| p.plan.shape.time = 0, "T=0"),
        (
            |p| drop(p.plan.kernels.pop()),
            "not those that the model has",
        ),
        (|p| p.plan.kernels.reverse(), "a later one makes"),
        (
            |p| {
                let again = p.plan.kernels[0].clone();
                p.plan.kernels.push(again);
            },
            "is in another too",
        ),
        (|p| p.plan.kernels[0].ops.push(OpId(9999)), "the plan"),
        (|p| p.plan.kernels[1].name.push_str("_2"), "another name"),
        (
            |p| p.plan.kernels[1].launch.shared_bytes += 4,
            "launched otherwise",
        ),
        (
            |p| {
                let body = &mut p.plan.kernels[0].phases[0].lanes[0];
                match &mut body.schedule {
                    Schedule::Row(tile) => tile.rows = 7,
                    other => panic!("{other:?}"),
                }
            },
            "not computed in this way",
        ),
        (
            |p| p.graph.ops[1].inputs[0].value.0 = 9999,
            "does not exist",
        ),
    ];
    let graph = zoo("gla");
    for (change, message) in cases {
        let mut planned = planned(&graph, 300, Storage::Bf16, Mode::Auto);
        change(&mut planned);
        let error = accept(&planned.graph, &planned.plan, &device()).expect_err(message);
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
}
