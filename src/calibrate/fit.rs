//! `fusec calibrate --fit`: the fitted figures of a profile from recorded results.

use std::path::PathBuf;

use fusec_fuse::Device as Profile;
use fusec_runtime::calibrate::fit::{
    Agreement, Fit, KERNEL_RANGE, LeftOut, RUN_RANGE, Records, fit,
};
use fusec_runtime::calibrate::text;

use super::Args;
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::place;
use crate::table::{Align, Table, microseconds};

/// Misses that are listed of one model.
const LISTED: usize = 5;

/// Fits the figures of the profile to the results of `files`.
pub fn run(args: &Args, files: &[PathBuf], output: &mut Output) -> Result<Exit, Failure> {
    let profile = Profile::find(&args.device_profile).map_err(failure::input)?;
    let note = Profile::note(&args.device_profile).map_err(failure::input)?;
    let records = Records::read(files).map_err(failure::input)?;
    let mut found = fit(&profile, &records).map_err(failure::input)?;
    if let Some(name) = &args.name {
        found.device.name.clone_from(name);
    }
    if let Some(path) = &args.out {
        place::write(path, text(&found.device, &note).as_bytes())?;
    }
    output.answer(&found, || in_words(&found, &profile, records.list.len()))?;
    Ok(Exit::Success)
}

/// The figures, and how well each model is predicted from the others.
fn in_words(fit: &Fit, before: &Profile, runs: usize) -> String {
    let mut figures = Table::new([
        ("figure", Align::Left),
        ("was", Align::Right),
        ("is", Align::Right),
    ]);
    let old = before.fitted.entries();
    for (old, new) in old.iter().zip(fit.device.fitted.entries()) {
        if new.range.is_some() {
            let is = match fit.undecided.contains(&new.field) {
                true => "undecided".to_owned(),
                false => format!("{:.4}", new.figure.value),
            };
            let was = format!("{:.4}", old.figure.value);
            figures.row([new.field.to_owned(), was, is]);
        }
    }
    let mut models = Table::new([
        ("left out", Align::Left),
        ("kernels predicted", Align::Right),
        ("runs predicted", Align::Right),
        ("pred./meas. of runs", Align::Right),
    ]);
    for of in &fit.left_out {
        let (least, most) = of.runs_range;
        models.row([
            of.model.clone(),
            share(of.agreement.kernels_within, of.agreement.kernels),
            share(of.agreement.runs_within, of.agreement.runs),
            format!("{least:.2} to {most:.2}"),
        ]);
    }
    let all = |of: Agreement| {
        format!(
            "kernels {} with predicted / measured in {:?}, runs {} in {:?}",
            share(of.kernels_within, of.kernels),
            KERNEL_RANGE,
            share(of.runs_within, of.runs),
            RUN_RANGE
        )
    };
    let mut out = figures.text();
    out.push('\n');
    out.push_str(&models.text());
    out.push_str(&format!("\nleft out: {}\n", all(fit.left_out_all)));
    out.push_str(&format!("fitted:   {}\n", all(fit.fitted)));
    out.push_str(&misses(&fit.left_out));
    out.push_str(&format!("{runs} runs"));
    if fit.skipped > 0 {
        out.push_str(&format!(
            "; {} measurements hold no work of kernels and are left aside",
            fit.skipped
        ));
    }
    out.push('\n');
    out
}

/// What is out of range when its model is left out.
fn misses(folds: &[LeftOut]) -> String {
    let mut table = Table::new([
        ("missed", Align::Left),
        ("run", Align::Left),
        ("kernel", Align::Left),
        ("measured", Align::Right),
        ("predicted", Align::Right),
        ("pred./meas.", Align::Right),
    ]);
    for fold in folds {
        for miss in fold.missed.iter().take(LISTED) {
            table.row([
                miss.model.clone(),
                miss.run.clone(),
                miss.kernel.clone().unwrap_or_else(|| "all".into()),
                microseconds(miss.measured_us),
                microseconds(miss.predicted_us),
                format!("{:.2}", miss.ratio()),
            ]);
        }
        if fold.missed.len() > LISTED {
            let more = format!("and {} more", fold.missed.len() - LISTED);
            let none = String::new;
            table.row([fold.model.clone(), more, none(), none(), none(), none()]);
        }
    }
    table.text()
}

fn share(within: usize, of: usize) -> String {
    match of {
        0 => "-".into(),
        _ => format!(
            "{within} of {of} ({:.0} %)",
            100.0 * within as f64 / of as f64
        ),
    }
}
