//! Selection: which groups of operations become kernels.
//!
//! One file per way of choosing. All of them return a partition of a segment
//! into legal groups whose quotient is acyclic.

mod columns;
mod costs;
mod duals;
mod exact;
mod greedy;
mod lanes;
mod master;
mod pairs;
mod random;
mod rows;
mod search;

use crate::bits::Bits;
use crate::board::{Board, nanoseconds, positions};
use crate::context::Context;
use crate::error::PlanError;
use crate::plan::{Mode, Reject};
use fusec_ir::{OpId, Pin, PinKind};
use std::collections::BTreeMap;

/// Is told what exact selection is doing, and how far it is: rounds, or states that it may look at.
pub type Watch<'w> = &'w mut dyn FnMut(&'static str, usize);

/// The kernels of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Positions in the segment, ascending in each group.
    pub groups: Vec<Vec<usize>>,
    /// Parts of the segment that were planned by themselves.
    pub parts: usize,
    /// Legal groups priced (exact selection only).
    pub legal: usize,
    /// Illegal groups examined, by rule (exact selection only).
    pub rejected: BTreeMap<String, usize>,
    /// Predicted time in nanoseconds, of each kernel in its cheapest form.
    pub cost: i64,
    /// No selection costs less than this many nanoseconds, if anything is proven.
    pub bound: Option<i64>,
}

impl Selection {
    /// The same in a larger segment, from a position on.
    pub fn moved(mut self, by: usize) -> Selection {
        self.groups.iter_mut().flatten().for_each(|i| *i += by);
        self
    }

    /// The kernels of two parts of a segment.
    pub fn and(mut self, more: Selection) -> Selection {
        self.groups.extend(more.groups);
        self.parts += more.parts;
        self.legal += more.legal;
        for (rule, n) in more.rejected {
            *self.rejected.entry(rule).or_default() += n;
        }
        self.cost += more.cost;
        self.bound = self.bound.zip(more.bound).map(|(a, b)| a + b);
        self
    }
}

/// Chooses the kernels of a segment.
pub fn select(
    ctx: &Context<'_>,
    ops: &[OpId],
    mode: Mode,
    pins: &[Pin],
    watch: Watch<'_>,
) -> Result<Selection, PlanError> {
    let mut together = Vec::new();
    let mut apart = Vec::new();
    for pin in pins {
        let members = Bits::of(ops.len(), pinned(ctx, ops, pin));
        match pin.kind {
            PinKind::Fuse if !members.is_empty() => together.push((pin, members)),
            PinKind::Split if members.len() > 1 => apart.push(members),
            _ => {}
        }
    }
    let groups: Vec<Bits> = together.iter().map(|(_, g)| g.clone()).collect();
    let board = Board::new(ctx, ops, &groups, apart);
    for (pin, members) in &together {
        obeyed(&board, pin, members)?;
    }
    for atom in board.atoms() {
        let ops = board.ops_of(atom);
        board
            .price(atom)
            .map_err(|reject| PlanError::unplannable(ctx, &ops, reject))?;
    }
    if !board.is_ordered(board.atoms()) {
        let pin = together.first().map(|(pin, _)| *pin);
        return Err(PlanError::refused(
            pin,
            Reject {
                rule: "not-convex".into(),
                ops: vec![],
                limit: "kernels that do not wait for each other".into(),
                got: "pinned groups that do".into(),
            },
        ));
    }
    let plain = |groups: Vec<Bits>| {
        let us = groups.iter().filter_map(|group| board.price(group).ok());
        Selection {
            cost: us.map(nanoseconds).sum(),
            groups: positions(groups),
            parts: 1,
            legal: 0,
            rejected: BTreeMap::new(),
            bound: None,
        }
    };
    Ok(match mode {
        Mode::Unfused => plain(board.atoms().to_vec()),
        Mode::Greedy => plain(greedy::greedy(&board, board.atoms().to_vec()).0),
        Mode::Random(seed) => plain(random::random(&board, seed)),
        Mode::Auto => {
            let exact = exact::exact(&board, watch)?;
            Selection {
                groups: positions(exact.groups),
                parts: 1,
                legal: exact.legal,
                rejected: exact.rejected,
                cost: exact.cost,
                bound: exact.bound,
            }
        }
    })
}

/// Positions of the operations that make the named values.
fn pinned(ctx: &Context<'_>, ops: &[OpId], pin: &Pin) -> Vec<usize> {
    let named = |id: &OpId| {
        let outputs = &ctx.graph.op(*id).outputs;
        outputs
            .iter()
            .any(|v| pin.values.contains(&ctx.graph.value(*v).name))
    };
    (0..ops.len()).filter(|i| named(&ops[*i])).collect()
}

/// A `fuse` pin must lie in one segment and be a legal kernel with what is between its values.
fn obeyed(board: &Board<'_>, pin: &Pin, members: &Bits) -> Result<(), PlanError> {
    let graph = board.ctx.graph;
    let here: Vec<&str> = members
        .iter()
        .flat_map(|i| &graph.op(board.ops[i]).outputs)
        .map(|v| graph.value(*v).name.as_str())
        .collect();
    if let Some(elsewhere) = pin.values.iter().find(|n| !here.contains(&n.as_str())) {
        return Err(PlanError::refused(
            Some(pin),
            Reject {
                rule: "segment".into(),
                ops: board.ops_of(members),
                limit: "values of one layer".into(),
                got: format!("`{elsewhere}` is made outside the layer of the others"),
            },
        ));
    }
    match board.price(&board.closed(members.clone())) {
        Ok(_) => Ok(()),
        Err(reject) => Err(PlanError::refused(Some(pin), reject)),
    }
}

/// What the plan may claim about itself, from the selections of its segments and how many
/// segments each is for; `limit` is how many operations are planned together.
pub fn claim(mode: Mode, chosen: &[(&Selection, usize)], limit: usize) -> String {
    match mode {
        Mode::Unfused => "one kernel per operation".into(),
        Mode::Greedy => "pairwise merging; no claim".into(),
        Mode::Random(seed) => format!("drawn at random with seed {seed}; no claim"),
        Mode::Auto => {
            let legal: usize = chosen.iter().map(|(s, _)| s.legal).sum();
            let cost: i64 = chosen.iter().map(|(s, n)| s.cost * *n as i64).sum();
            let bound: Option<i64> = chosen.iter().map(|(s, n)| Some(s.bound? * *n as i64)).sum();
            let found = match bound {
                Some(bound) if bound >= cost => format!(
                    "optimal over all legal groups ({legal} priced, the others ruled out by bounds)"
                ),
                Some(bound) if bound > 0 => format!(
                    "best of {legal} legal groups, within {:.2} % of the optimum: a cap ended the search",
                    (cost - bound) as f64 / bound as f64 * 100.0
                ),
                _ => format!("best of {legal} legal groups: a cap ended the search"),
            };
            let parts = chosen.iter().map(|(s, _)| s.parts).max().unwrap_or(1);
            match parts {
                1 => found,
                _ => format!(
                    "{found}; layers of more than {limit} operations in parts of at most so many"
                ),
            }
        }
    }
}
