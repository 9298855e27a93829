//! The meaning of a model: axes, values, operations, recurrences, and the
//! language they are written in.
//!
//! What lives here: the typed dataflow [`Graph`], the front end that builds it
//! from a `model.toml`, and the interpreters that define what each operation
//! computes. What never will: anything about GPUs, kernels or costs.
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![deny(unsafe_code)]

pub mod axis;
pub mod class;
pub mod coalesce;
pub mod components;
pub mod delays;
pub mod expr;
pub mod files;
pub mod gradient;
pub mod graph;
pub mod interpret;
pub mod language;
pub mod last_row;
pub mod places;
pub mod print;
pub mod recurrence;
pub mod rotations;

pub use axis::{Axis, AxisId};
pub use class::{Class, Classified, classify};
pub use expr::{Binary, Expr, Unary};
pub use graph::{
    Access, Combine, Def, Graph, IndexExpr, Init, LoadStep, NormKind, Op, OpId, OpKind, Param,
    ParamId, Pin, PinKind, Precision, RecurrenceId, Source, Span, State, StateId, StateKind, Value,
    ValueId,
};
pub use places::Places;
pub use recurrence::{
    Direction, Recurrence, StepAccess, StepInput, StepKind, StepOp, StepRef, StepState,
};
