//! Lanes around contractions: what of a body becomes prologue, product and epilogue.
//!
//! The arithmetic of a product is in [`crate::projection`]; here operations of the
//! graph are turned into its operands and hooks.

use crate::CodegenError;
use crate::affine::{Grid, Offset, Space};
use crate::kernel::Lane;
use crate::manifest::{Element, LaneGrid, RowUnits};
use crate::memory::{Place, Pointers};
use crate::names::Names;
use crate::projection::{Product, Projection, ProjectionTile, Run, WeightLayout};
use crate::text::Text;
use fusec_fuse::{Body, GridAxis, Kernel, Shape, Storage, Template};
use fusec_ir::{AxisId, Graph, OpId, OpKind, StateId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

mod element;
mod epilogue;
mod prologue;
mod tile;

use tile::{RUN, shape_of, tile};
pub use tile::{staged, threads};

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
    let tile = tile(graph, target, staged, body, &axes);
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
            x_map: String::new(),
            w_map: String::new(),
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
