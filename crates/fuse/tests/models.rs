//! The models of the zoo are planned, fused, and quickly.

mod common;

use common::{h200, options};
use fusec_fuse::{Mode, Planned, launches_per_layer, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use std::path::{Path, PathBuf};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn model(name: &str, preset: Option<&str>) -> Graph {
    let path = models().join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model of the repository");
    let overrides = Overrides {
        preset: preset.map(String::from),
        ..Overrides::default()
    };
    match compile(&source, &overrides) {
        Ok(graph) => graph,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn planned(graph: &Graph, batch: usize, time: usize, mode: Mode) -> Planned {
    let device = h200();
    match plan(graph, &options(&device, batch, time, mode)) {
        Ok(planned) => planned,
        Err(error) => panic!("{}: {error}", graph.name),
    }
}

/// Every `.toml` of models/, by name.
fn zoo() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(models())
        .expect("models/")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let is_model = path.extension().is_some_and(|e| e == "toml");
            let stem = path.file_stem()?.to_str()?.to_string();
            is_model.then_some(stem)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_model_is_planned_in_every_mode_and_gets_fewer_launches() {
    for name in zoo() {
        let graph = model(&name, None);
        for (batch, time) in [(1, 1), (1, 2048), (8, 2048)] {
            let unfused = planned(&graph, batch, time, Mode::Unfused);
            let start = std::time::Instant::now();
            let auto = planned(&graph, batch, time, Mode::Auto);
            println!("{name} B={batch} T={time}: {:?}\n{auto}", start.elapsed());
            let greedy = planned(&graph, batch, time, Mode::Greedy);
            println!("greedy {:.1} us", greedy.plan.total_us);
            // Form 0 of every model is the model as written; seeds pick forms in turn.
            let mut random = (0..3).map(|seed| planned(&graph, batch, time, Mode::Random(seed)));
            assert!(
                launches_per_layer(&auto.plan) < launches_per_layer(&unfused.plan),
                "{name}"
            );
            assert!(auto.plan.total_us <= greedy.plan.total_us + 0.1, "{name}");
            assert!(auto.plan.total_us < unfused.plan.total_us, "{name}");
            assert!(
                random.any(|p| p.plan.kernels.len() < unfused.plan.kernels.len()),
                "{name}"
            );
        }
    }
}
