//! Weighted rows: another form of a lane around a recurrence whose key channels have decays, in two phases.
//!
//! The first weights queries and keys by decays, once for all value columns; the second walks along T. T may be cut
//! into segments as well: then the walk is two phases. See [`crate::chunked::weighted`].

use super::group::Group;
use super::{LaneForm, chunked, segments};
use crate::chunked::Parts;
use crate::chunked::linear::scaled_rows;
use crate::chunked::tile::Tile;
use crate::chunked::weighted::{TOKENS, Weighted};
use crate::plan::{Body, Reject, Roles, Storage};
use crate::schedule::{ChunkTile, Schedule, blocks};
use fusec_ir::OpId;

/// Value columns of a block, where no operation needs all: many share rows, few make more blocks.
const VALUE_TARGETS: [usize; 2] = [128, 64];

/// The weighted forms of a lane, or why there is none. `inside`: the lane as it stores what nobody else computes.
pub fn fit(group: &Group<'_>, lane: &Body, inside: &Body) -> Result<Vec<LaneForm>, Reject> {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let (scan, parts, whole) = chunked::legal(group, inside)?;
    let not = |limit: &'static str, got: String| group.reject("weighted-rows", [scan], limit, got);
    if ctx.target.wgmma_operand(Storage::Bf16).is_none() {
        return Err(not(
            "products of warpgroups, which exactly sm_90a has",
            ctx.device.arch.clone(),
        ));
    }
    if ctx.shape.time < TOKENS {
        return Err(not(
            "runs of whole chunks",
            format!("T = {}", ctx.shape.time),
        ));
    }
    if scaled_rows(graph, &parts, scan, &inside.ops, ctx.storage).is_none() {
        return Err(not(
            "values that are bf16 rows as they lie in memory, each perhaps times a number of its token",
            format!("those of `{}`", group.name(scan)),
        ));
    }
    // The rows of a stencil would be kept by the phase that no longer computes them.
    if !inside.tails.is_empty() {
        return Err(not("no stencil before the recurrence", "one".into()));
    }
    let targets = match whole {
        true => &[usize::MAX][..],
        false => &VALUE_TARGETS,
    };
    let mut takers: Vec<Body> = Vec::new();
    let mut makers: Vec<Body> = Vec::new();
    let mut first = None;
    for target in targets {
        let form = (|| {
            let (grid, value) = chunked::columns(group, scan, &parts, *target)?;
            let least = Tile::least(graph, scan, &parts, ctx.storage, value, &[]);
            let sized = |which| least.weighted(which);
            let makes = sized(Weighted::Makes);
            let (Ok(makes), Ok(takes)) = (makes, sized(Weighted::Takes)) else {
                let limit = makes.err().unwrap_or("another tile");
                return Err(not(limit, format!("{least:?}")));
            };
            let of_heads = |axis: &crate::plan::GridAxis| parts.layout.heads.contains(&axis.axis);
            let heads = grid.iter().copied().filter(of_heads).collect();
            let taker = walk(group, inside, scan, &parts);
            Ok((
                body(group, &taker, takes, grid),
                maker(group, inside, scan, makes, heads),
            ))
        })();
        match form {
            Ok((taker, maker)) if !takers.contains(&taker) => {
                takers.push(taker);
                makers.push(maker);
            }
            Ok(_) => {}
            Err(reject) => first = first.or(Some(reject)),
        }
    }
    if let (Some(reject), true) = (first, takers.is_empty()) {
        return Err(reject);
    }
    let cuts = segments::of_chunks(group, lane, &takers).unwrap_or_default();
    let whole = takers.iter().cloned().map(LaneForm::from);
    let with_maker = |form: LaneForm| {
        let maker = makers.first().cloned();
        LaneForm {
            before: maker.into_iter().chain(form.before).collect(),
            ..form
        }
    };
    Ok(whole.chain(cuts).map(with_maker).collect())
}

/// A body with a tile for so many blocks.
fn body(group: &Group<'_>, lane: &Body, tile: Tile, grid: Vec<crate::plan::GridAxis>) -> Body {
    let ctx = group.ctx;
    let with = |tile: Tile| Body {
        schedule: Schedule::Chunked(ChunkTile {
            grid: grid.clone(),
            ahead: false,
            tile,
            segments: None,
        }),
        streamed: vec![],
        ..lane.clone()
    };
    let share = blocks(ctx, &with(tile)).div_ceil(ctx.target.sms.max(1));
    with(tile.shared_by(share, ctx.target.shared_bytes, ctx.target.registers))
}

/// The phase that walks: the recurrence, what its values are made of, and all that follows.
fn walk(group: &Group<'_>, lane: &Body, scan: OpId, parts: &Parts<'_>) -> Body {
    let graph = group.ctx.graph;
    let update = parts.updates.first();
    let items = update.map(|update| update.v).into_iter();
    let items = items.chain(parts.rest.iter().flatten().copied());
    let mut from: Vec<bool> = vec![false; group.ops.len()];
    for input in items.flat_map(|item| parts.inputs_of(item)) {
        let made = graph.op(scan).inputs.get(input);
        let made = made.and_then(|access| group.in_body(access.value));
        if let Some(at) = made.and_then(|id| group.position(id)) {
            from[at] = true;
        }
    }
    let needed = group.ancestors(&from);
    let stays = |id: &OpId| {
        let before = group.position(*id).is_some_and(|i| needed[i] || from[i]);
        before || *id == scan || lane.roles.epilogue.binary_search(id).is_ok()
    };
    let mut walk = lane.clone();
    walk.ops.retain(stays);
    walk.roles.prologue.retain(stays);
    walk
}

/// The phase that weights rows: all that is before the recurrence.
fn maker(
    group: &Group<'_>,
    lane: &Body,
    scan: OpId,
    tile: Tile,
    heads: Vec<crate::plan::GridAxis>,
) -> Body {
    let from: Vec<bool> = group.ops.iter().map(|id| *id == scan).collect();
    let before = group.ancestors(&from);
    let needed = |id: &OpId| group.position(*id).is_some_and(|i| before[i]);
    let ops: Vec<OpId> = lane.ops.iter().copied().filter(needed).collect();
    let of_maker = Body {
        roles: Roles {
            prologue: ops.iter().filter(|id| **id != scan).copied().collect(),
            anchors: vec![scan],
            ..Roles::default()
        },
        ops,
        stores: Vec::new(),
        streamed: Vec::new(),
        tails: Vec::new(),
        ..lane.clone()
    };
    body(group, &of_maker, tile, heads)
}
