//! Places that cannot be written, or that hold something else than they should.

use crate::command::{answer, emulated, fusec};
use crate::tokens;

#[test]
fn a_cache_that_cannot_be_written_is_said_and_stops_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    answer(&mut emulated(&file.join("cache"), &model))
        .expect(0, &["without a cache", "FUSEC_CACHE_DIR"]);
}

#[test]
fn without_a_home_the_users_entry_or_none_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let mut run = emulated(dir.path(), &model);
    run.env_remove("FUSEC_CACHE_DIR").env_remove("HOME");
    run.env("XDG_CACHE_HOME", dir.path().join("xdg"));
    answer(&mut run).expect(0, &[]);
}

#[test]
fn damaged_entries_are_said_and_built_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    let whole = answer(&mut emulated(&cache, &model));
    whole.expect(0, &[]);
    let entries: Vec<_> = std::fs::read_dir(cache.join("emulator"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(!entries.is_empty());
    for (n, entry) in entries.iter().enumerate() {
        let mut bytes = std::fs::read(entry).expect("a file");
        match n % 3 {
            0 => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            1 => bytes.truncate(bytes.len() / 3),
            _ => bytes.clear(),
        }
        std::fs::write(entry, bytes).expect("written");
    }
    let again = answer(&mut emulated(&cache, &model));
    again.expect(0, &["is corrupt", "built anew"]);
    let third = answer(&mut emulated(&cache, &model));
    third.expect(0, &[]);
    assert!(third.stderr.is_empty(), "{}", third.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    for flag in ["--output", "--state-out"] {
        let arguments = [
            "run",
            &model,
            "--weights",
            "random:1",
            "--device",
            "cpu",
            flag,
            "/dev/full",
        ];
        answer(&mut fusec(dir.path(), &arguments)).expect(2, &["/dev/full", "No space left"]);
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut run = fusec(dir.path(), &["plan", &model]);
    let ended = run
        .stdout(full.expect("a device"))
        .status()
        .expect("it runs");
    assert_eq!(ended.code(), Some(2));
}
