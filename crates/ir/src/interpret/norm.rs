//! Operations along whole lines of a row: normalisations and cumulative sums.

use super::operand::{Affine, Space};
use super::program::Operand;
use super::real::{Real, sum};
use crate::NormKind;
use rayon::prelude::*;

/// A normalisation; index variables are the output's, the normalised ones last.
pub(super) struct Norm<'a, F> {
    pub kind: NormKind,
    pub eps: F,
    pub input: Operand<'a, F>,
    pub gain: Option<Operand<'a, F>>,
    pub bias: Option<Operand<'a, F>>,
}

/// Calls `line(first element, its elements)` for every line of every row and stores what it
/// leaves there. `lines` are the dimensions of a row that are not along the line.
fn for_lines<F: Real>(
    lines: &Space,
    along: &Space,
    row: &Space,
    out: &mut [F],
    line: impl Fn(usize, &mut [F]) + Sync,
) {
    let store = lines.then(along).view(&Affine::of_space(row));
    let (count, n) = (lines.len(), along.len());
    out.par_chunks_exact_mut(row.len())
        .with_min_len((4096 / row.len()).max(1))
        .enumerate()
        .for_each_init(
            || vec![F::ZERO; n],
            |buffer, (r, out)| {
                for l in 0..count {
                    line((r * count + l) * n, buffer);
                    store.store(out, l * n, buffer);
                }
            },
        );
}

impl<F: Real> Norm<'_, F> {
    /// Normalises every line. The operands' views number elements `[B, T, lines..., along...]`;
    /// `row` is the storage order of one row of `out`.
    pub fn run(&self, lines: &Space, along: &Space, row: &Space, out: &mut [F]) {
        let n = F::from_f64(along.len() as f64);
        for_lines(lines, along, row, out, |start, x| {
            self.input.view.load(self.input.data, start, x);
            let mut scratch = x.to_vec();
            if self.kind == NormKind::Layer {
                let mean = sum(x) / n;
                for (x, copy) in x.iter_mut().zip(&mut scratch) {
                    *x = *x - mean;
                    *copy = *x;
                }
            }
            for x in &mut scratch {
                *x = *x * *x;
            }
            let squares = sum(&scratch);
            let scale = match self.kind {
                NormKind::Layer | NormKind::Rms => F::ONE / (squares / n + self.eps).root(),
                NormKind::L2 => F::ONE / (squares + self.eps).root(),
                NormKind::L2Max => F::ONE / squares.root().larger(self.eps),
            };
            for x in x.iter_mut() {
                *x = *x * scale;
            }
            if let Some(gain) = &self.gain {
                gain.view.load(gain.data, start, &mut scratch);
                for (x, gain) in x.iter_mut().zip(&scratch) {
                    *x = *x * *gain;
                }
            }
            if let Some(bias) = &self.bias {
                bias.view.load(bias.data, start, &mut scratch);
                for (x, bias) in x.iter_mut().zip(&scratch) {
                    *x += *bias;
                }
            }
        });
    }
}

/// Inclusive sums along one axis; numbering as in [`Norm::run`].
pub(super) fn cumulative_sum<F: Real>(
    input: Operand<'_, F>,
    lines: &Space,
    along: &Space,
    row: &Space,
    out: &mut [F],
) {
    for_lines(lines, along, row, out, |start, x| {
        input.view.load(input.data, start, x);
        let mut total = F::ZERO;
        for x in x {
            total += *x;
            *x = total;
        }
    });
}
