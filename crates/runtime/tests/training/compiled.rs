//! Gradients by kernels equal those by the interpreter: the whole objective as one graph, for every model of
//! the zoo, under plans of every kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, plan};
use fusec_ir::gradient::{Objective, WholeObjective};
use fusec_ir::language::Overrides;
use fusec_ir::{Graph, OpKind};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor};
use fusec_runtime::model::Model;
use fusec_runtime::train::adamw::Rates;
use fusec_runtime::train::compiled::Compiled;
use fusec_runtime::train::trainer::Trainer;
use fusec_runtime::weights::Weights;

use crate::common::root;

/// The kernels of an objective in the emulator, with weights.
fn emulated(
    whole: &WholeObjective,
    params: &[Vec<f32>],
    (storage, mode): (Storage, Mode),
    shape: Shape,
) -> Result<Executor<EmulatedDevice>, String> {
    let graph = &whole.gradient.graph;
    let device = Device::find("h200").expect("a profile");
    let options = Options {
        shape,
        storage,
        mode,
        device: &device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).map_err(|e| format!("planning: {e}"))?;
    let regime = Planned {
        name: "training",
        min_time: 1,
        max_time: None,
        graph: &planned.graph,
        plan: &planned.plan,
    };
    let manifest = generate(&graph.name, storage, &[regime]);
    let manifest = manifest.map_err(|e| format!("generating: {e}"))?;
    let cache = root().join("target/emulator-cache");
    let emulator = Emulator::new(&cache, EmulatorOptions::default()).expect("g++");
    let device = EmulatedDevice::new(&emulator, &manifest, 5).map_err(|e| format!("g++: {e}"))?;
    let weights = Compiled::weights(whole, params).expect("its weights");
    Executor::new(device, manifest, &weights, shape).map_err(|e| format!("loading: {e}"))
}

/// What differs from the interpreter, by more than `bound` of the norm of a parameter's gradient, or of what
/// is lost among the others: a gradient so small beside the largest is rounded as that is.
fn wrong(
    model: &Graph,
    (storage, mode): (Storage, Mode),
    shape: Shape,
    bound: f64,
) -> Result<Vec<String>, String> {
    let params = Weights::initial(model, 3).expect("weights").into_params();
    let objective = Objective::new(model).expect("a language model");
    let trainer = Trainer::new(model, &objective, params.clone(), Rates::default());
    let mut trainer = trainer.expect("a language model");
    let known = model.row_elements(model.outputs[0]) as i32;
    let count = shape.batch * (shape.time + 1);
    let tokens: Vec<i32> = (0..count as i32)
        .map(|i| (i * i * 7 + 3 * i) % known)
        .collect();
    let (want_loss, want) = trainer.gradients(&tokens, shape.batch).expect("a gradient");

    let whole = WholeObjective::new(model).expect("a language model");
    let executor = emulated(&whole, &params, (storage, mode), shape)?;
    let evaluator = Compiled::new(&whole, Box::new(executor));
    let trainer = Trainer::on(model, Box::new(evaluator), params, Rates::default());
    let mut trainer = trainer.expect("a language model");
    // Nothing of a run is left to the next.
    let first = trainer.gradients(&tokens, shape.batch);
    let (loss, got) = first.map_err(|e| format!("running: {e}"))?;
    let second = trainer.gradients(&tokens, shape.batch);
    let again = second.map_err(|e| format!("running: {e}"))?;
    let mut wrong = Vec::new();
    if (loss, &got) != (again.0, &again.1) {
        wrong.push("a second run gives other bits".into());
    }
    if (loss - want_loss).abs().partial_cmp(&(bound * want_loss)) != Some(std::cmp::Ordering::Less)
    {
        wrong.push(format!("loss {loss}, want {want_loss}"));
    }
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let largest = want.iter().map(|x| norm(x)).fold(0.0, f64::max);
    let lost = match storage {
        Storage::F32 => 1e-4 * largest,
        Storage::Bf16 | Storage::F16 => 2e-3 * largest,
    };
    for ((param, got), want) in model.params.iter().zip(&got).zip(&want) {
        let apart: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
        let error = norm(&apart) / norm(want).max(lost);
        if error.partial_cmp(&bound) != Some(std::cmp::Ordering::Less) {
            wrong.push(format!(
                "`{}`: {error:.2e} of {:.2e}",
                param.name,
                norm(want)
            ));
        }
    }
    Ok(wrong)
}

fn zoo() -> Vec<(String, Graph)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let entries = std::fs::read_dir(dir).expect("models");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let mut models = Vec::new();
    for path in paths {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        // A recurrence by itself, from numbers to numbers, has no loss.
        if path.extension().is_none_or(|ending| ending != "toml") || name == "gated-scan" {
            continue;
        }
        let overrides = Overrides {
            axes: BTreeMap::from([("L".to_owned(), 2)]),
            ..Overrides::default()
        };
        models.push((name, Model::open(&path, &overrides).expect("a model").graph));
    }
    models
}

fn attends(model: &Graph) -> bool {
    let kinds = model.ops.iter().map(|op| &op.kind);
    kinds
        .into_iter()
        .any(|kind| matches!(kind, OpKind::Attend { .. }))
}

/// Some models, each under a plan of its own kind.
#[test]
fn gradients_by_kernels_are_those_of_the_interpreter() {
    let cases = [
        ("mamba2", Storage::F32, Mode::Auto, (2, 21)),
        ("rwkv7", Storage::F32, Mode::Unfused, (1, 9)),
        ("gated-deltanet", Storage::F32, Mode::Random(11), (3, 2)),
        ("hybrid-ws", Storage::F32, Mode::Auto, (1, 5)),
        ("gla", Storage::Bf16, Mode::Auto, (2, 37)),
    ];
    let models: BTreeMap<String, Graph> = zoo().into_iter().collect();
    let mut failed = Vec::new();
    for (name, storage, mode, (batch, time)) in cases {
        let bound = if storage == Storage::F32 { 1e-4 } else { 6e-2 };
        let shape = Shape { batch, time };
        match wrong(&models[name], (storage, mode), shape, bound) {
            Err(why) => failed.push(format!("{name}: {why}")),
            Ok(wrong) => failed.extend(wrong.iter().map(|what| format!("{name}: {what}"))),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// All of them, under plans of every kind.
#[test]
#[ignore = "compiles some thousand kernels for the emulator, which takes half an hour"]
fn gradients_of_the_whole_zoo() {
    let mut failed = Vec::new();
    for (storage, mode, (batch, time), bound) in [
        (Storage::F32, Mode::Auto, (2, 21), 1e-4),
        (Storage::F32, Mode::Unfused, (1, 9), 1e-4),
        (Storage::F32, Mode::Random(11), (3, 2), 1e-4),
        (Storage::Bf16, Mode::Auto, (2, 37), 6e-2),
    ] {
        for (name, model) in zoo() {
            let shape = Shape { batch, time };
            let found = wrong(&model, (storage, mode), shape, bound);
            println!("{name} {storage} {mode}: {found:?}");
            match found {
                Err(why) if attends(&model) && why.contains("transpose of attention") => {}
                Err(why) => failed.push(format!("{name} {storage} {mode}: {why}")),
                Ok(wrong) => failed.extend(
                    wrong
                        .iter()
                        .map(|what| format!("{name} {storage} {mode}: {what}")),
                ),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn attention_is_refused_by_name() {
    let models = zoo().into_iter();
    let attending: Vec<(String, Graph)> = models.filter(|(_, model)| attends(model)).collect();
    assert!(!attending.is_empty());
    for (name, model) in attending {
        let shape = Shape { batch: 1, time: 4 };
        let refused = wrong(&model, (Storage::F32, Mode::Auto), shape, 1e-4);
        let why = refused.expect_err("there is no kernel");
        assert!(why.contains("transpose of attention"), "{name}: {why}");
    }
}
