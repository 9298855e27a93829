//! The counts of a recurrence that goes in chunks.
//!
//! Chunks of one block follow each other: each waits for the state that the one before leaves, and
//! inside it loads, products and the epilogue wait for each other.

use super::lane::Lane;
use super::work::{Chunks, Work};
use crate::chunked::MOST_TOKENS;
use crate::chunked::weighted::{TOKENS, Weighted};
use crate::context::{iteration_axes, reduced_axes, special_count};
use crate::schedule::{ChunkTile, Pass, Schedule};
use fusec_ir::{Access, OpId, OpKind};
use std::collections::BTreeMap;

/// Operations for an element of what is neither a map nor a reduction.
const OF_OTHERS: usize = 5;
/// Threads of a warp.
const WARP: f64 = 32.0;

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
        let rows = self.chunked_rows() * tile.updates;
        let chunks = (self.blocks * rows.div_ceil(tile.chunk)) as f64;
        work.chunk_flops += chunks * tile.tensor_flops();
        work.flops += chunks * tile.simt_flops();
    }

    /// Rows that one block takes.
    pub(super) fn chunked_rows(&self) -> usize {
        if self.weights() {
            return TOKENS;
        }
        let time = self.ctx.shape.time;
        let segments = self.body.schedule.segments();
        segments.map_or(time, |segments| segments.rows(time, MOST_TOKENS))
    }

    /// How often a block reads or writes its state before and after its chunks: that of the last segment is put together
    /// from pairs of a state and a product.
    fn moves_of_state(&self) -> usize {
        if self.weights() {
            return 0;
        }
        match self.body.schedule.segments() {
            Some(segments) if segments.pass == Pass::Results => 2 + 2 * segments.products(),
            _ => 2,
        }
    }

    /// The chunks that one block takes one after the other.
    pub(super) fn chunks(&self, ChunkTile { tile, ahead, .. }: &ChunkTile) -> Chunks {
        let graph = self.ctx.graph;
        // What is computed for an update is needed for that one alone, and what follows once per token.
        let tokens = tile.chunk as f64 / tile.updates as f64;
        let mut chunks = Chunks {
            chunks: (self.chunked_rows() as f64 / tokens).ceil(),
            shared_bytes: tile.shared_bytes() as f64,
            state: (self.moves_of_state() * tile.state_elements()) as f64
                / (WARP * tile.value_warps() as f64),
            ahead: *ahead,
            elements: tile.elements(),
            around: 0.0,
            around_special: 0.0,
            around_loads: 0.0,
            around_parameters: 0.0,
            around_sums: 0.0,
            resident: tile.blocks_by_registers(self.ctx.target.registers) as f64,
            solves: tile.solves(),
            spans: (tile.chunk / tile.span()) as f64,
            subs: tile.subs() as f64,
            token_products: tile.token_products(),
            pairs: tile.pairs(),
            state_products: tile.state_products(),
            value_warps: tile.value_warps() as f64,
            group_products: tile.group_products(),
        };
        let uses = self.uses();
        let is_anchor = |id: &&OpId| self.body.anchors().contains(*id);
        // What is before a walk over weighted rows is not computed again.
        let taken = tile.weighted == Some(Weighted::Takes);
        let own = |id: &&OpId| !(is_anchor(id) || taken && self.is_before(**id));
        for id in self.body.ops.iter().filter(own) {
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
            let of_columns = |access: &&Access| {
                let mut terms = access.index.iter().flat_map(|index| &index.terms);
                !graph.value(access.value).rows && terms.any(|term| self.extent(term.0) > 1)
            };
            let parameters = op.inputs.iter().filter(of_columns).count();
            let (operations, special) = match &op.kind {
                OpKind::Map { expr } => (expr.op_count(), special_count(expr)),
                OpKind::Reduce { expr, .. } => (expr.op_count() + 1, special_count(expr)),
                _ => (OF_OTHERS, 0),
            };
            chunks.around += elements * operations as f64;
            chunks.around_special += elements * special as f64;
            chunks.around_loads += elements * loads as f64;
            chunks.around_parameters += elements * parameters as f64;
            if !reduced_axes(op).is_empty() {
                // A warp sums a row while the others do so with theirs.
                chunks.around_sums += WARP * tokens;
            }
        }
        chunks
    }
}
