//! Segments: the runs of operations that are planned by themselves, and which of
//! them are equal.
//!
//! A segment is a maximal run of planned operations of one layer (or of none:
//! embedding, head). No kernel spans two, nor two of the [`runs`] that a long one is
//! cut into. Equal segments, such as the layers of a deep model, get one plan; equality is that of a canonical text, so a layer
//! that differs in any constant, shape, name or use is a class of its own.

use crate::chunked;
use crate::context::Context;
use fusec_ir::class::decay_range;
use fusec_ir::{OpId, OpKind, StateId, StateKind, ValueId};
use indexmap::IndexSet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// A run of operations planned by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Layer of its operations, if any.
    pub layer: Option<u32>,
    /// Whether they are computed for one row of each sequence.
    pub one_row: bool,
    /// Ascending.
    pub ops: Vec<OpId>,
    /// Equal for equal segments; numbered by first occurrence.
    pub class: usize,
}

/// Cuts the planned operations into segments: what no layer is needed for, the layers in
/// order, what comes after them, and last what is computed for one row of each sequence. Where
/// the model does not allow that order (a layer that depends on a later one), segments are the runs
/// of operations of one layer as they come.
pub fn segments(ctx: &Context<'_>) -> Vec<Segment> {
    let mut order: Vec<OpId> = ctx.planned().to_vec();
    if let Some(ranks) = ranks(ctx) {
        order.sort_by_key(|id| ranks.get(id).copied());
    }
    let mut out: Vec<Segment> = Vec::new();
    for id in order {
        let (layer, one_row) = (ctx.graph.op(id).layer, ctx.is_of_one_row(id));
        match out.last_mut() {
            Some(last) if (last.layer, last.one_row) == (layer, one_row) => last.ops.push(id),
            _ => out.push(Segment {
                layer,
                one_row,
                ops: vec![id],
                class: 0,
            }),
        }
    }
    let mut classes = BTreeMap::new();
    for segment in &mut out {
        let next = classes.len();
        segment.class = *classes.entry(signature(ctx, &segment.ops)).or_insert(next);
    }
    out
}

/// Cuts a segment of more than `limit` operations into runs of at most so many, each planned by itself:
/// where the fewest values cross, the latest of equals. `held` are ranges of positions that stay in
/// one run, however long.
pub fn runs(
    ctx: &Context<'_>,
    ops: &[OpId],
    limit: usize,
    held: &[Range<usize>],
) -> Vec<Range<usize>> {
    if ops.len() <= limit {
        return std::iter::once(0..ops.len()).collect();
    }
    let crossing = crossing(ctx, ops);
    let may = |cut: &usize| !held.iter().any(|of| of.start < *cut && *cut < of.end);
    let mut out = vec![];
    let mut start = 0;
    while ops.len() - start > limit {
        // Runs of half the limit at least: their number is bounded by that of the operations.
        let near = (start + limit / 2..=start + limit).filter(may);
        let cut = near.min_by_key(|cut| (crossing[*cut], Reverse(*cut)));
        let cut = cut.or_else(|| (start + limit + 1..ops.len()).find(may));
        let Some(cut) = cut else { break };
        out.push(start..cut);
        start = cut;
    }
    out.push(start..ops.len());
    out
}

/// For each position, how many values are made before it and read from it on.
fn crossing(ctx: &Context<'_>, ops: &[OpId]) -> Vec<usize> {
    let mut change = vec![0i64; ops.len() + 2];
    for (i, id) in ops.iter().enumerate() {
        for value in &ctx.graph.op(*id).outputs {
            let readers = ctx.readers(*value).iter();
            let last = readers.filter_map(|r| ops.binary_search(r).ok()).max();
            if let Some(last) = last.filter(|last| *last > i) {
                change[i + 1] += 1;
                change[last + 1] -= 1;
            }
        }
    }
    let mut open = 0;
    let sums = change.into_iter().map(|c| {
        open += c;
        open.max(0) as usize
    });
    sums.collect()
}

/// 0 for what no layer is needed for, the number of the layer plus 1, and the largest number
/// for what comes after the layers or has one row; `None` if an operation depends on one of a higher
/// rank.
fn ranks(ctx: &Context<'_>) -> Option<BTreeMap<OpId, u64>> {
    let mut ranks: BTreeMap<OpId, u64> = BTreeMap::new();
    for id in ctx.planned() {
        let op = ctx.graph.op(*id);
        let operands = op.inputs.iter();
        let highest = operands
            .filter_map(|a| ctx.graph.producer(a.value))
            .filter_map(|p| ranks.get(&p).copied())
            .max()
            .unwrap_or(0);
        let rank = match op.layer {
            _ if ctx.is_of_one_row(*id) => u64::MAX,
            Some(layer) => u64::from(layer) + 1,
            None if highest == 0 => 0,
            None => u64::MAX,
        };
        if highest > rank {
            return None;
        }
        ranks.insert(*id, rank);
    }
    Some(ranks)
}

/// A canonical text of a group of operations: equal exactly when the groups compute the same
/// with the same names, up to the identity of operands, states and layers.
pub fn signature(ctx: &Context<'_>, ops: &[OpId]) -> String {
    describe(ctx, ops, true)
}

/// The same without names: equal exactly when the groups compute the same, so that any choice of
/// kernels for one is one for the other, at the same cost.
pub fn structure(ctx: &Context<'_>, ops: &[OpId]) -> String {
    describe(ctx, ops, false)
}

fn describe(ctx: &Context<'_>, ops: &[OpId], named: bool) -> String {
    let graph = ctx.graph;
    let mut values: IndexSet<ValueId> = IndexSet::new();
    let mut states: IndexSet<StateId> = IndexSet::new();
    let mut text = String::new();
    // Writing to a string cannot fail; the results are dropped for that reason only.
    let mut put = |args: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(args);
    };
    if ops.first().is_some_and(|id| ctx.is_of_one_row(*id)) {
        put(format_args!("one row\n"));
    }
    for id in ops {
        let op = graph.op(*id);
        if named {
            put(format_args!("{} ", op.name));
        }
        match &op.kind {
            OpKind::Scan {
                recurrence,
                states: of_scan,
            } => {
                put(format_args!("scan {} ", recurrence.0));
                // Whether it can go in chunks depends on what makes its decay, wherever that is.
                let parts = chunked::Parts::of(graph, ctx.classes(), *id).ok();
                let decay = parts.map(|parts| decay_range(graph, *id, parts.found, 0).ok());
                put(format_args!("{decay:?} "));
                for state in of_scan {
                    let n = states.insert_full(*state).0;
                    put(format_args!("{n}:{:?} ", graph.state(*state).kind));
                }
            }
            kind => put(format_args!("{kind:?} ")),
        }
        for access in &op.inputs {
            let (n, new) = values.insert_full(access.value);
            put(format_args!("{n}@{} {:?} ", access.delay, access.index));
            if new {
                let value = graph.value(access.value);
                put(format_args!(
                    "{} {:?} {:?} ",
                    value.rows, value.axes, value.precision
                ));
            }
            if let Some(tail) = access.tail {
                let n = states.insert_full(tail).0;
                put(format_args!("tail {n} "));
            }
        }
        for state in &op.tails {
            let n = states.insert_full(*state).0;
            let StateKind::Tail { value, width } = graph.state(*state).kind else {
                continue;
            };
            let of = values.insert_full(value).0;
            put(format_args!("keeps {n} {of} {width} "));
        }
        for value in &op.outputs {
            let n = values.insert_full(*value).0;
            let of = graph.value(*value);
            let leaves = ctx.is_output(*value)
                || ctx
                    .readers(*value)
                    .iter()
                    .any(|r| ops.binary_search(r).is_err());
            if named {
                put(format_args!("{} ", of.name));
            }
            put(format_args!(
                "-> {n} {:?} {:?} {leaves} ",
                of.axes, of.precision
            ));
        }
        put(format_args!("\n"));
    }
    text
}
