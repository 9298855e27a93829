//! The record of tuning: plain data, versioned, a file beside the plan.

use crate::bench::{Protocol, Provenance, Spread};
use fusec_fuse::{Recipe, Shape, Storage};
use fusec_ir::Pin;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the serialised form; raised whenever a field changes meaning.
pub const TUNED_VERSION: u32 = 1;

/// Its name in a plan directory.
pub const TUNED: &str = "tuned.json";

/// What was measured of the plans of a model, and which won.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// [`TUNED_VERSION`] of the writer.
    pub version: u32,
    /// Name of the model.
    pub model: String,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// The device profile whose costs were predicted with.
    pub profile: String,
    /// The architecture that was compiled for.
    pub arch: String,
    /// Wishes about fusion of whoever compiled.
    pub pins: Vec<Pin>,
    /// What was measured on.
    pub machine: Machine,
    /// How each plan was timed.
    pub protocol: Protocol,
    /// What a plan might be predicted to take more than the least, as a part of that.
    pub within: f64,
    /// Most plans that were timed for one shape.
    pub most: usize,
    /// One per regime.
    pub regimes: Vec<TunedRegime>,
}

/// What a time is worth nothing without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `NVIDIA H200`.
    pub device: String,
    /// The kernel driver, as it introduces itself.
    pub driver: Option<String>,
    /// Version of this program.
    pub fusec: String,
    /// The commit it was built from, `unknown` if nobody says.
    pub commit: String,
    /// When, in UTC.
    pub date: String,
}

/// What was measured for one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedRegime {
    /// `decode` or `prefill`.
    pub name: String,
    /// The shape.
    pub shape: Shape,
    /// Plans within the stated share that were not timed, since so many were not allowed.
    pub left_out: usize,
    /// The winner, by its place in the list.
    pub chosen: usize,
    /// What was timed, in order; the first is the cost model's choice.
    pub candidates: Vec<Candidate>,
}

/// A plan that was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What it is, in words.
    pub what: String,
    /// The one that it differs from in a schedule, by its place in the list.
    pub on: Option<usize>,
    /// What makes it.
    pub recipe: Recipe,
    /// The prediction, microseconds.
    pub predicted_us: f64,
    /// Kernel launches of a run.
    pub launches: usize,
    /// SHA-256 of their names in order.
    pub launches_sha256: String,
    /// SHA-256 of the sources that were timed, by kernel; of the primitives too.
    pub sources: BTreeMap<String, String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of timing a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Milliseconds of a run.
    Measured(Spread),
    /// It could not be timed: why not.
    Failed(String),
}

impl Candidate {
    /// The median time of a run, milliseconds, if it was timed.
    pub fn median_ms(&self) -> Option<f64> {
        match &self.outcome {
            Outcome::Measured(spread) => Some(spread.median),
            Outcome::Failed(_) => None,
        }
    }
}

impl From<Provenance> for Machine {
    fn from(of: Provenance) -> Self {
        Machine {
            device: of.device,
            driver: of.driver,
            fusec: of.fusec,
            commit: of.commit,
            date: of.date,
        }
    }
}
