//! The last-row template: the last row of some values, side by side.

use super::group::Group;
use crate::plan::{Body, Roles};
use crate::schedule::{LastRowTile, Schedule};
use fusec_ir::OpId;

/// Always fits: it holds nothing.
pub fn fit(group: &Group<'_>, id: OpId) -> Body {
    let graph = group.ctx.graph;
    let results = group.op(id).outputs.iter();
    let elements = results.map(|value| graph.row_elements(*value)).sum();
    let tile = LastRowTile::of(elements);
    group.body(Roles::default(), vec![id], &[id], Schedule::LastRow(tile))
}
