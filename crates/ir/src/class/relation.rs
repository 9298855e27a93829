//! What ranges of single values do not show: parts of an expression that depend on each other.
//!
//! `a + (1 - a) s` is in [0, 1] for `a` and `s` in [0, 1], and a running sum of shares never exceeds
//! one; interval arithmetic, which takes every occurrence of a value for another one, finds neither.

use super::interval::Interval;
use crate::{Access, AxisId, Binary, Combine, Expr, Graph, IndexExpr, Op, OpKind, Unary, ValueId};

/// Most parts of an expression whose corners are looked at: two to that power.
const MAX_PARTS: usize = 8;

/// The range of an expression that is linear in each of its parts, taken alone: its extremes lie at
/// ends of the parts' ranges. `None` if it is not, or if a part is unbounded.
pub(super) fn corners(
    expr: &Expr,
    inputs: &[Access],
    range: &mut impl FnMut(&Expr) -> Interval,
) -> Option<Interval> {
    // Two reads of one element are one part.
    let expr = expr.substitute(&|i| {
        let same = |a: &Access| Some(a) == inputs.get(i);
        Expr::Input(inputs.iter().position(same).unwrap_or(i))
    });
    let mut parts: Vec<(&Expr, Interval)> = Vec::new();
    let degrees = degrees(&expr, &mut parts, range)?;
    let bounded = |of: &Interval| of.low.is_finite() && of.high.is_finite();
    if degrees.iter().any(|d| *d > 1) || !parts.iter().all(|(_, of)| bounded(of)) {
        return None;
    }
    let mut hull: Option<Interval> = None;
    for corner in 0..1u32 << parts.len() {
        let at = |part: &Expr| {
            let n = parts.iter().position(|(known, _)| *known == part)?;
            let of = parts[n].1;
            Some(if corner >> n & 1 == 0 {
                of.low
            } else {
                of.high
            })
        };
        let x = value(&expr, &at)?;
        hull = Some(match hull {
            Some(hull) => Interval::new(hull.low.min(x), hull.high.max(x)),
            None => Interval::new(x, x),
        });
    }
    hull
}

/// The parts of an expression that sums and products are made of, and the highest power of each.
fn degrees<'e>(
    expr: &'e Expr,
    parts: &mut Vec<(&'e Expr, Interval)>,
    range: &mut impl FnMut(&Expr) -> Interval,
) -> Option<Vec<u32>> {
    let joined = |a: Vec<u32>, b: Vec<u32>, f: fn(u32, u32) -> u32| {
        let at = |of: &[u32], i: usize| of.get(i).copied().unwrap_or(0);
        let n = a.len().max(b.len());
        (0..n).map(|i| f(at(&a, i), at(&b, i))).collect()
    };
    match expr {
        Expr::Const(_) => Some(vec![]),
        Expr::Unary(Unary::Neg, a) => degrees(a, parts, range),
        Expr::Binary(op @ (Binary::Add | Binary::Sub | Binary::Mul), a, b) => {
            let a = degrees(a, parts, range)?;
            let b = degrees(b, parts, range)?;
            Some(match op {
                Binary::Mul => joined(a, b, |a, b| a + b),
                _ => joined(a, b, u32::max),
            })
        }
        part => {
            let at = match parts.iter().position(|(known, _)| *known == part) {
                Some(at) => at,
                None if parts.len() == MAX_PARTS => return None,
                None => {
                    parts.push((part, range(part)));
                    parts.len() - 1
                }
            };
            let mut of = vec![0; at + 1];
            of[at] = 1;
            Some(of)
        }
    }
}

fn value(expr: &Expr, at: &impl Fn(&Expr) -> Option<f64>) -> Option<f64> {
    match expr {
        Expr::Const(c) => Some(*c),
        Expr::Unary(Unary::Neg, a) => Some(-value(a, at)?),
        Expr::Binary(op @ (Binary::Add | Binary::Sub | Binary::Mul), a, b) => {
            Some(op.eval(value(a, at)?, value(b, at)?))
        }
        part => at(part),
    }
}

/// If `value` is `part / sum of part along the axis` (and perhaps other axes): the part.
pub(super) fn whole_of_shares(graph: &Graph, value: ValueId, axis: AxisId) -> Option<ValueId> {
    let op = maker(graph, value)?;
    let OpKind::Map {
        expr: Expr::Binary(Binary::Div, part, whole),
    } = &op.kind
    else {
        return None;
    };
    let (Expr::Input(part), Expr::Input(whole)) = (part.as_ref(), whole.as_ref()) else {
        return None;
    };
    let (part, whole) = (op.inputs.get(*part)?, op.inputs.get(*whole)?);
    let own = &graph.value(value).axes;
    let sum = maker(graph, whole.value)?;
    let OpKind::Reduce {
        expr: Expr::Input(term),
        combine: Combine::Sum,
        axes,
    } = &sum.kind
    else {
        return None;
    };
    let term = sum.inputs.get(*term)?;
    let of_part = &graph.value(part.value).axes;
    // Each element is divided by the sum that it is a term of.
    let same = term.value == part.value
        && part.is_plain(own)
        && own == of_part
        && axes.contains(&axis)
        && term.is_plain(of_part)
        && whole.is_plain(&graph.value(whole.value).axes);
    same.then_some(part.value)
}

/// If `a op b` is a running sum less its first term: what is summed.
pub(super) fn exceeds_first_term(
    graph: &Graph,
    op: Binary,
    (a, b): (&Expr, &Expr),
    inputs: &[Access],
) -> Option<ValueId> {
    let (Binary::Sub, Expr::Input(a), Expr::Input(b)) = (op, a, b) else {
        return None;
    };
    let (sum, first) = (inputs.get(*a)?, inputs.get(*b)?);
    let running = maker(graph, sum.value)?;
    let OpKind::CumSum { axis } = &running.kind else {
        return None;
    };
    let axes = &graph.value(sum.value).axes;
    let terms = running.inputs.first()?;
    let same = first.value == terms.value
        && terms.is_plain(axes)
        && graph.value(first.value).axes == *axes
        && axes.iter().zip(sum.index.iter().zip(&first.index)).all(
            |(along, (of_sum, of_first))| match along == axis {
                true => *of_first == IndexExpr::at(0),
                false => of_sum == of_first,
            },
        );
    same.then_some(first.value)
}

fn maker(graph: &Graph, value: ValueId) -> Option<&Op> {
    graph.producer(value).map(|op| graph.op(op))
}
