//! The counts of a recurrence that goes in chunks.
//!
//! Chunks of one block follow each other: each waits for the state that the one before leaves, and
//! inside it loads, products and the epilogue wait for each other.

use super::lane::Lane;
use super::work::{Chunks, Work};
use crate::chunked::{Sizes, pieces};
use crate::context::{iteration_axes, reduced_axes, special_count};
use crate::schedule::segments::SegmentPhase;
use crate::schedule::{ChunkTile, Schedule};
use fusec_ir::{OpId, OpKind};
use std::collections::BTreeMap;

/// Operations for an element of what is neither a map nor a reduction.
const OF_OTHERS: usize = 5;
/// Threads of a warp.
const WARP: f64 = 32.0;

/// Which phase of a recurrence in segments it is.
fn phase(chunk: &ChunkTile) -> Option<SegmentPhase> {
    chunk.segments.map(|segments| segments.phase)
}

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
        let Schedule::Chunked(chunk) = &self.body.schedule else {
            return;
        };
        let chunks = self.blocks as f64 * self.rows_in_turn(chunk) / chunk.tile.chunk() as f64;
        let pieces = pieces(self.ctx.storage);
        match (phase(chunk), chunk.tile) {
            (Some(SegmentPhase::Composition), _) => {
                // A product and a sum for each element of each segment.
                work.flops += 2.0 * (self.blocks * chunk.tile.state_elements()) as f64;
            }
            (Some(SegmentPhase::States), Sizes::Outer(tile)) => {
                work.chunk_flops += chunks * tile.state_tensor_flops(pieces);
                work.flops += chunks * tile.state_simt_flops(pieces);
            }
            _ => {
                work.chunk_flops += chunks * chunk.tile.tensor_flops(pieces);
                work.flops += chunks * chunk.tile.simt_flops(pieces);
            }
        }
    }

    /// Rows that one block takes one after the other: whole chunks.
    fn rows_in_turn(&self, chunk: &ChunkTile) -> f64 {
        let time = self.ctx.shape.time;
        let rows = chunk.segments.map_or(time, |of| of.rows(time).min(time));
        rows.next_multiple_of(chunk.tile.chunk()) as f64
    }

    /// What the phases of a recurrence in segments pass on, of this phase: bytes that it reads, and
    /// bytes that it writes.
    pub(super) fn passed_on(&self) -> (f64, f64) {
        let Schedule::Chunked(chunk) = &self.body.schedule else {
            return (0.0, 0.0);
        };
        let elements = chunk.tile.state_elements() + chunk.tile.key();
        let all = 4.0 * (self.blocks * elements) as f64;
        match phase(chunk) {
            None => (0.0, 0.0),
            Some(SegmentPhase::States) => (0.0, all),
            Some(SegmentPhase::Composition) => (all, all),
            Some(SegmentPhase::Results) => (all, 0.0),
        }
    }

    /// What of its states a phase of a recurrence reads and writes: 2 if both.
    pub(super) fn states_moved(&self) -> f64 {
        match &self.body.schedule {
            Schedule::Chunked(chunk) => match phase(chunk) {
                None => 2.0,
                Some(SegmentPhase::States) => 0.0,
                Some(SegmentPhase::Composition | SegmentPhase::Results) => 1.0,
            },
            _ => 2.0,
        }
    }

    /// Whether it only composes the states of segments.
    pub(super) fn composes(&self) -> bool {
        let Schedule::Chunked(chunk) = &self.body.schedule else {
            return false;
        };
        phase(chunk) == Some(SegmentPhase::Composition)
    }

    /// The chunks that one block takes one after the other.
    pub(super) fn chunks(&self, chunk: &ChunkTile) -> Chunks {
        let ChunkTile { tile, ahead, .. } = chunk;
        let graph = self.ctx.graph;
        let tokens = tile.chunk() as f64;
        let mut chunks = Chunks {
            chunks: self.rows_in_turn(chunk) / tokens,
            shared_bytes: tile.shared_bytes() as f64,
            state: 2.0 * tile.state_elements() as f64,
            ahead: *ahead,
            elements: tile.elements(),
            flops: tile.simt_flops(pieces(self.ctx.storage)),
            around: 0.0,
            around_special: 0.0,
            around_loads: 0.0,
            around_sums: 0.0,
            factor: match tile {
                Sizes::Outer(_) => None,
                Sizes::RankOne(tile) => Some(self.factor(tile)),
            },
        };
        if let (Some(SegmentPhase::States), Sizes::Outer(tile)) = (phase(chunk), tile) {
            chunks.elements = tile.state_elements_of_chunk();
            chunks.flops = tile.state_simt_flops(pieces(self.ctx.storage));
        }
        let uses = self.uses();
        let is_anchor = |id: &&OpId| self.body.anchors().contains(*id);
        for id in self.body.ops.iter().filter(|id| !is_anchor(id)) {
            let op = graph.op(*id);
            let axes = iteration_axes(graph, op).into_iter();
            let columns: usize = axes.map(|axis| self.extent(axis)).product();
            let times = uses.get(id).copied().unwrap_or(1.0);
            let elements = columns as f64 * times * tokens;
            let rows = op
                .inputs
                .iter()
                .filter(|access| graph.value(access.value).rows && !self.produces(access.value));
            // Before the recurrence the first load takes the place of the recurrence's own.
            let loads = rows
                .count()
                .saturating_sub(usize::from(uses.contains_key(id)));
            let (operations, special) = match &op.kind {
                OpKind::Map { expr } => (expr.op_count(), special_count(expr)),
                OpKind::Reduce { expr, .. } => (expr.op_count() + 1, special_count(expr)),
                _ => (OF_OTHERS, 0),
            };
            chunks.around += elements * operations as f64;
            chunks.around_special += elements * special as f64;
            chunks.around_loads += elements * loads as f64;
            if !reduced_axes(op).is_empty() {
                // A warp sums a row while the others do so with theirs.
                chunks.around_sums += WARP * tokens;
            }
        }
        chunks
    }
}
