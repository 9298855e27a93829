//! Files read whole, up to a stated size.
//!
//! What a path leads to need not be a file, and what is read need not end: a link in a directory of somebody
//! else's may lead to a device or to a pipe. What a size says beforehand is a promise; what is read is counted.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

#[cfg(unix)]
mod pipe;

/// Bytes that are read of what is no file (a pipe, a device): nothing says beforehand how many there are.
pub const MAX_STREAM_BYTES: u64 = 256 << 20;

/// The bytes of a file or a stream that the user named, of which there are at most `most`.
///
/// # Errors
///
/// What the system says, [`ErrorKind::TimedOut`] where nobody writes into a pipe, or
/// [`ErrorKind::FileTooLarge`] with the limit.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    #[cfg(unix)]
    if let Some(pipe) = pipe::Pipe::open(path)? {
        return read_stream(pipe, most.min(MAX_STREAM_BYTES), Vec::new());
    }
    read_open(File::open(path)?, most)
}

/// A file or a stream that the user named, to be read by who counts what is read.
///
/// # Errors
///
/// What the system says; reading gives [`ErrorKind::TimedOut`] where nobody writes into a pipe.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    #[cfg(unix)]
    if let Some(pipe) = pipe::Pipe::open(path)? {
        return Ok(Box::new(pipe));
    }
    Ok(Box::new(File::open(path)?))
}

fn read_open(file: File, most: u64) -> Result<Vec<u8>> {
    let about = file.metadata()?;
    if !about.is_file() {
        return read_stream(file, most.min(MAX_STREAM_BYTES), Vec::new());
    }
    // Said before all of it is in memory, of which no more is taken than there are bytes.
    if about.len() > most {
        return Err(too_large(most));
    }
    let mut bytes = Vec::new();
    bytes.reserve_exact(usize::try_from(about.len()).unwrap_or(0));
    // It may have grown since.
    read_stream(file, most, bytes)
}

fn read_stream(stream: impl Read, most: u64, mut into: Vec<u8>) -> Result<Vec<u8>> {
    stream.take(most.saturating_add(1)).read_to_end(&mut into)?;
    match into.len() as u64 > most {
        true => Err(too_large(most)),
        false => Ok(into),
    }
}

/// As [`read`], as text.
///
/// # Errors
///
/// Those of [`read`], or [`ErrorKind::InvalidData`] with the first byte that is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    utf8(read(path, most)?)
}

/// Bytes as text.
///
/// # Errors
///
/// [`ErrorKind::InvalidData`] with the first byte that is no UTF-8.
pub fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(
            ErrorKind::InvalidData,
            format!("byte {at} is not UTF-8 text"),
        )
    })
}

/// As [`read`], of a file in a directory that may be somebody else's.
///
/// # Errors
///
/// Those of [`read`] and of [`open_regular`].
pub fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_open(open_regular(path)?, most)
}

/// Opens a file in a directory that may be somebody else's: what is there under its name has to be a file, since
/// opening a pipe waits for whoever writes into it.
///
/// # Errors
///
/// What the system says, or [`ErrorKind::InvalidInput`].
pub fn open_regular(path: &Path) -> Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(Error::new(ErrorKind::InvalidInput, "it is no file")),
    }
}

fn too_large(most: u64) -> Error {
    Error::new(
        ErrorKind::FileTooLarge,
        format!("it is larger than {most} bytes, which is more than is read"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_is_allowed_and_no_more() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let whole = fs::read(&file).expect("a file");
        let length = whole.len() as u64;
        for reader in [read, read_regular] {
            assert_eq!(reader(&file, length).expect("whole"), whole);
            let refused = reader(&file, length - 1).expect_err("too large");
            assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_refused() {
        let zero = Path::new("/dev/zero");
        assert_eq!(
            read(zero, 1 << 20).expect_err("no end").kind(),
            ErrorKind::FileTooLarge
        );
        assert_eq!(
            read_regular(zero, 1 << 20).expect_err("no file").kind(),
            ErrorKind::InvalidInput
        );
    }
}
