//! Candidates of two phases: pairs of lanes of which the second reads what the first makes.
//!
//! A kernel of two phases costs what two kernels of its lanes do, less a launch, and with a barrier
//! of the grid ([`crate::fit`] splits a group in one way, and no operation is in both phases). So the
//! pairs of legal lanes are all there is, and the costs of two lanes tell that of a pair. Where a
//! barrier costs no less than a launch, two kernels take the place of every such kernel, unless pins
//! keep its phases together.

use super::lanes::Lane;
use crate::bits::Bits;
use crate::board::{Board, nanoseconds};
use crate::fit::has_few_rows;
use std::collections::BTreeMap;

/// Pairs of a segment kept before their listing stops.
const PAIRS: usize = 100_000;

/// A group of two phases.
pub struct Pair {
    pub members: Bits,
    /// A lower bound of its cost, nanoseconds: it may be split otherwise.
    pub least: i64,
}

/// The pairs of some lanes that may be cheaper than two kernels, and whether those are all.
pub fn pairs(board: &Board<'_>, lanes: &[Lane]) -> (Vec<Pair>, bool) {
    let ctx = board.ctx;
    let more_us = ctx.device.grid_barrier_us.value - ctx.launch_us;
    let pinned = board.atoms().len() < board.len();
    if !has_few_rows(ctx) || more_us >= 0.0 && !pinned {
        return (vec![], true);
    }
    let _span = tracing::debug_span!("pairs of lanes").entered();
    let products: Vec<Bits> = lanes
        .iter()
        .map(|lane| {
            let mut products = lane.members.clone();
            products.intersect(board.products());
            products
        })
        .collect();
    let is_closed: Vec<bool> = lanes
        .iter()
        .map(|lane| board.closed(lane.members.clone()) == lane.members)
        .collect();
    // What a lane costs as a kernel of its own, pins or not.
    let mut alone: Vec<Option<Option<f64>>> = vec![None; lanes.len()];
    let mut price = |l: usize| -> Option<f64> {
        *alone[l].get_or_insert_with(|| board.price(&lanes[l].members).ok())
    };
    let mut found: BTreeMap<Bits, i64> = BTreeMap::new();
    for (a, first) in lanes.iter().enumerate() {
        let mut after = Bits::empty(board.len());
        for i in products[a].iter() {
            after.union(board.after(i));
        }
        for (b, second) in lanes.iter().enumerate() {
            if !products[b].meets(&after)
                || first.members.meets(&second.members)
                || more_us >= 0.0 && is_closed[a] && is_closed[b]
                || board.leads(&second.members, &first.members)
            {
                continue;
            }
            let mut members = first.members.clone();
            members.union(&second.members);
            if board.convex(members.clone()) != members {
                continue;
            }
            let (Some(one), Some(two)) = (price(a), price(b)) else {
                continue;
            };
            let least = nanoseconds(one + two + more_us) - 1;
            let known = found.entry(members).or_insert(least);
            *known = least.min(*known);
            if found.len() > PAIRS {
                return (listed(found), false);
            }
        }
    }
    (listed(found), true)
}

fn listed(found: BTreeMap<Bits, i64>) -> Vec<Pair> {
    let pairs = found.into_iter();
    pairs
        .map(|(members, least)| Pair { members, least })
        .collect()
}
