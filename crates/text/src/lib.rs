//! Text and token ids: from one to the other, and back as a stream.
//!
//! What lives here: vocabularies ([`Tokenizer`]), text that arrives token by token ([`Decoder`]), and
//! the texts that end it ([`StopTexts`]). What never will: models, weights, or which token comes next.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod charsmap;
mod decoder;
mod guarded;
mod literal;
mod stop;
mod tokenizer;
mod tokenizer_json;
mod utf8;
mod world;

pub use decoder::Decoder;
pub use stop::{Passed, StopTexts};
pub use tokenizer::{TokenizeError, Tokenizer};
