//! Which axes of a group may be spread over blocks, and how much one block then holds.

use super::group::Group;
use crate::context::{iteration_axes, reduced_axes};
use crate::plan::{GridAxis, Reject};
use crate::schedule::program::rows_back;
use fusec_ir::{AxisId, OpId, OpKind, Recurrence};

/// Most rows recomputed before the first row of a block.
pub const HALO_LIMIT: u32 = 8;

/// What an operation must do with an axis that is spread over blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every result runs along it.
    Has,
    /// It may lack the axis (every block along it computes the same), but not combine over it.
    MayLack,
}

/// Whether blocks that own disjoint pieces of `axis` never need each other's results of `id`.
pub fn keeps_axis(group: &Group<'_>, id: OpId, axis: AxisId, need: Need) -> bool {
    let (graph, op) = (group.ctx.graph, group.op(id));
    if reduced_axes(op).contains(&axis) {
        return false;
    }
    if need == Need::Has
        && !op
            .outputs
            .iter()
            .all(|v| graph.value(*v).axes.contains(&axis))
    {
        return false;
    }
    if let OpKind::Scan { recurrence, .. } = &op.kind
        && !step_keeps_axis(graph.recurrence(*recurrence), axis)
    {
        return false;
    }
    group.in_body_accesses(id).all(|(access, _)| {
        let axes = &graph.value(access.value).axes;
        axes.iter()
            .zip(&access.index)
            .all(|(a, index)| *a != axis || index.as_axis() == Some(axis))
    })
}

fn step_keeps_axis(step: &Recurrence, axis: AxisId) -> bool {
    step.states.iter().all(|s| s.axes.contains(&axis))
        && step.ops.iter().all(|op| {
            op.axes.contains(&axis)
                && op.inputs.iter().all(|access| {
                    step.axes_of(access.item)
                        .iter()
                        .zip(&access.axes)
                        .all(|(of_item, by)| *of_item != axis || *by == axis)
                })
        })
}

/// Elements of `axes` that one block holds.
pub fn extent(group: &Group<'_>, axes: &[AxisId], grid: &[GridAxis]) -> usize {
    axes.iter()
        .map(|a| {
            grid.iter()
                .find(|g| g.axis == *a)
                .map_or(group.ctx.graph.size(*a), |g| g.tile)
        })
        .product()
}

/// The largest iteration space of `ops` (none of them scans) that one block holds, and whose it is.
pub fn largest_space(
    group: &Group<'_>,
    ops: impl IntoIterator<Item = OpId>,
    grid: &[GridAxis],
) -> Option<(usize, OpId)> {
    ops.into_iter()
        .map(|id| {
            let axes = iteration_axes(group.ctx.graph, group.op(id));
            (extent(group, &axes, grid), id)
        })
        .max_by_key(|(n, id)| (*n, std::cmp::Reverse(*id)))
}

/// The divisors of `n` up to `most`, descending: what a block holds is limited, an axis is not.
pub fn divisors(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let candidates = (1..=n.min(most)).rev();
    candidates.filter(move |d| n.is_multiple_of(*d))
}

/// Checks the delays of the in-body accesses of `ops` and returns the halo: the rows before
/// the first one of a block, in the order in which rows come, that some operation of the body needs.
pub fn halo(group: &Group<'_>, ops: &[OpId]) -> Result<u32, Reject> {
    let mut depth = vec![0u32; group.ops.len()];
    let mut halo = 0;
    let direction = group.direction();
    for id in ops {
        let mut of_op = 0;
        for access in &group.op(*id).inputs {
            let delay = u32::try_from(rows_back(direction, access)).unwrap_or(0);
            let producer = group.in_body(access.value);
            if producer.is_some() && delay > 0 && !is_identity(group, access.value, &access.index) {
                return Err(group.reject(
                    "delay-permuted",
                    [*id],
                    "an earlier row read along its own axes",
                    format!(
                        "`{}` read {delay} rows earlier through other indices",
                        group.ctx.graph.value(access.value).name
                    ),
                ));
            }
            let before = producer
                .and_then(|p| group.position(p))
                .map_or(0, |p| depth[p]);
            of_op = of_op.max(delay + before);
        }
        if let Some(i) = group.position(*id) {
            depth[i] = of_op;
        }
        halo = halo.max(of_op);
    }
    Ok(halo)
}

/// Whether each axis of a value is indexed by the plain variable of the same axis.
pub fn is_identity(
    group: &Group<'_>,
    value: fusec_ir::ValueId,
    index: &[fusec_ir::IndexExpr],
) -> bool {
    let axes = &group.ctx.graph.value(value).axes;
    axes.len() == index.len()
        && axes
            .iter()
            .zip(index)
            .all(|(a, index)| index.as_axis() == Some(*a))
}

/// Refuses a halo over [`HALO_LIMIT`].
pub fn check_halo(group: &Group<'_>, ops: &[OpId]) -> Result<u32, Reject> {
    let halo = halo(group, ops)?;
    if halo > HALO_LIMIT {
        return Err(group.reject(
            "halo-depth",
            ops.iter().copied(),
            format!("{HALO_LIMIT} rows"),
            format!("{halo} rows"),
        ));
    }
    Ok(halo)
}
