//! A compiled model as a directory: plans for people, the manifest, sources and cubins.
//!
//! ```text
//! NAME/plan.txt           the plans, readable
//! NAME/plan.json          the plans, one per regime
//! NAME/device.json        the device profile they are for, as compiled for
//! NAME/manifest.json      what to launch
//! NAME/tuned.json         what was measured of the plans and others, if it was
//! NAME/cubins.json        which cubins there are, with their hashes
//! NAME/kernels/K.cu       the source of each kernel
//! NAME/kernels/fusec.cuh  the primitives that they include
//! NAME/kernels/K.ARCH.cubin  of each kernel that is not compiled as another one
//! NAME/standalone/        the same as a program of its own, if it was asked for
//! ```
//!
//! Lives here: writing it whole or not at all, reading it with every hash checked, and showing that it is
//! what its plans become: hashes say that a directory is whole, not who wrote it. Never here: compiling,
//! running.

use crate::executor::{ManifestError, check_manifest};
use crate::limits::{self, MAX_PLAN_BYTES};
use crate::partial;
use crate::standalone::{self, Standalone, StandaloneError};
use crate::toolchain::{Arch, UnknownArch};
use crate::tune::{TUNED, Tuned};
use fusec_codegen::{Manifest, Planned, generate, prelude};
use fusec_fuse::plan::PLAN_VERSION;
use fusec_fuse::{Body, Device, Kernel, Plan, accept};
use fusec_ir::interpret::check_graph;
use fusec_ir::language::{LONGEST_MESSAGE, readable};
use fusec_ir::{Graph, OpId, files};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Version of `cubins.json`.
const CUBINS_VERSION: u32 = 1;
const PLAN_TEXT: &str = "plan.txt";
const PLANS: &str = "plan.json";
const DEVICE: &str = "device.json";
const MANIFEST: &str = "manifest.json";
const CUBINS: &str = "cubins.json";
const KERNELS: &str = "kernels";

/// Why a plan directory cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PlanDirError {
    /// The file system.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// `write`, `read`, ...
        doing: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else at that place.
    #[error(
        "{path} exists and is no plan directory (it has no {MANIFEST}); it is left alone: choose another place or remove it",
        path = path.display()
    )]
    NotAPlan {
        /// The place.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}; compile the model again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The manifest.
    #[error("{path}: {error}", path = path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ManifestError,
    },
    /// Not what this program writes.
    #[error(
        "{path} is not what this program makes of the plans: {reason}. It was changed, or written by another version: compile the model again; if you trust whoever wrote it, --trust-foreign-code runs it as it is",
        path = path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The program of its own.
    #[error("no program of its own was written: {0}")]
    Standalone(#[from] StandaloneError),
    /// Not compiled for the wanted GPU.
    #[error(
        "{path} has no cubins for {arch} ({}); compile the model with --arch {arch}",
        if have.is_empty() { "only sources".to_owned() } else { format!("only for {}", have.join(", ")) },
        path = path.display()
    )]
    NoCubins {
        /// The directory.
        path: PathBuf,
        /// Asked for.
        arch: String,
        /// The architectures there are.
        have: Vec<String>,
    },
}

/// Cubins by architecture (`sm_90a`), then by image: the kernel that was compiled.
pub type Cubins = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A compiled model, as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanDir {
    /// The manifest, with the kernels' sources.
    pub manifest: Manifest,
    /// The plans, one per regime.
    pub plans: Vec<Plan>,
    /// The device profile that was planned with; its architecture is the one compiled for.
    pub device: Device,
    /// The plans for people.
    pub text: String,
    /// The cubins; possibly none.
    pub cubins: Cubins,
    /// What the plans were chosen by, if they were measured. Nothing that runs follows from it.
    pub tuned: Option<Tuned>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct CubinIndex {
    version: u32,
    /// SHA-256, hexadecimal, by architecture and image.
    sha256: BTreeMap<String, BTreeMap<String, String>>,
}

impl PlanDir {
    /// The cubins for an architecture, by image. `path` is for the message.
    pub fn cubins_for(
        &self,
        arch: &str,
        path: &Path,
    ) -> Result<&BTreeMap<String, Vec<u8>>, PlanDirError> {
        self.cubins.get(arch).ok_or_else(|| PlanDirError::NoCubins {
            path: path.to_owned(),
            arch: arch.to_owned(),
            have: self.cubins.keys().cloned().collect(),
        })
    }

    /// Shows that the sources and the manifest are what this program generates from the plans, and these
    /// plans that it makes: then no byte of a kernel, and no size, address or grid of a launch, is
    /// somebody else's. `path` is for the message.
    pub fn check_generated(&self, path: &Path) -> Result<(), PlanDirError> {
        let foreign = |file: &str, reason: String| PlanDirError::Foreign {
            path: path.join(file),
            reason,
        };
        self.check_plans(path)?;
        (self.device.arch.parse::<Arch>())
            .map_err(|error: UnknownArch| foreign(DEVICE, error.to_string()))?;
        let figures = self.device.figures();
        let bad = |figure: f64| !(figure.is_finite() && figure > 0.0);
        if let Some((name, _)) = figures.iter().find(|(_, figure)| bad(figure.value)) {
            return Err(foreign(DEVICE, format!("`{name}` is no positive number")));
        }
        if let Some(text) = unprintable(&self.manifest).or_else(|| unprintable(&self.plans)) {
            let reason = format!("{text:?} cannot stand in a comment of a source");
            return Err(foreign(MANIFEST, reason));
        }
        let regimes = self.manifest.regimes.iter().zip(&self.plans);
        let mut planned = Vec::new();
        for (regime, plan) in regimes {
            let graph = &regime.graph;
            let place = |error: String| format!("regime `{}`: {error}", regime.name);
            check_graph(graph).map_err(|error| foreign(MANIFEST, place(error.to_string())))?;
            limits::run(graph, plan.shape)
                .map_err(|error| foreign(PLANS, place(error.to_string())))?;
            if plan.storage != self.manifest.storage {
                return Err(foreign(PLANS, place("it has another storage type".into())));
            }
            accept(graph, plan, &self.device)
                .map_err(|error| foreign(PLANS, place(error.to_string())))?;
            planned.push(Planned {
                name: &regime.name,
                min_time: regime.min_time,
                max_time: regime.max_time,
                graph,
                plan,
            });
        }
        let manifest = &self.manifest;
        let generated = generate(&manifest.model, manifest.storage, &planned)
            .map_err(|error| foreign(PLANS, error.to_string()))?;
        let kernels = manifest.kernels.iter().zip(&generated.kernels);
        if let Some((kernel, _)) = kernels.into_iter().find(|(a, b)| a.source != b.source) {
            let file = format!("{KERNELS}/{}.cu", kernel.name);
            return Err(foreign(&file, "it is not what the plan becomes".into()));
        }
        if generated != *manifest {
            return Err(foreign(MANIFEST, "it is not what the plans become".into()));
        }
        Ok(())
    }

    /// Checks what running does not need: that the plans' indices point into the graphs, and the
    /// launches into the plans. `path` is for the message.
    pub fn check_plans(&self, path: &Path) -> Result<(), PlanDirError> {
        check_plans(&self.manifest, &self.plans).map_err(|reason| PlanDirError::Damaged {
            path: path.join(PLANS),
            reason,
        })
    }
}

/// A text that would not stay inside a comment, or that a terminal would obey: sources carry the names
/// of values, kernels and models.
fn unprintable<T: Serialize>(value: &T) -> Option<String> {
    fn first(value: &Value) -> Option<&str> {
        let ends_a_comment = |text: &str| text.contains("*/") || text.contains(['\\', '\u{2028}']);
        match value {
            Value::String(text) => {
                let bad = text.chars().any(char::is_control) || ends_a_comment(text);
                bad.then_some(text.as_str())
            }
            Value::Array(items) => items.iter().find_map(first),
            Value::Object(members) => members.values().find_map(first),
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }
    let value = serde_json::to_value(value).ok()?;
    first(&value).map(str::to_owned)
}

/// Whether a path looks like a directory that [`write_plan_dir`] made.
pub fn is_plan_dir(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// The SHA-256 of some bytes, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that appears whole or not at all. Through a link the file that it points to is
/// replaced, not the link; what is no file, such as a terminal, is written to.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        return std::fs::write(path, bytes);
    }
    let (mut file, _unfinished) = partial::file_in(parent(path))?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Whether [`write_whole`] can write a file there: what would otherwise be found after the work.
pub fn check_file(path: &Path) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(about) if !about.is_file() => Ok(()),
        _ => partial::file_in(parent(path)).map(drop),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error<'p>(
    doing: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> PlanDirError + 'p {
    move |source| PlanDirError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Writes a compiled model to `dir`, which is created, with its parents, or takes the place of
/// an older plan directory. It appears whole or not at all; files in it that are no part of a
/// plan are kept.
pub fn write_plan_dir(dir: &Path, compiled: &PlanDir) -> Result<(), PlanDirError> {
    write_with(dir, compiled, None)
}

/// As [`write_plan_dir`], with the same model as a program of its own for an architecture beside it. Written
/// without one, a directory has none.
pub fn write_with(
    dir: &Path,
    compiled: &PlanDir,
    program: Option<(&Standalone<'_>, &str)>,
) -> Result<(), PlanDirError> {
    check_manifest(&compiled.manifest).map_err(|error| PlanDirError::Manifest {
        path: dir.join(MANIFEST),
        error,
    })?;
    // Through a link the directory itself is replaced, not the link.
    let dir = &dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    existing_plan(dir)?;
    let above = parent(dir);
    std::fs::create_dir_all(above).map_err(io_error("create", above))?;
    partial::sweep(above, is_ours);
    let (new, _unfinished) = partial::dir_in(above).map_err(io_error("write in", above))?;
    write_files(new.path(), compiled)?;
    if let Some((program, arch)) = program {
        program.write(new.path(), compiled.cubins.get(arch))?;
    }
    share_as_others(new.path())?;
    let new = new.keep();
    let result = partial::uninterrupted(|| put_in_place(&new, dir));
    if result.is_err() {
        // It may be the old directory by now, with files of somebody else's.
        partial::discard(&new, is_ours);
    }
    result
}

/// Refuses a place that [`write_plan_dir`] could not write to, as far as that can be known before
/// there is anything to write. Nothing is left there.
pub fn check_place(dir: &Path) -> Result<(), PlanDirError> {
    let dir = &dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    existing_plan(dir)?;
    let mut above = parent(dir);
    while !above.exists() && above != Path::new(".") {
        above = parent(above);
    }
    partial::dir_in(above).map_err(io_error("write in", above))?;
    Ok(())
}

/// Whether an entry of a plan directory is part of the plan, and not somebody else's.
fn is_ours(name: &OsStr) -> bool {
    let ours = [
        PLAN_TEXT,
        PLANS,
        DEVICE,
        MANIFEST,
        TUNED,
        CUBINS,
        KERNELS,
        standalone::FOLDER,
    ];
    ours.iter().any(|known| name == *known)
}

/// Whether there is a plan directory already. Anything else there, but an empty directory, is
/// refused.
fn existing_plan(dir: &Path) -> Result<bool, PlanDirError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if dir.join(MANIFEST).is_file() || entries.next().is_none() {
                return Ok(true);
            }
            Err(PlanDirError::NotAPlan {
                path: dir.to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // It is there itself; or what is above it is no directory, which is a place that cannot be written.
        Err(error)
            if error.kind() == io::ErrorKind::NotADirectory
                && std::fs::symlink_metadata(dir).is_ok() =>
        {
            Err(PlanDirError::NotAPlan {
                path: dir.to_owned(),
            })
        }
        Err(error) => Err(io_error("read", dir)(error)),
    }
}

fn write_files(dir: &Path, compiled: &PlanDir) -> Result<(), PlanDirError> {
    let kernels = dir.join(KERNELS);
    std::fs::create_dir(&kernels).map_err(io_error("create", &kernels))?;
    let write = |path: PathBuf, bytes: &[u8]| {
        std::fs::write(&path, bytes).map_err(io_error("write", &path))
    };
    for kernel in &compiled.manifest.kernels {
        write(
            kernels.join(format!("{}.cu", kernel.name)),
            kernel.source.as_bytes(),
        )?;
    }
    write(
        kernels.join(prelude::FILE),
        compiled.manifest.prelude.as_bytes(),
    )?;
    let mut index = CubinIndex {
        version: CUBINS_VERSION,
        sha256: BTreeMap::new(),
    };
    for (arch, images) in &compiled.cubins {
        let mut hashes = BTreeMap::new();
        for (kernel, image) in images {
            write(kernels.join(format!("{kernel}.{arch}.cubin")), image)?;
            hashes.insert(kernel.clone(), sha256(image));
        }
        index.sha256.insert(arch.clone(), hashes);
    }
    write(dir.join(PLAN_TEXT), compiled.text.as_bytes())?;
    write(dir.join(PLANS), &json(&dir.join(PLANS), &compiled.plans)?)?;
    write(
        dir.join(DEVICE),
        &json(&dir.join(DEVICE), &compiled.device)?,
    )?;
    write(dir.join(CUBINS), &json(&dir.join(CUBINS), &index)?)?;
    if let Some(tuned) = &compiled.tuned {
        write(dir.join(TUNED), &json(&dir.join(TUNED), tuned)?)?;
    }
    // Sources are in files of their own.
    let mut manifest = compiled.manifest.clone();
    manifest.prelude.clear();
    for kernel in &mut manifest.kernels {
        kernel.source.clear();
    }
    write(dir.join(MANIFEST), &json(&dir.join(MANIFEST), &manifest)?)
}

/// The text of a value, checked to be read as the same value: JSON has no infinities.
fn json<T>(path: &Path, value: &T) -> Result<Vec<u8>, PlanDirError>
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq,
{
    let damaged = |reason: String| PlanDirError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| damaged(error.to_string()))?;
    match serde_json::from_slice::<T>(&bytes) {
        Ok(read) if read == *value => {}
        Ok(_) => return Err(damaged("its numbers do not survive as text".into())),
        Err(error) => {
            return Err(damaged(format!(
                "it holds a number that has no text, such as infinity ({error})"
            )));
        }
    }
    bytes.push(b'\n');
    Ok(bytes)
}

/// Temporary directories are the owner's alone; a result is not.
#[cfg(unix)]
fn share_as_others(dir: &Path) -> Result<(), PlanDirError> {
    use std::os::unix::fs::PermissionsExt;
    // The sub-directory was made the usual way, so it has the user's usual mode.
    let usual = std::fs::metadata(dir.join(KERNELS)).map(|about| about.permissions().mode());
    usual
        .and_then(|mode| std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)))
        .map_err(io_error("set the mode of", dir))
}

#[cfg(not(unix))]
fn share_as_others(_dir: &Path) -> Result<(), PlanDirError> {
    Ok(())
}

/// How often a directory is put in its place when other processes put theirs there, or remove it, at
/// the same time. Each of them gets on with its own work after one attempt, so few are needed.
const ATTEMPTS: usize = 100;

/// Renames `new` to `dir`, in place of a plan directory that may be there. What is there is decided by
/// the renames themselves: whatever was seen before may have changed since.
fn put_in_place(new: &Path, dir: &Path) -> Result<(), PlanDirError> {
    // What is exchanged lies under the name of something unfinished, and its lock went with the new one.
    let _no_sweep = partial::locked_against_sweeps(parent(dir));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let exists = existing_plan(dir)?;
        let renamed = match exists {
            false => std::fs::rename(new, dir),
            true => exchange(new, dir),
        };
        match renamed {
            Ok(()) if exists => return give_back(new, dir),
            Ok(()) => return Ok(()),
            Err(error) => match error.kind() {
                // Another process was first, or removed it.
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotFound => last = Some(error),
                _ => return Err(io_error("write", dir)(error)),
            },
        }
    }
    let error = last.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into());
    Err(io_error("write", dir)(error))
}

/// Exchanges two directories: at no time is there none.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, dir: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    match renameat_with(CWD, new, CWD, dir, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => exchange_in_steps(new, dir),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
use exchange_in_steps as exchange;

/// [`exchange`] for file systems that cannot do it at once.
fn exchange_in_steps(new: &Path, dir: &Path) -> io::Result<()> {
    let aside = new.with_extension("old");
    std::fs::rename(dir, &aside)?;
    match std::fs::rename(new, dir) {
        Ok(()) => std::fs::rename(&aside, new),
        Err(error) => {
            // Back as it was, or the directory would be gone.
            std::fs::rename(&aside, dir).map_err(|second| {
                io::Error::other(format!(
                    "{error}, and the old one cannot be put back ({second}); it is at {}",
                    aside.display()
                ))
            })?;
            Err(error)
        }
    }
}

/// Moves what is not the plan's own from the directory that was replaced to `dir`, and removes the rest.
fn give_back(old: &Path, dir: &Path) -> Result<(), PlanDirError> {
    let entries = std::fs::read_dir(old).map_err(io_error("read", old))?;
    for entry in entries {
        let name = entry.map_err(io_error("read", old))?.file_name();
        if !is_ours(&name) {
            let kept = old.join(&name);
            std::fs::rename(&kept, dir.join(&name)).map_err(io_error("move back", &kept))?;
        }
    }
    match std::fs::remove_dir_all(old) {
        // Where directories cannot be locked, a sweep may have been faster.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", old)(error))
        }
        _ => Ok(()),
    }
}

/// Reads a directory written by [`write_plan_dir`]. Every version and every hash is checked. Whoever runs
/// what it holds calls [`PlanDir::check_generated`] first, or trusts whoever wrote it.
pub fn read_plan_dir(dir: &Path) -> Result<PlanDir, PlanDirError> {
    let path = dir.join(MANIFEST);
    if dir.is_dir() && !path.exists() {
        return Err(PlanDirError::NotAPlan {
            path: dir.to_owned(),
        });
    }
    let mut manifest: Manifest = parse(&path)?;
    // Names become paths below: the check comes first.
    check_manifest(&manifest).map_err(|error| PlanDirError::Manifest { path, error })?;
    let kernels = dir.join(KERNELS);
    for kernel in &mut manifest.kernels {
        let path = kernels.join(format!("{}.cu", kernel.name));
        kernel.source = read_source(&path, &kernel.source_sha256)?;
    }
    manifest.prelude = read_source(&kernels.join(prelude::FILE), &manifest.prelude_sha256)?;
    let path = dir.join(PLANS);
    let plans: Vec<Plan> = parse(&path)?;
    if let Some(plan) = plans.iter().find(|plan| plan.version != PLAN_VERSION) {
        return Err(PlanDirError::Damaged {
            path,
            reason: format!(
                "version {}, this program reads {PLAN_VERSION}",
                plan.version
            ),
        });
    }
    let path = dir.join(PLAN_TEXT);
    let text = files::read_regular(&path, MAX_PLAN_BYTES).map_err(io_error("read", &path))?;
    let text = String::from_utf8(text).map_err(|_| PlanDirError::Damaged {
        path,
        reason: "it is no text".into(),
    })?;
    Ok(PlanDir {
        cubins: read_cubins(dir, &manifest)?,
        manifest,
        plans,
        device: parse(&dir.join(DEVICE))?,
        tuned: read_tuned(dir)?,
        text,
    })
}

/// What was measured of the plans, if it was.
fn read_tuned(dir: &Path) -> Result<Option<Tuned>, PlanDirError> {
    let path = dir.join(TUNED);
    match files::read_regular(&path, limits::MAX_RECORD_BYTES) {
        Ok(bytes) => match Tuned::parse(&bytes) {
            Ok(tuned) => Ok(Some(tuned)),
            Err(reason) => Err(PlanDirError::Damaged { path, reason }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// A source, checked to be the one that was written.
fn read_source(path: &Path, hash: &str) -> Result<String, PlanDirError> {
    let bytes = files::read_regular(path, MAX_PLAN_BYTES).map_err(io_error("read", path))?;
    let damaged = |reason: &str| PlanDirError::Damaged {
        path: path.to_owned(),
        reason: reason.into(),
    };
    if sha256(&bytes) != hash {
        return Err(damaged(
            "it is not the source that was compiled (its SHA-256 differs)",
        ));
    }
    String::from_utf8(bytes).map_err(|_| damaged("it is no text"))
}

/// Indices of the plans point into the graphs, and launches of the manifest into the plans.
fn check_plans(manifest: &Manifest, plans: &[Plan]) -> Result<(), String> {
    if plans.len() != manifest.regimes.len() {
        return Err(format!(
            "it has {} plans, the manifest has {} regimes",
            plans.len(),
            manifest.regimes.len()
        ));
    }
    for (regime, plan) in manifest.regimes.iter().zip(plans) {
        fusec_fuse::validate(&regime.graph).map_err(|error| error.to_string())?;
        if let Some(step) = (regime.steps.iter()).find(|s| s.plan_kernel >= plan.kernels.len()) {
            return Err(format!(
                "a step of regime `{}` is kernel {} of a plan that has {}",
                regime.name,
                step.plan_kernel,
                plan.kernels.len()
            ));
        }
        if let Some(kernel) = plan.kernels.iter().find(|k| !inside(k, &regime.graph)) {
            return Err(format!(
                "kernel `{}` has operations or values that the model of regime `{}` has not",
                kernel.name, regime.name
            ));
        }
    }
    Ok(())
}

fn roles(body: &Body) -> impl Iterator<Item = &OpId> {
    let roles = &body.roles;
    [&roles.prologue, &roles.anchors, &roles.epilogue]
        .into_iter()
        .flatten()
}

fn inside(kernel: &Kernel, graph: &Graph) -> bool {
    let lanes = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
    let mut ops = lanes()
        .flat_map(|lane| lane.ops.iter().chain(roles(lane)))
        .chain(&kernel.ops);
    let mut values = lanes().flat_map(|lane| lane.stores.iter().chain(&lane.streamed));
    let mut tails = lanes().flat_map(|lane| &lane.tails);
    let mut axes = lanes().flat_map(|lane| lane.schedule.grid());
    ops.all(|op| op.index() < graph.ops.len())
        && values.all(|value| value.index() < graph.values.len())
        && tails.all(|state| state.index() < graph.states.len())
        && axes.all(|grid| (grid.axis.0 as usize) < graph.axes.len())
}

fn read_cubins(dir: &Path, manifest: &Manifest) -> Result<Cubins, PlanDirError> {
    let path = dir.join(CUBINS);
    let index: CubinIndex = parse(&path)?;
    let damaged = |reason: String| PlanDirError::Damaged {
        path: path.clone(),
        reason,
    };
    if index.version != CUBINS_VERSION {
        return Err(damaged(format!(
            "version {}, this program reads {CUBINS_VERSION}",
            index.version
        )));
    }
    let known: BTreeSet<&str> = manifest.images().map(|k| k.name.as_str()).collect();
    let mut cubins = Cubins::new();
    for (arch, hashes) in &index.sha256 {
        if !arch.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
            return Err(damaged(format!("`{arch}` is no architecture")));
        }
        if let Some(name) = known.iter().find(|name| !hashes.contains_key(**name)) {
            return Err(damaged(format!("kernel `{name}` has no cubin for {arch}")));
        }
        let mut images = BTreeMap::new();
        for (name, hash) in hashes {
            if !known.contains(name.as_str()) {
                return Err(damaged(format!("`{name}` is no image of the manifest")));
            }
            let path = dir.join(KERNELS).join(format!("{name}.{arch}.cubin"));
            let image =
                files::read_regular(&path, MAX_PLAN_BYTES).map_err(io_error("read", &path))?;
            if sha256(&image) != *hash {
                return Err(PlanDirError::Damaged {
                    path,
                    reason: "its SHA-256 differs from the recorded one".into(),
                });
            }
            images.insert(name.clone(), image);
        }
        cubins.insert(arch.clone(), images);
    }
    Ok(cubins)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, PlanDirError> {
    let bytes = files::read_regular(path, MAX_PLAN_BYTES).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| PlanDirError::Damaged {
        path: path.to_owned(),
        reason: readable(&error.to_string(), LONGEST_MESSAGE),
    })
}
