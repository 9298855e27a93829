//! Selection: which groups of operations become kernels.
//!
//! One file per way of choosing. All of them return a partition of a segment
//! into legal groups whose quotient is acyclic.

use crate::PlanError;
use crate::context::Context;
use crate::fit::fit;
use crate::plan::Mode;
use crate::planner::unplannable;
use fusec_ir::{OpId, Pin};

/// The kernels of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Positions in the segment, ascending in each group.
    pub groups: Vec<Vec<usize>>,
}

/// Chooses the kernels of a segment.
pub fn select(
    ctx: &Context<'_>,
    ops: &[OpId],
    mode: Mode,
    _pins: &[Pin],
) -> Result<Selection, PlanError> {
    match mode {
        Mode::Unfused => unfused(ctx, ops),
        _ => Err(PlanError::Selection(format!(
            "`{mode}` is not available yet"
        ))),
    }
}

/// One kernel per operation.
fn unfused(ctx: &Context<'_>, ops: &[OpId]) -> Result<Selection, PlanError> {
    for id in ops {
        fit(ctx, &[*id]).map_err(|reject| unplannable(ctx, &[*id], reject))?;
    }
    Ok(Selection {
        groups: (0..ops.len()).map(|i| vec![i]).collect(),
    })
}

/// What the plan may claim about itself.
pub fn claim(mode: Mode, _chosen: &[Selection]) -> String {
    match mode {
        Mode::Unfused => "one kernel per operation".to_string(),
        _ => "none".to_string(),
    }
}
