//! What ranges of single values do not show: parts of an expression that depend on each other.
//!
//! `a + (1 - a) s` is in [0, 1] for `a` and `s` in [0, 1]; interval arithmetic, which takes every
//! occurrence of a value for another one, finds [0, 2].

use super::interval::Interval;
use crate::{Access, Binary, Expr, Unary};

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
