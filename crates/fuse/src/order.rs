//! Launch order, and whether groups of operations can be ordered at all.

use crate::context::Context;
use fusec_ir::OpId;
use std::collections::{BTreeMap, BTreeSet};

/// The groups in an order in which each comes after those it reads from, the group with the
/// smallest operation first among the free ones; or the groups of one cycle.
///
/// An operation that is in none of the groups is taken as done.
pub fn launch_order(ctx: &Context<'_>, groups: &[Vec<OpId>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut of = BTreeMap::new();
    for (g, ops) in groups.iter().enumerate() {
        for id in ops {
            of.insert(*id, g);
        }
    }
    let mut before: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); groups.len()];
    let mut after: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); groups.len()];
    for (g, ops) in groups.iter().enumerate() {
        for id in ops {
            for access in &ctx.graph.op(*id).inputs {
                let from = ctx.graph.producer(access.value).and_then(|p| of.get(&p));
                if let Some(from) = from.copied()
                    && from != g
                {
                    before[g].insert(from);
                    after[from].insert(g);
                }
            }
        }
    }
    let key = |g: usize| (groups[g].first().copied(), g);
    let mut missing: Vec<usize> = before.iter().map(BTreeSet::len).collect();
    let mut free: BTreeSet<(Option<OpId>, usize)> = (0..groups.len())
        .filter(|g| missing[*g] == 0)
        .map(key)
        .collect();
    let mut order = Vec::with_capacity(groups.len());
    while let Some((_, g)) = free.pop_first() {
        order.push(g);
        for next in &after[g] {
            missing[*next] -= 1;
            if missing[*next] == 0 {
                free.insert(key(*next));
            }
        }
    }
    if order.len() == groups.len() {
        return Ok(order);
    }
    Err(cycle(&before, &missing))
}

/// Walks backwards among the groups that never became free until one repeats.
fn cycle(before: &[BTreeSet<usize>], missing: &[usize]) -> Vec<usize> {
    let stuck = |g: &usize| missing[*g] > 0;
    let mut path: Vec<usize> = (0..missing.len()).filter(stuck).take(1).collect();
    while let Some(last) = path.last() {
        let Some(next) = before[*last].iter().copied().find(|g| stuck(g)) else {
            break;
        };
        if let Some(start) = path.iter().position(|g| *g == next) {
            return path.split_off(start);
        }
        path.push(next);
    }
    path
}
