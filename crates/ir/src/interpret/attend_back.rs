//! The transpose of causal softmax attention.
//!
//! Weights are computed again from queries and keys; nothing of the forward run is kept. Every
//! cotangent is added through the access that its operand is read by, in a fixed order, so shared
//! keys and broadcast queries need no reduction of their own.

use super::attend::Rows;
use super::operand::Space;
use super::real::{Real, sum};
use crate::{AxisId, Graph, Unary};

/// One operation, bound to its operands.
pub(super) struct AttendBack<'a, F: Real> {
    pub graph: &'a Graph,
    pub query: Rows<'a, F>,
    pub key: Rows<'a, F>,
    pub value: Rows<'a, F>,
    /// Of the result of the attention.
    pub cotangent: Rows<'a, F>,
    /// Axes of that result.
    pub axes: &'a [AxisId],
    /// Those of them along which weights differ.
    pub heads: &'a [AxisId],
    /// Axes that queries and keys are multiplied along.
    pub summed: &'a [AxisId],
    /// Rows seen, the current one included.
    pub window: usize,
    pub scale: F,
    /// Absolute position of row 0.
    pub position: i64,
}

impl<F: Real> AttendBack<'_, F> {
    /// Adds to the cotangents of queries, keys and values, which hold zeros.
    pub fn run(&self, (batch, time): (usize, usize), out: &mut [Vec<F>]) {
        let [d_query, d_key, d_value] = out else {
            return;
        };
        let heads = Space::axes(self.graph, self.heads);
        let summed = Space::axes(self.graph, self.summed);
        let of_values = self.axes.iter().filter(|a| !self.heads.contains(a));
        let values = Space::axes(self.graph, &of_values.copied().collect::<Vec<_>>());
        let query = self.query.view(batch, &heads, &summed);
        let key = self.key.view(batch, &heads, &summed);
        let value = self.value.view(batch, &heads, &values);
        let cotangent = self.cotangent.view(batch, &heads, &values);
        let (count, depth, width) = (heads.len(), summed.len(), values.len());
        let past = usize::try_from(self.position).unwrap_or(0);
        let mut q = vec![F::ZERO; depth];
        let mut g = vec![F::ZERO; width];
        let mut line = vec![F::ZERO; depth.max(width)];
        let mut products = vec![F::ZERO; depth.max(width)];
        for r in 0..batch * time {
            let (b, t) = (r / time, r % time);
            let seen = self.window.min((past + t).saturating_add(1));
            // Rows of keys and of values lie behind as many rows carried from before.
            let first = |rows: &Rows<'_, F>| b * rows.time + rows.before + t + 1 - seen;
            let (first_key, first_value) = (first(&self.key), first(&self.value));
            for h in 0..count {
                let at_query = (r * count + h) * depth;
                query.load(&self.query.data, at_query, &mut q);
                cotangent.load(&self.cotangent.data, (r * count + h) * width, &mut g);
                let mut dot = |data: &[F], view: &super::view::View, at, other: &[F]| {
                    let n = other.len();
                    view.load(data, at, &mut line[..n]);
                    for (product, (a, b)) in products.iter_mut().zip(line.iter().zip(other)) {
                        *product = *a * *b;
                    }
                    sum(&products[..n])
                };
                let mut scores: Vec<F> = (0..seen)
                    .map(|s| {
                        let at = ((first_key + s) * count + h) * depth;
                        dot(&self.key.data, &key, at, &q) * self.scale
                    })
                    .collect();
                let along: Vec<F> = (0..seen)
                    .map(|s| {
                        let at = ((first_value + s) * count + h) * width;
                        dot(&self.value.data, &value, at, &g)
                    })
                    .collect();
                let top = scores.iter().fold(F::LOWEST, |a, b| a.larger(*b));
                for score in &mut scores {
                    *score = *score - top;
                }
                let mut weights = vec![F::ZERO; seen];
                F::unary(Unary::Exp, &scores, &mut weights);
                let total = sum(&weights);
                for weight in &mut weights {
                    *weight = *weight / total;
                }
                let mean = weights.iter().zip(&along);
                let mean: Vec<F> = mean.map(|(weight, along)| *weight * *along).collect();
                let mean = sum(&mean);
                for s in 0..seen {
                    let score = weights[s] * (along[s] - mean) * self.scale;
                    let at_key = ((first_key + s) * count + h) * depth;
                    let at_value = ((first_value + s) * count + h) * width;
                    // A row carried from before the run is a constant.
                    let inside = t + 1 + s >= seen;
                    for i in 0..depth {
                        let k = self.key.data[key.offset(at_key + i) as usize];
                        d_query[query.offset(at_query + i) as usize] += score * k;
                        if inside {
                            let at = self.key.without_tail(key.offset(at_key + i), b);
                            d_key[at] += score * q[i];
                        }
                    }
                    for (i, g) in g.iter().enumerate() {
                        if inside {
                            let at = self.value.without_tail(value.offset(at_value + i), b);
                            d_value[at] += weights[s] * *g;
                        }
                    }
                }
            }
        }
    }
}
