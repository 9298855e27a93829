//! Adding into places: the transposes of reads through an access and of table lookups.

use super::program::Operand;
use super::real::Real;
use super::view::View;
use rayon::prelude::*;

/// Adds the `points` elements of each row of `from` to where `to` places them in a row of `out`,
/// which has `row` elements and holds zeros. Points that share a place are added in order.
pub(super) fn scatter<F: Real>(
    from: Operand<'_, F>,
    points: usize,
    to: &View,
    row: usize,
    out: &mut [F],
) {
    out.par_chunks_exact_mut(row)
        .with_min_len((4096 / row).max(1))
        .enumerate()
        .for_each_init(
            || vec![F::ZERO; points],
            |elements, (r, out)| {
                from.view.load(from.data, r * points, elements);
                for (i, x) in elements.iter().enumerate() {
                    out[to.offset(i) as usize] += *x;
                }
            },
        );
}

/// `out[id, i] += from[row, i]` for all rows in order, where `i` counts to `entry`; both views
/// number elements `[B, T, i]`. An id outside the table is handed back with its number among the
/// ids.
pub(super) fn scatter_rows<F: Real>(
    (from, from_view): (&[F], &View),
    (ids, id_view): (&[i32], &View),
    count: usize,
    entry: usize,
    out: &mut [F],
) -> Result<(), (usize, i32)> {
    let vocabulary = out.len() / entry;
    for i in 0..count {
        let at = id_view.offset(i) as usize;
        match usize::try_from(ids[at]) {
            Ok(v) if v < vocabulary => {
                out[v * entry + i % entry] += from[from_view.offset(i) as usize];
            }
            _ => return Err((at, ids[at])),
        }
    }
    Ok(())
}
