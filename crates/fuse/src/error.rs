//! Why there is no plan.

use crate::context::Context;
use crate::plan::Reject;
use crate::row::LongRow;
use fusec_ir::{OpId, Pin, PinKind};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The graph contradicts itself.
    #[error(
        "the graph of `{model}` is malformed: {place}: {what}; it was not written by this program, or by another version of it"
    )]
    Malformed {
        /// The model.
        model: String,
        /// Where.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The shape has no rows.
    #[error("cannot plan for B={batch}, T={time}: both must be at least 1")]
    Shape {
        /// Sequences.
        batch: usize,
        /// Tokens.
        time: usize,
    },
    /// Kernels count the elements of a row in 32 bits.
    #[error(transparent)]
    Row(#[from] LongRow),
    /// No template executes an operation even alone.
    #[error(
        "no kernel can compute `{op}`: {reject}; make the axis smaller, or write the operation in parts"
    )]
    Unplannable {
        /// Name of the operation.
        op: String,
        /// The rule that forbids it.
        reject: Box<Reject>,
    },
    /// An operation of a transposed graph.
    #[error(
        "there are no kernels yet for `{op}`, which {what}: it runs on the CPU only, by the interpreter"
    )]
    NoKernels {
        /// Name of the operation.
        op: String,
        /// What it does that no template can.
        what: &'static str,
    },
    /// A pin names nothing.
    #[error(
        "the pin {kind} [{names}] names `{missing}`, and no planned value has that name; `fusec plan --plan unfused` lists all names"
    )]
    PinUnknown {
        /// `fuse` or `split`.
        kind: PinKind,
        /// Its names.
        names: String,
        /// The one at fault.
        missing: String,
    },
    /// A pin cannot be obeyed.
    #[error(
        "the pin {kind} [{names}] cannot be obeyed: {reject}; remove the pin, or some of its names"
    )]
    PinRefused {
        /// `fuse` or `split`.
        kind: PinKind,
        /// Its names.
        names: String,
        /// The rule that forbids it.
        reject: Box<Reject>,
    },
    /// The rules contradict each other.
    #[error("the search for forms failed: {0}; use `--plan greedy`, and report it")]
    Forms(String),
    /// A plan from a file is none that this program makes.
    #[error(
        "{place} is not what this program plans: {what}; it was changed, or made by another version"
    )]
    Foreign {
        /// The kernel.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// A recipe asks for what there is not.
    #[error(
        "cannot plan as asked: {what}: {why}; the recipe is of another model, device or version of this program"
    )]
    Asked {
        /// What is asked for.
        what: String,
        /// Why it cannot be.
        why: &'static str,
    },
    /// The solver gave up.
    #[error("the selection of kernels failed: {0}; use `--plan greedy`, and report it")]
    Selection(String),
}

impl PlanError {
    /// No template executes a group of operations that must be one kernel.
    pub(crate) fn unplannable(ctx: &Context<'_>, ops: &[OpId], reject: Reject) -> PlanError {
        let names = ops.iter().map(|id| ctx.graph.op(*id).name.as_str());
        PlanError::Unplannable {
            op: names.collect::<Vec<_>>().join(", "),
            reject: Box::new(reject),
        }
    }

    /// A recipe asks for what there is not.
    pub(crate) fn asked(what: impl Into<String>, why: &'static str) -> PlanError {
        PlanError::Asked {
            what: what.into(),
            why,
        }
    }

    /// A pin names nothing.
    pub(crate) fn unknown(pin: &Pin, missing: &str) -> PlanError {
        PlanError::PinUnknown {
            kind: pin.kind,
            names: pin.values.join(", "),
            missing: missing.to_string(),
        }
    }

    /// A pin, or several together, cannot be obeyed.
    pub(crate) fn refused(pin: Option<&Pin>, reject: Reject) -> PlanError {
        PlanError::PinRefused {
            kind: pin.map_or(PinKind::Fuse, |p| p.kind),
            names: pin.map(|p| p.values.join(", ")).unwrap_or_default(),
            reject: Box::new(reject),
        }
    }
}
