//! Laws of whole runs, on a small model with every kind of carried state.

use super::builder::{Builder, add, input, mul, noise};
use super::naive;
use crate::interpret::{
    Input, Interpreter, Keep, Outputs, Real, Rounding, State, StorageType, first_non_finite,
};
use crate::*;
use std::collections::BTreeMap;

/// Embedding, norm, token shift, projections, a convolution of width 4, a matrix recurrence with
/// a bonus, a norm per head, and a head.
fn model(batch: usize, time: usize) -> Builder {
    let mut g = Builder::new();
    let v = g.axis("V", 11);
    let c = g.axis("C", 6);
    let (h, n, np) = (g.axis("H", 3), g.axis("N", 4), g.axis("N'", 4));
    let table = g.param("embedding", &[v, c], noise(1, 66));
    let ids = noise(2, batch * time);
    let ids = ids.iter().map(|x| ((x + 1.0) * 5.4) as i32).collect();
    let ids = g.ids("ids", ids);
    let row = Access {
        value: table,
        delay: 0,
        tail: None,
        index: vec![IndexExpr::at(0), IndexExpr::axis(c)],
    };
    let inputs = vec![row, g.read(ids)];
    let x = g.op("x", OpKind::Gather, inputs, &[c]);
    let gain = g.param("gain", &[c], noise(3, 6));
    let norm = |axes: Vec<AxisId>, kind, gain| OpKind::Norm {
        kind,
        axes,
        eps: 1e-5,
        gain,
        bias: false,
    };
    let inputs = vec![g.read(x), g.read(gain)];
    let u = g.op("u", norm(vec![c], NormKind::Rms, true), inputs, &[c]);

    let tail = g.tail(u, 1);
    let mix = g.param("mix", &[c], noise(4, 6));
    let shift = add(
        input(0),
        mul(Expr::binary(Binary::Sub, input(1), input(0)), input(2)),
    );
    let inputs = vec![g.read(u), g.delayed(u, 1, Some(tail)), g.read(mix)];
    let kind = OpKind::Map { expr: shift };
    let xs = g.op_with("shifted", kind, inputs, &[&[c]], true, vec![tail])[0];

    let mut project = |name: &str, axis: AxisId, seed| {
        let w = g.param(name, &[c, h, axis], noise(seed, 72));
        let inputs = vec![g.read(xs), g.read(w)];
        g.op(name, OpKind::Contract { axes: vec![c] }, inputs, &[h, axis])
    };
    let (q, k) = (project("q", n, 5), project("k", n, 6));
    let (val, d) = (project("v", np, 7), project("d", n, 8));

    let taps = g.axis("taps", 4);
    let w = g.param("conv", &[h, np, taps], noise(9, 48));
    let tail = g.tail(val, 3);
    let mut inputs = Vec::new();
    let mut expr = Expr::Const(0.0);
    for tap in 0..4 {
        let delay = 3 - tap as i32;
        inputs.push(g.delayed(val, delay, (delay > 0).then_some(tail)));
        inputs.push(Access {
            value: w,
            delay: 0,
            tail: None,
            index: vec![IndexExpr::axis(h), IndexExpr::axis(np), IndexExpr::at(tap)],
        });
        expr = add(
            expr,
            mul(input(2 * tap as usize), input(2 * tap as usize + 1)),
        );
    }
    let kind = OpKind::Map {
        expr: Expr::unary(Unary::Silu, expr),
    };
    let conv = g.op_with("conv", kind, inputs, &[&[h, np]], true, vec![tail])[0];

    let bonus = g.param("bonus", &[h, n], noise(10, 12));
    let formal = |name: &str, axes: &[AxisId]| StepInput {
        name: name.into(),
        axes: axes.to_vec(),
    };
    let read = |item, axes: &[AxisId]| StepAccess {
        item,
        axes: axes.to_vec(),
    };
    g.graph.recurrences.push(Recurrence {
        name: "memory".into(),
        inputs: vec![
            formal("q", &[h, n]),
            formal("k", &[h, n]),
            formal("v", &[h, np]),
            formal("d", &[h, n]),
            formal("bonus", &[h, n]),
        ],
        states: vec![StepState {
            name: "S".into(),
            axes: vec![h, n, np],
            init: 0.0,
            kept: true,
        }],
        ops: vec![
            StepOp {
                places: crate::Places::default(),
                name: "y".into(),
                axes: vec![h, np],
                kind: StepKind::Reduce {
                    combine: Combine::Sum,
                    axes: vec![n],
                },
                expr: mul(
                    input(0),
                    add(input(1), mul(input(4), mul(input(2), input(3)))),
                ),
                inputs: vec![
                    read(StepRef::Input(0), &[h, n]),
                    read(StepRef::State(0), &[h, n, np]),
                    read(StepRef::Input(1), &[h, n]),
                    read(StepRef::Input(2), &[h, np]),
                    read(StepRef::Input(4), &[h, n]),
                ],
            },
            StepOp {
                places: crate::Places::default(),
                name: "S".into(),
                axes: vec![h, n, np],
                kind: StepKind::Map,
                expr: add(
                    mul(input(0), Expr::unary(Unary::Sigmoid, input(1))),
                    mul(input(2), input(3)),
                ),
                inputs: vec![
                    read(StepRef::State(0), &[h, n, np]),
                    read(StepRef::Input(3), &[h, n]),
                    read(StepRef::Input(1), &[h, n]),
                    read(StepRef::Input(2), &[h, np]),
                ],
            },
        ],
        next: vec![StepRef::Op(1)],
        outputs: vec![StepRef::Op(0)],
        direction: Direction::Forward,
    });
    let state = g.state("S", StateKind::Scan { init: 0.0 }, &[h, n, np]);
    let kind = OpKind::Scan {
        recurrence: RecurrenceId(0),
        states: vec![state],
    };
    let inputs = [q, k, conv, d, bonus].map(|v| g.read(v)).to_vec();
    let y = g.op_with("y", kind, inputs, &[&[h, np]], true, vec![])[0];

    let inputs = vec![g.read(y)];
    let z = g.op(
        "z",
        norm(vec![np], NormKind::Layer, false),
        inputs,
        &[h, np],
    );
    let head = g.param("head", &[v, h, np], noise(11, 132));
    let inputs = vec![g.read(z), g.read(head)];
    let kind = OpKind::Contract { axes: vec![h, np] };
    let logits = g.op("logits", kind, inputs, &[v]);
    let expr = add(input(0), mul(Expr::Position, Expr::Const(0.01)));
    let inputs = vec![g.read(logits)];
    let out = g.op("out", OpKind::Map { expr }, inputs, &[v]);
    g.output(out);
    g
}

fn logits<F: Real>(g: &Builder, outputs: &Outputs<F>) -> Vec<f64> {
    let numbers = outputs.values[&g.graph.outputs[0]].numbers();
    numbers
        .expect("numbers")
        .iter()
        .map(|x| x.to_f64())
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

const SHAPES: [(usize, usize); 8] = [
    (1, 1),
    (1, 2),
    (1, 3),
    (1, 37),
    (3, 1),
    (3, 2),
    (3, 3),
    (3, 37),
];

#[test]
fn agrees_with_the_naive_evaluation() {
    for (batch, time) in SHAPES {
        naive::agree(&model(batch, time), batch, time);
    }
}

#[test]
fn f32_follows_f64() {
    for (batch, time) in SHAPES {
        let g = model(batch, time);
        let whole = (0, time);
        let mut state = State::<f64>::zero(&g.graph, batch);
        let exact = g.run_part(&mut state, (batch, time), whole, Keep::Outputs);
        let mut state = State::<f32>::zero(&g.graph, batch);
        let fast = g.run_part(&mut state, (batch, time), whole, Keep::Outputs);
        let error = distance(&logits(&g, &exact), &logits(&g, &fast));
        assert!(error < 1e-4 && error > 0.0, "B={batch} T={time}: {error}");
    }
}

#[test]
fn a_run_split_anywhere_is_one_pass() {
    for (batch, time) in [(1, 2), (1, 37), (3, 3), (3, 9)] {
        let g = model(batch, time);
        let mut state = State::<f64>::zero(&g.graph, batch);
        let pass = g.run_part(&mut state, (batch, time), (0, time), Keep::Outputs);
        let one = logits(&g, &pass);
        let v = one.len() / batch / time;
        for cut in 1..time {
            let mut carried = State::<f64>::zero(&g.graph, batch);
            let mut parts = vec![];
            for (from, to) in [(0, cut), (cut, time)] {
                let out = g.run_part(&mut carried, (batch, time), (from, to), Keep::Outputs);
                parts.push((from, to, logits(&g, &out)));
            }
            for (from, to, part) in parts {
                for b in 0..batch {
                    let n = (to - from) * v;
                    let want = &one[(b * time + from) * v..][..n];
                    let error = distance(&part[b * n..][..n], want);
                    assert!(error < 1e-12, "cut {cut} of {time}, row {b}: {error}");
                }
            }
            assert_eq!(carried.position, time as i64);
            for (a, b) in carried.buffers.iter().zip(&state.buffers) {
                assert!(distance(a, b) < 1e-12, "state after cut {cut}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let g = model(2, 37);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            let mut state = State::<f32>::zero(&g.graph, 2);
            let out = g.run_part(&mut state, (2, 37), (0, 37), Keep::All);
            (out, state)
        })
    };
    let alone = run(1);
    for threads in [2, 5] {
        assert!(run(threads) == alone, "{threads} threads");
    }
}

#[test]
fn rounding_leaves_storable_values_and_a_small_error() {
    let (batch, time) = (1, 9);
    let g = model(batch, time);
    let ids = BTreeMap::from([(
        g.graph.inputs[0],
        Input::Ids(&g.ids[&g.graph.inputs[0]][..]),
    )]);
    let run = |rounding| {
        let interpreter = Interpreter::with_rounding(&g.graph, g.params.clone(), rounding);
        let mut state = State::zero(&g.graph, batch);
        let run = interpreter
            .expect("valid")
            .run(&mut state, batch, time, &ids, Keep::All);
        run.expect("runs")
    };
    let exact = run(Rounding::None);
    for (storage, bound) in [(StorageType::Bf16, 0.8), (StorageType::F16, 0.1)] {
        let rounded = run(Rounding::Op(storage));
        for (id, tensor) in &rounded.values {
            for x in tensor.numbers().unwrap_or(&[]) {
                assert_eq!(*x, x.rounded(storage), "`{}`", g.graph.value(*id).name);
            }
        }
        let error = distance(&logits(&g, &exact), &logits(&g, &rounded));
        assert!(error > 1e-4 && error < bound, "{storage:?}: {error}");
    }
}

#[test]
fn the_first_nan_is_named_with_its_place() {
    let mut g = model(2, 5);
    let mut state = State::<f64>::zero(&g.graph, 2);
    let fine = g.run_part(&mut state, (2, 5), (0, 5), Keep::All);
    assert_eq!(first_non_finite(&g.graph, &fine), None);
    // Projection "k" gets one infinite weight: [C=0, H=1, N=2].
    let k = g
        .graph
        .params
        .iter()
        .position(|p| p.name == "k")
        .expect("k");
    g.params[k][6] = f64::INFINITY;
    let mut state = State::<f64>::zero(&g.graph, 2);
    let broken = g.run_part(&mut state, (2, 5), (0, 5), Keep::All);
    let found = first_non_finite(&g.graph, &broken).expect("an infinity");
    assert_eq!(found.name, "k");
    assert_eq!(found.row, Some((0, 0)));
    assert_eq!(found.index, [("H".to_string(), 1), ("N".to_string(), 2)]);
    assert!(found.to_string().starts_with("`k` is "), "{found}");
}

#[test]
fn only_outputs_are_kept_unless_asked() {
    let g = model(1, 3);
    let mut state = State::<f64>::zero(&g.graph, 1);
    let few = g.run_part(&mut state, (1, 3), (0, 3), Keep::Outputs);
    assert_eq!(
        few.values.keys().copied().collect::<Vec<_>>(),
        g.graph.outputs
    );
    let mut state = State::<f64>::zero(&g.graph, 1);
    let all = g.run_part(&mut state, (1, 3), (0, 3), Keep::All);
    for op in &g.graph.ops {
        assert!(op.outputs.iter().all(|id| all.values.contains_key(id)));
    }
    assert_eq!(
        few.values[&g.graph.outputs[0]],
        all.values[&g.graph.outputs[0]]
    );
}
