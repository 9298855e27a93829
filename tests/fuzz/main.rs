//! Bytes from outside, read as the program reads them: the seeds of `fuzz/corpus`, the files of the
//! repository, and what a fixed sequence of mutations makes of them. No panic, no message without an end,
//! and for every input a bound on memory and on time.
//!
//! `FUSEC_FUZZ_CASES=N` mutates N times for each kind of input, from `FUSEC_FUZZ_FIRST` on. An input that
//! fails is written below `target/tmp`. The same readers under libFuzzer: `fuzz/README.md`.

mod beside;
mod bounds;
#[path = "../../fuzz/entries.rs"]
#[allow(dead_code, reason = "seeds are made by some of it")]
mod entries;
mod mutate;
mod seeds;
#[path = "../common/tuning.rs"]
mod tuning;
#[path = "../../crates/runtime/tests/checkpoints/write.rs"]
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use entries::{ENTRIES, Entry};

/// Mutations for each kind of input, where nothing else is asked for.
const CASES: u64 = 600;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One input of one kind.
struct Case {
    kind: &'static str,
    read: Entry,
    data: Vec<u8>,
}

impl Case {
    /// Reads it; how it failed, with where it was written.
    fn run(&self) -> Option<String> {
        let watched = bounds::watch(self.kind, &self.data);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.read)(&self.data)));
        let within = watched.end();
        let why = match (outcome, within) {
            (Ok(()), Ok(())) => return None,
            (Ok(()), Err(why)) => why,
            (Err(panic), _) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                format!("panicked: {}", text.unwrap_or_default())
            }
        };
        let path = bounds::saved(self.kind, &self.data);
        Some(format!("{}: {why}; it is {}", self.kind, path.display()))
    }
}

/// Runs them all on all threads; those that fail.
fn failures(cases: &[Case]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    // Deep recursion is a finding, at the size that threads of the program have.
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let why = case.run();
                    failed.lock().expect("no panic inside").extend(why);
                }
            });
        }
    });
    failed.into_inner().expect("no panic inside")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What mutations start from: the corpus, and files of the repository that are of this kind.
fn starts(kind: &str) -> Vec<Vec<u8>> {
    let files = |folder: &str, ending: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<PathBuf> = paths
            .filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending))
            .collect();
        paths.sort();
        paths
    };
    let mut paths = files(&format!("fuzz/corpus/{kind}"), "");
    match kind {
        "model" => {
            for folder in ["models", "docs/examples", "bench/cases", "tests/plans"] {
                paths.extend(files(folder, ".toml"));
            }
        }
        "device" => paths.extend(files("devices", ".toml")),
        _ => {}
    }
    let read = |path: &PathBuf| std::fs::read(path).expect("readable");
    paths.iter().map(read).chain(seeds::sound(kind)).collect()
}

/// Readers that refuse everything would pass all other tests.
#[test]
fn what_is_sound_is_read() {
    for (kind, read) in ENTRIES {
        let sound = seeds::sound(kind);
        let none = ["config", "cubin", "training"].contains(&kind);
        assert_eq!(sound.is_empty(), none, "{kind}");
        // Plans are of forms of the graph, of which the reader has the first only; that they are plans is enough.
        if kind == "plan" {
            let plan = |data: &Vec<u8>| serde_json::from_slice::<fusec_fuse::Plan>(data).is_ok();
            assert!(sound.iter().all(plan));
            continue;
        }
        for (n, data) in sound.iter().enumerate() {
            let before = entries::refusals();
            read(data);
            assert_eq!(entries::refusals(), before, "{kind} {n} is refused");
        }
    }
    let cubin = std::fs::read(root().join("fuzz/corpus/cubin/sm_90a")).expect("a cubin");
    entries::cubin_resources(&cubin);
    assert_eq!(entries::refusals(), 0);
}

#[test]
fn seeds_are_read_or_refused() {
    let mut cases = Vec::new();
    for (kind, read) in ENTRIES {
        let starts = starts(kind);
        assert!(starts.len() >= 3, "{kind} has {} seeds", starts.len());
        cases.extend(starts.into_iter().map(|data| Case { kind, read, data }));
    }
    println!("{} seeds", cases.len());
    let failed = failures(&cases);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn mutations_are_read_or_refused() {
    let first = number("FUSEC_FUZZ_FIRST").unwrap_or(0);
    let count = number("FUSEC_FUZZ_CASES").unwrap_or(CASES);
    let mut failed = Vec::new();
    for (kind, read) in ENTRIES {
        let starts = starts(kind);
        // A few thousand at a time, so that they do not all lie in memory.
        for from in (first..first + count).step_by(2000) {
            let seeds = from..(first + count).min(from + 2000);
            let case = |seed| Case {
                kind,
                read,
                data: mutate::mutated(&starts, seed),
            };
            failed.extend(failures(&seeds.map(case).collect::<Vec<_>>()));
        }
    }
    println!("{} mutations", count as usize * ENTRIES.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
