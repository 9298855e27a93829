//! What is evaluated once from parameters, as a graph of one row: so that kernels evaluate it where
//! parameters come with each call and lie on a device.

use fusec_codegen::Element;
use fusec_ir::{Access, Def, Graph, Op, OpId, ParamId, Precision, Value, ValueId};
use std::collections::BTreeMap;

/// A graph whose inputs are parameters of another one.
#[derive(Clone, Debug)]
pub(super) struct AsRows {
    /// To be run at B=1, T=1.
    pub(super) graph: Graph,
    /// Which parameter each of its inputs is.
    pub(super) params: Vec<ParamId>,
}

/// The values `wanted` of `graph`, which have no rows, as outputs of a graph of one row, in their order and
/// element types. `element`: in which type each parameter lies.
pub(super) fn as_rows(
    graph: &Graph,
    wanted: &[(ValueId, Element)],
    element: impl Fn(ParamId) -> Element,
) -> AsRows {
    let precision = |element: Element| match element {
        Element::F32 | Element::I32 => Precision::F32,
        Element::Bf16 | Element::F16 => Precision::Storage,
    };
    let mut needed = vec![false; graph.values.len()];
    for (id, _) in wanted {
        needed[id.index()] = true;
    }
    for op in graph.ops.iter().rev() {
        if op.outputs.iter().any(|id| needed[id.index()]) {
            for access in &op.inputs {
                needed[access.value.index()] = true;
            }
        }
    }
    let mut rows = AsRows {
        graph: Graph {
            name: format!("{} at load", graph.name),
            ..graph.emptied()
        },
        params: Vec::new(),
    };
    let mut to: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (i, value) in graph.values.iter().enumerate() {
        let Def::Param(param) = value.def else {
            continue;
        };
        if needed[i] {
            let id = ValueId(rows.graph.values.len() as u32);
            rows.graph.values.push(Value {
                rows: true,
                precision: precision(element(param)),
                def: Def::Input,
                ..value.clone()
            });
            rows.graph.inputs.push(id);
            rows.params.push(param);
            to.insert(ValueId(i as u32), id);
        }
    }
    for op in &graph.ops {
        let inputs: Option<Vec<Access>> = op
            .inputs
            .iter()
            .map(|access| {
                let value = *to.get(&access.value)?;
                Some(Access {
                    value,
                    ..access.clone()
                })
            })
            .collect();
        let Some(inputs) = inputs.filter(|_| op.outputs.iter().any(|id| needed[id.index()])) else {
            continue;
        };
        let id = OpId(rows.graph.ops.len() as u32);
        let outputs = op.outputs.iter().enumerate().map(|(k, output)| {
            let value = ValueId(rows.graph.values.len() as u32);
            let element = wanted.iter().find(|(id, _)| id == output).map(|(_, e)| *e);
            rows.graph.values.push(Value {
                rows: true,
                precision: element.map_or(Precision::F32, precision),
                def: Def::Op(id, k as u32),
                ..graph.value(*output).clone()
            });
            to.insert(*output, value);
            value
        });
        let outputs = outputs.collect();
        rows.graph.ops.push(Op {
            inputs,
            outputs,
            tails: Vec::new(),
            ..op.clone()
        });
    }
    rows.graph.outputs = wanted
        .iter()
        .filter_map(|(id, _)| to.get(id).copied())
        .collect();
    rows
}
