//! Why a program cannot be made or called, and the same as a text that points at the place.

use fusec_codegen::CodegenError;
use fusec_fuse::explain::ExplainError;
use fusec_fuse::{DeviceError, PlanError};
use fusec_ir::interpret::InterpretError;
use fusec_ir::language::LanguageError;
use miette::{GraphicalReportHandler, GraphicalTheme};
use std::error::Error;

use super::device::UnknownDevice;
use crate::emulator::EmulatorError;
use crate::executor::gpu::GpuError;
use crate::executor::{ExecuteError, StateError};
use crate::limits::LimitError;
use crate::memory::MemoryError;
use crate::model::ModelError;
use crate::session::SessionError;
use crate::toolchain::{ToolchainError, UnknownArch};
use crate::weights::{BadSeed, SpecError, WeightsError};

/// Why there is no program, or no answer from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A text of this call.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] UnknownDevice),
    /// The device's profile.
    #[error(transparent)]
    Profile(#[from] DeviceError),
    /// The planner refused.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan cannot be written as kernels.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// Nothing compiles for this GPU.
    #[error(transparent)]
    Arch(#[from] UnknownArch),
    /// The compiler.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The emulator.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The GPU.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Weights of this name or in this file.
    #[error(transparent)]
    WeightSpec(#[from] SpecError),
    /// A seed that is none.
    #[error(transparent)]
    Seed(#[from] BadSeed),
    /// Weights that do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A size beyond what is accepted.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A tensor of the call.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A state that is not one of this model.
    #[error(transparent)]
    State(#[from] StateError),
    /// The device refused, or failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Two values could not be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// What the interpreter cannot do.
    #[error(
        "the interpreter (device cpu) computes in float32, dtype {asked} is for kernels: leave dtype \
         out, or choose device emulator or cuda:N"
    )]
    InterpreterStorage {
        /// `bf16`, `f16`.
        asked: String,
    },
    /// A model text comes without weights.
    #[error(
        "`{model}` has {count} parameters and no weights: compile it with weights (a checkpoint, \
         random:SEED or initial:SEED), or give every parameter in the call by name ({first}, ...)"
    )]
    NoWeights {
        /// The model.
        model: String,
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// Parameters in a call of a program that has weights.
    #[error(
        "`{model}` was compiled with weights, which a call does not change: compile it without, or leave \
         the parameters out of the call"
    )]
    HasWeights {
        /// The model.
        model: String,
    },
    /// A call in float64, or a derivative, of a program that has weights.
    #[error(
        "`{model}` was compiled with weights, which are float32 and fixed: to compute in float64 or to \
         differentiate, compile the model text without weights and give every parameter in the call"
    )]
    BoundWeights {
        /// The model.
        model: String,
    },
    /// There are no derivatives.
    #[error("`{model}` has no backward here: {why}")]
    NoBackward {
        /// The model.
        model: String,
        /// Why not.
        why: String,
    },
    /// What parameters of a call have to go through first cannot be computed by kernels.
    #[error(
        "`{model}` cannot be called with parameters that lie on a device: what follows from them alone has \
         no kernels ({why}); give tensors of the CPU, or compile the model with weights"
    )]
    NoLoad {
        /// The model.
        model: String,
        /// Why not.
        why: String,
    },
    /// An earlier call ended in a fault of this program.
    #[error("an earlier call of `{model}` failed inside of fusec: compile it again, and report it")]
    Unusable {
        /// The model.
        model: String,
    },
    /// A path that is none.
    #[error("there is no {what}: {path}")]
    NoFile {
        /// `model` or `checkpoint`.
        what: &'static str,
        /// As given.
        path: String,
    },
}

impl From<InterpretError> for ProgramError {
    fn from(error: InterpretError) -> Self {
        Self::Session(error.into())
    }
}

impl From<ExecuteError> for ProgramError {
    fn from(error: ExecuteError) -> Self {
        Self::Session(error.into())
    }
}

impl ProgramError {
    /// The error as a text of several lines: what, where (file, line, a mark below the place), and what
    /// to do. Without colours.
    pub fn report(&self) -> String {
        let place = match self {
            ProgramError::Language(error) | ProgramError::Model(ModelError::Language(error)) => {
                error
            }
            _ => return self.to_string(),
        };
        let mut text = String::new();
        let theme = GraphicalTheme::none();
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_links(false)
            .without_cause_chain();
        match handler.render_report(&mut text, place) {
            Ok(()) => format!("{self}\n{}", text.trim_end()),
            Err(_) => self.to_string(),
        }
    }

    /// Whether the caller gave a wrong value, as opposed to something that failed here.
    pub fn is_the_callers(&self) -> bool {
        let session = |error: &SessionError| {
            matches!(
                error,
                SessionError::Inputs { .. }
                    | SessionError::State(_)
                    | SessionError::Limit(_)
                    | SessionError::Interpret(
                        InterpretError::IdOutOfRange { .. } | InterpretError::StateBatch { .. }
                    )
                    | SessionError::Execute(ExecuteError::Input(_) | ExecuteError::State(_))
            )
        };
        match self {
            ProgramError::Session(error) => session(error),
            ProgramError::Gpu(_)
            | ProgramError::Toolchain(_)
            | ProgramError::Emulator(_)
            | ProgramError::Memory(_)
            | ProgramError::Unusable { .. }
            | ProgramError::Codegen(_)
            | ProgramError::NoFile { .. }
            | ProgramError::Plan(_) => false,
            ProgramError::Model(ModelError::Read { .. }) => false,
            _ => true,
        }
    }

    /// The error below this one that an operating system gave, if there is one.
    pub fn io(&self) -> Option<&std::io::Error> {
        let mut error: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(inner) = error {
            if let Some(io) = inner.downcast_ref() {
                return Some(io);
            }
            error = inner.source();
        }
        None
    }
}

/// A tensor that does not fit the model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// It is not there.
    #[error("`{name}` is missing: give a tensor of shape {want}")]
    Missing {
        /// The input, parameter or state.
        name: String,
        /// The shape with the names of axes.
        want: String,
    },
    /// More tensors than inputs.
    #[error("{got} tensors are given, `{model}` takes {known}")]
    TooMany {
        /// The model.
        model: String,
        /// Tensors given.
        got: usize,
        /// The inputs.
        known: String,
    },
    /// One axis of the wrong length.
    #[error("`{name}` has shape {shape:?}, expected {want}: {axis} is {got}, not {expected}")]
    Axis {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape wanted, with the names of axes.
        want: String,
        /// The axis, with its name.
        axis: String,
        /// Its length.
        got: usize,
        /// The length it should have.
        expected: usize,
    },
    /// More or fewer axes.
    #[error("`{name}` has {} axes, shape {shape:?}; expected {want}", shape.len())]
    Rank {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape wanted, with the names of axes.
        want: String,
    },
    /// Two inputs of different length.
    #[error("`{name}` has {axis}={got}, but `{other}` has {axis}={expected}")]
    Rows {
        /// The tensor.
        name: String,
        /// `B` or `T`.
        axis: &'static str,
        /// Its length there.
        got: usize,
        /// The first input.
        other: String,
        /// The length of that.
        expected: usize,
    },
    /// The wrong element type.
    #[error("`{name}` is {got}, expected {want}")]
    DType {
        /// The tensor.
        name: String,
        /// Its element type.
        got: String,
        /// What is taken.
        want: &'static str,
    },
    /// In memory that is not the host's.
    #[error(
        "`{name}` lies on {got}, and this call is one with tensors of the CPU: bring all tensors to one \
         device, that of the model or the CPU"
    )]
    Device {
        /// The tensor.
        name: String,
        /// Where it is.
        got: String,
    },
    /// In memory of another device than the model's.
    #[error("`{name}` lies on {got}, the model and the other tensors on {want}: bring it there")]
    Place {
        /// The tensor.
        name: String,
        /// Where it is.
        got: String,
        /// Where the model runs.
        want: String,
    },
    /// A token id that no table has.
    #[error("`{name}` holds the id {id}, which 32 bits do not")]
    Id {
        /// The tensor.
        name: String,
        /// The id.
        id: i64,
    },
    /// Nothing says how long the run is.
    #[error("`{name}` has no elements: B and T are at least 1")]
    Empty {
        /// The tensor.
        name: String,
    },
}
