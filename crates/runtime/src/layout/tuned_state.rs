//! Initial states of RWKV that were tuned apart from the weights: one matrix per head and layer,
//! `blocks.N.att.time_state` `[heads, values, keys]`. What shifts has seen is not part of them.

use fusec_ir::{Graph, StateId, StateKind};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::executor::{HostState, StateError};

/// Name of the tensor of a layer.
fn time_state(layer: usize) -> String {
    format!("blocks.{layer}.att.time_state")
}

/// The state before the first token that a file of such matrices describes, for `batch` sequences;
/// `None` if the file is none, or the model no RWKV.
pub fn tuned_state(
    graph: &Graph,
    file: &Checkpoint,
    batch: usize,
) -> Option<Result<HostState, StateError>> {
    // Both model texts have the values of a head before its keys, as the files do.
    let known = ["rwkv6", "rwkv6-expanded", "rwkv7"].contains(&graph.name.as_str());
    (known && file.has(&time_state(0))).then(|| state(graph, file, batch))
}

fn state(graph: &Graph, file: &Checkpoint, batch: usize) -> Result<HostState, StateError> {
    let damaged = |error: CheckpointError| StateError::from(Box::new(error));
    // web-rwkv's conversion to safetensors turns the matrices.
    let extension = file.path().extension();
    let turned = extension.is_some_and(|e| e == "st" || e == "safetensors");
    let mut state = HostState::initial(graph, batch);
    let mut read = 0;
    for (i, declared) in graph.states.iter().enumerate() {
        let (StateKind::Scan { .. }, Some(layer)) = (declared.kind, declared.layer) else {
            continue;
        };
        let name = time_state(layer as usize);
        let values = file.read_f32(&name).map_err(damaged)?;
        let want: Vec<usize> = declared.axes.iter().map(|a| graph.size(*a)).collect();
        let shape = file.tensor(&name).map(|view| view.shape.to_vec());
        let [heads, rows, columns] = want[..] else {
            continue;
        };
        if shape.as_deref() != Some(&want[..]) || rows != columns {
            return Err(StateError::Elements {
                name,
                batch: 1,
                got: values.len(),
                want: want.iter().product(),
            });
        }
        let one = match turned {
            false => values,
            true => (0..heads * rows * columns)
                .map(|at| {
                    let (head, row, column) =
                        (at / (rows * columns), at / columns % rows, at % columns);
                    let from = (head * rows + column) * columns + row;
                    values.get(from).copied().unwrap_or_default()
                })
                .collect(),
        };
        state.tensors.insert(StateId(i as u32), one.repeat(batch));
        read += 1;
    }
    if let Some(extra) = file.names().find(|name| {
        let layer = (0..read).any(|layer| *name == time_state(layer));
        !layer
    }) {
        return Err(StateError::Unknown {
            name: extra.to_string(),
            model: graph.name.clone(),
        });
    }
    Ok(state)
}
