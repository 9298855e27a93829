//! Steps of recurrences and their classes.

use fusec_ir::class::{Class, Classified, Reason, classify};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, StepRef};
use proptest::prelude::*;

/// A recurrence over H heads, J keys and I values (D and N where there are no heads).
#[derive(Clone, Debug)]
struct Step {
    inputs: &'static str,
    state: &'static str,
    outputs: &'static str,
    step: String,
}

fn step(
    inputs: &'static str,
    state: &'static str,
    outputs: &'static str,
    step: impl Into<String>,
) -> Step {
    let step = step.into();
    Step {
        inputs,
        state,
        outputs,
        step,
    }
}

/// The names in a list of formals.
fn names(formals: &str) -> Vec<&str> {
    let ends = formals.split(']');
    let starts = ends.filter_map(|f| f.split('[').next());
    let names = starts.map(|f| f.trim_start_matches([',', ' ']));
    names.filter(|n| !n.is_empty()).collect()
}

/// A model that calls the recurrence once, every input a parameter.
fn model(step: &Step) -> Graph {
    let mut params = String::new();
    for formal in step.inputs.split(']').filter(|f| !f.is_empty()) {
        let (name, axes) = formal.split_once('[').expect("name[axes]");
        let name = name.trim_start_matches([',', ' ']);
        params += &format!("p_{name} = {{ shape = \"{axes}\" }}\n");
    }
    let arguments: Vec<String> = names(step.inputs)
        .iter()
        .map(|n| format!("p_{n}"))
        .collect();
    let results: Vec<String> = names(step.outputs)
        .iter()
        .map(|n| format!("y_{n}"))
        .collect();
    let text = format!(
        "name = \"one\"\n[axes]\nH = 2\nJ = 3\nI = 4\nI2 = 4\nJ2 = 3\nD = 5\nN = 2\n[param]\n{params}\n\
         [recurrence.r]\ninputs = \"{}\"\nstate = \"{}\"\noutputs = \"{}\"\n\
         step = \"\"\"\n{}\n\"\"\"\n[model]\nflow = \"\"\"\n{} = r({})\nreturn {}\n\"\"\"\n",
        step.inputs,
        step.state,
        step.outputs,
        step.step,
        results.join(", "),
        arguments.join(", "),
        results[0],
    );
    match compile(
        &ModelSource::from_text("one", text.clone()),
        &Overrides::default(),
    ) {
        Ok(graph) => graph,
        Err(error) => panic!("{text}\n{:?}", miette::Report::new(error)),
    }
}

fn class_of(step: &Step) -> (Graph, Classified) {
    let graph = model(step);
    let found = classify(&graph, &graph.recurrences[0]);
    (graph, found)
}

/// Class and sentence of every state.
fn described(step: &Step) -> Vec<String> {
    let (graph, found) = class_of(step);
    let sentences = found.sentences(&graph, &graph.recurrences[0]);
    let classes = found.states.iter().map(Class::name);
    classes
        .zip(sentences)
        .map(|(c, s)| format!("{c}: {s}"))
        .collect()
}

const BONUS: (&str, &str, &str) = (
    "r[H, J], k[H, J], v[H, I], d[H, J], u[H, J]",
    "S[H, J, I]",
    "y[H, I]",
);
const OUTER: (&str, &str, &str) = (
    "q[H, J], k[H, J], v[H, I], d[H, J]",
    "S[H, J, I]",
    "y[H, I]",
);
const PER_HEAD: (&str, &str, &str) = ("q[H, J], k[H, J], v[H, I], d[H]", "S[H, J, I]", "y[H, I]");
const REPLACED: (&str, &str, &str) = (
    "r[H, J], w[H, J], k[H, J], v[H, I], a[H, J], b[H, J]",
    "S[H, I, J]",
    "y[H, I]",
);
const DELTA: (&str, &str, &str) = (
    "q[H, J], k[H, J], v[H, I], beta[H]",
    "S[H, J, I]",
    "y[H, I]",
);
const GATED_DELTA: (&str, &str, &str) = (
    "q[H, J], k[H, J], v[H, I], beta[H], d[H]",
    "S[H, J, I]",
    "y[H, I]",
);
const CHANNEL_DELTA: (&str, &str, &str) = (
    "q[H, J], k[H, J], v[H, I], beta[H], d[H, J]",
    "S[H, J, I]",
    "y[H, I]",
);
const GATED: (&str, &str, &str) = ("x[D], f[D]", "S[D]", "y[D]");

fn of((inputs, state, outputs): (&'static str, &'static str, &'static str), text: &str) -> Step {
    step(inputs, state, outputs, text)
}

#[test]
fn equations() {
    let delta_update = "S = S + k * (beta * (v - sum(S * k, J)))\ny = sum(q * S, J)";
    let cases = [
        (
            "bonus on the current token",
            of(
                BONUS,
                "kv = k * v\ny = sum(r * (S + u * kv), J)\nS = d * S + kv",
            ),
            "diagonal-outer: S is multiplied by a decay per key channel and a key-value outer \
             product is added; read before the update, summed over [J], with a bonus on the \
             current token",
        ),
        (
            "decay per key channel",
            of(OUTER, "S = d * S + k * v\ny = sum(q * S, J)"),
            "diagonal-outer: S is multiplied by a decay per key channel and a key-value outer \
             product is added; read after the update, summed over [J]",
        ),
        (
            "exponential in the step",
            of(OUTER, "S = exp(d) * S + k * v\ny = sum(q * S, J)"),
            "diagonal-outer: S is multiplied by a decay per key channel and a key-value outer \
             product is added; read after the update, summed over [J]",
        ),
        (
            "decay per head",
            of(PER_HEAD, "S = d * S + k * v\ny = sum(q * S, J)"),
            "diagonal-outer: S is multiplied by a decay per head and a key-value outer product \
             is added; read after the update, summed over [J]",
        ),
        (
            "key is what the decay leaves",
            step(
                "q[H, J], v[H, I], f[H, J]",
                "S[H, J, I]",
                "y[H, I]",
                "S = f * S + (1 - f) * v\ny = sum(q * S, J)",
            ),
            "diagonal-outer: S is multiplied by a decay per key channel and a key-value outer \
             product is added; read after the update, summed over [J]",
        ),
        (
            "linear attention",
            of(
                PER_HEAD,
                "S = S + k * v\ny = sum(q * S, J) + sum(d * q * k, J) * v",
            ),
            "diagonal-outer: S is kept and a key-value outer product is added; read after the \
             update, summed over [J], with a bonus on the current token",
        ),
        (
            "two contracted axes",
            step(
                "q[H, J, N], k[H, J, N], v[H, I], d[H]",
                "S[H, J, N, I]",
                "y[H, I]",
                "S = d * S + k * v\ny = sum(q * S, J, N)",
            ),
            "diagonal-outer: S is multiplied by a decay per head and a key-value outer product \
             is added; read after the update, summed over [J, N]",
        ),
        (
            "several queries per state",
            step(
                "q[H, N, J], k[H, J], v[H, I], d[H]",
                "S[H, J, I]",
                "y[H, N, I]",
                "S = d * S + k * v\ny = sum(q * S, J)",
            ),
            "diagonal-outer: S is multiplied by a decay per head and a key-value outer product \
             is added; read after the update, summed over [J]",
        ),
        (
            "decay per channel and state",
            step(
                "x[D], dt[D], A[D, N], B[N], C[N]",
                "S[D, N]",
                "y[D]",
                "S = exp(dt * A) * S + dt * B * x\ny = sum(S * C, N)",
            ),
            "elementwise: S is multiplied by a decay over [D, N] and a term is added, element by \
             element; read after the update, summed over [N]",
        ),
        (
            "gated mean",
            of(GATED, "S = f * S + (1 - f) * x\ny = S"),
            "elementwise: S is multiplied by a decay over [D] and a term is added, element by \
             element; read after the update",
        ),
        (
            "exponential moving average",
            of(GATED, "S = 0.9 * S + 0.1 * x\ny = S * f"),
            "elementwise: S is multiplied by 0.9 and a term is added, element by element; read \
             after the update",
        ),
        (
            "in-context replacement",
            of(
                REPLACED,
                "sa = sum(S * a, J)\nS = S * w + sa * b + v * k\ny = sum(S * r, J)",
            ),
            "diagonal-rank-one: S is multiplied by a decay per key channel, corrected by a \
             rank-one matrix along the key, and a key-value outer product is added; read after \
             the update, summed over [J]",
        ),
        (
            "delta rule",
            of(DELTA, delta_update),
            "diagonal-rank-one: S is kept, corrected by a rank-one matrix along the key, and a \
             key-value outer product is added; read after the update, summed over [J]",
        ),
        (
            "delta rule after a decay per head",
            of(GATED_DELTA, &format!("S = d * S\n{delta_update}")),
            "diagonal-rank-one: S is multiplied by a decay per head, corrected by a rank-one \
             matrix along the key, and a key-value outer product is added; read after the \
             update, summed over [J]",
        ),
        (
            "delta rule after a decay per channel",
            of(CHANNEL_DELTA, &format!("S = d * S\n{delta_update}")),
            "diagonal-rank-one: S is multiplied by a decay per key channel, corrected by a \
             rank-one matrix along the key, and a key-value outer product is added; read after \
             the update, summed over [J]",
        ),
        (
            "delta rule normalised in the step",
            of(
                DELTA,
                "n = k * rsqrt(sum(k * k, J) + 1e-6)\nS = S + n * (beta * (v - sum(S * n, J)))\n\
                 y = sum(q * S, J)",
            ),
            "diagonal-rank-one: S is kept, corrected by a rank-one matrix along the key, and a \
             key-value outer product is added; read after the update, summed over [J]",
        ),
        (
            "two delta rules",
            of(
                GATED_DELTA,
                &format!("S = d * S\nS = S + q * (v - sum(S * q, J))\n{delta_update}"),
            ),
            "diagonal-low-rank: S is multiplied by a decay per head, corrected by 2 rank-one \
             matrices along the key, and key-value outer products are added, in 2 updates a \
             token; read after the update, summed over [J]",
        ),
        (
            "two products",
            of(
                OUTER,
                "S = d * S + k * v + q * sigmoid(v)\ny = sum(q * S, J)",
            ),
            "diagonal-low-rank: S is multiplied by a decay per key channel, and key-value outer \
             products are added, in 2 updates a token; read after the update, summed over [J]",
        ),
        (
            "two corrections at once",
            of(
                REPLACED,
                "S = S * w + sum(S * a, J) * b + sum(S * r, J) * k + v * k\ny = sum(S * r, J)",
            ),
            "diagonal-low-rank: S is multiplied by a decay per key channel, corrected by 2 rank-one \
             matrices along the key, and key-value outer products are added, in 2 updates a token; \
             read after the update, summed over [J]",
        ),
        (
            "two delta rules at once, and one that sees what they have done",
            of(
                GATED_DELTA,
                "S = d * S\n\
                 S = S + q * (v - sum(S * q, J)) + k * (beta * (v - sum(S * k, J)))\n\
                 S = S + k * (beta * (v - sum(S * k, J)))\ny = sum(q * S, J)",
            ),
            "diagonal-low-rank: S is multiplied by a decay per head, corrected by 3 rank-one \
             matrices along the key, and key-value outer products are added, in 4 updates a token; \
             read after the update, summed over [J]",
        ),
        (
            "the larger",
            of(GATED, "y = S\nS = max(S + f, x) - 1"),
            "max-plus: S becomes the larger of itself plus a term and another term, element by \
             element; read before the update",
        ),
        (
            "the smaller",
            of(GATED, "S = -max(f - S, x)\ny = S"),
            "min-plus: S becomes the smaller of itself plus a term and another term, element by \
             element; read after the update",
        ),
    ];
    for (case, step, expected) in cases {
        assert_eq!(described(&step), [expected], "{case}");
    }
}

#[test]
fn without_a_class_there_is_a_reason() {
    let cases = [
        (
            of(GATED, "S = tanh(f * S + x)\ny = S"),
            "`S`: `tanh` is applied to a state, so the step is not linear in it",
        ),
        (
            of(GATED, "S = f * S * S + x\ny = S"),
            "`S`: a state is multiplied by a state, so the step is not linear",
        ),
        (
            step(
                "x[D], f[D]",
                "S[D], R[D]",
                "y[D]",
                "R = f * R + S\nS = f * S + x\ny = R",
            ),
            "state `R` reads state `S`: the two are coupled",
        ),
        (
            step(
                "A[J, J2], x[J]",
                "S[J]",
                "y[J]",
                "S = rename(sum(A * S, J), J2 -> J) + x\ny = S",
            ),
            "an output is no contraction of state `S` over the axes that its update contracts",
        ),
        (
            step(
                "x[I], f[I, I2]",
                "S[I, I2]",
                "y[I, I2]",
                "S = f * rename(S, I -> I2, I2 -> I) + x\ny = S",
            ),
            "state `S` is read at other indices than the element it contributes to",
        ),
    ];
    for (step, expected) in cases {
        let expected = format!("general: {expected}");
        for found in described(&step) {
            assert_eq!(found, expected, "{}", step.step);
        }
    }
}

#[test]
fn independent_states_have_a_class_each() {
    let both = step(
        "q[H, J], k[H, J], v[H, I], d[H]",
        "S[H, J, I], z[H, J]",
        "y[H, I], n[H]",
        "S = d * S + k * v\nz = d * z + k\ny = sum(q * S, J)\nn = sum(q * z, J)",
    );
    let (_, found) = class_of(&both);
    let names: Vec<&str> = found.states.iter().map(Class::name).collect();
    // A normaliser is an outer product with a value of 1.
    assert_eq!(names, ["diagonal-outer", "diagonal-outer"]);
    assert_eq!(found.rest, [None, None]);
}

/// The coefficients of the rank-one form are the ones that the paper writes.
#[test]
fn delta_rule_after_its_decay() {
    let step = of(
        CHANNEL_DELTA,
        "S = d * S\nS = S + k * (beta * (v - sum(S * k, J)))\ny = sum(q * S, J)",
    );
    let (_, found) = class_of(&step);
    let [
        Class::DiagonalRankOne {
            layout,
            decay,
            of_decayed: Some((a, _)),
            along_key: Some(along_key),
            k,
            reads,
            ..
        },
    ] = found.states.as_slice()
    else {
        panic!("{found:?}");
    };
    // What is added along k is v and that contraction, times -beta.
    let scaled = found.statement(*along_key).expect("a statement");
    let read: Vec<StepRef> = scaled.inputs.iter().map(|access| access.item).collect();
    assert_eq!(read, [StepRef::Input(1), StepRef::Input(3)]);
    // q, k, v, beta, d are inputs 0 to 4: contracted with k after the decay.
    assert_eq!(
        (*decay, *a, *k),
        (StepRef::Input(4), StepRef::Input(1), StepRef::Input(1))
    );
    assert_eq!(reads[0].query, StepRef::Input(0));
    assert!(!reads[0].before);
    let lengths = (layout.heads.len(), layout.key.len(), layout.value.len());
    assert_eq!(lengths, (1, 1, 1));
}

#[test]
fn what_outputs_add_beside_the_read() {
    let step = of(OUTER, "S = d * S + k * v\ny = sum(q * S, J) + 2 * v");
    let (_, found) = class_of(&step);
    let rest = found.rest[0]
        .and_then(|r| found.statement(r))
        .expect("2 * v is left");
    assert_eq!(rest.inputs.len(), 1);
    assert_eq!(rest.inputs[0].item, StepRef::Input(2));
    assert_eq!(found.states[0].reads()[0].bonus, None);
}

/// A query scaled, and a read of the decayed state that misses the current token.
#[test]
fn reads_before_and_after() {
    let cases = [
        ("S = d * S + k * v\ny = sum(q * 0.25 * S, J)", false),
        ("y = sum(q * S, J)\nS = d * S + k * v", true),
        ("S = d * S\ny = sum(q * S, J)\nS = S + k * v", true),
        ("y = sum(q * (d * S + k * v), J)\nS = d * S + k * v", false),
        (
            "S = d * S + k * v\ny = sum(q * S, J) - sum(q * k, J) * v",
            true,
        ),
    ];
    for (text, before) in cases {
        let (_, found) = class_of(&of(OUTER, text));
        let reads = found.states[0].reads();
        assert_eq!((reads.len(), reads[0].before), (1, before), "{text}");
        assert_eq!((reads[0].bonus, found.rest[0]), (None, None), "{text}");
    }
}

/// Different texts for the same equations.
fn rewritings() -> Vec<(Step, Vec<&'static str>)> {
    let delta = of(CHANNEL_DELTA, "");
    vec![
        (
            of(BONUS, ""),
            vec![
                "kv = k * v\ny = sum(r * (S + u * kv), J)\nS = d * S + kv",
                "y = sum(S * r, J) + sum(u * r * k, J) * v\nS = v * k + S * d",
                "old = S\nS = S * d\nS = S + v * k\ny = sum(r * old, J) + v * sum(k * r * u, J)",
                "a = r * S\nb = r * u * k * v\ny = sum(a + b, J)\nS = k * v - (-d) * S",
            ],
        ),
        (
            of(OUTER, ""),
            vec![
                "S = d * S + k * v\ny = sum(q * S, J)",
                "y = sum(q * d * S, J) + sum(q * k, J) * v\nS = d * S + k * v",
                "kept = S * d\nnew = v * k\nS = new + kept\ny = sum(S * q, J)",
                "S = (d * S * 2 + 2 * k * v) / 2\ny = 0.5 * sum(S * (q + q), J)",
                "S = S - (1 - d) * S + k * v\ny = sum(q * S, J)",
            ],
        ),
        (
            of(GATED, ""),
            vec![
                "S = f * S + (1 - f) * x\ny = S",
                "S = x + f * (S - x)\ny = S",
                "S = S + (1 - f) * (x - S)\ny = S",
                "y = f * S + x - f * x\nS = y",
            ],
        ),
        (
            delta,
            vec![
                "S = d * S\nS = S + k * (beta * (v - sum(S * k, J)))\ny = sum(q * S, J)",
                "e = beta * (v - sum(S * d * k, J))\nS = S * d + e * k\ny = sum(S * q, J)",
                "p = sum(k * d * S, J)\nS = d * S - beta * p * k + beta * v * k\ny = sum(q * S, J)",
                "p = sum(k * d * S, J)\ny = sum(q * d * S, J) - beta * p * sum(q * k, J) \
                 + beta * v * sum(q * k, J)\nS = d * S - beta * p * k + beta * v * k",
                "R = rename(S, J -> J2)\np = sum(R * rename(d * k, J -> J2), J2)\n\
                 S = d * S + beta * k * (v - p)\ny = sum(S * q, J)",
            ],
        ),
    ]
}

#[test]
fn rewritings_have_one_class() {
    for (frame, texts) in rewritings() {
        let found = |text: &str| {
            let step = Step {
                step: text.into(),
                ..frame.clone()
            };
            (class_of(&step).1, described(&step))
        };
        let (first, sentence) = found(texts[0]);
        assert_ne!(first.states[0].name(), "general", "{sentence:?}");
        for text in &texts[1..] {
            let (other, said) = found(text);
            assert_eq!(said, sentence, "{text}");
            assert_eq!(other, first, "{text}");
        }
    }
}

/// A sum of products as text, in a random order and grouping.
fn sum_text() -> impl Strategy<Value = (Vec<usize>, Vec<bool>, bool)> {
    let order = Just(vec![0usize, 1, 2]).prop_shuffle();
    (
        order,
        proptest::collection::vec(any::<bool>(), 6),
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Commuted, distributed and split statements of a gated delta rule are one recurrence.
    #[test]
    fn random_rewritings_have_one_class((order, flags, split) in sum_text()) {
        let pick = |flag: bool, a: &'static str, b: &'static str| if flag { a } else { b };
        let seen = pick(flags[0], "sum(S * d * k, J)", "sum(k * (S * d), J)");
        let terms = [
            pick(flags[1], "d * S", "S * d").to_owned(),
            format!("- {} * p", pick(flags[2], "k * beta", "beta * k")),
            pick(flags[3], "beta * (v * k)", "k * v * beta").to_owned(),
        ];
        let parts: Vec<String> = order.iter().map(|i| terms[*i].clone()).collect();
        let sum = parts.join(" + ").replace("+ -", "-");
        // A sum does not begin with a minus and a space.
        let sum = match sum.strip_prefix("- ") {
            Some(rest) => format!("-{rest}"),
            None => sum,
        };
        let update = match split {
            true => format!("new = {sum}\nS = new"),
            false => format!("S = {sum}"),
        };
        let read = pick(flags[4], "y = sum(q * S, J)", "y = sum(S * q, J)");
        let text = format!("p = {seen}\n{update}\n{read}");
        let plain = "S = d * S\nS = S + k * (beta * (v - sum(S * k, J)))\ny = sum(q * S, J)";
        prop_assert_eq!(
            class_of(&of(CHANNEL_DELTA, &text)).1,
            class_of(&of(CHANNEL_DELTA, plain)).1,
            "{}",
            text
        );
    }
}

/// The rewritten recurrence has the class of the original, and no other form.
#[test]
fn rewriting_is_stable() {
    for (frame, texts) in rewritings() {
        let step = Step {
            step: texts[0].into(),
            ..frame
        };
        let (graph, found) = class_of(&step);
        let rewritten = found
            .rewritten(&graph.recurrences[0])
            .expect("it has a class");
        assert_eq!(
            classify(&graph, &rewritten).states[0].name(),
            found.states[0].name()
        );
    }
}

/// Texts whose polynomials double with every statement are given up, not written out.
#[test]
fn large_steps_are_given_up() {
    let squares: String = (0..60).map(|_| "a = a * a\n").collect();
    let nested: String = (0..200).map(|_| "a = exp(a) - 1\n").collect();
    let wide: String = (0..20).map(|_| "a = exp(a) * sigmoid(a)\n").collect();
    let sums: String = (0..20).map(|_| "a = (a + 1) * (f + x)\n").collect();
    for (statements, what) in [
        (squares, "16384 factors"),
        (nested, "48 functions inside each other"),
        (wide, "16384 factors"),
        (sums, "64 terms"),
    ] {
        let text = format!("a = f\n{statements}S = a * S + x\ny = S");
        let expected = format!(
            "general: `a`: written out as a sum of products, the step has more than {what}"
        );
        assert_eq!(described(&of(GATED, &text)), [expected]);
    }
}

/// A term of an update that runs over all axes of the state.
fn update_term() -> impl Strategy<Value = String> {
    let factor = prop::sample::select(vec!["", "d * ", "exp(d) * ", "beta * ", "-0.5 * ", "q * "]);
    let term = prop::sample::select(vec![
        "S",
        "S * k",
        "k * v",
        "(k + q) * v",
        "k * (v - sum(S * k, J))",
        "q * sum(S * d * k, J)",
        "sum(k * q, J) * S",
        "k * sum(S * v, I)",
    ]);
    (factor, term).prop_map(|(factor, term)| format!("{factor}{term}"))
}

/// A term of an output over heads and values.
fn output_term() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "sum(q * S, J)",
        "beta * sum(S * k, J)",
        "sum(q * d * k, J) * v",
        "sum(q * k, J) * v",
        "beta * v",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the step, a form that is found is the step: probing never has to refuse one.
    #[test]
    fn found_forms_hold(
        update in prop::collection::vec(update_term(), 1..4),
        output in prop::collection::vec(output_term(), 1..3),
        before in any::<bool>(),
    ) {
        let (update, output) = (update.join(" + "), output.join(" + "));
        let text = match before {
            true => format!("y = {output}\nS = {update} + 0 * k * v * S"),
            false => format!("S = {update} + 0 * k * v * S\ny = {output}"),
        };
        let (_, found) = class_of(&of(CHANNEL_DELTA, &text));
        for class in &found.states {
            if let Class::General { why } = class {
                let refused = matches!(why, Reason::Probe { .. } | Reason::Malformed { .. });
                prop_assert!(!refused, "{text}: {why}");
            }
        }
    }
}
