//! Model texts and steps that nobody would write: a graph or a message with a place, never a
//! panic, soon, and whatever compiles can be classified, printed and run.

use fusec_ir::class::classify;
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_ir::language::{LanguageError, ModelSource, Overrides, compile};
use fusec_ir::{Graph, ValueId, print};
use miette::{Diagnostic, NarratableReportHandler};
use proptest::prelude::*;
use proptest::sample::Index;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Far more than any text of this size takes, and less than patience lasts.
const PATIENCE: Duration = Duration::from_secs(60);

fn told(error: &LanguageError) -> String {
    let mut out = String::new();
    NarratableReportHandler::new()
        .with_context_lines(0)
        .render_report(&mut out, error)
        .expect("writing to a string");
    out
}

/// Texts to break: all models of the repository.
fn zoo() -> Vec<(PathBuf, String)> {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(models)
        .expect("the zoo")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a model is readable");
            (path, text)
        })
        .collect()
}

/// Snippets that are likely to hit something.
const FRAGMENTS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "99999999999999999999",
    "inf",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "\n",
    "=",
    "==",
    "->",
    "@",
    "*",
    "/",
    "+",
    "-",
    ",",
    ".",
    "#",
    "l",
    "L",
    "C",
    "H",
    "N",
    "x",
    "é",
    "\u{0}",
    "if true {",
    "repeat l in L {",
    "return",
    "softmax(x, C)",
    "cumsum(emb, C)",
    "index(C)",
    "f32(",
    "not ",
];

/// A way to spoil a text.
#[derive(Clone, Debug)]
enum Mutation {
    /// Something else in place of some characters.
    Replace(Index, usize, Index),
    /// A line many times.
    RepeatLine(Index, usize),
    /// Some characters many times.
    RepeatPart(Index, usize, usize),
    /// Two lines become one.
    Join(Index),
    /// Two lines change places.
    Swap(Index, Index),
    /// A line of another model.
    Splice(Index, Index, Index),
    /// A number of another size.
    Number(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let often = prop::sample::select(vec![2usize, 10, 120, 1100, 20_000]);
    prop_oneof![
        3 => (at(), 0usize..30, at()).prop_map(|(a, n, b)| Mutation::Replace(a, n, b)),
        1 => (at(), often.clone()).prop_map(|(a, n)| Mutation::RepeatLine(a, n)),
        2 => (at(), 1usize..40, often).prop_map(|(a, n, m)| Mutation::RepeatPart(a, n, m)),
        1 => at().prop_map(Mutation::Join),
        1 => (at(), at()).prop_map(|(a, b)| Mutation::Swap(a, b)),
        1 => (at(), at(), at()).prop_map(|(a, b, c)| Mutation::Splice(a, b, c)),
        1 => (at(), at()).prop_map(|(a, b)| Mutation::Number(a, b)),
    ]
}

/// Sizes on both sides of limits.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "63",
    "65",
    "4096",
    "4097",
    "1048577",
    "1099511627776",
    "1e308",
    "0.1",
];

fn spoilt(text: &str, mutation: &Mutation, zoo: &[(PathBuf, String)]) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    let collect = |chars: &[char]| chars.iter().collect::<String>();
    match mutation {
        Mutation::Replace(at, cut, fragment) => {
            let at = at.index(chars.len());
            let fragment = FRAGMENTS[fragment.index(FRAGMENTS.len())];
            collect(&chars[..at]) + fragment + &collect(&chars[(at + cut).min(chars.len())..])
        }
        Mutation::RepeatLine(at, times) => {
            let at = at.index(lines.len());
            // A long line many times soon fills the memory of the test itself.
            let times = (*times).min((2 << 20) / (lines[at].len() + 1)).max(2);
            let many = vec![lines[at]; times];
            lines.splice(at..at, many);
            lines.join("\n")
        }
        Mutation::RepeatPart(at, length, times) => {
            let at = at.index(chars.len());
            let end = (at + length).min(chars.len());
            let many = collect(&chars[at..end]).repeat(*times);
            collect(&chars[..at]) + &many + &collect(&chars[end..])
        }
        Mutation::Join(at) => {
            let at = at.index(lines.len().max(2) - 1);
            lines
                .splice(at..(at + 2).min(lines.len()), [])
                .collect::<Vec<_>>()
                .join(" ")
                + "\n"
                + &lines.join("\n")
        }
        Mutation::Swap(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            lines.join("\n")
        }
        Mutation::Splice(at, other, line) => {
            let (_, other) = &zoo[other.index(zoo.len())];
            let others: Vec<&str> = other.split('\n').collect();
            lines.insert(at.index(lines.len()), others[line.index(others.len())]);
            lines.join("\n")
        }
        Mutation::Number(at, number) => {
            let number = NUMBERS[number.index(NUMBERS.len())];
            let digits: Vec<usize> = (0..chars.len())
                .filter(|i| chars[*i].is_ascii_digit())
                .collect();
            match digits.is_empty() {
                true => text.to_owned(),
                false => {
                    let at = digits[at.index(digits.len())];
                    collect(&chars[..at]) + number + &collect(&chars[at + 1..])
                }
            }
        }
    }
}

/// What is done with a graph that compiled, whatever it is of.
fn looked_at(graph: &Graph) {
    for recurrence in &graph.recurrences {
        classify(graph, recurrence).sentences(graph, recurrence);
    }
    print::graph(graph);
}

/// Three tokens of numbers go through it, with parameters of 0.5.
fn runs(graph: &Graph) {
    let params = graph.params.iter();
    let params = params.map(|p| vec![0.5; graph.elements(&graph.value(p.value).axes)]);
    let interpreter = Interpreter::<f64>::new(graph, params.collect()).expect("a graph");
    let numbers = |id: &ValueId| -> Vec<f64> {
        let elements = 0..3 * graph.row_elements(*id);
        elements.map(|i| (i as f64 * 0.7).sin()).collect()
    };
    let numbers: Vec<Vec<f64>> = graph.inputs.iter().map(numbers).collect();
    let inputs = graph.inputs.iter().zip(&numbers);
    let inputs = inputs.map(|(id, n)| (*id, Input::Numbers(n))).collect();
    let mut state = State::zero(graph, 1);
    let ran = interpreter.run(&mut state, 1, 3, &inputs, Keep::Outputs);
    ran.expect("it runs");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_models_are_refused_with_a_place(
        which in any::<Index>(),
        mutations in prop::collection::vec(mutation(), 1..5),
    ) {
        let zoo = zoo();
        let (path, text) = &zoo[which.index(zoo.len())];
        let mut text = text.clone();
        for mutation in &mutations {
            // Repetitions of repetitions soon fill the memory of the test itself.
            if text.len() < 1 << 20 {
                text = spoilt(&text, mutation, &zoo);
            }
        }
        let mut source = ModelSource::from_path(path).expect("a model is readable");
        source.text = text;
        let began = Instant::now();
        match compile(&source, &Overrides::default()) {
            Ok(graph) => looked_at(&graph),
            Err(error) => {
                prop_assert!(error.labels().is_some_and(|mut l| l.next().is_some()));
                prop_assert!(error.help().is_some_and(|h| !h.to_string().is_empty()));
                prop_assert!(told(&error).len() < 8000, "{}", told(&error));
            }
        }
        prop_assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
}

/// Found by the mutations: the TOML reader recursed on every unclosed table.
#[test]
fn brackets_that_are_never_closed_are_refused_where_they_are_too_deep() {
    for unit in ["[param]\nemb = { s = 128\n\n", "a = [\n", "{", "["] {
        let source = ModelSource::from_text("deep.toml", unit.repeat(100_000));
        let error = compile(&source, &Overrides::default()).expect_err("it is no model");
        assert!(
            error.to_string().contains("nested more than 100 deep"),
            "{unit}: {error}"
        );
        assert!(
            error.labels().is_some_and(|mut l| l.next().is_some()),
            "{unit}"
        );
    }
}

/// Expressions over what a step knows. Most fit: products meet any axes, what is added is a number,
/// what is summed over has the axis.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "S", "S", "m", "x", "k", "v", "d", "0", "1", "0.5", "1e30", "N", "index(i)", "index(H)",
        "eps",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(6, 48, 4, |inner| {
        let number = || prop::sample::select(vec!["0.5", "-2", "N", "1e-3", "eps"]);
        let operators = prop::sample::select(vec!["+", "-", "/", "**"]);
        let functions = prop::sample::select(vec![
            "exp", "log", "sqrt", "rsqrt", "recip", "tanh", "sigmoid", "silu", "softplus",
            "logsigmoid", "relu", "square", "abs", "sin", "cos", "-", "erf", "gelu", "2 **",
        ]);
        let pairs = prop::sample::select(vec!["min", "max", "pow"]);
        let compare = prop::sample::select(vec!["<", "<=", "==", "!=", ">"]);
        let sums = prop::sample::select(vec!["sum", "sum", "mean", "max_over"]);
        let axes = prop::sample::select(vec![("j", "k"), ("i", "v"), ("H", "x")]);
        prop_oneof![
            4 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} * {b})")),
            3 => (inner.clone(), operators, number()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            2 => (functions, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            1 => (pairs, inner.clone(), number()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            1 => (inner.clone(), compare, number())
                .prop_map(|(a, c, n)| format!("where({a} {c} {n}, {a}, {n})")),
            3 => (sums, inner.clone(), axes).prop_map(|(f, a, (x, has))| format!("{f}({a} * {has}, {x})")),
            // Long chains, and products of sums that would be long if they were multiplied out.
            1 => (inner.clone(), prop::sample::select(vec![3usize, 30, 1001]))
                .prop_map(|(a, n)| format!("({})", repeated(a, n).join(" + "))),
            1 => (inner.clone(), prop::sample::select(vec![3usize, 12]))
                .prop_map(|(a, n)| repeated(format!("(1 + {a})"), n).join(" * ")),
            1 => (inner, prop::sample::select(ODD.to_vec()))
                .prop_map(|(a, odd)| odd.replace('#', &format!("({a})"))),
        ]
    })
}

/// Chains of chains soon fill the memory of the test itself.
fn repeated(of: String, times: usize) -> Vec<String> {
    let times = times.min(20_000 / of.len()).max(2);
    vec![of; times]
}

/// What rarely fits.
const ODD: &[&str] = &[
    "rename(#, i -> j)",
    "rename(#, j -> i)",
    "reverse(#, i)",
    "#[H = 0]",
    "shift(#)",
    "sum(#, N)",
    "outer(#, x)",
    "# + S",
    "t",
    "l",
    "where(#, 1, 2)",
    "# and 1",
    "l2_norm(# * v, i, eps = 1)",
    "layer_norm(# * k, j, eps = eps, gain = k)",
    "rms_norm(#, N, eps = -1, bias = S)",
    "group_norm(# * v, H, eps = 1)",
    "helped(#, 2)",
    "helped(#)",
    "several(#)",
    "concat(#, #, i -> j, i -> j)",
];

fn step() -> impl Strategy<Value = String> {
    let target = prop::sample::select(vec!["S", "S", "m", "t", "y"]);
    let statement = (target, expression()).prop_map(|(t, e)| format!("{t} = {e}"));
    let last = (expression(), expression());
    (prop::collection::vec(statement, 0..4), last).prop_map(|(mut statements, (s, y))| {
        // So that some fit: a state over its axes, an output over its own.
        statements.push(format!("S = d * S + k * v * sum({s} * k * v * x, i, j, H)"));
        statements.push("m = max(m, x)".into());
        statements.push(format!("y = sum(S * k, j) * sum({y} * k * v * x, i, j, H)"));
        statements.join("\n  ")
    })
}

fn around(step: &str) -> String {
    format!(
        "name = \"steps\"\n[axes]\nH = 2\nN = 3\nM = 4\n[settings]\neps = 1e-5\n[input]\n\
         x = \"H\"\nk = \"H, M\"\nv = \"H, N\"\nd = \"H, M\"\n[recurrence.r]\n\
         inputs = \"x[H], k[H, j], v[H, i], d[H, j]\"\nstate = \"S[H, i = N, j = M], m[H] = -1e30\"\n\
         outputs = \"y[H, i]\"\nstep = \"\"\"\n  {step}\n\"\"\"\n[model]\n\
         flow = \"return r(x, k, v, sigmoid(d))\"\n\
         [block.helped]\nargs = [\"u\", \"by\"]\nflow = \"if eps < 1 {{ w = tanh(u * by) }}\\n return w\"\n\
         [block.several]\nargs = [\"u\"]\nflow = \"return helped(u, 1), several(u)\"\n"
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_are_refused_with_a_place_or_classified_and_run(step in step()) {
        let source = ModelSource::from_text("steps.toml", around(&step));
        let began = Instant::now();
        match compile(&source, &Overrides::default()) {
            Err(error) => {
                prop_assert!(error.labels().is_some_and(|mut l| l.next().is_some()));
                prop_assert!(told(&error).len() < 8000, "{}", told(&error));
            }
            Ok(graph) => {
                looked_at(&graph);
                runs(&graph);
            }
        }
        prop_assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
}

/// Tensors cut, put one after the other, and paired, along axes that fit now and then.
fn parts() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec!["x", "y", "w", "2", "x[H = 1]", "index(N)", "n"]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(4, 24, 3, |inner| {
            let axis =
                || prop::sample::select(vec!["N", "N", "N", "M", "A", "B", "NN", "H", "C", "Q"]);
            let from = prop::sample::select(vec!["0", "1", "3", "-1", "1e18", "0.5", "N", "x"]);
            let whole = || prop::sample::select(vec!["NN", "NN", "N", "A", "C"]);
            prop_oneof![
                3 => (inner.clone(), inner.clone(), axis(), axis(), whole(), whole()).prop_map(
                    |(x, y, a, b, c, d)| format!("concat({x}, {y}, {a} -> {c}, {b} -> {d})")
                ),
                2 => (inner.clone(), inner.clone()).prop_map(
                    |(x, y)| format!("concat({x}, {y}, N -> NN, N -> NN)")
                ),
                2 => (inner.clone(), axis(), axis(), from.clone())
                    .prop_map(|(x, a, b, n)| format!("slice({x}, {a} -> {b}, {n})")),
                2 => (inner.clone(), from).prop_map(|(x, n)| format!("slice({x}, NN -> N, {n})")),
                2 => (inner.clone(), inner.clone(), axis(), axis())
                    .prop_map(|(x, y, a, b)| format!("outer({x}, {y}, {a} -> {b})")),
                1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("outer({x}, {y})")),
                1 => (inner.clone(), axis()).prop_map(|(x, a)| format!("sum({x}, {a})")),
                1 => inner.prop_map(|x| format!("shift(tanh({x}))")),
            ]
        })
}

fn of_parts(flow: &str) -> Result<Graph, LanguageError> {
    let text = format!(
        "name = \"parts\"\n[axes]\nH = 2\nN = 4\nM = 4\nNN = 8\nA = 3\nB = 1\nC = \"H * N\"\n[input]\n\
         x = \"H, N\"\ny = \"A\"\n[param]\nw = {{ shape = \"N\" }}\n[model]\nflow = \"\"\"\n  \
         n = x * w\n  return {flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text("parts.toml", text);
    compile(&source, &Overrides::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_are_refused_with_a_place_or_run(flow in parts()) {
        match of_parts(&flow) {
            Err(error) => {
                prop_assert!(error.labels().is_some_and(|mut l| l.next().is_some()), "{flow}");
                prop_assert!(told(&error).len() < 8000, "{}", told(&error));
            }
            Ok(graph) => {
                looked_at(&graph);
                runs(&graph);
            }
        }
    }
}

/// The generator is of use only while a fair part of what it makes compiles.
#[test]
fn some_of_the_steps_compile() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let compiled = (0..200)
        .filter(|_| {
            let step = step().new_tree(&mut runner).expect("a step").current();
            let source = ModelSource::from_text("steps.toml", around(&step));
            compile(&source, &Overrides::default()).is_ok()
        })
        .count();
    assert!(compiled >= 20, "{compiled} of 200");
}
