//! Places that cannot be written, or that hold something else than they should.

use crate::command::{Answer, answer, emulated, fusec, unfinished};
use crate::{NUMBERS, tokens};

#[test]
fn a_cache_that_cannot_be_written_is_said_and_stops_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    // What not even the administrator may write.
    for place in [file.join("cache"), "/proc/nobody/cache".into()] {
        answer(&mut emulated(&place, &model)).expect(0, &["without a cache", "FUSEC_CACHE_DIR"]);
    }
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

/// Files may grow to so many blocks and no further: a disk that is full somewhere in the middle.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_ends_in_an_error_and_leaves_nothing() {
    use std::process::Command;

    let dir = tempfile::tempdir().expect("a directory");
    let model = tokens(dir.path());
    let out = dir.path().join("plans/out");
    let limited = |blocks: u32, verb: &str| -> Answer {
        let script = format!(
            "ulimit -f {blocks}; exec '{}' {verb}",
            env!("CARGO_BIN_EXE_fusec")
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
            .env("FUSEC_CACHE_DIR", dir.path().join("cache"));
        answer(&mut command)
    };
    let compile = format!("compile {NUMBERS} --out '{}'", out.display());
    let run = format!("run '{model}' --weights random:1 --device emulator --shape T=9");
    let mut full = 0;
    for blocks in [0, 1, 4, 20, 60, 200] {
        let compiled = limited(blocks, &compile);
        match compiled.status {
            Some(3) => assert!(out.join("manifest.json").exists()),
            _ => {
                compiled.expect(2, &[]);
                assert!(!out.exists());
                full += 1;
            }
        }
        let ran = limited(blocks, &run);
        match ran.status {
            Some(0) => {}
            _ => {
                ran.expect(2, &[]);
                full += 1;
            }
        }
        assert_eq!(unfinished(dir.path()), [""; 0], "{blocks} blocks");
        std::fs::remove_dir_all(&out).ok();
    }
    assert!(full >= 4, "{full}: the limits are too high to be met");
    // With room again, everything works.
    answer(&mut emulated(&dir.path().join("cache"), &model)).expect(0, &[]);
}

/// Entries of another user are not taken, whatever is in them. Files can be given away by the
/// administrator only, who trusts nobody else.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_of_another_user_is_not_taken() {
    use std::os::unix::fs::{MetadataExt, chown};

    let dir = tempfile::tempdir().expect("a directory");
    if dir.path().metadata().expect("a directory").uid() != 0 {
        return;
    }
    let model = tokens(dir.path());
    let cache = dir.path().join("cache");
    answer(&mut emulated(&cache, &model)).expect(0, &[]);
    let entries = || {
        let entries = std::fs::read_dir(cache.join("emulator")).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path())
    };
    for entry in entries() {
        chown(&entry, Some(4711), None).expect("given away");
    }
    answer(&mut emulated(&cache, &model)).expect(0, &["another user"]);
    for entry in entries() {
        assert_eq!(entry.metadata().expect("an entry").uid(), 0, "written anew");
    }
}
