//! Cutting out operations: what becomes a value of the graph, under which name.

use super::error::{Problem, Result, fail};
use super::lower::Lowering;
use super::scope::{MAX_TENSOR_AXES, too_many_axes};
use super::tensor::Tensor;
use crate::{Access, AxisId, Def, Expr, Op, OpId, OpKind, Precision, Span, Value, ValueId};

impl Lowering<'_> {
    /// The value that holds a tensor; computes it by an operation unless it is one already.
    pub fn store(&mut self, tensor: &Tensor, span: Span) -> Result<ValueId> {
        if let Some(access) = tensor.as_access() {
            let value = self.graph.value(access.value);
            let kept = self.precision == Precision::Storage
                || value.precision == Precision::F32
                || value.precision == Precision::Index;
            if kept && value.axes == tensor.axes && access.is_plain(&value.axes) {
                return Ok(access.value);
            }
        }
        self.emit(
            OpKind::Map {
                expr: tensor.expr.clone(),
            },
            tensor.inputs.clone(),
            tensor.axes.clone(),
            tensor.rows,
            span,
        )
    }

    /// A read of a tensor at the current row: a view of a value stays a view, anything else
    /// is stored first.
    pub fn access(&mut self, tensor: &Tensor, span: Span) -> Result<Access> {
        if let Some(access) = tensor.as_access()
            && access.delay == 0
        {
            return Ok(access.clone());
        }
        let id = self.store(tensor, span)?;
        Ok(Access::plain(id, &tensor.axes))
    }

    /// Adds an operation with one result, or finds the equal one that is there.
    pub fn emit(
        &mut self,
        kind: OpKind,
        inputs: Vec<Access>,
        axes: Vec<AxisId>,
        rows: bool,
        span: Span,
    ) -> Result<ValueId> {
        let key = format!("{kind:?} {inputs:?} {axes:?} {:?}", self.precision);
        if let Some(op) = self.same.get(&key).copied() {
            let id = self.graph.op(op).outputs[0];
            if self.graph.op(op).layer != self.layer_number() {
                // Shared by layers: belongs to none.
                self.graph.ops[op.index()].layer = None;
                self.graph.values[id.index()].layer = None;
            }
            return Ok(id);
        }
        let op = self.add(kind, inputs, vec![axes], rows, span)?;
        self.same.insert(key, op);
        Ok(self.graph.op(op).outputs[0])
    }

    /// Adds an operation.
    pub fn add(
        &mut self,
        kind: OpKind,
        inputs: Vec<Access>,
        results: Vec<Vec<AxisId>>,
        rows: bool,
        span: Span,
    ) -> Result<OpId> {
        self.spend(span)?;
        let op = OpId(self.graph.ops.len() as u32);
        let layer = self.layer_number();
        let base = self.qualified(
            &self
                .frames
                .last()
                .map_or(String::new(), |f| f.statement.clone()),
        );
        let count = self.taken.entry((layer, format!("{base}."))).or_insert(0);
        *count += 1;
        let name = format!("{base}.{count}");
        let mut outputs = Vec::new();
        for (i, axes) in results.into_iter().enumerate() {
            self.check_elements(&axes, &name, span)?;
            let id = self.value(Value {
                name: if i == 0 {
                    name.clone()
                } else {
                    format!("{name}.{i}")
                },
                rows,
                axes,
                precision: self.precision,
                def: Def::Op(op, i as u32),
                layer,
            });
            self.anonymous.insert(id);
            outputs.push(id);
        }
        self.graph.ops.push(Op {
            name,
            kind,
            inputs,
            outputs,
            tails: Vec::new(),
            layer,
            span: Some(span),
        });
        Ok(op)
    }

    pub fn check_elements(&self, axes: &[AxisId], name: &str, span: Span) -> Result<()> {
        match self.axes.elements(axes) {
            Some(_) if axes.len() > MAX_TENSOR_AXES => too_many_axes(format!("`{name}`"), span),
            Some(_) => Ok(()),
            None => fail(
                Problem::BadSize {
                    what: format!(
                        "the number of elements of `{name}`{}",
                        self.axes.describe(axes)
                    ),
                    size: format!(
                        "{:.3e}",
                        axes.iter().fold(1.0, |n, a| n * self.axes.size(*a) as f64)
                    ),
                    limit: "2^40".into(),
                },
                span,
            ),
        }
    }

    /// A tensor that only reads, stored if it has to be.
    pub fn view(&mut self, tensor: Tensor, span: Span) -> Result<Tensor> {
        let access = self.access(&tensor, span)?;
        Ok(Tensor {
            expr: Expr::Input(0),
            inputs: vec![access],
            axes: tensor.axes,
            rows: tensor.rows,
            dimensions: tensor.dimensions,
        })
    }
}
