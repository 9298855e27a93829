//! What wrote a `config.json` decides what it means: releases of a class that computed otherwise,
//! options that a class does not obey, other packages' words for the same, Python's JSON. What a
//! file leaves open is said.

use fusec_ir::language::{Overrides, Setting};
use fusec_runtime::model::Model;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use stored::{Stored, difference};

mod stored;

/// Every release of a class as that release computed.
#[test]
fn groups_are_normalised_as_by_the_class_that_wrote_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let groups = || Stored::golden("mamba2-hf-groups");
    let fla = || Stored::golden("mamba2-fla-groups");
    let older_fla = || {
        fla()
            .set("dt_limit", Value::Null)
            .set("dt_min", Value::Null)
            .set("dt_max", Value::Null)
            .set("dt_init_floor", Value::Null)
            .set("time_step_limit", json!([0.0, "Infinity"]))
    };
    let version = |v: &str| groups().set("transformers_version", json!(v));
    for (what, stored, per_group, open) in [
        ("5.17", groups(), "false", true),
        ("4.57", version("4.57.1"), "false", true),
        ("5.22", version("5.22.0"), "false", true),
        ("5.23", version("5.23.0.dev0"), "true", false),
        ("5.24", version("5.24.0"), "true", false),
        ("6.0", version("6.0.0rc1"), "true", false),
        (
            "no version",
            groups().set("transformers_version", Value::Null),
            "true",
            true,
        ),
        ("no number", version("main"), "true", true),
        (
            "the form of Codestral",
            version("4.44.0.dev0").set("norm_before_gate", json!(true)),
            "true",
            true,
        ),
        ("fla", fla(), "true", false),
        ("fla before 0.5", older_fla(), "false", true),
        ("one group", Stored::golden("mamba2-hf"), "false", false),
    ] {
        let model = stored
            .open(directory.path())
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let setting = &model.overrides.settings["norm_per_group"];
        assert_eq!(*setting, Setting::Bool(per_group == "true"), "{what}");
        let said: Vec<_> = model
            .assumed
            .iter()
            .map(|a| (&*a.setting, &*a.value))
            .collect();
        let expected: &[_] = match open {
            true => &[("norm_per_group", per_group)],
            false => &[],
        };
        assert_eq!(said, expected, "{what}");
    }
    // What is asked for is not open.
    groups().open(directory.path()).expect("opens");
    let asked = Overrides {
        settings: [("norm_per_group".into(), Setting::Bool(true))].into(),
        ..Overrides::default()
    };
    let model = Model::open(directory.path(), &asked).expect("opens");
    assert_eq!(model.assumed, []);
}

/// What the class of transformers does not know or does not obey changes nothing.
#[test]
fn options_that_a_class_does_not_obey_change_nothing() {
    for (case, options) in [
        (
            "mamba2-hf",
            &[
                ("norm_before_gate", json!(true)),
                ("rmsnorm", json!(false)),
                ("rms_norm", json!(false)),
                ("D_has_hdim", json!(true)),
                ("intermediate_size", json!(128)),
            ][..],
        ),
        (
            "gla-fla",
            &[
                ("unsloth_version", json!("2026.1")),
                ("sep_token_id", json!(3)),
                ("model_max_length", json!(2048)),
                ("is_decoder", json!(true)),
                ("temperature", json!(0.7)),
            ],
        ),
        ("rwkv6-fla", &[("intermediate_size", json!(448))]),
    ] {
        let base = Stored::golden(case).logits().expect("runs");
        for (option, value) in options {
            let stored = Stored::golden(case).set(option, value.clone());
            let logits = stored
                .logits()
                .unwrap_or_else(|e| panic!("{case} {option}: {e}"));
            assert!(difference(&logits, &base) == 0.0, "{case} {option}");
        }
    }
}

/// An option that is there and null is off, whatever the class has without the option.
#[test]
fn a_switch_that_is_null_is_off() {
    let null = |stored: Stored, option: &str| {
        let mut stored = stored;
        stored.options.insert(option.into(), Value::Null);
        stored
    };
    let gla = Stored::golden("gla-fla");
    let plain = gla
        .clone()
        .drop("model.layers.{l}.attn.g_norm_swish_gate.weight");
    let off = plain.clone().set("elementwise_affine", json!(false));
    let off = off.logits().expect("runs");
    let logits = null(plain, "elementwise_affine").logits().expect("runs");
    assert!(difference(&logits, &off) == 0.0);
}

/// The authors' own package: the same tensors, options of other names inside `ssm_cfg`, the table
/// longer than the vocabulary, the head stored or not.
#[test]
fn mamba_ssm_says_the_same_in_its_own_words() {
    let mamba1 = Stored::golden("mamba1-hf");
    let mamba2 = Stored::golden("mamba2-fla-groups");
    let own = |stored: &Stored, mixer: Value| {
        let layers = stored.options["num_hidden_layers"].clone();
        let width = stored.options["hidden_size"].clone();
        let mut own = stored.clone();
        own.options = json!({
            "d_model": width, "n_layer": layers, "vocab_size": 250, "ssm_cfg": mixer,
            "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true,
            "pad_vocab_size_multiple": 16,
        })
        .as_object()
        .expect("an object")
        .clone();
        own.renamed(|name| Some(name.replace("backbone.embeddings.", "backbone.embedding.")))
    };
    for (what, stored, mixer) in [
        ("version 1", &mamba1, json!({})),
        (
            "version 1, said",
            &mamba1,
            json!({"layer": "Mamba1", "d_state": 16, "expand": 2}),
        ),
        (
            "version 2",
            &mamba2,
            json!({"layer": "Mamba2", "ngroups": 2, "headdim": 32}),
        ),
    ] {
        let base = stored.logits().expect("runs");
        let logits = own(stored, mixer).logits();
        let logits = logits.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(difference(&logits, &base) < 1e-6, "{what}");
    }
    let mamba2 = Stored::golden("mamba2-fla");
    let said = |mixer: Value| own(&mamba2, mixer);
    let plain = json!({"layer": "Mamba2"});
    for (what, stored, part) in [
        (
            "layer",
            said(json!({"layer": "Mamba3"})),
            "'ssm_cfg.layer' is \"Mamba3\"",
        ),
        (
            "state",
            said(json!({"layer": "Mamba2", "d_state": 8})),
            "'ssm_cfg.d_state' is 8",
        ),
        (
            "unknown",
            said(json!({"layer": "Mamba2", "new": 1})),
            "'ssm_cfg.new' is 1",
        ),
        (
            "no object",
            said(json!(3)),
            "'ssm_cfg' is 3, expected an object",
        ),
        (
            "attention",
            said(plain.clone()).set("attn_layer_idx", json!([1])),
            "'attn_layer_idx'",
        ),
        (
            "vocabulary",
            said(plain.clone()).set("vocab_size", json!(200)),
            "'vocab_size' is 200",
        ),
        (
            "layer norm",
            said(plain.clone()).set("rms_norm", json!(false)),
            "'rms_norm' is false",
        ),
        (
            "no head",
            said(plain.clone())
                .set("tie_embeddings", json!(false))
                .renamed(|name| (name != "lm_head.weight").then(|| name.to_string())),
            "'tie_embeddings' is false",
        ),
        (
            "no layers",
            said(plain).set("n_layer", Value::Null),
            "the model type '' is not known",
        ),
    ] {
        let error = stored.logits().expect_err(what);
        assert!(error.contains(part), "{what}: {error}");
    }
}

/// Python writes numbers that JSON has no words for.
#[test]
fn a_configuration_may_hold_numbers_that_json_lacks() {
    let directory = tempfile::tempdir().expect("a directory");
    let stored = Stored::golden("mamba2-hf").set("time_step_limit", json!([0.0, "@"]));
    let base = Stored::golden("mamba2-hf").logits().expect("runs");
    stored.open(directory.path()).expect_err("@ is no number");
    let path = directory.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("written");
    let text = format!("\u{feff}{}", text.replace("\"@\"", "Infinity"));
    std::fs::write(&path, text).expect("written");
    let model = Model::open(directory.path(), &Overrides::default()).expect("opens");
    let logits = stored::logits(&model).expect("runs");
    assert!(difference(&logits, &base) == 0.0);
}

/// The text of a configuration, damaged anywhere: a model or a message that names the file.
#[test]
fn damaged_configurations_never_panic() {
    let families = [
        "gla-fla",
        "hgrn2-fla",
        "kda-fla",
        "mamba1-hf",
        "mamba2-fla",
        "mamba2-hf",
        "rwkv7-fla",
    ];
    let texts: Vec<(tempfile::TempDir, Vec<u8>)> = families
        .iter()
        .map(|case| {
            let directory = tempfile::tempdir().expect("a directory");
            Stored::golden(case)
                .open(directory.path())
                .expect("a golden checkpoint");
            let text = std::fs::read(directory.path().join("config.json")).expect("written");
            (directory, text)
        })
        .collect();
    let pieces: &[&[u8]] = &[
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"true",
        b"0",
        b"-1",
        b"1e400",
        b"99999999999999999999",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\n",
        b"",
    ];
    let edits = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            0usize..12,
        ),
        1..4,
    );
    let config = ProptestConfig::with_cases(1024);
    let outcome = TestRunner::new(config).run(&(0..families.len(), edits), |(family, edits)| {
        let (directory, text) = &texts[family];
        let mut text = text.clone();
        for (at, piece, cut) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, pieces[piece.index(pieces.len())].iter().copied());
        }
        let path = directory.path().join("config.json");
        std::fs::write(path, text).expect("written");
        if let Err(error) = Model::open(directory.path(), &Overrides::default()) {
            let message = error.to_string();
            let named = message.contains(&directory.path().display().to_string());
            // A size that no model can have is told in the text of the model.
            prop_assert!(named || message.contains("models/"), "{message}");
        }
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
