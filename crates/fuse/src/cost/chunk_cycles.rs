//! What the chunks of a recurrence cost that follow each other.
//!
//! What a chunk does follows each other, with barriers between: rows come into products, tokens are
//! multiplied with tokens and, where there is a rank-one factor, solved, warps take their columns of
//! the state through the chunk, the epilogue runs. The clock cycles of each, which the device file has,
//! are those that timers inside the kernel saw.

use super::work::{Chunks, Work};
use crate::Device;

/// Chunks one block takes one after the other, and their time in microseconds.
pub(super) fn serial(device: &Device, work: &Work, chunks: &Chunks) -> (f64, f64) {
    let by_room = device.smem_kb.value * 1024.0 / chunks.shared_bytes.max(1.0);
    let share = (work.blocks as f64 / device.sms.value).ceil();
    let resident = by_room.min(chunks.resident).floor();
    let resident = resident.clamp(1.0, share.max(1.0));
    let waves = (work.blocks as f64 / (resident * device.sms.value)).ceil();
    // Each block more lengthens what the others do, but for the part that is latency.
    let latency = device.fitted.chunk_latency.value;
    let longer = 1.0 + (resident - 1.0) * (1.0 - latency) / (1.0 + latency);
    let us = cycles(device, work, chunks) * longer / (device.clock_ghz.value * 1e3);
    let state = chunks.state * device.fitted.chunk_state_cycles.value;
    let state_us = state / (device.clock_ghz.value * 1e3);
    (
        chunks.chunks * waves,
        waves * (chunks.chunks * us + state_us),
    )
}

/// Clock cycles of a chunk of a block that has its multiprocessor for itself.
fn cycles(device: &Device, work: &Work, chunks: &Chunks) -> f64 {
    let fitted = &device.fitted;
    let busy = (work.threads as f64).min(fitted.chunk_busy_threads.value);
    let (per_element, per_load) = match chunks.ahead {
        true => (
            fitted.chunk_element_ahead_cycles.value,
            fitted.around_load_ahead_cycles.value,
        ),
        false => (
            fitted.chunk_element_cycles.value,
            fitted.around_load_cycles.value,
        ),
    };
    let around = chunks.elements * per_element
        + chunks.around * fitted.around_operation_cycles.value
        + chunks.around_special * fitted.around_special_cycles.value
        + chunks.around_loads * per_load
        + chunks.around_parameters * fitted.around_parameter_cycles.value
        + chunks.around_sums * fitted.around_sum_cycles.value;
    if chunks.group_products > 0.0 {
        let products = chunks.group_products * fitted.chunk_group_product_cycles.value;
        return fitted.chunk_cycles.value + around / busy + products;
    }
    let solve = match chunks.solves {
        true => fitted.chunk_solve_cycles.value,
        false => 0.0,
    };
    let between = solve
        + chunks.subs * chunks.token_products * fitted.chunk_token_product_cycles.value
        + chunks.pairs * fitted.chunk_pair_cycles.value / busy;
    // What comes to the state at once: its products wait for each other where they are few.
    let products = chunks.state_products * chunks.subs / chunks.spans;
    let alone = fitted.chunk_span_cycles.value + products * fitted.chunk_product_cycles.value;
    let quarters = chunks.value_warps / 4.0;
    let shared = products * quarters * fitted.chunk_shared_product_cycles.value;
    fitted.chunk_cycles.value
        + around / busy
        + between
        + fitted.chunk_walk_cycles.value
        + chunks.spans * alone.max(shared)
}
