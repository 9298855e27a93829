//! `fusec generate`: text goes in, the text that follows comes out, the same for the same seed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command::{Answer, fusec, repository};

const RWKV7: &str = "tests/golden/rwkv7-native";
/// A hybrid model of bytes.
const BYTES: [&str; 3] = ["models/hybrid.toml", "--weights", "random:3"];

fn generate(arguments: &[&str]) -> Answer {
    fusec(&[&["generate"], arguments].concat())
}

fn json(arguments: &[&str]) -> Value {
    let answer = generate(&[arguments, &["--json"]].concat());
    assert_eq!(answer.status, Some(0), "{answer:?}");
    serde_json::from_str(&answer.stdout).expect("--json is JSON")
}

fn tokens(answer: &Value, sequence: usize) -> Vec<u64> {
    let tokens = answer["sequences"][sequence]["tokens"].as_array();
    let tokens = tokens.expect("tokens").iter();
    tokens.map(|token| token.as_u64().expect("an id")).collect()
}

/// A checkpoint directory of a golden case, with a tokenizer.json of fewer tokens than it has.
fn with_tokenizer(case: &str, dir: &Path) {
    for entry in fs::read_dir(repository("tests/golden").join(case)).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let tokenizer = repository("tests/cli/data/tokenizer.json");
    fs::copy(tokenizer, dir.join("tokenizer.json")).unwrap();
}

#[test]
fn text_goes_to_stdout_and_speeds_to_stderr() {
    let call = [&BYTES[..], &["--prompt", "ab", "--tokens", "12"]].concat();
    let text = generate(&call);
    assert_eq!(text.status, Some(0), "{text:?}");
    let answer = json(&call);
    let expected = answer["sequences"][0]["text"].as_str().unwrap();
    assert_eq!(text.stdout, format!("{expected}\n"));
    assert_eq!(tokens(&answer, 0).len(), 12);
    for says in [
        "taken to be a byte",
        "cpu: prefill 2 tokens in",
        "decode 11 tokens in",
        "tokens/s",
    ] {
        assert!(text.stderr.contains(says), "{}", text.stderr);
    }
    assert_eq!(answer["prefill"]["tokens"], 2);
    assert_eq!(answer["decode"]["tokens"], 11);
    assert_eq!(answer["sequences"][0]["ended"], "length");
    assert_eq!(answer["device"], "cpu");
    assert_eq!(answer["tokenizer"], "bytes");
}

#[test]
fn the_seed_says_what_is_drawn() {
    let with = |more: &[&str]| {
        let call = [&BYTES[..], &["--prompt", "ab", "--tokens", "16"], more].concat();
        tokens(&json(&call), 0)
    };
    let first = with(&["--seed", "1"]);
    assert_eq!(first, with(&["--seed", "1"]));
    assert_ne!(first, with(&["--seed", "2"]));
    let greedy = with(&["--temperature", "0"]);
    assert_eq!(greedy, with(&["--temperature", "0", "--seed", "5"]));
    assert_eq!(greedy, with(&["--top-k", "1", "--seed", "6"]));
    assert_eq!(greedy, with(&["--top-p", "0.000001", "--seed", "7"]));
    // Greedy decoding of such weights repeats itself; a penalty on what was there ends that.
    let distinct = |penalty: &str| {
        let own = ["--temperature", "0", "--repetition-penalty", penalty];
        let call = [&BYTES[..], &["--prompt", "ab", "--tokens", "60"], &own].concat();
        let tokens = tokens(&json(&call), 0);
        tokens.into_iter().collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct("10000"), 60);
    assert!(distinct("1") < 60);
}

#[test]
fn a_state_goes_on_where_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("s.safetensors");
    let state = state.to_str().unwrap();
    let greedy = ["--temperature", "0"];
    let whole = json(&[&[RWKV7, "--prompt", "abcde", "--tokens", "9"], &greedy[..]].concat());
    let whole = tokens(&whole, 0);
    // The first five tokens, and the state that has seen them.
    let call = [
        &[
            RWKV7,
            "--prompt",
            "abcde",
            "--tokens",
            "5",
            "--state-out",
            state,
        ],
        &greedy[..],
    ]
    .concat();
    assert_eq!(tokens(&json(&call), 0), whole[..5]);
    // As a prompt, the sixth token is what comes next: so the seventh follows.
    let prompt = dir.path().join("prompt");
    let sixth = u8::try_from(whole[5]).unwrap();
    if sixth < 0x80 {
        fs::write(&prompt, [sixth]).unwrap();
        let call = [
            &[
                RWKV7,
                "--prompt-file",
                prompt.to_str().unwrap(),
                "--tokens",
                "3",
                "--state-in",
                state,
            ],
            &greedy[..],
        ];
        assert_eq!(tokens(&json(&call.concat()), 0), whole[6..]);
    }
    // No tokens: the state has seen the prompt, and one of two prompts goes on as both would.
    let call = [
        RWKV7,
        "--prompt",
        "abc",
        "--tokens",
        "0",
        "--state-out",
        state,
    ];
    assert_eq!(tokens(&json(&call), 0), [0u64; 0]);
    let call = [
        &[
            RWKV7,
            "--prompt",
            "de",
            "--tokens",
            "9",
            "--state-in",
            state,
        ],
        &greedy[..],
    ]
    .concat();
    assert_eq!(tokens(&json(&call), 0), whole);
}

#[test]
fn many_prompts_run_together_and_each_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let lines = dir.path().join("prompts.txt");
    let array = dir.path().join("prompts.json");
    let prompts = ["abc", "x", "de", "abcdefgh", "xyz"];
    fs::write(&lines, prompts.join("\n")).unwrap();
    fs::write(&array, serde_json::to_string(&prompts).unwrap()).unwrap();
    // A recurrence that asks for no position, and one that does.
    for model in [RWKV7, "tests/golden/retnet-fla"] {
        let stop = "b";
        let own = ["--temperature", "0", "--tokens", "24", "--stop", stop];
        let together = json(&[&[model, "--batch", lines.to_str().unwrap()], &own[..]].concat());
        let same = json(&[&[model, "--batch", array.to_str().unwrap()], &own[..]].concat());
        assert_eq!(together["sequences"], same["sequences"]);
        for (number, prompt) in prompts.iter().enumerate() {
            let alone = json(&[&[model, "--prompt", prompt], &own[..]].concat());
            assert_eq!(
                together["sequences"][number], alone["sequences"][0],
                "{model} {prompt}"
            );
        }
    }
    let text = generate(&[RWKV7, "--batch", lines.to_str().unwrap(), "--tokens", "3"]);
    assert!(
        text.stdout.starts_with("==> 0\n") && text.stdout.contains("\n==> 4\n"),
        "{text:?}"
    );
}

#[test]
fn a_stop_text_ends_the_answer_and_is_no_part_of_it() {
    let own = [
        "--prompt", "ab", "--tokens", "200", "--seed", "4", "--top-k", "40",
    ];
    let whole = json(&[&BYTES[..], &own].concat());
    let text = whole["sequences"][0]["text"].as_str().unwrap().to_owned();
    let letter = text
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .nth(5)
        .expect("a letter");
    let stop = letter.to_string();
    let stopped = json(
        &[
            &BYTES[..],
            &own,
            &["--stop", &stop, "--stop", "never there"],
        ]
        .concat(),
    );
    let sequence = &stopped["sequences"][0];
    assert_eq!(sequence["ended"], "stopped");
    assert_eq!(sequence["text"].as_str(), text.split(letter).next());
    let streamed = generate(&[&BYTES[..], &own, &["--stop", &stop]].concat());
    assert_eq!(
        streamed.stdout.strip_suffix('\n'),
        sequence["text"].as_str()
    );
}

#[test]
fn the_tokenizer_of_the_directory_is_used_and_its_end_ends() {
    let dir = tempfile::tempdir().unwrap();
    with_tokenizer("rwkv7-fla", dir.path());
    let place = dir.path().to_str().unwrap();
    let answer = json(&[
        place,
        "--prompt",
        "the plan fuses",
        "--tokens",
        "20",
        "--temperature",
        "3",
    ]);
    let name = answer["tokenizer"].as_str().unwrap();
    assert!(name.ends_with("tokenizer.json"), "{name}");
    let prompt = answer["sequences"][0]["prompt_tokens"].as_u64().unwrap();
    assert!(
        (2..14).contains(&prompt),
        "{prompt} tokens are more than one byte each"
    );
    // Its second token ends a text by the checkpoint's configuration: some seed draws it.
    let ended = (0..40).find_map(|seed| {
        let seed = seed.to_string();
        let call = [
            place,
            "--prompt",
            "a",
            "--tokens",
            "60",
            "--temperature",
            "20",
            "--seed",
            &seed,
        ];
        let answer = json(&call);
        (answer["sequences"][0]["ended"] == "end").then_some(answer)
    });
    let ended = ended.expect("one of 40 ends within 60 of 256 tokens");
    assert!(!tokens(&ended, 0).contains(&2), "{ended}");
}

#[test]
fn what_cannot_be_generated_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let world = repository("crates/text/tests/data/world.txt");
    let world = world.to_str().unwrap();
    for (call, says) in [
        (vec![RWKV7], "--prompt"),
        (vec![RWKV7, "--prompt", ""], "no tokens"),
        (vec![RWKV7, "--batch", empty], "there is no prompt"),
        (
            vec![RWKV7, "--prompt-file", "no/such"],
            "cannot read no/such",
        ),
        (
            vec![RWKV7, "--prompt", "a", "--temperature=-1"],
            "temperature is -1",
        ),
        (vec![RWKV7, "--prompt", "a", "--top-p", "0"], "top-p is 0"),
        (
            vec![RWKV7, "--prompt", "a", "--tokenizer", "no/such"],
            "no/such",
        ),
        (
            vec![RWKV7, "--prompt", "The plan", "--tokenizer", world],
            "the model has 256",
        ),
        (
            vec![
                "models/hybrid.toml",
                "--axis",
                "V=300",
                "--weights",
                "random:0",
                "--prompt",
                "a",
            ],
            "tokens are no bytes",
        ),
        (
            vec![
                "models/gated-scan.toml",
                "--weights",
                "random:0",
                "--prompt",
                "a",
            ],
            "is no language model",
        ),
    ] {
        let answer = generate(&call);
        assert_eq!(answer.status, Some(2), "{call:?}: {answer:?}");
        assert!(answer.stderr.contains(says), "{call:?}: {}", answer.stderr);
        assert!(answer.stdout.is_empty());
    }
}
