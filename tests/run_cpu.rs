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
            vec!["--output", "/no/such/place.safetensors"],
            "/no/such/place",
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
