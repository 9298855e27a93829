//! The restricted master problem: the linear relaxation of the set partitioning over the kernels that
//! are known so far, and the cuts that make it tight.

use super::duals::{Cut, Duals};
use crate::bits::Bits;
use crate::board::Board;
use microlp::{ComparisonOp, OptimizationDirection, Problem, Solution, Variable};
use std::collections::BTreeSet;

/// Rounds in which violated candidates become rows of the linear programme.
const ROUNDS: usize = 100;
/// Slack in nanoseconds from which a row is left out.
const FAR: f64 = -1000.0;
/// Cuts added in one round.
const CUTS: usize = 30;
/// What the solver's sums may be off by, as a part of the largest cost.
const TOLERANCE: f64 = 1e-7;
/// Rows added in one round.
const ROWS: usize = 30;

/// The restricted master problem, solved in its dual form: rows are columns of the primal.
pub struct Master<'b, 'a> {
    board: &'b Board<'a>,
    kernels: Vec<Known>,
    seen: BTreeSet<Bits>,
    cuts: Vec<Cut>,
    /// Kernels that are rows of the programme: the others do not bind.
    rows: Vec<usize>,
    /// The programme as it was solved last, unless cuts were added since.
    solved: Option<Simplex>,
    /// The values that it had then.
    last: Option<Vec<f64>>,
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

impl<'b, 'a> Master<'b, 'a> {
    /// Without kernels and cuts.
    pub fn new(board: &'b Board<'a>) -> Master<'b, 'a> {
        Master {
            board,
            kernels: vec![],
            seen: BTreeSet::new(),
            cuts: vec![],
            rows: vec![],
            solved: None,
            last: None,
        }
    }

    /// Makes a kernel known, with its cost in nanoseconds.
    pub fn add(&mut self, members: &Bits, cost: i64) {
        if !self.seen.insert(members.clone()) {
            return;
        }
        // Each operation is in one of these, and so its value has a limit.
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

    /// The dual values of highest sum that are feasible for the known kernels. Where the solver
    /// fails they are feasible all the same, but lower.
    pub fn highest(&mut self) -> Duals {
        let _span = tracing::debug_span!("restricted master problems").entered();
        let n = self.board.len();
        let mut value = self.solve().unwrap_or_else(|| self.first_guess());
        self.last = Some(value.clone());
        for kernel in &self.kernels {
            let over = excess(&kernel.vars, &value, n) - kernel.cost as f64;
            if over > 0.0 {
                let ops = kernel.members.len() as f64;
                kernel.members.iter().for_each(|i| value[i] -= over / ops);
            }
        }
        let picoseconds = |p: &f64| (p * 1e3).floor() as i64;
        let mut duals = Duals {
            of: value[..n].iter().map(picoseconds).collect(),
            cuts: (self.cuts.iter().copied())
                .zip(value[n..].iter().map(|p| picoseconds(p) + 1))
                .collect(),
        };
        // Only whole atoms are in kernels: as much for each operation of one, so that a part of it is
        // not worth more than the whole.
        for atom in self.board.atoms().iter().filter(|atom| atom.len() > 1) {
            let sum: i64 = atom.iter().map(|i| duals.of[i]).sum();
            let n = atom.len() as i64;
            for (k, i) in atom.iter().enumerate() {
                duals.of[i] = sum.div_euclid(n) + i64::from((k as i64) < sum.rem_euclid(n));
            }
        }
        // Sums in floating point are not exact: a last look in whole numbers.
        for kernel in &self.kernels {
            let over = duals.worth(self.board, &kernel.members) - 1000 * kernel.cost;
            if over > 0
                && let Some(i) = kernel.members.iter().next()
            {
                duals.of[i] -= over;
            }
        }
        duals
    }

    fn solve(&mut self) -> Option<Vec<f64>> {
        let n = self.board.len();
        let mut simplex = match self.solved.take() {
            Some(simplex) => simplex,
            None => self.start()?,
        };
        for _ in 0..ROUNDS {
            let mut value = simplex.values();
            let mut violated: Vec<(i64, usize)> = (0..self.kernels.len())
                .map(|c| (self.over(c, &value), c))
                .filter(|(over, _)| *over > simplex.tolerance())
                .map(|(over, c)| ((over * 1e3) as i64, c))
                .collect();
            if violated.is_empty() {
                self.solved = Some(simplex);
                return Some(value);
            }
            violated.sort_unstable_by_key(|(over, c)| (-over, *c));
            for (_, c) in violated.into_iter().take(ROWS) {
                // The rows before it may have been enough.
                if self.over(c, &value) > simplex.tolerance() {
                    self.rows.push(c);
                    simplex = simplex.add(&self.kernels[c], n)?;
                    value = simplex.values();
                }
            }
        }
        None
    }

    /// Nanoseconds by which values exceed the cost of a kernel.
    fn over(&self, kernel: usize, value: &[f64]) -> f64 {
        let kernel = &self.kernels[kernel];
        excess(&kernel.vars, value, self.board.len()) - kernel.cost as f64
    }

    /// Solves the programme of the rows that bound the last values, and of the smallest kernels.
    fn start(&mut self) -> Option<Simplex> {
        let n = self.board.len();
        let kernels = &self.kernels;
        if let Some(value) = self.last.take() {
            let near =
                |c: &usize| excess(&kernels[*c].vars, &value, n) - kernels[*c].cost as f64 > FAR;
            self.rows.retain(|c| kernels[*c].is_atom || near(c));
        }
        let rows = self.rows.iter().map(|c| &kernels[*c]);
        Simplex::new(n, self.cuts.len(), &rows.collect::<Vec<_>>())
    }

    /// Adds the cuts that the cheapest mixture of kernels violates; whether there were any.
    ///
    /// A mixture takes parts of kernels, such that every operation is in kernels whose parts add up
    /// to one: the relaxation whose cost the dual values add up to.
    pub fn cut(&mut self, duals: &Duals, slack: i64) -> bool {
        let _span = tracing::debug_span!("cuts").entered();
        let near: Vec<&Known> = self
            .kernels
            .iter()
            .filter(|k| 1000 * k.cost - duals.worth(self.board, &k.members) < slack)
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
                if self.board.before(b).contains(a) {
                    continue;
                }
                for after in [false, true] {
                    let pair = (a, b);
                    let cut = Cut { pair, after };
                    let met = taken.iter().filter(|(k, _)| cut.meets(self.board, k));
                    let sum: f64 = met.map(|(_, part)| part).sum();
                    if sum > 1.0 + 1e-4 && !self.cuts.contains(&cut) {
                        violated.push(((sum * 1e3) as i64, cut));
                    }
                }
            }
        }
        violated.sort_unstable_by_key(|(sum, cut)| (-sum, *cut));
        violated.truncate(CUTS);
        if let Some(last) = &mut self.last {
            last.resize(n + self.cuts.len() + violated.len(), 0.0);
        }
        self.solved = None;
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

/// A solved linear programme: the highest sum of values that costs allow. Rows can be added to it,
/// and are the cheaper the less they change.
struct Simplex {
    vars: Vec<Variable>,
    solution: Solution,
    /// Nanoseconds of its unit.
    scale: f64,
}

impl Simplex {
    fn new(ops: usize, cuts: usize, rows: &[&Known]) -> Option<Simplex> {
        let scale = rows.iter().map(|k| k.cost).max()?.max(1) as f64;
        let mut problem = Problem::new(OptimizationDirection::Maximize);
        let free = (f64::NEG_INFINITY, f64::INFINITY);
        let mut vars: Vec<Variable> = (0..ops).map(|_| problem.add_var(1.0, free)).collect();
        let paid = (0.0, f64::INFINITY);
        vars.extend((0..cuts).map(|_| problem.add_var(-1.0, paid)));
        for kernel in rows {
            let row = terms(&vars, kernel, ops);
            problem.add_constraint(row, ComparisonOp::Le, kernel.cost as f64 / scale);
        }
        let solution = problem.solve().ok()?.into_solution().ok()?;
        Some(Simplex {
            vars,
            solution,
            scale,
        })
    }

    fn add(self, kernel: &Known, ops: usize) -> Option<Simplex> {
        let row = terms(&self.vars, kernel, ops);
        let cost = kernel.cost as f64 / self.scale;
        let added = self.solution.add_constraint(row, ComparisonOp::Le, cost);
        Some(Simplex {
            solution: added.ok()?.into_solution().ok()?,
            ..self
        })
    }

    /// Nanoseconds of each variable.
    fn values(&self) -> Vec<f64> {
        let value = |var: &Variable| self.solution[*var] * self.scale;
        self.vars.iter().map(value).collect()
    }

    /// Nanoseconds that its sums may be off by.
    fn tolerance(&self) -> f64 {
        self.scale * TOLERANCE
    }
}

/// The terms of a kernel's row.
fn terms(vars: &[Variable], kernel: &Known, ops: usize) -> Vec<(Variable, f64)> {
    let term = |v: &usize| (vars[*v], if *v < ops { 1.0 } else { -1.0 });
    kernel.vars.iter().map(term).collect()
}

/// The sum of the values of operations less those of cuts.
fn excess(vars: &[usize], value: &[f64], ops: usize) -> f64 {
    let term = |v: &usize| if *v < ops { value[*v] } else { -value[*v] };
    vars.iter().map(term).sum()
}
