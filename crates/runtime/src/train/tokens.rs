//! Texts as token ids, and the pieces of them that a step is trained on.

use std::path::{Path, PathBuf};

use crate::weights::draws::Draws;

/// Token ids in the order of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(Vec<i32>);

/// Tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes that are no whole number of ids.
    #[error("{} has {bytes} bytes, which is no whole number of {width}-byte token ids", path.display())]
    Ragged {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// Bytes of an id.
        width: usize,
    },
    /// An id that the model does not know.
    #[error("{}: token {at} is {id}, but the model has {vocabulary} entries (ids 0 to {})", path.display(), vocabulary - 1)]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// Which.
        at: usize,
        /// The id.
        id: u32,
        /// Entries of the model.
        vocabulary: usize,
    },
    /// Too few for one piece.
    #[error("{} has {got} tokens, a piece of {length} and its last label need {}: give a longer text, or a smaller --length", path.display(), length + 1)]
    Short {
        /// The file.
        path: PathBuf,
        /// Its tokens.
        got: usize,
        /// Of a piece.
        length: usize,
    },
}

impl Tokens {
    /// Reads `.bin` and `.u16` (little-endian u16), `.u32` (little-endian u32), and any other file as
    /// bytes, one token each. All ids have to be below `vocabulary`, and there have to be enough for
    /// a piece of `length`.
    pub fn read(path: &Path, vocabulary: usize, length: usize) -> Result<Self, TokensError> {
        let path_of = || path.to_path_buf();
        let bytes = std::fs::read(path).map_err(|source| TokensError::Read {
            path: path_of(),
            source,
        })?;
        let width = match path.extension().and_then(|e| e.to_str()) {
            Some("bin" | "u16") => 2,
            Some("u32") => 4,
            _ => 1,
        };
        if bytes.len() % width != 0 {
            return Err(TokensError::Ragged {
                path: path_of(),
                bytes: bytes.len(),
                width,
            });
        }
        let number = |bytes: &[u8]| {
            let digits = bytes.iter().rev();
            digits.fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
        };
        let ids: Vec<u32> = bytes.chunks_exact(width).map(number).collect();
        if let Some(at) = ids.iter().position(|id| *id as usize >= vocabulary) {
            return Err(TokensError::OutOfRange {
                path: path_of(),
                at,
                id: ids[at],
                vocabulary,
            });
        }
        if ids.len() < length + 1 {
            return Err(TokensError::Short {
                path: path_of(),
                got: ids.len(),
                length,
            });
        }
        Ok(Tokens(ids.into_iter().map(|id| id as i32).collect()))
    }

    /// These ids.
    pub fn new(ids: Vec<i32>) -> Self {
        Tokens(ids)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `batch` pieces of `length + 1` tokens from random places, `[batch, length + 1]`: those of
    /// draw number `draw` of a seed, whatever was drawn before.
    pub fn drawn(&self, batch: usize, length: usize, seed: u64, draw: u64) -> Vec<i32> {
        let places = (self.0.len() - length) as f64;
        let draws = Draws::new(seed, "pieces");
        let mut out = Vec::with_capacity(batch * (length + 1));
        for b in 0..batch as u64 {
            let at = draws.uniform(draw.wrapping_mul(batch as u64).wrapping_add(b)) * places;
            let at = at as usize;
            out.extend_from_slice(&self.0[at..=at + length]);
        }
        out
    }

    /// The text from its beginning in pieces of `length + 1` tokens that share one token with the
    /// next, at most `most` of them.
    pub fn pieces(&self, length: usize, most: usize) -> impl Iterator<Item = &[i32]> {
        let ends = (length..self.0.len()).step_by(length);
        ends.take(most).map(move |end| &self.0[end - length..=end])
    }
}
