//! Text from token ids as they come.

use crate::tokenizer::{Kind, TokenizeError, Tokenizer};
use crate::tokenizer_json::Window;
use crate::utf8::Utf8Stream;

/// Shown for an id that is no token.
const UNKNOWN: &str = "\u{fffd}";

/// Gives text as soon as it is certain: a character that needs several tokens waits for the last of
/// them, and bytes that are no text become U+FFFD and stop nothing.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    window: Window,
    stream: Utf8Stream,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Self {
        Decoder {
            tokenizer,
            window: Window::default(),
            stream: Utf8Stream::default(),
        }
    }

    /// The text that is certain with one more token.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizeError> {
        match &self.tokenizer.kind {
            Kind::Json(json) => {
                let text = self.window.push(json, id);
                text.map_err(|reason| self.tokenizer.library(reason))
            }
            Kind::World(world) => Ok(match world.token(id) {
                Some(bytes) => self.stream.push(bytes),
                None => self.stream.finish() + UNKNOWN,
            }),
            Kind::Bytes => Ok(match u8::try_from(id) {
                Ok(byte) => self.stream.push(&[byte]),
                Err(_) => self.stream.finish() + UNKNOWN,
            }),
        }
    }

    /// What is left when nothing more comes.
    pub fn finish(&mut self) -> Result<String, TokenizeError> {
        match &self.tokenizer.kind {
            Kind::Json(json) => {
                let text = self.window.finish(json);
                text.map_err(|reason| self.tokenizer.library(reason))
            }
            Kind::World(_) | Kind::Bytes => Ok(self.stream.finish()),
        }
    }
}
