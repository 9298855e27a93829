//! Files and directories that are being written, so that an interrupted program leaves none behind.
//!
//! Everything is built under a temporary name and renamed. What is dropped removes itself; a program
//! that is interrupted drops nothing, so its interrupt handler calls [`remove_all`] before it ends.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempDir};

static PARTIAL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn partial() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set is whole whatever panicked while it was held.
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The claim that a path is unfinished; dropped when it is renamed, removed or meant to stay.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        partial().remove(&self.0);
    }
}

/// A new file in `dir` whose name starts with `prefix`.
pub fn file_in(prefix: &str, dir: &Path) -> io::Result<(NamedTempFile, Unfinished)> {
    let mut known = partial();
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    // A result is for whom the user shares files with, as any other file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(dir).map_err(|e| unnamed(e, dir))?;
    let path = file.path().to_path_buf();
    known.insert(path.clone());
    Ok((file, Unfinished(path)))
}

/// A new directory in `dir` whose name starts with `prefix`.
pub fn dir_in(prefix: &str, dir: &Path) -> io::Result<(TempDir, Unfinished)> {
    let mut known = partial();
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(dir);
    let made = made.map_err(|e| unnamed(e, dir))?;
    let path = made.path().to_path_buf();
    known.insert(path.clone());
    Ok((made, Unfinished(path)))
}

/// The error without the temporary name, which means nothing to whoever reads it.
fn unnamed(error: io::Error, dir: &Path) -> io::Error {
    match std::fs::metadata(dir) {
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
    let known = partial();
    for path in known.iter() {
        // What cannot be removed stays; there is nobody left to tell.
        if path.is_dir() {
            std::fs::remove_dir_all(path).ok();
        } else {
            std::fs::remove_file(path).ok();
        }
    }
    std::mem::forget(known);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_no_longer_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, unfinished) = file_in("a", dir.path()).expect("a file");
        let (made, other) = dir_in("b", dir.path()).expect("a directory");
        let paths = [file.path().to_path_buf(), made.path().to_path_buf()];
        assert!(paths.iter().all(|p| partial().contains(p)));
        for dir in [dir.path().join("none"), file.path().to_path_buf()] {
            let message = file_in("tmp", &dir).expect_err("no directory").to_string();
            assert!(!message.contains("tmp"), "{message}");
        }
        file.persist(dir.path().join("done")).expect("renamed");
        drop((unfinished, other));
        assert!(paths.iter().all(|p| !partial().contains(p)));
    }
}
