//! The row-sum template: results without rows, summed over B and T.

use super::group::Group;
use crate::plan::{Body, Phase, Reject, Roles};
use crate::schedule::Schedule;
use crate::schedule::row_sum::{Given, RowSumTile, schedule};
use fusec_ir::{OpId, OpKind};

/// Most elements of a result.
const ELEMENTS: usize = 1 << 30;
/// Blocks of a multiprocessor that parts of the rows are cut for: each is a form of its own.
const OF_PRODUCTS: &[usize] = &[1, 2];
/// The same where blocks wait for memory and for nothing else.
const OF_OTHERS: &[usize] = &[4];

/// The body whose blocks see all rows.
pub fn fit(group: &Group<'_>, id: OpId) -> Result<Body, Reject> {
    let (ctx, op) = (group.ctx, group.op(id));
    let name = group.name(id);
    group.check_alone("row-sum-alone", id, "a sum over all rows")?;
    if !op.tails.is_empty() {
        return Err(group.reject(
            "row-sum-tail",
            [id],
            "no stencil tail where rows are summed",
            format!("`{name}` keeps one"),
        ));
    }
    let elements: usize = op.outputs.iter().map(|v| ctx.graph.row_elements(*v)).sum();
    if elements > ELEMENTS {
        return Err(group.reject(
            "row-sum-size",
            [id],
            format!("{ELEMENTS} elements"),
            format!("{elements} elements of `{name}`"),
        ));
    }
    if let (OpKind::ScatterRows, Some(ids)) = (&op.kind, op.inputs.get(1))
        && ids.delay != 0
    {
        return Err(group.reject(
            "row-sum-ids",
            [id],
            "the ids of the same rows",
            format!("ids {} rows earlier", ids.delay),
        ));
    }
    let given = Given {
        graph: ctx.graph,
        elements: ctx.elements(),
        storage: ctx.storage,
        target: &ctx.target,
        rows: ctx.rows(),
    };
    let Some(tile) = schedule(&given, op) else {
        return Err(group.reject(
            "shared-memory",
            [id],
            format!(
                "{} bytes of shared memory per block of {}",
                ctx.target.shared_bytes, ctx.device.name
            ),
            "more for two runs of rows",
        ));
    };
    group.check_shared([id], tile.shared_bytes())?;
    let roles = Roles {
        anchors: vec![id],
        ..Roles::default()
    };
    Ok(group.body(roles, vec![id], &[id], Schedule::RowSum(tile)))
}

/// The same with rows in parts, which a second phase adds.
pub fn in_parts(group: &Group<'_>, id: OpId, plain: &Body) -> Vec<Vec<Phase>> {
    let (ctx, op) = (group.ctx, group.op(id));
    let Schedule::RowSum(tile) = &plain.schedule else {
        return Vec::new();
    };
    let mut out: Vec<Vec<Phase>> = Vec::new();
    let resident = match tile {
        RowSumTile::Mma(_) | RowSumTile::Simt(_) => OF_PRODUCTS,
        _ => OF_OTHERS,
    };
    for resident in resident {
        let blocks = resident * ctx.target.sms;
        let Some([parts, adds]) = tile.in_parts(ctx.graph, op, ctx.rows(), blocks) else {
            continue;
        };
        let phase = |tile: RowSumTile| {
            let mut body = plain.clone();
            body.schedule = Schedule::RowSum(tile);
            // Parts of a result are no result.
            if tile.leaves_parts() {
                body.stores.clear();
            }
            Phase { lanes: vec![body] }
        };
        let phases = vec![phase(parts), phase(adds)];
        if !out.contains(&phases) {
            out.push(phases);
        }
    }
    out
}
