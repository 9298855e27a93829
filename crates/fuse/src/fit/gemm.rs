//! The matrix-product template: tiles of rows by columns, operands mapped on the way in.

use super::contract::{Lane, lanes, same_activation};
use super::space::is_identity;
use super::{Group, row};
use crate::plan::{Body, Reject, Template};
use fusec_ir::{OpId, OpKind};

/// Products of one activation whose accumulators fit side by side.
const LANE_CONTRACTS: usize = 2;

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    lanes(group, contracts)?
        .into_iter()
        .map(|lane| {
            check_accumulators(group, &lane)?;
            for id in &lane.prologue {
                check_prologue_op(group, *id, &lane)?;
            }
            let ops = lane.ops();
            Ok(Body {
                template: Template::Gemm,
                anchors: lane.contracts,
                stores: ops
                    .iter()
                    .flat_map(|id| group.stored_outputs(*id))
                    .collect(),
                tails: row::tails(group, &ops),
                ops,
                grid: vec![],
                rows_per_block: 1,
                ahead: false,
            })
        })
        .collect()
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
