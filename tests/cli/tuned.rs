//! Plans that were measured: what `compile`, `plan` and `explain` do with a record, and what they refuse.
//!
//! The record is made by the code that `compile --tune` makes it with, with times that are given: there
//! need not be a GPU here.

use std::fs;
use std::path::Path;

use fusec_codegen::Manifest;
use fusec_fuse::Plan;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::bench::Spread;
use fusec_runtime::tune::{Bounds, Timer, Tuned, WITHIN};
use serde_json::Value;

use crate::MODEL;
use crate::command::{Answer, fusec_in, repository};
use crate::tuning;

/// Each plan is a little faster than the one before it.
struct Falling(f32);

impl Timer for Falling {
    fn time(&mut self, _: &Manifest, _: &Plan) -> Result<Spread, String> {
        self.0 *= 0.9;
        Ok(Spread::of(&[self.0]))
    }
}

/// The record of a model of the repository at the shape, type and device that verbs assume.
pub fn record(model: &str) -> Vec<u8> {
    let source = ModelSource::from_path(&repository(model)).expect("a model");
    let graph = compile(&source, &Overrides::default()).expect("a model");
    let bounds = Bounds {
        within: WITHIN,
        most: 4,
    };
    let machine = ("a device of a test", Some("no driver"));
    let tuned = tuning::record(&graph, (8, 2048), bounds, || Falling(1.0), machine);
    serde_json::to_vec_pretty(&tuned).expect("JSON")
}

fn laid_out() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(repository("models"), dir.path().join("models")).expect("a link");
    fs::write(dir.path().join("tuned.json"), record(MODEL)).expect("a file");
    dir
}

fn call(dir: &Path, line: &str) -> Answer {
    let arguments: Vec<&str> = line.split(' ').collect();
    fusec_in(dir, &arguments, &[])
}

#[test]
fn a_record_is_used_without_a_gpu_and_kept_beside_the_plan() {
    let dir = laid_out();
    let at = |path: &str| dir.path().join(path);
    let answer = call(
        dir.path(),
        &format!("compile {MODEL} --tuned tuned.json --out out/a"),
    );
    assert_eq!(answer.status, Some(3), "{answer:?}");
    assert!(
        answer.stdout.contains("measured on a device of a test"),
        "{answer:?}"
    );
    let text = fs::read_to_string(at("out/a/plan.txt")).expect("a plan");
    assert!(
        text.contains("the cost model's choice") && text.contains("\n* "),
        "{text}"
    );
    let kept = fs::read(at("out/a/tuned.json")).expect("the record");
    assert_eq!(Tuned::parse(&kept), Tuned::parse(&record(MODEL)));
    // From the directory, into itself and into another one: the same plans.
    for out in ["out/a", "out/b"] {
        let line = format!("compile {MODEL} --tuned out/a --out {out}");
        let answer = call(dir.path(), &line);
        assert_eq!(answer.status, Some(3), "{answer:?}");
        for file in ["plan.json", "manifest.json", "tuned.json"] {
            let read = |dir: &str| fs::read(at(dir).join(file)).expect("a file");
            assert!(read("out/a") == read(out), "{out} {file}");
        }
    }
    // What runs a directory accepts it.
    let line = format!(
        "run {MODEL} --device emulator --plan-dir out/a --weights random:1 --shape B=1,T=5"
    );
    let answer = call(dir.path(), &line);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    // What was measured is said beside what was predicted.
    for verb in ["plan", "explain"] {
        let line = format!("{verb} {MODEL} --tuned out/a");
        let answer = call(dir.path(), &line);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        for part in ["measured on a device of a test", "prefill, B=8 T=2048"] {
            assert!(answer.stdout.contains(part), "{verb} {part}: {answer:?}");
        }
        assert!(!answer.stdout.contains("decode, B=8"), "{answer:?}");
        let answer = call(dir.path(), &format!("{line} --json"));
        let json: Value = serde_json::from_str(&answer.stdout).expect("JSON");
        let measured = &json["measured"];
        let chosen = measured["chosen"].as_u64().expect("a number") as usize;
        assert!(chosen > 0, "{measured}");
        let winner = &measured["candidates"][chosen];
        assert!(winner["predicted_us"].is_number(), "{winner}");
        assert!(
            winner["outcome"]["measured"]["median"].is_number(),
            "{winner}"
        );
        assert_eq!(measured["machine"]["device"], "a device of a test");
        // Nothing is said of what was not measured.
        let answer = call(dir.path(), &format!("{verb} {MODEL} --json"));
        let json: Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert!(json.get("measured").is_none(), "{json}");
    }
}

#[test]
fn what_was_measured_is_refused_where_it_does_not_hold() {
    let dir = laid_out();
    let tuned = format!("compile {MODEL} --tuned tuned.json --out out/a");
    let answer = call(dir.path(), &tuned);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    let to = "--out out/b";
    for (line, messages) in [
        (
            format!("compile {MODEL} --tuned out/a {to} --shape B=8,T=1024"),
            &["the shape was B=8 T=1 or B=8 T=2048", "B=8 T=1024"][..],
        ),
        (
            format!("plan {MODEL} --tuned out/a --shape B=1,T=2048"),
            &["and is B=1 T=2048"],
        ),
        (
            format!("plan {MODEL} --tuned out/a --dtype bf16"),
            &["the storage type was f32, and is bf16"],
        ),
        (
            format!("explain {MODEL} --tuned out/a --device-profile a100"),
            &["the device profile was h200, and is a100"],
        ),
        (
            format!("compile {MODEL} --tuned out/a {to} --arch sm_90"),
            &["the architecture was sm_90a, and is sm_90"],
        ),
        (
            format!("plan {MODEL} --tuned out/a --split g,y"),
            &["by wish was nothing, and is split g,y"],
        ),
        (
            format!("plan {MODEL} --tuned out/a --axis C=64"),
            &["the sources", "measure again with --tune"],
        ),
        (
            "plan models/gla.toml --tuned out/a".into(),
            &["the model was gated-scan, and is gla"],
        ),
        (
            format!("plan {MODEL} --tuned out/a --plan greedy"),
            &["and so does --plan greedy"],
        ),
        (
            format!("plan {MODEL} --tuned models"),
            &["models/tuned.json", "`fusec compile --tune` writes one"],
        ),
        (
            format!("plan {MODEL} --tuned {MODEL}"),
            &["is no record of tuning"],
        ),
        (
            format!("compile {MODEL} --tune --tuned out/a {to}"),
            &["cannot be used with"],
        ),
        (format!("compile {MODEL} --within 10% {to}"), &["--tune"]),
        (
            format!("compile {MODEL} --tune --device emulator {to}"),
            &["say nothing about a GPU"],
        ),
        (
            format!("compile {MODEL} --tune --device cpu {to}"),
            &["there is no GPU", "--tuned"],
        ),
        (
            format!("compile {MODEL} --tune --plan greedy {to}"),
            &["--plan greedy otherwise"],
        ),
        // What took a GPU to make is not overwritten by what did not.
        (
            format!("compile {MODEL} --out out/a"),
            &["holds what was measured", "--tuned out/a"],
        ),
        (tuned, &["holds what was measured"]),
    ] {
        let answer = call(dir.path(), &line);
        assert_eq!(answer.status, Some(2), "{line}: {answer:?}");
        for message in messages {
            assert!(
                answer.stderr.contains(message),
                "{line}: {message}: {answer:?}"
            );
        }
        assert!(!dir.path().join("out/b").exists(), "{line}");
    }
}
