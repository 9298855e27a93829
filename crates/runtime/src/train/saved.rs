//! Checkpoints of a training: a directory per kept step, whole or not there at all.
//!
//!     OUT/step-00000200/weights.safetensors     every parameter by its full name, f32: what
//!                                               `--weights` and `fusec import` read
//!                                   optimizer.safetensors   the means of AdamW, `first.NAME`, `second.NAME`
//!                                   training.json           the step, and the settings it was made with
//!
//! A directory is written under another name and renamed when all of it is on the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fusec_ir::Graph;
use serde::{Deserialize, Serialize};

use super::adamw::AdamW;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::partial;
use crate::tensor_file::{self, TensorFileError};
use crate::weights::{Weights, WeightsError};

/// The weights within a checkpoint of a training.
pub const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const ABOUT: &str = "training.json";
const PREFIX: &str = "step-";

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
    /// Tokens in the text.
    pub tokens: usize,
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
    fs::File::open(&path)
        .and_then(|f| f.sync_all())
        .map_err(io(&path))?;
    let to = directory(out, step);
    fs::rename(scratch.path(), &to).map_err(io(&to))?;
    // Renamed: nothing is left to remove.
    drop(scratch.keep());
    drop(unfinished);
    Ok(to)
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    [WEIGHTS, OPTIMIZER, ABOUT].iter().any(|ours| name == *ours) || partial::is_partial_name(name)
}

/// Reads the checkpoint of the latest step in `out`.
pub fn latest(out: &Path, graph: &Graph) -> Result<Saved, SavedError> {
    let nothing = || SavedError::Nothing {
        path: out.to_path_buf(),
    };
    let entries = fs::read_dir(out).map_err(|_| nothing())?;
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
    let steps = entries.filter_map(|entry| number(&entry.ok()?.file_name()));
    let step = steps.max().ok_or_else(nothing)?;
    let place = directory(out, step);
    let path = place.join(ABOUT);
    let text = fs::read_to_string(&path).map_err(|source| SavedError::Io {
        path: path.clone(),
        source,
    })?;
    let about: About = serde_json::from_str(&text).map_err(|error| SavedError::About {
        path: path.clone(),
        reason: error.to_string(),
    })?;
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
