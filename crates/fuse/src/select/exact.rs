//! Exact selection: every operation in exactly one kernel, at the least total cost.
//!
//! The kernels of rows and recurrences are few enough to be listed; those of products, in one phase
//! or two, are not ([`super::lanes`]). So the selection works with prices of operations:
//!
//! 1. *Settle.* Prices that no known kernel undercuts, of highest sum, by a linear programme; then
//!    a hunt for kernels that undercut them, which become known; and so on until there is none.
//!    The sum of such prices is a lower bound of every partition.
//! 2. *Cut.* The linear programme mixes parts of kernels, and does not know that kernels can be
//!    launched in some order only. Cuts that the mixture violates make the bound tight.
//! 3. *Search.* A kernel that exceeds the prices of its operations by more than the gap between the
//!    best partition and the bound is part of no better one. Hunts list kernels near their prices,
//!    and a search over them finds good partitions; over all within the gap, the best.
//!
//! Where a cap (a count) ends one of these early, what is left is the gap, and the plan says so.

use super::greedy::greedy;
use super::lanes::Lanes;
use super::prices::{Prices, Programme};
use super::search::{Outcome, Problem};
use crate::PlanError;
use crate::bits::Bits;
use crate::board::{Board, nanoseconds};
use crate::candidates::Pool;
use std::collections::BTreeMap;

/// Rounds of pricing of one settling.
const ROUNDS: usize = 80;
/// Kernels that become known in one round.
const CATCH: usize = 60;
/// The same where bounds are lower than costs, so that the first ones undercut nothing.
const RETRIED: usize = 4_000;
/// How much kernels undercut the prices that are hunted for, one after the other, picoseconds.
const LIMITS: [i64; 4] = [-1_000_000, -200_000, -40_000, -8_000];
/// The part of the total by which kernels may undercut the prices in the end: one in so many.
const SLACK: i64 = 10_000_000;
/// Rounds of cuts.
const CUTTING: usize = 12;
/// The least part of the total that is worth a cut: one in so many. A smaller gap is searched.
const CUT_GAP: i64 = 200_000;
/// Kernels that exceed their prices by less may be in the mixture that is cut, picoseconds.
const NEAR: i64 = 20_000;

/// A hunt for kernels near their prices, and searches over them.
struct Search {
    /// The part of the gap by which the kernels may exceed their prices: one in so many.
    share: i64,
    /// How many kernels are listed.
    listed: usize,
    /// Weights of the searches, in hundredths: more than 0 dives.
    weights: &'static [i64],
    /// States of each.
    states: usize,
}

/// A quick one, before any cuts.
const GLANCE: Search = Search {
    share: 1000,
    listed: 3_000,
    weights: &[100, 10],
    states: 4_000,
};
/// Those that follow. Only the last can prove.
const SEARCHES: [Search; 3] = [
    Search {
        share: 30,
        listed: 3_000,
        weights: &[100, 10],
        states: 4_000,
    },
    Search {
        share: 4,
        listed: 6_000,
        weights: &[50, 5],
        states: 8_000,
    },
    Search {
        share: 1,
        listed: 24_000,
        weights: &[10, 0],
        states: 60_000,
    },
];

/// What exact selection found.
pub struct Exact {
    /// The partition.
    pub groups: Vec<Bits>,
    /// Its cost in nanoseconds.
    pub cost: i64,
    /// No partition costs less than this many nanoseconds, if anything is proven.
    pub bound: Option<i64>,
    /// Legal groups priced.
    pub legal: usize,
    /// Illegal groups examined, by rule.
    pub rejected: BTreeMap<String, usize>,
}

/// The cheapest partition, or a good one with a bound.
pub fn exact(board: &Board<'_>, pool: Pool) -> Result<Exact, PlanError> {
    let mut solver = Solver::new(board, &pool);
    solver.settle();
    solver.search(&GLANCE);
    for _ in 0..CUTTING {
        let open = solver.gap().is_some_and(|gap| gap > solver.cost / CUT_GAP);
        if !open || !solver.programme.cut(&solver.prices, NEAR) || !solver.settle() {
            break;
        }
    }
    solver.search(&GLANCE);
    for search in &SEARCHES {
        solver.search(search);
    }
    if !board.is_ordered(&solver.best) {
        return Err(PlanError::Selection("kernels wait for each other".into()));
    }
    let mut rejected = pool.rejected;
    for (rule, n) in &solver.lanes.rejected {
        *rejected.entry(rule.clone()).or_default() += n;
    }
    Ok(Exact {
        legal: pool.legal + solver.lanes.legal(),
        groups: solver.best,
        cost: solver.cost,
        bound: solver.bound,
        rejected,
    })
}

struct Solver<'b, 'a> {
    board: &'b Board<'a>,
    lanes: Lanes<'b, 'a>,
    programme: Programme<'b, 'a>,
    /// Kernels that are known, with their cost in nanoseconds.
    known: BTreeMap<Bits, i64>,
    /// Prices that no kernel undercuts, once settled.
    prices: Prices,
    /// Whether every kernel without products is known.
    listed: bool,
    /// No partition costs less than this many nanoseconds.
    bound: Option<i64>,
    best: Vec<Bits>,
    /// Nanoseconds.
    cost: i64,
}

impl<'b, 'a> Solver<'b, 'a> {
    /// Starts from the listed kernels, and from those that greedy merging passes through.
    fn new(board: &'b Board<'a>, pool: &Pool) -> Solver<'b, 'a> {
        let mut known: BTreeMap<Bits, i64> = BTreeMap::new();
        for c in &pool.candidates {
            known.insert(c.members.clone(), nanoseconds(c.us));
        }
        let (best, passed) = greedy(board, board.atoms().to_vec());
        for members in passed {
            if let Ok(us) = board.price(&members) {
                known.insert(members, nanoseconds(us));
            }
        }
        let mut programme = Programme::new(board);
        for (members, cost) in &known {
            programme.add(members, *cost);
        }
        let mut solver = Solver {
            board,
            lanes: Lanes::new(board),
            programme,
            known,
            prices: Prices::default(),
            listed: pool.complete,
            bound: None,
            best: vec![],
            cost: 0,
        };
        solver.take(best);
        solver
    }

    fn take(&mut self, groups: Vec<Bits>) {
        self.cost = groups.iter().filter_map(|g| self.known.get(g)).sum();
        self.best = groups;
    }

    /// Nanoseconds between the best partition and the bound; `None` if nothing is left, or
    /// nothing is known.
    fn gap(&self) -> Option<i64> {
        self.bound.map(|b| self.cost - b).filter(|gap| *gap > 0)
    }

    /// Finds prices that no kernel undercuts; whether that succeeded. Kernels that did undercut
    /// some become known.
    fn settle(&mut self) -> bool {
        let mut limits = LIMITS.iter().copied().peekable();
        let mut most = CATCH;
        self.prices = self.programme.highest();
        // What is left at the end is taken off the prices of products: chasing it takes longest.
        let slack = self.prices.total().max(0) / SLACK + 1;
        for _ in 0..ROUNDS {
            let limit = limits.peek().copied().unwrap_or(-slack);
            let (caught, all) = self.lanes.hunt(&self.prices, limit, most);
            if !caught.is_empty() {
                most = CATCH;
                for kernel in caught {
                    self.programme.add(&kernel.members, kernel.cost);
                    self.known.insert(kernel.members, kernel.cost);
                }
                self.prices = self.programme.highest();
            } else if limits.next().is_some() {
                most = CATCH;
            } else if !all && most < RETRIED {
                most *= 8;
            } else {
                for i in self.board.products().iter() {
                    self.prices.of[i] -= slack;
                }
                let total = self.prices.total();
                let whole = total.div_euclid(1000) + i64::from(total.rem_euclid(1000) > 0);
                if all && self.listed {
                    self.bound = self.bound.max(Some(whole));
                }
                return all;
            }
        }
        false
    }

    /// Lists kernels near their prices, and looks for a better partition into them.
    fn search(&mut self, how: &Search) {
        if self.bound.is_some() && self.gap().is_none() {
            return;
        }
        let bound = self.prices.total().div_euclid(1000);
        let gap = 1000 * (self.cost - bound).max(1);
        let limit = gap / how.share + 1;
        let (caught, all) = self.lanes.hunt(&self.prices, limit, how.listed);
        self.known
            .extend(caught.into_iter().map(|k| (k.members, k.cost)));
        let near: Vec<(Bits, i64)> = self
            .known
            .iter()
            .filter(|(g, cost)| 1000 * **cost - self.prices.worth(self.board, g) < limit)
            .map(|(g, cost)| (g.clone(), *cost))
            .collect();
        let problem = Problem::new(self.board, &near, &self.prices);
        // Over every kernel within the gap the search is a proof.
        let proves = all && how.share == 1 && self.bound.is_some();
        for weight in how.weights {
            match problem.search(*weight, self.cost, how.states) {
                Outcome::Found(chosen) => {
                    self.take(chosen.iter().map(|c| near[*c].0.clone()).collect());
                    if proves && *weight == 0 {
                        self.bound = Some(self.cost);
                    }
                }
                Outcome::NothingBetter => {
                    if proves {
                        self.bound = Some(self.cost);
                    }
                    return;
                }
                Outcome::GaveUp => {}
            }
        }
    }
}
