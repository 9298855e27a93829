//! Matrix products as kernel text: Y[row, column] = sum over inner of a(row, inner) * w(column, inner), for one or several
//! products over the same rows and columns, with text hooks before and after.
//!
//! Lives here: the templates (`gemm_simt.cu`, `gemm_mma.cu`, `gemv.cu`, `gemv_stream.cu`, `gemv_nonzero.cu`, `thin_stream.cu`, `thin.cu`) and which tiles they can
//! take; `gemm_wgmma.cu` has a file of its own, [`crate::wgmma`]. Never here: which operations of a graph become a product, which tile it has (see
//! [`fusec_fuse::schedule`]), and what the hooks compute.
//!
//! The text is one lane's body, a `{ ... }` block. Around it the kernel must define
//! `char* smem` (128-byte aligned dynamic shared memory) and whatever the hooks and expressions name.
//! Blocks run over columns fastest: block `i` of the lane has column tile `i % column_tiles` and row
//! tile `i / column_tiles`.

use std::sync::LazyLock;

use serde::Serialize;
use tera::{Context, Tera};

use crate::Element;
use crate::memory::c_type;
use fusec_fuse::schedule::gemm::SIMT_DEPTH;
pub use fusec_fuse::schedule::product::WeightLayout;
use fusec_fuse::schedule::product::{ALIGNED, ProductShape};
pub use fusec_fuse::schedule::{
    GemmTile, GemvTile, MmaTile, NonZeroTile, SimtTile, StreamTile, ThinTile, WgmmaTile,
};
use fusec_fuse::schedule::{nonzero, stream, thin};

/// One product: an accumulator per output element.
#[derive(Debug, Clone)]
pub struct Product {
    /// The C identifier that holds the finished sum (f32) in the epilogue.
    pub name: String,
    /// Length of the sum: the range of `inner`.
    pub depth: usize,
    /// Pointer expression of the rows, `x[row * x_stride + inner]`; `None` when the prologue computes `a`
    /// from nothing.
    pub x: Option<String>,
    /// Storage type behind `x`.
    pub x_element: Element,
    /// Elements from one row of `x` to the next.
    pub x_stride: usize,
    /// Element of the buffer that `x` points at: decides which accesses are aligned.
    pub x_offset: usize,
    /// Statements that see `i64 row`, `int inner` and may change `float activation` (initially the element of `x`, or
    /// 0). They run for elements inside the matrix only.
    pub prologue: String,
    /// Few rows only: statements of the whole block that fill `xs` (`float [rows of the tile][depth]`, or,
    /// on tensor cores, rows of the operand [`thin::pitch`] elements apart) with
    /// a(row, inner), zeros for rows past the end. In place of `x` and `prologue`; contains its own barriers if
    /// it needs some.
    pub stage: String,
    /// Pointer expression of the weights.
    pub w: String,
    /// Storage type behind `w`.
    pub w_element: Element,
    /// Elements from one row of `w` to the next.
    pub w_stride: usize,
    /// Element of the buffer that `w` points at.
    pub w_offset: usize,
    /// Layout of the weights.
    pub w_layout: WeightLayout,
    /// Few rows only: the earlier product whose rows of activations are this one's too.
    pub rows_of: Option<usize>,
    /// Warpgroups only: the parameter that maps the rows as a tensor, in place of `x`.
    pub x_map: String,
    /// Warpgroups only: the parameter that maps the weights, in place of `w`.
    pub w_map: String,
}

/// Products over the same rows and columns, and what happens to their results.
#[derive(Debug, Clone)]
pub struct Projection {
    /// At least one.
    pub products: Vec<Product>,
    /// Number of output columns: the range of `column`.
    pub columns: usize,
    /// Integer expression: the number of rows, the range of `row`.
    pub rows: String,
    /// Integer expression: index of this block inside its lane.
    pub block: String,
    /// Few rows only: whether the kernel may start before the one before it has ended. The text then waits
    /// for it, with its first weights on their way meanwhile.
    pub early: bool,
    /// Statements at the start of the body: definitions that hooks and expressions use. They see `row0`,
    /// `column0`, `rows` and `tid`.
    pub setup: String,
    /// Statements before the epilogue of the elements of a row; they see `i64 row`.
    pub row_prologue: String,
    /// Statements per output element; they see `i64 row`, `int column` and each product's `float NAME`.
    pub epilogue: String,
    /// Tensor cores only: how neighbouring columns are handled together.
    pub run: Run,
}

impl Projection {
    /// The products as shapes.
    fn shapes(&self) -> Vec<ProductShape> {
        let shape = |p: &Product| ProductShape {
            depth: p.depth,
            layout: p.w_layout,
            stored: true,
            aligned: p.w_stride.is_multiple_of(ALIGNED) && p.w_offset.is_multiple_of(ALIGNED),
            direct: p.is_direct(),
            rows_of: p.rows_of,
        };
        self.products.iter().map(shape).collect()
    }
}

/// A run of neighbouring output columns that one thread handles, so that it moves 16 bytes at a
/// time. The epilogue sees `int nth`, the place of its column in the run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Columns of a run, a divisor of 16 and of the number of columns; 0 and 1: no runs.
    pub columns: usize,
    /// Statements before the columns of a run; they see `i64 row` and `int column_first`.
    pub before: String,
    /// Statements after them.
    pub after: String,
}

/// A template with its tile sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectionTile {
    /// Many rows.
    Gemm(GemmTile),
    /// Few rows, on FP32 units.
    Gemv(GemvTile),
    /// One row, on FP32 units.
    Stream(StreamTile),
    /// One row with zeros in it, on FP32 units.
    NonZero(NonZeroTile),
    /// Few rows, on tensor cores.
    Thin(ThinTile),
}

/// Why a projection cannot be written with a tile.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// The template does not take such a tile.
    #[error("{template} does not take this tile: {reason} ({tile})")]
    Tile {
        /// The template.
        template: &'static str,
        /// What is required.
        reason: &'static str,
        /// The tile as given.
        tile: String,
    },
    /// A projection without products, depth or columns.
    #[error("a projection needs at least one product, and depth and columns above zero")]
    Empty,
    /// The template engine refused.
    #[error("template {template}: {source}")]
    Template {
        /// The template.
        template: &'static str,
        /// Its message.
        source: Box<tera::Error>,
    },
}

const TEMPLATE_FILES: [(&str, &str); 9] = [
    ("gemm_simt.cu", include_str!("../templates/gemm_simt.cu")),
    ("gemm_mma.cu", include_str!("../templates/gemm_mma.cu")),
    ("gemv.cu", include_str!("../templates/gemv.cu")),
    ("gemv_rows.cu", include_str!("../templates/gemv_rows.cu")),
    (
        "gemv_stream.cu",
        include_str!("../templates/gemv_stream.cu"),
    ),
    (
        "gemv_nonzero.cu",
        include_str!("../templates/gemv_nonzero.cu"),
    ),
    ("thin.cu", include_str!("../templates/thin.cu")),
    ("thin_rows.cu", include_str!("../templates/thin_rows.cu")),
    (
        "thin_stream.cu",
        include_str!("../templates/thin_stream.cu"),
    ),
];

static TEMPLATES: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::default();
    tera.add_raw_templates(
        TEMPLATE_FILES
            .iter()
            .copied()
            .chain([crate::wgmma::TEMPLATE]),
    )
    .expect("the templates are part of this crate and tests render them");
    tera
});

/// A template filled.
pub(crate) fn render(template: &'static str, context: &Context) -> Result<String, ProjectionError> {
    TEMPLATES
        .render(template, context)
        .map_err(|source| ProjectionError::Template {
            template,
            source: Box::new(source),
        })
}

/// The most elements, `limit` or a smaller power of two, that every row can be read by at once.
fn vector(limit: usize, extent: usize, stride: usize, offset: usize) -> usize {
    let mut v = limit.max(1);
    while v > 1
        && !(extent.is_multiple_of(v) && stride.is_multiple_of(v) && offset.is_multiple_of(v))
    {
        v /= 2;
    }
    v
}

/// A product as the templates see it.
#[derive(Serialize)]
struct ProductText<'a> {
    name: &'a str,
    depth: usize,
    x: &'a str,
    x_stride: usize,
    x_vector: usize,
    x_async: bool,
    prologue: &'a str,
    stage: &'a str,
    w: &'a str,
    w_stride: usize,
    w_vector: usize,
    w_async: bool,
    w_layout: WeightLayout,
    /// GEMV: where the rows start in shared memory, floats.
    a_offset: usize,
    /// GEMV: where the partial sums start in shared memory, floats.
    sums_offset: usize,
    /// Few rows: where weights on their way lie in shared memory, bytes; `None`: in registers.
    ring_offset: Option<usize>,
    /// GEMV: partial sums per element.
    parts: usize,
    /// Thin: elements from one row in shared memory to the next.
    pitch: usize,
    /// C type of the weights.
    w_type: &'static str,
    /// Thin: whether activations go from memory to registers.
    direct: bool,
    /// Few rows: the product, by its place, whose rows of activations these are as well.
    rows_of: Option<usize>,
}

impl ProjectionTile {
    /// File name of the template.
    pub fn template(self) -> &'static str {
        match self {
            Self::Gemm(GemmTile::Simt(_)) => "gemm_simt.cu",
            Self::Gemm(GemmTile::Mma(_)) => "gemm_mma.cu",
            Self::Gemm(GemmTile::Wgmma(_)) => crate::wgmma::TEMPLATE.0,
            Self::Gemv(_) => "gemv.cu",
            Self::Stream(tile) if tile.operand.is_none() => "gemv_stream.cu",
            Self::Stream(_) => "thin_stream.cu",
            Self::NonZero(_) => "gemv_nonzero.cu",
            Self::Thin(_) => "thin.cu",
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> usize {
        match self {
            Self::Gemm(tile) => tile.threads(),
            Self::Gemv(tile) => tile.threads(),
            Self::Stream(tile) => tile.threads(),
            Self::NonZero(tile) => tile.threads(),
            Self::Thin(tile) => tile.threads(),
        }
    }

    /// Rows of a block.
    pub fn rows(self) -> usize {
        match self {
            Self::Gemm(tile) => tile.rows(),
            Self::Gemv(tile) => tile.rows,
            Self::Stream(tile) => tile.rows,
            Self::NonZero(_) => 1,
            Self::Thin(tile) => tile.rows,
        }
    }

    /// Columns of a block, for each of some products.
    pub fn columns(self, products: usize) -> usize {
        match self {
            Self::Gemm(tile) => tile.columns(products),
            Self::Gemv(tile) => tile.columns,
            Self::Stream(tile) => tile.columns,
            Self::NonZero(tile) => tile.columns,
            Self::Thin(tile) => tile.columns,
        }
    }

    /// Blocks per row tile.
    pub fn column_tiles(self, projection: &Projection) -> usize {
        let across = self.columns(projection.products.len());
        projection.columns.div_ceil(across)
    }

    /// Dynamic shared memory of a block, bytes.
    pub fn shared_bytes(self, projection: &Projection) -> usize {
        match self {
            Self::Gemm(tile) => tile.shared_bytes(&projection.shapes()),
            Self::Gemv(tile) => tile.shared_bytes(&projection.shapes()),
            Self::Stream(tile) => 4 * tile.places(&projection.shapes()).1,
            Self::NonZero(tile) => 4 * tile.places(deepest(projection)).end,
            Self::Thin(tile) => tile.shared_bytes(&projection.shapes()),
        }
    }

    /// The lane's body.
    pub fn render(self, projection: &Projection) -> Result<String, ProjectionError> {
        if let Self::Gemm(GemmTile::Wgmma(tile)) = self {
            return crate::wgmma::render(&[(tile, projection)]);
        }
        let template = self.template();
        self.check(projection)?;
        let mut context = Context::new();
        let products: Vec<ProductText<'_>> = match self {
            Self::Gemm(GemmTile::Wgmma(_)) => Vec::new(),
            Self::Gemm(GemmTile::Simt(tile)) => {
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "rows": tile.rows, "columns": tile.columns, "depth": SIMT_DEPTH, "threads": self.threads(),
                        "thread_rows": tile.thread_rows(), "thread_columns": tile.columns / 16,
                    }),
                );
                projection
                    .products
                    .iter()
                    .map(|p| p.text(projection.columns, 4, 4))
                    .collect()
            }
            Self::Gemm(GemmTile::Mma(tile)) => {
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "rows": tile.rows, "columns": tile.columns, "depth": tile.depth, "stages": tile.stages,
                        "warps_m": tile.warps_m, "warps_n": tile.warps_n, "operand": c_type(tile.operand),
                    }),
                );
                context.insert("run", &projection.run.columns.max(1));
                context.insert("run_before", projection.run.before.trim_end());
                context.insert("run_after", projection.run.after.trim_end());
                context.insert("stage_elements", &tile.stage_elements(&projection.shapes()));
                let mut texts = Vec::new();
                for p in &projection.products {
                    let mut text = p.text(projection.columns, 8, 8);
                    text.x_async = p.x.is_some()
                        && p.prologue.trim().is_empty()
                        && text.x_vector == 8
                        && p.x_element == tile.operand;
                    text.w_async = text.w_vector == 8 && p.w_element == tile.operand;
                    texts.push(text);
                }
                texts
            }
            Self::Gemv(tile) => {
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "rows": tile.rows, "columns": tile.columns, "warps": tile.warps, "split": tile.split,
                        "unroll": tile.unroll,
                    }),
                );
                let nk = |p: &Product| p.w_layout == WeightLayout::Nk;
                context.insert("nk", &projection.products.iter().any(nk));
                let shapes = projection.shapes();
                let places = tile.places(&shapes).0;
                context.insert("ring", &shapes.iter().any(|shape| tile.in_ring(shape)));
                let mut texts = Vec::new();
                for ((p, shape), place) in projection.products.iter().zip(&shapes).zip(places) {
                    let mut text = p.text(projection.columns, 4, vector_limit(tile, p));
                    (text.a_offset, text.sums_offset) = (place.rows, place.sums);
                    text.ring_offset = tile.in_ring(shape).then_some(place.ring);
                    text.parts = tile.parts(p.w_layout);
                    texts.push(text);
                }
                texts
            }
            Self::Stream(tile) => {
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "rows": tile.rows, "columns": tile.columns, "together": tile.together, "warps": tile.warps,
                        "in_flight": tile.in_flight, "operand": tile.operand.map(c_type),
                        "pieces": stream::PIECES, "slots": tile.slots(&projection.shapes()), "brought": tile.brought,
                    }),
                );
                let shapes = projection.shapes();
                let direct = tile.is_direct(&shapes);
                context.insert("staged", &!direct);
                let others = projection.products.iter().skip(1);
                let same_rows = others.clone().all(|p| p.rows_of == Some(0));
                context.insert("same_rows", &same_rows);
                let places = tile.places(&shapes).0;
                let limit = if tile.operand.is_some() { 8 } else { 4 };
                let mut texts = Vec::new();
                for (p, place) in projection.products.iter().zip(places) {
                    let mut text = p.text(projection.columns, limit, 16 / p.w_element.bytes());
                    text.direct = direct;
                    (text.a_offset, text.sums_offset) = (place.rows, place.sums);
                    text.ring_offset = Some(place.ring);
                    text.parts = tile.warps;
                    texts.push(text);
                }
                texts
            }
            Self::NonZero(tile) => {
                let places = tile.places(deepest(projection));
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "columns": tile.columns, "warps": tile.warps, "in_flight": tile.in_flight,
                        "list": places.list, "counts": places.counts,
                    }),
                );
                let mut texts = Vec::new();
                for p in &projection.products {
                    let mut text = p.text(projection.columns, 4, 16 / p.w_element.bytes());
                    (text.a_offset, text.sums_offset) = (places.rows, places.sums);
                    text.ring_offset = Some(places.ring);
                    text.parts = tile.warps;
                    texts.push(text);
                }
                texts
            }
            Self::Thin(tile) => {
                context.insert(
                    "tile",
                    &serde_json::json!({
                        "rows": tile.rows, "columns": tile.columns, "warps": tile.warps, "split": tile.split,
                        "together": tile.unroll, "operand": c_type(tile.operand), "brought": false,
                    }),
                );
                let staged = !projection.products.iter().all(Product::is_direct);
                context.insert("staged", &staged);
                let places = tile.places(&projection.shapes()).0;
                let mut texts = Vec::new();
                for (p, place) in projection.products.iter().zip(places) {
                    let mut text = p.text(projection.columns, 8, 8);
                    (text.a_offset, text.sums_offset) = (place.rows, place.sums);
                    texts.push(text);
                }
                texts
            }
        };
        context.insert("products", &products);
        context.insert("columns", &projection.columns);
        context.insert("rows", &projection.rows);
        context.insert("block", &projection.block);
        context.insert("early", &projection.early);
        context.insert("setup", projection.setup.trim_end());
        context.insert("row_prologue", projection.row_prologue.trim_end());
        context.insert("epilogue", projection.epilogue.trim_end());
        render(template, &context)
    }

    /// Whether the template takes this tile for this projection.
    pub fn check(self, projection: &Projection) -> Result<(), ProjectionError> {
        if projection.products.is_empty()
            || projection.columns == 0
            || projection.products.iter().any(|p| p.depth == 0)
        {
            return Err(ProjectionError::Empty);
        }
        let refuse = |reason: &'static str| {
            Err(ProjectionError::Tile {
                template: self.template(),
                reason,
                tile: format!("{self:?}"),
            })
        };
        let reason = match self {
            Self::Gemm(GemmTile::Wgmma(tile)) => return crate::wgmma::check(tile, projection),
            Self::Gemm(GemmTile::Simt(tile)) => {
                let sizes = [32, 64, 128];
                (!sizes.contains(&tile.rows) || !sizes.contains(&tile.columns))
                    .then_some("rows and columns are 32, 64 or 128")
            }
            Self::Gemm(GemmTile::Mma(tile)) => {
                if tile.warps_m == 0 || tile.warps_n == 0 || tile.warps_m * tile.warps_n > 16 {
                    Some("there are 1 to 16 warps")
                } else if tile.rows == 0 || !tile.rows.is_multiple_of(16 * tile.warps_m) {
                    Some("rows are a multiple of 16 per warp")
                } else if tile.columns == 0 || !tile.columns.is_multiple_of(16 * tile.warps_n) {
                    Some("columns are a multiple of 16 per warp")
                } else if ![32, 64].contains(&tile.depth) {
                    Some("a tile is 32 or 64 long along k")
                } else if !(2..=8).contains(&tile.stages) {
                    Some("there are 2 to 8 stages")
                } else if !matches!(tile.operand, Element::Bf16 | Element::F16) {
                    Some("the tensor cores multiply bf16 or f16")
                } else {
                    None
                }
            }
            Self::Gemv(tile) => {
                let nk_fits = tile.split != 0
                    && tile.warps.is_multiple_of(tile.split)
                    && (tile.columns * tile.split).is_multiple_of(tile.warps);
                let kn_fits = |p: &Product| {
                    let v = p
                        .text(projection.columns, 4, vector_limit(tile, p))
                        .w_vector;
                    tile.columns / v <= 32
                };
                if !(1..=8).contains(&tile.rows) {
                    Some("there are 1 to 8 rows")
                } else if !(1..=32).contains(&tile.warps) {
                    Some("there are 1 to 32 warps")
                } else if !tile.columns.is_power_of_two() {
                    Some("columns are a power of two")
                } else if !(1..=16).contains(&tile.unroll) {
                    Some("1 to 16 loads are in flight")
                } else if projection
                    .products
                    .iter()
                    .any(|p| p.w_layout == WeightLayout::Nk)
                    && !nk_fits
                {
                    Some(
                        "groups of `split` warps divide the warps, and the groups divide the columns",
                    )
                } else if projection
                    .products
                    .iter()
                    .any(|p| p.w_layout == WeightLayout::Kn && !kn_fits(p))
                {
                    Some("weights with k outermost need at most 32 vectors per row of the tile")
                } else {
                    None
                }
            }
            Self::Stream(tile) => {
                let shapes = projection.shapes();
                let first = &projection.products[0];
                let operand = tile.operand.unwrap_or(first.w_element);
                let alike = |p: &Product| p.w_element == operand && p.depth == first.depth;
                let fragments = tile.together == stream::FRAGMENT_COLUMNS
                    && tile.columns.is_multiple_of(tile.together);
                if tile.columns == 0 || !(1..=tile.columns).contains(&tile.together) {
                    Some("there are columns, of which a warp takes some at a time")
                } else if tile.operand.is_none() && tile.rows != 1 {
                    Some("the FP32 units take one row")
                } else if tile.operand.is_some() && !fragments {
                    Some("on tensor cores a warp has 8 columns at a time, and a block a multiple")
                } else if !tile.rows.is_power_of_two() || tile.rows > stream::ROWS {
                    Some("rows are a power of two up to 8")
                } else if tile
                    .operand
                    .is_some_and(|operand| !matches!(operand, Element::Bf16 | Element::F16))
                {
                    Some("the tensor cores multiply bf16 or f16")
                } else if !(1..=32).contains(&tile.warps) {
                    Some("there are 1 to 32 warps")
                } else if !(1..=32).contains(&tile.in_flight) {
                    Some("1 to 32 steps are on their way")
                } else if tile.brought && !projection.products.iter().all(Product::is_direct) {
                    Some("rows that are brought lie in memory as they are multiplied")
                } else if !shapes.iter().all(thin::is_readable)
                    || !projection.products.iter().all(alike)
                {
                    Some(
                        "sums are equally long, over rows of weights that are read 16 bytes at a time",
                    )
                } else {
                    None
                }
            }
            Self::NonZero(tile) => {
                let [product] = &projection.products[..] else {
                    return refuse("there is one product");
                };
                let vector = 16 / product.w_element.bytes();
                let there = product.text(projection.columns, 4, vector).w_vector;
                let lanes = tile.columns / vector;
                if product.w_layout != WeightLayout::Kn || there != vector {
                    Some("weights lie with k outermost and are read 16 bytes at a time")
                } else if !lanes.is_power_of_two() || lanes > 32 || tile.columns % vector != 0 {
                    Some("a power of two of lanes, up to 32, has the columns")
                } else if product.depth > nonzero::MOST_TERMS {
                    Some("sums have at most 65536 terms")
                } else if !(1..=32).contains(&tile.warps) || !(1..=32).contains(&tile.in_flight) {
                    Some("there are 1 to 32 warps, and 1 to 32 rows on their way")
                } else {
                    None
                }
            }
            Self::Thin(tile) => {
                let shapes = projection.shapes();
                let readable = |p: &Product| p.w_element == tile.operand;
                if !(1..=thin::ROWS).contains(&tile.rows) {
                    Some("there are 1 to 64 rows")
                } else if tile.split == 0
                    || !tile.warps.is_multiple_of(tile.split)
                    || tile.columns != tile.warps / tile.split * thin::WARP_COLUMNS
                {
                    Some("groups of `split` warps have 16 columns each")
                } else if !(1..=8).contains(&tile.unroll) {
                    Some("1 to 8 loads are in flight")
                } else if !matches!(tile.operand, Element::Bf16 | Element::F16) {
                    Some("the tensor cores multiply bf16 or f16")
                } else if !shapes.iter().all(thin::is_readable)
                    || !projection.products.iter().all(readable)
                {
                    Some("rows of weights of the operand's type are read 16 bytes at a time")
                } else {
                    None
                }
            }
        };
        match reason {
            None => Ok(()),
            Some(reason) => refuse(reason),
        }
    }
}

impl Product {
    /// Whether 16-byte accesses take the activations from memory as the tensor cores want them, where
    /// these multiply what the weights are stored as.
    fn is_direct(&self) -> bool {
        self.x.is_some()
            && self.prologue.trim().is_empty()
            && self.stage.trim().is_empty()
            && self.x_element == self.w_element
            && self.x_stride.is_multiple_of(ALIGNED)
            && self.x_offset.is_multiple_of(ALIGNED)
    }

    /// The template's view, with vectors of at most `x_limit` and `w_limit` elements.
    fn text(&self, columns: usize, x_limit: usize, w_limit: usize) -> ProductText<'_> {
        let w_extent = match self.w_layout {
            WeightLayout::Nk => self.depth,
            WeightLayout::Kn => columns,
        };
        let x_stride = if self.x.is_some() { self.x_stride } else { 0 };
        let x_offset = if self.x.is_some() { self.x_offset } else { 0 };
        ProductText {
            name: &self.name,
            depth: self.depth,
            x: self.x.as_deref().unwrap_or(""),
            x_stride,
            x_vector: vector(x_limit, self.depth, x_stride, x_offset),
            x_async: false,
            prologue: self.prologue.trim_end(),
            stage: self.stage.trim_end(),
            w: &self.w,
            w_stride: self.w_stride,
            w_vector: vector(w_limit, w_extent, self.w_stride, self.w_offset),
            w_async: false,
            w_layout: self.w_layout,
            a_offset: 0,
            sums_offset: 0,
            ring_offset: None,
            parts: 1,
            pitch: thin::pitch(self.depth),
            w_type: c_type(self.w_element),
            direct: self.is_direct(),
            rows_of: self.rows_of,
        }
    }
}

/// Length of the longest sum.
fn deepest(projection: &Projection) -> usize {
    let depths = projection.products.iter().map(|p| p.depth);
    depths.max().unwrap_or(0)
}

/// Elements of a 16-byte load of the weights, no more than a row of the tile holds.
fn vector_limit(tile: GemvTile, product: &Product) -> usize {
    let whole = 16 / product.w_element.bytes();
    match product.w_layout {
        WeightLayout::Nk => whole,
        WeightLayout::Kn => whole.min(tile.columns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_divide_everything_that_they_step_over() {
        for ((limit, extent, stride, offset), expected) in [
            ((8, 64, 64, 0), 8),
            ((8, 64, 68, 0), 4),
            ((8, 64, 64, 2), 2),
            ((4, 33, 64, 0), 1),
            ((8, 8, 0, 0), 8),
        ] {
            assert_eq!(vector(limit, extent, stride, offset), expected);
        }
    }
}
