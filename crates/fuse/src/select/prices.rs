//! Prices of operations: a lower bound on the cost of covering what is left.
//!
//! Prices are feasible for the dual of the linear relaxation of the set partitioning: those of a
//! candidate's members never add up to more than the candidate costs. So whatever covers a
//! set of operations exactly costs at least the sum of their prices. A price may be negative: an
//! operation whose presence in a kernel saves a store.

use crate::bits::Bits;
use crate::board::Board;
use microlp::{ComparisonOp, OptimizationDirection, Problem, Variable};
use std::collections::BTreeSet;

/// Two operations of which only one may be in a kernel with something that is before the other.
///
/// A kernel with the first and what is before the second goes before the kernel of the second; a
/// kernel with the second and what is before the first goes before that of the first. Two such
/// kernels wait for each other, two that hold the same operation exclude each other: of all
/// kernels that [`Cut::meets`], a partition that can be launched has at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut(pub usize, pub usize);

impl Cut {
    /// Whether the cut counts a kernel. Larger kernels are counted if smaller ones are.
    pub fn meets(self, board: &Board<'_>, kernel: &Bits) -> bool {
        let Cut(a, b) = self;
        kernel.contains(a) && kernel.meets(board.before(b))
            || kernel.contains(b) && kernel.meets(board.before(a))
    }
}

/// Prices of operations and of cuts, in picoseconds.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    /// Per operation.
    pub of: Vec<i64>,
    /// What a kernel that meets a cut costs more; not negative.
    pub cuts: Vec<(Cut, i64)>,
}

impl Prices {
    /// What a kernel may cost, at least, by these prices.
    pub fn worth(&self, board: &Board<'_>, kernel: &Bits) -> i64 {
        let of: i64 = kernel.iter().map(|i| self.of[i]).sum();
        let met = self.cuts.iter().filter(|(cut, _)| cut.meets(board, kernel));
        of - met.map(|(_, price)| price).sum::<i64>()
    }

    /// What a partition costs at least.
    pub fn total(&self) -> i64 {
        self.of.iter().sum::<i64>() - self.cuts.iter().map(|(_, price)| price).sum::<i64>()
    }
}

/// Rounds in which violated candidates become rows of the linear programme.
const ROUNDS: usize = 100;
/// Slack in nanoseconds from which a row is left out.
const FAR: f64 = -1000.0;
/// Cuts added in one round.
const CUTS: usize = 12;
/// What the solver's sums may be off by, as a part of the largest cost.
const TOLERANCE: f64 = 1e-7;
/// Rows added in one round.
const ROWS: usize = 30;

/// The dual linear programme over kernels that become known one after the other.
pub struct Programme<'b, 'a> {
    board: &'b Board<'a>,
    kernels: Vec<Known>,
    seen: BTreeSet<Bits>,
    cuts: Vec<Cut>,
    /// Kernels that are rows of the programme: the others do not bind.
    rows: Vec<usize>,
}

struct Known {
    members: Bits,
    /// Nanoseconds.
    cost: i64,
    /// Whether it is a smallest kernel.
    is_atom: bool,
    /// The variables of its row: operations, then cuts, which count negatively.
    vars: Vec<usize>,
}

impl<'b, 'a> Programme<'b, 'a> {
    /// Without kernels and cuts.
    pub fn new(board: &'b Board<'a>) -> Programme<'b, 'a> {
        Programme {
            board,
            kernels: vec![],
            seen: BTreeSet::new(),
            cuts: vec![],
            rows: vec![],
        }
    }

    /// Makes a kernel known, with its cost in nanoseconds.
    pub fn add(&mut self, members: &Bits, cost: i64) {
        if !self.seen.insert(members.clone()) {
            return;
        }
        // Each operation is in one of these, and so its price has a limit.
        let is_atom = self.board.atoms().contains(members);
        if is_atom {
            self.rows.push(self.kernels.len());
        }
        let mut vars: Vec<usize> = members.iter().collect();
        for (k, cut) in self.cuts.iter().enumerate() {
            if cut.meets(self.board, members) {
                vars.push(self.board.len() + k);
            }
        }
        self.kernels.push(Known {
            members: members.clone(),
            cost,
            is_atom,
            vars,
        });
    }

    /// The feasible prices of highest sum. Where the solver fails they are feasible all the same,
    /// but lower.
    pub fn highest(&mut self) -> Prices {
        let _span = tracing::debug_span!("prices").entered();
        let n = self.board.len();
        let mut price = self.solve().unwrap_or_else(|| self.first_guess());
        for kernel in &self.kernels {
            let over = excess(&kernel.vars, &price, n) - kernel.cost as f64;
            if over > 0.0 {
                let ops = kernel.members.len() as f64;
                kernel.members.iter().for_each(|i| price[i] -= over / ops);
            }
        }
        let picoseconds = |p: &f64| (p * 1e3).floor() as i64;
        let mut prices = Prices {
            of: price[..n].iter().map(picoseconds).collect(),
            cuts: (self.cuts.iter().copied())
                .zip(price[n..].iter().map(|p| picoseconds(p) + 1))
                .collect(),
        };
        // Only whole atoms are in kernels: as much for each operation of one, so that a part of it is
        // not worth more than the whole.
        for atom in self.board.atoms().iter().filter(|atom| atom.len() > 1) {
            let sum: i64 = atom.iter().map(|i| prices.of[i]).sum();
            let n = atom.len() as i64;
            for (k, i) in atom.iter().enumerate() {
                prices.of[i] = sum.div_euclid(n) + i64::from((k as i64) < sum.rem_euclid(n));
            }
        }
        // Sums in floating point are not exact: a last look in whole numbers.
        for kernel in &self.kernels {
            let over = prices.worth(self.board, &kernel.members) - 1000 * kernel.cost;
            if over > 0
                && let Some(i) = kernel.members.iter().next()
            {
                prices.of[i] -= over;
            }
        }
        prices
    }

    fn solve(&mut self) -> Option<Vec<f64>> {
        let n = self.board.len();
        let scale = self
            .kernels
            .iter()
            .map(|k| k.cost)
            .max()
            .unwrap_or(1)
            .max(1) as f64;
        for _ in 0..ROUNDS {
            let mut problem = Problem::new(OptimizationDirection::Maximize);
            let free = (f64::NEG_INFINITY, f64::INFINITY);
            let mut vars: Vec<Variable> = (0..n).map(|_| problem.add_var(1.0, free)).collect();
            let paid = (0.0, f64::INFINITY);
            vars.extend(self.cuts.iter().map(|_| problem.add_var(-1.0, paid)));
            for c in &self.rows {
                let kernel = &self.kernels[*c];
                let term = |v: &usize| (vars[*v], if *v < n { 1.0 } else { -1.0 });
                let row: Vec<_> = kernel.vars.iter().map(term).collect();
                problem.add_constraint(row, ComparisonOp::Le, kernel.cost as f64 / scale);
            }
            let solution = problem.solve().ok()?.into_solution().ok()?;
            let price: Vec<f64> = vars.iter().map(|v| solution[*v] * scale).collect();
            // Nanoseconds by which prices exceed a kernel's cost.
            let over =
                |c: usize| excess(&self.kernels[c].vars, &price, n) - self.kernels[c].cost as f64;
            let mut violated: Vec<(i64, usize)> = (0..self.kernels.len())
                .filter(|c| over(*c) > scale * TOLERANCE)
                .map(|c| ((over(c) * 1e3) as i64, c))
                .collect();
            if violated.is_empty() {
                // Rows far from binding come back if they are needed.
                let kernels = &self.kernels;
                self.rows.retain(|c| over(*c) > FAR || kernels[*c].is_atom);
                return Some(price);
            }
            violated.sort_unstable_by_key(|(over, c)| (-over, *c));
            let more = violated.into_iter().map(|(_, c)| c).take(ROWS);
            self.rows.extend(more);
        }
        None
    }

    /// Adds the cuts that the cheapest mixture of kernels violates; whether there were any.
    ///
    /// A mixture takes parts of kernels, such that every operation is in kernels whose parts add up
    /// to one: the relaxation whose cost the prices add up to.
    pub fn cut(&mut self, prices: &Prices, slack: i64) -> bool {
        let _span = tracing::debug_span!("cuts").entered();
        let near: Vec<&Known> = self
            .kernels
            .iter()
            .filter(|k| 1000 * k.cost - prices.worth(self.board, &k.members) < slack)
            .collect();
        let Some(parts) = self.mixture(&near) else {
            return false;
        };
        let taken: Vec<(&Bits, f64)> = near
            .iter()
            .zip(parts)
            .filter(|(_, part)| *part > 1e-6)
            .map(|(k, part)| (&k.members, part))
            .collect();
        let n = self.board.len();
        let mut violated: Vec<(i64, Cut)> = Vec::new();
        for a in 0..n {
            for b in a + 1..n {
                let cut = Cut(a, b);
                let related = self.board.before(b).contains(a);
                if related || self.cuts.contains(&cut) {
                    continue;
                }
                let met = taken.iter().filter(|(k, _)| cut.meets(self.board, k));
                let sum: f64 = met.map(|(_, part)| part).sum();
                if sum > 1.0 + 1e-4 {
                    violated.push(((sum * 1e3) as i64, cut));
                }
            }
        }
        violated.sort_unstable_by_key(|(sum, cut)| (-sum, *cut));
        violated.truncate(CUTS);
        for (_, cut) in &violated {
            let var = n + self.cuts.len();
            self.cuts.push(*cut);
            for kernel in &mut self.kernels {
                if cut.meets(self.board, &kernel.members) {
                    kernel.vars.push(var);
                }
            }
        }
        !violated.is_empty()
    }

    /// The part of each kernel in the cheapest mixture.
    fn mixture(&self, kernels: &[&Known]) -> Option<Vec<f64>> {
        let scale = kernels.iter().map(|k| k.cost).max()?.max(1) as f64;
        let mut problem = Problem::new(OptimizationDirection::Minimize);
        let parts: Vec<Variable> = kernels
            .iter()
            .map(|k| problem.add_var(k.cost as f64 / scale, (0.0, 1.0)))
            .collect();
        let n = self.board.len();
        for v in 0..n + self.cuts.len() {
            let held = kernels
                .iter()
                .zip(&parts)
                .filter(|(k, _)| k.vars.contains(&v));
            let row: Vec<(Variable, f64)> = held.map(|(_, part)| (*part, 1.0)).collect();
            let relation = if v < n {
                ComparisonOp::Eq
            } else {
                ComparisonOp::Le
            };
            problem.add_constraint(row, relation, 1.0);
        }
        let solution = problem.solve().ok()?.into_solution().ok()?;
        Some(parts.iter().map(|part| solution[*part]).collect())
    }

    /// Each kernel's cost shared evenly by its members, and the least share of each.
    fn first_guess(&self) -> Vec<f64> {
        let n = self.board.len();
        let mut least = vec![f64::INFINITY; n];
        for kernel in &self.kernels {
            for i in kernel.members.iter() {
                least[i] = least[i].min(kernel.cost as f64 / kernel.members.len() as f64);
            }
        }
        least.resize(n + self.cuts.len(), 0.0);
        least
    }
}

/// The sum of the prices of operations less those of cuts.
fn excess(vars: &[usize], price: &[f64], ops: usize) -> f64 {
    let term = |v: &usize| if *v < ops { price[*v] } else { -price[*v] };
    vars.iter().map(term).sum()
}
