//! Texts and files of token ids that a verb is given, read whole.

use std::io::Result;
use std::path::Path;

use fusec_ir::files;
use fusec_runtime::limits::MAX_TEXT_BYTES;
use fusec_runtime::memory::host;

/// What is read at most: what may be given, and what there is memory for.
fn most() -> u64 {
    let free = host::available().map_or(u64::MAX, |bytes| bytes as u64);
    MAX_TEXT_BYTES.min(free)
}

/// The bytes of a file.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    files::read(path, most())
}

/// A text in UTF-8.
pub fn text(path: &Path) -> Result<String> {
    files::read_text(path, most())
}
