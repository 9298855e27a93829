//! Tuning: the few plans that the cost model holds to be about the best, timed where a GPU is.
//!
//! [`tune`] times the variants of a model ([`fusec_fuse::variants`]) with a [`Timer`] and chooses by the
//! times; [`Tuned`] keeps what came of it and makes the same plan again without a GPU, or says what is
//! not as it was. Never here: what is worth a measurement, and how a run is timed ([`crate::bench`]).

mod gpu;
mod record;
mod reuse;
mod text;

pub use gpu::GpuTimer;
pub use record::{Candidate, Machine, Outcome, TUNED, TUNED_VERSION, Tuned, TunedRegime};
pub use reuse::ReuseError;

use crate::bench::{Protocol, Spread};
use crate::plan_dir::sha256;
use fusec_codegen::{CodegenError, Manifest, Planned as Regime, generate, prelude};
use fusec_fuse::variants::{Offer, Variant, Variants};
use fusec_fuse::{Options, Plan, PlanError, Planned, Recipe};
use fusec_ir::Graph;
use std::collections::BTreeMap;

/// By how much another plan has to be faster than the cost model's choice, as a part of its time: medians
/// of the same kernels differ by about as much from one call to the next.
pub const NOISE: f64 = 0.01;

/// What a plan may be predicted to take more than the least, unless somebody says otherwise. Where
/// measurement found the order of two plans to be the wrong way round (plans of `models/hybrid.toml`,
/// `models/mamba2.toml` and `models/gated-scan.toml` on an H200), their predictions were 2 to 10 % apart:
/// half as much again.
pub const WITHIN: f64 = 0.15;

/// Most plans that are timed for one shape, unless somebody says otherwise: compiled,
/// given weights and run, each takes some seconds.
pub const MOST: usize = 16;

/// How each of them is timed: shorter than for a record, and often enough for a median.
pub const PROTOCOL: Protocol = Protocol {
    warmups: 5,
    runs: 30,
    most_seconds: 1.0,
    longest_seconds: None,
    flush_l2: false,
    per_kernel: false,
    seed: 1,
};

/// Times a run.
pub trait Timer {
    /// Milliseconds of a run of `plan` at its shape, or in words why there are none. The manifest holds
    /// this plan alone, for every length of run.
    fn time(&mut self, manifest: &Manifest, plan: &Plan) -> Result<Spread, String>;
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// What a plan may be predicted to take more than the least, as a part of that.
    pub within: f64,
    /// Most plans that are timed.
    pub most: usize,
}

/// Why nothing came of tuning.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There are no sources.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// No plan could be timed.
    #[error(
        "none of {tried} plans for B={batch} T={time} could be timed; of the first: {why}; compile without --tune, or see whether `fusec bench` runs on this GPU"
    )]
    Nothing {
        /// How many.
        tried: usize,
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        time: usize,
        /// What was said of the first.
        why: String,
    },
}

/// Times the variants of a model for the shape of `options`, and returns the record of it beside the plan
/// that won. `watch` is told of each before it is timed.
pub fn tune(
    regime: &str,
    graph: &Graph,
    options: &Options<'_>,
    bounds: Bounds,
    timer: &mut dyn Timer,
    watch: &mut dyn FnMut(&str),
) -> Result<(TunedRegime, Planned), TuneError> {
    let mut trials = Trials {
        storage: options.storage,
        timer,
        watch,
        list: Vec::new(),
        best: None,
    };
    let mut variants = Variants::new(graph, options, bounds.within);
    // Half for plans; what they leave is for schedules.
    let plans = variants.plans(bounds.most.div_ceil(2))?;
    let mut left_out = plans.all - plans.list.len();
    for Variant {
        what,
        recipe,
        planned,
    } in plans.list
    {
        trials.add(what, None, recipe, planned)?;
    }
    trials.choose();
    if let Some((at, planned)) = trials.best.clone() {
        let room = bounds.most.saturating_sub(trials.list.len());
        let offers = variants.schedules(&planned, room);
        left_out += offers.all - offers.list.len();
        let mut on = at;
        for Offer { what, asked, .. } in offers.list {
            let recipe = match trials.list.get(on) {
                Some((candidate, _)) => candidate.recipe.with(asked),
                None => continue,
            };
            let planned = variants.make(&recipe)?;
            trials.add(what, Some(on), recipe, planned)?;
            on = trials.keep_if_faster(on);
        }
    }
    let Trials { list, best, .. } = trials;
    let failed = |(candidate, _): &(Candidate, Planned)| match &candidate.outcome {
        Outcome::Failed(why) => Some(why.clone()),
        Outcome::Measured(_) => None,
    };
    let Some((chosen, planned)) = best else {
        return Err(TuneError::Nothing {
            tried: list.len(),
            batch: options.shape.batch,
            time: options.shape.time,
            why: list.first().and_then(failed).unwrap_or_default(),
        });
    };
    let record = TunedRegime {
        name: regime.to_string(),
        shape: options.shape,
        left_out,
        chosen,
        candidates: list.into_iter().map(|(candidate, _)| candidate).collect(),
    };
    Ok((record, planned))
}

/// What was timed so far.
struct Trials<'t> {
    storage: fusec_fuse::Storage,
    timer: &'t mut dyn Timer,
    watch: &'t mut dyn FnMut(&str),
    list: Vec<(Candidate, Planned)>,
    /// The fastest, by its place in the list.
    best: Option<(usize, Planned)>,
}

impl Trials<'_> {
    fn add(
        &mut self,
        what: String,
        on: Option<usize>,
        recipe: Recipe,
        planned: Planned,
    ) -> Result<(), TuneError> {
        (self.watch)(&what);
        let manifest = alone(&planned, self.storage)?;
        let outcome = match self.timer.time(&manifest, &planned.plan) {
            Ok(spread) if spread.median.is_finite() && spread.median > 0.0 => {
                Outcome::Measured(spread)
            }
            Ok(spread) => Outcome::Failed(format!("{} ms is no time", spread.median)),
            Err(why) => Outcome::Failed(why),
        };
        let candidate = Candidate {
            what,
            on,
            recipe,
            predicted_us: planned.plan.total_us,
            launches: launches(&manifest).len(),
            launches_sha256: launches_sha256(&manifest),
            sources: sources(&manifest),
            outcome,
        };
        self.list.push((candidate, planned));
        Ok(())
    }

    /// Takes the fastest; the first, which the cost model would have, unless another is faster by more
    /// than noise.
    fn choose(&mut self) {
        let median = |at: usize| self.list.get(at).and_then(|(c, _)| c.median_ms());
        let all = (0..self.list.len()).filter_map(|at| Some((at, median(at)?)));
        let least = all.min_by(|a, b| a.1.total_cmp(&b.1));
        let at = match (least, median(0)) {
            (Some((_, least)), Some(first)) if least >= first * (1.0 - NOISE) => Some(0),
            (least, _) => least.map(|(at, _)| at),
        };
        let of = |at: usize| Some((at, self.list.get(at)?.1.clone()));
        self.best = at.and_then(of);
    }

    /// Takes the last in place of the one that it was built on, if it is faster by more than noise.
    /// Returns the fastest.
    fn keep_if_faster(&mut self, on: usize) -> usize {
        let Some(last) = self.list.len().checked_sub(1) else {
            return on;
        };
        let median = |at: usize| self.list.get(at).and_then(|(c, _)| c.median_ms());
        match (median(last), median(on)) {
            (Some(new), Some(old)) if new < old * (1.0 - NOISE) => {
                let planned = self.list.get(last).map(|(_, planned)| planned.clone());
                self.best = planned.map(|planned| (last, planned));
                last
            }
            _ => on,
        }
    }
}

/// The manifest of one plan by itself, for every length of run; one of single steps is for these alone.
/// Names in it do not depend on other plans.
fn alone(planned: &Planned, storage: fusec_fuse::Storage) -> Result<Manifest, CodegenError> {
    let regime = Regime {
        name: "tuned",
        min_time: 1,
        max_time: planned.plan.shape.longest_run(),
        graph: &planned.graph,
        plan: &planned.plan,
    };
    generate(&planned.plan.model, storage, &[regime])
}

/// The SHA-256 of each source of a manifest, by the name of its kernel; of the primitives too.
fn sources(manifest: &Manifest) -> BTreeMap<String, String> {
    let kernels = manifest.kernels.iter();
    let mut all: BTreeMap<String, String> = kernels
        .map(|kernel| (kernel.name.clone(), kernel.source_sha256.clone()))
        .collect();
    all.insert(prelude::FILE.to_string(), manifest.prelude_sha256.clone());
    all
}

/// The kernels of a run in the order of its launches.
fn launches(manifest: &Manifest) -> Vec<&str> {
    let steps = manifest.regimes.iter().flat_map(|regime| &regime.steps);
    let kernels = steps.filter_map(|step| manifest.kernels.get(step.kernel));
    kernels.map(|kernel| kernel.name.as_str()).collect()
}

fn launches_sha256(manifest: &Manifest) -> String {
    sha256(launches(manifest).join("\n").as_bytes())
}
