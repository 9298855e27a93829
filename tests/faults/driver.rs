//! What a driver can answer, call by call: no device, one that is busy, lost or full, a kernel that faults, a call
//! that never returns. Behind `driver.cpp`, built as libcuda.so, there is no GPU.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fusec_runtime::plan_dir::sha256;
use serde_json::{Value, json};

use crate::command::{Answer, answer, fusec, unfinished};
use crate::tokens;

/// What a driver says: its number, its name, and whether the context is of no use afterwards.
const OUT_OF_MEMORY: Status = (2, "CUDA_ERROR_OUT_OF_MEMORY");
const BUSY: Status = (46, "CUDA_ERROR_DEVICE_UNAVAILABLE");
const NO_DEVICE: Status = (100, "CUDA_ERROR_NO_DEVICE");
const BROKEN_MEMORY: Status = (214, "CUDA_ERROR_ECC_UNCORRECTABLE");
const ILLEGAL_ADDRESS: Status = (700, "CUDA_ERROR_ILLEGAL_ADDRESS");
const LOST: Status = (999, "CUDA_ERROR_UNKNOWN");

type Status = (u32, &'static str);

/// Long for any of these runs, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(300);

struct Machine {
    root: tempfile::TempDir,
    model: String,
    plan: PathBuf,
}

/// A machine with that driver, and a plan compiled for it: what its cubins hold is of no interest there.
fn machine() -> Machine {
    let root = tempfile::tempdir().expect("a directory");
    let library = root.path().join("driver");
    fs::create_dir(&library).expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/driver.cpp");
    let compiler = std::env::var_os("FUSEC_CXX").unwrap_or_else(|| "g++".into());
    let built = Command::new(compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
        ])
        .arg(source)
        .arg("-o")
        .arg(library.join("libcuda.so"))
        .status();
    assert!(built.expect("a compiler").success());
    let model = tokens(root.path());
    let plan = root.path().join("plan");
    let out = plan.to_str().expect("a path");
    let arguments = [
        "compile", &model, "--out", out, "--shape", "B=2,T=40", "--arch", "sm_90a",
    ];
    answer(&mut fusec(root.path(), &arguments)).expect(3, &[]);
    let manifest = fs::read(plan.join("manifest.json")).expect("a file");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    // A cubin is looked through before a driver gets it.
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/cubin/sm_90a");
    let cubin = fs::read(seed).expect("a cubin");
    let mut hashes = BTreeMap::new();
    for kernel in manifest["kernels"].as_array().expect("a list") {
        let name = kernel["image"].as_str().expect("a name");
        let path = plan.join(format!("kernels/{name}.sm_90a.cubin"));
        fs::write(path, &cubin).expect("written");
        hashes.insert(name, sha256(&cubin));
    }
    let index = json!({ "version": 1, "sha256": { "sm_90a": hashes } });
    fs::write(plan.join("cubins.json"), index.to_string()).expect("written");
    Machine { root, model, plan }
}

impl Machine {
    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    /// A verb on a device of this machine.
    fn command(&self, verb: &str, device: &str, more: &[&str]) -> Command {
        let mut command = fusec(self.root.path(), &[verb]);
        if verb == "run" {
            command.arg(&self.model);
        }
        command
            .args([
                "--weights",
                "random:1",
                "--device",
                device,
                "--shape",
                "B=2,T=7",
            ])
            .args(more)
            .env("LD_LIBRARY_PATH", self.root.path().join("driver"));
        command
    }

    /// A verb with the plan.
    fn planned(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = self.command(verb, "cuda:0", more);
        command
            .arg("--plan-dir")
            .arg(&self.plan)
            .arg("--trust-foreign-code");
        command
    }
}

/// As [`answer`], within [`PATIENCE`].
fn in_time(command: &mut Command, what: &str) -> Answer {
    let log = tempfile::tempfile().expect("a file");
    let said = log.try_clone().expect("a copy");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::from(said))
        .spawn()
        .expect("the binary starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().ok();
            child.wait().ok();
            panic!("{what} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    use std::io::{Read, Seek};
    let (mut log, mut stderr) = (log, String::new());
    log.rewind().expect("a file");
    log.read_to_string(&mut stderr).expect("UTF-8");
    Answer {
        status: status.code(),
        stderr,
    }
}

#[test]
fn devices_that_are_not_there_are_said() {
    let machine = machine();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, i32, &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (&[], "cuda:1", 2, &["no device cuda:1", "sees 1 GPU"]),
        (&[("DRIVER_DEVICES", "0")], "cuda:0", 2, &["sees 0 GPU"]),
        (&[("DRIVER_DEVICES", "0")], "auto", 0, &[]),
        (
            &[("DRIVER_VERSION", "11080")],
            "cuda:0",
            2,
            &["driver is for CUDA 11.8", "at least 12.8"],
        ),
        (
            &[("DRIVER_VERSION", "11080")],
            "auto",
            0,
            &["driver is for CUDA 11.8"],
        ),
        (
            &[("DRIVER_FAILS", "cuInit:1:100")],
            "cuda:0",
            2,
            &["sees 0 GPU"],
        ),
        (&[("DRIVER_FAILS", "cuInit:1:100")], "auto", 0, &[]),
        (
            &[("DRIVER_FAILS", "cuInit:1:999")],
            "cuda:0",
            2,
            &["cannot initialise the driver", LOST.1],
        ),
        // There is a GPU, and it does not work: the interpreter is taken, and that is said.
        (
            &[("DRIVER_FAILS", "cuInit:1:999")],
            "auto",
            0,
            &["cannot initialise the driver", LOST.1],
        ),
    ];
    for (environment, device, status, says) in cases {
        let mut command = machine.command("run", device, &[]);
        for (name, value) in environment {
            command.env(name, value);
        }
        let answer = in_time(&mut command, device);
        answer.expect(status, says);
        if says.is_empty() {
            assert!(
                answer.stderr.is_empty(),
                "{environment:?} {device}: {}",
                answer.stderr
            );
        }
    }
}

/// Another process has the device to itself, or it has failed since it was counted.
#[test]
fn a_device_that_cannot_be_had_is_said() {
    let machine = machine();
    let mut command = machine.planned("run", &[]);
    command.env("DRIVER_FAILS", "cuDevicePrimaryCtxRetain:1:46");
    in_time(&mut command, "a busy device").expect(
        2,
        &[
            "cuda:0 cannot be had",
            BUSY.1,
            "another process has it to itself",
            "nvidia-smi",
        ],
    );
}

#[test]
fn memory_that_is_short_is_refused_with_figures() {
    let machine = machine();
    let small = in_time(
        machine.planned("run", &[]).env("DRIVER_MEMORY", "3000"),
        "a small device",
    );
    small.expect(2, &["needs", "free", "largest buffer"]);
    // What was free is not when it is asked for.
    let taken = in_time(
        machine
            .planned("run", &[])
            .env("DRIVER_FAILS", "cuMemAlloc_v2:2:2"),
        "memory that is taken meanwhile",
    );
    taken.expect(2, &["cannot allocate", "are free", "another program"]);
}

/// How often a run calls each function of the driver.
fn calls(machine: &Machine, mut command: Command) -> Vec<(String, usize)> {
    let file = machine.path("calls");
    answer(command.env("DRIVER_CALLS", &file)).expect(0, &[]);
    let text = fs::read_to_string(&file).expect("written at the end");
    let line = |line: &str| {
        let (name, n) = line.split_once(' ').expect("two words");
        (name.to_owned(), n.parse().expect("a number"))
    };
    text.lines().map(line).collect()
}

/// What a driver gets back where things end.
fn frees(function: &str) -> bool {
    [
        "Destroy",
        "Free",
        "Unload",
        "Release",
        // Memory is freed with the context of its device as the thread's, whatever is being recorded.
        "cuCtxPushCurrent",
        "cuCtxPopCurrent",
        "cuThreadExchangeStreamCaptureMode",
    ]
    .iter()
    .any(|word| function.contains(word))
}

/// The first, the last and one call between of every function fail with what it may say, in every verb that runs
/// kernels: always an error with the driver's word for it, never results.
#[test]
fn whatever_call_fails_is_an_error_that_says_so() {
    let machine = machine();
    let out = machine.path("out");
    let all: [&[&str]; 2] = [
        &["run", "--output", &out],
        &[
            "bench",
            "--runs",
            "3",
            "--warmup",
            "0",
            "--per-kernel",
            "--out",
            &out,
        ],
    ];
    let mut cases = Vec::new();
    for arguments in all {
        let command = machine.planned(arguments[0], &arguments[1..]);
        for (function, count) in calls(&machine, command) {
            fs::remove_dir_all(&out)
                .or_else(|_| fs::remove_file(&out))
                .ok();
            let mut places = vec![1, count.div_ceil(2), count];
            places.dedup();
            for (n, place) in places.into_iter().enumerate() {
                let kinds = [
                    ILLEGAL_ADDRESS,
                    LOST,
                    BUSY,
                    BROKEN_MEMORY,
                    OUT_OF_MEMORY,
                    NO_DEVICE,
                ];
                // All of them at the first call; of the others each in turn.
                let some = if n == 0 { 0..kinds.len() } else { n..n + 1 };
                for status in &kinds[some] {
                    cases.push((
                        arguments,
                        function.clone(),
                        (place, place == count),
                        *status,
                    ));
                }
            }
        }
    }
    assert!(cases.len() > 100, "{}: does it call anything?", cases.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let out = machine.path(&format!("out-{thread}"));
            let (cases, machine, next, failed) = (&cases, &machine, &next, &failed);
            scope.spawn(move || {
                while let Some((arguments, function, (n, last), (code, name))) =
                    cases.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let what = format!("{} with {name} at call {n} of {function}", arguments[0]);
                    let more: Vec<&str> = arguments[1..]
                        .iter()
                        .map(|word| {
                            if word.ends_with("/out") {
                                out.as_str()
                            } else {
                                word
                            }
                        })
                        .collect();
                    let mut command = machine.planned(arguments[0], &more);
                    command.env("DRIVER_FAILS", format!("{function}:{n}:{code}"));
                    let answer = in_time(&mut command, &what);
                    // What was computed by then is right, and nobody is left who could be told.
                    let late = frees(function) || function.starts_with("cuCtx") && *last;
                    // Which GPU's clocks are read: a record says why it has none.
                    let late = late || function == "cuDeviceGetPCIBusId";
                    // `bench` records what failed.
                    let written = arguments[0] != "bench" && Path::new(&out).exists();
                    if let Some(why) = wrong(&answer, (*code, name), late, written) {
                        failed
                            .lock()
                            .expect("no panic")
                            .push(format!("{what}: {why}\n{}", answer.stderr));
                    }
                    fs::remove_dir_all(&out)
                        .or_else(|_| fs::remove_file(&out))
                        .ok();
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    println!("{} failures of the driver", cases.len());
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    assert_eq!(unfinished(machine.root.path()), [""; 0]);
}

/// What is wrong with an answer to a failing call.
fn wrong(answer: &Answer, (code, name): Status, late: bool, written: bool) -> Option<String> {
    let words = answer
        .stderr
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if words.contains("panicked") {
        return Some("a panic".into());
    }
    match answer.status {
        Some(0) if late => None,
        Some(2) if written && !late => Some("it has written results".into()),
        Some(2) => {
            // Some have words of their own.
            let said = words.contains(name)
                || (code == 2 && words.contains("cannot allocate"))
                || (code == 100 && words.contains("sees 0 GPU"));
            (!said).then(|| "the driver's word for it is missing".into())
        }
        other => Some(format!("status {other:?}")),
    }
}

#[test]
fn a_kernel_that_faults_is_named_with_what_it_computes() {
    let machine = machine();
    // The first run of a shape waits for each kernel; one wait belongs to each copy of weights and inputs.
    let counted = calls(&machine, machine.planned("run", &[]));
    let waits = counted
        .iter()
        .find(|(name, _)| name == "cuStreamSynchronize")
        .expect("it waits")
        .1;
    let mut kernels = 0;
    for n in 1..=waits {
        let fails = format!("cuStreamSynchronize:{n}:700");
        let mut command = machine.planned("run", &[]);
        let answer = in_time(command.env("DRIVER_FAILS", fails), "a fault");
        answer.expect(2, &[ILLEGAL_ADDRESS.1]);
        if answer.stderr.contains("which computes") {
            answer.expect(2, &["kernel `", "failed with", "not used any further"]);
            kernels += 1;
        }
    }
    assert!(kernels > 0, "{counted:?}");
}

/// A GPU that does not answer: whoever waits for it can be interrupted.
#[test]
fn a_wait_without_an_end_is_interrupted() {
    let machine = machine();
    for (function, signal, status) in [
        ("cuStreamSynchronize", "INT", 130),
        ("cuMemAlloc_v2", "TERM", 143),
        ("cuLaunchKernel", "HUP", 129),
        ("cuInit", "INT", 130),
    ] {
        let out = machine.path("out");
        let mut command = machine.planned("run", &["--output", &out]);
        command.env("DRIVER_HANGS", format!("{function}:1"));
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // It comes to that call, and stays there.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(child.try_wait().expect("a child"), None, "{function}");
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
        let began = Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().ok();
                panic!("{function}: SIG{signal} does not end it");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(ended.code(), Some(status), "{function}");
        assert!(!Path::new(&out).exists());
    }
    assert_eq!(unfinished(machine.root.path()), [""; 0]);
}
