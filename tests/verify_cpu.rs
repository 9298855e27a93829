//! `fusec verify` on the CPU: golden cases pass, and only they.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fusec_ir::language::Overrides;
use fusec_runtime::cpu::CpuSession;
use fusec_runtime::golden::GoldenCase;
use fusec_runtime::model::Model;
use fusec_runtime::verify::{self, Case, Comparison};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

/// Every case that is there.
fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden("")).expect("tests/golden");
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 2);
    cases
}

fn fusec(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(args)
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn golden_cases_pass_within_their_bound() {
    for case in cases() {
        let path = case.display().to_string();
        let out = fusec(&["verify", &path, "--device", "cpu", "--json"]);
        assert_eq!(out.status.code(), Some(0), "{path}: {}", text(&out.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(answer["device"], "cpu");
        assert_eq!(answer["passed"], true);
        for part in ["prefill", "steps"] {
            let error = answer[part]["relative"].as_f64().expect("a number");
            // Exactly 0 would mean that nothing was compared.
            let bound = answer["bound"].as_f64().expect("a number");
            assert!(
                bound <= 2e-3 && error > 0.0 && error <= bound,
                "{path} {part}: {error}"
            );
            assert!(answer[part]["compared"].as_u64() > Some(1000));
        }
    }
}

#[test]
fn the_pth_itself_is_accepted() {
    let path = golden("rwkv6-native").join("model.pth");
    let out = fusec(&["verify", &path.display().to_string(), "--device", "cpu"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("passed: accepted is 5.0e-5 of max |expected|"));
}

#[test]
fn a_bound_that_is_exceeded_is_exit_status_1() {
    let case = golden("mamba2-hf");
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(&case).expect("the case") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    std::fs::write(copy.path().join("about.json"), r#"{"bound": 1e-9}"#).expect("written");
    let out = fusec(&[
        "verify",
        &copy.path().display().to_string(),
        "--device",
        "cpu",
    ]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stdout).contains("FAILED"),
        "{}",
        text(&out.stdout)
    );
}

fn compare(model: &Model, params: Vec<Vec<f64>>, case: &Case) -> Comparison {
    let mut session = CpuSession::from_params(&model.graph, params).expect("a session");
    verify::compare(&mut session, case).expect("a comparison")
}

/// The cases would not pass with slightly wrong mathematics: each parameter matters. Left out are
/// those whose reference ran in a lower precision, which have a wider bound and blind spots
/// (tests/golden/README.md).
#[test]
fn no_parameter_can_be_off_without_being_noticed() {
    for path in cases() {
        let golden = GoldenCase::open(&path).expect("a case");
        if golden.bound > 5e-5 {
            continue;
        }
        let model = Model::open(&path, &Overrides::default()).expect("a model");
        let case = Case::golden(&model.graph, &golden).expect("a case of this model");
        let params = model.weights(None).expect("weights").to_f64();
        let exact = compare(&model, params.clone(), &case);
        assert!(exact.passed(), "{}: {exact:?}", path.display());
        for (i, param) in model.graph.params.iter().enumerate() {
            let mut wrong = params.clone();
            // Not all elements: a norm would undo a common factor.
            for x in wrong[i].iter_mut().step_by(3) {
                *x = *x * 1.05 + 1e-3;
            }
            let found = compare(&model, wrong, &case);
            assert!(
                !found.passed(),
                "{}: `{}` is off by 5 %, and nobody noticed: {found:?}",
                path.display(),
                param.name
            );
        }
    }
}

#[test]
fn without_a_golden_case_the_f64_interpreter_is_the_reference() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hybrid.toml");
    let model = model.display().to_string();
    let args = ["verify", &model, "--axis", "L=2", "--weights", "random:3"];
    let out = fusec(&args);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("against the f64 interpreter"));
}

/// Two numbers of about 80,000 of which only the difference of about 1 is kept: f32 has seven digits.
#[test]
fn what_cancels_is_accepted_as_far_as_rounding_accounts_for_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("cancels.toml");
    for (offset, passed) in [(0, true), (10_000, true), (100_000_000, false)] {
        let sum = 8 * offset;
        let model = format!(
            "name = \"cancels\"\n[axes]\nC = 8\n[input]\nx = \"C\"\n\
             [model]\nflow = \"return x * (sum(x + {offset}, C) - {sum})\"\n"
        );
        std::fs::write(&path, model).expect("a file");
        let model = path.to_str().expect("a path");
        let weights = ["--weights", "random:0"];
        let verify = ["verify", model, "--device", "cpu", "--json"];
        let out = fusec(&[&verify[..], &weights].concat());
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&out.stderr)));
        assert_eq!(answer["passed"], passed, "{offset}: {answer}");
        let rounding = &answer["rounding"];
        assert_eq!(rounding.is_null(), offset == 0, "{offset}: {answer}");
        assert!(answer["bound"].as_f64() <= Some(1e-2), "{answer}");
    }
}

#[test]
fn what_cannot_be_verified_is_named_with_exit_status_2() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hybrid.toml");
    let model = model.display().to_string();
    let case = golden("mamba2-hf").display().to_string();
    let edited = tempfile::tempdir().expect("a directory");
    let config = std::fs::read_to_string(golden("mamba2-hf").join("config.json")).expect("read");
    for (from, to, name) in [
        (r#""mamba2""#, r#""mamba9""#, "mamba9"),
        (
            r#""use_bias": false"#,
            r#""use_bias": true"#,
            "mixer.in_proj.bias",
        ),
        (r#""use_bias": false"#, r#""use_rope": 3"#, "use_rope"),
        (r#""n_groups": 1"#, r#""n_groups": 3"#, "multiple of 6"),
    ] {
        assert!(config.contains(from));
        std::fs::write(edited.path().join("config.json"), config.replace(from, to)).expect("ok");
        let weights = golden("mamba2-hf").join("model.safetensors");
        std::fs::copy(weights, edited.path().join("model.safetensors")).expect("a copy");
        let out = fusec(&["verify", &edited.path().display().to_string()]);
        assert_eq!(out.status.code(), Some(2), "{to}");
        assert!(
            text(&out.stderr).contains(name),
            "{to}: {}",
            text(&out.stderr)
        );
    }
    for (args, says) in [
        (vec!["verify", "no-such-directory"], "no-such-directory"),
        (vec!["verify", &model], "--weights"),
        (vec!["verify", &case, "--device", "tpu"], "tpu"),
        (vec!["verify", &case, "--axis", "Ns=64"], "does not fit"),
        (
            vec!["verify", &case, "--golden", "gone.safetensors"],
            "about.json",
        ),
    ] {
        let out = fusec(&args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(
            text(&out.stderr).contains(says),
            "{args:?}: {}",
            text(&out.stderr)
        );
    }
}
