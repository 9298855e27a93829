//! Comparing a session with a golden case, or with the f64 interpreter on random inputs.
//!
//! Error means `max |got - expected| / max |expected logits|`, over the prefill and over the
//! single steps that follow it from the carried state, as the case's bound is defined.

use fusec_codegen::Element;
use fusec_fuse::Shape;
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Rounding, StorageType, Tensor};
use serde::Serialize;

use crate::cpu::CpuSession;
use crate::golden::GoldenCase;
use crate::inputs::RunInputs;
use crate::session::{Session, SessionError, run_finite};
use crate::weights::Weights;

/// How far a session is from a golden case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What did the work.
    pub device: String,
    /// Every position in one run.
    pub prefill: Worst,
    /// Token by token after it.
    pub steps: Worst,
    /// Largest relative error that is accepted.
    pub bound: f64,
    /// What the bound follows from, where the case's own was not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounded>,
}

/// How far f32 arithmetic may be from exact arithmetic on these weights and inputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rounded {
    /// Relative error of the f64 interpreter whose values are rounded to f32, of prefill and steps: the
    /// largest of `draws`.
    pub error: f64,
    /// Ways of rounding that were looked at.
    pub draws: u64,
    /// How many times that error is accepted.
    pub factor: f64,
}

/// The largest deviation and its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Worst {
    /// Largest `|got - expected|`; infinite if anything is not a number.
    pub absolute: f64,
    /// That over the largest `|expected|`.
    pub relative: f64,
    /// Sequence.
    pub batch: usize,
    /// Position in the prefill, or number of the step.
    pub time: usize,
    /// Entry of the vocabulary, or other element of the output.
    pub token: usize,
    /// Numbers compared.
    pub compared: usize,
}

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The model does not run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The model does not turn one sequence of token ids into logits.
    #[error(
        "the golden case gives token ids, but the model takes {inputs} inputs and gives {outputs} outputs of which the first has {elements} numbers per token; expected one input of ids that are looked up in a table, and as many logits as the vocabulary has entries ({vocab} recorded)"
    )]
    Model {
        /// Inputs of the model.
        inputs: usize,
        /// Outputs of the model.
        outputs: usize,
        /// Elements of the first output per row.
        elements: usize,
        /// Entries of the recorded vocabulary, 0 if nothing is recorded.
        vocab: usize,
    },
}

/// Relative error of f32 arithmetic against the f64 interpreter that is accepted whatever the weights.
const F32_BOUND: f64 = 5e-5;
/// Beyond [`F32_BOUND`], up to this many times what one rounding per value leaves: sums of many terms
/// are rounded many times.
pub(crate) const F32_FACTOR: f64 = 8.0;
/// The most that is accepted, whatever rounding leaves: where that is so much, a comparison shows nothing.
const F32_MOST: f64 = 1e-2;

/// What a reference run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Sequences.
    pub batch: usize,
    /// Tokens of the first run, per sequence.
    pub time: usize,
    /// Single steps after it.
    pub steps: usize,
    /// Seed of the inputs.
    pub seed: u64,
}

/// What a model is run on, and what its first output should be: all tokens at once, then single
/// steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Largest accepted `max |error| / max |expected|`, for f32 arithmetic without TF32.
    pub bound: f64,
    /// Whether the bound is that of a record, or may follow what rounding to f32 accounts for.
    pub recorded: bool,
    /// Sequences.
    pub batch: usize,
    /// Tokens of the first run, per sequence.
    pub length: usize,
    /// Elements of the output per token.
    pub width: usize,
    /// Inputs of the first run.
    pub prefill: RunInputs,
    /// Expected of it, `[batch, length, width]`.
    pub expected: Vec<f32>,
    /// Inputs of each step after it.
    pub steps: Vec<RunInputs>,
    /// Expected of all of them, `[batch, steps, width]`.
    pub steps_expected: Vec<f32>,
}

impl Case {
    /// A golden case, for a model that takes token ids and gives as many logits as are recorded.
    pub fn golden(graph: &Graph, golden: &GoldenCase) -> Result<Self, VerifyError> {
        let width = width(graph);
        if graph.inputs.len() != 1 || width != golden.vocab {
            return Err(VerifyError::Model {
                inputs: graph.inputs.len(),
                outputs: graph.outputs.len(),
                elements: width,
                vocab: golden.vocab,
            });
        }
        let step = |step| {
            let ids = golden.step_ids.iter().skip(step).step_by(golden.steps);
            RunInputs::ids(as_i32(ids))
        };
        Ok(Case {
            bound: golden.bound,
            recorded: true,
            batch: golden.batch,
            length: golden.length,
            width,
            prefill: RunInputs::ids(as_i32(golden.input_ids.iter())),
            expected: golden.logits.clone(),
            steps: (0..golden.steps).map(step).collect(),
            steps_expected: golden.step_logits.clone(),
        })
    }

    /// The same with inputs as a device holds them that stores `element`; what is expected stays.
    pub fn stored_as(mut self, element: Element) -> Self {
        self.prefill = self.prefill.stored_as(element);
        let steps = self.steps.into_iter();
        self.steps = steps.map(|inputs| inputs.stored_as(element)).collect();
        self
    }
}

/// Elements of the first output per token.
fn width(graph: &Graph) -> usize {
    let first = graph.outputs.first();
    first.map_or(0, |id| graph.row_elements(*id))
}

/// Golden ids lie inside a vocabulary that fits memory many times over.
fn as_i32<'a>(ids: impl Iterator<Item = &'a i64>) -> Vec<i32> {
    ids.map(|id| i32::try_from(*id).unwrap_or(i32::MAX))
        .collect()
}

/// A case with random inputs, and what the f64 interpreter makes of them.
pub fn reference(graph: &Graph, weights: Weights, request: Request) -> Result<Case, VerifyError> {
    let Request {
        batch,
        time,
        steps,
        seed,
    } = request;
    let mut session = CpuSession::<f64>::new(graph, weights).map_err(SessionError::from)?;
    session.reset(batch)?;
    let one = Shape { batch, time: 1 };
    let step = |step: usize| RunInputs::random(graph, one, !seed.wrapping_add(step as u64));
    let mut case = Case {
        bound: F32_BOUND,
        recorded: false,
        batch,
        length: time,
        width: width(graph),
        prefill: RunInputs::random(graph, Shape { batch, time }, seed),
        expected: Vec::new(),
        steps: (0..steps).map(step).collect(),
        steps_expected: Vec::new(),
    };
    (case.expected, case.steps_expected) = replay(&mut session, &case, run_finite)?;
    Ok(case)
}

/// How far a session in half precision is from exact arithmetic, beside an unfused plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HalfComparison {
    /// What did the work.
    pub device: String,
    /// Relative L2 error of the session's logits against the f64 interpreter: prefill, steps.
    pub error: [f64; 2],
    /// The same of an unfused plan that rounds every stored value: the largest of `draws`.
    pub unfused_error: [f64; 2],
    /// Ways of rounding the unfused plan that were looked at.
    pub draws: u64,
    /// How many times the unfused error is accepted.
    pub factor: f64,
}

/// Half precision passes at up to this many times the error of the unfused plan.
pub(crate) const HALF_FACTOR: f64 = 1.5;

/// Most ways of rounding the unfused plan. Where the logits of one token depend on a cancellation,
/// its error is most of the whole and a matter of luck, for the unfused plan as for any other.
pub(crate) const MOST_DRAWS: u64 = 8;

impl HalfComparison {
    /// Whether both errors are accepted; one that is not a number is not.
    pub fn passed(&self) -> bool {
        let pairs = self.error.iter().zip(&self.unfused_error);
        pairs.into_iter().all(|(e, u)| *e <= self.factor * u)
    }
}

/// Runs a case's inputs in half precision, against the f64 interpreter, and the same for the
/// interpreter that rounds after every operation: to nearest, and where the session is further off
/// than accepted, also with other errors of that size. What the case expects is not used: it is
/// of f32 arithmetic.
pub fn half(
    session: &mut dyn Session,
    graph: &Graph,
    weights: &Weights,
    case: &Case,
    storage: StorageType,
) -> Result<HalfComparison, VerifyError> {
    let mut exact = CpuSession::<f64>::new(graph, weights.clone()).map_err(SessionError::from)?;
    exact.reset(case.batch)?;
    session.reset(case.batch)?;
    let expected = replay(&mut exact, case, run_finite)?;
    let errors = |got: (Vec<f32>, Vec<f32>)| {
        [
            relative_l2(&got.0, &expected.0),
            relative_l2(&got.1, &expected.1),
        ]
    };
    let mut comparison = HalfComparison {
        device: session.device(),
        error: errors(replay(session, case, run_any)?),
        unfused_error: [0.0; 2],
        draws: 0,
        factor: HALF_FACTOR,
    };
    while comparison.draws == 0 || (comparison.draws < MOST_DRAWS && !comparison.passed()) {
        let rounding = rounding(Some(storage), comparison.draws);
        let mut unfused = CpuSession::<f64>::rounded(graph, weights.clone(), rounding)
            .map_err(SessionError::from)?;
        unfused.reset(case.batch)?;
        let found = errors(replay(&mut unfused, case, run_any)?);
        let both = comparison.unfused_error.iter_mut().zip(found);
        both.for_each(|(largest, error)| *largest = largest.max(error));
        comparison.draws += 1;
    }
    Ok(comparison)
}

/// `|got - expected| / |expected|`, L2 norms; NaN if anything is not a number.
pub(crate) fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    let mut error = 0f64;
    let mut norm = 0f64;
    for (got, expected) in got.iter().zip(expected) {
        let (got, expected) = (f64::from(*got), f64::from(*expected));
        error += (got - expected).powi(2);
        norm += expected.powi(2);
    }
    match norm {
        0.0 => error.sqrt(),
        norm => (error / norm).sqrt(),
    }
}

impl Comparison {
    /// Whether every error is within the bound.
    pub fn passed(&self) -> bool {
        self.prefill.relative <= self.bound && self.steps.relative <= self.bound
    }
}

/// The way of rounding of a draw: to nearest first, where that is known of the type.
pub(crate) fn rounding(storage: Option<StorageType>, draw: u64) -> Rounding {
    match (storage, draw) {
        (None, draw) => Rounding::Single(draw),
        (Some(storage), 0) => Rounding::Op(storage),
        (Some(storage), draw) => Rounding::Dithered(storage, draw),
    }
}

/// As [`compare`]. Where the case's own bound is exceeded and is none of a record, it follows what
/// rounding to f32 accounts for on these very weights and inputs: badly conditioned ones pass with right
/// kernels, and do not with wrong ones.
pub fn compare_conditioned(
    session: &mut dyn Session,
    graph: &Graph,
    weights: &Weights,
    case: &Case,
) -> Result<Comparison, VerifyError> {
    let mut comparison = compare(session, case)?;
    if case.recorded {
        return Ok(comparison);
    }
    let mut found = Rounded {
        error: 0.0,
        draws: 0,
        factor: F32_FACTOR,
    };
    while !comparison.passed() && found.draws < MOST_DRAWS {
        let rounding = rounding(None, found.draws);
        let mut rounded = CpuSession::<f64>::rounded(graph, weights.clone(), rounding)
            .map_err(SessionError::from)?;
        let of = compare_run(&mut rounded, case, run_any)?;
        found.error = found.error.max(of.prefill.relative).max(of.steps.relative);
        found.draws += 1;
        comparison.bound = (F32_FACTOR * found.error).clamp(case.bound, F32_MOST);
        comparison.rounding = Some(found);
    }
    Ok(comparison)
}

/// Runs the case from the beginning: the prefill at once, then step by step.
pub fn compare(session: &mut dyn Session, case: &Case) -> Result<Comparison, VerifyError> {
    // Where there are kernels, what is wrong can be compared value by value, and says more.
    let run = match session.has_kernels() {
        true => run_any,
        false => run_finite,
    };
    compare_run(session, case, run)
}

fn compare_run(
    session: &mut dyn Session,
    case: &Case,
    run: Run,
) -> Result<Comparison, VerifyError> {
    session.reset(case.batch)?;
    let (prefill, steps) = replay(session, case, run)?;
    let count = case.steps.len();
    Ok(Comparison {
        device: session.device(),
        prefill: worst(&prefill, &case.expected, case.length, case.width),
        steps: worst(&steps, &case.steps_expected, count, case.width),
        bound: case.bound,
        rounding: None,
    })
}

/// How a session is run: with [`run_finite`], or with [`run_any`].
type Run = fn(&mut dyn Session, usize, &[Input<'_, f32>]) -> Result<Vec<Tensor<f32>>, SessionError>;

/// [`Session::run`]: a comparison sees what is not finite.
fn run_any(
    session: &mut dyn Session,
    time: usize,
    inputs: &[Input<'_, f32>],
) -> Result<Vec<Tensor<f32>>, SessionError> {
    session.run(time, inputs)
}

/// The first output `[B, length, width]` and `[B, steps, width]` of a session that has been reset.
fn replay(
    session: &mut dyn Session,
    case: &Case,
    run: Run,
) -> Result<(Vec<f32>, Vec<f32>), VerifyError> {
    let prefill = output(session, case.length, &case.prefill, run)?;
    let (count, width) = (case.steps.len(), case.width);
    let mut steps = vec![0f32; case.batch * count * width];
    for (step, inputs) in case.steps.iter().enumerate() {
        let row = output(session, 1, inputs, run)?;
        for (b, row) in row.chunks_exact(width.max(1)).enumerate() {
            let at = (b * count + step) * width;
            if let Some(to) = steps.get_mut(at..at + width) {
                to.copy_from_slice(row);
            }
        }
    }
    Ok((prefill, steps))
}

fn output(
    session: &mut dyn Session,
    time: usize,
    inputs: &RunInputs,
    run: Run,
) -> Result<Vec<f32>, VerifyError> {
    let outputs = run(session, time, &inputs.given())?;
    match outputs.first().and_then(|tensor| tensor.numbers()) {
        Some(numbers) => Ok(numbers.to_vec()),
        None => Err(VerifyError::Session(SessionError::NoOutput {
            device: session.device(),
            name: "logits".into(),
        })),
    }
}

/// The worst of `[B, time, width]`.
fn worst(got: &[f32], expected: &[f32], time: usize, width: usize) -> Worst {
    let largest = expected.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let mut worst = Worst {
        compared: got.len(),
        ..Worst::default()
    };
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - f64::from(*expected)).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.absolute {
            worst.absolute = error;
            worst.token = i % width;
            worst.time = i / width % time;
            worst.batch = i / width / time;
        }
    }
    worst.relative = match largest {
        0.0 => worst.absolute,
        largest => worst.absolute / largest,
    };
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_found_and_a_nan_is_the_worst_of_all() {
        let expected = [1.0, -4.0, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        let mut got = expected;
        got[6] = 1.5;
        let worst_of = |got: &[f32]| worst(got, &expected, 2, 2);
        let found = worst_of(&got);
        assert_eq!((found.absolute, found.relative), (0.5, 0.125));
        assert_eq!((found.batch, found.time, found.token), (1, 1, 0));
        got[3] = f32::NAN;
        let found = worst_of(&got);
        assert_eq!(found.relative, f64::INFINITY);
        assert_eq!((found.batch, found.time, found.token), (0, 1, 1));
        assert_eq!(worst_of(&expected).relative, 0.0);
    }
}
