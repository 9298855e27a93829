//! A second opinion: every element of every value by itself, straight from the doc comments of
//! the graph, with no views, chunks or packing. Slow and obvious.

use super::builder::{Builder, add, input, mul, noise};
use crate::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Point = BTreeMap<AxisId, usize>;

/// Every point over some axes, last axis fastest, on top of the variables already bound.
fn points(graph: &Graph, axes: &[AxisId], base: &Point) -> Vec<Point> {
    let mut out = vec![base.clone()];
    for axis in axes {
        out = out
            .into_iter()
            .flat_map(|p| {
                (0..graph.size(*axis)).map(move |i| {
                    let mut p = p.clone();
                    p.insert(*axis, i);
                    p
                })
            })
            .collect();
    }
    out
}

fn flat(graph: &Graph, axes: &[AxisId], index: impl Fn(usize) -> usize) -> usize {
    axes.iter()
        .enumerate()
        .fold(0, |at, (d, a)| at * graph.size(*a) + index(d))
}

fn eval(expr: &Expr, inputs: &[f64], point: &Point, position: f64) -> f64 {
    match expr {
        Expr::Input(i) => inputs[*i],
        Expr::Const(c) => *c,
        Expr::Index(a) => point[a] as f64,
        Expr::Position => position,
        Expr::Unary(f, a) => f.eval(eval(a, inputs, point, position)),
        Expr::Binary(f, a, b) => f.eval(
            eval(a, inputs, point, position),
            eval(b, inputs, point, position),
        ),
    }
}

struct Naive<'a> {
    graph: &'a Graph,
    time: usize,
    values: BTreeMap<ValueId, Vec<f64>>,
    ids: &'a BTreeMap<ValueId, Vec<i32>>,
}

impl Naive<'_> {
    /// One element of an operand from the zero state.
    fn read(&self, access: &Access, b: usize, t: usize, point: &Point) -> f64 {
        let value = self.graph.value(access.value);
        let t = t as i64 - i64::from(access.delay);
        if value.rows && (t < 0 || t >= self.time as i64) {
            return 0.0;
        }
        let at = flat(self.graph, &value.axes, |d| {
            let index = &access.index[d];
            let terms = index.terms.iter().map(|(a, c)| c * point[a] as i64);
            (index.base + terms.sum::<i64>()) as usize
        });
        let row = if value.rows {
            b * self.time + t as usize
        } else {
            0
        };
        self.values[&access.value][row * self.graph.row_elements(access.value) + at]
    }

    fn element(&self, op: &Op, b: usize, t: usize, point: &Point) -> f64 {
        let at =
            |p: &Point| -> Vec<f64> { op.inputs.iter().map(|a| self.read(a, b, t, p)).collect() };
        let over = |axes: &[AxisId]| points(self.graph, axes, point);
        match &op.kind {
            OpKind::Map { expr } => eval(expr, &at(point), point, t as f64),
            OpKind::Reduce {
                expr,
                combine,
                axes,
            } => {
                let terms = over(axes)
                    .into_iter()
                    .map(|p| eval(expr, &at(&p), &p, t as f64));
                match combine {
                    Combine::Sum => terms.sum(),
                    Combine::Max => terms.fold(f64::NEG_INFINITY, f64::max),
                }
            }
            OpKind::Contract { axes } => over(axes)
                .iter()
                .map(|p| at(p).iter().product::<f64>())
                .sum(),
            OpKind::Norm {
                kind,
                axes,
                eps,
                gain,
                bias,
            } => {
                let line: Vec<f64> = over(axes)
                    .iter()
                    .map(|p| self.read(&op.inputs[0], b, t, p))
                    .collect();
                let n = line.len() as f64;
                let mean = line.iter().sum::<f64>() / n;
                let squares = line.iter().map(|x| x * x).sum::<f64>();
                let own = at(point);
                let y = match kind {
                    NormKind::Layer => {
                        let var = line.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                        (own[0] - mean) / (var + eps).sqrt()
                    }
                    NormKind::Rms => own[0] / (squares / n + eps).sqrt(),
                    NormKind::L2 => own[0] / (squares + eps).sqrt(),
                    NormKind::L2Max => own[0] / squares.sqrt().max(*eps),
                };
                let y = if *gain { y * own[1] } else { y };
                y + if *bias { own[own.len() - 1] } else { 0.0 }
            }
            OpKind::Gather => {
                let id = self.ids[&op.inputs[1].value][b * self.time + t];
                let table = self.graph.value(op.inputs[0].value);
                let at = flat(self.graph, &table.axes, |d| {
                    if d == 0 {
                        id as usize
                    } else {
                        point[&op.inputs[0].index[d].as_axis().expect("plain")]
                    }
                });
                self.values[&op.inputs[0].value][at]
            }
            OpKind::CumSum { axis } => (0..=point[axis])
                .map(|i| {
                    let mut p = point.clone();
                    p.insert(*axis, i);
                    self.read(&op.inputs[0], b, t, &p)
                })
                .sum(),
            OpKind::Scan { .. } => unreachable!("scans are evaluated row by row"),
            OpKind::Attend { .. }
            | OpKind::AttendBack { .. }
            | OpKind::Scatter { .. }
            | OpKind::ScatterRows
            | OpKind::LastRow => unreachable!("not in these graphs"),
        }
    }

    fn scan(&self, op: &Op, recurrence: &Recurrence, batch: usize) -> Vec<Vec<f64>> {
        let none = Point::new();
        let mut outputs = vec![Vec::new(); op.outputs.len()];
        for b in 0..batch {
            let mut states: Vec<Vec<f64>> = recurrence
                .states
                .iter()
                .map(|s| vec![s.init; self.graph.elements(&s.axes)])
                .collect();
            for t in 0..self.time {
                let inputs: Vec<Vec<f64>> = op
                    .inputs
                    .iter()
                    .zip(&recurrence.inputs)
                    .map(|(access, formal)| {
                        let all = points(self.graph, &formal.axes, &none);
                        all.iter().map(|p| self.read(access, b, t, p)).collect()
                    })
                    .collect();
                let mut temps: Vec<Vec<f64>> = Vec::new();
                for step in &recurrence.ops {
                    let element = |p: &Point| {
                        let read: Vec<f64> = step
                            .inputs
                            .iter()
                            .map(|access| {
                                let own = recurrence.axes_of(access.item);
                                let at = flat(self.graph, own, |d| p[&access.axes[d]]);
                                match access.item {
                                    StepRef::Input(i) => inputs[i][at],
                                    StepRef::State(i) => states[i][at],
                                    StepRef::Op(i) => temps[i][at],
                                }
                            })
                            .collect();
                        eval(&step.expr, &read, p, t as f64)
                    };
                    let out = points(self.graph, &step.axes, &none);
                    let result = out.iter().map(|p| match &step.kind {
                        StepKind::Map => element(p),
                        StepKind::Reduce { combine, axes } => {
                            let terms = points(self.graph, axes, p);
                            let terms = terms.iter().map(element);
                            match combine {
                                Combine::Sum => terms.sum(),
                                Combine::Max => terms.fold(f64::NEG_INFINITY, f64::max),
                            }
                        }
                    });
                    temps.push(result.collect());
                }
                let item = |r: &StepRef| match *r {
                    StepRef::Input(i) => inputs[i].clone(),
                    StepRef::State(i) => states[i].clone(),
                    StepRef::Op(i) => temps[i].clone(),
                };
                for (out, r) in outputs.iter_mut().zip(&recurrence.outputs) {
                    out.extend(item(r));
                }
                states = recurrence.next.iter().map(item).collect();
            }
        }
        outputs
    }
}

/// Every value, from the zero state.
pub fn evaluate(builder: &Builder, batch: usize, time: usize) -> BTreeMap<ValueId, Vec<f64>> {
    let graph = &builder.graph;
    let mut naive = Naive {
        graph,
        time,
        values: builder.inputs.clone(),
        ids: &builder.ids,
    };
    for (param, data) in graph.params.iter().zip(&builder.params) {
        naive.values.insert(param.value, data.clone());
    }
    for op in &graph.ops {
        let results = if let OpKind::Scan { recurrence, .. } = op.kind {
            naive.scan(op, graph.recurrence(recurrence), batch)
        } else {
            let value = graph.value(op.outputs[0]);
            let (batch, time) = if value.rows { (batch, time) } else { (1, 1) };
            let mut data = Vec::new();
            for b in 0..batch {
                for t in 0..time {
                    for p in points(graph, &value.axes, &Point::new()) {
                        data.push(naive.element(op, b, t, &p));
                    }
                }
            }
            vec![data]
        };
        naive.values.extend(op.outputs.iter().copied().zip(results));
    }
    naive.values
}

/// The interpreter and the evaluator above agree on every value with rows.
pub fn agree(builder: &Builder, batch: usize, time: usize) {
    use crate::interpret::{Keep, State};
    let want = evaluate(builder, batch, time);
    let mut state = State::zero(&builder.graph, batch);
    let got = builder.run_part::<f64>(&mut state, (batch, time), (0, time), Keep::All);
    for op in &builder.graph.ops {
        for id in op
            .outputs
            .iter()
            .filter(|id| builder.graph.value(**id).rows)
        {
            let got = got.values[id].numbers().expect("numbers");
            assert_eq!(got.len(), want[id].len());
            for (i, (g, w)) in got.iter().zip(&want[id]).enumerate() {
                assert!(
                    (g - w).abs() <= 1e-9 * (1.0 + w.abs()),
                    "`{}` element {i}: {g}, want {w}",
                    op.name
                );
            }
        }
    }
}

/// An operand over some axes of the operation, each index affine, with or without rows.
#[derive(Clone, Debug)]
struct Read {
    rows: bool,
    delay: i32,
    /// For each axis of the operand: the variable, reversed or not, offset, and slack.
    index: Vec<(usize, bool, usize, usize)>,
}

fn read(variables: usize) -> impl Strategy<Value = Read> {
    let one = (0..variables, any::<bool>(), 0usize..3, 0usize..2);
    (any::<bool>(), -1i32..3, prop::collection::vec(one, 0..4))
        .prop_map(|(rows, delay, index)| Read { rows, delay, index })
}

/// Adds the operand that a `Read` describes, and the access to it.
fn operand(
    g: &mut Builder,
    read: &Read,
    variables: &[AxisId],
    rows: usize,
    seed: u64,
) -> (Access, Vec<StateId>) {
    let mut axes = Vec::new();
    let mut index = Vec::new();
    for (k, (variable, reversed, base, slack)) in read.index.iter().enumerate() {
        let variable = variables[*variable];
        let size = g.graph.size(variable);
        axes.push(g.axis(&format!("o{seed}_{k}"), size + base + slack));
        let (base, coefficient) = if *reversed {
            (base + size - 1, -1)
        } else {
            (*base, 1)
        };
        index.push(IndexExpr {
            base: base as i64,
            terms: vec![(variable, coefficient)],
        });
    }
    let n = g.graph.elements(&axes);
    let name = format!("operand{seed}");
    if !read.rows {
        let value = g.param(&name, &axes, noise(seed, n));
        let access = Access {
            value,
            delay: 0,
            tail: None,
            index,
        };
        return (access, vec![]);
    }
    let value = g.input(&name, &axes, noise(seed, rows * n));
    let tail = (read.delay > 0).then(|| g.tail(value, read.delay as u32 + 1));
    let access = Access {
        value,
        delay: read.delay,
        tail,
        index,
    };
    (access, tail.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pointwise_and_reductions(
        sizes in prop::collection::vec(1usize..6, 3),
        out in 0usize..4,
        reads in prop::collection::vec(read(3), 2),
        sum in any::<bool>(),
        (batch, time) in (1usize..4, 1usize..5),
    ) {
        let mut g = Builder::new();
        let variables: Vec<AxisId> =
            sizes.iter().enumerate().map(|(i, s)| g.axis(&format!("v{i}"), *s)).collect();
        let mut inputs = Vec::new();
        let mut tails = Vec::new();
        for (k, r) in reads.iter().enumerate() {
            let (access, tail) = operand(&mut g, r, &variables, batch * time, k as u64 + 1);
            inputs.push(access);
            tails.extend(tail);
        }
        let expr = add(
            mul(input(0), Expr::unary(Unary::Tanh, input(1))),
            mul(Expr::Index(variables[0]), Expr::Position),
        );
        let (axes, reduce) = variables.split_at(out);
        let kind = if reduce.is_empty() {
            OpKind::Map { expr }
        } else {
            let combine = if sum { Combine::Sum } else { Combine::Max };
            OpKind::Reduce { expr, combine, axes: reduce.to_vec() }
        };
        g.op_with("y", kind, inputs, &[axes], true, tails);
        agree(&g, batch, time);
    }

    #[test]
    fn contractions(
        sizes in prop::collection::vec(1usize..5, 4),
        out in 1usize..4,
        (a, b) in (read(4), read(4)),
        (batch, time) in (1usize..4, 1usize..6),
    ) {
        let mut g = Builder::new();
        let variables: Vec<AxisId> =
            sizes.iter().enumerate().map(|(i, s)| g.axis(&format!("v{i}"), *s)).collect();
        let (a, mut tails) = operand(&mut g, &a, &variables, batch * time, 1);
        let (b, more) = operand(&mut g, &b, &variables, batch * time, 2);
        tails.extend(more);
        let (axes, reduce) = variables.split_at(out);
        let kind = OpKind::Contract { axes: reduce.to_vec() };
        g.op_with("y", kind, vec![a, b], &[axes], true, tails);
        agree(&g, batch, time);
    }
}
