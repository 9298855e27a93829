//! No index of any kernel overflows its C type, at the largest B and T that a run may have: shown on the
//! text of the kernels, over the zoo, by the ranges of all integer expressions.
//!
//! Runs on the edge of what is accepted (B T = 2^31 rows) take memory that no test has, so nothing is run.
//! What the text computes in `int` has to fit 32 bits signed, in `u32` 32 bits without wrapping, in `i64`
//! 64 bits, for all that B, T and the block may be; and every index into global memory has to have a range
//! that is known.

use std::collections::BTreeMap;

use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::Graph;
use fusec_ir::gradient::differentiate;
use fusec_ir::language::{ModelSource, Overrides, compile};

#[path = "addresses/ranges.rs"]
mod ranges;

/// The limits of a run: docs/limits.md.
const MAX_BATCH: usize = 1 << 20;
const MAX_TIME: usize = 1 << 30;
const MAX_ROWS: usize = 1 << 31;

/// Shapes along the edge of what is accepted.
fn edge() -> impl Iterator<Item = Shape> {
    (0..=20).map(|n| 1usize << n).filter_map(|batch| {
        let time = (MAX_ROWS / batch).min(MAX_TIME);
        (batch <= MAX_BATCH).then_some(Shape { batch, time })
    })
}

/// What is wrong with the kernels of a manifest, and at which shape.
fn wrong(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for regime in &manifest.regimes {
        for step in &regime.steps {
            let kernel = &manifest.kernels[step.kernel];
            let image = manifest.kernels.iter().find(|k| k.name == kernel.image);
            let text = &image.expect("an image").source;
            for mut shape in edge() {
                if let Some(most) = regime.max_time {
                    shape.time = shape.time.min(most);
                }
                let blocks = step.lanes.iter().map(|lane| lane.count(shape));
                let blocks = blocks.sum::<Option<u64>>().unwrap_or(u64::MAX);
                // Refused before it is launched.
                if blocks > i32::MAX as u64 {
                    continue;
                }
                let given = ranges::Given {
                    batch: shape.batch as i128,
                    time: shape.time as i128,
                    blocks: i128::from(blocks),
                    threads: i128::from(kernel.threads),
                };
                for problem in ranges::problems(text, given) {
                    let at = format!("B={}, T={}", shape.batch, shape.time);
                    found
                        .entry(format!("{}: {problem}", kernel.name))
                        .or_insert(at);
                }
            }
        }
    }
    found
}

fn kernels(
    text: &ModelSource<'_>,
    overrides: &Overrides,
    storage: Storage,
    mode: Mode,
    device: &Device,
) -> Manifest {
    let graph = compile(text, overrides).unwrap_or_else(|e| panic!("{}: {e:?}", text.name));
    of_graph(&graph, storage, mode, device)
}

fn of_graph(graph: &Graph, storage: Storage, mode: Mode, device: &Device) -> Manifest {
    let planned = [1, 2048].map(|time| {
        let options = Options {
            shape: Shape { batch: 1, time },
            storage,
            mode,
            device,
            launch: Submit::Graph,
            pins: vec![],
        };
        plan(graph, &options).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
    });
    let regimes = [
        ("decode", 1, Some(1), &planned[0]),
        ("prefill", 2, None, &planned[1]),
    ];
    let regimes = regimes.map(|(name, min_time, max_time, planned)| Planned {
        name,
        min_time,
        max_time,
        graph: &planned.graph,
        plan: &planned.plan,
    });
    generate(&graph.name, storage, &regimes).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
}

#[test]
fn no_index_overflows_at_the_largest_sizes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths: Vec<_> = std::fs::read_dir(root.join("models"))
        .expect("the zoo")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let device = Device::find("h200").expect("a profile");
    let mut count = 0;
    let mut found = BTreeMap::new();
    for (n, path) in paths.iter().enumerate() {
        let text = ModelSource::from_path(path).expect("a model");
        let mut overrides = Overrides::default();
        if text.text.contains("\nL = ") {
            overrides.axes.insert("L".to_owned(), 1);
        }
        let storage = [Storage::Bf16, Storage::F32][n % 2];
        for mode in [Mode::Auto, Mode::Unfused, Mode::Random(n as u64)] {
            let manifest = kernels(&text, &overrides, storage, mode, &device);
            count += manifest.kernels.len();
            let name = path.file_stem().expect("a name").to_string_lossy();
            for (problem, at) in wrong(&manifest) {
                found.insert(format!("{name} {mode}: {problem}"), at);
            }
        }
    }
    println!("{count} kernels");
    let found: Vec<String> = found
        .iter()
        .map(|(what, at)| format!("{what} ({at})"))
        .collect();
    assert!(
        found.is_empty(),
        "{} problems in {count} kernels:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Nor where rows come from the last one on, or later ones are read.
#[test]
fn no_index_overflows_in_differentiated_recurrences() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let device = Device::find("h200").expect("a profile");
    let mut found = BTreeMap::new();
    for name in ["rotating", "delta-product", "mlstm"] {
        let path = root
            .join("tests/recurrences")
            .join(name)
            .with_extension("toml");
        let text = ModelSource::from_path(&path).expect("a model");
        let text = ModelSource::from_text(name, text.text.replace("(q, ", "(q + shift(q), "));
        let graph = compile(&text, &Overrides::default()).expect("a model");
        let gradient = differentiate(&graph, &graph.outputs, &graph.inputs).expect("a derivative");
        for mode in [Mode::Auto, Mode::Unfused, Mode::Random(5)] {
            let manifest = of_graph(&gradient.graph, Storage::Bf16, mode, &device);
            let texts = manifest.kernels.iter().map(|kernel| &kernel.source);
            let texts: Vec<&String> = texts.collect();
            assert!(
                texts.iter().any(|text| text.contains("T - 1")),
                "{name} {mode}"
            );
            for (problem, at) in wrong(&manifest) {
                found.insert(format!("{name} {mode}: {problem}"), at);
            }
        }
    }
    assert_eq!(found, BTreeMap::new());
}

/// Sums over all rows of that many, whole and in parts.
#[test]
fn no_index_of_a_sum_over_all_rows_overflows() {
    let text = "name = \"sums\"\n[axes]\nV = 50\nH = 3\nM = 40\nN = 72\nK = 2\n[input]\nx = \"H, M\"\nids = \"token\"\n\
                [param]\nemb = { shape = \"V, H * M\" }\nw = { shape = \"N, M\" }\nu = { shape = \"H, N, M\" }\n\
                taps = { shape = \"H * M, K\" }\nb = { shape = \"N\" }\n\
                [model]\nflow = \"\"\"\nreturn (conv(x, taps) @ w + b) * (delay(x, 2) @ u), gather(emb, ids)\n\"\"\"\n";
    let source = ModelSource::from_text("sums", text.to_string());
    let graph = compile(&source, &Overrides::default()).expect("a model");
    let gradient = differentiate(&graph, &graph.outputs, &[]).expect("differentiable");
    let device = Device::find("h200").expect("a profile");
    for storage in [Storage::F32, Storage::Bf16] {
        for mode in [Mode::Unfused, Mode::Auto, Mode::Random(3)] {
            let manifest = of_graph(&gradient.graph, storage, mode, &device);
            assert_eq!(wrong(&manifest), BTreeMap::new(), "{storage} {mode}");
        }
    }
}

/// A row is counted in 32 bits, so that it has a limit of its own.
#[test]
fn rows_are_accepted_up_to_their_limit() {
    let device = Device::find("h200").expect("a profile");
    for (width, fits) in [(1usize << 30, true), ((1 << 30) + 1, false)] {
        let text = format!(
            "name = \"wide\"\n[axes]\nC = {width}\n[input]\nx = \"C\"\n[model]\nflow = \"return silu(x) + 1\"\n"
        );
        let source = ModelSource::from_text("wide", text);
        let graph = compile(&source, &Overrides::default()).expect("a model");
        let options = Options {
            shape: Shape { batch: 1, time: 2 },
            storage: Storage::F32,
            mode: Mode::Unfused,
            device: &device,
            launch: Submit::Graph,
            pins: vec![],
        };
        let planned = match plan(&graph, &options) {
            Ok(planned) => planned,
            Err(error) => {
                assert!(!fits, "{error}");
                let text = error.to_string();
                assert!(text.contains("1073741825 elements"), "{text}");
                continue;
            }
        };
        assert!(fits, "{width} elements are accepted");
        let regime = Planned {
            name: "prefill",
            min_time: 1,
            max_time: None,
            graph: &planned.graph,
            plan: &planned.plan,
        };
        let manifest = generate("wide", Storage::F32, &[regime]).expect("kernels");
        assert_eq!(wrong(&manifest), BTreeMap::new());
    }
}

/// The proof finds what it is there to find.
#[test]
fn planted_overflows_are_found() {
    let head = "extern \"C\" __global__ void fusec_k(\n    const float* __restrict__ g_x,  // x\n    \
                float* __restrict__ g_y,\n    const i64 B,\n    const i64 T) {\n    \
                const int tid = threadIdx.x;\n    i64 block = blockIdx.x;\n";
    let given = ranges::Given {
        batch: 1,
        time: 1 << 30,
        blocks: 1 << 30,
        threads: 256,
    };
    let problems = |body: &str| ranges::problems(&format!("{head}{body}}}\n"), given);
    let right = "const i64 row = block;\nconst int elem = tid * 4;\n\
                 if (elem < 128) g_y[row * 128 + elem] = *(g_x + row * 128 + elem);\n\
                 for (i64 t = 0; t < T; ++t) g_y[t * 128 + tid] = 0.0f;\n";
    assert_eq!(problems(right), Vec::<String>::new());
    for (what, body) in [
        (
            "a row of 32 bits",
            "const int row = blockIdx.x;\ng_y[row * 128 + tid] = 0.0f;\n",
        ),
        (
            "a row that is narrowed",
            "const int row = (int)(block * 4);\ng_y[row] = 0.0f;\n",
        ),
        (
            "narrowing without a cast",
            "const int row = block * 4;\ng_y[row] = 0.0f;\n",
        ),
        (
            "a product before it is widened",
            "const int t = int(block);\ng_y[i64(t * 128) + tid] = 0.0f;\n",
        ),
        (
            "an unsigned number that wraps",
            "const u32 at = blockIdx.x * 8u;\ng_y[at] = 0.0f;\n",
        ),
        (
            "a loop of 32 bits",
            "for (int t = 0; t < T; ++t) g_y[t * 128 + tid] = 0.0f;\n",
        ),
        (
            "an index that nothing is known of",
            "int at = 0;\nwhile (at < T) { at += tid; g_y[i64(at)] = 0.0f; }\n",
        ),
        (
            "64 bits that do not suffice",
            "g_y[block * 4000000000 * 128] = 0.0f;\n",
        ),
    ] {
        assert!(!problems(body).is_empty(), "{what} is not found");
    }
}
