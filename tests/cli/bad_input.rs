//! Bad input of every kind: a message that names the thing and the place, no panic, nothing
//! half-written.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::MODEL;
use crate::command::{Answer, fusec, fusec_with, repository};

const MAMBA: &str = "tests/golden/mamba2-hf";
const RWKV: &str = "tests/golden/rwkv6-native/model.pth";

/// A call that fails with this status, whose message holds all of these.
struct Bad<'a> {
    arguments: &'a [&'a str],
    status: i32,
    says: &'a [&'a str],
}

fn refused(bad: &Bad<'_>) {
    let Bad {
        arguments,
        status,
        says,
    } = bad;
    let answer = fusec(arguments);
    assert_eq!(answer.status, Some(*status), "{arguments:?}: {answer:?}");
    assert!(
        !answer.stderr.contains("panicked"),
        "{arguments:?}: {}",
        answer.stderr
    );
    for text in *says {
        assert!(
            answer.stderr.contains(text),
            "{arguments:?} should say `{text}`:\n{}",
            answer.stderr
        );
    }
}

#[test]
fn a_bad_command_line_is_refused_by_name() {
    for bad in [
        Bad {
            arguments: &["plan", "models/none.toml"],
            status: 2,
            says: &["models/none.toml", "No such file"],
        },
        Bad {
            arguments: &["plan", MODEL, "--shape", "B=8,T=0"],
            status: 2,
            says: &["--shape", "`0` is not a whole number from 1 on"],
        },
        Bad {
            arguments: &["plan", MODEL, "--dtype", "fp8"],
            status: 2,
            says: &["--dtype", "fp8", "f32, bf16, f16"],
        },
        Bad {
            arguments: &["plan", MODEL, "--plan", "best"],
            status: 2,
            says: &["--plan", "best", "random:SEED"],
        },
        Bad {
            arguments: &["plan", MODEL, "--device-profile", "h2000"],
            status: 2,
            says: &["h2000", "h200"],
        },
        Bad {
            arguments: &["plan", MODEL, "--device-profile", "no/such.toml"],
            status: 2,
            says: &["no/such.toml"],
        },
        Bad {
            arguments: &["compile", MODEL, "--arch", "sm_30"],
            status: 2,
            says: &["--arch", "sm_30", "sm_75"],
        },
        Bad {
            arguments: &["plan", MODEL, "--preset", "huge"],
            status: 2,
            says: &["no preset called `huge`", "gated-scan.toml"],
        },
        Bad {
            arguments: &["plan", MODEL, "--axis", "Q=3"],
            status: 2,
            says: &["no axis called `Q`", "gated-scan.toml"],
        },
        Bad {
            arguments: &["plan", MODEL, "--axis", "D=3", "--axis", "D=4"],
            status: 2,
            says: &["--axis", "`D` twice"],
        },
        Bad {
            arguments: &["plan", MODEL, "--split", "v,nothing"],
            status: 2,
            says: &["`nothing`", "split"],
        },
        Bad {
            arguments: &["inspect", MODEL, "no_kernel"],
            status: 2,
            says: &["no kernel `no_kernel`", "gated-scan"],
        },
        Bad {
            arguments: &["verify", MAMBA, "--device", "cuda:99"],
            status: 2,
            says: &["cuda:99"],
        },
        Bad {
            arguments: &["run", MODEL],
            status: 2,
            says: &["gated-scan.toml", "--weights"],
        },
        Bad {
            arguments: &["verify", MAMBA, "--weights", RWKV],
            status: 2,
            says: &["mamba2", "model.pth"],
        },
        Bad {
            arguments: &["verify", MAMBA, "--axis", "V=7"],
            status: 2,
            says: &["backbone.embeddings.weight", "V=7", MAMBA],
        },
    ] {
        refused(&bad);
    }
}

/// A model text with one line of the flow, to go wrong in one way.
fn model_text(line: &str) -> String {
    format!(
        "name = \"m\"\n[axes]\nC = 8\nD = 4\n[input]\nx = \"C\"\n[param]\nw = {{ shape = \"D, C\" }}\n\
         [model]\nflow = \"\"\"\n  {line}\n  return y\n\"\"\"\n"
    )
}

#[test]
fn a_bad_model_is_refused_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    let cases = [
        ("y = sum(x, Q)", "Q"),
        ("y = x + (x @ w)", "shapes do not match"),
        ("y = x @ nothing", "unknown name `nothing`"),
        ("y = x ) 2", "expected"),
        ("y = delay(x, -1) + x", "future"),
    ];
    for (line, says) in cases {
        fs::write(&path, model_text(line)).unwrap();
        let answer = fusec(&["plan", path.to_str().unwrap()]);
        assert_eq!(answer.status, Some(2), "{line}: {answer:?}");
        assert!(answer.stderr.contains(says), "{line}: {}", answer.stderr);
        assert!(
            answer.stderr.contains("m.toml:11:"),
            "{line} stands in line 11:\n{}",
            answer.stderr
        );
        assert!(
            !answer.stderr.contains("panicked"),
            "{line}: {}",
            answer.stderr
        );
    }
    fs::write(&path, model_text("y = x * 2")).unwrap();
    assert_eq!(fusec(&["plan", path.to_str().unwrap()]).status, Some(0));
}

/// A copy of the Mamba-2 case whose weights went through `change`.
fn altered(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(repository(MAMBA)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, change(bytes)).unwrap();
    dir
}

/// Replaces the first occurrence of a text in a file's header by one of the same length.
fn replaced(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .expect("the header has it");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

fn verify(dir: &Path) -> Answer {
    fusec(&["verify", dir.to_str().unwrap(), "--device", "cpu"])
}

#[test]
fn a_bad_checkpoint_is_refused_with_the_tensor_and_the_file() {
    let truncated = altered(|bytes| bytes[..bytes.len() / 2].to_vec());
    let renamed = altered(|b| replaced(b, "backbone.norm_f.weight", "backbone.norm_q.weight"));
    let integers = altered(|b| replaced(b, "\"dtype\":\"BF16\"", "\"dtype\": \"I16\""));
    let turned = altered(|b| replaced(b, "\"shape\":[324,64]", "\"shape\":[64,324]"));
    let untouched = altered(|bytes| bytes);
    assert_eq!(verify(untouched.path()).status, Some(0));
    for (dir, says) in [
        (&truncated, "out_proj.weight"),
        (&renamed, "backbone.norm_f.weight"),
        (&integers, "backbone.embeddings.weight"),
        (&turned, "in_proj.weight"),
    ] {
        let answer = verify(dir.path());
        assert_eq!(answer.status, Some(2), "{says}: {answer:?}");
        assert!(answer.stderr.contains(says), "{says}: {}", answer.stderr);
        assert!(
            answer.stderr.contains(dir.path().to_str().unwrap()),
            "{says}: {}",
            answer.stderr
        );
        assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
    }
}

#[test]
fn a_pickle_that_names_anything_but_tensors_is_refused_and_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let proof = dir.path().join("proof");
    let mut archive = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", options).unwrap();
    write!(
        archive,
        "cposix\nsystem\n(S'touch {}'\ntR.",
        proof.display()
    )
    .unwrap();
    archive.start_file("archive/version", options).unwrap();
    archive.write_all(b"3\n").unwrap();
    archive.finish().unwrap();
    let answer = fusec(&["verify", path.to_str().unwrap()]);
    assert_eq!(answer.status, Some(2), "{answer:?}");
    for says in ["posix", "system", "model.pth"] {
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
    }
    assert!(!proof.exists());
}

#[test]
fn nothing_is_written_where_it_cannot_be_or_should_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let below_a_file = file.join("out");
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("thesis.txt"), "mine").unwrap();
    for out in [&below_a_file, &occupied, &file] {
        let out = out.to_str().unwrap();
        let answer = fusec(&["compile", MODEL, "--out", out]);
        assert_eq!(answer.status, Some(2), "{answer:?}");
        assert!(
            answer
                .stderr
                .contains(file.parent().unwrap().to_str().unwrap())
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(
        fs::read_to_string(occupied.join("thesis.txt")).unwrap(),
        "mine"
    );
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["file", "occupied"]);
}

#[test]
fn an_unwritable_cache_is_named_and_stops_nothing_that_can_go_on() {
    if std::env::var("FUSEC_OFFLINE_TESTS").is_ok_and(|value| value == "1") {
        // Not `eprintln!`: the test harness would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN, since FUSEC_OFFLINE_TESTS=1: cubins"
        );
        return;
    }
    // The machine's own compiler, then with a cache below a file.
    let found = std::process::Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(["toolchain", "--json"])
        .output()
        .unwrap();
    assert!(found.status.success(), "{found:?}");
    let info: Value = serde_json::from_slice(&found.stdout).unwrap();
    let nvrtc = info["nvrtc"]["path"].as_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = file.join("cache");
    let out = dir.path().join("out");
    let environment = [
        ("FUSEC_NVRTC", nvrtc),
        ("FUSEC_CACHE_DIR", cache.to_str().unwrap()),
    ];
    let arguments = ["compile", MODEL, "--out", out.to_str().unwrap(), "--json"];
    let answer = fusec_with(&arguments, &environment);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(
        answer.stderr.contains(cache.to_str().unwrap()),
        "{}",
        answer.stderr
    );
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(report["cubins"]["cached"], 0);
    let compiled = report["cubins"]["compiled"].as_u64().unwrap();
    let cubins = fs::read_dir(out.join("kernels"))
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "cubin")
        })
        .count();
    assert_eq!(cubins as u64, compiled);
    let inspected = fusec(&["inspect", out.to_str().unwrap(), "--json"]);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    for kernel in inspected["kernels"].as_array().unwrap() {
        assert!(
            kernel["resources"]["registers"].as_u64().unwrap() > 0,
            "{kernel}"
        );
    }
}
