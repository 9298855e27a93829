//! Selection: which groups of operations become kernels.
//!
//! One file per way of choosing. All of them return a partition of a segment
//! into legal groups whose quotient is acyclic.

mod exact;
mod greedy;
mod lanes;
mod pairs;
mod prices;
mod random;
mod search;

use crate::PlanError;
use crate::bits::Bits;
use crate::board::{Board, positions};
use crate::candidates::{CAP, grow};
use crate::context::Context;
use crate::plan::{Mode, Reject};
use crate::planner::{pin_kind, unplannable};
use fusec_ir::{OpId, Pin, PinKind};
use std::collections::BTreeMap;
use tracing::debug_span;

/// The kernels of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Positions in the segment, ascending in each group.
    pub groups: Vec<Vec<usize>>,
    /// Legal groups priced (exact selection only).
    pub legal: usize,
    /// Illegal groups examined, by rule (exact selection only).
    pub rejected: BTreeMap<String, usize>,
    /// Predicted time in nanoseconds (exact selection only).
    pub cost: i64,
    /// No selection costs less than this many nanoseconds, if anything is proven.
    pub bound: Option<i64>,
}

/// Chooses the kernels of a segment.
pub fn select(
    ctx: &Context<'_>,
    ops: &[OpId],
    mode: Mode,
    pins: &[Pin],
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
            .map_err(|reject| unplannable(ctx, &ops, reject))?;
    }
    if !board.is_ordered(board.atoms()) {
        let pin = together.first().map(|(pin, _)| *pin);
        return Err(refused(
            pin,
            Reject {
                rule: "not-convex".into(),
                ops: vec![],
                limit: "kernels that do not wait for each other".into(),
                got: "pinned groups that do".into(),
            },
        ));
    }
    let mut selection = Selection {
        groups: vec![],
        legal: 0,
        rejected: BTreeMap::new(),
        cost: 0,
        bound: None,
    };
    let groups = match mode {
        Mode::Unfused => board.atoms().to_vec(),
        Mode::Greedy => greedy::greedy(&board, board.atoms().to_vec()).0,
        Mode::Random(seed) => random::random(&board, seed),
        Mode::Auto => {
            let pool = debug_span!("rows and recurrences")
                .in_scope(|| grow(&board, CAP))
                .map_err(|(ops, reject)| unplannable(ctx, &ops, reject))?;
            let exact = exact::exact(&board, pool)?;
            selection.legal = exact.legal;
            selection.rejected = exact.rejected;
            selection.cost = exact.cost;
            selection.bound = exact.bound;
            exact.groups
        }
    };
    selection.groups = positions(groups);
    Ok(selection)
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
        return Err(refused(
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
        Err(reject) => Err(refused(Some(pin), reject)),
    }
}

fn refused(pin: Option<&Pin>, reject: Reject) -> PlanError {
    PlanError::PinRefused {
        kind: pin.map_or("fuse", |p| pin_kind(p.kind)),
        names: pin.map(|p| p.values.join(", ")).unwrap_or_default(),
        reject: Box::new(reject),
    }
}

/// What the plan may claim about itself, from the selections of its segments and how many
/// segments each is for.
pub fn claim(mode: Mode, chosen: &[(&Selection, usize)]) -> String {
    match mode {
        Mode::Unfused => "one kernel per operation".into(),
        Mode::Greedy => "pairwise merging; no claim".into(),
        Mode::Random(seed) => format!("drawn at random with seed {seed}; no claim"),
        Mode::Auto => {
            let legal: usize = chosen.iter().map(|(s, _)| s.legal).sum();
            let cost: i64 = chosen.iter().map(|(s, n)| s.cost * *n as i64).sum();
            let bound: Option<i64> = chosen.iter().map(|(s, n)| Some(s.bound? * *n as i64)).sum();
            match bound {
                Some(bound) if bound >= cost => {
                    format!(
                        "optimal over all legal groups ({legal} priced, the others ruled out by bounds)"
                    )
                }
                Some(bound) => format!(
                    "best of {legal} legal groups, within {:.2} % of the optimum: a cap ended the search",
                    (cost - bound) as f64 / bound.max(1) as f64 * 100.0
                ),
                None => format!("best of {legal} legal groups: a cap ended the search"),
            }
        }
    }
}
