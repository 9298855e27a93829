//! The work of a sum over all rows.

use super::lane::{LARGE, Lane};
use super::work::{Read, Tiles, Work};
use crate::context::{instructions, iteration_axes, special_count};
use crate::schedule::row_sum::{RowSumTile, SumAxes, result_axes};
use fusec_ir::{Op, OpKind};

/// Instructions of a lane for an id that it looks at.
const OF_ID: f64 = 4.0;
/// Instructions for an element of a row that is added: its load, an addition in shared memory.
const OF_ADDED: f64 = 4.0;

impl Lane<'_> {
    /// Of a body that sums over all rows, or adds the parts of such a sum.
    pub(super) fn sum_of_rows(&self, tile: &RowSumTile) -> Work {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let mut work = Work {
            blocks: self.blocks,
            threads: tile.threads(),
            trips: 2.0,
            ..Work::default()
        };
        let Some(op) = self.body.anchors().first().map(|id| graph.op(*id)) else {
            return work;
        };
        let results: f64 = op.outputs.iter().map(|v| ctx.value_bytes(*v)).sum();
        let elements = graph.elements(result_axes(graph, op)) as f64;
        let of_parts = 4.0 * elements * tile.parts() as f64;
        if let RowSumTile::Parts(tile) = tile {
            // Blocks of the phase before have just written them.
            work.seen_bytes = of_parts;
            work.moved_bytes = results;
            work.flops = elements * tile.parts as f64;
            work.instructions = 2.0 * work.flops;
            return work;
        }
        match tile.leaves_parts() {
            true => work.seen_bytes = of_parts,
            false => work.moved_bytes = results,
        }
        self.read_operands(tile, op, &mut work);
        let space = (graph.elements(&iteration_axes(graph, op)) * ctx.rows()) as f64;
        match (tile, &op.kind) {
            (RowSumTile::Entries(tile), _) => {
                let groups = (elements / (tile.entries * tile.channels) as f64).ceil();
                let added = elements / entries(graph, op) * ctx.rows() as f64;
                work.instructions = OF_ID * groups * ctx.rows() as f64 + OF_ADDED * added;
                work.flops = added;
            }
            (RowSumTile::Mma(_) | RowSumTile::Simt(_), _) => {
                work.tiles = Some(self.product_tiles(tile, op, 2.0 * space));
            }
            (_, OpKind::Reduce { expr, .. }) => {
                work.flops = space * (expr.op_count() + 1) as f64;
                work.instructions = space * (instructions(expr) + 1) as f64;
                work.special = space * special_count(expr) as f64;
            }
            _ => {
                work.flops = 2.0 * space;
                work.instructions = 2.0 * space;
            }
        }
        work
    }

    /// Operands come from memory once; a product reads each again for every tile of columns of the other,
    /// and every group of entries looks at all ids.
    fn read_operands(&self, tile: &RowSumTile, op: &Op, work: &mut Work) {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let axes = SumAxes::of(tile, graph, op);
        let tiles =
            |size: [usize; 2], n: usize| graph.elements(&axes.columns[n]).div_ceil(size[n].max(1));
        for (n, access) in op.inputs.iter().enumerate() {
            if let Some(tail) = access.tail {
                work.moved_bytes += self.state_bytes(tail);
            }
            let bytes = ctx.value_bytes(access.value) * self.touched(op, access);
            let times = match tile {
                RowSumTile::Mma(tile) => tiles(tile.columns, 1 - n.min(1)),
                RowSumTile::Simt(tile) => tiles(tile.columns, 1 - n.min(1)),
                // All warps of a multiprocessor read the same ids: they are in its L1.
                RowSumTile::Entries(_) if n == 1 => self.blocks.min(ctx.target.sms),
                RowSumTile::Elements(_) | RowSumTile::Entries(_) | RowSumTile::Parts(_) => 1,
            };
            let known = work.reads.iter().any(|read| read.value == access.value.0);
            work.reads.push(Read {
                value: access.value.0,
                bytes: if known { 0.0 } else { bytes },
                of_rows: graph
                    .value(access.value)
                    .rows
                    .then(|| ctx.value_bytes(access.value)),
                again: bytes * (times.max(1) - 1) as f64,
            });
        }
    }

    fn product_tiles(&self, tile: &RowSumTile, op: &Op, flops: f64) -> Tiles {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let axes = SumAxes::of(tile, graph, op);
        let (columns, staged) = match tile {
            RowSumTile::Mma(tile) => (tile.columns, tile.direct != [true; 2]),
            RowSumTile::Simt(tile) => (tile.columns, false),
            _ => ([1; 2], false),
        };
        let depth = graph.elements(&axes.summed) * ctx.rows();
        let of_tile = 2.0 * (columns[0] * columns[1]) as f64 * depth as f64;
        Tiles {
            tensor_cores: matches!(tile, RowSumTile::Mma(_)).then_some(ctx.storage),
            flops,
            whole_flops: tile.tiles(graph, op) as f64 * of_tile,
            large: columns[0] >= LARGE,
            warpgroups: false,
            joined: false,
            staged,
            after_bytes: 0.0,
            after_instructions: 0.0,
        }
    }
}

/// Entries of the table that rows are added into.
fn entries(graph: &fusec_ir::Graph, op: &Op) -> f64 {
    let first = result_axes(graph, op).first();
    first.map_or(1.0, |axis| graph.size(*axis) as f64)
}
