//! Candidates with products: lanes, and the kernels that can be made of them.
//!
//! Products that do not depend on each other can run side by side in one launch, each lane with
//! its own prologue and epilogue. The lanes of a segment are few; the ways to choose some of them
//! are not, so those are never listed. What is asked of them instead is which kernels cost less
//! than the prices of their operations allow ([`Lanes::hunt`]): a search over sets of lanes
//! that leaves out a set, and all larger ones, as soon as a lower bound of the cost exceeds the
//! highest price. The bound is that of the cost model with what lanes can share taken as free.
//!
//! That every legal group with products, in one phase, is a set of such lanes follows from the rules
//! of [`crate::fit`]: a lane holds all that is before its products in the kernel and all that is after
//! them, an epilogue reads no prologue, and no product depends on another. Kernels of two phases are
//! pairs of lanes ([`super::pairs`]), which a hunt looks at one by one.

use super::pairs::{Pair, pairs};
use super::prices::Prices;
use crate::bits::Bits;
use crate::board::{Board, nanoseconds};
use crate::cost::{Parts, Slowdown, lane_parts};
use crate::fit::product_lane;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Lanes of a segment found before their growth stops.
const LANES: usize = 3000;
/// Sets of lanes looked at in one hunt.
const SETS: usize = 400_000;
/// What rounding a cost to nanoseconds, and the bound's sums, may take off, microseconds.
const SLACK_US: f64 = 0.51e-3;

/// One lane of a kernel with products.
pub(super) struct Lane {
    pub members: Bits,
    /// Products and what is after them: in no other lane of a kernel.
    own: Bits,
    /// What is before the products: other lanes may compute it as well.
    shared: Bits,
    /// Least additions to any kernel that holds the lane.
    parts: Parts,
    /// Lanes with a later first product that may run beside this one.
    beside: Bits,
}

/// The lanes of a segment.
pub struct Lanes<'b, 'a> {
    board: &'b Board<'a>,
    /// By first product.
    lanes: Vec<Lane>,
    /// For each product, the range of lanes that have it as the first.
    ranges: Vec<std::ops::Range<usize>>,
    /// Groups of two phases.
    pairs: Vec<Pair>,
    /// Whether all lanes, and all pairs of them, were found.
    complete: bool,
    /// Groups with products found legal, with their cost in nanoseconds, and the others.
    priced: HashMap<Bits, Option<i64>>,
    /// Illegal groups examined, by rule.
    pub rejected: BTreeMap<String, usize>,
}

/// A kernel that a hunt found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Catch {
    /// Cost less the prices of the members, picoseconds.
    pub reduced: i64,
    /// Positions in the segment.
    pub members: Bits,
    /// Cost in nanoseconds.
    pub cost: i64,
}

impl<'b, 'a> Lanes<'b, 'a> {
    /// Grows the lanes from single products along edges.
    pub fn new(board: &'b Board<'a>) -> Lanes<'b, 'a> {
        let _span = tracing::debug_span!("lanes of products").entered();
        let mut rejected = BTreeMap::new();
        let mut complete = true;
        let mut seen: BTreeSet<Bits> = BTreeSet::new();
        let mut queue: VecDeque<Bits> = VecDeque::new();
        let mut found = Vec::new();
        let start = board.products().iter().map(|i| Bits::of(board.len(), [i]));
        for set in start {
            seen.insert(set.clone());
            queue.push_back(set);
        }
        while let Some(set) = queue.pop_front() {
            let body = match product_lane(board.ctx, &board.ops_of(&set)) {
                Ok(body) => body,
                Err(reject) => {
                    *rejected.entry(reject.rule).or_default() += 1;
                    continue;
                }
            };
            if found.len() == LANES {
                complete = false;
                break;
            }
            for i in board.beside(&set).iter() {
                let mut grown = set.clone();
                grown.insert(i);
                let grown = board.convex(grown);
                if !board.is_hopeless(&grown) && seen.insert(grown.clone()) {
                    queue.push_back(grown);
                }
            }
            let mut own = set.clone();
            own.intersect(board.products());
            for i in own.clone().iter() {
                own.union(board.after(i));
            }
            own.intersect(&set);
            let mut shared = set.clone();
            shared.subtract(&own);
            found.push(Lane {
                parts: lane_parts(board.ctx, &body, &board.ops_of(&own)),
                members: set,
                own,
                shared,
                beside: Bits::empty(0),
            });
        }
        let first = |lane: &Lane| {
            let mut products = lane.members.clone();
            products.intersect(board.products());
            products.iter().next()
        };
        found.sort_by_cached_key(|lane| (first(lane), lane.members.len(), lane.members.clone()));
        let mut ranges: Vec<std::ops::Range<usize>> = vec![];
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
        let (pairs, all) = pairs(board, &found);
        Lanes {
            board,
            lanes: found,
            ranges,
            pairs,
            complete: complete && all,
            priced: HashMap::new(),
            rejected,
        }
    }

    /// Groups with products found legal so far.
    pub fn legal(&self) -> usize {
        self.priced.values().flatten().count()
    }

    /// The cost of a group with products in nanoseconds, if it is legal.
    pub fn price(&mut self, set: &Bits) -> Option<i64> {
        if let Some(known) = self.priced.get(set) {
            return *known;
        }
        let price = if self.board.closed(set.clone()) == *set {
            match self.board.price(set) {
                Ok(us) => Some(nanoseconds(us)),
                Err(reject) => {
                    *self.rejected.entry(reject.rule).or_default() += 1;
                    None
                }
            }
        } else {
            None
        };
        self.priced.insert(set.clone(), price);
        price
    }

    /// The legal groups with products whose cost less prices (picoseconds) is under `limit`, least
    /// first, among the `most` with the lowest bounds; and whether those are all there are.
    pub fn hunt(&mut self, prices: &Prices, limit: i64, most: usize) -> (Vec<Catch>, bool) {
        let _span = tracing::debug_span!("hunts for kernels").entered();
        let all = Bits::of(self.lanes.len(), 0..self.lanes.len());
        let own = |lane: &Lane| us(lane.own.iter().map(|i| prices.of[i]).sum());
        let mut hunt = Hunt {
            own: self.lanes.iter().map(own).collect(),
            prices,
            limit: us(limit),
            most,
            sets: 0,
            found: BTreeSet::new(),
            all: self.complete,
        };
        let n = self.board.len();
        self.extend(&mut hunt, &Bits::empty(n), Parts::default(), &all);
        for pair in &self.pairs {
            let worth = prices.worth(self.board, &pair.members);
            hunt.keep(self.board, us(1000 * pair.least - worth), &pair.members);
        }
        let mut caught: Vec<Catch> = Vec::new();
        for (_, members) in hunt.found {
            if let Some(cost) = self.price(&members) {
                let reduced = 1000 * cost - prices.worth(self.board, &members);
                if reduced < limit {
                    caught.push(Catch {
                        reduced,
                        members,
                        cost,
                    });
                }
            }
        }
        caught.sort_unstable();
        (caught, hunt.all)
    }

    /// Looks at a set of lanes, and at those with more lanes of `allowed`.
    fn extend(&self, hunt: &mut Hunt<'_>, union: &Bits, parts: Parts, allowed: &Bits) {
        let worth = us(hunt.prices.worth(self.board, union));
        if !union.is_empty() {
            hunt.sets += 1;
            if hunt.sets > SETS {
                hunt.all = false;
                return;
            }
            hunt.judge(self.board, union, parts, worth);
        }
        if allowed.is_empty() || self.least(hunt, union, parts, worth, allowed) >= hunt.limit {
            return;
        }
        for l in allowed.iter() {
            let lane = &self.lanes[l];
            let mut union = union.clone();
            union.union(&lane.members);
            let parts = sum(parts, lane.parts);
            let mut allowed = allowed.clone();
            allowed.intersect(&lane.beside);
            self.extend(hunt, &union, parts, &allowed);
        }
    }

    /// A lower bound of the cost less prices of every kernel made of `union` and lanes of
    /// `allowed`, in microseconds.
    fn least(
        &self,
        hunt: &Hunt<'_>,
        union: &Bits,
        parts: Parts,
        worth: f64,
        allowed: &Bits,
    ) -> f64 {
        let ctx = self.board.ctx;
        let mut blocks = parts.blocks;
        let mut before = Bits::empty(self.board.len());
        let mut lanes = allowed.iter().peekable();
        for range in &self.ranges {
            let mut most = 0;
            while let Some(l) = lanes.next_if(|l| range.contains(l)) {
                most = most.max(self.lanes[l].parts.blocks);
                before.union(&self.lanes[l].shared);
            }
            blocks += most;
        }
        before.subtract(union);
        // What lanes share is paid for once. Cuts that more lanes would meet only raise the cost.
        let shared: f64 = before.iter().map(|i| us(hunt.prices.of[i]).max(0.0)).sum();
        let slowdown = Parts::slowdown(ctx.device, blocks);
        let mut gain = [0.0f64; 5];
        let mut lanes = allowed.iter().peekable();
        for range in &self.ranges {
            let mut best = [0.0f64; 5];
            while let Some(l) = lanes.next_if(|l| range.contains(l)) {
                let (own, parts) = (hunt.own[l], &self.lanes[l].parts);
                let terms = terms(parts, slowdown);
                for (best, term) in best.iter_mut().zip(terms) {
                    *best = best.min(term - own);
                }
            }
            for (gain, best) in gain.iter_mut().zip(best) {
                *gain += best;
            }
        }
        let mut base = terms(&parts, slowdown);
        base[4] = parts.serial_us;
        let least = (base.iter().zip(gain)).map(|(base, gain)| base + gain);
        ctx.launch_us + parts.latency_us + least.fold(f64::NEG_INFINITY, f64::max)
            - worth
            - shared
            - SLACK_US
    }
}

/// The times that add up over lanes, and, last, the one that does not.
fn terms(parts: &Parts, slowdown: Slowdown) -> [f64; 5] {
    [
        parts.memory_us * slowdown.memory,
        parts.tensor_us * slowdown.tensor,
        parts.simt_us * slowdown.others,
        parts.special_us * slowdown.others,
        0.0,
    ]
}

/// Microseconds.
fn us(picoseconds: i64) -> f64 {
    picoseconds as f64 / 1e6
}

struct Hunt<'p> {
    /// For each lane the price of what no other lane holds, microseconds.
    own: Vec<f64>,
    prices: &'p Prices,
    /// Microseconds.
    limit: f64,
    most: usize,
    sets: usize,
    /// Sets of lanes with their bounds in picoseconds, least first.
    found: BTreeSet<(i64, Bits)>,
    all: bool,
}

impl Hunt<'_> {
    /// Keeps a set of lanes, unless its bound is too high.
    fn judge(&mut self, board: &Board<'_>, union: &Bits, parts: Parts, worth: f64) {
        let least = parts.slowed(board.ctx.device) + parts.latency_us + board.ctx.launch_us
            - worth
            - SLACK_US;
        self.keep(board, least, union);
    }

    /// Keeps a group with a bound of its cost less prices, microseconds, unless pins ask for more.
    fn keep(&mut self, board: &Board<'_>, least: f64, union: &Bits) {
        if least >= self.limit || board.closed(union.clone()) != *union {
            return;
        }
        self.found.insert(((least * 1e6) as i64, union.clone()));
        if self.found.len() > self.most {
            self.found.pop_last();
            self.all = false;
            self.limit = self.found.last().map_or(self.limit, |worst| us(worst.0));
        }
    }
}

fn sum(a: Parts, b: Parts) -> Parts {
    Parts {
        memory_us: a.memory_us + b.memory_us,
        tensor_us: a.tensor_us + b.tensor_us,
        simt_us: a.simt_us + b.simt_us,
        special_us: a.special_us + b.special_us,
        serial_us: a.serial_us.max(b.serial_us),
        latency_us: a.latency_us.max(b.latency_us),
        blocks: a.blocks + b.blocks,
    }
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
