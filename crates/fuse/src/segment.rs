//! Segments: the runs of operations that are planned by themselves, and which of
//! them are equal.
//!
//! A segment is a maximal run of planned operations of one layer (or of none:
//! embedding, head). No kernel spans two. Equal segments, such as the layers of
//! a deep model, get one plan; equality is that of a canonical text, so a layer
//! that differs in any constant, shape, name or use is a class of its own.

use crate::context::Context;
use fusec_ir::{OpId, OpKind, StateId, StateKind, ValueId};
use indexmap::IndexSet;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A run of operations planned by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Layer of its operations, if any.
    pub layer: Option<u32>,
    /// Ascending.
    pub ops: Vec<OpId>,
    /// Equal for equal segments; numbered by first occurrence.
    pub class: usize,
}

/// Cuts the planned operations into segments: what no layer is needed for, the layers in
/// order, and what comes after them. Where the model does not allow that order (a layer that
/// depends on a later one), segments are the runs of operations of one layer as they come.
pub fn segments(ctx: &Context<'_>) -> Vec<Segment> {
    let mut order: Vec<OpId> = ctx.planned().to_vec();
    if let Some(ranks) = ranks(ctx) {
        order.sort_by_key(|id| ranks.get(id).copied());
    }
    let mut out: Vec<Segment> = Vec::new();
    for id in order {
        let layer = ctx.graph.op(id).layer;
        match out.last_mut() {
            Some(last) if last.layer == layer => last.ops.push(id),
            _ => out.push(Segment {
                layer,
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

/// 0 for what no layer is needed for, the number of the layer plus 1, and the largest number
/// for what comes after the layers; `None` if an operation depends on one of a higher rank.
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
    let graph = ctx.graph;
    let mut values: IndexSet<ValueId> = IndexSet::new();
    let mut states: IndexSet<StateId> = IndexSet::new();
    let mut text = String::new();
    // Writing to a string cannot fail; the results are dropped for that reason only.
    let mut put = |args: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(args);
    };
    for id in ops {
        let op = graph.op(*id);
        put(format_args!("{} ", op.name));
        match &op.kind {
            OpKind::Scan {
                recurrence,
                states: of_scan,
            } => {
                put(format_args!("scan {} ", recurrence.0));
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
            put(format_args!(
                "-> {n} {} {:?} {:?} {leaves} ",
                of.name, of.axes, of.precision
            ));
        }
        put(format_args!("\n"));
    }
    text
}
