//! Kernels of rows: nothing heavier than a row in them.
//!
//! Such groups grow one operation at a time along shared values, and large blocks have hundreds of
//! thousands of them. The pricing problem looks for those that cost less than their members are worth:
//! each group is met once, by whether each neighbour is in it or not, and a branch ends when a lower
//! bound of the reduced cost is too high. The bound takes what a row kernel costs at least and the
//! memory traffic that no operation still to come can take away ([`crate::cost::RowTerms`]).

use super::columns::{Priced, Pricing, SLACK_US, us};
use super::costs::Costs;
use super::duals::Duals;
use crate::bits::Bits;
use crate::board::Board;
use crate::cost::{least_row_us, row_terms};
use fusec_ir::ValueId;
use std::collections::BTreeMap;

/// Groups looked at in one pricing.
const GROUPS: usize = 200_000;

/// The operations of a segment that row kernels are made of.
pub struct Rows<'b, 'a> {
    board: &'b Board<'a>,
    /// Those operations.
    all: Bits,
    ops: Vec<Option<RowOp>>,
    /// What a row kernel takes before its memory traffic, and in all, microseconds.
    start_us: f64,
    least_us: f64,
    /// Operations that read each value read, by its number.
    readers: Vec<usize>,
}

/// What bounds ask of an operation.
struct RowOp {
    /// Operations that may be in a row kernel with it.
    compatible: Bits,
    /// Microseconds of what every kernel with it reads and writes.
    always_us: f64,
    /// For each value read: its number, the operation of the segment that makes it, microseconds.
    reads: Vec<(usize, Option<usize>, f64)>,
    /// For each value made that need not be stored: who reads it, and microseconds.
    stores: Vec<(Bits, f64)>,
}

impl<'b, 'a> Rows<'b, 'a> {
    /// Prepares the operations of a segment.
    pub fn new(board: &'b Board<'a>) -> Rows<'b, 'a> {
        let ctx = board.ctx;
        let n = board.len();
        let all = board.rows();
        let (start_us, least_us) = least_row_us(ctx);
        let mut numbers: BTreeMap<ValueId, usize> = BTreeMap::new();
        let mut readers = vec![];
        let mut ops: Vec<Option<RowOp>> = vec![];
        for i in 0..n {
            if !all.contains(i) {
                ops.push(None);
                continue;
            }
            let joins = |j: &usize| all.contains_all(&board.closed(Bits::of(n, [i, *j])));
            let terms = row_terms(ctx, board.ops[i]);
            let mut op = RowOp {
                compatible: Bits::of(n, all.iter().filter(joins)),
                always_us: terms.always_us,
                reads: vec![],
                stores: vec![],
            };
            for (value, us) in terms.reads {
                let next = readers.len();
                let number = *numbers.entry(value).or_insert(next);
                if number == next {
                    readers.push(0);
                }
                readers[number] += 1;
                let maker = ctx.graph.producer(value).and_then(|id| board.position(id));
                op.reads.push((number, maker, us));
            }
            for (value, us) in terms.stores {
                let by = ctx.readers(value).iter().map(|id| board.position(*id));
                let by: Option<Vec<usize>> = by.collect();
                match by {
                    Some(by) if !ctx.is_output(value) => {
                        op.stores.push((Bits::of(n, by), us));
                    }
                    _ => op.always_us += us,
                }
            }
            ops.push(Some(op));
        }
        Rows {
            board,
            all,
            ops,
            start_us,
            least_us,
            readers,
        }
    }

    /// The kernels whose reduced cost is under `limit` picoseconds, the `most` of least.
    pub fn price(&self, duals: &Duals, costs: &mut Costs, limit: i64, most: usize) -> Priced {
        let _span = tracing::debug_span!("pricing of rows").entered();
        let mut pricing = Pricing::new(duals, costs, limit, most, GROUPS);
        let mut excluded = Bits::empty(self.board.len());
        for i in self.all.iter() {
            let start = self.board.atom(i);
            if self.all.contains_all(start) && !start.meets(&excluded) {
                let may = self.ops[i].as_ref().map(|op| op.compatible.clone());
                self.extend(
                    &mut pricing,
                    start,
                    may.unwrap_or_else(|| start.clone()),
                    &excluded,
                );
            }
            excluded.insert(i);
        }
        pricing.done(self.board, true)
    }

    /// Looks at a group, and at those with more operations of `may` that are not `excluded`.
    fn extend(&self, pricing: &mut Pricing<'_>, group: &Bits, may: Bits, excluded: &Bits) {
        let worth = us(pricing.duals.worth(self.board, group));
        let alone = self.least(pricing.duals, group, group, worth);
        pricing.keep(self.board, alone, group);
        let mut frontier = self.board.near(group);
        frontier.intersect(&may);
        frontier.subtract(group);
        frontier.subtract(excluded);
        let mut excluded = excluded.clone();
        for i in frontier.iter() {
            let reach = self.reach(group, &may, &excluded);
            let least = self.least(pricing.duals, group, &reach, worth);
            if least >= pricing.limit_us || !pricing.step(least) {
                return;
            }
            let mut grown = group.clone();
            grown.union(self.board.atom(i));
            let grown = self.board.closed(grown);
            if self.all.contains_all(&grown) && !grown.meets(&excluded) {
                let mut may = may.clone();
                for j in grown.iter() {
                    if let Some(op) = &self.ops[j] {
                        may.intersect(&op.compatible);
                    }
                }
                self.extend(pricing, &grown, may, &excluded);
            }
            excluded.insert(i);
        }
    }

    /// The group with what can still come to it.
    fn reach(&self, group: &Bits, may: &Bits, excluded: &Bits) -> Bits {
        let mut reach = group.clone();
        loop {
            let mut more = self.board.near(&reach);
            more.intersect(may);
            more.subtract(excluded);
            more.subtract(&reach);
            if more.is_empty() {
                return reach;
            }
            reach.union(&more);
        }
    }

    /// A lower bound of the reduced cost of every kernel with all of `group` and some of `reach`, in
    /// microseconds. `worth` is what the group is worth.
    fn least(&self, duals: &Duals, group: &Bits, reach: &Bits, worth: f64) -> f64 {
        let mut read = vec![0.0f64; self.readers.len()];
        let mut traffic_us = 0.0;
        let stored = |op: &RowOp| -> f64 {
            let needed = op.stores.iter().filter(|(by, _)| !reach.contains_all(by));
            needed.map(|(_, us)| us).sum()
        };
        let outside = |maker: &Option<usize>| maker.is_none_or(|m| !reach.contains(m));
        for op in group.iter().filter_map(|i| self.ops[i].as_ref()) {
            traffic_us += op.always_us + stored(op);
            for (value, maker, us) in &op.reads {
                if outside(maker) {
                    // Parts of one value may be the same part.
                    traffic_us += (us - read[*value]).max(0.0);
                    read[*value] = us.max(read[*value]);
                }
            }
        }
        // What may come is worth this much, and beyond its own traffic.
        let (mut gain_us, mut net_us) = (0.0, 0.0);
        let mut more = reach.clone();
        more.subtract(group);
        for i in more.iter() {
            let Some(op) = &self.ops[i] else { continue };
            let value_us = us(duals.of[i]);
            let reads = op.reads.iter().filter(|(_, maker, _)| outside(maker));
            let reads: f64 = reads
                .map(|(value, _, us)| match read[*value] > 0.0 {
                    true => 0.0,
                    false => us / self.readers[*value] as f64,
                })
                .sum();
            gain_us += value_us.max(0.0);
            net_us += (value_us - op.always_us - stored(op) - reads).max(0.0);
        }
        (self.least_us - gain_us).max(self.start_us + traffic_us - net_us) - worth - SLACK_US
    }
}
