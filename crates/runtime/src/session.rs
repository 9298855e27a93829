//! A model that runs and remembers: one interface for every device.
//!
//! A [`Session`] is a model with its weights on some device and the state of a batch of
//! sequences. What runs it (interpreter, emulator, GPU) is behind the trait; nothing here plans or
//! compiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use fusec_codegen::BufferKind;
use fusec_ir::interpret::{Input, InterpretError, NonFinite, Outputs, Tensor, first_non_finite};
use fusec_ir::{Graph, ValueId, last_row};
use rayon::prelude::*;

use crate::executor::{
    Device, Drawn, ExecuteError, Executor, Fetch, GoesOn, HostState, StateError,
};
use crate::limits::LimitError;
use crate::localise::Stored;
use crate::memory::MemoryError;
use crate::sampling::Sampling;
use crate::weights::Weights;

/// A model on a device, with the state of a batch of sequences.
pub trait Session {
    /// What did the work, for reports: `cpu`, `cuda:0 (NVIDIA H200)`.
    fn device(&self) -> String;

    /// A graph with the model's inputs, outputs and states.
    fn graph(&self) -> &Graph;

    /// Whether it runs kernels, so that [`Session::run_stored`] has something to give.
    fn has_kernels(&self) -> bool {
        false
    }

    /// Tokens of the longest run that there is a plan for; `None`: any.
    fn longest_run(&self) -> Option<usize> {
        None
    }

    /// Forgets everything seen and begins with `batch` new sequences.
    fn reset(&mut self, batch: usize) -> Result<(), SessionError>;

    /// Runs `time` tokens of every sequence, carrying the state on. `inputs` are in the order of
    /// the graph's, each `[B, T, axes...]`; so are the outputs.
    fn run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError>;

    /// As [`Session::run`], for the state alone: gives no outputs.
    fn advance(&mut self, time: usize, inputs: &[Input<'_, f32>]) -> Result<(), SessionError> {
        self.run_last(time, inputs).map(|_| ())
    }

    /// As [`Session::run`], but gives the last row of each output only: `[B, 1, axes...]`.
    fn run_last(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError> {
        let outputs = self.run(time, inputs)?;
        let graph = self.graph();
        let one = last_row::one_row(graph);
        let ids = graph.outputs.iter().zip(outputs);
        let all_rows = |id: ValueId| graph.value(id).rows && !one[id.index()];
        let last = ids.map(|(id, tensor)| match all_rows(*id) {
            true => last_rows(tensor, time, graph.row_elements(*id)),
            false => tensor,
        });
        Ok(last.collect())
    }

    /// As [`Session::run`], but gives what the kernels of the run stored. `None`, and nothing is
    /// run, where there are no kernels.
    fn run_stored(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Option<Stored>, SessionError> {
        let _ = (time, inputs);
        Ok(None)
    }

    /// Runs as [`Session::run`] would, keeping every value that there is, for the first number that is
    /// not finite, in the order of the graph. What it does to the state is of no use.
    fn first_non_finite(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Option<NonFinite>, SessionError> {
        let batch = self.state()?.batch;
        let Some(stored) = self.run_stored(time, inputs)? else {
            return Ok(None);
        };
        let outputs = Outputs {
            batch,
            time,
            values: stored.values,
        };
        Ok(first_non_finite(&stored.graph, &outputs))
    }

    /// The state, on the host.
    fn state(&mut self) -> Result<HostState, SessionError>;

    /// Takes over a state, whatever device it came from.
    fn set_state(&mut self, state: &HostState) -> Result<(), SessionError>;

    /// What draws tokens where the model runs; `None` where logits come to the caller, who draws.
    fn drawing(&mut self) -> Option<&mut dyn Drawing> {
        None
    }

    /// Takes other weights of the model, and evaluates again what depends on them alone. The state stays.
    fn set_weights(&mut self, weights: Weights) -> Result<(), SessionError>;
}

/// Tokens drawn where the model runs, by the law of [`crate::sampling`]: each step reads what was drawn at the
/// end of the one before.
pub trait Drawing {
    /// Says how tokens are drawn and for which sequences, one for each of the state's: until the session
    /// does anything else.
    fn begin(&mut self, sampling: &Sampling, sequences: &[GoesOn<'_>]) -> Result<(), SessionError>;

    /// Single steps, at most [`MOST_STEPS`](crate::executor::MOST_STEPS): what was drawn, for each sequence.
    fn draw(&mut self, steps: usize) -> Result<Vec<Drawn>, SessionError>;
}

impl<D: Device> Drawing for Executor<D> {
    fn begin(&mut self, sampling: &Sampling, sequences: &[GoesOn<'_>]) -> Result<(), SessionError> {
        Ok(self.begin_drawing(sampling, sequences)?)
    }

    fn draw(&mut self, steps: usize) -> Result<Vec<Drawn>, SessionError> {
        Ok(Executor::draw(self, steps)?)
    }
}

/// The last row of each sequence of `[B, T, row]`.
pub(crate) fn last_rows(tensor: Tensor<f32>, time: usize, row: usize) -> Tensor<f32> {
    fn last<T: Copy>(of: &[T], time: usize, row: usize) -> Vec<T> {
        let sequences = of.chunks_exact((time * row).max(1));
        let last = sequences.flat_map(|sequence| &sequence[(time - 1) * row..]);
        last.copied().collect()
    }
    match tensor {
        tensor if time <= 1 => tensor,
        Tensor::Numbers(of) => Tensor::Numbers(Arc::new(last(&of, time, row))),
        Tensor::Ids(of) => Tensor::Ids(Arc::new(last(&of, time, row))),
    }
}

/// [`Session::run`], refusing outputs that are not finite: the error names the value in which the first
/// NaN or infinity arises, its layer and its position, and the state is as it was before the run.
pub fn run_finite(
    session: &mut dyn Session,
    time: usize,
    inputs: &[Input<'_, f32>],
) -> Result<Vec<Tensor<f32>>, SessionError> {
    let before = session.state()?;
    let outputs = session.run(time, inputs)?;
    let finite = |tensor: &Tensor<f32>| {
        let numbers = tensor.numbers().unwrap_or_default();
        numbers.par_iter().all(|x| x.is_finite())
    };
    if outputs.iter().all(finite) {
        return Ok(outputs);
    }
    session.set_state(&before)?;
    let arisen = session.first_non_finite(time, inputs)?;
    session.set_state(&before)?;
    let found = match arisen {
        Some(found) => Some(found),
        // Every value that is kept is finite: then the output is all that is known.
        None => {
            let graph = session.graph();
            let named = graph.outputs.iter().copied().zip(outputs);
            let outputs = Outputs {
                batch: before.batch,
                time,
                values: named.collect(),
            };
            first_non_finite(graph, &outputs)
        }
    };
    Err(match found {
        Some(found) => SessionError::NonFinite(found),
        None => SessionError::NoOutput {
            device: session.device(),
            name: "logits".into(),
        },
    })
}

impl<D: Device> Session for Executor<D> {
    fn device(&self) -> String {
        Executor::device(self).name()
    }

    fn longest_run(&self) -> Option<usize> {
        let longest = self.manifest().regimes.iter().map(|regime| regime.max_time);
        longest.max_by_key(|most| most.unwrap_or(usize::MAX))?
    }

    fn graph(&self) -> &Graph {
        Executor::graph(self)
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn reset(&mut self, batch: usize) -> Result<(), SessionError> {
        Ok(Executor::reset(self, batch)?)
    }

    fn run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError> {
        Ok(Executor::run(self, time, inputs, Fetch::All)?.outputs)
    }

    fn run_last(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError> {
        Ok(Executor::run(self, time, inputs, Fetch::LastRow)?.outputs)
    }

    fn advance(&mut self, time: usize, inputs: &[Input<'_, f32>]) -> Result<(), SessionError> {
        Executor::run(self, time, inputs, Fetch::Nothing)?;
        Ok(())
    }

    fn run_stored(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Option<Stored>, SessionError> {
        let result = Executor::run(self, time, inputs, Fetch::Stored)?;
        let manifest = self.manifest();
        let Some(regime) = manifest.regimes.get(result.regime) else {
            return Ok(None);
        };
        let mut kernels = BTreeMap::new();
        for step in &regime.steps {
            let name = manifest.kernels.get(step.kernel).map(|k| k.name.as_str());
            for at in &step.writes {
                let kind = regime.buffers.get(*at).map(|buffer| buffer.kind);
                if let Some(BufferKind::Scratch(id) | BufferKind::Output(id)) = kind {
                    kernels.insert(id, name.unwrap_or_default().to_string());
                }
            }
        }
        Ok(Some(Stored {
            graph: regime.graph.clone(),
            values: result.stored,
            kernels,
        }))
    }

    fn state(&mut self) -> Result<HostState, SessionError> {
        Ok(self.save_state()?)
    }

    fn drawing(&mut self) -> Option<&mut dyn Drawing> {
        match self.can_draw() {
            true => Some(self),
            false => None,
        }
    }

    fn set_state(&mut self, state: &HostState) -> Result<(), SessionError> {
        Ok(self.load_state(state)?)
    }

    fn set_weights(&mut self, weights: Weights) -> Result<(), SessionError> {
        Ok(Executor::set_weights(self, &weights)?)
    }
}

/// Why a session could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The interpreter refused.
    #[error(transparent)]
    Interpret(#[from] InterpretError),
    /// The executor refused, or its device failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The state is not one of this model.
    #[error(transparent)]
    State(#[from] StateError),
    /// Fewer or more inputs than the model has.
    #[error("the model has {want} inputs, {got} were given")]
    Inputs {
        /// Inputs of the graph.
        want: usize,
        /// Inputs given.
        got: usize,
    },
    /// An output is not finite.
    #[error(
        "the model gives numbers that are not finite: {0}. Values of f16 end at 65504: another --dtype \
         may have room; --allow-nonfinite gives them as they are"
    )]
    NonFinite(NonFinite),
    /// A size beyond what is accepted.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The machine has too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device gave something that it cannot give.
    #[error("{device} gave no output `{name}`")]
    NoOutput {
        /// The device.
        device: String,
        /// The output.
        name: String,
    },
}
