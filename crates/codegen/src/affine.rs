//! Addresses: from index variables to offsets, as numbers first and as C text last.
//!
//! An operand is read at an offset that is affine in the index variables of the
//! reading statement. A statement runs over a [`Space`], whose elements are
//! numbered row-major; [`Offset::text`] turns an element number back into the
//! offset with as few divisions as the strides allow.

use fusec_fuse::GridAxis;
use fusec_ir::{AxisId, Graph, IndexExpr};
use std::collections::BTreeMap;

/// The axes that a lane spreads over blocks, and the size of every other axis.
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

    /// The part of the offset that depends on the block only, as C text, if not zero.
    pub fn block_text(&self, first_index: &impl Fn(AxisId) -> String) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        for (axis, coefficient) in &self.block {
            match coefficient {
                0 => {}
                1 => parts.push(first_index(*axis)),
                c => parts.push(format!("{} * {c}", first_index(*axis))),
            }
        }
        if self.base != 0 {
            parts.push(self.base.to_string());
        }
        (!parts.is_empty()).then(|| parts.join(" + "))
    }

    /// The local part as C text, for element number `e` of `space`; `None` if it is zero.
    ///
    /// Neighbouring axes whose strides nest are merged, so that a contiguous operand is
    /// simply `e`.
    pub fn local_text(&self, space: &Space, e: &str) -> Option<String> {
        struct Group {
            coefficient: i64,
            extent: i64,
            inner: i64,
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut inner = 1i64;
        for (axis, extent) in space.axes.iter().zip(&space.extents).rev() {
            let coefficient = self.local.get(axis).copied().unwrap_or(0);
            let extent = *extent as i64;
            match groups.last_mut() {
                Some(g) if coefficient == g.coefficient * g.extent => g.extent *= extent,
                _ => groups.push(Group {
                    coefficient,
                    extent,
                    inner,
                }),
            }
            inner *= extent;
        }
        let total = inner;
        let mut parts: Vec<String> = Vec::new();
        for g in groups.iter().rev().filter(|g| g.coefficient != 0) {
            let outermost = g.inner * g.extent == total;
            let mut text = e.to_string();
            let mut compound = false;
            if g.inner != 1 {
                text = format!("{text} / {}", g.inner);
                compound = true;
            }
            if !outermost {
                text = if compound {
                    format!("({text}) % {}", g.extent)
                } else {
                    format!("{text} % {}", g.extent)
                };
                compound = true;
            }
            parts.push(match (g.coefficient, compound) {
                (1, false) => text,
                (1, true) => format!("({text})"),
                (c, false) => format!("{text} * {c}"),
                (c, true) => format!("({text}) * {c}"),
            });
        }
        (!parts.is_empty()).then(|| parts.join(" + "))
    }
}

/// The local index along `axis` of element `e` of a space, as C text.
pub fn index_text(space: &Space, axis: AxisId, e: &str) -> String {
    let unit = Offset {
        base: 0,
        local: BTreeMap::from([(axis, 1)]),
        block: BTreeMap::new(),
    };
    unit.local_text(space, e).unwrap_or_else(|| "0".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(extents: &[(u32, usize)]) -> Space {
        Space {
            axes: extents.iter().map(|(a, _)| AxisId(*a)).collect(),
            extents: extents.iter().map(|(_, n)| *n).collect(),
        }
    }

    fn offset(local: &[(u32, i64)]) -> Offset {
        Offset {
            base: 0,
            local: local.iter().map(|(a, c)| (AxisId(*a), *c)).collect(),
            block: BTreeMap::new(),
        }
    }

    #[test]
    fn text_uses_as_few_divisions_as_the_strides_allow() {
        let hn = space(&[(0, 4), (1, 64)]);
        let cases = [
            (offset(&[(0, 64), (1, 1)]), Some("e")),
            (
                offset(&[(0, 128), (1, 1)]),
                Some("(e / 64) * 128 + (e % 64)"),
            ),
            (offset(&[(0, 1), (1, 4)]), Some("(e / 64) + (e % 64) * 4")),
            (offset(&[(1, 1)]), Some("(e % 64)")),
            (offset(&[(0, 1)]), Some("(e / 64)")),
            (offset(&[]), None),
            (offset(&[(0, -64), (1, -1)]), Some("e * -1")),
        ];
        for (offset, expected) in cases {
            assert_eq!(offset.local_text(&hn, "e").as_deref(), expected);
        }
    }
}
