//! Random small models with random recurrences of every class, written in the model language:
//! f64 interpreter = f32 interpreter = emulated kernels under several plans, for runs of one token
//! up to several chunks, one sequence and three.
//!
//! A few seeds run always; `FUSEC_RANDOM_MODELS=N` runs N of them from `FUSEC_RANDOM_FIRST` on
//! (default 0). A failure prints the model's text.

use common::{Case, Dice};
use fusec_fuse::{Mode, Storage};
use fusec_ir::language::{ModelSource, Overrides, compile};
use model_text::{CLASSES, model_text};

mod common;
#[path = "random_models/model_text.rs"]
mod model_text;

/// Runs that carry the state on. Together they hold 1, 2, 3, 37, 65 and 300 tokens.
const TIMES: [&[usize]; 6] = [
    &[37, 1, 2],
    &[300, 1],
    &[65, 3, 1],
    &[2, 1, 37],
    &[1, 65, 3],
    &[3, 1, 300],
];

/// Runs one seed under every plan; what fails, with the text.
fn failures(seed: u64) -> Vec<String> {
    let text = model_text(seed);
    let source = ModelSource::from_text(format!("random {seed}"), text.as_str());
    let graph = match compile(&source, &Overrides::default()) {
        Ok(graph) => graph,
        Err(error) => return vec![format!("seed {seed}: {error:?}\n{text}")],
    };
    let mut dice = Dice::new(seed);
    let modes = [Mode::Auto, Mode::Unfused, Mode::Random(seed)];
    let results = modes.into_iter().map(|mode| {
        common::check(&Case {
            name: &format!("random-{seed}"),
            graph: &graph,
            storage: Storage::F32,
            mode,
            batch: [1, 3][dice.below(2)],
            times: TIMES[dice.below(TIMES.len())],
            bound: 2e-4,
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
