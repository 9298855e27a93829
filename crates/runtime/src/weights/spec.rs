//! What a user writes for `--weights`.

use std::{path::PathBuf, str::FromStr};

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

/// A seed that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{seed}` is no seed: give random:N with a whole number N below 2^64; a file of this name is \
     ./random:{seed}"
)]
pub struct BadSeed {
    /// What follows `random:`.
    pub seed: String,
}

impl FromStr for WeightSpec {
    type Err = BadSeed;

    /// `random:` and a number below 2^64 is a seed; what does not begin so is a path.
    fn from_str(text: &str) -> Result<Self, BadSeed> {
        match text.strip_prefix("random:") {
            Some(seed) => match seed.parse() {
                Ok(seed) => Ok(Self::Random(seed)),
                Err(_) => Err(BadSeed { seed: seed.into() }),
            },
            None => Ok(Self::Checkpoint(PathBuf::from(text))),
        }
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

/// Whether every parameter with a source has a tensor of one of its names, or of its own.
fn has_all(graph: &Graph, checkpoint: &Checkpoint) -> bool {
    graph.params.iter().all(|param| {
        let published = param.source.iter().flat_map(|source| &source.tensors);
        let mut names = published.chain([&param.name]);
        param.source.is_none() || names.any(|name| checkpoint.has(name))
    })
}
