//! Addresses as numbers: from index variables to offsets.
//!
//! An operand is read at an offset that is affine in the index variables of the
//! reading statement. A statement runs over a [`Space`], whose elements are
//! numbered row-major. Never here: the text of an address.

use crate::plan::GridAxis;
use fusec_ir::{AxisId, Graph, IndexExpr};
use std::collections::BTreeMap;

/// The axes that a body spreads over blocks, and the size of every other axis.
#[derive(Clone, Debug)]
pub struct Grid<'g> {
    graph: &'g Graph,
    tiles: BTreeMap<AxisId, usize>,
    axes: Vec<GridAxis>,
}

/// An ordered list of axes whose extent inside a block is above 1; elements are numbered row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Outermost first.
    pub axes: Vec<AxisId>,
    /// Extent of each inside a block.
    pub extents: Vec<usize>,
}

/// `base + sum of coefficient * (local index of axis) + sum of coefficient * (first index of a grid axis)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Constant part.
    pub base: i64,
    /// Coefficients of local indices.
    pub local: BTreeMap<AxisId, i64>,
    /// Coefficients of the block's first index along grid axes.
    pub block: BTreeMap<AxisId, i64>,
}

impl<'g> Grid<'g> {
    /// A grid over the given axes.
    pub fn new(graph: &'g Graph, axes: &[GridAxis]) -> Self {
        let tiles = axes.iter().map(|g| (g.axis, g.tile)).collect();
        Grid {
            graph,
            tiles,
            axes: axes.to_vec(),
        }
    }

    /// The graph whose axes these are.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The grid axes, outermost first.
    pub fn axes(&self) -> &[GridAxis] {
        &self.axes
    }

    /// Elements of an axis inside one block.
    pub fn extent(&self, axis: AxisId) -> usize {
        self.tiles
            .get(&axis)
            .copied()
            .unwrap_or_else(|| self.graph.size(axis))
    }

    /// Whether the axis is spread over blocks.
    pub fn is_grid(&self, axis: AxisId) -> bool {
        self.tiles.contains_key(&axis)
    }

    /// Number of blocks along all grid axes.
    pub fn blocks(&self) -> usize {
        self.axes
            .iter()
            .map(|g| self.graph.size(g.axis) / g.tile)
            .product()
    }

    /// Elements of one entry along the first of some axes.
    pub fn elements_after_first(&self, axes: &[AxisId]) -> usize {
        self.graph.elements(axes.get(1..).unwrap_or(&[]))
    }

    /// The space over some axes, in their order.
    pub fn space(&self, axes: &[AxisId]) -> Space {
        let axes: Vec<AxisId> = axes
            .iter()
            .copied()
            .filter(|a| self.extent(*a) > 1)
            .collect();
        let extents = axes.iter().map(|a| self.extent(*a)).collect();
        Space { axes, extents }
    }

    /// Offset into memory laid out row-major over `storage` (full axes), read at `index`.
    pub fn global(&self, storage: &[AxisId], index: &[IndexExpr]) -> Offset {
        let mut stride = 1i64;
        let mut out = Offset {
            base: 0,
            local: BTreeMap::new(),
            block: BTreeMap::new(),
        };
        for (axis, expr) in storage.iter().zip(index).rev() {
            out.base += stride * expr.base;
            for (var, coefficient) in &expr.terms {
                if self.extent(*var) > 1 {
                    *out.local.entry(*var).or_default() += stride * coefficient;
                }
                if self.is_grid(*var) {
                    *out.block.entry(*var).or_default() += stride * coefficient;
                }
            }
            stride *= self.graph.size(*axis) as i64;
        }
        out
    }

    /// Offset into a block-local copy laid out as `storage`, read at `index` (one per axis of
    /// `value_axes`, the value's own axes). Grid axes are read at the reader's own tile.
    pub fn shared(&self, storage: &Space, value_axes: &[AxisId], index: &[IndexExpr]) -> Offset {
        let mut strides = BTreeMap::new();
        let mut stride = 1i64;
        for (axis, extent) in storage.axes.iter().zip(&storage.extents).rev() {
            strides.insert(*axis, stride);
            stride *= *extent as i64;
        }
        let mut out = Offset {
            base: 0,
            local: BTreeMap::new(),
            block: BTreeMap::new(),
        };
        for (axis, expr) in value_axes.iter().zip(index) {
            let Some(stride) = strides.get(axis) else {
                continue;
            };
            out.base += stride * expr.base;
            for (var, coefficient) in &expr.terms {
                if self.extent(*var) > 1 {
                    *out.local.entry(*var).or_default() += stride * coefficient;
                }
            }
        }
        out
    }
}

#[allow(clippy::len_without_is_empty, reason = "a space has an element")]
impl Space {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.extents.iter().product()
    }

    /// Its axes, whatever their order.
    pub fn axis_set(&self) -> Vec<AxisId> {
        let mut axes = self.axes.clone();
        axes.sort();
        axes
    }

    /// Extent of the innermost axis, 1 without axes.
    pub fn innermost(&self) -> usize {
        self.extents.last().copied().unwrap_or(1)
    }
}

impl Offset {
    /// Coefficient of the innermost axis of a space: the distance between neighbours.
    pub fn step(&self, space: &Space) -> i64 {
        space
            .axes
            .last()
            .and_then(|a| self.local.get(a))
            .copied()
            .unwrap_or(0)
    }

    /// Whether element number `e` of a space lies at offset `e`, in every block.
    pub fn is_row(&self, space: &Space) -> bool {
        self.base == 0 && self.block.values().all(|c| *c == 0) && self.runs_along(space)
    }

    /// Whether the elements of a space lie side by side, in its order.
    pub fn runs_along(&self, space: &Space) -> bool {
        let mut inner = 1;
        let mut axes = space.axes.iter().zip(&space.extents).rev();
        axes.all(|(axis, extent)| {
            let along = self.local.get(axis).copied().unwrap_or(0) == inner;
            inner *= *extent as i64;
            along
        })
    }

    /// Whether every block starts at a multiple of `v` elements.
    pub fn starts_at_multiples_of(&self, v: i64) -> bool {
        let mut starts = self.block.values().chain([&self.base]);
        starts.all(|c| c % v == 0)
    }

    /// Whether every part but the innermost step is a multiple of `v`, so that a vector of
    /// `v` elements that starts at a multiple of `v` is aligned. Blocks of `grid` start at
    /// multiples of their tile.
    pub fn aligned(&self, grid: &Grid, space: &Space, v: i64) -> bool {
        let last = space.axes.last();
        let starts_aligned = |(axis, c): (&AxisId, &i64)| c * grid.extent(*axis) as i64 % v == 0;
        self.base % v == 0
            && self.block.iter().all(starts_aligned)
            && self
                .local
                .iter()
                .all(|(a, c)| Some(a) == last || c % v == 0)
    }

    /// Whether elements of a space that are `distance` apart have the same local offset.
    pub fn repeats(&self, space: &Space, distance: usize) -> bool {
        let mut period = 1;
        space
            .axes
            .iter()
            .zip(&space.extents)
            .rev()
            .all(|(axis, extent)| {
                period *= extent;
                let fixed = self.local.get(axis).is_none_or(|c| *c == 0);
                fixed || distance.is_multiple_of(period)
            })
    }
}
