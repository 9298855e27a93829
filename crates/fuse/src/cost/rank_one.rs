//! The terms of a recurrence with a rank-one factor that goes in chunks.
//!
//! What a chunk does follows each other, with barriers between: rows come into products, tokens are
//! multiplied with tokens and solved, warps take their columns of the state through the
//! sub-chunks, the epilogue runs. The clock cycles of each, which the device file has, are those that
//! timers inside the kernel saw.

use super::Lane;
use crate::chunked::rank_one::Tile;

impl Lane<'_> {
    /// Chunks one block takes one after the other, and their time.
    pub(super) fn serial_rank_one(&self, tile: &Tile, ahead: bool) -> (f64, f64) {
        let device = self.ctx.device;
        let by_room = device.smem_kb.value * 1024.0 / tile.shared_bytes() as f64;
        let by_registers = tile.blocks_by_registers(self.ctx.target.registers) as f64;
        let share = (self.blocks as f64 / device.sms.value).ceil();
        let resident = by_room.min(by_registers).floor().clamp(1.0, share.max(1.0));
        let waves = (self.blocks as f64 / (resident * device.sms.value)).ceil();
        let chunks = self.ctx.shape.time.div_ceil(tile.chunk) as f64;
        // Each block more lengthens what the others do, but for the part that is latency.
        let latency = device.fitted.factor_latency.value;
        let longer = 1.0 + (resident - 1.0) * (1.0 - latency) / (1.0 + latency);
        let cycles = self.chunk_cycles(tile, ahead) * longer;
        let us = cycles / (device.clock_ghz.value * 1e3);
        (chunks * waves, chunks * waves * us)
    }

    fn chunk_cycles(&self, tile: &Tile, ahead: bool) -> f64 {
        let fitted = &self.ctx.device.fitted;
        let subs = tile.subs() as f64;
        let busy = ((32 * tile.warps()) as f64).min(fitted.factor_busy_threads.value);
        let per_element = match ahead {
            true => fitted.factor_element_ahead_cycles.value,
            false => fitted.factor_element_cycles.value,
        };
        let around = tile.elements() * per_element + self.around(tile.chunk, ahead);
        let between = fitted.factor_solve_cycles.value
            + subs * tile.token_products() * fitted.factor_token_product_cycles.value
            + tile.pairs() * fitted.factor_pair_cycles.value / busy;
        let products = tile.state_products();
        let alone = fitted.factor_sub_cycles.value + products * fitted.factor_product_cycles.value;
        let quarters = tile.value_warps() as f64 / 4.0;
        let shared = products * quarters * fitted.factor_shared_product_cycles.value;
        fitted.factor_chunk_cycles.value
            + around / busy
            + between
            + fitted.factor_walk_cycles.value
            + subs * alone.max(shared)
    }
}
