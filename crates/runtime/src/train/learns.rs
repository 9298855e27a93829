//! Whether a model learns: some steps on a batch that has something to be learnt.
//!
//! What is asked: does the loss fall, is every gradient finite, and does each recurrence and each
//! attention of the model get a gradient. Of a hybrid that is each of its branches: one that nothing
//! flows back to is dead weight, which the loss alone does not show.

use std::collections::{BTreeMap, BTreeSet};

use fusec_ir::gradient::Objective;
use fusec_ir::{Def, Graph, OpId, OpKind, ParamId};
use serde::Serialize;

use super::adamw::Rates;
use super::trainer::{TrainError, Trainer};
use crate::generation::LanguageModel;
use crate::weights::Weights;
use crate::weights::draws::Draws;

/// How much of the first loss has to be gone after the last step.
pub const LEAST_FALL: f64 = 0.05;
/// Largest norm of a gradient; larger ones are clipped.
const CLIP: f64 = 1.0;

/// A short training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Steps, all on the same batch.
    pub steps: u64,
    /// Sequences of the batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Learning rate, the same at every step.
    pub rate: f64,
    /// Seed of the weights and of the batch.
    pub seed: u64,
}

impl Default for Course {
    fn default() -> Self {
        Course {
            steps: 16,
            batch: 2,
            length: 48,
            rate: 3e-3,
            seed: 1,
        }
    }
}

/// What a short training showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Learning {
    /// Mean cross-entropy before every step, and after the last; nats.
    pub losses: Vec<f64>,
    /// L2 norm of the gradient of every step.
    pub norms: Vec<f64>,
    /// The recurrences and attentions, by name, all layers together.
    pub mixers: Vec<Mixer>,
    /// Parameters whose gradient was 0 at every step, if there was one.
    pub untouched: Vec<String>,
    /// Why it ended early: a loss or a gradient that is not finite.
    pub stopped: Option<String>,
}

/// What reached one recurrence or attention.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixer {
    /// Its name in the model.
    pub name: String,
    /// Parameters that reach no other one of the same layer before it.
    pub params: usize,
    /// Largest L2 norm of the gradient by them, of all steps; `None` if there are none.
    pub norm: Option<f64>,
}

impl Learning {
    /// By which share of the first loss the last is below it; negative if it rose.
    pub fn fall(&self) -> f64 {
        match (self.losses.first(), self.losses.last()) {
            (Some(first), Some(last)) if *first > 0.0 => (first - last) / first,
            _ => 0.0,
        }
    }

    /// What is wrong, in lines; nothing if the model learns.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.stopped.iter().cloned().collect();
        let fall = self.fall();
        if self.stopped.is_none() && fall < LEAST_FALL {
            faults.push(format!(
                "the loss fell by {:.1} % in {} steps, expected is {:.0} % at least",
                100.0 * fall,
                self.norms.len(),
                100.0 * LEAST_FALL
            ));
        }
        // Of no step nothing is known.
        let mixers = self.mixers.iter().filter(|_| !self.norms.is_empty());
        let dead = mixers.filter(|m| m.norm == Some(0.0));
        faults.extend(dead.map(|m| {
            let of = match m.params {
                1 => "parameter".to_owned(),
                some => format!("{some} parameters"),
            };
            format!(
                "nothing flows back to `{}`: the gradient by its {of} is 0 at every step",
                m.name
            )
        }));
        faults
    }
}

/// Trains a model from the weights that its text starts from, in f32 on the CPU. The ids of the batch walk
/// through the vocabulary in random steps of 1 to 3.
pub fn learns(model: &Graph, course: Course) -> Result<Learning, TrainError> {
    let known = LanguageModel::of(model)?.tokens;
    let objective = Objective::new(model)?;
    let weights = Weights::initial(model, course.seed)?.into_params();
    let rates = Rates::default();
    let mut trainer = Trainer::new(model, &objective, weights, rates)?;
    let batch = walk(course, known);
    let mut found = Learning {
        losses: Vec::new(),
        norms: Vec::new(),
        mixers: Vec::new(),
        untouched: Vec::new(),
        stopped: None,
    };
    let mixers = of_mixers(model);
    let mut largest = vec![0f64; model.params.len()];
    let mut of_mixer = vec![0f64; mixers.len()];
    for step in 1..=course.steps {
        let one = [batch.clone()];
        let stepped = match trainer.step(step, one, course.batch, course.rate, Some(CLIP)) {
            Ok(stepped) => stepped,
            Err(error @ (TrainError::Loss { .. } | TrainError::Gradients { .. })) => {
                found.stopped = Some(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        };
        found.losses.push(stepped.loss);
        found.norms.push(stepped.norm);
        for (most, norm) in largest.iter_mut().zip(&stepped.of_params) {
            *most = most.max(*norm);
        }
        for (most, (_, params)) in of_mixer.iter_mut().zip(&mixers) {
            let squares = params
                .iter()
                .map(|id| stepped.of_params[id.index()].powi(2));
            *most = most.max(squares.sum::<f64>().sqrt());
        }
    }
    if found.stopped.is_none() {
        let pieces = batch.chunks_exact(course.length + 1);
        let loss = trainer.loss(pieces)?;
        if !loss.is_finite() {
            let steps = course.steps;
            found.stopped = Some(format!("after step {steps} the loss is {loss}"));
        }
        found.losses.push(loss);
    }
    let untouched = model.params.iter().zip(&largest);
    let untouched = untouched.filter(|(_, norm)| **norm == 0.0 && !found.norms.is_empty());
    found.untouched = untouched.map(|(param, _)| param.name.clone()).collect();
    let each = mixers.into_iter().zip(of_mixer);
    found.mixers = each
        .map(|((name, params), norm)| Mixer {
            name,
            params: params.len(),
            norm: (!params.is_empty()).then_some(norm),
        })
        .collect();
    Ok(found)
}

/// The batch, `[batch, length + 1]`.
fn walk(course: Course, known: usize) -> Vec<i32> {
    let draws = Draws::new(course.seed, "walk");
    let mut count = 0;
    let mut below = |n: usize| {
        count += 1;
        (draws.uniform(count) * n as f64) as usize
    };
    let mut ids = Vec::new();
    for _ in 0..course.batch {
        let mut id = below(known);
        for _ in 0..=course.length {
            ids.push(id as i32);
            id = (id + 1 + below(3)) % known;
        }
    }
    ids
}

/// The recurrences and attentions by name, in the order of the model, each with the parameters of its own:
/// those from which a way leads to it, through its layer and no other one, and to no other one of its layer.
fn of_mixers(model: &Graph) -> Vec<(String, BTreeSet<ParamId>)> {
    let is_mixer = |op: OpId| {
        matches!(
            model.op(op).kind,
            OpKind::Scan { .. } | OpKind::Attend { .. }
        )
    };
    let all = (0..model.ops.len() as u32).map(OpId);
    let mixers: Vec<OpId> = all.filter(|op| is_mixer(*op)).collect();
    let reached = mixers.iter().map(|mixer| {
        let layer = model.op(*mixer).layer;
        let mut params = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![*mixer];
        while let Some(op) = open.pop() {
            for access in &model.op(op).inputs {
                match model.value(access.value).def {
                    Def::Param(id) => drop(params.insert(id)),
                    Def::Op(from, _) => {
                        let near = model.is_load_time(from) || model.op(from).layer == layer;
                        if near && !is_mixer(from) && seen.insert(from) {
                            open.push(from);
                        }
                    }
                    _ => {}
                }
            }
        }
        params
    });
    let reached: Vec<BTreeSet<ParamId>> = reached.collect();
    let mut found: Vec<(String, BTreeSet<ParamId>)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for (k, mixer) in mixers.iter().enumerate() {
        let op = model.op(*mixer);
        let others = mixers.iter().zip(&reached).enumerate();
        let others: BTreeSet<ParamId> = others
            .filter(|(j, (other, _))| *j != k && model.op(**other).layer == op.layer)
            .flat_map(|(_, (_, params))| params.iter().copied())
            .collect();
        let place = *at.entry(op.name.as_str()).or_insert_with(|| {
            found.push((op.name.clone(), BTreeSet::new()));
            found.len() - 1
        });
        found[place].1.extend(reached[k].difference(&others));
    }
    found
}
