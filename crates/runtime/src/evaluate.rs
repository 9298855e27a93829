//! How well a model predicts a text: the cross-entropy of each token given those before it.
//!
//! Lives here: the loop in chunks that carry the state, and the sum. Never here: reading tokens, plans,
//! tables for people.

use fusec_ir::interpret::{Input, Tensor};
use rayon::prelude::*;

use crate::generation::{LanguageModel, NoLanguageModel};
use crate::session::{Session, SessionError};

/// Token ids of some sequences of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Sequences.
    pub batch: usize,
    /// `[batch, tokens of each]`.
    pub ids: Vec<i32>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Tokens that were predicted: all but the first of each sequence.
    pub predicted: usize,
    /// Their mean negative log-likelihood, nats.
    pub cross_entropy: f64,
    /// Its exponential.
    pub perplexity: f64,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The model does not map tokens to logits of tokens.
    #[error(transparent)]
    Model(#[from] NoLanguageModel),
    /// The device failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Nothing to predict.
    #[error(
        "{tokens} tokens in each of {batch} sequences: a sequence has to have two, the second of which is predicted from the first"
    )]
    TooShort {
        /// Of each sequence.
        tokens: usize,
        /// Sequences.
        batch: usize,
    },
    /// A token that the model has no logit for.
    #[error("token {at} has the id {id}, and the model has {tokens} tokens")]
    Token {
        /// Its place in the ids.
        at: usize,
        /// Its id.
        id: i32,
        /// Tokens of the model.
        tokens: usize,
    },
    /// Logits that give no probability.
    #[error(
        "the probability of token {at} of sequence {sequence} is no number: a logit before it is not finite"
    )]
    NotFinite {
        /// Number of the sequence.
        sequence: usize,
        /// Number of the token in it.
        at: usize,
    },
}

/// Runs `length` tokens at a time, each run going on from the state of the one before, and sums
/// `-log softmax(logits)[next token]` in f64. `done` is told how many tokens of each sequence have been run.
pub fn evaluate(
    session: &mut dyn Session,
    sequences: &Sequences,
    length: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Evaluation, EvaluateError> {
    let tokens = LanguageModel::of(session.graph())?.tokens;
    let Sequences { batch, ids } = sequences;
    let batch = *batch;
    let of_each = ids.len() / batch.max(1);
    if batch == 0 || of_each < 2 {
        return Err(EvaluateError::TooShort {
            tokens: of_each,
            batch,
        });
    }
    let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < tokens);
    if let Some(at) = ids.iter().position(|id| !known(id)) {
        let id = ids[at];
        return Err(EvaluateError::Token { at, id, tokens });
    }
    session.reset(batch)?;
    let (length, last) = (length.max(1), of_each - 1);
    let mut sum = 0.0;
    for start in (0..last).step_by(length) {
        let end = last.min(start + length);
        let rows = |from: usize, to: usize| {
            let sequences = ids.chunks_exact(of_each);
            sequences
                .flat_map(move |sequence| &sequence[from..to])
                .copied()
        };
        let given: Vec<i32> = rows(start, end).collect();
        let outputs = session.run(end - start, &[Input::Ids(&given)])?;
        let logits = outputs
            .first()
            .and_then(Tensor::numbers)
            .unwrap_or_default();
        let width = logits.len() / given.len();
        let targets: Vec<i32> = rows(start + 1, end + 1).collect();
        let losses: Vec<f64> = logits
            .par_chunks_exact(width.max(1))
            .zip(&targets)
            .map(|(row, target)| loss(&row[..tokens], *target as usize))
            .collect();
        if let Some(row) = losses.iter().position(|loss| !loss.is_finite()) {
            return Err(EvaluateError::NotFinite {
                sequence: row / (end - start),
                at: start + 1 + row % (end - start),
            });
        }
        // In order: the sum is the same whatever the threads did.
        sum += losses.iter().sum::<f64>();
        done(end);
    }
    let predicted = batch * last;
    let cross_entropy = sum / predicted as f64;
    Ok(Evaluation {
        predicted,
        cross_entropy,
        perplexity: cross_entropy.exp(),
    })
}

/// `-log softmax(logits)[target]`.
fn loss(logits: &[f32], target: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = |l: f32| f64::from(l) - f64::from(most);
    let total: f64 = logits.iter().map(|l| shifted(*l).exp()).sum();
    total.ln() - shifted(logits[target])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_negative_logarithm_of_the_probability() {
        for (logits, target, probability) in [
            (&[0.0f32, 0.0, 0.0, 0.0][..], 2, 0.25f64),
            (&[1000.0, 1000.0][..], 0, 0.5),
            (&[0.0, 3f32.ln()][..], 1, 0.75),
        ] {
            assert!((loss(logits, target) + probability.ln()).abs() < 1e-7);
        }
        assert!(!loss(&[f32::NAN, 0.0], 0).is_finite());
        assert!(!loss(&[f32::INFINITY, 0.0], 0).is_finite());
    }
}
