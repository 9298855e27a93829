//! Which model a checkpoint is: the only place that knows model families by name.
//!
//! A family's file decides from `config.json` and the tensors' names and shapes which model text
//! of `models/` fits, and with which sizes and settings. What it cannot express is refused by
//! name. Which tensor becomes which parameter is written in the model text, not here.

mod config;
mod delta;
mod frame;
mod gla;
mod griffin;
mod hgrn;
mod lfm2;
mod linear;
mod mamba;
mod mamba_ssm;
mod models;
mod rope;
mod rwkv;
mod spelling;
mod tensors;
mod tuned_state;
mod xlstm;

use std::collections::BTreeMap;
use std::path::PathBuf;

use fusec_ir::language::{ModelSource, Overrides, Setting};

use crate::checkpoint::Checkpoint;
use config::Config;
use tensors::Tensors;

pub use models::{embedded, embedded_names, read_into};
pub(crate) use spelling::respell;
pub use tuned_state::tuned_state;

/// The model text that a checkpoint is of, with sizes and settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// File name of the model text, without `.toml`.
    pub model: &'static str,
    /// Sizes and settings read from the checkpoint.
    pub overrides: Overrides,
    /// Settings among them that the checkpoint leaves open, in the order of their names.
    pub assumed: Vec<Assumed>,
}

/// A setting that changes what a model computes, and that its checkpoint does not say.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Assumed {
    /// Its name in the model text.
    pub setting: String,
    /// The value it was given.
    pub value: String,
    /// Why that value.
    pub why: String,
}

impl std::fmt::Display for Assumed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Assumed {
            setting,
            value,
            why,
        } = self;
        write!(
            f,
            "the checkpoint does not say `{setting}`: taken as {value}, {why} (--set {setting}=...)"
        )
    }
}

/// Why a checkpoint cannot be told to be of a model that fusec has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A `model_type` that no family claims.
    #[error(
        "{}: the model type '{found}' is not known; known are {}. \
         Write a model.toml for it and run that with --weights {}",
        file.display(), KNOWN.join(", "), file.parent().unwrap_or(file).display()
    )]
    UnknownType {
        /// The `config.json`.
        file: PathBuf,
        /// What it says.
        found: String,
    },
    /// A `model_type` that cannot be expressed, and why.
    #[error("{}: the model type '{found}' is not implemented: {why}", file.display())]
    Inexpressible {
        /// The `config.json`.
        file: PathBuf,
        /// What it says.
        found: String,
        /// What stands in the way.
        why: &'static str,
    },
    /// No configuration, and tensors of no known native layout.
    #[error(
        "{}: cannot tell which model this is: {why}",
        file.display()
    )]
    Unrecognised {
        /// The checkpoint.
        file: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// An option that the family needs.
    #[error("{}: the option '{option}' is missing", file.display())]
    MissingOption {
        /// The `config.json`.
        file: PathBuf,
        /// Its name.
        option: String,
    },
    /// An option of the wrong type or range.
    #[error("{}: the option '{option}' is {value}, expected {expected}", file.display())]
    BadOption {
        /// The `config.json`.
        file: PathBuf,
        /// Its name.
        option: String,
        /// Its value, as JSON.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// An option whose value changes the model into one that is not implemented.
    #[error(
        "{}: the option '{option}' is {value}, which is not implemented (implemented: {implemented})",
        file.display()
    )]
    NotImplemented {
        /// The `config.json`.
        file: PathBuf,
        /// Its name.
        option: String,
        /// Its value, as JSON.
        value: String,
        /// Values that would do.
        implemented: String,
    },
    /// A tensor that gives a size is missing.
    #[error("{}: tensor '{tensor}' is missing: {why}", file.display())]
    MissingTensor {
        /// The checkpoint.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// What it is needed for.
        why: String,
    },
    /// A tensor that gives a size has another shape.
    #[error("{}: tensor '{tensor}' has shape {got:?}, expected {expected}", file.display())]
    TensorShape {
        /// The checkpoint.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// Its shape.
        got: Vec<usize>,
        /// Shape in words.
        expected: String,
    },
}

/// Every `model_type` that a family claims.
const KNOWN: [&str; 17] = [
    "comba",
    "delta_net",
    "gated_deltanet",
    "gated_deltaproduct",
    "gla",
    "hgrn",
    "hgrn2",
    "kda",
    "lfm2",
    "linear_attn",
    "mamba",
    "mamba2",
    "recurrent_gemma",
    "retnet",
    "rwkv6",
    "rwkv7",
    "xlstm",
];

/// Every `model_type` that is refused with a reason of its own.
const INEXPRESSIBLE: [(&str, &str); 5] = [
    (
        "log_linear_mamba2",
        "its states are the nodes of a Fenwick tree, as many as the position has binary digits, and \
         the position's trailing zeros say which of them merge; a recurrence here has a fixed number \
         of states and one step for every token",
    ),
    (
        "mesa_net",
        "each token solves a linear system with its state by conjugate gradients, whose steps the \
         class gives a number of their own in training and in decode",
    ),
    (
        "minimax",
        "a router sends each token to some of several MLPs, and rows that go different ways are not \
         implemented; its lightning attention is a recurrence like the one of retnet",
    ),
    (
        "lfm2_moe",
        "a router sends each token to some of several MLPs, and rows that go different ways are not \
         implemented; what it mixes tokens with is what lfm2 has",
    ),
    (
        "mamba3",
        "its kernels run on GPUs only, and a model text has not been checked against them yet; the \
         recurrence itself can be written in a model.toml",
    ),
];

impl Layout {
    /// Recognises a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, LayoutError> {
        let tensors = Tensors::new(checkpoint);
        let Some(options) = checkpoint.config().and_then(|c| c.as_object()) else {
            return rwkv::native(&tensors);
        };
        let config = Config::new(checkpoint.path(), options);
        let kind = options.get("model_type").and_then(|v| v.as_str());
        let layout = match kind.unwrap_or_default() {
            "" if mamba_ssm::wrote(&config) => mamba_ssm::mamba(&config, &tensors),
            "rwkv6" => rwkv::rwkv6(&config, &tensors),
            "rwkv7" => rwkv::rwkv7(&config, &tensors),
            "mamba" => mamba::mamba1(&config, &tensors),
            "mamba2" => mamba::mamba2(&config, &tensors),
            "gla" => gla::gla(&config, &tensors),
            "retnet" => gla::retnet(&config, &tensors),
            "delta_net" => delta::deltanet(&config, &tensors),
            "gated_deltanet" => delta::gated_deltanet(&config, &tensors),
            "kda" => delta::kda(&config, &tensors),
            "hgrn" => hgrn::hgrn(&config, &tensors),
            "hgrn2" => hgrn::hgrn2(&config, &tensors),
            "gated_deltaproduct" => delta::deltaproduct(&config, &tensors),
            "comba" => delta::comba(&config, &tensors),
            "linear_attn" => linear::linear_attention(&config, &tensors),
            "xlstm" => xlstm::xlstm(&config, &tensors),
            "recurrent_gemma" => griffin::recurrent_gemma(&config, &tensors),
            "lfm2" => lfm2::lfm2(&config, &tensors),
            found => {
                if let Some((_, why)) = INEXPRESSIBLE.iter().find(|(kind, _)| *kind == found) {
                    return Err(LayoutError::Inexpressible {
                        file: checkpoint.path().join("config.json"),
                        found: found.to_string(),
                        why,
                    });
                }
                return Err(LayoutError::UnknownType {
                    file: checkpoint.path().join("config.json"),
                    found: found.to_string(),
                });
            }
        }?;
        config.finish()?;
        Ok(layout)
    }

    /// The model text.
    pub fn source(&self) -> ModelSource<'static> {
        embedded(self.model).expect("families name models that are built in")
    }

    fn new<const A: usize, const S: usize>(
        model: &'static str,
        axes: [(&str, usize); A],
        settings: [(&str, Setting); S],
    ) -> Self {
        let axes = axes
            .into_iter()
            .map(|(name, size)| (name.to_string(), size));
        let settings = settings.into_iter().map(|(name, s)| (name.to_string(), s));
        Layout {
            model,
            overrides: Overrides {
                preset: None,
                axes: axes.collect(),
                settings: settings.collect::<BTreeMap<_, _>>(),
            },
            assumed: Vec::new(),
        }
    }

    /// Notes that the checkpoint leaves a setting open.
    fn assuming(mut self, setting: &str, why: impl Into<String>) -> Self {
        let value = match self.overrides.settings.get(setting) {
            Some(Setting::Bool(value)) => value.to_string(),
            Some(Setting::Number(value)) => value.to_string(),
            Some(Setting::Text(value)) => value.clone(),
            None => return self,
        };
        self.assumed.push(Assumed {
            setting: setting.to_string(),
            value,
            why: why.into(),
        });
        self
    }
}

fn text(value: &str) -> Setting {
    Setting::Text(value.to_string())
}

fn flag(value: bool) -> Setting {
    Setting::Bool(value)
}

fn number(value: f64) -> Setting {
    Setting::Number(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusec_ir::language::compile;

    #[test]
    fn every_built_in_model_compiles() {
        for name in embedded_names() {
            let source = embedded(name).expect("it is listed");
            compile(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert!(embedded("../models/rwkv6").is_none());
    }
}
