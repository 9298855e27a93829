//! Loss and derivatives by kernels: the whole objective as one graph, planned and run like any other.

use fusec_ir::gradient::WholeObjective;
use fusec_ir::interpret::{Input, Tensor};

use super::evaluator::{Evaluator, Sums, counted, parts};
use super::interpreted::chosen;
use super::trainer::TrainError;
use crate::session::{Session, SessionError};
use crate::weights::{Weights, WeightsError};

/// A model with its loss and derivatives, on a device. All logits of a batch are held at once.
pub struct Compiled<'o> {
    objective: &'o WholeObjective,
    session: Box<dyn Session + 'o>,
}

impl std::fmt::Debug for Compiled<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("device", &self.session.device())
            .finish_non_exhaustive()
    }
}

impl<'o> Compiled<'o> {
    /// A session of the objective's graph, which has the weights to begin with.
    pub fn new(objective: &'o WholeObjective, session: Box<dyn Session + 'o>) -> Self {
        Compiled { objective, session }
    }

    /// Weights of the objective's graph, from those of the model.
    pub fn weights(
        objective: &WholeObjective,
        params: &[Vec<f32>],
    ) -> Result<Weights, WeightsError> {
        Weights::new(&objective.gradient.graph, chosen(params, &objective.params))
    }

    /// Begins anew with a batch, and does with it what `with` says: the session is given the tokens of each
    /// sequence, their ids and labels. Also the tokens that count.
    fn begun<T>(
        &mut self,
        tokens: &[i32],
        batch: usize,
        with: impl FnOnce(&mut dyn Session, usize, &[Input<'_, f32>]) -> Result<T, SessionError>,
    ) -> Result<(T, usize), TrainError> {
        let (ids, labels) = parts(tokens, batch);
        self.session.reset(batch)?;
        let time = ids.len() / batch.max(1);
        let inputs = [Input::Ids(&ids), Input::Numbers(&labels)];
        Ok((
            with(self.session.as_mut(), time, &inputs)?,
            counted(&labels),
        ))
    }

    fn run(
        &mut self,
        tokens: &[i32],
        batch: usize,
    ) -> Result<(Vec<Tensor<f32>>, usize), TrainError> {
        self.begun(tokens, batch, |session, time, inputs| {
            session.run(time, inputs)
        })
    }
}

/// The sum of the losses of all rows.
fn total(losses: Option<&Tensor<f32>>) -> f64 {
    let losses = losses.and_then(Tensor::numbers).unwrap_or_default();
    losses.iter().map(|x| f64::from(*x)).sum()
}

impl Evaluator for Compiled<'_> {
    fn differentiate(&mut self, tokens: &[i32], batch: usize) -> Result<Sums, TrainError> {
        let (outputs, tokens) = self.run(tokens, batch)?;
        Ok(Sums {
            loss: total(outputs.first()),
            tokens,
            parts: vec![self.objective.gradient.from_outputs(&outputs).sums],
        })
    }

    fn loss(&mut self, tokens: &[i32], batch: usize) -> Result<(f64, usize), TrainError> {
        let (outputs, tokens) = self.run(tokens, batch)?;
        Ok((total(outputs.first()), tokens))
    }

    fn by_params(&self, params: &[Vec<f32>], sums: &Sums) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut all: Vec<Vec<f32>> = params.iter().map(|p| vec![0.0; p.len()]).collect();
        let WholeObjective {
            gradient,
            params: of,
        } = self.objective;
        let sums = sums.parts.first().map_or(&[][..], Vec::as_slice);
        let gradients = gradient.load.evaluate(&chosen(params, of), sums)?;
        for (id, gradient) in of.iter().zip(gradients) {
            all[id.index()] = gradient;
        }
        Ok(all)
    }

    fn bind(&mut self, params: &[Vec<f32>]) -> Result<(), TrainError> {
        let weights = Self::weights(self.objective, params)?;
        Ok(self.session.set_weights(weights)?)
    }

    fn first_non_finite(
        &mut self,
        _: &[Vec<f32>],
        tokens: &[i32],
        batch: usize,
    ) -> Result<Option<String>, TrainError> {
        let look = |session: &mut dyn Session, time, inputs: &[Input<'_, f32>]| {
            session.first_non_finite(time, inputs)
        };
        let (found, _) = self.begun(tokens, batch, look)?;
        Ok(found.map(|found| found.to_string()))
    }
}
