//! Steps of no class: the term or statement that does it, as its line and carets; and that places are
//! part of no comparison and of no file.

use fusec_ir::class::{Class, classify};
use fusec_ir::components::separate;
use fusec_ir::language::{Compiled, ModelSource, Overrides, compile_with_warnings};
use fusec_ir::{Graph, OpKind};

/// A model that calls a recurrence over keys and values once.
fn model(state: &str, outputs: &str, step: &str) -> Compiled {
    let text = format!(
        "name = \"one\"\n[axes]\nH = 2\nJ = 3\nI = 3\nZ = 3\n[input]\nq = \"H, J\"\nk = \"H, J\"\nv = \"H, I\"\ng = \"H\"\n\
         [recurrence.r]\ninputs = \"q[H, J], k[H, J], v[H, I], g[H]\"\nstate = \"{state}\"\n\
         outputs = \"{outputs}\"\nstep = '''\n{step}\n'''\n[model]\nflow = \"return r(q, k, v, g)\"\n"
    );
    let source = ModelSource::from_text("one.toml", text.as_str());
    match compile_with_warnings(&source, &Overrides::default()) {
        Ok(compiled) => compiled,
        Err(error) => panic!("{text}\n{:?}", miette::Report::new(error)),
    }
}

/// What is said of each component, with its place if it is general.
fn said(compiled: &Compiled) -> String {
    let graph = separate(&compiled.graph, |_| true);
    let mut out = String::new();
    for step in graph.ops.iter().filter_map(|op| match &op.kind {
        OpKind::Scan { recurrence, .. } => Some(graph.recurrence(*recurrence)),
        _ => None,
    }) {
        let found = classify(&graph, step);
        match found.states.first() {
            Some(Class::General { why }) => out += &format!("{}: {why}\n", step.name),
            class => out += &format!("{}: {}\n", step.name, class.map_or("-", Class::name)),
        }
        let place = found.blame.and_then(|at| compiled.sources.point(at));
        out += &place.map(|place| place.to_string()).unwrap_or_default();
    }
    out
}

#[test]
fn the_term_that_leaves_a_step_general_is_pointed_at() {
    let (matrix, vector, read) = ("S[H, I, J]", "S[H, J]", "y = sum(S * q, J)");
    let long = format!(
        "S = {0}tanh(S) * k{1}",
        "g * k + ".repeat(40),
        " + k".repeat(40)
    );
    let steps = [
        // A function of a state, beside another one that is none.
        (matrix, "y[H, I]", "S = exp(g) * S + tanh(g * S) * k"),
        (matrix, "y[H, I]", "S = 1 / S + v * k"),
        // A statement that is another one again, and a term that stands in its statement twice.
        (
            matrix,
            "y[H, I]",
            "a = g * S\nb = g * S\nS = a * k + k * (b * b)",
        ),
        (
            matrix,
            "y[H, I]",
            "S = g * S + k * (S * sum(S * k, J)) + S * sum(S * k, J)",
        ),
        (vector, "y[H]", "S = max_over(S, J) * g + k"),
        // Within branches and temporaries that are another name only.
        (vector, "y[H]", "T = S\nS = where(g < 0, k, k * T * T)"),
        // No term of these is at fault, but a statement is.
        (
            matrix,
            "y[H, I]",
            "S = S - k * sum(S * k, J)\nS = S - q * sum(S * q, J) + v * k",
        ),
        (
            matrix,
            "y[H, I]",
            "S = rename(rename(S, I -> Z, J -> I), Z -> J) * g + v * k",
        ),
        (
            matrix,
            "y[H, I], z[H, J]",
            "S = S - k * sum(S * k, J) + v * k\nz = sum(S * v, I)",
        ),
        // Coupled: where one reads the other.
        (
            "S[H, J], n[H, J]",
            "y[H]",
            "n2 = n * g + S\nS = g * S + k * n\nn = n2",
        ),
        // Components, one of which has a class.
        (
            "S[H, J], m[H]",
            "y[H]",
            "m = max(m, g)\nS = exp(g - m) * S + k",
        ),
        (vector, "y[H]", &long),
    ];
    let mut all = String::new();
    for (state, outputs, step) in steps {
        let step = format!("  {step}\n{read}").replace('\n', "\n  ");
        all += &said(&model(state, outputs, &step));
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

#[test]
fn what_a_text_means_does_not_depend_on_where_it_stands() {
    let [one, other] = ["", "  # a remark\n\n   "].map(|before| {
        let step = format!("{before}  S = g * S + tanh(S) * k\n  y = sum(S * q, J)");
        model("S[H, J]", "y[H]", &step).graph
    });
    assert_eq!(one.recurrences, other.recurrences);
    let written = |graph: &Graph| serde_json::to_string(&graph.recurrences);
    assert_eq!(written(&one).expect("text"), written(&other).expect("text"));
    let place = |graph: &Graph| {
        classify(graph, &graph.recurrences[0])
            .blame
            .map(|at| at.start)
    };
    let moved = "  # a remark\n\n   ".len() as u32;
    assert_eq!(place(&one).map(|at| at + moved), place(&other));
}
