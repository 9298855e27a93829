//! Whole trainings: the losses of PyTorch, the same bits after an interruption, and an end with
//! its reason where numbers leave what is finite.

use std::path::Path;

use fusec_ir::Graph;
use fusec_ir::gradient::Objective;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::model::Model;
use fusec_runtime::train::adamw::{AdamW, Rates};
use fusec_runtime::train::interpreted::Interpreted;
use fusec_runtime::train::saved::{self, Settings};
use fusec_runtime::train::schedule::{Schedule, Shape};
use fusec_runtime::train::tokens::Tokens;
use fusec_runtime::train::trainer::{TrainError, Trainer};
use fusec_runtime::weights::Weights;

/// `tests/golden/make_training.py` says what was recorded.
#[test]
fn losses_of_two_hundred_steps_are_those_of_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mamba2-hf");
    let model = Model::open(&folder, &Overrides::default()).expect("a golden case");
    let params = model.weights(None).expect("its weights").into_params();
    let objective = Objective::new(&model.graph).expect("a language model");
    let mut trainer =
        Trainer::new(&model.graph, &objective, params, Rates::default()).expect("a language model");
    let recorded = Checkpoint::open(folder.join("training.safetensors")).expect("recorded");
    let losses = recorded.read_f32("losses").expect("losses");
    let tokens = recorded.read_i64("tokens").expect("tokens");
    let tokens: Vec<i32> = tokens.into_iter().map(|id| id as i32).collect();
    let each = tokens.len() / losses.len();
    let schedule = Schedule {
        shape: Shape::Cosine,
        rate: 1e-3,
        least: 0.0,
        warmup: 10,
        steps: losses.len() as u64,
    };
    let mut worst = 0f64;
    for (k, (batch, want)) in tokens.chunks_exact(each).zip(&losses).enumerate() {
        let step = k as u64 + 1;
        let stepped = trainer
            .step(step, [batch.to_vec()], 2, schedule.rate(step), Some(1.0))
            .expect("a step");
        let error = (stepped.loss - f64::from(*want)).abs();
        assert!(
            error <= 1e-3,
            "step {step}: loss {}, want {want}",
            stepped.loss
        );
        worst = worst.max(error);
    }
    println!("{} steps, losses agree to {worst:.1e}", losses.len());
    let last = losses[losses.len() - 1];
    assert!(
        last < 0.9 * losses[0],
        "the recorded loss falls: {} to {last}",
        losses[0]
    );
}

fn of_classes(classes: Option<usize>) -> Graph {
    let text = r#"
name = "small"
[axes]
V = 17
L = 2
C = 8
[param]
emb  = { shape = "V, C", init = "normal(0.5)" }
[recurrence.ema]
inputs  = "a[c], x[c]"
state   = "h[c]"
outputs = "h[c]"
step    = "h = a * h + (1 - a) * x"
[block.layer.param]
w = { shape = "C, C" }
d = { shape = "C", init = "uniform(-1, 1)" }
[block.layer]
args = ["x"]
flow = """
  y = ema(sigmoid(d), rms_norm(x, C, eps = 1e-5) @ w)
  return x + silu(y) + shift(y)
"""
[model]
flow = """
  x = gather(emb, ids)
  repeat l in L { x = layer(x) }
  return layer_norm(x, C, eps = 1e-5) @ emb
"""
"#;
    let source = ModelSource::from_text("small", text);
    let axes = classes.map(|classes| ("V".to_owned(), classes));
    let overrides = Overrides {
        axes: axes.into_iter().collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).expect("a model")
}

fn small() -> Graph {
    of_classes(None)
}

fn settings() -> Settings {
    Settings {
        model: "small".into(),
        steps: 12,
        batch: 3,
        length: 9,
        accumulate: 2,
        seed: 4,
        rate: 0.05,
        least_rate: 0.0,
        schedule: "constant".into(),
        warmup: 0,
        weight_decay: 0.1,
        clip: None,
        text: text().digest(),
        graph: saved::digest(&small()),
    }
}

fn text() -> Tokens {
    Tokens::new((0..200).map(|i| (i * i + i / 3) % 17).collect())
}

/// Makes steps `from + 1` to `to`; their losses.
fn advance(trainer: &mut Trainer<'_>, from: u64, to: u64) -> Vec<f64> {
    let Settings {
        batch,
        length,
        accumulate,
        seed,
        rate,
        ..
    } = settings();
    let mut losses = Vec::new();
    for step in from + 1..=to {
        let draws = (step - 1) * accumulate..step * accumulate;
        let batches: Vec<Vec<i32>> = draws
            .map(|k| text().drawn(batch, length, seed, k))
            .collect();
        let stepped = trainer
            .step(step, batches, batch, rate, None)
            .expect("a step");
        losses.push(stepped.loss);
    }
    losses
}

#[test]
fn a_training_that_was_interrupted_goes_on_with_the_same_bits() {
    let graph = small();
    let objective = Objective::new(&graph).expect("a language model");
    let start = || Weights::initial(&graph, 1).expect("weights").into_params();
    let new = |params| Trainer::new(&graph, &objective, params, Rates::default()).expect("one");
    let mut whole = new(start());
    let losses = advance(&mut whole, 0, 12);
    assert!(losses[11] < losses[0], "{losses:?}");

    let dir = tempfile::tempdir().expect("a directory");
    let mut first = new(start());
    let mut parts = advance(&mut first, 0, 7);
    for step in [5, 7] {
        let (params, means) = (&first.params, &first.optimizer);
        saved::write(dir.path(), &graph, step, &settings(), params, means).expect("written");
    }
    let back = saved::latest(dir.path(), &graph).expect("read back");
    assert_eq!((back.step, &back.settings), (7, &settings()));
    let mut second = new(back.params);
    let [means, squares] = back.means;
    second.optimizer = AdamW {
        rates: Rates::default(),
        steps: back.step,
        first: means,
        second: squares,
    };
    parts.extend(advance(&mut second, 7, 12));
    assert_eq!(parts, losses);
    assert_eq!(second.params, whole.params);
    assert_eq!(second.optimizer, whole.optimizer);
}

#[test]
fn what_is_half_written_is_no_checkpoint() {
    let graph = small();
    let dir = tempfile::tempdir().expect("a directory");
    let nothing = saved::latest(dir.path(), &graph).expect_err("nothing is there");
    assert!(
        nothing.to_string().contains("holds no checkpoint"),
        "{nothing}"
    );
    let params = Weights::initial(&graph, 1).expect("weights").into_params();
    let means = AdamW::new(Rates::default(), &params);
    saved::write(dir.path(), &graph, 3, &settings(), &params, &means).expect("written");
    // What a killed process leaves has another name, and goes with the next write.
    std::fs::create_dir(dir.path().join("step-later")).expect("made");
    assert_eq!(saved::latest(dir.path(), &graph).expect("read").step, 3);
    let text = saved::directory(dir.path(), 3).join("training.json");
    let about = std::fs::read_to_string(&text).expect("text");
    let padded = |length: usize| {
        let blanks = " ".repeat(length - about.len());
        std::fs::write(&text, about.clone() + &blanks).expect("written");
        saved::latest(dir.path(), &graph)
    };
    assert_eq!(padded(1 << 20).expect("read").step, 3);
    let error = padded((1 << 20) + 1).expect_err("too long").to_string();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
    std::fs::write(&text, "{").expect("damaged");
    let error = saved::latest(dir.path(), &graph).expect_err("damaged");
    assert!(error.to_string().contains("training.json"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_stops_with_the_first_value_that_is_not() {
    let graph = small();
    let objective = Objective::new(&graph).expect("a language model");
    let mut params = Weights::initial(&graph, 1).expect("weights").into_params();
    let w = graph
        .params
        .iter()
        .position(|p| p.name == "layers.1.layer.w")
        .expect("w");
    params[w][3] = f32::NAN;
    let mut trainer = Trainer::new(&graph, &objective, params, Rates::default()).expect("one");
    let batch = text().drawn(2, 5, 0, 0);
    let before = trainer.optimizer.clone();
    let error = trainer
        .step(6, [batch], 2, 0.1, None)
        .expect_err("not finite");
    let said = error.to_string();
    assert!(matches!(error, TrainError::Loss { step: 6, .. }), "{said}");
    assert!(said.starts_with("step 6: the loss is NaN"), "{said}");
    assert!(said.contains("layer 1"), "{said}");
    assert_eq!(trainer.optimizer, before);
}

#[test]
fn the_cut_of_a_model_is_where_it_is_narrow() {
    let graph = small();
    let objective = Objective::new(&graph).expect("a language model");
    let trunk = &objective.trunk;
    let names: Vec<&str> = trunk
        .seeds
        .iter()
        .map(|(id, _)| trunk.graph.value(*id).name.as_str())
        .collect();
    assert_eq!(objective.vocabulary, 17);
    assert_eq!(names.len(), 1, "{names:?}");
    let width = trunk.graph.row_elements(trunk.seeds[0].0);
    assert_eq!(
        width, 8,
        "the logits are 17 numbers, what the head reads is {width}: {names:?}"
    );
}

/// The largest difference of two gradients, of the largest number of them.
fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let most = a.iter().flatten().fold(0f32, |most, x| most.max(x.abs()));
    pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / most
}

#[test]
fn a_loss_in_chunks_is_the_loss() {
    let graph = small();
    let objective = Objective::new(&graph).expect("a language model");
    let params = Weights::initial(&graph, 1).expect("weights").into_params();
    let batch = text().drawn(3, 7, 1, 0);
    let of = |most: Option<usize>| {
        let mut evaluator = Interpreted::new(&graph, &objective, &params).expect("one");
        evaluator.most_logits = most.unwrap_or(evaluator.most_logits);
        let trainer = Trainer::on(
            &graph,
            Box::new(evaluator),
            params.clone(),
            Rates::default(),
        );
        let mut trainer = trainer.expect("a language model");
        trainer.gradients(&batch, 3).expect("a gradient")
    };
    let (loss, gradients) = of(None);
    // Of 21 rows of 17 logits: 1, 4 and 20 at a time, and fewer logits than a row has.
    for most in [17, 4 * 17, 20 * 17 + 3, 1] {
        let (again, others) = of(Some(most));
        assert!(
            (again - loss).abs() < 1e-6 * loss,
            "{most}: {again}, {loss}"
        );
        let error = apart(&gradients, &others);
        assert!(error < 1e-6, "{most}: {error}");
    }
}

#[test]
fn what_has_no_label_counts_for_nothing() {
    let graph = small();
    let objective = Objective::new(&graph).expect("a language model");
    let params = Weights::initial(&graph, 1).expect("weights").into_params();
    let mut trainer = Trainer::new(&graph, &objective, params, Rates::default()).expect("one");
    let (loss, gradients) = trainer.gradients(&[3, 1, 4, 1, 5], 1).expect("a gradient");
    let longer = trainer.gradients(&[3, 1, 4, 1, 5, -100], 1);
    let (again, others) = longer.expect("a gradient");
    assert!((again - loss).abs() < 1e-6 * loss, "{again}, {loss}");
    let error = apart(&gradients, &others);
    assert!(error < 1e-6, "{error}");
}

#[test]
fn labels_are_told_apart_in_f32() {
    for (classes, accepted) in [(1 << 24, true), ((1 << 24) + 1, false)] {
        let objective = Objective::new(&of_classes(Some(classes)));
        assert_eq!(objective.is_ok(), accepted, "{classes}");
        if let Err(error) = objective {
            assert!(error.to_string().contains("2^24 classes"), "{error}");
        }
    }
}
