//! Starting the binary.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `fusec` with a cache of its own, without NVRTC, and with nothing of the caller's environment that
/// changes what it says.
pub fn fusec(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fusec"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", cache)
        .stdin(Stdio::null());
    command
}

/// A run of a model of token ids on the emulator.
pub fn emulated(cache: &Path, model: &str) -> Command {
    let arguments = [
        "run",
        model,
        "--weights",
        "random:1",
        "--device",
        "emulator",
        "--shape",
        "T=9",
    ];
    fusec(cache, &arguments)
}

/// The same, with its output in a file.
pub fn emulated_into(cache: &Path, model: &str, output: &Path) -> Command {
    let mut command = emulated(cache, model);
    command.arg("--output").arg(output);
    command
}

/// What a call gave.
#[derive(Debug)]
pub struct Answer {
    /// The exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub stderr: String,
}

impl Answer {
    /// Fails unless the status is this one, stderr holds all of `says`, and nothing panicked.
    #[track_caller]
    pub fn expect(&self, status: i32, says: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        // Lines are broken for the terminal.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in says {
            assert!(
                words(&self.stderr).contains(text),
                "it should say `{text}`:\n{}",
                self.stderr
            );
        }
    }
}

/// Runs a command to its end.
pub fn answer(command: &mut Command) -> Answer {
    read(command.output().expect("the binary starts"))
}

/// Starts a command whose answer [`finish`] gives.
pub fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Waits for a started command.
pub fn finish(child: Child) -> Answer {
    read(child.wait_with_output().expect("a child"))
}

fn read(output: Output) -> Answer {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Answer {
        status: output.status.code(),
        stderr: text(output.stderr),
    }
}

/// Names in a directory and below that only unfinished things have.
pub fn unfinished(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".fusec-partial-") {
            found.push(name);
        }
        if entry.path().is_dir() {
            found.extend(unfinished(&entry.path()));
        }
    }
    found
}
