//! The schedule of softmax attention: some rows of one head to a block, which walks the keys and
//! values that these rows see.

use crate::plan::GridAxis;
use serde::{Deserialize, Serialize};

/// Tile of `attend.cu`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttendTile {
    /// The heads, one to a block.
    pub grid: Vec<GridAxis>,
    /// Consecutive rows of one block.
    pub rows: u32,
    /// Rows of keys and values that are staged together.
    pub keys: u32,
    /// Elements of a key of one head.
    pub depth: u32,
    /// Elements of a value of one head.
    pub width: u32,
}

/// Threads of a block.
pub const THREADS: usize = 128;
/// Shared memory one block should use, f32 elements: several fit a multiprocessor.
const SHARED_TARGET: usize = 8192;
/// Most rows of keys and values staged together.
const KEYS_LIMIT: u32 = 128;

/// Where the pieces of shared memory start, f32 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the template says what each is")]
pub struct Places {
    pub queries: usize,
    pub keys: usize,
    pub values: usize,
    pub weights: usize,
    pub tops: usize,
    pub totals: usize,
    pub factors: usize,
    /// All of it.
    #[serde(skip)]
    pub end: usize,
}

impl AttendTile {
    /// The tile with as many keys and values together as suit a window of so many rows.
    pub fn staging(self, window: u32) -> AttendTile {
        let of = |keys: u32| AttendTile {
            keys,
            ..self.clone()
        };
        let mut tile = of(KEYS_LIMIT.min(window.next_power_of_two()));
        while tile.keys > 1 && tile.places().end > SHARED_TARGET {
            tile = of(tile.keys / 2);
        }
        tile
    }

    /// Where everything lies.
    pub fn places(&self) -> Places {
        let [rows, keys, depth, width] =
            [self.rows, self.keys, self.depth, self.width].map(|n| n as usize);
        let mut end = 0;
        let mut take = |floats: usize| {
            let at = end;
            end += floats;
            at
        };
        let places = Places {
            queries: take(rows * depth),
            keys: take(keys * (depth + 1)),
            values: take(keys * width),
            weights: take(rows * keys),
            tops: take(rows),
            totals: take(rows),
            factors: take(rows),
            end: 0,
        };
        Places { end, ..places }
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        4 * self.places().end
    }
}
