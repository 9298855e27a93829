//! Schedules of matrix products by warpgroups, on sm_90a: tiles that the copy engine brings to shared memory and
//! two warpgroups multiply in turn, one writing its results meanwhile.
//!
//! Lives here: which products can be computed so, with which tile, and what follows from it. Never here:
//! the boxes that copies move, which are the text's.

use super::Target;
use super::product::{Products, batch_grid, stride_along, summed, weight_layout};
use crate::elements::{Element, Elements};
use crate::plan::Storage;
use fusec_ir::{Access, Graph, OpId, ValueId};
use serde::{Deserialize, Serialize};

/// Tile of `gemm_wgmma.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WgmmaTile {
    /// Rows per block: [`ROWS`] or twice as many.
    pub rows: usize,
    /// Columns per block: 64, 128, 192 or 256 for each product of a body; over 64 rows at most 256 for all.
    pub columns: usize,
    /// Stages of the ring of operands: 2 to 8.
    pub stages: usize,
    /// Tiles of rows that blocks go down before they go on to the next columns.
    pub group: usize,
    /// What the tensor cores multiply, as it lies in memory: bf16 or f16.
    pub operand: Element,
}

/// Rows of one product of a warpgroup.
pub const ROWS: usize = 64;
/// Rows per block. More of them read fewer weights for the same products: what a multiprocessor takes in
/// from the L2 cache is what products of tiles of 64 x 256 wait for (H200, 14 of 15 TB/s).
pub const TILE_ROWS: [usize; 2] = [2 * ROWS, ROWS];
/// Terms of a sum from which products, and not what follows them, take most of a tile's time.
const LONG_SUM: usize = 512;
/// Columns of the narrowest tile.
const COLUMNS: usize = 64;
/// Elements of the sum in a stage: a swizzled line of 128 bytes.
pub const DEPTH: usize = 64;
/// Warpgroups that multiply.
pub const CONSUMERS: usize = 2;
/// Columns of [`ROWS`] rows, over all products of a body, for which a thread has accumulators.
const MOST_COLUMNS: usize = 256;
/// Stages of the ring, at most: more do not bring operands earlier.
pub const MOST_STAGES: usize = 8;
/// Elements of whose multiples rows of an operand are apart: 16 bytes.
const ALIGNED: usize = 8;
/// Alignment of the tiles of a stage in shared memory, bytes.
const TILE_ALIGNMENT: usize = 1024;
/// Columns of [`ROWS`] rows that take as long as the start and the end of a tile.
const COLUMNS_OF_TILE: usize = 32;
/// Rows of a band of tiles, over whose columns blocks go before they take the next: with as many columns
/// again, what the blocks of a GPU read at once.
const BAND_ROWS: usize = 1024;

/// A matrix whose rows lie at even distances, the elements of each side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// The value that it is a part of.
    pub value: ValueId,
    /// Its first element.
    pub offset: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// What a product multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operands {
    /// The activation, a row for each row of the run.
    pub x: Matrix,
    /// The weights, rows as [`super::product::ProductShape::layout`] says.
    pub w: Matrix,
}

/// The operands of products as copies can bring them: as they lie in memory, 16-byte aligned. `None`
/// where some do not lie so.
pub fn operands(
    graph: &Graph,
    elements: &Elements,
    products: &Products,
    anchors: &[OpId],
    operand: Element,
) -> Option<Vec<Operands>> {
    if !products.batch.is_empty() {
        return None;
    }
    let grid = batch_grid(graph, &[]);
    let columns = grid.space(&products.columns);
    let matrix = |access: &Access, stride: usize| {
        let offset = grid.global(&graph.value(access.value).axes, &access.index);
        let offset = usize::try_from(offset.base).ok()?;
        let aligned = stride.is_multiple_of(ALIGNED) && offset.is_multiple_of(ALIGNED);
        (aligned && elements.get(access.value) == operand).then_some(Matrix {
            value: access.value,
            offset,
            stride,
        })
    };
    let of = |id: &OpId| {
        let [x, w] = graph.op(*id).inputs.as_slice() else {
            return None;
        };
        let depth = summed(graph, &grid, *id);
        let along = grid.global(&graph.value(x.value).axes, &x.index);
        if x.delay != 0 || !graph.value(x.value).rows || stride_along(&along, &depth)? != 1 {
            return None;
        }
        let weights = grid.global(&graph.value(w.value).axes, &w.index);
        let (_, stride) = weight_layout(&weights, &depth, &columns)?;
        Some(Operands {
            x: matrix(x, graph.row_elements(x.value))?,
            w: matrix(w, stride)?,
        })
    };
    anchors.iter().map(of).collect()
}

/// The tiles of the lanes of a kernel, products over `rows` rows whose [`operands`] lie ready: equally many
/// rows and stages for all. `None` where the target lacks the instructions, or more products share an epilogue
/// than have accumulators.
pub fn schedules(
    lanes: &[Products],
    rows: usize,
    storage: Storage,
    target: &Target,
) -> Option<Vec<WgmmaTile>> {
    let operand = target.wgmma_operand(storage)?;
    let of = |tile_rows: usize| {
        let tiles = lanes.iter().map(|products| {
            let tile = |columns: usize| WgmmaTile {
                rows: tile_rows,
                columns: columns * products.shapes.len().max(1),
                stages: MOST_STAGES,
                group: BAND_ROWS / tile_rows,
                operand,
            };
            let tiles = [4, 3, 2, 1].map(|n| tile(n * COLUMNS)).into_iter();
            let timed = tiles
                .filter(WgmmaTile::has_accumulators)
                .map(|tile| (tile.time(products, rows, target), tile));
            timed.min_by_key(|(time, _)| *time)
        });
        let timed: Vec<(usize, WgmmaTile)> = tiles.collect::<Option<_>>()?;
        let time: usize = timed.iter().map(|(time, _)| time).sum();
        Some((time, timed))
    };
    let heights = match are_long(lanes) {
        true => &TILE_ROWS[..],
        false => &[ROWS],
    };
    let (_, timed) = heights
        .iter()
        .filter_map(|height| of(*height))
        .min_by_key(|(time, _)| *time)?;
    let fits = |stages: &usize| {
        let mut tiles = timed.iter().map(|(_, tile)| WgmmaTile {
            stages: *stages,
            ..*tile
        });
        tiles.all(|tile| tile.shared_bytes() <= target.shared_bytes)
    };
    let stages = (2..=MOST_STAGES).rev().find(fits)?;
    Some(
        timed
            .into_iter()
            .map(|(_, tile)| WgmmaTile { stages, ..tile })
            .collect(),
    )
}

/// Whether at least half of what is multiplied belongs to long sums. Columns are computed by the 64.
fn are_long(lanes: &[Products]) -> bool {
    let multiplied = |least: usize| -> usize {
        let of_lane = |lane: &Products| {
            let depths = lane.shapes.iter().map(|shape| shape.depth);
            let depths = depths.filter(|depth| *depth >= least);
            lane.width.next_multiple_of(COLUMNS) * depths.sum::<usize>()
        };
        lanes.iter().map(of_lane).sum()
    };
    2 * multiplied(LONG_SUM) >= multiplied(0)
}

impl WgmmaTile {
    /// Threads of a block: the consumers, and the warpgroup of the thread that starts copies.
    pub fn threads(&self) -> usize {
        128 * (CONSUMERS + 1)
    }

    /// Whether a thread has accumulators for all of a tile.
    pub fn has_accumulators(&self) -> bool {
        self.rows * self.columns <= ROWS * MOST_COLUMNS
    }

    /// The time of products over `rows` rows in columns of [`ROWS`] rows, if all multiprocessors take tiles one
    /// after the other.
    fn time(&self, products: &Products, rows: usize, target: &Target) -> usize {
        let each = self.columns / products.shapes.len().max(1);
        let tiles = rows.div_ceil(self.rows) * products.width.div_ceil(each.max(1));
        tiles.div_ceil(target.sms.max(1)) * (self.rows / ROWS * each + COLUMNS_OF_TILE)
    }

    /// Dynamic shared memory of a block, bytes: the ring, and a barrier for each full stage, each empty
    /// one and each consumer.
    pub fn shared_bytes(&self) -> usize {
        let stage = (self.rows + self.columns) * DEPTH * self.operand.bytes();
        TILE_ALIGNMENT + self.stages * (stage + 2 * 8) + CONSUMERS * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::schedule::product::{ProductShape, WeightLayout};

    #[test]
    fn tiles_fill_the_multiprocessors_and_the_shared_memory() {
        // Architecture, rows, columns and products of each lane; rows, stages, and the columns of each expected.
        type Case<'a> = (
            &'a str,
            usize,
            &'a [(usize, usize)],
            Option<(usize, usize, &'a [usize])>,
        );
        let cases: [Case<'_>; 11] = [
            ("sm_90a", 16384, &[(2048, 1)], Some((128, 7, &[128]))),
            ("sm_90a", 2048, &[(2048, 1)], Some((128, 7, &[128]))),
            ("sm_90a", 2048, &[(8192, 1)], Some((128, 7, &[128]))),
            ("sm_90a", 16384, &[(2048, 2)], Some((128, 7, &[128]))),
            // Few rows or columns: more blocks have work.
            ("sm_90a", 2048, &[(96, 1)], Some((64, 8, &[64]))),
            ("sm_90a", 300, &[(2048, 1)], Some((128, 8, &[64]))),
            ("sm_90a", 64, &[(4096, 1)], Some((64, 8, &[64]))),
            // All lanes of a kernel have equally many rows and stages.
            (
                "sm_90a",
                16384,
                &[(2048, 1), (16, 1)],
                Some((128, 7, &[128, 64])),
            ),
            // Instructions of exactly one architecture.
            ("sm_90", 2048, &[(2048, 1)], None),
            ("sm_100a", 2048, &[(2048, 1)], None),
            ("sm_80", 2048, &[(2048, 1)], None),
        ];
        for (arch, rows, lanes, expected) in cases {
            let target = Target::of(&Device::find("h200").unwrap().compiled_for(arch));
            let shape = ProductShape {
                depth: 2048,
                layout: WeightLayout::Nk,
                stored: true,
                aligned: true,
                direct: true,
                rows_of: None,
            };
            let products = lanes.iter().map(|(width, count)| Products {
                batch: vec![],
                columns: vec![],
                width: *width,
                copies: 1,
                shapes: vec![shape; *count],
            });
            let products: Vec<Products> = products.collect();
            let tiles = schedules(&products, rows, Storage::Bf16, &target);
            let case = format!("{arch} {rows} x {lanes:?}");
            let got = tiles.as_ref().map(|tiles| {
                let columns: Vec<usize> = tiles.iter().map(|tile| tile.columns).collect();
                (tiles[0].rows, tiles[0].stages, columns)
            });
            let expected = expected.map(|(rows, stages, columns)| (rows, stages, columns.to_vec()));
            assert_eq!(got, expected, "{case}");
            for tile in tiles.iter().flatten() {
                assert!(tile.shared_bytes() <= target.shared_bytes, "{case}");
                assert_eq!(
                    (tile.rows, tile.stages),
                    (
                        tiles.as_ref().unwrap()[0].rows,
                        tiles.as_ref().unwrap()[0].stages
                    )
                );
            }
            assert_eq!(schedules(&products, rows, Storage::F32, &target), None);
        }
    }
}
