//! `fusec verify` on the very kernels that ship, run by the emulator: golden cases of every class
//! of recurrence pass under the plan chosen, the unfused one and random ones.
//!
//! `FUSEC_ALL_GOLDEN=1` takes every case instead of a few.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

/// Class, and a case whose recurrence is of it.
const CASES: [(&str, &str); 5] = [
    ("elementwise", "hgrn-fla"),
    ("elementwise", "mamba1-hf"),
    ("diagonal-outer", "mamba2-hf"),
    ("diagonal-outer", "rwkv6-native/model.pth"),
    ("diagonal-rank-one", "gated-deltanet-fla"),
];

const PLANS: [&str; 3] = ["auto", "unfused", "random:1"];

fn json(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(args)
        .arg("--json")
        .output()
        .expect("the binary starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    let status = out.status.code();
    assert!(matches!(status, Some(0 | 1)), "{args:?}: {stderr}");
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

fn cases() -> Vec<String> {
    if std::env::var_os("FUSEC_ALL_GOLDEN").is_none() {
        return CASES.map(|(_, case)| case.to_string()).to_vec();
    }
    let entries = std::fs::read_dir(golden("")).expect("tests/golden");
    let entries = entries.map(|entry| entry.expect("an entry").path());
    let directories = entries.filter(|path| path.is_dir());
    let mut cases: Vec<String> = directories
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_string()))
        .collect();
    cases.sort();
    cases
}

#[test]
fn kernels_reproduce_public_implementations() {
    let mut failed = vec![];
    for case in cases() {
        for plan in PLANS {
            let path = golden(&case).display().to_string();
            let args = ["verify", &path, "--device", "emulator", "--plan", plan];
            let answer = json(&args);
            let error = |part: &str| answer[part]["relative"].as_f64().expect("a number");
            println!(
                "{case} {plan}: {:.1e} {:.1e}",
                error("prefill"),
                error("steps")
            );
            assert_eq!(answer["device"], "emulator");
            if answer["passed"] != true {
                failed.push(format!("{case} {plan}: {answer}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Models with several recurrences in one step, several updates a token, attention beside
/// recurrences: as planned, in f32 against the public implementation and in bf16.
#[test]
fn kernels_of_mixed_models_reproduce_public_implementations() {
    for case in [
        "comba-fla",
        "deltaproduct-fla",
        "griffin-hf",
        "lfm2-hf",
        "linear-attention-fla",
        "xlstm-hf",
    ] {
        let path = golden(case).display().to_string();
        for dtype in ["f32", "bf16"] {
            let answer = json(&["verify", &path, "--device", "emulator", "--dtype", dtype]);
            println!("{case} {dtype}: {} {}", answer["prefill"], answer["steps"]);
            assert_eq!(answer["device"], "emulator");
            assert_eq!(answer["passed"], true, "{case} {dtype}: {answer}");
        }
    }
}

/// Rank-one recurrences, on a device whose steps take so long that prefills go in chunks.
#[test]
fn rank_one_recurrences_in_chunks_reproduce_public_implementations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profile = std::fs::read_to_string(root.join("devices/h200.toml")).expect("profile");
    let slow: String = profile
        .lines()
        .map(|line| match line.starts_with("step_cycles =") {
            true => {
                "step_cycles = { value = 2000000, from = \"estimate\", on = \"none\" }\n".to_owned()
            }
            false => format!("{line}\n"),
        })
        .collect();
    assert_ne!(slow, profile);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slow_steps.toml");
    std::fs::write(&path, slow).expect("written");
    let profile = path.display().to_string();
    for case in [
        "rwkv7-native/model.pth",
        "rwkv7-fla",
        "deltanet-fla",
        "deltanet-fla-gated",
        "gated-deltanet-fla",
        "gated-deltanet-fla-ungated",
        "gated-deltanet-fla-values",
        "kda-fla",
        "kda-fla-bounded",
    ] {
        let path = golden(case).display().to_string();
        let device = ["--device-profile", &profile];
        let plan = [&["plan", &path, "--shape", "B=2,T=64"], &device[..]].concat();
        assert!(
            json(&plan).to_string().contains("recurrent-chunked"),
            "{case}"
        );
        let verify = [&["verify", &path, "--device", "emulator"], &device[..]].concat();
        let answer = json(&verify);
        println!("{case}: {} {}", answer["prefill"], answer["steps"]);
        assert_eq!(answer["passed"], true, "{case}: {answer}");
    }
}

#[test]
fn the_cases_are_of_the_classes_they_stand_for() {
    for (class, case) in CASES {
        let answer = json(&[
            "plan",
            &golden(case).display().to_string(),
            "--shape",
            "B=1,T=37",
        ]);
        let states = &answer["recurrences"][0]["states"];
        let found = states[0]["class"].as_str();
        assert_eq!(found, Some(class), "{case}: {}", answer["recurrences"]);
    }
}

/// Where one badly conditioned token decides the error, in half precision, it is a matter of luck
/// for the unfused plan too: no plan fails for it.
#[test]
fn half_precision_is_as_good_as_the_unfused_plan() {
    let path = golden("rwkv7-fla").display().to_string();
    for (dtype, plan) in [("f16", "greedy"), ("f16", "auto"), ("bf16", "auto")] {
        let args = [
            "verify", &path, "--device", "emulator", "--dtype", dtype, "--plan", plan,
        ];
        let answer = json(&args);
        assert_eq!(answer["passed"], true, "{dtype} {plan}: {answer}");
    }
}
