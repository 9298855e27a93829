//! Explanation: why these kernels and no others, drawn, told and compared.
//!
//! Everything here is derived from a finished plan, the rules of [`crate::fit`] and the prices of
//! [`crate::cost`]: a decision is explained by taking it again with another wish. Nothing here
//! decides anything.
//!
//! - [`mod@why`]: the kernels of an interior layer, what each saves, and the edges between them;
//! - [`mod@pair`]: two values, together or apart, and the price of the contrary;
//! - [`diff`]: what changed between two plans;
//! - [`draw`]: the plan as a picture.

pub mod diff;
pub mod draw;
mod ground;
mod name;
pub mod pair;
mod text;
pub mod why;

pub use diff::{PlanDiff, compare, compare_all};
pub use draw::{dot, svg};
pub use name::NameError;
pub use pair::{Pair, pair};
pub use why::{Why, highlights, why, why_part};

use crate::context::Context;
use crate::error::PlanError;
use crate::plan::Reject;
use fusec_ir::OpId;
use serde::Serialize;

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A name means nothing, or too much.
    #[error(transparent)]
    Name(#[from] NameError),
    /// One value was named twice.
    #[error("`{0}` is named twice; name two different values")]
    Same(String),
    /// The model cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// A [`Reject`] with names for operations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// Name of the rule.
    pub rule: String,
    /// The operations at fault.
    pub at: Vec<String>,
    /// What the rule allows.
    pub limit: String,
    /// What was found.
    pub got: String,
}

impl Reason {
    fn new(ctx: &Context<'_>, reject: Reject) -> Reason {
        Reason {
            at: op_names(ctx, &reject.ops),
            rule: reject.rule,
            limit: reject.limit,
            got: reject.got,
        }
    }
}

fn op_names(ctx: &Context<'_>, ops: &[OpId]) -> Vec<String> {
    let ops = ops.iter().filter_map(|id| ctx.graph.ops.get(id.index()));
    ops.map(|op| op.name.clone()).collect()
}
