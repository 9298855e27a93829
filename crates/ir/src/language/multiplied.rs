//! Where a value inside an `f32(..)` that only products read lies in memory.
//!
//! Tensor cores round what they multiply to the storage type of the matrix. Kept in f32 such a value
//! costs twice the bytes and a detour through registers, for the same sum. Never here: values with a
//! name of their own, which lie as the text says.

use crate::{Graph, OpKind, Precision, ValueId};
use std::collections::HashSet;

/// Gives the storage type to the f32 values among `anonymous` of which a token's row is all that is read,
/// and only as the activation of products with matrices of the storage type: the first half of a low-rank
/// pair, for example.
pub(super) fn store_as_multiplied(graph: &mut Graph, anonymous: &HashSet<ValueId>) {
    let mut read = vec![false; graph.values.len()];
    let mut multiplied = vec![true; graph.values.len()];
    for op in &graph.ops {
        let product = matches!(op.kind, OpKind::Contract { .. });
        for (nth, access) in op.inputs.iter().enumerate() {
            let by_matrix = op.inputs.get(1).is_some_and(|matrix| {
                let matrix = graph.value(matrix.value);
                !matrix.rows && matrix.precision == Precision::Storage
            });
            read[access.value.index()] = true;
            multiplied[access.value.index()] &=
                product && nth == 0 && by_matrix && access.delay == 0;
        }
    }
    for output in &graph.outputs {
        multiplied[output.index()] = false;
    }
    for (i, value) in graph.values.iter_mut().enumerate() {
        let inner = value.rows && anonymous.contains(&ValueId(i as u32));
        if inner && read[i] && multiplied[i] && value.precision == Precision::F32 {
            value.precision = Precision::Storage;
        }
    }
}
