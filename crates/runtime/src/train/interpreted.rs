//! Loss and derivatives by the interpreter, in f32, without all logits at once.

use std::collections::BTreeMap;

use fusec_ir::gradient::{Gradient, Objective};
use fusec_ir::interpret::{Input, Interpreter, Keep, State, first_non_finite};
use fusec_ir::{Graph, ParamId, ValueId};

use super::evaluator::{Evaluator, Sums, add, counted, parts};
use super::trainer::TrainError;

/// Most logits held at once, unless somebody says otherwise.
const MOST_LOGITS: usize = 1 << 20;

/// A model whose trunk and head are interpreted.
#[derive(Debug)]
pub struct Interpreted<'o> {
    model: &'o Graph,
    objective: &'o Objective,
    trunk: Interpreter<'o, f32>,
    head: Interpreter<'o, f32>,
    /// Most logits held at once; those of one row at least.
    pub most_logits: usize,
}

impl<'o> Interpreted<'o> {
    /// Begins with weights, in the order of the model's parameters.
    pub fn new(
        model: &'o Graph,
        objective: &'o Objective,
        params: &[Vec<f32>],
    ) -> Result<Self, TrainError> {
        let [of_trunk, of_head] = &objective.params;
        Ok(Interpreted {
            model,
            objective,
            trunk: objective.trunk.interpreter(chosen(params, of_trunk))?,
            head: objective.head.interpreter(chosen(params, of_head))?,
            most_logits: MOST_LOGITS,
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
        let counted = counted(labels);
        let Some(head_sums) = head_sums else {
            return Ok((loss, counted, Vec::new()));
        };
        *head_sums = sums;
        let seeds: Vec<&[f32]> = back.iter().map(Vec::as_slice).collect();
        Ok((loss, counted, run.backward(&seeds, &mut state)?.sums))
    }
}

impl Evaluator for Interpreted<'_> {
    fn differentiate(&mut self, tokens: &[i32], batch: usize) -> Result<Sums, TrainError> {
        let (ids, labels) = parts(tokens, batch);
        let mut sums = None;
        let (loss, tokens, trunk) = self.forward(&ids, &labels, batch, Some(&mut sums))?;
        Ok(Sums {
            loss,
            tokens,
            parts: vec![trunk, sums.unwrap_or_default()],
        })
    }

    fn loss(&mut self, tokens: &[i32], batch: usize) -> Result<(f64, usize), TrainError> {
        let (ids, labels) = parts(tokens, batch);
        let (loss, counted, _) = self.forward(&ids, &labels, batch, None)?;
        Ok((loss, counted))
    }

    fn by_params(&self, params: &[Vec<f32>], sums: &Sums) -> Result<Vec<Vec<f32>>, TrainError> {
        let mut all: Vec<Vec<f32>> = params.iter().map(|p| vec![0.0; p.len()]).collect();
        let Objective { trunk, head, .. } = self.objective;
        let gradients: [&Gradient; 2] = [trunk, head];
        for ((gradient, sums), of) in gradients
            .into_iter()
            .zip(&sums.parts)
            .zip(&self.objective.params)
        {
            let gradients = gradient.load.evaluate(&chosen(params, of), sums)?;
            for (id, gradient) in of.iter().zip(gradients) {
                let sum = all[id.index()].iter_mut().zip(gradient);
                sum.for_each(|(a, b)| *a += b);
            }
        }
        Ok(all)
    }

    fn bind(&mut self, params: &[Vec<f32>]) -> Result<(), TrainError> {
        let [of_trunk, of_head] = &self.objective.params;
        self.trunk.set_params(chosen(params, of_trunk))?;
        self.head.set_params(chosen(params, of_head))?;
        Ok(())
    }

    fn first_non_finite(
        &mut self,
        params: &[Vec<f32>],
        tokens: &[i32],
        batch: usize,
    ) -> Result<Option<String>, TrainError> {
        let interpreter = Interpreter::new(self.model, params.to_vec())?;
        let (ids, _) = parts(tokens, batch);
        let mut state = State::zero(self.model, batch);
        let inputs = BTreeMap::from([(self.model.inputs[0], Input::Ids(&ids))]);
        let time = ids.len() / batch;
        let all = interpreter.run(&mut state, batch, time, &inputs, Keep::All)?;
        Ok(first_non_finite(self.model, &all).map(|found| found.to_string()))
    }
}

pub(super) fn chosen(params: &[Vec<f32>], of: &[ParamId]) -> Vec<Vec<f32>> {
    of.iter().map(|id| params[id.index()].clone()).collect()
}
