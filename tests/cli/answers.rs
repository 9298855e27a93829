//! Help, answers and exit statuses of calls that are as they should be.

use std::fs;

use serde_json::Value;

use crate::MODEL;
use crate::command::{Answer, fusec};

#[test]
fn help() {
    for verb in [
        "",
        "compile",
        "plan",
        "explain",
        "diff",
        "inspect",
        "report",
        "check",
        "verify",
        "models",
        "init",
        "import",
        "export",
        "run",
        "generate",
        "eval",
        "train",
        "bench",
        "calibrate",
        "toolchain",
        "man",
    ] {
        let arguments: Vec<&str> = [verb, "--help"]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        let Answer { status, stdout, .. } = fusec(&arguments);
        assert_eq!(status, Some(0), "{verb}");
        let name = if verb.is_empty() { "fusec" } else { verb };
        insta::assert_snapshot!(format!("help_{name}"), stdout);
    }
}

#[test]
fn without_a_compiler_plans_and_sources_are_written_and_the_status_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("gated");
    let out_text = out.to_str().unwrap();
    let answer = fusec(&["compile", MODEL, "--out", out_text]);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    for says in ["FUSEC_NVRTC=/no/such/libnvrtc.so.13", "or .12", out_text] {
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
    }
    for file in ["plan.txt", "plan.json", "manifest.json"] {
        assert!(out.join(file).metadata().unwrap().len() > 0, "{file}");
    }
    let (kernels, others): (Vec<String>, Vec<String>) = fs::read_dir(out.join("kernels"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .partition(|name| name.ends_with(".cu"));
    assert!(!kernels.is_empty());
    assert_eq!(others, ["fusec.cuh"]);
    // A second time, in its own place.
    let again = fusec(&["compile", MODEL, "--out", out_text]);
    assert_eq!(again.status, Some(3), "{again:?}");
    assert_eq!(fusec(&["inspect", out_text]).status, Some(0));
    assert_eq!(fusec(&["toolchain"]).status, Some(3));
}

#[test]
fn a_plan_as_json_adds_up() {
    for (model, shape) in [
        ("models/hybrid.toml", "B=8,T=2048"),
        ("models/hybrid.toml", "B=1,T=1"),
        ("models/mamba2.toml", "B=8,T=2048"),
    ] {
        let answer = fusec(&["plan", model, "--dtype", "bf16", "--shape", shape, "--json"]);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        let plan: Value = serde_json::from_str(&answer.stdout).unwrap();
        let number = |value: &Value| value.as_f64().unwrap();
        let kernels = plan["kernels"].as_array().unwrap();
        assert_eq!(number(&plan["launches"]) as usize, kernels.len());
        let total: f64 = kernels.iter().map(|k| number(&k["cost"]["total_us"])).sum();
        assert!((number(&plan["total_us"]) / total - 1.0).abs() < 1e-9);
        let second_layer = kernels.iter().filter(|k| k["layer"] == 1).count();
        assert_eq!(number(&plan["launches_per_layer"]) as usize, second_layer);
        assert!(
            number(&plan["launches_per_layer"]) < number(&plan["unfused"]["launches_per_layer"])
        );
        assert!(number(&plan["bytes"]) <= number(&plan["unfused"]["bytes"]));
        assert!(
            kernels
                .iter()
                .all(|k| !k["ops"].as_array().unwrap().is_empty())
        );
    }
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        let out = dir.path().join(name);
        let answer = fusec(&[
            "compile",
            "models/hybrid.toml",
            "--dtype",
            "bf16",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_eq!(answer.status, Some(3), "{answer:?}");
        let mut files: Vec<_> = fs::read_dir(out.join("kernels"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.extend(["plan.txt", "plan.json", "manifest.json"].map(|file| out.join(file)));
        files.sort();
        files
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_owned();
                (name, fs::read(path).unwrap())
            })
            .collect::<Vec<_>>()
    };
    assert!(read("one") == read("two"));
}

/// Plans are made for the architecture asked for, not for that of the device profile.
#[test]
fn kernels_ask_for_no_more_than_the_architecture_has() {
    let dir = tempfile::tempdir().unwrap();
    // The hybrid's two recurrences: in every type where tensor cores are other ones for each; side by side where
    // there is least room for them, and most.
    let apart = ["models/rwkv6.toml", "models/mamba2.toml"];
    let both = ["models/hybrid.toml"];
    for (arch, number, kib, dtype, models) in [
        ("sm_75", 75, 64, "bf16", &both[..]),
        ("sm_75", 75, 64, "f32", &apart),
        ("sm_75", 75, 64, "f16", &apart),
        ("sm_86", 86, 99, "f32", &apart),
        ("sm_86", 86, 99, "bf16", &apart),
        ("sm_90a", 90, 227, "bf16", &both),
        ("sm_90a", 90, 227, "f16", &apart),
    ] {
        for (n, model) in models.iter().enumerate() {
            let out = dir.path().join(format!("{arch}-{dtype}-{n}"));
            let place = out.to_str().unwrap();
            let answer = fusec(&[
                "compile", model, "--arch", arch, "--dtype", dtype, "--out", place,
            ]);
            assert_eq!(answer.status, Some(3), "{answer:?}");
            let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
            let kernels = manifest["kernels"].as_array().unwrap();
            assert!(!kernels.is_empty());
            for kernel in kernels {
                let name = &kernel["name"];
                let at_least = kernel["min_arch"].as_u64().unwrap();
                assert!(
                    at_least <= number,
                    "{model} {arch} {dtype}: {name} needs {at_least}"
                );
                let shared = kernel["shared_bytes"].as_u64().unwrap();
                assert!(
                    shared <= kib * 1024,
                    "{model} {arch} {dtype}: {name} takes {shared}"
                );
            }
        }
    }
}

#[test]
fn output_that_is_not_a_terminal_has_no_colours_and_may_be_cut_off() {
    let answer = fusec(&["plan", "models/none.toml"]);
    assert!(!answer.stderr.contains('\x1b'));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(["plan", "models/hybrid.toml", "--dtype", "bf16", "--json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
