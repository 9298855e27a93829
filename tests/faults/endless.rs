//! Paths that lead to what is no file or has no end, files that change while they are read, and places that are
//! read themselves.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{answer, finish, fusec, start};
use crate::tokens;

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo").success());
}

/// Something of somebody else's under a name that is read: a link to a device without an end, or a pipe into
/// which nobody writes.
#[test]
fn what_is_no_file_is_refused_where_a_file_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rwkv7-fla");
    let model = tokens(root.path());
    let plan = root.path().join("plan");
    let out = plan.to_str().expect("a path").to_owned();
    answer(&mut fusec(root.path(), &["compile", &model, "--out", &out])).expect(3, &[]);
    let random = "--weights random:1 --device cpu --shape T=2";
    for name in [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "manifest.json",
        "plan.json",
        "plan.txt",
        "device.json",
        "cubins.json",
        "tuned.json",
        "kernels/fusec.cuh",
    ] {
        for piped in [false, true] {
            let place = root.path().join("place");
            fs::create_dir(&place).expect("a directory");
            let ours = plan.join(name).exists() || name == "tuned.json";
            let whole = if ours { &plan } else { &golden };
            copied(whole, &place);
            let path = place.join(name);
            fs::remove_file(&path).ok();
            if name.ends_with("index.json") {
                fs::remove_file(place.join("model.safetensors")).expect("removed");
            }
            match piped {
                true => pipe(&path),
                false => symlink("/dev/zero", &path).expect("a link"),
            }
            let there = place.display();
            let arguments = match (ours, name) {
                (true, _) => format!("inspect {there}"),
                (_, "tokenizer.json") => {
                    format!("generate {there} --device cpu --prompt x --tokens 1")
                }
                _ => format!("run {there} --device cpu --shape T=2"),
            };
            let arguments: Vec<&str> = arguments.split(' ').collect();
            // Whoever waits for a pipe is stopped, by a signal.
            let mut command = Command::new("timeout");
            command
                .arg("60")
                .arg(env!("CARGO_BIN_EXE_fusec"))
                .args(&arguments);
            command
                .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
                .env("FUSEC_CACHE_DIR", root.path().join("cache"))
                .stdin(Stdio::null());
            let answer = answer(&mut command);
            // A vocabulary that is none is one that is not there, which is said.
            answer.expect(2, &[]);
            assert!(
                !answer.stderr.contains("out of memory"),
                "{name}: {answer:?}"
            );
            fs::remove_dir_all(&place).expect("removed");
        }
    }
    // What the user names may be a stream, and has to end.
    for arguments in [
        format!("generate {model} --axis V=256 {random} --prompt-file /dev/zero --tokens 1"),
        format!("eval {model} --axis V=256 --weights random:1 --device cpu --text /dev/zero"),
        format!("run {model} {random} --input /dev/zero"),
        format!("run {model} {random} --state-in /dev/zero"),
        format!("diff /dev/zero {out}"),
        format!("plan {model} --tuned /dev/zero"),
        "calibrate --fit /dev/zero".to_owned(),
    ] {
        let arguments: Vec<&str> = arguments
            .split(' ')
            .filter(|word| !word.is_empty())
            .collect();
        // Of a machine's memory these take what there is.
        let script = format!(
            "ulimit -v 3000000; exec timeout 100 '{}' \"$@\"",
            env!("CARGO_BIN_EXE_fusec")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(&arguments);
        command.env("FUSEC_CACHE_DIR", root.path().join("cache"));
        let answer = answer(&mut command);
        answer.expect(2, &[]);
        assert!(
            !answer.stderr.contains("out of memory"),
            "{arguments:?}: {answer:?}"
        );
    }
}

/// A pipe that the user names: somebody who writes into it is waited for, nobody is not.
#[test]
fn a_pipe_is_read_and_one_without_a_writer_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    let model = tokens(root.path());
    let pipe_at = |name: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        pipe(&path);
        path.display().to_string()
    };
    let nobody = pipe_at("nobody");
    pipe_at("directory/model.toml");
    let directory = root.path().join("directory").display().to_string();
    let random = "--axis V=256 --weights random:1 --device cpu";
    let script = |text: &str, says: &str, pipe: &str| {
        let script = text.replace("fusec", env!("CARGO_BIN_EXE_fusec"));
        let mut command = Command::new("timeout");
        command
            .args(["60", "sh", "-c", &script, "sh", &model, pipe])
            .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
            .env("FUSEC_CACHE_DIR", &cache)
            .stdin(Stdio::null());
        (start(&mut command), text.to_owned(), says.to_owned())
    };
    let refused: Vec<_> = [
        ("fusec plan $2".to_owned(), "into which nobody writes"),
        (format!("fusec plan {directory}"), "into which nobody writes"),
        ("fusec plan /dev/zero".to_owned(), "4194304"),
        ("fusec plan $1 --device-profile $2".to_owned(), "ending in .toml"),
        ("fusec plan $1 --tuned $2".to_owned(), "into which nobody writes"),
        ("fusec diff $2 $2".to_owned(), "into which nobody writes"),
        ("fusec calibrate --fit $2".to_owned(), "into which nobody writes"),
        ("fusec run $1 --weights $2 --device cpu --shape T=2".to_owned(), "it is no file"),
        ("fusec run $1 --weights /dev/zero --device cpu --shape T=2".to_owned(), "it is no file"),
        (format!("fusec run $1 {random} --input $2"), "it is no file"),
        (format!("fusec run $1 {random} --state-in $2"), "it is no file"),
        (format!("fusec generate $1 {random} --prompt-file $2 --tokens 1"), "into which nobody writes"),
        ("fusec eval $1 --axis V=256 --weights random:1 --device cpu --text $2".to_owned(), "into which nobody writes"),
        ("fusec generate $1 --axis V=256 --weights random:1 --device cpu --tokenizer $2 --prompt x --tokens 1".to_owned(), "it is no file"),
    ]
    .iter()
    .map(|(text, says)| script(text, says, &nobody))
    .collect();
    let read: Vec<_> = [
        ("written", "(cat $1; sleep 1) > $2 & exec fusec plan $2"),
        ("late", "(sleep 1; cat $1) > $2 & exec fusec plan $2"),
        (
            "slow",
            "(sleep 1; echo; sleep 1; cat $1) > $2 & exec fusec plan $2",
        ),
        ("none", "cat $1 | fusec plan /dev/stdin"),
    ]
    .iter()
    .map(|(name, text)| script(text, "", &pipe_at(name)))
    .collect();
    for (child, text, says) in refused {
        println!("{text}");
        finish(child).expect(2, &[&says]);
    }
    for (child, text, _) in read {
        println!("{text}");
        finish(child).expect(0, &[]);
    }
}

/// A pipe where results are to lie: opening one would wait for somebody at its other end.
#[test]
fn pipes_where_results_lie_are_waited_for_by_nobody() {
    let root = tempfile::tempdir().expect("a directory");
    let model = tokens(root.path());
    let cache = root.path().join("cache");
    let at = |name: &str| root.path().join(name).display().to_string();
    fs::create_dir(root.path().join("results")).expect("a directory");
    // What an unfinished file would be called, and a place that is no directory.
    pipe(&root.path().join("results/.fusec-partial-0"));
    pipe(&root.path().join("pipe"));
    let (fine, inside) = (at("results/plan"), at("pipe/plan"));
    let library = at("pipe");
    for (arguments, environment, status, says) in [
        (
            vec!["compile", &model, "--out", &fine],
            None,
            3,
            "no cubins",
        ),
        (
            vec!["compile", &model, "--out", &inside],
            None,
            2,
            "cannot read",
        ),
        (
            vec!["plan", &model],
            Some(("FUSEC_CACHE_DIR", &library)),
            0,
            "",
        ),
        (
            vec!["compile", &model, "--out", &fine],
            Some(("FUSEC_NVRTC", &library)),
            3,
            "it is no file",
        ),
    ] {
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .arg(env!("CARGO_BIN_EXE_fusec"))
            .args(&arguments)
            .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
            .env("FUSEC_CACHE_DIR", &cache)
            .envs(environment)
            .stdin(Stdio::null());
        answer(&mut command).expect(status, &[says]);
    }
}

/// A directory with links to the files of another.
fn copied(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let there = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => {
                fs::create_dir(&there).expect("a directory");
                copied(&path, &there);
            }
            false => symlink(&path, &there).expect("a link"),
        }
    }
}

/// Weights are mapped: what is cut off while they are read is gone.
#[test]
fn weights_that_are_cut_short_while_they_are_read_end_the_program_with_words() {
    use std::time::Duration;

    let root = tempfile::tempdir().expect("a directory");
    let model = tokens(root.path());
    let weights = root.path().join("weights.safetensors");
    let place = weights.to_str().expect("a path");
    // Enough of them that they are still being read when they go.
    let sizes = ["--axis", "V=100000", "--axis", "C=256"];
    let mut export = fusec(
        root.path(),
        &["export", &model, "--weights", "random:1", "--out", place],
    );
    answer(export.args(sizes)).expect(0, &[]);
    let whole = fs::read(&weights).expect("a file");
    let mut seen = false;
    for delay in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        fs::write(&weights, &whole).expect("written");
        let mut run = fusec(
            root.path(),
            &["run", &model, "--weights", place, "--device", "cpu"],
        );
        run.args(sizes)
            .args(["--shape", "T=1"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = run.spawn().expect("the binary starts");
        std::thread::sleep(Duration::from_millis(delay));
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&weights)
            .expect("a file");
        file.set_len(4096).expect("cut");
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(2) => seen |= said.contains("has become shorter"),
            other => panic!("{other:?}: {said}"),
        }
    }
    println!("cut while it was read: {seen}");
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let model = tokens(root.path());
    let at = |name: &str| root.path().join(name).display().to_string();
    let (weights, input, text) = (at("w.safetensors"), at("in.safetensors"), at("text"));
    answer(&mut fusec(
        root.path(),
        &["export", &model, "--weights", "random:1", "--out", &weights],
    ))
    .expect(0, &[]);
    let bytes = [1u8, 0, 0, 0];
    let header = r#"{"ids":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]}}      "#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    fs::write(&input, file).expect("written");
    fs::write(&text, "a text").expect("written");
    symlink(&model, root.path().join("link")).expect("a link");
    let link = at("link");
    for (arguments, kept) in [
        (
            format!("run {model} --weights {weights} --device cpu --shape T=2 --output {model}"),
            &model,
        ),
        (
            format!("run {model} --weights {weights} --device cpu --shape T=2 --output {link}"),
            &model,
        ),
        (
            format!("run {model} --weights {weights} --device cpu --shape T=2 --output {weights}"),
            &weights,
        ),
        (
            format!(
                "run {model} --weights {weights} --device cpu --input {input} --state-out {input}"
            ),
            &input,
        ),
        (
            format!("export {model} --weights {weights} --out {weights}"),
            &weights,
        ),
        (format!("plan {model} --svg {model}"), &model),
        (format!("report {model} --out {model}"), &model),
        (
            format!(
                "generate {model} --axis V=256 --weights random:1 --device cpu --prompt-file {text} --tokens 1 --state-out {text}"
            ),
            &text,
        ),
    ] {
        let before = fs::read(kept).expect("a file");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        answer(&mut fusec(root.path(), &arguments))
            .expect(2, &["would take the place of", "which is read"]);
        assert_eq!(fs::read(kept).expect("a file"), before, "{arguments:?}");
    }
    // A state may be taken on where it lies.
    let state = at("state.safetensors");
    let run = |more: &str| {
        let arguments = format!("run {model} --weights {weights} --device cpu --shape T=2{more}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        answer(&mut fusec(root.path(), &arguments)).expect(0, &[]);
    };
    run(&format!(" --state-out {state}"));
    run(&format!(" --state-in {state} --state-out {state}"));
}
