//! The terms of a recurrence with a rank-one factor that goes in chunks.
//!
//! What a chunk does follows each other, with barriers between: rows come into products, tokens are
//! multiplied with tokens and solved, warps take their columns of the state through the
//! sub-chunks, the epilogue runs. Times are clock cycles as timers inside the kernel saw them on an
//! H200, 64 x 64 and 128 x 128 states, 16 to 64 tokens to a chunk.

use super::Lane;
use crate::chunked::rank_one::Tile;

/// Barriers and waits of one chunk.
const CHUNK_CYCLES: f64 = 950.0;
/// An element that a thread brings into products, and the same where its row is in shared memory by
/// then. More threads than [`BUSY_THREADS`] share the multiprocessor's instruction slots.
const CYCLES_PER_ELEMENT: f64 = 85.0;
const CYCLES_PER_ELEMENT_AHEAD: f64 = 30.0;
const BUSY_THREADS: f64 = 256.0;
/// The products between tokens: inverses, and one product of tensor-core tiles.
const SOLVE_CYCLES: f64 = 560.0;
const CYCLES_PER_TOKEN_PRODUCT: f64 = 11.0;
/// A warp's walk through the sub-chunks: its start, one sub-chunk, one product of tiles in it.
const WALK_CYCLES: f64 = 400.0;
const SUB_CYCLES: f64 = 250.0;
const CYCLES_PER_PRODUCT: f64 = 4.0;
/// One product of tiles where all warps of a multiprocessor's quarter have some.
const CYCLES_PER_SHARED_PRODUCT: f64 = 9.0;
/// Products between tokens that have a decay each: a multiply-add of a thread with what it reads.
const CYCLES_PER_PAIR: f64 = 6.0;
/// Part of the time of two blocks that share a multiprocessor which is latency: 3.0 us a chunk alone, 4.4
/// us beside another.
const LATENCY: f64 = 0.37;
/// Registers of a multiprocessor.
const REGISTERS: f64 = 65536.0;

impl Lane<'_> {
    /// Chunks one block takes one after the other, and their time.
    pub(super) fn serial_rank_one(&self, tile: &Tile, ahead: bool) -> (f64, f64) {
        let device = self.ctx.device;
        let threads = (32 * tile.warps()) as f64;
        let by_room = device.smem_kb.value * 1024.0 / tile.shared_bytes() as f64;
        let by_registers = REGISTERS / (threads * tile.registers() as f64);
        let share = (self.blocks as f64 / device.sms.value).ceil();
        let resident = by_room.min(by_registers).floor().clamp(1.0, share.max(1.0));
        let waves = (self.blocks as f64 / (resident * device.sms.value)).ceil();
        let chunks = self.ctx.shape.time.div_ceil(tile.chunk) as f64;
        let cycles = self.chunk_cycles(tile, ahead);
        // Twice as many blocks take less than twice as long, until they only wait for each other.
        let cycles = cycles * (1.0 + (resident - 1.0) * (1.0 - LATENCY) / (1.0 + LATENCY));
        let us = cycles / (device.clock_ghz.value * 1e3);
        (chunks * waves, chunks * waves * us)
    }

    fn chunk_cycles(&self, tile: &Tile, ahead: bool) -> f64 {
        let subs = tile.subs() as f64;
        let busy = ((32 * tile.warps()) as f64).min(BUSY_THREADS);
        let per_element = match ahead {
            true => CYCLES_PER_ELEMENT_AHEAD,
            false => CYCLES_PER_ELEMENT,
        };
        let around = tile.elements() * per_element + self.around(tile.chunk, ahead);
        let between = SOLVE_CYCLES
            + subs * tile.token_products() * CYCLES_PER_TOKEN_PRODUCT
            + tile.pairs() * CYCLES_PER_PAIR / busy;
        let products = tile.state_products();
        let shared = CYCLES_PER_SHARED_PRODUCT * products * tile.value_warps() as f64 / 4.0;
        let walk = (SUB_CYCLES + CYCLES_PER_PRODUCT * products).max(shared);
        CHUNK_CYCLES + around / busy + between + WALK_CYCLES + subs * walk
    }
}
