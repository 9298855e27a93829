//! Recurrences from a step alone: what becomes of their names, and what is refused with its place.

use fusec_ir::language::{LanguageError, ModelSource, Overrides, RecurrenceText, compile};
use fusec_ir::{Graph, Precision};

fn axes() -> Vec<(String, usize)> {
    [("H", 2), ("i", 5), ("j", 3)]
        .map(|(name, size)| (name.to_owned(), size))
        .to_vec()
}

fn compiled(text: &RecurrenceText<'_>) -> Graph {
    let text = text.model_text().expect("a model text");
    let source = ModelSource::from_text("<text>", text.as_str());
    compile(&source, &Overrides::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Names with their axes: inputs, parameters, states, outputs.
fn ports(graph: &Graph) -> [String; 4] {
    let axes = |ids: &[fusec_ir::AxisId]| {
        let names: Vec<&str> = ids.iter().map(|id| graph.axis_name(*id)).collect();
        names.join(",")
    };
    let value = |id: &fusec_ir::ValueId| {
        let value = graph.value(*id);
        format!("{}[{}]", value.name, axes(&value.axes))
    };
    let joined = |list: Vec<String>| list.join(" ");
    [
        joined(graph.inputs.iter().map(value).collect()),
        joined(graph.params.iter().map(|p| value(&p.value)).collect()),
        joined(
            graph
                .states
                .iter()
                .map(|s| format!("{}[{}]", s.name, axes(&s.axes)))
                .collect(),
        ),
        joined(graph.outputs.iter().map(value).collect()),
    ]
}

#[test]
fn names_are_inputs_states_or_outputs_by_how_they_are_used() {
    let axes = axes();
    let of = |step| RecurrenceText {
        step,
        axes: &axes,
        ..RecurrenceText::default()
    };
    let cases = [
        (
            of("S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"),
            ["w[H,j] k[H,j] v[H,i] r[H,j]", "", "step.S[H,i,j]", "y[H,i]"],
        ),
        // A local name, a comment, a number per row.
        (
            of("a = exp(x[H]) # not an input\nh[H] = h + a * s[]; y[H] = h"),
            ["x[H] s[]", "", "step.h[H]", "y[H]"],
        ),
        // Two states and two outputs; an axis that is only summed over.
        (
            of("m[H] = max(m, sum(x[H, j], j)); n[H] = n + m\ny[H] = m; z[H] = n"),
            ["x[H,j]", "", "step.m[H] step.n[H]", "y[H] z[H]"],
        ),
        (
            RecurrenceText {
                constants: Some("a"),
                ..of("h[H] = a[H] * h + x[H]; y[H] = h")
            },
            ["x[H]", "a[H]", "step.h[H]", "y[H]"],
        ),
        (
            RecurrenceText {
                inputs: Some("x[H], a[H]"),
                state: Some("h[H] = -inf"),
                outputs: Some("y[H]"),
                ..of("h = max(a * h, x); y = h")
            },
            ["x[H] a[H]", "", "step.h[H]", "y[H]"],
        ),
    ];
    for (text, want) in cases {
        let graph = compiled(&text);
        assert_eq!(ports(&graph), want.map(str::to_owned), "{}", text.step);
        let f32 = |p: &fusec_ir::Param| graph.value(p.value).precision == Precision::F32;
        assert!(graph.params.iter().all(f32));
    }
}

#[test]
fn what_is_missing_is_said() {
    let axes = axes();
    let of = |step| RecurrenceText {
        step,
        axes: &axes,
        ..RecurrenceText::default()
    };
    let bad = [("a b".to_owned(), 2)];
    for (text, says) in [
        (of("S[H] = S * w + x[H]; y[H] = S"), "`w`"),
        (of("y[H] = 1"), "no inputs"),
        (of("S[H] = S + x[H]"), "no outputs"),
        (of("y[H] = exp(x[H])"), "no state"),
        (of(""), "no inputs"),
        (of("S[H] = S * x[H] + x[i]; y[H] = S"), "`x`"),
        (of("S[H] = S $ x[H]"), "`$`"),
        (of("S[H] = x[H] # '''\ny[H] = S"), "'''"),
        (
            RecurrenceText {
                axes: &bad,
                ..of("y[H] = x[H]")
            },
            "`a b`",
        ),
    ] {
        let error: LanguageError = text.model_text().expect_err("it is wrong");
        assert!(error.to_string().contains(says), "{}: {error}", text.step);
    }
}
