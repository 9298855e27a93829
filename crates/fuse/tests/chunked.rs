//! The chunked form of a recurrence: which groups have it, by which rule others do not, and when it
//! is the cheaper one.

mod common;

use std::collections::BTreeSet;

use common::h200;
use fusec_fuse::chunked::{Classes, Parts, slabs};
use fusec_fuse::context::Context;
use fusec_fuse::cost::{cheapest, cost};
use fusec_fuse::fit::{fit, forms, in_chunks};
use fusec_fuse::{Device, Mode, Phase, Schedule, Shape, Storage, Template, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpId};

/// A recurrence `r` of state `S[H, j = J, i = I]` with this step, inside a flow over rows `x`, `z` and
/// `v`.
fn model(axes: &[(&str, usize)], step: &str, flow: &str) -> Graph {
    let text = format!(
        "name = \"chunked\"\n[axes]\nV = 7\nH = 4\nJ = 32\nI = 32\nC = \"H * J\"\nD = \"H * I\"\n\
         [param]\nemb = {{ shape = \"V, C\" }}\nw = {{ shape = \"C, C\" }}\nwi = {{ shape = \"D, C\" }}\n\
         u = {{ shape = \"C\" }}\n\
         [recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H, j]\"\nstate = \"S[H, j = J, i = I]\"\n\
         outputs = \"y[H, i]\"\nstep = \"\"\"\n{step}\n\"\"\"\n\
         [recurrence.two]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H, j]\"\n\
         state = \"S[H, j = J, i = I]\"\noutputs = \"y[H, i], n[H, i]\"\nstep = \"\"\"\n\
         S = d * S + k * v\ny = sum(q * S, j)\nn = sum(k * S, j)\n\"\"\"\n\
         [recurrence.corrected]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H, j]\"\n\
         state = \"S[H, j = J, i = I]\"\noutputs = \"y[H, i], n[H, i]\"\nstep = \"\"\"\n\
         n = sum(k * S, j)\nS = d * S - sum(S * k, j) * q + k * v\ny = sum(q * S, j)\n\"\"\"\n\
         [model]\nflow = \"\"\"\nx = gather(emb, ids)\nz = x @ w\nv = x @ wi\n{flow}\n\"\"\"\n"
    );
    let source = ModelSource::from_text("chunked", text.clone());
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|error| panic!("{text}\n{error:?}"))
}

const STEP: &str = "S = d * S + k * v\ny = sum(q * S, j)";
const DELTA: &str = "S = d * S - sum(S * k, j) * k + k * v\ny = sum(q * S, j)";
const DECAY: &str = "d = f32(sigmoid(z))";

fn ops(graph: &Graph, names: &[&str]) -> Vec<OpId> {
    let mut ops: Vec<OpId> = names
        .iter()
        .map(|name| {
            let op = graph.ops.iter().position(|op| op.name == *name);
            let all = || {
                graph
                    .ops
                    .iter()
                    .map(|op| op.name.clone())
                    .collect::<Vec<_>>()
            };
            OpId(op.unwrap_or_else(|| panic!("no `{name}` in {:?}", all())) as u32)
        })
        .collect();
    ops.sort_unstable();
    ops
}

fn context<'a>(graph: &'a Graph, device: &'a Device, time: usize) -> Context<'a> {
    let shape = Shape { batch: 8, time };
    Context::new(graph, shape, Storage::Bf16, device, 1.0)
}

/// The rule that keeps the first lane of a group from going in chunks.
fn rule(graph: &Graph, names: &[&str], device: &Device) -> String {
    let ctx = context(graph, device, 2048);
    let ops = ops(graph, names);
    let plain = fit(&ctx, &ops).unwrap_or_else(|reject| panic!("{names:?}: {reject}"));
    match in_chunks(&ctx, &ops, &plain[0].lanes).swap_remove(0) {
        Ok(bodies) => {
            assert!(
                bodies
                    .iter()
                    .all(|body| body.template() == Template::Chunked)
            );
            assert!(!bodies.is_empty());
            "legal".into()
        }
        Err(reject) => {
            assert!(!reject.limit.is_empty() && !reject.got.is_empty());
            reject.rule
        }
    }
}

#[test]
fn each_rule_refuses_its_case_and_no_other() {
    let call = "y = r(x, z, v, d)";
    let plain = format!("{DECAY}\n{call}\nreturn y");
    // axes, step, flow, group, rule
    type Case<'a> = (
        &'a [(&'a str, usize)],
        &'a str,
        String,
        &'a [&'a str],
        &'a str,
    );
    let cases: Vec<Case> = vec![
        (&[], STEP, plain.clone(), &["y"], "legal"),
        (&[], STEP, plain.clone(), &["d", "y"], "legal"),
        (
            &[],
            "y = sum(q * (S + k * v), j)\nS = d * S + k * v",
            plain.clone(),
            &["d", "y"],
            "legal",
        ),
        (
            &[],
            "S = d * S * (1 - k * k) + k * v\ny = sum(q * S, j)",
            plain.clone(),
            &["d", "y"],
            "chunked-decay",
        ),
        (
            &[],
            "S = tanh(d * S + k * v)\ny = sum(q * S, j)",
            plain.clone(),
            &["d", "y"],
            "chunked-class",
        ),
        (
            &[],
            "S = d * S - sum(S * k, j) * sum(S * q, j) + k * v\ny = sum(q * S, j)",
            plain.clone(),
            &["d", "y"],
            "chunked-class",
        ),
        // A rank-one factor beside the decay, also where several results read the state.
        (&[], DELTA, plain.clone(), &["d", "y"], "legal"),
        (
            &[],
            STEP,
            format!("{DECAY}\ny, n = corrected(x, z, v, d)\nreturn y + n"),
            &["d", "n"],
            "legal",
        ),
        (
            &[],
            DELTA,
            format!("d = f32(exp(z))\n{call}\nreturn y"),
            &["d", "y"],
            "chunked-decay",
        ),
        (
            &[],
            "S = d * S - sum(S * k, j) * sigmoid(sum(q, j)) * k + k * v\ny = sum(q * S, j)",
            plain.clone(),
            &["d", "y"],
            "chunked-coefficient",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\ny, n = two(x, z, v, d)\nreturn y + n"),
            &["n"],
            "legal",
        ),
        (
            &[],
            "S = sigmoid(sum(d, j)) * S + k * v\ny = sum(q * S, j)",
            plain.clone(),
            &["y"],
            "chunked-coefficient",
        ),
        (
            &[],
            STEP,
            format!("d = f32(exp(z))\n{call}\nreturn y"),
            &["d", "y"],
            "chunked-decay",
        ),
        (
            &[],
            STEP,
            format!("d = f32(z)\n{call}\nreturn y"),
            &["y"],
            "chunked-decay",
        ),
        // Before: maps, also of earlier rows and of other indices, that stay on the chip.
        (
            &[],
            STEP,
            format!("k = silu(z + u * shift(z))\n{DECAY}\ny = r(x, k, v, d)\nreturn y"),
            &["k", "d", "y"],
            "legal",
        ),
        (
            &[],
            STEP,
            format!("k = l2_norm(z, J, eps = 1e-6)\n{DECAY}\ny = r(x, k, v, d)\nreturn y"),
            &["k", "y"],
            "chunked-prologue-op",
        ),
        (
            &[],
            STEP,
            format!("k = silu(z)\n{DECAY}\ny = r(x, k, v, d)\nreturn y, k @ w"),
            &["k", "y"],
            "chunked-prologue-stored",
        ),
        // After: one row and one head.
        (
            &[],
            STEP,
            format!(
                "{DECAY}\n{call}\nn = rms_norm(y, I, eps = 1e-6)\nout = n * silu(v)\nreturn out"
            ),
            &["y", "n", "out"],
            "legal",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\n{call}\nout = rms_norm(y, H, I, eps = 1e-6)\nreturn out"),
            &["y", "out"],
            "chunked-epilogue-axes",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\n{call}\nout = reverse(y, I) * v\nreturn out"),
            &["y", "out"],
            "chunked-epilogue-access",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\n{call}\nout = y + shift(v)\nreturn out"),
            &["y", "out"],
            "chunked-epilogue-access",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\n{call}\nout = y + shift(y)\nreturn out"),
            &["y", "out"],
            "chunked-epilogue-access",
        ),
        (
            &[],
            STEP,
            format!("{DECAY}\ny = r(x, z, v, d)\nn = r(z, x, v, d)\nout = y * n\nreturn out"),
            &["y", "n", "out"],
            "chunked-one-scan",
        ),
        // Sizes. Value columns are spread over blocks unless they are combined.
        (&[("I", 512)], STEP, plain.clone(), &["d", "y"], "legal"),
        (
            &[("I", 256), ("J", 16)],
            STEP,
            format!("{DECAY}\n{call}\nout = rms_norm(y, I, eps = 1e-6)\nreturn out"),
            &["y", "out"],
            "chunked-value",
        ),
        (
            &[("J", 320), ("I", 16)],
            STEP,
            plain.clone(),
            &["d", "y"],
            "chunked-key",
        ),
    ];
    let mut wrong = vec![];
    for (axes, step, flow, group, expected) in cases {
        let graph = model(axes, step, &flow);
        let got = rule(&graph, group, &h200());
        if got != expected {
            wrong.push(format!(
                "{axes:?} {step} {flow} {group:?}: {got}, not {expected}"
            ));
        }
    }
    let graph = model(&[], STEP, &plain);
    let t4 = Device::find("t4").expect("profile");
    assert_eq!(rule(&graph, &["y"], &t4), "chunked-device");
    // 256 keys and all of 64 values are too much for one block of a GPU with little shared memory.
    let normed = format!("{DECAY}\n{call}\nout = rms_norm(y, I, eps = 1e-6)\nreturn out");
    let graph = model(&[("J", 256), ("I", 64)], STEP, &normed);
    let mut small = Device::find("rtx4090").expect("profile");
    small.smem_kb.value = 24.0;
    assert_eq!(rule(&graph, &["y", "out"], &small), "chunked-shared");
    assert_eq!(rule(&graph, &["y", "out"], &h200()), "legal");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The templates of a recurrence's kernel in the plan that is chosen.
fn chosen(
    device: &Device,
    storage: Storage,
    (batch, time): (usize, usize),
    size: usize,
) -> Vec<Template> {
    let flow = format!("{DECAY}\ny = r(x, z, v, d)\nreturn y");
    let graph = model(&[("H", 32), ("J", size), ("I", size)], STEP, &flow);
    let mut options = common::options(device, batch, time, Mode::Auto);
    options.storage = storage;
    let planned = plan(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let kernels = planned
        .plan
        .kernels
        .iter()
        .filter(|k| k.names.iter().any(|n| n == "y"));
    let forms = kernels.clone().flat_map(|k| k.forms.clone());
    let named = forms.filter(|f| f == "recurrent-chunked").count();
    let lanes: Vec<Template> = kernels
        .flat_map(|k| &k.phases[0].lanes)
        .map(|lane| lane.template())
        .collect();
    let chunked = lanes.iter().filter(|t| **t == Template::Chunked).count();
    assert_eq!(named, chunked, "the kernel's forms name the form");
    lanes
}

#[test]
fn long_runs_go_in_chunks_and_steps_do_not() {
    let device = h200();
    // Runs of fewer than 16 tokens have no chunks.
    let (f32, bf16) = (Storage::F32, Storage::Bf16);
    for (shape, size, storage, expected) in [
        ((8, 2048), 128, f32, Template::Chunked),
        ((8, 2048), 128, bf16, Template::Chunked),
        ((1, 2048), 128, bf16, Template::Chunked),
        ((8, 2048), 64, bf16, Template::Chunked),
        ((64, 2048), 64, bf16, Template::Chunked),
        ((8, 2048), 64, f32, Template::Chunked),
        ((1, 2048), 64, bf16, Template::Chunked),
        ((1, 2048), 64, f32, Template::Chunked),
        ((8, 256), 32, bf16, Template::Chunked),
        ((8, 32), 32, bf16, Template::Scan),
        ((8, 1), 64, bf16, Template::Scan),
        ((1, 1), 64, f32, Template::Scan),
        ((64, 1), 128, bf16, Template::Scan),
        ((8, 4), 64, f32, Template::Scan),
        ((8, 15), 64, bf16, Template::Scan),
    ] {
        let lanes = chosen(&device, storage, shape, size);
        assert_eq!(lanes, [expected], "{shape:?} {size} {storage}");
    }
}

#[test]
fn a_chunked_recurrence_takes_what_it_was_measured_to_take() {
    // B = 8, T = 2048, 32 heads of 64 x 64: on an H200 212 us in bf16.
    let flow = format!("{DECAY}\ny = r(x, z, v, d)\nreturn y");
    let graph = model(&[("H", 32), ("J", 64), ("I", 64)], STEP, &flow);
    let device = h200();
    for storage in [Storage::F32, Storage::Bf16] {
        let shape = Shape {
            batch: 8,
            time: 2048,
        };
        let ctx = Context::new(&graph, shape, storage, &device, 1.0);
        let ops = ops(&graph, &["y"]);
        let all = forms(&ctx, &ops).expect("legal");
        // Or a form is that of the scan template.
        let values = |form: &Vec<Phase>| {
            let lane = &form[0].lanes[0];
            let chunked = lane.template() == Template::Chunked;
            chunked.then(|| {
                (
                    lane.schedule.grid().last().map(|axis| axis.tile),
                    lane.schedule.ahead(),
                )
            })
        };
        let spread: BTreeSet<_> = all.iter().filter_map(values).collect();
        let tiles = [Some(1), Some(16), Some(32)];
        let expected = tiles.map(|tile| [(tile, false), (tile, true)]);
        assert_eq!(
            spread,
            expected.into_iter().flatten().collect(),
            "64, 16 or 32 value columns"
        );
        let us: Vec<f64> = all.iter().map(|form| cost(&ctx, form).total_us).collect();
        let best = us.iter().copied().fold(f64::INFINITY, f64::min);
        if storage == Storage::Bf16 {
            assert!((0.8 * 212.0..1.25 * 212.0).contains(&best), "{us:?}");
        }
        let (form, least) = cheapest(&ctx, all);
        assert_eq!(form[0].lanes[0].template(), Template::Chunked, "{storage}");
        assert_eq!(least.total_us, best);
    }
}

#[test]
fn a_rank_one_factor_takes_what_it_was_measured_to_take() {
    // Of an H200, in bf16, 32 heads of 64 x 64, each step S (diag(d) + a b^T) + v k^T: at B = 8,
    // T = 2048 with all value columns in a block 317 us, at B = 1, T = 16384 with 16 of them 1270 us.
    let flow = "d = f32(exp(-0.6 * sigmoid(z)))\ny, n = corrected(x, z, v, d)\nreturn y + n";
    let graph = model(&[("H", 32), ("J", 64), ("I", 64)], STEP, flow);
    let device = h200();
    for (batch, time, values, expected) in [(8, 2048, 64, 317.0), (1, 16384, 16, 1270.0)] {
        let shape = Shape { batch, time };
        let ctx = Context::new(&graph, shape, Storage::Bf16, &device, 1.0);
        let all = forms(&ctx, &ops(&graph, &["n"])).expect("legal");
        let fits = |form: &&Vec<Phase>| match &form[0].lanes[0].schedule {
            Schedule::Chunked(chunk) => chunk.ahead && chunk.tile.value == values,
            _ => false,
        };
        let form = all.iter().find(fits).expect("that many columns");
        let us = cost(&ctx, form).total_us;
        // The kernels that were timed had one result, these have two.
        assert!(
            (0.8 * expected..1.5 * expected).contains(&us),
            "{batch} {time} {values}: {us}"
        );
    }
}

#[test]
fn what_arrives_ahead_of_time() {
    // Name, rows before a chunk, read before its products, read after them, places in shared memory.
    type Row = (&'static str, u32, bool, bool, usize);
    let cases: [(&str, &[&str], &[Row]); 4] = [
        (
            "y = r(x, z, v, d)\nreturn y",
            &["y"],
            &[
                ("d", 0, true, false, 1),
                ("z", 0, true, false, 1),
                ("v", 0, true, false, 1),
                ("x", 0, true, false, 1),
            ],
        ),
        (
            // Also in the gate: still there while the next chunk arrives.
            "y = r(x, x, v, d)\ng = y * v\nreturn g",
            &["y", "g"],
            &[
                ("d", 0, true, false, 1),
                ("x", 0, true, false, 1),
                ("v", 0, true, true, 2),
            ],
        ),
        (
            // In the gate only.
            "o = z @ wi\ny = r(x, x, v, d)\ng = y * o\nreturn g",
            &["y", "g"],
            &[
                ("d", 0, true, false, 1),
                ("x", 0, true, false, 1),
                ("v", 0, true, false, 1),
                ("o", 0, false, true, 1),
            ],
        ),
        (
            // A stencil needs the row before the chunk.
            "s = v + shift(v)\ny = r(x, x, s, d)\nreturn y",
            &["s", "y"],
            &[
                ("d", 0, true, false, 1),
                ("x", 0, true, false, 1),
                ("v", 1, true, false, 1),
            ],
        ),
    ];
    let device = h200();
    for (flow, names, expected) in cases {
        let graph = model(&[], STEP, &format!("{DECAY}\n{flow}"));
        let ctx = context(&graph, &device, 2048);
        let all = forms(&ctx, &ops(&graph, names)).expect("legal");
        let mut seen = 0;
        let last = all.iter().filter_map(|form| form.last());
        for body in last.flat_map(|phase| &phase.lanes) {
            let [scan] = body.anchors()[..] else {
                panic!("one recurrence")
            };
            let classes = Classes::new(&graph);
            let Ok(parts) = Parts::of(&graph, &classes, scan) else {
                panic!("a chunked form")
            };
            let slabs = slabs(&graph, &parts, Storage::Bf16, body);
            let found: Vec<_> = slabs
                .iter()
                .map(|slab| {
                    let name = graph.value(slab.value).name.as_str();
                    (name, slab.halo, slab.early, slab.late, slab.turns())
                })
                .collect();
            let mut expected = expected.to_vec();
            if !body.schedule.ahead() {
                expected.clear();
            }
            assert_eq!(found, expected, "{flow}");
            seen += usize::from(body.schedule.ahead());
        }
        assert!(seen > 0, "{flow}");
    }
}

#[test]
fn random_plans_draw_among_the_forms() {
    let flow = format!("{DECAY}\ny = r(x, z, v, d)\nreturn y");
    let graph = model(&[], STEP, &flow);
    let device = h200();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..48 {
        let options = common::options(&device, 2, 19, Mode::Random(seed));
        let planned = plan(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
        let lanes = planned.plan.kernels.iter().flat_map(|k| &k.phases[0].lanes);
        seen.extend(lanes.map(|lane| lane.template()));
        let again = plan(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(planned.plan, again.plan, "seed {seed}");
    }
    assert!(seen.contains(&Template::Chunked) && seen.contains(&Template::Scan));
}
