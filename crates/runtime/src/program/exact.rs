//! A call in float64, by the interpreter: what finite differences and comparisons need.

use fusec_fuse::Shape;
use fusec_ir::Graph;
use fusec_ir::interpret::{Input, Interpreter, Keep, State, Tensor};
use std::collections::BTreeMap;

use super::bind::Wanted;
use super::call::{Arguments, Taken};
use super::device::DeviceKind;
use super::numbers::{Element, Shaped, are_wide};
use super::tensor::TensorView;
use super::{Program, ProgramError};
use crate::executor::StateError;
use crate::limits;
use crate::memory::Footprint;

/// What a call in float64 gives.
#[derive(Debug)]
pub struct ExactAnswer {
    /// Extents `[B, T, axes...]` and elements of each output.
    pub outputs: Vec<Shaped<f64>>,
    /// Extents and elements of each state after the run.
    pub states: Vec<Shaped<f64>>,
    /// Tokens seen so far.
    pub position: i64,
    /// Tensors of the call that did not lie row-major and were copied.
    pub copied: Vec<String>,
}

impl Program {
    /// Whether a call with these tensors is one in float64: the interpreter runs it, and the first tensor
    /// of numbers is float64.
    pub fn is_exact(&self, arguments: &Arguments<'_>) -> bool {
        self.options.device == DeviceKind::Cpu && are_wide(&arguments.inputs, &arguments.params)
    }

    /// As [`Program::call`], in float64. The tensors of `state` are in the order of [`Program::states`];
    /// beside them stands the position.
    pub fn call_exact(
        &self,
        arguments: &Arguments<'_>,
        state: Option<(&[TensorView<'_>], i64)>,
    ) -> Result<ExactAnswer, ProgramError> {
        let mut copied = Vec::new();
        let graph = &self.graph;
        let (shape, taken) = self.take_inputs::<f64>(&arguments.inputs, &mut copied)?;
        let params = self.own_params(&arguments.params, &mut copied)?;
        check_fits::<f64>(graph, shape)?;
        let mut state = self.start_of(graph, shape.batch, state)?;
        let interpreter = Interpreter::<f64>::new(graph, params)?;
        let given = self.given(&taken);
        let run = interpreter.run(&mut state, shape.batch, shape.time, &given, Keep::Outputs);
        let values = run?.values;
        let outputs = graph.outputs.iter().map(|id| {
            let wanted = Wanted::of_output(graph, *id, &self.dimensions);
            let extents = [shape.batch, shape.time].into_iter();
            let data = match values.get(id) {
                Some(Tensor::Numbers(numbers)) => numbers.to_vec(),
                Some(Tensor::Ids(ids)) => ids.iter().map(|id| f64::from(*id)).collect(),
                None => Vec::new(),
            };
            (extents.chain(wanted.extents()).collect(), data)
        });
        let outputs = outputs.collect();
        let states = state.buffers.into_iter().zip(self.states());
        let states = states.map(|(data, port)| {
            let leading = port.shape.leading.iter();
            let leading = leading.map(|(_, size)| size.unwrap_or(shape.batch));
            (leading.chain(port.shape.extents()).collect(), data)
        });
        Ok(ExactAnswer {
            outputs,
            states: states.collect(),
            position: state.position,
            copied,
        })
    }

    /// The parameters of a call, of a program that has none of its own.
    pub(super) fn own_params<F: Element>(
        &self,
        tensors: &[TensorView<'_>],
        copied: &mut Vec<String>,
    ) -> Result<Vec<Vec<F>>, ProgramError> {
        if self.has_weights && tensors.is_empty() && !self.graph.params.is_empty() {
            return Err(ProgramError::BoundWeights {
                model: self.graph.name.clone(),
            });
        }
        if tensors.is_empty()
            && let Some(first) = self.graph.params.first()
        {
            return Err(ProgramError::NoWeights {
                model: self.graph.name.clone(),
                count: self.graph.params.len(),
                first: first.name.clone(),
            });
        }
        match tensors.is_empty() {
            true => Ok(Vec::new()),
            false => self.read_params(tensors, copied),
        }
    }

    /// The state that a run of `graph` begins with: this program's graph, or one that begins with its
    /// states.
    pub(super) fn start_of<F: Element>(
        &self,
        graph: &Graph,
        batch: usize,
        given: Option<(&[TensorView<'_>], i64)>,
    ) -> Result<State<F>, ProgramError> {
        let mut state = State::zero(graph, batch);
        if let Some((tensors, position)) = given {
            if position < 0 {
                return Err(StateError::Value {
                    what: "position",
                    got: position.to_string(),
                }
                .into());
            }
            state.position = position;
            let read = self.read_states(tensors, batch)?;
            for (buffer, read) in state.buffers.iter_mut().zip(read) {
                *buffer = read;
            }
        }
        Ok(state)
    }

    /// The inputs by what they are in the graph.
    pub(super) fn given<'t, F: Element>(
        &self,
        taken: &'t [Taken<'_, F>],
    ) -> BTreeMap<fusec_ir::ValueId, Input<'t, F>> {
        let inputs = self.graph.inputs.iter().zip(taken);
        inputs.map(|(id, taken)| (*id, taken.input())).collect()
    }
}

/// Refuses, with figures, a run that is beyond the limits or beyond the memory of this machine.
pub(super) fn check_fits<F>(graph: &Graph, shape: Shape) -> Result<(), ProgramError> {
    limits::run(graph, shape)?;
    let need = Footprint::of_interpreter(graph, shape, size_of::<F>());
    Ok(need.check_host(0)?)
}
