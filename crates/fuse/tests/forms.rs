//! Each rule is an equality: both sides, evaluated in f64 on random tensors, agree. And it
//! applies where its condition holds, and nowhere else.

mod common;

use common::{Build, h200, options};
use fusec_fuse::forms::{self, Aim, RULES};
use fusec_fuse::patterns::{PATTERNS, patterns};
use fusec_fuse::{Mode, Shape, Storage, plan};
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::*;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers in (-1, 1), the same for the same seed.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// The outputs of a prefill of 5 rows and a step from the carried state.
fn evaluate(graph: &Graph) -> Vec<f64> {
    let params = (0..graph.params.len())
        .map(|i| numbers(100 + i as u64, graph.row_elements(graph.params[i].value)))
        .collect();
    let interpreter = Interpreter::<f64>::new(graph, params).expect("a sound graph");
    let batch = 2;
    let mut state = State::zero(graph, batch);
    let mut out = vec![];
    for (run, time) in [5, 1].into_iter().enumerate() {
        let data: Vec<Vec<f64>> = graph
            .inputs
            .iter()
            .enumerate()
            .map(|(i, v)| {
                numbers(
                    (7 + i + 50 * run) as u64,
                    batch * time * graph.row_elements(*v),
                )
            })
            .collect();
        let ids: Vec<i32> = (0..(batch * time) as i32).map(|i| i * 5 % 7).collect();
        let mut inputs: BTreeMap<ValueId, Input<'_, f64>> = BTreeMap::new();
        for (v, x) in graph.inputs.iter().zip(&data) {
            let input = match graph.value(*v).precision {
                Precision::Index => Input::Ids(&ids),
                _ => Input::Numbers(x),
            };
            inputs.insert(*v, input);
        }
        let outputs = interpreter
            .run(&mut state, batch, time, &inputs, Keep::Outputs)
            .expect("a run");
        for v in &graph.outputs {
            out.extend(outputs.values[v].numbers().expect("numbers"));
        }
    }
    out
}

fn close(a: &[f64], b: &[f64]) -> bool {
    let scale = a.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-9 * scale)
}

fn norm(
    b: &mut Build,
    name: &str,
    of: ValueId,
    over: &[AxisId],
    kind: NormKind,
    gain: bool,
    bias: bool,
) -> ValueId {
    let axes = b.graph.value(of).axes.clone();
    let mut inputs = vec![b.read(of)];
    for (wanted, what) in [(gain, "gain"), (bias, "bias")] {
        if wanted {
            let p = b.param(&format!("{name}.{what}"), &axes);
            inputs.push(b.read(p));
        }
    }
    let kind = OpKind::Norm {
        kind,
        axes: over.to_vec(),
        eps: 1e-3,
        gain,
        bias,
    };
    b.op(name, kind, inputs, &axes)
}

fn times(b: &mut Build, name: &str, x: ValueId, y: ValueId) -> ValueId {
    let axes = b.graph.value(x).axes.clone();
    let inputs = vec![b.read(x), b.read(y)];
    let expr = Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1));
    b.op(name, OpKind::Map { expr }, inputs, &axes)
}

const KINDS: [NormKind; 4] = [
    NormKind::Layer,
    NormKind::Rms,
    NormKind::L2,
    NormKind::L2Max,
];

/// Rule, what it is about, graph, whether it applies.
fn cases() -> Vec<(&'static str, String, Graph, bool)> {
    let mut out: Vec<(&'static str, String, Graph, bool)> = vec![];
    for kind in KINDS {
        for (gain, bias) in [(false, false), (true, false), (true, true)] {
            let mut b = Build::new();
            let (h, n, f) = (b.axis("H", 2), b.axis("N", 6), b.axis("F", 5));
            let x = b.input("x", &[h, n]);
            let y = norm(&mut b, "y", x, &[h, n], kind, gain, bias);
            let p = b.project("p", y, &[f]);
            let g = b.output(&[p]);
            out.push((
                "ln-projection",
                format!("{kind:?} gain {gain} bias {bias}"),
                g,
                true,
            ));

            let mut b = Build::new();
            let (h, n) = (b.axis("H", 2), b.axis("N", 6));
            let x = b.input("x", &[h, n]);
            let y = norm(&mut b, "y", x, &[n], kind, gain, bias);
            let w = b.param("w", &[n]);
            let z = times(&mut b, "z", y, w);
            let g = b.output(&[z]);
            out.push((
                "norm-gain",
                format!("{kind:?} gain {gain} bias {bias}"),
                g,
                true,
            ));
        }
    }
    {
        // A norm per head before a product over all heads: the rate differs inside the sum.
        let mut b = Build::new();
        let (h, n, f) = (b.axis("H", 2), b.axis("N", 6), b.axis("F", 5));
        let x = b.input("x", &[h, n]);
        let y = norm(&mut b, "y", x, &[n], NormKind::Layer, true, true);
        let p = b.project("p", y, &[f]);
        let g = b.output(&[p]);
        out.push((
            "ln-projection",
            "a norm per head, a sum over heads".into(),
            g,
            false,
        ));
    }
    {
        // A product per head of a norm per head: heads are a batch axis.
        let mut b = Build::new();
        let (h, n, f) = (b.axis("H", 3), b.axis("N", 4), b.axis("F", 5));
        let x = b.input("x", &[h, n]);
        let y = norm(&mut b, "y", x, &[n], NormKind::Layer, true, true);
        let w = b.param("w", &[h, n, f]);
        let inputs = vec![b.read(y), b.read(w)];
        let p = b.op("p", OpKind::Contract { axes: vec![n] }, inputs, &[h, f]);
        let g = b.output(&[p]);
        out.push((
            "ln-projection",
            "a norm and a product per head".into(),
            g,
            true,
        ));
    }
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 6), b.axis("F", 5));
        let x = b.input("x", &[c]);
        let y = norm(&mut b, "y", x, &[c], NormKind::Rms, true, false);
        let late = b.late(y, 1);
        let p = b.project_access("p", late, &[f]);
        let g = b.output(&[p]);
        out.push(("ln-projection", "an earlier row of a norm".into(), g, false));
    }
    {
        // Two branches: gains on both norms inside one weighted sum.
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        let p = norm(&mut b, "p", x, &[c], NormKind::Rms, true, false);
        let q = norm(&mut b, "q", y, &[c], NormKind::Rms, false, false);
        let (v, w) = (b.param("v", &[c]), b.param("w", &[c]));
        let inputs = [p, v, q, w].map(|x| b.read(x)).to_vec();
        let mul = |i, j| Expr::binary(Binary::Mul, Expr::Input(i), Expr::Input(j));
        let expr = Expr::binary(Binary::Add, mul(1, 0), mul(2, 3));
        let s = b.op("s", OpKind::Map { expr }, inputs, &[c]);
        let g = b.output(&[s]);
        out.push((
            "norm-gain-fold",
            "a weighted sum of two norms".into(),
            g,
            true,
        ));
    }
    {
        // The norm's value is also used without the factor.
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let x = b.input("x", &[c]);
        let p = norm(&mut b, "p", x, &[c], NormKind::Rms, false, false);
        let v = b.param("v", &[c]);
        let inputs = [p, v].map(|x| b.read(x)).to_vec();
        let mul = Expr::binary(Binary::Mul, Expr::Input(0), Expr::Input(1));
        let expr = Expr::binary(Binary::Add, mul, Expr::Input(0));
        let s = b.op("s", OpKind::Map { expr }, inputs, &[c]);
        let g = b.output(&[s]);
        out.push((
            "norm-gain-fold",
            "a factor on one of two uses".into(),
            g,
            false,
        ));
    }
    {
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        let p = norm(&mut b, "p", x, &[c], NormKind::Rms, false, false);
        let s = times(&mut b, "s", p, y);
        let g = b.output(&[s]);
        out.push((
            "norm-gain",
            "a factor that changes per row".into(),
            g,
            false,
        ));
    }
    for (what, fixed) in [("gains of two norms", true), ("a gain per row", false)] {
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        let p = norm(&mut b, "p", x, &[c], NormKind::Rms, true, false);
        let q = norm(&mut b, "q", x, &[c], NormKind::Rms, true, false);
        let (v, w) = match fixed {
            true => (b.param("v", &[c]), b.param("w", &[c])),
            false => (x, y),
        };
        let inputs = [p, v, q, w].map(|x| b.read(x)).to_vec();
        let mul = |i, j| Expr::binary(Binary::Mul, Expr::Input(i), Expr::Input(j));
        let expr = Expr::binary(Binary::Add, mul(0, 1), mul(2, 3));
        let s = b.op("s", OpKind::Map { expr }, inputs, &[c]);
        let g = b.output(&[s]);
        out.push(("norm-gain", what.into(), g, fixed));
    }
    for (what, delayed) in [("a stencil before a scan", true), ("no stencil", false)] {
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let x = b.input("x", &[c]);
        let first = if delayed { b.late(x, 3) } else { b.read(x) };
        let now = b.read(x);
        let conv = b.sum("conv", vec![now, first], &[c]);
        let act = b.unary("act", Unary::Silu, conv);
        let gate = b.unary("gate", Unary::Sigmoid, x);
        let h = b.ema("h", gate, act);
        let g = b.output(&[h]);
        out.push(("conv-ssm", what.into(), g, delayed));
    }
    for (what, chained) in [
        ("two scans side by side", false),
        ("a scan of a scan", true),
    ] {
        let mut b = Build::new();
        let c = b.axis("C", 6);
        let x = b.input("x", &[c]);
        let gate = b.unary("gate", Unary::Sigmoid, x);
        let h = b.ema("h", gate, x);
        let k = b.ema("k", gate, if chained { h } else { gate });
        let g = b.output(&[h, k]);
        out.push(("wkv-scan", what.into(), g, !chained));
    }
    out.extend(matrices());
    for (rule, applies, graph) in edges() {
        out.push((rule, format!("an edge, {applies}"), graph, applies));
    }
    out
}

/// What a plan for a single step of one sequence asks of rules.
fn single_step(graph: &Graph, storage: Storage) -> Aim {
    Aim::of(graph, Shape { batch: 1, time: 1 }, storage)
}

/// Rules about the matrix of a product.
fn matrices() -> Vec<(&'static str, String, Graph, bool)> {
    let mut out: Vec<(&'static str, String, Graph, bool)> = vec![];
    // As checkpoints have it: what a result is a sum of lies side by side.
    let linear = |b: &mut Build, x: ValueId, sum: AxisId, of: AxisId| {
        let w = b.param("w", &[of, sum]);
        let inputs = vec![b.read(x), b.read(w)];
        b.op("p", OpKind::Contract { axes: vec![sum] }, inputs, &[of])
    };
    // What is before the product, the share of zeros that is expected, whether the rule applies.
    for (what, relu, zeros, applies) in [
        ("a squared relu", true, 0.5, true),
        (
            "a squared relu of which nobody expects zeros",
            true,
            0.0,
            false,
        ),
        ("a square", false, 0.5, false),
    ] {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 6), b.axis("F", 5));
        let x = b.input("x", &[c]);
        let r = match relu {
            true => b.unary("r", Unary::Relu, x),
            false => x,
        };
        let k = b.unary("k", Unary::Square, r);
        let p = linear(&mut b, k, c, f);
        let mut g = b.output(&[p]);
        g.zeros = zeros;
        out.push(("zero-rows", what.into(), g, applies));
    }
    {
        // The matrix lies as it is needed already.
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 6), b.axis("F", 5));
        let x = b.input("x", &[c]);
        let r = b.unary("r", Unary::Relu, x);
        let w = b.param("w", &[c, f]);
        let inputs = vec![b.read(r), b.read(w)];
        let p = b.op("p", OpKind::Contract { axes: vec![c] }, inputs, &[f]);
        let mut g = b.output(&[p]);
        g.zeros = 0.5;
        out.push((
            "zero-rows",
            "a matrix with the sum outermost".into(),
            g,
            false,
        ));
    }
    for (what, terms, applies) in [
        ("a low rank", 4, true),
        ("a sum that lanes do not share", 6, false),
        ("a long sum", 512, false),
    ] {
        let mut b = Build::new();
        let (r, c) = (b.axis("R", terms), b.axis("C", 48));
        let x = b.input("x", &[r]);
        let p = linear(&mut b, x, r, c);
        let g = b.output(&[p]);
        out.push(("short-product", what.into(), g, applies));
    }
    {
        let mut b = Build::new();
        let (r, c) = (b.axis("R", 4), b.axis("C", 12));
        let x = b.input("x", &[r]);
        let p = linear(&mut b, x, r, c);
        let g = b.output(&[p]);
        out.push(("short-product", "few results".into(), g, false));
    }
    out
}

/// Rules about an operation and one that reads it.
fn edges() -> Vec<(&'static str, bool, Graph)> {
    let mut out = vec![];
    for applies in [true, false] {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 6), b.axis("F", 5));
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        let s = match applies {
            true => b.add("s", &[x, y]),
            false => times(&mut b, "s", x, y),
        };
        let n = norm(&mut b, "n", s, &[c], NormKind::Rms, false, false);
        let g = b.output(&[s, n]);
        out.push(("residual-norm", applies, g));

        let mut b = Build::new();
        b.axis("C", 6);
        let v = b.axis("V", 7);
        let ids = b.input("ids", &[]);
        b.graph.values[ids.index()].precision = Precision::Index;
        let table = b.param("table", &[v, c]);
        let mut row = b.read(table);
        row.index[0] = IndexExpr::at(0);
        let inputs = vec![row, b.read(ids)];
        let e = b.op("e", OpKind::Gather, inputs, &[c]);
        let e = match applies {
            true => e,
            false => b.unary("act", Unary::Silu, e),
        };
        let n = norm(&mut b, "n", e, &[c], NormKind::Rms, false, false);
        let g = b.output(&[n]);
        out.push(("embed-norm", applies, g));

        let mut b = Build::new();
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        b.axis("C", 6);
        b.axis("F", 5);
        let p = b.project("p", x, &[f]);
        let q = b.project("q", if applies { x } else { y }, &[f]);
        let g = b.output(&[p, q]);
        out.push(("sibling-products", applies, g));

        let mut b = Build::new();
        let x = b.input("x", &[c]);
        b.axis("C", 6);
        b.axis("F", 5);
        let p = b.project("p", x, &[f]);
        let read = if applies { b.read(p) } else { b.late(p, 1) };
        let e = b.sum("e", vec![read], &[f]);
        let g = b.output(&[e]);
        out.push(("product-epilogue", applies, g));

        let mut b = Build::new();
        let x = b.input("x", &[c]);
        b.axis("C", 6);
        b.axis("F", 5);
        let n = norm(&mut b, "n", x, &[c], NormKind::Rms, false, false);
        let read = if applies { b.read(n) } else { b.late(n, 1) };
        let p = b.project_access("p", read, &[f]);
        let g = b.output(&[p]);
        out.push(("norm-product", applies, g));

        let mut b = Build::new();
        let x = b.input("x", &[c]);
        b.axis("C", 6);
        b.axis("F", 5);
        let p = if applies { b.project("p", x, &[f]) } else { x };
        let e = b.unary("e", Unary::Silu, p);
        let q = b.project("q", e, &[if applies { c } else { f }]);
        let g = b.output(&[q]);
        out.push(("product-chain", applies, g));

        let mut b = Build::new();
        b.axis("C", 6);
        b.axis("F", 5);
        let x = b.input("x", &[if applies { c } else { f }]);
        let z = match applies {
            true => b.unary("z", Unary::Sigmoid, x),
            false => b.project("z", x, &[c]),
        };
        let h = b.ema("h", z, z);
        let g = b.output(&[h]);
        out.push(("scan-prologue", applies, g));

        let mut b = Build::new();
        let x = b.input("x", &[c]);
        b.axis("C", 6);
        let h = b.ema("h", x, x);
        let read = if applies { b.read(h) } else { b.late(h, 1) };
        let e = b.sum("e", vec![read], &[c]);
        let g = b.output(&[e]);
        out.push(("scan-epilogue", applies, g));
    }
    out
}

/// All operations of a graph, as if one kernel computed them.
fn whole(graph: &Graph) -> Vec<OpId> {
    let ops = (0..graph.ops.len() as u32).map(OpId);
    ops.filter(|id| !graph.is_load_time(*id)).collect()
}

#[test]
fn rules_apply_where_their_condition_holds_and_both_sides_agree() {
    for (rule, what, graph, applies) in cases() {
        let expected = evaluate(&graph);
        assert!(expected.iter().any(|x| x.abs() > 1e-3), "{what}: all zero");
        if PATTERNS.iter().any(|pattern| pattern.name == rule) {
            let there = patterns(&graph, &whole(&graph)).contains(&rule);
            assert_eq!(there, applies, "{rule}: {what}");
            continue;
        }
        for storage in [Storage::F32, Storage::Bf16] {
            let (found, stop) = forms::enumerate(&graph, single_step(&graph, storage)).unwrap();
            assert_eq!(stop, "saturated");
            for form in &found {
                assert!(close(&expected, &evaluate(&form.graph)), "{rule}: {what}");
            }
            let mut used = found.iter().flat_map(|form| &form.rules);
            let applied = used.any(|r| r.starts_with(&format!("{rule} ")));
            assert_eq!(applied, applies, "{rule}: {what}");
        }
    }
}

#[test]
fn taps_of_convolutions_lie_side_by_side() {
    // A matrix beside them, and taps that somebody reads whole, stay as they are.
    let cases = [
        ("return conv(x, taps)", true),
        ("return conv(x, taps) + sum(taps, K)", false),
        ("return x * taps_of_one", false),
    ];
    for (flow, turned) in cases {
        let text = format!(
            "name = \"taps\"\n[axes]\nC = 6\nK = 3\nN = 1\n[input]\nx = \"C\"\n[param]\n\
             taps = {{ shape = \"C, K\" }}\ntaps_of_one = {{ shape = \"C\" }}\n\
             [model]\nflow = \"{flow}\"\n"
        );
        let source = language::ModelSource::from_text("taps", text.clone());
        let graph = language::compile(&source, &language::Overrides::default());
        let graph = graph.unwrap_or_else(|error| panic!("{text}\n{error}"));
        let canonical = forms::canonical(&graph);
        let copies = canonical.values.iter();
        let copy = copies
            .filter(|v| v.name == "taps_transposed")
            .map(|v| canonical.size(v.axes[0]));
        let expected: &[usize] = if turned { &[3] } else { &[] };
        assert_eq!(copy.collect::<Vec<_>>(), expected, "{flow}");
        assert!(close(&evaluate(&graph), &evaluate(&canonical)), "{flow}");
        assert_eq!(forms::canonical(&canonical), canonical, "{flow}");
    }
}

#[test]
fn every_rule_and_pattern_has_cases_on_both_sides_of_its_condition() {
    let covered: BTreeSet<(&str, bool)> = cases().iter().map(|c| (c.0, c.3)).collect();
    let rules = RULES.iter().map(|r| (r.name(), r.reason(), r.condition()));
    let patterns = PATTERNS.iter().map(|p| (p.name, p.reason, p.condition));
    for (name, reason, condition) in rules.chain(patterns) {
        for applies in [true, false] {
            assert!(covered.contains(&(name, applies)), "{name}");
        }
        assert!(!reason.is_empty() && !condition.is_empty());
    }
    assert!(PATTERNS.is_sorted_by_key(|pattern| pattern.name));
}

#[test]
fn sixteen_bit_matrices_are_not_rounded_again() {
    let (_, _, graph, _) = cases().swap_remove(2);
    for (storage, folded) in [(Storage::F32, true), (Storage::Bf16, false)] {
        let (found, _) = forms::enumerate(&graph, single_step(&graph, storage)).unwrap();
        let matrices = found.iter().flat_map(|f| &f.graph.values);
        let has = matrices.into_iter().any(|v| v.name == "p.matrix");
        assert_eq!(has, folded);
    }
}

#[test]
fn patterns_name_what_the_kernels_of_a_plan_fuse() {
    for (rule, what, graph, applies) in cases() {
        if !applies || !PATTERNS.iter().any(|pattern| pattern.name == rule) {
            continue;
        }
        // What pays is the cost model's matter: some legal plan realises it.
        let modes = std::iter::once(Mode::Auto).chain((0..8).map(Mode::Random));
        let mut plans = modes.flat_map(|mode| [(mode, 1), (mode, 2048)]);
        let labelled = plans.any(|(mode, time)| {
            let planned = plan(&graph, &options(&h200(), 1, time, mode)).unwrap();
            let mut kernels = planned.plan.kernels.into_iter();
            kernels.any(|k| k.forms.iter().any(|f| f == rule))
        });
        assert!(labelled, "{rule}: {what}");
        let unfused = plan(&graph, &options(&h200(), 1, 2048, Mode::Unfused)).unwrap();
        assert!(unfused.plan.kernels.iter().all(|k| k.forms.is_empty()));
    }
}
