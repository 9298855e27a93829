//! The commands of docs/training.md, and what `fusec train` refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory with the models and a text.
fn laid_out() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let models = dir.path().join("models");
    std::os::unix::fs::symlink(repository("models"), models).expect("a link");
    let text = "to be or not to be, ".repeat(40);
    fs::write(dir.path().join("text.txt"), text).expect("a file");
    dir
}

fn fusec(dir: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(line.split_whitespace())
        .current_dir(dir)
        .output()
        .expect("it runs")
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_commands_of_the_documentation_do_what_they_say() {
    let text = fs::read_to_string(repository("docs/training.md")).expect("docs/training.md");
    let commands = text
        .lines()
        .filter_map(|line| line.strip_prefix("    fusec "));
    let dir = laid_out();
    let mut count = 0;
    for command in commands {
        let output = fusec(dir.path(), command);
        assert!(
            output.status.success(),
            "fusec {command}: {}",
            said(&output)
        );
        count += 1;
    }
    assert_eq!(count, 4);
    let log = fs::read_to_string(dir.path().join("run/log.jsonl")).expect("a record");
    let losses: Vec<f64> = log
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["loss"].as_f64().expect("a loss")
        })
        .collect();
    assert_eq!(losses.len(), 4);
    assert!(losses.iter().all(|x| x.is_finite()), "{losses:?}");
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let dir = laid_out();
    let few = dir.path().join("few.txt");
    fs::write(few, "to be").expect("a file");
    let base = "train models/gla.toml --steps 1 --batch 1 --length 8 --out run";
    for (more, reason) in [
        (
            "--tokens text.txt --device cuda:0",
            "there are no backward kernels yet",
        ),
        ("--tokens none.txt", "cannot read none.txt"),
        ("--tokens few.txt", "few.txt has 5 tokens"),
        (
            "--tokens text.txt --axis V=100",
            "but the model has 100 entries",
        ),
        ("--tokens text.txt --lr=-1", "--lr is -1"),
        (
            "--tokens text.txt --resume",
            "holds no checkpoint of a training",
        ),
    ] {
        let output = fusec(dir.path(), &format!("{base} {more}"));
        let said = said(&output)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(output.status.code(), Some(2), "{more}: {said}");
        assert!(said.contains(reason), "{more}: {said}");
    }
    let output = fusec(
        dir.path(),
        "train models/gated-scan.toml --tokens text.txt --steps 1 --out run",
    );
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
