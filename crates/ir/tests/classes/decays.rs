//! Logarithms of decays.

use fusec_ir::class::{NoLogDecay, classify, decay_range, log_decay};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpId, OpKind};

/// A model with one diagonal recurrence whose decay is `d`, made from a row `x` by `flow`.
fn decayed(settings: &str, flow: &str) -> Result<(String, Option<f64>), NoLogDecay> {
    let graph = model(settings, flow);
    let (id, recurrence) = scan(&graph);
    let found = classify(&graph, graph.recurrence(recurrence));
    let log = log_decay(&graph, id, &found, 0)?;
    let name = |i: usize| graph.value(log.inputs[i].value).name.clone();
    let axis = |a| graph.axis_name(a).to_owned();
    let text = fusec_ir::print::expression(&log.expr, &name, &axis);
    Ok((text, log.lowest))
}

fn model(settings: &str, flow: &str) -> Graph {
    let text = format!(
        "name = \"decay\"\n[axes]\nV = 7\nH = 4\nJ = 3\nI = 3\nG = 4\nC = \"H * J\"\n[settings]\n{settings}\n[param]\n\
         emb = {{ shape = \"V, C\" }}\nw = {{ shape = \"C, C\" }}\nb = {{ shape = \"C\" }}\n\
         A_log = {{ shape = \"H\" }}\nbounds = {{ shape = \"G, C\" }}\nshares = {{ shape = \"C\" }}\n\
         [recurrence.r]\ninputs = \"q[H, j], v[H, i], d[H, j]\"\nstate = \"S[H, j = J, i = I]\"\n\
         outputs = \"y[H, i]\"\nstep = \"\"\"\nS = d * S + q * v\ny = sum(q * S, j)\n\"\"\"\n\
         [recurrence.h]\ninputs = \"q[H, j], v[H, i], d[H]\"\nstate = \"S[H, j = J, i = I]\"\n\
         outputs = \"y[H, i]\"\nstep = \"\"\"\nS = d * S + q * v\ny = sum(q * S, j)\n\"\"\"\n\
         [recurrence.toward]\ninputs = \"q[H, j], v[H, i], d[H, j]\"\nstate = \"S[H, j = J, i = I]\"\n\
         outputs = \"y[H, i]\"\nstep = \"\"\"\nS = S + d * (v - S)\ny = sum(q * S, j)\n\"\"\"\n\
         [model]\nflow = \"\"\"\nx = gather(emb, ids)\nz = x @ w\n{flow}\nreturn y\n\"\"\"\n"
    );
    match compile(
        &ModelSource::from_text("decay", text.clone()),
        &Overrides::default(),
    ) {
        Ok(graph) => graph,
        Err(error) => panic!("{text}\n{:?}", miette::Report::new(error)),
    }
}

fn scan(graph: &Graph) -> (OpId, fusec_ir::RecurrenceId) {
    let mut scans = graph
        .ops
        .iter()
        .enumerate()
        .filter_map(|(i, op)| match op.kind {
            OpKind::Scan { recurrence, .. } => Some((OpId(i as u32), recurrence)),
            _ => None,
        });
    scans.next().expect("the model has a scan")
}

#[test]
fn logarithms_of_decays() {
    let unbounded = None;
    let cases = [
        (
            "d = f32(exp(-exp(z)))\ny = r(x, x, d)",
            "-exp(z)",
            unbounded,
        ),
        (
            "d = sigmoid(z + b)\ny = r(x, x, d)",
            "logsigmoid(z + b)",
            unbounded,
        ),
        (
            "d = 1 - sigmoid(z)\ny = r(x, x, d)",
            "logsigmoid(-z)",
            unbounded,
        ),
        (
            "d = 1 + sigmoid(z) * -1\ny = r(x, x, d)",
            "logsigmoid(-z)",
            unbounded,
        ),
        // A step towards the new value keeps what is left of the old one.
        (
            "d = f32(sigmoid(z))\ny = toward(x, x, d)",
            "logsigmoid(-z)",
            unbounded,
        ),
        (
            "d = exp(logsigmoid(z) / 16)\ny = r(x, x, d)",
            "logsigmoid(z) / 16",
            unbounded,
        ),
        (
            "d = exp(-0.5 * sigmoid(z))\ny = r(x, x, d)",
            "-0.5 * sigmoid(z)",
            Some(-0.5),
        ),
        (
            "d = exp(-softplus(z)) * sigmoid(z)\ny = r(x, x, d)",
            "-softplus(z) + logsigmoid(z)",
            unbounded,
        ),
        (
            "A = -exp(A_log)\nd = exp(softplus(sum(z, J)) * A)\ny = h(x, x, d)",
            "softplus(d.1) * A",
            unbounded,
        ),
    ];
    for (flow, expected, lowest) in cases {
        match decayed("", flow) {
            Ok((text, low)) => {
                let text = text.replace("model.", "");
                assert_eq!((text.as_str(), low), (expected, lowest), "{flow}");
            }
            Err(why) => panic!("{flow}: {why}"),
        }
    }
}

/// Decays that depend on the head alone: their logarithm is taken once.
#[test]
fn logarithm_of_a_constant() {
    let flow = "d = 1 - pow(2, -5 - index(H))\ny = h(x, x, d)";
    let (_, lowest) = decayed("", flow).expect("it is below 1");
    let (lowest, first) = (lowest.expect("it is bounded"), (1.0_f64 - 1.0 / 32.0).ln());
    assert!((lowest - first).abs() < 1e-12, "{lowest} is not {first}");
}

#[test]
fn no_logarithm() {
    let unknown = |what: &str| NoLogDecay::Unknown { what: what.into() };
    let not_proven = |low, high| NoLogDecay::NotProven { low, high };
    let cases = [
        ("y = r(x, x, z)", unknown("`z`")),
        (
            "d = 0.5 + 0.5 * tanh(z)\ny = r(x, x, d)",
            unknown("`tanh(z)`"),
        ),
        (
            "d = exp(z)\ny = r(x, x, d)",
            not_proven(f64::NEG_INFINITY, f64::INFINITY),
        ),
        (
            "d = 2 * sigmoid(z)\ny = r(x, x, d)",
            not_proven(f64::NEG_INFINITY, 2.0_f64.ln()),
        ),
    ];
    for (flow, expected) in cases {
        assert_eq!(decayed("", flow), Err(expected), "{flow}");
    }
}

#[test]
fn ranges_of_decays() {
    let inf = f64::INFINITY;
    let share = "p = softmax(bounds, G)\n";
    let cases = [
        ("d = exp(-exp(z))", 0.0, 1.0),
        ("d = sigmoid(z)", 0.0, 1.0),
        ("d = 1 - sigmoid(z)", 0.0, 1.0),
        ("d = sigmoid(z) * sigmoid(z + b)", 0.0, 1.0),
        // Both occurrences of the bound are one number.
        ("lb = sigmoid(b)\nd = lb + (1 - lb) * sigmoid(z)", 0.0, 1.0),
        ("lb = sigmoid(b)\nd = lb * sigmoid(z) + (1 - lb)", 0.0, 1.0),
        // Not linear in one part, so only as wide as its parts show.
        (
            "lb = sigmoid(b)\nd = lb * lb + (1 - lb) * sigmoid(z)",
            0.0,
            2.0,
        ),
        ("d = f32(0.5 + tanh(z) * 0.25)", 0.25, 0.75),
        // Shares of a sum.
        ("c = cumsum(p, G)\nd = c[G = 1] + 0 * z", 0.0, 1.0),
        (
            "lb = f32(cumsum(p, G) - p[G = 0])\nd = f32(lb[G = 1] + (1 - lb[G = 1]) * sigmoid(z))",
            0.0,
            1.0,
        ),
        // The second term is not the first.
        (
            "lb = f32(cumsum(p, G) - p[G = 1])\nd = lb[G = 1] * sigmoid(z)",
            -1.0,
            1.0,
        ),
        // Any parameter.
        ("d = b + 0 * z", -inf, inf),
        ("d = exp(z)", 0.0, inf),
    ];
    for (flow, low, high) in cases {
        let graph = model("", &format!("{share}{flow}\ny = r(x, x, d)"));
        let (id, recurrence) = scan(&graph);
        let found = classify(&graph, graph.recurrence(recurrence));
        let range = decay_range(&graph, id, &found, 0);
        assert_eq!(range, Ok((low, high)), "{flow}");
    }
}

/// `lb + (1 - lb) * sigmoid(z)` is at most 1 where b is a share of a whole, or a sum of such shares,
/// as the lower bounds of layers are; not where b may be anything.
#[test]
fn decays_between_a_bound_and_one() {
    let logarithm = "min(max(log(max(lb, tiny)), log(max(1 - lb, tiny)) + logsigmoid(z)) + \
                     softplus(-abs(log(max(lb, tiny)) - (log(max(1 - lb, tiny)) + logsigmoid(z)))), 0)";
    let cases = [
        (
            "p = f32(softmax(shares, J))\nlb = f32(cumsum(p, J) - p[J = 0])",
            true,
        ),
        (
            "p = f32(softmax(shares, H, J))\nlb = f32(cumsum(p, J) - p[J = 0])",
            true,
        ),
        ("lb = f32(cumsum(f32(softmax(shares, J)), J))", true),
        ("lb = f32(softmax(shares, J))", true),
        ("lb = f32(sigmoid(shares))", true),
        // The first of another row than the running sum's, and not the first one.
        (
            "p = f32(softmax(shares, J))\nlb = f32(cumsum(p, J) - p[J = 1])",
            false,
        ),
        // A running sum along another axis than the one that makes the whole.
        ("lb = f32(cumsum(f32(softmax(shares, H)), J))", false),
        ("lb = shares", false),
    ];
    for (bound, proven) in cases {
        for mix in ["lb + (1 - lb) * sigmoid(z)", "sigmoid(z) * (1 - lb) + lb"] {
            let flow = format!("{bound}\nd = f32({mix})\ny = r(x, x, d)");
            let got = decayed("", &flow);
            match (&got, proven) {
                (Ok(_), true) => {}
                (Err(NoLogDecay::Unknown { .. } | NoLogDecay::NotProven { .. }), false) => {}
                _ => panic!("{flow}: {got:?}"),
            }
        }
    }
    let flow = "p = f32(softmax(shares, J))\nlb = f32(cumsum(p, J) - p[J = 0])\nd = f32(lb + (1 - lb) * sigmoid(z))\ny = r(x, x, d)";
    let (text, _) = decayed("", flow).expect("it is proven");
    let floor = f64::from(f32::MIN_POSITIVE).to_string();
    assert_eq!(
        text.replace("model.", "").replace(&floor, "tiny"),
        logarithm
    );
    let flow = "d = 0.25 + 0.5 * sigmoid(z)\ny = r(x, x, d)";
    let (_, lowest) = decayed("", flow).expect("it is at most 0.75");
    assert_eq!(lowest, Some(0.25_f64.ln()));
}
