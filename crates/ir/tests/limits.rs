//! The limits of a model text: what is just below one compiles, what is just above is refused
//! with the place, soon, and in few words.

use fusec_ir::language::{LanguageError, ModelSource, Overrides, Problem, compile};
use miette::NarratableReportHandler;
use std::time::{Duration, Instant};

/// A model around one line of its flow and a few declarations.
fn model(declarations: &str, line: &str) -> String {
    format!(
        "name = \"limits\"\n[axes]\nC = 4\nK = 2\n[input]\nx = \"C\"\n[param]\nw = {{ shape = \"C\" }}\n\
         {declarations}\n[model]\nflow = \"\"\"\n  {line}\n  return x\n\"\"\"\n"
    )
}

fn compiled(text: &str) -> Result<fusec_ir::Graph, LanguageError> {
    let source = ModelSource::from_text("limits.toml", text);
    compile(&source, &Overrides::default())
}

/// The report as people see it.
fn told(error: &LanguageError) -> String {
    let mut out = String::new();
    NarratableReportHandler::new()
        .render_report(&mut out, error)
        .expect("writing to a string");
    out
}

/// `n` of something, one after the other.
fn listed(n: usize, separator: &str, entry: impl Fn(usize) -> String) -> String {
    let entries: Vec<String> = (0..n).map(entry).collect();
    entries.join(separator)
}

/// What is limited, the limit, and a text of any size.
type Case = (&'static str, usize, fn(usize) -> String);

/// Limits with a message of their own.
const LENGTHS: &[Case] = &[
    ("terms of a sum", 1000, |n| {
        model("", &format!("x = {}", listed(n, " + ", |_| "x".into())))
    }),
    ("terms of a product of different kinds", 1000, |n| {
        let term = |i| if i % 2 == 0 { "w".into() } else { "x".into() };
        model("", &format!("x = {}", listed(n, " * ", term)))
    }),
    ("terms of a condition", 1000, |n| {
        let condition = listed(n, " and ", |_| "true".into());
        model("", &format!("if {condition} {{ x = x * 2 }}"))
    }),
    ("terms of a size", 1000, |n| {
        model(&format!("[axes.more]\n#{n}"), "")
            .replace("[axes.more]\n", "")
            .replace(
                "K = 2",
                &format!("K = \"{}\"", listed(n, " + ", |_| "1".into())),
            )
    }),
    ("characters of a name", 64, |n| {
        let name = "n".repeat(n);
        model("", &format!("{name} = x; x = {name} + 1"))
    }),
    ("characters of a key", 64, |n| {
        model(&format!("{} = {{ shape = \"C\" }}", "p".repeat(n)), "")
    }),
    ("entries of a list of outputs", 256, |n| {
        model(
            "",
            &format!("return {}", listed(n, ", ", |i| format!("x + {i}"))),
        )
    }),
    ("entries of a list in TOML", 256, |n| {
        let names = listed(n, ", ", |i| format!("\"a{i}\""));
        model(
            &format!("v = {{ shape = \"C\", from = [{names}] }}"),
            "x = x + v",
        )
    }),
    ("bytes of a string", 1024, |n| {
        let name = "a".repeat(n);
        model(
            &format!("v = {{ shape = \"C\", from = \"{name}\" }}"),
            "x = x + v",
        )
    }),
    ("axes", 1024, |n| {
        let more = listed(n - 2, "\n", |i| format!("A{i} = 1"));
        model("", "").replace("[input]", &format!("{more}\n[input]"))
    }),
    ("axes of a shape", 32, |n| {
        let shape = listed(n, ", ", |_| "O".into());
        model(
            &format!("v = {{ shape = \"{shape}\" }}\n[settings]\ns = 1"),
            "",
        )
        .replace("[input]", "O = 1\n[input]")
        .replace("return x", "return outer(x, sum(v * 0, O))")
    }),
    ("axes of a tensor", 32, |n| {
        let axes = listed(n - 1, "\n", |i| format!("A{i} = 1"));
        let lines = listed(n - 1, "\n  ", |i| format!("x = outer(x, index(A{i}))"));
        model("", &lines).replace("[input]", &format!("{axes}\n[input]"))
    }),
    ("bytes of a file", 4 << 20, |n| {
        let text = model("", "x = x + w");
        let comment = "c".repeat(n - text.len() - 2);
        format!("{text}#{comment}\n")
    }),
];

#[test]
fn just_below_a_limit_compiles_and_just_above_is_refused() {
    for (what, limit, text) in LENGTHS {
        let below = compiled(&text(*limit));
        if let Err(error) = below {
            panic!("{limit} {what}: {}", told(&error));
        }
        let error = compiled(&text(limit + 1)).expect_err(what);
        match error.problem() {
            Problem::TooLong { limit: stated, .. } => assert_eq!(stated, limit, "{what}"),
            other => panic!("{what}: {other}"),
        }
    }
}

/// What is limited, the limit, what is said beyond it, and a text of any size.
type Said = (&'static str, usize, &'static str, fn(usize) -> String);

/// Limits of what a text says, each with a message of its own kind.
const SAYINGS: &[Said] = &[
    ("layers", 4096, "not between 1 and 4096", |n| {
        model("", "repeat l in L { x = x * 2 }").replace("K = 2", &format!("K = 2\nL = {n}"))
    }),
    (
        "elements of an axis",
        1 << 40,
        "not between 1 and 2^40",
        |n| model("", "x = x + w").replace("C = 4", &format!("C = {n}")),
    ),
    ("tokens of a delay", 4096, "4096", |n| {
        model("", &format!("x = delay(x, {n})"))
    }),
    ("taps of a convolution", 64, "64", |n| {
        model("taps = { shape = \"C, K\" }", "x = conv(x, taps)")
            .replace("K = 2", &format!("K = {n}"))
    }),
    ("tokens of a window", 65536, "65536", |n| {
        model("", &format!("x = attention(x, x, x, C, window = {n})"))
    }),
    (
        "levels of an expression",
        100,
        "nested more than 100 deep",
        |n| {
            // The statement, each bracket, and the name in the innermost.
            let (open, close) = ("(".repeat(n - 2), ")".repeat(n - 2));
            model("", &format!("x = {open}x{close}"))
        },
    ),
    ("operations of a step", 256, "256", |n| {
        let lines = listed(n, "\n", |_| "  y = exp(y)".into());
        let recurrence = format!(
            "[recurrence.r]\ninputs = \"v[C]\"\nstate = \"S[C]\"\noutputs = \"y[C]\"\n\
             step = \"\"\"\n  S = v\n  y = S\n{lines}\n\"\"\"\n"
        );
        model(&recurrence, "x = r(x)")
    }),
];

#[test]
fn what_a_text_says_is_accepted_up_to_its_limit() {
    for (what, limit, says, text) in SAYINGS {
        if let Err(error) = compiled(&text(*limit)) {
            panic!("{limit} {what}: {}", told(&error));
        }
        let error = compiled(&text(limit + 1)).expect_err(what).to_string();
        assert!(error.contains(says), "{what}: {error}");
    }
}

/// A model that includes some files, of so many bytes with them.
fn including(files: usize, bytes: usize) -> Result<fusec_ir::Graph, LanguageError> {
    let names = listed(files, ", ", |n| format!("\"{n}.toml\""));
    let mut text = format!("include = [{names}]\n") + &model("", "x = x + w");
    // All included files are of one length.
    text.push_str(&" ".repeat(bytes.saturating_sub(text.len()) % files));
    let each = bytes.saturating_sub(text.len()) / files;
    let source = ModelSource {
        name: "limits.toml".into(),
        text,
        loader: Box::new(move |_| Ok(format!("#{}\n", "c".repeat(each.max(2) - 2)))),
    };
    compile(&source, &Overrides::default())
}

#[test]
fn a_model_includes_files_up_to_a_number_and_a_length() {
    const MIB: usize = 1 << 20;
    // With the model itself they are one more.
    for (files, bytes, says) in [
        (255, 0, None),
        (256, 0, Some("the model has more than 256 files")),
        (5, 16 * MIB, None),
        (5, 16 * MIB + 1, Some("16777216 bytes")),
    ] {
        match (including(files, bytes), says) {
            (Ok(_), None) => {}
            (Err(error), Some(says)) => {
                assert!(error.to_string().contains(says), "{files} files: {error}");
            }
            (got, _) => panic!("{files} files, {bytes} bytes: {:?}", got.err()),
        }
    }
}

/// Lines of any length are shown in a screen, and soon.
#[test]
fn a_mistake_in_a_line_of_any_length_is_shown_in_a_few_lines() {
    for n in [65_000, 70_000, 3_000_000] {
        let cases = [
            ("after blanks", format!("x = x +{}nothing", " ".repeat(n))),
            ("in a long text", format!("x = \"{}\"", "t".repeat(n))),
            ("in a long name", format!("x = {}", "n".repeat(n))),
            ("in a long number", format!("x = {} ?", "1".repeat(n))),
            (
                "in a long comment",
                format!("x = nothing # {}", "é".repeat(n / 2)),
            ),
            ("over many lines", format!("x = sum({}x, C", "\n".repeat(n))),
            (
                "no TOML",
                format!("\"\"\"\n{} = = 1\nflow = \"\"\"", "k".repeat(n)),
            ),
        ];
        for (what, line) in cases {
            let began = Instant::now();
            let error = compiled(&model("", &line)).expect_err(what);
            let report = told(&error);
            assert!(report.len() < 3000, "{what}: {} bytes", report.len());
            assert!(error.to_string().len() < 1100, "{what}");
            assert!(began.elapsed() < Duration::from_secs(5), "{what}");
        }
    }
}

/// A chain of operators is not nested, and what it computes does not depend on its parts.
#[test]
fn long_expressions_are_computed_in_parts() {
    for (line, ops) in [
        (
            "x = ".to_owned() + &listed(48, " + ", |_| "x * x".into()),
            2,
        ),
        (
            "x = ".to_owned() + &listed(300, " - ", |i| format!("x * {i}")),
            13,
        ),
        (
            "x = ".to_owned() + &"exp(".repeat(90) + "x" + &")".repeat(90),
            2,
        ),
    ] {
        let graph = compiled(&model("", &line)).expect("a long expression");
        for op in &graph.ops {
            if let fusec_ir::OpKind::Map { expr } = &op.kind {
                assert!(expr.op_count() <= 48, "{}", op.name);
            }
        }
        assert_eq!(graph.ops.len(), ops, "{line:.40}");
        // The graph as a file can be read again: files nest as expressions do.
        let json = serde_json::to_string(&graph).expect("a graph is data");
        let read: fusec_ir::Graph = serde_json::from_str(&json).expect("what was written");
        assert_eq!(read, graph);
    }
}
