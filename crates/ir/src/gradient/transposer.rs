//! A graph that grows by transposed operations, and the cotangents that wait for their operation.
//!
//! A cotangent is the derivative of the scalar that is differentiated by a value, of the value's own
//! shape. It is a sum of contributions, one per read of the value, each made over the index
//! variables that the read runs along and brought to the value's axes by the inverse of the read:
//! by reading it another way where every element of the value was read once at most and in full,
//! else by a scatter.

use super::{GradientError, expression};
use crate::{
    Access, AxisId, Combine, Def, Expr, Graph, IndexExpr, Op, OpId, OpKind, Precision, StateId,
    Value, ValueId,
};
use std::collections::BTreeMap;

/// One read's part of a cotangent.
#[derive(Clone, Debug)]
pub(super) struct Contribution {
    /// Over the index variables of the read.
    pub value: ValueId,
    /// Row t of it belongs to row `t - ahead` of the operand.
    pub ahead: i32,
    /// How it is brought to the operand's axes.
    pub inverse: Inverse,
}

/// The transpose of the indices of a read.
#[derive(Clone, Debug)]
pub(super) enum Inverse {
    /// Per axis of the contribution, its index in terms of the operand's axes.
    Read(Vec<IndexExpr>),
    /// Per axis of the operand, the index that was read in terms of the contribution's axes.
    Scatter(Vec<IndexExpr>),
}

/// What a new operation is called and belongs to.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub name: String,
    pub layer: Option<u32>,
    pub span: Option<crate::Span>,
}

impl Origin {
    /// Of the transpose of an operation.
    pub fn of(op: &Op) -> Self {
        Origin {
            name: op.name.clone(),
            layer: op.layer,
            span: op.span,
        }
    }
}

/// See the module.
pub(super) struct Transposer {
    /// What is transposed, and after it what was made so far.
    pub graph: Graph,
    /// Whether a value's cotangent is wanted; of the values of the graph that is transposed.
    pub wanted: Vec<bool>,
    /// Contributions whose sum has not been taken.
    pub pending: BTreeMap<ValueId, Vec<Contribution>>,
    /// Transposed steps and steps that hand out their states, made once each.
    pub steps: super::scan::Steps,
}

impl Transposer {
    pub fn new(graph: Graph, wanted: Vec<bool>) -> Self {
        Transposer {
            graph,
            wanted,
            pending: BTreeMap::new(),
            steps: Default::default(),
        }
    }

    /// Whether the operand of an access gets a cotangent.
    pub fn wants(&self, access: &Access) -> bool {
        self.wanted[access.value.index()]
    }

    /// Appends an operation with one result.
    pub fn push(
        &mut self,
        origin: &Origin,
        kind: OpKind,
        inputs: Vec<Access>,
        rows: bool,
        axes: &[AxisId],
        precision: Precision,
    ) -> ValueId {
        let op = OpId(self.graph.ops.len() as u32);
        let value = self.value(origin, rows, axes, precision, Def::Op(op, 0));
        self.append(origin, kind, inputs, vec![value]);
        value
    }

    /// Appends a value.
    pub fn value(
        &mut self,
        origin: &Origin,
        rows: bool,
        axes: &[AxisId],
        precision: Precision,
        def: Def,
    ) -> ValueId {
        self.graph.values.push(Value {
            name: format!("d.{}", origin.name),
            rows,
            axes: axes.to_vec(),
            precision,
            def,
            layer: origin.layer,
        });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    /// Appends an operation whose results are there.
    pub fn append(
        &mut self,
        origin: &Origin,
        kind: OpKind,
        inputs: Vec<Access>,
        outputs: Vec<ValueId>,
    ) {
        self.graph.ops.push(Op {
            name: format!("d.{}", origin.name),
            kind,
            inputs,
            outputs,
            tails: Vec::<StateId>::new(),
            layer: origin.layer,
            span: origin.span,
        });
    }

    /// Reads a value as it is.
    pub fn read(&self, value: ValueId) -> Access {
        Access::plain(value, &self.graph.value(value).axes)
    }

    /// Adds `expr` over `inputs`, evaluated at every point of `variables` (and every row if
    /// `rows`), to the cotangent of what `access` reads there.
    pub fn contribute(
        &mut self,
        origin: &Origin,
        access: &Access,
        (expr, inputs): (Expr, &[Access]),
        variables: &[AxisId],
        rows: bool,
    ) -> Result<(), GradientError> {
        let along = self.along(access);
        let over: Vec<AxisId> = variables
            .iter()
            .copied()
            .filter(|v| !along.contains(v))
            .collect();
        let target = self.graph.value(access.value);
        let (own_rows, precision) = (target.rows, self.precision(target));
        let (expr, inputs) = compressed(expr, inputs);
        let sums = rows && !own_rows;
        let kind = match over.is_empty() && !sums {
            true => OpKind::Map { expr },
            false => OpKind::Reduce {
                expr,
                combine: Combine::Sum,
                axes: over,
            },
        };
        let value = self.push(origin, kind, inputs, own_rows, &along, precision);
        self.add(origin, access, value)
    }

    /// Cotangents of parameters and of what follows from them are f32; others are stored as their
    /// value is.
    fn precision(&self, value: &Value) -> Precision {
        match value.rows {
            true => value.precision,
            false => Precision::F32,
        }
    }

    /// The index variables that an access runs along, in the order of the operand's axes.
    pub fn along(&self, access: &Access) -> Vec<AxisId> {
        let mut along = Vec::new();
        for (axis, _) in access.index.iter().flat_map(|i| &i.terms) {
            if !along.contains(axis) {
                along.push(*axis);
            }
        }
        along
    }

    /// Adds a value over the variables of an access to the cotangent of its operand.
    pub fn add(
        &mut self,
        origin: &Origin,
        access: &Access,
        value: ValueId,
    ) -> Result<(), GradientError> {
        if access.delay < 0 {
            return Err(GradientError::LookAhead {
                op: origin.name.clone(),
                rows: access.delay.unsigned_abs(),
            });
        }
        let inverse = self.inverse(access, &self.graph.value(value).axes);
        let list = self.pending.entry(access.value).or_default();
        list.push(Contribution {
            value,
            ahead: access.delay,
            inverse,
        });
        Ok(())
    }

    fn inverse(&self, access: &Access, variables: &[AxisId]) -> Inverse {
        let own = &self.graph.value(access.value).axes;
        let mut read: BTreeMap<AxisId, IndexExpr> = BTreeMap::new();
        for (axis, index) in own.iter().zip(&access.index) {
            let size = self.graph.size(*axis);
            let last = size as i64 - 1;
            let back = match (index.base, index.terms.as_slice()) {
                (0, []) if size == 1 => continue,
                (0, [(v, 1)]) if self.graph.size(*v) == size => (*v, IndexExpr::axis(*axis)),
                (base, [(v, -1)]) if base == last && self.graph.size(*v) == size => {
                    let reversed = IndexExpr {
                        base: last,
                        terms: vec![(*axis, -1)],
                    };
                    (*v, reversed)
                }
                _ => return Inverse::Scatter(access.index.clone()),
            };
            if read.insert(back.0, back.1).is_some() {
                return Inverse::Scatter(access.index.clone());
            }
        }
        // Every variable is one of the access.
        let of = |v: &AxisId| read.get(v).cloned().unwrap_or(IndexExpr::at(0));
        Inverse::Read(variables.iter().map(of).collect())
    }

    /// The cotangent of a value: the sum of what was contributed, `None` if nothing was.
    pub fn cotangent(&mut self, of: ValueId) -> Option<ValueId> {
        let list = self.pending.remove(&of)?;
        let value = self.graph.value(of);
        let (rows, axes) = (value.rows, value.axes.clone());
        let precision = self.precision(value);
        let origin = Origin {
            name: value.name.clone(),
            layer: value.layer,
            span: None,
        };
        let mut inputs: Vec<Access> = Vec::new();
        for part in list {
            let (value, index) = match part.inverse {
                Inverse::Read(index) => (part.value, index),
                Inverse::Scatter(index) => {
                    let from = self.graph.value(part.value).axes.clone();
                    let kind = OpKind::Scatter {
                        axes: from.clone(),
                        index,
                    };
                    let given = vec![Access::plain(part.value, &from)];
                    let placed = self.push(&origin, kind, given, rows, &axes, precision);
                    (placed, axes.iter().map(|a| IndexExpr::axis(*a)).collect())
                }
            };
            inputs.push(Access {
                value,
                delay: -part.ahead,
                tail: None,
                index,
            });
        }
        if let [access] = inputs.as_slice() {
            let own = self.graph.value(access.value);
            if own.axes == axes && own.rows == rows && access.is_plain(&axes) {
                return Some(access.value);
            }
        }
        let expr = (0..inputs.len()).map(Expr::Input).reduce(expression::add)?;
        Some(self.push(
            &origin,
            OpKind::Map { expr },
            inputs,
            rows,
            &axes,
            precision,
        ))
    }
}

/// The same expression over only those inputs that it reads.
fn compressed(expr: Expr, inputs: &[Access]) -> (Expr, Vec<Access>) {
    let mut used = vec![false; inputs.len()];
    expr.walk(&mut |e| {
        if let Expr::Input(i) = e {
            used[*i] = true;
        }
    });
    let mut place = vec![0; inputs.len()];
    let mut kept = Vec::new();
    for (i, access) in inputs.iter().enumerate() {
        if used[i] {
            place[i] = kept.len();
            kept.push(access.clone());
        }
    }
    (expr.substitute(&|i| Expr::Input(place[i])), kept)
}
