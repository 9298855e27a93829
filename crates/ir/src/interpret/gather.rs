//! Table lookup by token id.

use super::operand::{Affine, Space};
use super::real::Real;
use super::view::View;
use rayon::prelude::*;

/// `out[row, i] = table[ids[row, i], i]`. Ids are known to be in range; `entry` is the stride
/// between the table's entries and `table` the strides within one.
pub(super) fn gather<F: Real>(
    (table, affine, entry): (&[F], &Affine, isize),
    (ids, id_view): (&[i32], &View),
    row: &Space,
    out: &mut [F],
) {
    let n = row.len();
    let inner = row.view(affine);
    out.par_chunks_exact_mut(n)
        .with_min_len((4096 / n).max(1))
        .enumerate()
        .for_each_init(
            || vec![0i32; n],
            |at, (r, out)| {
                id_view.load(ids, r * n, at);
                // The ids of a row are equal unless the id value has axes of its own, so
                // stretches of equal ids are copied at once.
                let mut i = 0;
                while i < n {
                    let same = at[i..].iter().take_while(|id| **id == at[i]).count();
                    let offset = at[i] as isize * entry;
                    let rest = &table[offset as usize..];
                    inner.load(rest, i, &mut out[i..i + same]);
                    i += same;
                }
            },
        );
}
