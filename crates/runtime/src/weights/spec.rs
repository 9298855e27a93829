//! What a user writes for `--weights`.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use fusec_ir::Graph;

use super::{Weights, WeightsError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::layout;

/// Where weights come from: `random:SEED`, or the path of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSpec {
    /// Drawn from a seed.
    Random(u64),
    /// Read from a checkpoint.
    Checkpoint(PathBuf),
}

/// Why the weights that a user asked for cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights do not fit the model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl FromStr for WeightSpec {
    type Err = Infallible;

    /// `random:` and a number below 2^64 is a seed; anything else is a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("random:").map(str::parse) {
            Some(Ok(seed)) => Self::Random(seed),
            _ => Self::Checkpoint(PathBuf::from(text)),
        })
    }
}

impl WeightSpec {
    /// Gets the weights for a graph.
    pub fn load(&self, graph: &Graph) -> Result<Weights, SpecError> {
        Ok(match self {
            Self::Random(seed) => Weights::random(graph, *seed)?,
            Self::Checkpoint(path) => {
                let stored = Checkpoint::open(path)?;
                if has_all(graph, &stored) {
                    return Ok(Weights::from_checkpoint(graph, &stored)?);
                }
                let mut respelled = Checkpoint::open(path)?;
                layout::respell(&mut respelled);
                // If neither fits, what is missing is told in the names of the file.
                let checkpoint = match has_all(graph, &respelled) {
                    true => respelled,
                    false => stored,
                };
                Weights::from_checkpoint(graph, &checkpoint)?
            }
        })
    }
}

/// Whether every parameter with a source has a tensor of one of its names.
fn has_all(graph: &Graph, checkpoint: &Checkpoint) -> bool {
    let mut sources = graph
        .params
        .iter()
        .filter_map(|param| param.source.as_ref());
    sources.all(|source| source.tensors.iter().any(|tensor| checkpoint.has(tensor)))
}
