//! Where a value inside an `f32(..)` that only products read lies in memory.
//!
//! Tensor cores round what they multiply to the storage type of the matrix. Kept in f32 such a value
//! costs twice the bytes and a detour through registers, for the same sum. Never here: values with a
//! name of their own, which lie as the text says.

use crate::{Graph, Op, OpKind, Precision, ValueId};
use std::collections::HashSet;

/// Gives the storage type to the f32 values among `anonymous` of which a token's row is all that is read,
/// and only as the activation of products with matrices of the storage type: the first half of a low-rank
/// pair, for example.
pub(super) fn store_as_multiplied(graph: &mut Graph, anonymous: &HashSet<ValueId>) {
    let consumers = graph.consumers();
    let only_multiplied = |id: &ValueId| {
        let (value, readers) = (graph.value(*id), &consumers[id.index()]);
        value.rows
            && value.precision == Precision::F32
            && !readers.is_empty()
            && readers
                .iter()
                .all(|op| multiplies(graph, graph.op(*op), *id))
            && !graph.outputs.contains(id)
    };
    let found: Vec<ValueId> = anonymous.iter().copied().filter(only_multiplied).collect();
    for id in found {
        graph.values[id.index()].precision = Precision::Storage;
    }
}

/// Whether an operation multiplies a value's current row by a matrix of the storage type, and reads it as nothing else.
fn multiplies(graph: &Graph, op: &Op, value: ValueId) -> bool {
    let (OpKind::Contract { .. }, [x, matrix]) = (&op.kind, &op.inputs[..]) else {
        return false;
    };
    let by = graph.value(matrix.value);
    x.value == value && x.delay == 0 && !by.rows && by.precision == Precision::Storage
}
