//! Schedules of matrix-vector products: few rows, one or more warps per output column.

use super::Target;
use super::product::{
    ALIGNED, ProductShape, Products, WeightLayout, batch_grid, same_rows, summed,
};
use super::stream;
use super::walk::Walked;
use crate::context::Context;
use crate::plan::{Body, Storage};
use crate::regions::Regions;
use fusec_ir::{Graph, OpId, StateId, ValueId};
use serde::{Deserialize, Serialize};

/// Tile of `gemv.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GemvTile {
    /// Rows per block: 1 to 8. More rows than this read the weights again.
    pub rows: usize,
    /// Columns per block: a power of two.
    pub columns: usize,
    /// Warps per block.
    pub warps: usize,
    /// Warps that share a column (layout [`WeightLayout::Nk`]): divides `warps`.
    pub split: usize,
    /// 16-byte loads of one column that a lane keeps in flight.
    pub unroll: usize,
    /// Whether these are copies to shared memory (see [`GemvTile::in_ring`]), not loads to registers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ring: bool,
}

/// Where a product has its place in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductPlace {
    /// Rows of activations: floats of a matrix-vector product, elements of the operand on tensor cores.
    pub rows: usize,
    /// Partial sums, floats.
    pub sums: usize,
    /// Weights on their way, bytes; 0 where they go to registers.
    pub ring: usize,
}

/// Warps of a block.
const WARPS: usize = 8;
/// Threads of a block, where no stream is beside it.
pub const THREADS: usize = 32 * WARPS;

/// Warps of a block of so many rows: it may have streams beside it in its kernel, whose blocks are as large.
fn warps(rows: usize, storage: Storage, target: &Target) -> usize {
    let few = rows <= stream::ROWS && target.mma_operand(storage).is_some();
    match target.copies() && (rows == 1 || few) {
        true => stream::WARPS,
        false => WARPS,
    }
}

/// Most rows of a block.
const ROWS: usize = 8;
/// 16-byte loads of weights that a lane of a warp keeps in flight.
const LOADS: usize = 4;
/// The same of copies to shared memory, at most.
const COPIES: usize = 8;
/// Blocks of a multiprocessor whose copies have room beside each other.
const RESIDENT: usize = 4;
/// Floats of a 16-byte piece.
pub const PIECE_FLOATS: usize = 4;
/// Shared memory for the rows of a block, bytes, of which a device may have less.
const STAGED_BYTES: usize = 128 << 10;
/// Blocks of a body, beside others of its kernel, that keep a large GPU busy.
const WANTED_BLOCKS: usize = 264;
/// The same where each block computes a prologue before it gets to its weights: fewer blocks, each
/// with more columns, do that less often.
const WANTED_PROLOGUES: usize = 64;
/// Columns of a block, at most, without a prologue and with one.
const COLUMNS: usize = 8;
const COLUMNS_AFTER_PROLOGUE: usize = 16;
/// Weights of a block beyond which the prologue of one row is short beside them.
const WEIGHTS: usize = 32 * 1024;

/// Result columns that one block of a matrix-vector product makes.
///
/// `columns` is the length of a result row, `depth` that of the sum behind an element, `prologue`
/// whether anything is computed before the product, for each of `rows` rows.
fn columns_per_block(rows: usize, columns: usize, depth: usize, prologue: bool) -> usize {
    let (most, wanted) = match prologue {
        true if COLUMNS * depth < WEIGHTS * rows => (COLUMNS_AFTER_PROLOGUE, WANTED_PROLOGUES),
        true => (COLUMNS, WANTED_PROLOGUES),
        false => (COLUMNS, WANTED_BLOCKS),
    };
    let mut per_block = most;
    while per_block > 1 && columns / per_block < wanted {
        per_block /= 2;
    }
    per_block
}

/// The tile of some products for `rows` rows, of which a block holds as many as have room in the
/// shared memory of a block beside `around` bytes of what is computed before the products. `None` where
/// not even one row has.
pub fn schedule(
    products: &Products,
    rows: usize,
    prologue: bool,
    storage: Storage,
    target: &Target,
    around: usize,
) -> Option<GemvTile> {
    let shared_bytes = target.shared_bytes;
    let columns = columns_per_block(
        rows,
        products.width * products.copies,
        products.deepest(),
        prologue,
    );
    let warps = warps(rows, storage, target);
    let of = |rows: usize| tile(rows, columns, warps);
    let depths: usize = products.shapes.iter().map(|s| s.depth).sum();
    let most = rows.next_power_of_two().clamp(1, ROWS);
    let halves = std::iter::successors(Some(most), |rows| Some(rows / 2).filter(|r| *r > 0));
    let whole = |tile: &GemvTile| {
        let own = tile.shared_bytes(&products.shapes);
        own.next_multiple_of(16) + around
    };
    let tile = halves.map(of).find(|tile| {
        let staged = 4 * tile.rows * depths;
        (staged <= STAGED_BYTES || tile.rows == 1) && whole(tile) <= shared_bytes
    })?;
    // Copies take no registers, so more of them are in flight and more blocks beside each other: as many as
    // leave room for these.
    let share = target.shared_beside(RESIDENT);
    let all = products.deepest().div_ceil(32 * ALIGNED * tile.split);
    let most = (COPIES / tile.pieces()).min(all.next_power_of_two());
    let rings = std::iter::successors(Some(most), |n| Some(n / 2).filter(|n| *n > 0));
    let mut rings = rings.map(|unroll| GemvTile {
        unroll,
        ring: true,
        ..tile
    });
    let found = rings.find(|ring| whole(ring) <= share.max(whole(&tile)));
    Some(found.filter(|_| target.copies()).unwrap_or(tile))
}

/// The tile of so many rows, columns and warps.
fn tile(rows: usize, columns: usize, warps: usize) -> GemvTile {
    let split = (warps / columns).max(1);
    GemvTile {
        rows,
        columns,
        warps,
        split,
        unroll: LOADS * warps / (columns * split),
        ring: false,
    }
}

/// The same tile with another number of columns, a power of two; `None` where blocks never have as many.
pub(super) fn with_columns(
    of: GemvTile,
    columns: usize,
    products: &Products,
    prologue: bool,
) -> Option<GemvTile> {
    let most = if prologue {
        COLUMNS_AFTER_PROLOGUE
    } else {
        COLUMNS
    };
    let there = products.width.next_power_of_two();
    (columns <= most.min(there)).then(|| {
        let other = tile(of.rows, columns, of.warps);
        match of.ring {
            true => GemvTile {
                unroll: (of.unroll * of.pieces() / other.pieces()).max(1),
                ring: true,
                ..other
            },
            false => other,
        }
    })
}

/// What a block computes before one product, for each of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The product.
    pub anchor: OpId,
    /// The operations, ascending: a walk that ends with the product's activation.
    pub ops: Vec<OpId>,
    /// Those of their results that this stage writes to memory, and the tails that it brings up to
    /// date: what several stages compute the first one stores.
    pub stores: Vec<ValueId>,
    /// See `stores`.
    pub tails: Vec<StateId>,
    /// Whether the activation is its own row of the product, in f32: otherwise it goes through a buffer
    /// of a row.
    pub whole: bool,
}

impl Stage {
    /// The stages of a body, for the products whose activation it computes: one for all that read the
    /// same rows.
    pub fn of(graph: &Graph, batch: &[fusec_ir::AxisId], body: &Body) -> Vec<Stage> {
        let grid = batch_grid(graph, batch);
        let anchors = body.anchors();
        let is_first = |id: &&OpId| {
            let mut earlier = anchors.iter().take_while(|earlier| earlier != id);
            !earlier.any(|earlier| same_rows(graph, &grid, *earlier, **id))
        };
        let (mut stores, mut tails) = (body.stores.clone(), body.tails.clone());
        let stage = |anchor: &OpId| {
            let x = graph.op(*anchor).inputs.first()?;
            let last = graph.producer(x.value)?;
            body.ops.binary_search(&last).ok()?;
            let ops = body.up_to(graph, last);
            let mut take = |id: &OpId| {
                let op = graph.op(*id);
                let mut own = (op.outputs.clone(), op.tails.clone());
                own.0.retain(|v| stores.contains(v));
                own.1.retain(|s| tails.contains(s));
                stores.retain(|v| !own.0.contains(v));
                tails.retain(|s| !own.1.contains(s));
                own
            };
            let (stored, kept): (Vec<_>, Vec<_>) = ops.iter().map(&mut take).unzip();
            let depth = summed(graph, &grid, *anchor);
            let offset = grid.global(&graph.value(x.value).axes, &x.index);
            Some(Stage {
                anchor: *anchor,
                ops,
                stores: stored.concat(),
                tails: kept.concat(),
                whole: offset.is_row(&depth)
                    && depth.len() == graph.row_elements(x.value)
                    && !body.schedule.rounds_rows(),
            })
        };
        anchors.iter().filter(is_first).filter_map(stage).collect()
    }

    /// Elements of the row that goes through a buffer, 0 where none does.
    pub fn buffer(&self, graph: &Graph) -> usize {
        let x = graph.op(self.anchor).inputs.first().map(|x| x.value);
        match (self.whole, x) {
            (false, Some(x)) => graph.row_elements(x),
            _ => 0,
        }
    }
}

/// Shared memory that the stages of a body take beside its products, f32 elements: they follow each
/// other.
pub fn around(ctx: &Context<'_>, products: &Products, body: &Body, threads: usize) -> usize {
    let stages = Stage::of(ctx.graph, &products.batch, body);
    let floats = stages.iter().map(|stage| {
        // A stage computes whole rows, whatever product of a batch the block is for.
        let walk = Walked::of(ctx, &stage.ops, &stage.tails, &stage.stores);
        stage.buffer(ctx.graph).next_multiple_of(4) + walk.shared_floats(&[], threads, 1, false)
    });
    floats.max().unwrap_or(0)
}

impl GemvTile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps
    }

    /// Partial sums of an element of a product that different warps hold.
    pub fn parts(&self, layout: WeightLayout) -> usize {
        match layout {
            WeightLayout::Nk => self.split,
            WeightLayout::Kn => self.warps,
        }
    }

    /// Columns of a lane, of each of which it has 16 bytes at a time.
    fn pieces(&self) -> usize {
        (self.columns * self.split / self.warps.max(1)).max(1)
    }

    /// Whether the weights of a product arrive in a ring in shared memory: each thread copies there what
    /// it multiplies itself, so that nobody waits for anybody else.
    pub fn in_ring(&self, product: &ProductShape) -> bool {
        let whole = product.aligned && product.depth.is_multiple_of(ALIGNED);
        self.ring && product.layout == WeightLayout::Nk && whole
    }

    /// Each product's places in shared memory, and the whole, floats.
    pub fn places(&self, products: &[ProductShape]) -> (Vec<ProductPlace>, usize) {
        let mut regions = Regions::default();
        let mut take = |floats: usize| regions.take(floats);
        let pieces = self.unroll * self.pieces();
        let mut places: Vec<ProductPlace> = Vec::new();
        for p in products {
            let rows = p.rows_of.map(|earlier| places[earlier].rows);
            places.push(ProductPlace {
                rows: rows.unwrap_or_else(|| take(self.rows * p.depth)),
                sums: take(self.parts(p.layout) * self.rows * self.columns),
                ring: match self.in_ring(p) {
                    true => 4 * take(self.threads() * pieces * PIECE_FLOATS),
                    false => 0,
                },
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
    fn columns_of_a_block() {
        // Rows, columns, depth, prologue, expected.
        let cases = [
            (1, 4096, 2048, false, 8),
            (1, 2048, 2048, false, 4),
            (1, 128, 4096, false, 1),
            (1, 2048, 2048, true, 16),
            (1, 2048, 4096, true, 8),
            (8, 2048, 4096, true, 16),
            (1, 128, 4096, true, 2),
            (1, 1, 64, true, 1),
        ];
        for (rows, columns, depth, prologue, expected) in cases {
            let got = columns_per_block(rows, columns, depth, prologue);
            assert_eq!(got, expected, "{rows} {columns} {depth} {prologue}");
        }
    }

    #[test]
    fn a_block_has_the_rows_that_fit_its_shared_memory() {
        let layout = WeightLayout::Nk;
        let products = |depth: usize| Products {
            batch: vec![],
            columns: vec![],
            width: 2048,
            copies: 1,
            shapes: vec![ProductShape {
                depth,
                layout,
                stored: true,
                aligned: true,
                direct: false,
                rows_of: None,
            }],
        };
        // Depth, KiB of shared memory, bytes around, rows expected.
        let cases = [
            (2048, 227, 0, Some(8)),
            (2048, 64, 0, Some(4)),
            (2048, 227, 200 << 10, Some(2)),
            (8192, 227, 0, Some(4)),
            (8192, 99, 0, Some(2)),
            (8192, 64, 0, Some(1)),
            (32768, 64, 0, None),
        ];
        for (depth, kb, around, rows) in cases {
            let target = Target {
                shared_bytes: kb << 10,
                ..Target::of(&Device::find("h200").unwrap())
            };
            let tile = schedule(&products(depth), 8, false, Storage::F32, &target, around);
            assert_eq!(tile.map(|t| t.rows), rows, "{depth} {kb} {around}");
        }
    }
}
