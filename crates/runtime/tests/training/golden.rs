//! Gradients of golden cases are those of PyTorch's autograd (`tests/golden/make_gradients.py`).

use std::path::{Path, PathBuf};

use fusec_ir::gradient::Objective;
use fusec_ir::language::Overrides;
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::model::Model;
use fusec_runtime::train::adamw::Rates;
use fusec_runtime::train::trainer::Trainer;
use fusec_runtime::weights::Weights;

/// Largest accepted relative error of the L2 norm of a derivative, and of the loss.
const NORM: f64 = 2e-4;
/// Largest accepted relative L2 error of a derivative: what storing it in bf16 costs, and a little.
const STORED: f64 = 3e-3;

/// The cases with recorded gradients.
const CASES: &[&str] = &[
    "mamba2-hf",
    "mamba1-hf",
    "gla-fla",
    "rwkv7-fla",
    "gated-deltanet-fla",
];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

fn l2(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Whether an error is accepted; one that is no number is not.
fn within(error: f64, bound: f64) -> bool {
    error.abs() <= bound
}

/// Errors of one case, in lines.
fn wrong(name: &str) -> Vec<String> {
    let folder = case(name);
    let model = Model::open(&folder, &Overrides::default()).expect("a golden case");
    let params = model.weights(None).expect("its weights").into_params();
    let objective = Objective::new(&model.graph).expect("a language model");
    let trainer = Trainer::new(&model.graph, &objective, params, Rates::default());
    let mut trainer = trainer.expect("a language model");
    let recorded = Checkpoint::open(folder.join("golden.safetensors")).expect("recorded");
    let ids = recorded.read_i64("input_ids").expect("ids");
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    let (loss, gradients) = trainer.gradients(&ids, 2).expect("a gradient");

    let about = std::fs::read_to_string(folder.join("gradients.json")).expect("gradients.json");
    let about: serde_json::Value = serde_json::from_str(&about).expect("JSON");
    let want_loss = about["loss"].as_f64().expect("a loss");
    let mut wrong = Vec::new();
    if !within(loss - want_loss, 1e-5 * want_loss) {
        wrong.push(format!("{name}: loss {loss}, want {want_loss}"));
    }
    // A derivative lies as its tensor does, so it is read as the weights are.
    let file = Checkpoint::open(folder.join("gradients.safetensors")).expect("gradients");
    let want =
        Weights::from_checkpoint(&model.graph, &file).expect("a derivative by each parameter");
    for ((param, got), want) in model.graph.params.iter().zip(&gradients).zip(want.params()) {
        let pairs = got.iter().zip(want);
        let error = l2(pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let norm = l2(want.iter().map(|x| f64::from(*x)));
        if !within(error, STORED * norm) {
            wrong.push(format!(
                "{name}: {}: error {:.1e} of {norm:.2e}",
                param.name,
                error / norm
            ));
        }
        // The norm was recorded exactly where a tensor is one parameter and no part of one.
        let tensors = param.source.iter().flat_map(|s| &s.tensors);
        let exact = tensors
            .filter_map(|t| about["norms"][t.as_str()].as_f64())
            .next();
        let mine = l2(got.iter().map(|x| f64::from(*x)));
        if let Some(exact) = exact.filter(|exact| (exact - norm).abs() <= STORED * exact)
            && !within(mine - exact, NORM * exact)
        {
            wrong.push(format!(
                "{name}: {}: norm {mine:.6e}, want {exact:.6e}",
                param.name
            ));
        }
    }
    wrong
}

#[test]
fn gradients_of_golden_cases_are_those_of_autograd() {
    let failed: Vec<String> = CASES.iter().flat_map(|name| wrong(name)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
