//! Files that verbs write: their place is tried before the work, and they appear whole after it.

use std::io;
use std::path::Path;

use fusec_runtime::plan_dir::{check_file, write_whole};

use crate::failure::{self, Failure};

/// Whether a file can be written there that is none of those which are `read`. Asked before the work, since
/// nobody wants to wait for what is then thrown away.
pub fn check<'a>(path: &Path, read: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    let whole = |path: &Path| path.canonicalize().ok().filter(|path| path.is_file());
    let there = whole(path);
    let same = |read: &Path| there.is_some() && whole(read) == there;
    if let Some(read) = read.into_iter().find(|read| same(read)) {
        return Err(failure::message(
            format!(
                "what is to be written would take the place of {}, which is read",
                read.display()
            ),
            "give another place",
        ));
    }
    check_file(path).map_err(|error| unwritable(path, &error))
}

/// Writes a file, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_whole(path, bytes).map_err(|error| unwritable(path, &error))
}

/// Why a file or a directory cannot be written.
pub fn unwritable(path: &Path, error: &io::Error) -> Failure {
    failure::message(
        format!("cannot write {}: {error}", path.display()),
        "give a place that exists and can be written to",
    )
}
