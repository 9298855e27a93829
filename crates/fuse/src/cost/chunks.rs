//! The terms of a recurrence that goes in chunks.
//!
//! Chunks of one block follow each other: each waits for the state that the one before leaves, and
//! inside it loads, products and the epilogue wait for each other. Their time is an estimate in clock
//! cycles per thread, set by what was measured.

use super::{Lane, Work};
use crate::chunked::{Sizes, pieces};
use crate::context::{iteration_axes, reduced_axes, special_count};
use crate::schedule::{ChunkTile, Schedule};
use fusec_ir::{Expr, OpId, OpKind};
use std::collections::BTreeMap;

/// Clock cycles of the barriers of one chunk of a recurrence.
const CHUNK_CYCLES: f64 = 4000.0;
/// The same where rows arrive ahead of time, with the copies and what no load hides any more. With
/// the others, 128 x 64 states take what they take on an H100: 1.08 ms at B = 8, T = 2048, 64 heads.
const CHUNK_CYCLES_AHEAD: f64 = 8500.0;
/// Clock cycles of one element that a thread loads or stores for a chunk, its latency shared with
/// the elements in flight beside it.
const CYCLES_PER_ELEMENT: f64 = 300.0;
/// The same of an element whose row is in shared memory by then.
const CYCLES_PER_ELEMENT_AHEAD: f64 = 60.0;
/// Clock cycles of one floating-point operation of a thread of a chunk, with the loads from shared
/// memory that it waits for. With the two above, and two blocks to a multiprocessor, 64 x 64 states
/// take what they take on an H200: 0.65 to 0.8 ms at B = 8, T = 2048, 32 heads.
const CYCLES_PER_FLOP: f64 = 18.0;
/// Part of the time of two blocks that share a multiprocessor which is latency: it stays when there
/// are more, or one.
const LATENCY: f64 = 0.35;
/// Most blocks whose registers fit one multiprocessor.
const MOST_RESIDENT: f64 = 4.0;
/// Clock cycles of an operation on registers around the recurrence, of a special function, and of
/// one more load beside those of an operation's first operand.
const CYCLES_AROUND: (f64, f64, f64) = (4.0, 20.0, 75.0);
/// The same load of a row that is in shared memory by then.
const CYCLES_PER_LOAD_AHEAD: f64 = 15.0;
/// Clock cycles of a sum over a warp.
const CYCLES_PER_SUM: f64 = 150.0;

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
        let Schedule::Chunked(ChunkTile { tile, ahead, .. }) = &self.body.schedule else {
            return (0.0, 0.0);
        };
        if let Sizes::RankOne(tile) = tile {
            return self.serial_rank_one(tile, *ahead);
        }
        let room = device.smem_kb.value * 1024.0 / tile.shared_bytes() as f64;
        let share = (self.blocks as f64 / device.sms.value).ceil();
        let resident = room.floor().clamp(1.0, share.clamp(1.0, MOST_RESIDENT));
        let waves = (self.blocks as f64 / (resident * device.sms.value)).ceil();
        let chunks = self.ctx.shape.time.div_ceil(tile.chunk()) as f64;
        let pieces = pieces(self.ctx.storage);
        let threads = (32 * tile.warps()) as f64;
        let (chunk_cycles, per_element) = match ahead {
            true => (CHUNK_CYCLES_AHEAD, CYCLES_PER_ELEMENT_AHEAD),
            false => (CHUNK_CYCLES, CYCLES_PER_ELEMENT),
        };
        let work = tile.elements() * per_element
            + tile.simt_flops(pieces) * CYCLES_PER_FLOP
            + self.around(tile.chunk(), *ahead);
        let cycles = (chunk_cycles + work / threads) * (LATENCY + (1.0 - LATENCY) / 2.0 * resident);
        let us = cycles / (device.clock_ghz.value * 1e3);
        (chunks * waves, chunks * waves * us)
    }

    /// Clock cycles, of all threads together, that one chunk of a block spends on the operations
    /// around the recurrence.
    pub(super) fn around(&self, chunk: usize, ahead: bool) -> f64 {
        let graph = self.ctx.graph;
        let uses = self.uses();
        let (per_operation, per_function, per_load) = CYCLES_AROUND;
        let per_load = match ahead {
            true => CYCLES_PER_LOAD_AHEAD,
            false => per_load,
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
                let one = per_operation * (expr.op_count() + more) as f64
                    + per_function * special_count(expr) as f64
                    + per_load * loads as f64;
                let sums = match reduced_axes(op) {
                    [] => 0.0,
                    // A warp sums a row while the others do so with theirs.
                    _ => CYCLES_PER_SUM * 32.0,
                };
                (columns as f64 * times * one + sums) * chunk as f64
            })
            .sum()
    }
}
