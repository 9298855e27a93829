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
use crate::projection::{GemmTile, Product, Projection, ProjectionTile, Run, WgmmaTile};
use crate::text::Text;
use crate::wgmma;
use fusec_fuse::schedule::gemv::Stage;
use fusec_fuse::schedule::product::{Products, batch_grid, summed, weight_layout};
use fusec_fuse::schedule::wgmma::{Operands, operands};
use fusec_fuse::{Body, Kernel, Schedule, Storage};
use fusec_ir::{AxisId, Graph, OpId, ValueId};
use std::collections::BTreeMap;

mod element;
mod epilogue;
mod prologue;

/// Columns that a thread handles together after a product on tensor cores: 16 bytes of 16-bit
/// elements.
const RUN: usize = 8;

/// A lane of the Gemv or Gemm template; `tokens` is the length of every run that it is for, if that is one.
pub fn lane<'g>(
    graph: &'g Graph,
    storage: Storage,
    tokens: Option<usize>,
    kernel: &Kernel,
    body: &Body,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let unsupported = |what: &str| CodegenError::unsupported(kernel, what);
    if tokens != Some(1) && epilogue::is_of_single_steps(graph, body) {
        return Err(unsupported(
            "a stencil after a product, which is for single steps, in runs of several tokens",
        ));
    }
    let (tile, on_tensor_cores) = match &body.schedule {
        Schedule::Gemm(tile) => (ProjectionTile::Gemm(*tile), tile.on_tensor_cores()),
        Schedule::Gemv(tile) => (ProjectionTile::Gemv(*tile), false),
        Schedule::Stream(tile) => (ProjectionTile::Stream(*tile), false),
        Schedule::NonZero(tile) => (ProjectionTile::NonZero(*tile), false),
        Schedule::Thin(tile) => (ProjectionTile::Thin(*tile), false),
        _ => return Err(unsupported("the template of products for another body")),
    };
    if body.schedule.is_product_of_few_rows() && tile.threads() != kernel.launch.threads as usize {
        return Err(unsupported(
            "products of few rows in blocks of another size",
        ));
    }
    let axes = Products::of(graph, body.anchors(), &body.ops)
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
    let by_warpgroups = match &body.schedule {
        Schedule::Gemm(GemmTile::Wgmma(tile)) => {
            let elements = pointers.elements();
            let operands = operands(graph, elements, &axes, body.anchors(), tile.operand);
            let operands =
                operands.ok_or_else(|| unsupported("operands that no copy can bring"))?;
            Some((*tile, operands))
        }
        _ => None,
    };
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
        by_warpgroups: by_warpgroups.is_some(),
        run_operands: BTreeMap::new(),
    };
    let columns = lane.columns.len();
    let mut products = Vec::new();
    for (i, id) in body.anchors().iter().enumerate() {
        products.push(match &by_warpgroups {
            Some((tile, operands)) => lane.mapped_product(*id, *tile, operands.get(i))?,
            None => Product {
                rows_of: axes.shapes[i].rows_of,
                ..lane.product(*id)?
            },
        });
    }
    let run = match &by_warpgroups {
        Some(_) => wgmma::run(columns, axes.shapes.iter().map(|shape| shape.layout)),
        None if on_tensor_cores && columns.is_multiple_of(RUN) => RUN,
        None => 1,
    };
    if run > 1 {
        lane.run = Some(Run {
            columns: run,
            ..Run::default()
        });
    }
    let epilogue = lane.epilogue();
    let mut projection = Projection {
        products,
        columns,
        rows: "B * T".into(),
        block: "block".into(),
        early: kernel.launch.early,
        setup: String::new(),
        row_prologue: String::new(),
        epilogue,
        run: lane.run.take().unwrap_or_default(),
    };
    if let Some((tile, operands)) = by_warpgroups {
        lane.map_operands(tile, &operands, &mut projection);
        return Ok(lane.persistent(tile, projection));
    }
    // The prologues' own shared memory lies behind that of the products.
    let mut floats = tile.shared_bytes(&projection).div_ceil(4);
    let base = floats;
    if body.schedule.is_product_of_few_rows() {
        let mut still_read = false;
        for stage in Stage::of(graph, &axes.batch, body) {
            let (mut text, end, reading) = lane.stage(&stage, base, tile);
            // All of them use the same memory, one after the other.
            if std::mem::replace(&mut still_read, reading) {
                text.insert_str(0, "__syncthreads();\n");
            }
            let product = body.anchors().iter().position(|id| *id == stage.anchor);
            if let Some(product) = product.and_then(|i| projection.products.get_mut(i)) {
                product.stage = text;
            }
            floats = floats.max(end);
        }
    }
    let position = lane.position;
    let blocks = tile.column_tiles(&projection) * lane.grid.blocks();
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
        by_warpgroups: None,
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
    /// Whether the product is one of warpgroups.
    by_warpgroups: bool,
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
            rows_of: None,
            x_map: String::new(),
            w_map: String::new(),
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

    /// A product whose operands are mapped as tensors; the maps have no names yet.
    fn mapped_product(
        &mut self,
        id: OpId,
        tile: WgmmaTile,
        operands: Option<&Operands>,
    ) -> Result<Product, CodegenError> {
        let operands = operands.ok_or_else(|| self.unsupported("a product without operands"))?;
        let graph = self.graph;
        let depth = summed(graph, &self.grid, id);
        let w = &graph.op(id).inputs[1];
        let weights = self.grid.global(&graph.value(w.value).axes, &w.index);
        let (w_layout, _) = weight_layout(&weights, &depth, &self.columns)
            .ok_or_else(|| self.unsupported("a matrix whose rows are not evenly spaced"))?;
        let name = self.names.fresh(&graph.value(graph.op(id).outputs[0]).name);
        self.product_names.insert(id, name.clone());
        Ok(Product {
            name,
            depth: depth.len(),
            x: None,
            x_element: tile.operand,
            x_stride: operands.x.stride,
            x_offset: operands.x.offset,
            prologue: String::new(),
            stage: String::new(),
            w: String::new(),
            w_element: tile.operand,
            w_stride: operands.w.stride,
            w_offset: operands.w.offset,
            w_layout,
            rows_of: None,
            x_map: String::new(),
            w_map: String::new(),
        })
    }

    /// Declares the tensor maps of a projection's operands and names them in it.
    fn map_operands(
        &mut self,
        tile: WgmmaTile,
        operands: &[Operands],
        projection: &mut Projection,
    ) {
        let maps: Vec<(String, String)> = projection
            .products
            .iter()
            .zip(operands)
            .map(|(product, Operands { x, w })| {
                let (x_axes, w_axes) = (
                    wgmma::x_axes(tile, product),
                    wgmma::w_axes(tile, projection, product),
                );
                (
                    self.pointers.map(x.value, x.offset, x_axes, self.names),
                    self.pointers.map(w.value, w.offset, w_axes, self.names),
                )
            })
            .collect();
        for (product, (x_map, w_map)) in projection.products.iter_mut().zip(maps) {
            (product.x_map, product.w_map) = (x_map, w_map);
        }
    }

    /// The lane of a kernel whose blocks go from tile to tile of all its lanes.
    fn persistent(self, tile: WgmmaTile, projection: Projection) -> Lane {
        let whole = ProjectionTile::Gemm(GemmTile::Wgmma(tile));
        let (rows, across) = (whole.rows(), whole.column_tiles(&projection));
        Lane {
            code: String::new(),
            grid: LaneGrid {
                blocks: across as u64,
                rows: RowUnits::Tiles(rows as u32),
            },
            blocks: format!("((B * T + {}) / {rows}) * {across}", rows - 1),
            shared_floats: tile.shared_bytes().div_ceil(4),
            position: self.position,
            by_warpgroups: Some((tile, projection)),
        }
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
