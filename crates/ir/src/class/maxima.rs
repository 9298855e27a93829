//! Bounds of sums in which a maximum is taken away from one of what it is the maximum of.
//!
//! `a - max(a, b)` is at most 0, whatever `a` is: the stabiliser of exponential gates. The maximum may
//! be named elsewhere, also by the step of a recurrence that returns it.

use super::interval::Interval;
use crate::{
    Access, AxisId, Binary, Def, Expr, Graph, IndexExpr, OpId, OpKind, Recurrence, StepKind,
    StepRef, Unary, ValueId,
};

/// Most producers followed for one sum.
const MAX_FOLLOWED: usize = 32;
/// Most terms of a sum.
const MAX_TERMS: usize = 16;
/// Most maxima of a sum that are looked at.
const MAX_MAXIMA: usize = 4;

/// Something that a sum reads.
#[derive(Clone, Debug, PartialEq)]
enum Leaf {
    /// An element of a value.
    Value(Access),
    /// An element of a state of a scan before the step.
    Before(OpId, usize, Vec<IndexExpr>),
}

/// `constant + sum of factor * term`. No two terms are equal.
#[derive(Clone, Debug, Default)]
struct Sum {
    constant: f64,
    terms: Vec<(Expr, f64)>,
}

struct Sums<'g> {
    graph: &'g Graph,
    /// `Input(i)` of an expression is `leaves[i]`.
    leaves: Vec<Leaf>,
    followed: usize,
}

/// The range of `expr`, a sum, as far as its maxima show it. `range` gives that of a value.
pub(super) fn bounds(
    graph: &Graph,
    expr: &Expr,
    inputs: &[Access],
    range: &mut impl FnMut(ValueId) -> Interval,
) -> Option<Interval> {
    let mut sums = Sums {
        graph,
        leaves: vec![],
        followed: 0,
    };
    let expr = sums.resolved(expr, inputs)?;
    let mut sum = Sum::default();
    sums.add(&expr, 1.0, &mut sum)?;
    let mut found: Option<Interval> = None;
    let mut maxima = 0;
    for (at, (term, factor)) in sum.terms.iter().enumerate() {
        let Expr::Binary(Binary::Max, a, b) = term else {
            continue;
        };
        maxima += 1;
        if maxima > MAX_MAXIMA {
            break;
        }
        for part in [a, b] {
            // The maximum is at least this part: with it in its place, the sum is moved to one side.
            let mut moved = sum.clone();
            moved.terms.remove(at);
            sums.add(part, *factor, &mut moved)?;
            let of = sums.range(&moved, range);
            let of = match *factor < 0.0 {
                true => Interval::new(f64::NEG_INFINITY, of.high),
                false => Interval::new(of.low, f64::INFINITY),
            };
            found = Some(found.map_or(of, |known| known.and(of)));
        }
    }
    found
}

impl Sums<'_> {
    fn leaf(&mut self, leaf: Leaf) -> Expr {
        let at = self.leaves.iter().position(|known| *known == leaf);
        Expr::Input(at.unwrap_or_else(|| {
            self.leaves.push(leaf);
            self.leaves.len() - 1
        }))
    }

    /// An expression over leaves.
    fn resolved(&mut self, expr: &Expr, inputs: &[Access]) -> Option<Expr> {
        let reads: Option<Vec<Expr>> = inputs.iter().map(|access| self.read(access)).collect();
        Some(over(expr, &reads?))
    }

    fn read(&mut self, access: &Access) -> Option<Expr> {
        if let Def::Op(id, n) = self.graph.value(access.value).def
            && let OpKind::Scan { recurrence, .. } = &self.graph.op(id).kind
            && access.delay == 0
        {
            let step = self.graph.recurrences.get(recurrence.index())?;
            if let Some(StepRef::State(state)) = step.outputs.get(n as usize) {
                return Some(self.leaf(Leaf::Before(id, *state, access.index.clone())));
            }
        }
        Some(self.leaf(Leaf::Value(access.clone())))
    }

    /// Adds `factor * expr`.
    fn add(&mut self, expr: &Expr, factor: f64, to: &mut Sum) -> Option<()> {
        match expr {
            Expr::Const(c) => to.constant += factor * c,
            Expr::Unary(Unary::Neg, a) => self.add(a, -factor, to)?,
            Expr::Binary(Binary::Add, a, b) => {
                self.add(a, factor, to)?;
                self.add(b, factor, to)?;
            }
            Expr::Binary(Binary::Sub, a, b) => {
                self.add(a, factor, to)?;
                self.add(b, -factor, to)?;
            }
            Expr::Binary(Binary::Mul, a, b) => match (a.as_ref(), b.as_ref()) {
                (Expr::Const(c), x) | (x, Expr::Const(c)) => self.add(x, factor * c, to)?,
                _ => self.term(expr.clone(), factor, to)?,
            },
            Expr::Input(i) => match self.produced(*i) {
                Some(inner) => self.add(&inner, factor, to)?,
                None => self.term(expr.clone(), factor, to)?,
            },
            _ => self.term(expr.clone(), factor, to)?,
        }
        Some(())
    }

    fn term(&mut self, term: Expr, factor: f64, to: &mut Sum) -> Option<()> {
        match to.terms.iter().position(|(known, _)| *known == term) {
            Some(at) => {
                to.terms[at].1 += factor;
                if to.terms[at].1 == 0.0 {
                    to.terms.remove(at);
                }
            }
            None if to.terms.len() == MAX_TERMS => return None,
            None => to.terms.push((term, factor)),
        }
        Some(())
    }

    /// What a leaf is computed by, if that is a sum or a maximum.
    fn produced(&mut self, leaf: usize) -> Option<Expr> {
        let Leaf::Value(access) = self.leaves.get(leaf)?.clone() else {
            return None;
        };
        let value = self.graph.value(access.value);
        let Def::Op(id, n) = value.def else {
            return None;
        };
        self.followed += 1;
        if access.delay != 0 || self.followed > MAX_FOLLOWED {
            return None;
        }
        let op = self.graph.op(id);
        let produced = match &op.kind {
            OpKind::Map { expr } if is_sum(expr) => {
                let to = placed(&value.axes, &access.index);
                let mut reads = Vec::new();
                for inner in &op.inputs {
                    let index = inner.index.iter().map(|e| e.substitute(&to)).collect();
                    reads.push(self.read(&Access {
                        index,
                        ..inner.clone()
                    })?);
                }
                over(&expr.substitute_axes(&to), &reads)
            }
            OpKind::Scan { recurrence, .. } => {
                let step = self.graph.recurrences.get(recurrence.index())?;
                let StepRef::Op(i) = step.outputs.get(n as usize)? else {
                    return None;
                };
                self.statement(id, step, *i, &access.index)?
            }
            _ => return None,
        };
        Some(produced)
    }

    /// A statement of the step of a scan, at an index.
    fn statement(
        &mut self,
        scan: OpId,
        step: &Recurrence,
        i: usize,
        index: &[IndexExpr],
    ) -> Option<Expr> {
        let op = step.ops.get(i)?;
        if op.kind != StepKind::Map || !is_sum(&op.expr) {
            return None;
        }
        let to = placed(&op.axes, index);
        let mut reads = Vec::new();
        for access in &op.inputs {
            let by: Vec<IndexExpr> = access.axes.iter().map(|a| to(*a)).collect();
            reads.push(match access.item {
                StepRef::State(state) => self.leaf(Leaf::Before(scan, state, by)),
                StepRef::Input(formal) => {
                    let read = self.graph.op(scan).inputs.get(formal)?;
                    let to = placed(&step.inputs.get(formal)?.axes, &by);
                    let index = read.index.iter().map(|e| e.substitute(&to)).collect();
                    self.read(&Access {
                        index,
                        ..read.clone()
                    })?
                }
                StepRef::Op(j) => {
                    self.followed += 1;
                    if self.followed > MAX_FOLLOWED {
                        return None;
                    }
                    self.statement(scan, step, j, &by)?
                }
            });
        }
        Some(over(&op.expr.substitute_axes(&to), &reads))
    }

    fn range(&self, sum: &Sum, range: &mut impl FnMut(ValueId) -> Interval) -> Interval {
        let (mut low, mut high) = (sum.constant, sum.constant);
        for (term, factor) in &sum.terms {
            let of = match term {
                Expr::Input(i) => match self.leaves.get(*i) {
                    Some(Leaf::Value(access)) => range(access.value),
                    _ => Interval::ALL,
                },
                _ => Interval::ALL,
            };
            let ends = (of.low * factor, of.high * factor);
            low += ends.0.min(ends.1);
            high += ends.0.max(ends.1);
        }
        Interval::new(low, high)
    }
}

fn is_sum(expr: &Expr) -> bool {
    match expr {
        Expr::Input(_) | Expr::Unary(Unary::Neg, _) => true,
        Expr::Binary(op, ..) => matches!(op, Binary::Add | Binary::Sub | Binary::Mul | Binary::Max),
        _ => false,
    }
}

/// Index variables in terms of those that an item over `axes` is read by.
fn placed<'a>(
    axes: &'a [AxisId],
    index: &'a [IndexExpr],
) -> impl Fn(AxisId) -> IndexExpr + use<'a> {
    move |axis| {
        let at = axes.iter().position(|a| *a == axis);
        let read = at.and_then(|at| index.get(at)).cloned();
        read.unwrap_or_else(|| IndexExpr::axis(axis))
    }
}

fn over(expr: &Expr, reads: &[Expr]) -> Expr {
    expr.substitute(&|i| reads.get(i).cloned().unwrap_or(Expr::Input(usize::MAX)))
}
