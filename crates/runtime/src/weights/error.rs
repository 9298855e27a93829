//! Why a model did not get its weights.

use std::path::PathBuf;

use fusec_codegen::Element;

/// Why a model did not get its weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The checkpoint and the model do not fit together. Everything that does not fit is listed.
    #[error("{}: does not fit the model '{model}':{}", file.display(), list(problems))]
    Mismatch {
        /// The checkpoint.
        file: PathBuf,
        /// Name of the model.
        model: String,
        /// At least one; parameters in order, then unused tensors, sorted.
        problems: Vec<BindProblem>,
    },
    /// An initialisation that no number satisfies.
    #[error("parameter '{param}': cannot be initialised: {why}")]
    Init {
        /// The parameter.
        param: String,
        /// What is wrong with its `init`.
        why: String,
    },
    /// A number beyond the range of the storage type.
    #[error("parameter '{param}': element {index} is {value}, which {element:?} cannot hold")]
    Overflow {
        /// The parameter.
        param: String,
        /// Index of the first such element, row-major.
        index: usize,
        /// The element.
        value: f32,
        /// The storage type.
        element: Element,
    },
    /// The graph breaks its own rules, as only one read from a file can.
    #[error("malformed graph: {place}: {why}")]
    Malformed {
        /// The parameter.
        place: String,
        /// Which rule.
        why: String,
    },
}

/// One thing in which a checkpoint and a model differ.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindProblem {
    /// None of the names is in the checkpoint.
    #[error(
        "parameter '{param}': no tensor {}{}",
        quoted(tensors),
        nearest.as_ref().map(|n| format!(" (nearest name: '{n}')")).unwrap_or_default()
    )]
    Missing {
        /// The parameter.
        param: String,
        /// Every name that would do.
        tensors: Vec<String>,
        /// The stored name that looks most like the first of them.
        nearest: Option<String>,
    },
    /// The model does not say where the parameter is found.
    #[error(
        "parameter '{param}': the model names no tensor for it (give it a source, or use random:SEED)"
    )]
    NoSource {
        /// The parameter.
        param: String,
    },
    /// A load step that the tensor's shape does not allow.
    #[error("parameter '{param}': tensor '{tensor}' of shape {shape:?}: {why}")]
    Step {
        /// The parameter.
        param: String,
        /// The tensor.
        tensor: String,
        /// Its shape before the step.
        shape: Vec<usize>,
        /// Which step, and why not.
        why: String,
    },
    /// The shape after the load steps is not the parameter's.
    #[error("parameter '{param}' is [{want}], tensor '{tensor}' gives {got:?}")]
    Shape {
        /// The parameter.
        param: String,
        /// The tensor.
        tensor: String,
        /// Axes with sizes, `C=64, N=16`.
        want: String,
        /// Shape after the load steps.
        got: Vec<usize>,
    },
    /// The elements cannot be used as f32.
    #[error("parameter '{param}': tensor '{tensor}': {why}")]
    Values {
        /// The parameter.
        param: String,
        /// The tensor.
        tensor: String,
        /// Why not.
        why: String,
    },
    /// A tensor that no parameter reads.
    #[error(
        "tensor '{tensor}' {shape:?} is used by no parameter \
         (if that is meant: --allow-unused '{tensor}', or allow_unused in the model text)"
    )]
    Unused {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor of which parameters read a part.
    #[error(
        "tensor '{tensor}' {shape:?}: parameters use {used} of its {of} elements \
         (if that is meant: --allow-unused '{tensor}', or allow_unused in the model text)"
    )]
    PartlyUsed {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements read.
        used: usize,
        /// Elements stored.
        of: usize,
    },
}

/// Most problems that a message lists.
const LISTED: usize = 1000;

fn list(problems: &[BindProblem]) -> String {
    let listed = problems.iter().take(LISTED);
    let mut lines: String = listed.map(|problem| format!("\n  {problem}")).collect();
    if let Some(more) = problems.len().checked_sub(LISTED).filter(|more| *more > 0) {
        lines.push_str(&format!("\n  and {more} more"));
    }
    lines
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(" or ")
}
