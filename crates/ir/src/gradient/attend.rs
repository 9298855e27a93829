//! The transpose of attention: one operation that gives the cotangents of all three operands.

use super::GradientError;
use super::transposer::{Origin, Transposer};
use crate::{Access, AxisId, Def, Op, OpId, OpKind, Precision, ValueId};

impl Transposer {
    /// `y = attention(q, k, v)`, with the cotangent of y.
    pub fn attention(
        &mut self,
        op: &Op,
        (axes, window, scale): (&[AxisId], u32, f64),
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        if !op.inputs.iter().any(|access| self.wants(access)) {
            return Ok(());
        }
        let origin = Origin::of(op);
        let at = OpId(self.graph.ops.len() as u32);
        let mut outputs = Vec::new();
        for (k, access) in op.inputs.iter().enumerate() {
            let value = self.graph.value(access.value);
            let (rows, axes) = (value.rows, value.axes.clone());
            let precision = match rows {
                true => value.precision,
                false => Precision::F32,
            };
            outputs.push(self.value(&origin, rows, &axes, precision, Def::Op(at, k as u32)));
        }
        let mut inputs = op.inputs.clone();
        inputs.push(self.read(cotangent));
        let kind = OpKind::AttendBack {
            axes: axes.to_vec(),
            window,
            scale,
        };
        self.append(&origin, kind, inputs, outputs.clone());
        for (access, output) in op.inputs.iter().zip(outputs) {
            if self.wants(access) {
                // It is over the operand's own axes and rows.
                let own = self.graph.value(access.value).axes.clone();
                self.add(&origin, &Access::plain(access.value, &own), output)?;
            }
        }
        Ok(())
    }
}
