//! One call: tensors in, tensors and the state out.

use fusec_fuse::Shape;
use fusec_ir::interpret::{Input, Tensor};
use fusec_ir::{Precision, StateId};
use std::borrow::Cow;
use std::sync::Arc;

use super::bind::{Rows, Wanted, check_memory, wrong_type};
use super::error::TensorError;
use super::numbers::{Element, Shaped};
use super::tensor::TensorView;
use super::{Port, Program, ProgramError, param_ids};
use crate::executor::HostState;
use crate::limits;
use crate::weights::Weights;

/// What a call is given.
#[derive(Debug, Default)]
pub struct Arguments<'a> {
    /// In the order of [`Program::inputs`].
    pub inputs: Vec<TensorView<'a>>,
    /// In the order of [`Program::params`]; none where the program has weights.
    pub params: Vec<TensorView<'a>>,
}

/// An output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name in the model.
    pub name: String,
    /// Its extents, `[B, T, axes...]`.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Arc<Vec<f32>>,
}

/// What a call gives.
#[derive(Debug)]
pub struct Answer {
    /// In the order of [`Program::outputs`].
    pub outputs: Vec<Output>,
    /// What the next call goes on from.
    pub state: HostState,
    /// Tensors of the call that did not lie row-major and were copied.
    pub copied: Vec<String>,
}

/// An input as a run takes it, or what it borrows from.
pub(super) enum Taken<'a, F: Element> {
    Numbers(Cow<'a, [F]>),
    Ids(Cow<'a, [i32]>),
}

impl<F: Element> Taken<'_, F> {
    /// As a run takes it.
    pub(super) fn input(&self) -> Input<'_, F> {
        match self {
            Taken::Numbers(numbers) => Input::Numbers(numbers),
            Taken::Ids(ids) => Input::Ids(ids),
        }
    }
}

impl Program {
    /// Runs B sequences of T tokens from a state, or from the beginning.
    pub fn call(
        &self,
        arguments: &Arguments<'_>,
        state: Option<&HostState>,
    ) -> Result<Answer, ProgramError> {
        let mut copied = Vec::new();
        let (shape, inputs) = self.take_inputs(&arguments.inputs, &mut copied)?;
        let weights = self.take_params(&arguments.params, &mut copied)?;
        limits::run(&self.graph, shape)?;
        if let Some(state) = state {
            state.check(&self.graph)?;
            if state.batch != shape.batch {
                return Err(TensorError::Rows {
                    name: "state".into(),
                    axis: "B",
                    got: state.batch,
                    other: self.first_input(),
                    expected: shape.batch,
                }
                .into());
            }
        }
        let inputs: Vec<Input<'_, f32>> = inputs.iter().map(Taken::input).collect();
        let (outputs, state) = self.with_session(|session| {
            if let Some(weights) = weights {
                session.set_weights(weights)?;
            }
            match state {
                Some(state) => session.set_state(state)?,
                None => session.reset(shape.batch)?,
            }
            let outputs = session.run(shape.time, &inputs)?;
            Ok((outputs, session.state()?))
        })?;
        let ids = self.graph.outputs.iter().zip(outputs);
        let outputs = ids.map(|(id, tensor)| {
            let wanted = Wanted::of_output(&self.graph, *id, &self.dimensions);
            let data = match tensor {
                Tensor::Numbers(numbers) => numbers,
                Tensor::Ids(ids) => Arc::new(ids.iter().map(|id| *id as f32).collect()),
            };
            let rows = [shape.batch, shape.time];
            Output {
                name: self.graph.value(*id).name.clone(),
                shape: rows.into_iter().chain(wanted.extents()).collect(),
                data,
            }
        });
        Ok(Answer {
            outputs: outputs.collect(),
            state,
            copied,
        })
    }

    /// The inputs, checked and read.
    pub(super) fn take_inputs<'a, F: Element>(
        &self,
        tensors: &[TensorView<'a>],
        copied: &mut Vec<String>,
    ) -> Result<(Shape, Vec<Taken<'a, F>>), ProgramError> {
        let graph = &self.graph;
        let shape = self.run_shape(tensors)?;
        let mut taken = Vec::new();
        for (id, tensor) in graph.inputs.iter().zip(tensors) {
            let value = graph.value(*id);
            let name = &value.name;
            check_memory(name, tensor)?;
            let wrong = || wrong_type(name, tensor, value.precision, F::TAKES);
            taken.push(match value.precision {
                Precision::Index => {
                    let ids = tensor.ids().ok_or_else(wrong)?;
                    let name = || name.clone();
                    Taken::Ids(ids.map_err(|id| TensorError::Id { name: name(), id })?)
                }
                _ => Taken::Numbers(F::read(tensor).ok_or_else(wrong)?),
            });
            if !tensor.is_row_major() {
                copied.push(name.clone());
            }
        }
        Ok((shape, taken))
    }

    /// Refuses fewer or more tensors than there are places for.
    pub(super) fn check_count(&self, got: usize, ports: Vec<Port>) -> Result<(), TensorError> {
        if let Some(missing) = ports.get(got) {
            return Err(TensorError::Missing {
                name: missing.name.clone(),
                want: missing.shape.text(),
            });
        }
        if got == ports.len() {
            return Ok(());
        }
        let names: Vec<String> = ports.into_iter().map(|port| port.name).collect();
        Err(TensorError::TooMany {
            model: self.graph.name.clone(),
            got,
            known: names.join(", "),
        })
    }

    fn take_params(
        &self,
        tensors: &[TensorView<'_>],
        copied: &mut Vec<String>,
    ) -> Result<Option<Weights>, ProgramError> {
        let graph = &self.graph;
        if tensors.is_empty() {
            return match graph.params.first() {
                Some(first) if !self.has_weights => Err(ProgramError::NoWeights {
                    model: graph.name.clone(),
                    count: graph.params.len(),
                    first: first.name.clone(),
                }),
                _ => Ok(None),
            };
        }
        let params = self.read_params(tensors, copied)?;
        Ok(Some(Weights::new(graph, params)?))
    }

    /// The parameters of a call of a program without weights, checked and read.
    pub(super) fn read_params<F: Element>(
        &self,
        tensors: &[TensorView<'_>],
        copied: &mut Vec<String>,
    ) -> Result<Vec<Vec<F>>, ProgramError> {
        let graph = &self.graph;
        if self.has_weights {
            return Err(ProgramError::HasWeights {
                model: graph.name.clone(),
            });
        }
        self.check_count(tensors.len(), self.params())?;
        let mut params = Vec::new();
        for (id, tensor) in param_ids(graph).zip(tensors) {
            let param = &graph.params[id.index()];
            let name = &param.name;
            check_memory(name, tensor)?;
            Wanted::of_param(graph, id.index(), &self.dimensions).check(name, tensor.shape())?;
            let precision = graph.value(param.value).precision;
            let numbers = F::read(tensor);
            let numbers = numbers.ok_or_else(|| wrong_type(name, tensor, precision, F::TAKES))?;
            if !tensor.is_row_major() {
                copied.push(name.clone());
            }
            params.push(numbers.into_owned());
        }
        Ok(params)
    }

    /// A state of tensors in the order of [`Program::states`], at a position. Without tensors, of a model
    /// that has no states, it is one of `batch` sequences.
    pub fn state_of(
        &self,
        tensors: &[TensorView<'_>],
        batch: usize,
        position: i64,
    ) -> Result<HostState, ProgramError> {
        let tensors = self.read_states(tensors, batch)?.into_iter().enumerate();
        let state = HostState {
            batch,
            position,
            tensors: tensors.map(|(at, x)| (StateId(at as u32), x)).collect(),
        };
        state.check(&self.graph)?;
        Ok(state)
    }

    /// The tensors of a state of `batch` sequences, checked and read.
    pub(super) fn read_states<F: Element>(
        &self,
        tensors: &[TensorView<'_>],
        batch: usize,
    ) -> Result<Vec<Vec<F>>, ProgramError> {
        self.check_count(tensors.len(), self.states())?;
        let states = tensors.iter().enumerate();
        states
            .map(|(at, tensor)| self.read_state(StateId(at as u32), tensor, batch))
            .collect()
    }

    /// A tensor of the shape of a state of `batch` sequences, checked and read.
    pub(super) fn read_state<F: Element>(
        &self,
        id: StateId,
        tensor: &TensorView<'_>,
        batch: usize,
    ) -> Result<Vec<F>, ProgramError> {
        let name = &self.graph.state(id).name;
        check_memory(name, tensor)?;
        let wanted = Wanted::of_state(&self.graph, id, &self.dimensions);
        let leading = wanted.check(name, tensor.shape())?;
        let got = leading.first().copied().unwrap_or(batch);
        if got != batch {
            return Err(TensorError::Rows {
                name: name.clone(),
                axis: "B",
                got,
                other: self.first_input(),
                expected: batch,
            }
            .into());
        }
        let numbers = F::read(tensor);
        let wrong = || wrong_type(name, tensor, Precision::F32, F::TAKES);
        Ok(numbers.ok_or_else(wrong)?.into_owned())
    }

    fn first_input(&self) -> String {
        let first = self.graph.inputs.first();
        first.map_or_else(String::new, |id| self.graph.value(*id).name.clone())
    }

    /// B and T of a run with these inputs.
    pub fn run_shape(&self, inputs: &[TensorView<'_>]) -> Result<Shape, ProgramError> {
        let graph = &self.graph;
        self.check_count(inputs.len(), self.inputs())?;
        let mut rows = Rows::default();
        for (id, tensor) in graph.inputs.iter().zip(inputs) {
            let name = &graph.value(*id).name;
            let wanted = Wanted::of_input(graph, *id, &self.dimensions);
            rows.agree(name, &wanted.check(name, tensor.shape())?)?;
        }
        rows.shape().ok_or_else(|| {
            let missing = TensorError::Missing {
                name: "input".into(),
                want: "[B, T, ...]".into(),
            };
            missing.into()
        })
    }

    /// The tensors of a state, in the order of [`Program::states`], with their extents.
    pub fn state_tensors(&self, state: HostState) -> Result<Vec<Shaped<f32>>, ProgramError> {
        state.check(&self.graph)?;
        let batch = state.batch;
        let tensors = state.tensors.into_iter().map(|(id, values)| {
            let wanted = Wanted::of_state(&self.graph, id, &self.dimensions);
            let leading = wanted.leading.iter();
            let leading = leading.map(|(_, size)| size.unwrap_or(batch));
            (leading.chain(wanted.extents()).collect(), values)
        });
        Ok(tensors.collect())
    }
}
