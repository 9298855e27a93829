//! Texts as token ids, and the pieces of them that a step is trained on.

use crate::plan_dir::sha256;
use crate::weights::draws::Draws;

/// Token ids in the order of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens(Vec<i32>);

/// Tokens that cannot be trained on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// An id that the model does not know.
    #[error("token {at} is {id}, but the model has {known} (ids 0 to {})", known.saturating_sub(1))]
    OutOfRange {
        /// Which.
        at: usize,
        /// The id.
        id: u32,
        /// Ids of the model.
        known: usize,
    },
    /// Too few for one piece.
    #[error(
        "{got} tokens are too few: a piece of {length} and its last label are {}; give a longer text, or a smaller --length",
        length + 1
    )]
    Short {
        /// Tokens.
        got: usize,
        /// Of a piece.
        length: usize,
    },
}

impl Tokens {
    /// The ids of a text for a model of `known` ids, long enough for a piece of `length`.
    pub fn checked(ids: &[u32], known: usize, length: usize) -> Result<Self, TokensError> {
        if let Some(at) = ids.iter().position(|id| *id as usize >= known) {
            let id = ids[at];
            return Err(TokensError::OutOfRange { at, id, known });
        }
        let got = ids.len();
        if got <= length {
            return Err(TokensError::Short { got, length });
        }
        Ok(Tokens(ids.iter().map(|id| *id as i32).collect()))
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

    /// SHA-256 of the ids, as little-endian i32.
    pub fn digest(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|id| id.to_le_bytes()).collect();
        sha256(&bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_does_not_know_is_no_text_for_it() {
        let ids = [3, 1, 4, 1, 5];
        for (known, length, want) in [
            (6, 4, Ok(())),
            (5, 4, Err("token 4 is 5, but the model has 5 (ids 0 to 4)")),
            (
                6,
                5,
                Err("5 tokens are too few: a piece of 5 and its last label are 6; "),
            ),
        ] {
            let got = Tokens::checked(&ids, known, length).map(|_| ());
            match (got, want) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(says)) => {
                    let error = error.to_string();
                    assert!(error.starts_with(says), "{error}");
                }
                (got, want) => panic!("{known} {length}: {got:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn pieces_are_those_of_the_text() {
        let text = Tokens::new((0..10).collect());
        let pieces: Vec<&[i32]> = text.pieces(4, 9).collect();
        assert_eq!(pieces, [&[0, 1, 2, 3, 4], &[4, 5, 6, 7, 8]]);
        let mut begins = std::collections::BTreeSet::new();
        for draw in 0..50 {
            let drawn = text.drawn(2, 4, 7, draw);
            assert_eq!(drawn, text.drawn(2, 4, 7, draw), "of seed and number alone");
            for piece in drawn.chunks(5) {
                assert!(piece.windows(2).all(|w| w[1] == w[0] + 1), "{piece:?}");
                begins.insert(piece[0]);
            }
        }
        // Every place is drawn, the last one too.
        assert_eq!(begins, (0..6).collect());
    }
}
