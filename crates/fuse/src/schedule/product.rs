//! Products as shapes: which axes of a body of contractions are columns, which are products of their
//! own, and how the matrices lie in memory.

use super::affine::{Grid, Offset, Space};
use crate::plan::GridAxis;
use fusec_ir::{AxisId, Graph, OpId, OpKind, Precision};
use serde::{Deserialize, Serialize};

/// How the weights of a product lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightLayout {
    /// `w[n * stride + k]`: one row per output column, as PyTorch's Linear has it.
    Nk,
    /// `w[k * stride + n]`: one row per input column.
    Kn,
}

/// What of a product decides how much a block of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductShape {
    /// Length of the sum.
    pub depth: usize,
    /// Layout of the weights.
    pub layout: WeightLayout,
    /// Whether the weights have the storage type.
    pub stored: bool,
    /// Whether rows of the weights start at multiples of [`ALIGNED`] elements.
    pub aligned: bool,
    /// Whether the activations lie in memory as rows of the storage type that start at such multiples:
    /// nothing computes them on their way.
    pub direct: bool,
    /// The earlier product of the body whose rows of activations are this one's too, if there is one.
    pub rows_of: Option<usize>,
}

/// Elements of a 16-byte access to 16-bit weights.
pub const ALIGNED: usize = 8;

/// The products of a body: contractions over the same rows and columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Products {
    /// Leading output axes that the activation also runs over: one product each.
    pub batch: Vec<AxisId>,
    /// The other output axes: the columns.
    pub columns: Vec<AxisId>,
    /// Number of columns.
    pub width: usize,
    /// Blocks for one tile of rows and columns: products of a batch.
    pub copies: usize,
    /// One per anchor.
    pub shapes: Vec<ProductShape>,
}

impl Products {
    /// The products of some contractions, of a body that computes `ops` (ascending); `None` where batch axes do not lead the result, or a
    /// matrix has rows that are not evenly spaced: no template takes these.
    pub fn of(graph: &Graph, anchors: &[OpId], ops: &[OpId]) -> Option<Products> {
        let first = graph.op(*anchors.first()?);
        let out = &graph.value(*first.outputs.first()?).axes;
        // Any contraction that runs over an output axis on the activation's side makes it a batch
        // axis for all of them.
        let in_activation = |axis: AxisId| {
            anchors.iter().any(|id| {
                let activation = graph.op(*id).inputs.first();
                activation.is_some_and(|a| {
                    let mut terms = a.index.iter().flat_map(|i| &i.terms);
                    terms.any(|(t, _)| *t == axis)
                })
            })
        };
        let leading = out.iter().take_while(|a| in_activation(**a)).count();
        if out[leading..].iter().any(|a| in_activation(*a)) {
            return None;
        }
        let (batch, columns) = out.split_at(leading);
        let grid = batch_grid(graph, batch);
        let space = grid.space(columns);
        let shape = |id: &OpId| {
            let depth = summed(graph, &grid, *id);
            let (offset, value) = weights(graph, &grid, *id)?;
            let (layout, stride) = weight_layout(&offset, &depth, &space)?;
            let stored = graph.value(value).precision == Precision::Storage;
            let starts = offset.starts_at_multiples_of(ALIGNED as i64);
            Some(ProductShape {
                depth: depth.len(),
                layout,
                stored,
                aligned: starts && stride.is_multiple_of(ALIGNED),
                direct: is_direct(graph, &grid, *id, ops, &depth),
                rows_of: anchors
                    .iter()
                    .take_while(|earlier| *earlier != id)
                    .position(|earlier| same_rows(graph, &grid, *earlier, *id)),
            })
        };
        Some(Products {
            batch: batch.to_vec(),
            columns: columns.to_vec(),
            width: space.len(),
            copies: graph.elements(batch),
            shapes: anchors.iter().map(shape).collect::<Option<_>>()?,
        })
    }

    /// Length of the longest sum.
    pub fn deepest(&self) -> usize {
        self.shapes.iter().map(|s| s.depth).max().unwrap_or(0)
    }
}

/// Whether two contractions read the same rows of activations, in the same order.
pub fn same_rows(graph: &Graph, grid: &Grid<'_>, a: OpId, b: OpId) -> bool {
    let rows = |id: OpId| graph.op(id).inputs.first();
    rows(a) == rows(b) && summed(graph, grid, a) == summed(graph, grid, b)
}

/// Whether the activation of a contraction comes from memory, row by row, as 16-byte accesses take it.
fn is_direct(graph: &Graph, grid: &Grid<'_>, id: OpId, ops: &[OpId], depth: &Space) -> bool {
    let Some(x) = graph.op(id).inputs.first() else {
        return false;
    };
    let value = graph.value(x.value);
    let computed = graph
        .producer(x.value)
        .is_some_and(|p| ops.binary_search(&p).is_ok());
    let offset = grid.global(&value.axes, &x.index);
    !computed
        && x.delay == 0
        && value.precision == Precision::Storage
        && graph.row_elements(x.value).is_multiple_of(ALIGNED)
        && offset.starts_at_multiples_of(ALIGNED as i64)
        && offset.runs_along(depth)
}

/// The grid of a body whose products of a batch have blocks of their own.
pub fn batch_grid<'g>(graph: &'g Graph, batch: &[AxisId]) -> Grid<'g> {
    let axes: Vec<GridAxis> = batch
        .iter()
        .map(|a| GridAxis { axis: *a, tile: 1 })
        .collect();
    Grid::new(graph, &axes)
}

/// The summed axes of a contraction, in the order in which its matrix stores them.
pub fn summed(graph: &Graph, grid: &Grid<'_>, id: OpId) -> Space {
    let op = graph.op(id);
    let axes = match &op.kind {
        OpKind::Contract { axes } => axes.as_slice(),
        _ => &[],
    };
    let mut order: Vec<AxisId> = Vec::new();
    let matrix = op.inputs.get(1).map_or(&[][..], |w| &w.index);
    let stored = matrix.iter().flat_map(|i| &i.terms).map(|(axis, _)| axis);
    for axis in stored.chain(axes) {
        if axes.contains(axis) && !order.contains(axis) {
            order.push(*axis);
        }
    }
    grid.space(&order)
}

/// Where the matrix of a contraction lies, and its value.
fn weights(graph: &Graph, grid: &Grid<'_>, id: OpId) -> Option<(Offset, fusec_ir::ValueId)> {
    let w = graph.op(id).inputs.get(1)?;
    let offset = grid.global(&graph.value(w.value).axes, &w.index);
    Some((offset, w.value))
}

/// How a matrix lies in memory with respect to the columns and the summed axes, and the elements from
/// one of its rows to the next.
pub fn weight_layout(
    offset: &Offset,
    depth: &Space,
    columns: &Space,
) -> Option<(WeightLayout, usize)> {
    let (n, k) = (stride_along(offset, columns)?, stride_along(offset, depth)?);
    match (n, k) {
        (n, 1) => usize::try_from(n).ok().map(|n| (WeightLayout::Nk, n)),
        (1, k) => usize::try_from(k).ok().map(|k| (WeightLayout::Kn, k)),
        _ => None,
    }
}

/// The one stride by which consecutive elements of a space follow each other; 1 for a single element.
pub fn stride_along(offset: &Offset, space: &Space) -> Option<i64> {
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
}
