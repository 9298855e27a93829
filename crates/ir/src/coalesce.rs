//! Merging of element-wise operations, and the normal form of a graph.
//!
//! The language cuts a flow at every statement. Where a result is read once, in
//! place, the cut means nothing: [`coalesce`] puts the expression into its reader.
//! What this never does: change what is computed, recompute anything, or decide
//! what shares a kernel.

use crate::{
    Access, Def, Expr, Graph, IndexExpr, Op, OpId, OpKind, Param, ParamId, Precision, State,
    StateId, StateKind, Value, ValueId,
};
use std::collections::BTreeSet;

/// Most function applications in a merged expression.
const MAX_EXPRESSION: usize = 24;

/// Merges element-wise operations into their only reader, where that is the same
/// computation: same rows and layer, no delay, no rounding taken away from an f32 result,
/// and no element computed twice.
pub fn coalesce(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let pinned: BTreeSet<String> = graph
        .pins
        .iter()
        .flat_map(|pin| pin.values.iter().cloned())
        .collect();
    let consumers = graph.consumers();
    for at in 0..graph.ops.len() {
        let reader = OpId(at as u32);
        // Merging brings in new operands, which may be mergeable in turn.
        while let Some((input, producer)) = mergeable(&graph, reader, &consumers, &pinned) {
            merge(&mut graph, reader, input, producer);
        }
    }
    normalise(graph)
}

/// An operand of `reader` whose producer can be merged into it.
fn mergeable(
    graph: &Graph,
    reader: OpId,
    consumers: &[Vec<OpId>],
    pinned: &BTreeSet<String>,
) -> Option<(usize, OpId)> {
    let op = graph.op(reader);
    let (expr, iterated, reduces) = match &op.kind {
        OpKind::Map { expr } => (expr, 1, false),
        OpKind::Reduce { expr, axes, .. } => (expr, graph.elements(axes), true),
        _ => return None,
    };
    let result = graph.value(*op.outputs.first()?);
    let iterated = iterated.saturating_mul(graph.elements(&result.axes));
    op.inputs.iter().enumerate().find_map(|(i, access)| {
        let value = graph.value(access.value);
        let producer = graph.producer(access.value)?;
        let OpKind::Map { expr: inner } = &graph.op(producer).kind else {
            return None;
        };
        let read_once = op.inputs.iter().filter(|a| a.value == access.value).count() == 1
            // Lists of readers are of the graph before merging; a merged producer's operands
            // have moved to its only reader, so one entry still means one reader.
            && consumers[access.value.index()].len() == 1
            && !graph.outputs.contains(&access.value);
        let mut uses = 0;
        expr.walk(&mut |e| uses += usize::from(*e == Expr::Input(i)));
        let delays = graph.op(producer).inputs.iter().any(|a| a.delay != 0);
        let fits = read_once
            && uses == 1
            && access.delay == 0
            && !(reduces && delays)
            && value.rows == result.rows
            && value.layer == result.layer
            && (value.precision == result.precision || value.precision == Precision::F32)
            && graph.elements(&value.axes) >= iterated
            && inner.op_count() + expr.op_count() <= MAX_EXPRESSION
            && !pinned.contains(&value.name);
        fits.then_some((i, producer))
    })
}

fn merge(graph: &mut Graph, reader: OpId, input: usize, producer: OpId) {
    let (inner, inner_inputs, axes) = {
        let op = graph.op(producer);
        let OpKind::Map { expr } = &op.kind else {
            return;
        };
        let axes = graph.value(op.outputs[0]).axes.clone();
        (expr.clone(), op.inputs.clone(), axes)
    };
    let op = &mut graph.ops[reader.index()];
    let access = op.inputs.remove(input);
    let to = |axis| {
        axes.iter()
            .position(|a| *a == axis)
            .and_then(|i| access.index.get(i))
            .cloned()
            .unwrap_or(IndexExpr::axis(axis))
    };
    // Where each operand of the producer ends up among the reader's.
    let places: Vec<usize> = inner_inputs
        .into_iter()
        .map(|a| {
            let a = Access {
                index: a.index.iter().map(|i| i.substitute(&to)).collect(),
                ..a
            };
            op.inputs.iter().position(|b| *b == a).unwrap_or_else(|| {
                op.inputs.push(a);
                op.inputs.len() - 1
            })
        })
        .collect();
    let inner = inner
        .substitute_axes(&to)
        .substitute(&|i| Expr::Input(places[i]));
    if let OpKind::Map { expr } | OpKind::Reduce { expr, .. } = &mut op.kind {
        *expr = expr.substitute(&|i| match i.cmp(&input) {
            std::cmp::Ordering::Equal => inner.clone(),
            std::cmp::Ordering::Less => Expr::Input(i),
            std::cmp::Ordering::Greater => Expr::Input(i - 1),
        });
    }
}

/// The normal form: nothing unused, load-time operations first, every delayed read with
/// its stencil tail, the first reader bringing the tail up to date.
pub fn normalise(graph: Graph) -> Graph {
    let mut graph = prune(graph);
    tails(&mut graph);
    graph
}

/// Ids that survive, and where they go.
struct Moves(Vec<Option<u32>>);

impl Moves {
    fn keep(kept: &[bool]) -> Self {
        let mut next = 0;
        Moves(
            kept.iter()
                .map(|keep| {
                    keep.then(|| {
                        next += 1;
                        next - 1
                    })
                })
                .collect(),
        )
    }

    fn of(&self, id: u32) -> u32 {
        self.0[id as usize].expect("what a kept item refers to is kept")
    }
}

fn prune(graph: Graph) -> Graph {
    let mut live_value = vec![false; graph.values.len()];
    let mut live_op = vec![false; graph.ops.len()];
    let mut live_state = vec![false; graph.states.len()];
    for id in graph.outputs.iter().chain(&graph.inputs) {
        live_value[id.index()] = true;
    }
    for (i, op) in graph.ops.iter().enumerate().rev() {
        if !op.outputs.iter().any(|v| live_value[v.index()]) {
            continue;
        }
        live_op[i] = true;
        for v in &op.outputs {
            live_value[v.index()] = true;
        }
        for access in &op.inputs {
            live_value[access.value.index()] = true;
        }
        if let OpKind::Scan { states, .. } = &op.kind {
            for s in states {
                live_state[s.index()] = true;
            }
        }
    }
    let live_param: Vec<bool> = graph
        .params
        .iter()
        .map(|p| live_value[p.value.index()])
        .collect();
    let (values, params, states) = (
        Moves::keep(&live_value),
        Moves::keep(&live_param),
        Moves::keep(&live_state),
    );
    let mut order: Vec<usize> = (0..graph.ops.len()).filter(|i| live_op[*i]).collect();
    order.sort_by_key(|i| !graph.is_load_time(OpId(*i as u32)));
    let mut place = vec![None; graph.ops.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = Some(new as u32);
    }
    let ops = Moves(place);
    let value = |id: ValueId| ValueId(values.of(id.0));
    let moved_ops: Vec<Op> = order
        .iter()
        .map(|i| {
            let op = &graph.ops[*i];
            Op {
                kind: match &op.kind {
                    OpKind::Scan {
                        recurrence,
                        states: list,
                    } => OpKind::Scan {
                        recurrence: *recurrence,
                        states: list.iter().map(|s| StateId(states.of(s.0))).collect(),
                    },
                    other => other.clone(),
                },
                inputs: op
                    .inputs
                    .iter()
                    .map(|a| Access {
                        value: value(a.value),
                        tail: None,
                        ..a.clone()
                    })
                    .collect(),
                outputs: op.outputs.iter().map(|v| value(*v)).collect(),
                tails: Vec::new(),
                ..op.clone()
            }
        })
        .collect();
    let kept = |flags: &[bool], i: usize| flags.get(i).copied().unwrap_or(false);
    Graph {
        ops: moved_ops,
        values: graph
            .values
            .iter()
            .enumerate()
            .filter(|(i, _)| kept(&live_value, *i))
            .map(|(_, v)| Value {
                def: match v.def {
                    Def::Input => Def::Input,
                    Def::Param(p) => Def::Param(ParamId(params.of(p.0))),
                    Def::Op(o, n) => Def::Op(OpId(ops.of(o.0)), n),
                },
                ..v.clone()
            })
            .collect(),
        params: graph
            .params
            .iter()
            .enumerate()
            .filter(|(i, _)| kept(&live_param, *i))
            .map(|(_, p)| Param {
                value: value(p.value),
                ..p.clone()
            })
            .collect(),
        states: graph
            .states
            .iter()
            .enumerate()
            .filter(|(i, _)| kept(&live_state, *i))
            .map(|(_, s)| s.clone())
            .collect(),
        inputs: graph.inputs.iter().map(|v| value(*v)).collect(),
        outputs: graph.outputs.iter().map(|v| value(*v)).collect(),
        ..graph
    }
}

/// Makes one tail per delayed value and names it in every delayed read. Expects a graph
/// without tails, which is what pruning leaves.
fn tails(graph: &mut Graph) {
    let mut tail_of: Vec<Option<StateId>> = vec![None; graph.values.len()];
    for at in 0..graph.ops.len() {
        for i in 0..graph.ops[at].inputs.len() {
            let Access { value, delay, .. } = graph.ops[at].inputs[i];
            if delay <= 0 {
                continue;
            }
            let id = match tail_of[value.index()] {
                Some(id) => id,
                None => {
                    let id = StateId(graph.states.len() as u32);
                    let v = graph.value(value);
                    let (axes, layer) = (v.axes.clone(), v.layer);
                    let name = match layer {
                        Some(l) => format!("layers.{l}.{}.tail", v.name),
                        None => format!("{}.tail", v.name),
                    };
                    graph.states.push(State {
                        name,
                        kind: StateKind::Tail { value, width: 0 },
                        axes,
                        layer,
                    });
                    tail_of[value.index()] = Some(id);
                    graph.ops[at].tails.push(id);
                    id
                }
            };
            if let StateKind::Tail { width, .. } = &mut graph.states[id.index()].kind {
                *width = (*width).max(delay as u32);
            }
            graph.ops[at].inputs[i].tail = Some(id);
        }
    }
}
