//! `fusec run`: inputs, outputs and states as files.

use std::path::Path;
use std::process::{Command, Output};

use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::tensor_file;

fn fusec(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary starts")
}

fn ok(args: &[&str]) -> String {
    let out = fusec(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_golden_file_is_an_input_and_its_logits_come_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    for case in ["rwkv6-native", "mamba2-hf"] {
        let model = format!("tests/golden/{case}");
        let golden = format!("{model}/golden.safetensors");
        let (logits, state) = (path("logits"), path("state"));
        let args = ["run", &model, "--device", "cpu", "--input", &golden];
        ok(&[&args[..], &["--output", &logits, "--state-out", &state]].concat());
        let written = Checkpoint::open(&logits).expect("the output");
        let name = written.names().next().expect("one output").to_string();
        let got = written.read_f32(&name).expect("numbers");
        let expected = Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(&golden));
        let expected = expected.expect("the case");
        let shape = expected.tensor("logits").expect("logits").shape.to_vec();
        assert_eq!(written.tensor(&name).expect("it").shape, shape);
        let want = expected.read_f32("logits").expect("numbers");
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
        assert!(error.fold(0f32, f32::max) <= 5e-5 * largest, "{case}");

        // One recorded step from the state in the file.
        let steps = expected.read_i64("step_ids").expect("ids");
        let per_row = steps.len() / shape[0];
        let first: Vec<f32> = (0..shape[0]).map(|b| steps[b * per_row] as f32).collect();
        let one = path("one");
        tensor_file::write(
            Path::new(&one),
            [("input_ids", vec![shape[0], 1], &first[..])],
        )
        .expect("written");
        let refused = fusec(&["run", &model, "--input", &one]);
        assert_eq!(refused.status.code(), Some(2), "f32 ids are no ids");

        let summary = ok(&[
            "run",
            &model,
            "--state-in",
            &state,
            "--shape",
            "B=2,T=3",
            "--json",
        ]);
        let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
        assert_eq!(summary["position"], shape[1] + 3, "{case}");
        let refused = fusec(&["run", &model, "--state-in", &state, "--shape", "B=3,T=3"]);
        assert_eq!(refused.status.code(), Some(2));
    }
}

#[test]
fn runs_are_reproducible_and_depend_on_seed_and_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state").display().to_string();
    let run = |more: &[&str]| {
        let args = ["run", "models/hybrid.toml", "--axis", "L=2", "--weights"];
        let common = [
            "random:1", "--shape", "B=2,T=5", "--device", "cpu", "--json",
        ];
        let text = ok(&[&args[..], &common[..], more].concat());
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        answer["outputs"].clone()
    };
    let first = run(&["--state-out", &state]);
    assert_eq!(first, run(&[]));
    assert_ne!(first, run(&["--seed", "9"]));
    assert_ne!(first, run(&["--state-in", &state]));
}

#[test]
fn what_cannot_be_run_is_named() {
    let model = "models/hybrid.toml";
    let dir = tempfile::tempdir().expect("a directory");
    let ids = dir.path().join("ids").display().to_string();
    tensor_file::write(Path::new(&ids), [("other", vec![1, 2], &[0.0, 1.0][..])]).expect("written");
    let tiny = ["run", model, "--axis", "L=1", "--weights", "random:0"];
    for (more, says) in [
        (vec!["--input", &ids], "ids"),
        (vec!["--input", "gone.safetensors"], "gone.safetensors"),
        (
            vec!["--output", "/dev/null/place.safetensors"],
            "/dev/null/place",
        ),
        (vec!["--state-in", "gone.safetensors"], "gone.safetensors"),
        (vec!["--shape", "T=0"], "T=0"),
        (vec!["--axis", "Q=2"], "Q"),
    ] {
        let out = fusec(&[&tiny[..], &more].concat());
        assert_eq!(out.status.code(), Some(2), "{more:?}");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(stderr.contains(says), "{more:?}: {stderr}");
    }
}

/// A safetensors file of tensors as type, extents and bytes.
fn write(path: &Path, tensors: &[(&str, &str, &[usize], Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert(name.to_string(), entry);
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], &header, &data].concat()).expect("written");
}

const IDS: [u8; 6] = [5, 17, 3, 250, 99, 8];

/// Token ids of any integer type are the same ids.
#[test]
fn ids_may_be_of_any_integer_type() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ids.safetensors");
    let wide = |bytes: usize| {
        let padded = IDS.iter().map(|id| {
            let mut wide = vec![0u8; bytes];
            wide[0] = *id;
            wide
        });
        padded.flatten().collect::<Vec<u8>>()
    };
    let mut answers = vec![];
    for (dtype, bytes) in [
        ("I64", 8),
        ("U8", 1),
        ("U16", 2),
        ("U32", 4),
        ("U64", 8),
        ("I32", 4),
    ] {
        write(&path, &[("input_ids", dtype, &[2, 3], wide(bytes))]);
        let path = path.display().to_string();
        let args = [
            "run",
            "tests/golden/mamba2-hf",
            "--device",
            "cpu",
            "--json",
            "--input",
        ];
        let answer = ok(&[&args[..], &[&path]].concat());
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        answers.push(answer["outputs"].clone());
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
}

/// Everything in an input file is taken or refused: a mask would change what padding does.
#[test]
fn nothing_in_an_input_file_is_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("in.safetensors");
    let shown = path.display().to_string();
    let run = || {
        fusec(&[
            "run",
            "tests/golden/mamba2-hf",
            "--device",
            "cpu",
            "--input",
            &shown,
        ])
    };
    let ids = || ("input_ids", "U8", &[2usize, 3][..], IDS.to_vec());
    let mask = |mask: [u8; 6]| ("attention_mask", "U8", &[2usize, 3][..], mask.to_vec());
    let other = |name: &'static str| (name, "U8", &[1usize][..], vec![0]);
    write(&path, &[ids(), mask([1; 6])]);
    assert_eq!(run().status.code(), Some(0), "a mask of ones masks nothing");
    for (tensors, says) in [
        (
            vec![ids(), mask([1, 1, 1, 0, 1, 1])],
            "masks 1 tokens at its front in row 1",
        ),
        (
            vec![ids(), mask([1, 0, 0, 1, 1, 1])],
            "masks 2 tokens at its end in row 0",
        ),
        (
            vec![ids(), mask([1, 0, 1, 1, 1, 1])],
            "masks 1 of its 3 tokens in row 0",
        ),
        (
            vec![ids(), mask([0, 0, 0, 1, 1, 1])],
            "masks all of its tokens in row 0",
        ),
        (
            vec![ids(), ("attention_mask", "U8", &[3][..], vec![1; 3])],
            "'attention_mask' has shape [3]",
        ),
        (
            vec![ids(), other("cu_seqlens")],
            "give each sequence as a row of its own",
        ),
        (
            vec![ids(), other("position_ids"), other("labels")],
            "'labels', 'position_ids' are no input of `mamba2`",
        ),
        (
            vec![ids(), other("logits")],
            "'logits' is no input of `mamba2`",
        ),
    ] {
        write(&path, &tensors);
        let out = run();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{says}");
        assert!(stderr.contains(says), "{says}: {stderr}");
    }
}

/// What a checkpoint leaves open is named on stderr and in the answer, unless it is set.
#[test]
fn what_a_checkpoint_leaves_open_is_named() {
    let args = [
        "run",
        "tests/golden/mamba2-hf-groups",
        "--device",
        "cpu",
        "--shape",
        "T=2",
        "--json",
    ];
    let out = fusec(&args);
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["assumed"][0]["setting"], "norm_per_group");
    assert_eq!(answer["assumed"][0]["value"], "false");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        stderr.contains("`norm_per_group`: taken as false"),
        "{stderr}"
    );
    let out = fusec(&[&args[..], &["--set", "norm_per_group=true"]].concat());
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(answer["assumed"], serde_json::Value::Null);
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}

/// A tuned initial state is one to go on from.
#[test]
fn a_tuned_state_starts_a_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.st");
    let matrices: Vec<f32> = (0..2 * 64 * 64).map(|i| (i % 7) as f32 * 0.1).collect();
    let names = ["blocks.0.att.time_state", "blocks.1.att.time_state"];
    let tensors = names.map(|name| (name, vec![2, 64, 64], &matrices[..]));
    tensor_file::write(&path, tensors).expect("written");
    let run = |more: &[&str]| {
        let args = [
            "run",
            "tests/golden/rwkv7-native",
            "--device",
            "cpu",
            "--shape",
            "B=2,T=3",
        ];
        let answer = ok(&[&args[..], &["--json"], more].concat());
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["position"], 3);
        answer["outputs"].clone()
    };
    assert_ne!(run(&["--state-in", &path.display().to_string()]), run(&[]));
}

/// What the message about a tensor that is left over points to exists.
#[test]
fn a_tensor_that_is_left_over_may_be_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("more.safetensors");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gla-fla");
    let checkpoint = Checkpoint::open(&golden).expect("a case");
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = checkpoint
        .names()
        .map(|name| {
            let shape = checkpoint.tensor(name).expect("it").shape.to_vec();
            (
                name.to_string(),
                shape,
                checkpoint.read_f32(name).expect("numbers"),
            )
        })
        .collect();
    tensors.push(("rotary.inv_freq".into(), vec![2], vec![0.5, 0.25]));
    let views = tensors.iter().map(|(n, s, x)| (&n[..], s.clone(), &x[..]));
    tensor_file::write(&path, views).expect("written");
    let weights = path.display().to_string();
    let run = |more: &[&str]| {
        let args = [
            "run",
            "tests/golden/gla-fla",
            "--device",
            "cpu",
            "--shape",
            "T=2",
        ];
        fusec(&[&args[..], &["--weights", &weights], more].concat())
    };
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.contains("--allow-unused 'rotary.inv_freq'"),
        "{stderr}"
    );
    for pattern in ["rotary.inv_freq", "*.inv_freq"] {
        assert_eq!(
            run(&["--allow-unused", pattern]).status.code(),
            Some(0),
            "{pattern}"
        );
    }
}
