//! What can be wrong with a checkpoint. Every error names the file and the thing in it.

use std::path::{Path, PathBuf};

use fusec_ir::language::{LONGEST_MESSAGE, readable};

use super::view::StoredDtype;

/// A file of a checkpoint cannot be used; `problem` says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", file.display(), readable(&problem.to_string(), LONGEST_MESSAGE))]
pub struct CheckpointError {
    /// The file, or the directory when no one file is at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Box<Problem>,
}

impl CheckpointError {
    pub(crate) fn new(file: &Path, problem: Problem) -> Self {
        Self {
            file: file.to_path_buf(),
            problem: Box::new(problem),
        }
    }
}

/// What is wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried: "open", "map", "read".
        action: &'static str,
        /// The answer of the system.
        source: std::io::Error,
    },
    /// A directory in which nothing looks like a checkpoint.
    #[error(
        "no checkpoint here: expected model.safetensors, model.safetensors.index.json, model.pth, \
         or exactly one *.safetensors, *.pth or *.pt"
    )]
    NothingFound,
    /// Several files could be meant.
    #[error("several checkpoints here ({}): name one of them", names.join(", "))]
    Ambiguous {
        /// The files, sorted.
        names: Vec<String>,
    },
    /// Neither safetensors nor a torch archive.
    #[error("neither a safetensors file nor a zip archive written by torch.save")]
    UnknownFormat,
    /// A pickle, but not of torch.
    #[error(
        "a pickle that torch.save did not write: load it with Python and save its tensors with \
         torch.save"
    )]
    BarePickle,
    /// A file of a clone that was made without git-lfs.
    #[error(
        "a Git LFS pointer, not the file itself: run `git lfs install` and `git lfs pull` where it was \
         cloned, or download the file"
    )]
    LfsPointer,
    /// The file ends early.
    #[error("truncated: {what} needs {needed} bytes, the file has {got}")]
    Truncated {
        /// What the bytes are for.
        what: String,
        /// Bytes that the file must have.
        needed: u64,
        /// Bytes that it has.
        got: u64,
    },
    /// A header or JSON file over the limit.
    #[error("{what} is {got} bytes long, the limit is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in bytes.
        got: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// JSON that does not parse or has the wrong form.
    #[error("{what} is not valid: {why}")]
    BadJson {
        /// Which JSON: "the header", "config.json".
        what: &'static str,
        /// The parser's words, with line and column.
        why: String,
    },
    /// A header entry without dtype, shape or offsets of the right form.
    #[error("tensor '{tensor}': {why}")]
    BadEntry {
        /// The tensor.
        tensor: String,
        /// What is wrong with its entry.
        why: String,
    },
    /// One name for two tensors.
    #[error("tensor '{tensor}' appears twice{}", other.as_ref().map(|o| format!(" (also in {o})")).unwrap_or_default())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The other file when it is not the same one.
        other: Option<String>,
    },
    /// An element type that we do not read.
    #[error(
        "tensor '{tensor}' has dtype {dtype}, which is not supported (supported: {})",
        StoredDtype::NAMES
    )]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// Its dtype as the file spells it.
        dtype: String,
    },
    /// Offsets that leave the data.
    #[error("tensor '{tensor}' has bytes {begin}..{end}, outside the {available} bytes of data")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes of data in the file or storage.
        available: u64,
    },
    /// Offsets that share bytes with another tensor.
    #[error(
        "tensor '{tensor}' starts at byte {begin}, inside tensor '{other}' which ends at {other_end}"
    )]
    Overlap {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// The tensor before it.
        other: String,
        /// One past the other's last byte.
        other_end: u64,
    },
    /// Bytes that no tensor owns; the format forbids them.
    #[error("bytes {begin}..{end} of the data belong to no tensor")]
    Hole {
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Shape and dtype do not give the number of bytes.
    #[error("tensor '{tensor}' of shape {shape:?} and dtype {dtype} does not take {got} bytes")]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its dtype.
        dtype: StoredDtype,
        /// Bytes between its offsets.
        got: u64,
    },
    /// The index names a file that is not there, or not a plain file name.
    #[error("shard '{shard}', which tensor '{tensor}' should be in, {why}")]
    BadShard {
        /// File name in the index.
        shard: String,
        /// One tensor mapped to it.
        tensor: String,
        /// Why it cannot be used.
        why: String,
    },
    /// The index says the tensor is in this file; it is not.
    #[error("tensor '{tensor}' is missing, though the index '{index}' says it is in this file")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The index file.
        index: String,
    },
    /// The zip container is damaged.
    #[error("damaged zip archive: {why}")]
    BadZip {
        /// The zip reader's words.
        why: String,
    },
    /// The zip archive lacks an entry, or has it in a form that cannot be mapped.
    #[error("zip entry '{entry}': {why}")]
    BadZipEntry {
        /// Name of the entry.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// The pickle would build something other than tensors, or is damaged.
    #[error("{0}")]
    Pickle(#[from] super::pickle::PickleError),
    /// No tensor of that name.
    #[error("no tensor '{tensor}'{}", nearest.as_ref().map(|n| format!(" (nearest name: '{n}')")).unwrap_or_default())]
    NoSuchTensor {
        /// The name asked for.
        tensor: String,
        /// The stored name that looks most like it.
        nearest: Option<String>,
    },
    /// A conversion that would change values.
    #[error("tensor '{tensor}' ({from}) cannot be read as {to}: {why}")]
    Conversion {
        /// The tensor.
        tensor: String,
        /// Its stored dtype.
        from: StoredDtype,
        /// The dtype asked for.
        to: &'static str,
        /// Why not.
        why: String,
    },
}
