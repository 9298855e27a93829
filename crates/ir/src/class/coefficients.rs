//! Coefficients written out as statements of a step that read inputs only.

use super::Reason;
use super::polynomial::{Atom, Monomial, Polynomial, Var};
use crate::{
    AxisId, Binary, Combine, Expr, Graph, Recurrence, StepAccess, StepKind, StepOp, StepRef,
};
use std::collections::BTreeSet;

/// The statements so far.
pub(super) struct Coefficients<'a> {
    graph: &'a Graph,
    step: &'a Recurrence,
    /// The axes of results come in this order.
    order: Vec<AxisId>,
    pub ops: Vec<StepOp>,
}

/// A statement under construction.
struct Reads {
    inputs: Vec<StepAccess>,
}

impl Reads {
    fn of(&mut self, item: StepRef, axes: Vec<AxisId>) -> Expr {
        let access = StepAccess { item, axes };
        let at = self.inputs.iter().position(|a| *a == access);
        Expr::Input(at.unwrap_or_else(|| {
            self.inputs.push(access);
            self.inputs.len() - 1
        }))
    }
}

impl<'a> Coefficients<'a> {
    pub fn new(graph: &'a Graph, step: &'a Recurrence) -> Self {
        let mut order: Vec<AxisId> = Vec::new();
        for axis in step.states.iter().flat_map(|s| &s.axes) {
            if !order.contains(axis) {
                order.push(*axis);
            }
        }
        Coefficients {
            graph,
            step,
            order,
            ops: Vec::new(),
        }
    }

    /// The item that holds a polynomial in no state: an input if it is one, else a statement.
    pub fn emit(&mut self, name: &str, value: &Polynomial) -> Result<StepRef, Reason> {
        if let [(monomial, c)] = value.terms.as_slice()
            && c.0 == 1.0
            && let [Atom::Input(input, index)] = monomial.factors.as_slice()
            && let Some(formal) = self.step.inputs.get(*input)
            && index
                .iter()
                .copied()
                .eq(formal.axes.iter().map(|a| Var::Axis(*a)))
        {
            return Ok(StepRef::Input(*input));
        }
        let mut axes = value.axes();
        let place = |a: &AxisId| self.order.iter().position(|o| o == a);
        axes.sort_by_key(|a| (place(a).unwrap_or(usize::MAX), *a));
        let mut reads = Reads { inputs: vec![] };
        let expr = self.sum(name, value, &mut reads)?;
        Ok(self.push(name, axes, StepKind::Map, expr, reads))
    }

    fn push(
        &mut self,
        name: &str,
        axes: Vec<AxisId>,
        kind: StepKind,
        expr: Expr,
        reads: Reads,
    ) -> StepRef {
        let inputs = reads.inputs;
        let same = self
            .ops
            .iter()
            .position(|o| o.axes == axes && o.kind == kind && o.expr == expr && o.inputs == inputs);
        StepRef::Op(same.unwrap_or_else(|| {
            self.ops.push(StepOp {
                places: crate::Places::default(),
                name: name.to_owned(),
                axes,
                kind,
                expr,
                inputs,
            });
            self.ops.len() - 1
        }))
    }

    fn sum(&mut self, name: &str, value: &Polynomial, reads: &mut Reads) -> Result<Expr, Reason> {
        let mut out: Option<Expr> = None;
        // Largest monomials were written first more often than not.
        for (monomial, c) in value.terms.iter().rev() {
            let (negative, size) = (c.0 < 0.0, c.0.abs());
            let product = self.product(name, monomial, size, reads)?;
            out = Some(match (out, negative) {
                (None, false) => product,
                (None, true) => Expr::unary(crate::Unary::Neg, product),
                (Some(sum), false) => Expr::binary(Binary::Add, sum, product),
                (Some(sum), true) => Expr::binary(Binary::Sub, sum, product),
            });
        }
        Ok(out.unwrap_or(Expr::Const(0.0)))
    }

    fn product(
        &mut self,
        name: &str,
        monomial: &Monomial,
        size: f64,
        reads: &mut Reads,
    ) -> Result<Expr, Reason> {
        let mut out: Option<Expr> = None;
        for factor in monomial.factors.iter().rev() {
            let factor = self.factor(name, factor, reads)?;
            out = Some(match out {
                Some(product) => Expr::binary(Binary::Mul, product, factor),
                None => factor,
            });
        }
        Ok(match out {
            None => Expr::Const(size),
            Some(product) if size == 1.0 => product,
            Some(product) => Expr::binary(Binary::Mul, product, Expr::Const(size)),
        })
    }

    fn factor(&mut self, name: &str, atom: &Atom, reads: &mut Reads) -> Result<Expr, Reason> {
        Ok(match atom {
            Atom::Input(input, index) => reads.of(StepRef::Input(*input), plain(index)?),
            Atom::Index(v) => Expr::Index(axis(*v)?),
            Atom::Position => Expr::Position,
            Atom::Unary(f, of) => Expr::unary(*f, self.sum(name, of, reads)?),
            Atom::Binary(op, a, b) => {
                let a = self.sum(name, a, reads)?;
                Expr::binary(*op, a, self.sum(name, b, reads)?)
            }
            Atom::Sum { sizes, first, body } => {
                let product = Polynomial::of(Monomial {
                    state: None,
                    factors: body.clone(),
                });
                self.reduction(name, Combine::Sum, sizes, *first, &product, reads)?
            }
            Atom::Max { sizes, first, of } => {
                self.reduction(name, Combine::Max, sizes, *first, of, reads)?
            }
        })
    }

    /// A reduction as a statement of its own, and the read of it.
    fn reduction(
        &mut self,
        name: &str,
        combine: Combine,
        sizes: &[usize],
        first: u32,
        of: &Polynomial,
        reads: &mut Reads,
    ) -> Result<Expr, Reason> {
        let free: BTreeSet<AxisId> = of.axes().into_iter().collect();
        let mut over: Vec<AxisId> = Vec::new();
        for size in sizes {
            // Axes of the states first: the sum then runs along one that people know.
            let all = (0..self.graph.axes.len()).map(|i| AxisId(i as u32));
            let chosen =
                self.order.iter().copied().chain(all).find(|a| {
                    self.graph.size(*a) == *size && !free.contains(a) && !over.contains(a)
                });
            over.push(chosen.ok_or(Reason::NoAxis { size: *size })?);
        }
        let named = of.rename(&|v| match v {
            Var::Bound(n) if n >= first => match over.get((n - first) as usize) {
                Some(axis) => Var::Axis(*axis),
                None => v,
            },
            v => v,
        });
        let axes: Vec<AxisId> = free.into_iter().collect();
        let mut inner = Reads { inputs: vec![] };
        let expr = self.sum(name, &named, &mut inner)?;
        let kind = StepKind::Reduce {
            combine,
            axes: over,
        };
        let item = self.push(&format!("{name}.sum"), axes.clone(), kind, expr, inner);
        Ok(reads.of(item, axes))
    }
}

fn axis(v: Var) -> Result<AxisId, Reason> {
    match v {
        Var::Axis(axis) => Ok(axis),
        Var::Slot(_) | Var::Bound(_) | Var::Open(_) => Err(Reason::Probe {
            what: "a coefficient refers to an index that is bound elsewhere".into(),
        }),
    }
}

fn plain(index: &[Var]) -> Result<Vec<AxisId>, Reason> {
    index.iter().map(|v| axis(*v)).collect()
}
