//! Runs on the emulator against the interpreter, over several runs with one state.

use crate::sample;
use fusec_codegen::Element;
use fusec_fuse::{Shape, Storage};
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{
    EmulatedDevice, ExecuteError, Executor, Fetch, HostState, InputError, ManifestError,
};
use fusec_runtime::weights::Weights;
use std::collections::BTreeMap;
use std::path::Path;

pub fn emulator() -> Emulator {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("executor");
    Emulator::new(&cache, EmulatorOptions::default()).expect("g++ is installed where the tests run")
}

/// Weights that every storage type holds exactly, so that one interpreter answers for all.
pub fn weights() -> Weights {
    Weights::random(&sample::graph(), 1)
        .and_then(|weights| weights.rounded(&sample::graph(), Element::Bf16))
        .and_then(|weights| weights.rounded(&sample::graph(), Element::F16))
        .expect("weights for the sample")
}

pub fn executor(storage: Storage, batch: usize, seed: u64) -> Executor<EmulatedDevice> {
    let manifest = sample::manifest(storage);
    let device = EmulatedDevice::new(&emulator(), &manifest, seed).expect("kernels build");
    let shape = Shape { batch, time: 4 };
    Executor::new(device, manifest, &weights(), shape).expect("an executor")
}

/// The model by its definition, beside an executor.
pub struct Reference<'g> {
    interpreter: Interpreter<'g, f32>,
    pub state: State<f32>,
}

impl<'g> Reference<'g> {
    pub fn new(graph: &'g fusec_ir::Graph, batch: usize) -> Self {
        let params = weights().into_params();
        Self {
            interpreter: Interpreter::new(graph, params).expect("an interpreter"),
            state: State::zero(graph, batch),
        }
    }

    pub fn run(&mut self, time: usize, ids: &[i32]) -> Vec<f32> {
        let graph = self.interpreter.graph();
        let inputs = BTreeMap::from([(graph.inputs[0], Input::Ids(ids))]);
        let batch = self.state.batch;
        let ran = self
            .interpreter
            .run(&mut self.state, batch, time, &inputs, Keep::Outputs);
        let outputs = ran.expect("the interpreter runs");
        outputs.values[&graph.outputs[0]]
            .numbers()
            .expect("numbers")
            .to_vec()
    }
}

pub fn close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got - want).abs();
        assert!(
            error <= 1e-5 * want.abs().max(1.0),
            "{what}: element {i}: {got}, want {want}"
        );
    }
}

fn run(executor: &mut Executor<EmulatedDevice>, time: usize, ids: &[i32]) -> Vec<f32> {
    let result = executor
        .run(time, &[Input::Ids(ids)], Fetch::All)
        .unwrap_or_else(|error| panic!("{error}"));
    result.outputs[0].numbers().expect("numbers").to_vec()
}

#[test]
fn prefill_and_decode_share_the_state_at_any_length() {
    let graph = sample::graph();
    for (storage, batch, seed) in [
        (Storage::F32, 1, 0),
        (Storage::F32, 3, 5),
        (Storage::Bf16, 2, 9),
        (Storage::F16, 2, 11),
    ] {
        let mut executor = executor(storage, batch, seed);
        let mut reference = Reference::new(&graph, batch);
        // Longer than planned for, odd numbers of runs between, each regime after the other.
        for (at, time) in [1, 7, 1, 1, 2, 33, 1, 3, 3].into_iter().enumerate() {
            let ids = sample::ids(batch, time, at);
            let what = format!("{storage} B={batch} run {at} T={time}");
            close(
                &run(&mut executor, time, &ids),
                &reference.run(time, &ids),
                &what,
            );
            assert_eq!(executor.position(), reference.state.position, "{what}");
        }
        let state = executor.save_state().expect("a state");
        let want = HostState::from(reference.state);
        for (id, tensor) in &want.tensors {
            close(&state.tensors[id], tensor, "state");
        }
    }
}

#[test]
fn a_state_moves_between_executors_and_the_interpreter() {
    let graph = sample::graph();
    let mut reference = Reference::new(&graph, 2);
    let ids = |seed| sample::ids(2, 5, seed);
    reference.run(5, &ids(0));
    let middle = HostState::from(reference.state.clone());
    // Of another batch size, with an odd number of runs behind it.
    let mut executor = executor(Storage::F32, 3, 0);
    run(&mut executor, 2, &sample::ids(3, 2, 1));
    executor
        .load_state(&middle)
        .expect("the interpreter's state");
    let want = reference.run(5, &ids(1));
    close(
        &run(&mut executor, 5, &ids(1)),
        &want,
        "after the interpreter",
    );

    let saved = executor.save_state().expect("a state");
    let mut other = self::executor(Storage::Bf16, 2, 3);
    other.load_state(&saved).expect("another executor's state");
    reference.state = saved.to_interpreter(&graph).expect("for the interpreter");
    let want = reference.run(5, &ids(2));
    close(
        &run(&mut other, 5, &ids(2)),
        &want,
        "after the other executor",
    );

    executor.reset(2).expect("a new start");
    let mut fresh = Reference::new(&graph, 2);
    close(
        &run(&mut executor, 5, &ids(0)),
        &fresh.run(5, &ids(0)),
        "after a reset",
    );
}

#[test]
fn a_run_hands_back_what_is_asked_for() {
    let graph = sample::graph();
    let ids = sample::ids(2, 6, 4);
    let want = Reference::new(&graph, 2).run(6, &ids);
    let mut executor = executor(Storage::F32, 2, 0);
    let mut run = |fetch| {
        executor.reset(2).expect("a new start");
        executor.run(6, &[Input::Ids(&ids)], fetch).expect("a run")
    };

    assert!(run(Fetch::Nothing).outputs.is_empty());
    let last = run(Fetch::LastRow).outputs.remove(0);
    let rows: Vec<f32> = want
        .chunks(6 * sample::C)
        .flat_map(|b| b[5 * sample::C..].to_vec())
        .collect();
    close(last.numbers().expect("numbers"), &rows, "last rows");

    let all = run(Fetch::Stored);
    close(all.outputs[0].numbers().expect("numbers"), &want, "outputs");
    let names: Vec<&str> = all
        .stored
        .keys()
        .map(|id| graph.value(*id).name.as_str())
        .collect();
    assert_eq!(names, ["x", "d", "y"]);
    let x = all
        .stored
        .values()
        .next()
        .expect("x")
        .numbers()
        .expect("numbers");
    let table = &weights().into_params()[0];
    let rows: Vec<f32> = ids
        .iter()
        .flat_map(|id| table[*id as usize * sample::C..][..sample::C].to_vec())
        .collect();
    close(x, &rows, "x is the looked-up rows");
}

#[test]
fn bad_inputs_are_refused_before_anything_runs() {
    let graph = sample::graph();
    let mut executor = executor(Storage::F32, 2, 0);
    let mut reference = Reference::new(&graph, 2);
    let good = sample::ids(2, 3, 1);
    close(
        &run(&mut executor, 3, &good),
        &reference.run(3, &good),
        "before",
    );

    let mut outside = good.clone();
    outside[4] = sample::V as i32;
    let numbers = [0.0; 6];
    let cases: [(usize, Vec<Input<'_, f32>>, &str); 5] = [
        (3, vec![], "1 inputs, 0 were given"),
        (
            3,
            vec![Input::Ids(&good[1..])],
            "5 elements, but at B=2, T=3 it has 6",
        ),
        (3, vec![Input::Numbers(&numbers)], "wants token ids"),
        (
            3,
            vec![Input::Ids(&outside)],
            "token id 11 at batch row 1, position 1",
        ),
        (0, vec![Input::Ids(&[])], "at least 1"),
    ];
    for (time, inputs, message) in cases {
        let error = executor.run(time, &inputs, Fetch::All).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
    }
    // The state is what it was.
    close(
        &run(&mut executor, 3, &good),
        &reference.run(3, &good),
        "after",
    );
}

#[test]
fn a_run_that_fails_half_way_leaves_no_state_to_go_on_from() {
    let mut manifest = sample::manifest(Storage::F32);
    // Every second thread waits at a barrier that the others never reach.
    manifest.kernels[2].source = manifest.kernels[2].source.replace(
        "const i64 b = blockIdx.x;",
        "const i64 b = blockIdx.x; if (threadIdx.x % 2) __syncthreads();",
    );
    let device = EmulatedDevice::new(&emulator(), &manifest, 0).expect("kernels build");
    let shape = Shape { batch: 1, time: 4 };
    let mut executor = Executor::new(device, manifest, &weights(), shape).expect("an executor");
    let ids = sample::ids(1, 4, 0);
    let error = executor
        .run(4, &[Input::Ids(&ids)], Fetch::All)
        .expect_err("a divergent barrier");
    let said = error.to_string();
    assert!(
        said.contains("`leak`") && said.contains("it computes `"),
        "{said}"
    );
    let again = executor.run(1, &[Input::Ids(&ids[..1])], Fetch::All);
    assert!(
        matches!(again, Err(ExecuteError::Interrupted { .. })),
        "{again:?}"
    );
    assert!(executor.save_state().is_err());
    executor.reset(1).expect("a new start");
    executor
        .run(1, &[Input::Ids(&ids[..1])], Fetch::All)
        .expect("decode has another kernel");
}

#[test]
fn an_element_that_no_kernel_writes_shows_as_nan() {
    let mut manifest = sample::manifest(Storage::F32);
    manifest.kernels[0].source = manifest.kernels[0].source.replace("c < 5", "c < 4");
    let device = EmulatedDevice::new(&emulator(), &manifest, 0).expect("kernels build");
    let shape = Shape { batch: 1, time: 4 };
    let mut executor = Executor::new(device, manifest, &weights(), shape).expect("an executor");
    for at in 0..2 {
        executor.reset(1).expect("a new start");
        let got = run(&mut executor, 4, &sample::ids(1, 4, at));
        let nan: Vec<bool> = got.iter().map(|x| x.is_nan()).collect();
        assert_eq!(nan, [false, false, false, false, true].repeat(4));
    }
}

#[test]
fn a_run_longer_than_any_plan_is_for_is_refused() {
    let mut manifest = sample::manifest(Storage::F32);
    manifest.regimes[1].max_time = Some(3);
    let device = EmulatedDevice::new(&emulator(), &manifest, 0).expect("kernels build");
    let shape = Shape { batch: 1, time: 3 };
    let mut executor = Executor::new(device, manifest, &weights(), shape).expect("an executor");
    executor.reset(1).expect("a new start");
    run(&mut executor, 3, &sample::ids(1, 3, 0));
    let ids = sample::ids(1, 4, 0);
    let refused = executor.run(4, &[Input::Ids(&ids)], Fetch::All);
    let error = refused.expect_err("no plan is for it").to_string();
    assert!(error.contains("no regime for this T"), "{error}");
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused_with_the_place() {
    type Damage = fn(&mut fusec_codegen::Manifest);
    let cases: [(Damage, &str); 18] = [
        (|m| m.version += 1, "version"),
        (|m| m.regimes[1].min_time = 3, "starts at T=3"),
        (|m| m.regimes[1].max_time = Some(1), "holds for no T"),
        (|m| m.regimes.clear(), "none holds for T=1"),
        (|m| m.kernels[1] = m.kernels[0].clone(), "two kernels"),
        (
            |m| m.kernels[1].image = "leak".into(),
            "is not the kernel it is compiled as",
        ),
        (
            |m| m.kernels[1].entry = "stencil".into(),
            "does not begin with",
        ),
        (|m| m.kernels[1].name = "../x".into(), "no C identifier"),
        (|m| m.kernels[1].threads = 2048, "2048 threads"),
        (|m| m.regimes[0].steps[0].kernel = 9, "kernel 9 is unknown"),
        (
            |m| m.regimes[0].steps[0].args.truncate(3),
            "3 arguments for 8 parameters",
        ),
        (
            |m| m.regimes[1].steps[1].args[1] = fusec_codegen::Arg::Buffer(3),
            "does not fit `x.tail`",
        ),
        (
            |m| m.regimes[1].steps[1].args[4] = fusec_codegen::Arg::Buffer(2),
            "wants an integer",
        ),
        (
            |m| m.regimes[1].steps[0].writes.clear(),
            "not listed as used",
        ),
        (
            |m| m.regimes[1].steps[0].writes.push(1),
            "writes `table`, which is given",
        ),
        (|m| m.regimes[0].buffers[1].elements += 1, "`table`"),
        (|m| m.regimes[1].buffers[6].elements = 4, "`leak.S`"),
        (
            |m| m.regimes[1].graph.states[0].name = "other".into(),
            "do not share",
        ),
    ];
    for (damage, message) in cases {
        let mut manifest = sample::manifest(Storage::F32);
        damage(&mut manifest);
        let error = fusec_runtime::executor::check_manifest(&manifest).expect_err(message);
        assert!(error.to_string().contains(message), "{message}: {error}");
        assert!(matches!(
            error,
            ManifestError::Damaged { .. } | ManifestError::Version { .. }
        ));
    }
    fusec_runtime::executor::check_manifest(&sample::manifest(Storage::F32)).expect("sound");
}

#[test]
fn an_id_out_of_range_names_the_table() {
    let mut executor = executor(Storage::F32, 1, 0);
    let error = executor
        .run(1, &[Input::Ids(&[-1])], Fetch::All)
        .expect_err("no entry -1");
    let ExecuteError::Input(InputError::IdOutOfRange {
        id, table, entries, ..
    }) = error
    else {
        panic!("{error}");
    };
    assert_eq!((id, table.as_str(), entries), (-1, "table", sample::V));
}
