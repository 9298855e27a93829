//! What follows one after the other: rows that a block walks, and accesses to memory that wait for
//! each other.

use super::Lane;
use crate::context::{instructions, iteration_axes, reduced_axes, step_work};
use crate::schedule::Schedule;
use fusec_ir::{OpId, OpKind, RecurrenceId, StepKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Elements of a row that a thread has.
const ROW_PER_THREAD: usize = 8;
/// Threads that a multiprocessor holds.
const RESIDENT_THREADS: usize = 2048;

impl Lane<'_> {
    /// Steps one block takes one after the other, and their time in microseconds.
    pub(super) fn serial(&self) -> (f64, f64) {
        let device = self.ctx.device;
        let fitted = &device.fitted;
        let exchange_us = self.exchanges() * device.barrier_us.value;
        match &self.body.schedule {
            Schedule::Row(tile) => {
                // Rows before the first one of a block are walked as well; the first row's time is
                // latency.
                let halo = f64::from(self.body.roles.halo);
                let rows = self.rows() + halo;
                let resident = self.resident_rows(halo, tile.threads as usize);
                let waves = (self.blocks as f64 / (device.sms.value * resident)).ceil();
                let first_us = if waves > 1.0 {
                    fitted.trip_us.value
                } else {
                    0.0
                };
                let us = first_us + (rows - 1.0) * fitted.row_us.value + rows * exchange_us;
                (rows, waves * us)
            }
            Schedule::Scan(tile) => {
                let (waves, share) = self.waves(tile.threads as usize);
                let steps = self.ctx.shape.time as f64 * waves;
                let inner_us = self.inner_exchanges() * device.barrier_us.value;
                let latency_us = fitted.run_step.value * device.step_us.value
                    + fitted.run_exchange.value * exchange_us
                    + fitted.run_reduction.value * inner_us;
                // Warps that wait and warps that work overlap in part.
                let in_runs = latency_us.hypot(self.step_slots() * share * self.slot_us());
                let sharing = 1.0 + fitted.scan_sharing.value * (share - 1.0);
                let alone = (device.step_us.value + exchange_us + inner_us) * sharing;
                let step_us = match self.takes_runs(tile.run) {
                    true => in_runs,
                    // No less: what a kernel costs bounds what one with more in it does.
                    false => alone.max(in_runs),
                };
                (steps, steps * step_us)
            }
            Schedule::Chunked(_) => self.serial_chunks(),
            Schedule::Gemv(_) | Schedule::Thin(_) => {
                // Rows of a prologue follow each other, in every block; the first one's own time is latency.
                let rows = self.ctx.rows().div_ceil(self.row_tiles.max(1)) as f64;
                let (each_us, waves) = self.stage();
                (rows, waves * ((rows - 1.0) * each_us + rows * exchange_us))
            }
            Schedule::Gemm(_) | Schedule::Attend(_) => (0.0, 0.0),
        }
    }

    /// Microseconds of the accesses that wait for each other, beside the bulk of the work.
    pub(super) fn latency_us(&self) -> f64 {
        let fitted = &self.ctx.device.fitted;
        let trips = match self.body.schedule {
            Schedule::Row(_) => 1.0,
            // Rows and weights of a prologue come before those of the product.
            Schedule::Gemv(_) | Schedule::Thin(_) if self.body.roles.prologue.is_empty() => 1.0,
            Schedule::Gemv(_) | Schedule::Thin(_) => 2.0,
            // The state, the first row, the results.
            Schedule::Scan(_) | Schedule::Chunked(_) => 2.0,
            Schedule::Gemm(_) | Schedule::Attend(_) => 2.0,
        };
        trips * fitted.trip_us.value + self.epilogue_us()
    }

    /// Products of few rows: the time of a row of what is computed before them, and how often blocks
    /// that hold these rows fill the GPU.
    fn stage(&self) -> (f64, f64) {
        let (device, fitted) = (self.ctx.device, &self.ctx.device.fitted);
        let prologue = self.body.roles.prologue.iter();
        let Some(widest) = prologue.map(|id| self.elements(*id)).max() else {
            return (0.0, 1.0);
        };
        let threads = self.body.schedule.threads();
        let each = widest.div_ceil(threads) as f64;
        let bytes = self.body.schedule.staged_bytes(widest).max(1);
        let resident = (self.ctx.target.shared_bytes / bytes).clamp(1, RESIDENT_THREADS / threads);
        let waves = (self.blocks as f64 / (device.sms.value * resident as f64)).ceil();
        (
            fitted.trip_us.value + each * fitted.stage_element_us.value,
            waves,
        )
    }

    /// Matrix products: rows that the epilogue reads, and what it computes, when the tensor cores of
    /// its block are done.
    fn epilogue_us(&self) -> f64 {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        // Warpgroups take turns: one multiplies while the other is at its epilogue.
        if !matches!(self.body.schedule, Schedule::Gemm(_)) || self.by_warpgroups() {
            return 0.0;
        }
        let fitted = &ctx.device.fitted;
        let after = &self.body.roles.epilogue;
        let inputs = after.iter();
        let inputs = inputs.flat_map(|id| &graph.op(*id).inputs);
        let read: BTreeSet<ValueId> = inputs
            .map(|access| access.value)
            .filter(|v| graph.value(*v).rows && !self.produces(*v))
            .collect();
        let bytes: f64 = read.into_iter().map(|v| ctx.value_bytes(v)).sum();
        let slots = after.iter().map(|id| {
            let op = graph.op(*id);
            let elements = graph.elements(&iteration_axes(graph, op)) * ctx.rows();
            match &op.kind {
                OpKind::Map { expr } => (elements * instructions(expr)) as f64,
                _ => 0.0,
            }
        });
        let slots_us = slots.sum::<f64>() * self.slot_us() / ctx.device.sms.value;
        bytes / ctx.device.memory_tbs.value / 1e6 + fitted.epilogue_slots.value * slots_us
    }

    /// Blocks of rows that a multiprocessor holds: a thread has some elements of a row and, for a
    /// stencil, of earlier rows.
    fn resident_rows(&self, halo: f64, threads: usize) -> f64 {
        let registers = self.ctx.device.fitted.row_registers.value as usize;
        let registers = if halo > 1.0 { 2 * registers } else { registers };
        self.resident(threads, registers) as f64
    }

    /// Elements that one block goes through for an operation, in one row.
    fn elements(&self, id: OpId) -> usize {
        let axes = iteration_axes(self.ctx.graph, self.ctx.graph.op(id));
        axes.into_iter().map(|axis| self.extent(axis)).product()
    }

    /// Blocks that a multiprocessor holds at once.
    fn resident(&self, threads: usize, registers: usize) -> usize {
        let by_registers = self.ctx.device.registers.value as usize / (threads * registers);
        by_registers.min(RESIDENT_THREADS / threads).max(1)
    }

    /// Exchanges among all threads of a block, for one row: sums that do not wait for each other
    /// share one where rows follow each other.
    fn exchanges(&self) -> f64 {
        let graph = self.ctx.graph;
        let mut after: BTreeMap<OpId, usize> = BTreeMap::new();
        let mut all = 0;
        for id in &self.body.ops {
            let op = graph.op(*id);
            let product = matches!(op.kind, OpKind::Contract { .. } | OpKind::Attend { .. });
            let exchanging = !reduced_axes(op).is_empty() && !product;
            let makers = op.inputs.iter().filter_map(|a| graph.producer(a.value));
            let before = makers.filter_map(|p| after.get(&p)).max();
            let chain = before.copied().unwrap_or(0) + usize::from(exchanging);
            after.insert(*id, chain);
            all += usize::from(exchanging);
        }
        let chain = after.into_values().max().unwrap_or(0);
        match self.body.schedule {
            Schedule::Row(_) | Schedule::Scan(_) => chain as f64,
            _ => all as f64,
        }
    }

    /// Reductions inside a step that follow another one: a step as it was measured has one.
    fn inner_exchanges(&self) -> f64 {
        let graph = self.ctx.graph;
        let of = |id: &OpId| match &graph.op(*id).kind {
            OpKind::Scan { recurrence, .. } => step_work(graph, graph.recurrence(*recurrence)).2,
            _ => 0.0,
        };
        let most = self.body.anchors().iter().map(of).fold(0.0, f64::max);
        (most - 1.0).max(0.0)
    }

    /// Whether the rows of a scan come in runs. Rows that later rows need come one at a time.
    fn takes_runs(&self, run: u32) -> bool {
        let delayed = |id: &OpId| self.ctx.graph.op(*id).inputs.iter().any(|a| a.delay != 0);
        run > 1 && !self.body.ops.iter().any(delayed)
    }

    /// Instruction slots of one block for one row of a scan and of what surrounds it.
    fn step_slots(&self) -> f64 {
        let graph = self.ctx.graph;
        let fitted = &self.ctx.device.fitted;
        let of = |id: &OpId| {
            let op = graph.op(*id);
            if let OpKind::Scan { recurrence, .. } = &op.kind {
                let (flops, special, _) = step_work(graph, graph.recurrence(*recurrence));
                let slots = match self.longest_sum(*recurrence) {
                    n if n as f64 > fitted.short_sum.value => fitted.long_step_slots.value,
                    _ => fitted.step_slots.value,
                };
                return slots * (flops + fitted.special_slots.value * special)
                    / self.spread() as f64;
            }
            let per_element = match &op.kind {
                OpKind::Map { expr } | OpKind::Reduce { expr, .. } => instructions(expr) + 1,
                _ => ROW_PER_THREAD,
            };
            (self.elements(*id) * per_element) as f64
        };
        self.body.ops.iter().map(of).sum()
    }

    /// Most elements over which a step sums.
    fn longest_sum(&self, recurrence: RecurrenceId) -> usize {
        let steps = self.ctx.graph.recurrence(recurrence).ops.iter();
        let sums = steps.filter_map(|op| match &op.kind {
            StepKind::Reduce { axes, .. } => Some(axes.iter().map(|a| self.extent(*a)).product()),
            StepKind::Map => None,
        });
        sums.max().unwrap_or(1)
    }

    /// The time of an instruction slot of one of the threads of a multiprocessor, microseconds.
    fn slot_us(&self) -> f64 {
        let device = self.ctx.device;
        // The rate counts two operations to an instruction.
        2.0 * device.sms.value / device.fp32_tflops.value / 1e6
    }

    /// Blocks that share the work for one sequence.
    fn spread(&self) -> usize {
        self.blocks / self.ctx.shape.batch
    }

    /// How often the blocks of a scan fill the GPU, and how many share a multiprocessor: states live
    /// in registers, and blocks that find none free wait until others have walked all of T.
    fn waves(&self, threads: usize) -> (f64, f64) {
        let device = self.ctx.device;
        let resident = self.resident(threads, device.fitted.scan_registers.value as usize);
        let waves = (self.blocks as f64 / (device.sms.value * resident as f64)).ceil();
        let share = (self.blocks as f64 / device.sms.value)
            .ceil()
            .clamp(1.0, resident as f64);
        (waves, share)
    }

    /// Whether activations of a matrix product are computed on their way in.
    pub(super) fn is_staged(&self) -> bool {
        matches!(self.body.schedule, Schedule::Gemm(_)) && !self.body.roles.prologue.is_empty()
    }
}
