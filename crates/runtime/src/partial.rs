//! Files and directories that are being written, so that a program that ends early leaves none behind.
//!
//! Everything is built under a temporary name and renamed. What is dropped removes itself; a program
//! that is interrupted drops nothing, so its interrupt handler calls [`remove_all`] before it ends. A
//! program that is killed calls nothing: whatever it was writing is locked while it lives, so that the
//! next one that writes at the same place tells by the lock what nobody works on any more, and
//! removes it ([`sweep`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

/// Start of the name of everything unfinished, in directories of ours and of others: what has it is
/// swept, so nobody else may have a use for it.
const PREFIX: &str = ".fusec-partial-";
/// How often, and how long after each other, the lock of a directory is asked for. A sweep takes
/// milliseconds; whoever holds the lock for longer does not know what it means.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

static PARTIAL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn partial() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set is whole whatever panicked while it was held.
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The claim that a path is unfinished; dropped when it is renamed, removed or meant to stay.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// Locked as long as this process works on the path.
    _lock: Option<File>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        partial().remove(&self.path);
    }
}

/// A new file in `dir`.
pub fn file_in(dir: &Path) -> io::Result<(NamedTempFile, Unfinished)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    // A result is for whom the user shares files with, as any other file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    claimed(dir, || builder.tempfile_in(dir), NamedTempFile::path)
}

/// A new directory in `dir`.
pub fn dir_in(dir: &Path) -> io::Result<(TempDir, Unfinished)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    claimed(dir, || builder.tempdir_in(dir), TempDir::path)
}

/// Makes something in `dir` and locks it before a sweep can see it without.
fn claimed<T>(
    dir: &Path,
    make: impl FnOnce() -> io::Result<T>,
    path: impl FnOnce(&T) -> &Path,
) -> io::Result<(T, Unfinished)> {
    let mut known = partial();
    let _no_sweep = locked_against_sweeps(dir);
    let made = make().map_err(|error| unnamed(error, dir))?;
    let path = path(&made).to_path_buf();
    known.insert(path.clone());
    // Where files cannot be locked, none is swept.
    let lock = File::open(&path).ok().filter(|file| file.lock().is_ok());
    Ok((made, Unfinished { path, _lock: lock }))
}

/// The lock that makes sweeps of `dir` wait. Without it the worst is that a sweep removes what was made
/// a moment ago, and writing it fails.
pub fn locked_against_sweeps(dir: &Path) -> Option<File> {
    let dir = opened(dir, fs::metadata(dir))?;
    for _ in 0..LOCK_ATTEMPTS {
        match dir.try_lock_shared() {
            Ok(()) => return Some(dir),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// What is of a kind that is made here. Opening a pipe of somebody else's would wait for whoever writes into it.
fn opened(path: &Path, about: io::Result<fs::Metadata>) -> Option<File> {
    let ours = about.is_ok_and(|about| about.is_dir() || about.is_file());
    ours.then(|| File::open(path).ok()).flatten()
}

/// Removes what processes that were killed have left unfinished in `dir`. Of a directory only those
/// entries go that are `ours`; one that holds anything else stays, and is said.
///
/// A sweep that cannot be made is left to the next: leftovers cost space, nothing else.
pub fn sweep(dir: &Path, ours: impl Fn(&OsStr) -> bool) {
    let Some(held) = opened(dir, fs::metadata(dir)) else {
        return;
    };
    if held.try_lock().is_err() {
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let file = opened(&path, fs::symlink_metadata(&path));
        let abandoned = file.is_some_and(|file| file.try_lock().is_ok());
        if !abandoned {
            continue;
        }
        discard(&path, &ours);
    }
}

/// Removes something unfinished that nobody works on; of a directory only the entries that are `ours`,
/// and it stays, and is said, if it holds others.
pub fn discard(path: &Path, ours: impl Fn(&OsStr) -> bool) {
    match remove_own(path, ours) {
        Ok(()) => {}
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            "{} was left by a run that did not end and cannot be removed: {error}",
            path.display()
        ),
    }
}

fn remove_own(path: &Path, ours: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !ours(&entry.file_name()) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(path)
}

/// The error without the temporary name, which means nothing to whoever reads it.
fn unnamed(error: io::Error, dir: &Path) -> io::Error {
    match fs::metadata(dir) {
        Err(why) => why,
        Ok(about) if !about.is_dir() => io::ErrorKind::NotADirectory.into(),
        Ok(_) => error.kind().into(),
    }
}

/// Does something of several steps that an interrupt must not part, such as one thing taking the
/// place of another. It must make nothing of this module.
pub fn uninterrupted<R>(steps: impl FnOnce() -> R) -> R {
    let _held = partial();
    steps()
}

/// Removes everything unfinished. The program is to end right after: nothing unfinished can be made
/// any more, and whoever tries waits.
pub fn remove_all() {
    remove(partial());
}

/// [`remove_all`], unless somebody is making something unfinished at this moment, who may be the caller.
pub fn remove_all_now() {
    match PARTIAL.try_lock() {
        Ok(known) => remove(known),
        Err(TryLockError::Poisoned(known)) => remove(known.into_inner()),
        Err(TryLockError::WouldBlock) => {}
    }
}

fn remove(known: MutexGuard<'static, BTreeSet<PathBuf>>) {
    for path in known.iter() {
        // What cannot be removed stays; there is nobody left to tell.
        if path.is_dir() {
            fs::remove_dir_all(path).ok();
        } else {
            fs::remove_file(path).ok();
        }
    }
    std::mem::forget(known);
}

/// Whether a name is that of something unfinished.
pub fn is_partial_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_no_longer_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, unfinished) = file_in(dir.path()).expect("a file");
        let (made, other) = dir_in(dir.path()).expect("a directory");
        let paths = [file.path().to_path_buf(), made.path().to_path_buf()];
        assert!(paths.iter().all(|p| partial().contains(p)));
        for dir in [dir.path().join("none"), file.path().to_path_buf()] {
            let message = file_in(&dir).expect_err("no directory").to_string();
            assert!(!message.contains(PREFIX), "{message}");
        }
        file.persist(dir.path().join("done")).expect("renamed");
        drop((unfinished, other));
        assert!(paths.iter().all(|p| !partial().contains(p)));
    }

    #[test]
    fn a_sweep_takes_what_nobody_works_on_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(format!("{PREFIX}{name}"));
        let (file, _file) = file_in(dir.path()).expect("a file");
        let (made, _made) = dir_in(dir.path()).expect("a directory");
        fs::write(at("file"), "half").expect("a file");
        fs::create_dir_all(at("dir").join("kernels/deep")).expect("directories");
        fs::create_dir_all(at("kept").join("kernels")).expect("directories");
        fs::write(at("kept").join("thesis.tex"), "years").expect("a file");
        fs::write(dir.path().join("mine"), "whole").expect("a file");
        sweep(dir.path(), |name| name == "kernels");
        let mut left: Vec<PathBuf> = fs::read_dir(dir.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        left.sort();
        let mut expected = vec![
            file.path().to_path_buf(),
            made.path().to_path_buf(),
            at("kept"),
            dir.path().join("mine"),
        ];
        expected.sort();
        assert_eq!(left, expected);
        assert!(at("kept").join("thesis.tex").exists());
        assert!(!at("kept").join("kernels").exists());
    }
}
