//! Transposes of pointwise operations and of reductions.
//!
//! A maximum over axes gives equal parts to all elements that attain it, as `torch.amax` does.

use super::GradientError;
use super::expression::{derivative, div};
use super::transposer::{Origin, Transposer};
use crate::{Access, AxisId, Binary, Combine, Expr, IndexExpr, Op, OpKind, Precision, ValueId};

impl Transposer {
    /// `y = expr`, with the cotangent of y.
    pub fn map(&mut self, op: &Op, expr: &Expr, cotangent: ValueId) -> Result<(), GradientError> {
        let axes = self.graph.value(op.outputs[0]).axes.clone();
        let mut inputs = op.inputs.clone();
        inputs.push(self.read(cotangent));
        self.per_input(op, expr, &Expr::Input(op.inputs.len()), &inputs, &axes)
    }

    /// `y = combine over axes of expr`, with the cotangent of y.
    pub fn reduce(
        &mut self,
        op: &Op,
        (expr, combine, over): (&Expr, Combine, &[AxisId]),
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        let y = op.outputs[0];
        let axes = self.graph.value(y).axes.clone();
        let mut inputs = op.inputs.clone();
        let at = inputs.len();
        inputs.push(self.read(cotangent));
        let factor = match combine {
            Combine::Sum => Expr::Input(at),
            Combine::Max => {
                inputs.push(self.read(y));
                let attains = Expr::binary(Binary::Equal, expr.clone(), Expr::Input(at + 1));
                let kind = OpKind::Reduce {
                    expr: attains.clone(),
                    combine: Combine::Sum,
                    axes: over.to_vec(),
                };
                let rows = self.graph.value(y).rows;
                let (origin, given) = (Origin::of(op), inputs.clone());
                let count = self.push(&origin, kind, given, rows, &axes, Precision::F32);
                inputs.push(self.read(count));
                let share = div(Expr::Input(at), Expr::Input(at + 2));
                Expr::binary(Binary::When, attains, share)
            }
        };
        let variables: Vec<AxisId> = axes.iter().chain(over).copied().collect();
        self.per_input(op, expr, &factor, &inputs, &variables)
    }

    /// `y = x` placed at some indices and 0 elsewhere, with the cotangent of y.
    pub fn placed(
        &mut self,
        op: &Op,
        (axes, index): (&[AxisId], &[IndexExpr]),
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        let rows = self.graph.value(op.outputs[0]).rows;
        let read = Access {
            index: index.to_vec(),
            ..self.read(cotangent)
        };
        match op.inputs.first() {
            Some(access) if self.wants(access) => {
                let given = (Expr::Input(0), &[read][..]);
                self.contribute(&Origin::of(op), access, given, axes, rows)
            }
            _ => Ok(()),
        }
    }

    fn per_input(
        &mut self,
        op: &Op,
        expr: &Expr,
        factor: &Expr,
        inputs: &[Access],
        variables: &[AxisId],
    ) -> Result<(), GradientError> {
        let rows = self.graph.value(op.outputs[0]).rows;
        for (k, access) in op.inputs.iter().enumerate() {
            if !self.wants(access) {
                continue;
            }
            if let Some(expr) = derivative(expr, k, factor) {
                self.contribute(&Origin::of(op), access, (expr, inputs), variables, rows)?;
            }
        }
        Ok(())
    }
}
