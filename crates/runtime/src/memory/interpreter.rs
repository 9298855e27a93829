//! What a run takes of the host's memory: the interpreter, which keeps one buffer per value from its
//! computation to its last use, and the caller of any other device.

use super::Footprint;
use fusec_fuse::Shape;
use fusec_ir::{Graph, OpId, OpKind, StateId, StateKind, ValueId, last_row};
use std::collections::BTreeMap;

/// Sizes of an interpreter's run, all in bytes. Checked by [`crate::limits::run`] first, so that they
/// fit their type.
struct Sizes<'a> {
    graph: &'a Graph,
    /// Per value, whether it has one row for each sequence.
    one_row: Vec<bool>,
    shape: Shape,
    /// Of a number.
    number: u128,
}

impl Sizes<'_> {
    fn value(&self, id: ValueId) -> u128 {
        let value = self.graph.value(id);
        let rows = match value.rows {
            true if self.one_row[id.index()] => self.shape.batch as u128,
            true => self.shape.batch as u128 * self.shape.time as u128,
            false => 1,
        };
        let element = match value.precision {
            fusec_ir::Precision::Index => 4,
            _ => self.number,
        };
        self.graph.row_elements(id) as u128 * rows * element
    }

    /// Name and size of the largest value with rows: what a smaller run shrinks.
    fn largest(&self) -> Option<(String, usize)> {
        let values = (0..self.graph.values.len()).map(|i| ValueId(i as u32));
        values
            .filter(|id| self.graph.value(*id).rows)
            // The first of equals, so that the message is the same everywhere.
            .max_by_key(|id| (self.value(*id), std::cmp::Reverse(*id)))
            .map(|id| (self.graph.value(id).name.clone(), bytes(self.value(id))))
    }

    fn state(&self, id: StateId) -> u128 {
        self.graph.state_elements(id) as u128 * self.shape.batch as u128 * self.number
    }
}

fn bytes(n: u128) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Footprint {
    /// What the caller of a device keeps on the host: the weights in f32, inputs, and outputs as the
    /// device has them and in f32.
    pub fn of_caller(graph: &Graph, shape: Shape) -> Self {
        let sizes = Sizes {
            graph,
            one_row: last_row::one_row(graph),
            shape,
            number: 4,
        };
        let params = graph.params.iter().map(|param| sizes.value(param.value));
        let inputs = graph.inputs.iter().map(|id| sizes.value(*id));
        let outputs = graph.outputs.iter().map(|id| 2 * sizes.value(*id));
        Footprint {
            weights: bytes(params.sum()),
            states: 0,
            tails: 0,
            arena: 0,
            host: bytes(inputs.chain(outputs).sum()),
            largest: sizes.largest(),
        }
    }

    /// Memory for a run in numbers of `number_bytes` (4 or 8) each, beside weights in f32 that the
    /// caller keeps. Exact for buffers of values; what a thread needs to work on a chunk of them is
    /// left out.
    pub fn of_interpreter(graph: &Graph, shape: Shape, number_bytes: usize) -> Self {
        let sizes = Sizes {
            graph,
            one_row: last_row::one_row(graph),
            shape,
            number: number_bytes as u128,
        };
        let elements = |id: ValueId| graph.row_elements(id) as u128;
        // As read, and in the interpreter's numbers.
        let params: u128 = graph.params.iter().map(|param| elements(param.value)).sum();
        let mut weights = params * (4 + sizes.number);
        let mut last_use: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (i, op) in graph.ops.iter().enumerate() {
            let load_time = graph.is_load_time(OpId(i as u32));
            for id in &op.outputs {
                if load_time {
                    weights += sizes.value(*id);
                }
                last_use.insert(*id, i);
            }
            let read = op.inputs.iter().map(|access| access.value);
            last_use.extend(read.map(|id| (id, i)));
        }
        // What the caller gives and the copy that the run keeps of it.
        let inputs: u128 = graph.inputs.iter().map(|id| 2 * sizes.value(*id)).sum();
        let (mut live, mut peak) = (inputs, inputs);
        // New states, until the run has succeeded.
        let mut carried = 0u128;
        for (i, op) in graph.ops.iter().enumerate() {
            if graph.is_load_time(OpId(i as u32)) {
                continue;
            }
            let results: u128 = op.outputs.iter().map(|id| sizes.value(*id)).sum();
            let delayed: u128 = op
                .inputs
                .iter()
                .filter(|access| access.delay != 0)
                .map(|access| sizes.value(access.value))
                .sum();
            let tails: u128 = op.tails.iter().map(|id| sizes.state(*id)).sum();
            let scanned: u128 = match &op.kind {
                OpKind::Scan { states, .. } => states.iter().map(|id| sizes.state(*id)).sum(),
                _ => 0,
            };
            carried += tails + scanned;
            live += results;
            peak = peak.max(live + delayed + carried);
            for id in op.outputs.iter().chain(op.inputs.iter().map(|a| &a.value)) {
                let done = last_use.get(id) == Some(&i) && !graph.outputs.contains(id);
                let of_run = !graph.inputs.contains(id) && graph.value(*id).rows;
                if done && of_run {
                    // Each once, however often the operation reads it.
                    last_use.remove(id);
                    live -= sizes.value(*id).min(live);
                }
            }
        }
        // As they are handed over.
        let outputs: u128 = graph.outputs.iter().map(|id| sizes.value(*id)).sum();
        peak = peak.max(live + carried + outputs * 4 / sizes.number);
        let states = |tail: bool| -> u128 {
            let ids = (0..graph.states.len()).map(|i| StateId(i as u32));
            let of_kind =
                ids.filter(|id| tail == matches!(graph.state(*id).kind, StateKind::Tail { .. }));
            // As it was before the run, and the one worked on.
            of_kind.map(|id| 2 * sizes.state(id)).sum()
        };
        Footprint {
            weights: bytes(weights),
            states: bytes(states(false)),
            tails: bytes(states(true)),
            arena: bytes(peak),
            host: 0,
            largest: sizes.largest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusec_ir::language::{ModelSource, Overrides, compile};

    const MODEL: &str = r#"
name = "m"
[axes]
C = 8
D = 4
[input]
x = "C"
[param]
w = { shape = "D, C" }
[model]
flow = """
  y = x @ w
  z = exp(y) + shift(y)
  return z
"""
"#;

    #[test]
    fn buffers_are_counted_from_their_computation_to_their_last_use() {
        let source = ModelSource::from_text("m", MODEL);
        let graph = compile(&source, &Overrides::default()).expect("a model");
        let shape = Shape { batch: 2, time: 3 };
        for (number, arena) in [
            // Given and copied `x`, `y`, `z`, the delayed `y`, its new tail.
            (4, 2 * 192 + 96 + 96 + 96 + 32),
            (8, 2 * 384 + 192 + 192 + 192 + 64),
        ] {
            let found = Footprint::of_interpreter(&graph, shape, number);
            assert_eq!(found.weights, 32 * (4 + number));
            assert_eq!((found.states, found.tails), (0, 2 * 2 * 4 * number));
            assert_eq!(found.arena, arena);
            assert_eq!(found.largest, Some(("x".into(), 2 * 3 * 8 * number)));
        }
        let caller = Footprint::of_caller(&graph, shape);
        assert_eq!((caller.weights, caller.host), (32 * 4, 192 + 2 * 96));
    }
}
