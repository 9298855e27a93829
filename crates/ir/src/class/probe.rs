//! The cross-check: the step and its rewriting in the form of the class found, both run by the
//! f64 interpreter on the same random numbers.

use super::{Class, Classified, Read, Reason};
use crate::interpret::{Input, Interpreter, Keep, State as Carried};
use crate::{
    Access, Axis, AxisId, Binary, Combine, Def, Expr, Graph, Op, OpId, OpKind, Precision,
    Recurrence, RecurrenceId, State, StateId, StateKind, StepAccess, StepKind, StepOp, StepRef,
    Value, ValueId,
};
use std::collections::{BTreeMap, BTreeSet};

/// Steps of a run.
const STEPS: usize = 3;
/// Elements of the smallest axis that has more than one.
const LEAST: usize = 2;
/// Largest difference, relative to the largest number of the result.
const TOLERANCE: f64 = 1e-9;

/// A graph that holds nothing but the step.
pub(super) struct Probe<'a> {
    step: &'a Recurrence,
    graph: Graph,
}

/// The numbers of a run: outputs, then states.
type Numbers = Vec<Vec<f64>>;

impl<'a> Probe<'a> {
    /// Fails if the step is malformed.
    pub fn new(graph: &Graph, step: &'a Recurrence) -> Result<Self, Reason> {
        let graph = alone(graph, step)?;
        Interpreter::<f64>::new(&graph, vec![]).map_err(malformed)?;
        Ok(Probe { step, graph })
    }

    /// Runs both; a difference is the reason why the class does not hold.
    pub fn compare(&self, found: &Classified) -> Result<(), Reason> {
        let Some(rewritten) = rewritten(found, self.step) else {
            return Ok(());
        };
        let other = alone(&self.graph, &rewritten)?;
        // Positive numbers keep logarithms and roots finite; signed ones show lost signs.
        let mut compared = 0;
        for (seed, low) in [(1, 0.1), (2, -1.0)] {
            let want = run(&self.graph, seed, low)?;
            let got = run(&other, seed, low)?;
            compared += differ(&want, &got)?;
        }
        match compared {
            0 => Err(Reason::Probe {
                what: "no random numbers gave a finite result".into(),
            }),
            _ => Ok(()),
        }
    }
}

fn malformed(error: crate::interpret::InterpretError) -> Reason {
    Reason::Malformed {
        error: error.to_string(),
    }
}

/// The number of values compared.
fn differ(want: &Numbers, got: &Numbers) -> Result<usize, Reason> {
    let mut compared = 0;
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        let finite = want.iter().filter(|x| x.is_finite());
        let scale = finite.fold(1e-30_f64, |m, x| m.max(x.abs()));
        for (x, y) in want.iter().zip(got) {
            match (x.is_finite(), y.is_finite()) {
                (true, true) if (x - y).abs() <= TOLERANCE * scale => compared += 1,
                (false, false) => {}
                _ => {
                    return Err(Reason::Probe {
                        what: format!("result {i} is {x}, its rewritten form gives {y}"),
                    });
                }
            }
        }
    }
    Ok(compared)
}

/// Numbers in `[low, 1)`, fixed by `seed`.
fn noise(seed: u64, n: usize, low: f64) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(|_| low + (1.0 - low) * next()).collect()
}

fn run(graph: &Graph, seed: u64, low: f64) -> Result<Numbers, Reason> {
    let interpreter = Interpreter::<f64>::new(graph, vec![]).map_err(malformed)?;
    let data: Vec<(ValueId, Vec<f64>)> = graph
        .inputs
        .iter()
        .map(|id| {
            let n = STEPS * graph.row_elements(*id);
            (*id, noise(seed + 16 * u64::from(id.0), n, low))
        })
        .collect();
    let given: BTreeMap<ValueId, Input<'_, f64>> = data
        .iter()
        .map(|(id, data)| (*id, Input::Numbers(data.as_slice())))
        .collect();
    let mut state = Carried::<f64>::zero(graph, 1);
    state.position = 5;
    for (i, buffer) in state.buffers.iter_mut().enumerate() {
        *buffer = noise(seed + 8 + 16 * i as u64, buffer.len(), low);
    }
    let outputs = interpreter
        .run(&mut state, 1, STEPS, &given, Keep::Outputs)
        .map_err(malformed)?;
    let mut numbers: Numbers = Vec::new();
    for id in &graph.outputs {
        let tensor = outputs.values.get(id).and_then(|t| t.numbers());
        numbers.push(tensor.unwrap_or_default().to_vec());
    }
    numbers.extend(state.buffers);
    Ok(numbers)
}

/// The axes with few elements: those of different sizes differ, so that confused ones are noticed;
/// those of equal sizes stay equal, as a step may rename one to the other. The numbers stay few
/// however large the model is.
fn small(axes: &[Axis]) -> Vec<Axis> {
    let sizes: BTreeSet<usize> = axes.iter().map(|axis| axis.size).collect();
    let mut last = LEAST - 1;
    let mut made = BTreeMap::new();
    for size in sizes {
        // Never larger than it was, and larger than all that were smaller.
        last = size.min(last + 1);
        made.insert(size, last);
    }
    let mut axes = axes.to_vec();
    for axis in &mut axes {
        axis.size = made.get(&axis.size).copied().unwrap_or(axis.size);
    }
    axes
}

/// A graph with the axes of `like`, made small, whose only operation is the step.
fn alone(like: &Graph, step: &Recurrence) -> Result<Graph, Reason> {
    let value = |name: &str, axes: &[AxisId], def: Def| Value {
        name: name.to_owned(),
        rows: true,
        axes: axes.to_vec(),
        precision: Precision::F32,
        def,
        layer: None,
    };
    let mut values: Vec<Value> = step
        .inputs
        .iter()
        .map(|i| value(&i.name, &i.axes, Def::Input))
        .collect();
    let inputs: Vec<ValueId> = (0..values.len()).map(|i| ValueId(i as u32)).collect();
    let reads = inputs.iter().zip(&step.inputs);
    let reads: Vec<Access> = reads.map(|(id, i)| Access::plain(*id, &i.axes)).collect();
    let mut outputs = Vec::new();
    for (k, item) in step.outputs.iter().enumerate() {
        let axes = item_axes(step, *item).ok_or_else(|| Reason::Malformed {
            error: format!("output {k} is not there"),
        })?;
        outputs.push(ValueId(values.len() as u32));
        values.push(value(
            &format!("output{k}"),
            axes,
            Def::Op(OpId(0), k as u32),
        ));
    }
    let states: Vec<State> = step
        .states
        .iter()
        .map(|s| State {
            name: s.name.clone(),
            kind: StateKind::Scan { init: s.init },
            axes: s.axes.clone(),
            layer: None,
        })
        .collect();
    Ok(Graph {
        version: crate::graph::GRAPH_VERSION,
        name: step.name.clone(),
        axes: small(&like.axes),
        params: vec![],
        recurrences: vec![keeping(step)],
        values,
        ops: vec![Op {
            name: step.name.clone(),
            kind: OpKind::Scan {
                recurrence: RecurrenceId(0),
                states: (0..states.len()).map(|i| StateId(i as u32)).collect(),
            },
            inputs: reads,
            outputs: outputs.clone(),
            tails: vec![],
            layer: None,
            span: None,
        }],
        states,
        inputs,
        outputs,
        layers: 0,
        pins: vec![],
        allow_unused: vec![],
        zeros: 0.0,
    })
}

/// The same step where it keeps all of its states: there is nobody else here.
fn keeping(step: &Recurrence) -> Recurrence {
    let mut step = step.clone();
    step.states.iter_mut().for_each(|state| state.kept = true);
    step
}

fn item_axes(step: &Recurrence, item: StepRef) -> Option<&[AxisId]> {
    Some(match item {
        StepRef::Input(i) => &step.inputs.get(i)?.axes,
        StepRef::State(i) => &step.states.get(i)?.axes,
        StepRef::Op(i) => &step.ops.get(i)?.axes,
    })
}

/// A step under construction; operands of a statement are read along their own axes.
struct Writer {
    step: Recurrence,
}

impl Writer {
    /// Writes `expr` over `operands` as a statement.
    fn statement(
        &mut self,
        name: String,
        axes: Vec<AxisId>,
        over: Vec<AxisId>,
        operands: &[StepRef],
        expr: Expr,
    ) -> Option<StepRef> {
        let read = |item: &StepRef| {
            Some(StepAccess {
                item: *item,
                axes: item_axes(&self.step, *item)?.to_vec(),
            })
        };
        let inputs = operands.iter().map(read).collect::<Option<_>>()?;
        let kind = match over.is_empty() {
            true => StepKind::Map,
            false => StepKind::Reduce {
                combine: Combine::Sum,
                axes: over,
            },
        };
        self.step.ops.push(StepOp {
            places: crate::Places::default(),
            name,
            axes,
            kind,
            expr,
            inputs,
        });
        Some(StepRef::Op(self.step.ops.len() - 1))
    }
}

fn product(factors: &[usize]) -> Expr {
    let mut factors = factors.iter().map(|i| Expr::Input(*i));
    let first = factors.next().unwrap_or(Expr::Const(1.0));
    factors.fold(first, |a, b| Expr::binary(Binary::Mul, a, b))
}

/// Axes that are not among `dropped`, in their order.
fn without(axes: &[AxisId], dropped: &[AxisId]) -> Vec<AxisId> {
    let mut kept = axes.to_vec();
    kept.retain(|axis| !dropped.contains(axis));
    kept
}

fn plus(a: Expr, b: Expr) -> Expr {
    Expr::binary(Binary::Add, a, b)
}

/// See [`Classified::rewritten`].
pub(super) fn rewritten(found: &Classified, step: &Recurrence) -> Option<Recurrence> {
    let mut out = Writer {
        step: Recurrence {
            name: step.name.clone(),
            inputs: step.inputs.clone(),
            states: step.states.clone(),
            ops: found.coefficients.clone(),
            next: vec![],
            outputs: vec![],
            direction: step.direction,
        },
    };
    let mut terms: Vec<Vec<StepRef>> = found.rest.iter().map(|r| Vec::from_iter(*r)).collect();
    for (i, class) in found.states.iter().enumerate() {
        let axes = step.states.get(i)?.axes.clone();
        let name = format!("{}.next", step.states.get(i)?.name);
        let before = StepRef::State(i);
        // The states that reads are before and after.
        let (mut read_before, mut read_after) = (before, None);
        let (after, outer) = match class {
            Class::General { .. } => return None,
            Class::Extremal {
                extreme,
                shift,
                bound,
                ..
            } => {
                let moved = plus(product(&[0]), product(&[1]));
                let expr = Expr::binary(extreme.function(), moved, product(&[2]));
                let operands = [before, *shift, *bound];
                let after = out.statement(name, axes, vec![], &operands, expr)?;
                (after, None)
            }
            Class::DiagonalLowRank {
                layout,
                updates,
                read_at,
                ..
            } => {
                let kept = without(&axes, &layout.key);
                let (mut state, mut contracted) = (before, before);
                let mut outer = None;
                for (n, update) in updates.iter().enumerate() {
                    if !update.at_once {
                        contracted = state;
                    }
                    let mut operands = vec![update.decay, state, update.k, update.v];
                    let mut expr = plus(product(&[0, 1]), product(&[2, 3]));
                    if let Some(factor) = &update.factor {
                        let (name, over) = (format!("{name}{n}.seen"), layout.key.clone());
                        let kept = kept.clone();
                        let read = [contracted, factor.a];
                        let seen = out.statement(name, kept, over, &read, product(&[0, 1]))?;
                        operands.extend([seen, factor.b]);
                        expr = plus(expr, product(&[4, 5]));
                    }
                    let name = format!("{name}{n}");
                    let after = out.statement(name, axes.clone(), vec![], &operands, expr)?;
                    if n == *read_at {
                        (read_before, read_after) = (state, Some(after));
                        outer = Some((update.k, update.v));
                    }
                    state = after;
                }
                (state, outer)
            }
            Class::Elementwise { decay, add, .. } => {
                let expr = plus(product(&[0, 1]), product(&[2]));
                let after = out.statement(name, axes, vec![], &[*decay, before, *add], expr)?;
                (after, None)
            }
            Class::DiagonalOuter { decay, k, v, .. } => {
                let expr = plus(product(&[0, 1]), product(&[2, 3]));
                let operands = [*decay, before, *k, *v];
                let after = out.statement(name, axes, vec![], &operands, expr)?;
                (after, Some((*k, *v)))
            }
            Class::DiagonalRankOne {
                layout,
                decay,
                a,
                b,
                k,
                v,
                ..
            } => {
                let kept = without(&axes, &layout.key);
                let over = layout.key.clone();
                let seen = format!("{name}.seen");
                let seen = out.statement(seen, kept, over, &[before, *a], product(&[0, 1]))?;
                let expr = plus(plus(product(&[0, 1]), product(&[2, 3])), product(&[4, 5]));
                let operands = [*decay, before, seen, *b, *k, *v];
                let after = out.statement(name, axes, vec![], &operands, expr)?;
                (after, Some((*k, *v)))
            }
        };
        out.step.next.push(after);
        for read in class.reads() {
            let Read {
                output,
                query,
                over,
                before: is_before,
                bonus,
            } = read;
            let axes = item_axes(step, *step.outputs.get(*output)?)?.to_vec();
            let state = match is_before {
                true => read_before,
                false => read_after.unwrap_or(after),
            };
            let mut operands = vec![*query, state];
            let mut expr = product(&[0, 1]);
            if let (Some(bonus), Some((k, v))) = (bonus, outer) {
                operands.extend([*bonus, k, v]);
                expr = plus(expr, product(&[0, 2, 3, 4]));
            }
            let name = format!("read{output}");
            let read = out.statement(name, axes, over.clone(), &operands, expr)?;
            terms.get_mut(*output)?.push(read);
        }
    }
    for (k, (terms, item)) in terms.iter().zip(&step.outputs).enumerate() {
        let axes = item_axes(step, *item)?.to_vec();
        let sum = (0..terms.len()).map(Expr::Input).reduce(plus);
        let expr = sum.unwrap_or(Expr::Const(0.0));
        let output = out.statement(format!("output{k}"), axes, vec![], terms, expr)?;
        out.step.outputs.push(output);
    }
    Some(out.step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::classify;
    use crate::language::{ModelSource, Overrides, compile};

    /// A class that is not the step's is found out.
    #[test]
    fn a_wrong_form_is_refused() {
        let text = r#"
            name = "one"
            [axes]
            J = 3
            I = 4
            [param]
            x = { shape = "J" }
            v = { shape = "I" }
            [recurrence.r]
            inputs = "q[J], k[J], v[I]"
            state = "S[J, I]"
            outputs = "y[I]"
            step = """
              S = 0.5 * S + k * v
              y = sum(q * S, J)
            """
            [model]
            flow = """
              y = r(x, x, v)
              return y
            """
        "#;
        let graph = compile(&ModelSource::from_text("one", text), &Overrides::default())
            .expect("a valid model");
        let step = &graph.recurrences[0];
        let probe = Probe::new(&graph, step).expect("a valid step");
        let right = classify(&graph, step);
        assert_eq!(probe.compare(&right), Ok(()));
        let change = |f: &dyn Fn(&mut Class)| {
            let mut wrong = right.clone();
            f(&mut wrong.states[0]);
            assert!(
                matches!(probe.compare(&wrong), Err(Reason::Probe { .. })),
                "{wrong:?}"
            );
        };
        change(&|class| {
            if let Class::DiagonalOuter { reads, .. } = class {
                reads[0].before = true;
            }
        });
        change(&|class| {
            if let Class::DiagonalOuter { reads, .. } = class {
                reads.clear();
            }
        });
        change(&|class| {
            if let Class::DiagonalOuter { decay, .. } = class {
                *decay = StepRef::Input(0);
            }
        });
    }
}
