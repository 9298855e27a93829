//! One step after another: losses, gradients, other weights.

use std::collections::BTreeMap;

use fusec_ir::gradient::{Gradient, GradientError, Objective};
use fusec_ir::interpret::{
    Input, InterpretError, Interpreter, Keep, NonFinite, State, first_non_finite,
};
use fusec_ir::{Def, Graph, OpKind, ParamId, ValueId};

use super::adamw::{AdamW, Rates, clip, norm};
use crate::generation::{LanguageModel, NoLanguageModel};
use crate::weights::WeightsError;

/// Most logits held at once, unless somebody says otherwise.
const MOST_LOGITS: usize = 1 << 20;

/// A model in training.
#[derive(Debug)]
pub struct Trainer<'o> {
    model: &'o Graph,
    objective: &'o Objective,
    trunk: Interpreter<'o, f32>,
    head: Interpreter<'o, f32>,
    /// The weights, in the order of the model's parameters.
    pub params: Vec<Vec<f32>>,
    /// Its means.
    pub optimizer: AdamW,
    /// Most logits held at once; those of one row at least.
    pub most_logits: usize,
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

/// What a batch contributes: sums over its counted tokens.
struct Sums {
    loss: f64,
    tokens: usize,
    trunk: Vec<Vec<f32>>,
    head: Vec<Vec<f32>>,
}

impl<'o> Trainer<'o> {
    /// Begins from weights. The model takes one input of token ids and gives logits.
    pub fn new(
        model: &'o Graph,
        objective: &'o Objective,
        params: Vec<Vec<f32>>,
        rates: Rates,
    ) -> Result<Self, TrainError> {
        LanguageModel::of(model)?;
        let [of_trunk, of_head] = &objective.params;
        Ok(Trainer {
            model,
            objective,
            trunk: objective.trunk.interpreter(chosen(&params, of_trunk))?,
            head: objective.head.interpreter(chosen(&params, of_head))?,
            optimizer: AdamW::new(rates, &params),
            most_logits: MOST_LOGITS,
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
            let one = self.differentiated(&tokens, batch)?;
            if !one.loss.is_finite() {
                return Err(self.not_finite(step, one.loss, &tokens, batch));
            }
            total = Some(match total.take() {
                None => one,
                Some(mut sum) => {
                    sum.loss += one.loss;
                    sum.tokens += one.tokens;
                    add(&mut sum.trunk, &one.trunk);
                    add(&mut sum.head, &one.head);
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
        let scale = 1.0 / sums.tokens.max(1) as f32;
        for x in sums.trunk.iter_mut().chain(&mut sums.head).flatten() {
            *x *= scale;
        }
        let mut gradients = self.by_params(&sums)?;
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

    /// Gives the interpreters the weights of now.
    pub fn bind(&mut self) -> Result<(), TrainError> {
        let [of_trunk, of_head] = &self.objective.params;
        self.trunk.set_params(chosen(&self.params, of_trunk))?;
        self.head.set_params(chosen(&self.params, of_head))?;
        Ok(())
    }

    /// The mean loss over pieces of tokens, each `[length + 1]`.
    pub fn loss<'t>(&self, pieces: impl Iterator<Item = &'t [i32]>) -> Result<f64, TrainError> {
        let (mut loss, mut tokens) = (0.0, 0);
        for piece in pieces {
            let (ids, labels) = parts(piece, 1);
            let (part, counted, _) = self.forward(&ids, &labels, 1, None)?;
            loss += part;
            tokens += counted;
        }
        Ok(loss / tokens.max(1) as f64)
    }

    /// The mean loss of one batch `[batch, length + 1]` and its gradient by every parameter. A last token
    /// of a piece that is negative is no label: it does not count.
    pub fn gradients(
        &self,
        tokens: &[i32],
        batch: usize,
    ) -> Result<(f64, Vec<Vec<f32>>), TrainError> {
        let mut sums = self.differentiated(tokens, batch)?;
        let scale = 1.0 / sums.tokens.max(1) as f32;
        for x in sums.trunk.iter_mut().chain(&mut sums.head).flatten() {
            *x *= scale;
        }
        let loss = sums.loss / sums.tokens.max(1) as f64;
        Ok((loss, self.by_params(&sums)?))
    }

    fn differentiated(&self, tokens: &[i32], batch: usize) -> Result<Sums, TrainError> {
        let (ids, labels) = parts(tokens, batch);
        let mut sums = None;
        let (loss, tokens, trunk) = self.forward(&ids, &labels, batch, Some(&mut sums))?;
        Ok(Sums {
            loss,
            tokens,
            trunk,
            head: sums.unwrap_or_default(),
        })
    }

    /// The summed loss and the counted tokens; with a place for the sums of the head, also those of
    /// the trunk.
    fn forward(
        &self,
        ids: &[i32],
        labels: &[f32],
        batch: usize,
        head_sums: Option<&mut Option<Vec<Vec<f32>>>>,
    ) -> Result<(f64, usize, Vec<Vec<f32>>), TrainError> {
        let Objective { trunk, head, .. } = self.objective;
        let time = ids.len() / batch;
        let mut state = State::zero(&trunk.graph, batch);
        let mut inputs: BTreeMap<ValueId, Input<'_, f32>> = BTreeMap::new();
        inputs.insert(trunk.graph.inputs[0], Input::Ids(ids));
        let run = trunk.forward(&self.trunk, &state, (batch, time), &inputs)?;
        let at_cut: Vec<Vec<f32>> = trunk
            .seeds
            .iter()
            .map(|(id, _)| {
                run.value(*id)
                    .and_then(|v| v.numbers())
                    .unwrap_or_default()
                    .to_vec()
            })
            .collect();
        let rows = (self.most_logits / self.objective.vocabulary.max(1)).clamp(1, ids.len());
        let mut back: Vec<Vec<f32>> = at_cut.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut sums: Option<Vec<Vec<f32>>> = None;
        let mut loss = 0.0;
        let wanted = head_sums.is_some();
        for start in (0..ids.len()).step_by(rows) {
            let count = rows.min(ids.len() - start);
            let part = |x: &[f32]| {
                let width = x.len() / ids.len();
                start * width..(start + count) * width
            };
            let mut inputs: BTreeMap<ValueId, Input<'_, f32>> = BTreeMap::new();
            for (id, x) in self.objective.cut.iter().zip(&at_cut) {
                inputs.insert(*id, Input::Numbers(&x[part(x)]));
            }
            let given = &labels[start..start + count];
            inputs.insert(self.objective.labels, Input::Numbers(given));
            let mut none = State::zero(&head.graph, 1);
            let run = head.forward(&self.head, &none, (1, count), &inputs)?;
            let losses = run.value(self.objective.loss).and_then(|v| v.numbers());
            loss += losses
                .unwrap_or_default()
                .iter()
                .map(|x| f64::from(*x))
                .sum::<f64>();
            if !wanted {
                continue;
            }
            let cotangents = run.backward(&[], &mut none)?;
            for ((id, whole), x) in self.objective.cut.iter().zip(&mut back).zip(&at_cut) {
                if let Some(d) = cotangents.inputs.get(id) {
                    whole[part(x)].copy_from_slice(d);
                }
            }
            match &mut sums {
                None => sums = Some(cotangents.sums),
                Some(sums) => add(sums, &cotangents.sums),
            }
        }
        let counted = labels.iter().filter(|label| **label >= 0.0).count();
        let Some(head_sums) = head_sums else {
            return Ok((loss, counted, Vec::new()));
        };
        *head_sums = sums;
        let seeds: Vec<&[f32]> = back.iter().map(Vec::as_slice).collect();
        Ok((loss, counted, run.backward(&seeds, &mut state)?.sums))
    }

    fn by_params(&self, sums: &Sums) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut all: Vec<Vec<f32>> = self.params.iter().map(|p| vec![0.0; p.len()]).collect();
        let Objective { trunk, head, .. } = self.objective;
        let parts: [(&Gradient, &Vec<Vec<f32>>); 2] = [(trunk, &sums.trunk), (head, &sums.head)];
        for ((gradient, sums), of) in parts.into_iter().zip(&self.objective.params) {
            let gradients = gradient.load.evaluate(&chosen(&self.params, of), sums)?;
            for (id, gradient) in of.iter().zip(gradients) {
                let sum = all[id.index()].iter_mut().zip(gradient);
                sum.for_each(|(a, b)| *a += b);
            }
        }
        Ok(all)
    }

    /// The error of a loss that is not finite, with the first value of the model that is not.
    fn not_finite(&self, step: u64, loss: f64, tokens: &[i32], batch: usize) -> TrainError {
        let found = || -> Result<Option<NonFinite>, InterpretError> {
            let interpreter = Interpreter::new(self.model, self.params.clone())?;
            let (ids, _) = parts(tokens, batch);
            let mut state = State::zero(self.model, batch);
            let inputs = BTreeMap::from([(self.model.inputs[0], Input::Ids(&ids))]);
            let time = ids.len() / batch;
            let all = interpreter.run(&mut state, batch, time, &inputs, Keep::All)?;
            Ok(first_non_finite(self.model, &all))
        };
        let first = match found() {
            Ok(Some(found)) => found.to_string(),
            Ok(None) => "every value of the model is finite".into(),
            Err(error) => error.to_string(),
        };
        TrainError::Loss { step, loss, first }
    }
}

/// Inputs and labels of `[batch, length + 1]` tokens.
fn parts(tokens: &[i32], batch: usize) -> (Vec<i32>, Vec<f32>) {
    let row = tokens.len() / batch.max(1);
    let mut ids = Vec::new();
    let mut labels = Vec::new();
    for piece in tokens.chunks_exact(row) {
        ids.extend_from_slice(&piece[..row - 1]);
        labels.extend(piece[1..].iter().map(|id| *id as f32));
    }
    (ids, labels)
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

fn chosen(params: &[Vec<f32>], of: &[ParamId]) -> Vec<Vec<f32>> {
    of.iter().map(|id| params[id.index()].clone()).collect()
}

fn add(to: &mut [Vec<f32>], more: &[Vec<f32>]) {
    for (to, more) in to.iter_mut().zip(more) {
        to.iter_mut().zip(more).for_each(|(a, b)| *a += b);
    }
}
