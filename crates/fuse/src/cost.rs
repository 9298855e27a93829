//! The cost model: a roofline per kernel.
//!
//! `max(memory, tensor, simt, special, serial) + launch + latency + underfill`, of a kernel with
//! several phases the sum of what each costs, with one launch for all and a grid barrier between
//! two, with
//!
//! - bytes: operands once, results once, carried state read and written; an activation of at
//!   most half the L2 was just written by another kernel and is read at L2 speed, and so is
//!   whatever several blocks of one kernel read again;
//! - recomputed work: rows before the first one of a block (stencils), prologues that every
//!   block of a product computes for itself, scan prologues that lack a grid axis;
//! - products on tensor cores where the template and the storage type have them, else at the
//!   FP32 rate;
//! - chunks of a recurrence: the products of its pieces on tensor cores, decays outside of them, and
//!   the latency of a chunk, since each waits for the state of the one before;
//! - serial steps: the rows a block walks one after the other, each with the block-wide
//!   exchanges of its reductions, as often as the registers of the GPU make blocks wait for others;
//!   where the rows of a scan come in runs, the latency of a step and the instructions of the blocks
//!   that share a multiprocessor, which overlap in part;
//! - latency: the accesses to memory that wait for each other before and after the bulk of a kernel,
//!   and the rows that the epilogue of a matrix product reads and what it computes, which do not
//!   overlap with it;
//! - under-filled GPU: work shared by fewer blocks than there are multiprocessors.
//!
//! Every number that depends on the device, measured or fitted, stands in its file
//! ([`crate::device`]). Numbers that may stand in these modules count something: operations,
//! accesses that wait for each other, elements and threads of a template's layout.

mod chunks;
mod rank_one;
mod rows;
mod serial;

pub(crate) use rows::{least_row_us, row_terms};

use crate::context::{Context, instructions, iteration_axes, special_count, step_work};
use crate::plan::{Body, Cost, Phase, Storage};
use crate::schedule::{Schedule, blocks};
use fusec_ir::{Access, AxisId, OpId, OpKind, StateKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Predicts the time of the kernel made of `phases`, which run one after the other.
///
/// What a phase stores the next one reads as if another kernel had: a phase costs what a kernel of
/// its lanes does, less the launch.
pub fn cost(ctx: &Context<'_>, phases: &[Phase]) -> Cost {
    let phases = phases.iter().enumerate().map(|(i, phase)| {
        let (launch_us, barrier_us) = match i {
            0 => (ctx.launch_us, 0.0),
            _ => (0.0, ctx.device.grid_barrier_us.value),
        };
        side_by_side(ctx, &phase.lanes, launch_us, barrier_us)
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

/// The time of lanes that run side by side, after a launch or a barrier of the grid.
fn side_by_side(ctx: &Context<'_>, lanes: &[Body], launch_us: f64, barrier_us: f64) -> Cost {
    let mut work = Work::default();
    let mut serial_us: f64 = 0.0;
    let mut latency_us: f64 = 0.0;
    let mut blocks = 0;
    let all: Vec<Lane<'_>> = lanes.iter().map(|body| Lane::new(ctx, body)).collect();
    // All lanes of a kernel have equally many threads, so one that stages slows them all.
    work.staged = all.iter().any(Lane::is_staged);
    for lane in &all {
        lane.add_bytes(&mut work);
        lane.add_operations(&mut work);
        blocks += lane.blocks;
        let (steps, us) = lane.serial();
        work.serial_steps = work.serial_steps.max(steps);
        serial_us = serial_us.max(us);
        latency_us = latency_us.max(lane.latency_us());
    }
    let parts = parts(ctx, &work, serial_us, blocks);
    let bound = parts.bound();
    let slowed = parts.slowed(ctx);
    Cost {
        bytes: work.bytes,
        l2_bytes: work.l2_bytes,
        tensor_flops: work.tensor_flops + work.chunk_flops,
        simt_flops: work.simt_flops,
        special: work.special,
        serial_steps: work.serial_steps,
        memory_us: parts.memory_us,
        tensor_us: parts.tensor_us,
        simt_us: parts.simt_us,
        special_us: parts.special_us,
        serial_us: parts.serial_us,
        launch_us,
        barrier_us,
        latency_us,
        underfill_us: slowed - bound,
        total_us: slowed + launch_us + barrier_us + latency_us,
    }
}

/// The cheapest of some forms of one kernel, the first of equals, with its cost.
pub fn cheapest(ctx: &Context<'_>, forms: Vec<Vec<Phase>>) -> (Vec<Phase>, Cost) {
    let priced = forms.into_iter().map(|phases| {
        let cost = cost(ctx, &phases);
        (phases, cost)
    });
    priced
        .min_by(|(_, a), (_, b)| a.total_us.total_cmp(&b.total_us))
        .unwrap_or_default()
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
    fn bound(&self) -> f64 {
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
    pub fn slowdown(ctx: &Context<'_>, blocks: usize) -> Slowdown {
        let fitted = &ctx.device.fitted;
        let short = ctx.device.sms.value / blocks.max(1) as f64;
        Slowdown {
            memory: (short / fitted.memory_reach.value).max(1.0),
            tensor: (fitted.tensor_blocks.value * short).max(1.0),
            others: short.max(1.0),
        }
    }

    /// The time with too few blocks taken into account.
    pub fn slowed(&self, ctx: &Context<'_>) -> f64 {
        let slowdown = Parts::slowdown(ctx, self.blocks);
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

fn parts(ctx: &Context<'_>, work: &Work, serial_us: f64, blocks: usize) -> Parts {
    let device = ctx.device;
    let tensor_us = |flops: f64, storage| {
        let rate = device.tensor_rate(storage);
        rate.map_or(0.0, |rate| flops / rate / 1e6)
    };
    Parts {
        memory_us: work.bytes / device.memory_tbs.value / 1e6
            + work.l2_bytes / device.l2_tbs.value / 1e6,
        tensor_us: tensor_us(work.tensor_flops + work.tensor_waste, ctx.storage)
            + tensor_us(work.chunk_flops, Storage::Bf16),
        // The rate counts two operations to an instruction, which only a multiply-add is.
        simt_us: work.simt_flops.max(2.0 * work.instructions) / device.fp32_tflops.value / 1e6,
        instructions_us: 0.0,
        special_us: work.special
            / (device.sms.value * device.sfu_per_sm.value * device.clock_ghz.value * 1e3),
        serial_us,
        latency_us: 0.0,
        blocks,
    }
}

/// What a lane adds, at least, to every kernel that it is part of: whatever another lane may
/// have read before is taken as found in L2, and what another lane may compute as well as
/// stored by that one. `own` are the operations that no other lane can hold; `staged` says that
/// activations of another lane pass through registers.
pub(crate) fn lane_parts(ctx: &Context<'_>, body: &Body, own: &[OpId], staged: bool) -> Parts {
    let graph = ctx.graph;
    let is_own = |id: &OpId| own.binary_search(id).is_ok();
    let mut body = body.clone();
    let maker = |v: &ValueId| graph.producer(*v).is_some_and(|p| is_own(&p));
    body.stores.retain(maker);
    let kept: BTreeSet<_> = own.iter().flat_map(|id| &graph.op(*id).tails).collect();
    body.tails.retain(|s| kept.contains(s));
    let mut work = Work::default();
    let l2_is_faster = ctx.device.l2_tbs.value >= ctx.device.memory_tbs.value;
    for id in &body.ops {
        for access in &graph.op(*id).inputs {
            let others = ctx.readers(access.value).iter();
            let elsewhere = others
                .into_iter()
                .any(|r| body.ops.binary_search(r).is_err());
            if (elsewhere || !is_own(id)) && l2_is_faster {
                work.read.insert(access.value);
            }
        }
    }
    let lane = Lane::new(ctx, &body);
    work.staged = staged || lane.is_staged();
    lane.add_bytes(&mut work);
    lane.add_operations(&mut work);
    // The larger of two sums is no sum of the larger parts: each is summed up by itself.
    let instructions = std::mem::take(&mut work.instructions);
    let (_, serial_us) = lane.serial();
    Parts {
        latency_us: lane.latency_us(),
        instructions_us: 2.0 * instructions / ctx.device.fp32_tflops.value / 1e6,
        ..parts(ctx, &work, serial_us, lane.blocks)
    }
}

/// Whether a lane makes activations of products pass through registers, in all lanes of its kernel.
pub(crate) fn is_staged(ctx: &Context<'_>, body: &Body) -> bool {
    Lane::new(ctx, body).is_staged()
}

/// Sums over the lanes of a kernel.
#[derive(Default)]
struct Work {
    bytes: f64,
    l2_bytes: f64,
    tensor_flops: f64,
    /// What the tensor cores could do beside at the profile's rate; below zero where warpgroups exceed it.
    tensor_waste: f64,
    /// Whether activations pass through registers on their way to the tensor cores.
    staged: bool,
    simt_flops: f64,
    /// Instructions of maps and reductions.
    instructions: f64,
    special: f64,
    serial_steps: f64,
    /// Tensor-core work of chunked recurrences, which takes bf16 numbers at any storage type.
    chunk_flops: f64,
    /// Values already read by a lane: the next one finds them in L2.
    read: BTreeSet<ValueId>,
}

/// A body with what follows from its template.
struct Lane<'a> {
    ctx: &'a Context<'a>,
    body: &'a Body,
    blocks: usize,
    /// Tiles of rows of a product, or all blocks.
    row_tiles: usize,
    /// How many blocks compute (and read) the same prologue elements.
    prologue_copies: f64,
}

impl<'a> Lane<'a> {
    fn new(ctx: &'a Context<'a>, body: &'a Body) -> Self {
        let blocks = blocks(ctx, body);
        let row_tiles = match &body.schedule {
            Schedule::Gemv(tile) => ctx.rows().div_ceil(tile.rows),
            Schedule::Thin(tile) => ctx.rows().div_ceil(tile.rows),
            Schedule::Gemm(tile) => ctx.rows().div_ceil(tile.rows()),
            _ => blocks,
        };
        Lane {
            ctx,
            body,
            blocks,
            row_tiles,
            prologue_copies: (blocks / row_tiles.max(1)) as f64,
        }
    }

    /// Whether its products run on tensor cores.
    fn on_tensor_cores(&self) -> bool {
        match &self.body.schedule {
            Schedule::Gemm(tile) => tile.on_tensor_cores(),
            Schedule::Thin(_) => true,
            _ => false,
        }
    }

    /// Whether warpgroups compute its products.
    fn by_warpgroups(&self) -> bool {
        matches!(&self.body.schedule, Schedule::Gemm(tile) if tile.by_warpgroups())
    }

    /// Whether an operation is before a product: several blocks compute it.
    fn repeats(&self, id: &OpId) -> bool {
        let products = matches!(
            self.body.schedule,
            Schedule::Gemv(_) | Schedule::Thin(_) | Schedule::Gemm(_)
        );
        products && self.body.roles.prologue.binary_search(id).is_ok()
    }

    /// Consecutive rows of a block.
    fn rows(&self) -> f64 {
        let rows = match &self.body.schedule {
            Schedule::Row(tile) => tile.rows,
            Schedule::Attend(tile) => tile.rows,
            _ => 1,
        };
        f64::from(rows.max(1))
    }

    /// Elements of an axis that one block has.
    fn extent(&self, axis: AxisId) -> usize {
        let spread = self.body.schedule.grid().iter().find(|g| g.axis == axis);
        spread.map_or(self.ctx.graph.size(axis), |g| g.tile)
    }

    fn produces(&self, value: ValueId) -> bool {
        self.ctx
            .graph
            .producer(value)
            .is_some_and(|p| self.body.ops.binary_search(&p).is_ok())
    }

    /// Part of an operand's elements that one access touches.
    fn touched(&self, op: &fusec_ir::Op, access: &Access) -> f64 {
        let graph = self.ctx.graph;
        let axes = &graph.value(access.value).axes;
        let mut part = 1.0;
        for (axis, index) in axes.iter().zip(&access.index) {
            let reach: usize = index.terms.iter().map(|t| graph.size(t.0)).product();
            part *= reach.min(graph.size(*axis)) as f64 / graph.size(*axis) as f64;
        }
        if matches!(op.kind, OpKind::Gather) && !graph.value(access.value).rows {
            // One row of the table per token, not the same one for all.
            part *= self.ctx.rows() as f64;
        }
        part.min(1.0)
    }

    fn add_bytes(&self, work: &mut Work) {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let mut reads: BTreeMap<ValueId, (f64, bool)> = BTreeMap::new();
        let mut looked_up: BTreeSet<ValueId> = BTreeSet::new();
        for id in &self.body.ops {
            let op = graph.op(*id);
            for access in &op.inputs {
                if let Some(tail) = access.tail {
                    work.bytes += self.state_bytes(tail);
                }
                if self.produces(access.value) {
                    continue;
                }
                if matches!(op.kind, OpKind::Gather) {
                    looked_up.insert(access.value);
                }
                let by_all = self.repeats(id) || self.body.anchors().contains(id);
                let entry = reads.entry(access.value).or_insert((0.0, false));
                entry.0 = (entry.0 + self.touched(op, access)).min(1.0);
                // Each block reads all rows of the activation; parameters of a prologue it finds
                // where the other blocks of its multiprocessor left them.
                entry.1 |= by_all && graph.value(access.value).rows;
            }
            if let (OpKind::Attend { .. }, [_, key, value]) = (&op.kind, op.inputs.as_slice()) {
                // Each run of rows reads what it sees again.
                let rows = self.rows();
                let runs = (ctx.shape.time as f64 / rows).ceil() - 1.0;
                for access in [key, value] {
                    let bytes = graph.row_elements(access.value) * ctx.element_bytes(access.value);
                    work.l2_bytes += (bytes * ctx.shape.batch) as f64 * runs * self.seen(op);
                }
            }
            if let OpKind::Scan { states, .. } = &op.kind {
                for state in states {
                    work.bytes += 2.0 * self.state_bytes(*state);
                }
            }
        }
        let l2 = ctx.device.l2_mb.value * 1e6 * ctx.device.fitted.l2_share.value;
        for (value, (part, by_all)) in reads {
            let bytes = ctx.value_bytes(value) * part;
            let activation = graph.value(value).rows;
            let warm = !work.read.insert(value) || (activation && ctx.value_bytes(value) <= l2);
            if warm {
                work.l2_bytes += bytes;
            } else {
                work.bytes += bytes;
            }
            if self.by_warpgroups() {
                // What tiles read again is part of the rate that was measured.
            } else if by_all {
                work.l2_bytes += bytes * (self.prologue_copies - 1.0);
            } else if matches!(self.body.schedule, Schedule::Gemm(_)) && !activation {
                let again = self.row_tiles as f64 - 1.0;
                work.l2_bytes += bytes * again;
            } else if matches!(self.body.schedule, Schedule::Row(_))
                && !activation
                && !looked_up.contains(&value)
            {
                // Each run of rows reads its parameters again.
                let rows = self.rows();
                let runs = (ctx.shape.time as f64 / rows).ceil() * ctx.shape.batch as f64;
                // Vectors of parameters are f32 whatever the storage type.
                let bytes = 4.0 * graph.row_elements(value) as f64 * part;
                work.l2_bytes += bytes * (runs - 1.0) * ctx.device.fitted.row_parameters.value;
            }
        }
        for value in &self.body.stores {
            work.bytes += ctx.value_bytes(*value);
        }
        for state in &self.body.tails {
            work.bytes += self.state_bytes(*state);
        }
    }

    /// Rows that a row of attention sees on average: all that are kept when one token is added,
    /// else the earlier ones of a run that starts the sequence.
    fn seen(&self, op: &fusec_ir::Op) -> f64 {
        match (&op.kind, self.ctx.shape.time) {
            (OpKind::Attend { window, .. }, 1) => f64::from(*window),
            (OpKind::Attend { window, .. }, time) => f64::from(*window).min(time as f64) / 2.0,
            _ => 0.0,
        }
    }

    /// Bytes of a state for the whole batch; a tail is no longer than the run it is read in.
    fn state_bytes(&self, state: fusec_ir::StateId) -> f64 {
        let graph = self.ctx.graph;
        let rows = match graph.state(state).kind {
            StateKind::Scan { .. } => 1,
            StateKind::Tail { width, .. } => width as usize,
        };
        (rows * graph.elements(&graph.state(state).axes) * self.ctx.shape.batch * 4) as f64
    }

    /// Rows before the first one of a block for which each operation is computed as well.
    fn halos(&self) -> BTreeMap<OpId, f64> {
        let graph = self.ctx.graph;
        let mut halo: BTreeMap<OpId, f64> = BTreeMap::new();
        for id in self.body.ops.iter().rev() {
            let of_op = halo.get(id).copied().unwrap_or(0.0);
            for access in &graph.op(*id).inputs {
                if let Some(p) = graph.producer(access.value) {
                    let entry = halo.entry(p).or_insert(0.0);
                    *entry = entry.max(of_op + f64::from(access.delay.max(0)));
                }
            }
        }
        halo
    }

    fn add_operations(&self, work: &mut Work) {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let halos = if matches!(self.body.schedule, Schedule::Row(_)) {
            self.halos()
        } else {
            BTreeMap::new()
        };
        let uses = match self.body.schedule {
            Schedule::Chunked(_) => self.uses(),
            _ => BTreeMap::new(),
        };
        for id in &self.body.ops {
            let op = graph.op(*id);
            let axes = iteration_axes(graph, op);
            let mut times = ctx.rows() as f64;
            if let Some(halo) = halos.get(id) {
                let rows = self.rows();
                times *= (rows + halo) / rows;
            }
            if matches!(self.body.schedule, Schedule::Scan(_) | Schedule::Chunked(_)) {
                let missing = self
                    .body
                    .schedule
                    .grid()
                    .iter()
                    .filter(|g| !axes.contains(&g.axis));
                let copies: usize = missing.map(|g| graph.size(g.axis) / g.tile).product();
                if !matches!(op.kind, OpKind::Scan { .. }) {
                    times *= copies as f64;
                }
            }
            if let Some(uses) = uses.get(id) {
                times *= uses;
            }
            if self.repeats(id) {
                times *= self.prologue_copies;
            }
            let space = graph.elements(&axes) as f64 * times;
            match &op.kind {
                OpKind::Map { expr } => {
                    work.simt_flops += space * expr.op_count().max(1) as f64;
                    work.instructions += space * instructions(expr).max(1) as f64;
                    work.special += space * special_count(expr) as f64;
                }
                OpKind::Reduce { expr, .. } => {
                    work.simt_flops += space * (expr.op_count() + 1) as f64;
                    work.instructions += space * (instructions(expr) + 1) as f64;
                    work.special += space * special_count(expr) as f64;
                }
                OpKind::Norm {
                    axes, gain, bias, ..
                } => {
                    // Statistics (multiply, add), then scale, and gain and bias where given.
                    let per_element = 3.0 + f64::from(*gain) + f64::from(*bias);
                    work.simt_flops += space * per_element;
                    work.special += space / graph.elements(axes).max(1) as f64;
                }
                OpKind::Contract { .. } => {
                    let flops = 2.0 * space;
                    if self.on_tensor_cores() {
                        let fitted = &ctx.device.fitted;
                        let pair = match self.body.anchors().len() {
                            0 | 1 => 1.0,
                            _ => fitted.pair_efficiency.value,
                        };
                        let reached = match work.staged {
                            _ if self.by_warpgroups() => fitted.warpgroup_rate.value,
                            true => pair * fitted.staged_efficiency.value,
                            false => pair,
                        };
                        work.tensor_flops += flops;
                        work.tensor_waste += flops * (1.0 / reached - 1.0);
                    } else {
                        work.simt_flops += flops;
                    }
                }
                OpKind::Scan { .. } if matches!(self.body.schedule, Schedule::Chunked(_)) => {
                    self.add_chunks(work);
                }
                OpKind::Scan { recurrence, .. } => {
                    let (flops, special, _) = step_work(graph, graph.recurrence(*recurrence));
                    work.simt_flops += flops * times;
                    work.special += special * times;
                }
                OpKind::Attend { axes, .. } => {
                    // A product, an exponential and a sum for each pair of rows.
                    let heads = graph.elements(&graph.attention_heads(op)) as f64;
                    let results = op.outputs.first().map_or(0, |v| graph.row_elements(*v));
                    let pairs = times * self.seen(op);
                    let depth = graph.elements(axes) as f64;
                    work.simt_flops += 2.0 * pairs * (heads * depth + results as f64);
                    work.special += pairs * heads;
                }
                OpKind::Gather | OpKind::CumSum { .. } => {}
            }
        }
    }
}
