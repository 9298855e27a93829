//! What can be wrong with a graph, its inputs or its state when it is run.

use thiserror::Error;

/// Why the interpreter refused to run.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InterpretError {
    /// The graph breaks its own rules. Graphs that the front end builds never do; one read
    /// from a file can.
    #[error("malformed graph: {place}: {reason}")]
    Malformed {
        /// The operation, value or state.
        place: String,
        /// Which rule is broken.
        reason: String,
    },
    /// A buffer has the wrong number of elements.
    #[error("{what} `{name}` has {got} elements, but its shape {shape} has {want}")]
    Elements {
        /// Parameter, input or state.
        what: &'static str,
        /// Its name in the model.
        name: String,
        /// Shape with axis names.
        shape: String,
        /// Elements given.
        got: usize,
        /// Elements needed.
        want: usize,
    },
    /// No value was given for an input of the graph.
    #[error("input `{name}` is missing: give a tensor of shape {shape}")]
    MissingInput {
        /// Its name in the model.
        name: String,
        /// Shape with axis names.
        shape: String,
    },
    /// A number tensor was given where token ids are wanted, or the other way round.
    #[error("input `{name}` wants {want}, but {got} were given")]
    InputType {
        /// Its name in the model.
        name: String,
        /// `token ids` or `numbers`.
        want: &'static str,
        /// `token ids` or `numbers`.
        got: &'static str,
    },
    /// A token id that the table does not have.
    #[error(
        "token id {id} at batch row {batch}, position {time} of `{name}` is out of range: \
         `{table}` has {vocabulary} rows (ids 0 to {})", vocabulary - 1
    )]
    IdOutOfRange {
        /// The offending id.
        id: i32,
        /// Batch row.
        batch: usize,
        /// Index along T of this run.
        time: usize,
        /// The value that holds the ids.
        name: String,
        /// The table.
        table: String,
        /// Number of rows of the table.
        vocabulary: usize,
    },
    /// The state belongs to another batch size.
    #[error("the state is for {got} batch rows, the run is for {want}")]
    StateBatch {
        /// Batch rows of the state.
        got: usize,
        /// Batch rows of the run.
        want: usize,
    },
    /// The state belongs to another graph.
    #[error("the state has {got} buffers, the model has {want}: it was made for another model")]
    StateCount {
        /// Buffers of the state.
        got: usize,
        /// States of the graph.
        want: usize,
    },
    /// Batch or time is zero, or the tensors would not fit an address space.
    #[error("cannot run {batch} batch rows of {time} positions: {reason}")]
    Shape {
        /// Batch rows.
        batch: usize,
        /// Positions.
        time: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}
