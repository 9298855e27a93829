//! Affine views: where the elements of an iteration space lie in a buffer.
//!
//! An [`crate::Access`] is affine in index variables and a row-major buffer is
//! affine in its indices, so the offset of an operand's element is
//! `base + sum of stride * variable`. Slices, broadcasts, reversed and renamed
//! axes are nothing but strides. A view lists the variables outermost first;
//! its elements are numbered in that order.

use super::real::Real;

/// Most index variables of one operation, B and T included.
pub(super) const MAX_VARIABLES: usize = 24;

/// A strided view with neighbouring dimensions merged where they are one.
#[derive(Clone, Debug)]
pub(super) struct View {
    base: isize,
    /// `(size, stride)`, outermost first, no size 1.
    dims: Vec<(usize, isize)>,
}

impl View {
    /// The view over `(size, stride)` dimensions, outermost first.
    pub fn new(base: isize, dims: impl IntoIterator<Item = (usize, isize)>) -> Self {
        let mut merged: Vec<(usize, isize)> = Vec::new();
        for (size, stride) in dims {
            if size == 1 {
                continue;
            }
            match merged.last_mut() {
                Some(outer) if outer.1 == stride * size as isize => {
                    *outer = (outer.0 * size, stride)
                }
                _ => merged.push((size, stride)),
            }
        }
        View { base, dims: merged }
    }

    /// `Some(stride)` if the elements are evenly spaced.
    pub fn even_stride(&self) -> Option<isize> {
        match self.dims.as_slice() {
            [] => Some(0),
            [(_, stride)] => Some(*stride),
            _ => None,
        }
    }

    /// Calls `f(offset, stride, position, count)` for each evenly spaced stretch of the
    /// elements `start..start + len`; `position` counts from `start`.
    #[inline]
    fn stretches(&self, start: usize, len: usize, mut f: impl FnMut(isize, isize, usize, usize)) {
        let Some((&(last_size, last_stride), outer)) = self.dims.split_last() else {
            return f(self.base, 0, 0, len);
        };
        let mut index = [0usize; MAX_VARIABLES];
        let mut rest = start / last_size;
        let mut last = start % last_size;
        let mut offset = self.base;
        for (d, (size, stride)) in outer.iter().enumerate().rev() {
            index[d] = rest % size;
            rest /= size;
            offset += index[d] as isize * stride;
        }
        let mut done = 0;
        while done < len {
            let n = (last_size - last).min(len - done);
            f(offset + last as isize * last_stride, last_stride, done, n);
            done += n;
            last = 0;
            for (d, (size, stride)) in outer.iter().enumerate().rev() {
                index[d] += 1;
                offset += stride;
                if index[d] < *size {
                    break;
                }
                offset -= *size as isize * stride;
                index[d] = 0;
            }
        }
    }

    /// `Some(offset)` if elements `start..start + len` lie one after the other.
    #[inline]
    pub fn contiguous(&self, start: usize, len: usize) -> Option<usize> {
        let (size, stride) = *self.dims.last()?;
        if stride != 1 || start % size + len > size {
            return None;
        }
        Some(self.offset(start) as usize)
    }

    /// The offset of one element.
    pub fn offset(&self, element: usize) -> isize {
        let mut rest = element;
        let mut offset = self.base;
        for (size, stride) in self.dims.iter().rev() {
            offset += (rest % size) as isize * stride;
            rest /= size;
        }
        offset
    }

    /// Copies elements `start..start + out.len()` out of `src`.
    #[inline]
    pub fn load<T: Copy>(&self, src: &[T], start: usize, out: &mut [T]) {
        self.stretches(start, out.len(), |offset, stride, at, n| {
            let out = &mut out[at..at + n];
            match stride {
                0 => out.fill(src[offset as usize]),
                1 => out.copy_from_slice(&src[offset as usize..offset as usize + n]),
                _ => {
                    let mut offset = offset;
                    for out in out {
                        *out = src[offset as usize];
                        offset += stride;
                    }
                }
            }
        });
    }

    /// Copies `src` to elements `start..start + src.len()` of `dst`.
    #[inline]
    pub fn store<T: Copy>(&self, dst: &mut [T], start: usize, src: &[T]) {
        self.stretches(start, src.len(), |offset, stride, at, n| {
            let src = &src[at..at + n];
            if stride == 1 {
                dst[offset as usize..offset as usize + n].copy_from_slice(src);
            } else {
                let mut offset = offset;
                for x in src {
                    dst[offset as usize] = *x;
                    offset += stride;
                }
            }
        });
    }

    /// Writes the offsets themselves, as numbers: an index or a position.
    #[inline]
    pub fn count<F: Real>(&self, start: usize, out: &mut [F]) {
        self.stretches(start, out.len(), |offset, stride, at, n| {
            let mut number = offset;
            for out in &mut out[at..at + n] {
                *out = F::from_f64(number as f64);
                number += stride;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbouring_dimensions_merge() {
        for (dims, even) in [
            (vec![(2, 12), (3, 4), (4, 1)], Some(1)),
            (vec![(2, 0), (3, 0)], Some(0)),
            (vec![(5, 3), (1, 100)], Some(3)),
            (vec![(2, 4), (3, 1)], None),
            (vec![], Some(0)),
        ] {
            assert_eq!(View::new(0, dims.clone()).even_stride(), even, "{dims:?}");
        }
    }

    proptest! {
        #[test]
        fn loads_what_the_strides_say(
            dims in prop::collection::vec((1usize..5, -3isize..4), 0..4),
            cut in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            let total: usize = dims.iter().map(|d| d.0).product();
            let base: isize = dims.iter().map(|d| (d.0 as isize - 1) * (-d.1).max(0)).sum();
            let src: Vec<usize> = (0..200).collect();
            let start = (cut.0 * total as f64) as usize;
            let len = ((total - start) as f64 * cut.1).ceil() as usize;
            let view = View::new(base, dims.clone());
            let mut got = vec![0; len];
            view.load(&src, start, &mut got);
            for (i, got) in got.iter().enumerate() {
                let mut rest = start + i;
                let mut want = base;
                for (size, stride) in dims.iter().rev() {
                    want += (rest % size) as isize * stride;
                    rest /= size;
                }
                prop_assert_eq!(*got as isize, want);
                prop_assert_eq!(view.offset(start + i), want);
            }
            if let Some(offset) = view.contiguous(start, len) {
                prop_assert_eq!(&src[offset..offset + len], &got[..]);
            }
        }
    }
}
