//! Figures of docs/performance.md: they are those of the records in bench/results/, drawn by `cargo xtask perf`,
//! and those whose kernels have changed since they were timed are listed in tests/measured.snap. Such a list is
//! no fault: it says what is to be timed again. It changes with kernels, and is blessed with their snapshots.

#[path = "../xtask/src/perf/tables.rs"]
mod tables;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;

use serde_json::Value;
use tables::{Figure, PAGE, Records, drawn};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Calls the program in the repository; there is no CUDA compiler in these tests.
fn fusec(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(arguments)
        .current_dir(root())
        .env_remove("RUST_LOG")
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", "/dev/null/cache")
        .output()
        .expect("the binary starts")
}

#[test]
fn the_page_shows_what_the_records_say() {
    let records = Records::read(root()).expect("records");
    let page = fs::read_to_string(root().join(PAGE)).expect("a page");
    let tables = records.tables().expect("tables");
    let new = drawn(&page, &tables).expect("a page with a place for each table");
    assert!(
        new == page,
        "{PAGE} is not what the records say: cargo xtask perf"
    );
    let dir = tempfile::tempdir().expect("a directory");
    for plot in records.plots() {
        let record = dir.path().join(format!("{}.json", plot.name));
        let of = records.record_of(plot).expect("a record");
        fs::write(&record, of.to_string()).expect("a file");
        let plots = dir.path().join(&plot.name);
        let mut arguments = vec![
            "bench".into(),
            "--recorded".into(),
            record.display().to_string(),
        ];
        if let Some(beside) = &plot.beside {
            arguments.extend(["--beside".into(), records.path(beside).expect("a record")]);
        }
        arguments.extend(["--plots".into(), plots.display().to_string()]);
        let answer = fusec(&arguments);
        assert!(answer.status.success(), "{arguments:?}: {answer:?}");
        let new = fs::read(plots.join(&plot.file)).expect("a plot");
        let shown = fs::read(root().join("docs").join(format!("{}.svg", plot.name)));
        let same = shown.is_ok_and(|shown| shown == new);
        assert!(
            same,
            "docs/{}.svg is not what the records say: cargo xtask perf",
            plot.name
        );
    }
}

/// What is to be said of a figure whose kernels have changed.
fn changed(dir: &Path, figure: &Figure) -> Option<String> {
    let out = dir.join(figure.name.replace(['/', ' '], "-"));
    let mut arguments = vec!["compile".into()];
    arguments.extend(figure.made.iter().cloned());
    arguments.extend(["--out".into(), out.display().to_string()]);
    let answer = fusec(&arguments);
    assert_eq!(answer.status.code(), Some(3), "{arguments:?}: {answer:?}");
    let text = fs::read_to_string(out.join("manifest.json")).expect("a manifest");
    fs::remove_dir_all(&out).expect("a directory of ours");
    let manifest: Value = serde_json::from_str(&text).expect("JSON");
    figure.changed(&manifest)
}

#[test]
fn what_was_measured_with_other_kernels_is_listed() {
    let figures = Records::read(root())
        .expect("records")
        .shown()
        .expect("figures");
    let dir = tempfile::tempdir().expect("a directory");
    let next = Mutex::new(figures.iter());
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let one = next.lock().expect("nobody panicked").next();
                    let Some(figure) = one else { break };
                    let of = changed(dir.path(), figure);
                    found
                        .lock()
                        .expect("nobody panicked")
                        .push((&figure.name, of));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("nobody panicked");
    found.sort();
    // Names only: how much of each has changed is for `cargo xtask perf` to say.
    let mut list = format!("of {} figures\n", found.len());
    for (name, _) in found.iter().filter(|(_, of)| of.is_some()) {
        writeln!(list, "{name}").expect("to a string");
    }
    insta::with_settings!({
        snapshot_path => ".",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("measured", list);
    });
}
