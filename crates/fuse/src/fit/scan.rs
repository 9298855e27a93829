//! The scan template: one block walks along T with its part of the state on the chip.

use super::space::{Need, divisors, extent, halo, keeps_axis, largest_space};
use super::{Group, anchor_lanes, row};
use crate::plan::{Body, GridAxis, Reject, Template};
use fusec_ir::{AxisId, OpId, OpKind};

/// State elements one block should hold: they live in registers.
const STATE_TARGET: usize = 4096;
/// Elements of another operation one block should hold.
const WIDTH_TARGET: usize = 4096;
/// State elements one block can hold.
const STATE_LIMIT: usize = 16384;
/// Elements of another operation one block can hold.
const WIDTH_LIMIT: usize = 16384;

pub fn fit(group: &Group<'_>, scans: &[OpId]) -> Result<Vec<Body>, Reject> {
    for id in group.ops {
        if matches!(group.op(*id).kind, OpKind::Gather) {
            return Err(group.reject(
                "scan-gather",
                [*id],
                "no look-up in a kernel that walks along T",
                format!("`{}`", group.name(*id)),
            ));
        }
    }
    // Walking all rows in order needs no halo, but earlier rows are kept along their own axes.
    halo(group, group.ops)?;
    let lanes = lanes(group, scans)?;
    let mut taken = vec![false; group.ops.len()];
    lanes
        .iter()
        .map(|members| {
            let ops: Vec<OpId> = select(group, members);
            // A prologue operation of two lanes is stored by the first.
            let own: Vec<OpId> = members
                .iter()
                .enumerate()
                .filter(|(i, m)| **m && !taken[*i])
                .map(|(i, _)| group.ops[i])
                .collect();
            for (i, m) in members.iter().enumerate() {
                taken[i] |= *m;
            }
            let anchors: Vec<OpId> = scans
                .iter()
                .copied()
                .filter(|s| ops.binary_search(s).is_ok())
                .collect();
            let grid = spread(group, &ops, &anchors)?;
            Ok(Body {
                template: Template::Scan,
                anchors,
                stores: own
                    .iter()
                    .flat_map(|id| group.stored_outputs(*id))
                    .collect(),
                tails: row::tails(group, &own),
                ops,
                grid,
                rows_per_block: 1,
                ahead: false,
            })
        })
        .collect()
}

fn select(group: &Group<'_>, members: &[bool]) -> Vec<OpId> {
    group
        .ops
        .iter()
        .zip(members)
        .filter(|(_, m)| **m)
        .map(|(id, _)| *id)
        .collect()
}

/// Membership of each lane: its scans, their descendants, side results, and all ancestors.
fn lanes(group: &Group<'_>, scans: &[OpId]) -> Result<Vec<Vec<bool>>, Reject> {
    let (of, count) = anchor_lanes(group, scans);
    let mut lanes: Vec<Vec<bool>> = (0..count)
        .map(|lane| {
            let from: Vec<bool> = of.iter().map(|l| *l == Some(lane)).collect();
            group.ancestors(&from)
        })
        .collect();
    // Side results of a prologue belong to the first lane that computes an operand of theirs.
    for (i, id) in group.ops.iter().enumerate() {
        if lanes.iter().any(|lane| lane[i]) {
            continue;
        }
        let lane = lanes.iter().position(|lane| {
            group
                .in_body_accesses(*id)
                .any(|(_, p)| group.position(p).is_some_and(|p| lane[p]))
        });
        if let Some(lane) = lane {
            let mut from = lanes[lane].clone();
            from[i] = true;
            lanes[lane] = group.ancestors(&from);
        }
    }
    match (0..group.ops.len()).find(|i| !lanes.iter().any(|lane| lane[*i])) {
        None => Ok(lanes),
        Some(i) => Err(group.reject(
            "not-connected",
            [group.ops[i]],
            "operations connected to a recurrence by values of the kernel",
            format!("`{}` is connected to none", group.name(group.ops[i])),
        )),
    }
}

/// Chooses the grid of a lane: parallel axes outermost first with one element per block, the
/// trailing ones whole as long as a block does not hold too much.
fn spread(group: &Group<'_>, ops: &[OpId], scans: &[OpId]) -> Result<Vec<GridAxis>, Reject> {
    let graph = group.ctx.graph;
    let from: Vec<bool> = group.ops.iter().map(|id| scans.contains(id)).collect();
    let after = group.descendants(&from);
    let need = |id: &OpId| {
        if group.position(*id).is_some_and(|i| after[i]) {
            Need::Has
        } else {
            Need::MayLack
        }
    };
    let order: Vec<AxisId> = scans
        .first()
        .and_then(|id| recurrence_of(group, *id))
        .and_then(|r| r.states.first())
        .map(|s| s.axes.clone())
        .unwrap_or_default();
    let parallel: Vec<AxisId> = order
        .into_iter()
        .filter(|axis| ops.iter().all(|id| keeps_axis(group, *id, *axis, need(id))))
        .collect();
    let mut grid: Vec<GridAxis> = parallel
        .iter()
        .map(|axis| GridAxis {
            axis: *axis,
            tile: 1,
        })
        .collect();
    for i in (0..grid.len()).rev() {
        let size = graph.size(grid[i].axis);
        for tile in divisors(size) {
            grid[i].tile = tile;
            if tile == 1
                || (state_elements(group, scans, &grid) <= STATE_TARGET
                    && widest(group, ops, scans, &grid).is_none_or(|(n, _)| n <= WIDTH_TARGET))
            {
                break;
            }
        }
        if grid[i].tile < size {
            break;
        }
    }
    let state = state_elements(group, scans, &grid);
    if state > STATE_LIMIT {
        return Err(group.reject(
            "state-size",
            scans.iter().copied(),
            format!("{STATE_LIMIT} state elements per block"),
            format!("{state}"),
        ));
    }
    if let Some((width, id)) = widest(group, ops, scans, &grid)
        && width > WIDTH_LIMIT
    {
        return Err(group.reject(
            "scan-width",
            [id],
            format!("{WIDTH_LIMIT} elements per block"),
            format!("{width} elements of `{}`", group.name(id)),
        ));
    }
    grid.retain(|g| g.tile < graph.size(g.axis));
    Ok(grid)
}

fn recurrence_of<'g>(group: &Group<'g>, id: OpId) -> Option<&'g fusec_ir::Recurrence> {
    match &group.ctx.graph.op(id).kind {
        OpKind::Scan { recurrence, .. } => Some(group.ctx.graph.recurrence(*recurrence)),
        _ => None,
    }
}

fn state_elements(group: &Group<'_>, scans: &[OpId], grid: &[GridAxis]) -> usize {
    scans
        .iter()
        .filter_map(|id| recurrence_of(group, *id))
        .flat_map(|r| &r.states)
        .map(|s| extent(group, &s.axes, grid))
        .sum()
}

/// The widest thing a block holds beside the states: the iteration space of another
/// operation, or the result of a step statement.
fn widest(
    group: &Group<'_>,
    ops: &[OpId],
    scans: &[OpId],
    grid: &[GridAxis],
) -> Option<(usize, OpId)> {
    let others = ops.iter().copied().filter(|id| !scans.contains(id));
    let steps = scans.iter().flat_map(|id| {
        recurrence_of(group, *id)
            .into_iter()
            .flat_map(|r| &r.ops)
            .map(|op| (extent(group, &op.axes, grid), *id))
    });
    largest_space(group, others, grid)
        .into_iter()
        .chain(steps)
        .max_by_key(|(n, id)| (*n, std::cmp::Reverse(*id)))
}
