//! The table of the zoo: for every golden case its largest errors on some devices, the class of its
//! recurrence, and the lines of its model text. All of it from runs of the program.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Prints the table for these devices; whether all cases passed on all of them.
pub fn table(devices: &[&str]) -> Result<bool, String> {
    let mut header = vec!["case", "class", "lines"];
    let columns: Vec<String> = devices
        .iter()
        .flat_map(|d| [format!("{d} prefill"), format!("{d} steps")])
        .collect();
    header.extend(columns.iter().map(String::as_str));
    println!("| {} |", header.join(" | "));
    println!("|{}", "---|".repeat(header.len()));
    let mut passed = true;
    for case in cases()? {
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        let path = case.display().to_string();
        let plan = fusec(&["plan", &path, "--shape", "B=1,T=64"])?;
        let mut row = vec![name.into_owned(), class(&plan), lines(&plan)?];
        for device in devices {
            let answer = fusec(&["verify", &path, "--device", device])?;
            passed &= answer["passed"] == true;
            for part in ["prefill", "steps"] {
                row.push(match answer[part]["relative"].as_f64() {
                    Some(error) => format!("{error:.1e}"),
                    None => "?".into(),
                });
            }
        }
        println!("| {} |", row.join(" | "));
    }
    Ok(passed)
}

fn cases() -> Result<Vec<PathBuf>, String> {
    let golden = Path::new("tests/golden");
    let entries = std::fs::read_dir(golden).map_err(|e| format!("{}: {e}", golden.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut cases: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    cases.sort();
    Ok(cases)
}

/// The answer of a call of the program, built as cargo sees fit.
fn fusec(args: &[&str]) -> Result<Value, String> {
    let line = args.join(" ");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["run", "-q", "-p", "fusec", "--"])
        .args(args)
        .arg("--json")
        .output()
        .map_err(|error| format!("fusec {line}: {error}"))?;
    serde_json::from_slice(&out.stdout)
        .map_err(|_| format!("fusec {line}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// The classes of the recurrences of a plan, each once.
fn class(plan: &Value) -> String {
    let recurrences = plan["recurrences"].as_array().into_iter().flatten();
    let states = recurrences.flat_map(|r| r["states"].as_array().into_iter().flatten());
    let classes: BTreeSet<&str> = states.filter_map(|s| s["class"].as_str()).collect();
    classes.into_iter().collect::<Vec<_>>().join(", ")
}

/// Lines of the model text, and with what it includes.
fn lines(plan: &Value) -> Result<String, String> {
    let model = plan["model"].as_str().unwrap_or_default();
    let models = Path::new("models");
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut left = vec![format!("{model}.toml")];
    let mut seen = BTreeSet::new();
    let mut counts = vec![];
    while let Some(file) = left.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let path = models.join(&file);
        let text = read(&path)?;
        counts.push(text.lines().count());
        let included = text.lines().filter_map(|line| line.strip_prefix("include"));
        for name in included.flat_map(|line| line.split('"').skip(1).step_by(2)) {
            let below = Path::new(&file)
                .parent()
                .unwrap_or(Path::new(""))
                .join(name);
            left.push(below.display().to_string());
        }
    }
    let total: usize = counts.iter().sum();
    Ok(match counts[..] {
        [own] => own.to_string(),
        _ => format!("{} ({total} with blocks)", counts[0]),
    })
}
