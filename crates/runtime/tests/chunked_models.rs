//! Models whose recurrences have the chunked form, with the chunked form forced: emulated kernels
//! against the interpreter, for a prefill and then runs from the state it leaves.

use fusec_fuse::context::Context;
use fusec_fuse::fit::{fit, in_chunks};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, Template, plan};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpId, OpKind};

use common::{Case, root, slow_steps};

mod common;

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

/// Operations of each lane of the chunked template in a plan.
fn chunked_lanes(
    graph: &Graph,
    device: &Device,
    storage: Storage,
    (batch, time): (usize, usize),
) -> Vec<Vec<String>> {
    let options = Options {
        shape: Shape { batch, time },
        storage,
        mode: Mode::Auto,
        device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let kernels = planned.plan.kernels.iter();
    let lanes = kernels.flat_map(|k| k.phases.iter().flat_map(|p| &p.lanes));
    lanes
        .filter(|lane| lane.template() == Template::Chunked)
        .map(|lane| {
            let names = lane.ops.iter().map(|id| planned.graph.op(*id).name.clone());
            names.collect()
        })
        .collect()
}

/// Prefill in chunks, also where steps are slow if `steps` says so; single steps from its state.
fn check(name: &str, graph: &Graph, storage: Storage, batch: usize, times: &[usize], steps: bool) {
    let device = slow_steps(steps);
    let longest = times.iter().copied().max().unwrap_or(1);
    let long = chunked_lanes(graph, &device, storage, (batch, longest));
    assert!(!long.is_empty(), "{name}: no lane goes in chunks");
    let single = chunked_lanes(graph, &device, storage, (batch, 1));
    // Of fewer than 16 tokens none does, however slow a step is.
    assert!(single.is_empty(), "{name}: {single:?}");
    let case = Case {
        name,
        graph,
        storage,
        mode: Mode::Auto,
        batch,
        times,
        bound: if storage == Storage::F32 { 2e-4 } else { 4e-2 },
    };
    common::check_for(&case, &device).unwrap_or_else(|why| panic!("{storage}: {why}"));
}

/// A small model of each family whose class has the form, and the operations that are expected to
/// share its lane.
fn families() -> Vec<(&'static str, Graph, &'static [&'static str])> {
    vec![
        (
            "rwkv6",
            model(
                "rwkv6.toml",
                &[("V", 64), ("L", 1), ("N", 32), ("R", 8), ("Rd", 16)],
            ),
            &["time_mix.d", "time_mix.y", "time_mix.y#2"],
        ),
        (
            "mamba2",
            model(
                "mamba2.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("G", 2),
                    ("Hg", 2),
                    ("P", 32),
                    ("Ns", 32),
                ],
            ),
            &[
                "mixer.x",
                "mixer.B",
                "mixer.C",
                "mixer.dt",
                "mixer.y.1",
                "mixer.y",
                "mixer.y#2",
            ],
        ),
        (
            "gla",
            model("gla.toml", &[("V", 64), ("L", 1), ("C", 64), ("I", 64)]),
            &["mix.q", "mix.o", "mix.o#2"],
        ),
        (
            "retnet",
            model(
                "retnet.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("Dr", 16),
                    ("Dv", 96),
                    ("I", 64),
                ],
            ),
            &["mix.q", "mix.o"],
        ),
        (
            "rwkv7",
            model(
                "rwkv7.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("N", 32),
                    ("Rw", 8),
                    ("Ra", 8),
                    ("Rv", 8),
                    ("Rg", 8),
                ],
            ),
            &["time_mix.w", "time_mix.y"],
        ),
        (
            "deltanet",
            model(
                "deltanet.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("Dk", 24),
                    ("Dv", 40),
                    ("I", 64),
                ],
            ),
            &["mix.o", "mix.o#2"],
        ),
        (
            "gated-deltanet",
            model(
                "gated-deltanet.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("Gv", 2),
                    ("Dk", 32),
                    ("Dv", 32),
                    ("I", 64),
                ],
            ),
            &["mix.o", "mix.o#2"],
        ),
        (
            "kda",
            model(
                "kda.toml",
                &[
                    ("V", 64),
                    ("L", 1),
                    ("C", 64),
                    ("Dk", 32),
                    ("Dv", 32),
                    ("I", 64),
                ],
            ),
            &["mix.o", "mix.o#2"],
        ),
        (
            "hgrn2",
            model(
                "hgrn2.toml",
                &[
                    ("V", 64),
                    ("L", 2),
                    ("C", 64),
                    ("H", 2),
                    ("Dk", 24),
                    ("Dv", 40),
                    ("I", 64),
                ],
            ),
            &["mix.f", "mix.y"],
        ),
    ]
}

#[test]
fn every_family_with_the_form_in_f32() {
    for (name, graph, _) in families() {
        check(name, &graph, Storage::F32, 3, &[300, 1, 37], false);
    }
}

#[test]
fn every_family_with_the_form_in_bf16() {
    for (name, graph, _) in families() {
        check(name, &graph, Storage::Bf16, 1, &[37, 1, 300], false);
    }
}

#[test]
fn what_surrounds_the_recurrence_may_join_its_lane() {
    let device = Device::find("h200").expect("profile");
    let shape = Shape {
        batch: 8,
        time: 2048,
    };
    for (name, graph, expected) in families() {
        let ctx = Context::new(&graph, shape, Storage::Bf16, &device, 1.0);
        let layer = |id: &&OpId| graph.op(**id).layer == Some(0);
        let of_layer: Vec<OpId> = ctx.planned().iter().filter(layer).copied().collect();
        let named = |id: &&OpId| {
            let op = graph.op(**id);
            let product = matches!(op.kind, OpKind::Contract { .. });
            expected.contains(&op.name.as_str()) && !product
        };
        let ops: Vec<OpId> = of_layer.iter().filter(named).copied().collect();
        assert!(!ops.is_empty(), "{name}");
        let plain = fit(&ctx, &ops).unwrap_or_else(|reject| panic!("{name}: {reject}"));
        for lane in in_chunks(&ctx, &ops, &plain[0].lanes) {
            lane.unwrap_or_else(|reject| panic!("{name}: {reject}"));
        }
    }
}

/// Two recurrences with blocks of different sizes in one launch.
#[test]
fn lanes_side_by_side() {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("N", 32),
        ("R", 8),
        ("Rd", 16),
        ("P", 8),
        ("Ns", 16),
    ];
    let graph = model("hybrid.toml", &axes);
    let device = slow_steps(true);
    for (times, storage) in [(&[37, 1, 70][..], Storage::F32), (&[70, 1], Storage::Bf16)] {
        let lanes = chunked_lanes(&graph, &device, storage, (2, 70));
        assert!(lanes.len() > 1, "{lanes:?}");
        check("hybrid", &graph, storage, 2, times, true);
    }
}

/// A model around a recurrence that no family has: what is added to the read, a bonus, coefficients
/// that are computed in the step, a state stored value axis first, sizes that divide nothing.
fn written(step: &str, decay: &str) -> Graph {
    let text = format!(
        "name = \"written\"\n[axes]\nV = 64\nH = 3\nJ = 20\nI = 36\nC = \"H * J\"\nD = \"H * I\"\n\
         [param]\nemb = {{ shape = \"V, C\" }}\nw = {{ shape = \"C, C\" }}\nwv = {{ shape = \"D, C\" }}\n\
         u = {{ shape = \"C\" }}\nout = {{ shape = \"V, D\" }}\n\
         [recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], d[H, j], u[H, j], e[H]\"\n\
         state = \"S[i = I, H, j = J]\"\noutputs = \"y[H, i]\"\nstep = \"\"\"\n{step}\n\"\"\"\n\
         [model]\nflow = \"\"\"\nx = gather(emb, ids)\nz = x @ w\nv = shift(x @ wv)\ne = sum(x * z, J)\n\
         d = {decay}\ny = r(silu(x), z, v, d, u, e)\n\
         y = layer_norm(y, I, eps = 1e-5) * silu(v)\nreturn y @ out\n\"\"\"\n"
    );
    let source = ModelSource::from_text("written", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

#[test]
fn a_recurrence_that_no_family_has_however_it_is_written() {
    let gentle = "f32(sigmoid(4 + z))";
    // Exactly 0 and exactly 1 occur, and all between.
    let extreme = "f32(exp(-exp(60 * z)))";
    let steps = [
        "y = sum(q * (S + u * (sigmoid(k) * v)), j) + e * v\nS = d * S + sigmoid(k) * v",
        "a = sigmoid(k)\nb = q * u\ny = sum(S * q, j) + sum(b * a, j) * v + v * e\nS = a * v + S * d",
    ];
    for step in steps {
        check(
            "written",
            &written(step, gentle),
            Storage::F32,
            1,
            &[37, 1, 130],
            true,
        );
    }
    check(
        "extreme",
        &written(steps[0], extreme),
        Storage::F32,
        3,
        &[75, 1, 5],
        true,
    );
    check(
        "long",
        &written(steps[0], gentle),
        Storage::F32,
        1,
        &[2049, 1],
        true,
    );
}

/// A step that no family has with a rank-one factor: two results, a read before the step, a bonus,
/// something added to a read, a factor of two vectors or of one.
#[test]
fn a_rank_one_factor_however_it_is_written() {
    let gentle = "f32(sigmoid(4 + z))";
    let extreme = "f32(exp(-exp(60 * z)))";
    let bounded = "f32(exp(-2 * sigmoid(z)))";
    let per_head = "f32(sigmoid(e))";
    let free = "b = k * u\nn = sum(S * q, j) + sum(q * u * k, j) * v\nS = d * S - sum(S * q, j) * b * 0.01 + k * v\n\
                y = sum(S * k, j) + e * v";
    let along = "S = d * S\nS = S + q * (e * 0.1 * (v - sum(S * q, j)))\ny = sum(S * k, j)\nn = sum(S * u, j)";
    for (name, step, decay) in [
        ("free, gentle", free, gentle),
        ("free, extreme", free, extreme),
        ("free, bounded", free, bounded),
        ("along, gentle", along, gentle),
        ("along, bounded", along, bounded),
        ("along, per head", along, per_head),
    ] {
        let graph = corrected(step, decay);
        check(name, &graph, Storage::F32, 1, &[37, 1, 130], true);
    }
    check(
        "free, long",
        &corrected(free, bounded),
        Storage::F32,
        3,
        &[75, 1, 5],
        true,
    );
}

/// Several updates a token, of 2 and 3 of which a chunk is made of whole tokens or is not: along their keys, along
/// other vectors, and of products alone; read before the first with a bonus, and after one in the middle.
#[test]
fn several_updates_however_they_are_written() {
    let gentle = "f32(sigmoid(4 + z))";
    let extreme = "f32(exp(-exp(60 * z)))";
    let bounded = "f32(exp(-2 * sigmoid(z)))";
    let per_head = "f32(sigmoid(e))";
    let along = "S = d * S\nS = S + q * (e * 0.1 * (v - sum(S * q, j)))\n\
                 S = S + k * (e * 0.1 * (v - sum(S * k, j)))\ny = sum(S * k, j)\nn = sum(S * u, j)";
    let apart = "y = sum(S * q, j) + sum(q * u * k, j) * v\n\
                 S = d * S - sum(S * q, j) * k * u * 0.01 + k * v\n\
                 S = S - sum(S * k, j) * q * 0.1 + 0.1 * q * k * v\nn = e * v";
    let between = "S = d * S\nS = S + q * (e * 0.1 * (v - sum(S * q, j)))\n\
                   S = S + k * (e * 0.1 * (v - sum(S * k, j))) + 0.1 * u * v\n\
                   y = sum(S * k, j)\nn = sum(S * q, j)\nS = S - 0.1 * k * sum(S * k, j)";
    let products =
        "S = d * S + k * v + 0.1 * q * (e * v) * v\ny = sum(S * q, j)\nn = sum(S * u, j)";
    for (name, step, decay) in [
        ("along, per head", along, per_head),
        ("along, gentle", along, gentle),
        ("along, extreme", along, extreme),
        ("apart, gentle", apart, gentle),
        ("apart, extreme", apart, extreme),
        ("apart, per head", apart, per_head),
        ("between, bounded", between, bounded),
        ("between, per head", between, per_head),
        ("products, per head", products, per_head),
        ("products, gentle", products, gentle),
    ] {
        let graph = corrected(step, decay);
        let class = fusec_ir::classify(&graph, &graph.recurrences[0]);
        assert_eq!(class.states[0].name(), "diagonal-low-rank", "{name}");
        check(name, &graph, Storage::F32, 1, &[37, 1, 130], true);
    }
    for (name, step, decay) in [
        ("along, per head", along, per_head),
        ("between, gentle", between, gentle),
    ] {
        let graph = corrected(step, decay);
        check(name, &graph, Storage::Bf16, 3, &[75, 1, 2], true);
    }
}

/// A model around such a step, its keys no longer than 1, a state stored value axis first.
fn corrected(step: &str, decay: &str) -> Graph {
    let per_head = decay.contains("(e)");
    let d = if per_head { "d[H]" } else { "d[H, j]" };
    let text = format!(
        "name = \"corrected\"\n[axes]\nV = 64\nH = 3\nJ = 20\nI = 36\nC = \"H * J\"\nD = \"H * I\"\n\
         [param]\nemb = {{ shape = \"V, C\" }}\nw = {{ shape = \"C, C\" }}\nwv = {{ shape = \"D, C\" }}\n\
         u = {{ shape = \"C\" }}\nout = {{ shape = \"V, D\" }}\n\
         [recurrence.r]\ninputs = \"q[H, j], k[H, j], v[H, i], {d}, u[H, j], e[H]\"\n\
         state = \"S[i = I, H, j = J]\"\noutputs = \"y[H, i], n[H, i]\"\nstep = \"\"\"\n{step}\n\"\"\"\n\
         [model]\nflow = \"\"\"\nx = gather(emb, ids)\nz = x @ w\nv = shift(x @ wv)\n\
         e = sigmoid(sum(x * z, J))\nd = {decay}\n\
         y, n = r(l2_norm(x, J, eps = 1e-6), l2_norm(z, J, eps = 1e-6), v, d, u, e)\n\
         y = layer_norm(y, I, eps = 1e-5) * silu(v) + 0.1 * n\nreturn y @ out\n\"\"\"\n"
    );
    let source = ModelSource::from_text("corrected", text.clone());
    compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

/// 256 keys and 512 values of a head: value columns over the grid.
#[test]
fn wide_heads() {
    let axes = [
        ("V", 64),
        ("L", 1),
        ("C", 32),
        ("H", 1),
        ("Dk", 256),
        ("Dv", 512),
        ("I", 32),
    ];
    let graph = model("gla.toml", &axes);
    check("gla wide", &graph, Storage::Bf16, 1, &[40, 1], false);
}
