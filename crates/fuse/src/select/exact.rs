//! Exact selection: every operation in exactly one kernel, at the least total cost.
//!
//! A set partitioning problem over the pool of candidates, with the condition that kernels
//! can be put in launch order: groups that are each convex can still wait for each other. So
//! the search launches kernels one by one. A state is the set of operations done; the next
//! kernel is any candidate whose operands are done. Best-first search with an admissible
//! bound (feasible dual prices of the linear relaxation) ends at an optimum. All costs are
//! whole nanoseconds, so that nothing depends on the order of additions.

use super::greedy::greedy;
use super::prices::prices;
use crate::PlanError;
use crate::bits::Bits;
use crate::candidates::{Board, Candidate, Pool, nanoseconds};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// States visited before the search is given up.
const STATES: usize = 40_000;
/// Rounds of refinement of an incomplete pool.
const ROUNDS: usize = 4;

/// The cheapest partition into groups of the pool, which is refined where it is incomplete:
/// groups that greedy merging passes through, from single operations and from the best
/// partition found so far, are added until they no longer help.
pub fn exact(board: &Board<'_>, pool: &mut Pool) -> Result<Vec<Bits>, PlanError> {
    let mut known: BTreeMap<Bits, i64> = BTreeMap::new();
    for c in &pool.candidates {
        known.insert(c.members.clone(), nanoseconds(c.us));
    }
    let mut best = board.atoms().to_vec();
    for round in 0..ROUNDS {
        let (merged, passed) = greedy(board, best.clone());
        for members in passed {
            if let Ok(us) = board.price(&members)
                && !known.contains_key(&members)
            {
                known.insert(members.clone(), nanoseconds(us));
                pool.candidates.push(Candidate { members, us });
                // Of a complete pool it is a dominated group, which counts already.
                pool.legal += usize::from(!pool.complete);
            }
        }
        let total = |groups: &[Bits]| -> i64 { groups.iter().filter_map(|g| known.get(g)).sum() };
        let mut found = merged;
        match solve(board, &pool.candidates, total(&found)) {
            Outcome::Optimal(groups) => found = groups,
            Outcome::NothingBetter => {}
            Outcome::GaveUp => pool.complete = false,
        }
        let improved = total(&found) < total(&best);
        if improved {
            best = found;
        }
        if pool.complete || (round > 0 && !improved) {
            break;
        }
    }
    if !board.is_ordered(&best) {
        return Err(PlanError::Selection("kernels wait for each other".into()));
    }
    Ok(best)
}

enum Outcome {
    /// The cheapest partition, cheaper than the one known.
    Optimal(Vec<Bits>),
    /// The one known is the cheapest.
    NothingBetter,
    /// A cap was reached.
    GaveUp,
}

fn solve(board: &Board<'_>, candidates: &[Candidate], known: i64) -> Outcome {
    let costs: Vec<i64> = candidates.iter().map(|c| nanoseconds(c.us)).collect();
    let prices = prices(board.len(), candidates, &costs);
    let needs: Vec<Bits> = candidates
        .iter()
        .map(|c| board.operands(&c.members))
        .collect();
    let ahead = |done: &Bits| -> i64 {
        (0..board.len())
            .filter(|i| !done.contains(*i))
            .map(|i| prices[i])
            .sum()
    };
    let mut states = vec![State {
        done: Bits::empty(board.len()),
        cost: 0,
        parent: usize::MAX,
        candidate: usize::MAX,
    }];
    let mut least: HashMap<Bits, i64> = HashMap::new();
    let mut queue = BinaryHeap::new();
    // Least bound first; of equals the one that is furthest, then the oldest.
    queue.push((Reverse(0i64), 0i64, Reverse(0usize)));
    while let Some((_, _, Reverse(at))) = queue.pop() {
        let (done, cost) = (states[at].done.clone(), states[at].cost);
        if least.get(&done).is_some_and(|known| *known < cost) {
            continue;
        }
        if done.len() == board.len() {
            let members = |c: usize| candidates[c].members.clone();
            return Outcome::Optimal(path(&states, at).into_iter().map(members).collect());
        }
        for (c, candidate) in candidates.iter().enumerate() {
            if candidate.members.meets(&done) || !needs[c].is_within(&done) {
                continue;
            }
            let mut done = done.clone();
            done.union(&candidate.members);
            let cost = cost + costs[c];
            let bound = cost + ahead(&done);
            if bound >= known {
                continue;
            }
            let best = least.entry(done.clone()).or_insert(i64::MAX);
            if cost >= *best {
                continue;
            }
            *best = cost;
            if states.len() == STATES {
                return Outcome::GaveUp;
            }
            queue.push((Reverse(bound), cost, Reverse(states.len())));
            states.push(State {
                done,
                cost,
                parent: at,
                candidate: c,
            });
        }
    }
    Outcome::NothingBetter
}

/// The beginning of a run.
struct State {
    done: Bits,
    cost: i64,
    parent: usize,
    candidate: usize,
}

fn path(states: &[State], mut at: usize) -> Vec<usize> {
    let mut chosen = vec![];
    while let Some(state) = states.get(at)
        && state.candidate != usize::MAX
    {
        chosen.push(state.candidate);
        at = state.parent;
    }
    chosen
}
