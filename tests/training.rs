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
    assert_eq!(count, 7);
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
    let large: Vec<u8> = (1..=20u16).flat_map(|i| (100 * i).to_le_bytes()).collect();
    for (name, bytes) in [
        ("few.txt", b"to be".as_slice()),
        ("large.bin", &large),
        ("odd.bin", b"to be"),
        ("bytes.txt", &[0xff; 40]),
    ] {
        fs::write(dir.path().join(name), bytes).expect("a file");
    }
    let base = "train models/gla.toml --out run";
    for (more, reason) in [
        (
            "--tokens text.txt --device cuda:99",
            "cannot run on cuda:99",
        ),
        (
            "--tokens text.txt --device cpu --dtype bf16",
            "the interpreter computes in f32",
        ),
        ("--tokens none.txt", "cannot read none.txt"),
        ("--tokens few.txt", "few.txt: 5 tokens are too few"),
        (
            "--tokens text.txt --axis V=100",
            "the model's 100 tokens are no bytes",
        ),
        (
            "--tokens large.bin",
            "large.bin: token 2 is 300, but the model has 256 (ids 0 to 255)",
        ),
        (
            "--tokens odd.bin",
            "odd.bin has 5 bytes, which are no numbers of 2",
        ),
        ("--tokens bytes.txt", "cannot read bytes.txt"),
        ("--tokens text.txt --lr=-1", "--lr is -1"),
        ("--tokens text.txt --clip inf", "--clip is inf"),
        ("--tokens text.txt --accumulate 0", "--accumulate is 0"),
        (
            "--tokens text.txt --accumulate 18446744073709551615",
            "give a number from 1 to 1073741824",
        ),
        (
            "--tokens text.txt --save-every 1073741825",
            "--save-every is 1073741825",
        ),
        ("--tokens text.txt --batch 0", "B (sequences)"),
        (
            "--tokens text.txt --batch 1048577",
            "B (sequences) is 1048577",
        ),
        (
            "--tokens text.txt --resume",
            "holds no checkpoint of a training",
        ),
    ] {
        // A flag that is given twice is refused as such.
        let usual = ["--steps 1", "--batch 1", "--length 8"].into_iter();
        let usual = usual.filter(|flag| !more.contains(&flag[..flag.len() - 1]));
        let usual = usual.collect::<Vec<_>>().join(" ");
        let output = fusec(dir.path(), &format!("{base} {usual} {more}"));
        let said = said(&output)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(output.status.code(), Some(2), "{more}: {said}");
        assert!(said.contains(reason), "{more}: {said}");
    }
    for (model, reason) in [
        ("models/gated-scan.toml", "is no token id per position"),
        ("none.toml", "none.toml"),
    ] {
        let line = format!("train {model} --tokens text.txt --steps 1 --out run");
        let output = fusec(dir.path(), &line);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{model}: {said}");
        assert!(said.contains(reason), "{model}: {said}");
    }
    assert!(!dir.path().join("run").exists(), "nothing was begun");
    // A run that no machine has memory for is refused before any of it is asked for.
    for line in [
        "train models/gla.toml --tokens text.txt --steps 1 --batch 65536 --length 512 --out run",
        "verify models/gla.toml --gradients --shape B=65536,T=512",
    ] {
        let output = fusec(dir.path(), line);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(
            said.contains("needs") && said.contains("free"),
            "{line}: {said}"
        );
    }
}

/// The files of the latest checkpoint and the lines of the record but their times.
fn course(out: &Path) -> (Vec<(String, Vec<u8>)>, Vec<serde_json::Value>) {
    let steps = fs::read_dir(out).expect("a training");
    let steps = steps.map(|entry| entry.expect("an entry").path());
    let latest = steps.filter(|path| path.is_dir()).max().expect("a step");
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(latest)
        .expect("a checkpoint")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    let log = fs::read_to_string(out.join("log.jsonl")).expect("a record");
    let lines = log.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["seconds"].take();
        line
    });
    (files, lines.collect())
}

#[test]
fn a_training_that_is_killed_goes_on_as_if_it_had_not_been() {
    let dir = laid_out();
    let line = "train models/gla.toml --axis C=32 --axis L=1 --tokens text.txt --valid text.txt \
                --steps 24 --batch 2 --length 24 --accumulate 2 --save-every 8 --valid-every 5 \
                --warmup 4";
    let whole = fusec(dir.path(), &format!("{line} --out whole"));
    assert!(whole.status.success(), "{}", said(&whole));

    let killed = dir.path().join("killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(format!("{line} --out killed").split_whitespace())
        .current_dir(dir.path())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    // After the first checkpoint, wherever it is then.
    while !killed.join("step-00000008").exists() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended early: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("waited for");
    // What it was writing, and a line that was cut off.
    fs::create_dir(killed.join(".fusec-partial-cut")).expect("a directory");
    fs::write(killed.join(".fusec-partial-cut/weights.safetensors"), "h").expect("a file");
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(killed.join("log.jsonl"))
        .expect("a record");
    std::io::Write::write_all(&mut log, b"{\"step\":23,\"lo").expect("written");

    let other = fusec(
        dir.path(),
        &format!("{line} --out killed --resume --lr 0.5"),
    );
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
    assert!(
        said(&other).contains("lr 0.001, now 0.5"),
        "{}",
        said(&other)
    );
    let again = fusec(dir.path(), &format!("{line} --out killed"));
    assert!(
        said(&again).contains("holds a training already"),
        "{}",
        said(&again)
    );
    let resumed = fusec(dir.path(), &format!("{line} --out killed --resume"));
    assert!(resumed.status.success(), "{}", said(&resumed));
    assert!(!killed.join(".fusec-partial-cut").exists());
    let (want, got) = (course(&dir.path().join("whole")), course(&killed));
    assert_eq!(want.1.len(), 24);
    assert_eq!(got.1, want.1, "the same losses");
    assert!(got.0 == want.0, "the same files, to the bit");
    let loss = |line: &serde_json::Value| line["loss"].as_f64().expect("a loss");
    let (first, last) = (loss(&want.1[0]), loss(&want.1[23]));
    assert!(last < 0.95 * first, "the loss falls: {first} to {last}");
}

#[test]
fn what_is_not_finite_stops_with_the_last_good_checkpoint() {
    let dir = laid_out();
    let line = "train models/gla.toml --axis C=32 --axis L=1 --tokens text.txt --steps 9 --batch 1 \
                --length 8 --save-every 1 --schedule constant --clip 0 --lr 1e30 --out run";
    let output = fusec(dir.path(), line);
    let said = said(&output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(output.status.code(), Some(2), "{said}");
    for says in ["step ", "not finite", "checkpoint"] {
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn no_two_trainings_write_to_one_directory() {
    let dir = laid_out();
    let line = "train models/gla.toml --axis C=32 --axis L=1 --tokens text.txt --batch 1 --length 8 \
                --save-every 1000000 --out run";
    let mut child = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(format!("{line} --steps 1000000").split_whitespace())
        .current_dir(dir.path())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    let log = dir.path().join("run/log.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains('\n')) {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended early: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let second = fusec(dir.path(), &format!("{line} --steps 2"));
    child.kill().expect("killed");
    child.wait().expect("waited for");
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
    assert!(
        said(&second).contains("another fusec train is at work in run"),
        "{}",
        said(&second)
    );
    // Whoever was killed holds nothing, and left no checkpoint to go on from.
    let third = fusec(dir.path(), &format!("{line} --steps 2"));
    assert!(third.status.success(), "{}", said(&third));
    let text = fs::read_to_string(log).expect("a record");
    assert_eq!(text.lines().count(), 2, "{text}");
}
