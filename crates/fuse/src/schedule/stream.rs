//! Schedules of products of few rows: the weights of a block are one stream.
//!
//! A block has many columns, so that what comes before the product is computed few times on a multiprocessor, and
//! its warps take equal stretches of all terms of all its sums, whatever sum they belong to. Copies run ahead of the
//! multiplications from the first term to the last, and the first of them start while the kernel before still runs.
//! One row is multiplied on the FP32 units, several on tensor cores.

use super::Target;
use super::gemv::{PIECE_FLOATS, ProductPlace};
use super::product::{ProductShape, Products};
use super::thin::{is_readable, pitch};
use crate::elements::Element;
use crate::plan::Storage;
use crate::regions::Regions;
use serde::{Deserialize, Serialize};

/// Tile of `gemv_stream.cu`, which has one row, and of `thin_stream.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTile {
    /// Rows per block: 1 on FP32 units, a power of two up to [`ROWS`] on tensor cores.
    pub rows: usize,
    /// Columns per block.
    pub columns: usize,
    /// Columns that a warp takes side by side: activations are read once for them.
    pub together: usize,
    /// Warps per block.
    pub warps: usize,
    /// Steps of a warp, of at most [`PIECES`] times 16 bytes to a lane, that are on their way.
    pub in_flight: usize,
    /// What the tensor cores multiply: bf16 or f16. Activations of other types are rounded to it. `None` on FP32 units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operand: Option<Element>,
    /// Whether rows that lie in memory as tensor cores multiply them come to shared memory first, once for all columns
    /// of the block: warps would wait for them at each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brought: bool,
}

/// Most rows of a block: half of those of a fragment. Activations of more take longer to read than weights: 16 rows took 1.1
/// times as long as on [`super::thin`] in one model of three, 64 rows 1.5 to 2 times (1.3 to 1.5 B, H200).
pub const ROWS: usize = 8;
/// Warps of a block.
pub(super) const WARPS: usize = 16;
/// Blocks of a multiprocessor.
const BLOCKS: usize = 2;
/// Pieces of 16 bytes that a lane has of a step: of as many columns on FP32 units, of one on tensor cores.
pub const PIECES: usize = 4;
/// Steps of a warp that are on their way, at most. Many warps with few copies do better than the reverse, and more
/// of them only delay the kernel before: models of 1.3 to 1.5 B took 2 to 18 % longer with 64 KiB on their way on a
/// multiprocessor than with 32 (8 warps, H200, B1 T1), and up to 3 % with 8 MB more brought to the L2 cache. One block a
/// multiprocessor, which leaves registers for the next kernel's, took 4 to 15 % longer.
const STEPS: usize = 2;
/// Rows of a fragment of the tensor cores' first operand, whether there are as many or not.
pub const FRAGMENT_ROWS: usize = 16;
/// Columns of a fragment of the second.
pub const FRAGMENT_COLUMNS: usize = 8;

/// Bytes of what tensor cores multiply.
const STORED_BYTES: usize = 2;

/// Columns that a warp takes side by side, of products of so many rows and columns.
fn together(rows: usize, width: usize) -> usize {
    match rows {
        1 => PIECES.min(width),
        _ => FRAGMENT_COLUMNS,
    }
}

/// Steps of a sum of so many terms, for `rows` rows of weights of so many bytes.
fn steps(rows: usize, depth: usize, bytes: usize) -> usize {
    let vector = 16 / bytes;
    depth.div_ceil(match rows {
        1 => 32 * vector,
        // Four lanes beside each other have a column.
        _ => 4 * PIECES * vector,
    })
}

/// The steps of a block of a kernel with such products side by side, if all are streams: the fewest with which all
/// blocks are resident together. Those left over would have the device for themselves.
pub fn steps_of_block(lanes: &[Products], rows: usize, storage: Storage, target: &Target) -> usize {
    let lanes: Vec<(usize, usize, usize)> = lanes
        .iter()
        .map(|lane| {
            let groups = lane.width.div_ceil(together(rows, lane.width));
            let depths = lane.shapes.iter().map(|s| s.depth);
            let of_group = depths
                .map(|depth| steps(rows, depth, storage.bytes()))
                .sum();
            (groups, of_group, lane.copies)
        })
        .collect();
    let room = BLOCKS * target.sms;
    let fits = |most: usize| {
        let blocks = lanes.iter().map(|(groups, of_group, copies)| {
            copies * groups.div_ceil((most / of_group.max(&1)).max(1))
        });
        blocks.sum::<usize>() <= room
    };
    let all: usize = lanes.iter().map(|(groups, steps, _)| groups * steps).sum();
    let (mut low, mut high) = (1, all.max(1));
    while low < high {
        let middle = (low + high) / 2;
        match fits(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    low
}

/// The tile of some products of `rows` rows, of which a block takes `steps` steps or one group of columns, beside `around`
/// bytes of what is computed before them; a block has as many rows as there is room for. `None` where the weights do not lie as
/// the template reads them, sums differ in length, the device copies through registers or has no tensor cores for
/// several rows, or nothing has room.
pub fn schedule(
    products: &Products,
    rows: usize,
    steps_of_block: usize,
    storage: Storage,
    target: &Target,
    around: usize,
) -> Option<StreamTile> {
    let shapes = &products.shapes;
    let depth = products.deepest();
    let takes = |shape: &ProductShape| is_readable(shape) && shape.depth == depth;
    if rows > ROWS || !target.copies() || !shapes.iter().all(takes) {
        return None;
    }
    let operand = match rows {
        1 => None,
        _ => Some(target.mma_operand(storage)?),
    };
    let together = together(rows, products.width);
    let of_group = shapes.len() * steps(rows, depth, storage.bytes());
    let groups = (steps_of_block / of_group).clamp(1, products.width.div_ceil(together));
    let stretch = (groups * of_group).div_ceil(WARPS);
    let of = |rows: usize| StreamTile {
        rows,
        columns: groups * together,
        together,
        warps: WARPS,
        in_flight: (stretch / 2).clamp(1, STEPS),
        operand,
        brought: false,
    };
    let fits = |tile: &StreamTile| {
        let own = 4 * tile.places(shapes).1;
        own.next_multiple_of(16) + around <= target.shared_bytes
    };
    let least = rows.min(2);
    let halves = std::iter::successors(Some(rows.next_power_of_two()), |rows| Some(rows / 2));
    let tile = halves
        .take_while(|rows| *rows >= least)
        .map(of)
        .find(fits)?;
    // All blocks of the kernel stay resident, and rows are read more than once.
    let brought = StreamTile {
        brought: true,
        ..tile
    };
    let whole = (4 * brought.places(shapes).1).next_multiple_of(16) + around;
    let pays = groups > 1 && tile.is_direct(shapes) && whole <= target.shared_beside(BLOCKS);
    Some(if pays { brought } else { tile })
}

/// The same tile with another number of columns, whole ones that a warp takes side by side; `None` where blocks never have
/// as many.
pub(super) fn with_columns(
    of: StreamTile,
    columns: usize,
    products: &Products,
) -> Option<StreamTile> {
    let columns = columns.next_multiple_of(of.together);
    let most = products.width.next_multiple_of(of.together);
    (columns != of.columns && columns <= most).then_some(StreamTile { columns, ..of })
}

impl StreamTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// Blocks of a multiprocessor that its registers must suffice for.
    pub fn resident(&self) -> usize {
        BLOCKS
    }

    /// Sums that a warp has a part of, at most, on tensor cores.
    pub fn slots(&self, products: &[ProductShape]) -> usize {
        let steps = |p: &ProductShape| steps(self.rows, p.depth, STORED_BYTES);
        let of_group: usize = products.iter().map(steps).sum();
        let stretch = (self.columns.div_ceil(self.together) * of_group).div_ceil(self.warps);
        let of_sum = products.iter().map(steps).max().unwrap_or(1).max(1);
        (stretch + 2 * of_sum - 2) / of_sum
    }

    /// Each product's places in shared memory, and the whole, floats. All of them have one ring, and on tensor cores
    /// one room for sums.
    pub fn places(&self, products: &[ProductShape]) -> (Vec<ProductPlace>, usize) {
        let mut regions = Regions::default();
        let pieces = match self.operand {
            None => self.together,
            Some(_) => PIECES,
        };
        let ring = 4 * regions.take(self.threads() * self.in_flight * pieces * PIECE_FLOATS);
        let direct = self.is_direct(products);
        let all_sums = match self.operand {
            None => 0,
            Some(_) => regions.take(self.warps * self.slots(products) * self.rows * self.together),
        };
        let mut places: Vec<ProductPlace> = Vec::new();
        for p in products {
            let rows = match (self.operand, p.rows_of) {
                _ if direct => 0,
                (_, Some(earlier)) => places[earlier].rows,
                (None, None) => regions.take(p.depth),
                (Some(_), None) => 2 * regions.take((self.rows * pitch(p.depth)).div_ceil(2)),
            };
            let sums = match self.operand {
                None => regions.take(self.warps * self.columns),
                Some(_) => all_sums,
            };
            places.push(ProductPlace { rows, sums, ring });
        }
        (places, regions.end())
    }

    /// Whether activations go from memory to registers: on tensor cores, if those of all products can.
    pub fn is_direct(&self, products: &[ProductShape]) -> bool {
        self.operand.is_some() && !self.brought && products.iter().all(|p| p.direct)
    }
}

#[cfg(test)]
mod tests {
    use super::super::product::WeightLayout;
    use super::*;
    use crate::Device;

    fn products(width: usize, depth: usize) -> Products {
        let shape = ProductShape {
            depth,
            layout: WeightLayout::Nk,
            stored: true,
            aligned: true,
            direct: true,
            rows_of: None,
        };
        Products {
            batch: vec![],
            columns: vec![],
            width,
            copies: 1,
            shapes: vec![shape],
        }
    }

    #[test]
    fn all_blocks_of_a_kernel_are_resident_together() {
        let target = Target::of(&Device::find("h200").unwrap());
        // Widths and depths of lanes side by side, rows, columns of a block of each.
        for (lanes, rows, columns) in [
            (&[(2048, 2048)][..], 1, &[8][..]),
            (&[(2048, 2048)], 8, &[8]),
            (&[(65536, 2048)], 1, &[252]),
            (&[(4096, 2048), (160, 4096)], 1, &[20, 8]),
            (
                &[(2048, 2048), (2048, 2048), (2048, 2048)],
                1,
                &[24, 24, 24],
            ),
            (&[(3, 64)], 1, &[3]),
        ] {
            let all: Vec<Products> = lanes.iter().map(|(w, d)| products(*w, *d)).collect();
            let steps = steps_of_block(&all, rows, Storage::Bf16, &target);
            let tile = |p| schedule(p, rows, steps, Storage::Bf16, &target, 0).unwrap();
            let tiles: Vec<StreamTile> = all.iter().map(tile).collect();
            let got: Vec<usize> = tiles.iter().map(|tile| tile.columns).collect();
            assert_eq!(got, columns, "{lanes:?} {rows}");
            let blocks = all.iter().zip(&got).map(|(p, c)| p.width.div_ceil(*c));
            assert!(blocks.sum::<usize>() <= BLOCKS * target.sms, "{lanes:?}");
        }
    }

    #[test]
    fn several_rows_need_tensor_cores_and_are_few() {
        let h200 = Target::of(&Device::find("h200").unwrap());
        for (rows, storage, expected) in [
            (1, Storage::F32, Some((1, None))),
            (1, Storage::Bf16, Some((1, None))),
            (3, Storage::Bf16, Some((4, Some(Element::Bf16)))),
            (8, Storage::F16, Some((8, Some(Element::F16)))),
            (8, Storage::F32, None),
            (9, Storage::Bf16, None),
        ] {
            let tile = schedule(&products(2048, 2048), rows, 64, storage, &h200, 0);
            let got = tile.map(|tile| (tile.rows, tile.operand));
            assert_eq!(got, expected, "{rows} {storage}");
        }
    }
}
