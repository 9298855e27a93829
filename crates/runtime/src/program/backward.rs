//! Derivatives of a call, by the transposed graph: on the interpreter, or by kernels.
//!
//! Nothing is kept from the call: it is evaluated again, in the precision of its tensors.

use fusec_ir::gradient::{Backward, Gradient, differentiate};
use fusec_ir::interpret::{Input, State};
use fusec_ir::{Graph, Precision, StateId, StateKind, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

use fusec_fuse::{PlanError, Shape};

use super::bind::{Wanted, check_memory, wrong_type};
use super::call::{Arguments, Taken};
use super::device::DeviceKind;
use super::error::TensorError;
use super::exact::check_fits;
use super::kernels::Kernels;
use super::numbers::{Element, Numbers};
use super::start;
use super::tensor::TensorView;
use super::{Program, ProgramError, lock};
use crate::executor::HostState;
use crate::executor::gpu::unchanged_context;
use crate::limits;
use crate::weights::Weights;

/// The derivatives of `sum of cotangent * result` over outputs and states after the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Derivatives {
    /// By the inputs, each of the shape of its tensor; `None` by token ids.
    pub inputs: Vec<Option<Numbers>>,
    /// By the parameters.
    pub params: Vec<Numbers>,
    /// By the states of recurrences that the run began with; `None` for carried rows, which are constants.
    pub states: Vec<Option<Numbers>>,
}

/// What a call gave is worth: cotangents, `None` for zeros.
#[derive(Debug, Default)]
pub struct Cotangents<'a> {
    /// One per output, of its shape.
    pub outputs: Vec<Option<TensorView<'a>>>,
    /// One per state after the run, of its shape.
    pub states: Vec<Option<TensorView<'a>>>,
}

impl Program {
    /// The derivatives of a call with these arguments, from this state and position (or from the
    /// beginning). In float64 where the call would be ([`Program::is_exact`]), and else in float32; on a
    /// device with kernels as these store what they compute. The first one there plans, generates and
    /// compiles the model with its transpose.
    pub fn backward(
        &self,
        arguments: &Arguments<'_>,
        state: Option<(&[TensorView<'_>], i64)>,
        cotangents: &Cotangents<'_>,
    ) -> Result<Derivatives, ProgramError> {
        match self.options.device {
            DeviceKind::Cpu => {}
            DeviceKind::Cuda(_) => {
                return unchanged_context(|| {
                    self.backward_by_kernels(arguments, state, cotangents)
                });
            }
            _ => return self.backward_by_kernels(arguments, state, cotangents),
        }
        match self.is_exact(arguments) {
            true => self.backward_in::<f64>(arguments, state, cotangents),
            false => self.backward_in::<f32>(arguments, state, cotangents),
        }
    }

    pub(super) fn no_backward(&self, why: String) -> ProgramError {
        ProgramError::NoBackward {
            model: self.graph.name.clone(),
            why,
        }
    }

    /// The model with its transpose, made when it is first asked for.
    pub(super) fn gradient(&self) -> Result<Arc<Gradient>, ProgramError> {
        let mut made = lock(&self.gradient);
        if let Some(gradient) = &*made {
            return Ok(gradient.clone());
        }
        let graph = &self.graph;
        let numbers =
            |id: &ValueId| graph.value(*id).rows && graph.value(*id).precision != Precision::Index;
        let of: Vec<ValueId> = graph.outputs.iter().copied().filter(numbers).collect();
        let by: Vec<ValueId> = graph.inputs.iter().copied().filter(numbers).collect();
        let gradient =
            differentiate(graph, &of, &by).map_err(|error| self.no_backward(error.to_string()))?;
        Ok(made.insert(Arc::new(gradient)).clone())
    }

    fn backward_in<F: Element>(
        &self,
        arguments: &Arguments<'_>,
        state: Option<(&[TensorView<'_>], i64)>,
        cotangents: &Cotangents<'_>,
    ) -> Result<Derivatives, ProgramError> {
        let gradient = self.gradient()?;
        let mut copied = Vec::new();
        let (shape, taken) = self.take_inputs::<F>(&arguments.inputs, &mut copied)?;
        let params = self.own_params::<F>(&arguments.params, &mut copied)?;
        check_fits::<F>(&gradient.graph, shape)?;
        let mut state = self.start_of::<F>(&gradient.graph, shape.batch, state)?;
        let rows = (shape.batch, shape.time);
        let seeds = self.seeds::<F>(&cotangents.outputs, rows)?;
        let after = self.after::<F>(&gradient, &cotangents.states, shape.batch)?;

        let interpreter = gradient.interpreter(params.clone())?;
        let given = self.given(&taken);
        let forward = gradient.forward_to(&interpreter, &state, rows, &given, &after)?;
        let seeds: Vec<&[F]> = seeds.iter().map(Vec::as_slice).collect();
        let back = forward.backward(&seeds, &mut state)?;
        self.derivatives(&gradient, &params, back, shape)
    }

    /// The kernels of the model with its transpose.
    pub(super) fn backward_kernels(&self, graph: &Graph) -> Result<Kernels, ProgramError> {
        let arch = start::arch(self.options.device)?.map(|arch| arch.to_string());
        let kernels = Kernels::new(graph, &self.options, arch.as_deref());
        kernels.map_err(|error| match error {
            ProgramError::Plan(why @ PlanError::NoKernels { .. }) => {
                self.no_backward(why.to_string())
            }
            error => error,
        })
    }

    fn backward_by_kernels(
        &self,
        arguments: &Arguments<'_>,
        state: Option<(&[TensorView<'_>], i64)>,
        cotangents: &Cotangents<'_>,
    ) -> Result<Derivatives, ProgramError> {
        let gradient = self.gradient()?;
        let graph = &gradient.graph;
        let mut copied = Vec::new();
        let (shape, taken) = self.take_inputs::<f32>(&arguments.inputs, &mut copied)?;
        let params = self.own_params::<f32>(&arguments.params, &mut copied)?;
        limits::run(graph, shape)?;
        let mut start: State<f32> = self.start_of(graph, shape.batch, state)?;
        let seeds = self.seeds::<f32>(&cotangents.outputs, (shape.batch, shape.time))?;
        let mut after = self.after::<f32>(&gradient, &cotangents.states, shape.batch)?;
        for (of, cotangent) in &gradient.states {
            if let Some(given) = after.remove(of) {
                start.buffers[cotangent.index()] = given;
            }
        }
        let weights = Weights::new(graph, params.clone())?;
        let mut made = lock(&self.backwards);
        let session = match &mut *made {
            Some(session) => {
                session.set_weights(weights)?;
                session
            }
            None => {
                let kernels = self.backward_kernels(graph)?;
                let graph = Arc::new(graph.clone());
                made.insert(start::start(
                    &graph,
                    &self.options,
                    Some(&kernels),
                    weights,
                )?)
            }
        };
        session.set_state(&HostState::from(start))?;
        let own = taken.iter().map(Taken::input);
        let seeds = seeds.iter().map(|seed| Input::Numbers(seed.as_slice()));
        let inputs: Vec<Input<'_, f32>> = own.chain(seeds).collect();
        let outputs = session.run(shape.time, &inputs)?;
        let mut end = session.state()?;
        drop(made);
        let mut back = gradient.from_outputs(&outputs);
        let states = gradient.states.iter();
        back.states = states
            .map(|(of, d)| (*of, end.tensors.remove(d).unwrap_or_default()))
            .collect();
        self.derivatives(&gradient, &params, back, shape)
    }

    /// By what a call was given, from what the transposed graph gives.
    fn derivatives<F: Element>(
        &self,
        gradient: &Gradient,
        params: &[Vec<F>],
        mut back: Backward<F>,
        shape: Shape,
    ) -> Result<Derivatives, ProgramError> {
        let graph = &self.graph;
        let rows = (shape.batch, shape.time);
        let by_params = gradient.load.evaluate(params, &back.sums)?;
        let inputs = graph.inputs.iter().map(|id| {
            let value = graph.value(*id);
            (value.precision != Precision::Index).then(|| {
                let zeros = || vec![F::ZERO; rows.0 * rows.1 * graph.row_elements(*id)];
                F::numbers(back.inputs.remove(id).unwrap_or_else(zeros))
            })
        });
        let inputs = inputs.collect();
        let mut by_state: BTreeMap<StateId, Vec<F>> = back.states.into_iter().collect();
        let states = graph.states.iter().enumerate().map(|(at, state)| {
            let id = StateId(at as u32);
            let zeros = || vec![F::ZERO; shape.batch * graph.state_elements(id)];
            (!matches!(state.kind, StateKind::Tail { .. }))
                .then(|| F::numbers(by_state.remove(&id).unwrap_or_else(zeros)))
        });
        Ok(Derivatives {
            inputs,
            states: states.collect(),
            params: by_params.into_iter().map(F::numbers).collect(),
        })
    }

    /// The cotangents of those outputs that the gradient has seeds for, in their order.
    fn seeds<F: Element>(
        &self,
        cotangents: &[Option<TensorView<'_>>],
        (batch, time): (usize, usize),
    ) -> Result<Vec<Vec<F>>, ProgramError> {
        let graph = &self.graph;
        let mut read = Vec::new();
        for (at, id) in graph.outputs.iter().enumerate() {
            let value = graph.value(*id);
            let name = format!("gradient of {}", value.name);
            let given = cotangents.get(at).and_then(Option::as_ref);
            if !value.rows || value.precision == Precision::Index {
                if given.is_some() {
                    let why = format!("the output `{}` does not depend on the rows", value.name);
                    return Err(self.no_backward(why));
                }
                continue;
            }
            let Some(tensor) = given else {
                read.push(vec![F::ZERO; batch * time * graph.row_elements(*id)]);
                continue;
            };
            check_memory(&name, tensor)?;
            let wanted = Wanted::of_output(graph, *id, &self.dimensions);
            let leading = wanted.check(&name, tensor.shape())?;
            let run = [("B", batch), ("T", time)].into_iter().zip(leading);
            for ((axis, expected), got) in run {
                if got != expected {
                    return Err(TensorError::Rows {
                        name,
                        axis,
                        got,
                        other: value.name.clone(),
                        expected,
                    }
                    .into());
                }
            }
            let numbers = F::read(tensor);
            let wrong = || wrong_type(&name, tensor, Precision::F32, F::TAKES);
            read.push(numbers.ok_or_else(wrong)?.into_owned());
        }
        Ok(read)
    }

    /// The cotangents of states after the run.
    fn after<F: Element>(
        &self,
        gradient: &Gradient,
        cotangents: &[Option<TensorView<'_>>],
        batch: usize,
    ) -> Result<BTreeMap<StateId, Vec<F>>, ProgramError> {
        let mut after = BTreeMap::new();
        for (at, tensor) in cotangents.iter().enumerate().take(self.graph.states.len()) {
            let Some(tensor) = tensor else {
                continue;
            };
            let id = StateId(at as u32);
            if !gradient.states.iter().any(|(of, _)| *of == id) {
                return Err(self.no_cotangent(at));
            }
            after.insert(id, self.read_state(id, tensor, batch)?);
        }
        Ok(after)
    }

    /// Why the gradient of a state after the run cannot be taken.
    pub fn no_cotangent(&self, state: usize) -> ProgramError {
        let Some(state) = self.graph.states.get(state) else {
            return self.no_backward("there is no such state".into());
        };
        let name = &state.name;
        self.no_backward(match state.kind {
            StateKind::Tail { .. } => format!(
                "`{name}` are rows carried to the next run, which are constants there: detach them"
            ),
            StateKind::Scan { .. } => {
                format!("no output depends on the state `{name}`, whose gradient is asked for")
            }
        })
    }
}
