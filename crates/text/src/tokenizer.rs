//! A vocabulary, whatever file it comes from.

use std::path::{Path, PathBuf};

use crate::decoder::Decoder;
use crate::tokenizer_json::TokenizerJson;
use crate::world::{self, World};

/// Names that vocabularies have in the directory of a checkpoint, in the order in which they are
/// looked for.
const FILES: [&str; 2] = ["tokenizer.json", "rwkv_vocab_v20230424.txt"];

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 28;

/// Text to ids, and ids to text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pub(crate) kind: Kind,
    name: String,
}

/// The forms of vocabulary.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Json(Box<TokenizerJson>),
    World(World),
    /// A token is a byte.
    Bytes,
}

/// A vocabulary that cannot be used, or a text that it has no tokens for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A `tokenizer.json` that the library does not accept.
    #[error("{} is no tokenizer.json that can be used: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
    /// A line of a World vocabulary.
    #[error(
        "{}, line {line}: {reason}. A file that is no JSON is read as an RWKV World vocabulary: ID 'TOKEN' LENGTH on each line",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A byte that no token begins with.
    #[error("no token of {name} begins with the byte {byte:#04x}: the text cannot be encoded")]
    Byte {
        /// The vocabulary.
        name: String,
        /// The byte.
        byte: u8,
    },
    /// The library failed.
    #[error("{name}: {reason}")]
    Library {
        /// The vocabulary.
        name: String,
        /// What the library says.
        reason: String,
    },
}

impl Tokenizer {
    /// Reads a vocabulary: a `tokenizer.json` (JSON), or an RWKV World vocabulary (anything else).
    pub fn open(path: &Path) -> Result<Self, TokenizeError> {
        let unread = |reason: String| TokenizeError::Read {
            path: path.to_path_buf(),
            reason,
        };
        let about = std::fs::metadata(path).map_err(|error| unread(error.to_string()))?;
        if !about.is_file() {
            return Err(unread("it is no file".into()));
        }
        if about.len() > MAX_BYTES {
            let reason = format!("it has {} bytes, allowed are {MAX_BYTES}", about.len());
            return Err(unread(reason));
        }
        let bytes = std::fs::read(path).map_err(|error| unread(error.to_string()))?;
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let kind = if first == Some(&b'{') {
            let json = TokenizerJson::parse(&bytes).map_err(|reason| TokenizeError::Json {
                path: path.to_path_buf(),
                reason,
            })?;
            Kind::Json(Box::new(json))
        } else {
            let text = String::from_utf8(bytes).map_err(|error| unread(error.to_string()))?;
            let world = World::parse(&text).map_err(|bad| TokenizeError::Line {
                path: path.to_path_buf(),
                line: bad.line,
                reason: bad.reason,
            })?;
            Kind::World(world)
        };
        Ok(Tokenizer {
            kind,
            name: path.display().to_string(),
        })
    }

    /// The vocabulary in the directory of a checkpoint, if there is one.
    pub fn beside(directory: &Path) -> Result<Option<Self>, TokenizeError> {
        let mut places = FILES.iter().map(|name| directory.join(name));
        // A link to nothing is one whose file is missing, and no reason to do without.
        let found = places.find(|path| path.symlink_metadata().is_ok());
        found.map(|path| Self::open(&path)).transpose()
    }

    /// The names that [`Tokenizer::beside`] looks for.
    pub fn files() -> [&'static str; 2] {
        FILES
    }

    /// Each of the 256 bytes is a token.
    pub fn bytes() -> Self {
        Tokenizer {
            kind: Kind::Bytes,
            name: "bytes".into(),
        }
    }

    /// What it is, for reports: its file, or `bytes`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more than its largest id.
    pub fn entries(&self) -> usize {
        match &self.kind {
            Kind::Json(json) => json.entries(),
            Kind::World(world) => world.entries(),
            Kind::Bytes => 256,
        }
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        match &self.kind {
            Kind::Json(json) => json.encode(text).map_err(|reason| self.library(reason)),
            Kind::World(world) => world.encode(text).map_err(|byte| TokenizeError::Byte {
                name: self.name.clone(),
                byte,
            }),
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// The id that ends a text, if the form of vocabulary has one of its own.
    pub fn end(&self) -> Option<u32> {
        match &self.kind {
            Kind::World(_) => Some(world::END),
            Kind::Json(_) | Kind::Bytes => None,
        }
    }

    /// Text from ids as they come.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    pub(crate) fn library(&self, reason: String) -> TokenizeError {
        TokenizeError::Library {
            name: self.name.clone(),
            reason,
        }
    }
}
