//! Golden cases: a checkpoint with the outputs that a public implementation gave for it.
//!
//! Only the recorded inputs, outputs and bound are read here; computing anything is for others.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{Checkpoint, CheckpointError, read_object};

/// The recorded inputs and outputs inside the directory of a case.
pub const FILE: &str = "golden.safetensors";
/// Where the case says how it was made, and its bound.
pub const ABOUT: &str = "about.json";
/// The tensors of a record.
pub const TENSORS: [&str; 4] = ["input_ids", "logits", "step_ids", "step_logits"];

/// Inputs and expected outputs of one checkpoint, prefill then single steps.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenCase {
    /// The `golden.safetensors` that was read.
    pub file: PathBuf,
    /// Largest accepted `max |error| / max |expected logits|`, for f32 arithmetic without TF32.
    pub bound: f64,
    /// Sequences.
    pub batch: usize,
    /// Tokens of the prefill, per sequence.
    pub length: usize,
    /// Tokens decoded after the prefill, per sequence.
    pub steps: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Token ids of the prefill, `[batch, length]`, each in `0..vocab`.
    pub input_ids: Vec<i64>,
    /// Expected logits of every prefill position, `[batch, length, vocab]`.
    pub logits: Vec<f32>,
    /// Token ids of the steps, `[batch, steps]`, each in `0..vocab`.
    pub step_ids: Vec<i64>,
    /// Expected logits of every step, `[batch, steps, vocab]`.
    pub step_logits: Vec<f32>,
}

/// A golden case that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// A file of the case is missing or damaged.
    #[error("golden case: {0}")]
    File(#[from] CheckpointError),
    /// `about.json` has no usable bound.
    #[error("golden case: {}: 'bound' is {got}, expected a positive number", file.display())]
    Bound {
        /// The file.
        file: PathBuf,
        /// What is there instead.
        got: String,
    },
    /// A recorded tensor of the wrong shape.
    #[error("golden case: {}: '{tensor}' has shape {got:?}, expected {expected}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor that is none of a record: what it asks for would be passed over.
    #[error("golden case: {}: '{tensor}' is none of {}", file.display(), TENSORS.join(", "))]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A token id outside the vocabulary.
    #[error("golden case: {}: '{tensor}' holds the token {got}, outside 0..{vocab}", file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// The id.
        got: i64,
        /// Entries of the vocabulary.
        vocab: usize,
    },
}

impl GoldenCase {
    /// Opens the case in a directory, or the one whose `golden.safetensors` is given; the bound is
    /// read from the `about.json` beside it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GoldenError> {
        let path = path.as_ref();
        let file = if path.is_dir() {
            path.join(FILE)
        } else {
            path.to_path_buf()
        };
        let about = file.with_file_name(ABOUT);
        let bound = match read_object(&about, ABOUT)?.get("bound") {
            Some(value) => value
                .as_f64()
                .filter(|bound| bound.is_finite() && *bound > 0.0)
                .ok_or_else(|| value.to_string()),
            None => Err(Value::Null.to_string()),
        }
        .map_err(|got| GoldenError::Bound { file: about, got })?;

        let data = Checkpoint::open(&file)?;
        if let Some(unknown) = data.names().find(|name| !TENSORS.contains(name)) {
            let tensor = unknown.to_string();
            return Err(GoldenError::Unknown { file, tensor });
        }
        let input_ids = data.read_i64("input_ids")?;
        let logits = data.read_f32("logits")?;
        let step_ids = data.read_i64("step_ids")?;
        let step_logits = data.read_f32("step_logits")?;

        let shape = |tensor| {
            data.tensor(tensor)
                .map(|view| view.shape.to_vec())
                .unwrap_or_default()
        };
        let wrong = |tensor, expected: String| GoldenError::Shape {
            file: file.clone(),
            tensor,
            got: shape(tensor),
            expected,
        };
        let [batch, length, vocab] = shape("logits")[..] else {
            return Err(wrong("logits", "[batch, length, vocab]".into()));
        };
        let [_, steps] = shape("step_ids")[..] else {
            return Err(wrong("step_ids", "[batch, steps]".into()));
        };
        for (tensor, expected) in [
            ("input_ids", vec![batch, length]),
            ("step_ids", vec![batch, steps]),
            ("step_logits", vec![batch, steps, vocab]),
        ] {
            if shape(tensor) != expected {
                return Err(wrong(tensor, format!("{expected:?}")));
            }
        }
        for (tensor, ids) in [("input_ids", &input_ids), ("step_ids", &step_ids)] {
            let outside = |id: &&i64| usize::try_from(**id).ok().is_none_or(|id| id >= vocab);
            if let Some(&got) = ids.iter().find(outside) {
                return Err(GoldenError::Token {
                    file,
                    tensor,
                    got,
                    vocab,
                });
            }
        }
        Ok(Self {
            file,
            bound,
            batch,
            length,
            steps,
            vocab,
            input_ids,
            logits,
            step_ids,
            step_logits,
        })
    }
}
