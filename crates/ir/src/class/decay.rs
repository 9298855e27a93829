//! The logarithm of a decay, from the expression that produces the decay, and the proof that the
//! decay is in (0, 1].
//!
//! Chunked algorithms work on sums of logarithms. Taking `log` of a rounded decay at run time
//! loses what the model knew (`exp(-exp(w))` is 1 where its logarithm is -1e-9), so the logarithm
//! is derived symbolically and there is none where that is not possible.

use super::interval::{Interval, Ranges};
use super::{Class, Classified};
use crate::{
    Access, AxisId, Binary, Def, Expr, Graph, IndexExpr, Op, OpId, OpKind, StepKind, StepRef, Unary,
};
use serde::{Deserialize, Serialize};

/// Most producers followed on the way to a logarithm.
const MAX_FOLLOWED: usize = 64;

/// `ln(decay)` of a scan, over the axes of the decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogDecay {
    /// Axes of the decay, a subset of the recurrence's own.
    pub axes: Vec<AxisId>,
    /// The logarithm, natural, over `inputs`. Never above 0.
    pub expr: Expr,
    /// Values of the graph, indexed by `axes`.
    pub inputs: Vec<Access>,
    /// A proven lower bound of `expr`, if there is one.
    pub lowest: Option<f64>,
}

/// Why there is no logarithm.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoLogDecay {
    /// The operation is no scan of a recurrence with a decay.
    #[error("`{op}` is no recurrence with a decay")]
    NoDecay {
        /// The operation.
        op: String,
    },
    /// The step computes the decay by a reduction.
    #[error("the step computes its decay by a sum; compute it outside and pass it in")]
    Reduced,
    /// The expression is no product of exponentials and sigmoids.
    #[error(
        "the logarithm of {what} is not known symbolically; write the decay as exp(...), \
         sigmoid(...), a product of such, or b + (1 - b) * sigmoid(...) with b from 0 to 1"
    )]
    Unknown {
        /// Which part.
        what: String,
    },
    /// The decay may exceed 1.
    #[error(
        "the decay is not proven to be at most 1: its logarithm lies in [{low}, {high}] as far as \
         the expression shows; write it as exp(-exp(...)), exp(-softplus(...)) or sigmoid(...)"
    )]
    NotProven {
        /// Lower bound of the logarithm.
        low: f64,
        /// Upper bound of the logarithm.
        high: f64,
    },
}

/// The logarithm of the decay of state number `state` of the scan `op`, whose recurrence was
/// classified as `found`.
pub fn log_decay(
    graph: &Graph,
    op: OpId,
    found: &Classified,
    state: usize,
) -> Result<LogDecay, NoLogDecay> {
    let (mut trace, decays) = traced(graph, op, found, state)?;
    let mut axes: Vec<AxisId> = Vec::new();
    let mut product: Option<Expr> = None;
    for (decay, of) in decays {
        axes.extend(
            of.into_iter()
                .filter(|a| !axes.contains(a))
                .collect::<Vec<_>>(),
        );
        product = Some(match product {
            Some(product) => Expr::binary(Binary::Mul, product, decay),
            None => decay,
        });
    }
    let expr = trace.log(&product.unwrap_or(Expr::Const(1.0)))?;
    let range = trace.range(&expr);
    if range.high > 0.0 {
        return Err(NoLogDecay::NotProven {
            low: range.low,
            high: range.high,
        });
    }
    let (expr, inputs) = trace.pruned(&expr);
    Ok(LogDecay {
        axes,
        expr,
        inputs,
        lowest: range.low.is_finite().then_some(range.low),
    })
}

/// Proven bounds of the decay itself, lowest and highest, or of each of several. Unlike [`log_decay`] it asks for no
/// logarithm, so a decay may be 0 and may be any expression.
pub fn decay_range(
    graph: &Graph,
    op: OpId,
    found: &Classified,
    state: usize,
) -> Result<(f64, f64), NoLogDecay> {
    let (mut trace, decays) = traced(graph, op, found, state)?;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (decay, _) in &decays {
        let range = trace.range(decay);
        (low, high) = (low.min(range.low), high.max(range.high));
    }
    Ok((low, high))
}

/// A decay over values of the graph, with its axes.
type Decay = (Expr, Vec<AxisId>);

/// The decays of a scan, at least one.
fn traced<'g>(
    graph: &'g Graph,
    op: OpId,
    found: &Classified,
    state: usize,
) -> Result<(Trace<'g>, Vec<Decay>), NoLogDecay> {
    let scan = graph.op(op);
    let none = || NoLogDecay::NoDecay {
        op: scan.name.clone(),
    };
    let decays = found.states.get(state).map(Class::decays);
    let decays = decays.filter(|of| !of.is_empty()).ok_or_else(none)?;
    let OpKind::Scan { recurrence, .. } = &scan.kind else {
        return Err(none());
    };
    let formals = &graph.recurrence(*recurrence).inputs;
    let mut trace = Trace {
        graph,
        inputs: vec![],
        ranges: Ranges::new(graph),
        followed: 0,
        sums: 0,
    };
    let mut out = Vec::new();
    for decay in decays {
        let axes = match decay {
            StepRef::Input(i) => formals.get(i).map(|f| f.axes.clone()),
            StepRef::Op(i) => found.coefficients.get(i).map(|op| op.axes.clone()),
            StepRef::State(_) => None,
        };
        let axes = axes.ok_or_else(none)?;
        let expr = trace.coefficient(scan, found, formals, decay, &axes)?;
        out.push((expr, axes));
    }
    Ok((trace, out))
}

/// An expression being followed to its producers; `Input(i)` is `inputs[i]`.
struct Trace<'g> {
    graph: &'g Graph,
    inputs: Vec<Access>,
    ranges: Ranges<'g>,
    followed: usize,
    /// Sums around the term whose logarithm is being taken.
    sums: usize,
}

impl Trace<'_> {
    fn read(&mut self, access: Access) -> Expr {
        let at = self.inputs.iter().position(|a| *a == access);
        Expr::Input(at.unwrap_or_else(|| {
            self.inputs.push(access);
            self.inputs.len() - 1
        }))
    }

    /// A coefficient of the step, over values of the graph. `by` says which variables index the
    /// item's axes.
    fn coefficient(
        &mut self,
        scan: &Op,
        found: &Classified,
        formals: &[crate::StepInput],
        item: StepRef,
        by: &[AxisId],
    ) -> Result<Expr, NoLogDecay> {
        let missing = || NoLogDecay::NoDecay {
            op: scan.name.clone(),
        };
        let renamed = |own: &[AxisId], by: &[AxisId], axis: AxisId| {
            let at = own.iter().position(|a| *a == axis);
            at.and_then(|at| by.get(at)).copied().unwrap_or(axis)
        };
        match item {
            StepRef::State(_) => Err(missing()),
            StepRef::Input(i) => {
                let formal = formals.get(i).ok_or_else(missing)?;
                let access = scan.inputs.get(i).ok_or_else(missing)?;
                let to = |a: AxisId| IndexExpr::axis(renamed(&formal.axes, by, a));
                let index = access.index.iter().map(|e| e.substitute(&to)).collect();
                Ok(self.read(Access {
                    index,
                    ..access.clone()
                }))
            }
            StepRef::Op(i) => {
                let op = found.coefficients.get(i).ok_or_else(missing)?;
                if op.kind != StepKind::Map {
                    return Err(NoLogDecay::Reduced);
                }
                let mut reads = Vec::new();
                for access in &op.inputs {
                    let by: Vec<AxisId> = access
                        .axes
                        .iter()
                        .map(|a| renamed(&op.axes, by, *a))
                        .collect();
                    reads.push(self.coefficient(scan, found, formals, access.item, &by)?);
                }
                let to = |a: AxisId| IndexExpr::axis(renamed(&op.axes, by, a));
                let expr = op.expr.substitute_axes(&to);
                Ok(expr.substitute(&|i| reads.get(i).cloned().unwrap_or(Expr::Input(i))))
            }
        }
    }

    fn range(&mut self, expr: &Expr) -> Interval {
        self.ranges.of(expr, &self.inputs)
    }

    /// The expression that produces input `i`, in the same index variables.
    fn producer(&mut self, i: usize) -> Option<Expr> {
        let access = self.inputs.get(i)?.clone();
        let Def::Op(op, _) = self.graph.value(access.value).def else {
            return None;
        };
        let op = self.graph.op(op);
        let OpKind::Map { expr } = &op.kind else {
            return None;
        };
        self.followed += 1;
        if access.delay != 0 || self.followed > MAX_FOLLOWED {
            return None;
        }
        let own = &self.graph.value(access.value).axes;
        let to = |a: AxisId| {
            let at = own.iter().position(|o| *o == a);
            let index = at.and_then(|at| access.index.get(at));
            index.cloned().unwrap_or_else(|| IndexExpr::axis(a))
        };
        let mut reads = Vec::new();
        for inner in &op.inputs {
            let index = inner.index.iter().map(|e| e.substitute(&to)).collect();
            reads.push(self.read(Access {
                index,
                ..inner.clone()
            }));
        }
        let expr = expr.substitute_axes(&to);
        Some(expr.substitute(&|i| reads.get(i).cloned().unwrap_or(Expr::Input(i))))
    }

    /// `ln(expr)`, without a logarithm of anything that changes with T.
    fn log(&mut self, expr: &Expr) -> Result<Expr, NoLogDecay> {
        let derived = self.derived(expr);
        if derived.is_ok() {
            return derived;
        }
        // What is computed once, at load, may be taken the logarithm of there.
        if !self.is_fixed(expr) {
            return derived;
        }
        let low = self.range(expr).low;
        if low > 0.0 {
            return Ok(Expr::unary(Unary::Log, expr.clone()));
        }
        // A term of a sum may vanish: its logarithm is then that of the smallest f32, which adds
        // nothing to what the other terms give.
        if low >= 0.0 && self.sums > 0 {
            let floor = Expr::Const(f64::from(f32::MIN_POSITIVE));
            let term = Expr::binary(Binary::Max, expr.clone(), floor);
            return Ok(Expr::unary(Unary::Log, term));
        }
        derived
    }

    /// `ln(a + b)` from the logarithms of both: the larger one, and a little more.
    fn log_of_sum(&mut self, a: &Expr, b: &Expr) -> Result<Expr, NoLogDecay> {
        self.sums += 1;
        let logs = self.log(a).and_then(|a| Ok((a, self.log(b)?)));
        self.sums -= 1;
        let (log_a, log_b) = logs?;
        let apart = Expr::binary(Binary::Sub, log_a.clone(), log_b.clone());
        let apart = Expr::unary(Unary::Neg, Expr::unary(Unary::Abs, apart));
        let larger = Expr::binary(Binary::Max, log_a, log_b);
        let more = Expr::unary(Unary::Softplus, apart);
        let log = Expr::binary(Binary::Add, larger, more);
        let sum = Expr::binary(Binary::Add, a.clone(), b.clone());
        // Rounding must not lift what is proven to be at most 1 above it.
        Ok(match self.range(&sum).high <= 1.0 {
            true => Expr::binary(Binary::Min, log, Expr::Const(0.0)),
            false => log,
        })
    }

    fn derived(&mut self, expr: &Expr) -> Result<Expr, NoLogDecay> {
        let half = |e: Expr, c: f64| Expr::binary(Binary::Mul, e, Expr::Const(c));
        match expr {
            Expr::Unary(Unary::Exp, x) => Ok(x.as_ref().clone()),
            Expr::Unary(Unary::Sigmoid, x) => {
                Ok(Expr::unary(Unary::LogSigmoid, x.as_ref().clone()))
            }
            Expr::Unary(Unary::Sqrt, x) => Ok(half(self.log(x)?, 0.5)),
            Expr::Unary(Unary::Rsqrt, x) => Ok(half(self.log(x)?, -0.5)),
            Expr::Unary(Unary::Recip, x) => Ok(Expr::unary(Unary::Neg, self.log(x)?)),
            // The logarithm below exists for positive x only, which is what makes this right.
            Expr::Unary(Unary::Square, x) => Ok(half(self.log(x)?, 2.0)),
            Expr::Const(c) if *c > 0.0 => Ok(Expr::Const(c.ln())),
            Expr::Binary(Binary::Mul, a, b) => {
                let a = self.log(a)?;
                Ok(Expr::binary(Binary::Add, a, self.log(b)?))
            }
            Expr::Binary(Binary::Div, a, b) => {
                let a = self.log(a)?;
                Ok(Expr::binary(Binary::Sub, a, self.log(b)?))
            }
            Expr::Binary(Binary::Pow, a, b) => {
                let a = self.log(a)?;
                Ok(Expr::binary(Binary::Mul, b.as_ref().clone(), a))
            }
            Expr::Binary(op @ (Binary::Min | Binary::Max), a, b) => {
                let a = self.log(a)?;
                Ok(Expr::binary(*op, a, self.log(b)?))
            }
            Expr::Binary(Binary::Add, a, b) => match expr.choice() {
                Some((condition, yes, no)) => {
                    let (yes, no) = (self.log(yes)?, self.log(no)?);
                    let other = Expr::binary(Binary::Sub, Expr::Const(1.0), condition.clone());
                    Ok(Expr::binary(
                        Binary::Add,
                        Expr::binary(Binary::When, condition.clone(), yes),
                        Expr::binary(Binary::When, other, no),
                    ))
                }
                None => match self.one_less(expr) {
                    Some(log) => Ok(log),
                    None => self.log_of_sum(a, b),
                },
            },
            Expr::Binary(Binary::Sub, ..) => self.one_less(expr).ok_or_else(|| self.unknown(expr)),
            Expr::Input(i) => match self.producer(*i) {
                // Where a logarithm is taken at load, it is that of the value itself.
                Some(inner) if self.is_fixed(expr) => self.derived(&inner),
                Some(inner) => self.log(&inner),
                None => Err(self.unknown(expr)),
            },
            _ => Err(self.unknown(expr)),
        }
    }

    /// The logarithm of `1 - sigmoid(x) = sigmoid(-x)`, however the difference is written.
    fn one_less(&mut self, expr: &Expr) -> Option<Expr> {
        let one = |e: &Expr| *e == Expr::Const(1.0);
        let negated = |e: &Expr| match e {
            Expr::Unary(Unary::Neg, x) => Some(x.as_ref().clone()),
            Expr::Binary(Binary::Mul, c, x) if **c == Expr::Const(-1.0) => Some(x.as_ref().clone()),
            Expr::Binary(Binary::Mul, x, c) if **c == Expr::Const(-1.0) => Some(x.as_ref().clone()),
            _ => None,
        };
        let taken = match expr {
            Expr::Binary(Binary::Sub, a, b) if one(a) => Some(b.as_ref().clone()),
            Expr::Binary(Binary::Add, a, b) if one(a) => negated(b),
            Expr::Binary(Binary::Add, a, b) if one(b) => negated(a),
            _ => None,
        };
        let x = self.sigmoid_argument(&taken?)?;
        Some(Expr::unary(Unary::LogSigmoid, Expr::unary(Unary::Neg, x)))
    }

    /// `x` if the expression is `sigmoid(x)`, here or where it is produced.
    fn sigmoid_argument(&mut self, expr: &Expr) -> Option<Expr> {
        match expr {
            Expr::Unary(Unary::Sigmoid, x) => Some(x.as_ref().clone()),
            Expr::Input(i) => {
                let inner = self.producer(*i)?;
                self.sigmoid_argument(&inner)
            }
            _ => None,
        }
    }

    /// Whether the expression is computed once, at load.
    fn is_fixed(&self, expr: &Expr) -> bool {
        let mut fixed = true;
        expr.walk(&mut |e| match e {
            Expr::Input(i) => {
                let rows = self.inputs.get(*i).map(|a| self.graph.value(a.value).rows);
                fixed &= rows == Some(false);
            }
            Expr::Position => fixed = false,
            _ => {}
        });
        fixed
    }

    fn unknown(&self, expr: &Expr) -> NoLogDecay {
        let name = |i: usize| match self.inputs.get(i) {
            Some(access) => self.graph.value(access.value).name.clone(),
            None => format!("?{i}"),
        };
        let axis = |a: AxisId| self.graph.axis_name(a).to_owned();
        NoLogDecay::Unknown {
            what: format!("`{}`", crate::print::expression(expr, &name, &axis)),
        }
    }

    /// The expression over the inputs that it reads, in order of first use.
    fn pruned(&self, expr: &Expr) -> (Expr, Vec<Access>) {
        let mut used: Vec<usize> = Vec::new();
        expr.walk(&mut |e| {
            if let Expr::Input(i) = e
                && !used.contains(i)
            {
                used.push(*i);
            }
        });
        let place = |i: usize| used.iter().position(|u| *u == i).unwrap_or(i);
        let inputs = used.iter().filter_map(|i| self.inputs.get(*i).cloned());
        (
            expr.substitute(&|i| Expr::Input(place(i))),
            inputs.collect(),
        )
    }
}
