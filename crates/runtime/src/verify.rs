//! Comparing a session with a golden case.
//!
//! Error means `max |got - expected| / max |expected logits|`, over the prefill and over the
//! single steps that follow it from the carried state, as the case's bound is defined.

use fusec_ir::interpret::Input;
use serde::Serialize;

use crate::golden::GoldenCase;
use crate::session::{Session, SessionError};

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
    #[error("the golden case gives token ids, but the model takes {inputs} inputs and gives {outputs} outputs of which the first has {elements} numbers per token; expected one input and {vocab} logits")]
    Model {
        /// Inputs of the model.
        inputs: usize,
        /// Outputs of the model.
        outputs: usize,
        /// Elements of the first output per row.
        elements: usize,
        /// Entries of the recorded vocabulary.
        vocab: usize,
    },
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
    let elements = graph.outputs.first().map_or(0, |id| graph.row_elements(*id));
    if graph.inputs.len() != 1 || elements != case.vocab {
        return Err(VerifyError::Model {
            inputs: graph.inputs.len(),
            outputs: graph.outputs.len(),
            elements,
            vocab: case.vocab,
        });
    }
    session.reset(case.batch)?;
    let ids = as_i32(&case.input_ids);
    let prefill = logits(session, case.length, &ids)?;
    let mut steps = vec![0f32; case.step_logits.len()];
    for step in 0..case.steps {
        let ids = case.step_ids.iter().skip(step).step_by(case.steps);
        let ids = as_i32(&ids.copied().collect::<Vec<_>>());
        let row = logits(session, 1, &ids)?;
        for (b, row) in row.chunks_exact(case.vocab).enumerate() {
            let at = (b * case.steps + step) * case.vocab;
            if let Some(to) = steps.get_mut(at..at + case.vocab) {
                to.copy_from_slice(row);
            }
        }
    }
    Ok(Comparison {
        device: session.device(),
        prefill: worst(&prefill, &case.logits, case.length, case.vocab),
        steps: worst(&steps, &case.step_logits, case.steps, case.vocab),
        bound: case.bound,
    })
}

/// Golden ids lie inside a vocabulary that fits memory many times over.
fn as_i32(ids: &[i64]) -> Vec<i32> {
    ids.iter()
        .map(|id| i32::try_from(*id).unwrap_or(i32::MAX))
        .collect()
}

fn logits(session: &mut dyn Session, time: usize, ids: &[i32]) -> Result<Vec<f32>, VerifyError> {
    let outputs = session.run(time, &[Input::Ids(ids)])?;
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
