//! What people get to read when a model is wrong: the message, the place, and the way out.

use fusec_ir::language::{LanguageError, ModelSource, Overrides, Problem, Setting, compile};
use miette::{Diagnostic, NarratableReportHandler};

/// A small valid model; `EDITS` each break it in one place.
const MODEL: &str = r#"
name = "small"

[axes]
V = 16
L = 2
H = 2
N = 4
C = "H * N"
F = "ceil(2.5 * C)"
K = 4

[settings]
eps = 1e-5
mode = "plain"

[preset.big]
H = 4

[param]
emb  = { shape = "V, C", from = "emb.weight", init = "normal(0.02)" }
head = { shape = "V, C" }

[recurrence.ema]
inputs  = "x[H, i], a[H, i]"
state   = "S[H, i = N]"
outputs = "y[H, i]"
step    = """
  S = a * S + (1 - a) * x
  y = S
"""

[block.mix]
args = ["x"]
flow = """
  d = shift(x) - x
  a = sigmoid((x + d * mu) @ w)
  c = conv(x, taps)
  y = ema(c, a)
  k = square(relu(y @ up))
  return k @ down
"""

[block.mix.param]
mu   = { shape = "C", from = "blocks.{l}.mu" }
w    = { shape = "C, C", from = "blocks.{l}.w", load = "t(0, 1)" }
taps = { shape = "C, K" }
up   = { shape = "F, C" }
down = { shape = "C, F" }

[model]
flow = """
  x = gather(emb, ids)
  repeat l in L {
    if mode == "plain" {
      x = x + mix(rms_norm(x, C, eps = eps))
    }
  }
  logits = x @ head
  return logits
"""
"#;

/// What to replace, by what, and why that is wrong.
const EDITS: &[(&str, &str, &str)] = &[
    ("no closing bracket", "[axes]", "[axes"),
    ("key of the wrong type", "V = 16", "V = [16]"),
    (
        "unknown key",
        "shape = \"V, C\", from",
        "shape = \"V, C\", form",
    ),
    ("missing key", "state   = \"S[H, i = N]\"", ""),
    ("unknown table", "[settings]", "[setings]"),
    (
        "axis misspelt in a shape",
        "shape = \"F, C\"",
        "shape = \"f, C\"",
    ),
    (
        "axis misspelt in a formula",
        "ceil(2.5 * C)",
        "ceil(2.5 * Cc)",
    ),
    ("axis through itself", "V = 16", "V = \"V + 1\""),
    ("axes in a circle", "K = 4", "K = \"M + 1\"\nM = \"K - 1\""),
    ("size zero", "N = 4", "N = 0"),
    ("absurd size", "N = 4", "N = 99999999999999"),
    ("absurd tensor", "V = 16", "V = 1000000000000"),
    ("fraction of a size", "ceil(2.5 * C)", "C / 3"),
    ("division by zero", "ceil(2.5 * C)", "C / (H - 2)"),
    ("too many layers", "L = 2", "L = 5000"),
    ("axis twice in a product", "H * N", "H * H"),
    (
        "axis twice in a norm",
        "rms_norm(x, C, eps",
        "rms_norm(x, C, N, eps",
    ),
    (
        "axis twice by renaming",
        "y = ema(c, a)",
        "y = ema(rename(outer(c, index(K)), K -> N), a)",
    ),
    ("name misspelt", "relu(y @ up)", "relu(y @ upp)"),
    ("function misspelt", "square(relu", "square(rellu"),
    ("block misspelt", "mix(rms_norm", "mixx(rms_norm"),
    ("keyword misspelt", "C, eps = eps", "C, epsilon = eps"),
    (
        "read before it is set",
        "d = shift(x) - x",
        "d = shift(x) - c",
    ),
    (
        "state read before it is set",
        "S = a * S + (1 - a) * x\n  y = S",
        "S = a * S + z\n  z = (1 - a) * x\n  y = S",
    ),
    (
        "state never updated",
        "S = a * S + (1 - a) * x\n  y = S",
        "y = a * S",
    ),
    (
        "step leaves an axis over",
        "inputs  = \"x[H, i], a[H, i]\"",
        "inputs  = \"x[H, i], a[H, j]\"",
    ),
    (
        "output without a value",
        "outputs = \"y[H, i]\"",
        "outputs = \"z[H, i]\"",
    ),
    (
        "axis of an output unknown",
        "outputs = \"y[H, i]\"",
        "outputs = \"y[H, k]\"",
    ),
    (
        "argument of wrong axes",
        "y = ema(c, a)",
        "y = ema(x @ up, a)",
    ),
    ("argument missing", "y = ema(c, a)", "y = ema(c)"),
    ("argument too many", "y = ema(c, a)", "y = ema(c, a, d)"),
    ("argument twice", "y = ema(c, a)", "y = ema(c, x = a)"),
    ("into the future", "shift(x) - x", "delay(x, -1) - x"),
    (
        "parts that are not the whole",
        "return k @ down",
        "return concat(x, x, H -> F, H -> F)",
    ),
    (
        "parts of two wholes",
        "return k @ down",
        "return concat(x, x, H -> F, N -> K)",
    ),
    (
        "part beyond the end",
        "return k @ down",
        "return slice(x, N -> H, 3) @ down",
    ),
    ("pairs of nothing", "square(relu(y @ up))", "outer(y, y)"),
    (
        "norm without eps in a step",
        "S = a * S + (1 - a) * x",
        "S = a * S + rms_norm(x, i)",
    ),
    ("sum of different axes", "return k @ down", "return x + k"),
    (
        "product of different axes",
        "return k @ down",
        "return x * k",
    ),
    (
        "contraction of a missing axis",
        "return k @ down",
        "return k @ w",
    ),
    ("axis not there", "square(relu(y @ up))", "sum(y @ up, N)"),
    (
        "axis lost",
        "k = square(relu(y @ up))",
        "k[H, F] = square(relu(y @ up))",
    ),
    ("axis left over", "k = square(relu(y @ up))", "k[H] = y"),
    (
        "x grows from layer to layer",
        "x + mix(rms_norm(x, C, eps = eps))",
        "outer(x, index(K))",
    ),
    (
        "norm without eps",
        "rms_norm(x, C, eps = eps)",
        "rms_norm(x, C)",
    ),
    (
        "norm without axes",
        "rms_norm(x, C, eps = eps)",
        "rms_norm(x, eps = eps)",
    ),
    ("string as a number", "eps = eps", "eps = mode"),
    ("condition on a tensor", "if mode == \"plain\"", "if x == 1"),
    (
        "index outside",
        "return k @ down",
        "return (k @ down) * mu[H = 2]",
    ),
    ("block calls itself", "y = ema(c, a)", "y = mix(c)"),
    (
        "parameter set",
        "d = shift(x) - x",
        "mu = shift(x) - x\n  d = mu",
    ),
    ("no return", "return logits", ""),
    (
        "two names for one tensor",
        "d = shift(x) - x",
        "d, e = shift(x) - x",
    ),
    (
        "bracket missing",
        "square(relu(y @ up))",
        "square(relu(y @ up)",
    ),
    ("strange character", "return logits", "return logits ? 1"),
    ("bad load step", "load = \"t(0, 1)\"", "load = \"flip(0)\""),
    (
        "load of nothing",
        "from = \"blocks.{l}.w\", load = \"t(0, 1)\"",
        "load = \"t(0, 1)\"",
    ),
    ("bad initialisation", "normal(0.02)", "normal(-1)"),
    ("brace in a tensor name", "blocks.{l}.mu", "blocks.{m}.mu"),
    (
        "include that climbs out",
        "name = \"small\"",
        "name = \"small\"\ninclude = [\"../x.toml\"]",
    ),
    (
        "include that is not there",
        "name = \"small\"",
        "name = \"small\"\ninclude = [\"x.toml\"]",
    ),
    (
        "pin of nothing",
        "[model]",
        "[model]\nfuse = [\"logitz\", \"mix.k\"]",
    ),
    (
        "cumulative sum over tokens",
        "square(relu(y @ up))",
        "cumsum(y @ up, F)",
    ),
    ("delay of a parameter", "shift(x) - x", "shift(mu) - x"),
    ("constant overflow", "d * mu", "d * 1e400"),
    (
        "attention without a window",
        "y = ema(c, a)",
        "y = attention(c, a, x, N)",
    ),
    (
        "attention over no token",
        "y = ema(c, a)",
        "y = attention(c, a, x, N, window = 0)",
    ),
    (
        "attention between other heads",
        "y = ema(c, a)",
        "y = attention(c, rename(a, H -> L), x, N, window = 8)",
    ),
    (
        "recurrence named like a function",
        "[recurrence.ema]",
        "[recurrence.mean]",
    ),
    ("block named like a word", "[block.mix]", "[block.return]"),
    (
        "block with a line in its name",
        "[block.mix]",
        "[block.\"mix\\nx\"]",
    ),
    (
        "model with a quote in its name",
        "name = \"small\"",
        "name = 'sma\"ll'",
    ),
    (
        "function of flows in a step",
        "S = a * S + (1 - a) * x",
        "S = a * S + softmax(x, i)",
    ),
    (
        "block with parameters in a step",
        "S = a * S + (1 - a) * x",
        "S = a * S + mix(x)",
    ),
    (
        "attention to a parameter",
        "y = ema(c, a)",
        "y = attention(c, mu, x, N, window = 8)",
    ),
];

fn edited(from: &str, to: &str) -> String {
    assert!(MODEL.contains(from), "the model has no `{from}`");
    MODEL.replacen(from, to, 1)
}

fn told(error: &LanguageError) -> String {
    let mut out = String::new();
    NarratableReportHandler::new()
        .with_context_lines(0)
        .render_report(&mut out, error)
        .expect("writing to a string");
    out
}

#[test]
fn the_model_itself_is_valid() {
    compile(
        &ModelSource::from_text("small.toml", MODEL),
        &Overrides::default(),
    )
    .map_err(|e| told(&e))
    .expect("valid");
}

#[test]
fn every_mistake_is_told_with_its_place_and_a_way_out() {
    let mut report = String::new();
    let mut accepted = Vec::new();
    for (what, from, to) in EDITS {
        let text = edited(from, to);
        let source = ModelSource::from_text("small.toml", text.clone());
        let error = match compile(&source, &Overrides::default()) {
            Ok(_) => {
                accepted.push(*what);
                continue;
            }
            Err(error) => error,
        };
        assert!(
            error.help().is_some_and(|h| !h.to_string().is_empty()),
            "{what}: no way out"
        );
        let labels: Vec<_> = error.labels().into_iter().flatten().collect();
        assert!(!labels.is_empty(), "{what}: no place");
        for label in labels {
            assert!(
                label.offset() + label.len() <= text.len(),
                "{what}: place outside the text"
            );
        }
        report.push_str(&format!(
            "## {what}: `{from}` -> `{to}`\n\n{}\n",
            told(&error)
        ));
    }
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
    insta::assert_snapshot!(report);
}

#[test]
fn mistakes_in_overrides_name_what_there_is() {
    let size = |name: &str, size| Overrides {
        axes: [(name.to_owned(), size)].into(),
        ..Overrides::default()
    };
    let setting = |name: &str, value| Overrides {
        settings: [(name.to_owned(), value)].into(),
        ..Overrides::default()
    };
    let preset = |name: &str| Overrides {
        preset: Some(name.to_owned()),
        ..Overrides::default()
    };
    let mut report = String::new();
    for options in [
        size("Vv", 3),
        size("C", 9),
        size("V", 0),
        setting("mood", Setting::Bool(true)),
        setting("eps", Setting::Text("small".into())),
        setting("V", Setting::Number(3.0)),
        size("eps", 1),
        preset("bigger"),
    ] {
        let error = compile(&ModelSource::from_text("small.toml", MODEL), &options)
            .expect_err("wrong override");
        let help = error.help().map(|h| h.to_string()).unwrap_or_default();
        report.push_str(&format!("{error}\n  {help}\n"));
    }
    insta::assert_snapshot!(report);
}

/// Nesting is refused long before it could exhaust the stack of a thread.
#[test]
fn deep_nesting_is_refused() {
    let n = 5000;
    let axes = 500;
    let link = |i| format!("A{i} = \"A{}\"\n", i + 1);
    let chain: String = (0..axes).map(link).collect();
    for (from, to) in [
        (
            "x @ head",
            format!("{}x{} @ head", "(".repeat(n), ")".repeat(n)),
        ),
        ("x @ head", format!("{}x", "-".repeat(n))),
        (
            "x @ head",
            format!("{}x{}", "exp(".repeat(n), ")".repeat(n)),
        ),
        ("x @ head", format!("x{}", "[H = 0]".repeat(n))),
        (
            "return logits",
            format!("{}{}", "if true {".repeat(n), "}".repeat(n)),
        ),
        (
            "return logits",
            format!("if false {{ }} {}", "else if false { } ".repeat(n)),
        ),
        (
            "return logits",
            format!("if {}true {{ }}", "not ".repeat(n)),
        ),
        ("V = 16", format!("{chain}A{axes} = 1")),
    ] {
        let source = ModelSource::from_text("deep.toml", edited(from, &to));
        let error = compile(&source, &Overrides::default()).expect_err("too deep");
        assert!(
            matches!(error.problem(), Problem::TooDeep { .. }),
            "{error}"
        );
    }
}
