//! Schedules of matrix products: tiles of rows by columns, on the FP32 units or on tensor cores.

use super::Target;
use super::product::{ProductShape, Products, WeightLayout};
use super::wgmma::WgmmaTile;
use crate::elements::Element;
use crate::plan::Storage;
use serde::{Deserialize, Serialize};

/// How a product of many rows is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GemmTile {
    /// FP32 units, any storage types (`gemm_simt.cu`).
    Simt(SimtTile),
    /// Tensor cores, sm_80 and above (`gemm_mma.cu`).
    Mma(MmaTile),
    /// Tensor cores by warpgroups, sm_90a (`gemm_wgmma.cu`).
    Wgmma(WgmmaTile),
}

/// Tile of `gemm_simt.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimtTile {
    /// Rows per block: 32, 64 or 128.
    pub rows: usize,
    /// Columns per block: 32, 64 or 128.
    pub columns: usize,
}

/// Tile of `gemm_mma.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmaTile {
    /// Rows per block: a multiple of `16 * warps_m`.
    pub rows: usize,
    /// Columns per block: a multiple of `16 * warps_n`.
    pub columns: usize,
    /// Warps along the rows.
    pub warps_m: usize,
    /// Warps along the columns.
    pub warps_n: usize,
    /// Length of a tile along k: 32 or 64.
    pub depth: usize,
    /// Tiles along k that shared memory holds: 2 to 8.
    pub stages: usize,
    /// What the tensor cores multiply: bf16 or f16. Operands of other types are rounded to it.
    pub operand: Element,
}

/// Length of a tile of `gemm_simt.cu` along k.
pub const SIMT_DEPTH: usize = 16;
/// Rows and columns from which tiles are large: fewer would leave multiprocessors without one.
const LARGE: (usize, usize) = (1024, 512);
/// Tiles along k that a block of tensor-core products holds, where they fit.
pub(super) const STAGES: [usize; 2] = [3, 2];

/// The schedule of some products over `rows` rows.
///
/// `staged`: some activation of the kernel comes to its products through registers. All bodies of a
/// kernel have equally many threads, so this is a property of the kernel. `None` where no tile fits
/// the shared memory of a block.
pub fn schedule(
    products: &Products,
    rows: usize,
    staged: bool,
    storage: Storage,
    target: &Target,
) -> Option<GemmTile> {
    let columns = products.width * products.copies;
    let large = rows >= LARGE.0 && columns >= LARGE.1;
    let size = if large { 128 } else { 64 };
    // Products of a batch have columns of their own.
    let widest = if products.width > 64 { 128 } else { 64 };
    let tile = |stages: usize| match target.mma_operand(storage) {
        None => GemmTile::Simt(SimtTile {
            rows: size,
            columns: size.min(widest),
        }),
        Some(operand) => GemmTile::Mma(MmaTile {
            rows: size,
            // Two accumulators of a wide tile would not fit the registers.
            columns: if products.shapes.len() == 1 {
                size.min(widest)
            } else {
                64
            },
            // Few warps with large tiles read each operand from shared memory the fewest times;
            // activations on their way through registers need more warps and short tiles.
            warps_m: 2,
            warps_n: if staged { 4 } else { 2 },
            depth: if staged { 32 } else { 64 },
            stages,
            operand,
        }),
    };
    let tiles = STAGES.into_iter().map(tile);
    tiles
        .into_iter()
        .find(|tile| tile.shared_bytes(&products.shapes) <= target.shared_bytes)
}

impl GemmTile {
    /// Rows of a block.
    pub fn rows(&self) -> usize {
        match self {
            GemmTile::Simt(tile) => tile.rows,
            GemmTile::Mma(tile) => tile.rows,
            GemmTile::Wgmma(tile) => tile.rows,
        }
    }

    /// Columns of a block, for each of some products that share an epilogue.
    pub fn columns(&self, products: usize) -> usize {
        match self {
            GemmTile::Simt(tile) => tile.columns,
            GemmTile::Mma(tile) => tile.columns,
            GemmTile::Wgmma(tile) => (tile.columns / products.max(1)).max(1),
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self {
            GemmTile::Simt(tile) => 16 * tile.rows / tile.thread_rows(),
            GemmTile::Mma(tile) => 32 * tile.warps_m * tile.warps_n,
            GemmTile::Wgmma(tile) => tile.threads(),
        }
    }

    /// Whether it runs on tensor cores.
    pub fn on_tensor_cores(&self) -> bool {
        matches!(self, GemmTile::Mma(_) | GemmTile::Wgmma(_))
    }

    /// Whether warpgroups compute it, for whose tiles any number of blocks does.
    pub fn by_warpgroups(&self) -> bool {
        matches!(self, GemmTile::Wgmma(_))
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self, products: &[ProductShape]) -> usize {
        match self {
            GemmTile::Simt(tile) => 2 * SIMT_DEPTH * (tile.rows + 4 + tile.columns + 4) * 4,
            GemmTile::Mma(tile) => {
                let pipeline = tile.stages * tile.stage_elements(products) * 2;
                let out =
                    tile.warps_m * tile.warps_n * 16 * (tile.columns / tile.warps_n.max(1) + 8) * 4;
                pipeline.max(out * products.len())
            }
            GemmTile::Wgmma(tile) => tile.shared_bytes(),
        }
    }
}

impl SimtTile {
    /// Rows of a thread: 256 threads, or fewer for small tiles.
    pub fn thread_rows(&self) -> usize {
        if self.rows >= 128 { 8 } else { 4 }
    }
}

impl MmaTile {
    /// Operands of one stage: both tiles, padded.
    pub fn stage_elements(&self, products: &[ProductShape]) -> usize {
        let weights = products.iter().map(|p| match p.layout {
            WeightLayout::Nk => self.columns * (self.depth + 8),
            WeightLayout::Kn => self.depth * (self.columns + 8),
        });
        self.rows * (self.depth + 8) + weights.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn products(width: usize, count: usize) -> Products {
        let shape = ProductShape {
            depth: 2048,
            layout: WeightLayout::Nk,
            stored: true,
            aligned: true,
            direct: false,
            rows_of: None,
        };
        Products {
            batch: vec![],
            columns: vec![],
            width,
            copies: 1,
            shapes: vec![shape; count],
        }
    }

    #[test]
    fn tiles_follow_shape_storage_and_device() {
        let bf16 = Storage::Bf16;
        // Device, storage, rows, columns, products, staged; rows, columns, threads, stages expected.
        let cases = [
            ("h200", bf16, 16384, 2048, 1, false, (128, 128, 128, 3)),
            ("h200", bf16, 16384, 2048, 1, true, (128, 128, 256, 3)),
            ("h200", bf16, 16384, 2048, 2, false, (128, 64, 128, 3)),
            ("h200", bf16, 16384, 128, 1, false, (64, 64, 128, 3)),
            ("rtx4090", bf16, 16384, 2048, 1, false, (128, 128, 128, 2)),
            (
                "h200",
                Storage::F32,
                16384,
                2048,
                1,
                false,
                (128, 128, 256, 0),
            ),
            // Tensor cores below sm_80 lack the instruction of the template.
            (
                "t4",
                Storage::F16,
                16384,
                2048,
                1,
                false,
                (128, 128, 256, 0),
            ),
            ("t4", Storage::F16, 64, 2048, 1, false, (64, 64, 256, 0)),
        ];
        for (device, storage, rows, width, count, staged, expected) in cases {
            let target = Target::of(&Device::find(device).unwrap());
            let tile = schedule(&products(width, count), rows, staged, storage, &target).unwrap();
            let stages = match tile {
                GemmTile::Simt(_) => 0,
                GemmTile::Mma(tile) => tile.stages,
                GemmTile::Wgmma(tile) => tile.stages,
            };
            let got = (tile.rows(), tile.columns(count), tile.threads(), stages);
            assert_eq!(got, expected, "{device} {storage} {rows} x {width}");
            assert_eq!(tile.on_tensor_cores(), stages > 0);
        }
    }
}
