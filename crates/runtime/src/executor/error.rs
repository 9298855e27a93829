//! What can go wrong when a compiled model is bound to memory or run.

use super::gpu::GpuError;
use crate::element::NotRepresentable;
use crate::emulator::EmulatorError;
use crate::memory::MemoryError;
use crate::sampling::SamplingError;
use crate::weights::WeightsError;
use fusec_ir::interpret::InterpretError;
use std::path::PathBuf;

/// Why a manifest cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Written by another version of the program.
    #[error("the manifest has version {got}, this program reads {want}; compile the model again")]
    Version {
        /// Of the manifest.
        got: u32,
        /// Of this program.
        want: u32,
    },
    /// It contradicts itself.
    #[error("the manifest is damaged: {place}: {reason}; compile the model again")]
    Damaged {
        /// Regime, step, buffer or kernel.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

/// Why an input cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Too few or too many.
    #[error("the model has {want} inputs, {got} were given")]
    Count {
        /// Given.
        got: usize,
        /// Inputs of the graph.
        want: usize,
    },
    /// The wrong number of elements.
    #[error("input `{name}` has {got} elements, but at B={batch}, T={time} it has {want}")]
    Elements {
        /// Its name in the model.
        name: String,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// Given.
        got: usize,
        /// Needed.
        want: usize,
    },
    /// Numbers for token ids, or the other way round.
    #[error("input `{name}` wants {want}")]
    Type {
        /// Its name in the model.
        name: String,
        /// `token ids` or `numbers`.
        want: &'static str,
    },
    /// A token id that a table does not have.
    #[error(
        "token id {id} at batch row {batch}, position {time} of `{name}` is out of range: `{table}` has {entries} entries"
    )]
    IdOutOfRange {
        /// The id.
        id: i32,
        /// Batch row.
        batch: usize,
        /// Index along T of this run.
        time: usize,
        /// The input.
        name: String,
        /// The table.
        table: String,
        /// Entries of the table.
        entries: usize,
    },
}

/// Why a state cannot be taken over, or a file of states cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The wrong number of elements, or another model's state.
    #[error("state `{name}` has {got} elements, but at B={batch} it has {want}")]
    Elements {
        /// Its name.
        name: String,
        /// Sequences.
        batch: usize,
        /// Given.
        got: usize,
        /// Needed.
        want: usize,
    },
    /// A state of the model is not there.
    #[error("state `{name}` is missing: this is no state of the model `{model}`")]
    Missing {
        /// Its name.
        name: String,
        /// The model.
        model: String,
    },
    /// A state that the model does not have.
    #[error("the model `{model}` has no state `{name}`")]
    Unknown {
        /// Its name or number.
        name: String,
        /// The model.
        model: String,
    },
    /// A position or batch size that cannot be.
    #[error("{what} is {got}, which cannot be")]
    Value {
        /// `position` or `batch`.
        what: &'static str,
        /// What was found.
        got: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] Box<crate::checkpoint::CheckpointError>),
    /// The file cannot be written.
    #[error("cannot write the state to {path}: {reason}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What can go wrong when a compiled model is run.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// Tokens are drawn on a device after it was told how and for which sequences.
    #[error(
        "no tokens can be drawn on the device: it has no kernel for it, or was not told for which sequences"
    )]
    NotDrawing,
    /// No token can be drawn.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Memory: sizes or lack of it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The weights do not fit the model or the storage type.
    #[error(transparent)]
    Weights(#[from] Box<WeightsError>),
    /// Load-time operations.
    #[error("while evaluating what depends on the weights alone: {0}")]
    LoadTime(#[source] Box<InterpretError>),
    /// A number that does not fit the storage type.
    #[error(transparent)]
    NotRepresentable(#[from] NotRepresentable),
    /// The caller's input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The caller's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// B, T or the position.
    #[error("cannot run B={batch}, T={time} at position {position}: {reason}")]
    Shape {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// Tokens seen before.
        position: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A launch that no device takes.
    #[error("kernel `{kernel}` at B={batch}, T={time}: {reason}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// What is wrong.
        reason: String,
    },
    /// The host has no memory left.
    #[error(
        "cannot map {} for the {region}: {source}; use a smaller batch or a shorter run",
        crate::memory::format_bytes(*bytes)
    )]
    HostMemory {
        /// Of which region.
        region: &'static str,
        /// How many bytes.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
    /// An earlier run failed half way.
    #[error(
        "an earlier run failed half way, so that the state is unknown; reset it or load a saved one ({cause})"
    )]
    Interrupted {
        /// The earlier error.
        cause: String,
    },
    /// The emulator.
    #[error(transparent)]
    Emulator(#[from] Box<EmulatorError>),
    /// A kernel in the emulator.
    #[error("{error}; it computes {computes}")]
    Emulated {
        /// The values of the model that it computes.
        computes: String,
        /// What went wrong.
        error: Box<EmulatorError>,
    },
    /// The GPU.
    #[error(transparent)]
    Gpu(#[from] Box<GpuError>),
}

impl From<EmulatorError> for ExecuteError {
    fn from(error: EmulatorError) -> Self {
        Self::Emulator(Box::new(error))
    }
}

impl From<GpuError> for ExecuteError {
    fn from(error: GpuError) -> Self {
        Self::Gpu(Box::new(error))
    }
}

impl From<WeightsError> for ExecuteError {
    fn from(error: WeightsError) -> Self {
        Self::Weights(Box::new(error))
    }
}
