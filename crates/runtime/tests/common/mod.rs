//! Emulated kernels against the interpreter: prefill, then runs from the carried state. Every
//! value that a kernel stores is compared, so that a failure names the first one that is wrong.

#![allow(dead_code, reason = "each test uses a part of what is here")]

mod dice;

pub use dice::Dice;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::interpret::{Input, Interpreter, Keep, Real, State, Tensor};
use fusec_ir::{Graph, Pin, Precision, ValueId};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor, Fetch, add_drawing_kernel};
use fusec_runtime::weights::Weights;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A model run as kernels under one plan.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// For messages.
    pub name: &'a str,
    /// The model.
    pub graph: &'a Graph,
    /// Storage type.
    pub storage: Storage,
    /// How kernels are chosen.
    pub mode: Mode,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each run; the state is carried from one to the next.
    pub times: &'a [usize],
    /// Largest difference, relative to the largest magnitude of a value.
    pub bound: f64,
}

/// What a case is run under, beside what it says itself.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// The device profile that plans are made for.
    pub device: &'a Device,
    /// Wishes about single steps.
    pub pins: &'a [Pin],
    /// Seed of the order in which blocks and threads run; 0 is the order of their indices.
    pub order: u64,
    /// Whether kernels are built with the sanitizers, which the process has to have.
    pub sanitizers: bool,
}

impl<'a> Conditions<'a> {
    /// Nothing special, for a device profile.
    pub fn on(device: &'a Device) -> Self {
        Conditions {
            device,
            pins: &[],
            order: 11,
            sanitizers: false,
        }
    }
}

/// A device on which a step takes so long that whatever can goes in chunks: all of it, or runs that
/// are longer than a step. Launches are dear as well, so that lanes hold all they can.
pub fn slow_steps(also_single_steps: bool) -> Device {
    let mut device = Device::find("h200").expect("profile");
    device.step_us.value = if also_single_steps { 1e7 } else { 4.6 };
    device.fitted.step_cycles.value = if also_single_steps { 1e10 } else { 2500.0 };
    device.graph_launch_us.value = 100.0;
    device
}

impl Dice {
    /// From -1 to 1.
    pub fn number(&mut self) -> f32 {
        self.below(20_001) as f32 / 10_000.0 - 1.0
    }
}

/// One input of a run.
pub enum Given {
    /// Token ids.
    Ids(Vec<i32>),
    /// Numbers over the input's axes.
    Numbers(Vec<f32>),
}

impl Given {
    /// As the executor takes it.
    pub fn input(&self) -> Input<'_, f32> {
        match self {
            Given::Ids(ids) => Input::Ids(ids),
            Given::Numbers(x) => Input::Numbers(x),
        }
    }
}

/// Random inputs for one run, in the order of the graph's. Token ids index the first parameter.
pub fn inputs(graph: &Graph, batch: usize, time: usize, seed: u64) -> Vec<Given> {
    let mut dice = Dice::new(seed);
    let rows = batch * time;
    let draw = graph.inputs.iter().map(|id| {
        let value = graph.value(*id);
        if value.precision == Precision::Index {
            let vocabulary = graph.size(graph.value(graph.params[0].value).axes[0]);
            Given::Ids((0..rows).map(|_| dice.below(vocabulary) as i32).collect())
        } else {
            let elements: usize = value.axes.iter().map(|a| graph.size(*a)).product();
            Given::Numbers((0..rows * elements).map(|_| dice.number()).collect())
        }
    });
    draw.collect()
}

/// Runs the interpreter in `F`, keeping what `keep` says.
pub fn interpret<F: Real>(
    interpreter: &Interpreter<'_, F>,
    state: &mut State<F>,
    batch: usize,
    time: usize,
    given: &[Given],
    keep: Keep,
) -> BTreeMap<ValueId, Tensor<F>> {
    let graph = interpreter.graph();
    let numbers: Vec<Vec<F>> = given
        .iter()
        .map(|given| match given {
            Given::Ids(_) => vec![],
            Given::Numbers(x) => x.iter().map(|x| F::from_f64(f64::from(*x))).collect(),
        })
        .collect();
    let inputs = graph.inputs.iter().zip(given).zip(&numbers);
    let inputs = inputs.map(|((id, given), numbers)| {
        let input = match given {
            Given::Ids(ids) => Input::Ids(&ids[..]),
            Given::Numbers(_) => Input::Numbers(&numbers[..]),
        };
        (*id, input)
    });
    let inputs: BTreeMap<_, _> = inputs.collect();
    let outputs = interpreter.run(state, batch, time, &inputs, keep);
    outputs.expect("the interpreter runs").values
}

/// The largest difference relative to the largest magnitude; NaN if either holds one.
pub fn difference<F: Real>(a: &[f32], b: &[F]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0f64, |m, x| m.max(x.to_f64().abs()));
    let mut worst = 0f64;
    for (x, y) in a.iter().zip(b) {
        let d = (f64::from(*x) - y.to_f64()).abs();
        if d.is_nan() {
            return f64::NAN;
        }
        worst = worst.max(d);
    }
    worst / scale.max(1e-30)
}

/// An executor of the model's kernels, in the emulator: one plan for single steps, one for
/// everything longer.
#[allow(
    dead_code,
    reason = "not every test that compares cases runs one itself"
)]
pub fn emulate(case: &Case<'_>, weights: &Weights) -> Result<Executor<EmulatedDevice>, String> {
    let device = Device::find("h200").expect("profile");
    emulate_under(case, weights, Conditions::on(&device))
}

/// The same, of a language model that draws the first `tokens` of its tokens by a kernel.
pub fn emulate_drawing(
    case: &Case<'_>,
    weights: &Weights,
    tokens: usize,
) -> Result<Executor<EmulatedDevice>, String> {
    let device = Device::find("h200").expect("profile");
    let conditions = Conditions::on(&device);
    let mut manifest = generated(case, conditions)?;
    let kernel = add_drawing_kernel(&mut manifest).map_err(|e| format!("generating: {e}"))?;
    let mut executor = execute(case, weights, manifest, conditions)?;
    executor.draw_with(kernel.ok_or("the model has no logits")?, tokens);
    Ok(executor)
}

/// The same under these conditions.
pub fn emulate_under(
    case: &Case<'_>,
    weights: &Weights,
    conditions: Conditions<'_>,
) -> Result<Executor<EmulatedDevice>, String> {
    let manifest = generated(case, conditions)?;
    execute(case, weights, manifest, conditions)
}

/// The model's kernels: one plan for single steps, one for everything longer.
pub fn generated(case: &Case<'_>, conditions: Conditions<'_>) -> Result<Manifest, String> {
    let Conditions { device, pins, .. } = conditions;
    let planned = |time, pins: &[Pin]| {
        let options = Options {
            shape: Shape {
                batch: case.batch,
                time,
            },
            storage: case.storage,
            mode: case.mode,
            device,
            launch: Submit::Graph,
            pins: pins.to_vec(),
        };
        plan(case.graph, &options).map_err(|e| format!("planning: {e}"))
    };
    let (decode, prefill) = (planned(1, pins)?, planned(longest(case).max(2), &[])?);
    let regimes = [
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
    ];
    generate(case.name, case.storage, &regimes).map_err(|e| format!("generating: {e}"))
}

fn longest(case: &Case<'_>) -> usize {
    case.times.iter().copied().max().unwrap_or(1)
}

/// Kernels, built and bound to weights and memory.
fn execute(
    case: &Case<'_>,
    weights: &Weights,
    manifest: Manifest,
    conditions: Conditions<'_>,
) -> Result<Executor<EmulatedDevice>, String> {
    let cache = root().join("target/emulator-cache");
    let options = EmulatorOptions {
        sanitizers: conditions.sanitizers,
        ..EmulatorOptions::default()
    };
    let emulator = Emulator::new(&cache, options).expect("g++");
    let device = EmulatedDevice::new(&emulator, &manifest, conditions.order)
        .map_err(|e| format!("compiling: {e}"))?;
    let shape = Shape {
        batch: case.batch,
        time: longest(case),
    };
    Executor::new(device, manifest, weights, shape).map_err(|e| format!("loading: {e}"))
}

/// Compares every run with the interpreter: stored values in f32 on the plan's own graph, outputs
/// also in f64 on the model's.
pub fn check(case: &Case<'_>) -> Result<(), String> {
    check_for(case, &Device::find("h200").expect("profile"))
}

/// The same with plans made for another device profile.
pub fn check_for(case: &Case<'_>, device: &Device) -> Result<(), String> {
    check_pinned(case, device, &[])
}

/// The same with wishes about single steps.
pub fn check_pinned(case: &Case<'_>, device: &Device, pins: &[Pin]) -> Result<(), String> {
    let conditions = Conditions {
        pins,
        ..Conditions::on(device)
    };
    check_under(case, conditions)
}

/// The same under these conditions.
pub fn check_under(case: &Case<'_>, conditions: Conditions<'_>) -> Result<(), String> {
    let manifest = generated(case, conditions);
    manifest
        .and_then(|manifest| compare(case, manifest, conditions))
        .map_err(|why| format!("{} {}: {why}", case.name, case.mode))
}

/// The same for kernels that were generated before, and may have been changed since.
pub fn compare(
    case: &Case<'_>,
    manifest: Manifest,
    conditions: Conditions<'_>,
) -> Result<(), String> {
    let graph = case.graph;
    let weights = Weights::random(graph, 7).expect("weights");
    let mut executor = execute(case, &weights, manifest, conditions)?;
    executor
        .reset(case.batch)
        .map_err(|e| format!("reset: {e}"))?;
    let manifest = executor.manifest().clone();
    // Half storages: the same rounded weights, f32 arithmetic; what is left is the rounding of
    // stored activations.
    let rounded = |graph| {
        let rounded = weights.rounded(graph, case.storage.into());
        rounded.expect("weights")
    };
    let references: Vec<_> = manifest
        .regimes
        .iter()
        .map(|regime| {
            let params = rounded(&regime.graph).into_params();
            Interpreter::<f32>::new(&regime.graph, params).expect("interpreter")
        })
        .collect();
    let exact = Interpreter::<f64>::new(graph, rounded(graph).to_f64()).expect("interpreter");
    let mut state = State::zero(graph, case.batch);
    let mut exact_state = State::zero(graph, case.batch);
    for (run, time) in case.times.iter().enumerate() {
        let given = inputs(graph, case.batch, *time, run as u64 + 1);
        let as_inputs: Vec<_> = given.iter().map(Given::input).collect();
        let result = executor
            .run(*time, &as_inputs, Fetch::Stored)
            .map_err(|e| format!("T={time}: {e}"))?;
        let regime = &manifest.regimes[result.regime];
        let expected = interpret(
            &references[result.regime],
            &mut state,
            case.batch,
            *time,
            &given,
            Keep::All,
        );
        for (id, value) in &result.stored {
            let (Some(got), Some(want)) =
                (value.numbers(), expected.get(id).and_then(|t| t.numbers()))
            else {
                continue;
            };
            let d = difference(got, want);
            let v = regime.graph.value(*id);
            if d.is_nan() || d > case.bound {
                return Err(format!(
                    "run {run}, B={} T={time}: `{}` of layer {:?} differs by {d:.2e}",
                    case.batch, v.name, v.layer
                ));
            }
        }
        let exact = interpret(
            &exact,
            &mut exact_state,
            case.batch,
            *time,
            &given,
            Keep::Outputs,
        );
        let outputs = graph.outputs.iter().zip(&regime.graph.outputs);
        for ((id, here), got) in outputs.zip(&result.outputs) {
            let got = got.numbers().expect("an output");
            let in_f32 = expected[here].numbers().expect("an output");
            let want = exact[id].numbers().expect("an output");
            for (who, got) in [("f32 interpreter", in_f32), ("kernels", got)] {
                let d = difference(got, want);
                if d.is_nan() || d > case.bound {
                    return Err(format!(
                        "run {run}, B={} T={time}: output `{}` of the {who} differs by {d:.2e}",
                        case.batch,
                        graph.value(*id).name
                    ));
                }
            }
        }
    }
    Ok(())
}
