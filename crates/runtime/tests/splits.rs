//! A sequence in pieces, with the state written to a file between them, is the sequence in one
//! pass: wherever it is cut, also within the window of a convolution, a shift or a delay.

use std::collections::BTreeMap;
use std::path::Path;

use common::{Case, Dice, Given, difference, emulate, inputs, root};
use fusec_fuse::{Mode, Storage};
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::executor::HostState;
use fusec_runtime::session::Session;
use fusec_runtime::weights::Weights;

mod common;

const BATCH: usize = 2;
const TIME: usize = 24;

/// Models that carry states of every kind, at small sizes.
const MODELS: [(&str, &[(&str, usize)]); 6] = [
    ("rwkv7", &[("V", 40), ("H", 2), ("N", 8)]),
    ("mamba1", &[("V", 40), ("C", 16), ("Di", 24)]),
    (
        "kda",
        &[("V", 40), ("C", 16), ("Dk", 8), ("Dv", 8), ("I", 24)],
    ),
    (
        "retnet",
        &[("V", 40), ("C", 16), ("Dr", 4), ("Dv", 16), ("I", 24)],
    ),
    ("hgrn", &[("V", 40), ("C", 16), ("D", 24), ("I", 24)]),
    ("hybrid", &[("L", 2)]),
];

fn model(name: &str, axes: &[(&str, usize)]) -> Graph {
    let path = root().join("models").join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// Lengths of pieces that make up [`TIME`]: short ones, and often of one token.
fn pieces(dice: &mut Dice) -> Vec<usize> {
    let mut left = TIME;
    let mut out = vec![];
    while left > 0 {
        let longest = [1, 3, 12][dice.below(3)];
        let piece = (1 + dice.below(longest)).min(left);
        out.push(piece);
        left -= piece;
    }
    out
}

/// Tokens from `start` on of every sequence.
fn part(given: &[Given], start: usize, time: usize) -> Vec<Given> {
    let cut = given.iter().map(|given| match given {
        Given::Ids(all) => {
            let rows = all.chunks(TIME).flat_map(|row| &row[start..start + time]);
            Given::Ids(rows.copied().collect())
        }
        Given::Numbers(all) => {
            let width = all.len() / (BATCH * TIME);
            let rows = all.chunks(TIME * width);
            let rows = rows.flat_map(|row| &row[start * width..(start + time) * width]);
            Given::Numbers(rows.copied().collect())
        }
    });
    cut.collect()
}

/// The first output of a run, `[B, time, ...]`.
fn run(session: &mut dyn Session, given: &[Given], time: usize) -> Vec<f32> {
    let inputs: Vec<Input<'_, f32>> = given.iter().map(Given::input).collect();
    let outputs = session.run(time, &inputs).expect("a run");
    match outputs.first() {
        Some(Tensor::Numbers(numbers)) => numbers.to_vec(),
        _ => panic!("no numbers"),
    }
}

/// Runs in one pass and in pieces; each piece starts from a file.
fn check(name: &str, session: &mut dyn Session, graph: &Graph, file: &Path, seed: u64) {
    let given = inputs(graph, BATCH, TIME, seed);
    session.reset(BATCH).expect("reset");
    let whole = run(session, &given, TIME);
    let whole_state = session.state().expect("a state");
    let width = whole.len() / (BATCH * TIME);
    session.reset(BATCH).expect("reset");
    let pieces = pieces(&mut Dice::new(seed));
    let mut start = 0;
    for time in &pieces {
        let got = run(session, &part(&given, start, *time), *time);
        let want: Vec<f32> = whole
            .chunks(TIME * width)
            .flat_map(|row| row[start * width..(start + time) * width].to_vec())
            .collect();
        let d = difference(&got, &want);
        assert!(d <= 2e-5, "{name} {pieces:?} at {start}: {d:.2e}");
        start += time;
        let state = session.state().expect("a state");
        state.save(graph, file).expect("written");
        // Something else in between, so that nothing but the file carries on.
        session.reset(1).expect("reset");
        run(session, &inputs(graph, 1, 3, seed + 1), 3);
        let read = HostState::load(graph, file).expect("read");
        assert_eq!(read, state, "{name}");
        session.set_state(&read).expect("a state");
    }
    let state = session.state().expect("a state");
    assert_eq!(state.position, whole_state.position, "{name}");
    let by_id: &BTreeMap<_, _> = &whole_state.tensors;
    for (id, tensor) in &state.tensors {
        let d = difference(tensor, &by_id[id]);
        let state = &graph.state(*id).name;
        assert!(d <= 2e-5, "{name} {pieces:?}: state {state}: {d:.2e}");
    }
}

#[test]
fn the_interpreter_may_be_interrupted_anywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, axes) in MODELS {
        let graph = model(name, axes);
        let weights = Weights::random(&graph, 3).expect("weights");
        for seed in 0..6 {
            let session = CpuSession::<f32>::new(&graph, weights.clone());
            let mut session = session.expect("a session");
            check(name, &mut session, &graph, &dir.path().join("s"), seed);
        }
    }
}

#[test]
fn kernels_may_be_interrupted_anywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, axes) in MODELS.iter().take(2) {
        let graph = model(name, &[*axes, &[("L", 1)]].concat());
        let weights = Weights::random(&graph, 3).expect("weights");
        let case = Case {
            name,
            graph: &graph,
            storage: Storage::F32,
            mode: Mode::Auto,
            batch: BATCH,
            times: &[TIME],
            bound: 0.0,
        };
        let mut session = emulate(&case, &weights).unwrap_or_else(|why| panic!("{name}: {why}"));
        for seed in 0..3 {
            check(name, &mut session, &graph, &dir.path().join("s"), seed);
        }
    }
}
