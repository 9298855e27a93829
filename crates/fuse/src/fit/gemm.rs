//! The matrix-product template: tiles of rows by columns, operands mapped on the way in.

use super::contract::{Lane, lanes, products_of, same_activation};
use super::group::Group;
use super::space::is_identity;
use crate::plan::{Body, Reject};
use crate::schedule::product::Products;
use crate::schedule::{GemmTile, Schedule, WgmmaTile, gemm, wgmma};
use fusec_ir::{OpId, OpKind};

/// Products of one activation whose accumulators fit side by side.
const LANE_CONTRACTS: usize = 2;

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    let ctx = group.ctx;
    let lanes = lanes(group, contracts)?;
    for lane in &lanes {
        check_accumulators(group, lane)?;
        for id in &lane.prologue {
            check_prologue_op(group, *id, lane)?;
        }
    }
    if let Some(tiles) = by_warpgroups(group, &lanes) {
        let bodies = lanes.iter().zip(tiles).map(|(lane, tile)| {
            let (ops, schedule) = (lane.ops(), Schedule::Gemm(GemmTile::Wgmma(tile)));
            group.body(lane.roles(0), ops.clone(), &ops, schedule)
        });
        return Ok(bodies.collect());
    }
    let staged = lanes.iter().any(|lane| through_registers(group, lane));
    lanes
        .into_iter()
        .map(|lane| {
            let products = products_of(group, &lane)?;
            let tile = gemm::schedule(&products, ctx.rows(), staged, ctx.storage, &ctx.target);
            let Some(tile) = tile else {
                return Err(group.reject(
                    "shared-memory",
                    lane.contracts,
                    format!(
                        "{} bytes of shared memory per block",
                        ctx.target.shared_bytes
                    ),
                    "more for the smallest tile of a matrix product",
                ));
            };
            let ops = lane.ops();
            Ok(group.body(lane.roles(0), ops.clone(), &ops, Schedule::Gemm(tile)))
        })
        .collect()
}

/// Tiles for warpgroups, where all lanes of a kernel can have one: its blocks go from tile to tile, of
/// whichever lane, with the same stages for all.
fn by_warpgroups(group: &Group<'_>, lanes: &[Lane]) -> Option<Vec<WgmmaTile>> {
    let ctx = group.ctx;
    let operand = ctx.target.wgmma_operand(ctx.storage)?;
    let of = |lane: &Lane| {
        let products = products_of(group, lane).ok()?;
        let anchors = &lane.contracts;
        wgmma::operands(ctx.graph, ctx.elements(), &products, anchors, operand)?;
        lane.prologue.is_empty().then_some(products)
    };
    let products: Vec<Products> = lanes.iter().map(of).collect::<Option<_>>()?;
    wgmma::schedules(&products, ctx.rows(), ctx.storage, &ctx.target)
}

/// Whether some activation comes to its product through registers: it is computed, or does not lie in
/// memory as the tensor cores want it.
fn through_registers(group: &Group<'_>, lane: &Lane) -> bool {
    let graph = group.ctx.graph;
    let mut activations = lane
        .contracts
        .iter()
        .filter_map(|id| group.op(*id).inputs.first());
    activations.any(|a| {
        let laid_out = a.delay == 0 && graph.row_elements(a.value).is_multiple_of(8);
        let computed = group.in_body(a.value);
        computed.is_some_and(|p| lane.prologue.contains(&p)) || !laid_out
    })
}

fn check_accumulators(group: &Group<'_>, lane: &Lane) -> Result<(), Reject> {
    if lane.contracts.len() > LANE_CONTRACTS {
        return Err(group.reject(
            "lane-contracts",
            lane.contracts.iter().copied(),
            format!("{LANE_CONTRACTS} products joined by one epilogue"),
            format!("{}", lane.contracts.len()),
        ));
    }
    if let [a, b] = lane.contracts[..]
        && !same_activation(group, a, b)
    {
        return Err(group.reject(
            "lane-operands",
            [a, b],
            "products of the same activation, summed over the same axes",
            format!("`{}` and `{}`", group.name(a), group.name(b)),
        ));
    }
    Ok(())
}

fn check_prologue_op(group: &Group<'_>, id: OpId, lane: &Lane) -> Result<(), Reject> {
    let (graph, op) = (group.ctx.graph, group.op(id));
    let refuse = |rule: &str, limit: &str, got: String| Err(group.reject(rule, [id], limit, got));
    if !matches!(op.kind, OpKind::Map { .. }) {
        return refuse(
            "prologue-op",
            "maps before a product",
            format!("`{}` combines or looks up elements", group.name(id)),
        );
    }
    let activation = lane
        .contracts
        .first()
        .and_then(|c| group.op(*c).inputs.first())
        .map(|a| &graph.value(a.value).axes);
    let axes = op.outputs.first().map(|v| &graph.value(*v).axes);
    if axes != activation {
        return refuse(
            "prologue-axes",
            "maps over the axes of the product's activation",
            format!("`{}` runs over others", group.name(id)),
        );
    }
    if let Some(access) = op.inputs.iter().find(|a| a.delay != 0) {
        return refuse(
            "prologue-delay",
            "the current row",
            format!(
                "`{}` {} rows earlier",
                graph.value(access.value).name,
                access.delay
            ),
        );
    }
    if let Some((access, _)) = group
        .in_body_accesses(id)
        .find(|(a, _)| !is_identity(group, a.value, &a.index))
    {
        return refuse(
            "prologue-access",
            "the same element",
            format!("`{}` through other indices", graph.value(access.value).name),
        );
    }
    if !op.tails.is_empty() {
        return refuse(
            "prologue-tail",
            "no stencil tail before a product",
            format!("`{}` keeps one", group.name(id)),
        );
    }
    let mut stored = group.stored_outputs(id);
    if let Some(value) = stored.find(|v| !group.part || group.ctx.is_output(*v)) {
        return refuse(
            "prologue-stored",
            "values that only this kernel reads",
            format!("`{}` is needed elsewhere", graph.value(value).name),
        );
    }
    Ok(())
}
