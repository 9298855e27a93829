//! Every rule of legality refuses what it is meant to refuse, and only for its reason.

mod common;

use common::{Build, context, h200};
use fusec_fuse::fit::fit;
use fusec_fuse::{Body, GridAxis, Phase, Reject, Schedule, Template};
use fusec_ir::*;

/// The lanes that compute the named values' operations of a graph at (batch, time), in one phase.
fn fit_at(graph: &Graph, names: &[&str], batch: usize, time: usize) -> Result<Vec<Body>, Reject> {
    let mut phases = phases_at(graph, names, batch, time)?;
    assert_eq!(phases.len(), 1, "{names:?} are several phases");
    Ok(phases.remove(0).lanes)
}

/// The phases that compute them.
fn phases_at(
    graph: &Graph,
    names: &[&str],
    batch: usize,
    time: usize,
) -> Result<Vec<Phase>, Reject> {
    let device = h200();
    let ctx = context(graph, &device, batch, time);
    let mut ops: Vec<OpId> = names
        .iter()
        .map(|n| {
            let v = graph.values.iter().position(|v| v.name == *n);
            let v = v.unwrap_or_else(|| panic!("no value `{n}`"));
            graph.producer(ValueId(v as u32)).expect("made by an op")
        })
        .collect();
    ops.sort_unstable();
    fit(&ctx, &ops)
}

fn rule(graph: &Graph, names: &[&str], batch: usize, time: usize) -> String {
    match phases_at(graph, names, batch, time) {
        Ok(phases) if phases.len() > 1 => "phases".into(),
        Ok(_) => "legal".into(),
        Err(reject) => {
            assert!(!reject.limit.is_empty() && !reject.got.is_empty());
            reject.rule
        }
    }
}

/// name, graph, values whose operations form the group, batch, time, expected rule
type Case = (&'static str, Graph, Vec<&'static str>, usize, usize);

fn cases() -> Vec<(Case, &'static str)> {
    let mut out: Vec<(Case, &'static str)> = vec![];
    let mut case = |expected, name, graph, ops: &[&'static str], batch, time| {
        out.push(((name, graph, ops.to_vec(), batch, time), expected));
    };

    // Phases
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 64), b.axis("F", 128));
        let x = b.input("x", &[c]);
        let n = b.norm("n", x, &[c]);
        let late = b.late(n, 1);
        let m = b.sum("m", vec![late], &[c]);
        let (gate, up) = (b.project("gate", n, &[f]), b.project("up", n, &[f]));
        let act = b.unary("act", Unary::Silu, gate);
        let both = b.add("both", &[act, up]);
        let down = b.project("down", both, &[c]);
        let res = b.add("res", &[down, x]);
        let r = b.project("r", m, &[c]);
        let open = b.unary("open", Unary::Sigmoid, r);
        let gated = b.add("gated", &[open, down]);
        let mean = b.norm("mean", both, &[f]);
        let of_mean = b.project("of_mean", mean, &[c]);
        let third = b.project("third", res, &[f]);
        let late = b.late(both, 1);
        let of_late = b.project_access("of_late", late, &[c]);
        let other = b.project("other", both, &[c]);
        let g = b.output(&[gated, of_mean, third, of_late, other]);
        for (expected, name, ops) in [
            (
                "phases",
                "a gated FFN",
                &["n", "gate", "up", "act", "both", "down", "res"][..],
            ),
            ("phases", "one half of it", &["up", "both", "down"]),
            (
                "phases",
                "an FFN whose result is gated by a product of what it reads",
                &[
                    "n", "m", "gate", "act", "up", "both", "down", "r", "open", "gated",
                ],
            ),
            (
                "phases",
                "a norm between two products",
                &["up", "both", "mean", "of_mean"],
            ),
            (
                "phases",
                "a product of an earlier row of a product",
                &["up", "both", "of_late"],
            ),
            (
                "phase-lanes",
                "products of a product apart",
                &["up", "both", "down", "other"],
            ),
            (
                "phase-lanes",
                "products apart before a product",
                &["up", "both", "down", "res", "r"],
            ),
            (
                "needs-phase",
                "three products one after the other",
                &["up", "both", "down", "res", "third"],
            ),
        ] {
            for (batch, time) in [(1, 1), (3, 1), (2, 8)] {
                case(expected, name, g.clone(), ops, batch, time);
            }
            // Many rows have one phase; the rule that is found first says so.
            let many = match ops {
                [.., "of_mean"] => "epilogue-op",
                [.., "of_late"] => "contract-delay",
                _ => "needs-phase",
            };
            case(many, name, g.clone(), ops, 8, 2048);
        }
    }

    // Row
    {
        let mut b = Build::new();
        let c = b.axis("C", 64);
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c]));
        let p = b.unary("p", Unary::Exp, x);
        let q = b.unary("q", Unary::Exp, y);
        let r = b.unary("r", Unary::Tanh, x);
        let g = b.output(&[p, q, r]);
        case(
            "not-connected",
            "two maps of different inputs",
            g.clone(),
            &["p", "q"],
            1,
            64,
        );
        case(
            "legal",
            "two maps of one input",
            g.clone(),
            &["p", "r"],
            1,
            64,
        );
        case("empty", "nothing", g, &[], 1, 64);
    }
    {
        let mut b = Build::new();
        let (h, n) = (b.axis("H", 8), b.axis("N", 8));
        let x = b.input("x", &[h, n]);
        let p = b.unary("p", Unary::Exp, x);
        let late = b.late(p, 1);
        let permuted = Access {
            index: vec![IndexExpr::axis(h), IndexExpr::at(0)],
            ..late
        };
        let q = b.sum("q", vec![permuted], &[h]);
        let s = b.late(p, 1);
        let s = b.sum("s", vec![s], &[h, n]);
        let g = b.output(&[q, s]);
        case(
            "delay-permuted",
            "an earlier row of a slice",
            g.clone(),
            &["p", "q"],
            1,
            64,
        );
        case("legal", "an earlier row", g, &["p", "s"], 1, 64);
    }
    {
        let mut b = Build::new();
        let c = b.axis("C", 64);
        let x = b.input("x", &[c]);
        let mut y = b.unary("y0", Unary::Exp, x);
        for i in 1..=3 {
            let late = b.late(y, 3);
            y = b.sum(["", "y1", "y2", "y3"][i], vec![late], &[c]);
        }
        let g = b.output(&[y]);
        case(
            "halo-depth",
            "three stencils of width 3",
            g.clone(),
            &["y0", "y1", "y2", "y3"],
            1,
            64,
        );
        case(
            "legal",
            "two stencils of width 3",
            g,
            &["y0", "y1", "y2"],
            1,
            64,
        );
    }
    {
        let mut b = Build::new();
        let c = b.axis("C", 40000);
        let x = b.input("x", &[c]);
        let y = b.norm("y", x, &[c]);
        let z = b.unary("z", Unary::Exp, x);
        let g = b.output(&[y, z]);
        case("row-size", "a norm over 40000", g.clone(), &["y"], 1, 64);
        case("legal", "a map over 40000", g, &["z"], 1, 64);
    }
    {
        let mut b = Build::new();
        let c = b.axis("C", 64);
        let x = b.input("x", &[c]);
        let p = b.unary("p", Unary::Exp, x);
        let ahead = b.early(p, 1);
        let q = b.sum("q", vec![ahead.clone()], &[c]);
        let r = b.project_access("r", ahead, &[c]);
        let g = b.output(&[q, r]);
        case("look-ahead", "the next row", g.clone(), &["p", "q"], 1, 64);
        case(
            "legal",
            "the next row from memory",
            g.clone(),
            &["q"],
            1,
            64,
        );
        for (batch, time) in [(1, 1), (8, 512)] {
            let name = "a product of the next row";
            case("contract-look-ahead", name, g.clone(), &["r"], batch, time);
        }
    }

    // Scan
    {
        let mut b = Build::new();
        let n = b.axis("N", 8);
        let x = b.input("x", &[n]);
        let a = b.unary("a", Unary::Sigmoid, x);
        let forward = b.ema("forward", a, x);
        let back = b.ema("back", a, forward);
        b.backwards(back);
        let next = b.early(back, 2);
        let next = b.sum("next", vec![next], &[n]);
        let late = b.late(back, 1);
        let late = b.sum("late", vec![late], &[n]);
        let early = b.early(x, 1);
        let early = b.sum("early", vec![early], &[n]);
        let again = b.ema("again", a, x);
        b.backwards(again);
        let g = b.output(&[back, next, late, early, again]);
        for (expected, name, ops) in [
            ("legal", "from the last row on", &["a", "back"][..]),
            ("legal", "two from the last row on", &["a", "back", "again"]),
            ("scan-direction", "both ways", &["a", "forward", "back"]),
            ("legal", "what the walk has been at", &["back", "next"]),
            ("reverse-delay", "what it comes to", &["back", "late"]),
        ] {
            case(expected, name, g.clone(), ops, 1, 64);
        }
    }
    {
        let mut b = Build::new();
        let (h, n) = (b.axis("H", 8), b.axis("N", 8));
        let x = b.input("x", &[h, n]);
        let a = b.unary("a", Unary::Sigmoid, x);
        let s = b.ema("s", a, x);
        let y = b.unary("y", Unary::Silu, s);
        let other = b.unary("other", Unary::Exp, x);
        let side = b.unary("side", Unary::Exp, a);
        let w = b.project("w", y, &[n]);
        let g = b.output(&[y, other, side, w]);
        case(
            "legal",
            "gate, scan, activation, side result",
            g.clone(),
            &["a", "s", "y", "side"],
            1,
            64,
        );
        case(
            "not-connected",
            "a map beside a scan",
            g.clone(),
            &["s", "other"],
            1,
            64,
        );
        case(
            "mixed-anchors",
            "a scan and a product",
            g,
            &["s", "w"],
            1,
            64,
        );
    }
    {
        let mut b = Build::new();
        let n = b.axis("N", 8);
        let ids = b.input("ids", &[]);
        let table = b.param("table", &[n, n]);
        let row = Access {
            index: vec![IndexExpr::at(0), IndexExpr::axis(n)],
            ..b.read(table)
        };
        let ids = b.read(ids);
        let e = b.op("e", OpKind::Gather, vec![row, ids], &[n]);
        let s = b.ema("s", e, e);
        let g = b.output(&[s]);
        case(
            "scan-gather",
            "a look-up before a scan",
            g,
            &["e", "s"],
            1,
            64,
        );
    }
    {
        let mut b = Build::new();
        let (i, j) = (b.axis("I", 160), b.axis("J", 160));
        let (x, y) = (b.input("x", &[i]), b.input("y", &[j]));
        let d = b.read(x);
        let (k, v, q) = (b.read(x), b.read(y), b.read(x));
        let s = b.outer("s", &[], (i, j), d, k, v, q);
        let all = b.norm("all", s, &[j]);
        let g = b.output(&[all]);
        case(
            "legal",
            "a state of 160 x 160 spread over its columns",
            g.clone(),
            &["s"],
            1,
            64,
        );
        case(
            "state-size",
            "a norm over the columns keeps the state whole",
            g,
            &["s", "all"],
            1,
            64,
        );
    }
    {
        let mut b = Build::new();
        let (h, n, m) = (b.axis("H", 256), b.axis("N", 4), b.axis("M", 256));
        let x = b.input("x", &[h, n]);
        let s = b.ema("s", x, x);
        let wide = b.read(s);
        let w = b.param("w", &[m]);
        let w = b.read(w);
        let o = b.sum("o", vec![wide, w], &[h, n, m]);
        let o = b.norm("on", o, &[h]);
        let g = b.output(&[o]);
        case(
            "scan-width",
            "an outer product kept whole by a norm",
            g,
            &["s", "o", "on"],
            1,
            64,
        );
    }

    // Gemv (few rows) and Gemm (many rows)
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 64), b.axis("F", 32));
        let x = b.input("x", &[c]);
        let n = b.norm("n", x, &[c]);
        let m = b.unary("m", Unary::Exp, x);
        let p = b.project("p", n, &[f]);
        let q = b.project("q", m, &[f]);
        let act = b.unary("act", Unary::Square, p);
        let both = b.add("both", &[p, q]);
        let z = b.project("z", act, &[c]);
        let sum = b.reduce("sum", p, &[f]);
        let res = b.add("res", &[z, x]);
        let pro = b.add("pro", &[z, m]);
        let lone = b.unary("lone", Unary::Tanh, x);
        let late = b.late(p, 1);
        let late = b.sum("late", vec![late], &[f]);
        let slice = Access {
            index: vec![IndexExpr::at(3)],
            ..b.read(p)
        };
        let slice = b.sum("slice", vec![slice], &[f]);
        let head = Access {
            index: vec![IndexExpr::at(0)],
            ..b.read(p)
        };
        let head = b.sum("head", vec![head], &[]);
        let g = b.output(&[both, sum, res, pro, lone, late, slice, head]);
        for (expected, name, ops, gemm) in [
            (
                "legal",
                "norm, product, activation",
                &["n", "p", "act"][..],
                "prologue-op",
            ),
            (
                "legal",
                "map before a product",
                &["m", "q"],
                "prologue-stored",
            ),
            (
                "legal",
                "two products joined",
                &["p", "q", "both"],
                "lane-operands",
            ),
            ("legal", "two products apart", &["p", "q"], "legal"),
            ("legal", "residual after a product", &["z", "res"], "legal"),
            (
                "phases",
                "a product of a product",
                &["p", "act", "z"],
                "needs-phase",
            ),
            (
                "phase-lanes",
                "and a product beside both",
                &["p", "act", "z", "q"],
                "needs-phase",
            ),
            (
                "not-connected",
                "and a sum that no product reads",
                &["p", "act", "z", "sum"],
                "needs-phase",
            ),
            (
                "epilogue-op",
                "a sum after a product",
                &["p", "sum"],
                "epilogue-op",
            ),
            (
                "epilogue-reads-prologue",
                "a map read again after",
                &["m", "q", "z", "pro"],
                "epilogue-reads-prologue",
            ),
            (
                "not-connected",
                "a map beside a product",
                &["p", "lone"],
                "not-connected",
            ),
            (
                "legal",
                "an earlier row of a product's result in single steps",
                &["p", "late"],
                "epilogue-tail",
            ),
            (
                "epilogue-access",
                "one element after a product",
                &["p", "slice"],
                "epilogue-access",
            ),
            (
                "epilogue-access",
                "one element per row after a product",
                &["p", "head"],
                "epilogue-access",
            ),
        ] {
            case(expected, name, g.clone(), ops, 1, 1);
            case(gemm, name, g.clone(), ops, 8, 64);
        }
        case(
            "epilogue-tail",
            "an earlier row of a product's result, of several",
            g,
            &["p", "late"],
            1,
            4,
        );
    }
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 20000), b.axis("F", 32));
        let x = b.input("x", &[c]);
        let m = b.unary("m", Unary::Exp, x);
        let p = b.project("p", m, &[f]);
        let g = b.output(&[p]);
        case(
            "prologue-size",
            "a prologue of 20000",
            g.clone(),
            &["m", "p"],
            1,
            1,
        );
        case("legal", "the same in tiles", g, &["m", "p"], 8, 64);
    }
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 64), b.axis("F", 32));
        let x = b.input("x", &[c]);
        let m = b.unary("m", Unary::Exp, x);
        let late = Access {
            tail: None,
            ..b.late(m, 1)
        };
        let p = b.project_access("p", late, &[f]);
        let g = b.output(&[p]);
        case(
            "contract-delay",
            "a product of an earlier row",
            g,
            &["m", "p"],
            1,
            4,
        );
    }
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 64), b.axis("F", 32));
        let x = b.input("x", &[c]);
        let p = b.project("p", x, &[f]);
        let q = b.project("q", x, &[c]);
        let r = b.project("r", x, &[f]);
        let o = b.project("o", x, &[f]);
        let q2 = b.read(q);
        let p2 = Access {
            index: vec![IndexExpr::at(0)],
            ..b.read(p)
        };
        let mixed = b.sum("mixed", vec![q2, p2], &[c]);
        let three = b.add("three", &[p, r, o]);
        let two = b.add("two", &[p, r]);
        let before = b.late(x, 1);
        let before = b.sum("before", vec![before], &[c]);
        let wide = b.read(p);
        let wide = b.sum("wide", vec![wide], &[f, c]);
        let later = Access {
            delay: 1,
            ..b.read(p)
        };
        let y = b.read(r);
        let later = b.sum("later", vec![y, later], &[f]);
        let t = b.project("t", before, &[f]);
        let g = b.output(&[mixed, three, two, t, wide, later]);
        case(
            "epilogue-access",
            "products over different axes joined",
            g.clone(),
            &["p", "q", "mixed"],
            1,
            1,
        );
        case(
            "epilogue-axes",
            "a wider epilogue",
            g.clone(),
            &["p", "wide"],
            1,
            1,
        );
        case(
            "epilogue-delay",
            "an earlier row of another kernel",
            g.clone(),
            &["r", "later"],
            1,
            4,
        );
        case(
            "legal",
            "three products summed",
            g.clone(),
            &["p", "r", "o", "three"],
            1,
            1,
        );
        case(
            "lane-contracts",
            "three accumulators",
            g.clone(),
            &["p", "r", "o", "three"],
            8,
            64,
        );
        case(
            "legal",
            "two accumulators",
            g.clone(),
            &["p", "r", "two"],
            8,
            64,
        );
        case(
            "prologue-delay",
            "a shift before a product",
            g.clone(),
            &["before", "t"],
            8,
            64,
        );
        case(
            "legal",
            "a shift before a product of few rows",
            g,
            &["before", "t"],
            1,
            4,
        );
    }
    {
        let mut b = Build::new();
        let (h, n, f) = (b.axis("H", 4), b.axis("N", 4), b.axis("F", 32));
        let x = b.input("x", &[h, n]);
        let m = b.unary("m", Unary::Exp, x);
        let flip = Access {
            index: vec![IndexExpr::axis(n), IndexExpr::axis(h)],
            ..b.read(m)
        };
        let t = b.sum("t", vec![flip], &[h, n]);
        let p = b.project("p", t, &[f]);
        let wide = b.input("wide", &[h, n, f]);
        let cut = Access {
            index: vec![IndexExpr::axis(h), IndexExpr::axis(n), IndexExpr::at(1)],
            ..b.read(wide)
        };
        let cut = b.sum("cut", vec![cut], &[h, n]);
        let more = b.unary("more", Unary::Exp, wide);
        let less = Access {
            index: vec![IndexExpr::axis(h), IndexExpr::axis(n), IndexExpr::at(1)],
            ..b.read(more)
        };
        let less = b.sum("less", vec![less], &[h, n]);
        let q = b.project("q", less, &[f]);
        let r = b.project("r", cut, &[f]);
        let g = b.output(&[p, q, r]);
        case(
            "prologue-access",
            "a transposition before a product",
            g.clone(),
            &["m", "t", "p"],
            8,
            64,
        );
        case(
            "prologue-axes",
            "a prologue over more axes",
            g.clone(),
            &["more", "less", "q"],
            8,
            64,
        );
        case(
            "legal",
            "a slice of another kernel's value",
            g,
            &["cut", "r"],
            8,
            64,
        );
    }
    // Attend
    {
        let mut b = Build::new();
        let (h, n, i) = (b.axis("H", 4), b.axis("N", 64), b.axis("I", 64));
        let (q, k, v) = (
            b.input("q", &[h, n]),
            b.input("k", &[n]),
            b.input("v", &[h, i]),
        );
        let a = b.attend("a", (q, k, v), &[n], &[h, i]);
        let y = b.unary("y", Unary::Exp, a);
        let g = b.output(&[y]);
        case(
            "attend-alone",
            "attention and a map",
            g.clone(),
            &["a", "y"],
            1,
            64,
        );
        case("legal", "attention", g, &["a"], 1, 64);
        let mut b = Build::new();
        let (n, i) = (b.axis("N", 2048), b.axis("I", 2049));
        let (q, k, v) = (b.input("q", &[n]), b.input("k", &[n]), b.input("v", &[i]));
        let a = b.attend("a", (q, k, v), &[n], &[i]);
        let g = b.output(&[a]);
        case("attend-width", "one wide head", g, &["a"], 1, 64);
    }
    {
        let mut b = Build::new();
        let (c, f) = (b.axis("C", 64), b.axis("F", 32));
        let (x, y) = (b.input("x", &[c]), b.input("y", &[c, f]));
        let (l, r) = (b.read(x), b.read(y));
        let p = b.op("p", OpKind::Contract { axes: vec![c] }, vec![l, r], &[f]);
        let g = b.output(&[p]);
        case(
            "two-activations",
            "a product of two activations",
            g,
            &["p"],
            1,
            1,
        );
    }
    // Sums over all rows
    {
        let outer = |name: &'static str, sizes: (usize, usize), late: bool| {
            let mut b = Build::new();
            let (c, f) = (b.axis("C", sizes.0), b.axis("F", sizes.1));
            let (x, y) = (b.input("x", &[c]), b.input("y", &[f]));
            let q = b.unary("q", Unary::Exp, x);
            let left = if late { b.late(x, 1) } else { b.read(x) };
            let reads = vec![left, b.read(y)];
            let p = b.op(name, OpKind::Contract { axes: vec![] }, reads, &[c, f]);
            let mut g = b.output(&[p, q]);
            g.values[p.index()].rows = false;
            g
        };
        let g = outer("p", (64, 32), false);
        case(
            "row-sum-alone",
            "a sum over rows and a map",
            g.clone(),
            &["p", "q"],
            8,
            64,
        );
        case("legal", "a sum over rows", g, &["p"], 8, 64);
        let g = outer("p", (64, 32), true);
        case("row-sum-tail", "a sum that keeps rows", g, &["p"], 8, 64);
        let g = outer("p", (1 << 16, 1 << 15), false);
        case("row-sum-size", "a large result", g, &["p"], 8, 64);
        let mut b = Build::new();
        let (v, c) = (b.axis("V", 64), b.axis("C", 32));
        let (x, ids) = (b.input("x", &[c]), b.input("ids", &[]));
        let reads = vec![b.read(x), b.late(ids, 1)];
        let p = b.op("p", OpKind::ScatterRows, reads, &[v, c]);
        let mut g = b.output(&[p]);
        g.values[p.index()].rows = false;
        g.values[ids.index()].precision = Precision::Index;
        g.ops[0].tails.clear();
        case("row-sum-ids", "ids of earlier rows", g, &["p"], 8, 64);
    }
    out
}

#[test]
fn each_rule_refuses_its_case_and_no_other() {
    let mut wrong = vec![];
    for ((name, graph, ops, batch, time), expected) in cases() {
        let got = rule(&graph, &ops, batch, time);
        if got != expected {
            wrong.push(format!(
                "{name} {ops:?} B={batch} T={time}: {got}, not {expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_body_spreads_parallel_axes_until_a_block_holds_2048_elements() {
    let mut b = Build::new();
    let (h, n) = (b.axis("H", 96), b.axis("N", 64));
    let x = b.input("x", &[h, n]);
    let p = b.unary("p", Unary::Exp, x);
    let q = b.norm("q", p, &[n]);
    let r = b.norm("r", p, &[h, n]);
    let g = b.output(&[q, r]);
    let grid = |names: &[&str]| {
        fit_at(&g, names, 8, 2048).unwrap()[0]
            .schedule
            .grid()
            .to_vec()
    };
    assert_eq!(grid(&["p", "q"]), [GridAxis { axis: h, tile: 32 }]);
    assert_eq!(grid(&["p", "q", "r"]), []);
}

/// Consecutive rows of a block.
fn rows_of(body: &Body) -> u32 {
    match &body.schedule {
        Schedule::Row(tile) => tile.rows,
        Schedule::Attend(tile) => tile.rows(),
        other => panic!("no rows in {other:?}"),
    }
}

#[test]
fn rows_per_block_shrink_until_the_gpu_is_full() {
    let mut b = Build::new();
    let c = b.axis("C", 64);
    let x = b.input("x", &[c]);
    let late = b.late(x, 1);
    let y = b.sum("y", vec![late], &[c]);
    let z = b.unary("z", Unary::Exp, x);
    let g = b.output(&[y, z]);
    for (name, batch, time, rows) in [
        ("y", 8, 2048, 16),
        ("y", 1, 2048, 2),
        ("z", 8, 2048, 4),
        ("z", 1, 2048, 2),
        ("z", 1, 512, 1),
        ("y", 64, 1, 1),
    ] {
        let body = &fit_at(&g, &[name], batch, time).unwrap()[0];
        assert_eq!(rows_of(body), rows, "{name} B={batch} T={time}");
    }
}

#[test]
fn scans_that_share_only_a_prologue_are_lanes_and_the_first_stores_it() {
    let mut b = Build::new();
    let c = b.axis("C", 64);
    let x = b.input("x", &[c]);
    let a = b.unary("a", Unary::Sigmoid, x);
    let s = b.ema("s", a, x);
    let t = b.ema("t", a, a);
    let u = b.add("u", &[s, t]);
    let g = b.output(&[a, s, t, u]);
    let lanes = fit_at(&g, &["a", "s", "t"], 1, 64).unwrap();
    let ops: Vec<_> = lanes.iter().map(|l| l.ops.len()).collect();
    assert_eq!(ops, [2, 2], "the prologue is in both lanes");
    let stores: Vec<_> = lanes.iter().map(|l| l.stores.len()).collect();
    assert_eq!(stores, [2, 1], "a and s; t");
    let joined = fit_at(&g, &["a", "s", "t", "u"], 1, 64).unwrap();
    assert_eq!(joined.len(), 1, "a common consumer joins them");
    assert_eq!(joined[0].template(), Template::Scan);
}

#[test]
fn what_two_phases_share_the_first_makes_and_stores() {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 64), b.axis("F", 128));
    let x = b.input("x", &[c]);
    let n = b.norm("n", x, &[c]);
    let k = b.project("k", n, &[f]);
    let act = b.unary("act", Unary::Square, k);
    let mean = b.norm("mean", act, &[f]);
    let v = b.project("v", mean, &[c]);
    let r = b.project("r", n, &[c]);
    let y = b.add("y", &[r, v]);
    let g = b.output(&[y]);
    let all = ["n", "k", "act", "mean", "v", "r", "y"];
    let phases = phases_at(&g, &all, 3, 1).unwrap();
    let names = |ops: &[OpId]| -> Vec<&str> {
        let names = ops.iter().map(|id| g.op(*id).name.as_str());
        names.collect()
    };
    let stored = |body: &Body| -> Vec<&str> {
        let names = body.stores.iter().map(|v| g.value(*v).name.as_str());
        names.collect()
    };
    let [first, second] = &phases[..] else {
        panic!("{phases:?}");
    };
    let ([first], [second]) = (&first.lanes[..], &second.lanes[..]) else {
        panic!("{phases:?}");
    };
    assert_eq!(names(&first.ops), ["n", "k", "act"]);
    assert_eq!(stored(first), ["n", "act"]);
    assert_eq!(names(&second.ops), ["mean", "v", "r", "y"]);
    assert_eq!(names(second.anchors()), ["v", "r"]);
    assert_eq!(stored(second), ["y"]);
}

#[test]
fn a_scan_keeps_trailing_axes_whole_while_the_state_fits_and_the_gpu_is_filled() {
    let mut b = Build::new();
    let (h, i, j) = (b.axis("H", 8), b.axis("I", 64), b.axis("J", 64));
    let (x, y) = (b.input("x", &[h, i]), b.input("y", &[h, j]));
    let (d, k, v, q) = (b.read(x), b.read(x), b.read(y), b.read(x));
    let s = b.outer("s", &[h], (i, j), d, k, v, q);
    let n = b.norm("n", s, &[j]);
    let g = b.output(&[n]);
    let whole = vec![GridAxis { axis: h, tile: 1 }];
    // Eight heads leave most multiprocessors idle: the values of a head are spread as well, as
    // long as none is combined with the others.
    let mut spread = whole.clone();
    spread.push(GridAxis { axis: j, tile: 16 });
    for (names, batch, expected) in [
        (&["s"][..], 64, &whole),
        (&["s", "n"], 64, &whole),
        (&["s"], 1, &spread),
        (&["s", "n"], 1, &whole),
    ] {
        let body = &fit_at(&g, names, batch, 64).unwrap()[0];
        assert_eq!(body.schedule.grid(), *expected, "{names:?} B={batch}");
    }
}

#[test]
fn a_prologue_without_the_head_axis_is_computed_by_every_head() {
    let mut b = Build::new();
    let (h, i, j) = (b.axis("H", 4), b.axis("I", 64), b.axis("J", 64));
    let (x, y) = (b.input("x", &[i]), b.input("y", &[h, j]));
    let group = b.unary("group", Unary::Silu, x);
    let (d, k, v, q) = (b.read(group), b.read(group), b.read(y), b.read(group));
    let s = b.outer("s", &[h], (i, j), d, k, v, q);
    let all = b.norm("all", y, &[h, j]);
    let (d, k, v, q) = (b.read(group), b.read(group), b.read(all), b.read(group));
    let t = b.outer("t", &[h], (i, j), d, k, v, q);
    let g = b.output(&[s, t, group]);
    let body = &fit_at(&g, &["group", "s"], 1, 64).unwrap()[0];
    assert_eq!(body.schedule.grid(), [GridAxis { axis: h, tile: 1 }]);
    // A norm over heads needs all of them in one block.
    let body = &fit_at(&g, &["all", "t"], 1, 64).unwrap()[0];
    assert_eq!(body.schedule.grid(), []);
}

#[test]
fn attention_gives_a_head_to_a_block_and_as_many_rows_as_it_can_hold() {
    for (heads, width, time, rows) in [
        (4, 64, 1, 1),
        (4, 64, 3, 4),
        (4, 64, 64, 16),
        (1, 1024, 64, 4),
    ] {
        let mut b = Build::new();
        let (h, n, i) = (b.axis("H", heads), b.axis("N", 64), b.axis("I", width));
        let (q, k, v) = (
            b.input("q", &[h, n]),
            b.input("k", &[n]),
            b.input("v", &[h, i]),
        );
        let a = b.attend("a", (q, k, v), &[n], &[h, i]);
        let g = b.output(&[a]);
        let body = &fit_at(&g, &["a"], 1, time).unwrap()[0];
        let grid = [GridAxis { axis: h, tile: 1 }];
        assert_eq!(body.template(), Template::Attend);
        assert_eq!(rows_of(body), rows, "{width} T={time}");
        assert_eq!(body.schedule.grid(), &grid[..usize::from(heads > 1)]);
        assert_eq!((body.stores.len(), body.tails.len()), (1, 2));
    }
}
