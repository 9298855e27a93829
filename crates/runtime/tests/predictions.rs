//! What the cost model predicts is held to recorded results: of kernels and runs that its figures were
//! fitted to, and of models that they were not.

use fusec_fuse::Device;
use fusec_runtime::calibrate::fit::{Agreement, Fit, Record, Records, fit, predictions};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The results of an H200 that say what work each kernel did, and were fitted to.
fn records() -> Records {
    read("bench/results/h200")
}

/// Those of templates that came later: chunks with the state in registers, products by warpgroups and of
/// few rows on tensor cores, attention on tensor cores. Nothing was fitted to them but, by hand and by
/// timers inside the kernels, the figures `chunk_*`.
fn later() -> Records {
    read("bench/results/h200/kernels")
}

fn read(folder: &str) -> Records {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(folder);
    let files = std::fs::read_dir(&folder)
        .expect("recorded results")
        .flatten();
    let is_result = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("2026-11-29") && name.ends_with(".json"))
    };
    let mut files: Vec<PathBuf> = files.map(|f| f.path()).filter(is_result).collect();
    files.sort();
    Records::read(&files).expect("results of `fusec bench`")
}

fn h200() -> Device {
    Device::find("h200").expect("compiled in")
}

/// Fitted once for all tests.
fn fitted() -> &'static Fit {
    static FIT: OnceLock<Fit> = OnceLock::new();
    FIT.get_or_init(|| fit(&h200(), &records()).expect("results to fit to"))
}

fn share(within: usize, of: usize) -> f64 {
    within as f64 / of as f64
}

/// Shares of kernels and of runs that must be where they should be.
fn hold(agreement: Agreement, kernels: f64, runs: f64) {
    println!("{agreement:?}");
    assert!(
        agreement.kernels > 200 && agreement.runs > 40,
        "{agreement:?}"
    );
    let (of_kernels, of_runs) = (
        share(agreement.kernels_within, agreement.kernels),
        share(agreement.runs_within, agreement.runs),
    );
    assert!(of_kernels >= kernels, "kernels: {of_kernels} of {kernels}");
    assert!(of_runs >= runs, "runs: {of_runs} of {runs}");
}

#[test]
fn the_profile_predicts_the_results_it_was_fitted_to() {
    let records = records();
    assert_eq!(
        records.skipped, 16,
        "chunks as they were then, in runs whose kernels were not timed"
    );
    let list: Vec<&Record> = records.list.iter().collect();
    hold(Agreement::of(&predictions(&h200(), &list)), 0.95, 0.95);
}

#[test]
fn the_profile_predicts_templates_that_came_later() {
    let later = later();
    assert_eq!(later.skipped, 0);
    let list: Vec<&Record> = later.list.iter().collect();
    // What is missed: attention, and products with narrow columns beside wide ones.
    hold(Agreement::of(&predictions(&h200(), &list)), 0.77, 0.85);
}

#[test]
fn each_model_is_predicted_from_the_others() {
    let fit = fitted();
    for fold in &fit.left_out {
        println!("{}: {:?} {:?}", fold.model, fold.agreement, fold.runs_range);
    }
    hold(fit.left_out_all, 0.9, 0.9);
}

#[test]
fn fitting_again_gives_the_figures_of_the_profile() {
    let (before, after) = (h200(), &fitted().device);
    for (old, new) in before.fitted.entries().iter().zip(after.fitted.entries()) {
        let ratio = new.figure.value / old.figure.value;
        assert!(
            (0.97..=1.03).contains(&ratio),
            "{}: {} in devices/h200.toml, {} fitted; write it again with `fusec calibrate --fit`",
            old.field,
            old.figure.value,
            new.figure.value
        );
        assert_eq!(old.figure.from, new.figure.from, "{}", old.field);
        assert_eq!(old.figure.on, new.figure.on, "{}", old.field);
    }
}
