//! Candidates of rows and recurrences: the legal groups of a segment, grown from single
//! operations.
//!
//! Every legal group can be built by adding one operation at a time (and whatever lies
//! between it and the group) such that each step is legal: anchors first, then what is
//! before and after them, nearest first. So growth expands legal groups only: along edges,
//! between recurrences, and, for groups without an anchor, along shared operands.
//! It goes best first; when the cap is reached, the groups that save most are known.
//!
//! Groups of products are found elsewhere ([`crate::lanes`]): many products can run side by side,
//! and there are too many ways to choose them.

use crate::bits::Bits;
use crate::board::{Board, Kind, nanoseconds};
use crate::plan::Reject;
use fusec_ir::OpId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

/// Legal groups of each kind (rows, recurrences) examined per segment before their growth stops.
pub const CAP: usize = 4000;
/// Illegal groups examined for each legal one allowed.
const ILLEGAL_PER_LEGAL: usize = 4;

/// A legal group and its predicted time.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Positions in the segment.
    pub members: Bits,
    /// Microseconds.
    pub us: f64,
}

/// What growth found.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Legal groups that no split into two other groups equals or beats, singles first.
    pub candidates: Vec<Candidate>,
    /// Legal groups examined.
    pub legal: usize,
    /// Illegal groups examined, by rule.
    pub rejected: BTreeMap<String, usize>,
    /// Whether all legal groups without products were examined.
    pub complete: bool,
}

/// Finds the groups of rows and recurrences, and the groups that must stay together.
pub fn grow(board: &Board<'_>, cap: usize) -> Result<Pool, (Vec<OpId>, Reject)> {
    let mut pool = Pool {
        complete: true,
        ..Pool::default()
    };
    let mut seen: HashSet<Bits> = HashSet::new();
    let mut prices: BTreeMap<Bits, f64> = BTreeMap::new();
    let mut alone = vec![0.0; board.len()];
    // Most saving first; among equals the smaller set, so that the order is the same everywhere.
    // Rows come first: a group of rows that paths or pins extend by a recurrence is queued for
    // later.
    let mut queues: BTreeMap<Kind, BinaryHeap<(i64, Reverse<Bits>)>> = BTreeMap::new();
    let mut legal: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut illegal: BTreeMap<Kind, usize> = BTreeMap::new();
    for atom in board.atoms() {
        let us = board
            .price(atom)
            .map_err(|reject| (board.ops_of(atom), reject))?;
        for i in atom.iter() {
            alone[i] = us / atom.len() as f64;
        }
        seen.insert(atom.clone());
        prices.insert(atom.clone(), us);
        pool.candidates.push(Candidate {
            members: atom.clone(),
            us,
        });
        let kind = board.kind(atom);
        *legal.entry(kind).or_default() += 1;
        let queue = queues.entry(kind).or_default();
        queue.push((0, Reverse(atom.clone())));
    }
    for kind in [Kind::Row, Kind::Scan] {
        'kind: while let Some((_, Reverse(set))) = queues.get_mut(&kind).and_then(BinaryHeap::pop) {
            let base = prices.get(&set).copied().unwrap_or(f64::INFINITY);
            for i in board.frontier(&set).iter() {
                let mut grown = set.clone();
                grown.union(board.atom(i));
                let grown = board.closed(grown);
                let of = board.kind(&grown);
                if of == Kind::Product || board.is_hopeless(&grown) || !seen.insert(grown.clone()) {
                    continue;
                }
                let full = legal.get(&of).is_some_and(|n| *n >= cap)
                    || illegal
                        .get(&of)
                        .is_some_and(|n| *n >= cap * ILLEGAL_PER_LEGAL);
                if full {
                    pool.complete = false;
                    if of == kind {
                        break 'kind;
                    }
                    continue;
                }
                let us = match board.price(&grown) {
                    Ok(us) => us,
                    Err(reject) => {
                        *pool.rejected.entry(reject.rule).or_default() += 1;
                        *illegal.entry(of).or_default() += 1;
                        continue;
                    }
                };
                *legal.entry(of).or_default() += 1;
                prices.insert(grown.clone(), us);
                let apart: f64 = grown.iter().map(|i| alone[i]).sum();
                let saved = nanoseconds(apart - us);
                let queue = queues.entry(of).or_default();
                queue.push((saved, Reverse(grown.clone())));
                let mut added = grown.clone();
                added.subtract(&set);
                let dominated = prices.get(&added).is_some_and(|rest| base + rest <= us)
                    && !(board.leads(&set, &added) && board.leads(&added, &set));
                if !dominated {
                    pool.candidates.push(Candidate { members: grown, us });
                }
            }
        }
    }
    pool.legal = legal.values().sum();
    Ok(pool)
}
