//! The matrix-vector template: few rows; each block computes the prologue for itself.

use super::contract::{lanes, products_of};
use super::group::Group;
use super::row;
use super::space::check_halo;
use crate::plan::{Body, Reject, Roles};
use crate::schedule::product::Products;
use crate::schedule::walk::Walked;
use crate::schedule::{Schedule, gemv};
use fusec_ir::OpId;

/// Elements of one row of the prologue that a block can hold.
const PROLOGUE_LIMIT: usize = 16384;

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    let mut taken: Vec<OpId> = Vec::new();
    lanes(group, contracts)?
        .into_iter()
        .map(|lane| {
            let halo = check_halo(group, &lane.prologue)?;
            for id in &lane.prologue {
                let size = row::whole_extent(group, *id);
                if size > PROLOGUE_LIMIT {
                    return Err(group.reject(
                        "prologue-size",
                        [*id],
                        format!("{PROLOGUE_LIMIT} elements"),
                        format!("{size} elements of `{}`", group.name(*id)),
                    ));
                }
            }
            let products = products_of(group, &lane)?;
            let ops = lane.ops();
            // A prologue operation of two lanes is stored by the first.
            let own: Vec<OpId> = ops
                .iter()
                .copied()
                .filter(|id| !taken.contains(id))
                .collect();
            taken.extend(&own);
            let roles = lane.roles(halo);
            schedule(group, &products, roles, ops, &own)
        })
        .collect()
}

/// The body with the most rows to a block that its shared memory has room for.
fn schedule(
    group: &Group<'_>,
    products: &Products,
    roles: Roles,
    ops: Vec<OpId>,
    own: &[OpId],
) -> Result<Body, Reject> {
    let ctx = group.ctx;
    let room = ctx.target.shared_bytes;
    let computed = |id: &OpId| {
        let x = group.op(*id).inputs.first();
        x.is_some_and(|x| {
            group
                .in_body(x.value)
                .is_some_and(|p| roles.prologue.contains(&p))
        })
    };
    let prologue = roles.anchors.iter().any(computed);
    let tile = |around: usize| gemv::schedule(products, ctx.rows(), prologue, room, around);
    // From sizes alone first: that is enough but for devices with little shared memory.
    let most = match prologue {
        true => 4 * Walked::of(ctx, &roles.prologue, &[], &[]).shared_floats_at_most(&[]),
        false => 0,
    };
    let anchors = roles.anchors.clone();
    let body = |tile| group.body(roles.clone(), ops.clone(), own, Schedule::Gemv(tile));
    let found = match (tile(most), tile(0)) {
        (Some(bounded), Some(alone)) if bounded == alone => Some(bounded),
        (_, Some(alone)) => tile(4 * gemv::around(ctx, products, &body(alone), alone.threads())),
        (_, None) => None,
    };
    match found {
        Some(tile) => Ok(body(tile)),
        None => Err(group.reject(
            "shared-memory",
            anchors,
            format!("{room} bytes of shared memory per block"),
            "more for a row of the activations and what is computed before the product",
        )),
    }
}
