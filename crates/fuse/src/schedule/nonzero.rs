//! Schedules of products of one row with zeros in it: what of the matrix belongs to a zero is not read.
//!
//! The matrix lies with the summed axis outermost, so that all of it that one activation is multiplied by is a row.
//! A block lists the activations that are not zero, in their order, and reads its columns of their rows.

use super::Target;
use super::product::{Products, WeightLayout};
use super::stream;
use crate::plan::Storage;
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// Tile of `gemv_nonzero.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonZeroTile {
    /// Columns per block: a power of two, 16 bytes of the storage type at least.
    pub columns: usize,
    /// Warps per block.
    pub warps: usize,
    /// 16-byte copies of a lane that are on their way.
    pub in_flight: usize,
}

/// Where a block has what in shared memory, f32 elements; the ring in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonZeroPlaces {
    /// The row of activations.
    pub rows: usize,
    /// Places of those that are not zero, 16 bits each.
    pub list: usize,
    /// How many of them each warp found.
    pub counts: usize,
    /// Partial sums.
    pub sums: usize,
    /// Weights on their way, bytes.
    pub ring: usize,
    /// The whole.
    pub end: usize,
}

/// Longest sum: places in the list have 16 bits.
pub const MOST_TERMS: usize = 1 << 16;
/// Bytes of a row that a block reads: a sector of memory at least.
const BYTES: [usize; 3] = [128, 64, 32];
/// Copies of a lane that are on their way, at most.
const COPIES: usize = 8;

/// The tile of a product of `rows` rows, beside `around` bytes of what is computed before it. `None` where there are
/// several products or rows, the weights lie otherwise, the device copies through registers, or nothing has room.
pub fn schedule(
    products: &Products,
    rows: usize,
    storage: Storage,
    target: &Target,
    around: usize,
) -> Option<NonZeroTile> {
    let [shape] = products.shapes[..] else {
        return None;
    };
    let readable = shape.layout == WeightLayout::Kn
        && shape.stored
        && shape.aligned
        && products.width.is_multiple_of(16 / storage.bytes());
    if rows != 1 || !readable || shape.depth > MOST_TERMS || !target.copies() {
        return None;
    }
    // As much of a row side by side as leaves work for most multiprocessors.
    let blocks = |columns: usize| products.copies * products.width.div_ceil(columns);
    let columns = BYTES.map(|bytes| bytes / storage.bytes());
    let enough = columns
        .into_iter()
        .find(|c| 4 * blocks(*c) >= 3 * target.sms);
    let of = |in_flight: usize| NonZeroTile {
        columns: enough.unwrap_or(columns[BYTES.len() - 1]),
        warps: stream::WARPS,
        in_flight,
    };
    let halves = std::iter::successors(Some(COPIES), |n| Some(n / 2).filter(|n| *n > 0));
    let bytes = |tile: &NonZeroTile| {
        let own = 4 * tile.places(shape.depth).end;
        own.next_multiple_of(16) + around
    };
    halves
        .map(of)
        .find(|tile| bytes(tile) <= target.shared_bytes)
}

/// The same tile with another number of columns; `None` where a block has less than a sector of them or more than
/// there are.
pub(super) fn with_columns(
    of: NonZeroTile,
    columns: usize,
    products: &Products,
    storage: Storage,
) -> Option<NonZeroTile> {
    let sizes = BYTES.map(|bytes| bytes / storage.bytes());
    let there = products.width.next_power_of_two();
    (sizes.contains(&columns) && columns <= there).then_some(NonZeroTile { columns, ..of })
}

impl NonZeroTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// The places of a product of so many terms.
    pub fn places(&self, depth: usize) -> NonZeroPlaces {
        let mut regions = Regions::default();
        NonZeroPlaces {
            rows: regions.take(depth),
            list: regions.take(depth.div_ceil(2)),
            counts: regions.take(self.warps),
            sums: regions.take(self.warps * self.columns),
            ring: 4 * regions.take(self.threads() * self.in_flight * 4),
            end: regions.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::product::ProductShape;
    use super::*;
    use crate::Device;

    fn products(width: usize, depth: usize, layout: WeightLayout) -> Products {
        Products {
            batch: vec![],
            columns: vec![],
            width,
            copies: 1,
            shapes: vec![ProductShape {
                depth,
                layout,
                stored: true,
                aligned: true,
                direct: true,
                rows_of: None,
            }],
        }
    }

    #[test]
    fn a_block_has_sectors_of_rows_and_most_multiprocessors_have_a_block() {
        use WeightLayout::{Kn, Nk};
        let target = Target::of(&Device::find("h200").unwrap());
        // Columns, terms, layout, rows, storage, columns of a block expected.
        for (width, depth, layout, rows, storage, expected) in [
            (2048, 8192, Kn, 1, Storage::Bf16, Some(16)),
            (4096, 16384, Kn, 1, Storage::Bf16, Some(32)),
            (65536, 2048, Kn, 1, Storage::Bf16, Some(64)),
            (2048, 8192, Kn, 1, Storage::F32, Some(16)),
            (64, 256, Kn, 1, Storage::F32, Some(8)),
            (2048, 8192, Nk, 1, Storage::Bf16, None),
            (2048, 8192, Kn, 2, Storage::Bf16, None),
            (2044, 8192, Kn, 1, Storage::Bf16, None),
            (2048, 1 << 17, Kn, 1, Storage::Bf16, None),
        ] {
            let tile = schedule(&products(width, depth, layout), rows, storage, &target, 0);
            let got = tile.map(|tile| tile.columns);
            assert_eq!(got, expected, "{width} {depth} {layout:?} {rows} {storage}");
        }
    }
}
