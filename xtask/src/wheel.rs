//! `cargo xtask wheel`: builds the Python wheel, and runs its tests where nothing else is installed.
//!
//! The wheel is of the profile that the tests of the workspace use, so that what they compiled is not
//! compiled again. torch is some gigabytes: its tests run with `--torch`, or where this environment
//! variable names an interpreter that has it.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names an interpreter with torch, numpy and pytest, in whose environment the tests run.
const PYTHON: &str = "FUSEC_TORCH_PYTHON";
/// Without a network nothing can be installed.
const OFFLINE: &str = "FUSEC_OFFLINE_TESTS";
/// What builds the wheel.
const MATURIN: &str = "maturin>=1.9,<2";
/// What its tests need.
const TESTS: [&str; 2] = ["pytest>=8", "numpy>=2"];

/// Builds, installs, tests.
pub fn wheel(with_torch: bool) -> Result<(), Box<dyn Error>> {
    if env::var_os(OFFLINE).is_some() {
        eprintln!("SKIPPED: the wheel and its tests: {OFFLINE} is set, and they install packages");
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let place = root.join("target/wheel");
    let dist = place.join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    let builder = environment(&place.join("builder"), false)?;
    pip(&builder, [MATURIN])?;
    let maturin = builder.with_file_name("maturin");
    let manifest = root.join("crates/python/Cargo.toml");
    run(Command::new(maturin)
        .args([
            "build",
            "--profile",
            "dev",
            "--locked",
            "--skip-auditwheel",
            "-m",
        ])
        .arg(manifest)
        .arg("-o")
        .arg(&dist))?;
    let wheel = fs::read_dir(&dist)?
        .flatten()
        .next()
        .ok_or("maturin wrote no wheel")?;

    let python = environment(&place.join("fresh"), true)?;
    pip(&python, TESTS)?;
    if with_torch {
        pip(&python, ["torch"])?;
    }
    pip(&python, [OsStr::new("--no-deps"), wheel.path().as_os_str()])?;
    let tests = root.join("crates/python");
    run(Command::new(&python)
        .args(["-m", "pytest", "-q"])
        .current_dir(&tests))?;
    if let Some(python) = env::var_os(PYTHON) {
        let target = place.join("beside-torch");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let python = PathBuf::from(python);
        pip(
            &python,
            [
                OsStr::new("--no-deps"),
                "--target".as_ref(),
                target.as_ref(),
                wheel.path().as_ref(),
            ],
        )?;
        run(Command::new(&python)
            .args(["-m", "pytest", "-q"])
            .env("PYTHONPATH", &target)
            .current_dir(&tests))?;
    } else if !with_torch {
        eprintln!(
            "SKIPPED: the tests with torch: it is some gigabytes. `cargo xtask wheel --torch` installs it; \
             {PYTHON} names an interpreter that has it"
        );
    }
    Ok(())
}

/// The interpreter of a virtual environment, made if it is not there, or anew.
fn environment(at: &Path, anew: bool) -> Result<PathBuf, Box<dyn Error>> {
    let python = at.join("bin/python");
    if anew || !python.exists() {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(at))?;
    }
    Ok(python)
}

fn pip<S: AsRef<OsStr>>(
    python: &Path,
    packages: impl IntoIterator<Item = S>,
) -> Result<(), Box<dyn Error>> {
    run(Command::new(python)
        .args(["-m", "pip", "install", "-q", "--disable-pip-version-check"])
        .args(packages))
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {status}").into()),
    }
}
