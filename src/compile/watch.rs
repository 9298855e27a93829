//! `fusec compile --watch`: a model that is planned again whenever its text is saved.
//!
//! Files are looked at some ten times a second, which works on every file system and for editors that
//! replace a file instead of writing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fusec_fuse::explain::{PlanDiff, compare};
use fusec_fuse::{Known, Mode, Recipe};
use fusec_ir::Graph;
use fusec_runtime::model::Model;
use serde::Serialize;

use super::kept::kept;
use super::{Args, Made, planned, planner, write};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::model;
use crate::output::Output;
use crate::pipeline::Regime;
use crate::table;

/// Time between two looks at the files.
const PAUSE: Duration = Duration::from_millis(40);

/// What a save changed, as JSON.
#[derive(Serialize)]
struct Replanned<'a> {
    /// How kernels were found.
    how: How,
    /// The time from the save that was seen to the plans.
    milliseconds: f64,
    regimes: Vec<Changed<'a>>,
}

/// How kernels were found.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// Those of the last plan, and what is new merged greedily.
    AsBefore,
    /// As whoever called wants them.
    Chosen,
}

#[derive(Serialize)]
struct Changed<'a> {
    regime: &'a str,
    #[serde(flatten)]
    diff: PlanDiff,
}

/// When each file was written, and its size; nothing for a file that is not there at the moment.
type Stamp = Vec<Option<(SystemTime, u64)>>;

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |path: &PathBuf| {
        let known = fs::metadata(path).ok()?;
        Some((known.modified().ok()?, known.len()))
    };
    files.iter().map(of).collect()
}

/// The files of a model's text: the main one, and what it includes, relative to it.
fn files(model: &Model) -> Vec<PathBuf> {
    let all = model.sources.files();
    let main = all.first().map(|file| PathBuf::from(&file.name));
    let directory = main.as_deref().and_then(Path::parent);
    let directory = directory.unwrap_or(Path::new("")).to_path_buf();
    let included = all.iter().skip(1).map(|file| directory.join(&file.name));
    main.into_iter().chain(included).collect()
}

/// Waits for the files to differ from `before`, all of them there, and the same for one look more.
fn changed(files: &[PathBuf], before: &Stamp) -> Stamp {
    loop {
        thread::sleep(PAUSE);
        let now = stamp(files);
        if now == *before || now.iter().any(Option::is_none) {
            continue;
        }
        thread::sleep(PAUSE / 4);
        if stamp(files) == now {
            return now;
        }
    }
}

/// What a graph says, without the places in the text where it is said: a remark changes these alone.
fn meaning(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let params = graph.params.iter_mut().map(|param| &mut param.span);
    let ops = graph.ops.iter_mut().map(|op| &mut op.span);
    let pins = graph.pins.iter_mut().map(|pin| &mut pin.span);
    params.chain(ops).chain(pins).for_each(|span| *span = None);
    graph
}

/// Plans again at each save, for as long as nobody ends the program.
pub fn follow(
    args: &Args,
    first: &Model,
    mut made: Made,
    known: &Arc<Known>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut text = first.graph.clone();
    let mut watched = files(first);
    let mut seen = stamp(&watched);
    announce(&watched, output)?;
    loop {
        seen = changed(&watched, &seen);
        let began = Instant::now();
        let done = model::open(&args.model).and_then(|mut model| {
            args.training.apply_beside(args.logits, &mut model)?;
            if meaning(&model.graph) == meaning(&text) {
                return Ok(None);
            }
            let quick = at_once(args, &model, (&text, &made), known, began, output)?;
            let made = planned(args, &model, known)?;
            Ok(Some((model, quick, made)))
        });
        match done {
            Err(failure) => failure.print(),
            Ok(None) => output.note("saved: the model means what was planned last")?,
            Ok(Some((model, quick, now))) => {
                let last = quick.as_deref().unwrap_or(&made.regimes);
                say(How::Chosen, began, last, &now.regimes, output)?;
                watched = files(&model);
                seen = stamp(&watched);
                // What can be planned may still not compile; the next save may mend it.
                match write(args, &model, &now, false, output) {
                    Ok(_) => {}
                    Err(failure) => failure.print(),
                }
                text = model.graph;
                made = now;
            }
        }
        announce(&watched, output)?;
    }
}

/// Says at once what a save changed, with the kernels of the last plan: those that cost least may take longer to
/// find than somebody who has just saved looks away from the text. Plans that are not searched for are none the
/// faster for it.
fn at_once(
    args: &Args,
    model: &Model,
    (text, made): (&Graph, &Made),
    known: &Arc<Known>,
    began: Instant,
    output: &mut Output,
) -> Result<Option<Vec<Regime>>, Failure> {
    if args.plan.plan != Mode::Auto || args.training.training {
        return Ok(None);
    }
    let (planner, _) = planner(args, known)?;
    let last = args.logits.logits.asked(&model.graph);
    let quick = planner.regimes_beside(&model.graph, last.as_ref(), |name, graph, shape| {
        let of = made.regimes.iter().find(|regime| regime.name == name);
        let Some(of) = of else {
            return planner.by(graph, shape, &Recipe::plain(Mode::Greedy));
        };
        let text = match of.max_time {
            Some(1) => text,
            _ => made.last.as_ref().unwrap_or(text),
        };
        kept(&planner, (text, &of.planned), graph, shape)
    })?;
    say(How::AsBefore, began, &made.regimes, &quick, output)?;
    Ok(Some(quick))
}

/// Says what is different between plans.
fn say(
    how: How,
    began: Instant,
    before: &[Regime],
    now: &[Regime],
    output: &mut Output,
) -> Result<(), Failure> {
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    let changed = |regime: &Regime| {
        let old = before.iter().find(|of| of.name == regime.name)?;
        let mut diff = compare(&old.planned.plan, &regime.planned.plan);
        // How they were found is said once, not for each.
        diff.settings
            .retain(|setting| !["claim", "plan"].contains(&setting.name));
        Some(Changed {
            regime: regime.name,
            diff,
        })
    };
    let replanned = Replanned {
        how,
        milliseconds,
        regimes: now.iter().filter_map(changed).collect(),
    };
    output.answer(&replanned, || text(&replanned))?;
    output.finish()
}

fn announce(files: &[PathBuf], output: &mut Output) -> Result<(), Failure> {
    let names: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    output.note(format!("watching {}; Ctrl-C ends it", names.join(", ")))
}

fn text(replanned: &Replanned<'_>) -> String {
    let ms = replanned.milliseconds;
    let mut out = match replanned.how {
        How::AsBefore => format!("planned again in {ms:.0} ms, with the kernels of before\n"),
        How::Chosen => format!("kernels chosen in {ms:.0} ms\n"),
    };
    for changed in &replanned.regimes {
        let PlanDiff {
            launches, total_us, ..
        } = &changed.diff;
        out.push_str(&format!(
            "{}: {} -> {} launches, {} -> {} predicted\n",
            changed.regime,
            launches.0,
            launches.1,
            table::microseconds(total_us.0),
            table::microseconds(total_us.1),
        ));
        match changed.diff.is_empty() {
            true => out.push_str("  the same kernels\n"),
            false => out.push_str(&changed.diff.to_string()),
        }
    }
    out
}
