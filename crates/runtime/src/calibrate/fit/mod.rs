//! The fitted figures of a device profile, from recorded results.
//!
//! The method: `fusec bench` records the work of every kernel in counts beside its time. The cost model
//! prices counts with the figures of a profile ([`fusec_fuse::cost::price`]), so a figure can be judged
//! by what it makes of all of them. Sought are the figures for which the logarithm of predicted over
//! measured is small in all kernels, and, counted twice, in all whole runs; large misses count in
//! proportion, not by their square. Each figure is sought as a logarithm between the least and the
//! largest value that is believed of it, and drawn a little to the middle between the two; so a figure
//! that the results do not decide stays where it is believed, and the start is the same whatever the
//! profile had. The solver is in `solve.rs`; nothing is drawn at random.
//!
//! Validation is out of sample: each model in turn is predicted with figures that were fitted to the
//! others only ([`Fit::left_out`]).
//!
//! Lives here: what is fitted to what. Never here: measuring, and the formulas of the cost model.

mod records;
mod solve;

pub use records::{Record, RecordError, Records};

use fusec_fuse::cost::price;
use fusec_fuse::device::{Device, Provenance};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;

/// How often a whole run counts as much as a kernel.
const RUN_WEIGHT: f64 = 2.0;
/// Change of a residual below which a figure has no part in a prediction.
const NO_PART: f64 = 1e-9;
/// Where a kernel's predicted over measured should be.
pub const KERNEL_RANGE: (f64, f64) = (0.67, 1.5);
/// Where a whole run's should be.
pub const RUN_RANGE: (f64, f64) = (0.8, 1.25);

/// Why figures cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// A file of results.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Nothing to fit to.
    #[error(
        "no kernel of {files} holds what a fit needs; record results with this version of `fusec bench --per-kernel`"
    )]
    Nothing {
        /// The files.
        files: String,
    },
    /// Results of several devices.
    #[error("the results are of {devices}: fit the results of one device at a time")]
    Devices {
        /// Their names.
        devices: String,
    },
}

/// Predicted over measured of a kernel or a whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The model.
    pub model: String,
    /// Plan, storage type and shape.
    pub run: String,
    /// The kernel; none for a whole run.
    pub kernel: Option<String>,
    /// Measured, microseconds.
    pub measured_us: f64,
    /// Predicted, microseconds.
    pub predicted_us: f64,
}

/// How many predictions are where they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Kernels measured.
    pub kernels: usize,
    /// Those with predicted / measured in [`KERNEL_RANGE`].
    pub kernels_within: usize,
    /// Whole runs measured.
    pub runs: usize,
    /// Those with predicted / measured in [`RUN_RANGE`].
    pub runs_within: usize,
}

/// A model predicted with figures that were fitted to the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The model.
    pub model: String,
    /// How well that went.
    pub agreement: Agreement,
    /// Least and largest predicted over measured of its whole runs.
    pub runs_range: (f64, f64),
    /// Kernels out of range, in the order of the results.
    pub missed: Vec<Prediction>,
}

/// Figures fitted to recorded results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The profile with them.
    pub device: Device,
    /// Fields that the results have no part in, which stayed as they were.
    pub undecided: Vec<&'static str>,
    /// Predictions of the results that the figures were fitted to.
    pub fitted: Agreement,
    /// Each model predicted from the others, in order of their names.
    pub left_out: Vec<LeftOut>,
    /// All of these together.
    pub left_out_all: Agreement,
    /// Measurements and kernels without recorded work, which could not be used.
    pub skipped: usize,
}

impl Prediction {
    /// Predicted over measured.
    pub fn ratio(&self) -> f64 {
        self.predicted_us / self.measured_us
    }

    fn is_within(&self) -> bool {
        let (least, most) = match self.kernel {
            Some(_) => KERNEL_RANGE,
            None => RUN_RANGE,
        };
        (least..=most).contains(&self.ratio())
    }
}

impl Agreement {
    /// Of some predictions.
    pub fn of(predictions: &[Prediction]) -> Agreement {
        let mut all = Agreement::default();
        for prediction in predictions {
            let (count, within) = match prediction.kernel {
                Some(_) => (&mut all.kernels, &mut all.kernels_within),
                None => (&mut all.runs, &mut all.runs_within),
            };
            *count += 1;
            *within += usize::from(prediction.is_within());
        }
        all
    }

    fn and(self, other: Agreement) -> Agreement {
        Agreement {
            kernels: self.kernels + other.kernels,
            kernels_within: self.kernels_within + other.kernels_within,
            runs: self.runs + other.runs,
            runs_within: self.runs_within + other.runs_within,
        }
    }
}

/// What a profile predicts of recorded results: of each run its measured kernels, then the whole.
pub fn predictions(device: &Device, records: &[&Record]) -> Vec<Prediction> {
    let launch_us = device.graph_launch_us.value;
    let mut all = Vec::new();
    for record in records {
        let of = |kernel: Option<&str>, measured_us: f64, predicted_us: f64| Prediction {
            model: record.model.clone(),
            run: record.run.clone(),
            kernel: kernel.map(str::to_owned),
            measured_us,
            predicted_us,
        };
        let mut whole_us = 0.0;
        for kernel in &record.kernels {
            let Some(phases) = &kernel.phases else {
                whole_us += kernel.launches as f64 * kernel.measured_us.unwrap_or(0.0);
                continue;
            };
            let us = price(device, launch_us, phases).total_us;
            whole_us += us * kernel.launches as f64;
            if let Some(measured_us) = kernel.measured_us {
                all.push(of(Some(&kernel.name), measured_us, us));
            }
        }
        all.push(of(None, record.measured_us, whole_us));
    }
    all
}

/// Fits the `[fitted]` table of a profile to recorded results.
pub fn fit(profile: &Device, records: &Records) -> Result<Fit, FitError> {
    if records.list.is_empty() {
        return Err(FitError::Nothing {
            files: records.files.join(", "),
        });
    }
    let devices: BTreeSet<&str> = records.list.iter().map(|r| r.device.as_str()).collect();
    if devices.len() > 1 {
        return Err(FitError::Devices {
            devices: devices.into_iter().collect::<Vec<_>>().join(" and "),
        });
    }
    let all: Vec<&Record> = records.list.iter().collect();
    let models: BTreeSet<&str> = all.iter().map(|r| r.model.as_str()).collect();
    let models: Vec<&str> = models.into_iter().collect();
    let Fitted { mut device, parts } = fitted_to(profile, &all);
    let undecided = decide(profile, &mut device, &parts, &all);
    let left_out: Vec<LeftOut> = models
        .par_iter()
        .map(|model| {
            let (own, others): (Vec<&Record>, Vec<&Record>) =
                all.iter().partition(|record| record.model == **model);
            // What the others do not decide is what is believed, not what the profile was given.
            let device = fitted_to(profile, &others).device;
            left_out(model, predictions(&device, &own))
        })
        .collect();
    let left_out_all = left_out.iter().map(|fold| fold.agreement);
    let left_out_all = left_out_all.fold(Agreement::default(), Agreement::and);
    Ok(Fit {
        fitted: Agreement::of(&predictions(&device, &all)),
        device,
        undecided,
        left_out,
        left_out_all,
        skipped: records.skipped,
    })
}

fn left_out(model: &str, predictions: Vec<Prediction>) -> LeftOut {
    let agreement = Agreement::of(&predictions);
    let runs = predictions.iter().filter(|p| p.kernel.is_none());
    let ratios: Vec<f64> = runs.map(Prediction::ratio).collect();
    LeftOut {
        model: model.to_owned(),
        agreement,
        runs_range: (
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        ),
        missed: predictions.into_iter().filter(|p| !p.is_within()).collect(),
    }
}

/// A profile with figures fitted to some results.
struct Fitted {
    device: Device,
    /// Places in the table of the figures that were sought, each with its part in the predictions.
    parts: Vec<(usize, f64)>,
}

fn fitted_to(profile: &Device, records: &[&Record]) -> Fitted {
    let entries = profile.fitted.entries();
    // Figures that a fit may change: their place in the table, and the logarithms of their range.
    let unknowns: Vec<(usize, f64, f64)> = entries
        .iter()
        .enumerate()
        .filter_map(|(at, entry)| {
            let (least, most) = entry.range?;
            Some((at, least.ln(), most.ln()))
        })
        .collect();
    let with = |at: &[f64]| {
        let mut device = profile.clone();
        let mut figures = device.fitted.figures_mut();
        for ((place, least, most), at) in unknowns.iter().zip(at) {
            // From -1 at the least value believed to 1 at the largest.
            let value = ((least + most) / 2.0 + at * (most - least) / 2.0).exp();
            if let Some(figure) = figures.get_mut(*place) {
                figure.value = value;
            }
        }
        device
    };
    let residuals = |at: &[f64]| -> Vec<f64> {
        let predictions = predictions(&with(at), records);
        let of = predictions.iter().map(|p| match p.kernel {
            Some(_) => p.ratio().ln(),
            None => RUN_WEIGHT * p.ratio().ln(),
        });
        of.collect()
    };
    let solution = solve::solve(unknowns.len(), &residuals);
    let places = unknowns.iter().map(|(place, ..)| *place);
    Fitted {
        device: with(&solution.at),
        parts: places.zip(solution.part).collect(),
    }
}

/// Says of each figure that was sought where it comes from. Those that the results have no part in
/// become what they were; their fields are returned.
fn decide(
    profile: &Device,
    device: &mut Device,
    parts: &[(usize, f64)],
    records: &[&Record],
) -> Vec<&'static str> {
    let on = records.iter().map(|r| (&r.date, &r.device)).max();
    let on = on.map_or_else(String::new, |(date, device)| format!("{device}, {date}"));
    let entries = profile.fitted.entries();
    let mut figures = device.fitted.figures_mut();
    let mut undecided = Vec::new();
    for (place, part) in parts {
        let (Some(figure), Some(entry)) = (figures.get_mut(*place), entries.get(*place)) else {
            continue;
        };
        if *part < NO_PART {
            undecided.push(entry.field);
            **figure = entry.figure.clone();
        } else {
            figure.from = Provenance::Fit;
            figure.on.clone_from(&on);
        }
    }
    undecided
}
