//! Token ids in files of numbers.

use std::path::Path;

use crate::failure::{self, Failure};
use crate::texts;

/// How a number lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Two bytes, little-endian.
    U16,
    /// Four.
    U32,
}

impl TokenType {
    /// That of a file of which nothing is said, for a model that looks up in so many entries.
    fn usual(tokens: usize) -> Self {
        match tokens <= 1 << 16 {
            true => TokenType::U16,
            false => TokenType::U32,
        }
    }
}

impl std::str::FromStr for TokenType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "u16" => Ok(TokenType::U16),
            "u32" => Ok(TokenType::U32),
            _ => Err(format!("`{text}` is neither u16 nor u32")),
        }
    }
}

/// Whether a file is one of numbers.
pub fn is_numbers(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "bin")
}

/// The ids in a file of numbers, for a model of `tokens` ids.
pub fn read(path: &Path, given: Option<TokenType>, tokens: usize) -> Result<Vec<u32>, Failure> {
    let bytes = texts::bytes(path).map_err(|error| unread(path, &error))?;
    let width = match given.unwrap_or(TokenType::usual(tokens)) {
        TokenType::U16 => 2,
        TokenType::U32 => 4,
    };
    if !bytes.len().is_multiple_of(width) {
        return Err(failure::message(
            format!(
                "{} has {} bytes, which are no numbers of {width}",
                path.display(),
                bytes.len()
            ),
            "say --token-type u16 or u32, as the file was written",
        ));
    }
    let number = |bytes: &[u8]| {
        let digits = bytes.iter().rev();
        digits.fold(0, |number, byte| number << 8 | u32::from(*byte))
    };
    Ok(bytes.chunks_exact(width).map(number).collect())
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    failure::message(
        format!("cannot read {}: {error}", path.display()),
        "give the path of a file of token ids",
    )
}
