//! Tensors while they are being lowered: an expression over reads of values, not
//! yet cut into operations.

use crate::{Access, AxisId, Binary, Expr, IndexExpr, Unary, ValueId};

/// An element-wise expression over values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub expr: Expr,
    pub inputs: Vec<Access>,
    /// Axes in the order of storage, should it be stored.
    pub axes: Vec<AxisId>,
    /// Whether it has batch and time.
    pub rows: bool,
    /// For a declared parameter: how many atoms each declared dimension has.
    pub dimensions: Option<Vec<usize>>,
}

impl Tensor {
    /// A number.
    pub fn number(value: f64) -> Self {
        Tensor {
            expr: Expr::Const(value),
            inputs: Vec::new(),
            axes: Vec::new(),
            rows: false,
            dimensions: None,
        }
    }

    /// A value, read as it is stored.
    pub fn value(value: ValueId, axes: &[AxisId], rows: bool) -> Self {
        Tensor {
            expr: Expr::Input(0),
            inputs: vec![Access::plain(value, axes)],
            axes: axes.to_vec(),
            rows,
            dimensions: None,
        }
    }

    /// The number it is, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self.expr {
            Expr::Const(value) => Some(value),
            _ => None,
        }
    }

    /// The read it is, if there is nothing but a read.
    pub fn as_access(&self) -> Option<&Access> {
        match (&self.expr, self.inputs.as_slice()) {
            (Expr::Input(0), [access]) => Some(access),
            _ => None,
        }
    }

    /// A function of every element.
    pub fn unary(self, f: Unary) -> Self {
        match self.expr {
            Expr::Const(value) => Tensor::number(f.eval(value)),
            expr => Tensor {
                expr: Expr::unary(f, expr),
                dimensions: None,
                ..self
            },
        }
    }

    /// A function of the elements of two tensors, broadcast by axis name.
    pub fn binary(op: Binary, a: Tensor, b: Tensor) -> Self {
        match (op, a.as_number(), b.as_number()) {
            (_, Some(x), Some(y)) => return Tensor::number(op.eval(x, y)),
            // Neutral constants would otherwise reach every kernel.
            (Binary::Add, Some(0.0), _) | (Binary::Mul, Some(1.0), _) => return b,
            (Binary::When, Some(c), _) if c != 0.0 => return b,
            (Binary::When, Some(_), _) | (Binary::When, _, Some(0.0)) => {
                return Tensor::number(0.0);
            }
            (Binary::Add | Binary::Sub, _, Some(0.0))
            | (Binary::Mul | Binary::Div | Binary::Pow, _, Some(1.0))
            | (Binary::Min, _, Some(f64::INFINITY))
            | (Binary::Max, _, Some(f64::NEG_INFINITY)) => return a,
            _ => {}
        }
        let axes = union(&a.axes, &b.axes);
        let mut inputs = a.inputs;
        let places: Vec<usize> = b
            .inputs
            .into_iter()
            .map(|access| {
                inputs.iter().position(|i| *i == access).unwrap_or_else(|| {
                    inputs.push(access);
                    inputs.len() - 1
                })
            })
            .collect();
        Tensor {
            expr: Expr::binary(op, a.expr, b.expr.substitute(&|i| Expr::Input(places[i]))),
            inputs,
            axes,
            rows: a.rows || b.rows,
            dimensions: None,
        }
    }

    /// The same tensor with its index variables replaced; `axes` are the new ones.
    pub fn reindex(&self, axes: Vec<AxisId>, f: &impl Fn(AxisId) -> IndexExpr) -> Self {
        let inputs = self
            .inputs
            .iter()
            .map(|access| Access {
                index: access.index.iter().map(|i| i.substitute(f)).collect(),
                ..access.clone()
            })
            .collect();
        Tensor {
            expr: self.expr.substitute_axes(f),
            inputs,
            axes,
            rows: self.rows,
            dimensions: None,
        }
    }
}

/// The axes of a broadcast: those of the larger operand if it covers the other, else the
/// first operand's followed by what the second adds.
pub(super) fn union(a: &[AxisId], b: &[AxisId]) -> Vec<AxisId> {
    if b.len() > a.len() && a.iter().all(|x| b.contains(x)) {
        return b.to_vec();
    }
    let mut out = a.to_vec();
    out.extend(b.iter().filter(|x| !a.contains(x)));
    out
}
