//! The rewrite `rotating-basis`: states that turn at every token as states that only decay.
//!
//! A complex state written as two real ones, `z' = d (cos x + i sin x) z + k v`, is a diagonal decay after a change of
//! basis by the running product of the rotations (see [`turned`]). Here a scan of such states is written
//! as one recurrence for that product and one for each of the two, with queries and keys that are turned. It
//! changes what is carried from run to run: beside the two states, which are those of the turned basis, the product
//! itself. So it is done once, for all plans of a model, where a graph is made of a text; what the text says stays
//! what is computed, up to rounding.
//!
//! What never lives here: whether that is faster on some machine. It is done only where the product is much
//! smaller than the states, which then cost as much in single steps as before.

mod arguments;

use crate::class::rotating::{Given, Turned, turned};
use crate::components::{below, separate};
use crate::{
    Access, AxisId, Binary, Def, Expr, Graph, Op, OpId, OpKind, Precision, Recurrence,
    RecurrenceId, State, StateId, StateKind, Unary, Value, ValueId, coalesce,
};
use arguments::inlined;
use std::collections::BTreeSet;

/// Name of the rewrite.
pub const NAME: &str = "rotating-basis";

/// The graph with every recurrence of two states that are turned into each other in the basis that turns with them,
/// where that gives it an algorithm in chunks. The same graph if there is none.
///
/// The states keep their names, places and initial values. Those of the running product, which begins at 1, are added
/// after all others: `NAME.turn` and `NAME.turn_i`, NAME being that of the first state.
pub fn unrotated(graph: Graph) -> Graph {
    let candidate = |op: &Op| match &op.kind {
        OpKind::Scan { recurrence, .. } => graph.recurrence(*recurrence).states.len() >= 2,
        _ => false,
    };
    if !graph.ops.iter().any(candidate) {
        return graph;
    }
    // Beside others in its step, a pair of states is looked at as a component.
    let apart = separate(&graph, candidate);
    let mut known: Vec<(Recurrence, Option<Turned>)> = Vec::new();
    let mut pairs: BTreeSet<StateId> = BTreeSet::new();
    for op in &apart.ops {
        if let Some((states, step, _)) = pair(&apart, op)
            && found(&apart, &step, &mut known).is_some()
        {
            pairs.extend(states);
        }
    }
    if pairs.is_empty() {
        return graph;
    }
    let of_pair = |op: &Op| match &op.kind {
        OpKind::Scan { states, .. } => states.iter().any(|state| pairs.contains(state)),
        _ => false,
    };
    let mut writer = Writer::new(separate(&graph, of_pair));
    for op in std::mem::take(&mut writer.graph.ops) {
        let turned = pair(&writer.graph, &op).and_then(|(states, step, inputs)| {
            let turned = found(&writer.graph, &step, &mut known)?;
            Some((states, step, inputs, turned))
        });
        match turned {
            Some((states, step, inputs, turned)) => {
                writer.turn(&op, states, &step, &inputs, &turned);
            }
            None => writer.push(op),
        }
    }
    // Stencils get their tails anew.
    coalesce::coalesce(&writer.graph)
}

/// The states of a scan of two, with its step and operands, in which the functions of angles are seen.
fn pair(graph: &Graph, op: &Op) -> Option<([StateId; 2], Recurrence, Vec<Access>)> {
    let OpKind::Scan { recurrence, states } = &op.kind else {
        return None;
    };
    let [a, b] = states[..] else {
        return None;
    };
    let (mut step, inputs) = inlined(graph, op, graph.recurrence(*recurrence));
    // That of the definition that a component was made of.
    step.name
        .truncate(step.name.find('.').unwrap_or(step.name.len()));
    Some(([a, b], step, inputs))
}

/// The step in the turned basis, looked for once.
fn found(
    graph: &Graph,
    step: &Recurrence,
    known: &mut Vec<(Recurrence, Option<Turned>)>,
) -> Option<Turned> {
    if let Some((_, turned)) = known.iter().find(|(of, _)| of == step) {
        return turned.clone();
    }
    let turned = turned(graph, step);
    known.push((step.clone(), turned.clone()));
    turned
}

/// A graph under construction.
struct Writer {
    graph: Graph,
    taken: BTreeSet<(String, Option<u32>)>,
}

impl Writer {
    fn new(graph: Graph) -> Self {
        let taken = graph.values.iter().map(|v| (v.name.clone(), v.layer));
        Writer {
            taken: taken.collect(),
            graph,
        }
    }

    /// Takes an operation over.
    fn push(&mut self, op: Op) {
        let id = OpId(self.graph.ops.len() as u32);
        for (n, value) in op.outputs.iter().enumerate() {
            self.graph.values[value.index()].def = Def::Op(id, n as u32);
        }
        self.graph.ops.push(op);
    }

    /// A value in f32, called by an item of the step.
    fn value(&mut self, op: &Op, step: &Recurrence, item: &str, axes: &[AxisId]) -> ValueId {
        let full = match op.outputs.first() {
            Some(first) => &self.graph.value(*first).name,
            None => &op.name,
        };
        let name = below(full, &step.name, item);
        let numbered = (1..).map(|n| match n {
            1 => name.clone(),
            n => format!("{name}#{n}"),
        });
        let mut free = numbered.filter(|name| !self.taken.contains(&(name.clone(), op.layer)));
        let name = free.next().unwrap_or_default();
        self.taken.insert((name.clone(), op.layer));
        self.graph.values.push(Value {
            name,
            rows: true,
            axes: axes.to_vec(),
            precision: Precision::F32,
            def: Def::Input,
            layer: op.layer,
        });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    /// Adds a scan of a recurrence; its results.
    fn scan(
        &mut self,
        op: &Op,
        (name, step): (&str, &Recurrence),
        states: Vec<StateId>,
        inputs: Vec<Access>,
        outputs: Vec<ValueId>,
    ) {
        let known = self.graph.recurrences.iter().position(|r| r == step);
        let recurrence = RecurrenceId(known.unwrap_or_else(|| {
            self.graph.recurrences.push(step.clone());
            self.graph.recurrences.len() - 1
        }) as u32);
        self.push(Op {
            name: name.to_owned(),
            kind: OpKind::Scan { recurrence, states },
            inputs,
            outputs,
            tails: vec![],
            ..op.clone()
        });
    }

    /// Writes a scan in the turned basis.
    fn turn(
        &mut self,
        op: &Op,
        states: [StateId; 2],
        step: &Recurrence,
        inputs: &[Access],
        turned: &Turned,
    ) {
        let axes = &turned.axes;
        let (product, of_step) = &turned.product;
        let results: Vec<ValueId> = ["turn", "turn_i", "turn_before", "turn_before_i"]
            .iter()
            .map(|item| self.value(op, step, item, axes))
            .collect();
        let kept: Vec<StateId> = ["turn", "turn_i"]
            .iter()
            .zip([1.0, 0.0])
            .map(|(name, init)| self.state(states[0], name, axes, init))
            .collect();
        let named = self.graph.value(results[0]).name.clone();
        let given = of_step.iter().map(|i| inputs[*i].clone()).collect();
        self.scan(op, (&named, product), kept, given, results.clone());
        let inverse: Vec<ValueId> = [0, 1]
            .map(|n| self.inverse(op, step, axes, &results, n))
            .into();
        let mut parts: Vec<Vec<ValueId>> = Vec::new();
        for ((part, given), state) in turned.parts.iter().zip(states) {
            let reads = given.iter().map(|given| match given {
                Given::Input(i) => inputs[*i].clone(),
                Given::Product(n) => Access::plain(results[*n], axes),
                Given::Inverse(n) => Access::plain(inverse[*n], axes),
            });
            let reads = reads.collect();
            let name = part.states[0].name.clone();
            let outputs: Vec<ValueId> = part
                .outputs
                .iter()
                .map(|item| self.value(op, step, &name, part.axes_of(*item)))
                .collect();
            let named = self.graph.value(outputs[0]).name.clone();
            self.scan(op, (&named, part), vec![state], reads, outputs.clone());
            parts.push(outputs);
        }
        for (value, numbers) in op.outputs.iter().zip(&turned.outputs) {
            let terms = numbers.iter().zip(&parts);
            let terms = terms.filter_map(|(number, of)| Some(of[(*number)?]));
            let axes = self.graph.value(*value).axes.clone();
            let reads: Vec<Access> = terms.map(|term| Access::plain(term, &axes)).collect();
            let all = (0..reads.len()).map(Expr::Input);
            let sum = all.reduce(|a, b| Expr::binary(Binary::Add, a, b));
            self.push(Op {
                name: self.graph.value(*value).name.clone(),
                kind: OpKind::Map {
                    expr: sum.unwrap_or(Expr::Const(0.0)),
                },
                inputs: reads,
                outputs: vec![*value],
                tails: vec![],
                ..op.clone()
            });
        }
    }

    /// Part number `n` of `P / |P|^2`.
    fn inverse(
        &mut self,
        op: &Op,
        step: &Recurrence,
        axes: &[AxisId],
        product: &[ValueId],
        n: usize,
    ) -> ValueId {
        let value = self.value(op, step, ["back", "back_i"][n], axes);
        let square = |i: usize| Expr::unary(Unary::Square, Expr::Input(i));
        let size = Expr::binary(Binary::Add, square(0), square(1));
        self.push(Op {
            name: self.graph.value(value).name.clone(),
            kind: OpKind::Map {
                expr: Expr::binary(Binary::Div, Expr::Input(n), size),
            },
            inputs: product[..2]
                .iter()
                .map(|v| Access::plain(*v, axes))
                .collect(),
            outputs: vec![value],
            tails: vec![],
            ..op.clone()
        });
        value
    }

    /// A state beside another one.
    fn state(&mut self, beside: StateId, name: &str, axes: &[AxisId], init: f64) -> StateId {
        let beside = self.graph.state(beside);
        let state = State {
            name: format!("{}.{name}", beside.name),
            kind: StateKind::Scan { init },
            axes: axes.to_vec(),
            layer: beside.layer,
        };
        self.graph.states.push(state);
        StateId(self.graph.states.len() as u32 - 1)
    }
}
