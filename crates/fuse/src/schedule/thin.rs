//! Schedules of products of some rows on tensor cores: the weights are the wide operand and go from memory to
//! registers, once. Up to 8 rows are those of [`super::stream`], if that takes their products.

use super::Target;
use super::gemv::ProductPlace;
use super::product::{ProductShape, Products, WeightLayout};
use super::stream;
use crate::elements::Element;
use crate::plan::Storage;
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// Tile of `thin.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinTile {
    /// Rows per block: 1 to 64. More rows than this read the weights again.
    pub rows: usize,
    /// Columns per block: 16 for each group of `split` warps.
    pub columns: usize,
    /// Warps per block.
    pub warps: usize,
    /// Warps that share the columns of one, each with a part of the sum: divides `warps`.
    pub split: usize,
    /// Runs of [`KEYS`] elements of a sum that a warp loads at once.
    pub unroll: usize,
    /// What the tensor cores multiply: bf16 or f16. Activations of other types are rounded to it.
    pub operand: Element,
}

/// Elements of a sum that a warp takes at a time.
pub const KEYS: usize = 64;
/// Rows that a fragment of the tensor cores has, whether there are as many or not.
pub const FRAGMENT_ROWS: usize = 8;
/// Columns of a warp.
pub const WARP_COLUMNS: usize = 16;
/// Most rows of a block.
pub const ROWS: usize = 64;
/// Blocks of a multiprocessor that have room beside each other.
pub const RESIDENT: usize = 2;
/// Elements of a 16-byte access.
const VECTOR: usize = 8;
/// Registers of a thread for weights and activations on their way; a run takes 16 and 8 for each 8 rows.
const LOADED: usize = 96;
/// Most runs that a warp loads at once.
const TOGETHER: usize = 4;
/// Warps of a block.
const WARPS: usize = 8;
/// Blocks that keep a large GPU busy: with fewer, warps of a block share columns.
const WANTED_BLOCKS: usize = 256;

/// The tile of some products for `rows` rows, of which a block holds as many as have room in the shared
/// memory of a block beside `around` bytes of what is computed before the products. `None` where not
/// even one row has, the weights do not lie as the template reads them, or the target lacks the
/// instructions.
pub fn schedule(
    products: &Products,
    rows: usize,
    storage: Storage,
    target: &Target,
    around: usize,
) -> Option<ThinTile> {
    let operand = target.mma_operand(storage)?;
    if !products.shapes.iter().all(is_readable) {
        return None;
    }
    // Few rows may have streams beside them in their kernel, whose blocks are as large.
    let warps = match rows <= stream::ROWS {
        true => stream::WARPS,
        false => WARPS,
    };
    let blocks = |columns: usize| products.width.div_ceil(columns) * products.copies;
    let mut columns = warps * WARP_COLUMNS / 2;
    while columns > WARP_COLUMNS && blocks(columns) < WANTED_BLOCKS {
        columns /= 2;
    }
    let of = |rows: usize| ThinTile {
        rows,
        columns,
        warps,
        split: warps * WARP_COLUMNS / columns,
        unroll: (LOADED / (16 + 8 * rows.div_ceil(FRAGMENT_ROWS))).clamp(1, TOGETHER),
        operand,
    };
    let fits = |tile: &ThinTile| {
        let own = tile.shared_bytes(&products.shapes);
        own.next_multiple_of(16) + around <= target.shared_bytes
    };
    let most = rows.next_power_of_two().clamp(1, ROWS);
    let halves = std::iter::successors(Some(most), |rows| Some(rows / 2).filter(|r| *r > 0));
    halves.map(of).find(fits)
}

/// The same tile with another number of columns; `None` where no block has as many.
pub(super) fn with_columns(of: ThinTile, columns: usize) -> Option<ThinTile> {
    let all = of.warps * WARP_COLUMNS;
    (WARP_COLUMNS..=all / 2)
        .contains(&columns)
        .then(|| ThinTile {
            columns,
            split: all / columns,
            ..of
        })
}

/// Whether 16-byte accesses go along the sum.
pub fn is_readable(shape: &ProductShape) -> bool {
    shape.stored
        && shape.layout == WeightLayout::Nk
        && shape.depth.is_multiple_of(VECTOR)
        && shape.aligned
}

/// Elements from one row of activations to the next in shared memory: whole runs, those of streams too, and what keeps
/// neighbouring rows of a fragment, of each of which four lanes read 64 bytes, in different banks.
pub fn pitch(depth: usize) -> usize {
    depth.next_multiple_of(2 * KEYS) + 4 * VECTOR
}

impl ThinTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// Each product's places in shared memory, and the whole, floats.
    pub fn places(&self, products: &[ProductShape]) -> (Vec<ProductPlace>, usize) {
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        let mut places: Vec<ProductPlace> = Vec::new();
        for p in products {
            // What lies in memory as it is needed goes from there to registers.
            let rows = match (p.direct, p.rows_of) {
                (true, _) => 0,
                (false, Some(earlier)) => places[earlier].rows,
                (false, None) => 2 * take((self.rows * pitch(p.depth)).div_ceil(2)),
            };
            places.push(ProductPlace {
                rows,
                sums: take(self.split * self.rows * self.columns),
                ring: 0,
            });
        }
        (places, regions.end())
    }

    /// Shared memory of a block for the products alone, bytes.
    pub fn shared_bytes(&self, products: &[ProductShape]) -> usize {
        4 * self.places(products).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn tiles_follow_rows_columns_and_the_device() {
        let h200 = Target::of(&Device::find("h200").unwrap());
        let t4 = Target::of(&Device::find("t4").unwrap());
        let shape = ProductShape {
            depth: 2048,
            layout: WeightLayout::Nk,
            stored: true,
            aligned: true,
            direct: false,
            rows_of: None,
        };
        let products = |width: usize, shape: ProductShape| Products {
            batch: vec![],
            columns: vec![],
            width,
            copies: 1,
            shapes: vec![shape],
        };
        let kn = ProductShape {
            layout: WeightLayout::Kn,
            ..shape
        };
        let odd = ProductShape {
            depth: 2044,
            ..shape
        };
        let deep = ProductShape {
            depth: 8192,
            ..shape
        };
        let bf16 = Storage::Bf16;
        // Products, rows, storage, target; rows, columns and warps a column expected.
        let cases = [
            (products(2048, shape), 8, bf16, h200, Some((8, 16, 16))),
            (products(8192, shape), 8, bf16, h200, Some((8, 32, 8))),
            (products(65536, shape), 1, bf16, h200, Some((1, 128, 2))),
            (products(2048, shape), 48, bf16, h200, Some((32, 16, 8))),
            (products(2048, deep), 16, bf16, h200, Some((8, 16, 8))),
            (products(2048, kn), 8, bf16, h200, None),
            (products(2048, odd), 8, bf16, h200, None),
            (products(2048, shape), 8, Storage::F32, h200, None),
            (products(2048, shape), 8, Storage::F16, t4, None),
        ];
        for (products, rows, storage, target, expected) in cases {
            let tile = schedule(&products, rows, storage, &target, 0);
            let got = tile.map(|t| (t.rows, t.columns, t.split));
            assert_eq!(got, expected, "{rows} x {} {storage}", products.width);
        }
    }
}
