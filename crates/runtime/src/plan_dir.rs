//! A compiled model as a directory, written whole or not at all, and never trusted when read.
//!
//! ```text
//! plan.txt          the plans, for people
//! plan.json         the plans, one per regime
//! manifest.json     every launch with its arguments (sources left out)
//! kernels/*.cu      the sources
//! kernels/*.cubin   the compiled kernels, where there was a compiler
//! cubins.json       what they were compiled for, and what they use; absent without cubins
//! ```
//!
//! Lives here: the layout and its checks. Never here: making any of these things, or running them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fusec_codegen::Manifest;
use fusec_fuse::Plan;
use fusec_ir::Graph;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cubin::Resources;
use crate::executor::{ManifestError, check_manifest};
use crate::toolchain::{Arch, Artifact};

const PLAN_TEXT: &str = "plan.txt";
const PLANS: &str = "plan.json";
const MANIFEST: &str = "manifest.json";
const KERNELS: &str = "kernels";
const CUBINS: &str = "cubins.json";
/// Everything a plan directory holds; whatever else is found in one is somebody's own.
const OURS: [&str; 5] = [PLAN_TEXT, PLANS, MANIFEST, KERNELS, CUBINS];

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The launches, with the kernels' sources.
    pub manifest: &'a Manifest,
    /// One plan for each regime of the manifest.
    pub plans: &'a [&'a Plan],
    /// The plans for people.
    pub text: &'a str,
    /// The compiled kernels, if there was a compiler.
    pub cubins: Option<Compiled<'a>>,
}

/// Compiled kernels.
#[derive(Clone, Copy, Debug)]
pub struct Compiled<'a> {
    /// What they were compiled for.
    pub arch: Arch,
    /// One for each kernel of the manifest.
    pub artifacts: &'a [Artifact],
}

/// A directory that was read.
#[derive(Clone, Debug)]
pub struct PlanDir {
    /// Where it is.
    pub path: PathBuf,
    /// The launches, with the kernels' sources; checked.
    pub manifest: Manifest,
    /// One plan for each regime; its indices are those of the regime's graph.
    pub plans: Vec<Plan>,
    /// The compiled kernels, if there are any.
    pub cubins: Option<CarriedCubins>,
}

/// Compiled kernels that came with a plan directory.
#[derive(Clone, Debug)]
pub struct CarriedCubins {
    /// What they were compiled for.
    pub arch: Arch,
    /// ELF images, one for each kernel of the manifest.
    pub images: Vec<Vec<u8>>,
    /// What each uses, as far as it was recorded.
    pub resources: Vec<Option<Resources>>,
}

/// `cubins.json`.
#[derive(Serialize, Deserialize)]
struct CubinRecords {
    arch: Arch,
    /// By kernel name.
    kernels: BTreeMap<String, CubinRecord>,
}

#[derive(Serialize, Deserialize)]
struct CubinRecord {
    sha256: String,
    resources: Option<Resources>,
}

/// Why a plan directory cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanDirError {
    /// The system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something that is not a compiled model is in the way.
    #[error(
        "{} holds `{found}`, which no compiled model has, so it is not replaced; \
         give another directory with --out",
        path.display()
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {reason}; compile the model again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The manifest contradicts itself, or is of another version.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlanDirError {
    move |source| PlanDirError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> PlanDirError {
    PlanDirError::Damaged {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

/// Writes a file that appears whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Whether a path looks like a directory that [`write`] made.
pub fn is_plan_dir(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// Writes a plan directory. It is built under a temporary name beside its place and renamed; a
/// plan directory that is there already is replaced, anything else is left alone.
pub fn write(dir: &Path, contents: &Contents<'_>) -> Result<(), PlanDirError> {
    // Through a link, what it points to is replaced.
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let exists = replaceable(dir)?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    let scratch = tempfile::Builder::new()
        .prefix(".fusec-writing-")
        .tempdir_in(parent)
        .map_err(io_error("write a directory in", parent))?;
    let new = scratch.path().join("new");
    fill(&new, contents)?;
    if exists {
        let old = scratch.path().join("old");
        fs::rename(dir, &old).map_err(io_error("replace", dir))?;
        if let Err(error) = fs::rename(&new, dir) {
            // Best effort: the message is about the failure that led here.
            let _ = fs::rename(&old, dir);
            return Err(io_error("replace", dir)(error));
        }
    } else {
        fs::rename(&new, dir).map_err(io_error("create", dir))?;
    }
    Ok(())
}

/// Whether there is something at this place, and that it may be replaced.
fn replaceable(dir: &Path) -> Result<bool, PlanDirError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("write", dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(PlanDirError::Occupied {
                path: dir.to_path_buf(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(true)
}

fn fill(dir: &Path, contents: &Contents<'_>) -> Result<(), PlanDirError> {
    let kernels = dir.join(KERNELS);
    fs::create_dir_all(&kernels).map_err(io_error("create", &kernels))?;
    let put = |path: PathBuf, bytes: &[u8]| -> Result<(), PlanDirError> {
        fs::write(&path, bytes).map_err(io_error("write", &path))
    };
    put(dir.join(PLAN_TEXT), contents.text.as_bytes())?;
    put(dir.join(PLANS), &json(&dir.join(PLANS), &contents.plans)?)?;
    put(
        dir.join(MANIFEST),
        &json(&dir.join(MANIFEST), contents.manifest)?,
    )?;
    for kernel in &contents.manifest.kernels {
        put(
            kernels.join(format!("{}.cu", kernel.name)),
            kernel.source.as_bytes(),
        )?;
    }
    let Some(Compiled { arch, artifacts }) = contents.cubins else {
        return Ok(());
    };
    let mut records = BTreeMap::new();
    for (kernel, artifact) in contents.manifest.kernels.iter().zip(artifacts) {
        put(
            kernels.join(format!("{}.cubin", kernel.name)),
            &artifact.cubin,
        )?;
        let record = CubinRecord {
            sha256: sha256(&artifact.cubin),
            resources: artifact.resources.get(&kernel.entry).cloned(),
        };
        records.insert(kernel.name.clone(), record);
    }
    let records = CubinRecords {
        arch,
        kernels: records,
    };
    put(dir.join(CUBINS), &json(&dir.join(CUBINS), &records)?)
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, PlanDirError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| io_error("write", path)(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a plan directory and checks that its parts belong together.
pub fn open(dir: &Path) -> Result<PlanDir, PlanDirError> {
    let manifest_path = dir.join(MANIFEST);
    let mut manifest: Manifest = parse(&manifest_path)?;
    // Before any name in it is used as a path.
    check_manifest(&manifest).map_err(|source| PlanDirError::Manifest {
        path: manifest_path.clone(),
        source,
    })?;
    for regime in &manifest.regimes {
        fusec_fuse::validate(&regime.graph)
            .map_err(|error| damaged(&manifest_path, error.to_string()))?;
    }
    let plans_path = dir.join(PLANS);
    let plans: Vec<Plan> = parse(&plans_path)?;
    check_plans(&manifest, &plans).map_err(|reason| damaged(&plans_path, reason))?;
    for kernel in &mut manifest.kernels {
        let path = dir.join(KERNELS).join(format!("{}.cu", kernel.name));
        let source = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        if sha256(source.as_bytes()) != kernel.source_sha256 {
            return Err(damaged(&path, "it is not the source in the manifest"));
        }
        kernel.source = source;
    }
    let cubins = match dir.join(CUBINS).exists() {
        true => Some(carried(dir, &manifest)?),
        false => None,
    };
    Ok(PlanDir {
        path: dir.to_path_buf(),
        manifest,
        plans,
        cubins,
    })
}

fn carried(dir: &Path, manifest: &Manifest) -> Result<CarriedCubins, PlanDirError> {
    let records_path = dir.join(CUBINS);
    let mut records: CubinRecords = parse(&records_path)?;
    let mut out = CarriedCubins {
        arch: records.arch,
        images: Vec::new(),
        resources: Vec::new(),
    };
    for kernel in &manifest.kernels {
        let Some(record) = records.kernels.remove(&kernel.name) else {
            let reason = format!("it has no kernel `{}`", kernel.name);
            return Err(damaged(&records_path, reason));
        };
        let path = dir.join(KERNELS).join(format!("{}.cubin", kernel.name));
        let image = fs::read(&path).map_err(io_error("read", &path))?;
        if sha256(&image) != record.sha256 {
            return Err(damaged(&path, "it is not the cubin that was compiled"));
        }
        out.images.push(image);
        out.resources.push(record.resources);
    }
    Ok(out)
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, PlanDirError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(path, error.to_string()))
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

fn inside(kernel: &fusec_fuse::Kernel, graph: &Graph) -> bool {
    let lanes = || kernel.phases.iter().flat_map(|phase| &phase.lanes);
    let mut ops = lanes()
        .flat_map(|lane| lane.ops.iter().chain(&lane.anchors))
        .chain(&kernel.ops);
    let mut values = lanes().flat_map(|lane| &lane.stores);
    let mut tails = lanes().flat_map(|lane| &lane.tails);
    let mut axes = lanes().flat_map(|lane| &lane.grid);
    ops.all(|op| op.index() < graph.ops.len())
        && values.all(|value| value.index() < graph.values.len())
        && tails.all(|state| state.index() < graph.states.len())
        && axes.all(|grid| (grid.axis.0 as usize) < graph.axes.len())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
