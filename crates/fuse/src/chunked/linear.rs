//! Values that are rows of memory, each times a number of its token.
//!
//! `v_t = c_t x_t` enters a chunk's products as `x_t`, and `c_t` as part of the weights of pairs of tokens and of
//! what comes to the state: no row has to be computed, and no product is rounded. Lives here: whether the
//! expression of values has this form. Never here: where rows lie.

use super::Parts;
use super::staging::{at, operand_rows};
use crate::plan::Storage;
use fusec_ir::{Access, Binary, Expr, Graph, IndexExpr, OpId, OpKind, StepRef, Unary};

/// An expression, as far as it depends on the value columns.
#[derive(Clone)]
enum Form {
    /// Not at all.
    OfToken,
    /// As a multiple of these rows.
    Multiple(Access),
    /// In some other way.
    Other,
}

impl Form {
    fn times(self, other: Form) -> Form {
        match (self, other) {
            (Form::OfToken, form) | (form, Form::OfToken) => form,
            _ => Form::Other,
        }
    }

    /// What is left where nothing but numbers of the token may be combined.
    fn and(self, other: Form) -> Form {
        match (self, other) {
            (Form::OfToken, Form::OfToken) => Form::OfToken,
            _ => Form::Other,
        }
    }
}

/// The bf16 rows that the values of a step are a multiple of, by a number for each token. `None` if
/// they are not.
pub fn scaled_rows(
    graph: &Graph,
    parts: &Parts<'_>,
    scan: OpId,
    ops: &[OpId],
    storage: Storage,
) -> Option<Access> {
    let of = Of {
        graph,
        parts,
        scan,
        ops,
    };
    let v = parts.only_update()?.v;
    let by = parts.axes_of(v).iter().map(|a| IndexExpr::axis(*a));
    let Form::Multiple(access) = of.item(v, &by.collect::<Vec<_>>()) else {
        return None;
    };
    operand_rows(graph, &access, &parts.layout.value, storage).then_some(access)
}

struct Of<'a> {
    graph: &'a Graph,
    parts: &'a Parts<'a>,
    scan: OpId,
    ops: &'a [OpId],
}

impl Of<'_> {
    /// An item of the step, its axes read at `by`.
    fn item(&self, item: StepRef, by: &[IndexExpr]) -> Form {
        let place = at(self.parts.axes_of(item), by);
        match item {
            StepRef::Input(i) => match self.graph.op(self.scan).inputs.get(i) {
                Some(access) => {
                    let index = access.index.iter().map(|e| e.substitute(&place));
                    self.read(&Access {
                        index: index.collect(),
                        ..access.clone()
                    })
                }
                None => Form::Other,
            },
            StepRef::Op(i) => {
                let Some(op) = self.parts.found.coefficients.get(i) else {
                    return Form::Other;
                };
                let operand = |n: usize| {
                    let access = &op.inputs[n];
                    let by: Vec<IndexExpr> = access.axes.iter().map(|a| place(*a)).collect();
                    self.item(access.item, &by)
                };
                self.expression(&op.expr.substitute_axes(&place), &operand)
            }
            StepRef::State(_) => Form::Other,
        }
    }

    fn read(&self, access: &Access) -> Form {
        let graph = self.graph;
        if !access.index.iter().any(|index| self.along(index)) {
            return Form::OfToken;
        }
        let made = graph.producer(access.value);
        let here = made.filter(|id| *id != self.scan && self.ops.binary_search(id).is_ok());
        let value = graph.value(access.value);
        match here.map(|id| graph.op(id)) {
            None if value.rows && access.delay == 0 && access.tail.is_none() => {
                Form::Multiple(access.clone())
            }
            Some(op) if access.delay == 0 => {
                let OpKind::Map { expr } = &op.kind else {
                    return Form::Other;
                };
                let place = at(&value.axes, &access.index);
                let operand = |n: usize| {
                    let inner = &op.inputs[n];
                    let index = inner.index.iter().map(|e| e.substitute(&place));
                    self.read(&Access {
                        index: index.collect(),
                        ..inner.clone()
                    })
                };
                self.expression(&expr.substitute_axes(&place), &operand)
            }
            _ => Form::Other,
        }
    }

    fn expression(&self, expr: &Expr, operand: &dyn Fn(usize) -> Form) -> Form {
        let of = |expr: &Expr| self.expression(expr, operand);
        match expr {
            Expr::Input(n) => operand(*n),
            Expr::Const(_) | Expr::Position => Form::OfToken,
            Expr::Index(axis) if self.along(&IndexExpr::axis(*axis)) => Form::Other,
            Expr::Index(_) => Form::OfToken,
            Expr::Unary(Unary::Neg, a) => of(a),
            Expr::Unary(_, a) => of(a).and(Form::OfToken),
            Expr::Binary(Binary::Mul, a, b) => of(a).times(of(b)),
            Expr::Binary(Binary::Div, a, b) => match of(b) {
                Form::OfToken => of(a),
                _ => Form::Other,
            },
            Expr::Binary(_, a, b) => of(a).and(of(b)),
        }
    }

    /// Whether an index varies along the value columns.
    fn along(&self, index: &IndexExpr) -> bool {
        let value = &self.parts.layout.value;
        let mut axes = index.terms.iter().map(|(axis, _)| *axis);
        axes.any(|axis| value.contains(&axis) && self.graph.size(axis) > 1)
    }
}
