//! Every way to compute a group in one kernel: its forms, and the same with other tiles.
//!
//! The planner chooses from the forms. Of tiles, the cost model cannot tell which of two that differ
//! little is faster, so others are taken only where they are asked for, by measurement or calibration
//! ([`crate::Recipe`]). Never here: which is better.

use super::forms;
use crate::context::Context;
use crate::plan::{Phase, Reject};
use crate::schedule::product::Products;
use crate::schedule::{GemmTile, Schedule, Turn, launch};
use fusec_ir::OpId;

/// Most threads of a block, on every device.
const THREADS: u32 = 1024;

/// The ways to compute `ops` in one kernel: its [`forms`], in their order, then those with the tiles of
/// all subkernels of the first turned alike. Each can be launched on the device, and is there once.
pub fn ways(ctx: &Context<'_>, ops: &[OpId]) -> Result<Vec<Vec<Phase>>, Reject> {
    let mut out = forms(ctx, ops)?;
    let Some(plain) = out.first().cloned() else {
        return Ok(out);
    };
    for turn in Turn::ALL {
        let Some(turned) = turned(ctx, &plain, turn) else {
            continue;
        };
        let launch = launch(ctx, &turned);
        let fits =
            launch.shared_bytes as usize <= ctx.target.shared_bytes && launch.threads <= THREADS;
        if fits && !out.contains(&turned) {
            out.push(turned);
        }
    }
    Ok(out)
}

/// Phases with the tiles of all subkernels that can be turned; `None` if none can.
fn turned(ctx: &Context<'_>, phases: &[Phase], turn: Turn) -> Option<Vec<Phase>> {
    let mut phases = phases.to_vec();
    let mut any = false;
    for phase in &mut phases {
        for body in &mut phase.lanes {
            let products = Products::of(ctx.graph, body.anchors(), &body.ops);
            let prologue = !body.roles.prologue.is_empty();
            let other = turn.of(&body.schedule, products.as_ref(), prologue, ctx);
            any |= other.is_some();
            body.schedule = other.unwrap_or_else(|| body.schedule.clone());
        }
        // Blocks go from a tile of one subkernel to one of another through the same ring.
        let rings = phase.lanes.iter().filter_map(|body| match &body.schedule {
            Schedule::Gemm(GemmTile::Wgmma(tile)) => Some(tile.stages),
            _ => None,
        });
        if let Some(stages) = rings.min() {
            for body in &mut phase.lanes {
                if let Schedule::Gemm(GemmTile::Wgmma(tile)) = &mut body.schedule {
                    tile.stages = stages;
                }
            }
        }
    }
    any.then_some(phases)
}
