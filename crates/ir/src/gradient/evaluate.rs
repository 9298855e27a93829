//! Running a graph with its transpose on the interpreter.

use super::Gradient;
use crate::interpret::{
    Input, InterpretError, Interpreter, Keep, Params, Real, Run, State, Tensor,
};
use crate::{StateId, ValueId};
use std::collections::BTreeMap;

/// A run of which the graph's own operations were evaluated.
#[derive(Debug)]
pub struct Differentiated<'i, 'g, F> {
    gradient: &'g Gradient,
    run: Run<'i, 'g, F>,
}

/// What the transposed operations give.
#[derive(Clone, Debug, PartialEq)]
pub struct Backward<F> {
    /// One for each of [`Gradient::sums`]: add those of several runs, then see [`super::Load::evaluate`].
    pub sums: Vec<Vec<F>>,
    /// Cotangents of the number inputs that were asked for.
    pub inputs: BTreeMap<ValueId, Vec<F>>,
    /// Cotangents of the states of recurrences before the run, `[B, axes...]`.
    pub states: Vec<(StateId, Vec<F>)>,
}

impl Gradient {
    /// Binds parameters. Where the model's parameters change, [`Interpreter::set_params`] takes the
    /// new ones.
    pub fn interpreter<F: Real>(
        &self,
        params: Params<F>,
    ) -> Result<Interpreter<'_, F>, InterpretError> {
        Interpreter::new(&self.graph, params)
    }

    /// What the transposed operations gave, from the values of a run of [`Gradient::graph`] in the order of its
    /// outputs. Cotangents of states are with who ran it: there are none.
    pub fn from_outputs<F: Real>(&self, outputs: &[Tensor<F>]) -> Backward<F> {
        self.gathered(|id| {
            let at = self.graph.outputs.iter().position(|output| output == id);
            outputs.get(at?)
        })
    }

    fn gathered<'t, F: Real>(
        &self,
        given: impl Fn(&ValueId) -> Option<&'t Tensor<F>>,
    ) -> Backward<F> {
        let numbers = |id: &ValueId| {
            let tensor = given(id).and_then(Tensor::numbers);
            tensor.unwrap_or_default().to_vec()
        };
        let inputs = self.inputs.iter();
        Backward {
            sums: self.sums.iter().map(numbers).collect(),
            inputs: inputs.map(|(id, d)| (*id, numbers(d))).collect(),
            states: Vec::new(),
        }
    }

    /// Evaluates the graph's own operations. `state` is that of `self.graph`; what it holds of
    /// cotangents is not looked at.
    pub fn forward<'i, 'g, F: Real>(
        &'g self,
        interpreter: &'i Interpreter<'g, F>,
        state: &State<F>,
        shape: (usize, usize),
        inputs: &BTreeMap<ValueId, Input<'_, F>>,
    ) -> Result<Differentiated<'i, 'g, F>, InterpretError> {
        self.forward_to(interpreter, state, shape, inputs, &BTreeMap::new())
    }

    /// As [`Gradient::forward`], where what is differentiated depends on states after the last row as
    /// well: `after` has the cotangents `[B, axes...]` of some of the states that
    /// [`Gradient::states`] lists first. Others are not looked at.
    pub fn forward_to<'i, 'g, F: Real>(
        &'g self,
        interpreter: &'i Interpreter<'g, F>,
        state: &State<F>,
        (batch, time): (usize, usize),
        inputs: &BTreeMap<ValueId, Input<'_, F>>,
        after: &BTreeMap<StateId, Vec<F>>,
    ) -> Result<Differentiated<'i, 'g, F>, InterpretError> {
        let mut start = state.clone();
        for (of, cotangent) in &self.states {
            if let Some(buffer) = start.buffers.get_mut(cotangent.index()) {
                match after.get(of) {
                    Some(given) => buffer.clone_from(given),
                    None => buffer.fill(F::ZERO),
                }
            }
        }
        let mut run = interpreter.begin(&start, batch, time, inputs, Keep::Outputs)?;
        run.advance(self.forward)?;
        Ok(Differentiated {
            gradient: self,
            run,
        })
    }
}

impl<F: Real> Differentiated<'_, '_, F> {
    /// A value that the graph gives or that its transpose reads.
    pub fn value(&self, id: ValueId) -> Option<&Tensor<F>> {
        self.run.value(id)
    }

    /// Evaluates the transposed operations with a cotangent for each of [`Gradient::seeds`], and
    /// brings `state` to the end of the run.
    pub fn backward(
        mut self,
        seeds: &[&[F]],
        state: &mut State<F>,
    ) -> Result<Backward<F>, InterpretError> {
        let gradient = self.gradient;
        for ((_, seed), data) in gradient.seeds.iter().zip(seeds) {
            self.run.give(*seed, Input::Numbers(data))?;
        }
        self.run.advance(gradient.graph.ops.len())?;
        let outputs = self.run.finish(state);
        let given = |id: &ValueId| outputs.values.get(id);
        let mut back = gradient.gathered(given);
        let states = gradient.states.iter();
        back.states = states
            .map(|(of, d)| (*of, state.buffers[d.index()].clone()))
            .collect();
        Ok(back)
    }
}
