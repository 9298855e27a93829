//! Kernels with products or recurrences: lanes, and the kernels that can be made of them.
//!
//! Products that do not depend on each other can run side by side in one launch, each lane with
//! its own prologue and epilogue; so can recurrences. The lanes of a segment are few; the ways to
//! choose some of them are not, so those are never listed. The pricing problem of column generation
//! asks which kernels cost less than their members are worth ([`Lanes::price`]): a search over sets
//! of lanes that leaves out a set, and all larger ones, as soon as a lower bound of their reduced cost
//! is too high. The bound is that of the cost model with what lanes can share taken as free.
//!
//! That every legal group with such anchors, in one phase, is a set of lanes follows from the rules of
//! [`crate::fit`]: a lane holds all that is before its anchors in the kernel and all that is after
//! them, no product depends on another, and recurrences that do are one lane. Kernels of two phases are
//! pairs of lanes ([`super::pairs`]), which are looked at one by one.

use super::columns::{Priced, Pricing, SLACK_US, us};
use super::costs::Costs;
use super::duals::Duals;
use super::pairs::{Pair, pairs};
use crate::bits::Bits;
use crate::board::Board;
use crate::context::Context;
use crate::cost::{Parts, Slowdown, is_staged, lane_parts};
use crate::fit::{LaneForm, product_lane, scan_lane};
use crate::plan::Reject;
use fusec_ir::OpId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Lanes of a segment found before their growth stops.
const LANES: usize = 3000;
/// Sets of lanes looked at in one pricing.
const SETS: usize = 100_000;
/// By how much two sums of the same times may differ, microseconds.
const ROUNDED_US: f64 = 1e-9;

/// The forms of some operations as a lane, or why they are none.
type Bodies<'f> = &'f dyn Fn(&Context<'_>, &[OpId]) -> Result<Vec<LaneForm>, Reject>;

/// One form of a lane of a kernel.
pub(super) struct Lane {
    pub members: Bits,
    /// Anchors, what is after them, and what else no other lane of a kernel has.
    own: Bits,
    /// What is before the anchors: other lanes may compute it as well.
    shared: Bits,
    /// Least additions to any kernel that holds the lane.
    load: Load,
    /// Bodies of lanes with a later first anchor that may run beside this one.
    beside: Bits,
}

/// Times by the unit that takes them.
type Terms = [f64; 6];

/// Times of a kernel with too few blocks to keep the units busy.
fn slowed(terms: &Terms, slowdown: Slowdown) -> Terms {
    let [memory, tensor, simt, instructions, special, serial] = *terms;
    [
        memory * slowdown.memory,
        tensor * slowdown.tensor,
        simt * slowdown.others,
        instructions * slowdown.others,
        special * slowdown.others,
        serial,
    ]
}

fn add(to: &mut Terms, more: &Terms) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += more;
    }
}

/// What lanes add to a kernel.
#[derive(Clone, Copy, Default)]
struct Load {
    /// If no activation of a product passes through registers.
    parts: Parts,
    /// The time of tensor cores if some does.
    staged_us: f64,
    /// Whether one of these lanes' does.
    is_staged: bool,
}

impl Load {
    /// Of one form.
    fn of(ctx: &Context<'_>, LaneForm { body, before }: &LaneForm, own: &[OpId]) -> Load {
        let mut parts = lane_parts(ctx, body, own, false);
        // A phase before the one that lanes share: however many are in it, it takes no less than one of them
        // on a GPU that is filled.
        for before in before {
            let least = lane_parts(ctx, before, own, false);
            parts.latency_us += least.bound() + least.latency_us + ctx.device.grid_barrier_us.value;
        }
        Load {
            parts,
            staged_us: lane_parts(ctx, body, own, true).tensor_us,
            is_staged: is_staged(ctx, body),
        }
    }

    /// Of these lanes beside others.
    fn and(&self, more: &Load) -> Load {
        let (a, b) = (&self.parts, &more.parts);
        Load {
            parts: Parts {
                memory_us: a.memory_us + b.memory_us,
                tensor_us: a.tensor_us + b.tensor_us,
                simt_us: a.simt_us + b.simt_us,
                instructions_us: a.instructions_us + b.instructions_us,
                special_us: a.special_us + b.special_us,
                serial_us: a.serial_us.max(b.serial_us),
                latency_us: a.latency_us.max(b.latency_us),
                blocks: a.blocks + b.blocks,
            },
            staged_us: self.staged_us + more.staged_us,
            is_staged: self.is_staged || more.is_staged,
        }
    }

    /// The time of a kernel of these lanes without its launch.
    fn kernel_us(&self, ctx: &Context<'_>) -> f64 {
        let mut parts = self.parts;
        if self.is_staged {
            parts.tensor_us = self.staged_us;
        }
        parts.slowed(ctx.device) + parts.latency_us
    }

    /// The times that add up over lanes of a kernel, and, last, the one that does not.
    fn terms(&self, staged: bool) -> Terms {
        let tensor_us = match staged {
            true => self.staged_us,
            false => self.parts.tensor_us,
        };
        [
            self.parts.memory_us,
            tensor_us,
            self.parts.simt_us,
            self.parts.instructions_us,
            self.parts.special_us,
            0.0,
        ]
    }

    /// Whether a kernel with these lanes costs no more than the same with others of equal members.
    fn is_no_dearer(&self, other: &Load) -> bool {
        let (a, b) = (&self.parts, &other.parts);
        a.memory_us <= b.memory_us
            && a.tensor_us <= b.tensor_us
            && self.staged_us <= other.staged_us
            && a.simt_us <= b.simt_us
            && a.instructions_us <= b.instructions_us
            && a.special_us <= b.special_us
            && a.serial_us <= b.serial_us
            && a.latency_us <= b.latency_us
            && a.blocks >= b.blocks
    }
}

/// Lanes of one kernel.
struct Set {
    /// Their members.
    union: Bits,
    load: Load,
    /// What the members are worth, microseconds.
    worth: f64,
    /// Lanes that may come to them.
    allowed: Bits,
}

/// What the lanes that may come to a set can save, microseconds.
struct Bound {
    slowdown: Slowdown,
    /// What is before anchors, worth something, and paid for once.
    shared: f64,
    /// By unit, of the lanes of each range and those that follow: what they take less what they are worth.
    gains: Vec<Terms>,
}

/// The lanes of a segment around anchors of one kind.
pub struct Lanes<'b, 'a> {
    board: &'b Board<'a>,
    /// By first anchor.
    lanes: Vec<Lane>,
    /// The times of each: if no activation passes through registers, and if one does. Side by side, since
    /// every bound looks at those of many lanes.
    terms: [Vec<Terms>; 2],
    /// For each anchor, the range of lanes that have it as the first.
    ranges: Vec<Range<usize>>,
    /// Of each lane, which range it is in.
    range_of: Vec<usize>,
    /// Groups of two phases.
    pairs: Vec<Pair>,
    /// Whether all lanes, and all pairs of them, were found.
    complete: bool,
    /// Groups that are no lane, by the rule that forbids them.
    pub rejected: BTreeMap<String, usize>,
}

impl<'b, 'a> Lanes<'b, 'a> {
    /// The lanes around products.
    pub fn of_products(board: &'b Board<'a>) -> Lanes<'b, 'a> {
        let bodies =
            |ctx: &Context<'_>, ops: &[OpId]| product_lane(ctx, ops).map(|b| vec![b.into()]);
        let mut lanes = Lanes::grow(board, board.products(), board.recurrences(), &bodies);
        let (found, all) = pairs(board, &lanes.lanes);
        lanes.pairs = found;
        lanes.complete &= all;
        lanes
    }

    /// The lanes around recurrences.
    pub fn of_recurrences(board: &'b Board<'a>) -> Lanes<'b, 'a> {
        Lanes::grow(board, board.recurrences(), board.products(), &scan_lane)
    }

    /// Grows lanes from single anchors along edges; `never` are operations of no such lane.
    fn grow(
        board: &'b Board<'a>,
        anchors: &Bits,
        never: &Bits,
        bodies: Bodies<'_>,
    ) -> Lanes<'b, 'a> {
        let _span = tracing::debug_span!("lanes").entered();
        let mut rejected = BTreeMap::new();
        let mut complete = true;
        let mut seen: BTreeSet<Bits> = BTreeSet::new();
        let mut queue: VecDeque<Bits> = VecDeque::new();
        let mut found: Vec<Lane> = Vec::new();
        let mut sets = 0;
        for i in anchors.iter() {
            let set = Bits::of(board.len(), [i]);
            seen.insert(set.clone());
            queue.push_back(set);
        }
        while let Some(set) = queue.pop_front() {
            let bodies = match bodies(board.ctx, &board.ops_of(&set)) {
                Ok(bodies) => bodies,
                Err(reject) => {
                    *rejected.entry(reject.rule).or_default() += 1;
                    continue;
                }
            };
            if sets == LANES {
                complete = false;
                break;
            }
            sets += 1;
            for i in board.beside(&set, never).iter() {
                let mut grown = set.clone();
                grown.insert(i);
                let grown = board.convex(grown);
                if !grown.meets(never) && !board.is_hopeless(&grown) && seen.insert(grown.clone()) {
                    queue.push_back(grown);
                }
            }
            found.extend(lanes_of(board, anchors, set, &bodies));
        }
        let first = |lane: &Lane| {
            let mut of = lane.members.clone();
            of.intersect(anchors);
            of.iter().next()
        };
        found.sort_by_cached_key(|lane| (first(lane), lane.members.len(), lane.members.clone()));
        let mut ranges: Vec<Range<usize>> = vec![];
        for (l, lane) in found.iter().enumerate() {
            match ranges.last_mut() {
                Some(last) if first(&found[last.start]) == first(lane) => last.end = l + 1,
                _ => ranges.push(l..l + 1),
            }
        }
        for range in &ranges {
            for a in range.clone() {
                let later = range.end..found.len();
                let beside = later.filter(|b| fits_beside(board, &found[a], &found[*b]));
                found[a].beside = Bits::of(found.len(), beside);
            }
        }
        let terms = |staged| found.iter().map(|lane| lane.load.terms(staged)).collect();
        Lanes {
            board,
            terms: [false, true].map(terms),
            range_of: (0..)
                .zip(&ranges)
                .flat_map(|(r, range)| range.clone().map(move |_| r))
                .collect(),
            lanes: found,
            ranges,
            pairs: vec![],
            complete,
            rejected,
        }
    }

    /// The kernels whose reduced cost is under `limit` picoseconds, the `most` of least.
    pub fn price(&self, duals: &Duals, costs: &mut Costs, limit: i64, most: usize) -> Priced {
        let _span = tracing::debug_span!("pricing of lanes").entered();
        let all = Bits::of(self.lanes.len(), 0..self.lanes.len());
        let own = |lane: &Lane| us(lane.own.iter().map(|i| duals.of[i]).sum());
        let own: Vec<f64> = self.lanes.iter().map(own).collect();
        let mut pricing = Pricing::new(duals, costs, limit, most, SETS);
        let none = Set {
            union: Bits::empty(self.board.len()),
            load: Load::default(),
            worth: 0.0,
            allowed: all,
        };
        if !none.allowed.is_empty() {
            self.extend(&mut pricing, &own, &none);
        }
        for pair in &self.pairs {
            let least = us(1000 * pair.least - duals.worth(self.board, &pair.members));
            pricing.keep(self.board, least, &pair.members);
        }
        pricing.done(self.board, self.complete)
    }

    /// Looks at the sets of lanes that a set can grow to.
    fn extend(&self, pricing: &mut Pricing<'_>, own: &[f64], set: &Set) {
        let ctx = self.board.ctx;
        let bound = self.bound(pricing.duals, own, set);
        let least = self.least(set, &bound, 0);
        if least >= pricing.limit_us || !pricing.step(least) {
            return;
        }
        for l in set.allowed.iter() {
            let lane = &self.lanes[l];
            let mut union = set.union.clone();
            union.union(&lane.members);
            let load = set.load.and(&lane.load);
            let worth = us(pricing.duals.worth(self.board, &union));
            let least = ctx.launch_us + load.kernel_us(ctx) - worth - SLACK_US;
            pricing.keep(self.board, least, &union);
            let mut allowed = set.allowed.clone();
            allowed.intersect(&lane.beside);
            if allowed.is_empty() {
                continue;
            }
            let grown = Set {
                union,
                load,
                worth,
                allowed,
            };
            // What bounds the smaller set bounds the larger one: fewer lanes may come, to a kernel that is
            // slowed down no less. That saves most of the bounds that follow.
            let same = grown.load.is_staged == set.load.is_staged;
            let quick = self.least(&grown, &bound, self.range_of[l] + 1);
            if !same || quick < pricing.limit_us + ROUNDED_US {
                self.extend(pricing, own, &grown);
            }
        }
    }

    /// What lanes that may still come to a set can save.
    fn bound(&self, duals: &Duals, own: &[f64], set: &Set) -> Bound {
        let ctx = self.board.ctx;
        let mut blocks = set.load.parts.blocks;
        let mut before = Bits::empty(self.board.len());
        let mut lanes = set.allowed.iter().peekable();
        for range in &self.ranges {
            let mut most = 0;
            while let Some(l) = lanes.next_if(|l| range.contains(l)) {
                most = most.max(self.lanes[l].load.parts.blocks);
                before.union(&self.lanes[l].shared);
            }
            blocks += most;
        }
        before.subtract(&set.union);
        let slowdown = Parts::slowdown(ctx.device, blocks);
        let terms = &self.terms[usize::from(set.load.is_staged)];
        // Of each range, and then of it and all that follow.
        let mut gains = vec![Terms::default(); self.ranges.len() + 1];
        let mut lanes = set.allowed.iter().peekable();
        for (range, best) in self.ranges.iter().zip(&mut gains) {
            while let Some(l) = lanes.next_if(|l| range.contains(l)) {
                let terms = slowed(&terms[l], slowdown);
                for (best, term) in best.iter_mut().zip(terms) {
                    *best = best.min(term - own[l]);
                }
            }
        }
        let mut all = Terms::default();
        for best in &gains {
            add(&mut all, best);
        }
        for at in (1..self.ranges.len()).rev() {
            let after = gains[at + 1];
            add(&mut gains[at], &after);
        }
        // In the order of lanes, which rounds as the sum of a kernel of them does.
        gains[0] = all;
        Bound {
            slowdown,
            // Cuts that more lanes would meet only raise the cost.
            shared: before.iter().map(|i| us(duals.of[i]).max(0.0)).sum(),
            gains,
        }
    }

    /// A lower bound of the reduced cost of every kernel made of a set and of lanes that may come to it, in
    /// microseconds, if all of these are in the ranges from one on.
    fn least(&self, set: &Set, bound: &Bound, range: usize) -> f64 {
        let ctx = self.board.ctx;
        let load = &set.load;
        let mut base = slowed(&load.terms(load.is_staged), bound.slowdown);
        base[5] = load.parts.serial_us;
        let gains = &bound.gains[range];
        let least = (base.iter().zip(gains)).map(|(base, gain)| base + gain);
        ctx.launch_us + load.parts.latency_us + least.fold(f64::NEG_INFINITY, f64::max)
            - set.worth
            - bound.shared
            - SLACK_US
    }
}

/// The lanes of some members, one for each body that may be the cheapest in some kernel.
fn lanes_of(board: &Board<'_>, anchors: &Bits, members: Bits, bodies: &[LaneForm]) -> Vec<Lane> {
    let mut shared = Bits::empty(board.len());
    let mut of = members.clone();
    of.intersect(anchors);
    for i in of.iter() {
        shared.union(board.before(i));
    }
    shared.intersect(&members);
    shared.subtract(&of);
    let mut own = members.clone();
    own.subtract(&shared);
    let of_own = board.ops_of(&own);
    let mut loads: Vec<Load> = vec![];
    for body in bodies {
        let load = Load::of(board.ctx, body, &of_own);
        if !loads.iter().any(|known| known.is_no_dearer(&load)) {
            loads.retain(|known| !load.is_no_dearer(known));
            loads.push(load);
        }
    }
    let lane = |load| Lane {
        members: members.clone(),
        own: own.clone(),
        shared: shared.clone(),
        load,
        beside: Bits::empty(0),
    };
    loads.into_iter().map(lane).collect()
}

/// Whether two lanes may be lanes of one kernel: neither needs anything that only the other
/// computes.
fn fits_beside(board: &Board<'_>, a: &Lane, b: &Lane) -> bool {
    if a.own.meets(&b.members) || b.own.meets(&a.members) {
        return false;
    }
    let needs = |lane: &Lane, other: &Lane| {
        let mut only = other.members.clone();
        only.subtract(&lane.members);
        lane.members.iter().any(|i| board.before(i).meets(&only))
    };
    !needs(a, b) && !needs(b, a)
}
