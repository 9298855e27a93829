//! `cargo xtask perf`: tables and pictures of docs/performance.md, drawn from the records in bench/results/.

pub mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::dist;
use serde_json::Value;
use tables::{Figure, PAGE, Records, drawn};

/// Writes tables and pictures, and prints which rows are of kernels that have changed since.
pub fn write() -> Result<(), String> {
    let root = Path::new(".");
    let records = Records::read(root)?;
    let page = fs::read_to_string(PAGE).map_err(|error| format!("{PAGE}: {error}"))?;
    let new = drawn(&page, &records.tables()?)?;
    if new != page {
        fs::write(PAGE, new).map_err(|error| format!("{PAGE}: {error}"))?;
    }
    let program = &built()?;
    let work = Path::new("target/perf");
    fs::create_dir_all(work).map_err(|error| format!("{}: {error}", work.display()))?;
    for plot in records.plots() {
        let record = work.join(format!("{}.json", plot.name));
        let text = records.record_of(plot)?.to_string();
        fs::write(&record, text).map_err(|error| format!("{}: {error}", record.display()))?;
        let dir = work.join(&plot.name);
        let mut arguments = vec![
            "bench".into(),
            "--recorded".into(),
            record.display().to_string(),
        ];
        if let Some(beside) = &plot.beside {
            arguments.extend(["--beside".into(), records.path(beside)?]);
        }
        arguments.extend(["--plots".into(), dir.display().to_string()]);
        fusec(program, &arguments, &[0])?;
        let to = format!("docs/{}.svg", plot.name);
        fs::copy(dir.join(&plot.file), &to).map_err(|error| format!("{to}: {error}"))?;
        println!("{to}");
    }
    println!("{PAGE}");
    for figure in records.shown()? {
        if let Some(changed) = changed(program, work, &figure)? {
            println!("{}: {changed}", figure.name);
        }
    }
    Ok(())
}

/// What is to be said of a measurement whose kernels are no longer those that were timed.
fn changed(program: &Path, work: &Path, figure: &Figure) -> Result<Option<String>, String> {
    let out = work.join("plan");
    let mut arguments = vec!["compile".into()];
    arguments.extend(figure.made.iter().cloned());
    arguments.extend(["--out".into(), out.display().to_string()]);
    // Sources are all that is asked for.
    fusec(program, &arguments, &[0, 3])?;
    let path = out.join("manifest.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(figure.changed(&manifest))
}

/// Builds the program; where it lies. With the whole workspace, as the tests have it.
fn built() -> Result<PathBuf, String> {
    let arguments = ["build", "-q", "--workspace", "--locked", "--bin", "fusec"];
    dist::run(Command::new(dist::cargo()).args(arguments))?;
    Ok(dist::builds()?.join("debug/fusec"))
}

/// Calls the program without a CUDA compiler.
fn fusec(program: &Path, arguments: &[String], accepted: &[i32]) -> Result<(), String> {
    let line = arguments.join(" ");
    let out = Command::new(program)
        .args(arguments)
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("fusec {line}: {error}"))?;
    match out.status.code() {
        Some(status) if accepted.contains(&status) => Ok(()),
        _ => Err(format!(
            "fusec {line}: {}",
            String::from_utf8_lossy(&out.stderr)
        )),
    }
}
