//! Checkpoints of a training: a directory per kept step, whole or not there at all.
//!
//! | file in `OUT/step-00000200/` | holds |
//! |---|---|
//! | `weights.safetensors` | every parameter by its full name, in its shape, f32: what `--weights` reads |
//! | `optimizer.safetensors` | the means of AdamW, `first.NAME` and `second.NAME`, f32 |
//! | `training.json` | the step, and the settings that it was made with |
//!
//! A directory is written under another name and renamed when all of it is on the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fusec_ir::language::{LONGEST_MESSAGE, readable};
use fusec_ir::{Graph, files};
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::partial;
use crate::plan_dir::sha256;
use crate::tensor_file::{self, TensorFileError};
use crate::weights::{Weights, WeightsError};

/// The weights within a checkpoint of a training.
pub const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const ABOUT: &str = "training.json";
const PREFIX: &str = "step-";
/// Most bytes of `training.json`; what is written has some hundred.
const MOST_ABOUT: u64 = 1 << 20;

/// What decides the course of a training, beside the weights: a training goes on only with the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the model.
    pub model: String,
    /// Steps in all.
    pub steps: u64,
    /// Sequences of a batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Batches of a step.
    pub accumulate: u64,
    /// Seed of the pieces that are trained on.
    pub seed: u64,
    /// Largest learning rate.
    pub rate: f64,
    /// The rate at the end.
    pub least_rate: f64,
    /// `constant`, `linear` or `cosine`.
    pub schedule: String,
    /// Steps of rising rate.
    pub warmup: u64,
    /// Decay of the weights of projections and of tables.
    pub weight_decay: f64,
    /// Largest norm of a gradient; `None`: it is not clipped.
    pub clip: Option<f64>,
    /// SHA-256 of the token ids that are trained on.
    pub text: String,
    /// SHA-256 of the graph: what the model's text says, sizes and settings with it.
    pub graph: String,
}

impl Settings {
    /// What is another than in `now`, each as "name: here, now there".
    pub fn differences(&self, now: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |name: &str, here: &dyn std::fmt::Debug, there: &dyn std::fmt::Debug| {
            let (here, there) = (format!("{here:?}"), format!("{there:?}"));
            if here != there {
                found.push(format!("{name} {here}, now {there}"));
            }
        };
        // All of them are named here, so that none is forgotten.
        let Settings {
            model,
            steps,
            batch,
            length,
            accumulate,
            seed,
            rate,
            least_rate,
            schedule,
            warmup,
            weight_decay,
            clip,
            text,
            graph,
        } = self;
        differ("model", model, &now.model);
        differ("steps", steps, &now.steps);
        differ("batch", batch, &now.batch);
        differ("length", length, &now.length);
        differ("accumulate", accumulate, &now.accumulate);
        differ("seed", seed, &now.seed);
        differ("lr", rate, &now.rate);
        differ("min-lr", least_rate, &now.least_rate);
        differ("schedule", schedule, &now.schedule);
        differ("warmup", warmup, &now.warmup);
        differ("weight-decay", weight_decay, &now.weight_decay);
        differ("clip", clip, &now.clip);
        for (name, here, there) in [
            ("another text", text, &now.text),
            ("another model, or other sizes of it", graph, &now.graph),
        ] {
            if here != there {
                found.push(name.into());
            }
        }
        found
    }
}

#[derive(Serialize, Deserialize)]
struct About {
    step: u64,
    settings: Settings,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Saved {
    /// Steps made.
    pub step: u64,
    /// With which settings.
    pub settings: Settings,
    /// The weights.
    pub params: Vec<Vec<f32>>,
    /// Mean of the gradients, and of their squares.
    pub means: [Vec<Vec<f32>>; 2],
}

/// A checkpoint of a training that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// The directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of tensors that was to be written.
    #[error(transparent)]
    Write(#[from] TensorFileError),
    /// A file of tensors that was to be read.
    #[error(transparent)]
    Read(#[from] CheckpointError),
    /// Weights of another model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What says how far it was.
    #[error("{}: {reason}", path.display())]
    About {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing to go on from.
    #[error("{} holds no checkpoint of a training (step-N); begin without --resume", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
}

/// SHA-256 of a graph, but for what changes no number that it computes: places in the text, wishes about
/// fusion, what is expected of its numbers, and where a checkpoint has its tensors.
pub fn digest(graph: &Graph) -> String {
    let mut graph = graph.clone();
    graph.pins.clear();
    graph.allow_unused.clear();
    graph.zeros = 0.0;
    for param in &mut graph.params {
        param.source = None;
        param.span = None;
    }
    for op in &mut graph.ops {
        op.span = None;
    }
    // A graph is plain data: no map of it has keys that are no text, and nothing fails to be written.
    sha256(&serde_json::to_vec(&graph).unwrap_or_default())
}

/// The directory of a step within `out`.
pub fn directory(out: &Path, step: u64) -> PathBuf {
    out.join(format!("{PREFIX}{step:08}"))
}

/// Writes a checkpoint into `out`, which holds none of the same step.
pub fn write(
    out: &Path,
    graph: &Graph,
    step: u64,
    settings: &Settings,
    params: &[Vec<f32>],
    optimizer: &AdamW,
) -> Result<PathBuf, SavedError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SavedError::Io { path, source }
    };
    fs::create_dir_all(out).map_err(io(out))?;
    partial::sweep(out, is_ours);
    let (scratch, unfinished) = partial::dir_in(out).map_err(io(out))?;
    let shape = |k: usize| -> Vec<usize> {
        let axes = &graph.value(graph.params[k].value).axes;
        axes.iter().map(|axis| graph.size(*axis)).collect()
    };
    let named = |prefix: &str, all: &[Vec<f32>]| -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let each = graph.params.iter().zip(all).enumerate();
        each.map(|(k, (param, x))| (format!("{prefix}{}", param.name), shape(k), x.clone()))
            .collect()
    };
    let save = |name: &str, tensors: &[(String, Vec<usize>, Vec<f32>)]| {
        let each = tensors.iter();
        let each = each.map(|(name, shape, x)| (name.as_str(), shape.clone(), x.as_slice()));
        tensor_file::write(&scratch.path().join(name), each)
    };
    save(WEIGHTS, &named("", params))?;
    let mut means = named("first.", &optimizer.first);
    means.extend(named("second.", &optimizer.second));
    save(OPTIMIZER, &means)?;
    let about = About {
        step,
        settings: settings.clone(),
    };
    let path = scratch.path().join(ABOUT);
    let text = serde_json::to_string_pretty(&about).map_err(|error| SavedError::About {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    fs::write(&path, text + "\n").map_err(io(&path))?;
    // A name on the disk whose contents are not would be a checkpoint after a loss of power.
    for name in [WEIGHTS, OPTIMIZER, ABOUT] {
        synced(&scratch.path().join(name))?;
    }
    // Temporary directories are the owner's alone; a checkpoint is for whom its place is.
    let usual = fs::metadata(out).map_err(io(out))?.permissions();
    fs::set_permissions(scratch.path(), usual).map_err(io(scratch.path()))?;
    let to = directory(out, step);
    fs::rename(scratch.path(), &to).map_err(io(&to))?;
    // Renamed: nothing is left to remove.
    drop(scratch.keep());
    drop(unfinished);
    synced(out)?;
    Ok(to)
}

fn synced(path: &Path) -> Result<(), SavedError> {
    let file = fs::File::open(path);
    file.and_then(|f| f.sync_all())
        .map_err(|source| SavedError::Io {
            path: path.to_path_buf(),
            source,
        })
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    [WEIGHTS, OPTIMIZER, ABOUT].iter().any(|ours| name == *ours) || partial::is_partial_name(name)
}

/// The latest step of which `out` holds a checkpoint; `None`: it holds none.
pub fn latest_step(out: &Path) -> Result<Option<u64>, SavedError> {
    let failed = |source| SavedError::Io {
        path: out.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut latest = None;
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let number = |name: &str| name.strip_prefix(PREFIX)?.parse::<u64>().ok();
        // Only a name that `directory` gives: what somebody else calls `step-7` is theirs.
        let step = name.to_str().and_then(number);
        latest = latest.max(step.filter(|step| directory(out, *step) == out.join(&name)));
    }
    Ok(latest)
}

/// Reads the checkpoint of the latest step in `out`.
pub fn latest(out: &Path, graph: &Graph) -> Result<Saved, SavedError> {
    let Some(step) = latest_step(out)? else {
        return Err(SavedError::Nothing {
            path: out.to_path_buf(),
        });
    };
    let place = directory(out, step);
    let path = place.join(ABOUT);
    let damaged = |reason: String| SavedError::About {
        path: path.clone(),
        reason,
    };
    let text = files::read_regular(&path, MOST_ABOUT).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => damaged(format!(
            "it is larger than {MOST_ABOUT} bytes, so nothing that fusec wrote"
        )),
        _ => SavedError::Io {
            path: path.clone(),
            source,
        },
    })?;
    let about: About = serde_json::from_slice(&text)
        .map_err(|error| damaged(readable(&error.to_string(), LONGEST_MESSAGE)))?;
    if about.step != step {
        return Err(damaged(format!("it is of step {}, not {step}", about.step)));
    }
    let weights = Checkpoint::open(place.join(WEIGHTS))?;
    let params = Weights::from_checkpoint(graph, &weights)?.into_params();
    let means = Checkpoint::open(place.join(OPTIMIZER))?;
    let read = |prefix: &str| -> Result<Vec<Vec<f32>>, SavedError> {
        let each = graph.params.iter().zip(&params);
        each.map(|(param, x)| {
            let name = format!("{prefix}{}", param.name);
            let mean = means.read_f32(&name)?;
            match mean.len() == x.len() {
                true => Ok(mean),
                false => Err(SavedError::About {
                    path: place.join(OPTIMIZER),
                    reason: format!("`{name}` has {} elements, expected {}", mean.len(), x.len()),
                }),
            }
        })
        .collect()
    };
    let means = [read("first.")?, read("second.")?];
    Ok(Saved {
        step: about.step,
        settings: about.settings,
        params,
        means,
    })
}
