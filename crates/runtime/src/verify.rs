//! Comparing a session with a golden case.
//!
//! Error means `max |got - expected| / max |expected logits|`, over the prefill and over the
//! single steps that follow it from the carried state, as the case's bound is defined.

use std::path::PathBuf;

use fusec_ir::interpret::{Input, Rounding, StorageType, Tensor};
use fusec_ir::{Graph, OpKind, Precision};
use serde::Serialize;

use crate::cpu::CpuSession;
use crate::golden::GoldenCase;
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
    /// Entry of the vocabulary.
    pub token: usize,
    /// Logits compared.
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

/// Largest relative error of f32 arithmetic against the f64 interpreter.
const F32_BOUND: f64 = 5e-5;

/// What a reference run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Sequences.
    pub batch: usize,
    /// Tokens of the first run, per sequence.
    pub time: usize,
    /// Single steps after it.
    pub steps: usize,
    /// Seed of the tokens.
    pub seed: u64,
}

/// A case like a golden one, with logits of the f64 interpreter for random tokens.
pub fn reference(
    graph: &Graph,
    weights: Weights,
    request: Request,
) -> Result<GoldenCase, VerifyError> {
    let Request {
        batch,
        time,
        steps,
        seed,
    } = request;
    let vocab = vocabulary(graph)?;
    let mut session = CpuSession::<f64>::new(graph, weights).map_err(SessionError::from)?;
    session.reset(batch)?;
    let input_ids = tokens(seed, batch.saturating_mul(time), vocab);
    let step_ids = tokens(!seed, batch.saturating_mul(steps), vocab);
    let mut case = GoldenCase {
        file: PathBuf::new(),
        bound: F32_BOUND,
        batch,
        length: time,
        steps,
        vocab: graph
            .outputs
            .first()
            .map_or(0, |id| graph.row_elements(*id)),
        input_ids,
        logits: Vec::new(),
        step_ids,
        step_logits: Vec::new(),
    };
    (case.logits, case.step_logits) = replay(&mut session, &case, run_finite)?;
    Ok(case)
}

/// Entries of the table in which the only input is looked up.
pub fn vocabulary(graph: &Graph) -> Result<usize, VerifyError> {
    let [input] = graph.inputs[..] else {
        return Err(VerifyError::not_tokens(graph, 0));
    };
    let mut tables = graph.ops.iter().filter_map(|op| match op.kind {
        OpKind::Gather if op.inputs.get(1).is_some_and(|a| a.value == input) => {
            let table = graph.value(op.inputs[0].value);
            table.axes.first().map(|axis| graph.size(*axis))
        }
        _ => None,
    });
    let is_ids = graph.value(input).precision == Precision::Index;
    match (is_ids, tables.next()) {
        (true, Some(first)) => Ok(tables.fold(first, usize::min)),
        _ => Err(VerifyError::not_tokens(graph, 0)),
    }
}

/// Token ids that look random (SplitMix64).
pub fn tokens(seed: u64, count: usize, vocab: usize) -> Vec<i64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let vocab = vocab.max(1) as u64;
    (0..count).map(|_| (next() % vocab) as i64).collect()
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
const MOST_DRAWS: u64 = 8;

impl HalfComparison {
    /// Whether both errors are accepted; one that is not a number is not.
    pub fn passed(&self) -> bool {
        let pairs = self.error.iter().zip(&self.unfused_error);
        pairs.into_iter().all(|(e, u)| *e <= self.factor * u)
    }
}

/// Runs a case's tokens in half precision, against the f64 interpreter, and the same for the
/// interpreter that rounds after every operation: to nearest, and where the session is further off
/// than accepted, also with other errors of that size. The case's logits are not used: they are
/// of f32 arithmetic.
pub fn half(
    session: &mut dyn Session,
    graph: &Graph,
    weights: &Weights,
    case: &GoldenCase,
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
        let rounding = match comparison.draws {
            0 => Rounding::Op(storage),
            seed => Rounding::Dithered(storage, seed),
        };
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

impl VerifyError {
    fn not_tokens(graph: &Graph, vocab: usize) -> Self {
        VerifyError::Model {
            inputs: graph.inputs.len(),
            outputs: graph.outputs.len(),
            elements: graph
                .outputs
                .first()
                .map_or(0, |id| graph.row_elements(*id)),
            vocab,
        }
    }
}

impl Comparison {
    /// Whether every error is within the bound.
    pub fn passed(&self) -> bool {
        self.prefill.relative <= self.bound && self.steps.relative <= self.bound
    }
}

/// Runs the case from the beginning: the prefill at once, then step by step.
pub fn golden(session: &mut dyn Session, case: &GoldenCase) -> Result<Comparison, VerifyError> {
    let graph = session.graph();
    let elements = graph
        .outputs
        .first()
        .map_or(0, |id| graph.row_elements(*id));
    if graph.inputs.len() != 1 || elements != case.vocab {
        return Err(VerifyError::not_tokens(graph, case.vocab));
    }
    session.reset(case.batch)?;
    // Where there are kernels, what is wrong can be compared value by value, and says more.
    let run = match session.has_kernels() {
        true => run_any,
        false => run_finite,
    };
    let (prefill, steps) = replay(session, case, run)?;
    Ok(Comparison {
        device: session.device(),
        prefill: worst(&prefill, &case.logits, case.length, case.vocab),
        steps: worst(&steps, &case.step_logits, case.steps, case.vocab),
        bound: case.bound,
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

/// The logits `[B, length, vocab]` and `[B, steps, vocab]` of a session that has been reset.
fn replay(
    session: &mut dyn Session,
    case: &GoldenCase,
    run: Run,
) -> Result<(Vec<f32>, Vec<f32>), VerifyError> {
    let prefill = logits(session, case.length, &as_i32(&case.input_ids), run)?;
    let mut steps = vec![0f32; case.batch * case.steps * case.vocab];
    for step in 0..case.steps {
        let ids = case.step_ids.iter().skip(step).step_by(case.steps);
        let ids = as_i32(&ids.copied().collect::<Vec<_>>());
        let row = logits(session, 1, &ids, run)?;
        for (b, row) in row.chunks_exact(case.vocab).enumerate() {
            let at = (b * case.steps + step) * case.vocab;
            if let Some(to) = steps.get_mut(at..at + case.vocab) {
                to.copy_from_slice(row);
            }
        }
    }
    Ok((prefill, steps))
}

/// Golden ids lie inside a vocabulary that fits memory many times over.
pub(crate) fn as_i32(ids: &[i64]) -> Vec<i32> {
    ids.iter()
        .map(|id| i32::try_from(*id).unwrap_or(i32::MAX))
        .collect()
}

fn logits(
    session: &mut dyn Session,
    time: usize,
    ids: &[i32],
    run: Run,
) -> Result<Vec<f32>, VerifyError> {
    let outputs = run(session, time, &[Input::Ids(ids)])?;
    let first = outputs.first().and_then(|tensor| tensor.numbers());
    match first {
        Some(logits) => Ok(logits.to_vec()),
        None => Err(VerifyError::Session(SessionError::NoOutput {
            device: session.device(),
            name: "logits".into(),
        })),
    }
}

/// The worst of `[B, time, vocab]`.
fn worst(got: &[f32], expected: &[f32], time: usize, vocab: usize) -> Worst {
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
            worst.token = i % vocab;
            worst.time = i / vocab % time;
            worst.batch = i / vocab / time;
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
