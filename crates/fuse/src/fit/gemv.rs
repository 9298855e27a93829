//! The matrix-vector template: few rows; each block computes the prologue for itself.

use super::contract::{lanes, products_of};
use super::group::Group;
use super::row;
use super::space::check_halo;
use crate::context::Context;
use crate::plan::{Body, Reject, Roles};
use crate::schedule::product::Products;
use crate::schedule::walk::Walked;
use crate::schedule::{Schedule, gemv, nonzero, stream, thin};
use crate::zeros::has_zeros;
use fusec_ir::OpId;

/// Elements of one row of the prologue that a block can hold.
const PROLOGUE_LIMIT: usize = 16384;

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    let mut taken: Vec<OpId> = Vec::new();
    let lanes = lanes(group, contracts)?;
    let shapes = lanes.iter().map(|lane| products_of(group, lane));
    let shapes: Vec<Products> = shapes.collect::<Result<_, _>>()?;
    let ctx = group.ctx;
    let steps = stream::steps_of_block(&shapes, ctx.rows(), ctx.storage, &ctx.target);
    lanes
        .into_iter()
        .zip(&shapes)
        .map(|(lane, products)| {
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
            let ops = lane.ops();
            // A prologue operation of two lanes is stored by the first.
            let own: Vec<OpId> = ops
                .iter()
                .copied()
                .filter(|id| !taken.contains(id))
                .collect();
            taken.extend(&own);
            let roles = lane.roles(halo);
            schedule(group, products, steps, roles, ops, &own)
        })
        .collect()
}

/// The body with the most rows to a block that its shared memory has room for; `steps` are those of a block of a
/// stream.
fn schedule(
    group: &Group<'_>,
    products: &Products,
    steps: usize,
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
    let tile = |around: usize| {
        gemv::schedule(
            products,
            ctx.rows(),
            prologue,
            ctx.storage,
            &ctx.target,
            around,
        )
    };
    // From sizes alone first: that is enough but for devices with little shared memory.
    let most = match prologue {
        true => 4 * Walked::of(ctx, &roles.prologue, &[], &[]).shared_floats_at_most(&[]),
        false => 0,
    };
    let anchors = roles.anchors.clone();
    let body = |schedule| group.body(roles.clone(), ops.clone(), own, schedule);
    // Where zeros are expected, and the matrix lies so that what belongs to one can be left out.
    if ctx.graph.zeros > 0.0 && anchors.iter().all(|id| is_zero_somewhere(group, *id)) {
        let tile =
            |around| nonzero::schedule(products, ctx.rows(), ctx.storage, &ctx.target, around);
        let found = fitting(ctx, products, most, tile, |tile| {
            body(Schedule::NonZero(tile))
        });
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let stream = |around| {
        stream::schedule(
            products,
            ctx.rows(),
            steps,
            ctx.storage,
            &ctx.target,
            around,
        )
    };
    let found = fitting(ctx, products, most, stream, |tile| {
        body(Schedule::Stream(tile))
    });
    if let Some(found) = found {
        return Ok(found);
    }
    // One row keeps its precision.
    if ctx.rows() > 1 {
        let tile = |around| thin::schedule(products, ctx.rows(), ctx.storage, &ctx.target, around);
        let found = fitting(ctx, products, most, tile, |tile| body(Schedule::Thin(tile)));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let found = fitting(ctx, products, most, tile, |tile| body(Schedule::Gemv(tile)));
    match found {
        Some(body) => Ok(body),
        None => Err(group.reject(
            "shared-memory",
            anchors,
            format!("{room} bytes of shared memory per block"),
            "more for a row of the activations and what is computed before the product",
        )),
    }
}

/// Whether the activation of a product is zero wherever a relu is.
fn is_zero_somewhere(group: &Group<'_>, id: OpId) -> bool {
    let x = group.op(id).inputs.first();
    x.is_some_and(|x| x.delay == 0 && has_zeros(group.ctx.graph, x.value))
}

/// The body with the largest tile that has room beside what is computed before its products: `most` bytes
/// at most, else what that really takes. `tile` gives the largest beside so many bytes.
fn fitting<T: PartialEq + Copy>(
    ctx: &Context<'_>,
    products: &Products,
    most: usize,
    tile: impl Fn(usize) -> Option<T>,
    body: impl Fn(T) -> Body,
) -> Option<Body> {
    let alone = tile(0)?;
    if tile(most) == Some(alone) {
        return Some(body(alone));
    }
    let alone = body(alone);
    let around = gemv::around(ctx, products, &alone, alone.schedule.threads());
    tile(4 * around).map(body)
}
