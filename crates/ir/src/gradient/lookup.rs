//! Transposes of table lookups and of cumulative sums.

use super::GradientError;
use super::transposer::{Origin, Transposer};
use crate::{Access, AxisId, Expr, IndexExpr, Op, OpKind, Precision, ValueId};

impl Transposer {
    /// `y = table[ids]`, with the cotangent of y.
    pub fn gather(&mut self, op: &Op, cotangent: ValueId) -> Result<(), GradientError> {
        let [table, ids] = op.inputs.as_slice() else {
            return Ok(());
        };
        let value = self.graph.value(table.value);
        let Some(entries) = value.axes.first().copied() else {
            return Ok(());
        };
        if value.rows || !self.wants(table) {
            return match self.wants(table) {
                true => Err(GradientError::TableWithRows {
                    op: op.name.clone(),
                    table: value.name.clone(),
                }),
                false => Ok(()),
            };
        }
        let origin = Origin::of(op);
        let along = self.along(table);
        let out = self.graph.value(op.outputs[0]).axes.clone();
        // Axes of the result that the table lacks are summed first.
        let over: Vec<AxisId> = out.into_iter().filter(|a| !along.contains(a)).collect();
        let rows_of = match over.is_empty() {
            true => cotangent,
            false => {
                let kind = OpKind::Reduce {
                    expr: Expr::Input(0),
                    combine: crate::Combine::Sum,
                    axes: over.clone(),
                };
                let given = vec![self.read(cotangent)];
                self.push(&origin, kind, given, true, &along, Precision::F32)
            }
        };
        let by_lost_axis = ids.index.iter().flat_map(|i| &i.terms);
        if by_lost_axis.into_iter().any(|t| over.contains(&t.0)) {
            return Err(GradientError::LookupPerAxis {
                op: op.name.clone(),
            });
        }
        let axes: Vec<AxisId> = [entries].into_iter().chain(along).collect();
        let inputs = vec![self.read(rows_of), ids.clone()];
        let kind = OpKind::ScatterRows;
        let part = self.push(&origin, kind, inputs, false, &axes, Precision::F32);
        let whole = Access {
            index: [IndexExpr::axis(entries)]
                .into_iter()
                .chain(table.index.iter().skip(1).cloned())
                .collect(),
            ..table.clone()
        };
        self.add(&origin, &whole, part)
    }

    /// `y = cumsum(x)` along an axis, with the cotangent of y: the same sum from the other end.
    pub fn cumulative_sum(
        &mut self,
        op: &Op,
        axis: AxisId,
        cotangent: ValueId,
    ) -> Result<(), GradientError> {
        let value = self.graph.value(op.outputs[0]);
        let (rows, axes) = (value.rows, value.axes.clone());
        if !self.wants(&op.inputs[0]) {
            return Ok(());
        }
        let last = self.graph.size(axis) as i64 - 1;
        let backwards = |value: ValueId| Access {
            index: axes
                .iter()
                .map(|a| match *a == axis {
                    true => IndexExpr {
                        base: last,
                        terms: vec![(axis, -1)],
                    },
                    false => IndexExpr::axis(*a),
                })
                .collect(),
            ..Access::plain(value, &axes)
        };
        let origin = Origin::of(op);
        let (kind, given) = (OpKind::CumSum { axis }, vec![backwards(cotangent)]);
        let sums = self.push(&origin, kind, given, rows, &axes, Precision::F32);
        let inputs = [backwards(sums)];
        self.contribute(
            &origin,
            &op.inputs[0],
            (Expr::Input(0), &inputs),
            &axes,
            rows,
        )
    }
}
