//! Schedules of the product of one row: the weights of a block are one stream.
//!
//! A block has many columns, so that what comes before the product is computed few times on a multiprocessor, and
//! its warps take equal stretches of all terms of all its sums, whatever sum they belong to. Copies run ahead of the
//! multiplications from the first term to the last, and the first of them start while the kernel before still runs.

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
    /// Columns that a warp takes side by side: activations are read once for them.
    pub together: usize,
    /// Warps per block.
    pub warps: usize,
    /// Steps, of 16 bytes of each of these columns to a lane, that are on their way.
    pub in_flight: usize,
}

/// Warps of a block.
pub(super) const WARPS: usize = 16;
/// Blocks of a multiprocessor. Those of the next kernel have room beside them.
const BLOCKS: usize = 2;
/// Columns that a warp takes side by side, at most.
const TOGETHER: usize = 4;
/// Steps of a warp that are on their way, at most. Many warps with few copies do better than the reverse, and more
/// of them only delay the kernel before: models of 1.3 to 1.5 B took 2 to 18 % longer with 64 KiB on their way on a
/// multiprocessor than with 32 (8 warps, H200, B1 T1), and up to 3 % with 8 MB more brought to the L2 cache.
const STEPS: usize = 2;
/// Most columns of a block.
const COLUMNS: usize = 1024;

/// Steps that the columns of some products take.
pub fn steps(products: &Products, storage: Storage) -> usize {
    products.width * products.copies * steps_of_column(&products.shapes, storage)
}

/// Steps of a column of each product: a warp takes 16 bytes to a lane at a time.
fn steps_of_column(shapes: &[ProductShape], storage: Storage) -> usize {
    let step = 32 * 16 / storage.bytes();
    shapes.iter().map(|s| s.depth.div_ceil(step)).sum()
}

/// The tile of some products of one row that take `share` of the steps of their kernel, beside `around`
/// bytes of what is computed before them. `None` where the weights do not lie as the template reads them, sums differ in
/// length, the device copies through registers, or nothing has room.
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
    if !target.copies() || !shapes.iter().all(takes) {
        return None;
    }
    let blocks = ((BLOCKS * target.sms) as f64 * share).round().max(1.0) as usize;
    let columns = (products.width * products.copies).div_ceil(blocks);
    let columns = columns.min(products.width).min(COLUMNS);
    let together = TOGETHER.min(columns);
    let groups = columns / together;
    let stretch = (groups * steps_of_column(shapes, storage)).div_ceil(WARPS);
    let tile = StreamTile {
        columns: groups * together,
        together,
        warps: WARPS,
        in_flight: (stretch / 2).clamp(1, STEPS),
    };
    let own = 4 * tile.places(shapes).1;
    (own.next_multiple_of(16) + around <= target.shared_bytes).then_some(tile)
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
