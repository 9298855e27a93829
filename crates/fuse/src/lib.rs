//! From graph to plan: which forms a block can take, which operations one kernel
//! may compute, what each kernel costs, and which set of kernels is the cheapest.
//!
//! What lives here: rewrites, candidates, legality, the cost model, exact
//! selection, explanation, and the [`mod@plan`] they result in. What never will:
//! CUDA text (see `fusec-codegen`) and drivers (see `fusec-runtime`).
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod accept;
mod bits;
mod board;
pub mod chunked;
pub mod context;
pub mod cost;
pub mod decisions;
pub mod device;
pub mod elements;
mod error;
pub mod explain;
pub mod fit;
pub mod forms;
mod name;
mod order;
pub mod patterns;
pub mod plan;
mod planner;
mod print;
mod regions;
pub mod row;
pub mod schedule;
pub mod segment;
pub mod select;
mod validate;
pub mod variants;
pub mod zeros;

pub use accept::accept;
pub use device::{Device, DeviceError, Figure, Fitted, FittedFigure, Provenance};

pub use decisions::Decisions;
pub use elements::Element;
pub use error::PlanError;
pub use plan::{
    Body, Cost, GridAxis, Kernel, Mode, Phase, Plan, Reject, Roles, Shape, Storage, Template,
};
pub use planner::{
    Asked, Known, Options, Planned, Progress, Recipe, RuleUse, Submit, plan, plan_by, plan_watched,
};
pub use print::{interior, launches_per_layer, limit, summary, template as templates};
pub use schedule::{Launch, Schedule, Target};
pub use validate::validate;
