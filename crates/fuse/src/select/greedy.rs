//! Greedy selection: merge the pair that saves most until nothing saves.

use crate::bits::Bits;
use crate::board::{Board, nanoseconds};
use std::collections::BTreeMap;

/// Merges from the atoms of a board. Also returns every group it passed through.
pub fn greedy(board: &Board<'_>, start: Vec<Bits>) -> (Vec<Bits>, Vec<Bits>) {
    let _span = tracing::debug_span!("greedy merging").entered();
    let mut groups = start;
    let mut passed = groups.clone();
    let mut prices: BTreeMap<Bits, Option<f64>> = BTreeMap::new();
    let mut price = |set: &Bits| -> Option<f64> {
        *prices
            .entry(set.clone())
            .or_insert_with(|| board.price(set).ok())
    };
    loop {
        let mut offers: Vec<(i64, usize, usize)> = Vec::new();
        for a in 0..groups.len() {
            let frontier = board.frontier(&groups[a]);
            for b in 0..groups.len() {
                if a == b || !frontier.meets(&groups[b]) {
                    continue;
                }
                let mut union = groups[a].clone();
                union.union(&groups[b]);
                // A merge that drags in part of a third group is not a merge of a pair.
                if board.closed(union.clone()) != union {
                    continue;
                }
                let (Some(one), Some(two), Some(both)) =
                    (price(&groups[a]), price(&groups[b]), price(&union))
                else {
                    continue;
                };
                let saved = nanoseconds(one + two - both);
                if saved > 0 {
                    offers.push((-saved, a.min(b), a.max(b)));
                }
            }
        }
        offers.sort_unstable();
        offers.dedup();
        let merged = offers.into_iter().find_map(|(_, a, b)| {
            let next = merge(&groups, a, b);
            board.is_ordered(&next).then_some(next)
        });
        let Some(next) = merged else {
            return (groups, passed);
        };
        passed.extend(next.iter().filter(|g| !groups.contains(g)).cloned());
        groups = next;
    }
}

/// The partition with two groups made one.
pub fn merge(groups: &[Bits], a: usize, b: usize) -> Vec<Bits> {
    let mut union = groups[a].clone();
    union.union(&groups[b]);
    let mut next: Vec<Bits> = Vec::with_capacity(groups.len() - 1);
    for (i, group) in groups.iter().enumerate() {
        if i == a.min(b) {
            next.push(union.clone());
        } else if i != a && i != b {
            next.push(group.clone());
        }
    }
    next
}
