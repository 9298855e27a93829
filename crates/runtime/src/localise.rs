//! Where a model goes wrong: the first value that kernels store and that is further off than it may
//! be, against the f64 interpreter on the very graph that was planned.
//!
//! Slow, and of use after a comparison of outputs has failed; see [`crate::verify`].

use std::collections::BTreeMap;

use fusec_ir::interpret::{Input, Interpreter, Keep, Rounding, State, StorageType, Tensor};
use fusec_ir::{Graph, ValueId};
use serde::Serialize;

use crate::session::{Session, SessionError};
use crate::verify::{Case, HALF_FACTOR, VerifyError, relative_l2};
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

/// Replays a case's prefill and its first step. `None` if the session has no kernels, or if no
/// value that they store is further off than accepted: `bound` for f32; for half precision, what
/// the unfused plan accounts for. In the order of the graph, so that its causes come before it.
pub fn first_wrong(
    session: &mut dyn Session,
    weights: &Weights,
    case: &Case,
    storage: Option<StorageType>,
    bound: f64,
) -> Result<Option<FirstWrong>, VerifyError> {
    session.reset(case.batch)?;
    let mut exact_state: Option<State<f64>> = None;
    let mut rounded_state: Option<State<f64>> = None;
    let step = case.steps.first().map(|step| ("step", 1, step));
    for (run, time, inputs) in [("prefill", case.length, &case.prefill)]
        .into_iter()
        .chain(step)
    {
        let given = inputs.given();
        let wide: Vec<Vec<f64>> = given.iter().map(widened).collect();
        let Some(stored) = session.run_stored(time, &given)? else {
            return Ok(None);
        };
        let graph = &stored.graph;
        let interpret = |rounding, state: &mut Option<State<f64>>| {
            let interpreter = Interpreter::<f64>::with_rounding(graph, weights.to_f64(), rounding)?;
            let state = state.get_or_insert_with(|| State::zero(graph, case.batch));
            let inputs = graph.inputs.iter().zip(given.iter().zip(&wide));
            let inputs = inputs.map(|(id, (given, wide))| match given {
                Input::Ids(ids) => (*id, Input::Ids(ids)),
                Input::Numbers(_) => (*id, Input::Numbers(wide)),
            });
            let inputs = inputs.collect();
            interpreter.run(state, case.batch, time, &inputs, Keep::All)
        };
        let exact = interpret(Rounding::None, &mut exact_state)
            .map_err(SessionError::from)?
            .values;
        let rounded = match storage {
            None => None,
            Some(storage) => {
                let run = interpret(Rounding::Op(storage), &mut rounded_state);
                Some(run.map_err(SessionError::from)?.values)
            }
        };
        let made = graph.ops.iter().flat_map(|op| &op.outputs);
        for (id, got) in made.filter_map(|id| Some((id, stored.values.get(id)?))) {
            let numbers = |of: &BTreeMap<ValueId, Tensor<f64>>| {
                Some(
                    of.get(id)?
                        .numbers()?
                        .iter()
                        .map(|x| *x as f32)
                        .collect::<Vec<f32>>(),
                )
            };
            let (Some(got), Some(want)) = (got.numbers(), numbers(&exact)) else {
                continue;
            };
            let not_finite = got
                .iter()
                .zip(&want)
                .position(|(g, w)| !g.is_finite() && w.is_finite());
            let (error, accepted) = match rounded.as_ref().map(numbers) {
                None => (relative_max(got, &want), bound),
                Some(rounded) => {
                    let unfused = relative_l2(&rounded.unwrap_or_default(), &want);
                    (relative_l2(got, &want), HALF_FACTOR * unfused)
                }
            };
            if error <= accepted && not_finite.is_none() {
                continue;
            }
            let value = graph.value(*id);
            let elements = graph.row_elements(*id).max(1);
            return Ok(Some(FirstWrong {
                value: value.name.clone(),
                layer: value.layer,
                kernel: stored.kernels.get(id).cloned().unwrap_or_default(),
                run,
                error,
                accepted,
                not_finite: not_finite.map(|at| {
                    let row = at / elements;
                    [row / time, row % time, at % elements]
                }),
            }));
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
