//! The cost model: a roofline per kernel.

use crate::context::Context;
use crate::plan::{Body, Cost};

/// Predicts the time of the kernel made of `lanes`.
pub fn cost(_ctx: &Context<'_>, _lanes: &[Body]) -> Cost {
    Cost::default()
}
