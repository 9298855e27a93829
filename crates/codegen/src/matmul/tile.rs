//! Tiles of products: what fits a body, a shape and an architecture.

use super::Target;
use crate::Element;
use crate::projection::{GemvTile, MmaTile, ProjectionTile, SimtTile};
use fusec_fuse::fit::columns_per_block;
use fusec_fuse::{Body, Storage, Template};
use fusec_ir::{AxisId, Graph, OpId, OpKind};

/// Warps of a matrix-vector block.
pub(super) const GEMV_WARPS: usize = 8;
/// Most f32 of activations that a matrix-vector block stages: 128 KiB of shared memory, which
/// leaves room for the prologue's own.
const GEMV_STAGED_FLOATS: usize = 32 * 1024;
/// Columns that a thread handles together after a product on tensor cores: 16 bytes of 16-bit
/// elements.
pub(super) const RUN: usize = 8;
/// 16-byte loads of weights that a lane of such a block keeps in flight.
const GEMV_LOADS: usize = 4;

/// Threads of a block of this body.
pub fn threads(graph: &Graph, target: Target, staged: bool, body: &Body) -> usize {
    match shape_of(graph, body) {
        Some(shape) => tile(graph, target, staged, body, &shape).threads(),
        None => 32 * GEMV_WARPS,
    }
}

/// Index variables of a lane of contractions.
pub(super) struct LaneAxes {
    /// Leading output axes that the activation also runs over: one product each.
    pub(super) batch: Vec<AxisId>,
    /// The other output axes: the columns.
    pub(super) columns: Vec<AxisId>,
    /// Elements of one row of the output.
    pub(super) row: usize,
    /// Lengths of the sums of all products, added up.
    pub(super) depths: usize,
    /// Length of the longest.
    pub(super) deepest: usize,
}

pub(super) fn shape_of(graph: &Graph, body: &Body) -> Option<LaneAxes> {
    let first = graph.op(*body.anchors.first()?);
    let out = &graph.value(*first.outputs.first()?).axes;
    // Any contraction of the lane that runs over an output axis on the activation's side makes
    // it a batch axis for all of them.
    let in_activation = |axis: AxisId| {
        body.anchors.iter().any(|id| {
            graph.op(*id).inputs.first().is_some_and(|a| {
                a.index
                    .iter()
                    .flat_map(|i| &i.terms)
                    .any(|(t, _)| *t == axis)
            })
        })
    };
    let leading = out.iter().take_while(|a| in_activation(**a)).count();
    if out[leading..].iter().any(|a| in_activation(*a)) {
        return None;
    }
    let depths = || body.anchors.iter().map(|id| depth(graph, *id));
    Some(LaneAxes {
        batch: out[..leading].to_vec(),
        columns: out[leading..].to_vec(),
        row: graph.elements(out),
        depths: depths().sum(),
        deepest: depths().max().unwrap_or(0),
    })
}

/// Length of a contraction's sum.
pub(super) fn depth(graph: &Graph, id: OpId) -> usize {
    match &graph.op(id).kind {
        OpKind::Contract { axes } => graph.elements(axes),
        _ => 0,
    }
}

/// Whether some lane brings activations to its products through registers: they are computed, or
/// do not lie in memory as the tensor cores want them. All lanes of a kernel have equally many
/// threads, so this is a property of the kernel.
pub fn staged(graph: &Graph, bodies: &[&Body]) -> bool {
    let through_registers = |body: &Body, id: OpId| {
        let laid_out = graph
            .op(id)
            .inputs
            .first()
            .is_some_and(|a| a.delay == 0 && graph.row_elements(a.value).is_multiple_of(8));
        is_computed(graph, body, id) || !laid_out
    };
    bodies
        .iter()
        .filter(|body| body.template == Template::Gemm)
        .any(|body| body.anchors.iter().any(|id| through_registers(body, *id)))
}

/// Whether the activation of a product is computed in its kernel.
fn is_computed(graph: &Graph, body: &Body, id: OpId) -> bool {
    graph.op(id).inputs.first().is_some_and(|a| {
        let producer = graph.producer(a.value);
        producer.is_some_and(|p| body.ops.binary_search(&p).is_ok())
    })
}

pub(super) fn tile(
    graph: &Graph,
    target: Target,
    staged: bool,
    body: &Body,
    axes: &LaneAxes,
) -> ProjectionTile {
    let rows = target.shape.batch.saturating_mul(target.shape.time);
    let columns = if axes.columns.is_empty() { 1 } else { axes.row };
    if body.template == Template::Gemv {
        let prologue = body.anchors.iter().any(|id| is_computed(graph, body, *id));
        let per_block = columns_per_block(rows, columns, axes.deepest, prologue);
        let split = (GEMV_WARPS / per_block).max(1);
        let mut tile_rows = rows.next_power_of_two().clamp(1, 8);
        while tile_rows > 1 && tile_rows * axes.depths > GEMV_STAGED_FLOATS {
            tile_rows /= 2;
        }
        return ProjectionTile::Gemv(GemvTile {
            rows: tile_rows,
            columns: per_block,
            warps: GEMV_WARPS,
            split,
            unroll: GEMV_LOADS * GEMV_WARPS / (per_block * split),
        });
    }
    let large = rows >= 1024 && columns >= 512;
    let operand = match target.storage {
        Storage::F32 => None,
        _ if target.arch < 80 => None,
        storage => Some(Element::from(storage)),
    };
    match operand {
        None => {
            let size = if large { 128 } else { 64 };
            ProjectionTile::Simt(SimtTile {
                rows: size,
                columns: size,
            })
        }
        Some(operand) => {
            // Two accumulators of a wide tile would not fit the registers.
            let wide = large && body.anchors.len() == 1;
            ProjectionTile::Mma(MmaTile {
                rows: if large { 128 } else { 64 },
                columns: if wide { 128 } else { 64 },
                // Few warps with large tiles read each operand from shared memory the fewest times;
                // activations on their way through registers need more warps and short tiles.
                warps_m: 2,
                warps_n: if staged { 4 } else { 2 },
                depth: if staged { 32 } else { 64 },
                // Up to 108 KiB, two blocks at a time; 72 where a block gets less.
                stages: match target.arch {
                    80 | 87 | 90 | 100 => 3,
                    _ if staged => 3,
                    _ => 2,
                },
                operand,
            })
        }
    }
}
