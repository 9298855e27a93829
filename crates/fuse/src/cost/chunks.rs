//! The terms of a recurrence that goes in chunks.
//!
//! Chunks of one block follow each other: each waits for the state that the one before leaves, and
//! inside it loads, products and the epilogue wait for each other. Their time is counted in clock
//! cycles per thread, which the device file has.

use super::{Lane, Work};
use crate::chunked::{Sizes, pieces};
use crate::context::{iteration_axes, reduced_axes, special_count};
use crate::schedule::{ChunkTile, Schedule};
use fusec_ir::{Expr, OpId, OpKind};
use std::collections::BTreeMap;

impl Lane<'_> {
    /// Chunked template: how often an element of a map before the recurrence is computed.
    pub(super) fn uses(&self) -> BTreeMap<OpId, f64> {
        let graph = self.ctx.graph;
        let mut uses: BTreeMap<OpId, f64> = BTreeMap::new();
        for id in self.body.ops.iter().rev() {
            let op = graph.op(*id);
            let known = match op.kind {
                OpKind::Map { .. } => uses.get(id).copied().unwrap_or(1.0),
                _ => 1.0,
            };
            for access in &op.inputs {
                if let Some(p) = graph.producer(access.value) {
                    *uses.entry(p).or_insert(0.0) += known;
                }
            }
        }
        for anchor in self.body.anchors() {
            // What follows the recurrence is computed once.
            let mut after = vec![*anchor];
            while let Some(id) = after.pop() {
                uses.remove(&id);
                let outputs = graph.op(id).outputs.iter();
                let readers = outputs.flat_map(|v| self.ctx.readers(*v));
                after.extend(readers.filter(|r| self.body.ops.binary_search(r).is_ok()));
            }
        }
        uses
    }

    /// The work of a chunked recurrence.
    pub(super) fn add_chunks(&self, work: &mut Work) {
        let Schedule::Chunked(ChunkTile { tile, .. }) = &self.body.schedule else {
            return;
        };
        let chunks = (self.blocks * self.ctx.shape.time.div_ceil(tile.chunk())) as f64;
        let pieces = pieces(self.ctx.storage);
        work.chunk_flops += chunks * tile.tensor_flops(pieces);
        work.simt_flops += chunks * tile.simt_flops(pieces);
    }

    /// Chunks one block takes one after the other, and their time: while a block waits, others on
    /// its multiprocessor work, as many as the shared memory has room for.
    pub(super) fn serial_chunks(&self) -> (f64, f64) {
        let device = self.ctx.device;
        let fitted = &device.fitted;
        let Schedule::Chunked(ChunkTile { tile, ahead, .. }) = &self.body.schedule else {
            return (0.0, 0.0);
        };
        if let Sizes::RankOne(tile) = tile {
            return self.serial_rank_one(tile, *ahead);
        }
        let room = device.smem_kb.value * 1024.0 / tile.shared_bytes() as f64;
        let share = (self.blocks as f64 / device.sms.value).ceil();
        let resident = room
            .floor()
            .clamp(1.0, share.clamp(1.0, fitted.chunk_resident.value));
        let waves = (self.blocks as f64 / (resident * device.sms.value)).ceil();
        let chunks = self.ctx.shape.time.div_ceil(tile.chunk()) as f64;
        let pieces = pieces(self.ctx.storage);
        let threads = (32 * tile.warps()) as f64;
        let (chunk_cycles, per_element) = match ahead {
            true => (
                fitted.chunk_ahead_cycles.value,
                fitted.chunk_element_ahead_cycles.value,
            ),
            false => (fitted.chunk_cycles.value, fitted.chunk_element_cycles.value),
        };
        let work = tile.elements() * per_element
            + tile.simt_flops(pieces) * fitted.chunk_flop_cycles.value
            + self.around(tile.chunk(), *ahead);
        let latency = fitted.chunk_latency.value;
        let cycles = (chunk_cycles + work / threads) * (latency + (1.0 - latency) / 2.0 * resident);
        let us = cycles / (device.clock_ghz.value * 1e3);
        (chunks * waves, chunks * waves * us)
    }

    /// Clock cycles, of all threads together, that one chunk of a block spends on the operations
    /// around the recurrence.
    pub(super) fn around(&self, chunk: usize, ahead: bool) -> f64 {
        let graph = self.ctx.graph;
        let uses = self.uses();
        let fitted = &self.ctx.device.fitted;
        let per_load = match ahead {
            true => fitted.around_load_ahead_cycles.value,
            false => fitted.around_load_cycles.value,
        };
        let others = self
            .body
            .ops
            .iter()
            .filter(|id| !self.body.anchors().contains(id));
        others
            .map(|id| {
                let op = graph.op(*id);
                let axes = iteration_axes(graph, op).into_iter();
                let columns: usize = axes.map(|axis| self.extent(axis)).product();
                let times = uses.get(id).copied().unwrap_or(1.0);
                let rows = op.inputs.iter().filter(|access| {
                    graph.value(access.value).rows && !self.produces(access.value)
                });
                // Before the recurrence the first load takes the place of the recurrence's own.
                let loads = rows
                    .count()
                    .saturating_sub(usize::from(uses.contains_key(id)));
                let nothing = Expr::Const(0.0);
                let (expr, more) = match &op.kind {
                    OpKind::Map { expr } => (expr, 0),
                    OpKind::Reduce { expr, .. } => (expr, 1),
                    _ => (&nothing, 5),
                };
                let one = fitted.around_operation_cycles.value * (expr.op_count() + more) as f64
                    + fitted.around_special_cycles.value * special_count(expr) as f64
                    + per_load * loads as f64;
                let sums = match reduced_axes(op) {
                    [] => 0.0,
                    // A warp sums a row while the others do so with theirs.
                    _ => fitted.around_sum_cycles.value * 32.0,
                };
                (columns as f64 * times * one + sums) * chunk as f64
            })
            .sum()
    }
}
