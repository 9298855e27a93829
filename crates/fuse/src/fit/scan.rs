//! The scan template: one block walks along T with its part of the state on the chip.
//!
//! It takes runs of rows: what comes before and after the recurrence is computed for all rows of a
//! run at once, as far as code generation finds it independent of the state.

use super::anchors::anchor_lanes;
use super::group::Group;
use super::space::{Need, divisors, extent, halo, keeps_axis, largest_space};
use crate::context::iteration_axes;
use crate::plan::{Body, GridAxis, Reject, Roles};
use crate::schedule::walk::Walked;
use crate::schedule::{ScanTile, Schedule};
use fusec_ir::{AxisId, OpId, OpKind, StateId, ValueId};
use std::collections::BTreeSet;

/// State elements one block should hold: they live in registers.
const STATE_TARGET: usize = 4096;
/// Elements of another operation one block should hold.
const WIDTH_TARGET: usize = 4096;
/// State elements one block can hold.
const STATE_LIMIT: usize = 16384;
/// Elements of another operation one block can hold.
const WIDTH_LIMIT: usize = 16384;
/// Elements of an axis that a block has at least, where it is spread to fill the GPU: a whole sector of
/// memory in each row.
const FEWEST: usize = 16;
/// Rows for which what surrounds the recurrence is computed at once.
const RUN: u32 = 32;
/// Bytes of shared memory into which all values of such a run should fit; those that stay in registers
/// are counted too.
const RUN_BYTES: usize = 96 << 10;

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
    one_direction(group, scans)?;
    one_reader(group, scans)?;
    group.check_later_rows()?;
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
            let (tails, stores) = (group.tails(&own), stored(group, &own));
            let tile = schedule(group, &ops, (&tails, &stores), &anchors, true)?;
            Ok(group.body(roles(group, &ops, anchors), ops, &own, Schedule::Scan(tile)))
        })
        .collect()
}

/// The lane in as few blocks as suit its state, where others would have more of them to fill the GPU.
pub fn in_fewer_blocks(group: &Group<'_>, lane: &Body) -> Option<Body> {
    let Schedule::Scan(known) = &lane.schedule else {
        return None;
    };
    let leaves = (lane.tails.as_slice(), lane.stores.as_slice());
    let tile = schedule(group, &lane.ops, leaves, lane.anchors(), false).ok()?;
    (tile.grid != known.grid).then(|| Body {
        schedule: Schedule::Scan(tile),
        ..lane.clone()
    })
}

/// The results of some operations that are stored.
fn stored(group: &Group<'_>, ops: &[OpId]) -> Vec<ValueId> {
    let outputs = ops.iter().flat_map(|id| group.stored_outputs(*id));
    outputs.collect()
}

/// A kernel walks in one direction.
fn one_direction(group: &Group<'_>, scans: &[OpId]) -> Result<(), Reject> {
    let direction = group.direction();
    let of = |id: &OpId| recurrence_of(group, *id).map(|step| step.direction);
    match scans.iter().find(|id| of(id) != Some(direction)) {
        None => Ok(()),
        Some(other) => Err(group.reject(
            "scan-direction",
            scans.first().copied().into_iter().chain([*other]),
            "recurrences that all begin with the first row, or all with the last",
            "both",
        )),
    }
}

/// Of recurrences of one state each takes it up as it was before the run: it is kept after all have done so, and
/// blocks of one kernel do not wait for each other.
fn one_reader(group: &Group<'_>, scans: &[OpId]) -> Result<(), Reject> {
    let mut taken: Vec<(StateId, OpId)> = Vec::new();
    for id in scans {
        let OpKind::Scan { states, .. } = &group.op(*id).kind else {
            continue;
        };
        for state in states {
            if let Some((_, other)) = taken.iter().find(|(of, _)| of == state) {
                return Err(group.reject(
                    "state-readers",
                    [*other, *id],
                    "one recurrence of a state",
                    format!("two of `{}`", group.ctx.graph.state(*state).name),
                ));
            }
            taken.push((*state, *id));
        }
    }
    Ok(())
}

/// The roles of the operations of a lane.
fn roles(group: &Group<'_>, ops: &[OpId], anchors: Vec<OpId>) -> Roles {
    let from: Vec<bool> = group.ops.iter().map(|id| anchors.contains(id)).collect();
    let (before, after) = (group.ancestors(&from), group.descendants(&from));
    let others = |reached: &[bool]| -> Vec<OpId> {
        let reaches = |id: &&OpId| group.position(**id).is_some_and(|i| reached[i]);
        let others = ops.iter().filter(|id| !anchors.contains(id));
        others.filter(reaches).copied().collect()
    };
    Roles {
        prologue: others(&before),
        epilogue: others(&after),
        anchors,
        halo: 0,
    }
}

/// The tile of a lane that leaves some tails and values. Where a block's shared memory has no room for it, axes are
/// spread further; `full` asks for blocks that fill the GPU.
fn schedule(
    group: &Group<'_>,
    ops: &[OpId],
    leaves: (&[StateId], &[ValueId]),
    scans: &[OpId],
    full: bool,
) -> Result<ScanTile, Reject> {
    let graph = group.ctx.graph;
    let mut spread = spread(group, ops, scans, full)?;
    loop {
        let whole = |g: &&GridAxis| g.tile < graph.size(g.axis);
        let grid: Vec<GridAxis> = spread.iter().filter(whole).copied().collect();
        let run = run(group, ops, scans, &grid);
        let refused = match with_room(group, ops, leaves, grid, run) {
            Ok(tile) => return Ok(tile),
            Err(refused) => refused,
        };
        let Some(axis) = spread.iter_mut().rev().find(|g| g.tile > 1) else {
            return Err(refused);
        };
        axis.tile = divisors(axis.tile, axis.tile - 1).next().unwrap_or(1);
    }
}

/// The tile with as many rows to a run as its shared memory has room for.
fn with_room(
    group: &Group<'_>,
    ops: &[OpId],
    (tails, stores): (&[StateId], &[ValueId]),
    grid: Vec<GridAxis>,
    (run, rows_bytes): (u32, usize),
) -> Result<ScanTile, Reject> {
    let direction = group.direction();
    let walked = Walked::of(group.ctx, ops, tails, stores).towards(direction);
    let threads = walked.threads(&grid);
    let limit = group.ctx.target.shared_bytes;
    let mut run = run;
    // From sizes alone first: that is enough but for large states and little shared memory.
    if 4 * walked.shared_floats_at_most(&grid) + rows_bytes > limit {
        let bytes = |run: u32| 4 * walked.shared_floats(&grid, threads as usize, run, true);
        while run > 1 && bytes(run) > limit {
            run /= 2;
        }
        group.check_shared(ops.iter().copied(), bytes(run))?;
    }
    Ok(ScanTile {
        grid,
        run,
        threads,
        direction,
        segments: None,
    })
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

/// The elements of each parallel axis that a block has: one of the outermost ones, the trailing ones
/// whole as long as a block does not hold too much and multiprocessors have work.
fn spread(
    group: &Group<'_>,
    ops: &[OpId],
    scans: &[OpId],
    full: bool,
) -> Result<Vec<GridAxis>, Reject> {
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
        for tile in divisors(size, STATE_TARGET) {
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
    if full {
        fill(group, ops, &mut grid);
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
    Ok(grid)
}

/// Spreads the innermost axis that a block has more of further, over multiprocessors that would
/// have nothing to do; unless blocks would then compute the same.
fn fill(group: &Group<'_>, ops: &[OpId], grid: &mut [GridAxis]) {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let Some(i) = grid.iter().rposition(|g| g.tile > 1) else {
        return;
    };
    let has = |id: &OpId| iteration_axes(graph, group.op(*id)).contains(&grid[i].axis);
    if !ops.iter().all(has) {
        return;
    }
    let others: usize = grid[..i]
        .iter()
        .map(|g| graph.size(g.axis) / g.tile)
        .product();
    let blocks = |tile: usize| ctx.shape.batch * others * (graph.size(grid[i].axis) / tile);
    let tiles = divisors(grid[i].tile, grid[i].tile).filter(|tile| tile.is_multiple_of(FEWEST));
    let fitting = tiles.take_while(|tile| blocks(*tile) <= ctx.target.sms);
    if let Some(tile) = fitting.last() {
        grid[i].tile = tile;
    }
}

/// The rows of a run: as many as there is room for with all that a row may have in shared memory; and
/// the bytes of that.
fn run(group: &Group<'_>, ops: &[OpId], scans: &[OpId], grid: &[GridAxis]) -> (u32, usize) {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let inputs = ops.iter().flat_map(|id| &group.op(*id).inputs);
    let read = inputs.map(|access| access.value);
    let made = ops
        .iter()
        .flat_map(|id| group.op(*id).outputs.iter().copied());
    let values: BTreeSet<ValueId> = read.chain(made).collect();
    let rows = values.iter().filter(|v| graph.value(**v).rows);
    let of_values: usize = rows
        .map(|v| extent(group, &graph.value(*v).axes, grid).next_multiple_of(4))
        .sum();
    let steps = scans.iter().filter_map(|id| recurrence_of(group, *id));
    let of_steps: usize = steps
        .flat_map(|step| step.ops.iter().map(move |op| (step, op)))
        .filter(|(step, op)| step.states.iter().all(|s| s.axes != op.axes))
        .map(|(_, op)| extent(group, &op.axes, grid).next_multiple_of(4))
        .sum();
    let bytes = |rows: u32| 4 * rows as usize * (of_values + of_steps);
    let fits = |rows: &u32| {
        let room = RUN_BYTES.min(ctx.target.shared_bytes);
        (*rows as usize) < 2 * ctx.shape.time && bytes(*rows) <= room
    };
    let halves = std::iter::successors(Some(RUN), |rows| Some(rows / 2).filter(|r| *r > 1));
    let rows = halves.into_iter().find(fits).unwrap_or(1);
    (rows, if rows > 1 { bytes(rows) } else { 0 })
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
