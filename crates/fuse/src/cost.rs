//! The cost model: a roofline per kernel.
//!
//! `max(memory, tensor, simt, special, serial) + launch + latency + underfill`, of a kernel with
//! several phases the sum of what each costs, with one launch for all and a grid barrier between
//! two, with
//!
//! - bytes: operands once, results once, carried state read and written; an activation of at
//!   most half the L2 was just written by another kernel and is read at L2 speed, and so is
//!   whatever several blocks of one kernel read again;
//! - recomputed work: rows before the first one of a block (stencils), prologues that every
//!   block of a product computes for itself, scan prologues that lack a grid axis;
//! - products on tensor cores where the template and the storage type have them, else at the
//!   FP32 rate;
//! - chunks of a recurrence: the products of its pieces on tensor cores, decays outside of them, and
//!   the latency of a chunk, since each waits for the state of the one before;
//! - serial steps: the rows a block walks one after the other, each with the block-wide
//!   exchanges of its reductions, as often as the registers of the GPU make blocks wait for others;
//!   where the rows of a scan come in runs, the latency of a step and the instructions of the blocks
//!   that share a multiprocessor, which overlap in part;
//! - latency: the accesses to memory that wait for each other before and after the bulk of a kernel,
//!   and the rows that the epilogue of a matrix product reads and what it computes, which do not
//!   overlap with it;
//! - under-filled GPU: work shared by fewer blocks than there are multiprocessors.
//!
//! A body is first counted ([`work()`]), then its counts are priced ([`price()`]): recorded counts can be
//! priced again with other figures.
//!
//! Every number that depends on the device, measured or fitted, stands in its file
//! ([`crate::device`]). Numbers that may stand in these modules count something: operations,
//! accesses that wait for each other, elements and threads of a template's layout.

mod chunk_cycles;
mod chunks;
mod lane;
mod price;
mod row_sum;
mod rows;
mod serial;
pub mod work;

pub use price::price;
pub(crate) use price::{Parts, Slowdown};
pub(crate) use rows::{least_row_us, row_terms};
pub use work::Work;

use crate::context::Context;
use crate::plan::{Body, Cost, Phase};
use fusec_ir::{OpId, ValueId};
use lane::Lane;
use price::Sum;
use std::collections::BTreeSet;

/// Predicts the time of the kernel made of `phases`, which run one after the other.
pub fn cost(ctx: &Context<'_>, phases: &[Phase]) -> Cost {
    price(ctx.device, ctx.launch_us, &work(ctx, phases))
}

/// The work of a kernel made of `phases`: of each, that of its subkernels.
pub fn work(ctx: &Context<'_>, phases: &[Phase]) -> Vec<Vec<Work>> {
    let of_phase = |phase: &Phase| {
        let lanes = phase.lanes.iter();
        lanes.map(|body| Lane::new(ctx, body).work()).collect()
    };
    phases.iter().map(of_phase).collect()
}

/// The cheapest of some forms of one kernel, the first of equals, with its cost.
pub fn cheapest(ctx: &Context<'_>, forms: Vec<Vec<Phase>>) -> (Vec<Phase>, Cost) {
    let priced = forms.into_iter().map(|phases| {
        let cost = cost(ctx, &phases);
        (phases, cost)
    });
    priced
        .min_by(|(_, a), (_, b)| a.total_us.total_cmp(&b.total_us))
        .unwrap_or_default()
}

/// What a lane adds, at least, to every kernel that it is part of: whatever another lane may
/// have read before is taken as found in L2, and what another lane may compute as well as
/// stored by that one. `own` are the operations that no other lane can hold; `staged` says that
/// activations of another lane pass through registers.
pub(crate) fn lane_parts(ctx: &Context<'_>, body: &Body, own: &[OpId], staged: bool) -> Parts {
    let graph = ctx.graph;
    let is_own = |id: &OpId| own.binary_search(id).is_ok();
    let mut body = body.clone();
    let maker = |v: &ValueId| graph.producer(*v).is_some_and(|p| is_own(&p));
    body.stores.retain(maker);
    let kept: BTreeSet<_> = own.iter().flat_map(|id| &graph.op(*id).tails).collect();
    body.tails.retain(|s| kept.contains(s));
    let mut read = BTreeSet::new();
    let memory_tbs = ctx.device.memory_tbs.value * ctx.device.fitted.memory_efficiency.value;
    let l2_is_faster = ctx.device.l2_tbs.value >= memory_tbs;
    for id in &body.ops {
        for access in &graph.op(*id).inputs {
            let others = ctx.readers(access.value).iter();
            let elsewhere = others
                .into_iter()
                .any(|r| body.ops.binary_search(r).is_err());
            if (elsewhere || !is_own(id)) && l2_is_faster {
                read.insert(access.value.0);
            }
        }
    }
    let work = Lane::new(ctx, &body).work();
    let mut sum = Sum::default();
    sum.add(ctx.device, &work, staged || work.is_staged(), &mut read);
    sum.least()
}

/// Whether a lane makes activations of products pass through registers, in all lanes of its kernel.
pub(crate) fn is_staged(ctx: &Context<'_>, body: &Body) -> bool {
    Lane::new(ctx, body).work().is_staged()
}
