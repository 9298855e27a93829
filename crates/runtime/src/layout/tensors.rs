//! Sizes read from the shapes of a checkpoint's tensors.

use super::LayoutError;
use super::config::Config;
use crate::checkpoint::Checkpoint;

/// Most layers that are looked for.
pub(super) const MAX_LAYERS: usize = 4096;

/// Name of the head in every layout that has a `config.json`.
pub(super) const HEAD: &str = "lm_head.weight";

/// The tensors of a checkpoint by name.
pub(super) struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
}

impl<'a> Tensors<'a> {
    /// Those of a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Tensors { checkpoint }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }

    /// Whether the head is stored: not where the embedding serves as the head too, as the option
    /// says (`tied` is what it is without the option). A head that is stored is always used.
    pub fn check_head(&self, config: &Config<'_>, tied: bool) -> Result<(), LayoutError> {
        if config.flag("tie_word_embeddings", tied)? || self.has(HEAD) {
            return Ok(());
        }
        Err(self.no_head("'tie_word_embeddings' is false"))
    }

    /// The refusal of a checkpoint without a head; `because` says why the embedding is none.
    pub fn no_head(&self, because: &str) -> LayoutError {
        LayoutError::MissingTensor {
            file: self.checkpoint.path().to_path_buf(),
            tensor: HEAD.to_string(),
            why: format!(
                "the embedding is not the head too, as {because} \
                 (a model that was saved without its head gives no logits)"
            ),
        }
    }

    /// The extents of a tensor, of which those equal to 1 at the front are dropped where there are
    /// more than `N` (`[1, 1, C]` for a vector).
    pub fn shape<const N: usize>(
        &self,
        name: &str,
        why: &'static str,
    ) -> Result<[usize; N], LayoutError> {
        let view = self
            .checkpoint
            .tensor(name)
            .ok_or_else(|| LayoutError::MissingTensor {
                file: self.checkpoint.path().to_path_buf(),
                tensor: name.to_string(),
                why: why.to_string(),
            })?;
        let extra = view.shape.len().saturating_sub(N);
        let (ones, rest) = view.shape.split_at(extra);
        let fits = ones.iter().all(|extent| *extent == 1) && !rest.contains(&0);
        <[usize; N]>::try_from(rest)
            .ok()
            .filter(|_| fits)
            .ok_or_else(|| LayoutError::TensorShape {
                file: self.checkpoint.path().to_path_buf(),
                tensor: name.to_string(),
                got: view.shape.to_vec(),
                expected: format!("{N} dimensions of at least 1 ({why})"),
            })
    }

    /// Number of layers: one more than the largest `N` in names that start `{prefix}N.`.
    pub fn layers(&self, prefix: &str) -> Result<usize, LayoutError> {
        let numbers = self.checkpoint.names().filter_map(|name| {
            let rest = name.strip_prefix(prefix)?;
            rest.split_once('.')?.0.parse::<usize>().ok()
        });
        match numbers.max() {
            Some(last) if last < MAX_LAYERS => Ok(last + 1),
            Some(last) => Err(self.unrecognised(format!(
                "'{prefix}{last}.' is a tensor of more than {MAX_LAYERS} layers, as many as a model may have"
            ))),
            None => Err(self.unrecognised(format!("no tensor of a layer '{prefix}0.'"))),
        }
    }

    /// The quotient of an extent that has to be a multiple.
    pub fn divided(
        &self,
        tensor: &str,
        extent: usize,
        by: usize,
        what: &str,
    ) -> Result<usize, LayoutError> {
        if by > 0 && extent.is_multiple_of(by) {
            return Ok(extent / by);
        }
        Err(LayoutError::TensorShape {
            file: self.checkpoint.path().to_path_buf(),
            tensor: tensor.to_string(),
            got: vec![extent],
            expected: format!("a multiple of {by} ({what})"),
        })
    }

    /// The refusal of a checkpoint whose tensors are of no known layout.
    pub fn unrecognised(&self, why: impl Into<String>) -> LayoutError {
        LayoutError::Unrecognised {
            file: self.checkpoint.path().to_path_buf(),
            why: why.into(),
        }
    }
}
