//! Chores of the repository: `cargo xtask ci | bless | zoo | perf | dist | wheel | audit`.
//!
//! What lives here: calls of cargo that people would otherwise have to remember. What never will:
//! anything that a user of fusec needs.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod audit;
mod dist;
mod perf;
mod wheel;
mod zoo;

use audit::Denied;
use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: cargo xtask ci      format, lints, tests, documentation, as before every merge
       cargo xtask bless   accept the plans, kernels and messages that the tests now see
       cargo xtask zoo [DEVICE ...]
                           a table of the golden cases: errors on devices (default: cpu emulator),
                           classes of recurrences, lines of model texts
       cargo xtask perf    tables and plots of docs/performance.md, drawn from the records in bench/results;
                           which rows are of kernels that have changed since
       cargo xtask dist [--twice]
                           a release in target/dist: the program, manual pages, completions, docs;
                           twice: in two directories, compared byte by byte
       cargo xtask wheel [--torch]
                           the Python wheel, and its tests in a fresh environment; with torch, which is
                           some gigabytes, those with torch as well
       cargo xtask audit   where dependencies come from and their licences; advisories with cargo-deny";

/// A call of cargo.
struct Step {
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// Cheapest first, so that a small slip shows early.
const CI: &[Step] = &[
    Step {
        arguments: &["fmt", "--check"],
        environment: &[],
    },
    Step {
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Step {
        arguments: &["test", "--workspace", "--locked"],
        // A snapshot that differs fails; none is written.
        environment: &[("INSTA_UPDATE", "no")],
    },
    Step {
        arguments: &["doc", "--workspace", "--no-deps", "--locked"],
        environment: &[("RUSTDOCFLAGS", "-Dwarnings")],
    },
];

/// The tests compare; these variables make them write instead.
const BLESS: &[Step] = &[Step {
    arguments: &["test", "--workspace", "--no-fail-fast"],
    environment: &[("INSTA_UPDATE", "always"), ("SNAPSHOTS", "overwrite")],
}];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let steps = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ci"] => CI,
        ["bless"] => BLESS,
        ["zoo"] => return zoo(&["cpu", "emulator"]),
        ["zoo", ref devices @ ..] => return zoo(devices),
        ["perf"] => return perf(),
        ["dist"] => return dist(),
        ["dist", "--twice"] => return dist_twice(),
        ["audit"] => return audit(),
        ["wheel"] => return wheel(false),
        ["wheel", "--torch"] => return wheel(true),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if arguments == ["ci"]
        && let Err(wrong) = audit::check()
    {
        eprintln!("{wrong}");
        return ExitCode::FAILURE;
    }
    let mut times = Vec::new();
    let mut passed = true;
    for step in steps {
        let began = Instant::now();
        passed = run(step);
        times.push((step, began.elapsed()));
        if !passed {
            break;
        }
    }
    eprintln!();
    for (step, time) in &times {
        eprintln!("{} cargo {}", seconds(*time), step.arguments.join(" "));
    }
    let mut total: Duration = times.iter().map(|(_, time)| *time).sum();
    if passed && arguments == ["ci"] {
        let began = Instant::now();
        passed = wheel(false) == ExitCode::SUCCESS;
        eprintln!("{} cargo xtask wheel", seconds(began.elapsed()));
        total += began.elapsed();
    }
    eprintln!(
        "{} {}",
        seconds(total),
        if passed { "passed" } else { "FAILED" }
    );
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn audit() -> ExitCode {
    match audit::check() {
        Ok(count) => {
            println!("{count} dependencies: from crates.io, with checksums, licences allowed")
        }
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::FAILURE;
        }
    }
    let said = match audit::deny() {
        Some(Denied::All) => return ExitCode::SUCCESS,
        None => return ExitCode::FAILURE,
        Some(Denied::Nothing) => "cargo-deny is not installed (cargo install cargo-deny)",
        Some(Denied::Offline) => "their data base could not be fetched",
    };
    println!("no look at advisories: {said}");
    ExitCode::SUCCESS
}

fn perf() -> ExitCode {
    match perf::write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn dist_twice() -> ExitCode {
    match dist::twice() {
        Ok(sum) => {
            print!("the same bytes twice: {sum}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn dist() -> ExitCode {
    match dist::archive() {
        Ok(archive) => {
            println!("{}", archive.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn wheel(with_torch: bool) -> ExitCode {
    match wheel::wheel(with_torch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn zoo(devices: &[&str]) -> ExitCode {
    match zoo::table(devices) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(step: &Step) -> bool {
    let line = step.arguments.join(" ");
    eprintln!("\n== cargo {line}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    match Command::new(cargo)
        .args(step.arguments)
        .envs(step.environment.iter().copied())
        .status()
    {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cannot run cargo {line}: {error}");
            false
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:7.1} s ", time.as_secs_f64())
}
