//! Signals and kills: the exit status names the signal, nothing half-written is taken for whole, and what
//! is left is swept by the next run.
#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::command::{answer, emulated_into, fusec, start, unfinished};
use crate::{NUMBERS, tokens};

/// Kills in each of the two tests of kills, and in those that are run by hand.
const KILLS: u32 = 25;
const MANY_KILLS: u32 = 500;

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

/// Waits until `ready`, which the child has to outlive.
fn wait_until(child: &mut Child, ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended before: {ended:?}");
        assert!(began.elapsed() < Duration::from_secs(120), "it never comes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_ends_any_verb_with_its_status_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    let emulated: &[&str] = &[
        "run",
        "models/rwkv7.toml",
        "--weights",
        "random:1",
        "--device",
        "emulator",
    ];
    let verified: &[&str] = &[
        "verify",
        &model,
        "--weights",
        "random:1",
        "--device",
        "cpu",
        "--steps",
        "1000000",
    ];
    let timed: &[&str] = &[
        "bench",
        &model,
        "--device",
        "cpu",
        "--shape",
        "B=4,T=4096",
        "--runs",
        "1000000",
        "--warmup",
        "0",
        "--most-seconds",
        "600",
    ];
    // As many layers as take long to plan, in whatever verb plans.
    let large = ["models/rwkv7.toml", "--axis", "L=2000"];
    let planned = ["plan", large[0], large[1], large[2]];
    let explained = ["explain", large[0], large[1], large[2]];
    let out = dir.path().join("out");
    let out = out.to_str().expect("a path");
    let compiled = ["compile", large[0], large[1], large[2], "--out", out];
    for (arguments, name, status) in [
        (&planned[..], "INT", 130),
        (&explained[..], "TERM", 143),
        (&compiled[..], "INT", 130),
        (emulated, "INT", 130),
        (emulated, "TERM", 143),
        (emulated, "HUP", 129),
        (verified, "TERM", 143),
        (timed, "TERM", 143),
        (timed, "INT", 130),
    ] {
        let mut child = start(&mut fusec(&cache, arguments));
        match arguments == emulated {
            // Its compiler takes seconds: there is a directory to be left behind.
            true => wait_until(&mut child, || !unfinished(&cache).is_empty()),
            // The handler stands from the first moments on.
            false => std::thread::sleep(Duration::from_millis(700)),
        }
        signal(&child, name);
        let ended = child.wait().expect("a child");
        assert_eq!(ended.code(), Some(status), "{name}: {arguments:?}");
        assert_eq!(unfinished(dir.path()), [""; 0], "{name}: {arguments:?}");
    }
    assert!(!Path::new(out).exists());
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let script = format!(
        "trap '' HUP; exec '{}' verify '{model}' --weights random:1 --device cpu --steps 1000000",
        env!("CARGO_BIN_EXE_fusec")
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .spawn()
        .expect("sh");
    std::thread::sleep(Duration::from_millis(700));
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("a child").is_none(), "it ended");
    signal(&child, "TERM");
    assert_eq!(child.wait().expect("a child").code(), Some(143));
}

/// Starts a command and kills it the harder way.
fn kill(command: &mut Command, after: Duration) {
    let mut child = start(command);
    std::thread::sleep(after);
    // It may have ended already.
    child.kill().ok();
    child.wait().expect("a child");
}

#[test]
fn killed_compilations_leave_whole_directories_only() {
    kill_compilations(KILLS);
}

#[test]
#[ignore = "takes minutes"]
fn many_killed_compilations_leave_whole_directories_only() {
    kill_compilations(MANY_KILLS);
}

fn kill_compilations(kills: u32) {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let place = dir.path().join("plans");
    let out = place.join("out");
    let out_name = out.to_str().expect("a path");
    let compile = || fusec(&cache, &["compile", NUMBERS, "--out", out_name]);
    let began = Instant::now();
    answer(&mut compile()).expect(3, &[]);
    let whole = began.elapsed();
    std::fs::write(out.join("notes.md"), "mine").expect("a note");
    for n in 0..kills {
        kill(&mut compile(), whole * n / kills);
        answer(&mut fusec(&cache, &["inspect", out_name])).expect(0, &[]);
    }
    answer(&mut compile()).expect(3, &[]);
    assert_eq!(unfinished(&place), [""; 0]);
    let note = std::fs::read_to_string(out.join("notes.md"));
    assert_eq!(note.expect("kept"), "mine");
}

#[test]
fn killed_runs_leave_a_cache_that_can_be_used() {
    kill_runs(KILLS);
}

#[test]
#[ignore = "takes minutes"]
fn many_killed_runs_leave_a_cache_that_can_be_used() {
    kill_runs(MANY_KILLS);
}

fn kill_runs(kills: u32) {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let run = |cache: &Path, output: &Path| emulated_into(cache, &model, output);
    let expected = dir.path().join("expected.safetensors");
    let began = Instant::now();
    answer(&mut run(&dir.path().join("other"), &expected)).expect(0, &[]);
    let whole = began.elapsed();
    let cache = dir.path().join("cache");
    let output = dir.path().join("got.safetensors");
    for n in 0..kills {
        kill(&mut run(&cache, &output), whole * (n + 1) / kills);
        if output.exists() {
            let got = std::fs::read(&output).expect("whole");
            assert_eq!(got, std::fs::read(&expected).expect("a file"));
            std::fs::remove_file(&output).expect("removed");
        }
    }
    answer(&mut run(&cache, &output)).expect(0, &[]);
    let got = std::fs::read(&output).expect("whole");
    assert_eq!(got, std::fs::read(&expected).expect("a file"));
    assert_eq!(unfinished(dir.path()), [""; 0]);
}
