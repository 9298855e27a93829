//! `fusec diff`: what changed between two plans.

use std::io;
use std::path::{Path, PathBuf};

use fusec_fuse::Plan;
use fusec_fuse::explain::{PlanDiff, compare_all};
use fusec_fuse::plan::PLAN_VERSION;
use fusec_ir::files;
use fusec_runtime::limits::MAX_PLAN_BYTES;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::output::Output;

/// Compares two compiled plans: kernels merged and split, operations moved, launches, bytes and
/// predicted time, and what the plans were made for.
///
/// The exit status is 0 whether they differ or not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec diff out/h200 out/a100
  fusec diff out/before/plan.json out/after/plan.json --json | jq '.plans[].changes'")]
pub struct Args {
    /// A directory that `fusec compile` wrote, or a plan.json.
    before: PathBuf,
    /// Another one.
    after: PathBuf,
}

/// The answer.
#[derive(Serialize)]
struct Report {
    /// One per pair of plans: those of equal shape with each other, the rest in order.
    plans: Vec<PlanDiff>,
    /// Plans of the first that the second has no counterpart for.
    only_before: usize,
    /// Plans of the second that the first has no counterpart for.
    only_after: usize,
}

/// What a plan.json holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Several(Vec<Plan>),
    One(Box<Plan>),
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let (plans, (only_before, only_after)) = compare_all(&before, &after);
    let report = Report {
        plans,
        only_before,
        only_after,
    };
    output.answer(&report, || text(&report))?;
    Ok(Exit::Success)
}

fn text(report: &Report) -> String {
    let mut out: String = report.plans.iter().map(PlanDiff::to_string).collect();
    for (n, which) in [(report.only_before, "first"), (report.only_after, "second")] {
        if n > 0 {
            out.push_str(&format!("{n} plan(s) only in the {which}\n"));
        }
    }
    out
}

fn read(path: &Path) -> Result<Vec<Plan>, Failure> {
    type Reader = fn(&Path, u64) -> io::Result<Vec<u8>>;
    let (path, read): (_, Reader) = match path.is_dir() {
        true => (path.join("plan.json"), files::read_regular),
        false => (path.to_path_buf(), files::read),
    };
    let text = read(&path, MAX_PLAN_BYTES).and_then(files::utf8);
    let text = text.map_err(|error| {
        failure::message(
            format!("cannot read {}: {error}", path.display()),
            "give a directory that `fusec compile` wrote, or a plan.json",
        )
    })?;
    let not_a_plan = |why: String| {
        failure::message(
            format!("{} is no plan: {why}", path.display()),
            "compile the model again with this program",
        )
    };
    // The version is looked at first: a plan of another one need not have the same fields.
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| not_a_plan(error.to_string()))?;
    let first = json.get(0).unwrap_or(&json);
    match first.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(PLAN_VERSION) => {}
        Some(version) => {
            return Err(not_a_plan(format!(
                "version {version}, this program reads {PLAN_VERSION}"
            )));
        }
        None => return Err(not_a_plan("it has no version".into())),
    }
    match serde_json::from_value(json) {
        Ok(File::Several(plans)) => Ok(plans),
        Ok(File::One(plan)) => Ok(vec![*plan]),
        Err(error) => Err(not_a_plan(error.to_string())),
    }
}
