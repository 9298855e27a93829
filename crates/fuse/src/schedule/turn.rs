//! The schedule beside a schedule: the next larger or smaller tile of the same template.
//!
//! Only sizes that some model gets from the template's own file are made here, so that code generation
//! meets nothing new. Whether a tile fits a device is looked at by whoever asks.

use super::product::Products;
use super::wgmma::MOST_STAGES;
use super::{
    GemmTile, MmaTile, RowTile, ScanTile, Schedule, SimtTile, WgmmaTile, gemv, nonzero, stream,
    thin,
};
use crate::context::Context;

/// In which way a tile is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Fewer columns of a product.
    Narrow,
    /// More columns of a product.
    Wide,
    /// Fewer rows: of a tile, a block, or a run.
    Short,
    /// More rows.
    Tall,
    /// A row at a time.
    Single,
}

/// Most rows of a block of rows.
const ROWS: u32 = 16;
/// Sizes of tiles of matrix products.
const SMALL: usize = 64;
const LARGE: usize = 128;
/// Columns of a product by warpgroups grow by so many.
const STEP: usize = 64;

impl Turn {
    /// All of them.
    pub const ALL: [Turn; 5] = [
        Turn::Narrow,
        Turn::Wide,
        Turn::Short,
        Turn::Tall,
        Turn::Single,
    ];

    /// The schedule of a body turned so; `None` where its template has no such tile. `products` are those
    /// of a body that has some, `prologue` says whether something is computed before them.
    pub(crate) fn of(
        self,
        schedule: &Schedule,
        products: Option<&Products>,
        prologue: bool,
        ctx: &Context<'_>,
    ) -> Option<Schedule> {
        match schedule {
            Schedule::Row(tile) => {
                let rows = match self {
                    Turn::Short => tile.rows / 2,
                    Turn::Tall => tile.rows * 2,
                    _ => return None,
                };
                let most = ROWS.min(u32::try_from(ctx.shape.time).unwrap_or(ROWS));
                (1..=most).contains(&rows).then(|| {
                    Schedule::Row(RowTile {
                        rows,
                        ..tile.clone()
                    })
                })
            }
            Schedule::Scan(tile) => {
                let run = match self {
                    Turn::Short => tile.run / 2,
                    Turn::Single => 1,
                    _ => return None,
                };
                (1..tile.run).contains(&run).then(|| {
                    Schedule::Scan(ScanTile {
                        run,
                        ..tile.clone()
                    })
                })
            }
            Schedule::Gemv(tile) => {
                let columns = self.columns(tile.columns)?;
                let tile = gemv::with_columns(*tile, columns, products?, prologue)?;
                Some(Schedule::Gemv(tile))
            }
            Schedule::Thin(tile) => {
                let tile = thin::with_columns(*tile, self.columns(tile.columns)?)?;
                Some(Schedule::Thin(tile))
            }
            Schedule::Gemm(tile) => {
                let tile = self.gemm(tile, products?, ctx.target.shared_bytes)?;
                Some(Schedule::Gemm(tile))
            }
            Schedule::Stream(tile) => {
                let tile = stream::with_columns(*tile, self.columns(tile.columns)?, products?)?;
                Some(Schedule::Stream(tile))
            }
            Schedule::NonZero(tile) => {
                let columns = self.columns(tile.columns)?;
                let tile = nonzero::with_columns(*tile, columns, products?, ctx.storage)?;
                Some(Schedule::NonZero(tile))
            }
            Schedule::Chunked(_)
            | Schedule::Attend(_)
            | Schedule::LastRow(_)
            | Schedule::Scatter(_)
            | Schedule::RowSum(_) => None,
        }
    }

    /// Twice the columns, or half of them.
    fn columns(self, columns: usize) -> Option<usize> {
        match self {
            Turn::Narrow => Some(columns / 2).filter(|columns| *columns > 0),
            Turn::Wide => Some(columns * 2),
            _ => None,
        }
    }

    fn gemm(self, tile: &GemmTile, products: &Products, shared_bytes: usize) -> Option<GemmTile> {
        let count = products.shapes.len().max(1);
        // Rows and columns of a tile of either size. Two accumulators of a wide one would not fit the
        // registers of tensor-core products.
        let sizes = |rows: usize, columns: usize, most: usize| match self {
            Turn::Narrow if columns > SMALL => Some((rows, SMALL)),
            Turn::Wide if columns < LARGE && most >= LARGE && products.width > SMALL => {
                Some((rows, LARGE))
            }
            Turn::Short if rows > SMALL => Some((SMALL, columns)),
            Turn::Tall if rows < LARGE => Some((LARGE, columns)),
            _ => None,
        };
        match tile {
            GemmTile::Simt(tile) => {
                let (rows, columns) = sizes(tile.rows, tile.columns, LARGE)?;
                Some(GemmTile::Simt(SimtTile { rows, columns }))
            }
            GemmTile::Mma(tile) => {
                let most = if count == 1 { LARGE } else { SMALL };
                let (rows, columns) = sizes(tile.rows, tile.columns, most)?;
                let of = |stages: usize| {
                    GemmTile::Mma(MmaTile {
                        rows,
                        columns,
                        stages,
                        ..*tile
                    })
                };
                let mut tiles = super::gemm::STAGES.into_iter().map(of);
                tiles.find(|tile| tile.shared_bytes(&products.shapes) <= shared_bytes)
            }
            GemmTile::Wgmma(tile) => {
                let each = tile.columns / count;
                let each = match self {
                    Turn::Narrow => each.checked_sub(STEP).filter(|each| *each > 0)?,
                    Turn::Wide => each + STEP,
                    _ => return None,
                };
                let most = products.width.next_multiple_of(STEP);
                let of = |stages: usize| WgmmaTile {
                    columns: each * count,
                    stages,
                    ..*tile
                };
                let fits = |tile: &WgmmaTile| {
                    tile.has_accumulators() && tile.shared_bytes() <= shared_bytes
                };
                if each > most {
                    return None;
                }
                let tile = (2..=MOST_STAGES).rev().map(of).find(fits)?;
                Some(GemmTile::Wgmma(tile))
            }
        }
    }
}
