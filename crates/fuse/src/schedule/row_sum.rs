//! Schedules of sums over all rows: results without rows, made of values with rows.
//!
//! A product of two such values (the gradient of a matrix) goes in tiles of its result, on tensor cores or
//! FP32 units; other sums go element by element; rows that are added into a table, entry by entry. Where
//! the results are too few for all multiprocessors, rows are cut into parts: blocks of their own sum each,
//! and after a barrier of the grid the parts are added in their order, so the same bits come out every
//! time.

use super::Target;
use super::affine::{Grid, Offset, Space};
use super::product::batch_grid;
use crate::elements::{Element, Elements};
use crate::plan::Storage;
use fusec_ir::{Access, AxisId, Graph, Op, OpKind};
use serde::{Deserialize, Serialize};

/// What a block of a sum over all rows does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowSumTile {
    /// A tile of a product, on tensor cores (`row_sum_mma.cu`).
    Mma(SumMmaTile),
    /// A tile of a product, on FP32 units (`row_sum_simt.cu`).
    Simt(SumSimtTile),
    /// Some elements, each by several threads (`row_sum_elements.cu`).
    Elements(ElementTile),
    /// Some entries of a table that rows are added into (`row_sum_entries.cu`).
    Entries(EntryTile),
    /// Adds what blocks that had a part of the rows each have left (`row_sum_parts.cu`).
    Parts(PartTile),
}

/// Tile of `row_sum_mma.cu`. The two operands are left and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumMmaTile {
    /// Columns of the operands: a multiple of `16 * warps` each.
    pub columns: [usize; 2],
    /// Warps along the columns of each.
    pub warps: [usize; 2],
    /// Rows at a time: a multiple of 16.
    pub depth: usize,
    /// Such runs of rows that shared memory holds.
    pub stages: usize,
    /// What the tensor cores multiply; both operands are stored so.
    pub operand: Element,
    /// Neighbouring elements of each operand that are loaded together.
    pub vectors: [usize; 2],
    /// Whether each operand is copied to shared memory as it lies, without registers.
    pub direct: [bool; 2],
    /// Parts of the rows.
    pub parts: usize,
}

/// Tile of `row_sum_simt.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumSimtTile {
    /// Columns of the operands: 64 or 128 each.
    pub columns: [usize; 2],
    /// Neighbouring elements of each operand that are loaded together.
    pub vectors: [usize; 2],
    /// Parts of the rows.
    pub parts: usize,
}

/// Tile of `row_sum_elements.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementTile {
    /// Neighbouring elements of a thread.
    pub vector: usize,
    /// Threads along the elements, a power of two; the others share the rows.
    pub across: usize,
    /// Parts of the rows.
    pub parts: usize,
}

/// Tile of `row_sum_entries.cu`: what a warp has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryTile {
    /// Consecutive entries.
    pub entries: usize,
    /// Elements of each: 32 or 64.
    pub channels: usize,
}

/// Tile of `row_sum_parts.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTile {
    /// Parts of the rows.
    pub parts: usize,
    /// Threads of a block, one for each element: as many as those that made the parts.
    pub threads: usize,
}

/// Threads of blocks on FP32 units.
pub const THREADS: usize = 256;
/// Rows at a time of `row_sum_simt.cu`.
pub const SIMT_DEPTH: usize = 16;
/// Warps of a block that adds rows into a table.
pub const ENTRY_WARPS: usize = 4;
/// Most entries of a warp: one for each of its lanes to find.
const MOST_ENTRIES: usize = 32;
/// Warps of a multiprocessor that hide each other's waits.
const ENOUGH_WARPS: usize = 16;
/// Columns of an operand below which a tile of a product would be mostly empty.
const NARROW: usize = 8;
/// Columns and rows from which tiles are large.
const LARGE: (usize, usize) = (512, 1024);
/// Runs of rows that shared memory holds, where they fit.
const STAGES: [usize; 3] = [4, 3, 2];
/// Rows at a time of `row_sum_mma.cu`.
const MMA_DEPTH: usize = 32;
/// Most parts of the rows.
const MOST_PARTS: usize = 128;
/// Runs of rows that a part has at least.
const RUNS_OF_PART: usize = 4;

/// The axes of a sum over all rows by what they are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumAxes {
    /// Axes of the result with blocks of their own.
    pub batch: Vec<AxisId>,
    /// Axes of the result along each operand of a product; all of them, and none, of other sums; of a
    /// table those of an entry, and none.
    pub columns: [Vec<AxisId>; 2],
    /// Axes that are summed with the rows.
    pub summed: Vec<AxisId>,
}

impl SumAxes {
    /// Of what a tile computes.
    pub fn of(tile: &RowSumTile, graph: &Graph, op: &Op) -> SumAxes {
        match tile {
            RowSumTile::Mma(_) | RowSumTile::Simt(_) => SumAxes::of_product(graph, op),
            RowSumTile::Entries(_) => SumAxes::of_entries(graph, op),
            RowSumTile::Elements(_) | RowSumTile::Parts(_) => SumAxes::of_elements(graph, op),
        }
    }

    /// Of a product: axes that both operands run over are a batch.
    fn of_product(graph: &Graph, op: &Op) -> SumAxes {
        let runs = |n: usize, axis: AxisId| op.inputs.get(n).is_some_and(|a| runs_over(a, axis));
        let mut axes = SumAxes::of_elements(graph, op);
        let [out, _] = std::mem::take(&mut axes.columns);
        for axis in out {
            match (runs(0, axis), runs(1, axis)) {
                (true, true) => axes.batch.push(axis),
                (_, false) => axes.columns[0].push(axis),
                (false, true) => axes.columns[1].push(axis),
            }
        }
        axes
    }

    fn of_elements(graph: &Graph, op: &Op) -> SumAxes {
        SumAxes {
            batch: Vec::new(),
            columns: [result_axes(graph, op).to_vec(), Vec::new()],
            summed: crate::context::reduced_axes(op).to_vec(),
        }
    }

    /// Of a table: axes that the ids run over are a batch.
    fn of_entries(graph: &Graph, op: &Op) -> SumAxes {
        let own = result_axes(graph, op).get(1..).unwrap_or(&[]).iter();
        let by_ids = |axis: &AxisId| op.inputs.get(1).is_some_and(|a| runs_over(a, *axis));
        let (batch, channels) = own.partition(|axis| by_ids(axis));
        SumAxes {
            batch,
            columns: [channels, Vec::new()],
            summed: Vec::new(),
        }
    }

    /// The grid whose blocks have one element each of the batch.
    pub fn grid<'g>(&self, graph: &'g Graph) -> Grid<'g> {
        batch_grid(graph, &self.batch)
    }
}

fn runs_over(access: &Access, axis: AxisId) -> bool {
    let mut terms = access.index.iter().flat_map(|index| &index.terms);
    terms.any(|term| term.0 == axis)
}

/// The axes of an operation's result.
pub fn result_axes<'g>(graph: &'g Graph, op: &Op) -> &'g [AxisId] {
    let result = op.outputs.first();
    result.map_or(&[], |v| graph.value(*v).axes.as_slice())
}

/// How an operand of a sum lies in memory along some columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    /// The same element for all neighbours of a vector.
    Same,
    /// Neighbours side by side, and vectors aligned.
    Along,
    /// In some other way.
    Otherwise,
}

fn lies(graph: &Graph, grid: &Grid<'_>, access: &Access, columns: &Space, v: usize) -> Lies {
    if !columns.innermost().is_multiple_of(v) {
        return Lies::Otherwise;
    }
    let value = graph.value(access.value);
    let offset: Offset = grid.global(&value.axes, &access.index);
    let whole_rows = !value.rows || graph.row_elements(access.value).is_multiple_of(v);
    match offset.step(columns) {
        0 => Lies::Same,
        1 if whole_rows && offset.aligned(grid, columns, v as i64) => Lies::Along,
        _ => Lies::Otherwise,
    }
}

/// Whether a thread with `v` neighbouring elements loads those of an operand together, or one for all.
pub fn loads_together(
    graph: &Graph,
    grid: &Grid<'_>,
    access: &Access,
    columns: &Space,
    v: usize,
) -> bool {
    lies(graph, grid, access, columns, v) == Lies::Along
}

/// What schedules of sums are chosen from.
pub struct Given<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Element types of its values.
    pub elements: &'a Elements,
    /// Storage type.
    pub storage: Storage,
    /// Limits of the device.
    pub target: &'a Target,
    /// Rows of the planned run.
    pub rows: usize,
}

/// The schedule of a sum over all rows by blocks that see all of them; `None` where no tile fits the
/// shared memory of a block.
pub fn schedule(given: &Given<'_>, op: &Op) -> Option<RowSumTile> {
    let Given { graph, target, .. } = given;
    if matches!(op.kind, OpKind::ScatterRows) {
        return Some(entries(given, op));
    }
    let axes = SumAxes::of_product(graph, op);
    let columns = [0, 1].map(|n| graph.elements(&axes.columns[n]));
    let is_product = matches!(op.kind, OpKind::Contract { .. });
    if !is_product || columns.iter().any(|n| *n < NARROW) {
        return Some(RowSumTile::Elements(elements(given, op)));
    }
    let large = given.rows >= LARGE.1 && columns.iter().all(|n| *n >= LARGE.0);
    let size = [if large { 128 } else { 64 }; 2];
    let grid = axes.grid(graph);
    let spaces = [0, 1].map(|n| grid.space(&axes.columns[n]));
    let vector = |n: usize, most: usize| -> usize {
        let fits = |v: &usize| {
            let access = op.inputs.get(n);
            access.is_some_and(|a| lies(graph, &grid, a, &spaces[n], *v) == Lies::Along)
        };
        [8, 4, 2]
            .into_iter()
            .filter(|v| *v <= most)
            .find(fits)
            .unwrap_or(1)
    };
    // What is kept in f32 beside 16-bit storage is there because it may not be rounded.
    let operand = target.mma_operand(given.storage).filter(|operand| {
        let stored = |a: &Access| given.elements.get(a.value) == *operand;
        op.inputs.iter().all(stored)
    });
    let Some(operand) = operand else {
        return Some(RowSumTile::Simt(SumSimtTile {
            columns: size,
            vectors: [0, 1].map(|n| vector(n, 4)),
            parts: 1,
        }));
    };
    let vectors = [0, 1].map(|n| vector(n, 8));
    let direct = [0, 1].map(|n| vectors[n] == 8 && op.inputs[n].delay == 0);
    let tile = |stages: usize| SumMmaTile {
        columns: size,
        warps: [2, 2],
        depth: MMA_DEPTH,
        stages,
        operand,
        vectors,
        direct,
        parts: 1,
    };
    let mut tiles = STAGES.into_iter().map(tile);
    let fits = |tile: &SumMmaTile| tile.shared_bytes() <= target.shared_bytes;
    tiles.find(fits).map(RowSumTile::Mma)
}

/// The tile of a sum that goes element by element.
fn elements(given: &Given<'_>, op: &Op) -> ElementTile {
    let graph = given.graph;
    let axes = SumAxes::of_elements(graph, op);
    let grid = axes.grid(graph);
    let space = grid.space(&axes.columns[0]);
    let fits = |v: &usize| {
        let mut inputs = op.inputs.iter();
        inputs.all(|a| lies(graph, &grid, a, &space, *v) != Lies::Otherwise)
            && space.innermost().is_multiple_of(*v)
    };
    let vector = [4, 2].into_iter().find(fits).unwrap_or(1);
    ElementTile {
        vector,
        across: (space.len() / vector).next_power_of_two().min(32),
        parts: 1,
    }
}

/// The tile of rows that are added into a table.
fn entries(given: &Given<'_>, op: &Op) -> RowSumTile {
    let Given { graph, target, .. } = given;
    let axes = SumAxes::of_entries(graph, op);
    let own = graph.elements(&axes.columns[0]);
    let channels = if own > 32 { 64 } else { 32 };
    let all = result_axes(graph, op).first();
    let all = all.map_or(1, |axis| graph.size(*axis));
    let beside = own.div_ceil(channels) * graph.elements(&axes.batch);
    let mut entries = MOST_ENTRIES;
    // Each warp looks at the ids of all rows: more entries of a warp are fewer looks.
    while entries > 1 && all.div_ceil(entries) * beside < ENOUGH_WARPS * target.sms {
        entries /= 2;
    }
    RowSumTile::Entries(EntryTile { entries, channels })
}

impl RowSumTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self {
            RowSumTile::Mma(tile) => 32 * tile.warps[0] * tile.warps[1],
            RowSumTile::Simt(_) | RowSumTile::Elements(_) => THREADS,
            RowSumTile::Entries(_) => 32 * ENTRY_WARPS,
            RowSumTile::Parts(tile) => tile.threads,
        }
    }

    /// Shared memory of a block, bytes.
    pub fn shared_bytes(&self) -> usize {
        match self {
            RowSumTile::Mma(tile) => tile.shared_bytes(),
            RowSumTile::Simt(tile) => {
                let columns: usize = tile.columns.iter().map(|n| n + 4).sum();
                2 * SIMT_DEPTH * columns * 4
            }
            RowSumTile::Elements(tile) => THREADS * tile.vector * 4,
            RowSumTile::Entries(tile) => ENTRY_WARPS * tile.entries * tile.channels * 4,
            RowSumTile::Parts(_) => 0,
        }
    }

    /// Parts of the rows.
    pub fn parts(&self) -> usize {
        match self {
            RowSumTile::Mma(SumMmaTile { parts, .. })
            | RowSumTile::Simt(SumSimtTile { parts, .. })
            | RowSumTile::Elements(ElementTile { parts, .. })
            | RowSumTile::Parts(PartTile { parts, .. }) => *parts,
            RowSumTile::Entries(_) => 1,
        }
    }

    /// Whether its blocks leave parts for another phase to add.
    pub fn leaves_parts(&self) -> bool {
        self.parts() > 1 && !matches!(self, RowSumTile::Parts(_))
    }

    /// Blocks of one part of the rows, whatever B and T are.
    pub fn tiles(&self, graph: &Graph, op: &Op) -> usize {
        let axes = SumAxes::of(self, graph, op);
        let [left, right] = [0, 1].map(|n| graph.elements(&axes.columns[n]));
        let of_product = |size: [usize; 2]| left.div_ceil(size[0]) * right.div_ceil(size[1]);
        let tiles = match self {
            RowSumTile::Mma(tile) => of_product(tile.columns),
            RowSumTile::Simt(tile) => of_product(tile.columns),
            RowSumTile::Elements(tile) => left.div_ceil(tile.vector * tile.across),
            RowSumTile::Entries(tile) => {
                let all = result_axes(graph, op).first();
                let groups = all.map_or(1, |a| graph.size(*a).div_ceil(tile.entries));
                // A warp has its own; the batch is among them.
                let units = groups * left.div_ceil(tile.channels) * graph.elements(&axes.batch);
                return units.div_ceil(ENTRY_WARPS);
            }
            RowSumTile::Parts(tile) => left.div_ceil(tile.threads),
        };
        tiles * graph.elements(&axes.batch)
    }

    /// Blocks, whatever B and T are.
    pub fn blocks(&self, graph: &Graph, op: &Op) -> usize {
        match self {
            RowSumTile::Parts(_) => self.tiles(graph, op),
            _ => self.tiles(graph, op) * self.parts(),
        }
    }

    /// The same with rows in parts, for so many blocks in all, and what adds them; `None` where blocks
    /// suffice or rows are too few.
    pub fn in_parts(
        &self,
        graph: &Graph,
        op: &Op,
        rows: usize,
        blocks: usize,
    ) -> Option<[RowSumTile; 2]> {
        let summed = graph.elements(&SumAxes::of(self, graph, op).summed);
        let run = match self {
            RowSumTile::Mma(tile) => tile.depth,
            RowSumTile::Simt(_) => SIMT_DEPTH,
            RowSumTile::Elements(tile) => THREADS / tile.across,
            RowSumTile::Entries(_) | RowSumTile::Parts(_) => return None,
        };
        let most = (rows * summed / (RUNS_OF_PART * run)).min(MOST_PARTS);
        let parts = (blocks / self.tiles(graph, op).max(1)).min(most);
        if parts < 2 {
            return None;
        }
        let mut with = *self;
        match &mut with {
            RowSumTile::Mma(tile) => tile.parts = parts,
            RowSumTile::Simt(tile) => tile.parts = parts,
            RowSumTile::Elements(tile) => tile.parts = parts,
            RowSumTile::Entries(_) | RowSumTile::Parts(_) => {}
        }
        let threads = self.threads();
        Some([with, RowSumTile::Parts(PartTile { parts, threads })])
    }
}

impl SumMmaTile {
    /// Elements of both operands that one run of rows takes, padded.
    pub fn stage_elements(&self) -> usize {
        self.depth * (self.columns[0] + 8 + self.columns[1] + 8)
    }

    fn shared_bytes(&self) -> usize {
        self.stages * self.stage_elements() * self.operand.bytes()
    }
}
