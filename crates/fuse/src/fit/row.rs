//! The row template: pointwise work, reductions inside a row, stencils, look-ups.

use super::group::Group;
use super::space::{Need, check_halo, divisors, extent, keeps_axis, largest_space};
use crate::context::{Context, iteration_axes};
use crate::plan::{Body, GridAxis, Reject, Roles};
use crate::schedule::walk::Walked;
use crate::schedule::{RowTile, Schedule};
use fusec_ir::{AxisId, OpId, OpKind};

/// Elements one block should hold: enough for full warps, few enough for many blocks.
const SPREAD_TARGET: usize = 2048;
/// Elements one block can hold in f32 beside the operations' other values.
const SIZE_LIMIT: usize = 32768;
/// Elements of a row that one block can go through for a reduction, which holds none of them: a vocabulary.
const SIZE_LIMIT_ALONE: usize = 1 << 18;

/// Rows of a block, at most: few, so that multiprocessors have blocks to change to.
const ROWS: usize = 4;
/// The same where rows before the first one are computed as well, and more rows share them.
const ROWS_AFTER_HALO: usize = 16;

pub fn fit(group: &Group<'_>) -> Result<Body, Reject> {
    connected(group)?;
    let halo = check_halo(group, group.ops)?;
    let stores: Vec<_> = group
        .ops
        .iter()
        .flat_map(|id| group.stored_outputs(*id))
        .collect();
    let grid = spread(group, stores.first().copied());
    if let Some((size, id)) = largest_space(group, group.ops.iter().copied(), &grid)
        && let limit = match group.ops {
            [only] if matches!(group.op(*only).kind, OpKind::Reduce { .. }) => SIZE_LIMIT_ALONE,
            _ => SIZE_LIMIT,
        }
        && size > limit
    {
        return Err(group.reject(
            "row-size",
            [id],
            format!("{limit} elements"),
            format!("{size} elements of `{}`", group.name(id)),
        ));
    }
    let rows = rows_per_block(group, &grid, halo);
    let tails = group.tails(group.ops);
    let walked = Walked::of(group.ctx, group.ops, &tails, &stores);
    let threads = walked.threads(&grid);
    if 4 * walked.shared_floats_at_most(&grid) > group.ctx.target.shared_bytes {
        let floats = walked.shared_floats(&grid, threads as usize, 1, rows > 1);
        group.check_shared(group.ops.iter().copied(), 4 * floats)?;
    }
    let roles = Roles {
        halo,
        ..Roles::default()
    };
    let schedule = Schedule::Row(RowTile {
        grid,
        rows,
        threads,
    });
    Ok(group.body(roles, group.ops.to_vec(), group.ops, schedule))
}

/// Every operation must share a value with the rest: an edge, or a row input read by both.
fn connected(group: &Group<'_>) -> Result<(), Reject> {
    let graph = group.ctx.graph;
    let mut component: Vec<usize> = (0..group.ops.len()).collect();
    fn root(component: &[usize], mut i: usize) -> usize {
        while component[i] != i {
            i = component[i];
        }
        i
    }
    let mut first_reader = std::collections::BTreeMap::new();
    for (i, id) in group.ops.iter().enumerate() {
        for access in &group.op(*id).inputs {
            if !graph.value(access.value).rows {
                continue;
            }
            let with = match group.in_body(access.value).and_then(|p| group.position(p)) {
                Some(producer) => producer,
                None => *first_reader.entry(access.value).or_insert(i),
            };
            let (a, b) = (root(&component, i), root(&component, with));
            component[a.max(b)] = a.min(b);
        }
    }
    match (0..group.ops.len()).find(|i| root(&component, *i) != 0) {
        None => Ok(()),
        Some(i) => Err(group.reject(
            "not-connected",
            [group.ops[0], group.ops[i]],
            "operations that share a value",
            format!(
                "`{}` and `{}` share none",
                group.name(group.ops[0]),
                group.name(group.ops[i])
            ),
        )),
    }
}

/// Spreads parallel axes over the grid, outermost first, until a block holds few enough elements.
fn spread(group: &Group<'_>, first_store: Option<fusec_ir::ValueId>) -> Vec<GridAxis> {
    let graph = group.ctx.graph;
    let order: Vec<AxisId> = match first_store {
        Some(value) => graph.value(value).axes.clone(),
        None => group
            .ops
            .last()
            .map(|id| iteration_axes(graph, group.op(*id)))
            .unwrap_or_default(),
    };
    let mut grid: Vec<GridAxis> = Vec::new();
    for axis in order {
        let held =
            largest_space(group, group.ops.iter().copied(), &grid).map_or(1, |(size, _)| size);
        if held <= SPREAD_TARGET {
            break;
        }
        if !group
            .ops
            .iter()
            .all(|id| keeps_axis(group, *id, axis, Need::Has))
        {
            continue;
        }
        // Every iteration space runs along a parallel axis, so all shrink alike.
        let size = graph.size(axis);
        let tile = divisors(size, SPREAD_TARGET)
            .find(|tile| held / size * tile <= SPREAD_TARGET)
            .unwrap_or(1);
        if tile < size {
            grid.push(GridAxis { axis, tile });
        }
    }
    grid
}

fn rows_per_block(group: &Group<'_>, grid: &[GridAxis], halo: u32) -> u32 {
    let tiles: usize = grid
        .iter()
        .map(|g| group.ctx.graph.size(g.axis) / g.tile)
        .product();
    rows_of(group.ctx, tiles, halo > 0)
}

/// The rows of a block where a row is spread over so many blocks.
fn rows_of(ctx: &Context<'_>, tiles: usize, halo: bool) -> u32 {
    let shape = ctx.shape;
    if shape.time <= 1 {
        return 1;
    }
    let mut rows = if halo { ROWS_AFTER_HALO } else { ROWS };
    while rows > 1 && shape.batch * shape.time.div_ceil(rows) * tiles < 4 * ctx.target.sms {
        rows /= 2;
    }
    rows as u32
}

/// All numbers of rows that the blocks of a row kernel can have at the planned shape.
pub fn row_runs(ctx: &Context<'_>) -> Vec<u32> {
    let mut all = vec![];
    for (halo, most) in [(false, ROWS), (true, ROWS_AFTER_HALO)] {
        let most = if ctx.shape.time <= 1 { 1 } else { most as u32 };
        let least = rows_of(ctx, 1, halo);
        let halves = std::iter::successors(Some(most), |rows| Some(rows / 2));
        all.extend(halves.take_while(|rows| *rows >= least));
    }
    all
}

/// Elements of the largest iteration space without any grid, for bodies that hold whole rows.
pub fn whole_extent(group: &Group<'_>, id: OpId) -> usize {
    extent(group, &iteration_axes(group.ctx.graph, group.op(id)), &[])
}
