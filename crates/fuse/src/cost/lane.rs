//! From a body to its work: what is read, computed and walked, by the operations and the schedule.
//!
//! Counts only: nothing here asks how fast a device is.

use super::work::{Attention, Columns, Keys, Read, Serial, Tiles, Work};
use crate::chunked::Parts;
use crate::chunked::linear::scaled_rows;
use crate::chunked::weighted::{self, Weighted};
use crate::context::{Context, instructions, iteration_axes, special_count, step_work};
use crate::plan::{Body, Storage};
use crate::schedule::attend::{AttendTile, MmaTile};
use crate::schedule::gemm::GemmTile;
use crate::schedule::product::Products;
use crate::schedule::{Pass, Schedule, blocks, stream, thin};
use fusec_ir::{Access, AxisId, Op, OpId, OpKind, StateId, StateKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Rows from which a tile of a matrix product counts as large.
pub(super) const LARGE: usize = 128;

/// A body with what follows from its schedule.
pub(super) struct Lane<'a> {
    pub ctx: &'a Context<'a>,
    pub body: &'a Body,
    pub blocks: usize,
    /// The products, of a template that has some.
    products: Option<Products>,
    /// Tiles of rows of a product, or all blocks.
    row_tiles: usize,
    /// How many blocks compute (and read) the same prologue elements.
    copies: f64,
    /// Of chunks with weighted rows: the rows that values are a multiple of.
    pub(super) value_rows: Option<ValueId>,
}

/// Accesses to memory that take as long as a block's list of what is not zero: it looks at its rows twice, with
/// exchanges between. On an H200 (2026-12-01) leaving out pays from 60 % zeros on for 8,192 x 2,048 elements and
/// from 20 % on for 16,384 x 4,096, as it does with this number.
const LISTING_TRIPS: f64 = 3.0;

impl<'a> Lane<'a> {
    pub fn new(ctx: &'a Context<'a>, body: &'a Body) -> Self {
        let blocks = blocks(ctx, body);
        let multiplies =
            body.schedule.is_product_of_few_rows() || matches!(body.schedule, Schedule::Gemm(_));
        let products = match multiplies {
            true => Products::of(ctx.graph, body.anchors(), &body.ops),
            false => None,
        };
        let row_tiles = match &body.schedule {
            Schedule::Gemv(tile) => ctx.rows().div_ceil(tile.rows),
            Schedule::Stream(tile) => ctx.rows().div_ceil(tile.rows),
            Schedule::NonZero(_) => ctx.rows(),
            Schedule::Thin(tile) => ctx.rows().div_ceil(tile.rows),
            Schedule::Gemm(tile) => ctx.rows().div_ceil(tile.rows()),
            _ => blocks,
        };
        // Products of a batch read, and compute, activations of their own.
        let across = blocks / row_tiles.max(1);
        let of_batch = products.as_ref().map_or(1, |p| p.copies.max(1));
        // The blocks of streams are as many as fill the device, whatever is in the kernel: what each of them
        // computes they compute at once, and that is latency.
        let copies = match &body.schedule {
            Schedule::Stream(_) | Schedule::NonZero(_) => 1,
            _ => (across / of_batch).max(1),
        };
        let value_rows = body.schedule.weighted().and_then(|_| {
            let scan = *body.anchors().first()?;
            let parts = Parts::of(ctx.graph, ctx.classes(), scan).ok()?;
            let rows = scaled_rows(ctx.graph, &parts, scan, &body.ops, ctx.storage)?;
            Some(rows.value)
        });
        Lane {
            ctx,
            body,
            blocks,
            products,
            row_tiles,
            copies: copies as f64,
            value_rows,
        }
    }

    /// The work of the body.
    pub fn work(&self) -> Work {
        if let Schedule::RowSum(tile) = &self.body.schedule {
            return self.sum_of_rows(tile);
        }
        let mut work = Work {
            blocks: self.blocks,
            threads: self.body.schedule.threads(),
            trips: self.trips(),
            serial: self.serial(),
            ..Work::default()
        };
        self.add_bytes(&mut work);
        self.add_operations(&mut work);
        self.add_products(&mut work);
        work
    }

    /// Accesses to memory that wait for each other.
    fn trips(&self) -> f64 {
        match self.body.schedule {
            Schedule::Row(_)
            | Schedule::LastRow(_)
            | Schedule::Scatter(_)
            | Schedule::RowSum(_) => 1.0,
            // Rows that were kept come through registers, and a tile of them after the other.
            Schedule::Attend(AttendTile::Mma(ref tile)) => 2.0 + self.kept_tiles(tile),
            // Which weights are read follows from the rows, which come first and are listed.
            Schedule::NonZero(_) if self.body.roles.prologue.is_empty() => 2.0 + LISTING_TRIPS,
            Schedule::NonZero(_) => 3.0 + LISTING_TRIPS,
            // Rows and weights of a prologue come before those of the product.
            Schedule::Gemv(_) | Schedule::Stream(_) | Schedule::Thin(_)
                if self.body.roles.prologue.is_empty() =>
            {
                1.0
            }
            // The state, put together from those of earlier segments, the first row, the results.
            Schedule::Scan(_) | Schedule::Chunked(_) if self.body.schedule.segments().is_some() => {
                3.0
            }
            // The state, the first row, the results.
            _ => 2.0,
        }
    }

    /// Whether warpgroups compute its products.
    fn by_warpgroups(&self) -> bool {
        matches!(&self.body.schedule, Schedule::Gemm(tile) if tile.by_warpgroups())
    }

    /// Whether an operation is before a product: several blocks compute it.
    fn repeats(&self, id: &OpId) -> bool {
        self.products.is_some() && self.body.roles.prologue.binary_search(id).is_ok()
    }

    /// Consecutive rows of a block.
    pub fn rows(&self) -> f64 {
        let rows = match &self.body.schedule {
            Schedule::Row(tile) => tile.rows,
            Schedule::Attend(tile) => tile.rows(),
            _ => 1,
        };
        f64::from(rows.max(1))
    }

    /// Elements of an axis that one block has.
    pub fn extent(&self, axis: AxisId) -> usize {
        let spread = self.body.schedule.grid().iter().find(|g| g.axis == axis);
        spread.map_or(self.ctx.graph.size(axis), |g| g.tile)
    }

    pub fn produces(&self, value: ValueId) -> bool {
        self.ctx
            .graph
            .producer(value)
            .is_some_and(|p| self.body.ops.binary_search(&p).is_ok())
    }

    /// Part of an operand's elements that one access touches.
    pub fn touched(&self, op: &Op, access: &Access) -> f64 {
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
        if matches!(op.kind, OpKind::LastRow) {
            part /= self.ctx.shape.time as f64;
        }
        if matches!(self.body.schedule, Schedule::NonZero(_))
            && matches!(op.kind, OpKind::Contract { .. })
            && !graph.value(access.value).rows
        {
            // Of the matrix, what meets no zero.
            part *= 1.0 - graph.zeros;
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
                    work.moved_bytes += self.state_bytes(tail);
                }
                if self.produces(access.value) || self.leaves(*id, access.value) {
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
                // Each run of rows reads what it sees again, and so does each block of another head.
                let runs = (ctx.shape.time as f64 / self.rows()).ceil();
                for access in [key, value] {
                    let bytes = graph.row_elements(access.value) * ctx.element_bytes(access.value);
                    let again = runs * self.heads_without(access) - 1.0;
                    work.seen_bytes += (bytes * ctx.shape.batch) as f64 * again * self.seen(op);
                }
            }
            if let (OpKind::Scan { states, .. }, false) = (&op.kind, self.weights()) {
                for (i, state) in states.iter().enumerate() {
                    self.add_state(*state, self.product_part(op, i), work);
                }
            }
        }
        for (value, (part, by_all)) in reads {
            let bytes = ctx.value_bytes(value) * part;
            let of_rows = graph.value(value).rows;
            let mut again = 0.0;
            if self.by_warpgroups() {
                // What tiles read again is part of the rate that was measured.
            } else if by_all {
                again = bytes * (self.copies - 1.0);
            } else if matches!(self.body.schedule, Schedule::Gemm(_)) && !of_rows {
                again = bytes * (self.row_tiles as f64 - 1.0);
            } else if matches!(self.body.schedule, Schedule::Row(_))
                && !of_rows
                && !looked_up.contains(&value)
            {
                let runs = (ctx.shape.time as f64 / self.rows()).ceil() * ctx.shape.batch as f64;
                // Vectors of parameters are f32 whatever the storage type.
                let bytes = 4.0 * graph.row_elements(value) as f64 * part;
                work.parameter_bytes += bytes * (runs - 1.0);
            }
            work.reads.push(Read {
                value: value.0,
                bytes,
                of_rows: of_rows.then(|| ctx.value_bytes(value)),
                again,
            });
        }
        self.add_weighted(work);
        for value in &self.body.stores {
            work.moved_bytes += ctx.value_bytes(*value);
        }
        for state in &self.body.tails {
            work.moved_bytes += self.state_bytes(*state);
        }
    }

    /// Whether it weights rows of chunks for the phase after it.
    pub(super) fn weights(&self) -> bool {
        self.body.schedule.weighted() == Some(Weighted::Makes)
    }

    /// Whether the other phase reads a value for an operation: with weighted rows, values belong to the walk, and all else
    /// before the recurrence to the phase before it.
    fn leaves(&self, id: OpId, value: ValueId) -> bool {
        let is_value = self.value_rows == Some(value);
        match self.body.schedule.weighted() {
            None => false,
            Some(Weighted::Makes) => is_value,
            Some(Weighted::Takes) => self.is_before(id) && !is_value,
        }
    }

    /// Whether an operation is the recurrence or before it.
    pub(super) fn is_before(&self, id: OpId) -> bool {
        self.body.roles.epilogue.binary_search(&id).is_err()
    }

    /// Weighted rows are written once, and read by each block of other value columns.
    fn add_weighted(&self, work: &mut Work) {
        let (Schedule::Chunked(chunk), Some(which)) =
            (&self.body.schedule, self.body.schedule.weighted())
        else {
            return;
        };
        let tokens = match which {
            Weighted::Makes => self.blocks,
            Weighted::Takes => self.blocks * self.chunked_rows().div_ceil(chunk.tile.chunk),
        };
        let of_one = weighted::bytes(chunk.tile.key, chunk.tile.reads > 0);
        let bytes = (tokens * of_one) as f64;
        match which {
            Weighted::Makes => work.moved_bytes += bytes,
            Weighted::Takes => work.seen_bytes += bytes,
        }
    }

    /// How large what state number `i` is multiplied by is, as a part of the state.
    fn product_part(&self, op: &Op, i: usize) -> f64 {
        let graph = self.ctx.graph;
        let OpKind::Scan { recurrence, .. } = &op.kind else {
            return 1.0;
        };
        let step = graph.recurrence(*recurrence);
        let found = self.ctx.classes().of(graph, *recurrence);
        let decay = found.and_then(|found| Some((found, found.states.get(i)?.met()?.0)));
        let (Some((found, decay)), Some(state)) = (decay, step.states.get(i)) else {
            return 1.0;
        };
        let axes = match found.statement(decay) {
            Some(statement) => &statement.axes,
            None => step.axes_of(decay),
        };
        graph.elements(axes) as f64 / graph.elements(&state.axes).max(1) as f64
    }

    /// A state that comes from memory and goes back there; and what segments hand to those after them, which is
    /// found in L2.
    fn add_state(&self, state: StateId, product: f64, work: &mut Work) {
        let bytes = self.state_bytes(state);
        match self.body.schedule.segments() {
            None => work.moved_bytes += 2.0 * bytes,
            Some(segments) => {
                work.moved_bytes += bytes;
                let handed = match segments.pass {
                    Pass::States => (segments.states(), segments.products()),
                    Pass::Results => segments.read(),
                };
                work.seen_bytes += bytes * (handed.0 as f64 + product * handed.1 as f64);
            }
        }
    }

    /// Heads on blocks of their own that have an operand in common.
    fn heads_without(&self, access: &Access) -> f64 {
        let indexed = |axis: AxisId| {
            let mut terms = access.index.iter().flat_map(|index| &index.terms);
            terms.any(|term| term.0 == axis)
        };
        let spread = self.body.schedule.grid().iter();
        let shared = spread.filter(|g| !indexed(g.axis));
        let heads: usize = shared
            .map(|g| self.ctx.graph.size(g.axis) / g.tile)
            .product();
        heads as f64
    }

    /// Rows that a row of attention sees on average: all that are kept when one token is added,
    /// else the earlier ones of a run that starts the sequence.
    fn seen(&self, op: &Op) -> f64 {
        match (&op.kind, self.ctx.shape.time) {
            (OpKind::Attend { window, .. }, 1) => f64::from(*window),
            (OpKind::Attend { window, .. }, time) => f64::from(*window).min(time as f64) / 2.0,
            _ => 0.0,
        }
    }

    /// Bytes of a state for the whole batch; a tail is no longer than the run it is read in.
    pub fn state_bytes(&self, state: StateId) -> f64 {
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

    /// How often the elements of an operation are computed, for all rows.
    fn times(&self, id: &OpId, halo: f64, uses: f64) -> f64 {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let op = graph.op(*id);
        let mut times = ctx.rows() as f64 * uses;
        match self.body.schedule {
            Schedule::Row(_) => times *= (self.rows() + halo) / self.rows(),
            Schedule::Scan(_) | Schedule::Chunked(_) if !matches!(op.kind, OpKind::Scan { .. }) => {
                let axes = iteration_axes(graph, op);
                let grid = self.body.schedule.grid().iter();
                let missing = grid.filter(|g| !axes.contains(&g.axis));
                let copies: usize = missing.map(|g| graph.size(g.axis) / g.tile).product();
                times *= copies as f64 * self.walked_part();
            }
            Schedule::Scan(_) | Schedule::Chunked(_) => times *= self.walked_part(),
            _ => {}
        }
        if self.repeats(id) {
            times *= self.copies;
        }
        times
    }

    /// The part of the rows that are walked: all but those of the last segment where only states are wanted.
    fn walked_part(&self) -> f64 {
        let segments = self.body.schedule.segments();
        segments.map_or(1.0, |segments| {
            segments.walked() as f64 / f64::from(segments.count)
        })
    }

    fn add_operations(&self, work: &mut Work) {
        let graph = self.ctx.graph;
        let halos = match self.body.schedule {
            Schedule::Row(_) => self.halos(),
            _ => BTreeMap::new(),
        };
        let uses = match self.body.schedule {
            Schedule::Chunked(_) => self.uses(),
            _ => BTreeMap::new(),
        };
        let taken = self.body.schedule.weighted() == Some(Weighted::Takes);
        let is_anchor = |id: &OpId| self.body.anchors().contains(id);
        for id in &self.body.ops {
            if taken && self.is_before(*id) && !is_anchor(id) {
                continue;
            }
            let op = graph.op(*id);
            let halo = halos.get(id).copied().unwrap_or(0.0);
            let times = self.times(id, halo, uses.get(id).copied().unwrap_or(1.0));
            let space = graph.elements(&iteration_axes(graph, op)) as f64 * times;
            match &op.kind {
                OpKind::Map { expr } => {
                    work.flops += space * expr.op_count().max(1) as f64;
                    work.instructions += space * instructions(expr).max(1) as f64;
                    work.special += space * special_count(expr) as f64;
                }
                OpKind::Reduce { expr, .. } => {
                    work.flops += space * (expr.op_count() + 1) as f64;
                    work.instructions += space * (instructions(expr) + 1) as f64;
                    work.special += space * special_count(expr) as f64;
                }
                OpKind::Norm {
                    axes, gain, bias, ..
                } => {
                    // Statistics (multiply, add), then scale, and gain and bias where given.
                    let per_element = 3.0 + f64::from(*gain) + f64::from(*bias);
                    work.flops += space * per_element;
                    work.special += space / graph.elements(axes).max(1) as f64;
                }
                OpKind::Scan { .. } if matches!(self.body.schedule, Schedule::Chunked(_)) => {
                    self.add_chunks(work);
                }
                OpKind::Scan { recurrence, .. } => {
                    let (flops, special, _) = step_work(graph, graph.recurrence(*recurrence));
                    work.flops += flops * times;
                    work.special += special * times;
                }
                OpKind::Attend { axes, .. } => {
                    // A product, an exponential and a sum for each pair of rows.
                    let heads = graph.elements(&graph.attention_heads(op)) as f64;
                    let results = op.outputs.first().map_or(0, |v| graph.row_elements(*v));
                    let pairs = times * self.seen(op);
                    let depth = graph.elements(axes) as f64;
                    let flops = 2.0 * pairs * (heads * depth + results as f64);
                    match &self.body.schedule {
                        Schedule::Attend(AttendTile::Mma(tile)) => {
                            self.add_attention(tile, flops, work);
                        }
                        _ => {
                            work.attend_flops += flops;
                            work.special += pairs * heads;
                        }
                    }
                }
                // See `add_products`.
                OpKind::Contract { .. }
                | OpKind::Gather
                | OpKind::LastRow
                | OpKind::CumSum { .. } => {}
                // An addition an element that is placed.
                OpKind::Scatter { .. } => {
                    work.flops += space;
                    work.instructions += space;
                }
                // See `sum_of_rows`.
                OpKind::ScatterRows => {}
                // Refused before anything is planned.
                OpKind::AttendBack { .. } => {}
            }
        }
    }

    /// Attention on tensor cores: whole tiles, for as many keys as some row of a block sees.
    fn add_attention(&self, tile: &MmaTile, flops: f64, work: &mut Work) {
        let (_, all) = self.walked(tile);
        let spread = tile.grid.iter();
        let heads: usize = spread
            .map(|g| self.ctx.graph.size(g.axis) / g.tile)
            .product();
        let tiles = (all * heads * self.ctx.shape.batch) as f64;
        let pairs = tiles * (tile.tile_rows() * tile.keys as usize) as f64;
        work.special += pairs;
        work.attention = Some(Attention {
            tensor_cores: self.ctx.storage,
            flops,
            whole_flops: 2.0 * pairs * (tile.key_size() + tile.value_size()) as f64,
        });
    }

    /// Rows that were kept from earlier runs, of those that attention sees: see [`Lane::seen`].
    fn kept(&self) -> (usize, u32) {
        let ops = self.body.ops.iter();
        let window = ops.filter_map(|id| match &self.ctx.graph.op(*id).kind {
            OpKind::Attend { window, .. } => Some(*window),
            _ => None,
        });
        let window = window.max().unwrap_or(1);
        match self.ctx.shape.time {
            1 => (window as usize - 1, window),
            _ => (0, window),
        }
    }

    /// Tiles of keys of the longest-walking block, and of all blocks of one head and sequence.
    fn walked(&self, tile: &MmaTile) -> (usize, usize) {
        let (past, window) = self.kept();
        tile.walked(self.ctx.shape.time, past, window)
    }

    /// Tiles of keys that a block reads from what earlier runs kept.
    fn kept_tiles(&self, tile: &MmaTile) -> f64 {
        self.kept().0.div_ceil(tile.keys.max(1) as usize) as f64
    }

    /// The products of the body.
    fn add_products(&self, work: &mut Work) {
        let Some(products) = &self.products else {
            return;
        };
        let (ctx, body) = (self.ctx, self.body);
        let depth: usize = products.shapes.iter().map(|s| s.depth).sum();
        let columns = products.width * products.copies;
        let flops = 2.0 * (ctx.rows() * columns) as f64 * depth as f64;
        // What lies in memory as tensor cores need it is not staged, nor are the same rows twice.
        let staged_depth = |on_tensor_cores: bool| {
            let shapes = products.shapes.iter();
            let staged = shapes
                .filter(|shape| !(on_tensor_cores && shape.direct) && shape.rows_of.is_none());
            staged.map(|shape| shape.depth).sum::<usize>() as f64
        };
        let of_columns = |rows: usize, tensor_cores: Option<Storage>, whole_flops| {
            let staged = (self.blocks * rows) as f64 * staged_depth(tensor_cores.is_some());
            Columns {
                tensor_cores,
                streamed: matches!(body.schedule, Schedule::Stream(_) | Schedule::NonZero(_)),
                flops,
                whole_flops,
                staged,
                computed: staged * body.roles.prologue.len() as f64,
            }
        };
        match &body.schedule {
            Schedule::Gemv(tile) => work.columns = Some(of_columns(tile.rows, None, flops)),
            Schedule::NonZero(_) => {
                let flops = flops * (1.0 - ctx.graph.zeros);
                work.columns = Some(of_columns(1, None, flops));
            }
            Schedule::Stream(tile) => {
                let cores = tile.operand.map(|_| ctx.storage);
                let rows = ctx.rows().next_multiple_of(match cores {
                    Some(_) => stream::FRAGMENT_ROWS,
                    None => 1,
                });
                let whole = flops * rows as f64 / ctx.rows() as f64;
                work.columns = Some(of_columns(tile.rows, cores, whole));
            }
            Schedule::Thin(tile) => {
                let rows = tile.rows.next_multiple_of(thin::FRAGMENT_ROWS);
                let of_block = 2.0 * (rows * tile.columns) as f64 * depth as f64;
                let whole = self.blocks as f64 * of_block;
                work.columns = Some(of_columns(tile.rows, Some(ctx.storage), whole));
            }
            Schedule::Gemm(tile) => {
                let of_tile =
                    2.0 * (tile.rows() * tile.columns(products.shapes.len())) as f64 * depth as f64;
                let (after_bytes, after_instructions) = self.after_products();
                work.tiles = Some(Tiles {
                    tensor_cores: match tile {
                        GemmTile::Mma(_) | GemmTile::Wgmma(_) => Some(ctx.storage),
                        GemmTile::Simt(_) => None,
                    },
                    flops,
                    whole_flops: self.blocks as f64 * of_tile,
                    large: tile.rows() >= LARGE,
                    warpgroups: tile.by_warpgroups(),
                    joined: products.shapes.len() > 1,
                    staged: !body.roles.prologue.is_empty(),
                    after_bytes,
                    after_instructions,
                });
            }
            _ => {}
        }
    }

    /// Bytes that the epilogue of matrix products reads, and its instructions: the products of its
    /// block are done by then.
    fn after_products(&self) -> (f64, f64) {
        let (ctx, graph) = (self.ctx, self.ctx.graph);
        let after = &self.body.roles.epilogue;
        let inputs = after.iter().flat_map(|id| &graph.op(*id).inputs);
        let read: BTreeSet<ValueId> = inputs
            .map(|access| access.value)
            .filter(|v| graph.value(*v).rows && !self.produces(*v))
            .collect();
        let bytes = read.into_iter().map(|v| ctx.value_bytes(v)).sum();
        let slots = after.iter().map(|id| {
            let op = graph.op(*id);
            let elements = graph.elements(&iteration_axes(graph, op)) as f64 * ctx.rows() as f64;
            match &op.kind {
                OpKind::Map { expr } => elements * instructions(expr) as f64,
                _ => 0.0,
            }
        });
        (bytes, slots.sum())
    }

    /// What a block does one after the other.
    fn serial(&self) -> Serial {
        let exchanges = self.exchanges();
        match &self.body.schedule {
            Schedule::Row(_) => Serial::Rows {
                rows: self.rows(),
                exchanges,
                deep: self.body.roles.halo > 1,
            },
            Schedule::Scan(tile) => Serial::Steps(self.steps(tile.run, exchanges)),
            Schedule::Chunked(chunk) => Serial::Chunks(self.chunks(chunk)),
            products if products.is_product_of_few_rows() && exchanges > 0.0 => {
                Serial::Exchanges(self.ctx.rows() as f64 * exchanges)
            }
            Schedule::Attend(AttendTile::Mma(tile)) => Serial::Keys(Keys {
                tiles: self.walked(tile).0 as f64,
                products: tile.products() as f64,
                weights: tile.weights() as f64,
            }),
            Schedule::Gemv(_)
            | Schedule::Stream(_)
            | Schedule::NonZero(_)
            | Schedule::Thin(_)
            | Schedule::Gemm(_)
            | Schedule::Attend(AttendTile::Simt(_))
            | Schedule::LastRow(_)
            | Schedule::RowSum(_)
            | Schedule::Scatter(_) => Serial::Nothing,
        }
    }
}
