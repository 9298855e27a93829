//! Matrix products on the tensor cores of sm_90a as kernel text: tiles that the copy engine brings and
//! warpgroups multiply, for one or several projections of the same rows in one launch.
//!
//! Lives here: the tile of `gemm_wgmma.cu`, what follows from it (threads, shared memory, units of work)
//! and the boxes of tensors that its copies move. Never here: which operations of a graph become a
//! product, what the hooks compute, and the other templates (see [`crate::projection`]).
//!
//! The text is a kernel's body, a `{ ... }` block for the whole grid. Around it the kernel must define
//! `int tid`, `float* smem` (dynamic shared memory), one `tensor_map` for each operand, and whatever
//! the hooks name. The launch is of clusters of [`WgmmaTile::cluster`] blocks, as many as the device
//! holds at once or fewer: they share the work between them, whatever their number.

use serde::Serialize;
use tera::Context;

use crate::Element;
use crate::projection::{Product, Projection, ProjectionError, WeightLayout};

/// Name of the template.
pub(crate) const TEMPLATE: &str = "gemm_wgmma.cu";
/// Elements of the sum that a stage holds: a swizzled line of 128 bytes.
const DEPTH: usize = 64;
/// Rows of one warpgroup.
const GROUP_ROWS: usize = 64;
/// Columns whose order in shared memory gives each thread runs of [`RUN`] neighbours.
const RUN_COLUMNS: usize = 32;
/// Neighbouring columns of such a run: 16 bytes of 16-bit elements.
pub const RUN: usize = 8;
/// Alignment of swizzled tiles in shared memory, bytes.
const TILE_ALIGNMENT: usize = 1024;
/// The most columns that the accumulators of a thread are for, all products together.
const ACCUMULATED_COLUMNS: usize = 256;

/// Tile of `gemm_wgmma.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WgmmaTile {
    /// Warpgroups that multiply: 1 to 3.
    pub consumers: usize,
    /// Whether they take turns at tiles of 64 rows, so that one multiplies while another writes its
    /// results, in place of having 64 rows of one tile each.
    pub turns: bool,
    /// Columns per block: 64, 128, 192 or 256, over all products of a projection.
    pub columns: usize,
    /// Stages of the ring: 2 to 8.
    pub stages: usize,
    /// Blocks side by side along the rows that share the weights they read: 1 or 2.
    pub cluster: usize,
    /// Tiles of rows that blocks go down before they go on to the next columns.
    pub group: usize,
    /// What the tensor cores multiply, and what lies in memory: bf16 or f16.
    pub operand: Element,
}

/// How far an axis of a tensor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapExtent {
    /// This many elements.
    Fixed(usize),
    /// As many as the run has rows.
    Rows,
}

/// An axis of a tensor from which copies take boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapAxis {
    /// Its length.
    pub extent: MapExtent,
    /// Elements from one place on it to the next.
    pub stride: usize,
    /// How much of it a copy moves.
    pub span: usize,
}

#[derive(Serialize)]
struct ProductText<'a> {
    name: &'a str,
    w_map: &'a str,
    w_layout: WeightLayout,
}

/// Products of the same activations: each stage holds a tile of these, and one of each's weights.
#[derive(Serialize)]
struct PassText<'a> {
    depth: usize,
    x_map: &'a str,
    products: Vec<ProductText<'a>>,
}

#[derive(Serialize)]
struct LaneText<'a> {
    products: Vec<ProductText<'a>>,
    passes: Vec<PassText<'a>>,
    columns: usize,
    tile_columns: usize,
    column_tiles: usize,
    /// Stages that a tile takes.
    steps: usize,
    /// Columns of a thread's run.
    run: usize,
    /// Whether the weights' columns are arranged for runs of [`RUN`].
    runs: bool,
    /// Whether every run lies inside the columns or outside.
    whole: bool,
    run_before: &'a str,
    run_after: &'a str,
    setup: &'a str,
    row_prologue: &'a str,
    epilogue: &'a str,
}

impl WgmmaTile {
    /// Threads of a block: the consumers, and the warpgroup of the thread that starts copies.
    pub fn threads(self) -> usize {
        128 * (self.consumers + 1)
    }

    /// Rows of a block.
    pub fn rows(self) -> usize {
        match self.turns {
            true => GROUP_ROWS,
            false => GROUP_ROWS * self.consumers,
        }
    }

    /// Rows of a unit of work: a tile of each block of a cluster.
    pub fn unit_rows(self) -> usize {
        self.rows() * self.cluster
    }

    /// Columns of a block for each product of a projection.
    pub fn product_columns(self, projection: &Projection) -> usize {
        self.columns / projection.products.len().max(1)
    }

    /// Tiles side by side.
    pub fn column_tiles(self, projection: &Projection) -> usize {
        projection
            .columns
            .div_ceil(self.product_columns(projection).max(1))
    }

    /// Dynamic shared memory of a block, bytes. Lanes of one kernel share the widest one's.
    pub fn shared_bytes(self) -> usize {
        let stage = (self.rows() + self.columns) * DEPTH * 2;
        TILE_ALIGNMENT + self.stages * (stage + 2 * 8)
    }

    /// Columns that a thread handles together in the epilogue of a projection with these columns and
    /// layouts, what [`crate::projection::Run::columns`] may be: [`RUN`], 2 or 1.
    pub fn run(columns: usize, layouts: impl IntoIterator<Item = WeightLayout>) -> usize {
        let arranged = layouts.into_iter().all(|l| l == WeightLayout::Nk);
        match columns {
            _ if arranged && columns.is_multiple_of(RUN_COLUMNS) => RUN,
            _ if columns.is_multiple_of(2) => 2,
            _ => 1,
        }
    }

    /// The activations of a product as a tensor, innermost axis first.
    pub fn x_axes(self, product: &Product) -> Vec<MapAxis> {
        vec![
            MapAxis {
                extent: MapExtent::Fixed(product.depth),
                stride: 1,
                span: DEPTH,
            },
            MapAxis {
                extent: MapExtent::Rows,
                stride: product.x_stride,
                span: self.rows(),
            },
        ]
    }

    /// The weights of a product as a tensor, innermost axis first.
    pub fn w_axes(self, projection: &Projection, product: &Product) -> Vec<MapAxis> {
        let axis = |extent, stride, span| MapAxis {
            extent: MapExtent::Fixed(extent),
            stride,
            span,
        };
        let (n, step) = (projection.columns, product.w_stride);
        let share = self.product_columns(projection) / self.cluster;
        match product.w_layout {
            WeightLayout::Kn => vec![
                axis(n, 1, 64),
                axis(product.depth, step, DEPTH / self.cluster),
            ],
            // Line 8a + 2b + c of each 32 in shared memory is column 8b + 2a + c, so that a thread,
            // whose accumulators are for lines 2b and 2b + 1 of each 8, has 8 neighbouring columns.
            WeightLayout::Nk if arranged(projection) => vec![
                axis(product.depth, 1, DEPTH),
                axis(2, step, 2),
                axis(4, 8 * step, 4),
                axis(4, 2 * step, 4),
                axis(n / RUN_COLUMNS, RUN_COLUMNS * step, share / RUN_COLUMNS),
            ],
            WeightLayout::Nk => vec![axis(product.depth, 1, DEPTH), axis(n, step, share)],
        }
    }

    /// The kernel's body, for lanes with a tile each; the tiles differ in their columns at most.
    pub(crate) fn context(lanes: &[(WgmmaTile, &Projection)]) -> Result<Context, ProjectionError> {
        let Some((first, _)) = lanes.first() else {
            return Err(ProjectionError::Empty);
        };
        let widest = lanes.iter().map(|(tile, _)| tile.columns).max();
        let whole = WgmmaTile {
            columns: widest.unwrap_or(first.columns),
            ..*first
        };
        let mut texts = Vec::new();
        for (tile, projection) in lanes {
            tile.check(projection)?;
            let alike = WgmmaTile {
                columns: whole.columns,
                ..*tile
            };
            if alike != whole {
                return Err(tile.refused("lanes side by side differ in their columns only"));
            }
            texts.push(tile.lane(projection));
        }
        let mut context = Context::new();
        // Of an SM's registers each thread of a block of three warpgroups can have 168, of four 128.
        let (producer, consumer) = match whole.consumers {
            1 | 2 => (40, 232),
            _ => (32, 160),
        };
        context.insert(
            "tile",
            &serde_json::json!({
                "consumers": whole.consumers, "turns": whole.turns, "columns": whole.columns, "depth": DEPTH, "stages": whole.stages,
                "cluster": whole.cluster, "cluster_mask": (1 << whole.cluster) - 1, "group": whole.group,
                "operand": crate::projection::c_type(whole.operand),
                "producer_registers": producer, "consumer_registers": consumer,
            }),
        );
        context.insert("rows", &lanes[0].1.rows);
        context.insert("lanes", &texts);
        Ok(context)
    }

    fn lane(self, projection: &Projection) -> LaneText<'_> {
        fn product(p: &Product) -> ProductText<'_> {
            ProductText {
                name: &p.name,
                w_map: &p.w_map,
                w_layout: p.w_layout,
            }
        }
        let mut passes: Vec<PassText<'_>> = Vec::new();
        for p in &projection.products {
            match passes
                .iter_mut()
                .find(|pass| pass.x_map == p.x_map && pass.depth == p.depth)
            {
                Some(pass) => pass.products.push(product(p)),
                None => passes.push(PassText {
                    depth: p.depth,
                    x_map: &p.x_map,
                    products: vec![product(p)],
                }),
            }
        }
        let steps = passes.iter().map(|pass| pass.depth.div_ceil(DEPTH)).sum();
        LaneText {
            steps,
            products: projection.products.iter().map(product).collect(),
            passes,
            columns: projection.columns,
            tile_columns: self.product_columns(projection),
            column_tiles: self.column_tiles(projection),
            run: if arranged(projection) { RUN } else { 2 },
            runs: arranged(projection),
            whole: projection.columns.is_multiple_of(2),
            run_before: projection.run.before.trim_end(),
            run_after: projection.run.after.trim_end(),
            setup: projection.setup.trim_end(),
            row_prologue: projection.row_prologue.trim_end(),
            epilogue: projection.epilogue.trim_end(),
        }
    }

    /// Whether the template takes this tile for this projection.
    pub fn check(self, projection: &Projection) -> Result<(), ProjectionError> {
        let products = &projection.products;
        if products.is_empty() || projection.columns == 0 || products.iter().any(|p| p.depth == 0) {
            return Err(ProjectionError::Empty);
        }
        let product_columns = self.product_columns(projection);
        let layouts = products.iter().map(|p| p.w_layout);
        let run = projection.run.columns.max(1);
        let lies_ready = |p: &Product| {
            let aligned =
                |stride: usize, offset: usize| stride.is_multiple_of(8) && offset.is_multiple_of(8);
            p.prologue.trim().is_empty()
                && p.stage.trim().is_empty()
                && p.x_element == self.operand
                && p.w_element == self.operand
                && aligned(p.x_stride, p.x_offset)
                && aligned(p.w_stride, p.w_offset)
        };
        let reason = if !(1..=3).contains(&self.consumers) {
            Some("there are 1 to 3 warpgroups that multiply")
        } else if self.columns > ACCUMULATED_COLUMNS
            || ![64, 128, 192, 256].contains(&product_columns)
        {
            Some("columns are 64, 128, 192 or 256 for each product, 256 for all")
        } else if self.consumers == 3 && self.columns > 192 {
            Some("three warpgroups have registers for 192 columns")
        } else if !(2..=8).contains(&self.stages) {
            Some("there are 2 to 8 stages")
        } else if !(1..=2).contains(&self.cluster) {
            Some("a cluster is of 1 or 2 blocks")
        } else if self.group == 0 {
            Some("a group has at least one tile of rows")
        } else if !matches!(self.operand, Element::Bf16 | Element::F16) {
            Some("the tensor cores multiply bf16 or f16")
        } else if !products.iter().all(lies_ready) {
            Some(
                "operands lie in memory as they are multiplied, with rows at multiples of 16 bytes",
            )
        } else if Self::run(projection.columns, layouts) % run != 0
            || ![1, 2, RUN].contains(&run)
            || (run == 1 && !projection.run.before.is_empty())
        {
            Some("the run of columns is the one of the layout")
        } else {
            None
        };
        match reason {
            None => Ok(()),
            Some(reason) => Err(self.refused(reason)),
        }
    }

    fn refused(self, reason: &'static str) -> ProjectionError {
        ProjectionError::Tile {
            template: TEMPLATE,
            reason,
            tile: format!("{self:?}"),
        }
    }
}

/// Whether threads have whole runs of columns, by the order of the weights in shared memory.
fn arranged(projection: &Projection) -> bool {
    let layouts = projection.products.iter().map(|p| p.w_layout);
    WgmmaTile::run(projection.columns, layouts) == RUN
}
