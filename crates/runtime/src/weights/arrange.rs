//! Load steps on a stored tensor, without copying as long as strides can say it.

use std::borrow::Cow;

use fusec_ir::LoadStep;

use crate::checkpoint::{StoredDtype, TensorView, row_major};

/// A rearranged tensor.
pub(super) struct Arranged<'a> {
    dtype: StoredDtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// First element, counted in elements.
    offset: usize,
    bytes: Cow<'a, [u8]>,
    /// Still the stored elements (not a copy), so that offset and strides say which ones are read.
    in_place: bool,
}

/// Which stored elements a parameter reads. Two equal footprints read the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Footprint {
    offset: usize,
    /// (extent, stride), largest stride first, without extents of 1: the order of dimensions does
    /// not change which elements are read.
    dims: Vec<(usize, usize)>,
}

impl Footprint {
    /// Number of elements read.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|&(extent, _)| extent).product()
    }
}

impl<'a> Arranged<'a> {
    /// The tensor as stored.
    pub fn new(view: TensorView<'a>) -> Self {
        Self {
            dtype: view.dtype,
            shape: view.shape.to_vec(),
            strides: view.strides.to_vec(),
            offset: 0,
            bytes: Cow::Borrowed(view.bytes),
            in_place: true,
        }
    }

    /// Extents after the steps so far.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements read, unless a step had to copy.
    pub fn footprint(&self) -> Option<Footprint> {
        let dims = self.shape.iter().copied().zip(self.strides.iter().copied());
        let mut dims: Vec<_> = dims.filter(|&(extent, _)| extent != 1).collect();
        dims.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
        self.in_place.then_some(Footprint {
            offset: self.offset,
            dims,
        })
    }

    /// Applies one step; on a refusal says why.
    pub fn apply(&mut self, step: &LoadStep) -> Result<(), String> {
        match *step {
            LoadStep::Slice { dim, start, end } => self.slice(dim, start, end),
            LoadStep::Transpose(a, b) => {
                let rank = self.shape.len();
                if a >= rank || b >= rank {
                    return Err(format!("cannot exchange dimensions {a} and {b} of {rank}"));
                }
                self.shape.swap(a, b);
                self.strides.swap(a, b);
                Ok(())
            }
            LoadStep::View(ref shape) => self.reshape(shape),
        }
    }

    fn slice(&mut self, dim: usize, start: usize, end: usize) -> Result<(), String> {
        match (self.shape.get_mut(dim), self.strides.get(dim)) {
            (Some(extent), Some(stride)) if start <= end && end <= *extent => {
                *extent = end - start;
                self.offset += start * stride;
                Ok(())
            }
            _ => Err(format!("cannot take {start}..{end} of dimension {dim}")),
        }
    }

    fn reshape(&mut self, shape: &[usize]) -> Result<(), String> {
        let have: usize = self.shape.iter().product();
        let strides = row_major(shape);
        let (Some(strides), true) = (
            strides,
            shape.iter().try_fold(1usize, |n, &e| n.checked_mul(e)) == Some(have),
        ) else {
            return Err(format!("cannot be viewed as {shape:?}"));
        };
        if !self.view()?.is_contiguous() {
            let values = self.to_f32()?;
            self.bytes = Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect());
            (self.dtype, self.offset, self.in_place) = (StoredDtype::F32, 0, false);
        }
        (self.shape, self.strides) = (shape.to_vec(), strides);
        Ok(())
    }

    /// The elements, row-major.
    pub fn to_f32(&self) -> Result<Vec<f32>, String> {
        self.view()?.to_f32()
    }

    fn view(&self) -> Result<TensorView<'_>, String> {
        // An empty slice may start at the very end of the data.
        let start = (self.offset * self.dtype.size()).min(self.bytes.len());
        let bytes = self.bytes.get(start..).ok_or("its data ends early")?;
        Ok(TensorView {
            dtype: self.dtype,
            shape: &self.shape,
            strides: &self.strides,
            bytes,
        })
    }
}
