//! One step after another: losses, gradients, other weights.

use fusec_ir::gradient::{GradientError, Objective};
use fusec_ir::interpret::InterpretError;
use fusec_ir::{Def, Graph, OpKind};

use super::adamw::{AdamW, Rates, clip, norm};
use super::evaluator::{Evaluator, Sums};
use super::interpreted::Interpreted;
use crate::generation::{LanguageModel, NoLanguageModel};
use crate::session::SessionError;
use crate::weights::WeightsError;

/// A model in training.
#[derive(Debug)]
pub struct Trainer<'o> {
    model: &'o Graph,
    evaluator: Box<dyn Evaluator + 'o>,
    /// The weights, in the order of the model's parameters.
    pub params: Vec<Vec<f32>>,
    /// Its means.
    pub optimizer: AdamW,
    /// Which parameters decay.
    decayed: Vec<bool>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// Mean cross-entropy per counted token, before the step.
    pub loss: f64,
    /// L2 norm of the gradient before it was clipped.
    pub norm: f64,
    /// The same of every parameter by itself, in the order of the model's.
    pub of_params: Vec<f64>,
    /// Tokens that counted.
    pub tokens: usize,
}

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model has no loss, or no derivative.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// A run was refused.
    #[error(transparent)]
    Interpret(#[from] InterpretError),
    /// A device refused, or failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The weights to begin with cannot be drawn.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model takes no token ids, or gives no logits.
    #[error(transparent)]
    NoLanguageModel(#[from] NoLanguageModel),
    /// The loss is not finite.
    #[error("step {step}: the loss is {loss}: {first}")]
    Loss {
        /// Of which step.
        step: u64,
        /// NaN or an infinity.
        loss: f64,
        /// The first value that is not finite.
        first: String,
    },
    /// The loss is finite, a derivative is not.
    #[error(
        "step {step}: the gradient of `{param}` is not finite at element {at}, and the loss is {loss}"
    )]
    Gradients {
        /// Of which step.
        step: u64,
        /// The first parameter of which it is so.
        param: String,
        /// Which element.
        at: usize,
        /// The loss.
        loss: f64,
    },
}

impl<'o> Trainer<'o> {
    /// Begins from weights, on the interpreter. The model takes one input of token ids and gives logits.
    pub fn new(
        model: &'o Graph,
        objective: &'o Objective,
        params: Vec<Vec<f32>>,
        rates: Rates,
    ) -> Result<Self, TrainError> {
        let evaluator = Interpreted::new(model, objective, &params)?;
        Self::on(model, Box::new(evaluator), params, rates)
    }

    /// Begins from weights, which the evaluator has.
    pub fn on(
        model: &'o Graph,
        evaluator: Box<dyn Evaluator + 'o>,
        params: Vec<Vec<f32>>,
        rates: Rates,
    ) -> Result<Self, TrainError> {
        LanguageModel::of(model)?;
        Ok(Trainer {
            model,
            evaluator,
            optimizer: AdamW::new(rates, &params),
            decayed: decayed(model),
            params,
        })
    }

    /// Makes a step on batches of tokens, each `[batch, length + 1]` row-major: the gradient is that
    /// of the mean over all their tokens. Nothing changes if it fails.
    pub fn step(
        &mut self,
        step: u64,
        batches: impl IntoIterator<Item = Vec<i32>>,
        batch: usize,
        rate: f64,
        most: Option<f64>,
    ) -> Result<Stepped, TrainError> {
        let mut total: Option<Sums> = None;
        for tokens in batches {
            let one = self.evaluator.differentiate(&tokens, batch)?;
            if !one.loss.is_finite() {
                return Err(self.not_finite(step, one.loss, &tokens, batch));
            }
            total = Some(match total.take() {
                None => one,
                Some(mut sum) => {
                    sum.add(&one);
                    sum
                }
            });
        }
        let Some(mut sums) = total else {
            return Ok(Stepped {
                loss: 0.0,
                norm: 0.0,
                of_params: vec![0.0; self.params.len()],
                tokens: 0,
            });
        };
        let loss = sums.loss / sums.tokens.max(1) as f64;
        sums.mean();
        let mut gradients = self.evaluator.by_params(&self.params, &sums)?;
        let of_params: Vec<f64> = gradients.iter().map(|g| norm(g)).collect();
        let size = of_params.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !size.is_finite() {
            for (param, gradient) in self.model.params.iter().zip(&gradients) {
                if let Some(at) = gradient.iter().position(|x| !x.is_finite()) {
                    return Err(TrainError::Gradients {
                        step,
                        param: param.name.clone(),
                        at,
                        loss,
                    });
                }
            }
        }
        if let Some(most) = most {
            clip(&mut gradients, size, most);
        }
        let Trainer {
            optimizer,
            params,
            decayed,
            ..
        } = self;
        optimizer.step(params, &gradients, decayed, rate);
        self.bind()?;
        Ok(Stepped {
            loss,
            norm: size,
            of_params,
            tokens: sums.tokens,
        })
    }

    /// Gives the evaluator the weights of now.
    pub fn bind(&mut self) -> Result<(), TrainError> {
        self.evaluator.bind(&self.params)
    }

    /// The mean loss over pieces of tokens, each `[length + 1]`.
    pub fn loss<'t>(&mut self, pieces: impl Iterator<Item = &'t [i32]>) -> Result<f64, TrainError> {
        let (mut loss, mut tokens) = (0.0, 0);
        for piece in pieces {
            let (part, counted) = self.evaluator.loss(piece, 1)?;
            loss += part;
            tokens += counted;
        }
        Ok(loss / tokens.max(1) as f64)
    }

    /// The mean loss of one batch `[batch, length + 1]` and its gradient by every parameter. A last token
    /// of a piece that is negative is no label: it does not count.
    pub fn gradients(
        &mut self,
        tokens: &[i32],
        batch: usize,
    ) -> Result<(f64, Vec<Vec<f32>>), TrainError> {
        let mut sums = self.evaluator.differentiate(tokens, batch)?;
        sums.mean();
        let loss = sums.loss / sums.tokens.max(1) as f64;
        Ok((loss, self.evaluator.by_params(&self.params, &sums)?))
    }

    /// The error of a loss that is not finite, with the first value of the model that is not.
    fn not_finite(&mut self, step: u64, loss: f64, tokens: &[i32], batch: usize) -> TrainError {
        let found = self.evaluator.first_non_finite(&self.params, tokens, batch);
        let first = match found {
            Ok(Some(found)) => found,
            Ok(None) => "every value of the model is finite".into(),
            Err(error) => error.to_string(),
        };
        TrainError::Loss { step, loss, first }
    }
}

/// Which parameters decay: the weights of contractions and the tables of lookups. How many axes one
/// has says nothing: a vector may lie over several.
fn decayed(model: &Graph) -> Vec<bool> {
    let mut decayed = vec![false; model.params.len()];
    for op in &model.ops {
        let read = match op.kind {
            OpKind::Contract { .. } => op.inputs.as_slice(),
            OpKind::Gather => &op.inputs[..1],
            _ => continue,
        };
        for access in read {
            if let Def::Param(id) = model.value(access.value).def {
                decayed[id.index()] = true;
            }
        }
    }
    decayed
}
