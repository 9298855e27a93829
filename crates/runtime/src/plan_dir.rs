//! A compiled model as a directory: plans for people, the manifest, sources and cubins.
//!
//! ```text
//! NAME/plan.txt           the plans, readable
//! NAME/plan.json          the plans, one per regime
//! NAME/manifest.json      what to launch
//! NAME/cubins.json        which cubins there are, with their hashes
//! NAME/kernels/K.cu       the source of each kernel
//! NAME/kernels/K.ARCH.cubin
//! ```
//!
//! Lives here: writing it whole or not at all, reading it with every hash checked. Never here:
//! compiling, running.

use crate::executor::{ManifestError, check_manifest};
use crate::partial;
use fusec_codegen::Manifest;
use fusec_fuse::plan::PLAN_VERSION;
use fusec_fuse::{Body, Kernel, Plan};
use fusec_ir::{Graph, OpId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Version of `cubins.json`.
const CUBINS_VERSION: u32 = 1;
const PLAN_TEXT: &str = "plan.txt";
const PLANS: &str = "plan.json";
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

/// Cubins by architecture (`sm_90a`), then by kernel name.
pub type Cubins = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A compiled model, as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanDir {
    /// The manifest, with the kernels' sources.
    pub manifest: Manifest,
    /// The plans, one per regime.
    pub plans: Vec<Plan>,
    /// The plans for people.
    pub text: String,
    /// The cubins; possibly none.
    pub cubins: Cubins,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct CubinIndex {
    version: u32,
    /// SHA-256, hexadecimal, by architecture and kernel name.
    sha256: BTreeMap<String, BTreeMap<String, String>>,
}

impl PlanDir {
    /// The cubins for an architecture, by kernel name. `path` is for the message.
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

    /// Checks what running does not need: that the plans' indices point into the graphs, and the
    /// launches into the plans. `path` is for the message.
    pub fn check_plans(&self, path: &Path) -> Result<(), PlanDirError> {
        check_plans(&self.manifest, &self.plans).map_err(|reason| PlanDirError::Damaged {
            path: path.join(PLANS),
            reason,
        })
    }
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
    let (mut file, _unfinished) = partial::file_in(".tmp", parent(path))?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
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
    check_manifest(&compiled.manifest).map_err(|error| PlanDirError::Manifest {
        path: dir.join(MANIFEST),
        error,
    })?;
    // Through a link the directory itself is replaced, not the link.
    let dir = &dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let existing = existing_plan(dir)?;
    let above = parent(dir);
    std::fs::create_dir_all(above).map_err(io_error("create", above))?;
    let (new, _unfinished) =
        partial::dir_in(".plan-", above).map_err(io_error("write in", above))?;
    write_files(new.path(), compiled)?;
    share_as_others(new.path())?;
    let new = new.keep();
    let result = partial::uninterrupted(|| replace(&new, dir, above, existing));
    if result.is_err() {
        // Nothing to be done about a leftover that cannot be removed.
        std::fs::remove_dir_all(&new).ok();
    }
    result
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
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(PlanDirError::NotAPlan {
            path: dir.to_owned(),
        }),
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
    write(dir.join(CUBINS), &json(&dir.join(CUBINS), &index)?)?;
    // Sources are in files of their own.
    let mut manifest = compiled.manifest.clone();
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

fn replace(new: &Path, dir: &Path, above: &Path, existing: bool) -> Result<(), PlanDirError> {
    if !existing {
        return std::fs::rename(new, dir).map_err(io_error("write", dir));
    }
    let aside = tempfile::Builder::new()
        .prefix(".plan-")
        .tempdir_in(above)
        .map_err(io_error("write in", above))?;
    let old = aside.path().join("old");
    std::fs::rename(dir, &old).map_err(io_error("replace", dir))?;
    if let Err(error) = std::fs::rename(new, dir) {
        // Back as it was, or the directory would be gone.
        if let Err(second) = std::fs::rename(&old, dir) {
            let kept = aside.keep().join("old");
            return Err(PlanDirError::Damaged {
                path: dir.to_owned(),
                reason: format!(
                    "cannot write it ({error}) nor put the old one back ({second}); it is at {}",
                    kept.display()
                ),
            });
        }
        return Err(io_error("write", dir)(error));
    }
    for entry in std::fs::read_dir(&old).map_err(io_error("read", &old))? {
        let entry = entry.map_err(io_error("read", &old))?;
        let name = entry.file_name();
        let ours = [PLAN_TEXT, PLANS, MANIFEST, CUBINS, KERNELS];
        if !ours.iter().any(|known| name == *known) {
            let target = dir.join(&name);
            if let Err(error) = std::fs::rename(entry.path(), &target) {
                let kept = aside.keep().join("old").join(&name);
                return Err(io_error("move back", &kept)(error));
            }
        }
    }
    Ok(())
}

/// Reads a directory written by [`write_plan_dir`]. Every version and every hash is checked.
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
        let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
        let damaged = |reason: &str| PlanDirError::Damaged {
            path: path.clone(),
            reason: reason.into(),
        };
        if sha256(&bytes) != kernel.source_sha256 {
            return Err(damaged(
                "it is not the source that was compiled (its SHA-256 differs)",
            ));
        }
        kernel.source = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    }
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
    let text = std::fs::read_to_string(&path).map_err(io_error("read", &path))?;
    Ok(PlanDir {
        cubins: read_cubins(dir, &manifest)?,
        manifest,
        plans,
        text,
    })
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
    let known: BTreeSet<&str> = manifest.kernels.iter().map(|k| k.name.as_str()).collect();
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
                return Err(damaged(format!("`{name}` is no kernel of the manifest")));
            }
            let path = dir.join(KERNELS).join(format!("{name}.{arch}.cubin"));
            let image = std::fs::read(&path).map_err(io_error("read", &path))?;
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
    let bytes = std::fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| PlanDirError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
