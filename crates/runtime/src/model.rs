//! What a user calls MODEL: a model text, or a checkpoint whose model is recognised.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fusec_ir::Graph;
use fusec_ir::language::{
    LanguageError, ModelSource, Overrides, SourceMap, Warning, compile_with_warnings,
};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::layout::{self, Assumed, Layout, LayoutError, embedded};
use crate::weights::{SpecError, WeightSpec, Weights};

/// Name of the model text in a directory that is a model.
pub const TEXT: &str = "model.toml";

/// A model, and the checkpoint it was recognised from.
#[derive(Debug)]
pub struct Model {
    /// Its meaning.
    pub graph: Graph,
    /// How many atomic axes each declared dimension of an input or a parameter has, by its name.
    pub dimensions: BTreeMap<String, Vec<usize>>,
    /// Things in its text that look like mistakes but stop nothing.
    pub warnings: Vec<Warning>,
    /// The texts that spans of the graph point into.
    pub sources: SourceMap,
    /// Preset, sizes and settings that differ from the text's own: those of the checkpoint, and
    /// over them those asked for.
    pub overrides: Overrides,
    /// Settings among them that the checkpoint leaves open and nobody asked for.
    pub assumed: Vec<Assumed>,
    /// The checkpoint, unless a model text was given.
    pub checkpoint: Option<Checkpoint>,
    path: PathBuf,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text does not compile.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint is of no known model.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The weights cannot be had.
    #[error(transparent)]
    Weights(#[from] SpecError),
    /// There is no such model.
    #[error("no model called `{name}` is built in")]
    NotBuiltIn {
        /// As asked for.
        name: String,
    },
    /// A model text comes without weights.
    #[error("{} is a model text, which has no weights: give --weights CHECKPOINT or --weights random:SEED", path.display())]
    NoWeights {
        /// The text.
        path: PathBuf,
    },
}

impl Model {
    /// Opens a model text (`.toml`, a pipe, or a directory with a [`TEXT`] and no `config.json`) or a
    /// checkpoint. What `overrides` says wins over what is read from a checkpoint.
    pub fn open(path: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        let within = path.join(TEXT);
        let path = match within.exists() && !path.join("config.json").exists() {
            true => within.as_path(),
            false => path,
        };
        // Of a stream nothing can be mapped, as a checkpoint is.
        let is_stream = |about: fs::Metadata| !about.is_file() && !about.is_dir();
        let is_text = path.extension().is_some_and(|e| e == "toml")
            || fs::metadata(path).is_ok_and(is_stream);
        let (source, overrides, assumed, checkpoint) = if is_text {
            let source = ModelSource::from_path(path).map_err(|source| ModelError::Read {
                path: path.to_path_buf(),
                source,
            })?;
            (source, overrides.clone(), Vec::new(), None)
        } else {
            let mut checkpoint = Checkpoint::open(path)?;
            layout::respell(&mut checkpoint);
            let mut layout = Layout::of(&checkpoint)?;
            let asked = |assumed: &Assumed| overrides.settings.contains_key(&assumed.setting);
            layout.assumed.retain(|assumed| !asked(assumed));
            let mut all = layout.overrides.clone();
            all.preset.clone_from(&overrides.preset);
            all.axes.extend(overrides.axes.clone());
            all.settings.extend(overrides.settings.clone());
            (layout.source(), all, layout.assumed, Some(checkpoint))
        };
        Ok(Model {
            assumed,
            checkpoint,
            ..Self::of_text(path, &source, overrides)?
        })
    }

    /// A model that is built in; see [`crate::layout::embedded_names`].
    pub fn built_in(name: &str, overrides: &Overrides) -> Result<Self, ModelError> {
        let source = embedded(name).ok_or_else(|| ModelError::NotBuiltIn {
            name: name.to_owned(),
        })?;
        Self::of_text(Path::new(name), &source, overrides.clone())
    }

    /// A model text that is no file. It can include nothing.
    pub fn from_text(text: &str, overrides: &Overrides) -> Result<Self, ModelError> {
        let source = ModelSource::from_text("<text>", text);
        Self::of_text(Path::new("<text>"), &source, overrides.clone())
    }

    fn of_text(
        path: &Path,
        source: &ModelSource<'_>,
        overrides: Overrides,
    ) -> Result<Self, ModelError> {
        let compiled = compile_with_warnings(source, &overrides)?;
        Ok(Model {
            graph: compiled.graph,
            dimensions: compiled.dimensions,
            warnings: compiled.warnings,
            sources: compiled.sources,
            overrides,
            assumed: Vec::new(),
            checkpoint: None,
            path: path.to_path_buf(),
        })
    }

    /// The warnings as `FILE:LINE: message`.
    pub fn warnings_with_places(&self) -> Vec<String> {
        let warnings = self.warnings.iter();
        warnings
            .map(|warning| match self.sources.locate(warning.span) {
                Some((file, range)) => {
                    let before = file.text.get(..range.start).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    format!("{}:{line}: {}", file.name, warning.message)
                }
                None => warning.message.clone(),
            })
            .collect()
    }

    /// The weights: those asked for, or the checkpoint's own.
    pub fn weights(&self, spec: Option<&WeightSpec>) -> Result<Weights, ModelError> {
        match (spec, &self.checkpoint) {
            (Some(spec), _) => Ok(spec.load(&self.graph)?),
            (None, Some(checkpoint)) => {
                let weights = Weights::from_checkpoint(&self.graph, checkpoint);
                Ok(weights.map_err(SpecError::from)?)
            }
            (None, None) => Err(ModelError::NoWeights {
                path: self.path.clone(),
            }),
        }
    }
}
