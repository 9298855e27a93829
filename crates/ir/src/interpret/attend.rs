//! Causal softmax attention over a window of rows, the ones carried between runs included.

use super::operand::{Affine, Dim, Space};
use super::real::{Real, sum};
use super::view::View;
use crate::{Access, AxisId, Graph, StateId, StateKind, Unary, ValueId};
use rayon::prelude::*;
use std::borrow::Cow;

/// An operand with the rows before its first one.
pub(super) struct Rows<'a, F: Real> {
    pub(super) data: Cow<'a, [F]>,
    affine: Affine,
    /// How many rows precede row 0.
    pub(super) before: usize,
    /// Rows in all.
    pub(super) time: usize,
    /// Elements of a row.
    row: usize,
}

impl<'a, F: Real> Rows<'a, F> {
    /// Puts the tail of an access (`[B, width, row]`) before the rows of its value.
    pub fn new(
        graph: &Graph,
        access: &Access,
        numbers: impl Fn(ValueId) -> &'a [F],
        tail: impl Fn(&Access) -> Option<&'a [F]>,
        (batch, time): (usize, usize),
    ) -> Self {
        let data = numbers(access.value);
        let row = graph.row_elements(access.value);
        let width = |id: StateId| match graph.state(id).kind {
            StateKind::Tail { width, .. } => width as usize,
            StateKind::Scan { .. } => 0,
        };
        let before = access.tail.map_or(0, width);
        let all = before + time;
        let data = match tail(access) {
            None => Cow::Borrowed(data),
            Some(tail) => {
                let mut joined = Vec::with_capacity(batch * all * row);
                for b in 0..batch {
                    joined.extend_from_slice(&tail[b * before * row..][..before * row]);
                    joined.extend_from_slice(&data[b * time * row..][..time * row]);
                }
                Cow::Owned(joined)
            }
        };
        Rows {
            data,
            affine: Affine::of_access(graph, access, all),
            before,
            time: all,
            row,
        }
    }

    /// Where an element of batch row `b` that is not of the tail lies in the value by itself.
    pub(super) fn without_tail(&self, offset: isize, b: usize) -> usize {
        offset as usize - (b + 1) * self.before * self.row
    }

    /// The view that numbers elements `[B, rows, lines..., along...]`.
    pub(super) fn view(&self, batch: usize, lines: &Space, along: &Space) -> View {
        let rows = Space(vec![(Dim::Batch, batch), (Dim::Time, self.time)]);
        rows.then(lines).then(along).view(&self.affine)
    }
}

/// One operation, bound to its operands.
pub(super) struct Attend<'a, F: Real> {
    pub graph: &'a Graph,
    pub query: Rows<'a, F>,
    pub key: Rows<'a, F>,
    pub value: Rows<'a, F>,
    /// Axes of the result along which weights differ.
    pub heads: &'a [AxisId],
    /// Axes that queries and keys are multiplied along.
    pub summed: &'a [AxisId],
    /// Rows seen, the current one included.
    pub window: usize,
    pub scale: F,
    /// Absolute position of row 0.
    pub position: i64,
}

impl<F: Real> Attend<'_, F> {
    /// Computes all rows; `out` is `[B, T, axes...]`. The order of additions depends on which
    /// rows are seen only, so a run cut in two gives the same numbers.
    pub fn run(&self, (batch, time): (usize, usize), axes: &[AxisId], out: &mut [F]) {
        let row = Space::axes(self.graph, axes);
        let heads = Space::axes(self.graph, self.heads);
        let summed = Space::axes(self.graph, self.summed);
        let of_values = axes.iter().filter(|a| !self.heads.contains(a));
        let values = Space::axes(self.graph, &of_values.copied().collect::<Vec<_>>());
        let store = heads.then(&values).view(&Affine::of_space(&row));
        let query = self.query.view(batch, &heads, &summed);
        let key = self.key.view(batch, &heads, &summed);
        let value = self.value.view(batch, &heads, &values);
        let (count, depth, width) = (heads.len(), summed.len(), values.len());
        let past = usize::try_from(self.position).unwrap_or(0);
        out.par_chunks_exact_mut(row.len())
            .enumerate()
            .for_each(|(r, out)| {
                let (b, t) = (r / time, r % time);
                let seen = self.window.min((past + t).saturating_add(1));
                let first = |rows: &Rows<'_, F>| b * rows.time + rows.before + t + 1 - seen;
                let (first_key, first_value) = (first(&self.key), first(&self.value));
                let mut q = vec![F::ZERO; depth];
                let mut products = vec![F::ZERO; depth];
                let mut scores = vec![F::ZERO; seen];
                let mut weights = vec![F::ZERO; seen];
                let mut line = vec![F::ZERO; width];
                let mut total = vec![F::ZERO; width];
                for h in 0..count {
                    query.load(&self.query.data, (r * count + h) * depth, &mut q);
                    for (s, score) in scores.iter_mut().enumerate() {
                        let at = ((first_key + s) * count + h) * depth;
                        key.load(&self.key.data, at, &mut products);
                        for (product, q) in products.iter_mut().zip(&q) {
                            *product = *product * *q;
                        }
                        *score = sum(&products) * self.scale;
                    }
                    let top = scores.iter().fold(F::LOWEST, |a, b| a.larger(*b));
                    for score in &mut scores {
                        *score = *score - top;
                    }
                    F::unary(Unary::Exp, &scores, &mut weights);
                    total.fill(F::ZERO);
                    for (s, weight) in weights.iter().enumerate() {
                        let at = ((first_value + s) * count + h) * width;
                        value.load(&self.value.data, at, &mut line);
                        for (total, x) in total.iter_mut().zip(&line) {
                            *total += *weight * *x;
                        }
                    }
                    let weight = sum(&weights);
                    for x in &mut total {
                        *x = *x / weight;
                    }
                    store.store(out, h * width, &total);
                }
            });
    }
}
