//! Contractions: every one is a batch of matrix products.
//!
//! The index variables fall into four kinds by which operands run over them:
//! both (batch), the first (rows M), the second (columns N), or summed (K).
//! Where each kind has one stride the operands are multiplied in place, which
//! covers every projection; otherwise the operand is packed first.

use super::gemm::{Layout, product};
use super::operand::{Affine, Dim, Space};
use super::real::Real;
use rayon::prelude::*;

/// Batches beyond which the batch is the parallel loop, not the product.
const MANY: usize = 16;

/// An operand brought to `[batch, rows, columns]`.
struct Matrices<'a, F: Real> {
    data: std::borrow::Cow<'a, [F]>,
    batches: super::view::View,
    row: isize,
    column: isize,
}

impl<'a, F: Real> Matrices<'a, F> {
    fn new(data: &'a [F], affine: &Affine, batch: &Space, rows: &Space, columns: &Space) -> Self {
        let flat = |space: &Space| {
            space
                .view(&Affine {
                    base: 0,
                    strides: affine.strides.clone(),
                })
                .even_stride()
        };
        if let (Some(row), Some(column)) = (flat(rows), flat(columns)) {
            return Matrices {
                data: data.into(),
                batches: batch.view(affine),
                row,
                column,
            };
        }
        let all = batch.then(rows).then(columns);
        let mut packed = vec![F::ZERO; all.len()];
        all.view(affine).load(data, 0, &mut packed);
        let (rows, columns) = (rows.len(), columns.len());
        Matrices {
            data: packed.into(),
            batches: super::view::View::new(0, [(batch.len(), (rows * columns) as isize)]),
            row: columns as isize,
            column: 1,
        }
    }

    fn layout(&self, batch: usize) -> Layout {
        Layout {
            base: self.batches.offset(batch),
            row: self.row,
            column: self.column,
        }
    }
}

/// `out = sum over reduce of a * b`; `out_space` is that of `out` in storage order.
pub(super) fn contract<F: Real>(
    a: (&[F], &Affine),
    b: (&[F], &Affine),
    out_space: &Space,
    reduce: &Space,
    out: &mut [F],
) {
    let of = |keep: &dyn Fn(Dim) -> bool| {
        Space(out_space.0.iter().filter(|d| keep(d.0)).copied().collect())
    };
    let in_a = |d: Dim| a.1.stride(d) != 0;
    let in_b = |d: Dim| b.1.stride(d) != 0;
    let batch = of(&|d| in_a(d) && in_b(d));
    let m = of(&|d| !in_b(d));
    let n = of(&|d| in_b(d) && !in_a(d));
    let sizes = (m.len(), reduce.len(), n.len());
    let (batches, result) = (batch.len(), m.len() * n.len());

    let left = Matrices::new(a.0, a.1, &batch, &m, reduce);
    let right = Matrices::new(b.0, b.1, &batch, reduce, &n);
    let affine = Affine::of_space(out_space);
    let place = (m.view(&affine).even_stride(), n.view(&affine).even_stride());
    if let ((Some(row), Some(column)), true) = (place, batches <= MANY) {
        let at = batch.view(&affine);
        for i in 0..batches {
            let layout = Layout {
                base: at.offset(i),
                row,
                column,
            };
            let (l, r) = (left.layout(i), right.layout(i));
            product(
                sizes,
                (&left.data, l),
                (&right.data, r),
                (out, layout),
                true,
            );
        }
        return;
    }
    let mut results = vec![F::ZERO; batches * result];
    let plain = Layout {
        base: 0,
        row: n.len() as isize,
        column: 1,
    };
    let many = batches > MANY;
    let one = |i: usize, dst: &mut [F]| {
        let (l, r) = (left.layout(i), right.layout(i));
        product(
            sizes,
            (&left.data, l),
            (&right.data, r),
            (dst, plain),
            !many,
        );
    };
    if many {
        let each = results.par_chunks_exact_mut(result).enumerate();
        each.for_each(|(i, dst)| one(i, dst));
    } else {
        for (i, dst) in results.chunks_exact_mut(result).enumerate() {
            one(i, dst);
        }
    }
    batch
        .then(&m)
        .then(&n)
        .view(&affine)
        .store(out, 0, &results);
}
