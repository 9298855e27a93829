//! Ranges of values, by interval arithmetic along the graph.
//!
//! Parameters and run-time inputs can be anything; what bounds a value is the functions it went
//! through (`exp` is never negative, `sigmoid` between 0 and 1) and constants.

use crate::{Access, Binary, Combine, Def, Expr, Graph, NormKind, OpKind, Unary, ValueId};
use std::collections::BTreeMap;

use super::{maxima, relation, shares};

/// Deepest chain of producers that is followed; beyond it a value can be anything.
const MAX_DEPTH: usize = 48;

/// A closed interval; ends may be infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub const ALL: Interval = Interval {
        low: f64::NEG_INFINITY,
        high: f64::INFINITY,
    };

    /// Where shares of a whole lie.
    pub const UNIT: Interval = Interval {
        low: 0.0,
        high: 1.0,
    };

    /// The interval; an end that is no number is unbounded.
    pub fn new(low: f64, high: f64) -> Self {
        Interval {
            low: if low.is_nan() { f64::NEG_INFINITY } else { low },
            high: if high.is_nan() { f64::INFINITY } else { high },
        }
    }

    fn hull(points: &[f64]) -> Self {
        if points.iter().any(|x| x.is_nan()) {
            return Interval::ALL;
        }
        Interval {
            low: points.iter().copied().fold(f64::INFINITY, f64::min),
            high: points.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// What is in both.
    pub fn and(self, other: Interval) -> Self {
        Interval::new(self.low.max(other.low), self.high.min(other.high))
    }

    fn times(self, other: Interval) -> Interval {
        // No element is infinite: 0 times an unbounded one is 0.
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        Interval::hull(&[
            product(self.low, other.low),
            product(self.low, other.high),
            product(self.high, other.low),
            product(self.high, other.high),
        ])
    }

    fn plus(self, other: Interval) -> Interval {
        Interval::new(self.low + other.low, self.high + other.high)
    }

    fn negated(self) -> Interval {
        Interval::new(-self.high, -self.low)
    }

    fn unary(self, f: Unary) -> Interval {
        let Interval { low, high } = self;
        match f {
            Unary::Neg => self.negated(),
            Unary::Exp
            | Unary::Tanh
            | Unary::Sigmoid
            | Unary::Softplus
            | Unary::LogSigmoid
            | Unary::Erf
            | Unary::Relu => Interval::new(f.eval(low), f.eval(high)),
            Unary::Log if high > 0.0 => Interval::new(low.max(0.0).ln(), high.ln()),
            Unary::Sqrt if high >= 0.0 => Interval::new(low.max(0.0).sqrt(), high.sqrt()),
            Unary::Rsqrt if high > 0.0 => {
                Interval::new(1.0 / high.sqrt(), 1.0 / low.max(0.0).sqrt())
            }
            Unary::Recip if low >= 0.0 && high > 0.0 => Interval::new(1.0 / high, 1.0 / low.abs()),
            Unary::Recip if high <= 0.0 && low < 0.0 => Interval::new(-1.0 / high.abs(), 1.0 / low),
            Unary::Silu if low >= 0.0 => Interval::new(f.eval(low), f.eval(high)),
            // The minimum of x * sigmoid(x) is -0.27846...
            Unary::Silu => Interval::new(-0.2785, high.max(0.0)),
            Unary::Gelu if low >= 0.0 => Interval::new(f.eval(low), f.eval(high)),
            // The minimum of x * Phi(x) is -0.16997...
            Unary::Gelu => Interval::new(-0.17, high.max(0.0)),
            Unary::Square => {
                let least = if low <= 0.0 && high >= 0.0 {
                    0.0
                } else {
                    f64::INFINITY
                };
                let ends = Interval::hull(&[low * low, high * high]);
                Interval::new(ends.low.min(least), ends.high)
            }
            Unary::Abs => {
                let least = if low <= 0.0 && high >= 0.0 {
                    0.0
                } else {
                    f64::INFINITY
                };
                let ends = Interval::hull(&[low.abs(), high.abs()]);
                Interval::new(ends.low.min(least), ends.high)
            }
            Unary::Sin | Unary::Cos => Interval::new(-1.0, 1.0),
            Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => Interval::ALL,
        }
    }

    fn binary(self, op: Binary, other: Interval) -> Interval {
        match op {
            Binary::Add => self.plus(other),
            Binary::Sub => self.plus(other.negated()),
            Binary::Mul => self.times(other),
            Binary::Div => self.times(other.unary(Unary::Recip)),
            Binary::Min => Interval::new(self.low.min(other.low), self.high.min(other.high)),
            Binary::Max => Interval::new(self.low.max(other.low), self.high.max(other.high)),
            // Monotone in each argument while the base is positive.
            Binary::Pow if self.low > 0.0 => Interval::hull(&[
                self.low.powf(other.low),
                self.low.powf(other.high),
                self.high.powf(other.low),
                self.high.powf(other.high),
            ]),
            Binary::Pow => Interval::ALL,
            Binary::Less | Binary::LessEqual | Binary::Equal => Interval::UNIT,
            Binary::When => Interval::new(other.low.min(0.0), other.high.max(0.0)),
        }
    }
}

/// Ranges of the values of a graph, found when asked for.
pub(super) struct Ranges<'g> {
    graph: &'g Graph,
    known: BTreeMap<ValueId, Interval>,
}

impl<'g> Ranges<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        Ranges {
            graph,
            known: BTreeMap::new(),
        }
    }

    /// The range of an expression over reads of values.
    pub fn of(&mut self, expr: &Expr, inputs: &[Access]) -> Interval {
        self.related(expr, inputs, 0)
    }

    /// The range of an expression whose parts may depend on each other.
    fn related(&mut self, expr: &Expr, inputs: &[Access], depth: usize) -> Interval {
        let apart = self.expression(expr, inputs, depth);
        let corners = relation::corners(expr, inputs, &mut |part| {
            self.expression(part, inputs, depth)
        });
        match corners {
            Some(corners) => apart.and(corners),
            None => apart,
        }
    }

    fn expression(&mut self, expr: &Expr, inputs: &[Access], depth: usize) -> Interval {
        match expr {
            Expr::Input(i) => match inputs.get(*i) {
                Some(access) => self.value(access.value, depth),
                None => Interval::ALL,
            },
            Expr::Const(c) => Interval::new(*c, *c),
            Expr::Index(axis) => Interval::new(0.0, self.graph.size(*axis) as f64 - 1.0),
            Expr::Position => Interval::new(0.0, f64::INFINITY),
            Expr::Unary(f, a) => self.expression(a, inputs, depth).unary(*f),
            Expr::Binary(op, a, b) => {
                if let Some((_, yes, no)) = expr.choice() {
                    let (yes, no) = (
                        self.expression(yes, inputs, depth),
                        self.expression(no, inputs, depth),
                    );
                    return Interval::new(yes.low.min(no.low), yes.high.max(no.high));
                }
                if let (Expr::Input(a), Expr::Input(b)) = (a.as_ref(), b.as_ref())
                    && let (Some(a), Some(b)) = (inputs.get(*a), inputs.get(*b))
                    && self.is_part_of_a_whole(*op, a, b, depth)
                {
                    return Interval::UNIT;
                }
                let a = self.expression(a, inputs, depth);
                let apart = a.binary(*op, self.expression(b, inputs, depth));
                if !matches!(op, Binary::Add | Binary::Sub) || depth > MAX_DEPTH {
                    return apart;
                }
                let graph = self.graph;
                let of_maxima =
                    maxima::bounds(graph, expr, inputs, &mut |v| self.value(v, depth + 1));
                of_maxima.map_or(apart, |of| apart.and(of))
            }
        }
    }

    /// Whether `a op b` is a share of a whole, or a sum of some shares of one.
    fn is_part_of_a_whole(&mut self, op: Binary, a: &Access, b: &Access, depth: usize) -> bool {
        let part = match op {
            Binary::Div => shares::numerator(self.graph, a, b),
            Binary::Sub => shares::of_running_sum(self.graph, a, b),
            _ => None,
        };
        part.is_some_and(|part| self.value(part, depth + 1).low >= 0.0)
    }

    fn value(&mut self, id: ValueId, depth: usize) -> Interval {
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        let Def::Op(op, _) = self.graph.value(id).def else {
            return Interval::ALL;
        };
        if depth > MAX_DEPTH {
            return Interval::ALL;
        }
        let op = self.graph.op(op);
        // A row before the first one reads the tail, which starts at zero.
        let delayed = op.inputs.iter().any(|a| a.delay != 0);
        let input = |i: usize| op.inputs.get(i).map(|a: &Access| a.value);
        let count = |axes: &[crate::AxisId]| {
            let n = self.graph.elements(axes) as f64;
            Interval::new(n, n)
        };
        let range = match &op.kind {
            // A weighted mean of rows that were computed: none from before the first is seen.
            OpKind::Attend { .. } => match input(2) {
                Some(values) => self.value(values, depth + 1),
                None => Interval::ALL,
            },
            _ if delayed => Interval::ALL,
            OpKind::Map { expr } => self.related(expr, &op.inputs, depth + 1),
            OpKind::Reduce {
                expr,
                combine,
                axes,
            } => {
                let n = count(axes);
                let one = self.related(expr, &op.inputs, depth + 1);
                match combine {
                    Combine::Sum => one.times(n),
                    Combine::Max => one,
                }
            }
            OpKind::Contract { axes } => {
                let n = count(axes);
                match (input(0), input(1)) {
                    (Some(a), Some(b)) => {
                        let a = self.value(a, depth + 1);
                        a.times(self.value(b, depth + 1)).times(n)
                    }
                    _ => Interval::ALL,
                }
            }
            OpKind::CumSum { axis } => {
                let n = Interval::new(1.0, self.graph.size(*axis) as f64);
                match op.inputs.first() {
                    Some(of) => {
                        let range = self.value(of.value, depth + 1).times(n);
                        match shares::of_a_whole(self.graph, of, *axis) {
                            // The running sum of shares of one whole never exceeds it.
                            true if range.low >= 0.0 => Interval::UNIT,
                            _ => range,
                        }
                    }
                    None => Interval::ALL,
                }
            }
            OpKind::Gather => match input(0) {
                Some(table) => self.value(table, depth + 1),
                None => Interval::ALL,
            },
            OpKind::Norm {
                kind: NormKind::L2 | NormKind::L2Max,
                gain: false,
                bias: false,
                ..
            } => Interval::new(-1.0, 1.0),
            OpKind::Norm { .. }
            | OpKind::Scan { .. }
            | OpKind::LastRow
            | OpKind::Scatter { .. }
            | OpKind::ScatterRows
            | OpKind::AttendBack { .. } => Interval::ALL,
        };
        self.known.insert(id, range);
        range
    }
}
