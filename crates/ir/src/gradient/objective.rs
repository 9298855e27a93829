//! The loss of a language model: softmax cross-entropy of the next token, without all logits at once.
//!
//! The graph is cut where its rows are narrowest between the last operation that looks at another row
//! and the logits. What comes before, the *trunk*, runs on whole sequences. What comes after, the
//! *head*, looks at one row at a time: it is run on as many rows at once as there is memory for, loss
//! and cotangents included, so the logits of a chunk of rows are all that is ever held.
//!
//! Where the logits of a batch fit in memory, [`WholeObjective`] is the same without the cut: one graph
//! that is planned and run like any other.
//!
//! Of a row with label `y >= 0` the loss is `log(sum over v of exp(logit[v])) - logit[y]`, natural
//! logarithm; of a row with a negative label it is 0, as for PyTorch's `ignore_index`.

use super::expression::{add, div, mul, number, sub};
use super::{Gradient, GradientError, differentiate, differentiate_from};
use crate::coalesce::normalise;
use crate::{
    Access, AxisId, Binary, Combine, Def, Expr, Graph, Op, OpId, OpKind, ParamId, Precision, Unary,
    Value, ValueId,
};
use std::collections::BTreeSet;

/// Labels are compared as numbers, which are f32 where training runs.
const MOST_CLASSES: usize = 1 << 24;

/// A model with its loss, differentiated.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Up to the cut. Its outputs before the sums are the values at the cut, in the order of its
    /// seeds.
    pub trunk: Gradient,
    /// From the cut to the loss, and back: the cotangents of its loss are its own, so it is given
    /// none. Its number inputs are the values at the cut, in order, then the labels `[rows]`.
    pub head: Gradient,
    /// The loss of each row, among the outputs of the head.
    pub loss: ValueId,
    /// Of the head: the labels, as numbers.
    pub labels: ValueId,
    /// Of the head: the values at the cut.
    pub cut: Vec<ValueId>,
    /// For the parameters of the trunk, and of the head, which of the model's each is.
    pub params: [Vec<ParamId>; 2],
    /// Number of classes.
    pub vocabulary: usize,
}

/// A model with its loss, differentiated, as one graph.
#[derive(Clone, Debug)]
pub struct WholeObjective {
    /// The model, the loss, and the transposed operations: it is given no cotangents. Its inputs are the
    /// model's, then the labels `[rows]` as numbers; its outputs the loss of each row, then the sums.
    pub gradient: Gradient,
    /// For the parameters of the graph, which of the model's each is.
    pub params: Vec<ParamId>,
}

impl WholeObjective {
    /// The loss of a model's first output.
    pub fn new(model: &Graph) -> Result<Self, GradientError> {
        let logits = logits_of(model)?;
        let mut graph = model.clone();
        let (loss, cotangent, labels) = cross_entropy(&mut graph, logits);
        graph.inputs.push(labels);
        graph.outputs = vec![loss, cotangent, logits];
        let mut graph = normalise(graph);
        let (loss, cotangent, logits) = (graph.outputs[0], graph.outputs[1], graph.outputs[2]);
        let params = params_in(model, &graph);
        graph.outputs = vec![loss];
        Ok(WholeObjective {
            gradient: differentiate_from(&graph, &[(logits, cotangent)], &[])?,
            params,
        })
    }
}

/// The first output of a model, if it is one that a loss can be taken of.
fn logits_of(model: &Graph) -> Result<ValueId, GradientError> {
    let logits = model.outputs.first().copied();
    let Some(logits) = logits.filter(|id| model.value(*id).rows) else {
        return Err(GradientError::NotDifferentiable {
            name: model.name.clone(),
            why: "its first output is no logits of every token",
        });
    };
    if model.row_elements(logits) > MOST_CLASSES {
        return Err(GradientError::NotDifferentiable {
            name: model.value(logits).name.clone(),
            why: "it has more than 2^24 classes, which labels in f32 do not tell apart",
        });
    }
    Ok(logits)
}

impl Objective {
    /// The loss of a model's first output.
    pub fn new(model: &Graph) -> Result<Self, GradientError> {
        let logits = logits_of(model)?;
        let (kept, cut) = head_of(model, logits);
        let mut trunk = model.clone();
        trunk.outputs.clone_from(&cut);
        let trunk = normalise(trunk);
        let seeds = trunk.outputs.clone();
        let of_trunk = params_in(model, &trunk);
        let trunk = differentiate(&trunk, &seeds, &[])?;

        let mut head = only(model, &kept, &cut);
        let (loss, cotangent, labels) = cross_entropy(&mut head, logits);
        head.inputs.push(labels);
        head.outputs = vec![loss, cotangent, logits];
        let head = normalise(head);
        let (loss, cotangent, logits) = (head.outputs[0], head.outputs[1], head.outputs[2]);
        let labels = head.inputs[cut.len()];
        let cut = head.inputs[..cut.len()].to_vec();
        let vocabulary = head.row_elements(logits);
        let of_head = params_in(model, &head);
        let mut given = head;
        given.outputs = vec![loss];
        let head = differentiate_from(&given, &[(logits, cotangent)], &cut)?;
        Ok(Objective {
            trunk,
            head,
            loss,
            labels,
            cut,
            params: [of_trunk, of_head],
            vocabulary,
        })
    }
}

/// For the parameters of `part`, those of the model of the same names.
fn params_in(model: &Graph, part: &Graph) -> Vec<ParamId> {
    let names: std::collections::BTreeMap<&str, u32> = model
        .params
        .iter()
        .zip(0..)
        .map(|(p, i)| (p.name.as_str(), i))
        .collect();
    let of = |p: &crate::Param| ParamId(names[p.name.as_str()]);
    part.params.iter().map(of).collect()
}

/// Whether an operation looks at one row at a time, wherever in a sequence that is.
fn row_by_row(op: &Op) -> bool {
    let placed = |expr: &Expr| {
        let mut found = false;
        expr.walk(&mut |e| found |= *e == Expr::Position);
        found
    };
    op.tails.is_empty()
        && op.inputs.iter().all(|a| a.delay == 0)
        && match &op.kind {
            OpKind::Map { expr } | OpKind::Reduce { expr, .. } => !placed(expr),
            OpKind::Norm { .. } | OpKind::Contract { .. } => true,
            _ => false,
        }
}

/// The operations of the head and the values at the cut: the fewest numbers per row, and of those with
/// equally few the shortest head.
fn head_of(model: &Graph, logits: ValueId) -> (BTreeSet<OpId>, Vec<ValueId>) {
    let consumers = model.consumers();
    let width =
        |cut: &BTreeSet<ValueId>| -> usize { cut.iter().map(|id| model.row_elements(*id)).sum() };
    let mut ops: BTreeSet<OpId> = BTreeSet::new();
    let mut cut = BTreeSet::from([logits]);
    let mut best = (width(&cut), ops.clone(), cut.clone());
    loop {
        let movable = |id: &ValueId| {
            let op = model.producer(*id)?;
            let read_here = consumers[id.index()].iter().all(|by| ops.contains(by));
            (read_here && row_by_row(model.op(op))).then_some(op)
        };
        let Some(op) = cut.iter().filter_map(movable).max() else {
            break;
        };
        ops.insert(op);
        cut.retain(|id| !model.op(op).outputs.contains(id));
        let reads = model.op(op).inputs.iter().map(|a| a.value);
        cut.extend(reads.filter(|id| model.value(*id).rows));
        if width(&cut) < best.0 {
            best = (width(&cut), ops.clone(), cut.clone());
        }
    }
    (best.1, best.2.into_iter().collect())
}

/// The graph with the operations `kept`, and those at load, alone; its inputs are `cut`.
fn only(model: &Graph, kept: &BTreeSet<OpId>, cut: &[ValueId]) -> Graph {
    let mut graph = model.clone();
    graph.ops.clear();
    for value in &mut graph.values {
        if let Def::Op(..) = value.def {
            value.def = Def::Input;
        }
    }
    for (i, op) in model.ops.iter().enumerate() {
        let id = OpId(i as u32);
        if kept.contains(&id) || model.is_load_time(id) {
            let new = OpId(graph.ops.len() as u32);
            for (k, output) in op.outputs.iter().enumerate() {
                graph.values[output.index()].def = Def::Op(new, k as u32);
            }
            graph.ops.push(op.clone());
        }
    }
    for id in cut {
        // What is computed at the cut is given, even where the head could compute it.
        graph.values[id.index()].def = Def::Input;
    }
    graph.inputs = cut.to_vec();
    graph
}

/// Appends the loss of each row, the cotangent of the logits under a cotangent of 1 for each of them,
/// and an input for the labels: the three values.
fn cross_entropy(graph: &mut Graph, logits: ValueId) -> (ValueId, ValueId, ValueId) {
    let axes: Vec<AxisId> = graph.value(logits).axes.clone();
    // The class of an element: its place in a row.
    let mut stride = 1.0;
    let mut class = number(0.0);
    for axis in axes.iter().rev() {
        let along = mul(Expr::Index(*axis), number(stride));
        class = match class {
            Expr::Const(_) => along,
            inner => add(along, inner),
        };
        stride *= graph.size(*axis) as f64;
    }
    // What is said of a row is f32; the cotangent of the logits is stored as they are.
    let of_logits = graph.value(logits).precision;
    let value = |graph: &mut Graph, name: &str, axes: &[AxisId], def| {
        graph.values.push(Value {
            name: name.into(),
            rows: true,
            axes: axes.to_vec(),
            precision: match axes.is_empty() {
                true => Precision::F32,
                false => of_logits,
            },
            def,
            layer: None,
        });
        ValueId(graph.values.len() as u32 - 1)
    };
    let labels = value(graph, "labels", &[], Def::Input);
    let mut push = |name: &str, kind: OpKind, inputs: &[ValueId], axes: &[AxisId]| {
        let id = OpId(graph.ops.len() as u32);
        let output = value(graph, name, axes, Def::Op(id, 0));
        let read = |id: &ValueId| Access::plain(*id, &graph.value(*id).axes);
        let inputs = inputs.iter().map(read).collect();
        graph.ops.push(Op {
            name: name.into(),
            kind,
            inputs,
            outputs: vec![output],
            tails: Vec::new(),
            layer: None,
            span: None,
        });
        output
    };
    let over = |expr: Expr, combine: Combine| OpKind::Reduce {
        expr,
        combine,
        axes: axes.clone(),
    };
    let top = push(
        "loss.top",
        over(Expr::Input(0), Combine::Max),
        &[logits],
        &[],
    );
    let above = Expr::unary(Unary::Exp, sub(Expr::Input(0), Expr::Input(1)));
    let total = over(above.clone(), Combine::Sum);
    let total = push("loss.total", total, &[logits, top], &[]);
    let is_label = |labels: usize| Expr::binary(Binary::Equal, class.clone(), Expr::Input(labels));
    let counted = |labels: usize| {
        let label = Expr::Input(labels);
        Expr::binary(Binary::LessEqual, number(0.0), label)
    };
    let picked = Expr::binary(Binary::When, is_label(1), Expr::Input(0));
    let picked = over(picked, Combine::Sum);
    let picked = push("loss.picked", picked, &[logits, labels], &[]);
    let log = Expr::unary(Unary::Log, Expr::Input(1));
    let expr = sub(add(log, Expr::Input(0)), Expr::Input(2));
    let expr = Expr::binary(Binary::When, counted(3), expr);
    let loss = push(
        "loss",
        OpKind::Map { expr },
        &[top, total, picked, labels],
        &[],
    );
    let share = div(above, Expr::Input(2));
    let expr = Expr::binary(Binary::When, counted(3), sub(share, is_label(3)));
    let inputs = [logits, top, total, labels];
    let cotangent = push("d.logits", OpKind::Map { expr }, &inputs, &axes);
    (loss, cotangent, labels)
}
