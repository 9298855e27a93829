//! `fusec eval`: the cross-entropy is that of the recorded logits, whatever the chunks, the file and
//! the plan.

use std::fs;

use fusec_runtime::golden::GoldenCase;
use serde_json::Value;

use crate::command::{Answer, fusec, repository};

fn eval(arguments: &[&str]) -> Answer {
    fusec(&[&["eval"], arguments].concat())
}

fn json(arguments: &[&str]) -> Value {
    let answer = eval(&[arguments, &["--json"]].concat());
    assert_eq!(answer.status, Some(0), "{answer:?}");
    serde_json::from_str(&answer.stdout).expect("--json is JSON")
}

fn loss(answer: &Value) -> f64 {
    answer["plans"][0]["cross_entropy"]
        .as_f64()
        .expect("a loss")
}

/// The mean negative log-likelihood of each token but the first, from recorded logits.
fn recorded(case: &GoldenCase) -> f64 {
    let (mut sum, mut predicted) = (0.0, 0);
    for sequence in 0..case.batch {
        for at in 1..case.length {
            let row = (sequence * case.length + at - 1) * case.vocab;
            let logits = &case.logits[row..row + case.vocab];
            let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            let target = case.input_ids[sequence * case.length + at];
            sum += total.ln() - f64::from(logits[target as usize]);
            predicted += 1;
        }
    }
    sum / f64::from(predicted)
}

#[test]
fn the_loss_is_that_of_the_recorded_logits_in_any_chunks() {
    for case in ["rwkv7-native", "mamba2-hf", "retnet-fla"] {
        let dir = repository("tests/golden").join(case);
        let golden = GoldenCase::open(&dir).expect("a golden case");
        let expected = recorded(&golden);
        let tokens = dir.join("golden.safetensors");
        let (dir, tokens) = (dir.to_str().unwrap(), tokens.to_str().unwrap());
        for length in ["1", "5", "36", "1024"] {
            let answer = json(&[dir, "--tokens", tokens, "--length", length]);
            assert!(
                (loss(&answer) - expected).abs() < 1e-4,
                "{case} {length}: {answer} {expected}"
            );
            assert_eq!(answer["plans"][0]["predicted"], 72);
            let perplexity = answer["plans"][0]["perplexity"].as_f64().unwrap();
            assert!((perplexity / loss(&answer).exp() - 1.0).abs() < 1e-12);
            assert!(answer["plans"][0]["delta"].is_null());
        }
    }
}

#[test]
fn tokens_are_read_from_numbers_and_texts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let text = "The same text, three times.\n";
    fs::write(at("text"), text).unwrap();
    let wide = |bytes: usize| -> Vec<u8> {
        let number = |byte: u8| std::iter::once(byte).chain(std::iter::repeat_n(0, bytes - 1));
        text.bytes().flat_map(number).collect()
    };
    fs::write(at("two.bin"), wide(2)).unwrap();
    fs::write(at("four.bin"), wide(4)).unwrap();
    let model = "tests/golden/rwkv7-native";
    let losses = [
        json(&[model, "--text", &at("text")]),
        json(&[model, "--tokens", &at("two.bin")]),
        json(&[model, "--tokens", &at("two.bin"), "--token-type", "u16"]),
        json(&[model, "--tokens", &at("four.bin"), "--token-type", "u32"]),
    ];
    assert!(
        losses.iter().all(|answer| *answer == losses[0]),
        "{losses:?}"
    );
    assert_eq!(losses[0]["plans"][0]["predicted"], text.len() - 1);
    let answer = eval(&[model, "--text", &at("text")]);
    for says in ["interpreter", "perplexity", "tokens predicted"] {
        assert!(answer.stdout.contains(says), "{}", answer.stdout);
    }
}

#[test]
fn fusion_does_not_change_the_loss() {
    let model = "tests/golden/mamba2-hf";
    let tokens = "tests/golden/mamba2-hf/golden.safetensors";
    let call = [
        model, "--tokens", tokens, "--device", "emulator", "--length", "20",
    ];
    let answer = json(&call);
    let plans = answer["plans"].as_array().unwrap();
    let names: Vec<&str> = plans.iter().map(|p| p["plan"].as_str().unwrap()).collect();
    assert_eq!(names, ["auto", "unfused"]);
    let delta = plans[0]["delta"].as_f64().unwrap();
    assert!(delta.abs() < 1e-5, "{answer}");
    assert!(plans[1]["delta"].is_null());
    let interpreter = loss(&json(&[model, "--tokens", tokens]));
    assert!(
        (loss(&answer) - interpreter).abs() < 1e-5,
        "{answer} {interpreter}"
    );
}

#[test]
fn what_cannot_be_judged_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("odd.bin"), [1, 2, 3]).unwrap();
    fs::write(at("one.bin"), [1, 0]).unwrap();
    fs::write(at("high.bin"), [0, 0, 0, 1]).unwrap();
    let model = "tests/golden/rwkv7-native";
    for (call, says) in [
        (vec![model], "--tokens"),
        (vec![model, "--tokens", &at("odd.bin")], "no numbers of 2"),
        (
            vec![model, "--tokens", &at("one.bin")],
            "a sequence has to have two",
        ),
        (vec![model, "--tokens", &at("high.bin")], "the id 256"),
        (vec![model, "--text", "no/such"], "cannot read no/such"),
        (
            vec![model, "--tokens", &at("one.bin"), "--length", "0"],
            "--length",
        ),
        (
            vec![
                "models/gated-scan.toml",
                "--weights",
                "random:0",
                "--tokens",
                &at("one.bin"),
            ],
            "is no language model",
        ),
    ] {
        let answer = eval(&call);
        assert_eq!(answer.status, Some(2), "{call:?}: {answer:?}");
        assert!(answer.stderr.contains(says), "{call:?}: {}", answer.stderr);
    }
}
