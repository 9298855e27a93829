//! Gates: what a new model should pass before anybody trains it or times it.
//!
//! Lives here: what each gate measures and when it is passed. Never here: planning, compiling, and what
//! is printed. Each gate is a function of a model that is started already, or of its graph.
//!
//! | gate | question |
//! |---|---|
//! | G0 | is every kernel compiled, and does it fit the GPU? ([`fits`]) |
//! | G1 | are the outputs of a run of the right shape, and finite? ([`sane`]) |
//! | G2 | is the model undecided at the start of training? ([`undecided`]) |
//! | G3 | does it learn, in each of its branches? ([`learning()`]) |
//! | G4 | have the branches of a hybrid equal weight, and different things to say? ([`balance()`]) |
//! | G5 | do fused kernels give what unfused ones give? ([`equal()`]) |

mod balance;
mod branches;
pub(crate) mod entropy;
mod equal;
mod fits;
mod learning;
pub(crate) mod sane;

pub use balance::{Balance, balance};
pub use branches::{Branch, Join, joins};
pub use entropy::{cross_entropy, undecided};
pub use equal::equal;
pub use fits::{Compiled, fits};
pub use learning::{MOST_PARAMETERS, learning};
pub use sane::sane;

use crate::session::SessionError;
use crate::train::trainer::TrainError;
use crate::weights::WeightsError;
use fusec_ir::interpret::InterpretError;
use serde::Serialize;

/// How a gate was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Passed.
    Pass,
    /// Passed, but somebody should look.
    Warn,
    /// Not passed.
    Fail,
    /// The question has no answer here: of this model, or on this device.
    NotAvailable,
}

impl Verdict {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
            Verdict::NotAvailable => "n/a",
        }
    }
}

/// What a gate found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// `G0` to `G5`.
    pub gate: &'static str,
    /// What it asks, in a few words.
    pub asks: &'static str,
    /// Whether it is passed.
    pub verdict: Verdict,
    /// What was measured, with what is accepted; or why nothing was.
    pub figure: String,
    /// More of it, a line each.
    pub details: Vec<String>,
}

/// A small number in two digits; nothing is `0`.
fn scientific(number: f64) -> String {
    match number {
        0.0 => "0".into(),
        some => format!("{some:.1e}"),
    }
}

/// Why a gate could not be tried at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The model does not run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The graph with its probes does not run.
    #[error(transparent)]
    Interpret(#[from] InterpretError),
    /// The weights cannot be drawn.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A step of training was refused.
    #[error(transparent)]
    Train(#[from] TrainError),
}
