//! Ctrl-C: exit status 130, and nothing half-written stays.
#![cfg(unix)]

use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn an_interrupted_run_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/rwkv7.toml");
    // The emulator's compiler takes seconds: there is time to interrupt it, with a file in the cache.
    let mut child = Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args([
            "run",
            model,
            "--weights",
            "random:1",
            "--device",
            "emulator",
        ])
        .env("FUSEC_CACHE_DIR", &cache)
        .current_dir(dir.path())
        .spawn()
        .expect("the binary starts");
    let emulator = cache.join("emulator");
    let building = || {
        let entries = std::fs::read_dir(&emulator).into_iter().flatten().flatten();
        entries
            .filter(|e| e.file_name().to_string_lossy().starts_with("build-"))
            .count()
    };
    let began = Instant::now();
    while building() == 0 {
        assert!(
            child.try_wait().expect("a child").is_none(),
            "it ended before it built"
        );
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it does not build"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill").success());
    let status = child.wait().expect("a child");
    assert_eq!(status.code(), Some(130));
    assert_eq!(building(), 0, "a build is left in {}", emulator.display());
}
