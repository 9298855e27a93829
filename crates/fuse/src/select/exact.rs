//! Exact selection: every operation in exactly one kernel, at the least total cost.
//!
//! A set partitioning problem with far too many columns (kernels) to list them, solved by column
//! generation:
//!
//! 1. *Column generation.* The restricted master problem ([`super::master`]) gives each operation a
//!    dual value; pricing ([`super::lanes`], [`super::rows`]) finds kernels of negative reduced cost,
//!    which become columns; and so on until there is none. The sum of the dual values is then a lower
//!    bound of every partition.
//! 2. *Cuts.* The linear relaxation mixes parts of kernels, and does not know that kernels can be
//!    launched in some order only. Cuts that the mixture violates make the bound tight.
//! 3. *Search.* A kernel whose reduced cost exceeds the gap between the best partition and the bound
//!    is part of no better one. Pricing lists kernels of low reduced cost, and a search over them finds
//!    good partitions; over all within the gap, the best.
//!
//! Where a cap (a count) ends one of these early, what is left is the gap, and the plan says so.

use super::Watch;
use super::columns::Priced;
use super::costs::Costs;
use super::duals::Duals;
use super::greedy::greedy;
use super::lanes::Lanes;
use super::master::Master;
use super::rows::Rows;
use super::search::{Outcome, Problem};
use crate::bits::Bits;
use crate::board::Board;
use crate::error::PlanError;
use std::collections::BTreeMap;

/// Rounds of one column generation.
const ROUNDS: usize = 120;
/// Columns of each kind that one round adds.
const COLUMNS: usize = 60;
/// Reduced costs below which columns are priced, one limit after the other, picoseconds.
const LIMITS: [i64; 4] = [-1_000_000, -200_000, -40_000, -8_000];
/// The part of the total by which a reduced cost may be negative in the end: one in so many.
const SLACK: i64 = 10_000_000;
/// Groups asked for their cost, and steps of pricing, after which a selection is content.
const ASKED: usize = 150_000;
const STEPS: usize = 2_000_000;
/// Rounds of cuts.
const CUTTING: usize = 40;
/// The least part of the total that is worth a cut: one in so many. A smaller gap is searched.
const CUT_GAP: i64 = 200_000;
/// Columns of a lower reduced cost may be in the mixture that is cut, picoseconds.
const NEAR: i64 = 20_000;

/// A listing of columns of low reduced cost, and searches over them.
struct Search {
    /// The part of the gap that reduced costs may have: one in so many.
    share: i64,
    /// How many columns of each kind are listed.
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
pub fn exact(board: &Board<'_>, watch: Watch<'_>) -> Result<Exact, PlanError> {
    let mut solver = Solver::new(board, watch);
    solver.generate();
    solver.search(&GLANCE);
    for _ in 0..CUTTING {
        let open = solver.gap().is_some_and(|gap| gap > solver.cost / CUT_GAP);
        if !open || !solver.master.cut(&solver.duals, NEAR) || !solver.generate() {
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
    let mut rejected = solver.costs.rejected.clone();
    let of_lanes = [&solver.products.rejected, &solver.recurrences.rejected];
    for (rule, n) in of_lanes.into_iter().flatten() {
        *rejected.entry(rule.clone()).or_default() += n;
    }
    Ok(Exact {
        legal: solver.costs.legal(),
        groups: solver.best,
        cost: solver.cost,
        bound: solver.bound,
        rejected,
    })
}

struct Solver<'b, 'a, 'w> {
    board: &'b Board<'a>,
    watch: Watch<'w>,
    products: Lanes<'b, 'a>,
    recurrences: Lanes<'b, 'a>,
    rows: Rows<'b, 'a>,
    costs: Costs,
    master: Master<'b, 'a>,
    /// The columns so far, with their cost in nanoseconds.
    columns: BTreeMap<Bits, i64>,
    /// The dual values of now.
    duals: Duals,
    /// The latest that left no kernel with a negative reduced cost.
    feasible: Option<Duals>,
    /// No partition costs less than this many nanoseconds.
    bound: Option<i64>,
    best: Vec<Bits>,
    /// Nanoseconds.
    cost: i64,
}

impl<'b, 'a, 'w> Solver<'b, 'a, 'w> {
    /// Starts from the smallest kernels, and from those that greedy merging passes through.
    fn new(board: &'b Board<'a>, watch: Watch<'w>) -> Solver<'b, 'a, 'w> {
        let mut costs = Costs::default();
        let (best, passed) = greedy(board, board.atoms().to_vec());
        let priced = passed.into_iter().filter_map(|members| {
            let cost = costs.of(board, &members)?;
            Some((members, cost))
        });
        let columns: BTreeMap<Bits, i64> = priced.collect();
        let mut master = Master::new(board);
        for (members, cost) in &columns {
            master.add(members, *cost);
        }
        let mut solver = Solver {
            board,
            watch,
            products: Lanes::of_products(board),
            recurrences: Lanes::of_recurrences(board),
            rows: Rows::new(board),
            costs,
            master,
            columns,
            duals: Duals::default(),
            feasible: None,
            bound: None,
            best: vec![],
            cost: 0,
        };
        solver.take(best);
        solver
    }

    fn take(&mut self, groups: Vec<Bits>) {
        self.cost = groups.iter().filter_map(|g| self.columns.get(g)).sum();
        self.best = groups;
    }

    /// Whether a cap on all that a selection may do is reached.
    fn is_spent(&self) -> bool {
        self.costs.asked() > ASKED || self.costs.steps > STEPS
    }

    /// Nanoseconds between the best partition and the bound; `None` if nothing is left, or
    /// nothing is known.
    fn gap(&self) -> Option<i64> {
        self.bound.map(|b| self.cost - b).filter(|gap| *gap > 0)
    }

    /// Kernels of reduced cost below limits (that of rows is one of its own), at most so many of each
    /// kind; and whether those are all.
    fn price(&mut self, limit: i64, of_rows: i64, most: usize) -> (Priced, bool) {
        let (duals, costs) = (&self.duals, &mut self.costs);
        let products = self.products.price(duals, costs, limit, most);
        let recurrences = self.recurrences.price(duals, costs, limit, most);
        let rows = self.rows.price(duals, costs, of_rows, most);
        let lanes = products.and(recurrences);
        let least = |of: &Priced, limit| of.others.is_some_and(|others| others >= limit);
        let all = least(&lanes, limit) && least(&rows, of_rows);
        (lanes.and(rows), all)
    }

    /// Adds columns until none has a negative reduced cost; whether that succeeded.
    fn generate(&mut self) -> bool {
        let mut limits = LIMITS.iter().copied().peekable();
        self.duals = self.master.highest();
        // What is left at the end is taken off the values of anchors: chasing it takes longest.
        let slack = self.duals.total().max(0) / SLACK + 1;
        for round in 0..ROUNDS {
            if self.is_spent() {
                break;
            }
            (self.watch)("adding columns", round);
            let limit = limits.peek().copied().unwrap_or(-slack);
            let of_rows = limits.peek().copied().unwrap_or(0);
            let (priced, all) = self.price(limit, of_rows, COLUMNS);
            self.prove(&priced);
            if !priced.columns.is_empty() {
                for column in priced.columns {
                    self.master.add(&column.members, column.cost);
                    self.columns.insert(column.members, column.cost);
                }
                self.duals = self.master.highest();
            } else if limits.next().is_none() {
                let anchors = [self.board.products(), self.board.recurrences()];
                for i in anchors.into_iter().flat_map(Bits::iter) {
                    self.duals.of[i] -= slack;
                }
                if all {
                    self.raise(self.duals.total());
                    self.feasible = Some(self.duals.clone());
                    return true;
                }
                break;
            }
        }
        if let Some(feasible) = &self.feasible {
            self.duals = feasible.clone();
        }
        false
    }

    /// Takes the bound that dual values give although kernels of negative reduced cost are left: a
    /// partition has no more kernels than operations.
    fn prove(&mut self, priced: &Priced) {
        if let Some(least) = priced.least() {
            let kernels = self.board.atoms().len() as i64;
            self.raise(self.duals.total() + kernels * least.min(0));
        }
    }

    /// No partition costs less than this many picoseconds, rounded up.
    fn raise(&mut self, picoseconds: i64) {
        let whole = picoseconds.div_euclid(1000) + i64::from(picoseconds.rem_euclid(1000) > 0);
        self.bound = self.bound.max(Some(whole.clamp(0, self.cost)));
    }

    /// Lists columns of low reduced cost, and looks for a better partition into them.
    fn search(&mut self, how: &Search) {
        if self.bound.is_some() && self.gap().is_none() || self.is_spent() {
            return;
        }
        (self.watch)("searching", how.states);
        let bound = self.duals.total().div_euclid(1000);
        let gap = 1000 * (self.cost - bound).max(1);
        let limit = gap / how.share + 1;
        let (priced, all) = self.price(limit, limit, how.listed);
        let listed = priced.columns.into_iter().map(|c| (c.members, c.cost));
        self.columns.extend(listed);
        let near: Vec<(Bits, i64)> = self
            .columns
            .iter()
            .filter(|(g, cost)| 1000 * **cost - self.duals.worth(self.board, g) < limit)
            .map(|(g, cost)| (g.clone(), *cost))
            .collect();
        let problem = Problem::new(self.board, &near, &self.duals);
        // Over every kernel within the gap the search is a proof.
        let proves = all && how.share == 1 && self.feasible.is_some();
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
