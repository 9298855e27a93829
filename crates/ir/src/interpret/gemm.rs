//! Strided matrix product: the one place that calls code the compiler cannot check.
#![allow(unsafe_code)]

use super::real::Real;

/// Offset of element (0, 0), then the strides of rows and columns, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub base: isize,
    pub row: isize,
    pub column: isize,
}

impl Layout {
    /// Whether every element of a `rows x columns` matrix lies in `0..len`.
    fn fits(self, rows: usize, columns: usize, len: usize) -> bool {
        let reach = |count: usize, stride: isize| (count as isize - 1).checked_mul(stride);
        let (Some(r), Some(c)) = (reach(rows, self.row), reach(columns, self.column)) else {
            return false;
        };
        let lowest = self
            .base
            .checked_add(r.min(0))
            .and_then(|x| x.checked_add(c.min(0)));
        let highest = self
            .base
            .checked_add(r.max(0))
            .and_then(|x| x.checked_add(c.max(0)));
        matches!((lowest, highest), (Some(l), Some(h)) if l >= 0 && (h as usize) < len)
    }
}

/// Whether the elements of a matrix are all different: one stride steps over the whole
/// extent of the other.
fn distinct(layout: Layout, rows: usize, columns: usize) -> bool {
    let (row, column) = (layout.row.unsigned_abs(), layout.column.unsigned_abs());
    let over = |count: usize, stride: usize, other_count: usize, other: usize| {
        (count == 1 || stride > 0) && (other_count == 1 || (other > (count - 1) * stride))
    };
    over(columns, column, rows, row) || over(rows, row, columns, column)
}

/// `dst[m, n] = sum over k of a[m, k] * b[k, n]`, sizes `(m, k, n)` all at least 1.
pub(super) fn product<F: Real>(
    (m, k, n): (usize, usize, usize),
    a: (&[F], Layout),
    b: (&[F], Layout),
    dst: (&mut [F], Layout),
    parallel: bool,
) {
    assert!(m > 0 && k > 0 && n > 0, "a product over nothing");
    assert!(a.1.fits(m, k, a.0.len()), "left operand leaves its buffer");
    assert!(b.1.fits(k, n, b.0.len()), "right operand leaves its buffer");
    assert!(dst.1.fits(m, n, dst.0.len()), "result leaves its buffer");
    assert!(distinct(dst.1, m, n), "result overlaps itself");
    let parallelism = if parallel {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    };
    // SAFETY: `fits` has shown that each pointer plus each stride combination stays inside
    // its slice, and `dst` is borrowed mutably, so it overlaps neither operand; its
    // strides are those of distinct elements, which `distinct` has shown for each dimension. `F` is f32
    // or f64 (`Real` is sealed), both of which `gemm` supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.0.as_mut_ptr().offset(dst.1.base),
            dst.1.column,
            dst.1.row,
            false,
            a.0.as_ptr().offset(a.1.base),
            a.1.column,
            a.1.row,
            b.0.as_ptr().offset(b.1.base),
            b.1.column,
            b.1.row,
            F::ZERO,
            F::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}
