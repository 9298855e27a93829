//! Parameters that are read one slice of their last axis at a time, such as the taps of a
//! convolution, with that axis first: neighbours of a slice are then neighbours in memory.

use fusec_ir::{Access, Def, Expr, Graph, Op, OpId, OpKind, Value, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Longest last axis that is taken for one of slices.
const SLICES: usize = 16;

/// The same graph with a transposed copy, made at load, of each such parameter.
pub fn slices_first(graph: &Graph) -> Graph {
    let readers = graph.consumers();
    let params = (0..graph.values.len() as u32).map(ValueId);
    let sliced: Vec<ValueId> = params
        .filter(|v| is_sliced(graph, *v, &readers[v.index()]))
        .collect();
    if sliced.is_empty() {
        return graph.clone();
    }
    let mut out = graph.clone();
    // What is made at load comes first: all operations move up.
    let shift = sliced.len() as u32;
    for value in &mut out.values {
        if let Def::Op(OpId(op), _) = &mut value.def {
            *op += shift;
        }
    }
    let mut taken: BTreeSet<(String, Option<u32>)> = graph
        .values
        .iter()
        .map(|v| (v.name.clone(), v.layer))
        .collect();
    let mut copies: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut made = Vec::new();
    for (i, id) in sliced.iter().enumerate() {
        let param = graph.value(*id);
        let copy = ValueId(out.values.len() as u32);
        let mut axes = param.axes.clone();
        axes.rotate_right(1);
        let mut name = format!("{}_transposed", param.name);
        while !taken.insert((name.clone(), param.layer)) {
            name.push('_');
        }
        out.values.push(Value {
            name: name.clone(),
            axes,
            def: Def::Op(OpId(i as u32), 0),
            ..param.clone()
        });
        made.push(Op {
            name,
            kind: OpKind::Map {
                expr: Expr::Input(0),
            },
            inputs: vec![Access::plain(*id, &param.axes)],
            outputs: vec![copy],
            tails: vec![],
            layer: param.layer,
            span: None,
        });
        copies.insert(*id, copy);
    }
    for access in out.ops.iter_mut().flat_map(|op| &mut op.inputs) {
        if let Some(copy) = copies.get(&access.value) {
            access.value = *copy;
            access.index.rotate_right(1);
        }
    }
    made.append(&mut out.ops);
    out.ops = made;
    out
}

/// Whether every reader of a parameter is a map that reads one slice of its last axis.
fn is_sliced(graph: &Graph, id: ValueId, readers: &[OpId]) -> bool {
    let value = graph.value(id);
    let Some(last) = value.axes.last() else {
        return false;
    };
    let short = (2..=SLICES).contains(&graph.size(*last)) && value.axes.len() > 1;
    let slice = |op: &OpId| {
        let op = graph.op(*op);
        let accesses = op.inputs.iter().filter(|a| a.value == id);
        let constant = |a: &Access| a.index.last().is_some_and(|i| i.terms.is_empty());
        matches!(op.kind, OpKind::Map { .. }) && accesses.into_iter().all(constant)
    };
    let output = graph.outputs.contains(&id);
    let param = matches!(value.def, Def::Param(_));
    short && param && !output && !readers.is_empty() && readers.iter().all(slice)
}
