//! Checking what the caller gives, before any kernel sees it.

use super::{ExecuteError, InputError};
use crate::element::{self, encode_ids};
use fusec_codegen::Element;
use fusec_fuse::Shape;
use fusec_ir::interpret::Input;
use fusec_ir::{Graph, OpKind, Precision, ValueId};

/// Checks number, types and sizes, and that every token id is an entry of each table that it
/// is looked up in.
pub fn check(graph: &Graph, shape: Shape, inputs: &[Input<'_, f32>]) -> Result<(), InputError> {
    if inputs.len() != graph.inputs.len() {
        return Err(InputError::Count {
            got: inputs.len(),
            want: graph.inputs.len(),
        });
    }
    for (id, input) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(*id);
        let (got, ids) = match (input, value.precision) {
            (Input::Ids(ids), Precision::Index) => (ids.len(), Some(*ids)),
            (Input::Numbers(numbers), Precision::Storage | Precision::F32) => (numbers.len(), None),
            (_, precision) => {
                return Err(InputError::Type {
                    name: value.name.clone(),
                    want: match precision {
                        Precision::Index => "token ids",
                        _ => "numbers",
                    },
                });
            }
        };
        let rows = if value.rows {
            shape.batch.saturating_mul(shape.time)
        } else {
            1
        };
        let want = rows.saturating_mul(graph.row_elements(*id));
        if got != want {
            return Err(InputError::Elements {
                name: value.name.clone(),
                batch: shape.batch,
                time: shape.time,
                got,
                want,
            });
        }
        if let Some(ids) = ids {
            check_ids(graph, *id, shape, ids)?;
        }
    }
    Ok(())
}

fn check_ids(graph: &Graph, input: ValueId, shape: Shape, ids: &[i32]) -> Result<(), InputError> {
    for op in &graph.ops {
        let (OpKind::Gather, [table, looked_up]) = (&op.kind, op.inputs.as_slice()) else {
            continue;
        };
        if looked_up.value != input {
            continue;
        }
        let table = graph.value(table.value);
        let entries = table.axes.first().map_or(0, |axis| graph.size(*axis));
        let inside = |id: i32| usize::try_from(id).is_ok_and(|id| id < entries);
        let Some(at) = ids.iter().position(|id| !inside(*id)) else {
            continue;
        };
        let row = at / graph.row_elements(input).max(1);
        return Err(InputError::IdOutOfRange {
            id: ids[at],
            batch: row / shape.time,
            time: row % shape.time,
            name: graph.value(input).name.clone(),
            table: table.name.clone(),
            entries,
        });
    }
    Ok(())
}

/// The bytes of an input as its buffer holds it.
pub fn encode(
    name: &str,
    input: &Input<'_, f32>,
    element: Element,
) -> Result<Vec<u8>, ExecuteError> {
    Ok(match input {
        Input::Ids(ids) => encode_ids(ids),
        Input::Numbers(numbers) => element::encode(name, numbers, element)?,
    })
}
