//! Launches: threads, shared memory and blocks that follow from the schedules of a kernel's bodies.

use super::Schedule;
use super::gemv;
use super::product::Products;
use super::segments::Segments;
use super::walk::Walked;
use crate::chunked::weighted::Weighted;
use crate::context::Context;
use crate::plan::{Body, Phase};
use serde::{Deserialize, Serialize};

/// What a kernel is launched with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Blocks at the shape that the plan is for; of several phases, the most that one has.
    pub blocks: u64,
    /// Whether its blocks may start while the kernel before it still runs (programmatic dependent launch):
    /// they wait for its results before they touch anything that a kernel writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early: bool,
}

/// The launch of a kernel made of `phases`.
pub fn launch(ctx: &Context<'_>, phases: &[Phase]) -> Launch {
    let bodies = || phases.iter().flat_map(|phase| &phase.lanes);
    let threads = bodies().map(|b| b.schedule.threads()).max().unwrap_or(32);
    let floats = bodies().map(|body| shared_floats(ctx, body, threads));
    let of_phase = |phase: &Phase| phase.lanes.iter().map(|body| blocks(ctx, body)).sum();
    Launch {
        threads: threads as u32,
        shared_bytes: 4 * floats.max().unwrap_or(0) as u32,
        blocks: phases.iter().map(of_phase).max().unwrap_or(0) as u64,
        // Blocks with a barrier between them have to be resident together, beside nothing that waits for
        // them. Runs of many tokens lose by it: blocks that start early crowd on the multiprocessors that are
        // free first (H200, B8 T2048: 85.5 ms became 100.7, each kernel by itself as fast as before).
        early: ctx.target.starts_early() && ctx.shape.time == 1 && phases.len() == 1,
    }
}

/// Blocks of a body at the planned shape.
pub fn blocks(ctx: &Context<'_>, body: &Body) -> usize {
    let spread = body.schedule.grid().iter();
    let tiles: usize = spread.map(|g| ctx.graph.size(g.axis) / g.tile).product();
    let runs = |rows: u32| ctx.shape.batch * ctx.shape.time.div_ceil(rows.max(1) as usize) * tiles;
    let of_products = |rows: usize, columns: usize| {
        let products = Products::of(ctx.graph, body.anchors(), &body.ops);
        let across = products.map_or(1, |p| p.width.div_ceil(columns) * p.copies);
        ctx.rows().div_ceil(rows) * across
    };
    match &body.schedule {
        Schedule::Row(tile) => runs(tile.rows),
        Schedule::Attend(tile) => runs(tile.rows()),
        Schedule::Chunked(chunk) if chunk.tile.weighted == Some(Weighted::Makes) => {
            runs(chunk.tile.chunk as u32)
        }
        Schedule::Scan(_) | Schedule::Chunked(_) => {
            let walked = body.schedule.segments().map_or(1, Segments::walked);
            ctx.shape.batch * tiles * walked
        }
        Schedule::LastRow(tile) => ctx.shape.batch * tile.parts as usize,
        Schedule::Scatter(tile) => {
            ctx.rows().div_ceil(tile.rows.max(1) as usize) * tile.parts as usize
        }
        Schedule::RowSum(tile) => {
            let anchor = body.anchors().first();
            anchor.map_or(1, |id| tile.blocks(ctx.graph, ctx.graph.op(*id)))
        }
        Schedule::Gemv(tile) => of_products(tile.rows, tile.columns),
        Schedule::Stream(tile) => of_products(tile.rows, tile.columns),
        Schedule::NonZero(tile) => of_products(1, tile.columns),
        Schedule::Thin(tile) => of_products(tile.rows, tile.columns),
        Schedule::Gemm(tile) => of_products(tile.rows(), tile.columns(body.anchors().len())),
    }
}

/// Shared memory of a body in a kernel whose blocks have `threads`, f32 elements.
pub fn shared_floats(ctx: &Context<'_>, body: &Body, threads: usize) -> usize {
    let walked = Walked::of(ctx, &body.ops, &body.tails, &body.stores);
    match &body.schedule {
        Schedule::Row(tile) => walked.shared_floats(&tile.grid, threads, 1, tile.rows > 1),
        Schedule::Scan(tile) => walked
            .towards(tile.direction)
            .in_pass(tile.segments, ctx.classes())
            .shared_floats(&tile.grid, threads, tile.run, true),
        Schedule::Chunked(chunk) => chunk.tile.shared_bytes() / 4,
        Schedule::Gemv(_) | Schedule::Stream(_) | Schedule::NonZero(_) | Schedule::Thin(_) => {
            let Some(products) = Products::of(ctx.graph, body.anchors(), &body.ops) else {
                return 0;
            };
            let own = match &body.schedule {
                Schedule::Thin(tile) => tile.places(&products.shapes).1,
                Schedule::Gemv(tile) => tile.places(&products.shapes).1,
                Schedule::Stream(tile) => tile.places(&products.shapes).1,
                Schedule::NonZero(tile) => tile.places(products.deepest()).end,
                _ => 0,
            };
            own + gemv::around(ctx, &products, body, body.schedule.threads())
        }
        Schedule::Gemm(tile) => Products::of(ctx.graph, body.anchors(), &body.ops)
            .map_or(0, |products| {
                tile.shared_bytes(&products.shapes).div_ceil(4)
            }),
        Schedule::LastRow(_) | Schedule::Scatter(_) => 0,
        Schedule::RowSum(tile) => tile.shared_bytes().div_ceil(4),
        // Without its result, attention only keeps rows for the next run.
        Schedule::Attend(tile) => match body.stores.is_empty() {
            true => 0,
            false => tile.shared_bytes().div_ceil(4),
        },
    }
}
