//! G4: of the branches of a hybrid, none should drown the others, nor say the same.
//!
//! A probe is added to the graph for each branch of each join (see [`super::branches`]): the term that
//! the join adds of it, or the branch itself where it is not added up. The interpreter evaluates them.

use super::branches::{Join, joins};
use super::{Gate, GateError, Verdict};
use crate::inputs::RunInputs;
use crate::weights::Weights;
use fusec_fuse::Shape;
use fusec_ir::interpret::{Input, Interpreter, Keep, State, Tensor};
use fusec_ir::{Def, Graph, Op, OpId, OpKind, Value, ValueId};
use serde::Serialize;
use std::collections::BTreeMap;

/// How many times larger one branch may be than another.
const MOST_RATIO: f64 = 10.0;
/// Largest cosine of the angle between two branches.
const MOST_COSINE: f64 = 0.3;

/// Two branches at a join.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// The operation where they meet.
    pub op: String,
    /// Its layer.
    pub layer: Option<u32>,
    /// Names of the branches.
    pub branches: [String; 2],
    /// The norm of the first over that of the second.
    pub ratio: f64,
    /// Mean over all tokens of the cosine between them; none where they differ in size.
    pub cosine: Option<f64>,
    /// Whether the operation adds them up.
    pub is_sum: bool,
}

/// A branch of a join, and the output that holds it.
type Probe = (usize, ValueId);

/// The graph with a value for each branch, which it gives as well.
fn probed(graph: &Graph, joins: &[Join]) -> (Graph, Vec<Vec<Probe>>) {
    let mut out = graph.clone();
    let mut probes = Vec::new();
    for join in joins {
        let op = graph.op(join.op);
        let of_join = join.branches.iter().enumerate().filter_map(|(at, branch)| {
            let (true, Some(term)) = (join.is_sum, &branch.term) else {
                // The branch itself is a value of the graph.
                let operand = op.inputs.get(*branch.operands.first()?)?;
                return Some((at, operand.value));
            };
            let result = graph.value(*op.outputs.first()?);
            let value = ValueId(out.values.len() as u32);
            out.values.push(Value {
                name: format!("{}.probe{at}", op.name),
                def: Def::Op(OpId(out.ops.len() as u32), 0),
                ..result.clone()
            });
            out.ops.push(Op {
                name: format!("{}.probe{at}", op.name),
                kind: OpKind::Map { expr: term.clone() },
                outputs: vec![value],
                tails: vec![],
                ..op.clone()
            });
            Some((at, value))
        });
        probes.push(of_join.collect::<Vec<Probe>>());
    }
    let all = probes.iter().flatten().map(|(_, value)| *value);
    for value in all {
        if !out.outputs.contains(&value) {
            out.outputs.push(value);
        }
    }
    (out, probes)
}

/// Runs a model on random inputs and compares the branches of every join, on the interpreter.
pub fn balance(
    graph: &Graph,
    weights: &Weights,
    shape: Shape,
    seed: u64,
) -> Result<(Gate, Vec<Balance>), GateError> {
    let gate = |verdict, figure: String, details| Gate {
        gate: "G4",
        asks: "branches are balanced",
        verdict,
        figure,
        details,
    };
    let found = joins(graph);
    if found.is_empty() {
        let why = "no two recurrences of a layer meet: the model is no hybrid of parallel branches";
        return Ok((gate(Verdict::NotAvailable, why.into(), vec![]), vec![]));
    }
    let (probed, probes) = probed(graph, &found);
    let interpreter = Interpreter::<f32>::new(&probed, weights.params().to_vec())?;
    let inputs = RunInputs::random(graph, shape, seed);
    let given: BTreeMap<ValueId, Input<'_, f32>> =
        graph.inputs.iter().copied().zip(inputs.given()).collect();
    let mut state = State::zero(&probed, shape.batch);
    let outputs = interpreter.run(&mut state, shape.batch, shape.time, &given, Keep::Outputs)?;
    let mut all = Vec::new();
    for (join, probes) in found.iter().zip(&probes) {
        let op = graph.op(join.op);
        for (i, (a, first)) in probes.iter().enumerate() {
            for (b, second) in &probes[i + 1..] {
                let numbers = |id: &ValueId| outputs.values.get(id).and_then(Tensor::numbers);
                let (Some(x), Some(y)) = (numbers(first), numbers(second)) else {
                    continue;
                };
                let rows = shape.batch * shape.time;
                all.push(Balance {
                    op: op.name.clone(),
                    layer: op.layer,
                    branches: [*a, *b].map(|at| join.branches[at].name.clone()),
                    ratio: norm(x) / norm(y),
                    cosine: (x.len() == y.len()).then(|| cosine(x, y, rows)),
                    is_sum: join.is_sum,
                });
            }
        }
    }
    // What is not added up has no common measure.
    let sums: Vec<&Balance> = all.iter().filter(|balance| balance.is_sum).collect();
    if sums.is_empty() {
        let names: Vec<String> = all.iter().map(words).take(4).collect();
        let figure = format!(
            "branches meet in {} operations, none of which adds them up",
            found.len()
        );
        return Ok((gate(Verdict::NotAvailable, figure, names), all));
    }
    let lopsided = |b: &Balance| b.ratio.max(1.0 / b.ratio);
    let worst = sums.iter().map(|b| lopsided(b)).fold(1.0, f64::max);
    let closest = sums.iter().filter_map(|b| b.cosine).map(f64::abs);
    let closest = closest.fold(0.0, f64::max);
    // A branch of zeros, or one that is no number.
    let dead = sums.iter().any(|b| !lopsided(b).is_finite());
    let verdict = match (dead, worst <= MOST_RATIO && closest < MOST_COSINE) {
        (true, _) => Verdict::Fail,
        (false, true) => Verdict::Pass,
        (false, false) => Verdict::Warn,
    };
    let figure = format!(
        "norms differ at most {worst:.2} times, accepted {MOST_RATIO}; largest cosine {closest:.3}, \
         accepted {MOST_COSINE}"
    );
    let notable = sums.iter().filter(|b| {
        verdict == Verdict::Pass
            || lopsided(b) > MOST_RATIO
            || b.cosine.is_some_and(|c| c.abs() >= MOST_COSINE)
    });
    let details = notable.map(|b| words(b)).take(8).collect();
    Ok((gate(verdict, figure, details), all))
}

fn words(balance: &Balance) -> String {
    let Balance {
        op,
        layer,
        branches: [a, b],
        ratio,
        cosine,
        ..
    } = balance;
    let layer = layer.map_or_else(String::new, |layer| format!("layer {layer}, "));
    let cosine = match cosine {
        Some(cosine) => format!("cosine {cosine:.3}"),
        None => "of different sizes".into(),
    };
    format!("{layer}`{op}`: `{a}` over `{b}` {ratio:.2}, {cosine}")
}

fn norm(x: &[f32]) -> f64 {
    let sum: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    sum.sqrt()
}

/// Mean of the cosine of rows.
fn cosine(x: &[f32], y: &[f32], rows: usize) -> f64 {
    let width = (x.len() / rows.max(1)).max(1);
    let of = |(a, b): (&[f32], &[f32])| {
        let product: f64 = a
            .iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        product / (norm(a) * norm(b)).max(f64::MIN_POSITIVE)
    };
    let sum: f64 = x.chunks(width).zip(y.chunks(width)).map(of).sum();
    sum / rows.max(1) as f64
}
