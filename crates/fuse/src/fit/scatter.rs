//! The scatter template: the transpose of a read through an access.

use super::group::Group;
use crate::plan::{Body, Reject, Roles};
use crate::schedule::{ScatterTile, Schedule};
use fusec_ir::OpId;

/// Fits wherever the operation is given the rows that it places: it holds nothing.
pub fn fit(group: &Group<'_>, id: OpId) -> Result<Body, Reject> {
    let graph = group.ctx.graph;
    let op = group.op(id);
    let rows = |value: &fusec_ir::ValueId| graph.value(*value).rows;
    let results = op.outputs.iter();
    let of_rows = op.inputs.iter().all(|a| a.delay == 0 && rows(&a.value));
    if !(of_rows && results.clone().all(rows)) {
        return Err(group.reject(
            "scatter-rows",
            [id],
            "elements of a row placed in the same row",
            "another row, or none",
        ));
    }
    let elements = results.map(|value| graph.row_elements(*value)).sum();
    let tile = ScatterTile::of(elements);
    Ok(group.body(Roles::default(), vec![id], &[id], Schedule::Scatter(tile)))
}
