//! What a row kernel costs at least, by the operations in it.
//!
//! Exact selection leaves out groups of rows whose least cost is too high, without looking at them
//! one by one. So nothing here may exceed what [`super::cost`] says of any kernel.

use super::cost;
use super::lane::Lane;
use crate::context::Context;
use crate::fit::row_runs;
use crate::plan::{Body, Phase, Roles};
use crate::schedule::walk::THREADS;
use crate::schedule::{RowTile, Schedule};
use fusec_ir::{OpId, OpKind, StateKind, ValueId};

/// Times of the memory traffic of an operation in a row kernel, microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowTerms {
    /// What no other operation takes away: stencil tails, read and kept.
    pub always_us: f64,
    /// Values read, each with its time if no operation of the kernel makes it.
    pub reads: Vec<(ValueId, f64)>,
    /// Values made, each with its time if it is needed outside of the kernel.
    pub stores: Vec<(ValueId, f64)>,
}

/// The terms of an operation.
pub(crate) fn row_terms(ctx: &Context<'_>, id: OpId) -> RowTerms {
    let (graph, device) = (ctx.graph, ctx.device);
    let op = graph.op(id);
    let body = row_body(vec![id], 1);
    let lane = Lane::new(ctx, &body);
    let memory_tbs = device.memory_tbs.value * device.fitted.memory_efficiency.value;
    let from_memory = |bytes: f64| bytes / memory_tbs / 1e6;
    let from_l2 = |bytes: f64| bytes / device.l2_tbs.value / 1e6;
    let l2 = device.l2_mb.value * 1e6 * device.fitted.l2_share.value;
    let mut terms = RowTerms::default();
    for access in &op.inputs {
        if let Some(tail) = access.tail {
            terms.always_us += from_memory(lane.state_bytes(tail));
        }
        let value = access.value;
        let bytes = ctx.value_bytes(value) * lane.touched(op, access);
        let is_warm = graph.value(value).rows && ctx.value_bytes(value) <= l2;
        let us = match is_warm {
            true => from_l2(bytes),
            false => from_memory(bytes),
        };
        match terms.reads.iter_mut().find(|(of, _)| *of == value) {
            Some(known) => known.1 = us.max(known.1),
            None => terms.reads.push((value, us)),
        }
    }
    for tail in &op.tails {
        if matches!(graph.state(*tail).kind, StateKind::Tail { .. }) {
            terms.always_us += from_memory(lane.state_bytes(*tail));
        }
    }
    debug_assert!(!matches!(
        op.kind,
        OpKind::Scan { .. } | OpKind::Attend { .. } | OpKind::LastRow | OpKind::Scatter { .. }
    ));
    terms.stores = op
        .outputs
        .iter()
        .map(|v| (*v, from_memory(ctx.value_bytes(*v))))
        .collect();
    terms
}

/// What a row kernel takes before any memory traffic, and what it takes in all, at least, microseconds:
/// a launch and a trip to memory, and with the rows that a block walks.
pub(crate) fn least_row_us(ctx: &Context<'_>) -> (f64, f64) {
    let of_runs = |rows: u32| {
        let lanes = vec![row_body(vec![], rows)];
        cost(ctx, &[Phase { lanes }])
    };
    let costs: Vec<_> = row_runs(ctx).into_iter().map(of_runs).collect();
    let least =
        |of: &dyn Fn(&crate::plan::Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    (
        least(&|cost| cost.launch_us + cost.latency_us),
        least(&|cost| cost.total_us),
    )
}

/// A body that has no more in it than it must.
fn row_body(ops: Vec<OpId>, rows: u32) -> Body {
    Body {
        roles: Roles::default(),
        ops,
        stores: vec![],
        streamed: vec![],
        tails: vec![],
        schedule: Schedule::Row(RowTile {
            grid: vec![],
            rows,
            // More of the smallest blocks share a multiprocessor than of any other.
            threads: THREADS.0 as u32,
        }),
    }
}
