//! What one does all day: check a model, look at its kernels, have it planned again at each save.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::MODEL;
use crate::command::{Answer, fusec, fusec_in};

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A small language model; `{flow}` is what its layer does with `x`.
const TEXT: &str = r#"
name = "small"
[axes]
V = 16
C = 16
[param]
emb  = { shape = "V, C", init = "normal(1)" }
rate = { shape = "C", init = "uniform(-1, 1)" }
head = { shape = "V, C" }
[recurrence.ema]
inputs  = "x[C], a[C]"
state   = "S[C]"
outputs = "y[C]"
step    = """
  S = a * S + (1 - a) * x
  y = S
"""
[model]
flow = """
  x = gather(emb, ids)
  x = {flow}
  logits = rms_norm(x, C, eps = 1e-5) @ head
  return logits
"""
"#;

fn written(dir: &Path, flow: &str) {
    fs::write(dir.join("small.toml"), TEXT.replace("{flow}", flow)).expect("a file");
}

#[test]
fn a_check_says_of_each_gate_how_it_was_passed_and_ends_accordingly() {
    let dir = tempfile::tempdir().expect("a directory");
    let shape = ["--shape", "B=2,T=12", "--steps", "3", "--json"];
    for (flow, device, status, verdict, gates) in [
        // There is no CUDA compiler here.
        (
            "x + ema(x, sigmoid(rate))",
            "emulator",
            3,
            "pass",
            [
                "not_available",
                "pass",
                "pass",
                "pass",
                "not_available",
                "pass",
            ],
        ),
        // The interpreter has no kernels to compare.
        (
            "x + ema(x, sigmoid(rate))",
            "cpu",
            3,
            "pass",
            [
                "not_available",
                "pass",
                "pass",
                "pass",
                "not_available",
                "not_available",
            ],
        ),
        // Two branches that say the same.
        (
            "x + ema(x, sigmoid(rate)) + 2 * ema(x, sigmoid(rate))",
            "cpu",
            3,
            "warn",
            [
                "not_available",
                "pass",
                "pass",
                "pass",
                "warn",
                "not_available",
            ],
        ),
    ] {
        written(dir.path(), flow);
        let arguments = [&["check", "small.toml", "--device", device], &shape[..]].concat();
        let answer = fusec_in(dir.path(), &arguments, &[]);
        assert_eq!(answer.status, Some(status), "{answer:?}");
        let found = json(&answer);
        let verdicts: Vec<&str> = found["gates"]
            .as_array()
            .expect("gates")
            .iter()
            .map(|gate| gate["verdict"].as_str().expect("a verdict"))
            .collect();
        assert_eq!(verdicts, gates, "{flow} on {device}: {found}");
        assert_eq!(found["verdict"], verdict);
    }
    // A gate that fails is the status, compiler or not, and hides none of the others.
    written(dir.path(), "x + log(ema(x, sigmoid(rate)) - 100)");
    let arguments = [&["check", "small.toml", "--device", "emulator"], &shape[..]].concat();
    let answer = fusec_in(dir.path(), &arguments, &[]);
    assert_eq!(answer.status, Some(1), "{answer:?}");
    let found = json(&answer);
    for (at, verdict) in [(1, "fail"), (2, "fail"), (3, "fail"), (5, "fail")] {
        assert_eq!(found["gates"][at]["verdict"], verdict, "{found}");
    }
    assert_eq!(found["verdict"], "fail");
}

#[test]
fn a_kernel_says_where_in_the_model_its_operations_stand() {
    let answer = fusec(&["inspect", MODEL, "--json"]);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    let found = json(&answer);
    let text = fs::read_to_string(crate::command::repository(MODEL)).expect("a model");
    let mut places = 0;
    for kernel in found["kernels"].as_array().expect("kernels") {
        for used in kernel["uses"].as_array().expect("uses") {
            assert!(used["grid"].as_u64() > Some(0), "{used}");
            let share = used["roof_share"].as_f64().expect("a share");
            assert!(share > 0.0 && share <= 1.0, "{used}");
            for op in used["places"].as_array().expect("operations") {
                let place = op["place"].as_str().expect("a place");
                let (file, line) = place.rsplit_once(':').expect("FILE:LINE");
                assert_eq!(file, MODEL);
                let line: usize = line.parse().expect("a line");
                let line = text.lines().nth(line - 1).expect("a line of the model");
                assert!(!line.trim().is_empty(), "{op}");
                places += 1;
            }
        }
    }
    assert!(places > 0);
}

#[test]
fn a_place_that_cannot_be_written_is_found_before_the_work() {
    let out = "/no/such/directory/file";
    for arguments in [
        &["plan", MODEL, "--svg", out][..],
        &["report", MODEL, "--out", out],
        &["export", MODEL, "--weights", "random:1", "--out", out],
        &["run", MODEL, "--weights", "random:1", "--output", out],
        &["run", MODEL, "--weights", "random:1", "--state-out", out],
        &["bench", MODEL, "--device", "cpu", "--out", out],
        &[
            "bench",
            MODEL,
            "--device",
            "cpu",
            "--sweep=8",
            "--plots",
            "/dev/null/plots",
        ],
        &["calibrate", "--out", out],
    ] {
        let answer = fusec(arguments);
        assert_eq!(answer.status, Some(2), "{arguments:?}: {answer:?}");
        assert_eq!(answer.stdout, "", "{arguments:?}");
        assert!(
            answer.stderr.contains("cannot write /"),
            "{arguments:?}: {answer:?}"
        );
    }
}

#[test]
fn steps_are_timed_at_several_numbers_of_sequences() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    written(dir, "x + ema(x, sigmoid(rate))");
    let arguments = "bench small.toml --device cpu --mode decode --batch 4,1,2 --runs 5 --warmup 1 --plots plots";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let answer = fusec_in(dir, &arguments, &[]);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    let csv = fs::read_to_string(dir.join("plots/sweep.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 1 + 3, "{csv}");
    let svg = fs::read_to_string(dir.join("plots/throughput-over-batch.svg")).expect("a plot");
    assert_eq!(svg.matches("<polyline").count(), 1, "{svg}");
    // One length is no line.
    assert!(!dir.join("plots/throughput.svg").exists());
    let both = fusec_in(
        dir,
        &["bench", "small.toml", "--batch", "2", "--shape", "B=1,T=1"],
        &[],
    );
    assert_eq!(both.status, Some(2), "{both:?}");
}

/// A program that is ended with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_sweep_goes_over_lengths_and_sequences_and_stands_beside_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    written(dir, "x + ema(x, sigmoid(rate))");
    let record = |device: &str| {
        let row = |time: usize, figures: &str| {
            format!(
                r#"{{"model": "small", "way": "compiled", "batch": 2, "time": {time}, "dtype": "float32"{figures}}}"#
            )
        };
        let figures = r#", "milliseconds": {"median": 0.5, "p10": 0.4, "p90": 0.6, "runs": 100},
            "tokens_per_second": 16000.0, "peak_bytes": 4096"#;
        let rows = [
            row(4, figures),
            row(8, r#", "error": "out of memory""#),
            // At a length that is not swept.
            row(16, figures),
        ];
        let text = format!(r#"{{"device": "{device}", "rows": [{}]}}"#, rows.join(","));
        fs::write(dir.join("others.json"), text).expect("a file");
    };
    let sweep = |more: &[&str]| {
        let mut arguments = vec!["bench", "small.toml", "--device", "cpu", "--sweep=4,8"];
        arguments.extend([
            "--batch",
            "1,2",
            "--runs",
            "5",
            "--warmup",
            "1",
            "--plots",
            "plots",
            "--out",
            "result.json",
        ]);
        arguments.extend(more);
        fusec_in(dir, &arguments, &[])
    };
    record("cpu");
    let answer = sweep(&["--beside", "others.json"]);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert_eq!(
        answer.stdout.matches("small compiled").count(),
        1,
        "{answer:?}"
    );
    let read = |name: &str| fs::read_to_string(dir.join("plots").join(name)).expect(name);
    let csv = read("sweep.csv");
    // A heading, two lengths at two numbers of sequences, and one of the others.
    assert_eq!(csv.lines().count(), 1 + 4 + 1, "{csv}");
    let columns = csv.lines().next().expect("a heading").split(',').count();
    let same = |line: &str| line.split(',').count() == columns;
    assert!(csv.lines().all(same), "{csv}");
    for (name, lines) in [
        (
            "throughput.svg",
            &["small, B=1", "small, B=2", "small compiled, B=2"][..],
        ),
        (
            "throughput-over-batch.svg",
            &["small, T=4", "small, T=8", "small compiled, T=4"],
        ),
    ] {
        let svg = read(name);
        for line in lines {
            assert!(svg.contains(&format!(">{line}<")), "{name}: {line}: {svg}");
        }
        assert_eq!(svg.matches("<polyline").count(), lines.len(), "{svg}");
    }
    // Without a GPU there is no plan without fusion to compare with.
    assert!(!dir.join("plots/speed-up.svg").exists());
    // What was recorded is drawn again as it was.
    let recorded = [
        "bench",
        "--recorded",
        "result.json",
        "--beside",
        "others.json",
        "--plots",
        "again",
    ];
    let again = fusec_in(dir, &recorded, &[]);
    assert_eq!(again.status, Some(0), "{again:?}");
    assert_eq!(
        fs::read_to_string(dir.join("again/sweep.csv")).ok(),
        Some(csv)
    );
    let result = fs::read_to_string(dir.join("result.json")).expect("a record");
    let result: Value = serde_json::from_str(&result).expect("JSON");
    let subject = &result["subjects"][0];
    assert_eq!(subject["config"]["axes"]["C"], 16, "{subject}");
    let loss = &subject["measurements"][0]["loss"];
    assert!(loss.as_f64().is_some_and(|loss| loss > 0.0), "{subject}");
    record("another machine");
    for (file, says) in [
        (
            "others.json",
            "was taken on another machine, and this runs on cpu",
        ),
        ("small.toml", "is no record of others"),
        ("nothing.json", "is no record of others"),
    ] {
        let answer = sweep(&["--beside", file]);
        assert_eq!(answer.status, Some(2), "{answer:?}");
        assert!(answer.stderr.contains(says), "{answer:?}");
    }
}

#[test]
fn a_model_that_is_watched_is_planned_again_at_each_save() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    written(dir.path(), "x + ema(x, sigmoid(rate))");
    let said = File::create(at("said")).expect("a file");
    let watch = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(["compile", "small.toml", "--watch", "--out", "out"])
        .current_dir(dir.path())
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", "/dev/null/cache")
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .spawn()
        .expect("the binary starts");
    let mut watch = Running(watch);
    // What was said after the first `from` bytes, once `wanted` is part of it and it watches again.
    let mut from = 0;
    let mut until = |wanted: &str| {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(at("said")).expect("a text");
            let new = text.get(from..).unwrap_or_default().to_owned();
            if new.contains(wanted) && new.ends_with("Ctrl-C ends it\n") {
                from = text.len();
                return new;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "no `{wanted}`: {text}"
            );
            sleep(Duration::from_millis(20));
        }
    };
    until("watching small.toml");
    let before = fs::read(at("out/plan.json")).expect("a plan");

    written(dir.path(), "x + ema(x * x, sigmoid(rate))");
    let said = until("kernels chosen in");
    for wanted in [
        "planned again in ",
        " with the kernels of before",
        "prefill: ",
        " launches, ",
    ] {
        assert!(said.contains(wanted), "no `{wanted}`: {said}");
    }
    assert_ne!(fs::read(at("out/manifest.json")).ok(), None);
    assert_ne!(
        fs::read(at("out/plan.json")).expect("a plan"),
        before,
        "it is written anew"
    );

    written(dir.path(), "x + nothing");
    until("unknown name `nothing`");
    written(dir.path(), "x + ema(x * x, sigmoid(rate))   ");
    until("the model means what was planned last");
    assert!(
        watch.0.try_wait().expect("a state").is_none(),
        "it ended by itself"
    );
}
