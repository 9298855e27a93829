//! The chunked template: a scan some tokens at a time, with matrix products on tensor cores.
//!
//! Another form of a lane that the scan template can execute, for a diagonal decay with or without a
//! rank-one factor beside it. A block has one head and a tile of
//! value columns. What comes before the recurrence is computed again wherever an element is needed,
//! so it is maps; what comes after it is computed for one token by one warp.

use super::group::Group;
use super::space::divisors;
use crate::chunked::staging::staged;
use crate::chunked::tile::Tile;
use crate::chunked::warpgroup::{self, Products};
use crate::chunked::{KEY_LIMIT, Parts, SUB, VALUE_LIMIT};
use crate::context::{iteration_axes, reduced_axes};
use crate::plan::{Body, GridAxis, Reject, Storage};
use crate::schedule::{ChunkTile, Pass, Schedule, Segments};
use fusec_ir::class::decay_range;
use fusec_ir::{AxisId, Graph, OpId, OpKind};

/// Most warps of a block: many finish a chunk sooner, few leave room for blocks of what runs beside it.
const MOST_WARPS: [usize; 2] = [16, 8];
/// Value columns of a block, where no operation needs all: few make more blocks, many share the keys. A
/// warp has 16 columns of the state in its registers.
const VALUE_TARGETS: [usize; 4] = [64, 16, 32, 128];

/// The chunked forms of a lane of the scan template, at least one; they differ in how the value
/// columns are spread over blocks.
pub fn fit(group: &Group<'_>, lane: &Body) -> Result<Vec<Body>, Reject> {
    let (scan, parts, whole) = legal(group, lane)?;
    let targets = match whole {
        true => &[usize::MAX][..],
        false => &VALUE_TARGETS,
    };
    let mut bodies: Vec<Body> = Vec::new();
    let mut first = None;
    let by_warps = MOST_WARPS.map(|most| (Products::Warp, most));
    let by = by_warps
        .into_iter()
        .chain([(Products::Warpgroup, warpgroup::WARPS)]);
    let ways = targets.iter().flat_map(|target| {
        let ahead = [false, true].into_iter();
        let by = by.clone();
        ahead.flat_map(move |ahead| by.clone().map(move |by| (*target, ahead, by)))
    });
    for (target, ahead, by) in ways {
        match spread(group, lane, scan, &parts, target, (ahead, by)) {
            Ok(body) if !bodies.contains(&body) => bodies.push(body),
            Ok(_) => {}
            Err(reject) => first = first.or(Some(reject)),
        }
    }
    match first {
        Some(reject) if bodies.is_empty() => Err(reject),
        _ => Ok(bodies),
    }
}

/// The recurrence of a lane that can go in chunks, its parts, and whether what follows combines over the value axes.
pub(super) fn legal<'c>(group: &Group<'c>, lane: &Body) -> Result<(OpId, Parts<'c>, bool), Reject> {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let [scan] = lane.anchors()[..] else {
        return Err(group.reject(
            "chunked-one-scan",
            lane.anchors().iter().copied(),
            "one recurrence per lane",
            format!("{}", lane.anchors().len()),
        ));
    };
    let parts = Parts::of(graph, ctx.classes(), scan)
        .map_err(|not| group.reject(not.rule, [scan], not.limit, not.got))?;
    // Of fewer tokens products are mostly of zeros, and round what a step keeps.
    if ctx.shape.time < SUB {
        return Err(group.reject(
            "chunked-time",
            [scan],
            format!("runs of {SUB} tokens or more"),
            format!("T = {}", ctx.shape.time),
        ));
    }
    bounded(group, scan, &parts)?;
    if ctx.target.mma_operand(Storage::Bf16).is_none() {
        return Err(group.reject(
            "chunked-device",
            [scan],
            "tensor cores that take bf16 (sm_80 and later)",
            ctx.device.arch.clone(),
        ));
    }
    looks_back(group, lane)?;
    prologue(group, lane, scan)?;
    let whole = epilogue(group, lane, &parts)?;
    Ok((scan, parts, whole))
}

/// The products over runs of tokens stay finite, and rounding errors of the past fade, if no decay
/// is above 1.
fn bounded(group: &Group<'_>, scan: OpId, parts: &Parts<'_>) -> Result<(), Reject> {
    let range = decay_range(group.ctx.graph, scan, parts.found, 0);
    match range {
        Ok((low, high)) if low >= 0.0 && high <= 1.0 => Ok(()),
        Ok((low, high)) => Err(group.reject(
            "chunked-decay",
            [scan],
            "a decay proven to be in [0, 1]",
            format!("as far as its expression shows, it is in [{low}, {high}]"),
        )),
        Err(why) => Err(group.reject(
            "chunked-decay",
            [scan],
            "a decay proven to be in [0, 1]",
            why.to_string(),
        )),
    }
}

/// Rows that come later are not among those that a chunk holds.
fn looks_back(group: &Group<'_>, lane: &Body) -> Result<(), Reject> {
    for id in &lane.ops {
        if let Some(access) = group.op(*id).inputs.iter().find(|access| access.delay < 0) {
            return Err(group.reads_later("chunked-look-ahead", *id, access));
        }
    }
    Ok(())
}

fn prologue(group: &Group<'_>, lane: &Body, scan: OpId) -> Result<(), Reject> {
    // Side results of what is before it as well.
    let before = |id: &&OpId| **id != scan && !lane.roles.epilogue.contains(id);
    for id in lane.ops.iter().filter(before) {
        let op = group.op(*id);
        if !matches!(op.kind, OpKind::Map { .. }) {
            return Err(group.reject(
                "chunked-prologue-op",
                [*id],
                "maps before the recurrence",
                format!("`{}`", group.name(*id)),
            ));
        }
        // Each element is computed as often as it is needed, by whoever needs it.
        if op.outputs.iter().any(|v| lane.stores.contains(v)) {
            return Err(group.reject(
                "chunked-prologue-stored",
                [*id],
                "operands that stay on the chip",
                format!("`{}` is needed outside", group.name(*id)),
            ));
        }
    }
    Ok(())
}

/// Checks what follows the recurrence. Returns whether it combines over the value axes.
fn epilogue(group: &Group<'_>, lane: &Body, parts: &Parts<'_>) -> Result<bool, Reject> {
    let graph = group.ctx.graph;
    let sized = |axes: &[AxisId]| -> Vec<AxisId> {
        let mut axes: Vec<AxisId> = axes.to_vec();
        axes.retain(|a| graph.size(*a) > 1);
        axes.sort();
        axes
    };
    let value = sized(&parts.layout.value);
    let heads = sized(&parts.layout.heads);
    let mut whole = false;
    let before = |id: &OpId| !lane.roles.epilogue.contains(id) && !lane.anchors().contains(id);
    for id in &lane.roles.epilogue {
        let op = group.op(*id);
        if !matches!(
            op.kind,
            OpKind::Map { .. } | OpKind::Reduce { .. } | OpKind::Norm { .. }
        ) {
            return Err(group.reject(
                "chunked-epilogue-op",
                [*id],
                "maps, reductions and norms after the recurrence",
                format!("`{}`", group.name(*id)),
            ));
        }
        let reduced = sized(reduced_axes(op));
        let (along, others): (Vec<AxisId>, Vec<AxisId>) = sized(&iteration_axes(graph, op))
            .into_iter()
            .partition(|a| value.contains(a));
        let rows = |axes: &[AxisId]| axes.is_empty() || *axes == value;
        if others != heads || !rows(&reduced) || !rows(&along) {
            return Err(group.reject(
                "chunked-epilogue-axes",
                [*id],
                format!(
                    "one head at a time [{}], and all or none of its value columns [{}]",
                    names(graph, &heads),
                    names(graph, &value)
                ),
                format!(
                    "`{}` over [{}]{}",
                    group.name(*id),
                    names(graph, &iteration_axes(graph, op)),
                    match reduced.is_empty() {
                        true => String::new(),
                        false => format!(", combined over [{}]", names(graph, &reduced)),
                    }
                ),
            ));
        }
        whole |= !reduced.is_empty();
        if let Some(access) = op.inputs.iter().find(|access| access.delay != 0) {
            return Err(group.reject(
                "chunked-epilogue-access",
                [*id],
                "the row of the current token",
                format!(
                    "row t - {} of `{}`",
                    access.delay,
                    graph.value(access.value).name
                ),
            ));
        }
        for (access, producer) in group.in_body_accesses(*id) {
            if before(&producer) {
                continue;
            }
            let axes = &graph.value(access.value).axes;
            let same = axes
                .iter()
                .zip(&access.index)
                .all(|(axis, index)| graph.size(*axis) == 1 || index.as_axis() == Some(*axis));
            if !same {
                return Err(group.reject(
                    "chunked-epilogue-access",
                    [*id],
                    "the same element of what follows the recurrence",
                    format!("another one of `{}`", graph.value(access.value).name),
                ));
            }
        }
        // A tail of what follows the recurrence would have to be kept from row to row.
        let kept = op.tails.iter().find(|tail| match graph.state(**tail).kind {
            fusec_ir::StateKind::Tail { value, .. } => {
                group.in_body(value).is_some_and(|p| !before(&p))
            }
            fusec_ir::StateKind::Scan { .. } => false,
        });
        if let Some(tail) = kept {
            return Err(group.reject(
                "chunked-epilogue-tail",
                [*id],
                "no stencil over what follows the recurrence",
                format!("the tail `{}`", graph.state(*tail).name),
            ));
        }
    }
    Ok(whole)
}

/// How heads and value columns are spread over blocks of one head and at most `target` columns, and how many each has.
pub(super) fn columns(
    group: &Group<'_>,
    scan: OpId,
    parts: &Parts<'_>,
    target: usize,
) -> Result<(Vec<GridAxis>, usize), Reject> {
    let graph = group.ctx.graph;
    let layout = parts.layout;
    let heads = layout.heads.iter().filter(|a| graph.size(**a) > 1);
    let mut grid: Vec<GridAxis> = heads
        .map(|axis| GridAxis {
            axis: *axis,
            tile: 1,
        })
        .collect();
    let mut value = graph.elements(&layout.value);
    for axis in layout.value.iter().copied() {
        let size = graph.size(axis);
        if value <= target || size == 1 {
            continue;
        }
        let inner = value / size;
        let tile = divisors(size, target)
            .find(|tile| tile * inner <= target)
            .unwrap_or(1);
        grid.push(GridAxis { axis, tile });
        value = tile * inner;
    }
    if value > VALUE_LIMIT {
        return Err(group.reject(
            "chunked-value",
            [scan],
            format!("{VALUE_LIMIT} value columns of a block"),
            format!("{value}, all of which an operation after the recurrence combines"),
        ));
    }
    let key = graph.elements(&layout.key);
    if key > KEY_LIMIT {
        return Err(group.reject(
            "chunked-key",
            [scan],
            format!("{KEY_LIMIT} key channels"),
            format!("{key}"),
        ));
    }
    Ok((grid, value))
}

/// One head per block, and at most `target` value columns.
fn spread(
    group: &Group<'_>,
    lane: &Body,
    scan: OpId,
    parts: &Parts<'_>,
    target: usize,
    (ahead, (products, most_warps)): (bool, (Products, usize)),
) -> Result<Body, Reject> {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let (grid, value) = columns(group, scan, parts, target)?;
    let key = graph.elements(&parts.layout.key);
    let slabs = match ahead {
        true => staged(
            graph,
            parts,
            scan,
            &lane.ops,
            &grid,
            (ctx.storage, products),
        ),
        false => vec![],
    };
    let least = Tile::least(graph, scan, parts, ctx.storage, value, &slabs);
    let bytes = ctx.target.shared_bytes;
    let tiles: usize = grid.iter().map(|g| graph.size(g.axis) / g.tile).product();
    let share = (ctx.shape.batch * tiles).div_ceil(ctx.target.sms.max(1));
    let registers = ctx.target.registers;
    let fitting = match products {
        Products::Warp => least.fitting(bytes, registers, ctx.shape.time, share, most_warps),
        Products::Warpgroup => Some(by_warpgroup(group, scan, least)?),
    };
    match fitting {
        Some(tile) => Ok(Body {
            schedule: Schedule::Chunked(ChunkTile {
                grid,
                // Nothing arrives ahead of time where nothing can.
                ahead: !slabs.is_empty(),
                tile: tile.shared_by(share, bytes, registers),
                segments: None,
            }),
            streamed: vec![],
            ..lane.clone()
        }),
        None => Err(group.reject(
            "chunked-shared",
            [scan],
            format!("{bytes} bytes of shared memory per block"),
            format!("{} for {key} keys and {value} values", least.shared_bytes()),
        )),
    }
}

/// The same block by the products of a warpgroup.
fn by_warpgroup(group: &Group<'_>, scan: OpId, least: Tile) -> Result<Tile, Reject> {
    let ctx = group.ctx;
    if ctx.target.wgmma_operand(Storage::Bf16).is_none() {
        return Err(group.reject(
            "chunked-warpgroup",
            [scan],
            "products of warpgroups, which exactly sm_90a has",
            ctx.device.arch.clone(),
        ));
    }
    let not =
        |limit: &'static str, got: String| group.reject("chunked-warpgroup", [scan], limit, got);
    let tile = least
        .by_warpgroup()
        .map_err(|limit| not(limit, format!("{least:?}")))?;
    let (bytes, most) = (tile.shared_bytes(), ctx.target.shared_bytes);
    match (ctx.shape.time >= tile.chunk, bytes <= most) {
        (false, _) => Err(not(
            "runs of whole chunks",
            format!("T = {}", ctx.shape.time),
        )),
        (_, false) => Err(not(
            "the shared memory of a block",
            format!("{bytes} of {most} bytes"),
        )),
        (true, true) => Ok(tile),
    }
}

/// The tile of a chunked lane whose blocks are so many more: in a pass over `segments` of T, for `ops` of the
/// lane, in no more shared memory than `room`, if that is enough for some tile. `None` if none fits.
pub fn in_pass(
    group: &Group<'_>,
    (scan, ops): (OpId, &[OpId]),
    chunk: &ChunkTile,
    segments: Segments,
    room: usize,
) -> Option<ChunkTile> {
    let (ctx, graph) = (group.ctx, group.ctx.graph);
    let parts = Parts::of(graph, ctx.classes(), scan).ok()?;
    let parts = match segments.pass {
        Pass::States => parts.without_reads(),
        Pass::Results => parts,
    };
    let slabs = match chunk.ahead {
        true => {
            let by = (ctx.storage, chunk.tile.products);
            staged(graph, &parts, scan, ops, &chunk.grid, by)
        }
        false => vec![],
    };
    let (bytes, registers) = (ctx.target.shared_bytes, ctx.target.registers);
    let tiles = chunk.grid.iter().map(|g| graph.size(g.axis) / g.tile);
    let blocks = ctx.shape.batch * tiles.product::<usize>() * segments.walked();
    let share = blocks.div_ceil(ctx.target.sms.max(1));
    let [_, few] = MOST_WARPS;
    let least = Tile::least(graph, scan, &parts, ctx.storage, chunk.tile.value, &slabs);
    if let Some(which) = chunk.tile.weighted {
        let tile = least.weighted(which).ok()?;
        return Some(ChunkTile {
            tile: tile.shared_by(share, bytes, registers),
            segments: Some(segments),
            ..chunk.clone()
        });
    }
    if chunk.tile.products == Products::Warpgroup {
        let tile = by_warpgroup(group, scan, least).ok()?;
        return Some(ChunkTile {
            ahead: !slabs.is_empty(),
            tile: tile.shared_by(share, bytes, registers),
            segments: Some(segments),
            ..chunk.clone()
        });
    }
    let fitting = |bytes: usize, share: usize| {
        let tile = least.fitting(bytes, registers, ctx.shape.time, share, few);
        tile.filter(|tile| tile.shared_bytes() <= room)
    };
    let fits = fitting(bytes, share).or_else(|| fitting(room.min(bytes), 1));
    let tile = fits.or_else(|| least.fitting(bytes, registers, ctx.shape.time, share, few))?;
    Some(ChunkTile {
        ahead: !slabs.is_empty(),
        tile: tile.shared_by(share, bytes, registers),
        segments: Some(segments),
        ..chunk.clone()
    })
}

fn names(graph: &Graph, axes: &[AxisId]) -> String {
    let names: Vec<&str> = axes.iter().map(|a| graph.axis_name(*a)).collect();
    names.join(", ")
}
