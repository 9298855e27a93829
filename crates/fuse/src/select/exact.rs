//! Exact selection: every operation in exactly one kernel, at the least total cost.
//!
//! A set partitioning problem over the pool of candidates, solved as an integer program.
//! Groups that are each convex can still wait for each other; such a cycle is forbidden by
//! a constraint and the program is solved again.

use super::greedy::greedy;
use crate::PlanError;
use crate::bits::Bits;
use crate::candidates::{Board, Candidate, Pool, nanoseconds};
use good_lp::{
    Expression, Solution, SolverModel, Variable, constraint, microlp, variable, variables,
};
use std::collections::BTreeMap;

/// Cycles forbidden before the search is given up.
const CUTS: usize = 200;
/// Rounds of refinement of an incomplete pool.
const ROUNDS: usize = 4;

/// The cheapest partition into groups of the pool, which is refined where it is incomplete:
/// groups that greedy merging passes through, from single operations and from the best
/// partition found so far, are added until they no longer help.
pub fn exact(board: &Board<'_>, pool: &mut Pool) -> Result<Vec<Bits>, PlanError> {
    if pool.complete {
        return solve(board, &pool.candidates);
    }
    let mut known: BTreeMap<Bits, usize> = BTreeMap::new();
    for (i, c) in pool.candidates.iter().enumerate() {
        known.insert(c.members.clone(), i);
    }
    let mut start = board.atoms().to_vec();
    let mut best: Option<(i64, Vec<Bits>)> = None;
    for _ in 0..ROUNDS {
        let (_, passed) = greedy(board, start);
        for members in passed {
            if let Ok(us) = board.price(&members)
                && !known.contains_key(&members)
            {
                known.insert(members.clone(), pool.candidates.len());
                pool.candidates.push(Candidate { members, us });
                pool.legal += 1;
            }
        }
        let groups = solve(board, &pool.candidates)?;
        let total: f64 = groups
            .iter()
            .filter_map(|g| known.get(g))
            .map(|i| pool.candidates[*i].us)
            .sum();
        let total = nanoseconds(total);
        if best.as_ref().is_some_and(|(least, _)| total >= *least) {
            break;
        }
        best = Some((total, groups.clone()));
        start = groups;
    }
    best.map(|(_, groups)| groups)
        .ok_or_else(|| PlanError::Selection("no partition found".into()))
}

fn solve(board: &Board<'_>, candidates: &[Candidate]) -> Result<Vec<Bits>, PlanError> {
    let mut cuts: Vec<Vec<usize>> = Vec::new();
    loop {
        let chosen = integer_program(board.len(), candidates, &cuts)?;
        let groups: Vec<Vec<_>> = chosen
            .iter()
            .map(|c| board.ops_of(&candidates[*c].members))
            .collect();
        match crate::order::launch_order(board.ctx, &groups) {
            Ok(_) => {
                return Ok(chosen
                    .into_iter()
                    .map(|c| candidates[c].members.clone())
                    .collect());
            }
            Err(_) if cuts.len() == CUTS => {
                return Err(PlanError::Selection(format!(
                    "{CUTS} sets of kernels that wait for each other"
                )));
            }
            Err(cycle) => cuts.push(cycle.into_iter().map(|g| chosen[g]).collect()),
        }
    }
}

/// The chosen candidates, ascending.
fn integer_program(
    n: usize,
    candidates: &[Candidate],
    cuts: &[Vec<usize>],
) -> Result<Vec<usize>, PlanError> {
    let mut vars = variables!();
    let pick: Vec<Variable> = candidates
        .iter()
        .map(|_| vars.add(variable().binary()))
        .collect();
    let mut rows = vec![Expression::default(); n];
    let mut total = Expression::default();
    for (candidate, var) in candidates.iter().zip(&pick) {
        // Whole nanoseconds: noise in the last digits must not decide between equals.
        total += nanoseconds(candidate.us) as f64 / 1e3 * *var;
        for i in candidate.members.iter() {
            rows[i] += *var;
        }
    }
    let mut model = vars.minimise(total).using(microlp);
    for row in rows {
        model = model.with(constraint!(row == 1.0));
    }
    for cut in cuts {
        let sum: Expression = cut.iter().map(|c| Expression::from(pick[*c])).sum();
        model = model.with(constraint!(sum <= (cut.len() - 1) as f64));
    }
    let solution = model
        .solve()
        .map_err(|e| PlanError::Selection(e.to_string()))?;
    Ok((0..candidates.len())
        .filter(|c| solution.value(pick[*c]) > 0.5)
        .collect())
}
