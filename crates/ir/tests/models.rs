//! Every model of the zoo compiles; one layer of each is shown as a snapshot.

use fusec_ir::language::{ModelSource, Overrides, compile_with_warnings};
use std::path::PathBuf;

fn model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(format!("{name}.toml"))
}

fn layer(name: &str, preset: Option<&str>, layer: u32) -> String {
    let source = ModelSource::from_path(&model(name)).expect("the model is in the repository");
    let options = Overrides {
        preset: preset.map(str::to_owned),
        ..Overrides::default()
    };
    match compile_with_warnings(&source, &options) {
        Ok(compiled) => {
            assert_eq!(compiled.warnings, [], "{name} has warnings");
            fusec_ir::print::layer(&compiled.graph, layer)
        }
        Err(error) => panic!("{name}: {:?}", miette::Report::new(error)),
    }
}

#[test]
fn layers_of_the_zoo() {
    for (name, preset, l) in [
        ("rwkv6", None, 1),
        ("rwkv7", None, 1),
        ("mamba1", None, 1),
        ("mamba2", None, 1),
        ("gla", None, 1),
        ("retnet", None, 1),
        ("deltanet", None, 1),
        ("gated-deltanet", None, 1),
        ("kda", None, 1),
        ("hgrn", None, 1),
        ("hgrn2", None, 1),
        ("deltaproduct", None, 1),
        ("comba", None, 1),
        ("linear-attention", None, 1),
        ("xlstm", None, 1),
        ("griffin", None, 1),
        ("lfm2", None, 0),
        ("hybrid", None, 1),
        ("hybrid-cp", None, 1),
        ("hybrid-gf", None, 1),
        ("hybrid-rf", None, 1),
        ("hybrid-ws", None, 1),
    ] {
        insta::assert_snapshot!(format!("layer_{name}"), layer(name, preset, l));
    }
}

/// Number of parameters, a tied head counted once.
fn parameters(graph: &fusec_ir::Graph) -> f64 {
    let counts = graph
        .params
        .iter()
        .map(|p| graph.row_elements(p.value) as f64);
    counts.sum()
}

/// The number that a preset is named by: `130m`, `1.5b`.
fn named(preset: &str) -> f64 {
    let (digits, unit) = preset.split_at(preset.len() - 1);
    let unit = match unit {
        "m" => 1e6,
        "b" => 1e9,
        _ => panic!("`{preset}` is no size"),
    };
    unit * digits.parse::<f64>().expect("a number")
}

/// Every file of the zoo compiles, with every preset it names.
#[test]
fn presets_of_the_zoo() {
    let directory = model("rwkv6").with_file_name("");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the zoo") {
        let path = entry.expect("a directory entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let open = || ModelSource::from_path(&path).expect("a model is readable");
        let names =
            fusec_ir::language::presets(&open()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for preset in names.into_iter().map(Some).chain([None]) {
            let options = Overrides {
                preset: preset.clone(),
                ..Overrides::default()
            };
            let compiled = compile_with_warnings(&open(), &options);
            let compiled = compiled.unwrap_or_else(|e| panic!("{path:?} {preset:?}: {e}"));
            assert_eq!(compiled.warnings, [], "{path:?}");
            if let Some(preset) = &preset {
                // As rounded as people name models; the embedding is a large part of small ones.
                let times = parameters(&compiled.graph) / named(preset);
                let close = (0.85..1.25).contains(&times) || preset == "0.1b" && times < 2.0;
                assert!(
                    close,
                    "{path:?}: `{preset}` has {times:.2} times that many parameters"
                );
            }
            count += 1;
        }
    }
    assert!(count >= 60, "only {count} models were found");
}
