//! Loss and derivatives by kernels: the whole objective as one graph, planned and run like any other.

use fusec_ir::gradient::WholeObjective;
use fusec_ir::interpret::{Input, Tensor};

use super::evaluator::{Evaluator, Sums, counted, parts};
use super::interpreted::chosen;
use super::trainer::TrainError;
use crate::session::Session;
use crate::weights::Weights;

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

    fn inputs<'i>(ids: &'i [i32], labels: &'i [f32]) -> [Input<'i, f32>; 2] {
        [Input::Ids(ids), Input::Numbers(labels)]
    }
}

/// The sum of the losses of all rows.
fn total(losses: Option<&Tensor<f32>>) -> f64 {
    let losses = losses.and_then(Tensor::numbers).unwrap_or_default();
    losses.iter().map(|x| f64::from(*x)).sum()
}

impl Evaluator for Compiled<'_> {
    fn differentiate(&mut self, tokens: &[i32], batch: usize) -> Result<Sums, TrainError> {
        let (ids, labels) = parts(tokens, batch);
        self.session.reset(batch)?;
        let time = ids.len() / batch.max(1);
        let outputs = self.session.run(time, &Self::inputs(&ids, &labels))?;
        let graph = &self.objective.gradient.graph;
        let sum = |id: &fusec_ir::ValueId| {
            let at = graph.outputs.iter().position(|output| output == id);
            let tensor = at.and_then(|at| outputs.get(at)).and_then(Tensor::numbers);
            tensor.unwrap_or_default().to_vec()
        };
        Ok(Sums {
            loss: total(outputs.first()),
            tokens: counted(&labels),
            parts: vec![self.objective.gradient.sums.iter().map(sum).collect()],
        })
    }

    fn loss(&mut self, tokens: &[i32], batch: usize) -> Result<(f64, usize), TrainError> {
        let (ids, labels) = parts(tokens, batch);
        self.session.reset(batch)?;
        let time = ids.len() / batch.max(1);
        let outputs = self.session.run(time, &Self::inputs(&ids, &labels))?;
        Ok((total(outputs.first()), counted(&labels)))
    }

    fn by_params(&self, params: &[Vec<f32>], sums: &Sums) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut all: Vec<Vec<f32>> = params.iter().map(|p| vec![0.0; p.len()]).collect();
        let WholeObjective {
            gradient,
            params: of,
            ..
        } = self.objective;
        let sums = sums.parts.first().map_or(&[][..], Vec::as_slice);
        let gradients = gradient.load.evaluate(&chosen(params, of), sums)?;
        for (id, gradient) in of.iter().zip(gradients) {
            all[id.index()] = gradient;
        }
        Ok(all)
    }

    fn bind(&mut self, params: &[Vec<f32>]) -> Result<(), TrainError> {
        let graph = &self.objective.gradient.graph;
        let weights = Weights::new(graph, chosen(params, &self.objective.params))?;
        Ok(self.session.set_weights(weights)?)
    }

    fn first_non_finite(
        &mut self,
        _: &[Vec<f32>],
        tokens: &[i32],
        batch: usize,
    ) -> Result<Option<String>, TrainError> {
        let (ids, labels) = parts(tokens, batch);
        self.session.reset(batch)?;
        let time = ids.len() / batch.max(1);
        let found = self
            .session
            .first_non_finite(time, &Self::inputs(&ids, &labels))?;
        Ok(found.map(|found| found.to_string()))
    }
}
