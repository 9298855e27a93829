//! Schedules of softmax attention: some rows of one head to a block, which walks the keys and values
//! that these rows see, on the FP32 units or on tensor cores.

use super::Target;
use crate::elements::Element;
use crate::plan::GridAxis;
use serde::{Deserialize, Serialize};

/// How attention is computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttendTile {
    /// FP32 units, any storage types (`attend.cu`).
    Simt(SimtTile),
    /// Tensor cores, sm_80 and above (`attend_mma.cu`).
    Mma(MmaTile),
}

/// Tile of `attend.cu`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimtTile {
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

/// Tile of `attend_mma.cu`: products in f32 accumulators, the largest product and the sum of weights of
/// each row kept up to date from one tile of keys to the next (Milakov and Gimelshein, "Online normalizer
/// calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmaTile {
    /// The heads that blocks differ in.
    pub grid: Vec<GridAxis>,
    /// Heads of queries with the same keys and values that a block has side by side, as rows of its tile.
    pub group: u32,
    /// Consecutive rows of one block.
    pub rows: u32,
    /// Warps of a block.
    pub warps: u32,
    /// Tiles of 16 rows of a warp.
    pub row_tiles: u32,
    /// Rows of keys and values that are staged together.
    pub keys: u32,
    /// Whether a warp keeps its queries in registers.
    pub held: bool,
    /// Elements of a key of one head.
    pub depth: u32,
    /// Elements of a value of one head.
    pub width: u32,
    /// What the tensor cores multiply. Operands of other types, and the weights, are rounded to it.
    pub operand: Element,
}

/// Threads of a block of [`SimtTile`].
pub const THREADS: usize = 128;
/// Shared memory one block of [`SimtTile`] should use, f32 elements: several fit a multiprocessor.
const SHARED_TARGET: usize = 8192;
/// Most rows of keys and values that [`SimtTile`] stages together.
const KEYS_LIMIT: u32 = 128;

/// Rows of a tile of the tensor cores.
pub const FRAGMENT_ROWS: usize = 16;
/// Warps of a block on tensor cores.
const WARPS: u32 = 4;
/// Rows of keys and values on tensor cores, the first that fits is taken.
const KEYS: [u32; 3] = [64, 32, 16];
/// Tiles of keys and values in shared memory: one is worked on while the next arrives.
pub const STAGES: usize = 2;
/// Elements between the rows of a tile beside its own: eight keep those of an `ldmatrix` in different banks.
pub const PADDING: usize = 8;
/// Registers that a thread on tensor cores needs beside its fragments, and one more for each 16 columns of a
/// value: with these, what the assembler (NVRTC 13, sm_80 and sm_90a) made of heads of 32, 64, 80 and 128
/// elements of bf16 had no spills.
const OTHER_REGISTERS: usize = 76;
/// Registers that a thread may have.
const REGISTERS: usize = 255;

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

impl SimtTile {
    /// The tile with as many keys and values together as suit a window of so many rows.
    pub fn staging(self, window: u32) -> SimtTile {
        let of = |keys: u32| SimtTile {
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
}

impl MmaTile {
    /// The largest tile of keys that fits the registers and the shared memory of `target`, for a window of
    /// so many rows, with the queries in registers where there is room; `None` if none fits.
    pub fn staging(self, window: u32, target: &Target) -> Option<MmaTile> {
        // A tile that is twice as long as the window is half empty.
        let fits = |tile: &MmaTile| {
            let suits = tile.keys <= window.next_power_of_two().max(FRAGMENT_ROWS as u32);
            suits && tile.registers() <= REGISTERS && tile.shared_bytes() <= target.shared_bytes
        };
        let tiles = KEYS
            .into_iter()
            .flat_map(|keys| [(keys, true), (keys, false)]);
        let mut tiles = tiles.map(|(keys, held)| MmaTile {
            keys,
            held,
            ..self.clone()
        });
        tiles.find(fits)
    }

    /// Rows of queries that a block has, those of all heads of a group: whole tiles of the tensor cores.
    pub fn tile_rows(&self) -> usize {
        FRAGMENT_ROWS * (self.row_tiles * self.warps) as usize
    }

    /// Elements of a key, up to whole tiles of the tensor cores.
    pub fn key_size(&self) -> usize {
        (self.depth as usize).next_multiple_of(16)
    }

    /// Elements of a value, up to whole tiles of the tensor cores.
    pub fn value_size(&self) -> usize {
        (self.width as usize).next_multiple_of(16)
    }

    /// Registers of a thread, at most: results, products with the keys of a tile, queries, and others.
    pub fn registers(&self) -> usize {
        let queries = match self.held {
            true => self.key_size() / 4,
            false => 4,
        };
        let of_tile = (self.value_size() + self.keys as usize) / 2 + queries;
        self.row_tiles as usize * of_tile + OTHER_REGISTERS + self.value_size() / 16
    }

    /// Tensor-core products of a warp for one tile of keys.
    pub fn products(&self) -> usize {
        let keys = self.keys as usize;
        let of_keys = self.key_size() / 16 * (keys / 8);
        let of_values = keys / 16 * (self.value_size() / 8);
        self.row_tiles as usize * (of_keys + of_values)
    }

    /// Weights that a thread computes for one tile of keys.
    pub fn weights(&self) -> usize {
        self.row_tiles as usize * self.keys as usize / 2
    }

    /// Shared memory of a block, bytes: queries, and two tiles of keys and values.
    pub fn shared_bytes(&self) -> usize {
        let (key, value) = (self.key_size() + PADDING, self.value_size() + PADDING);
        let staged = STAGES * self.keys as usize * (key + value);
        self.operand.bytes() * (self.tile_rows() * key + staged)
    }

    /// How many tiles of keys the longest-walking block goes through, and all blocks of one head and one
    /// sequence together, for a run of `time` rows behind `past` earlier ones of a `window`.
    pub fn walked(&self, time: usize, past: usize, window: u32) -> (usize, usize) {
        let (rows, keys) = (self.rows.max(1) as usize, self.keys as usize);
        let of_run = |begin: usize| {
            let end = past + (begin + rows).min(time);
            let first = (past + begin + 1).saturating_sub(window as usize);
            // Tiles of rows before the run and of its own start at multiples from its first row.
            let tiles = |from: usize, to: usize| to.div_ceil(keys) - from.min(to) / keys;
            let before = past.saturating_sub(first).div_ceil(keys);
            before + tiles(first.saturating_sub(past), end - past)
        };
        let runs = (0..time).step_by(rows).map(of_run);
        runs.fold((0, 0), |(most, all), n| (most.max(n), all + n))
    }
}

/// The tiles for the tensor cores: with one or two tiles of rows to a warp, and with the heads of a group
/// on their own or side by side. `heads` are all heads, `group` those among them with the same keys and values.
pub fn on_tensor_cores(
    heads: &[GridAxis],
    group: &[GridAxis],
    group_size: usize,
    (depth, width): (usize, usize),
    window: u32,
    operand: Element,
    target: &Target,
) -> Vec<MmaTile> {
    let side_by_side = [false, true]
        .into_iter()
        .filter(|packed| !packed || group_size > 1);
    let of = |packed: bool, row_tiles: u32| {
        let tile_rows = FRAGMENT_ROWS * (row_tiles * WARPS) as usize;
        let size = if packed { group_size } else { 1 };
        let spread = heads.iter().filter(|g| !(packed && group.contains(g)));
        let tile = MmaTile {
            grid: spread.copied().collect(),
            group: size as u32,
            rows: (tile_rows / size) as u32,
            warps: WARPS,
            row_tiles,
            keys: 0,
            held: false,
            depth: depth as u32,
            width: width as u32,
            operand,
        };
        (tile.rows > 0)
            .then(|| tile.staging(window, target))
            .flatten()
    };
    let all = side_by_side.flat_map(|packed| [(packed, 1), (packed, 2)]);
    all.filter_map(|(packed, row_tiles)| of(packed, row_tiles))
        .collect()
}

impl AttendTile {
    /// Axes spread over the grid, outermost first.
    pub fn grid(&self) -> &[GridAxis] {
        match self {
            AttendTile::Simt(tile) => &tile.grid,
            AttendTile::Mma(tile) => &tile.grid,
        }
    }

    /// Consecutive rows of one block.
    pub fn rows(&self) -> u32 {
        match self {
            AttendTile::Simt(tile) => tile.rows,
            AttendTile::Mma(tile) => tile.rows,
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self {
            AttendTile::Simt(_) => THREADS,
            AttendTile::Mma(tile) => 32 * tile.warps as usize,
        }
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        match self {
            AttendTile::Simt(tile) => 4 * tile.places().end,
            AttendTile::Mma(tile) => tile.shared_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn tiles(device: &str, depth: usize, width: usize, window: u32) -> Vec<(u32, u32, bool)> {
        let target = Target::of(&Device::find(device).unwrap());
        let tiles = on_tensor_cores(&[], &[], 1, (depth, width), window, Element::Bf16, &target);
        let of = |tile: &MmaTile| (tile.rows, tile.keys, tile.held);
        tiles.iter().map(of).collect()
    }

    #[test]
    fn tiles_fit_registers_and_shared_memory() {
        // Device, elements of a key and a value, window; rows, keys and whether queries are held.
        let cases = [
            ("h200", 64, 64, 4096, vec![(64, 64, true), (128, 64, true)]),
            ("h200", 32, 32, 4096, vec![(64, 64, true), (128, 64, true)]),
            ("h200", 80, 80, 4096, vec![(64, 64, true), (128, 64, false)]),
            (
                "h200",
                128,
                128,
                4096,
                vec![(64, 64, true), (128, 32, false)],
            ),
            ("h200", 256, 256, 4096, vec![(64, 32, false)]),
            // Less shared memory, and a short window.
            ("rtx4090", 256, 256, 4096, vec![(64, 32, false)]),
            ("h200", 64, 64, 5, vec![(64, 16, true), (128, 16, true)]),
            ("h200", 64, 1024, 4096, vec![]),
        ];
        for (device, depth, width, window, expected) in cases {
            let got = tiles(device, depth, width, window);
            assert_eq!(
                got, expected,
                "{device}: {depth} x {width}, window {window}"
            );
        }
    }

    #[test]
    fn heads_of_a_group_are_rows_of_one_tile() {
        let target = Target::of(&Device::find("h200").unwrap());
        let axis = |n: u32| GridAxis {
            axis: fusec_ir::AxisId(n),
            tile: 1,
        };
        let heads = [axis(0), axis(1)];
        let tiles = on_tensor_cores(
            &heads,
            &heads[1..],
            6,
            (64, 64),
            4096,
            Element::F16,
            &target,
        );
        let of = |tile: &MmaTile| (tile.grid.len(), tile.group, tile.rows);
        let got: Vec<_> = tiles.iter().map(of).collect();
        assert_eq!(got, [(2, 1, 64), (2, 1, 128), (1, 6, 10), (1, 6, 21)]);
    }

    #[test]
    fn blocks_walk_the_tiles_that_their_rows_see() {
        let target = Target::of(&Device::find("h200").unwrap());
        let tile = |window| {
            let tiles = on_tensor_cores(&[], &[], 1, (64, 64), window, Element::Bf16, &target);
            tiles[0].clone()
        };
        // Rows of the run, rows before it, window; the longest walk and all of them.
        for (time, past, window, expected) in [
            (64, 0, 4096, (1, 1)),
            (65, 0, 4096, (2, 3)),
            (256, 0, 4096, (4, 10)),
            (256, 0, 64, (2, 7)),
            (256, 64, 4096, (5, 14)),
            (1, 4095, 4096, (65, 65)),
            (1, 63, 64, (2, 2)),
            (1, 4095, 16, (2, 2)),
        ] {
            let got = tile(window).walked(time, past, window);
            assert_eq!(got, expected, "T={time} after {past}, window {window}");
        }
    }
}
