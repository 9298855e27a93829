//! Writes the kernels of `bench/products` and what a launch of each needs: `products DIR`.
//!
//! Each is one or several products of one activation, with the epilogues that models put behind them, by some
//! tile of `gemm_wgmma.cu` or by the tile that `gemm_mma.cu` takes for large products.

use fusec_codegen::prelude::with_prelude;
use fusec_codegen::projection::{
    GemmTile, MmaTile, Product, Projection, ProjectionTile, Run, WeightLayout, WgmmaTile,
};
use fusec_codegen::{Element, MapAxis, MapExtent, wgmma};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What becomes of a sum.
#[derive(Clone, Copy, PartialEq)]
enum Epilogue {
    Plain,
    /// y = r + sum
    Residual,
    /// y = silu(sum)
    Silu,
    /// y = sigmoid(sum) * r
    Gate,
    /// y = (sum - mean[row] * bias[column]) * inverse[row]: a normalisation of the rows, applied after the product.
    RowStatistics,
    /// y = silu(first) * second, two products.
    Pair,
}

impl Epilogue {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Residual => "residual",
            Self::Silu => "silu",
            Self::Gate => "gate",
            Self::RowStatistics => "row_statistics",
            Self::Pair => "pair",
        }
    }
}

/// Columns, layout of the weights, epilogue, tile.
type Lane = (usize, WeightLayout, Epilogue, WgmmaTile);

/// What a bench needs, written to a directory.
struct Bench<'a> {
    dir: &'a Path,
    index: Vec<Value>,
}

/// The projection of a lane; `store` is the primitive that writes a run of results.
fn projection(depth: usize, lane: usize, of: &Lane, run: usize, store: &str) -> Projection {
    let (columns, w_layout, epilogue, _) = *of;
    let product = |(which, name): (usize, &&str)| Product {
        name: (*name).into(),
        depth,
        x: Some("x".into()),
        x_element: Element::Bf16,
        x_stride: depth,
        x_offset: 0,
        prologue: String::new(),
        stage: String::new(),
        w: format!("w{lane}_{which}"),
        w_element: Element::Bf16,
        w_stride: match w_layout {
            WeightLayout::Nk => depth,
            WeightLayout::Kn => columns,
        },
        w_offset: 0,
        w_layout,
        rows_of: None,
        x_map: "x_map".into(),
        w_map: format!("w{lane}_{which}_map"),
    };
    let names: &[&str] = match epilogue {
        Epilogue::Pair => &["sum", "gate"],
        _ => &["sum"],
    };
    let at = format!("row * {columns} + column_first");
    let value = match epilogue {
        Epilogue::Plain => "sum",
        Epilogue::Residual => "sum + other[nth]",
        Epilogue::Silu => "fsilu(sum)",
        Epilogue::Gate => "fsigmoid(sum) * other[nth]",
        Epilogue::RowStatistics => "(sum - mean * other[nth]) * inverse",
        Epilogue::Pair => "fsilu(sum) * gate",
    };
    let other = match epilogue {
        Epilogue::Residual | Epilogue::Gate => {
            format!("float other[{run}];\nload_vec<bf16_t, {run}>(r{lane} + {at}, other);\n")
        }
        Epilogue::RowStatistics => {
            format!("float other[{run}];\nload_vec<float, {run}>(bias + column_first, other);\n")
        }
        _ => String::new(),
    };
    Projection {
        products: names.iter().enumerate().map(product).collect(),
        columns,
        rows: "M".into(),
        block: "blockIdx.x".into(),
        early: false,
        setup: String::new(),
        row_prologue: match epilogue {
            Epilogue::RowStatistics => {
                "const float mean = statistics[2 * row], inverse = statistics[2 * row + 1];".into()
            }
            _ => String::new(),
        },
        epilogue: format!("all[nth] = {value};"),
        run: Run {
            columns: run,
            before: format!("float all[{run}];\n{other}"),
            after: format!("{store}<bf16_t, {run}>(y{lane} + {at}, all);"),
        },
    }
}

fn axes(list: &[MapAxis]) -> Value {
    let of = |axis: &MapAxis| {
        let extent = match axis.extent {
            MapExtent::Fixed(n) => json!(n),
            MapExtent::Rows => json!("rows"),
        };
        json!({"extent": extent, "stride": axis.stride, "span": axis.span})
    };
    list.iter().map(of).collect()
}

fn kernel(name: &str, bounds: &str, params: &[String], body: &str) -> String {
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({bounds}) {name}({}) {{\n    const int tid = threadIdx.x;\n    \
         FUSEC_DYNAMIC_SMEM(shared_memory);\n    float* const smem = reinterpret_cast<float*>(shared_memory);\n{body}}}\n",
        params.join(", ")
    ))
}

/// Parameters behind the operands, and their names as arguments.
fn results(lanes: usize, params: &mut Vec<String>, args: &mut Vec<String>) {
    for i in 0..lanes {
        params.push(format!("const bf16_t* __restrict__ r{i}"));
        params.push(format!("bf16_t* __restrict__ y{i}"));
        args.extend([format!("r{i}"), format!("y{i}")]);
    }
    let rest = [
        "const float* __restrict__ bias",
        "const float* __restrict__ statistics",
        "const i64 M",
    ];
    params.extend(rest.map(String::from));
    args.extend(["bias", "statistics", "rows"].map(String::from));
}

impl Bench<'_> {
    fn write(&mut self, name: &str, text: &str, info: Value) {
        std::fs::write(self.dir.join(format!("{name}.cu")), text).expect("DIR can be written");
        self.index.push(info);
    }

    fn wgmma(&mut self, name: &str, depth: usize, lanes: &[Lane]) {
        let of = |(i, lane): (usize, &Lane)| {
            let run = wgmma::run(lane.0, [lane.1]);
            projection(depth, i, lane, run, "store_vec_global")
        };
        let projections: Vec<Projection> = lanes.iter().enumerate().map(of).collect();
        let tiles: Vec<(WgmmaTile, &Projection)> =
            lanes.iter().map(|l| l.3).zip(&projections).collect();
        let body = wgmma::render(&tiles).unwrap_or_else(|error| panic!("{name}: {error}"));
        let widest = tiles.iter().map(|(tile, _)| *tile);
        let widest = widest.max_by_key(|tile| tile.columns).expect("a lane");
        let mut maps = Map::new();
        let mut params = vec!["const __grid_constant__ tensor_map x_map".to_string()];
        let mut args = vec!["map:x".to_string()];
        maps.insert(
            "x".into(),
            axes(&wgmma::x_axes(tiles[0].0, &projections[0].products[0])),
        );
        let mut described = Vec::new();
        for ((tile, projection), lane) in tiles.iter().zip(lanes) {
            for p in &projection.products {
                params.push(format!("const __grid_constant__ tensor_map {}", p.w_map));
                maps.insert(p.w.clone(), axes(&wgmma::w_axes(*tile, projection, p)));
                args.push(format!("map:{}", p.w));
            }
            let whole = ProjectionTile::Gemm(GemmTile::Wgmma(*tile));
            described.push(json!({
                "columns": lane.0, "layout": format!("{:?}", lane.1), "epilogue": lane.2.name(),
                "column_tiles": whole.column_tiles(projection), "products": projection.products.len(),
            }));
        }
        results(lanes.len(), &mut params, &mut args);
        let whole = ProjectionTile::Gemm(GemmTile::Wgmma(widest));
        let text = kernel(name, &format!("{}, 1", whole.threads()), &params, &body);
        let info = json!({
            "name": name, "depth": depth, "lanes": described, "maps": maps, "args": args, "persistent": true,
            "threads": whole.threads(), "shared": widest.shared_bytes(), "tile_rows": whole.rows(),
            "tile": format!("wgmma {}x{}x64 stages {} group {}", whole.rows(), widest.columns, widest.stages, widest.group),
        });
        self.write(name, &text, info);
    }

    /// The same by `gemm_mma.cu`, as large products get it.
    fn mma(&mut self, name: &str, depth: usize, columns: usize) {
        let tile = MmaTile {
            rows: 128,
            columns: 128,
            warps_m: 2,
            warps_n: 2,
            depth: 64,
            stages: 3,
            operand: Element::Bf16,
        };
        let unused = WgmmaTile {
            rows: 64,
            columns: 64,
            stages: 2,
            group: 1,
            operand: Element::Bf16,
        };
        let lane = (columns, WeightLayout::Nk, Epilogue::Plain, unused);
        let projection = projection(depth, 0, &lane, 8, "store_vec");
        let tile = ProjectionTile::Gemm(GemmTile::Mma(tile));
        let body = tile
            .render(&projection)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let pointers = [
            "const bf16_t* __restrict__ x",
            "const bf16_t* __restrict__ w0_0",
        ];
        let mut params = pointers.map(String::from).to_vec();
        let mut args = ["x", "w0_0"].map(String::from).to_vec();
        results(1, &mut params, &mut args);
        let text = kernel(name, &tile.threads().to_string(), &params, &body);
        let info = json!({
            "name": name, "depth": depth, "maps": {}, "args": args, "persistent": false,
            "lanes": [{"columns": columns, "layout": "Nk", "epilogue": "plain", "column_tiles": tile.column_tiles(&projection), "products": 1}],
            "threads": tile.threads(), "shared": tile.shared_bytes(&projection), "tile_rows": tile.rows(),
            "tile": "mma 128x128x64 stages 3",
        });
        self.write(name, &text, info);
    }
}

fn main() {
    let dir = std::env::args().nth(1).expect("products DIR");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir).expect("DIR can be made");
    let mut bench = Bench {
        dir,
        index: Vec::new(),
    };
    let tile = |columns, stages| WgmmaTile {
        rows: 64,
        columns,
        stages,
        group: 16,
        operand: Element::Bf16,
    };
    let usual = tile(256, 5);
    // The same accumulators, fewer bytes of weights.
    let tall = WgmmaTile {
        rows: 128,
        group: 8,
        ..tile(128, 7)
    };
    use Epilogue::{Gate, Pair, Plain, Residual, RowStatistics, Silu};
    use WeightLayout::{Kn, Nk};
    // Tiles, on the shapes of projections inside models.
    for (k, n) in [(2048, 2048), (2048, 8192), (8192, 2048), (4096, 4096)] {
        let tiles = [
            ("256", usual),
            ("128_128", tall),
            ("256_8", WgmmaTile { group: 8, ..usual }),
            ("192", tile(192, 6)),
            ("128", tile(128, 8)),
        ];
        for (label, tile) in tiles {
            bench.wgmma(&format!("tile_{label}_{k}_{n}"), k, &[(n, Nk, Plain, tile)]);
        }
        bench.mma(&format!("mma_{k}_{n}"), k, n);
    }
    bench.wgmma("head_2048_65536", 2048, &[(65536, Nk, Plain, usual)]);
    // Columns that are no multiple of 32, and weights with k outermost.
    bench.wgmma("odd_2056_2060", 2056, &[(2060, Nk, Plain, usual)]);
    bench.wgmma("kn_2048_2048", 2048, &[(2048, Kn, Plain, usual)]);
    bench.wgmma("narrow_kn_2048_96", 2048, &[(96, Kn, Plain, tile(64, 8))]);
    bench.wgmma("narrow_2048_64", 2048, &[(64, Nk, Plain, tile(64, 8))]);
    for epilogue in [Residual, Silu, Gate, RowStatistics] {
        for (k, n) in [(2048, 2048), (2048, 8192), (4096, 4096)] {
            let name = format!("{}_{k}_{n}", epilogue.name());
            bench.wgmma(&name, k, &[(n, Nk, epilogue, usual)]);
            bench.wgmma(&format!("{name}_tall"), k, &[(n, Nk, epilogue, tall)]);
        }
    }
    for epilogue in [Residual, Gate] {
        let name = format!("{}_128_2048_2048", epilogue.name());
        bench.wgmma(&name, 2048, &[(2048, Nk, epilogue, tile(128, 8))]);
    }
    bench.wgmma("pair_2048_4096", 2048, &[(4096, Nk, Pair, usual)]);
    // Several products of one activation, narrow ones beside wide ones.
    bench.wgmma("three_2048_2048", 2048, &[(2048, Nk, Plain, usual); 3]);
    let beside = [
        (2048, Nk, Plain, usual),
        (64, Nk, Plain, tile(64, 5)),
        (128, Kn, Plain, tile(128, 5)),
    ];
    bench.wgmma("wide_narrow_2048", 2048, &beside);
    let text = serde_json::to_string_pretty(&bench.index).expect("plain data");
    std::fs::write(dir.join("products.json"), text).expect("DIR can be written");
}
