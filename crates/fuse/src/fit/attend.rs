//! The attend template: softmax attention over the rows kept, one head to a block.

use super::group::Group;
use crate::plan::{Body, GridAxis, Reject, Roles};
use crate::schedule::{AttendTile, Schedule};
use fusec_ir::{OpId, OpKind};

/// Elements of a key and a value of one head that one block stages, together.
const WIDTH_LIMIT: usize = 4096;
/// Elements of the queries, and of the results, of one block.
const HELD_TARGET: usize = 4096;
/// Most rows of one block: they share each staged key and value.
const ROWS_TARGET: usize = 16;

pub fn fit(group: &Group<'_>, id: OpId) -> Result<Body, Reject> {
    let graph = group.ctx.graph;
    let op = group.op(id);
    let heads = graph.attention_heads(op);
    let depth = graph.elements(crate::context::reduced_axes(op));
    let results = op.outputs.first().map_or(1, |v| graph.row_elements(*v));
    let width = results / graph.elements(&heads).max(1);
    if depth + width > WIDTH_LIMIT {
        return Err(group.reject(
            "attend-width",
            [id],
            format!("{WIDTH_LIMIT} elements"),
            format!("a key of {depth} and a value of {width} elements"),
        ));
    }
    let mut rows = 1;
    while rows < ROWS_TARGET.min(group.ctx.shape.time) && 2 * rows * depth.max(width) <= HELD_TARGET
    {
        rows *= 2;
    }
    let window = match &op.kind {
        OpKind::Attend { window, .. } => *window,
        _ => 1,
    };
    let grid = heads.into_iter().filter(|axis| graph.size(*axis) > 1);
    let tile = AttendTile {
        grid: grid.map(|axis| GridAxis { axis, tile: 1 }).collect(),
        rows: rows as u32,
        keys: 1,
        depth: depth as u32,
        width: width as u32,
    };
    let tile = tile.staging(window);
    group.check_shared([id], tile.shared_bytes())?;
    let roles = Roles {
        anchors: vec![id],
        ..Roles::default()
    };
    Ok(group.body(roles, vec![id], &[id], Schedule::Attend(tile)))
}
