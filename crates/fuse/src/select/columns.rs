//! Columns: kernels that a pricing problem found.

use super::costs::Costs;
use super::duals::Duals;
use crate::bits::Bits;
use crate::board::Board;
use std::collections::BTreeSet;

/// What rounding a cost to nanoseconds, and sums of a bound, may take off, microseconds.
pub const SLACK_US: f64 = 0.51e-3;

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column {
    /// Cost less the dual values of the members, picoseconds.
    pub reduced: i64,
    /// Positions in the segment.
    pub members: Bits,
    /// Cost in nanoseconds.
    pub cost: i64,
}

/// The answer to a pricing problem.
#[derive(Clone, Debug, Default)]
pub struct Priced {
    /// Kernels of reduced cost below the limit, least first.
    pub columns: Vec<Column>,
    /// No kernel that is not among them has a lower reduced cost, picoseconds; `None` if nothing is
    /// known about the others.
    pub others: Option<i64>,
}

impl Priced {
    /// Both answers together.
    pub fn and(mut self, more: Priced) -> Priced {
        self.columns.extend(more.columns);
        self.others = self.others.zip(more.others).map(|(a, b)| a.min(b));
        self
    }

    /// No kernel at all has a lower reduced cost, picoseconds.
    pub fn least(&self) -> Option<i64> {
        let found = self.columns.iter().map(|column| column.reduced).min();
        let others = self.others?;
        Some(found.map_or(others, |found| found.min(others)))
    }
}

/// A search for kernels of low reduced cost.
pub struct Pricing<'p> {
    /// Dual values of operations and cuts.
    pub duals: &'p Duals,
    /// Costs of groups.
    pub costs: &'p mut Costs,
    /// Microseconds: what is looked for costs less.
    pub limit_us: f64,
    /// How many kernels are kept: those of least reduced cost.
    most: usize,
    /// Steps of the search.
    steps: usize,
    /// How many steps there may be.
    cap: usize,
    found: BTreeSet<(i64, Bits)>,
    /// No kernel that was left out has a lower reduced cost, picoseconds.
    others: i64,
}

impl<'p> Pricing<'p> {
    /// A search for the `most` kernels of least reduced cost below `limit` picoseconds, in `cap` steps.
    pub fn new(
        duals: &'p Duals,
        costs: &'p mut Costs,
        limit: i64,
        most: usize,
        cap: usize,
    ) -> Pricing<'p> {
        Pricing {
            duals,
            costs,
            limit_us: us(limit),
            most,
            steps: 0,
            cap,
            found: BTreeSet::new(),
            others: limit,
        }
    }

    /// Takes a step of the search; `false` if there may be no more, and what is ahead, of this
    /// reduced cost at least (microseconds), is left out.
    pub fn step(&mut self, least_us: f64) -> bool {
        self.steps += 1;
        self.costs.steps += 1;
        if self.steps <= self.cap {
            return true;
        }
        self.others = self.others.min(picoseconds(least_us));
        false
    }

    /// Keeps a group, given a bound of its reduced cost in microseconds, unless pins ask for more
    /// operations or it costs too much.
    pub fn keep(&mut self, board: &Board<'_>, least_us: f64, set: &Bits) {
        if least_us >= self.limit_us || !board.is_closed(set) {
            return;
        }
        let Some(cost) = self.costs.of(board, set) else {
            return;
        };
        let reduced = 1000 * cost - self.duals.worth(board, set);
        if us(reduced) >= self.limit_us {
            return;
        }
        self.found.insert((reduced, set.clone()));
        if self.found.len() > self.most {
            self.found.pop_last();
            if let Some((worst, _)) = self.found.last() {
                // From here on nothing worse is looked for.
                self.limit_us = us(*worst);
                self.others = self.others.min(*worst);
            }
        }
    }

    /// What was found. `complete` says that all groups could be.
    pub fn done(self, board: &Board<'_>, complete: bool) -> Priced {
        let column = |(reduced, members): (i64, Bits)| Column {
            cost: (reduced + self.duals.worth(board, &members)) / 1000,
            reduced,
            members,
        };
        Priced {
            columns: self.found.into_iter().map(column).collect(),
            others: complete.then_some(self.others),
        }
    }
}

/// Microseconds.
pub fn us(picoseconds: i64) -> f64 {
    picoseconds as f64 / 1e6
}

/// Picoseconds, rounded down.
fn picoseconds(us: f64) -> i64 {
    (us * 1e6).floor() as i64
}
