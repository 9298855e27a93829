//! Bytes that arrive in pieces, as text: a character cut in two waits for its rest.

/// What a byte sequence that is no UTF-8 is shown as.
const REPLACEMENT: char = '\u{fffd}';

/// Bytes whose character may not be complete; at most three.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// The text that is certain now. Each maximal part of a sequence that no UTF-8 begins with becomes
    /// one U+FFFD, as `String::from_utf8_lossy` has it, wherever the pieces are cut.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.pending[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(wrong) = error.error_len() else {
                        // The beginning of a character.
                        break;
                    };
                    text.push(REPLACEMENT);
                    rest = &rest[wrong..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left when nothing more comes: a character without its rest.
    pub(crate) fn finish(&mut self) -> String {
        match std::mem::take(&mut self.pending).is_empty() {
            true => String::new(),
            false => REPLACEMENT.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_waits_for_its_rest() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xe4"), "a");
        assert_eq!(stream.push(b"\xbd"), "");
        assert_eq!(stream.push(b"\xa0b"), "\u{4f60}b");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.push(b"x"), "\u{fffd}x");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(pieces: Vec<Vec<u8>>) {
            let mut stream = Utf8Stream::default();
            let mut text: String = pieces.iter().map(|piece| stream.push(piece)).collect();
            text.push_str(&stream.finish());
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }

        #[test]
        fn text_survives_any_cut(text: String, cuts: Vec<prop::sample::Index>) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let mut stream = Utf8Stream::default();
            let pieces = at.windows(2).map(|pair| stream.push(&bytes[pair[0]..pair[1]]));
            prop_assert_eq!(pieces.collect::<String>(), text);
        }
    }
}
