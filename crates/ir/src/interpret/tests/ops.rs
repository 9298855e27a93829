//! Each operation on numbers that can be checked by head.

use super::builder::{Builder, add, input, mul};
use crate::interpret::{Input, InterpretError, Interpreter, Keep, State};
use crate::*;
use std::collections::BTreeMap;

fn count(from: i32, n: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(from) + i as f64).collect()
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-12, "got {got:?}\nwant {want:?}");
    }
}

#[test]
fn map_reads_through_affine_accesses() {
    // Input x over [A=2, B=3]: 0 1 2 / 3 4 5.
    type Index = fn(AxisId, AxisId) -> Vec<IndexExpr>;
    let cases: [(&str, Index, [f64; 6]); 4] = [
        (
            "plain",
            |a, b| vec![IndexExpr::axis(a), IndexExpr::axis(b)],
            [0., 1., 2., 3., 4., 5.],
        ),
        (
            "second row, broadcast",
            |_, b| vec![IndexExpr::at(1), IndexExpr::axis(b)],
            [3., 4., 5., 3., 4., 5.],
        ),
        (
            "reversed",
            |a, b| {
                let back = IndexExpr {
                    base: 2,
                    terms: vec![(b, -1)],
                };
                vec![IndexExpr::axis(a), back]
            },
            [2., 1., 0., 5., 4., 3.],
        ),
        (
            "one column",
            |a, _| vec![IndexExpr::axis(a), IndexExpr::at(1)],
            [1., 1., 1., 4., 4., 4.],
        ),
    ];
    for (name, index, want) in cases {
        let mut g = Builder::new();
        let (a, b) = (g.axis("A", 2), g.axis("B", 3));
        let x = g.input("x", &[a, b], count(0, 6));
        let access = Access {
            value: x,
            delay: 0,
            tail: None,
            index: index(a, b),
        };
        let y = g.op("y", OpKind::Map { expr: input(0) }, vec![access], &[a, b]);
        assert_eq!(g.eval(1, 1, y), want, "{name}");
    }
}

#[test]
fn map_broadcasts_parameters_over_rows() {
    let mut g = Builder::new();
    let a = g.axis("A", 2);
    let x = g.input("x", &[a], count(0, 8));
    let w = g.param("w", &[a], vec![10., 100.]);
    let expr = add(mul(input(0), input(1)), Expr::Const(1.0));
    let inputs = vec![g.read(x), g.read(w)];
    let y = g.op("y", OpKind::Map { expr }, inputs, &[a]);
    assert_eq!(g.eval(2, 2, y), [1., 101., 21., 301., 41., 501., 61., 701.]);
}

#[test]
fn position_counts_on_and_index_counts_along_its_axis() {
    let mut g = Builder::new();
    let a = g.axis("A", 2);
    let x = g.input("x", &[a], vec![0.0; 8]);
    let expr = add(
        mul(Expr::Position, Expr::Const(10.0)),
        add(Expr::Index(a), input(0)),
    );
    let inputs = vec![g.read(x)];
    let y = g.op("y", OpKind::Map { expr }, inputs, &[a]);
    g.output(y);
    let mut state = State::zero(&g.graph, 2);
    let first = g.run_part::<f64>(&mut state, (2, 2), (0, 1), Keep::Outputs);
    assert_eq!(first.values[&y].numbers(), Some(&[0., 1., 0., 1.][..]));
    let second = g.run_part::<f64>(&mut state, (2, 2), (1, 2), Keep::Outputs);
    assert_eq!(second.values[&y].numbers(), Some(&[10., 11., 10., 11.][..]));
    assert_eq!(state.position, 2);
}

#[test]
fn reductions_over_either_side() {
    // x over [A=2, B=3]: 0 1 2 / 3 4 5.
    for (combine, over_a, want) in [
        (Combine::Sum, false, vec![3., 12.]),
        (Combine::Sum, true, vec![3., 5., 7.]),
        (Combine::Max, false, vec![2., 5.]),
        (Combine::Max, true, vec![3., 4., 5.]),
    ] {
        let mut g = Builder::new();
        let (a, b) = (g.axis("A", 2), g.axis("B", 3));
        let (out, over) = if over_a { (b, a) } else { (a, b) };
        let x = g.input("x", &[a, b], count(0, 6));
        let kind = OpKind::Reduce {
            expr: input(0),
            combine,
            axes: vec![over],
        };
        let inputs = vec![g.read(x)];
        let y = g.op("y", kind, inputs, &[out]);
        assert_eq!(g.eval(1, 1, y), want, "{combine:?} over_a={over_a}");
    }
}

#[test]
fn norms_by_their_formulas() {
    let x = [3.0f64, 4.0];
    let eps = 0.25;
    let rms = (12.5f64 + eps).sqrt();
    let cases = [
        (NormKind::Layer, [-0.5 / 0.5f64.sqrt(), 0.5 / 0.5f64.sqrt()]),
        (NormKind::Rms, [3.0 / rms, 4.0 / rms]),
        (NormKind::L2, [3.0 / 25.25f64.sqrt(), 4.0 / 25.25f64.sqrt()]),
        (NormKind::L2Max, [0.6, 0.8]),
    ];
    for (kind, want) in cases {
        for (gain, bias) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut g = Builder::new();
            // The normalised axis is the outer one: lines are strided.
            let (n, h) = (g.axis("N", 2), g.axis("H", 2));
            let data = vec![x[0], 2.0 * x[0], x[1], 2.0 * x[1]];
            let v = g.input("x", &[n, h], data);
            let w = g.param("w", &[n], vec![2.0, 3.0]);
            let b = g.param("b", &[h], vec![10.0, 20.0]);
            let mut inputs = vec![g.read(v)];
            inputs.extend(gain.then(|| g.read(w)));
            inputs.extend(bias.then(|| g.read(b)));
            let op = OpKind::Norm {
                kind,
                axes: vec![n],
                eps,
                gain,
                bias,
            };
            let y = g.op("y", op, inputs, &[n, h]);
            let got = g.eval(1, 1, y);
            let at = |i: usize, x: f64, h: usize| {
                let gain = if gain { [2.0, 3.0][i] } else { 1.0 };
                x * gain + if bias { [10.0, 20.0][h] } else { 0.0 }
            };
            close(&[got[0], got[2]], &[at(0, want[0], 0), at(1, want[1], 0)]);
        }
    }
    let mut g = Builder::new();
    let n = g.axis("N", 2);
    let v = g.input("x", &[n], vec![0.0, 1e-13]);
    let op = OpKind::Norm {
        kind: NormKind::L2Max,
        axes: vec![n],
        eps: 1e-12,
        gain: false,
        bias: false,
    };
    let inputs = vec![g.read(v)];
    let y = g.op("y", op, inputs, &[n]);
    close(&g.eval(1, 1, y), &[0.0, 0.1]);
}

#[test]
fn contraction_is_a_matrix_product() {
    let mut g = Builder::new();
    let (k, n) = (g.axis("K", 2), g.axis("N", 3));
    let x = g.input("x", &[k], vec![1., 2., 3., 4.]);
    for (name, axes, weight) in [
        ("[K, N]", [k, n], vec![1., 2., 3., 4., 5., 6.]),
        ("[N, K]", [n, k], vec![1., 4., 2., 5., 3., 6.]),
    ] {
        let w = g.param(name, &axes, weight);
        let inputs = vec![g.read(x), g.read(w)];
        let y = g.op("y", OpKind::Contract { axes: vec![k] }, inputs, &[n]);
        assert_eq!(g.eval(1, 2, y), [9., 12., 15., 19., 26., 33.], "{name}");
    }
}

#[test]
fn gather_looks_up_rows_and_refuses_unknown_ids() {
    let mut g = Builder::new();
    let (v, c) = (g.axis("V", 3), g.axis("C", 2));
    let table = g.param("embedding", &[v, c], count(0, 6));
    let ids = g.ids("ids", vec![2, 0, 1, 2]);
    let read = Access {
        value: table,
        delay: 0,
        tail: None,
        index: vec![IndexExpr::at(0), IndexExpr::axis(c)],
    };
    let inputs = vec![read, g.read(ids)];
    let y = g.op("x", OpKind::Gather, inputs, &[c]);
    g.output(y);
    assert_eq!(g.eval(2, 2, y), [4., 5., 0., 1., 2., 3., 4., 5.]);

    let interpreter = Interpreter::new(&g.graph, g.params.clone()).expect("valid");
    for bad in [3, -1] {
        let mut state = State::zero(&g.graph, 1);
        let data = [0, bad];
        let given = BTreeMap::from([(ids, Input::Ids(&data[..]))]);
        let error = interpreter.run(&mut state, 1, 2, &given, Keep::Outputs);
        assert_eq!(
            error.map(|_| ()),
            Err(InterpretError::IdOutOfRange {
                id: bad,
                batch: 0,
                time: 1,
                name: "ids".into(),
                table: "embedding".into(),
                vocabulary: 3,
            })
        );
        assert_eq!(
            state,
            State::zero(&g.graph, 1),
            "a failed run changes nothing"
        );
    }
}

#[test]
fn cumulative_sum_at_load() {
    let mut g = Builder::new();
    let (l, d) = (g.axis("L", 3), g.axis("D", 2));
    let p = g.param("p", &[l, d], count(1, 6));
    let inputs = vec![g.read(p)];
    let sums = g.op("sums", OpKind::CumSum { axis: l }, inputs, &[l, d]);
    let interpreter = Interpreter::new(&g.graph, g.params.clone()).expect("valid");
    let want = [1., 2., 4., 6., 9., 12.];
    assert_eq!(interpreter.constant(sums), Some(&want[..]));
    let params = &g.params;
    let all = crate::interpret::evaluate_load_time(&g.graph, &|p| params[p.index()].clone());
    assert_eq!(all, Ok(BTreeMap::from([(sums, want.to_vec())])));
}

#[test]
fn delays_read_the_tail_first_and_look_ahead_reads_zero() {
    for (delay, want) in [
        (1, vec![0., 1., 2., 3., 0., 11., 12., 13.]),
        (3, vec![0., 0., 0., 1., 0., 0., 0., 11.]),
        (5, vec![0.; 8]),
        (-1, vec![2., 3., 4., 0., 12., 13., 14., 0.]),
    ] {
        let mut g = Builder::new();
        let data = vec![1., 2., 3., 4., 11., 12., 13., 14.];
        let x = g.input("x", &[], data);
        let tail = (delay > 0).then(|| g.tail(x, delay as u32));
        let access = g.delayed(x, delay, tail);
        let kind = OpKind::Map { expr: input(0) };
        let tails = tail.into_iter().collect();
        let y = g.op_with("y", kind, vec![access], &[&[]], true, tails)[0];
        assert_eq!(g.eval(2, 4, y), want, "delay {delay}");
    }
}

#[test]
fn scan_carries_its_state() {
    // S' = S / 2 + x, y = S' : an average that forgets.
    let mut g = Builder::new();
    let a = g.axis("A", 2);
    let x = g.input("x", &[a], vec![8., 16., 0., 0., 4., 0.]);
    let read = |item| StepAccess {
        item,
        axes: vec![a],
    };
    g.graph.recurrences.push(Recurrence {
        name: "ema".into(),
        inputs: vec![StepInput {
            name: "x".into(),
            axes: vec![a],
        }],
        states: vec![StepState {
            name: "S".into(),
            axes: vec![a],
            init: 2.0,
            kept: true,
        }],
        ops: vec![StepOp {
            places: crate::Places::default(),
            name: "S".into(),
            axes: vec![a],
            kind: StepKind::Map,
            expr: add(mul(input(0), Expr::Const(0.5)), input(1)),
            inputs: vec![read(StepRef::State(0)), read(StepRef::Input(0))],
        }],
        next: vec![StepRef::Op(0)],
        outputs: vec![StepRef::Op(0), StepRef::State(0)],
        direction: Direction::Forward,
    });
    let s = g.state("S", StateKind::Scan { init: 2.0 }, &[a]);
    let kind = OpKind::Scan {
        recurrence: RecurrenceId(0),
        states: vec![s],
    };
    let inputs = vec![g.read(x)];
    let y = g.op_with("y", kind, inputs, &[&[a], &[a]], true, vec![]);
    assert_eq!(g.eval(1, 3, y[0]), [9., 17., 4.5, 8.5, 6.25, 4.25]);
    assert_eq!(g.eval(1, 3, y[1]), [2., 2., 9., 17., 4.5, 8.5]);
}
