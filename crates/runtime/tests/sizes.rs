//! Models at sizes nobody chose: every axis at 1, at odd sizes, at sizes around a tile. All plans
//! are made and generated, or refused with a message; a few run in the emulator.

use std::collections::BTreeMap;

use common::{Case, root};
use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

mod common;

/// Models with the axes that can be set.
const MODELS: [(&str, &[&str]); 14] = [
    ("deltanet", &["V", "L", "C", "H", "Dk", "Dv", "I", "K"]),
    (
        "gated-deltanet",
        &["V", "L", "C", "H", "Gv", "Dk", "Dv", "I", "K"],
    ),
    ("gated-scan", &["C", "D"]),
    ("gla", &["V", "L", "C", "H", "Dk", "Dv", "I", "R"]),
    ("hgrn", &["V", "L", "C", "D", "I"]),
    ("hgrn2", &["V", "L", "C", "H", "Dk", "Dv", "I"]),
    ("hybrid", &["V", "L", "H", "N", "R", "Rd", "P", "Ns", "K"]),
    (
        "hybrid-cp",
        &["V", "L", "H", "N", "R", "Rd", "P", "Ns", "K"],
    ),
    ("kda", &["V", "L", "C", "H", "Gv", "Dk", "Dv", "I", "K"]),
    ("mamba1", &["V", "L", "C", "Di", "Ns", "R", "K"]),
    ("mamba2", &["V", "L", "C", "G", "Hg", "P", "Ns", "K"]),
    ("retnet", &["V", "L", "C", "H", "Dr", "Dv", "I"]),
    ("rwkv6", &["V", "L", "H", "N", "F", "R", "Rd"]),
    ("rwkv7", &["V", "L", "H", "N", "F", "Rw", "Ra", "Rv", "Rg"]),
];

/// A size for every axis, by its number.
type Sizes = (&'static str, fn(usize) -> usize);

const SIZES: [Sizes; 4] = [
    ("ones", |_| 1),
    ("odd", |i| [3, 1, 5, 7, 2, 9, 11, 3, 5][i % 9]),
    ("around a tile", |i| [17, 2, 33, 1, 31, 15, 65, 2, 3][i % 9]),
    ("large heads", |i| [40, 1, 24, 1, 160, 96, 48, 2, 4][i % 9]),
];

fn model(name: &str, axes: &[&str], size: fn(usize) -> usize) -> Result<Graph, String> {
    let path = root().join("models").join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    let axes: BTreeMap<String, usize> = axes
        .iter()
        .enumerate()
        // More taps than 9 are more than a row kernel holds.
        .map(|(i, axis)| match *axis {
            "K" => ("K".to_string(), 1 + (size(i) - 1) % 9),
            axis => (axis.to_string(), size(i)),
        })
        .collect();
    let overrides = Overrides {
        axes,
        ..Overrides::default()
    };
    compile(&source, &overrides).map_err(|e| e.to_string())
}

#[test]
fn plans_of_any_size_are_made_or_refused() {
    let device = Device::find("h200").expect("a profile");
    let mut refused = vec![];
    for (name, axes) in MODELS {
        for (sizes, size) in SIZES {
            let graph = match model(name, axes, size) {
                Ok(graph) => graph,
                Err(why) => {
                    refused.push(format!("{name} {sizes}: {why}"));
                    continue;
                }
            };
            for (mode, storage, time) in [
                (Mode::Auto, Storage::F32, 37),
                (Mode::Auto, Storage::F16, 1),
                (Mode::Unfused, Storage::Bf16, 300),
            ] {
                let options = Options {
                    shape: Shape { batch: 3, time },
                    storage,
                    mode,
                    device: &device,
                    launch: Submit::Graph,
                    pins: vec![],
                };
                let made = match plan(&graph, &options) {
                    Ok(made) => made,
                    Err(why) => panic!("{name} {sizes} {mode} T={time}: {why}"),
                };
                let regimes = [Planned {
                    name: "all",
                    min_time: 1,
                    max_time: options.shape.longest_run(),
                    graph: &made.graph,
                    plan: &made.plan,
                }];
                if let Err(why) = generate(name, storage, &regimes) {
                    panic!("{name} {sizes} {mode} T={time}: {why}");
                }
            }
        }
    }
    // Only what cannot be: 3.5 C rounded down to a multiple of 32 is 0 for C = 1, and 2 C channels
    // are no whole number of heads of P.
    assert!(refused.len() <= 6, "{}", refused.join("\n"));
    for line in refused {
        assert!(line.contains("`F`") || line.contains("`Hg`"), "{line}");
    }
}

#[test]
fn kernels_of_odd_sizes_equal_the_interpreter() {
    for (name, axes) in MODELS {
        if !["gla", "mamba1", "rwkv7", "hgrn"].contains(&name) {
            continue;
        }
        let graph = model(name, axes, SIZES[1].1).unwrap_or_else(|e| panic!("{name}: {e}"));
        for mode in [Mode::Auto, Mode::Unfused] {
            common::check(&Case {
                name: &format!("odd-{name}"),
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch: 3,
                times: &[37, 1, 2],
                bound: 2e-4,
            })
            .unwrap_or_else(|why| panic!("{why}"));
        }
    }
}
