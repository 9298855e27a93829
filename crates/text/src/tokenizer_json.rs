//! Vocabularies in the form `tokenizer.json` of the `tokenizers` library, which does the work.

use tokenizers::Tokenizer as Library;

use crate::charsmap;
use crate::guarded::guarded;
use crate::utf8::Utf8Stream;

/// What stands for bytes that are no text.
const REPLACEMENT: char = '\u{fffd}';
/// An incomplete character has at most this many bytes, and so as many tokens.
const INCOMPLETE: usize = 3;
/// Tokens that are waited for at most: more are bytes that never become text.
const LONGEST: usize = 64;

/// A loaded `tokenizer.json`.
#[derive(Clone, Debug)]
pub(crate) struct TokenizerJson(Library);

impl TokenizerJson {
    /// Reads the text of the file.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        charsmap::check(text)?;
        guarded(|| {
            let mut library = Library::from_bytes(text).map_err(|error| error.to_string())?;
            // How a batch was once cut and filled up to one length is saved with a vocabulary. A text that is
            // read here is read whole, as `transformers` reads it unless it is told a length.
            library.with_padding(None);
            let whole = library.with_truncation(None);
            whole.map_err(|error| error.to_string())?;
            Ok(TokenizerJson(library))
        })
    }

    /// The ids of a text, with what the file's post-processor puts around it.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        guarded(|| {
            let encoding = self.0.encode(text, true);
            let encoding = encoding.map_err(|error| error.to_string())?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// The text of some ids, without special tokens.
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        guarded(|| self.0.decode(ids, true).map_err(|error| error.to_string()))
    }

    /// One more than the largest id.
    pub(crate) fn entries(&self) -> usize {
        let vocabulary = self.0.get_vocab(true);
        vocabulary.values().max().map_or(0, |id| *id as usize + 1)
    }
}

/// Text from ids as they come.
///
/// A token's text may depend on the one before it (a space that only stands between two), and a
/// character may need several tokens. So a window of tokens is decoded anew with each: those that
/// gave the last text, and those since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    ids: Vec<u32>,
    /// Tokens at the front that are there for what they do to those behind them.
    before: usize,
    /// Their text, which was given.
    context: String,
    /// Bytes that were given of the text behind it.
    given: usize,
}

impl Window {
    /// The text that is certain with one more token.
    pub(crate) fn push(&mut self, of: &TokenizerJson, id: u32) -> Result<String, String> {
        self.ids.push(id);
        let text = self.text(of)?;
        // A character whose rest is missing shows as replacements at the end.
        let mut certain = text.as_str();
        if self.ids.len() - self.before <= LONGEST {
            for _ in 0..INCOMPLETE {
                certain = certain.strip_suffix(REPLACEMENT).unwrap_or(certain);
            }
        }
        let out = rest(certain, self.given);
        if certain.len() == text.len() {
            // Nothing is open: the window begins with the tokens that are new.
            self.ids.drain(..self.before);
            self.before = self.ids.len();
            self.context = of.decode(&self.ids)?;
            self.given = 0;
        } else {
            self.given = self.given.max(certain.len());
        }
        Ok(out)
    }

    /// What is left when nothing more comes.
    pub(crate) fn finish(&mut self, of: &TokenizerJson) -> Result<String, String> {
        let text = self.text(of)?;
        let out = rest(&text, self.given);
        *self = Window::default();
        Ok(out)
    }

    /// The text behind the context.
    fn text(&mut self, of: &TokenizerJson) -> Result<String, String> {
        let text = of.decode(&self.ids)?;
        if let Some(behind) = text.strip_prefix(&self.context) {
            return Ok(behind.to_owned());
        }
        // Decoders that take bytes together make nothing of all of them if some are missing.
        self.ids.drain(..self.before);
        self.before = 0;
        self.context.clear();
        of.decode(&self.ids)
    }
}

/// The text from a byte on, or from the character after it: an earlier decoding may have cut one.
fn rest(text: &str, from: usize) -> String {
    let bytes = text.as_bytes().get(from..).unwrap_or_default();
    let continues = bytes.iter().take_while(|byte| (**byte & 0xc0) == 0x80);
    let mut stream = Utf8Stream::default();
    stream.push(&bytes[continues.count()..])
}
