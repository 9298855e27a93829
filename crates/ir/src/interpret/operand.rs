//! Binding an access to strides over the dimensions of an iteration space.

use super::program::Counter;
use super::view::View;
use crate::{Access, AxisId, Graph, IndexExpr};

/// A dimension of an iteration space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Dim {
    /// B
    Batch,
    /// T
    Time,
    /// An index variable.
    Axis(AxisId),
}

/// Dimensions and their sizes, outermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Space(pub Vec<(Dim, usize)>);

/// The offset of an operand's element as an affine function of the dimensions.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub base: isize,
    pub strides: Vec<(Dim, isize)>,
}

impl Space {
    /// `[B, T, axes...]`, or `[axes...]` where B and T are 1.
    pub fn rows(graph: &Graph, batch: usize, time: usize, axes: &[AxisId]) -> Self {
        let mut dims = vec![(Dim::Batch, batch), (Dim::Time, time)];
        dims.extend(axes.iter().map(|a| (Dim::Axis(*a), graph.size(*a))));
        Space(dims)
    }

    /// Over axes only.
    pub fn axes(graph: &Graph, axes: &[AxisId]) -> Self {
        Space(
            axes.iter()
                .map(|a| (Dim::Axis(*a), graph.size(*a)))
                .collect(),
        )
    }

    /// These dimensions, then those.
    pub fn then(&self, inner: &Space) -> Space {
        Space(self.0.iter().chain(&inner.0).copied().collect())
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.0.iter().map(|d| d.1).product()
    }

    /// The view of an operand over this space.
    pub fn view(&self, affine: &Affine) -> View {
        View::new(
            affine.base,
            self.0
                .iter()
                .map(|(dim, size)| (*size, affine.stride(*dim))),
        )
    }

    /// The view whose offsets are the values of a counter; `position` is that of t = 0 and
    /// `first` the index that an axis starts at.
    pub fn counter(&self, counter: Counter, position: i64, first: usize) -> View {
        let (base, dim) = match counter {
            Counter::Axis(axis) => (first as isize, Dim::Axis(axis)),
            Counter::Position => (position as isize, Dim::Time),
        };
        self.view(&Affine {
            base,
            strides: vec![(dim, 1)],
        })
    }
}

impl Affine {
    /// The strides of an operand stored `[B, T, axes...]` (or `[axes...]`) and read through `access`.
    pub fn of_access(graph: &Graph, access: &Access, time: usize) -> Self {
        let value = graph.value(access.value);
        let mut affine = Self::of_index(graph, &value.axes, &access.index);
        if value.rows {
            let stride = graph.elements(&value.axes) as isize;
            affine.strides.push((Dim::Batch, stride * time as isize));
            affine.strides.push((Dim::Time, stride));
        }
        affine
    }

    /// The strides inside one row stored `[axes...]` of the element at an index per axis.
    pub fn of_index(graph: &Graph, axes: &[AxisId], index: &[IndexExpr]) -> Self {
        let mut affine = Affine {
            base: 0,
            strides: Vec::new(),
        };
        let mut stride = 1;
        for (axis, index) in axes.iter().zip(index).rev() {
            affine.base += stride * index.base as isize;
            for (variable, coefficient) in &index.terms {
                affine.add(Dim::Axis(*variable), stride * *coefficient as isize);
            }
            stride *= graph.size(*axis) as isize;
        }
        affine
    }

    /// Row-major over a space.
    pub fn of_space(space: &Space) -> Self {
        let mut stride = 1;
        let mut strides = Vec::new();
        for (dim, size) in space.0.iter().rev() {
            strides.push((*dim, stride));
            stride *= *size as isize;
        }
        Affine { base: 0, strides }
    }

    fn add(&mut self, dim: Dim, stride: isize) {
        match self.strides.iter_mut().find(|s| s.0 == dim) {
            Some(at) => at.1 += stride,
            None => self.strides.push((dim, stride)),
        }
    }

    /// The stride along a dimension, 0 where the operand is constant.
    pub fn stride(&self, dim: Dim) -> isize {
        self.strides.iter().find(|s| s.0 == dim).map_or(0, |s| s.1)
    }
}
