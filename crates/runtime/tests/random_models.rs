//! Random small models with random recurrences of every class, written in the model language:
//! f64 interpreter = f32 interpreter = emulated kernels under several plans, on a device of today and
//! on one where recurrences go in chunks, for runs of one token up to several chunks, one sequence and
//! three, and threads in several orders.
//!
//! A few seeds run always; `FUSEC_RANDOM_MODELS=N` runs N of them from `FUSEC_RANDOM_FIRST` on
//! (default 0). A failure prints the model's text.

use common::{Case, Conditions, Dice, slow_steps};
use fusec_fuse::{Device, Mode, Options, Schedule, Shape, Storage, Submit, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use model_text::{CLASSES, model_text};

mod common;
#[path = "random_models/model_text.rs"]
mod model_text;

/// Tokens of a chunk where no lane goes in chunks: a tile of several templates.
const TILE: usize = 32;

/// Tokens that a plan for long runs works on at a time.
fn chunk(graph: &Graph, device: &Device, mode: Mode, batch: usize) -> Result<usize, String> {
    let options = Options {
        shape: Shape { batch, time: 199 },
        storage: Storage::F32,
        mode,
        device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let planned = plan(graph, &options).map_err(|e| format!("planning: {e}"))?;
    let kernels = planned.plan.kernels.iter();
    let lanes = kernels.flat_map(|k| k.phases.iter().flat_map(|p| &p.lanes));
    let chunks = lanes.filter_map(|lane| match &lane.schedule {
        Schedule::Chunked(chunk) => Some(chunk.tile.chunk),
        _ => None,
    });
    Ok(chunks.max().unwrap_or(TILE))
}

/// Runs one seed under every plan; what fails, with the text.
fn failures(seed: u64) -> Vec<String> {
    let text = model_text(seed);
    let source = ModelSource::from_text(format!("random {seed}"), text.as_str());
    let graph = match compile(&source, &Overrides::default()) {
        Ok(graph) => graph,
        Err(error) => return vec![format!("seed {seed}: {error:?}\n{text}")],
    };
    let mut dice = Dice::new(seed);
    let today = Device::find("h200").expect("profile");
    let slow = slow_steps(false);
    let cases = [
        (Mode::Auto, &slow),
        (Mode::Unfused, &today),
        (Mode::Random(seed), &today),
    ];
    let results = cases.into_iter().map(|(mode, device)| {
        let batch = [1, 3][dice.below(2)];
        let c = chunk(&graph, device, mode, batch)?;
        // The state is carried from each run to the next, so which comes first matters.
        let mut times = [1, 2, 3, c - 1, c, c + 1, 3 * c + 7];
        let first = dice.below(times.len());
        times.rotate_left(first);
        let order = dice.below(1 << 20) as u64;
        // All orders of threads come by; that of their indices does so for every model.
        [0, order].into_iter().try_for_each(|order| {
            let case = Case {
                name: &format!("random-{seed}"),
                graph: &graph,
                storage: Storage::F32,
                mode,
                batch,
                times: &times,
                bound: 2e-4,
            };
            let conditions = Conditions {
                order,
                ..Conditions::on(device)
            };
            common::check_under(&case, conditions).map_err(|why| format!("order {order}: {why}"))
        })
    });
    let failed = results.filter_map(Result::err);
    failed.map(|why| format!("{why}\n{text}")).collect()
}

#[test]
fn kernels_of_random_models_equal_the_interpreter() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("FUSEC_RANDOM_FIRST").unwrap_or(0);
    let count = number("FUSEC_RANDOM_MODELS").unwrap_or(CLASSES as u64);
    println!("{count} random models from seed {first} on (FUSEC_RANDOM_MODELS sets how many)");
    let failed: Vec<String> = (first..first + count).flat_map(failures).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n----\n"));
}
