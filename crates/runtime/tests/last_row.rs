//! Models that are asked for the last rows of their outputs: the same rows, the same states, and less
//! to do, on the interpreter and in emulated kernels under every kind of plan.

use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::interpret::{Interpreter, Keep, State};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::last_row::{is_of_one_row, one_row, only_last_rows};
use fusec_ir::{Graph, OpId, OpKind};
use fusec_runtime::weights::Weights;

use common::{Case, inputs, interpret, root};

mod common;

/// Every model text, small.
const MODELS: [(&str, &[(&str, usize)]); 7] = [
    (
        "rwkv6.toml",
        &[
            ("V", 64),
            ("L", 2),
            ("H", 2),
            ("N", 32),
            ("R", 8),
            ("Rd", 16),
        ],
    ),
    ("rwkv7.toml", &[("V", 64), ("L", 2), ("H", 2), ("N", 32)]),
    (
        "mamba2.toml",
        &[
            ("V", 64),
            ("L", 2),
            ("C", 64),
            ("Hg", 4),
            ("P", 32),
            ("Ns", 32),
        ],
    ),
    ("mamba1.toml", &[("V", 64), ("L", 2)]),
    ("gla.toml", &[("V", 64), ("L", 2)]),
    ("retnet.toml", &[("V", 64), ("L", 2)]),
    (
        "hybrid-cp.toml",
        &[
            ("V", 64),
            ("L", 1),
            ("H", 2),
            ("N", 32),
            ("R", 8),
            ("Rd", 16),
            ("P", 32),
            ("Ns", 16),
        ],
    ),
];

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("a model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

/// Names of the operations that are computed for one row of each sequence.
fn of_one_row(graph: &Graph) -> Vec<&str> {
    let one = one_row(graph);
    let ids = (0..graph.ops.len() as u32).map(OpId);
    let single = ids.filter(|id| is_of_one_row(graph, *id, &one));
    single.map(|id| graph.op(id).name.as_str()).collect()
}

#[test]
fn the_interpreter_gives_the_last_row_of_what_it_gave_and_the_same_states() {
    for (file, axes) in MODELS {
        let graph = model(file, axes);
        let last = only_last_rows(&graph);
        let params = || Weights::random(&graph, 7).expect("weights").to_f64();
        let all = Interpreter::<f64>::new(&graph, params()).expect("a graph");
        let only = Interpreter::<f64>::new(&last, params()).expect("a graph");
        for batch in [1, 3] {
            let mut states = [State::zero(&graph, batch), State::zero(&last, batch)];
            for (run, time) in [37, 1, 2, 17].into_iter().enumerate() {
                let given = inputs(&graph, batch, time, run as u64);
                let want = interpret(&all, &mut states[0], batch, time, &given, Keep::Outputs);
                let got = interpret(&only, &mut states[1], batch, time, &given, Keep::Outputs);
                for (here, there) in graph.outputs.iter().zip(&last.outputs) {
                    let row = graph.row_elements(*here);
                    let want = want[here].numbers().expect("numbers").chunks(time * row);
                    let want: Vec<f64> =
                        want.flat_map(|s| &s[(time - 1) * row..]).copied().collect();
                    let got = got[there].numbers().expect("numbers");
                    assert_eq!(got.len(), batch * row, "{file}");
                    for (got, want) in got.iter().zip(&want) {
                        assert!(
                            (got - want).abs() <= 1e-12 * want.abs().max(1.0),
                            "{file} {time}"
                        );
                    }
                }
                assert_eq!(states[0], states[1], "{file} T={time}");
            }
        }
    }
}

#[test]
fn what_feeds_nothing_else_has_one_row_and_what_a_state_needs_has_all() {
    for (file, axes) in MODELS {
        let graph = model(file, axes);
        let last = only_last_rows(&graph);
        let single = of_one_row(&last);
        let head = graph.producer(graph.outputs[0]).expect("a head");
        assert!(
            single.contains(&graph.op(head).name.as_str()),
            "{file}: {single:?}"
        );
        // The head, the norm before it and something of the last layer.
        assert!(single.len() >= 3, "{file}: {single:?}");
        let one = one_row(&last);
        for (i, op) in last.ops.iter().enumerate() {
            let is_one = is_of_one_row(&last, OpId(i as u32), &one);
            let carries = !op.tails.is_empty() || matches!(op.kind, OpKind::Scan { .. });
            assert!(!(is_one && carries), "{file}: {}", op.name);
        }
        let taken = last
            .ops
            .iter()
            .filter(|op| matches!(op.kind, OpKind::LastRow));
        assert_eq!(taken.count(), 1, "{file}");
        // Twice is once: the outputs have their rows.
        assert_eq!(of_one_row(&only_last_rows(&last)), single, "{file}");
    }
}

#[test]
fn emulated_kernels_agree_under_every_kind_of_plan() {
    for (of, mode) in [
        (0, Mode::Auto),
        (0, Mode::Unfused),
        (1, Mode::Random(1)),
        (2, Mode::Auto),
        (6, Mode::Auto),
    ] {
        let (file, axes) = MODELS[of];
        let graph = only_last_rows(&model(file, axes));
        let case = Case {
            name: file.trim_end_matches(".toml"),
            graph: &graph,
            storage: Storage::F32,
            mode,
            batch: 2,
            times: &[19, 1, 2],
            bound: 2e-4,
        };
        common::check(&case).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn half_precision_takes_rows_as_they_lie() {
    let (file, axes) = MODELS[0];
    // One layer: with each, what was rounded is rounded again.
    let axes: Vec<(&str, usize)> = axes
        .iter()
        .map(|(name, size)| (*name, if *name == "L" { 1 } else { *size }))
        .collect();
    let graph = only_last_rows(&model(file, &axes));
    let case = Case {
        name: "rwkv6",
        graph: &graph,
        storage: Storage::Bf16,
        mode: Mode::Unfused,
        batch: 3,
        times: &[17, 1],
        bound: 4e-2,
    };
    common::check(&case).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn the_planner_prices_what_is_left_out() {
    let device = Device::find("h200").expect("a profile");
    let options = Options {
        shape: Shape {
            batch: 8,
            time: 2048,
        },
        storage: Storage::Bf16,
        mode: Mode::Auto,
        device: &device,
        launch: Submit::Graph,
        pins: Vec::new(),
    };
    let graph = model("mamba2.toml", &[("L", 2), ("V", 32768)]);
    let us = |graph: &Graph| plan(graph, &options).expect("a plan").plan.total_us;
    let (all, last) = (us(&graph), us(&only_last_rows(&graph)));
    // The head is most of two layers.
    assert!(last < 0.7 * all, "{last} of {all} us");
}
