//! Reading rows before the current one, and the stencil tails that hold them between runs.

use super::real::Real;
use crate::Access;
use std::borrow::Cow;

/// The rows an access reads, stored as the value itself is: row t is the value's row `t - delay`.
/// Rows before the first come from the tail (`[B, width, row]`); rows outside both are zero.
pub(super) fn rows<'a, F: Real>(
    access: &Access,
    data: &'a [F],
    tail: Option<&[F]>,
    (batch, time, row): (usize, usize, usize),
) -> Cow<'a, [F]> {
    if access.delay == 0 {
        return Cow::Borrowed(data);
    }
    let delay = access.delay as isize;
    let mut out = vec![F::ZERO; data.len()];
    for (b, out) in out.chunks_exact_mut(time * row).enumerate() {
        let now = &data[b * time * row..][..time * row];
        if delay > 0 {
            let shift = (delay as usize).min(time);
            out[shift * row..].copy_from_slice(&now[..(time - shift) * row]);
            if let Some(tail) = tail {
                let width = tail.len() / (batch * row);
                let before = &tail[b * width * row..][..width * row];
                let first = width - delay as usize;
                out[..shift * row].copy_from_slice(&before[first * row..(first + shift) * row]);
            }
        } else {
            let ahead = delay.unsigned_abs().min(time);
            out[..(time - ahead) * row].copy_from_slice(&now[ahead * row..]);
        }
    }
    Cow::Owned(out)
}

/// The tail after a run: the last `width` rows of the old tail followed by the value's rows.
pub(super) fn next_tail<F: Real>(
    data: &[F],
    old: &[F],
    (batch, time, row): (usize, usize, usize),
    width: usize,
) -> Vec<F> {
    let mut out = Vec::with_capacity(batch * width * row);
    for b in 0..batch {
        let now = &data[b * time * row..][..time * row];
        let before = &old[b * width * row..][..width * row];
        let kept = width.saturating_sub(time);
        out.extend_from_slice(&before[(width - kept) * row..]);
        out.extend_from_slice(&now[(time - (width - kept)) * row..]);
    }
    out
}
