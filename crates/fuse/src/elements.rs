//! Element types: in which type each value of a graph lies in memory.

use crate::plan::Storage;
use fusec_ir::{Access, AxisId, Binary, Combine, Expr, Graph, Op, OpKind, Precision, ValueId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Element types in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// 32-bit signed integer.
    I32,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 | Element::I32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }
}

impl From<Storage> for Element {
    fn from(s: Storage) -> Self {
        match s {
            Storage::F32 => Element::F32,
            Storage::Bf16 => Element::Bf16,
            Storage::F16 => Element::F16,
        }
    }
}

/// Element type of every value of a graph at a storage type.
#[derive(Clone, Debug)]
pub struct Elements {
    of: Vec<Element>,
}

impl Elements {
    /// Matrices, tables and activations take the storage type; what is marked f32 and all other
    /// parameters (gains, biases, mixing vectors) stay f32.
    pub fn new(graph: &Graph, storage: Storage) -> Self {
        let mut heavy: BTreeSet<ValueId> = BTreeSet::new();
        for op in &graph.ops {
            match &op.kind {
                OpKind::Contract { .. } => {
                    heavy.extend(op.inputs.get(1).map(|a| a.value));
                }
                OpKind::Gather => {
                    heavy.extend(op.inputs.first().map(|a| a.value));
                }
                OpKind::Reduce { .. } => heavy.extend(matrix_of_sum(graph, op)),
                _ => {}
            }
        }
        let of = graph
            .values
            .iter()
            .enumerate()
            .map(|(i, value)| match value.precision {
                Precision::Index => Element::I32,
                Precision::F32 => Element::F32,
                Precision::Storage if value.rows => storage.into(),
                Precision::Storage if heavy.contains(&ValueId(i as u32)) => storage.into(),
                Precision::Storage => Element::F32,
            })
            .collect();
        Elements { of }
    }

    /// The element type of a value.
    pub fn get(&self, value: ValueId) -> Element {
        self.of[value.index()]
    }
}

/// The matrix of a product that is written as a sum of products: its rows belong to results, and the other factor is the same
/// for all of these.
fn matrix_of_sum(graph: &Graph, op: &Op) -> Option<ValueId> {
    let OpKind::Reduce {
        expr: Expr::Binary(Binary::Mul, a, b),
        combine: Combine::Sum,
        axes: summed,
    } = &op.kind
    else {
        return None;
    };
    let (Expr::Input(0), Expr::Input(1), [x, w]) = (&**a, &**b, &op.inputs[..]) else {
        return None;
    };
    let of = |access: &Access, axis: AxisId| {
        let mut terms = access.index.iter().flat_map(|i| &i.terms);
        terms.any(|(term, _)| *term == axis)
    };
    let results = &graph.value(*op.outputs.first()?).axes;
    let of_rows = results.iter().any(|axis| of(w, *axis) && !of(x, *axis));
    let along = summed.iter().all(|axis| of(w, *axis) && of(x, *axis));
    let fixed = graph.value(x.value).rows && !graph.value(w.value).rows;
    (of_rows && along && fixed).then_some(w.value)
}
