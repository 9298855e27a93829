//! The interpreter as a device: f32 on all threads for running, f64 for reference.

use fusec_fuse::Shape;
use fusec_ir::interpret::{
    Input, InterpretError, Interpreter, Keep, NonFinite, Outputs, Params, Real, Rounding, State,
    Tensor, first_non_finite,
};
use fusec_ir::{Graph, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::executor::HostState;
use crate::limits;
use crate::memory::Footprint;
use crate::session::{Session, SessionError};
use crate::weights::Weights;

/// A model on the CPU.
#[derive(Debug)]
pub struct CpuSession<'g, F> {
    interpreter: Interpreter<'g, F>,
    state: State<F>,
    /// The shape of the last run that was found to fit.
    fits: Option<Shape>,
}

impl<'g, F: Real> CpuSession<'g, F> {
    /// Binds weights to a graph and evaluates what depends on them alone. One new sequence.
    pub fn new(graph: &'g Graph, weights: Weights) -> Result<Self, InterpretError> {
        let params = weights.into_params().into_iter();
        Self::from_params(graph, params.map(|x| convert(&x)).collect())
    }

    /// As [`CpuSession::new`], rounding values and parameters between operations.
    pub fn rounded(
        graph: &'g Graph,
        weights: Weights,
        rounding: Rounding,
    ) -> Result<Self, InterpretError> {
        let params = weights.into_params().into_iter();
        let params = params.map(|x| convert(&x)).collect();
        Ok(CpuSession {
            interpreter: Interpreter::with_rounding(graph, params, rounding)?,
            state: State::zero(graph, 1),
            fits: None,
        })
    }

    /// As [`CpuSession::new`], with parameters that need not be f32.
    pub fn from_params(graph: &'g Graph, params: Params<F>) -> Result<Self, InterpretError> {
        Ok(CpuSession {
            interpreter: Interpreter::new(graph, params)?,
            state: State::zero(graph, 1),
            fits: None,
        })
    }
}

impl<F: Real> CpuSession<'_, F> {
    /// Refuses, with figures, a run that is beyond the limits or beyond the memory of this machine.
    fn check_fits(&mut self, shape: Shape) -> Result<(), SessionError> {
        if self.fits == Some(shape) {
            return Ok(());
        }
        let graph = self.interpreter.graph();
        limits::run(graph, shape)?;
        let need = Footprint::of_interpreter(graph, shape, size_of::<F>());
        // The weights are there already.
        need.check_host(need.weights)?;
        self.fits = Some(shape);
        Ok(())
    }

    fn interpret(
        &self,
        state: &mut State<F>,
        time: usize,
        inputs: &[Input<'_, f32>],
        keep: Keep,
    ) -> Result<Outputs<F>, SessionError> {
        let graph = self.interpreter.graph();
        if inputs.len() != graph.inputs.len() {
            return Err(SessionError::Inputs {
                want: graph.inputs.len(),
                got: inputs.len(),
            });
        }
        let numbers: Vec<Vec<F>> = inputs
            .iter()
            .map(|input| match input {
                Input::Numbers(x) => convert(x),
                Input::Ids(_) => Vec::new(),
            })
            .collect();
        let mut given: BTreeMap<ValueId, Input<'_, F>> = BTreeMap::new();
        for ((id, input), numbers) in graph.inputs.iter().zip(inputs).zip(&numbers) {
            given.insert(
                *id,
                match input {
                    Input::Ids(ids) => Input::Ids(ids),
                    Input::Numbers(_) => Input::Numbers(numbers),
                },
            );
        }
        let batch = state.batch;
        Ok(self.interpreter.run(state, batch, time, &given, keep)?)
    }
}

fn convert<A: Real, B: Real>(x: &[A]) -> Vec<B> {
    x.iter().map(|x| B::from_f64(x.to_f64())).collect()
}

fn converted<A: Real, B: Real>(state: &State<A>) -> State<B> {
    State {
        batch: state.batch,
        position: state.position,
        buffers: state.buffers.iter().map(|x| convert(x)).collect(),
    }
}

impl<F: Real> Session for CpuSession<'_, F> {
    fn device(&self) -> String {
        match size_of::<F>() {
            4 => "cpu".into(),
            _ => "cpu (f64)".into(),
        }
    }

    fn graph(&self) -> &Graph {
        self.interpreter.graph()
    }

    fn reset(&mut self, batch: usize) -> Result<(), SessionError> {
        self.check_fits(Shape { batch, time: 1 })?;
        self.state = State::zero(self.interpreter.graph(), batch);
        Ok(())
    }

    fn run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError> {
        self.check_fits(Shape {
            batch: self.state.batch,
            time,
        })?;
        let mut state = self.state.clone();
        let mut outputs = self.interpret(&mut state, time, inputs, Keep::Outputs)?;
        self.state = state;
        let graph = self.interpreter.graph();
        graph
            .outputs
            .iter()
            .map(|id| match outputs.values.remove(id) {
                Some(Tensor::Numbers(x)) => Ok(Tensor::Numbers(Arc::new(convert(&x)))),
                Some(Tensor::Ids(ids)) => Ok(Tensor::Ids(ids)),
                None => Err(SessionError::NoOutput {
                    device: self.device(),
                    name: graph.value(*id).name.clone(),
                }),
            })
            .collect()
    }

    fn first_non_finite(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Option<NonFinite>, SessionError> {
        let mut state = self.state.clone();
        let all = self.interpret(&mut state, time, inputs, Keep::All)?;
        Ok(first_non_finite(self.interpreter.graph(), &all))
    }

    fn state(&mut self) -> Result<HostState, SessionError> {
        Ok(converted::<F, f32>(&self.state).into())
    }

    fn set_state(&mut self, state: &HostState) -> Result<(), SessionError> {
        self.state = converted(&state.to_interpreter(self.interpreter.graph())?);
        Ok(())
    }

    fn set_weights(&mut self, weights: Weights) -> Result<(), SessionError> {
        let params = weights.into_params().into_iter();
        let params = params.map(|x| convert(&x)).collect();
        Ok(self.interpreter.set_params(params)?)
    }
}
