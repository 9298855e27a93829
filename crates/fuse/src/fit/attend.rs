//! The attend template: softmax attention over the rows kept, one head, or heads that share their keys
//! and values, to a block.

use super::group::Group;
use crate::plan::{Body, GridAxis, Reject, Roles};
use crate::schedule::attend::{SimtTile, on_tensor_cores};
use crate::schedule::{AttendTile, Schedule};
use fusec_ir::{AxisId, OpId, OpKind};

/// Elements of a key and a value of one head that one block stages, together.
const WIDTH_LIMIT: usize = 4096;
/// Elements of the queries, and of the results, of one block.
const HELD_TARGET: usize = 4096;
/// Most rows of one block: they share each staged key and value.
const ROWS_TARGET: usize = 16;

/// What attention combines.
struct Sizes {
    /// Axes along which weights differ.
    heads: Vec<AxisId>,
    /// Elements of a key of one head.
    depth: usize,
    /// Elements of a value of one head.
    width: usize,
    /// Rows seen.
    window: u32,
}

impl Sizes {
    fn of(group: &Group<'_>, id: OpId) -> Sizes {
        let graph = group.ctx.graph;
        let op = group.op(id);
        let heads = graph.attention_heads(op);
        let results = op.outputs.first().map_or(1, |v| graph.row_elements(*v));
        Sizes {
            depth: graph.elements(crate::context::reduced_axes(op)),
            width: results / graph.elements(&heads).max(1),
            window: match &op.kind {
                OpKind::Attend { window, .. } => *window,
                _ => 1,
            },
            heads,
        }
    }
}

/// On the FP32 units: always possible, but for heads too wide.
pub fn fit(group: &Group<'_>, id: OpId) -> Result<Body, Reject> {
    let sizes = Sizes::of(group, id);
    let (depth, width) = (sizes.depth, sizes.width);
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
    let tile = SimtTile {
        grid: one_to_a_block(group, &sizes.heads),
        rows: rows as u32,
        keys: 1,
        depth: depth as u32,
        width: width as u32,
    };
    let tile = AttendTile::Simt(tile.staging(sizes.window));
    group.check_shared([id], tile.shared_bytes())?;
    Ok(body(group, id, tile))
}

/// On tensor cores, in all ways that fit a block: none where values are stored in f32, which is computed
/// in f32 without TF32, nor where heads are too wide for the registers.
pub fn tiled(group: &Group<'_>, id: OpId) -> Vec<Body> {
    let ctx = group.ctx;
    let Some(operand) = ctx.target.mma_operand(ctx.storage) else {
        return vec![];
    };
    let sizes = Sizes::of(group, id);
    let op = group.op(id);
    let indexed = |axis: AxisId| {
        let kept = op.inputs.iter().skip(1);
        let mut indices = kept.flat_map(|access| &access.index);
        indices.any(|index| index.terms.iter().any(|term| term.0 == axis))
    };
    let heads = one_to_a_block(group, &sizes.heads);
    let shared = heads.iter().filter(|g| !indexed(g.axis));
    let shared: Vec<GridAxis> = shared.copied().collect();
    let size = shared.iter().map(|g| ctx.graph.size(g.axis)).product();
    let tiles = on_tensor_cores(
        &heads,
        &shared,
        size,
        (sizes.depth, sizes.width),
        sizes.window,
        operand,
        &ctx.target,
    );
    let tiles = tiles.into_iter().map(AttendTile::Mma);
    tiles.map(|tile| body(group, id, tile)).collect()
}

fn one_to_a_block(group: &Group<'_>, heads: &[AxisId]) -> Vec<GridAxis> {
    let heads = heads.iter().copied();
    let spread = heads.filter(|axis| group.ctx.graph.size(*axis) > 1);
    spread.map(|axis| GridAxis { axis, tile: 1 }).collect()
}

fn body(group: &Group<'_>, id: OpId, tile: AttendTile) -> Body {
    let roles = Roles {
        anchors: vec![id],
        ..Roles::default()
    };
    group.body(roles, vec![id], &[id], Schedule::Attend(tile))
}
