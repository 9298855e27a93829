//! Derivatives of every operation, of every model of the zoo and of the documentation's examples, and
//! of random models, against central differences in f64.

use std::path::{Path, PathBuf};

use fusec_ir::gradient::{GradientError, GradientReport, Place, check, differentiate};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, Init, OpKind, Precision};
use model_text::{CLASSES, model_text};
use std::collections::BTreeMap;

#[path = "../../runtime/tests/random_models/model_text.rs"]
mod model_text;

#[path = "../../runtime/tests/common/dice.rs"]
mod dice;

/// Where the texts of random models look for what they are drawn with.
mod common {
    pub use crate::dice::Dice;
}

const SHAPE: (usize, usize) = (2, 6);

fn graph(name: &str, text: &str) -> Graph {
    let source = ModelSource::from_text(name, text);
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"))
}

/// Number `i` of the random numbers of a name: of mean 0, from -1.5 to 1.5.
fn noise(name: &str, i: u64) -> f64 {
    let hash = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let of_name = name.bytes().fold(17, |h, byte| hash(h ^ u64::from(byte)));
    let word = hash(of_name.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    3.0 * (word >> 11) as f64 / (1u64 << 53) as f64 - 1.5
}

/// Random parameters of the kind that each `init` says, constants spread a little, and inputs.
fn place(graph: &Graph, shape: (usize, usize)) -> Place {
    let params = graph.params.iter().map(|param| {
        let draw = |i: u64| {
            let x = noise(&param.name, i);
            match param.init {
                Init::Normal(deviation) => deviation * x,
                Init::Uniform(low, high) => low + (high - low) * (x + 1.5) / 3.0,
                Init::Constant(c) => c + 0.2 * x,
                Init::LogUniform(low, high) => (low + (high - low) * (x + 1.5) / 3.0).ln(),
            }
        };
        (0..graph.row_elements(param.value) as u64)
            .map(draw)
            .collect()
    });
    let mut place = Place {
        shape,
        params: params.collect(),
        ids: BTreeMap::new(),
        numbers: BTreeMap::new(),
    };
    let entries = graph.ops.iter().filter_map(|op| match op.kind {
        OpKind::Gather => graph.value(op.inputs[0].value).axes.first(),
        _ => None,
    });
    let entries = entries.map(|axis| graph.size(*axis)).min().unwrap_or(1) as f64;
    for id in &graph.inputs {
        let value = graph.value(*id);
        let count = (shape.0 * shape.1 * graph.row_elements(*id)) as u64;
        let draw = |i| noise(&value.name, i);
        match value.precision {
            Precision::Index => {
                let ids = (0..count).map(|i| ((draw(i) + 1.5) / 3.0 * entries) as i32);
                place.ids.insert(*id, ids.collect());
            }
            _ => drop(place.numbers.insert(*id, (0..count).map(draw).collect())),
        }
    }
    place
}

fn report(name: &str, graph: &Graph, shape: (usize, usize)) -> GradientReport {
    check(graph, place(graph, shape), &noise).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What is wrong with the derivatives of a graph, in lines.
fn wrong(name: &str, graph: &Graph, shape: (usize, usize)) -> Vec<String> {
    let report = report(name, graph, shape);
    let failed = report.checks.iter().filter(|c| !c.passed);
    let lines = failed.map(|c| {
        format!(
            "{name}: {} {}: norm {:.3e}, error {:.1e}",
            c.kind, c.name, c.norm, c.error
        )
    });
    lines.collect()
}

/// A model over `x[A, C]`, with C = H * N, of these parameters, definitions and flow.
fn text(params: &str, more: &str, flow: &str) -> String {
    format!(
        "name = \"case\"\n[axes]\nA = 3\nH = 2\nN = 3\nC = \"H * N\"\nF = 4\nV = 7\nK = 3\nZ = 1\n\
         [input]\nx = \"A, C\"\nids = \"token\"\n[param]\n{params}\n{more}\n[model]\nflow = \"\"\"\n{flow}\n\"\"\"\n"
    )
}

const NO: &str = "";

/// name, parameters, more definitions, flow.
const OPERATIONS: &[(&str, &str, &str, &str)] = &[
    (
        "products and sums",
        "g = { shape = \"C\" }",
        NO,
        "return x * g + g - x / (2 + square(g))",
    ),
    (
        "broadcast over heads",
        "g = { shape = \"N\" }\nb = { shape = \"H\" }",
        NO,
        "return x * g + b * x",
    ),
    (
        "outer",
        "g = { shape = \"F\" }",
        NO,
        "return outer(sum(x, A), g)",
    ),
    (
        "smooth functions",
        NO,
        NO,
        "return exp(x) + log(2 + square(x)) + sqrt(1 + square(x)) + rsqrt(1 + square(x)) + recip(2 + x * x)",
    ),
    (
        "smooth functions 2",
        NO,
        NO,
        "return tanh(x) * sigmoid(x) + silu(x) - softplus(3 * x) * logsigmoid(x) + sin(x) * cos(2 * x)",
    ),
    (
        "softplus above its threshold",
        NO,
        NO,
        "return softplus(30 * x)",
    ),
    ("erf and gelu", NO, NO, "return erf(x) + gelu(x)"),
    (
        "kinks",
        NO,
        NO,
        "return abs(x) + relu(x) * x + max(x, 0.3 * x * x) - min(x, 1 + x * x * x) + clamp(x, -0.5, 0.7)",
    ),
    (
        "powers",
        "p = { shape = \"C\", init = \"uniform(0.5, 2)\" }",
        NO,
        "return pow(square(x) + 0.5, p) + (x ** 3) * 0.1 + pow(p, 2)",
    ),
    (
        "choices",
        NO,
        NO,
        "return where(x > 0.1 and x < 0.9, log(abs(x)), where(x == 0, 1, x * x))",
    ),
    (
        "positions and indices",
        "g = { shape = \"C\" }",
        NO,
        "return x * g * sin(0.1 * position()) + g * index(C) * x",
    ),
    (
        "selection",
        "g = { shape = \"A, C\" }",
        NO,
        "return x[A = 1] * g[A = 2] + x[A = 0] * g[A = 0]",
    ),
    (
        "renaming and reversal",
        "g = { shape = \"H, N\" }",
        NO,
        "return reverse(x, C) * reverse(g, N) + x * g",
    ),
    (
        "a transposed read",
        "m = { shape = \"A, Z\" }",
        NO,
        "y = sum(x, C); return y * rename(y, A -> A) * m[Z = 0]",
    ),
    (
        "split",
        "g = { shape = \"F\" }",
        "[block.two]\nargs = [\"u\"]\nflow = \"\"\"\n  a, b = split(u, F -> A, Z)\n  return a\n\"\"\"",
        "u = outer(sum(sum(x, A), C), g); return two(u) * 2",
    ),
    (
        "delays",
        "g = { shape = \"C\" }",
        NO,
        "return x * delay(x, 2) + g * shift(x * x) * shift(g * x)",
    ),
    (
        "convolution",
        "w = { shape = \"C, K\" }",
        NO,
        "return silu(conv(sum(x, A), w))",
    ),
    (
        "reductions",
        "g = { shape = \"A, C\" }",
        NO,
        "return sum(x * g, A) + mean(x, A) * sum(g, A) + sum(square(x) * g, A)",
    ),
    (
        "maxima",
        "g = { shape = \"A, C\" }",
        NO,
        "return max_over(x * g, A) + max_over(x, A)",
    ),
    (
        "softmax",
        "g = { shape = \"A, C\" }",
        NO,
        "return softmax(x * g, A) + softmax(x, C)",
    ),
    (
        "projections",
        "w = { shape = \"F, C\" }\nv = { shape = \"C, F\" }\nq = { shape = \"C, C\" }",
        NO,
        "return relu(x @ w) @ v + x @ q",
    ),
    (
        "batched projections",
        "w = { shape = \"A, F, C\" }",
        NO,
        "return x @ w",
    ),
    (
        "products of activations",
        "w = { shape = \"A, C\" }",
        NO,
        "return dot(x, shift(x) * w, C) + dot(x, x, C)",
    ),
    (
        "layer norm",
        "g = { shape = \"C\" }\nb = { shape = \"C\" }",
        NO,
        "return layer_norm(x, C, eps = 1e-3, gain = g, bias = b)",
    ),
    (
        "layer norm of a part",
        "g = { shape = \"C\" }",
        NO,
        "return layer_norm(x, N, eps = 1e-3, gain = g) + group_norm(x, A, eps = 1e-2)",
    ),
    (
        "rms norm",
        "g = { shape = \"C\" }\nb = { shape = \"N\" }",
        NO,
        "return rms_norm(x, C, eps = 1e-3, gain = g) + rms_norm(x, N, eps = 0.1, bias = b)",
    ),
    (
        "l2 norms",
        NO,
        NO,
        "return l2_norm(x, N, eps = 1e-3) + l2_norm_max(x, N, eps = 1.5) * l2_norm_max(x, C, eps = 1e-6)",
    ),
    (
        "lookup",
        "t = { shape = \"V, C\" }",
        NO,
        "return gather(t, ids) * x + gather(t, ids)",
    ),
    (
        "tied head",
        "t = { shape = \"V, C\" }",
        NO,
        "return tanh(gather(t, ids)) @ t",
    ),
    (
        "at load",
        "a = { shape = \"A, C\", init = \"uniform(0.1, 1)\" }",
        NO,
        "s = cumsum(softmax(a, A), A); return x * s * -exp(a) + x * reverse(s, A) * s[A = 1]",
    ),
    (
        "parts put one after the other",
        "g = { shape = \"A\" }\nw = { shape = \"F, C\" }",
        NO,
        "u = sum(x, A) @ w; a, z = split(u, F -> A, Z); return concat(z * z, a * g, Z -> F, A -> F) * u",
    ),
    (
        "a part, rows before, and a parameter put one after the other",
        "g = { shape = \"A\" }\nw = { shape = \"F, C\" }",
        NO,
        "u = sum(x, A) @ w; return concat(slice(shift(u), F -> Z, 1), exp(g), Z -> F, A -> F) * u",
    ),
    (
        "norms at load",
        "a = { shape = \"A, C\" }\nw = { shape = \"F, C\" }",
        NO,
        "return x * rms_norm(a, C, eps = 1e-3) + outer(x, sum(w, F) * 0 + 1)[A = 1] * sum(a @ w, F)[A = 0]",
    ),
    (
        "attention",
        "g = { shape = \"H, N\" }",
        NO,
        "y = x[A = 0]; return attention(y * g, x[A = 1], x[A = 2], N, window = 4)",
    ),
    (
        "attention with shared keys",
        "w = { shape = \"N, C\" }",
        NO,
        "y = x[A = 0]; k = y @ w; return attention(y, k, x[A = 1], N, window = 3, scale = 0.7)",
    ),
    (
        "an average",
        "d = { shape = \"N\" }",
        "[recurrence.ema]\ninputs = \"a[c], x[c]\"\nstate = \"h[c]\"\noutputs = \"h[c]\"\nstep = \"h = a * h + (1 - a) * x\"",
        "return ema(sigmoid(d), sum(x, A, H))",
    ),
    (
        "a delta rule",
        "b = { shape = \"H\" }",
        "[recurrence.delta]\ninputs = \"q[H, j], k[H, j], v[H, i], b[H]\"\nstate = \"S[H, i, j]\"\noutputs = \"o[H, i]\"\nstep = \"\"\"\nS = S + k * (sigmoid(b) * (v - sum(S * k, j)))\no = sum(q * S, j)\n\"\"\"",
        "return delta(x[A = 0], x[A = 1], x[A = 2], b)",
    ),
    (
        "a symmetric state",
        NO,
        "[recurrence.gram]\ninputs = \"x[i]\"\nstate = \"S[i = N, j = N]\"\noutputs = \"y[i], z[i]\"\nstep = \"\"\"\nS = 0.5 * S + x * rename(x, i -> j)\ny = sum(S * rename(x, i -> j), j)\nz = sum(rename(S, i -> j, j -> i) * rename(x, i -> j), j)\n\"\"\"",
        "y, z = gram(sum(x, A, H)); return y + z",
    ),
    (
        "two states",
        NO,
        "[recurrence.weighted]\ninputs = \"k[c], v[c]\"\nstate = \"m[c] = -inf, n[c], s[c]\"\noutputs = \"y[c]\"\nstep = \"\"\"\nold = m\nm = max(old, k)\nn = n * exp(old - m) + v * exp(k - m)\ns = s * exp(old - m) + exp(k - m)\ny = n / s\n\"\"\"",
        "u = sum(x, H); return weighted(u[A = 0], u[A = 1])",
    ),
    (
        "a maximum in a step",
        NO,
        "[recurrence.top]\ninputs = \"x[A, c]\"\nstate = \"h[A, c]\"\noutputs = \"y[c]\"\nstep = \"\"\"\nh = 0.9 * h + x * where(x > 0, 1, 0.5)\ny = max_over(h * x, A)\n\"\"\"",
        "return top(sum(x, H))",
    ),
    (
        "a state read before its step",
        "u = { shape = \"H, N\" }",
        "[recurrence.bonus]\ninputs = \"r[H, j], w[H, j], k[H, j], v[H, i], u[H, j]\"\nstate = \"S[H, i, j]\"\noutputs = \"y[H, i]\"\nstep = \"\"\"\ny = sum(r * (S + u * k * v), j)\nS = w * S + k * v\n\"\"\"",
        "y = x[A = 0]; return bonus(y, sigmoid(x[A = 1]), x[A = 2], shift(y), u)",
    ),
    (
        "a recurrent network",
        "w = { shape = \"N, N\" }",
        "[recurrence.rnn]\ninputs = \"x[i], w[i, j]\"\nstate = \"h[i = N]\"\noutputs = \"h[i]\"\nstep = \"h = tanh(x + sum(w * rename(h, i -> j), j)) * (1 + 0.1 * index(i))\"",
        "return rnn(sum(x, A, H), w)",
    ),
];

#[test]
fn derivatives_of_operations_are_finite_differences() {
    let mut failed = Vec::new();
    for (name, params, more, flow) in OPERATIONS {
        let graph = graph(name, &text(params, more, flow));
        failed.extend(wrong(name, &graph, SHAPE));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Inputs that many heads, or channels, have in common: the step of the transpose hands out what each adds
/// to their cotangents, where it would tie too large a state together.
#[test]
fn sums_over_what_shares_an_input_are_left_to_others() {
    for (name, sizes, handed) in [
        ("few heads", (4, 3, 5), &[][..]),
        ("many heads", (40, 8, 16), &["h, n", "h, n"]),
        ("many channels", (1, 1100, 16), &["p, n", "p, n"]),
    ] {
        let (h, p, n) = sizes;
        let text = format!(
            "name = \"case\"\n[axes]\nh = {h}\np = {p}\nn = {n}\n[input]\na = \"h\"\nx = \"h, p\"\nb = \"n\"\nc = \"n\"\n\
             [recurrence.ssd]\ninputs = \"a[h], x[h, p], b[n], c[n]\"\nstate = \"S[h, p, n]\"\noutputs = \"y[h, p]\"\n\
             step = \"S = sigmoid(a) * S + x * b; y = sum(S * c, n)\"\n[model]\nflow = \"return ssd(a, x, b, c)\"\n"
        );
        let graph = graph(name, &text);
        assert_eq!(wrong(name, &graph, (1, 3)), Vec::<String>::new());
        let gradient = differentiate(&graph, &graph.outputs, &graph.inputs).expect("derivatives");
        let back = gradient.graph.recurrences.iter();
        let back = back.filter(|step| !step.direction.is_forward());
        let axes = |axes: &[fusec_ir::AxisId]| -> String {
            let names: Vec<&str> = axes.iter().map(|a| graph.axis_name(*a)).collect();
            names.join(", ")
        };
        let found: Vec<String> = back
            .flat_map(|step| step.outputs.iter().map(|item| axes(step.axes_of(*item))))
            .filter(|axes| ["h, n", "p, n"].contains(&axes.as_str()))
            .collect();
        assert_eq!(found, handed, "{name}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn texts(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).expect("the directory is there");
    let paths = entries.map(|e| e.expect("an entry").path());
    let mut texts: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    texts.sort();
    texts
}

/// Sizes that make every model small, where it has the axis.
const SMALL: &[(&str, usize)] = &[
    ("F", 12),
    ("V", 11),
    ("L", 2),
    ("C", 8),
    ("D", 8),
    ("I", 8),
    ("H", 2),
    ("N", 4),
    ("R", 3),
    ("Rd", 3),
    ("Rw", 3),
    ("Ra", 3),
    ("Rv", 3),
    ("Rg", 3),
    ("Hg", 2),
    ("P", 4),
    ("Ns", 3),
    ("Di", 8),
    ("Dk", 4),
    ("Dv", 6),
    ("Dr", 2),
    ("Nv", 2),
];

/// The model at small sizes: of those above, the ones that its text accepts.
fn small(path: &Path) -> Graph {
    let source = ModelSource::from_path(path).expect("the text is there");
    let mut overrides = Overrides::default();
    for (axis, size) in SMALL {
        let mut with = overrides.clone();
        with.axes.insert((*axis).into(), *size);
        if compile(&source, &with).is_ok() {
            overrides = with;
        }
    }
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()))
}

#[test]
fn derivatives_of_all_models_are_finite_differences() {
    let mut failed = Vec::new();
    for path in texts("models").into_iter().chain(texts("docs/examples")) {
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        failed.extend(wrong(&name, &small(&path), (2, 5)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn derivatives_of_random_models_are_finite_differences() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("FUSEC_RANDOM_FIRST").unwrap_or(0);
    let count = number("FUSEC_RANDOM_MODELS").unwrap_or(CLASSES as u64);
    let mut failed = Vec::new();
    for seed in first..first + count {
        let text = model_text(seed);
        let graph = graph(&format!("random {seed}"), &text);
        let shape = (1, 4);
        failed.extend(wrong(&format!("random {seed}"), &graph, shape));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_has_no_derivative_is_refused_by_name() {
    let text = text("t = { shape = \"V, C\" }", NO, "return gather(t, ids) * x");
    let mut graph = graph("refused", &text);
    let ids = *graph
        .inputs
        .iter()
        .find(|id| graph.value(**id).name == "ids")
        .expect("ids");
    let out = graph.outputs.clone();
    let error = differentiate(&graph, &out, &[ids]).expect_err("ids have no derivative");
    assert_eq!(
        error.to_string(),
        "`ids` has no derivative: it is token ids"
    );
    let last = graph.ops.len() - 1;
    let ahead = graph.ops[last]
        .inputs
        .iter_mut()
        .find(|a| a.value != ids)
        .expect("an operand");
    ahead.delay = -1;
    let error = differentiate(&graph, &out, &[]).expect_err("it looks ahead");
    assert!(
        matches!(error, GradientError::LookAhead { rows: 1, .. }),
        "{error}"
    );
}
