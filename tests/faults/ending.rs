//! Signals and kills: the exit status names the signal, nothing half-written is taken for whole, and what
//! is left is swept by the next run.
//!
//! What a process is at is asked of `/proc`.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{answer, emulated_into, fusec, start, unfinished};
use crate::{NUMBERS, tokens};

/// Kills in each of the two tests of kills, and in those that are run by hand.
const KILLS: u32 = 25;
const MANY_KILLS: u32 = 500;

/// Ticks of processor time, hundredths of a second, after which a verb is in the middle of its work.
const AT_WORK: u64 = 30;

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

/// Waits until `ready`, which the child has to outlive. However busy the machine is, nothing here is
/// taken for done because time has passed.
fn wait_until(child: &mut Child, ready: impl Fn(&Child) -> bool) {
    let began = Instant::now();
    while !ready(child) {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended before: {ended:?}");
        assert!(began.elapsed() < Duration::from_secs(300), "it never comes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the system says of a process, in one of its files.
fn told(child: &Child, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default()
}

/// Whether a signal is in a set of a process: `SigCgt`, those it handles, or `SigIgn`.
fn has(child: &Child, set: &str, signal: i32) -> bool {
    let status = told(child, "status");
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & 1 << (signal - 1) != 0
}

/// Processor time of a process and of nothing that it started, in ticks.
fn ticks(child: &Child) -> u64 {
    let about = told(child, "stat");
    // Behind the name, which is in brackets: the state is field 3, the times are 14 and 15.
    let fields = about.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|time| time.parse::<u64>().ok()).sum()
}

/// A stream into which nothing fits any more, with what has to stay open for it: whoever writes to it
/// waits for ever.
fn full() -> (UnixStream, UnixStream) {
    let (mut writer, reader) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("it can be set");
    for bytes in [4096, 1] {
        while writer.write(&vec![b' '; bytes]).is_ok() {}
    }
    writer.set_nonblocking(false).expect("it can be set");
    (writer, reader)
}

/// A signal by its name, its number, and the status of a program that it ends.
const SIGNALS: [(&str, i32, i32); 3] = [("INT", 2, 130), ("TERM", 15, 143), ("HUP", 1, 129)];

#[test]
fn a_signal_ends_work_with_its_status_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "a text of some length ".repeat(500)).expect("a file");
    let [text, out, trained, page] = [
        &text,
        &dir.path().join("out"),
        &dir.path().join("trained"),
        &dir.path().join("page.html"),
    ]
    .map(|path| path.to_str().expect("a path").to_string());
    // As many layers as take long to plan, in whatever verb plans.
    let large = "models/rwkv7.toml --axis L=2000";
    let weights = "--weights random:1";
    let works = [
        format!("plan {large}"),
        format!("explain {large}"),
        format!("compile {large} --out {out}"),
        format!("inspect {large}"),
        format!("report {large} --out {page}"),
        format!("verify {model} {weights} --device cpu --steps 1000000"),
        format!("run models/rwkv7.toml {weights} --device cpu --shape B=8,T=4096"),
        format!(
            "generate {model} --axis V=256 {weights} --device cpu --prompt Once --tokens 1000000"
        ),
        format!(
            "train {model} --axis V=256 --tokens {text} --steps 1000000 --batch 4 --length 32 --out {trained}"
        ),
        format!(
            "bench {model} --device cpu --shape B=4,T=4096 --runs 1000000 --warmup 0 --most-seconds 600"
        ),
    ];
    for (n, arguments) in works.iter().enumerate() {
        let (name, number, status) = SIGNALS[n % SIGNALS.len()];
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let mut command = fusec(&cache, &arguments);
        let mut child = quiet(&mut command);
        wait_until(&mut child, |child| {
            has(child, "SigCgt", number) && ticks(child) >= AT_WORK
        });
        signal(&child, name);
        let ended = child.wait().expect("a child");
        assert_eq!(ended.code(), Some(status), "{name}: {arguments:?}");
        assert_eq!(unfinished(dir.path()), [""; 0], "{name}: {arguments:?}");
    }
    assert!(!Path::new(&out).exists());
    assert!(!Path::new(&page).exists());
}

#[test]
fn a_signal_while_kernels_are_built_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let run = "run models/rwkv7.toml --weights random:1 --device emulator";
    let arguments: Vec<&str> = run.split(' ').collect();
    for (name, _, status) in SIGNALS {
        let mut child = quiet(&mut fusec(&cache, &arguments));
        // Its compiler takes seconds: there is a directory to be left behind.
        wait_until(&mut child, |_| !unfinished(&cache).is_empty());
        signal(&child, name);
        assert_eq!(
            child.wait().expect("a child").code(),
            Some(status),
            "{name}"
        );
        assert_eq!(unfinished(dir.path()), [""; 0], "{name}");
    }
}

/// Starts a command of which nobody reads what it says.
fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

/// Every verb there is, however short its work: each says something, and waits for ever to have it said.
#[test]
fn a_signal_ends_every_verb_with_its_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("text.txt"), "a text of some length ".repeat(50)).expect("a file");
    let [compiled, out, text] = [at("compiled"), at("out"), at("text.txt")];
    answer(&mut fusec(
        &cache,
        &["compile", NUMBERS, "--out", &compiled],
    ))
    .expect(3, &[]);
    let random = format!("{model} --axis V=256 --weights random:1");
    let verbs = [
        format!("compile {NUMBERS} --out {out}"),
        format!("plan {NUMBERS}"),
        format!("explain {NUMBERS}"),
        format!("diff {compiled} {compiled}"),
        format!("inspect {compiled}"),
        format!("report {NUMBERS} --out {}", at("page.html")),
        "models".into(),
        format!("init --out {} idea", at("idea.toml")),
        format!("import tests/golden/rwkv7-fla --out {}", at("imported")),
        format!("export {random} --out {}", at("w.safetensors")),
        format!("check {model} --device cpu"),
        format!("verify {random} --device cpu"),
        format!("run {random} --device cpu"),
        format!("generate {random} --device cpu --prompt Once --tokens 3"),
        format!("eval {random} --device cpu --text {text}"),
        format!(
            "train {model} --axis V=256 --tokens {text} --steps 2 --batch 2 --length 8 --out {}",
            at("trained")
        ),
        format!("bench {model} --device cpu --runs 2"),
        format!(
            "calibrate --fit bench/results/h200/2026-11-29-gla.json --out {}",
            at("device.toml")
        ),
        "toolchain --offline".into(),
        format!("man {}", at("man")),
    ];
    let help = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .arg("--help")
        .output();
    let help = String::from_utf8(help.expect("it starts").stdout).expect("text");
    let (_, list) = help.split_once("Commands:").expect("a list");
    let known = list
        .lines()
        .skip(1)
        .map_while(|line| line.split_whitespace().next());
    for verb in known.filter(|verb| *verb != "help") {
        let tried = verbs
            .iter()
            .any(|line| line.split(' ').next() == Some(verb));
        assert!(tried, "`{verb}` is not tried");
    }
    for (n, arguments) in verbs.iter().enumerate() {
        let (name, number, status) = SIGNALS[n % SIGNALS.len()];
        let (stdout, _open) = full();
        let stderr = stdout.try_clone().expect("a copy");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let mut command = fusec(&cache, &arguments);
        command
            .stdout(OwnedFd::from(stdout))
            .stderr(OwnedFd::from(stderr));
        let mut child = command.spawn().expect("the binary starts");
        // Its work is done, or far from it: whatever it is at, the signal ends it.
        wait_until(&mut child, |child| has(child, "SigCgt", number));
        signal(&child, name);
        let ended = child.wait().expect("a child");
        assert_eq!(ended.code(), Some(status), "{name}: {arguments:?}");
        assert_eq!(unfinished(dir.path()), [""; 0], "{name}: {arguments:?}");
    }
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let script = format!(
        "trap '' HUP; exec '{}' verify '{model}' --weights random:1 --device cpu --steps 1000000",
        env!("CARGO_BIN_EXE_fusec")
    );
    let mut child = quiet(Command::new("sh").args(["-c", &script]));
    wait_until(&mut child, |child| {
        has(child, "SigCgt", 15) && ticks(child) >= AT_WORK
    });
    assert!(has(&child, "SigIgn", 1) && !has(&child, "SigCgt", 1));
    signal(&child, "HUP");
    // It goes on working.
    let before = ticks(&child);
    wait_until(&mut child, |child| ticks(child) >= before + AT_WORK);
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
