//! Matrix products by warpgroups as kernel text (`gemm_wgmma.cu`): tiles that the copy engine brings and the
//! tensor cores of sm_90a multiply, for one or several projections of the same rows in one launch.
//!
//! Lives here: the text, and the boxes of tensors that its copies move. Never here: which operations
//! of a graph become a product, which tile it has (see [`fusec_fuse::schedule::wgmma`]), what the hooks
//! compute, and the other templates (see [`crate::projection`]).
//!
//! The text is a kernel's body, a `{ ... }` block for the whole grid. Around it the kernel must define
//! `int tid`, `float* smem` (dynamic shared memory), one `tensor_map` for each operand, and whatever
//! the hooks name. Blocks go from tile to tile of all projections, so any number of them does the work; more
//! than the device holds at once have none to do.

use crate::memory::c_type;
use fusec_fuse::schedule::WgmmaTile;
use fusec_fuse::schedule::wgmma::{DEPTH, MOST_STAGES, TILE_ROWS};
use serde::Serialize;
use tera::Context;

use crate::Element;
use crate::manifest::{MapAxis, MapExtent};
use crate::projection::{self, Product, Projection, ProjectionError, WeightLayout};

/// Name and text of the template.
pub(crate) const TEMPLATE: (&str, &str) =
    ("gemm_wgmma.cu", include_str!("../templates/gemm_wgmma.cu"));
/// Columns whose order in shared memory gives each thread runs of [`RUN`] neighbours.
const RUN_COLUMNS: usize = 32;
/// Neighbouring columns of such a run: 16 bytes of 16-bit elements.
pub const RUN: usize = 8;
/// Columns of a box of weights that lie with columns side by side: a swizzled line.
const LINE_COLUMNS: usize = 64;
/// Registers of a thread that starts copies, and of one that multiplies: a block of three warpgroups has
/// 168 for each of its threads on average.
const REGISTERS: (usize, usize) = (40, 232);

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

/// Columns that a thread handles together after a product of so many columns, by the layouts of its
/// weights: [`RUN`], 2 or 1. What [`crate::projection::Run::columns`] may be.
pub fn run(columns: usize, layouts: impl IntoIterator<Item = WeightLayout>) -> usize {
    let arranged = layouts.into_iter().all(|l| l == WeightLayout::Nk);
    match columns {
        _ if arranged && columns.is_multiple_of(RUN_COLUMNS) => RUN,
        _ if columns.is_multiple_of(2) => 2,
        _ => 1,
    }
}

/// The activations of a product as a tensor, innermost axis first.
pub fn x_axes(tile: WgmmaTile, product: &Product) -> Vec<MapAxis> {
    vec![
        MapAxis {
            extent: MapExtent::Fixed(product.depth),
            stride: 1,
            span: DEPTH,
        },
        MapAxis {
            extent: MapExtent::Rows,
            stride: product.x_stride,
            span: tile.rows,
        },
    ]
}

/// The weights of a product of a projection as a tensor, innermost axis first.
pub fn w_axes(tile: WgmmaTile, projection: &Projection, product: &Product) -> Vec<MapAxis> {
    let axis = |extent, stride, span| MapAxis {
        extent: MapExtent::Fixed(extent),
        stride,
        span,
    };
    let (n, step) = (projection.columns, product.w_stride);
    let columns = product_columns(tile, projection);
    match product.w_layout {
        WeightLayout::Kn => vec![axis(n, 1, LINE_COLUMNS), axis(product.depth, step, DEPTH)],
        // Line 8a + 2b + c of each 32 in shared memory is column 8b + 2a + c, so that a thread,
        // whose accumulators are for lines 2b and 2b + 1 of each 8, has 8 neighbouring columns.
        WeightLayout::Nk if arranged(projection) => vec![
            axis(product.depth, 1, DEPTH),
            axis(2, step, 2),
            axis(4, 8 * step, 4),
            axis(4, 2 * step, 4),
            axis(n / RUN_COLUMNS, RUN_COLUMNS * step, columns / RUN_COLUMNS),
        ],
        WeightLayout::Nk => vec![axis(product.depth, 1, DEPTH), axis(n, step, columns)],
    }
}

/// The body of a kernel whose lanes are projections of the same rows. Their tiles differ in their
/// columns at most.
pub fn render<P: std::borrow::Borrow<Projection>>(
    lanes: &[(WgmmaTile, P)],
) -> Result<String, ProjectionError> {
    let Some((first, projection)) = lanes.first() else {
        return Err(ProjectionError::Empty);
    };
    let widest = lanes.iter().map(|(tile, _)| tile.columns).max();
    let whole = WgmmaTile {
        columns: widest.unwrap_or(first.columns),
        ..*first
    };
    let mut texts = Vec::new();
    for (tile, projection) in lanes {
        let projection = projection.borrow();
        check(*tile, projection)?;
        let alike = WgmmaTile {
            columns: whole.columns,
            ..*tile
        };
        if alike != whole {
            return Err(refused(
                *tile,
                "lanes side by side differ in their columns only",
            ));
        }
        texts.push(lane(*tile, projection));
    }
    let mut context = Context::new();
    context.insert(
        "tile",
        &serde_json::json!({
            "rows": whole.rows, "columns": whole.columns, "depth": DEPTH, "stages": whole.stages, "group": whole.group,
            "operand": c_type(whole.operand),
            "producer_registers": REGISTERS.0, "consumer_registers": REGISTERS.1,
        }),
    );
    context.insert("rows", &projection.borrow().rows);
    context.insert("lanes", &texts);
    projection::render(TEMPLATE.0, &context)
}

fn lane(tile: WgmmaTile, projection: &Projection) -> LaneText<'_> {
    fn product(p: &Product) -> ProductText<'_> {
        ProductText {
            name: &p.name,
            w_map: &p.w_map,
            w_layout: p.w_layout,
        }
    }
    let mut passes: Vec<PassText<'_>> = Vec::new();
    for p in &projection.products {
        let same = |pass: &&mut PassText<'_>| pass.x_map == p.x_map && pass.depth == p.depth;
        match passes.iter_mut().find(same) {
            Some(pass) => pass.products.push(product(p)),
            None => passes.push(PassText {
                depth: p.depth,
                x_map: &p.x_map,
                products: vec![product(p)],
            }),
        }
    }
    let runs = arranged(projection);
    let tile_columns = product_columns(tile, projection);
    LaneText {
        products: projection.products.iter().map(product).collect(),
        columns: projection.columns,
        tile_columns,
        column_tiles: projection.columns.div_ceil(tile_columns),
        steps: passes.iter().map(|pass| pass.depth.div_ceil(DEPTH)).sum(),
        run: if runs { RUN } else { 2 },
        runs,
        whole: projection.columns.is_multiple_of(2),
        passes,
        run_before: projection.run.before.trim_end(),
        run_after: projection.run.after.trim_end(),
        setup: projection.setup.trim_end(),
        row_prologue: projection.row_prologue.trim_end(),
        epilogue: projection.epilogue.trim_end(),
    }
}

/// Columns of a block for each product of a projection.
fn product_columns(tile: WgmmaTile, projection: &Projection) -> usize {
    (tile.columns / projection.products.len().max(1)).max(1)
}

/// Whether threads have whole runs of columns, by the order of the weights in shared memory.
fn arranged(projection: &Projection) -> bool {
    let layouts = projection.products.iter().map(|p| p.w_layout);
    run(projection.columns, layouts) == RUN
}

/// Whether the template takes this tile for this projection.
pub(crate) fn check(tile: WgmmaTile, projection: &Projection) -> Result<(), ProjectionError> {
    let products = &projection.products;
    if products.is_empty() || projection.columns == 0 || products.iter().any(|p| p.depth == 0) {
        return Err(ProjectionError::Empty);
    }
    let columns = product_columns(tile, projection);
    let layouts = products.iter().map(|p| p.w_layout);
    let natural = run(projection.columns, layouts);
    let lies_ready = |p: &Product| {
        let aligned =
            |stride: usize, offset: usize| stride.is_multiple_of(8) && offset.is_multiple_of(8);
        p.prologue.trim().is_empty()
            && p.stage.trim().is_empty()
            && p.x_element == tile.operand
            && p.w_element == tile.operand
            && aligned(p.x_stride, p.x_offset)
            && aligned(p.w_stride, p.w_offset)
    };
    let reason = if !TILE_ROWS.contains(&tile.rows) || !tile.has_accumulators() {
        "rows are 64 or 128, and a thread has accumulators for 256 columns of 64 rows"
    } else if ![64, 128, 192, 256].contains(&columns) {
        "columns are 64, 128, 192 or 256 for each product"
    } else if !(2..=MOST_STAGES).contains(&tile.stages) {
        "there are 2 to 8 stages"
    } else if tile.group == 0 {
        "a group has at least one tile of rows"
    } else if !matches!(tile.operand, Element::Bf16 | Element::F16) {
        "the tensor cores multiply bf16 or f16"
    } else if !products.iter().all(lies_ready) {
        "operands lie in memory as they are multiplied, with rows at multiples of 16 bytes"
    } else if projection.run.columns > 1 && projection.run.columns != natural {
        "runs of columns are those of the layout"
    } else {
        return Ok(());
    };
    Err(refused(tile, reason))
}

fn refused(tile: WgmmaTile, reason: &'static str) -> ProjectionError {
    ProjectionError::Tile {
        template: TEMPLATE.0,
        reason,
        tile: format!("{tile:?}"),
    }
}
