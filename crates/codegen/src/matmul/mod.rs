//! Lanes around contractions: what of a body becomes prologue, product and epilogue.
//!
//! The arithmetic of a product is in [`crate::projection`]; here operations of the
//! graph are turned into its operands and hooks.

use crate::CodegenError;
use crate::affine::{Grid, Offset, OffsetText, Space};
use crate::lane::Lane;
use crate::manifest::{Element, LaneGrid, RowUnits};
use crate::memory::{Place, Pointers};
use crate::names::Names;
use crate::projection::{Product, Projection, ProjectionTile, Run};
use crate::text::Text;
use fusec_fuse::schedule::gemv::Stage;
use fusec_fuse::schedule::product::{Products, batch_grid, summed, weight_layout};
use fusec_fuse::{Body, Kernel, Schedule, Storage};
use fusec_ir::{AxisId, Graph, OpId, ValueId};
use std::collections::BTreeMap;

mod element;
mod epilogue;
mod prologue;

/// Columns that a thread handles together after a product on tensor cores: 16 bytes of 16-bit
/// elements.
const RUN: usize = 8;

/// A lane of the Gemv or Gemm template.
pub fn lane<'g>(
    graph: &'g Graph,
    storage: Storage,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::Unsupported {
        kernel: kernel.name.clone(),
        what: what.to_string(),
    };
    let (tile, on_tensor_cores) = match &body.schedule {
        Schedule::Gemm(tile) => (ProjectionTile::Gemm(*tile), tile.on_tensor_cores()),
        Schedule::Gemv(tile) => (ProjectionTile::Gemv(*tile), false),
        Schedule::Thin(tile) => (ProjectionTile::Thin(*tile), false),
        _ => return Err(unsupported("the template of products for another body")),
    };
    let axes = Products::of(graph, body.anchors())
        .ok_or_else(|| unsupported("products that no template takes"))?;
    let grid = batch_grid(graph, &axes.batch);
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
        kernel: &kernel.name,
        storage,
        product_names: BTreeMap::new(),
        run: None,
        run_operands: BTreeMap::new(),
    };
    let columns = lane.columns.len();
    let mut products = Vec::new();
    for id in body.anchors() {
        products.push(lane.product(*id)?);
    }
    if on_tensor_cores && columns.is_multiple_of(RUN) {
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
    let base = floats;
    if !matches!(body.schedule, Schedule::Gemm(_)) {
        for stage in Stage::of(graph, &axes.batch, body) {
            let (text, end) = lane.stage(&stage, base, tile);
            let product = body.anchors().iter().position(|id| *id == stage.anchor);
            if let Some(product) = product.and_then(|i| projection.products.get_mut(i)) {
                product.stage = text;
            }
            floats = floats.max(end);
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
    kernel: &'a str,
    storage: Storage,
    /// Identifier of each contraction's result.
    product_names: BTreeMap<OpId, String>,
    /// Neighbouring columns that the epilogue handles together.
    run: Option<Run>,
    /// Operands that are loaded for a whole run: their registers by their address.
    run_operands: BTreeMap<String, String>,
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

    fn product(&mut self, id: OpId) -> Result<Product, CodegenError> {
        let graph = self.graph;
        let op = graph.op(id);
        let depth = summed(graph, &self.grid, id);
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
            Some(_) if matches!(self.body.schedule, Schedule::Gemm(_)) => {
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
