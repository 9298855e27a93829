//! Blocks of a chunked recurrence whose products are those of a warpgroup (`wgmma`).
//!
//! For steps of which a whole chunk comes to the state at once ([`Tile::together`]): a decay that is one
//! number per token, no matrix of rank one. A warpgroup has 64 value columns of the state in the accumulators
//! of its threads. Results of a chunk are `(W * (Q K^T)) V + D Q S^T`, with the weights `W` of pairs of tokens and
//! `D` of tokens; the new state is `d S + (E V)^T K`. Rounded are the operands of the products: rows, weighted
//! products of queries with keys, weighted values, and the state that queries are multiplied with.
//!
//! Lives here: which tiles a warpgroup takes, and where its data lies. Never here: the text of the kernel.

use super::tile::{Decays, Tile};
use super::{MOST_TOKENS, SUB, TOKEN_VALUES};
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// Whose products the products of a chunk are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Products {
    /// Of single warps (`mma`).
    #[default]
    Warp,
    /// Of four warps together (`wgmma`).
    Warpgroup,
}

impl Products {
    /// Whether they are those of single warps.
    pub fn by_warp(&self) -> bool {
        *self == Products::Warp
    }
}

/// Value columns of a block: rows of a product of a warpgroup.
pub const VALUES: usize = 64;
/// Key channels come in lines of 128 bytes.
pub const LINE: usize = 64;
/// Most key channels: accumulators of the state take a register of a thread for two of them.
const MOST_KEYS: usize = 192;
/// Warps of a warpgroup.
pub const WARPS: usize = 4;
/// Bytes that swizzled lines begin at a multiple of.
const ALIGNED: usize = 1024;
/// Registers of a thread beside those of the state: results, weights, operands under way, addresses.
pub const OTHERS: usize = 136;

/// Places of a block's data in shared memory, f32 elements from a multiple of 1,024 bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct Places {
    pub states: usize,
    pub keys: usize,
    pub values: usize,
    pub decays: usize,
    pub between: usize,
    pub since: usize,
    pub until: usize,
    pub totals: usize,
    pub tokens: usize,
    pub staged: usize,
    /// All of it.
    pub end: usize,
}

impl Tile {
    /// The same block with the products of a warpgroup, or what keeps it from them.
    pub fn by_warpgroup(self) -> Result<Tile, &'static str> {
        let refused = [
            (
                !self.together(),
                "a decay that is one number per token, no rank-one factor, and one read at most",
            ),
            (self.pieces != 1, "operands that are one bf16 number each"),
            (self.bonus, "no bonus of the current token"),
            (self.updates > 1, "one update of a token"),
            (self.outputs != self.reads, "a result of its read"),
            (self.value != VALUES, "64 value columns of a block"),
            (
                !self.key.is_multiple_of(LINE) || self.key > MOST_KEYS,
                "64, 128 or 192 key channels",
            ),
        ];
        match refused.into_iter().find(|(refused, _)| *refused) {
            Some((_, limit)) => Err(limit),
            None => Ok(Tile {
                products: Products::Warpgroup,
                chunk: MOST_TOKENS,
                warps: WARPS,
                ..self
            }),
        }
    }

    /// Copies of a chunk's queries and keys: where all of them are rows as they are, the next chunk's arrive
    /// while this one is worked on.
    pub fn turns(&self) -> usize {
        match self.arriving == self.lefts() + self.rights() {
            true => 2,
            false => 1,
        }
    }

    /// Copies of a chunk's values: where they are rows as they are, the next chunk's arrive as well.
    pub fn value_turns(&self) -> usize {
        1 + usize::from(self.values_arrive)
    }

    /// Where everything lies.
    pub fn warpgroup_places(&self) -> Places {
        debug_assert_eq!(self.decays, Decays::PerToken);
        let chunk = self.chunk;
        // Two bf16 numbers to an element.
        let rows = self.turns() * chunk * self.key / 2;
        let read = self.lefts().min(1);
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        take(read * rows);
        let mut places = Places {
            states: take(read * VALUES * self.key / 2),
            keys: take(rows),
            values: take(self.value_turns() * chunk * VALUES / 2),
            decays: take(chunk),
            between: take(read * chunk * (SUB + 4)),
            since: take(read * chunk),
            until: take(chunk),
            totals: take(chunk / SUB),
            tokens: take(TOKEN_VALUES * chunk),
            staged: take(self.room.floats(chunk)),
            end: 0,
        };
        // What the start of shared memory lacks to a multiple.
        places.end = regions.end() + ALIGNED / 4;
        places
    }

    /// Elements of one chunk that threads bring into products: of rows that do not arrive as they are.
    pub(super) fn warpgroup_elements(&self) -> f64 {
        let keys = (self.lefts() + self.rights() - self.arriving) * self.key;
        let values = if self.values_arrive { 0 } else { VALUES };
        (self.chunk * (keys + values)) as f64
    }

    /// Products of 64 rows, 8 columns and 16 of the sum, of one chunk.
    pub fn warpgroup_products(&self) -> f64 {
        let (keys, values, chunk) = (self.key, VALUES, self.chunk);
        let of = |columns: usize, sum: usize| columns / 8 * (sum / SUB);
        let read = of(chunk, keys) + of(values, keys) + of(values, chunk);
        (self.lefts().min(1) * read + of(keys, chunk)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::Room;
    use super::super::tile::Factor;
    use super::*;

    fn tile(key: usize, arriving: usize) -> Tile {
        Tile {
            key,
            value: 64,
            chunk: 16,
            decays: Decays::PerToken,
            reads: 1,
            outputs: 1,
            factor: Factor::Nothing,
            bonus: false,
            pieces: 1,
            resident: 1,
            warps: 4,
            room: Room::default(),
            updates: 1,
            arriving,
            values_arrive: false,
            products: Products::Warp,
            weighted: None,
        }
    }

    #[test]
    fn a_warpgroup_takes_one_decay_per_token_and_lines_of_keys() {
        let good = tile(128, 2);
        let with = |change: fn(&mut Tile)| {
            let mut tile = good;
            change(&mut tile);
            tile.by_warpgroup().map(|tile| tile.warps)
        };
        assert_eq!(with(|_| ()), Ok(4));
        let refused: [fn(&mut Tile); 7] = [
            |t| t.decays = Decays::PerKey,
            |t| t.factor = Factor::AlongKey,
            |t| t.pieces = 3,
            |t| t.bonus = true,
            |t| t.value = 128,
            |t| t.key = 96,
            |t| t.reads = 2,
        ];
        for change in refused {
            assert!(with(change).is_err());
        }
    }

    #[test]
    fn rows_that_arrive_have_two_places_each() {
        let bytes = |arriving| tile(128, arriving).by_warpgroup().unwrap().shared_bytes();
        // Queries and keys of 64 tokens, 16 KiB each.
        assert_eq!(bytes(2) - bytes(0), 2 * 16 * 1024);
        assert_eq!(bytes(1), bytes(0));
    }
}
