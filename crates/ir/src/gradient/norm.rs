//! Transposes of normalisations. Statistics are computed again from the operand.
//!
//! With `u = x` less the mean (a layer norm) or `u = x`, `r` the factor of a line, `h` the cotangent
//! times the gain, and `mean` a sum over the line where the norm is one over a sum:
//!
//! `dx = r * (h - mean(h) - u * r * mean(h * u * r))`, the first mean of a layer norm only.
//!
//! `l2_norm_max` is differentiated as `torch.nn.functional.normalize`: the factor of a line no longer
//! than `eps` is a constant.

use super::GradientError;
use super::expression::{add, mul, number, sub};
use super::transposer::{Origin, Transposer};
use crate::{
    Access, AxisId, Binary, Combine, Expr, NormKind, Op, OpKind, Precision, Unary, ValueId,
};

/// The fields of [`OpKind::Norm`].
pub(super) struct Norm<'a> {
    pub kind: NormKind,
    pub axes: &'a [AxisId],
    pub eps: f64,
    pub gain: bool,
    pub bias: bool,
}

/// Inputs of the expressions below, in order.
const X: Expr = Expr::Input(0);
const COTANGENT: Expr = Expr::Input(1);
const GAIN: Expr = Expr::Input(2);
const MEAN: Expr = Expr::Input(3);
const FACTOR: Expr = Expr::Input(4);

impl Transposer {
    /// `y = norm(x) * gain + bias`, with the cotangent of y.
    pub fn norm(
        &mut self,
        op: &Op,
        norm: Norm<'_>,
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        let origin = Origin::of(op);
        let value = self.graph.value(op.outputs[0]);
        let (rows, axes) = (value.rows, value.axes.clone());
        let lines: Vec<AxisId> = axes
            .iter()
            .copied()
            .filter(|a| !norm.axes.contains(a))
            .collect();
        let share = match norm.kind {
            NormKind::Layer | NormKind::Rms => 1.0 / self.graph.elements(norm.axes) as f64,
            NormKind::L2 | NormKind::L2Max => 1.0,
        };
        // What is not there is read nowhere.
        let x = op.inputs[0].clone();
        let given = self.read(cotangent);
        let gain = op.inputs.get(1).filter(|_| norm.gain).unwrap_or(&x).clone();
        let mut inputs: Vec<Access> = vec![x.clone(), given, gain, x.clone(), x.clone()];
        let line = |me: &mut Self, expr: Expr, inputs: &[Access]| {
            let kind = OpKind::Reduce {
                expr: mul(expr, number(share)),
                combine: Combine::Sum,
                axes: norm.axes.to_vec(),
            };
            let value = me.push(&origin, kind, inputs.to_vec(), rows, &lines, Precision::F32);
            me.read(value)
        };
        let centred = match norm.kind {
            NormKind::Layer => {
                inputs[3] = line(self, X, &inputs);
                sub(X, MEAN)
            }
            _ => X,
        };
        let square = Expr::unary(Unary::Square, centred.clone());
        let squares = line(self, square, &inputs);
        let root = Expr::unary(Unary::Sqrt, Expr::Input(0));
        let factor = match norm.kind {
            NormKind::L2Max => Expr::unary(
                Unary::Recip,
                Expr::binary(Binary::Max, root.clone(), number(norm.eps)),
            ),
            _ => Expr::unary(Unary::Rsqrt, add(Expr::Input(0), number(norm.eps))),
        };
        let kind = OpKind::Map { expr: factor };
        let factor = vec![squares.clone()];
        let factor = self.push(&origin, kind, factor, rows, &lines, Precision::F32);
        inputs[4] = self.read(factor);

        let unit = mul(centred, FACTOR);
        if norm.bias && self.wants(&op.inputs[op.inputs.len() - 1]) {
            let access = &op.inputs[op.inputs.len() - 1];
            self.contribute(&origin, access, (COTANGENT, &inputs), &axes, rows)?;
        }
        if norm.gain && self.wants(&op.inputs[1]) {
            let expr = mul(COTANGENT, unit.clone());
            self.contribute(&origin, &op.inputs[1], (expr, &inputs), &axes, rows)?;
        }
        if !self.wants(&x) {
            return Ok(());
        }
        let scaled = match norm.gain {
            true => mul(COTANGENT, GAIN),
            false => COTANGENT,
        };
        let along = line(self, mul(scaled.clone(), unit.clone()), &inputs);
        inputs.push(along);
        let mut slope = Expr::Input(5);
        if norm.kind == NormKind::L2Max {
            inputs.push(squares);
            let root = Expr::unary(Unary::Sqrt, Expr::Input(6));
            let longer = Expr::binary(Binary::LessEqual, number(norm.eps), root);
            slope = Expr::binary(Binary::When, longer, slope);
        }
        let mut inner = sub(scaled.clone(), mul(unit, slope));
        if norm.kind == NormKind::Layer {
            let mean = line(self, scaled, &inputs);
            inputs.push(mean);
            inner = sub(inner, Expr::Input(inputs.len() - 1));
        }
        self.contribute(&origin, &x, (mul(FACTOR, inner), &inputs), &axes, rows)
    }
}
