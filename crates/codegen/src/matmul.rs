//! Lanes around contractions: what of a body becomes prologue, product and epilogue.
//!
//! The arithmetic of a product is in [`crate::projection`]; here operations of the
//! graph are turned into its operands and hooks.

use crate::CodegenError;
use crate::affine::{Grid, Offset, Space, index_text};
use crate::cexpr::{self, Leaves};
use crate::kernel::Lane;
use crate::layout::Layouts;
use crate::manifest::{Element, LaneGrid, RowUnits};
use crate::memory::{Place, Pointers, c_type};
use crate::micro;
use crate::names::Names;
use crate::projection::{
    GemvTile, MmaTile, Product, Projection, ProjectionTile, Run, SimtTile, WeightLayout,
};
use crate::text::Text;
use crate::walk::{self, Walk};
use fusec_fuse::{Body, GridAxis, Kernel, Shape, Storage, Template};
use fusec_ir::{Access, AxisId, Expr, Graph, IndexExpr, OpId, OpKind, StateId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What the tile sizes depend on, beside the body itself.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// Compute capability, times ten.
    pub arch: u32,
    /// The shape the plan is for.
    pub shape: Shape,
}

/// Warps of a matrix-vector block.
const GEMV_WARPS: usize = 8;
/// Most f32 of activations that a matrix-vector block stages: 128 KiB of shared memory, which
/// leaves room for the prologue's own.
const GEMV_STAGED_FLOATS: usize = 32 * 1024;
/// Columns that a thread handles together after a product on tensor cores: 16 bytes of 16-bit
/// elements.
const RUN: usize = 8;
/// Fewest blocks that keep a large GPU busy; narrower tiles are taken to reach it.
const GEMV_WANTED_BLOCKS: usize = 264;

/// Threads of a block of this body.
pub fn threads(graph: &Graph, target: Target, staged: bool, body: &Body) -> usize {
    match shape_of(graph, body) {
        Some(shape) => tile(target, staged, body, &shape).threads(),
        None => 32 * GEMV_WARPS,
    }
}

/// Index variables of a lane of contractions.
struct LaneAxes {
    /// Leading output axes that the activation also runs over: one product each.
    batch: Vec<AxisId>,
    /// The other output axes: the columns.
    columns: Vec<AxisId>,
    /// Elements of one row of the output.
    row: usize,
    /// Lengths of the sums of all products, added up.
    depths: usize,
}

fn shape_of(graph: &Graph, body: &Body) -> Option<LaneAxes> {
    let first = graph.op(*body.anchors.first()?);
    let out = &graph.value(*first.outputs.first()?).axes;
    // Any contraction of the lane that runs over an output axis on the activation's side makes
    // it a batch axis for all of them.
    let in_activation = |axis: AxisId| {
        body.anchors.iter().any(|id| {
            graph.op(*id).inputs.first().is_some_and(|a| {
                a.index
                    .iter()
                    .flat_map(|i| &i.terms)
                    .any(|(t, _)| *t == axis)
            })
        })
    };
    let leading = out.iter().take_while(|a| in_activation(**a)).count();
    if out[leading..].iter().any(|a| in_activation(*a)) {
        return None;
    }
    Some(LaneAxes {
        batch: out[..leading].to_vec(),
        columns: out[leading..].to_vec(),
        row: graph.elements(out),
        depths: body.anchors.iter().map(|id| depth(graph, *id)).sum(),
    })
}

/// Length of a contraction's sum.
fn depth(graph: &Graph, id: OpId) -> usize {
    match &graph.op(id).kind {
        OpKind::Contract { axes } => graph.elements(axes),
        _ => 0,
    }
}

/// Whether some lane brings activations to its products through registers: they are computed, or
/// do not lie in memory as the tensor cores want them. All lanes of a kernel have equally many
/// threads, so this is a property of the kernel.
pub fn staged(graph: &Graph, bodies: &[&Body]) -> bool {
    let through_registers = |body: &Body, id: OpId| {
        graph.op(id).inputs.first().is_none_or(|a| {
            let computed = graph
                .producer(a.value)
                .is_some_and(|p| body.ops.binary_search(&p).is_ok());
            computed || a.delay != 0 || !graph.row_elements(a.value).is_multiple_of(8)
        })
    };
    bodies
        .iter()
        .filter(|body| body.template == Template::Gemm)
        .any(|body| body.anchors.iter().any(|id| through_registers(body, *id)))
}

fn tile(target: Target, staged: bool, body: &Body, axes: &LaneAxes) -> ProjectionTile {
    let rows = target.shape.batch.saturating_mul(target.shape.time);
    let columns = if axes.columns.is_empty() { 1 } else { axes.row };
    if body.template == Template::Gemv {
        let mut split = 1;
        while split < GEMV_WARPS && columns * split / GEMV_WARPS < GEMV_WANTED_BLOCKS {
            split *= 2;
        }
        let mut tile_rows = rows.next_power_of_two().clamp(1, 8);
        while tile_rows > 1 && tile_rows * axes.depths > GEMV_STAGED_FLOATS {
            tile_rows /= 2;
        }
        return ProjectionTile::Gemv(GemvTile {
            rows: tile_rows,
            columns: GEMV_WARPS / split,
            warps: GEMV_WARPS,
            split,
            unroll: 4,
        });
    }
    let large = rows >= 1024 && columns >= 512;
    let operand = match target.storage {
        Storage::F32 => None,
        _ if target.arch < 80 => None,
        storage => Some(Element::from(storage)),
    };
    match operand {
        None => {
            let size = if large { 128 } else { 64 };
            ProjectionTile::Simt(SimtTile {
                rows: size,
                columns: size,
            })
        }
        Some(operand) => {
            // Two accumulators of a wide tile would not fit the registers.
            let wide = large && body.anchors.len() == 1;
            ProjectionTile::Mma(MmaTile {
                rows: if large { 128 } else { 64 },
                columns: if wide { 128 } else { 64 },
                // Few warps with large tiles read each operand from shared memory the fewest times;
                // activations on their way through registers need more warps and short tiles.
                warps_m: 2,
                warps_n: if staged { 4 } else { 2 },
                depth: if staged { 32 } else { 64 },
                // Up to 108 KiB, two blocks at a time; 72 where a block gets less.
                stages: match target.arch {
                    80 | 87 | 90 | 100 => 3,
                    _ if staged => 3,
                    _ => 2,
                },
                operand,
            })
        }
    }
}

/// A lane of the Gemv or Gemm template.
pub fn lane<'g>(
    graph: &'g Graph,
    target: Target,
    staged: bool,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::Unsupported {
        kernel: kernel.name.clone(),
        what: what.to_string(),
    };
    let axes = shape_of(graph, body)
        .ok_or_else(|| unsupported("batch axes that do not lead the product's result"))?;
    let tile = tile(target, staged, body, &axes);
    let grid_axes: Vec<GridAxis> = axes
        .batch
        .iter()
        .map(|a| GridAxis { axis: *a, tile: 1 })
        .collect();
    let grid = Grid::new(graph, &grid_axes);
    let mut first_index = BTreeMap::new();
    let mut decode = Text::default();
    for axis in axes.batch.iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(*axis).to_lowercase()));
        let n = graph.size(*axis);
        decode.line(format!("const int {name} = (int)(block % {n});"));
        decode.line(format!("block /= {n};"));
        first_index.insert(*axis, name);
    }
    let mut lane = ProductLane {
        graph,
        body,
        grid,
        columns: Space {
            axes: axes
                .columns
                .iter()
                .copied()
                .filter(|a| graph.size(*a) > 1)
                .collect(),
            extents: axes
                .columns
                .iter()
                .map(|a| graph.size(*a))
                .filter(|n| *n > 1)
                .collect(),
        },
        first_index,
        pointers,
        names,
        position: false,
        written: BTreeSet::new(),
        kernel: &kernel.name,
        vector: 16 / target.storage.bytes(),
        product_names: BTreeMap::new(),
        run: None,
        run_operands: BTreeMap::new(),
    };
    let columns = lane.columns.len();
    let mut products = Vec::new();
    for id in &body.anchors {
        products.push(lane.product(*id)?);
    }
    if matches!(tile, ProjectionTile::Mma(_)) && columns.is_multiple_of(RUN) {
        lane.run = Some(Run {
            columns: RUN,
            ..Run::default()
        });
    }
    let epilogue = lane.epilogue();
    let mut projection = Projection {
        products,
        columns,
        rows: "B * T".into(),
        block: "block".into(),
        setup: String::new(),
        row_prologue: String::new(),
        epilogue,
        run: lane.run.take().unwrap_or_default(),
    };
    // The prologues' own shared memory lies behind that of the products.
    let mut floats = tile.shared_bytes(&projection).div_ceil(4);
    if body.template == Template::Gemv {
        let base = floats;
        for (i, id) in body.anchors.iter().enumerate() {
            if let Some((stage, end)) = lane.stage(*id, base, tile.rows())? {
                projection.products[i].stage = stage;
                floats = floats.max(end);
            }
        }
    }
    let position = lane.position;
    let blocks = tile.column_tiles(columns) * lane.grid.blocks();
    let mut code = decode.finish();
    code.push_str(&tile.render(&projection)?);
    let rows = tile.rows();
    Ok(Lane {
        code,
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: RowUnits::Tiles(rows as u32),
        },
        blocks: format!("((B * T + {}) / {rows}) * {blocks}", rows - 1),
        shared_floats: floats,
        position,
    })
}

struct ProductLane<'a, 'g> {
    graph: &'g Graph,
    body: &'a Body,
    grid: Grid<'g>,
    columns: Space,
    first_index: BTreeMap<AxisId, String>,
    pointers: &'a mut Pointers<'g>,
    names: &'a mut Names,
    position: bool,
    /// Side outputs and tails already written by an earlier product's prologue.
    written: BTreeSet<Written>,
    kernel: &'a str,
    vector: usize,
    /// Identifier of each contraction's result.
    product_names: BTreeMap<OpId, String>,
    /// Neighbouring columns that the epilogue handles together.
    run: Option<Run>,
    /// Operands that are loaded for a whole run: their registers by their address.
    run_operands: BTreeMap<String, String>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Written {
    Value(ValueId),
    Tail(StateId),
}

impl<'g> ProductLane<'_, 'g> {
    fn unsupported(&self, what: &str) -> CodegenError {
        CodegenError::Unsupported {
            kernel: self.kernel.to_string(),
            what: what.to_string(),
        }
    }

    fn in_body(&self, value: ValueId) -> Option<OpId> {
        self.graph
            .producer(value)
            .filter(|op| self.body.ops.contains(op))
    }

    fn first(&self, axis: AxisId) -> String {
        self.first_index
            .get(&axis)
            .cloned()
            .unwrap_or_else(|| "0".into())
    }

    /// The summed axes of a contraction, in the order in which its matrix stores them.
    fn depth_space(&self, id: OpId) -> Space {
        let op = self.graph.op(id);
        let OpKind::Contract { axes } = &op.kind else {
            return Space {
                axes: vec![],
                extents: vec![],
            };
        };
        let mut order: Vec<AxisId> = Vec::new();
        for (axis, _) in op.inputs[1].index.iter().flat_map(|i| &i.terms) {
            if axes.contains(axis) && !order.contains(axis) {
                order.push(*axis);
            }
        }
        order.extend(
            axes.iter()
                .copied()
                .filter(|a| !order.contains(a))
                .collect::<Vec<_>>(),
        );
        self.grid.space(&order)
    }

    fn product(&mut self, id: OpId) -> Result<Product, CodegenError> {
        let graph = self.graph;
        let op = graph.op(id);
        let depth = self.depth_space(id);
        let (x, w) = (&op.inputs[0], &op.inputs[1]);
        let w_value = graph.value(w.value);
        let w_offset = self.grid.global(&w_value.axes, &w.index);
        let (w_layout, w_stride) = weight_layout(&w_offset, &depth, &self.columns)
            .ok_or_else(|| self.unsupported("a matrix whose rows are not evenly spaced"))?;
        let w_pointer = self.pointers.read(Place::Value(w.value), self.names);
        let w_element = self.pointers.element(Place::Value(w.value));
        let name = self.names.fresh(&graph.value(op.outputs[0]).name);
        self.product_names.insert(id, name.clone());
        let mut product = Product {
            name,
            depth: depth.len(),
            x: None,
            x_element: Element::F32,
            x_stride: 0,
            x_offset: 0,
            prologue: String::new(),
            stage: String::new(),
            w: self.based(&w_pointer, &w_offset),
            w_element,
            w_stride,
            w_offset: alignment(&w_offset),
            w_layout,
        };
        match self.in_body(x.value) {
            Some(_) if self.body.template == Template::Gemm => {
                product.prologue = self.map_prologue(x, &depth);
            }
            // The stage fills the rows.
            Some(_) => {}
            None => self.external_rows(x, &depth, &mut product),
        }
        Ok(product)
    }

    /// `pointer + block part`, parenthesised if it is a sum.
    fn based(&self, pointer: &str, offset: &Offset) -> String {
        match offset.block_text(&|a| self.first(a)) {
            None => pointer.to_string(),
            Some(block) => format!("({pointer} + {block})"),
        }
    }

    /// An activation that lies in memory.
    fn external_rows(&mut self, x: &Access, depth: &Space, product: &mut Product) {
        let graph = self.graph;
        let value = graph.value(x.value);
        let offset = self.grid.global(&value.axes, &x.index);
        let pointer = self.pointers.read(Place::Value(x.value), self.names);
        let base = self.based(&pointer, &offset);
        let stride = graph.row_elements(x.value);
        let local = offset.local_text(depth, "k");
        if x.delay == 0 && (local.as_deref() == Some("k") || depth.len() == 1) {
            product.x = Some(base);
            product.x_element = self.pointers.element(Place::Value(x.value));
            product.x_stride = stride;
            product.x_offset = alignment(&offset);
            return;
        }
        let at = local.unwrap_or_else(|| "0".into());
        product.prologue = match x.tail {
            Some(tail) if x.delay > 0 => {
                let (delay, old) = (
                    x.delay,
                    self.pointers.read(Place::OldTail(tail), self.names),
                );
                let width = tail_width(graph, tail);
                // Rows before the first token lie in the tail, f32.
                let base_in_row = offset.block_text(&|a| self.first(a));
                let extra = base_in_row.map(|b| format!(" + {b}")).unwrap_or_default();
                format!(
                    "a = m % T < {delay} ? {old}[((m / T) * {width} + {width} - {delay} + m % T) * {stride}{extra} + {at}]\n    : to_f32({pointer}[(m - {delay}) * {stride}{extra} + {at}]);\n"
                )
            }
            _ => format!("a = to_f32(*({base} + m * {stride} + {at}));\n"),
        };
    }

    /// Gemm: the maps before the product, for element `(m, k)`.
    fn map_prologue(&mut self, x: &Access, depth: &Space) -> String {
        let graph = self.graph;
        let value = graph.value(x.value);
        let offset = self.grid.global(&value.axes, &x.index);
        let mut parts: Vec<String> = offset.block_text(&|a| self.first(a)).into_iter().collect();
        parts.extend(offset.local_text(depth, "k"));
        let e = if parts.is_empty() {
            "0".to_string()
        } else {
            parts.join(" + ")
        };
        let ops = self.ancestors(x.value);
        // The prologue's maps run over all axes of the activation, none of them spread over blocks.
        let plain = Grid::new(graph, &[]);
        let space = plain.space(&value.axes);
        let mut text = Text::default();
        let element = if e == "k" {
            "k".to_string()
        } else {
            let name = self.names.fresh("at_k");
            text.line(format!("const int {name} = {e};"));
            name
        };
        let mut known = BTreeMap::new();
        for id in ops {
            self.element_map(&plain, id, &space, &element, &mut known, &mut text);
        }
        if let Some(name) = known.get(&x.value) {
            text.line(format!("a = {name};"));
        }
        text.finish()
    }

    /// Ancestors of a value inside the body, ascending.
    fn ancestors(&self, value: ValueId) -> Vec<OpId> {
        let mut found = BTreeSet::new();
        let mut open: Vec<ValueId> = vec![value];
        while let Some(v) = open.pop() {
            if let Some(op) = self.in_body(v)
                && found.insert(op)
            {
                open.extend(self.graph.op(op).inputs.iter().map(|a| a.value));
            }
        }
        found.into_iter().collect()
    }

    /// One map at one element of row `m`: defines its result, remembers its name.
    fn element_map(
        &mut self,
        grid: &Grid<'g>,
        id: OpId,
        space: &Space,
        element: &str,
        known: &mut BTreeMap<ValueId, String>,
        text: &mut Text,
    ) {
        let op = self.graph.op(id);
        let OpKind::Map { expr } = &op.kind else {
            return;
        };
        let operands: Vec<String> = op
            .inputs
            .iter()
            .map(|a| match known.get(&a.value) {
                Some(name) => name.clone(),
                None => self.element_operand(grid, a, space, element),
            })
            .collect();
        expr.walk(&mut |e| self.position |= matches!(e, Expr::Position));
        let index = |axis: AxisId| {
            let local = index_text(space, axis, element);
            match self.first_index.get(&axis).filter(|_| grid.is_grid(axis)) {
                Some(first) if local == "0" => first.clone(),
                Some(first) => format!("{first} + {local}"),
                None => local,
            }
        };
        let value = cexpr::text(
            expr,
            &Leaves {
                input: &|i| operands.get(i).cloned().unwrap_or_default(),
                index: &index,
                position: "position + m % T",
            },
        );
        let name = self.names.fresh(&self.graph.value(op.outputs[0]).name);
        text.line(format!("const float {name} = {value};"));
        known.insert(op.outputs[0], name);
    }

    fn element_operand(
        &mut self,
        grid: &Grid<'g>,
        access: &Access,
        space: &Space,
        element: &str,
    ) -> String {
        let graph = self.graph;
        let value = graph.value(access.value);
        let place = Place::Value(access.value);
        let pointer = self.pointers.read(place, self.names);
        let offset = grid.global(&value.axes, &access.index);
        let element_type = c_type(self.pointers.element(place));
        if let Some(address) = self.run_address(grid, access.value, &pointer, &offset, space) {
            if let Some(name) = self.run_operands.get(&address) {
                return format!("{name}[v]");
            }
            let name = self.names.fresh(&format!("{}_in", value.name));
            if let Some(run) = &mut self.run {
                let n = run.columns;
                run.before.push_str(&format!(
                    "float {name}[{n}];\nload_vec<{element_type}, {n}>({address}, {name});\n"
                ));
            }
            self.run_operands.insert(address, name.clone());
            return format!("{name}[v]");
        }
        let mut parts = Vec::new();
        if value.rows {
            parts.push(match graph.row_elements(access.value) {
                1 => "m".to_string(),
                n => format!("m * {n}"),
            });
        }
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.extend(offset.local_text(space, element));
        let at = if parts.is_empty() {
            "0".to_string()
        } else {
            parts.join(" + ")
        };
        format!("to_f32({pointer}[{at}])")
    }

    /// Address of the first of a run of elements that lie side by side where columns do; `None`
    /// where they do not, or are not aligned, and outside of runs.
    fn run_address(
        &self,
        grid: &Grid<'g>,
        value: ValueId,
        pointer: &str,
        offset: &Offset,
        space: &Space,
    ) -> Option<String> {
        let run = self.run.as_ref()?.columns;
        let local = offset.local_text(space, "n_first")?;
        let row = match self.graph.value(value).rows {
            true => Some(self.graph.row_elements(value)),
            false => None,
        };
        let aligned = offset.aligned(grid, space, run as i64)
            && row.is_none_or(|row| row.is_multiple_of(run));
        if local != "n_first" || !aligned {
            return None;
        }
        let mut parts = vec![pointer.to_string()];
        parts.extend(row.map(|row| format!("m * {row}")));
        parts.extend(offset.block_text(&|a| self.first(a)));
        parts.push(local);
        Some(parts.join(" + "))
    }

    /// What happens to the results of the products, for element `(m, n)`.
    fn epilogue(&mut self) -> String {
        let graph = self.graph;
        let grid = self.grid.clone();
        let space = self.columns.clone();
        let mut text = Text::default();
        let mut known: BTreeMap<ValueId, String> = BTreeMap::new();
        let anchors: BTreeSet<OpId> = self.body.anchors.iter().copied().collect();
        let mut after: BTreeSet<OpId> = anchors.clone();
        for id in &self.body.anchors {
            let value = graph.op(*id).outputs[0];
            known.insert(
                value,
                self.product_names.get(id).cloned().unwrap_or_default(),
            );
        }
        let ops = self.body.ops.clone();
        for id in &ops {
            let reads_result = graph
                .op(*id)
                .inputs
                .iter()
                .any(|a| graph.producer(a.value).is_some_and(|p| after.contains(&p)));
            if !anchors.contains(id) && reads_result {
                after.insert(*id);
                self.element_map(&grid, *id, &space, "n", &mut known, &mut text);
            }
        }
        for id in &ops {
            for value in &graph.op(*id).outputs {
                if !after.contains(id) || !self.body.stores.contains(value) {
                    continue;
                }
                let Some(name) = known.get(value).cloned() else {
                    continue;
                };
                let axes = &graph.value(*value).axes;
                let index: Vec<IndexExpr> = axes.iter().map(|a| IndexExpr::axis(*a)).collect();
                let offset = grid.global(axes, &index);
                let pointer = self.pointers.write(Place::Value(*value), self.names);
                let element = c_type(self.pointers.element(Place::Value(*value)));
                if let Some(address) = self.run_address(&grid, *value, &pointer, &offset, &space)
                    && let Some(run) = &mut self.run
                {
                    let (n, all) = (run.columns, self.names.fresh(&format!("{name}_run")));
                    run.before.push_str(&format!("float {all}[{n}];\n"));
                    run.after
                        .push_str(&format!("store_vec<{element}, {n}>({address}, {all});\n"));
                    text.line(format!("{all}[v] = {name};"));
                    continue;
                }
                let mut parts = vec![match graph.row_elements(*value) {
                    1 => "m".to_string(),
                    n => format!("m * {n}"),
                }];
                parts.extend(offset.block_text(&|a| self.first(a)));
                parts.extend(offset.local_text(&space, "n"));
                text.line(format!(
                    "{pointer}[{}] = from_f32<{element}>({name});",
                    parts.join(" + ")
                ));
            }
        }
        text.finish()
    }

    /// Gemv: the row program before a product, run by the whole block for each row of the tile.
    /// Returns its text and the end of its shared memory.
    fn stage(
        &mut self,
        id: OpId,
        shared_base: usize,
        tile_rows: usize,
    ) -> Result<Option<(String, usize)>, CodegenError> {
        let graph = self.graph;
        let x = &graph.op(id).inputs[0];
        if self.in_body(x.value).is_none() {
            return Ok(None);
        }
        let ops = self.ancestors(x.value);
        let mut stores = Vec::new();
        let mut tails = Vec::new();
        for op in &ops {
            for value in &graph.op(*op).outputs {
                if self.body.stores.contains(value) && self.written.insert(Written::Value(*value)) {
                    stores.push(*value);
                }
            }
            for tail in &graph.op(*op).tails {
                if self.body.tails.contains(tail) && self.written.insert(Written::Tail(*tail)) {
                    tails.push(*tail);
                }
            }
        }
        let program = micro::lower(graph, &ops, &tails);
        self.position |= walk::uses_position(&program);
        // The prologue computes whole rows, whatever product of a batch the block is for.
        let plain = Grid::new(graph, &[]);
        let threads = 32 * GEMV_WARPS;
        let layouts = Layouts::new(&plain, &program, threads, self.vector);
        let value = graph.value(x.value);
        let depth = self.depth_space(id);
        let offset = self.grid.global(&value.axes, &x.index);
        let whole = offset.block_text(&|a| self.first(a)).is_none()
            && offset.local_text(&depth, "k").as_deref() == Some("k")
            && depth.len() == graph.row_elements(x.value);
        let mut base = shared_base.next_multiple_of(4);
        let row_buffer = (!whole).then(|| {
            let name = self.names.fresh(&format!("s_{}_row", value.name));
            let at = base;
            base += graph.row_elements(x.value).next_multiple_of(4);
            (name, at)
        });
        let target = match &row_buffer {
            None => format!("xs + tile_row * {}", depth.len()),
            Some((name, _)) => name.clone(),
        };
        let mut conditions = vec!["n0 == 0".to_string()];
        conditions.extend(self.first_index.values().map(|f| format!("{f} == 0")));
        let walk = Walk {
            grid: &plain,
            program: &program,
            layouts: &layouts,
            stores: &stores,
            sink: Some((x.value, target)),
            writer: Some(conditions.join(" && ")),
            first_index: BTreeMap::new(),
            halo: true,
            repeats: false,
            streams: &|_| false,
            shared_base: base,
        };
        let walked = walk::emit(&walk, self.pointers, self.names);
        let mut text = Text::default();
        if let Some((name, at)) = &row_buffer {
            text.line(format!("float* const {name} = smem + {at};"));
        }
        text.open(format!(
            "for (int tile_row = 0; tile_row < {tile_rows}; ++tile_row)"
        ));
        text.open("if (m0 + tile_row < rows)");
        text.line("const i64 b = (m0 + tile_row) / T;");
        text.line("const i64 t_begin = (m0 + tile_row) % T;");
        text.line("const i64 t_end = t_begin + 1;");
        text.lines(&walked.code);
        if let Some((name, _)) = &row_buffer {
            let mut parts = vec![name.clone()];
            parts.extend(offset.block_text(&|a| self.first(a)));
            parts.extend(offset.local_text(&depth, "k"));
            text.line("__syncthreads();");
            text.line(format!(
                "for (int k = tid; k < {0}; k += {threads}) xs[tile_row * {0} + k] = *({1});",
                depth.len(),
                parts.join(" + ")
            ));
            text.line("__syncthreads();");
        }
        text.close();
        text.open("else");
        text.line(format!(
            "for (int k = tid; k < {0}; k += {threads}) xs[tile_row * {0} + k] = 0.0f;",
            depth.len()
        ));
        text.close();
        text.close();
        Ok(Some((text.finish(), walked.shared_floats)))
    }
}

fn tail_width(graph: &Graph, tail: StateId) -> u32 {
    match graph.state(tail).kind {
        fusec_ir::StateKind::Tail { width, .. } => width,
        fusec_ir::StateKind::Scan { .. } => 0,
    }
}

/// The largest power of two, up to 16, that divides everything an offset adds but its steps.
fn alignment(offset: &Offset) -> usize {
    let mut divisor = 16i64;
    for c in offset.block.values().chain([&offset.base]) {
        while c % divisor != 0 {
            divisor /= 2;
        }
    }
    if divisor == 16 { 0 } else { divisor as usize }
}

/// How a matrix lies in memory with respect to the columns and the summed axes.
fn weight_layout(offset: &Offset, depth: &Space, columns: &Space) -> Option<(WeightLayout, usize)> {
    let along = |space: &Space| -> Option<i64> {
        // The one stride by which consecutive elements of the space follow each other.
        let mut stride = None;
        let mut inner = 1i64;
        for (axis, extent) in space.axes.iter().zip(&space.extents).rev() {
            let c = offset.local.get(axis).copied().unwrap_or(0);
            let s = *stride.get_or_insert(c);
            if c != s * inner {
                return None;
            }
            inner *= *extent as i64;
        }
        Some(stride.unwrap_or(1))
    };
    let (n, k) = (along(columns)?, along(depth)?);
    match (n, k) {
        (n, 1) => usize::try_from(n).ok().map(|n| (WeightLayout::Nk, n)),
        (1, k) => usize::try_from(k).ok().map(|k| (WeightLayout::Kn, k)),
        _ => None,
    }
}
