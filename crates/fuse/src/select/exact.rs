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

/// States visited before a search is given up.
const STATES: usize = 12_000;
/// Weights of the searches of a complete pool, in hundredths: the first finds something good
/// soon, the last proves.
const PROVING: [i64; 2] = [130, 100];
/// Weights of the searches of an incomplete pool, of which nothing can be proven.
const DIVING: [i64; 4] = [250, 170, 130, 110];
/// Rounds of refinement of an incomplete pool.
const ROUNDS: usize = 4;

/// The cheapest partition into groups of the pool, which is refined where it is incomplete:
/// groups that greedy merging passes through, from single operations and from the best
/// partition found so far, and those with one operation moved to a neighbour are added until
/// they no longer help.
pub fn exact(board: &Board<'_>, pool: &mut Pool) -> Result<Vec<Bits>, PlanError> {
    let mut known: BTreeMap<Bits, i64> = BTreeMap::new();
    for c in &pool.candidates {
        known.insert(c.members.clone(), nanoseconds(c.us));
    }
    let mut best = board.atoms().to_vec();
    for round in 0..ROUNDS {
        let (merged, mut passed) = greedy(board, best.clone());
        if !pool.complete {
            passed.extend(board.neighbours(&best));
            passed.extend(board.neighbours(&merged));
        }
        for members in passed {
            if !known.contains_key(&members)
                && let Ok(us) = board.price(&members)
            {
                known.insert(members.clone(), nanoseconds(us));
                pool.candidates.push(Candidate { members, us });
                // Of a complete pool it is a dominated group, which counts already.
                pool.legal += usize::from(!pool.complete);
            }
        }
        let total = |groups: &[Bits]| -> i64 { groups.iter().filter_map(|g| known.get(g)).sum() };
        let mut found = merged;
        let (better, proven) = solve(board, pool, total(&found));
        pool.complete &= proven;
        if let Some(groups) = better {
            found = groups;
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

/// How one search ended.
enum Outcome {
    /// A partition cheaper than the one known (the cheapest, if the weight was 1).
    Found(Vec<usize>),
    /// There is none cheaper than the one known.
    NothingBetter,
    /// A cap was reached.
    GaveUp,
}

/// A partition cheaper than the one of cost `known`, if there is one, and whether it (or the
/// known one, if there is none) is proven the cheapest.
fn solve(board: &Board<'_>, pool: &Pool, known: i64) -> (Option<Vec<Bits>>, bool) {
    let candidates = &pool.candidates;
    let weights: &[i64] = if pool.complete { &PROVING } else { &DIVING };
    let costs: Vec<i64> = candidates.iter().map(|c| nanoseconds(c.us)).collect();
    let prices = prices(board.len(), candidates, &costs);
    let worth = |c: &Candidate| -> i64 { c.members.iter().map(|i| prices[i]).sum() };
    let problem = Problem {
        n: board.len(),
        candidates,
        words: candidates
            .iter()
            .flat_map(|c| {
                let needs = board.operands(&c.members);
                [c.members.words(), needs.words()].concat()
            })
            .collect(),
        worths: candidates.iter().map(worth).collect(),
        total: prices.iter().sum(),
        costs,
    };
    let mut known = known;
    let mut best: Option<Vec<usize>> = None;
    let mut proven = false;
    for weight in weights.iter().copied() {
        match problem.search(weight, known) {
            Outcome::Found(chosen) => {
                known = chosen.iter().map(|c| problem.costs[*c]).sum();
                best = Some(chosen);
                proven = weight == 100;
            }
            Outcome::NothingBetter => {
                proven = true;
                break;
            }
            Outcome::GaveUp => {}
        }
    }
    let members = |c: usize| candidates[c].members.clone();
    let best = best.map(|chosen| chosen.into_iter().map(members).collect());
    (best, proven)
}

struct Problem<'a> {
    n: usize,
    candidates: &'a [Candidate],
    costs: Vec<i64>,
    /// For each candidate the words of its members and of what must be done before it, side
    /// by side: every state looks at all of them.
    words: Vec<u64>,
    /// Sum of the prices of each candidate's members: at most its cost.
    worths: Vec<i64>,
    /// Sum of all prices.
    total: i64,
}

impl Problem<'_> {
    /// Searches for a partition that costs less than `known`, taking what is ahead at `weight`
    /// hundredths of its bound when it decides where to go next: more than 100 dives.
    fn search(&self, weight: i64, known: i64) -> Outcome {
        let mut states = vec![State {
            done: Bits::empty(self.n),
            cost: 0,
            ahead: self.total,
            parent: usize::MAX,
            candidate: usize::MAX,
        }];
        let mut least: HashMap<Bits, i64> = HashMap::new();
        let mut queue = BinaryHeap::new();
        // Least bound first; of equals the one that is furthest, then the oldest.
        queue.push((Reverse(0i64), 0i64, Reverse(0usize)));
        while let Some((_, _, Reverse(at))) = queue.pop() {
            let State {
                done, cost, ahead, ..
            } = &states[at];
            let (done, cost, ahead) = (done.clone(), *cost, *ahead);
            if least.get(&done).is_some_and(|known| *known < cost) {
                continue;
            }
            if done.len() == self.n {
                return Outcome::Found(path(&states, at));
            }
            let width = done.words().len();
            for (c, words) in self.words.chunks_exact(2 * width).enumerate() {
                let (members, needs) = words.split_at(width);
                let ready = done
                    .words()
                    .iter()
                    .zip(members.iter().zip(needs))
                    .all(|(done, (of, needed))| done & of == 0 && needed & !done == 0);
                if !ready {
                    continue;
                }
                let cost = cost + self.costs[c];
                let ahead = ahead - self.worths[c];
                if cost + ahead >= known {
                    continue;
                }
                let mut done = done.clone();
                done.union(&self.candidates[c].members);
                let best = least.entry(done.clone()).or_insert(i64::MAX);
                if cost >= *best {
                    continue;
                }
                *best = cost;
                if states.len() == STATES {
                    return Outcome::GaveUp;
                }
                let order = 100 * cost + weight * ahead;
                queue.push((Reverse(order), cost, Reverse(states.len())));
                states.push(State {
                    done,
                    cost,
                    ahead,
                    parent: at,
                    candidate: c,
                });
            }
        }
        Outcome::NothingBetter
    }
}

/// The beginning of a run.
struct State {
    done: Bits,
    cost: i64,
    /// Sum of the prices of what is left.
    ahead: i64,
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
