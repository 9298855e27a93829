//! Transposes of contractions: two more of them, the one to a weight summed over B and T.

use super::GradientError;
use super::transposer::{Origin, Transposer};
use crate::{AxisId, Op, OpKind, Precision, ValueId};

impl Transposer {
    /// `y = sum over axes of a * b`, with the cotangent of y.
    pub fn contraction(
        &mut self,
        op: &Op,
        axes: &[AxisId],
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        let out = &self.graph.value(op.outputs[0]).axes;
        let variables: Vec<AxisId> = out.iter().chain(axes).copied().collect();
        for (k, access) in op.inputs.iter().enumerate() {
            if !self.wants(access) {
                continue;
            }
            let along = self.along(access);
            let over = variables.iter().copied().filter(|v| !along.contains(v));
            let kind = OpKind::Contract {
                axes: over.collect(),
            };
            let inputs = vec![self.read(cotangent), op.inputs[1 - k].clone()];
            let target = self.graph.value(access.value);
            let (rows, precision) = match target.rows {
                true => (true, target.precision),
                false => (false, Precision::F32),
            };
            let origin = Origin::of(op);
            let part = self.push(&origin, kind, inputs, rows, &along, precision);
            self.add(&origin, access, part)?;
        }
        Ok(())
    }
}
