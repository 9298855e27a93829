//! Chunks whose queries and keys are weighted by decays before a block walks through them.
//!
//! Where key channels have decays of their own, what the products of a chunk need is the same for all value
//! columns of a head. With `D(s, t)` as in [`super::tile`], tokens as rows, of a chunk:
//!
//! ```text
//! Q[t] = D(0, t) q_t      K[s] = D(s, end) k_s      P[t, s] = k_s^T D(s, t) q_t,  s <= t
//! ```
//!
//! and its whole decay `D`. (Before the step: `D(0, t-1)`, `D(s, t-1)` and `s < t`.) A phase of its own makes
//! these, all chunks side by side, and leaves them in memory, rounded to bf16 (scores to two of them). In the phase after it a block walks
//! along T with a warpgroup for 64 value columns, and products are all that it does:
//!
//! ```text
//! Y^T = S Q^T + V^T P^T      S' = S D + V^T K
//! ```
//!
//! The state is the first operand of a product from registers, so no barrier stands between it and the next chunk.
//! Decays enter as products over runs of tokens, never as quotients: a decay of 0 is as good as any. Inside of 8 tokens,
//! a span, `P` is summed element by element; between spans it is a product of tensor cores, of rows that carry the
//! decays to and from the spans' ends.
//!
//! Lives here: which tiles have this form, where their data lies, and how much of it there is. Never here: the text
//! of the kernel.

use super::tile::{Decays, Tile};
use super::warpgroup::{LINE, Products, VALUES};
use super::{KEY_LIMIT, SUB, TOKEN_VALUES, VALUE_LIMIT};
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// What a block has to do with weighted rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighted {
    /// It weights those of one chunk.
    Makes,
    /// It walks through chunks of them.
    Takes,
}

/// Rows that are handed from the one phase to the other, of each chunk and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// Queries with the decay from the start of the chunk, bf16.
    Query,
    /// Keys with the decay to its end, bf16.
    Key,
    /// Products of queries with the keys of earlier tokens, [`PIECES`] bf16 numbers each.
    Score,
    /// The decays of the chunk, f32.
    Decay,
}

/// Tokens of a chunk.
pub const TOKENS: usize = 32;
/// Tokens of a span.
pub const SPAN: usize = 8;
/// bf16 numbers of a score: they make up most of a result, so that it is as exact as one of values that are rounded
/// between operations.
pub const PIECES: usize = 2;
/// Neighbouring key channels that a lane weights.
pub const COLUMNS: usize = 2;
/// Elements behind a row of f32 in shared memory.
pub const PAD: usize = 4;
/// Chunks that have places in shared memory while a block walks: one is worked on, one arrives.
const TURNS: usize = 2;
/// Bytes that swizzled lines begin at a multiple of.
const ALIGNED: usize = 1024;
/// Registers of a thread that weights rows, and of one that walks beside those of the state.
const OF_MAKER: usize = 128;
const OF_TAKER: usize = 112;

/// Places of the data of a block that weights rows, f32 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct MakerPlaces {
    pub queries: usize,
    pub keys: usize,
    pub totals: usize,
    pub starts: usize,
    pub ends: usize,
    pub pairs: usize,
    pub factors: usize,
    pub tokens: usize,
    pub end: usize,
}

/// The same of a block that walks, from a multiple of 1,024 bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct TakerPlaces {
    pub queries: usize,
    pub keys: usize,
    pub values: usize,
    pub scores: usize,
    pub decays: usize,
    pub results: usize,
    pub end: usize,
}

impl Row {
    /// Elements of a chunk and a head with so many key channels.
    pub fn elements(self, keys: usize) -> usize {
        match self {
            Row::Query | Row::Key => TOKENS * keys,
            Row::Score => PIECES * TOKENS * TOKENS,
            Row::Decay => keys,
        }
    }

    /// Bytes of an element.
    pub fn element_bytes(self) -> usize {
        match self {
            Row::Decay => 4,
            Row::Query | Row::Key | Row::Score => 2,
        }
    }
}

/// Bytes of a chunk and a head with so many key channels: all of it, or what a walk without results reads.
pub fn bytes(keys: usize, results: bool) -> usize {
    let rows: &[Row] = match results {
        true => &[Row::Query, Row::Key, Row::Score, Row::Decay],
        false => &[Row::Key, Row::Decay],
    };
    let of = |row: &Row| row.elements(keys) * row.element_bytes();
    rows.iter().map(of).sum()
}

impl Tile {
    /// The same block with weighted rows, or what keeps it from them.
    pub fn weighted(self, which: Weighted) -> Result<Tile, &'static str> {
        let refused = [
            (
                self.decays == Decays::PerToken,
                "decays of key channels: one that is a number per token weights products as well",
            ),
            (
                self.solves() || self.updates > 1,
                "one update of a token, without a rank-one factor",
            ),
            (
                self.reads > 1 || self.outputs != self.reads,
                "one read of the state, and a result of it",
            ),
            (self.pieces != 1, "operands that are one bf16 number each"),
            (
                !self.key.is_multiple_of(LINE) || self.key > KEY_LIMIT,
                "64, 128, 192 or 256 key channels",
            ),
            (
                !self.value.is_multiple_of(VALUES) || self.value > VALUE_LIMIT,
                "64 or 128 value columns of a block",
            ),
        ];
        if let Some((_, limit)) = refused.into_iter().find(|(refused, _)| *refused) {
            return Err(limit);
        }
        // A warp has a span, alone or with another one that has half of the key channels.
        let shares = match (self.key / LINE).is_multiple_of(2) {
            true => 2,
            false => 1,
        };
        Ok(Tile {
            products: Products::Warpgroup,
            weighted: Some(which),
            chunk: TOKENS,
            warps: match which {
                Weighted::Makes => TOKENS / SPAN * shares,
                Weighted::Takes => self.value_warps(),
            },
            ..self
        })
    }

    /// Warps that have a span together, each with as many of its key channels.
    pub fn span_shares(&self) -> usize {
        self.warps / (TOKENS / SPAN)
    }

    /// Where everything lies in a block that weights rows.
    pub fn maker_places(&self) -> MakerPlaces {
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        let rows = TOKENS * (self.key + PAD);
        let mut places = MakerPlaces {
            queries: take(rows),
            keys: take(rows),
            totals: take(TOKENS / SPAN * self.key),
            starts: take(TOKENS / SPAN * self.key),
            ends: take(TOKENS / SPAN * self.key),
            pairs: take(self.span_shares() * TOKENS * SPAN),
            factors: take(TOKENS),
            tokens: take(TOKEN_VALUES * TOKENS),
            end: 0,
        };
        places.end = regions.end();
        places
    }

    /// Where everything lies in a block that walks.
    pub fn taker_places(&self) -> TakerPlaces {
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        // Two bf16 numbers to an element; a line of scores has the room of one of keys.
        let rows = |elements: usize| TURNS * TOKENS * elements / 2;
        let read = self.lefts().min(1);
        let mut places = TakerPlaces {
            queries: take(read * rows(self.key)),
            keys: take(rows(self.key)),
            values: take(rows(self.value)),
            scores: take(read * rows(LINE)),
            decays: take(TURNS * self.key),
            results: take(self.outputs * TOKENS * (self.value + PAD)),
            end: 0,
        };
        // What the start of shared memory lacks to a multiple.
        places.end = regions.end() + ALIGNED / 4;
        places
    }

    pub(super) fn weighted_registers(&self, which: Weighted) -> usize {
        match which {
            Weighted::Makes => OF_MAKER,
            Weighted::Takes => OF_TAKER + self.key / 2,
        }
    }

    /// Elements of one chunk that threads bring into products or out of them: queries, keys and decays, or results.
    pub(super) fn weighted_elements(&self, which: Weighted) -> f64 {
        let elements = match which {
            Weighted::Makes => TOKENS * 3 * self.key,
            Weighted::Takes => TOKENS * self.outputs * self.value,
        };
        elements as f64
    }

    /// Products of 64 rows, 8 columns and 16 of the sum, of one chunk.
    pub(super) fn weighted_products(&self) -> f64 {
        let of = |columns: usize, sum: usize| columns / 8 * (sum / SUB);
        let read = of(TOKENS, self.key) + PIECES * of(TOKENS, TOKENS);
        (self.value / VALUES * (self.lefts().min(1) * read + of(self.key, TOKENS))) as f64
    }

    /// Multiply-adds between tokens of a span, element by element.
    pub(super) fn weighted_pairs(&self) -> f64 {
        (TOKENS * (SPAN + 1) / 2 * 2 * self.key) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::Room;
    use super::super::tile::Factor;
    use super::*;

    fn tile() -> Tile {
        Tile {
            key: 256,
            value: 128,
            chunk: 16,
            updates: 1,
            decays: Decays::PerKey,
            reads: 1,
            outputs: 1,
            factor: Factor::Nothing,
            bonus: true,
            pieces: 1,
            resident: 1,
            warps: 4,
            room: Room::default(),
            arriving: 0,
            values_arrive: false,
            products: Products::Warp,
            weighted: None,
        }
    }

    #[test]
    fn decays_of_keys_and_lines_of_them_can_be_weighted() {
        let with = |change: fn(&mut Tile)| {
            let mut tile = tile();
            change(&mut tile);
            tile.weighted(Weighted::Takes).map(|tile| tile.warps)
        };
        assert_eq!(with(|_| ()), Ok(8));
        let refused: [fn(&mut Tile); 7] = [
            |t| t.decays = Decays::PerToken,
            |t| t.factor = Factor::AlongKey,
            |t| t.updates = 2,
            |t| t.pieces = 3,
            |t| t.value = 96,
            |t| t.key = 96,
            |t| t.reads = 2,
        ];
        for change in refused {
            assert!(with(change).is_err());
        }
    }

    #[test]
    fn spans_are_shared_by_warps_with_whole_lines_of_keys() {
        for (key, shares) in [(64, 1), (128, 2), (192, 1), (256, 2)] {
            let tile = Tile { key, ..tile() }.weighted(Weighted::Makes).unwrap();
            assert_eq!(tile.span_shares(), shares, "{key}");
            assert_eq!(key % (32 * COLUMNS * shares), 0);
        }
    }

    #[test]
    fn a_walk_without_results_has_no_room_for_queries() {
        let takes = tile().weighted(Weighted::Takes).unwrap();
        let only_state = Tile {
            reads: 0,
            outputs: 0,
            ..takes
        };
        // Queries and lines of scores of two chunks, and results of one.
        let less = 2 * (32 * 256 * 2 + 32 * 128) + 32 * 132 * 4;
        assert_eq!(takes.shared_bytes() - only_state.shared_bytes(), less);
    }
}
