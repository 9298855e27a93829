//! The matrix-vector template: few rows; each block computes the prologue for itself.

use super::contract::lanes;
use super::space::check_halo;
use super::{Group, row};
use crate::plan::{Body, Reject, Template};
use fusec_ir::OpId;

/// Elements of one row of the prologue that a block can hold.
const PROLOGUE_LIMIT: usize = 16384;

pub fn fit(group: &Group<'_>, contracts: &[OpId]) -> Result<Vec<Body>, Reject> {
    let mut taken: Vec<OpId> = Vec::new();
    lanes(group, contracts)?
        .into_iter()
        .map(|lane| {
            check_halo(group, &lane.prologue)?;
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
            Ok(Body {
                template: Template::Gemv,
                anchors: lane.contracts,
                stores: own
                    .iter()
                    .flat_map(|id| group.stored_outputs(*id))
                    .collect(),
                tails: row::tails(group, &own),
                ops,
                grid: vec![],
                rows_per_block: 1,
            })
        })
        .collect()
}
