//! A release: the program without symbols, its manual pages and completions, licences and docs in
//! one archive. The same commit and the same Rust give the same bytes, in whatever directory: no path of the
//! machine is in the program, and every date is that of the commit (or `SOURCE_DATE_EPOCH`).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What lies beside the program.
const FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];
/// Directories that lie beside it.
const DIRECTORIES: [&str; 3] = ["docs", "models", "devices"];

/// Builds and packs; the path of the archive.
pub fn archive() -> Result<PathBuf, String> {
    let name = name()?;
    let builds = builds()?;
    build(&builds)?;
    let above = builds.join("dist");
    let dir = above.join(&name);
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| at(&dir, e))?;
    }
    fs::create_dir_all(&dir).map_err(|e| at(&dir, e))?;
    let program = dir.join("fusec");
    copy(&builds.join("release/fusec"), &program)?;
    for file in FILES {
        copy(Path::new(file), &dir.join(file))?;
    }
    for directory in DIRECTORIES {
        copy_all(Path::new(directory), &dir.join(directory))?;
    }
    let share = dir.display().to_string();
    run(Command::new(&program).args(["man", share.as_str()]))?;
    // Nothing of the machine or the moment: sorted, of nobody, at the time of the commit.
    let time = epoch()?;
    let tar = format!(
        "set -o pipefail; tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@{time} \
         --mode=u+rw,go+r-w,a+rX -cf - {name} | gzip -n9 > {name}.tar.gz"
    );
    let sum = format!("sha256sum {name}.tar.gz > {name}.tar.gz.sha256");
    for line in [&tar, &sum] {
        run(Command::new("bash").args(["-c", line]).current_dir(&above))?;
    }
    Ok(above.join(format!("{name}.tar.gz")))
}

/// Makes the archive of this commit in two directories of their own, one deeper than the other, and compares: the
/// sum of both, or which files differ.
pub fn twice() -> Result<String, String> {
    if commit().is_none() {
        return Err("something differs from the last commit, of which the two archives would be: commit it first".into());
    }
    let work = env::temp_dir().join(format!("fusec-dist-{}", std::process::id()));
    let made = made_twice(&work);
    fs::remove_dir_all(&work).ok();
    made
}

fn made_twice(work: &Path) -> Result<String, String> {
    let name = name()?;
    let mut dists = Vec::new();
    for below in ["a", "another/directory/b"] {
        let dir = work.join(below);
        run(Command::new("git")
            .args(["clone", "--quiet", "."])
            .arg(&dir))?;
        run(Command::new(cargo())
            .args(["xtask", "dist"])
            .current_dir(&dir)
            .env_remove("CARGO_TARGET_DIR"))?;
        dists.push(dir.join("target/dist"));
    }
    let archive = |dist: &PathBuf| {
        let path = dist.join(format!("{name}.tar.gz"));
        fs::read(&path).map_err(|e| at(&path, e))
    };
    let both = dists.iter().map(archive).collect::<Result<Vec<_>, _>>()?;
    if both[0] == both[1] {
        let sum = dists[0].join(format!("{name}.tar.gz.sha256"));
        return fs::read_to_string(&sum).map_err(|e| at(&sum, e));
    }
    let dirs = dists.iter().map(|dist| dist.join(&name));
    let out = Command::new("diff").arg("-rq").args(dirs).output();
    let out = out.map_err(|error| format!("diff: {error}"))?;
    let differ = String::from_utf8_lossy(&out.stdout).into_owned();
    Err(format!("the two archives differ:\n{differ}"))
}

/// The directory that cargo builds into, wherever the settings of whoever calls it put that.
pub fn builds() -> Result<PathBuf, String> {
    let metadata = Command::new(cargo())
        .args(["metadata", "--no-deps", "--locked", "--format-version", "1"])
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !metadata.status.success() {
        return Err(String::from_utf8_lossy(&metadata.stderr).into_owned());
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).map_err(|error| error.to_string())?;
    let directory = metadata["target_directory"].as_str().map(PathBuf::from);
    directory.ok_or_else(|| "cargo metadata names no target_directory".into())
}

/// The program, with no path of this machine in it.
fn build(builds: &Path) -> Result<(), String> {
    let here = env::current_dir().map_err(|e| at(Path::new("."), e))?;
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    // Of several that fit, rustc takes the last.
    let mut paths = vec![(here.as_path(), "fusec"), (builds, "target")];
    let cargo_home = cargo_home.or(home);
    paths.extend(cargo_home.as_deref().map(|path| (path, "cargo")));
    let flags = paths
        .iter()
        .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let flags: Vec<String> = flags.collect();
    run(Command::new(cargo())
        .args(["build", "--release", "--locked", "-p", "fusec"])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("FUSEC_COMMIT", commit().unwrap_or_default())
        .env("CARGO_INCREMENTAL", "0"))
}

/// What git answers, if this is a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let out = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status.success().then(|| text.trim().to_owned())
}

/// The commit that the program is of, which its records say; of none if something differs from it.
fn commit() -> Option<String> {
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    changed.is_empty().then(|| git(&["rev-parse", "HEAD"]))?
}

/// The date of everything in the archive, seconds since 1970: `SOURCE_DATE_EPOCH`, else that of the commit, else
/// the beginning of time.
fn epoch() -> Result<u64, String> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("SOURCE_DATE_EPOCH is `{text}`, not a number of seconds")),
        Err(_) => Ok(git(&["log", "-1", "--format=%ct"])
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)),
    }
}

/// What an archive is called, without its ending.
fn name() -> Result<String, String> {
    Ok(format!("fusec-{}-{}", env!("CARGO_PKG_VERSION"), host()?))
}

/// The cargo that runs this, or the one on the path.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The platform that cargo builds for.
fn host() -> Result<String, String> {
    let out = Command::new("rustc").arg("-vV").output();
    let out = out.map_err(|error| format!("rustc -vV: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".into())
}

/// Runs a command, which has to succeed.
pub fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|e| at(from, e))
}

fn copy_all(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|e| at(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| at(from, e))? {
        let path = entry.map_err(|e| at(from, e))?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy_all(&path, &to)?,
            false => copy(&path, &to)?,
        }
    }
    Ok(())
}

fn at(path: &Path, error: io::Error) -> String {
    format!("{}: {error}", path.display())
}
