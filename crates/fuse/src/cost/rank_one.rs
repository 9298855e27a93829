//! The counts of a recurrence with a rank-one factor that goes in chunks, and what they cost.
//!
//! What a chunk does follows each other, with barriers between: rows come into products, tokens are
//! multiplied with tokens and solved, warps take their columns of the state through the
//! sub-chunks, the epilogue runs. The clock cycles of each, which the device file has, are those that
//! timers inside the kernel saw.

use super::lane::Lane;
use super::work::{Chunks, Factor, Work};
use crate::Device;
use crate::chunked::rank_one::Tile;

impl Lane<'_> {
    /// What of a chunk the factor adds.
    pub(super) fn factor(&self, tile: &Tile) -> Factor {
        Factor {
            resident: tile.blocks_by_registers(self.ctx.target.registers) as f64,
            subs: tile.subs() as f64,
            token_products: tile.token_products(),
            pairs: tile.pairs(),
            state_products: tile.state_products(),
            value_warps: tile.value_warps() as f64,
        }
    }
}

/// Chunks one block takes one after the other, and their time in microseconds.
pub(super) fn serial(device: &Device, work: &Work, chunks: &Chunks, factor: &Factor) -> (f64, f64) {
    let by_room = device.smem_kb.value * 1024.0 / chunks.shared_bytes.max(1.0);
    let share = (work.blocks as f64 / device.sms.value).ceil();
    let resident = by_room.min(factor.resident).floor();
    let resident = resident.clamp(1.0, share.max(1.0));
    let waves = (work.blocks as f64 / (resident * device.sms.value)).ceil();
    // Each block more lengthens what the others do, but for the part that is latency.
    let latency = device.fitted.factor_latency.value;
    let longer = 1.0 + (resident - 1.0) * (1.0 - latency) / (1.0 + latency);
    let us = cycles(device, work, chunks, factor) * longer / (device.clock_ghz.value * 1e3);
    (chunks.chunks * waves, chunks.chunks * waves * us)
}

/// Clock cycles of a chunk of a block that has its multiprocessor for itself.
fn cycles(device: &Device, work: &Work, chunks: &Chunks, factor: &Factor) -> f64 {
    let fitted = &device.fitted;
    let busy = (work.threads as f64).min(fitted.factor_busy_threads.value);
    let (per_element, per_load) = match chunks.ahead {
        true => (
            fitted.factor_element_ahead_cycles.value,
            fitted.around_load_ahead_cycles.value,
        ),
        false => (
            fitted.factor_element_cycles.value,
            fitted.around_load_cycles.value,
        ),
    };
    let around = chunks.elements * per_element
        + chunks.around * fitted.around_operation_cycles.value
        + chunks.around_special * fitted.around_special_cycles.value
        + chunks.around_loads * per_load
        + chunks.around_sums * fitted.around_sum_cycles.value;
    let between = fitted.factor_solve_cycles.value
        + factor.subs * factor.token_products * fitted.factor_token_product_cycles.value
        + factor.pairs * fitted.factor_pair_cycles.value / busy;
    let products = factor.state_products;
    let alone = fitted.factor_sub_cycles.value + products * fitted.factor_product_cycles.value;
    let quarters = factor.value_warps / 4.0;
    let shared = products * quarters * fitted.factor_shared_product_cycles.value;
    fitted.factor_chunk_cycles.value
        + around / busy
        + between
        + fitted.factor_walk_cycles.value
        + factor.subs * alone.max(shared)
}
