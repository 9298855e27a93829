//! Calling the binary as a user does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a call gave.
#[derive(Debug)]
pub struct Answer {
    /// The exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs `fusec` in the repository with nothing of the caller's environment that changes what it
/// says, and with a cache and a compiler that are not there.
pub fn fusec(arguments: &[&str]) -> Answer {
    fusec_with(arguments, &[])
}

/// [`fusec`] with environment variables of its own.
pub fn fusec_with(arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    fusec_in(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        arguments,
        environment,
    )
}

/// [`fusec_with`] in another directory.
pub fn fusec_in(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", "/dev/null/cache")
        .envs(environment.iter().copied())
        .output()
        .expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Answer {
        status: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}
