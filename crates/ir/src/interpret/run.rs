//! One run, which may be stopped between two operations and given values there.
//!
//! A transposed graph needs this: its cotangents follow from what its own forward part gives.

use super::tensor::{Input, Outputs, State, Tensor};
use super::{InterpretError, Interpreter, Keep, Real, Size};
use crate::{OpId, StateId, ValueId, last_row};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run in progress: what is computed so far, and which operation is next.
#[derive(Debug)]
pub struct Run<'i, 'g, F> {
    interpreter: &'i Interpreter<'g, F>,
    size: Size,
    keep: Keep,
    /// States before the run.
    states: Vec<Vec<F>>,
    values: BTreeMap<ValueId, Tensor<F>>,
    next: Vec<(StateId, Vec<F>)>,
    at: usize,
}

impl<'g, F: Real> Interpreter<'g, F> {
    /// Begins a run of `batch` x `time` positions from `state`. Inputs that are not given now have
    /// to be given by [`Run::give`] before an operation reads them.
    pub fn begin(
        &self,
        state: &State<F>,
        batch: usize,
        time: usize,
        inputs: &BTreeMap<ValueId, Input<'_, F>>,
        keep: Keep,
    ) -> Result<Run<'_, 'g, F>, InterpretError> {
        self.check_size(batch, time)?;
        state.check(self.graph, batch)?;
        if state.position.checked_add(time as i64).is_none() {
            return Err(InterpretError::Shape {
                batch,
                time,
                reason: "the position would overflow",
            });
        }
        let size = Size {
            batch,
            time,
            position: state.position,
        };
        let mut run = Run {
            interpreter: self,
            size,
            keep,
            states: state.buffers.clone(),
            values: BTreeMap::new(),
            next: Vec::new(),
            at: 0,
        };
        for (id, given) in inputs {
            if self.graph.inputs.contains(id) {
                run.give(*id, *given)?;
            }
        }
        Ok(run)
    }
}

impl<F: Real> Run<'_, '_, F> {
    /// Gives an input of the graph.
    pub fn give(&mut self, id: ValueId, given: Input<'_, F>) -> Result<(), InterpretError> {
        let tensor = self.interpreter.take_input(self.size, id, given)?;
        self.values.insert(id, tensor);
        Ok(())
    }

    /// Evaluates the operations before number `end` that are still to be evaluated.
    pub fn advance(&mut self, end: usize) -> Result<(), InterpretError> {
        let interpreter = self.interpreter;
        let graph = interpreter.graph;
        while self.at < end.min(graph.ops.len()) {
            let i = self.at;
            self.at += 1;
            if graph.is_load_time(OpId(i as u32)) {
                continue;
            }
            let op = &graph.ops[i];
            for access in &op.inputs {
                let id = access.value;
                if graph.inputs.contains(&id) && !self.values.contains_key(&id) {
                    return Err(self.missing_input(id));
                }
            }
            let values = &self.values;
            let get = |id: ValueId| values.get(&id).or_else(|| interpreter.constants.get(&id));
            let size = match last_row::is_of_one_row(graph, OpId(i as u32), &interpreter.one_row) {
                true => Size {
                    time: 1,
                    position: self.size.position + self.size.time as i64 - 1,
                    ..self.size
                },
                false => self.size,
            };
            let (results, carried) = F::evaluate(interpreter, i, op, size, &self.states, &get)?;
            self.next.extend(carried);
            for (id, data) in op.outputs.iter().zip(results) {
                self.values.insert(*id, Tensor::Numbers(Arc::new(data)));
            }
            if self.keep == Keep::Outputs {
                for id in &interpreter.last_uses[i] {
                    self.values.remove(id);
                }
            }
        }
        Ok(())
    }

    pub(super) fn missing_input(&self, id: ValueId) -> InterpretError {
        self.interpreter.missing_input(id, self.size)
    }

    /// A value that is there: computed or given, and not yet freed.
    pub fn value(&self, id: ValueId) -> Option<&Tensor<F>> {
        let constants = &self.interpreter.constants;
        self.values.get(&id).or_else(|| constants.get(&id))
    }

    /// Ends a run of which every operation was evaluated, and brings `state` up to date.
    pub fn finish(self, state: &mut State<F>) -> Outputs<F> {
        let graph = self.interpreter.graph;
        let mut values = self.values;
        for id in &graph.outputs {
            if let (None, Some(constant)) = (values.get(id), self.interpreter.constants.get(id)) {
                values.insert(*id, constant.clone());
            }
        }
        if self.keep == Keep::Outputs {
            values.retain(|id, _| graph.outputs.contains(id));
        }
        // Only now: every reader of a tail has seen the old one.
        for (id, data) in self.next {
            state.buffers[id.index()] = data;
        }
        state.position = self.size.position + self.size.time as i64;
        Outputs {
            batch: self.size.batch,
            time: self.size.time,
            values,
        }
    }
}
