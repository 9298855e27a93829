//! A record used again: the plan that won, planned anew, if everything is as it was when it was measured.

use super::{Candidate, TUNED, TUNED_VERSION, Tuned, TunedRegime, alone, launches_sha256, sources};
use crate::limits;
use fusec_codegen::CodegenError;
use fusec_fuse::{Options, PlanError, Planned, Shape, plan_by};
use fusec_ir::language::{LONGEST_MESSAGE, readable};
use fusec_ir::{Graph, Pin, files};
use std::io;
use std::path::{Path, PathBuf};

/// Longest text of what differs, bytes.
const LONGEST_NAME: usize = 400;

/// Why a record is not used.
#[derive(Debug, thiserror::Error)]
pub enum ReuseError {
    /// The file system.
    #[error("cannot read {path}: {source}; `fusec compile --tune` writes one where a GPU is", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No record that this program wrote.
    #[error("{path} is no record of tuning that this program reads: {reason}; measure again with --tune", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is about something else.
    #[error(
        "what was measured does not hold here: {what} was {recorded}, and is {asked}; ask for what was measured, or measure again with --tune"
    )]
    Differs {
        /// What differs.
        what: &'static str,
        /// In the record.
        recorded: String,
        /// Now.
        asked: String,
    },
    /// Something else would run.
    #[error(
        "what was measured does not hold here: {what} for B={batch} T={time} are not those that were timed ({which}): the model or this program has changed; measure again with --tune"
    )]
    Changed {
        /// The sources, or the launches.
        what: &'static str,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// Which differ.
        which: String,
    },
    /// There is no plan: what the planner says.
    #[error("{0}; measure again with --tune")]
    Plan(String),
    /// There are no sources.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
}

impl Tuned {
    /// Reads a record: a file, or the one in a plan directory.
    pub fn read(path: &Path) -> Result<Self, ReuseError> {
        type Reader = fn(&Path, u64) -> std::io::Result<Vec<u8>>;
        let (path, read): (_, Reader) = match path.is_dir() {
            true => (path.join(TUNED), files::read_regular),
            false => (path.to_owned(), files::read),
        };
        match read(&path, limits::MAX_RECORD_BYTES) {
            Ok(bytes) => {
                Tuned::parse(&bytes).map_err(|reason| ReuseError::Damaged { path, reason })
            }
            Err(source) => Err(ReuseError::Io { path, source }),
        }
    }

    /// Reads the bytes of a record, or says what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |error: serde_json::Error| readable(&error.to_string(), LONGEST_MESSAGE);
        // What another version wrote need not have the same fields.
        let Version { version } = serde_json::from_slice(bytes).map_err(bad)?;
        if version != TUNED_VERSION {
            return Err(format!(
                "version {version}, this program reads {TUNED_VERSION}"
            ));
        }
        let tuned: Tuned = serde_json::from_slice(bytes).map_err(bad)?;
        let chosen = |regime: &TunedRegime| regime.candidates.get(regime.chosen).is_some();
        match tuned.regimes.iter().find(|regime| !chosen(regime)) {
            Some(regime) => {
                let name = readable(&regime.name, LONGEST_NAME);
                Err(format!("regime `{name}` has no winner"))
            }
            None => Ok(tuned),
        }
    }

    /// What was measured for a shape.
    pub fn regime(&self, shape: Shape) -> Result<&TunedRegime, ReuseError> {
        let found = self.regimes.iter().find(|regime| regime.shape == shape);
        let text = |of: Shape| format!("B={} T={}", of.batch, of.time);
        found.ok_or_else(|| {
            let all: Vec<String> = self.regimes.iter().map(|of| text(of.shape)).collect();
            differs("the shape", all.join(" or "), text(shape))
        })
    }

    /// The plan of a model that won at the shape of the options, planned anew. Refused unless model, storage type,
    /// device, pins and the sources of all kernels are those that were measured.
    pub fn plan(&self, graph: &Graph, options: &Options<'_>) -> Result<Planned, ReuseError> {
        let device = options.device;
        let pairs = [
            ("the model", self.model.clone(), graph.name.clone()),
            (
                "the storage type",
                self.storage.to_string(),
                options.storage.to_string(),
            ),
            (
                "the device profile",
                self.profile.clone(),
                device.name.clone(),
            ),
            ("the architecture", self.arch.clone(), device.arch.clone()),
            (
                "what is fused or split by wish",
                told(&self.pins),
                told(&options.pins),
            ),
        ];
        for (what, recorded, asked) in pairs {
            if recorded != asked {
                return Err(differs(what, recorded, asked));
            }
        }
        let regime = self.regime(options.shape)?;
        let Some(winner) = regime.candidates.get(regime.chosen) else {
            return Err(differs(
                "the winner",
                regime.chosen.to_string(),
                "none".into(),
            ));
        };
        // A recipe may name anything at any length.
        let refused =
            |error: PlanError| ReuseError::Plan(readable(&error.to_string(), LONGEST_MESSAGE));
        let planned = plan_by(graph, options, &winner.recipe).map_err(refused)?;
        check(winner, &planned, options)?;
        Ok(planned)
    }
}

/// Shows that a plan runs what was timed.
fn check(winner: &Candidate, planned: &Planned, options: &Options<'_>) -> Result<(), ReuseError> {
    let manifest = alone(planned, options.storage)?;
    let changed = |what, which| ReuseError::Changed {
        what,
        batch: options.shape.batch,
        time: options.shape.time,
        which,
    };
    let now = sources(&manifest);
    let names = now.keys().chain(winner.sources.keys());
    let other = |name: &&String| now.get(*name) != winner.sources.get(*name);
    let mut differ: Vec<&str> = names.filter(other).map(String::as_str).collect();
    differ.sort_unstable();
    differ.dedup();
    if !differ.is_empty() {
        let which = readable(&differ.join(", "), LONGEST_MESSAGE);
        return Err(changed("the sources", which));
    }
    if launches_sha256(&manifest) != winner.launches_sha256 {
        let now: usize = manifest.regimes.iter().map(|of| of.steps.len()).sum();
        let which = format!("{} then, {now} now", winner.launches);
        return Err(changed("the launches", which));
    }
    Ok(())
}

fn differs(what: &'static str, recorded: String, asked: String) -> ReuseError {
    let shown = |text: String| match text.is_empty() {
        true => "nothing".to_string(),
        false => readable(&text, LONGEST_NAME),
    };
    ReuseError::Differs {
        what,
        recorded: shown(recorded),
        asked: shown(asked),
    }
}

fn told(pins: &[Pin]) -> String {
    let told = |pin: &Pin| format!("{} {}", pin.kind, pin.values.join(","));
    let all: Vec<String> = pins.iter().map(told).collect();
    all.join("; ")
}
