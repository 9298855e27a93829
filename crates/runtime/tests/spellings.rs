//! The same weights under other names: a checkpoint that was wrapped, saved without its head,
//! written by an older class or converted for another engine gives the same logits, to a bit.

use std::path::Path;

use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::executor::HostState;
use fusec_runtime::layout::tuned_state;
use fusec_runtime::tensor_file;
use fusec_runtime::weights::{WeightSpec, map};
use serde_json::json;
use stored::{Stored, difference};

mod stored;

/// Packs the six mixers of RWKV-7 into one tensor per layer.
fn packed(mut stored: Stored) -> Stored {
    for layer in 0..stored.layers() {
        let attn = format!("model.layers.{layer}.attn.");
        let mut all = vec![];
        for mixer in ["r", "w", "k", "v", "a", "g"] {
            let name = format!("{attn}x_{mixer}");
            all.extend(stored.tensors.remove(&name).expect("a mixer").1);
        }
        let shape = vec![6, all.len() / 6];
        stored.tensors.insert(format!("{attn}x_x"), (shape, all));
    }
    stored
}

/// The conversion of RWKV's files for web-rwkv and ai00.
fn web_rwkv(stored: Stored) -> Stored {
    let names: Vec<String> = stored.tensors.keys().cloned().collect();
    let pairs = [
        "time_maa_w1",
        "time_maa_w2",
        "time_decay_w1",
        "time_decay_w2",
        "w1",
        "w2",
        "a1",
        "a2",
        "g1",
        "g2",
        "v1",
        "v2",
    ];
    let turned = names
        .iter()
        .filter(|name| pairs.contains(&name.rsplit('.').next().unwrap_or_default()));
    let stored = turned.fold(stored, |stored, name| stored.transposed(name));
    stored.renamed(|name| {
        let name = name.replace("time_faaaa", "time_first");
        Some(name.replace("time_maa", "time_mix"))
    })
}

fn tied(case: &str) -> Stored {
    let stored =
        Stored::golden(case).renamed(|name| (name != "lm_head.weight").then(|| name.into()));
    match stored.options.is_empty() {
        true => stored,
        false => stored.set("tie_word_embeddings", json!(true)),
    }
}

fn without(stored: Stored, prefix: &'static str) -> Stored {
    stored.renamed(|name| Some(name.strip_prefix(prefix).unwrap_or(name).into()))
}

fn wrapped(stored: Stored, prefix: &'static str) -> Stored {
    let mut stored = stored.renamed(|name| Some(format!("{prefix}{name}")));
    let momentum = (vec![2], vec![1.0, 2.0]);
    stored.tensors.insert("optimizer.state.0".into(), momentum);
    stored
}

#[test]
fn other_names_of_the_same_weights_are_read() {
    let golden = Stored::golden;
    let cases = [
        (
            "packed mixers",
            golden("rwkv7-fla"),
            packed(golden("rwkv7-fla")),
        ),
        (
            "an older norm",
            golden("deltanet-fla"),
            golden("deltanet-fla")
                .renamed(|name| Some(name.replace(".attn.o_norm.", ".attn.norm."))),
        ),
        (
            "web-rwkv 6",
            golden("rwkv6-native"),
            web_rwkv(golden("rwkv6-native")),
        ),
        (
            "web-rwkv 7",
            golden("rwkv7-native"),
            web_rwkv(golden("rwkv7-native")),
        ),
        (
            "a backbone",
            tied("gla-fla"),
            without(tied("gla-fla"), "model."),
        ),
        (
            "a backbone beside its head",
            golden("gla-fla"),
            without(golden("gla-fla"), "model."),
        ),
        (
            "a backbone of Mamba",
            tied("mamba1-hf"),
            without(tied("mamba1-hf"), "backbone."),
        ),
        (
            "a state dict",
            golden("rwkv7-native"),
            wrapped(golden("rwkv7-native"), "state_dict."),
        ),
        (
            "a model",
            golden("rwkv6-native"),
            wrapped(golden("rwkv6-native"), "model."),
        ),
        (
            "in parallel",
            golden("mamba2-hf"),
            wrapped(golden("mamba2-hf"), "module."),
        ),
        (
            "both",
            golden("rwkv7-native"),
            wrapped(web_rwkv(golden("rwkv7-native")), "state_dict.model."),
        ),
    ];
    for (what, one, other) in cases {
        let one = one.logits().unwrap_or_else(|e| panic!("{what}: {e}"));
        let other = other.logits().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(difference(&one, &other) == 0.0, "{what}");
    }
}

/// What the rules leave alone is refused in the names of the file.
#[test]
fn what_is_no_other_spelling_is_refused_by_name() {
    let golden = Stored::golden;
    let two = {
        let one = wrapped(golden("rwkv7-native"), "a.");
        let mut both = wrapped(golden("rwkv7-native"), "b.");
        both.tensors.extend(one.tensors);
        both
    };
    let mut half = packed(golden("rwkv7-fla"));
    let x_r = (vec![128], vec![0.0; 128]);
    half.tensors.insert("model.layers.0.attn.x_r".into(), x_r);
    let mut five = packed(golden("rwkv7-fla"));
    let (shape, elements) = five
        .tensors
        .get_mut("model.layers.0.attn.x_x")
        .expect("it is there");
    shape[0] = 5;
    elements.truncate(5 * shape[1]);
    for (what, stored, part) in [
        ("two models", two, "no tensor 'emb.weight'"),
        ("packed and not", half, "'model.layers.0.attn.x_x'"),
        (
            "five mixers",
            five,
            "(nearest name: 'model.layers.0.attn.x_x')",
        ),
        (
            "a backbone without a head",
            without(tied("gla-fla"), "model.").set("tie_word_embeddings", json!(false)),
            "a model that was saved without its head gives no logits",
        ),
    ] {
        let error = stored.logits().expect_err(what);
        assert!(error.contains(part), "{what}: {error}");
    }
}

/// A model text finds the same weights, and a weight map names the tensors of the file.
#[test]
fn a_model_text_reads_other_spellings_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let stored = packed(Stored::golden("rwkv7-fla"));
    let model = stored.open(directory.path()).expect("opens");
    let spec = WeightSpec::Checkpoint(directory.path().to_path_buf());
    let weights = spec.load(&model.graph).expect("the same tensors");
    assert_eq!(weights, model.weights(None).expect("its own"));
    let checkpoint = model.checkpoint.as_ref().expect("it is one");
    let mapped = map(&model.graph, checkpoint).expect("all are there");
    let mixer = mapped.iter().find(|m| m.param == "layers.1.time_mix.x_k");
    let mixer = mixer.expect("a parameter");
    assert_eq!(mixer.tensor, "model.layers.1.attn.x_x (2 of 6)");
}

/// Element [head, value, key] of the file is that element of the state, whichever axis of the two
/// the recurrence has first.
#[test]
fn a_tuned_state_of_rwkv_is_a_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let (heads, width) = (2, 64);
    let element = |h: usize, value: usize, key: usize| (h * 10_000 + value * 100 + key) as f32;
    let turned: Vec<f32> = (0..heads * width * width)
        .map(|at| element(at / (width * width), at % width, at / width % width))
        .collect();
    let names: Vec<String> = (0..2)
        .map(|l| format!("blocks.{l}.att.time_state"))
        .collect();
    // A conversion to safetensors has turned the matrices.
    let path = directory.path().join("state.st");
    let shape = vec![heads, width, width];
    let tensors = names
        .iter()
        .map(|name| (&name[..], shape.clone(), &turned[..]));
    tensor_file::write(&path, tensors).expect("written");
    let file = Checkpoint::open(&path).expect("opens");
    for model in ["rwkv6", "rwkv7"] {
        let graph = graph(model);
        let state = tuned_state(&graph, &file, 3).expect("it is one");
        let state = state.unwrap_or_else(|e| panic!("{model}: {e}"));
        state.check(&graph).expect("complete");
        let initial = HostState::initial(&graph, 3);
        for (id, values) in &state.tensors {
            let name = &graph.state(*id).name;
            if !name.contains("wkv") {
                assert_eq!(values, &initial.tensors[id], "{model} {name}");
                continue;
            }
            let (batch, h, value, key) = (2, 1, 5, 61);
            let at = ((batch * heads + h) * width + value) * width + key;
            assert_eq!(values[at], element(h, value, key), "{model} {name}");
        }
    }
    assert!(tuned_state(&graph("gla"), &file, 1).is_none());
    let short = names
        .iter()
        .take(1)
        .map(|name| (&name[..], shape.clone(), &turned[..]));
    tensor_file::write(&path, short).expect("written");
    let file = Checkpoint::open(&path).expect("opens");
    let error = tuned_state(&graph("rwkv7"), &file, 1).expect("it is one");
    let error = error.expect_err("a layer is missing").to_string();
    assert!(error.contains("blocks.1.att.time_state"), "{error}");
}

fn graph(model: &str) -> fusec_ir::Graph {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let source = ModelSource::from_path(&models.join(format!("{model}.toml"))).expect("a text");
    compile(&source, &Overrides::default()).expect("compiles")
}
