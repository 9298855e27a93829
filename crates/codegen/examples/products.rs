//! Writes the kernels of `bench/products` and what a launch of each needs: `products DIR`.
//!
//! Each is one or several products of one activation, with the epilogues that models put behind them,
//! by some tile of `gemm_wgmma.cu` or by the tile that `gemm_mma.cu` takes for large products.

use fusec_codegen::Element;
use fusec_codegen::prelude::with_prelude;
use fusec_codegen::projection::{
    MapAxis, MapExtent, MmaTile, Product, Projection, ProjectionTile, Run, WeightLayout, WgmmaTile,
    render_wgmma,
};
use serde_json::{Value, json};
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
    /// y = (sum - mean[m] * bias[n]) * inverse[m]: a normalisation of the rows, applied after the product.
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

/// One lane: columns, layout, epilogue.
type LaneCase = (usize, WeightLayout, Epilogue, WgmmaTile);

fn product(
    name: &str,
    depth: usize,
    columns: usize,
    layout: WeightLayout,
    lane: usize,
    which: usize,
) -> Product {
    Product {
        name: name.into(),
        depth,
        x: Some("x".into()),
        x_element: Element::Bf16,
        x_stride: depth,
        x_offset: 0,
        prologue: String::new(),
        stage: String::new(),
        w: format!("w{lane}_{which}"),
        w_element: Element::Bf16,
        w_stride: if layout == WeightLayout::Nk {
            depth
        } else {
            columns
        },
        w_offset: 0,
        w_layout: layout,
        x_map: "x_map".into(),
        w_map: format!("w{lane}_{which}_map"),
    }
}

fn projection(
    depth: usize,
    columns: usize,
    layout: WeightLayout,
    epilogue: Epilogue,
    lane: usize,
    run: usize,
    store: &str,
) -> Projection {
    let mut products = vec![product("sum", depth, columns, layout, lane, 0)];
    if epilogue == Epilogue::Pair {
        products.push(product("gate", depth, columns, layout, lane, 1));
    }
    let at = format!("m * {columns} + n_first");
    let value = match epilogue {
        Epilogue::Plain => "sum".to_string(),
        Epilogue::Residual => "sum + other[v]".into(),
        Epilogue::Silu => "fsilu(sum)".into(),
        Epilogue::Gate => "fsigmoid(sum) * other[v]".into(),
        Epilogue::RowStatistics => "(sum - mean * other[v]) * inverse".into(),
        Epilogue::Pair => "fsilu(sum) * gate".into(),
    };
    let mut before = format!("float all[{run}];\n");
    match epilogue {
        Epilogue::Residual | Epilogue::Gate => before.push_str(&format!(
            "float other[{run}];\nload_vec<bf16_t, {run}>(r{lane} + {at}, other);\n"
        )),
        Epilogue::RowStatistics => before.push_str(&format!(
            "float other[{run}];\nload_vec<float, {run}>(bias + n_first, other);\n"
        )),
        _ => {}
    }
    Projection {
        products,
        columns,
        rows: "M".into(),
        block: "blockIdx.x".into(),
        setup: String::new(),
        row_prologue: match epilogue {
            Epilogue::RowStatistics => {
                "const float mean = statistics[2 * m], inverse = statistics[2 * m + 1];".into()
            }
            _ => String::new(),
        },
        epilogue: format!("all[v] = {value};"),
        run: Run {
            columns: run,
            before,
            after: format!("{store}<bf16_t, {run}>(y{lane} + {at}, all);"),
        },
    }
}

fn axes(list: &[MapAxis]) -> Value {
    list.iter()
        .map(|axis| {
            let extent = match axis.extent {
                MapExtent::Fixed(n) => json!(n),
                MapExtent::Rows => json!("rows"),
            };
            json!({"extent": extent, "stride": axis.stride, "span": axis.span})
        })
        .collect()
}

fn emit(dir: &Path, index: &mut Vec<Value>, name: &str, depth: usize, lanes: &[LaneCase]) {
    let projections: Vec<Projection> = lanes
        .iter()
        .enumerate()
        .map(|(i, (columns, layout, epilogue, _))| {
            projection(
                depth,
                *columns,
                *layout,
                *epilogue,
                i,
                WgmmaTile::run(*columns, [*layout]),
                "store_vec_global",
            )
        })
        .collect();
    let tiles: Vec<(WgmmaTile, &Projection)> =
        lanes.iter().map(|l| l.3).zip(&projections).collect();
    let body = render_wgmma(&tiles).unwrap_or_else(|error| panic!("{name}: {error}"));
    let tile = tiles
        .iter()
        .map(|(tile, _)| *tile)
        .max_by_key(|tile| tile.columns)
        .expect("a lane");
    let mut params = vec!["const __grid_constant__ tensor_map x_map".to_string()];
    let mut maps = serde_json::Map::new();
    maps.insert("x".into(), axes(&tile.x_axes(&projections[0].products[0])));
    let mut args = vec!["map:x".to_string()];
    let mut described = Vec::new();
    for (i, (tile, projection)) in tiles.iter().enumerate() {
        for p in &projection.products {
            params.push(format!("const __grid_constant__ tensor_map {}", p.w_map));
            maps.insert(p.w.clone(), axes(&tile.w_axes(projection, p)));
            args.push(format!("map:{}", p.w));
        }
        described.push(json!({
            "columns": projection.columns, "layout": format!("{:?}", lanes[i].1), "epilogue": lanes[i].2.name(),
            "column_tiles": tile.column_tiles(projection), "products": projection.products.len(),
        }));
    }
    for i in 0..lanes.len() {
        params.push(format!("const bf16_t* __restrict__ r{i}"));
        params.push(format!("bf16_t* __restrict__ y{i}"));
        args.extend([format!("r{i}"), format!("y{i}")]);
    }
    args.extend(["bias", "statistics", "rows"].map(String::from));
    params.extend(
        [
            "const float* __restrict__ bias",
            "const float* __restrict__ statistics",
            "const i64 M",
        ]
        .map(String::from),
    );
    let text = kernel(name, tile.threads(), &params, &body);
    std::fs::write(dir.join(format!("{name}.cu")), text).expect("the directory can be written");
    index.push(json!({
        "name": name, "depth": depth, "lanes": described, "maps": maps, "args": args, "persistent": true, "threads": tile.threads(), "shared": tile.shared_bytes(),
        "cluster": tile.cluster, "unit_rows": tile.unit_rows(), "tile": format!("{}x{}x64 stages {} cluster {} group {}", tile.rows(), tile.columns, tile.stages, tile.cluster, tile.group),
    }));
}

fn kernel(name: &str, threads: usize, params: &[String], body: &str) -> String {
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({threads}, 1) {name}({}) {{\n    const int tid = threadIdx.x;\n    \
         FUSEC_DYNAMIC_SMEM(shared_memory);\n    float* const smem = reinterpret_cast<float*>(shared_memory);\n{body}}}\n",
        params.join(", ")
    ))
}

/// The same by `gemm_mma.cu`, as large products get it.
fn emit_mma(
    dir: &Path,
    index: &mut Vec<Value>,
    name: &str,
    depth: usize,
    columns: usize,
    epilogue: Epilogue,
) {
    let projection = projection(
        depth,
        columns,
        WeightLayout::Nk,
        epilogue,
        0,
        8,
        "store_vec",
    );
    let tile = ProjectionTile::Mma(MmaTile {
        rows: 128,
        columns: 128,
        warps_m: 2,
        warps_n: 2,
        depth: 64,
        stages: 3,
        operand: Element::Bf16,
    });
    let body = tile
        .render(&projection)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let params = [
        "const bf16_t* __restrict__ x",
        "const bf16_t* __restrict__ w0_0",
        "const bf16_t* __restrict__ r0",
        "bf16_t* __restrict__ y0",
        "const float* __restrict__ bias",
        "const float* __restrict__ statistics",
        "const i64 M",
    ]
    .map(String::from);
    let text = kernel(name, tile.threads(), &params, &body).replace(
        &format!("({}, 1)", tile.threads()),
        &format!("({})", tile.threads()),
    );
    std::fs::write(dir.join(format!("{name}.cu")), text).expect("the directory can be written");
    index.push(json!({
        "name": name, "depth": depth, "maps": {}, "args": ["x", "w0_0", "r0", "y0", "bias", "statistics", "rows"], "persistent": false, "threads": tile.threads(), "shared": tile.shared_bytes(&projection), "cluster": 1, "unit_rows": tile.rows(),
        "lanes": [{"columns": columns, "layout": "Nk", "epilogue": epilogue.name(), "column_tiles": tile.column_tiles(columns), "products": 1}],
        "tile": "mma 128x128x64 stages 3",
    }));
}

fn main() {
    let dir = std::env::args().nth(1).expect("products DIR");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir).expect("the directory can be made");
    let mut index = Vec::new();
    let tile = |consumers, columns, stages, cluster, group| WgmmaTile {
        consumers,
        turns: false,
        columns,
        stages,
        cluster,
        group,
        operand: Element::Bf16,
    };
    let shared = tile(2, 256, 4, 2, 8);
    let turns = WgmmaTile {
        turns: true,
        ..tile(2, 256, 5, 2, 16)
    };
    let narrow = |columns| WgmmaTile { columns, ..turns };
    use Epilogue::{Gate, Pair, Plain, Residual, RowStatistics, Silu};
    use WeightLayout::{Kn, Nk};
    // Tiles, on the shapes of projections inside models.
    for (k, n) in [(2048, 2048), (2048, 8192), (8192, 2048), (4096, 4096)] {
        for (label, tile) in [
            ("share", shared),
            ("share_alone", tile(2, 256, 4, 1, 8)),
            ("share_128", tile(2, 128, 6, 2, 8)),
            ("turns", turns),
            (
                "turns_alone",
                WgmmaTile {
                    cluster: 1,
                    ..turns
                },
            ),
            ("turns_8", WgmmaTile { group: 8, ..turns }),
            (
                "turns_192",
                WgmmaTile {
                    columns: 192,
                    stages: 6,
                    ..turns
                },
            ),
        ] {
            emit(
                dir,
                &mut index,
                &format!("tile_{label}_{k}_{n}"),
                k,
                &[(n, Nk, Plain, tile)],
            );
        }
        emit_mma(dir, &mut index, &format!("mma_{k}_{n}"), k, n, Plain);
    }
    emit(
        dir,
        &mut index,
        "head_2048_65536",
        2048,
        &[(65536, Nk, Plain, turns)],
    );
    // Columns that are no multiple of 32, and weights with k outermost.
    emit(
        dir,
        &mut index,
        "odd_2056_2060",
        2056,
        &[(2060, Nk, Plain, turns)],
    );
    emit(
        dir,
        &mut index,
        "kn_2048_2048",
        2048,
        &[(2048, Kn, Plain, turns)],
    );
    emit(
        dir,
        &mut index,
        "kn_2048_96",
        2048,
        &[(
            96,
            Kn,
            Plain,
            WgmmaTile {
                stages: 8,
                ..narrow(128)
            },
        )],
    );
    // Epilogues.
    for (label, tile) in [("share", shared), ("turns", turns)] {
        for epilogue in [Residual, Silu, Gate, RowStatistics] {
            for (k, n) in [(2048, 2048), (2048, 8192)] {
                let name = format!("{}_{label}_{k}_{n}", epilogue.name());
                emit(dir, &mut index, &name, k, &[(n, Nk, epilogue, tile)]);
            }
        }
        emit(
            dir,
            &mut index,
            &format!("pair_{label}_2048_4096"),
            2048,
            &[(4096, Nk, Pair, tile)],
        );
        // Several products of one activation, narrow ones beside wide ones.
        emit(
            dir,
            &mut index,
            &format!("three_{label}_2048_2048"),
            2048,
            &[(2048, Nk, Plain, tile); 3],
        );
        let narrow = |columns| WgmmaTile { columns, ..tile };
        emit(
            dir,
            &mut index,
            &format!("wide_narrow_{label}_2048"),
            2048,
            &[
                (2048, Nk, Plain, tile),
                (64, Nk, Plain, narrow(64)),
                (128, Kn, Plain, narrow(128)),
            ],
        );
    }
    std::fs::write(
        dir.join("products.json"),
        serde_json::to_string_pretty(&index).expect("plain data"),
    )
    .expect("the directory can be written");
}
