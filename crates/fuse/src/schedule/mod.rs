//! Schedules: how a template executes a body, as data.
//!
//! A schedule says everything that the text of a kernel needs beside the operations themselves: how work
//! is spread over blocks, tiles, threads, stages, what is held in shared memory. It is chosen here, from
//! what the [`Target`] can launch; [`crate::cost`] prices it as it is; code generation obeys it and
//! sizes nothing. One file per template; [`affine`], [`program`], [`placement`] and [`parts`] are what
//! walks have in common. Never here: which operations may share a kernel (see [`crate::fit`]),
//! rates (see [`crate::device`]) and CUDA text.

pub mod affine;
pub mod attend;
pub mod gemm;
pub mod gemv;
pub mod last_row;
mod launch;
pub mod nonzero;
pub mod parts;
pub mod placement;
mod print;
pub mod product;
pub mod program;
pub mod row_sum;
pub mod scatter;
pub mod segments;
pub mod stream;
mod target;
pub mod thin;
mod turn;
pub mod walk;
pub mod wgmma;

pub use attend::AttendTile;
pub use gemm::{GemmTile, MmaTile, SimtTile};
pub use gemv::GemvTile;
pub use last_row::LastRowTile;
pub(crate) use launch::shared_floats;
pub use launch::{Launch, blocks, launch};
pub use nonzero::NonZeroTile;
pub use row_sum::RowSumTile;
pub use scatter::ScatterTile;
pub use segments::{Pass, Segments};
pub use stream::StreamTile;
pub use target::{RESERVED_BYTES, Target};
pub use thin::ThinTile;
pub use turn::Turn;
pub use walk::{RowTile, ScanTile};
pub use wgmma::WgmmaTile;

use crate::chunked::tile::Tile;
use crate::chunked::warpgroup::Products;
use crate::chunked::weighted::Weighted;
use crate::plan::{GridAxis, Template};
use serde::{Deserialize, Serialize};

/// How a template executes a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Runs of rows.
    Row(RowTile),
    /// Sequences, a row after the other.
    Scan(ScanTile),
    /// Sequences, some tokens at a time.
    Chunked(ChunkTile),
    /// Products of few rows, on FP32 units.
    Gemv(GemvTile),
    /// Products of few rows, as streams of weights.
    Stream(StreamTile),
    /// Products of one row with zeros in it.
    NonZero(NonZeroTile),
    /// Products of few rows with sums of different lengths, on tensor cores.
    Thin(ThinTile),
    /// Matrix products.
    Gemm(GemmTile),
    /// Softmax attention.
    Attend(AttendTile),
    /// The last row of each sequence.
    LastRow(LastRowTile),
    /// Elements placed in rows of zeros.
    Scatter(ScatterTile),
    /// Sums over all rows.
    RowSum(RowSumTile),
}

/// A block owns one sequence, one head and a tile of value columns of a recurrence, and walks along T
/// some tokens at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkTile {
    /// Axes spread over the grid, outermost first.
    pub grid: Vec<GridAxis>,
    /// Whether the rows of a chunk are brought to shared memory while the one before is worked on.
    pub ahead: bool,
    /// What a block holds.
    pub tile: Tile,
    /// The segments that T is cut into, each with blocks of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
}

impl Schedule {
    /// Whether a chunk's products are those of warpgroups.
    pub fn by_warpgroup(&self) -> bool {
        matches!(self, Schedule::Chunked(chunk) if chunk.tile.products == Products::Warpgroup)
    }

    /// Whether rows of chunks are weighted by a phase of its own, and which of the two phases it is.
    pub fn weighted(&self) -> Option<Weighted> {
        match self {
            Schedule::Chunked(chunk) => chunk.tile.weighted,
            _ => None,
        }
    }

    /// The template that it is a schedule of.
    pub fn template(&self) -> Template {
        match self {
            Schedule::Row(_) => Template::Row,
            Schedule::Scan(_) => Template::Scan,
            Schedule::Chunked(_) => Template::Chunked,
            Schedule::Gemv(_) | Schedule::NonZero(_) => Template::Gemv,
            Schedule::Stream(tile) if tile.operand.is_none() => Template::Gemv,
            Schedule::Stream(_) | Schedule::Thin(_) => Template::Thin,
            Schedule::Gemm(_) => Template::Gemm,
            Schedule::Attend(_) => Template::Attend,
            Schedule::LastRow(_) => Template::LastRow,
            Schedule::Scatter(_) => Template::Scatter,
            Schedule::RowSum(_) => Template::RowSum,
        }
    }

    /// Axes spread over the grid beside batch and rows, outermost first. Products spread their columns
    /// instead.
    pub fn grid(&self) -> &[GridAxis] {
        match self {
            Schedule::Row(tile) => &tile.grid,
            Schedule::Scan(tile) => &tile.grid,
            Schedule::Chunked(tile) => &tile.grid,
            Schedule::Attend(tile) => tile.grid(),
            Schedule::Gemv(_)
            | Schedule::Stream(_)
            | Schedule::NonZero(_)
            | Schedule::Thin(_)
            | Schedule::Gemm(_)
            | Schedule::LastRow(_)
            | Schedule::Scatter(_)
            | Schedule::RowSum(_) => &[],
        }
    }

    /// Threads that suit a block. A kernel has as many as the body that wants most.
    pub fn threads(&self) -> usize {
        match self {
            Schedule::Row(tile) => tile.threads as usize,
            Schedule::Scan(tile) => tile.threads as usize,
            Schedule::Chunked(chunk) => 32 * chunk.tile.warps,
            Schedule::Gemv(tile) => tile.threads(),
            Schedule::Stream(tile) => tile.threads(),
            Schedule::NonZero(tile) => tile.threads(),
            Schedule::Thin(tile) => tile.threads(),
            Schedule::Gemm(tile) => tile.threads(),
            Schedule::Attend(tile) => tile.threads(),
            Schedule::LastRow(_) => last_row::THREADS,
            Schedule::Scatter(_) => scatter::THREADS,
            Schedule::RowSum(tile) => tile.threads(),
        }
    }

    /// Blocks of a multiprocessor that its registers must suffice for, beside a launch's own limits.
    pub fn resident(&self) -> usize {
        match self {
            Schedule::Chunked(chunk) => chunk.tile.resident,
            Schedule::Stream(tile) => tile.resident(),
            _ => 1,
        }
    }

    /// Whether it is a product of few rows. The text of its template waits itself for the kernel before its own,
    /// where kernels start early: most bring the weights of their blocks meanwhile.
    pub fn is_product_of_few_rows(&self) -> bool {
        matches!(
            self,
            Schedule::Gemv(_) | Schedule::Stream(_) | Schedule::NonZero(_) | Schedule::Thin(_)
        )
    }

    /// Whether rows of activations are rounded to what tensor cores multiply, as they are staged.
    pub fn rounds_rows(&self) -> bool {
        match self {
            Schedule::Thin(_) => true,
            Schedule::Stream(tile) => tile.operand.is_some(),
            _ => false,
        }
    }

    /// Whether the text of its template can write results past the caches.
    pub fn streams(&self) -> bool {
        matches!(self, Schedule::Row(_) | Schedule::Scan(_))
    }

    /// The segments that T is cut into, if it is.
    pub fn segments(&self) -> Option<Segments> {
        match self {
            Schedule::Scan(tile) => tile.segments,
            Schedule::Chunked(tile) => tile.segments,
            _ => None,
        }
    }

    /// Whether the rows of a chunk arrive while the one before is worked on.
    pub fn ahead(&self) -> bool {
        matches!(self, Schedule::Chunked(chunk) if chunk.ahead)
    }
}
