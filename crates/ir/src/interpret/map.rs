//! Pointwise operations, stencils and reductions.

use super::operand::{Affine, Dim, Space};
use super::program::{CHUNK, Operand, Program, Scratch};
use super::real::{Real, sum};
use super::view::View;
use crate::Combine;
use rayon::prelude::*;

/// Fewest elements worth handing to another thread.
const PARALLEL: usize = 1 << 13;

/// Evaluates a program at every point of a space, in order.
pub(super) fn map<F: Real>(
    program: &Program,
    operands: &[Operand<'_, F>],
    counters: &[View],
    out: &mut [F],
) {
    out.par_chunks_mut(PARALLEL).enumerate().for_each_init(
        || program.scratch(operands.len()),
        |scratch, (i, piece)| {
            map_piece(program, scratch, operands, counters, i * PARALLEL, piece);
        },
    );
}

/// Evaluates elements `start..start + out.len()` on this thread.
pub(super) fn map_piece<F: Real>(
    program: &Program,
    scratch: &mut Scratch<F>,
    operands: &[Operand<'_, F>],
    counters: &[View],
    start: usize,
    out: &mut [F],
) {
    for (i, chunk) in out.chunks_mut(CHUNK).enumerate() {
        program.eval(scratch, operands, counters, start + i * CHUNK, chunk);
    }
}

/// A reduction over a space: which of the two loops is the inner one.
#[derive(Clone, Debug)]
pub(super) struct Reduction {
    combine: Combine,
    /// Number of elements combined into one.
    reduced: usize,
    /// Number of results.
    results: usize,
    /// The reduced dimensions are outermost: whole chunks of results are accumulated.
    outer: bool,
    /// The dimensions in the order of the loops.
    pub space: Space,
}

impl Reduction {
    /// Chooses the order of the loops so that most operands are read along their storage.
    pub fn new(combine: Combine, out: &Space, reduce: &Space, operands: &[Affine]) -> Self {
        let longest = |space: &Space| space.0.iter().rev().find(|d| d.1 > 1).map(|d| d.0);
        let along = |dim: Option<Dim>| {
            dim.map_or(0, |dim| {
                operands.iter().filter(|o| o.stride(dim) == 1).count()
            })
        };
        let outer =
            (out.len() >= 16 && along(longest(out)) > along(longest(reduce))) || reduce.len() == 1;
        Reduction {
            combine,
            reduced: reduce.len(),
            results: out.len(),
            outer,
            space: if outer {
                reduce.then(out)
            } else {
                out.then(reduce)
            },
        }
    }

    /// Computes all results, on all threads.
    pub fn run<F: Real>(
        &self,
        program: &Program,
        operands: &[Operand<'_, F>],
        counters: &[View],
        out: &mut [F],
    ) {
        let piece = (PARALLEL / self.reduced).max(if self.outer { CHUNK } else { 1 });
        out.par_chunks_mut(piece).enumerate().for_each_init(
            || program.scratch(operands.len()),
            |scratch, (i, out)| self.piece(program, scratch, operands, counters, i * piece, out),
        );
    }

    /// Computes results `start..start + out.len()` on this thread.
    pub fn piece<F: Real>(
        &self,
        program: &Program,
        scratch: &mut Scratch<F>,
        operands: &[Operand<'_, F>],
        counters: &[View],
        start: usize,
        out: &mut [F],
    ) {
        let mut buffer = [F::ZERO; CHUNK];
        if self.outer {
            for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                let at = start + i * CHUNK;
                let buffer = &mut buffer[..out.len()];
                program.eval(scratch, operands, counters, at, out);
                for r in 1..self.reduced {
                    program.eval(scratch, operands, counters, r * self.results + at, buffer);
                    match self.combine {
                        Combine::Sum => out.iter_mut().zip(&*buffer).for_each(|(o, x)| *o += *x),
                        Combine::Max => out
                            .iter_mut()
                            .zip(&*buffer)
                            .for_each(|(o, x)| *o = o.larger(*x)),
                    }
                }
            }
        } else if self.reduced <= CHUNK {
            // Whole results only, so that the order of additions is the same wherever
            // the piece starts.
            let together = CHUNK / self.reduced;
            for (i, out) in out.chunks_mut(together).enumerate() {
                let buffer = &mut buffer[..out.len() * self.reduced];
                let at = (start + i * together) * self.reduced;
                program.eval(scratch, operands, counters, at, buffer);
                for (out, x) in out.iter_mut().zip(buffer.chunks_exact(self.reduced)) {
                    *out = self.combined(x);
                }
            }
        } else {
            for (i, out) in out.iter_mut().enumerate() {
                let mut done = 0;
                let mut total = match self.combine {
                    Combine::Sum => F::ZERO,
                    Combine::Max => F::LOWEST,
                };
                while done < self.reduced {
                    let buffer = &mut buffer[..(self.reduced - done).min(CHUNK)];
                    let at = (start + i) * self.reduced + done;
                    program.eval(scratch, operands, counters, at, buffer);
                    let part = self.combined(buffer);
                    total = match self.combine {
                        Combine::Sum => total + part,
                        Combine::Max => total.larger(part),
                    };
                    done += buffer.len();
                }
                *out = total;
            }
        }
    }

    fn combined<F: Real>(&self, x: &[F]) -> F {
        match self.combine {
            Combine::Sum => sum(x),
            Combine::Max => x.iter().fold(F::LOWEST, |a, b| a.larger(*b)),
        }
    }
}
