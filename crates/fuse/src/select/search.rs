//! Exact cover in launch order, best first.
//!
//! A set partitioning problem over candidates, with the condition that kernels can be put in
//! launch order: groups that are each convex can still wait for each other. So the search
//! launches kernels one by one. A state is the set of operations done; the next kernel is any
//! candidate whose operands are done. Best-first search with an admissible bound (feasible
//! dual values) ends at an optimum. All costs are whole numbers, so that nothing depends on the order
//! of additions.

use super::duals::Duals;
use crate::bits::Bits;
use crate::board::Board;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// How one search ended.
pub enum Outcome {
    /// A partition cheaper than the one known (the cheapest, if the weight was 0).
    Found(Vec<usize>),
    /// There is none cheaper than the one known.
    NothingBetter,
    /// A cap was reached.
    GaveUp,
}

/// Candidates with what the search asks of them.
pub struct Problem<'a> {
    n: usize,
    candidates: &'a [(Bits, i64)],
    /// For each candidate the words of its members and of what must be done before it, side
    /// by side: every state looks at all of them.
    words: Vec<u64>,
    /// Sum of the dual values of each candidate's members: at most its cost.
    worths: Vec<i64>,
    /// The candidates by their first operation.
    starts: Vec<Start>,
    /// Sum of all dual values.
    total: i64,
}

/// Candidates with the same first operation. What is before that one is before all of them, so a state
/// looks at them only if that is done.
struct Start {
    first: usize,
    before: Bits,
    /// What each costs beyond its worth, picoseconds, the least first; and which one it is.
    candidates: Vec<(i64, usize)>,
}

impl<'a> Problem<'a> {
    /// Prepares candidates of given cost in nanoseconds, with feasible dual values.
    pub fn new(board: &Board<'_>, candidates: &'a [(Bits, i64)], duals: &Duals) -> Self {
        let worths: Vec<i64> = candidates
            .iter()
            .map(|(members, _)| duals.worth(board, members))
            .collect();
        let mut starts: BTreeMap<usize, Start> = BTreeMap::new();
        for (c, (members, cost)) in candidates.iter().enumerate() {
            let Some(first) = members.iter().next() else {
                continue;
            };
            let start = starts.entry(first).or_insert_with(|| Start {
                first,
                before: board.before(first).clone(),
                candidates: vec![],
            });
            start.candidates.push((1000 * cost - worths[c], c));
        }
        let mut starts: Vec<Start> = starts.into_values().collect();
        for start in &mut starts {
            start.candidates.sort_unstable();
        }
        Problem {
            n: board.len(),
            candidates,
            words: candidates
                .iter()
                .flat_map(|(members, _)| {
                    let needs = board.operands(members);
                    [members.words(), needs.words()].concat()
                })
                .collect(),
            worths,
            starts,
            total: duals.total(),
        }
    }

    /// Whether a candidate can be launched once some operations are done, none of which are its own.
    fn is_ready(&self, candidate: usize, done: &Bits) -> bool {
        let width = done.words().len();
        let words = &self.words[2 * width * candidate..2 * width * (candidate + 1)];
        let (members, needs) = words.split_at(width);
        let mut of_each = done.words().iter().zip(members.iter().zip(needs));
        of_each.all(|(done, (of, needed))| done & of == 0 && needed & !done == 0)
    }

    /// Searches for a partition that costs less than `known` nanoseconds. What is left to do counts,
    /// where the search decides where to go next, as if it exceeded its bound by `weight`
    /// hundredths of the gap between that and the bound of all, in proportion to the operations
    /// left: more than 0 dives. Gives up after so many states.
    pub fn search(&self, weight: i64, known: i64, most: usize) -> Outcome {
        let expected = weight * (1000 * known - self.total).max(0);
        let _span = tracing::debug_span!("search for partitions").entered();
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
        // Whole nanoseconds: what is under the next one below is what is less.
        let bound = 1000 * (known - 1);
        let mut next: Vec<usize> = vec![];
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
            next.clear();
            for start in &self.starts {
                if done.contains(start.first) || !done.contains_all(&start.before) {
                    continue;
                }
                let of = start.candidates.iter();
                let cheap = of.take_while(|(beyond, _)| cost + ahead + beyond <= bound);
                next.extend(cheap.map(|(_, c)| *c).filter(|c| self.is_ready(*c, &done)));
            }
            // As they were given: of equal partitions the first one that is found is taken.
            next.sort_unstable();
            for c in next.iter().copied() {
                let cost = cost + 1000 * self.candidates[c].1;
                let mut ahead = ahead - self.worths[c];
                let mut done = done.clone();
                done.union(&self.candidates[c].0);
                if done.len() == self.n {
                    // Cuts that no kernel meets are left over.
                    ahead = 0;
                    if cost > bound {
                        continue;
                    }
                }
                let best = least.entry(done.clone()).or_insert(i64::MAX);
                if cost >= *best {
                    continue;
                }
                *best = cost;
                if states.len() >= most {
                    return Outcome::GaveUp;
                }
                let left = (self.n - done.len()) as i64;
                let order = 100 * (cost + ahead) + expected * left / self.n as i64;
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
    /// Sum of the dual values of what is left.
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
