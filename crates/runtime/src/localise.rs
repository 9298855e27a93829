//! Where a model goes wrong: the first value that kernels store and that is further off than it may
//! be, against the f64 interpreter on the very graph that was planned.
//!
//! Slow, and of use after a comparison of outputs has failed; see [`crate::verify`].

use std::collections::BTreeMap;

use fusec_ir::interpret::{Input, Interpreter, Keep, Rounding, State, StorageType, Tensor};
use fusec_ir::{Graph, ValueId};
use serde::Serialize;

use crate::inputs::RunInputs;
use crate::session::{Session, SessionError};
use crate::verify::{
    Case, F32_FACTOR, HALF_FACTOR, MOST_DRAWS, VerifyError, relative_l2, rounding,
};
use crate::weights::Weights;

/// What the kernels of a run left in memory.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The graph that was planned; values are of it.
    pub graph: Graph,
    /// Every value that a kernel stored, `[B, T, axes...]`.
    pub values: BTreeMap<ValueId, Tensor<f32>>,
    /// The kernel that stored it.
    pub kernels: BTreeMap<ValueId, String>,
}

/// The first value that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstWrong {
    /// Its name in the model.
    pub value: String,
    /// Its layer, if it is of one.
    pub layer: Option<u32>,
    /// The kernel that stored it.
    pub kernel: String,
    /// `prefill`, or `step`.
    pub run: &'static str,
    /// Its relative error: of its worst element for f32, the L2 norm for half precision. Null in
    /// JSON if it holds a number that is not finite where the interpreter's is.
    pub error: f64,
    /// What is accepted.
    pub accepted: f64,
    /// Index `[b, t, element]` of the first number that is not finite where it should be.
    pub not_finite: Option<[usize; 3]>,
}

/// A run of a case: all tokens, or a step.
struct Run<'a> {
    time: usize,
    inputs: &'a RunInputs,
    /// That was planned.
    graph: Graph,
}

/// The f64 interpreter over the runs of a case, from one to the next.
struct Replay<'a> {
    weights: &'a Weights,
    batch: usize,
    rounding: Rounding,
    state: Option<State<f64>>,
    /// Runs that were done.
    done: usize,
}

impl<'a> Replay<'a> {
    fn new(weights: &'a Weights, batch: usize, rounding: Rounding) -> Self {
        Replay {
            weights,
            batch,
            rounding,
            state: None,
            done: 0,
        }
    }

    /// Every value of the last of these runs, those before it included in its state.
    fn last(&mut self, runs: &[Run<'_>]) -> Result<Values, SessionError> {
        let mut values = Values::new();
        for run in runs.iter().skip(self.done) {
            let graph = &run.graph;
            let given = run.inputs.given();
            let wide: Vec<Vec<f64>> = given.iter().map(widened).collect();
            let params = self.weights.to_f64();
            let interpreter = Interpreter::<f64>::with_rounding(graph, params, self.rounding)?;
            let inputs = graph.inputs.iter().zip(given.iter().zip(&wide));
            let inputs = inputs.map(|(id, (given, wide))| match given {
                Input::Ids(ids) => (*id, Input::Ids(ids)),
                Input::Numbers(_) => (*id, Input::Numbers(wide)),
            });
            let inputs = inputs.collect();
            let batch = self.batch;
            let state = self.state.get_or_insert_with(|| State::zero(graph, batch));
            let outputs = interpreter.run(state, batch, run.time, &inputs, Keep::All)?;
            let numbers = |(id, tensor): (ValueId, Tensor<f64>)| {
                let numbers = tensor.numbers()?.iter().map(|x| *x as f32);
                Some((id, numbers.collect()))
            };
            values = outputs.values.into_iter().filter_map(numbers).collect();
        }
        self.done = runs.len();
        Ok(values)
    }
}

/// Numbers of values.
type Values = BTreeMap<ValueId, Vec<f32>>;

/// Replays a case's prefill and its first step. `None` if the session has no kernels, or if no
/// value that they store is further off than accepted: for f32 `bound`, or what rounding accounts for
/// where that is more; for half precision, what the unfused plan accounts for. Where a value is
/// further off than one way of rounding accounts for, others are looked at before it is called wrong.
/// In the order of the graph, so that its causes come before it.
pub fn first_wrong(
    session: &mut dyn Session,
    weights: &Weights,
    case: &Case,
    storage: Option<StorageType>,
    bound: f64,
) -> Result<Option<FirstWrong>, VerifyError> {
    session.reset(case.batch)?;
    let (least, factor) = match storage {
        None => (bound, F32_FACTOR),
        Some(_) => (0.0, HALF_FACTOR),
    };
    let error = |got: &[f32], want: &[f32]| match storage {
        None => relative_max(got, want),
        Some(_) => relative_l2(got, want),
    };
    let mut exact = Replay::new(weights, case.batch, Rounding::None);
    let draw = |draw| Replay::new(weights, case.batch, rounding(storage, draw));
    let mut draws: Vec<Replay<'_>> = (0..MOST_DRAWS).map(draw).collect();
    let mut runs: Vec<Run<'_>> = Vec::new();
    let step = case.steps.first().map(|step| ("step", 1, step));
    for (name, time, inputs) in [("prefill", case.length, &case.prefill)]
        .into_iter()
        .chain(step)
    {
        let Some(stored) = session.run_stored(time, &inputs.given())? else {
            return Ok(None);
        };
        runs.push(Run {
            time,
            inputs,
            graph: stored.graph,
        });
        let want = exact.last(&runs)?;
        let graph = &runs[runs.len() - 1].graph;
        let mut wrong: Vec<FirstWrong> = Vec::new();
        let mut ids: Vec<ValueId> = Vec::new();
        for id in graph.ops.iter().flat_map(|op| &op.outputs) {
            let got = stored.values.get(id).and_then(|tensor| tensor.numbers());
            let (Some(got), Some(want)) = (got, want.get(id)) else {
                continue;
            };
            let not_finite = got
                .iter()
                .zip(want)
                .position(|(g, w)| !g.is_finite() && w.is_finite());
            let error = error(got, want);
            if error <= least && not_finite.is_none() {
                continue;
            }
            let value = graph.value(*id);
            let elements = graph.row_elements(*id).max(1);
            ids.push(*id);
            wrong.push(FirstWrong {
                value: value.name.clone(),
                layer: value.layer,
                kernel: stored.kernels.get(id).cloned().unwrap_or_default(),
                run: name,
                error,
                accepted: least,
                not_finite: not_finite.map(|at| {
                    let row = at / elements;
                    [row / time, row % time, at % elements]
                }),
            });
        }
        for replay in &mut draws {
            let known = |wrong: &FirstWrong| wrong.not_finite.is_some();
            if wrong.first().is_none_or(known) {
                break;
            }
            let rounded = replay.last(&runs)?;
            for (wrong, id) in wrong.iter_mut().zip(&ids) {
                if let (Some(rounded), Some(want)) = (rounded.get(id), want.get(id)) {
                    wrong.accepted = wrong.accepted.max(factor * error(rounded, want));
                }
            }
            let keep: Vec<bool> = wrong
                .iter()
                .map(|wrong| wrong.error > wrong.accepted || wrong.not_finite.is_some())
                .collect();
            let mut kept = keep.iter();
            wrong.retain(|_| kept.next().copied().unwrap_or(true));
            let mut kept = keep.iter();
            ids.retain(|_| kept.next().copied().unwrap_or(true));
        }
        if let Some(first) = wrong.into_iter().next() {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

/// Numbers as the f64 interpreter takes them; nothing for ids.
fn widened(input: &Input<'_, f32>) -> Vec<f64> {
    match input {
        Input::Numbers(numbers) => numbers.iter().map(|x| f64::from(*x)).collect(),
        Input::Ids(_) => Vec::new(),
    }
}

/// `max |got - want| / max |want|`.
fn relative_max(got: &[f32], want: &[f32]) -> f64 {
    let largest = want.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let errors = got
        .iter()
        .zip(want)
        .map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs());
    let worst = errors.fold(
        0f64,
        |m, e| if e.is_nan() { f64::INFINITY } else { m.max(e) },
    );
    match largest {
        0.0 => worst,
        largest => worst / largest,
    }
}
