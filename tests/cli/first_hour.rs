//! What a newcomer does in the first hour: look around, begin a model, bring weights, look closer.

use std::fs;

use serde_json::Value;

use crate::MODEL;
use crate::command::{fusec, fusec_in};

const NUMBERS: &str = "docs/examples/ema.toml";

fn json(arguments: &[&str]) -> Value {
    let answer = fusec(arguments);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    serde_json::from_str(&answer.stdout).expect("--json is JSON")
}

#[test]
fn models_that_take_numbers_get_random_ones() {
    let verified = json(&[
        "verify",
        NUMBERS,
        "--weights",
        "random:1",
        "--device",
        "cpu",
        "--json",
    ]);
    assert_eq!(verified["passed"], true, "{verified}");
    let run = [
        "run",
        NUMBERS,
        "--weights",
        "random:1",
        "--device",
        "cpu",
        "--json",
    ];
    let first = json(&run);
    assert_eq!(
        first["outputs"][0]["shape"],
        serde_json::json!([1, 256, 32])
    );
    assert!(first["outputs"][0]["deviation"].as_f64().expect("a number") > 0.01);
    let seeded = |seed| json(&[&run[..], &["--seed", seed]].concat())["outputs"].clone();
    assert_eq!(seeded("0"), first["outputs"]);
    assert_ne!(seeded("1"), first["outputs"]);
    let header = fusec(&[
        "verify",
        NUMBERS,
        "--weights",
        "random:1",
        "--device",
        "cpu",
    ])
    .stdout;
    assert!(header.contains("of max |expected|"), "{header}");
    assert!(
        header.contains("passed: accepted is 5.0e-5 of max |expected|"),
        "{header}"
    );
}

#[test]
fn a_check_that_is_asked_for_is_made_on_the_cpu_too() {
    let report = json(&[
        "bench", NUMBERS, "--device", "cpu", "--shape", "B=1,T=8", "--runs", "5", "--check",
        "--json",
    ]);
    let check = &report["subjects"][0]["check"];
    assert_eq!(check["passed"], true, "{report}");
    assert!(check["error"].as_f64().expect("a number") < 5e-5, "{check}");
}

#[test]
fn a_seed_that_is_none_is_not_taken_for_a_file() {
    let answer = fusec(&["run", MODEL, "--weights", "random:abc"]);
    assert_eq!(answer.status, Some(2), "{answer:?}");
    for says in ["--weights", "`abc` is no seed", "random:N"] {
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
    }
}

#[test]
fn what_import_and_export_write_is_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (mine, weights) = (path("mine"), path("weights.safetensors"));
    let checkpoint = "tests/golden/rwkv7-native";
    let imported = fusec(&["import", checkpoint, "--out", &mine]);
    assert_eq!(imported.status, Some(0), "{imported:?}");
    let run = |model: &str, weights: &str| {
        json(&[
            "run",
            model,
            "--weights",
            weights,
            "--device",
            "cpu",
            "--shape",
            "T=9",
            "--json",
        ])
    };
    let expected = run(&mine, checkpoint)["outputs"].clone();
    let exported = json(&["export", checkpoint, "-o", &weights, "--json"]);
    assert!(exported["parameters"].as_u64().expect("a count") > 1000);
    // In a model with names of its own in checkpoints, and load steps, as well.
    assert_eq!(run(&mine, &weights)["outputs"], expected);
    let refused = fusec(&["export", checkpoint, "-o", &path("no/such/file")]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("no/such/file"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("partial"), "{}", refused.stderr);

    // A model that names nothing finds its parameters by their full names.
    let own = path("own.safetensors");
    json(&[
        "export",
        NUMBERS,
        "--weights",
        "random:3",
        "-o",
        &own,
        "--json",
    ]);
    assert_eq!(
        run(NUMBERS, &own)["outputs"],
        run(NUMBERS, "random:3")["outputs"]
    );
}

#[test]
fn a_model_of_ones_own_begins_with_one_that_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let call = |arguments: &[&str]| fusec_in(dir.path(), arguments, &[]);
    let begun = call(&["init", "idea"]);
    assert_eq!(begun.status, Some(0), "{begun:?}");
    assert!(
        begun.stdout.contains("fusec run idea.toml"),
        "{}",
        begun.stdout
    );
    let verify = [
        "verify",
        "idea.toml",
        "--weights",
        "random:0",
        "--device",
        "cpu",
        "--json",
    ];
    let verified = call(&verify);
    assert_eq!(verified.status, Some(0), "{verified:?}");
    assert!(
        verified.stdout.contains("\"model\": \"idea\""),
        "{}",
        verified.stdout
    );
    let text = fs::read_to_string(dir.path().join("idea.toml")).expect("it is written");
    assert!(text.contains("name = \"idea\""), "{text}");

    let again = call(&["init", "idea", "--from", "gla"]);
    assert_eq!(again.status, Some(2), "{again:?}");
    assert!(
        again.stderr.contains("idea.toml exists already"),
        "{}",
        again.stderr
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("idea.toml")).expect("it"),
        text
    );

    for from in ["gla", "hybrid", "rwkv7"] {
        let begun = call(&["init", from, "--from", from]);
        assert_eq!(begun.status, Some(0), "{begun:?}");
        let text = fs::read_to_string(dir.path().join(format!("{from}.toml"))).expect("it");
        assert!(!text.contains("\ninclude"), "{text}");
        let presets = fusec(&["models", from]).stdout;
        assert_eq!(
            text.contains("[preset."),
            presets.contains(", "),
            "{presets}"
        );
    }
    for (name, says) in [
        ("a/b", "cannot be the name"),
        ("it's", "cannot be the name"),
    ] {
        let refused = call(&["init", name]);
        assert_eq!(refused.status, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    let unknown = call(&["init", "x", "--from", "lstm"]);
    assert_eq!(unknown.status, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("rwkv7"), "{}", unknown.stderr);
}

#[test]
fn built_in_models_are_listed_with_sizes_classes_and_checkpoints() {
    let all = json(&["models", "--json"]);
    let all = all.as_array().expect("a list");
    let of = |name: &str| {
        let found = all.iter().find(|entry| entry["model"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(all.len(), 24);
    let rwkv7 = of("rwkv7");
    assert_eq!(rwkv7["checkpoints"][0], "rwkv7");
    assert_eq!(rwkv7["recurrences"][0]["class"], "diagonal-rank-one");
    let presets = rwkv7["presets"].as_array().expect("a list");
    let largest = presets.last().expect("presets")["parameters"].as_u64();
    assert!(largest.expect("a count") > 1_000_000_000, "{presets:?}");
    assert_eq!(of("hybrid-cp")["attention"], true);
    let text = fusec(&["models", "rwkv7"]).stdout;
    for says in [
        "a delta rule",
        "diagonal-rank-one",
        "RWKV-7 .pth",
        "1.5b 1.",
    ] {
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn plans_are_short_until_more_is_asked_for() {
    let brief = fusec(&["plan", MODEL]).stdout;
    let whole = fusec(&["plan", MODEL, "-v"]);
    let kernels = |text: &str| {
        text.lines()
            .filter(|line| line.contains("limited by"))
            .count()
    };
    assert_eq!(kernels(&brief), kernels(&whole.stdout));
    assert!(
        !brief.contains("forms:") && whole.stdout.contains("forms:"),
        "{brief}"
    );
    assert!(!whole.stderr.contains("egg"), "{}", whole.stderr);
    let everything = fusec(&["plan", MODEL, "-vv"]);
    assert!(
        !everything.stderr.contains("egg::"),
        "{}",
        everything.stderr
    );
}

#[test]
fn words_are_explained_without_a_model() {
    let terms = json(&["explain", "--terms", "--json"]);
    let terms = terms.as_array().expect("a list");
    assert!(
        terms.iter().any(|entry| entry["term"] == "epilogue"),
        "{terms:?}"
    );
    let text = fusec(&["explain", "--terms"]).stdout;
    assert!(text.contains("anchor\n    The operations"), "{text}");
    assert_eq!(fusec(&["explain", "--terms", MODEL]).status, Some(2));
    assert_eq!(fusec(&["explain"]).status, Some(2));
}

/// A place that cannot be written is refused before anything is planned: the model here takes
/// longer to plan than the call may last.
#[test]
fn a_place_that_cannot_be_written_is_found_before_the_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("a file");
    let out = file.join("below").display().to_string();
    let began = std::time::Instant::now();
    let answer = fusec(&[
        "compile",
        "models/hybrid.toml",
        "--preset",
        "3m",
        "--out",
        &out,
    ]);
    assert_eq!(answer.status, Some(2), "{answer:?}");
    assert!(answer.stderr.contains("file"), "{}", answer.stderr);
    assert!(!answer.stderr.contains(".plan-"), "{}", answer.stderr);
    assert!(began.elapsed().as_secs_f64() < 2.0, "{:?}", began.elapsed());
}

/// Mistakes in long lines are shown in a screenful, whatever the printer.
#[test]
fn a_mistake_in_a_long_line_is_shown_in_a_few_lines() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("long.toml");
    for n in [66_000, 3_000_000] {
        let text = format!(
            "name = \"long\"\n[axes]\nC = 4\n[input]\nx = \"C\"\n[model]\nflow = \"\"\"\n  y = x +{}z\n  return y\n\"\"\"\n",
            " ".repeat(n)
        );
        fs::write(&path, text).expect("a file");
        let answer = fusec(&["plan", path.to_str().expect("UTF-8")]);
        assert_eq!(answer.status, Some(2), "{}", answer.status.unwrap_or(-1));
        assert!(
            answer.stderr.contains("unknown name `z`"),
            "{:.2000}",
            answer.stderr
        );
        assert!(
            answer.stderr.contains(&format!("long.toml:8:{}", n + 10)),
            "{}",
            answer.stderr
        );
        assert!(answer.stderr.len() < 2000, "{} bytes", answer.stderr.len());
    }
}
