//! Selection: which groups of operations become kernels.
//!
//! One file per way of choosing. All of them return a partition of a segment
//! into legal groups whose quotient is acyclic.

mod exact;
mod greedy;
mod prices;
mod random;

use crate::PlanError;
use crate::bits::Bits;
use crate::candidates::{Board, CAP, positions};
use crate::context::Context;
use crate::plan::{Mode, Reject};
use crate::planner::{pin_kind, unplannable};
use fusec_ir::{OpId, Pin, PinKind};
use std::collections::BTreeMap;

/// The kernels of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Positions in the segment, ascending in each group.
    pub groups: Vec<Vec<usize>>,
    /// Legal groups examined (exact selection only).
    pub legal: usize,
    /// Illegal groups examined, by rule (exact selection only).
    pub rejected: BTreeMap<String, usize>,
    /// Whether all legal groups were examined.
    pub complete: bool,
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
        complete: false,
    };
    let groups = match mode {
        Mode::Unfused => board.atoms().to_vec(),
        Mode::Greedy => greedy::greedy(&board, board.atoms().to_vec()).0,
        Mode::Random(seed) => random::random(&board, seed),
        Mode::Auto => {
            let mut pool = board
                .grow(CAP)
                .map_err(|(ops, reject)| unplannable(ctx, &ops, reject))?;
            let groups = exact::exact(&board, &mut pool)?;
            selection.legal = pool.legal;
            selection.rejected = pool.rejected;
            selection.complete = pool.complete;
            groups
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

/// What the plan may claim about itself.
pub fn claim(mode: Mode, chosen: &[Selection]) -> String {
    match mode {
        Mode::Unfused => "one kernel per operation".into(),
        Mode::Greedy => "pairwise merging; no claim".into(),
        Mode::Random(seed) => format!("drawn at random with seed {seed}; no claim"),
        Mode::Auto => {
            let legal: usize = chosen.iter().map(|s| s.legal).sum();
            if chosen.iter().all(|s| s.complete) {
                format!("optimal over all legal groups ({legal})")
            } else {
                format!(
                    "best of {legal} legal groups: the cap of {CAP} groups of a kind per segment was reached"
                )
            }
        }
    }
}
