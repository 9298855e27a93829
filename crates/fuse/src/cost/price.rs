//! From work to time: what each count costs on a device.
//!
//! Lives here: formulas over counts and the figures of a device file. Never here: a template, a graph,
//! a number that depends on a device.

use super::chunk_cycles;
use super::work::{Columns, Keys, Read, Serial, Steps, Tiles, Work};
use crate::device::Device;
use crate::plan::{Cost, Storage};
use crate::schedule::wgmma::CONSUMERS;
use crate::schedule::{gemv, thin};
use std::collections::BTreeSet;

/// Threads that a multiprocessor holds.
const RESIDENT_THREADS: usize = 2048;

/// The time of a kernel whose phases do this work, one after the other; the subkernels of a phase run
/// side by side. `launch_us` is what its start takes.
///
/// What a phase stores the next one reads as if another kernel had: a phase costs what a kernel of its
/// own does, less the launch, and a barrier of the grid.
pub fn price(device: &Device, launch_us: f64, phases: &[Vec<Work>]) -> Cost {
    let phases = phases.iter().enumerate().map(|(i, lanes)| {
        let (launch_us, barrier_us) = match i {
            0 => (launch_us, 0.0),
            _ => (0.0, device.grid_barrier_us.value),
        };
        side_by_side(device, lanes, launch_us, barrier_us)
    });
    phases.fold(Cost::default(), |a, b| Cost {
        bytes: a.bytes + b.bytes,
        l2_bytes: a.l2_bytes + b.l2_bytes,
        tensor_flops: a.tensor_flops + b.tensor_flops,
        simt_flops: a.simt_flops + b.simt_flops,
        special: a.special + b.special,
        serial_steps: a.serial_steps + b.serial_steps,
        memory_us: a.memory_us + b.memory_us,
        tensor_us: a.tensor_us + b.tensor_us,
        simt_us: a.simt_us + b.simt_us,
        special_us: a.special_us + b.special_us,
        serial_us: a.serial_us + b.serial_us,
        launch_us: a.launch_us + b.launch_us,
        barrier_us: a.barrier_us + b.barrier_us,
        latency_us: a.latency_us + b.latency_us,
        underfill_us: a.underfill_us + b.underfill_us,
        total_us: a.total_us + b.total_us,
    })
}

/// The time of subkernels that run side by side, after a launch or a barrier of the grid.
fn side_by_side(device: &Device, lanes: &[Work], launch_us: f64, barrier_us: f64) -> Cost {
    // All lanes of a kernel have equally many threads, so one that stages slows them all.
    let staged = lanes.iter().any(Work::is_staged);
    let mut read = BTreeSet::new();
    let mut sum = Sum::default();
    for work in lanes {
        sum.add(device, work, staged, &mut read);
    }
    let parts = sum.parts();
    let slowed = parts.slowed(device);
    Cost {
        memory_us: parts.memory_us,
        tensor_us: parts.tensor_us,
        simt_us: parts.simt_us,
        special_us: parts.special_us,
        serial_us: parts.serial_us,
        launch_us,
        barrier_us,
        latency_us: parts.latency_us,
        underfill_us: slowed - parts.bound(),
        total_us: slowed + launch_us + barrier_us + parts.latency_us,
        ..sum.counts
    }
}

/// Times of the parts of a machine that a kernel uses, and the blocks that share the work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    pub memory_us: f64,
    pub tensor_us: f64,
    pub simt_us: f64,
    /// Part of `simt_us` that counts instructions, where that is summed up by itself; otherwise 0.
    pub instructions_us: f64,
    pub special_us: f64,
    pub serial_us: f64,
    /// Comes on top of the largest.
    pub latency_us: f64,
    pub blocks: usize,
}

impl Parts {
    /// The time of a GPU that is filled.
    pub fn bound(&self) -> f64 {
        [
            self.memory_us,
            self.tensor_us,
            self.simt_us,
            self.special_us,
            self.serial_us,
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    /// The factors by which too few blocks slow the parts of the machine.
    pub fn slowdown(device: &Device, blocks: usize) -> Slowdown {
        let fitted = &device.fitted;
        let short = device.sms.value / blocks.max(1) as f64;
        Slowdown {
            memory: (short / fitted.memory_reach.value).max(1.0),
            tensor: (fitted.tensor_blocks.value * short).max(1.0),
            others: short.max(1.0),
        }
    }

    /// The time with too few blocks taken into account.
    pub fn slowed(&self, device: &Device) -> f64 {
        let slowdown = Parts::slowdown(device, self.blocks);
        [
            self.memory_us * slowdown.memory,
            self.tensor_us * slowdown.tensor,
            self.simt_us * slowdown.others,
            self.instructions_us * slowdown.others,
            self.special_us * slowdown.others,
            self.serial_us,
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }
}

/// Factors on the times of [`Parts`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slowdown {
    pub memory: f64,
    pub tensor: f64,
    pub others: f64,
}

/// Sums over the subkernels of a phase.
#[derive(Default)]
pub(super) struct Sum {
    /// What is counted, for the plan.
    counts: Cost,
    memory_us: f64,
    tensor_us: f64,
    /// Time of the floating-point operations outside the tensor cores.
    flops_us: f64,
    /// Time of the instructions of maps and reductions, which the operations are among.
    instructions_us: f64,
    special_us: f64,
    serial_us: f64,
    /// Of recurrences that go token by token.
    steps_us: f64,
    /// Of recurrences in chunks: all times, the longest, blocks, and threads of them for which a
    /// multiprocessor has registers.
    chunks_us: f64,
    longest_chunks_us: f64,
    chunk_blocks: f64,
    chunk_threads: f64,
    /// Threads of a block: those of the lane with most.
    threads: f64,
    sms: f64,
    latency_us: f64,
    /// What follows products of warpgroups beyond the products themselves, that of all.
    after_us: f64,
    blocks: usize,
}

impl Sum {
    /// Adds a subkernel. `staged`: some subkernel computes activations on their way in; `read`: the
    /// values that another one has read before.
    pub fn add(&mut self, device: &Device, work: &Work, staged: bool, read: &mut BTreeSet<u32>) {
        let fitted = &device.fitted;
        let flops_us = |flops: f64| flops / device.fp32_tflops.value / 1e6;
        let slots_us = |slots: f64| flops_us(2.0 * slots);
        let (bytes, l2_bytes) = traffic(device, work, read);
        let streamed = work.columns.as_ref().is_some_and(|c| c.streamed);
        let reached = match streamed {
            true => &fitted.stream_efficiency,
            false => &fitted.memory_efficiency,
        };
        let memory_tbs = device.memory_tbs.value * reached.value;
        self.memory_us += bytes / memory_tbs / 1e6 + l2_bytes / device.l2_tbs.value / 1e6;
        self.tensor_us += tensor_us(device, work.chunk_flops, Storage::Bf16);
        self.flops_us += flops_us(work.flops + fitted.attend_slots.value * work.attend_flops);
        let mut simt_flops = work.flops + work.attend_flops;
        let mut tensor_flops = work.chunk_flops;
        if let Some(tiles) = &work.tiles {
            let between_us = work.blocks as f64 * fitted.tile_us.value / device.sms.value;
            let whole = tiles.whole_flops / efficiency(device, tiles, staged);
            match tiles.tensor_cores {
                // What comes between tiles is part of the rate.
                Some(storage) if tiles.warpgroups => {
                    let flops = tiles.flops / fitted.warpgroup_rate.value;
                    let products_us = tensor_us(device, flops, storage);
                    self.tensor_us += products_us;
                    // Warpgroups take turns: one multiplies while the other is at its epilogue, and where that
                    // takes longer than products all of them are.
                    let after_us = after_us(device, tiles) / CONSUMERS as f64;
                    self.after_us += (after_us - products_us).max(0.0);
                    tensor_flops += tiles.flops;
                }
                Some(storage) => {
                    self.tensor_us += tensor_us(device, whole, storage) + between_us;
                    tensor_flops += tiles.flops;
                }
                None => {
                    self.flops_us += flops_us(whole) + between_us;
                    simt_flops += tiles.flops;
                }
            }
        }
        if let Some(attention) = &work.attention {
            let whole = attention.whole_flops / fitted.attend_efficiency.value;
            self.tensor_us += tensor_us(device, whole, attention.tensor_cores);
            tensor_flops += attention.flops;
        }
        if let Some(columns) = &work.columns {
            if !columns.streamed {
                self.flops_us += slots_us(column_slots(device, work, columns));
            }
            match columns.tensor_cores {
                Some(storage) => {
                    self.tensor_us += tensor_us(device, columns.whole_flops, storage);
                    tensor_flops += columns.flops;
                }
                None => {
                    self.flops_us += flops_us(fitted.column_slots.value * columns.whole_flops);
                    simt_flops += columns.flops;
                }
            }
        }
        self.instructions_us += slots_us(fitted.instruction_slots.value * work.instructions);
        self.special_us += work.special
            / (device.sms.value * device.sfu_per_sm.value * device.clock_ghz.value * 1e3);
        let (steps, serial_us) = serial(device, work);
        match &work.serial {
            Serial::Chunks(chunks) => {
                self.chunks_us += serial_us;
                self.chunk_blocks += work.blocks as f64;
                let threads = chunks.resident * work.threads as f64;
                self.chunk_threads = match self.chunk_threads > 0.0 {
                    true => self.chunk_threads.min(threads),
                    false => threads,
                };
                self.longest_chunks_us = self.longest_chunks_us.max(serial_us);
            }
            Serial::Steps(_) => self.steps_us = self.steps_us.max(serial_us),
            _ => self.serial_us = self.serial_us.max(serial_us),
        }
        self.latency_us = self.latency_us.max(latency_us(device, work));
        self.blocks += work.blocks;
        self.threads = self.threads.max(work.threads as f64);
        self.counts.bytes += bytes;
        self.counts.l2_bytes += l2_bytes;
        self.counts.tensor_flops += tensor_flops;
        self.counts.simt_flops += simt_flops;
        self.sms = device.sms.value;
        self.counts.special += work.special;
        self.counts.serial_steps = self.counts.serial_steps.max(steps);
    }

    /// The times of all of them.
    pub fn parts(&self) -> Parts {
        Parts {
            simt_us: self.flops_us.max(self.instructions_us),
            instructions_us: 0.0,
            ..self.least()
        }
    }

    /// The times that add up: the larger of two sums is no sum of the larger parts, so operations and
    /// instructions are summed up each by itself.
    pub fn least(&self) -> Parts {
        Parts {
            memory_us: self.memory_us,
            tensor_us: self.tensor_us,
            simt_us: self.flops_us,
            instructions_us: self.instructions_us,
            special_us: self.special_us,
            // Steps beside chunks have the registers that chunks need, and few blocks for that: their times add up.
            serial_us: self.serial_us.max(self.steps_us + self.chunks_us()),
            latency_us: self.latency_us + self.after_us,
            blocks: self.blocks,
        }
    }

    /// The time of recurrences in chunks: those of several subkernels run beside each other if there is
    /// room for all of their blocks, else one after the other.
    fn chunks_us(&self) -> f64 {
        let resident = (self.chunk_threads / self.threads.max(1.0))
            .floor()
            .max(1.0);
        match self.chunk_blocks > self.sms * resident {
            true => self.chunks_us,
            false => self.longest_chunks_us,
        }
    }
}

/// Bytes that go through device memory, and bytes found in L2.
fn traffic(device: &Device, work: &Work, read: &mut BTreeSet<u32>) -> (f64, f64) {
    let fitted = &device.fitted;
    let room = device.l2_mb.value * 1e6 * fitted.l2_share.value;
    let mut bytes = work.moved_bytes;
    let mut l2_bytes = work.seen_bytes + fitted.row_parameters.value * work.parameter_bytes;
    for Read {
        value,
        bytes: once,
        of_rows,
        again,
    } in &work.reads
    {
        let is_warm = !read.insert(*value) || of_rows.is_some_and(|whole| whole <= room);
        match is_warm {
            true => l2_bytes += once,
            false => bytes += once,
        }
        l2_bytes += again;
    }
    (bytes, l2_bytes)
}

fn tensor_us(device: &Device, flops: f64, storage: Storage) -> f64 {
    let rate = device.tensor_rate(storage);
    rate.map_or(0.0, |rate| flops / rate / 1e6)
}

/// The part of the rate that tiles reach.
fn efficiency(device: &Device, tiles: &Tiles, staged: bool) -> f64 {
    let fitted = &device.fitted;
    if tiles.tensor_cores.is_none() {
        return fitted.fp32_efficiency.value;
    }
    let mut part = 1.0;
    for (slows, figure) in [
        (tiles.joined, &fitted.pair_efficiency),
        (staged, &fitted.staged_efficiency),
        (!tiles.large, &fitted.small_efficiency),
    ] {
        if slows {
            part *= figure.value;
        }
    }
    part
}

/// Steps that one block takes one after the other, and their time in microseconds.
fn serial(device: &Device, work: &Work) -> (f64, f64) {
    let fitted = &device.fitted;
    let exchanges_us = |n: f64| n * device.barrier_us.value;
    match &work.serial {
        Serial::Nothing => (0.0, 0.0),
        Serial::Exchanges(n) => (*n, exchanges_us(*n)),
        Serial::Rows {
            rows,
            exchanges,
            deep,
        } => {
            // The first row's time is latency; earlier rows that are held come with it.
            let registers = fitted.row_registers.value * if *deep { 2.0 } else { 1.0 };
            let (waves, _) = waves(device, work, registers);
            let first_us = if waves > 1.0 {
                fitted.trip_us.value
            } else {
                0.0
            };
            let rows_us = (rows - 1.0) * fitted.row_us.value + rows * exchanges_us(*exchanges);
            (*rows, waves * (first_us + rows_us))
        }
        Serial::Steps(steps) => serial_steps(device, work, steps),
        Serial::Chunks(chunks) => chunk_cycles::serial(device, work, chunks),
        Serial::Keys(keys) => serial_keys(device, keys),
    }
}

/// Tiles of keys of the block that walks longest: how fast all blocks together go is a matter of the
/// rates.
fn serial_keys(device: &Device, keys: &Keys) -> (f64, f64) {
    let fitted = &device.fitted;
    let cycles = fitted.attend_tile_cycles.value
        + keys.products * fitted.attend_product_cycles.value
        + keys.weights * fitted.attend_weight_cycles.value;
    (keys.tiles, keys.tiles * cycles_us(device, cycles))
}

/// The steps of recurrences.
fn serial_steps(device: &Device, work: &Work, steps: &Steps) -> (f64, f64) {
    let fitted = &device.fitted;
    let (waves, share) = waves(device, work, fitted.scan_registers.value);
    let cycles = fitted.step_cycles.value
        + fitted.step_exchange_cycles.value * steps.exchanges
        + fitted.step_sum_cycles.value * steps.sums;
    let of_recurrences = steps.recurrences.iter().map(|(longest, flops, special)| {
        let slots = match *longest > fitted.short_sum.value {
            true => &fitted.long_step_slots,
            false => &fitted.step_slots,
        };
        slots.value * (flops + fitted.special_slots.value * special)
    });
    let slots = steps.around + of_recurrences.sum::<f64>();
    // Warps that wait and warps that work overlap in part.
    let in_runs = cycles_us(device, cycles).hypot(slots * share * slot_us(device));
    if steps.steps <= 1.0 {
        // One token: straight code, whose blocks bring states in while others are at their step.
        return (1.0, in_runs);
    }
    let waiting_us = (waves - 1.0) * fitted.scan_wave_us.value;
    let all = steps.steps * waves;
    let us = if steps.run > 1.0 {
        let runs = match steps.surrounded {
            true => (steps.steps / steps.run).ceil(),
            false => 0.0,
        };
        all * in_runs + waves * runs * fitted.run_us.value
    } else {
        // A row that arrives alone. No less: what a kernel costs bounds what one with more in it does.
        let exchanges = steps.exchanges + steps.sums;
        let alone = device.step_us.value + exchanges * device.barrier_us.value;
        let alone = alone * (1.0 + fitted.scan_sharing.value * (share - 1.0));
        waves * (in_runs + (steps.steps - 1.0) * alone.max(in_runs + fitted.run_us.value))
    };
    (all, us + waiting_us)
}

/// Instruction slots of what all blocks of columns do beside their products.
fn column_slots(device: &Device, work: &Work, columns: &Columns) -> f64 {
    let fitted = &device.fitted;
    fitted.stage_slots.value * columns.staged
        + fitted.stage_operation_slots.value * columns.computed
        + fitted.column_block_slots.value * work.blocks as f64
}

/// Microseconds of what follows the matrix products of a subkernel in their blocks.
fn after_us(device: &Device, tiles: &Tiles) -> f64 {
    let slots = device.fitted.epilogue_slots.value * tiles.after_instructions;
    tiles.after_bytes / device.memory_tbs.value / 1e6 + slots * slot_us(device) / device.sms.value
}

/// Microseconds of the accesses that wait for each other, and of what follows matrix products in
/// their blocks, beside the bulk of the work.
fn latency_us(device: &Device, work: &Work) -> f64 {
    let fitted = &device.fitted;
    let in_turns = |tiles: &&Tiles| !tiles.warpgroups;
    let tiles = work.tiles.as_ref().filter(in_turns);
    let after_us = tiles.map_or(0.0, |tiles| after_us(device, tiles));
    // What one block brings to shared memory itself it does before its products: where there are few
    // blocks, that is longer than the share of all of it that a multiprocessor has.
    let before_us = work.columns.as_ref().map_or(0.0, |columns| {
        // All blocks of streams do that at once, each by all of its threads; the figures are of other blocks.
        if columns.streamed {
            let of_block = column_slots(device, work, columns) / work.blocks.max(1) as f64;
            return of_block * slot_us(device) * gemv::THREADS as f64 / work.threads.max(1) as f64;
        }
        let slots = fitted.stage_slots.value * columns.staged
            + fitted.stage_operation_slots.value * columns.computed;
        let all = slots * slot_us(device);
        let share = all / device.sms.value;
        let alone = (all / work.blocks.max(1) as f64 - share).max(0.0);
        // On tensor cores a block has much in flight, so few are beside each other: where each waits for
        // its rows, that part of the time moves no weights.
        match columns.tensor_cores {
            Some(_) => alone + share / thin::RESIDENT as f64,
            None => alone,
        }
    });
    work.trips * fitted.trip_us.value + after_us + before_us
}

/// How often the blocks fill the GPU, and how many share a multiprocessor: blocks that find no registers
/// free wait until others are done.
fn waves(device: &Device, work: &Work, registers: f64) -> (f64, f64) {
    let threads = work.threads.max(1);
    let by_registers = device.registers.value / (threads as f64 * registers);
    let by_threads = RESIDENT_THREADS / threads;
    let resident = by_registers.floor().min(by_threads as f64).max(1.0);
    let share = work.blocks as f64 / device.sms.value;
    let waves = (share / resident).ceil();
    (waves, share.ceil().clamp(1.0, resident))
}

/// The time of an instruction slot of one of the threads of a multiprocessor, microseconds.
fn slot_us(device: &Device) -> f64 {
    // The rate counts two operations to an instruction.
    2.0 * device.sms.value / device.fp32_tflops.value / 1e6
}

fn cycles_us(device: &Device, cycles: f64) -> f64 {
    cycles / (device.clock_ghz.value * 1e3)
}
