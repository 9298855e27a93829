//! Explanations say what the planner would do, and its rules what they forbid.

mod common;

use common::random::{Groups, random_graph};
use common::{Build, h200, options};
use fusec_fuse::context::Context;
use fusec_fuse::explain::diff::ChangeKind;
use fusec_fuse::explain::pair::{Answer, Price};
use fusec_fuse::explain::{
    ExplainError, NameError, PlanDiff, compare, compare_all, dot, pair, svg, why,
};
use fusec_fuse::fit::fit;
use fusec_fuse::{Mode, Options, Planned, interior, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::*;
use std::path::Path;

/// Two equal layers with a norm, a shift, products and a recurrence; a head after them.
fn model() -> Graph {
    let mut b = Build::new();
    let (c, f) = (b.axis("C", 64), b.axis("F", 128));
    let mut x = b.input("x", &[c]);
    b.graph.layers = 2;
    for layer in 0..2 {
        b.layer = Some(layer);
        let n = b.norm("mix.n", x, &[c]);
        let late = b.late(n, 1);
        let now = b.read(n);
        let s = b.sum("mix.s", vec![now, late], &[c]);
        let v = b.project("mix.v", s, &[f]);
        let a = b.project("mix.a", n, &[f]);
        let gate = b.unary("mix.gate", Unary::Sigmoid, a);
        let h = b.ema("mix.h", gate, v);
        let act = b.unary("mix.act", Unary::Silu, h);
        let o = b.project("mix.out", act, &[c]);
        x = b.add("mix.x", &[x, o]);
    }
    b.layer = None;
    let y = b.norm("head.y", x, &[c]);
    b.output(&[y])
}

fn hybrid() -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hybrid.toml");
    let source = ModelSource::from_path(&path).expect("the model is in the repository");
    compile(&source, &Overrides::default()).expect("the model compiles")
}

/// The kernels of an interior layer, their costs and savings, and every edge between them.
#[test]
fn kernels_are_explained() {
    let device = h200();
    for (name, graph) in [("small", model()), ("hybrid", hybrid())] {
        for (regime, batch, time) in [("prefill", 8, 2048), ("decode", 1, 1)] {
            let options = options(&device, batch, time, Mode::Auto);
            let planned = plan(&graph, &options).unwrap();
            let why = why(&planned, &options).unwrap();
            insta::assert_snapshot!(format!("{name}_{regime}"), why);
        }
    }
}

/// One question of each kind, with its answer.
#[test]
fn pairs_are_explained() {
    let device = h200();
    type Questions = (&'static str, Graph, &'static [(&'static str, &'static str)]);
    let questions: [Questions; 2] = [
        (
            "small",
            model(),
            &[
                ("mix.n", "mix.s"),
                ("mix.v", "mix.h"),
                ("gate", "h"),
                ("mix.act", "mix.out"),
                ("mix.x", "head.y"),
            ],
        ),
        (
            "hybrid",
            hybrid(),
            &[
                ("time_mix.y", "mixer.y"),
                ("time_mix.r", "time_mix.y"),
                ("time_mix.r", "time_mix.k"),
                ("channel_mix.k", "layer.x#2"),
            ],
        ),
    ];
    for (name, graph, pairs) in questions {
        let options = options(&device, 8, 2048, Mode::Auto);
        let planned = plan(&graph, &options).unwrap();
        let answers: Vec<String> = pairs
            .iter()
            .map(|(a, b)| pair(&graph, &planned, &options, a, b).unwrap().to_string())
            .collect();
        insta::assert_snapshot!(format!("{name}_pairs"), answers.join("\n"));
    }
}

#[test]
fn names_that_mean_nothing_or_too_much_are_refused_with_advice() {
    let device = h200();
    let graph = model();
    let options = options(&device, 8, 2048, Mode::Auto);
    let planned = plan(&graph, &options).unwrap();
    let error = |a: &str, b: &str| pair(&graph, &planned, &options, a, b).unwrap_err();
    let ExplainError::Name(NameError::Unknown { near, .. }) = error("mix.gaet", "mix.h") else {
        panic!("a slip is unknown");
    };
    assert_eq!(near[0], "mix.gate");
    for (a, b, part) in [
        (
            "mix.h",
            "no.such.thing",
            "`fusec plan --plan unfused` lists",
        ),
        ("mix.v.w", "mix.h", "it is a parameter"),
        ("mix.h", "h", "`mix.h` is named twice"),
        ("mix.h", "x", "given by the caller"),
    ] {
        let text = error(a, b).to_string();
        assert!(text.contains(part), "{a} {b}: {text}");
    }
}

fn context<'a>(planned: &'a Planned, options: &Options<'a>) -> Context<'a> {
    let launch_us = options.device.graph_launch_us.value;
    Context::new(
        &planned.graph,
        options.shape,
        options.storage,
        options.device,
        launch_us,
    )
}

/// Positions of the operations as bits, closed under what lies between.
fn is_convex(ctx: &Context<'_>, mask: usize) -> bool {
    let ops = ctx.planned();
    let mut below = vec![0usize; ops.len()];
    for (i, id) in ops.iter().enumerate() {
        for access in &ctx.graph.op(*id).inputs {
            let maker = ctx.graph.producer(access.value);
            if let Some(p) = maker.and_then(|p| ops.binary_search(&p).ok()) {
                below[i] |= 1 << p | below[p];
            }
        }
    }
    let inside = |i: usize| mask >> i & 1 == 1;
    (0..ops.len()).all(|i| {
        let above = (0..ops.len()).any(|j| inside(j) && below[j] >> i & 1 == 1);
        inside(i) || !above || below[i] & mask == 0
    })
}

/// For every two operations of small graphs: they are together in the plan; or some legal group
/// holds both, and the price is that of a second solve, which is what enumeration finds with the
/// group kept whole; or enumeration finds no legal group with both.
#[test]
fn answers_equal_exhaustive_enumeration_and_prices_are_differences_of_solves() {
    let device = h200();
    let (mut dearer, mut illegal, mut together) = (0, 0, 0);
    for seed in 0..24 {
        let graph = random_graph(seed, 7);
        let (batch, time) = [(1, 1), (8, 2048)][(seed % 2) as usize];
        let mut options = options(&device, batch, time, Mode::Auto);
        let planned = plan(&graph, &options).unwrap();
        if planned.graph != graph {
            continue;
        }
        let ctx = context(&planned, &options);
        let ops = ctx.planned();
        let groups = Groups::of(&ctx);
        let legal: Vec<usize> = (1..1usize << ops.len())
            .filter(|mask| is_convex(&ctx, *mask))
            .filter(|mask| {
                let of = (0..ops.len())
                    .filter(|i| mask >> i & 1 == 1)
                    .map(|i| ops[i]);
                fit(&ctx, &of.collect::<Vec<_>>()).is_ok()
            })
            .collect();
        for i in 0..ops.len() {
            for j in 0..i {
                let name = |at: usize| ctx.graph.op(ops[at]).name.clone();
                let both = 1 << i | 1 << j;
                let possible = legal.iter().any(|mask| mask & both == both);
                let answer = pair(&graph, &planned, &options, &name(i), &name(j)).unwrap();
                let (price, kind, values) = match answer.answer {
                    Answer::Together { apart, .. } => {
                        together += 1;
                        (apart, PinKind::Split, vec![name(i), name(j)])
                    }
                    Answer::Dearer {
                        group,
                        together: price,
                        ..
                    } => {
                        dearer += 1;
                        (price, PinKind::Fuse, group)
                    }
                    Answer::Illegal { complete, .. } => {
                        illegal += 1;
                        assert!(
                            complete && !possible,
                            "seed {seed}: {} {}",
                            name(i),
                            name(j)
                        );
                        continue;
                    }
                    other => panic!("one segment, one form: {other:?}"),
                };
                assert!(possible, "seed {seed}: {} {}", name(i), name(j));
                let whole = values.iter().fold(0, |mask, v| {
                    mask | (0..ops.len())
                        .filter(|k| name(*k) == *v)
                        .fold(0, |m, k| m | 1 << k)
                });
                let best = match kind {
                    PinKind::Fuse => groups.least(&|m| m & whole == 0 || m & whole == whole),
                    PinKind::Split => groups.least(&|m| m & whole != whole),
                };
                options.pins.push(Pin {
                    kind,
                    values,
                    span: None,
                });
                let again = plan(&graph, &options);
                options.pins.clear();
                match (price, again) {
                    (Price::Plan { from_us, to_us, .. }, Ok(again)) => {
                        assert_eq!(from_us, planned.plan.total_us);
                        assert_eq!(to_us, again.plan.total_us);
                        assert!((to_us - best).abs() < 2e-2, "seed {seed}: {to_us} {best}");
                    }
                    (Price::Refused { .. }, Err(_)) => assert!(best.is_infinite()),
                    (price, again) => panic!("seed {seed}: {price:?}, {again:?}"),
                }
            }
        }
    }
    assert!(
        dearer > 20 && illegal > 20 && together > 20,
        "{dearer} {illegal} {together}"
    );
}

#[test]
fn a_plan_does_not_differ_from_itself_and_reads_back_as_itself() {
    let device = h200();
    let planned = plan(&model(), &options(&device, 8, 2048, Mode::Auto)).unwrap();
    let text = serde_json::to_string(&planned.plan).unwrap();
    let read = serde_json::from_str(&text).unwrap();
    assert!(compare(&planned.plan, &read).is_empty());
}

/// Merged and split kernels mirror each other; what is said once holds in both layers.
#[test]
fn differences_between_plans() {
    let device = h200();
    let graph = model();
    let of = |mode, time| plan(&graph, &options(&device, 8, time, mode)).unwrap().plan;
    let (auto, unfused) = (of(Mode::Auto, 2048), of(Mode::Unfused, 2048));
    let there = compare(&unfused, &auto);
    let back = compare(&auto, &unfused);
    let kinds = |diff: &PlanDiff| diff.changes.iter().map(|c| c.kind).collect::<Vec<_>>();
    assert!(
        kinds(&there).iter().all(|k| *k == ChangeKind::Merged),
        "{there}"
    );
    assert!(
        kinds(&back).iter().all(|k| *k == ChangeKind::Split),
        "{back}"
    );
    assert!(there.changes.iter().any(|c| c.layers == [0, 1]), "{there}");
    insta::assert_snapshot!("diff_prefill_decode", compare(&auto, &of(Mode::Auto, 1)));
    insta::assert_snapshot!("diff_unfused_auto", there);
}

#[test]
fn plans_of_equal_shape_are_compared_with_each_other() {
    let device = h200();
    let graph = model();
    let of = |time| {
        plan(&graph, &options(&device, 8, time, Mode::Auto))
            .unwrap()
            .plan
    };
    let (diffs, lonely) = compare_all(&[of(1), of(64)], &[of(64), of(1), of(7)]);
    assert!(diffs.iter().all(PlanDiff::is_empty));
    assert_eq!((diffs.len(), lonely), (2, (0, 1)));
}

/// Pictures name every kernel and every operation, and are the same every time.
#[test]
fn pictures_are_complete() {
    let device = h200();
    for (graph, time) in [(model(), 1), (model(), 2048), (hybrid(), 2048)] {
        let planned = plan(&graph, &options(&device, 8, time, Mode::Auto)).unwrap();
        let (svg, dot) = (svg(&planned), dot(&planned));
        assert_eq!(svg, fusec_fuse::explain::svg(&planned));
        let opened = svg.matches("<g>").count() + svg.matches("<svg").count();
        let closed = svg.matches("</g>").count() + svg.matches("</svg>").count();
        assert_eq!(opened, closed);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for kernel in interior(&planned.plan) {
            assert!(
                svg.contains(&format!("<title>{}: ", kernel.name)),
                "{}",
                kernel.name
            );
            assert!(dot.contains(&format!("\"{}\\n", kernel.name)), "{dot}");
            for name in &kernel.names {
                assert!(svg.contains(&format!("<title>{name}</title>")), "{name}");
                assert!(dot.contains(&format!("tooltip=\"{name}\"")), "{name}");
            }
        }
    }
    let planned = plan(&model(), &options(&device, 8, 2048, Mode::Auto)).unwrap();
    insta::assert_snapshot!("small_dot", dot(&planned));
}
