//! Schedules of the product of one row: the weights of a block are one stream.
//!
//! A block has many columns, so that what comes before the product is computed once on a multiprocessor, and
//! its warps take equal stretches of all terms of all its sums. Copies run ahead of the multiplications by the same
//! distance from the first term to the last, whatever sum they belong to, and the first of them while the
//! kernel before still runs: the memory is asked for something at all times.

use super::Target;
use super::gemv::{PIECE_FLOATS, ProductPlace};
use super::product::{ProductShape, Products};
use super::thin::is_readable;
use crate::plan::Storage;
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// Tile of `gemv_stream.cu`, which has one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTile {
    /// Columns per block.
    pub columns: usize,
    /// Columns that a warp takes side by side.
    pub together: usize,
    /// Warps per block.
    pub warps: usize,
    /// Steps, of 16 bytes of each of these columns to a lane, that are on their way.
    pub in_flight: usize,
}

/// Warps of a block.
const WARPS: usize = 8;
/// 16-byte copies of a lane that are on their way, at most and at least.
const COPIES: (usize, usize) = (16, 4);
/// Blocks of a multiprocessor that have room beside each other: one of this kernel and one of the next.
const RESIDENT: usize = 2;
/// Columns that a warp takes side by side, so that activations are read once for them.
const TOGETHER: usize = 2;
/// Most columns of a block.
const COLUMNS: usize = 1024;

/// Elements of the weights that a warp takes of a column at a time: 16 bytes a lane.
pub fn step(storage: Storage) -> usize {
    32 * 16 / storage.bytes()
}

/// The tile of some products of one row that read `share` of the weights of their kernel, beside `around`
/// bytes of what is computed before them. `None` where the weights do not lie as the template reads them, sums differ in
/// length or are shorter than a step, the device copies through registers, or nothing has room.
pub fn schedule(
    products: &Products,
    share: f64,
    storage: Storage,
    target: &Target,
    around: usize,
) -> Option<StreamTile> {
    let shapes = &products.shapes;
    let depth = products.deepest();
    let takes = |shape: &ProductShape| is_readable(shape) && shape.depth == depth;
    if !target.copies() || !shapes.iter().all(takes) || depth < step(storage) {
        return None;
    }
    let all = products.width * products.copies;
    let blocks = ((target.sms as f64 * share).round() as usize).max(1);
    let columns = all.div_ceil(blocks).min(products.width).min(COLUMNS);
    let of = |copies: usize| {
        let together = TOGETHER.min(columns);
        StreamTile {
            columns,
            together,
            warps: WARPS,
            in_flight: copies / together,
        }
    };
    let room = target.shared_beside(RESIDENT);
    let fits = |tile: &StreamTile, room: usize| {
        let own = 4 * tile.places(shapes).1;
        own.next_multiple_of(16) + around <= room
    };
    let halves = || std::iter::successors(Some(COPIES.0), |n| Some(n / 2));
    let rings = || halves().take_while(|n| *n >= COPIES.1).map(of);
    rings()
        .find(|tile| fits(tile, room))
        .or_else(|| rings().find(|tile| fits(tile, target.shared_bytes)))
}

impl StreamTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// Each product's places in shared memory, and the whole, floats. All of them have one ring.
    pub fn places(&self, products: &[ProductShape]) -> (Vec<ProductPlace>, usize) {
        let mut regions = Regions::default();
        let ring = 4 * regions.take(self.threads() * self.in_flight * self.together * PIECE_FLOATS);
        let mut places: Vec<ProductPlace> = Vec::new();
        for p in products {
            let rows = p.rows_of.map(|earlier| places[earlier].rows);
            places.push(ProductPlace {
                rows: rows.unwrap_or_else(|| regions.take(p.depth)),
                sums: regions.take(self.warps * self.columns),
                ring,
            });
        }
        (places, regions.end())
    }
}
