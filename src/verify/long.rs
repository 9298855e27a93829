//! `verify --long` and `verify --repeat`: single steps against runs of many tokens, and against themselves.

use fusec_fuse::Shape;
use fusec_runtime::inputs::RunInputs;
use fusec_runtime::limits;
use fusec_runtime::long_run::{self, DRIFT, LongRun, Repeated};
use fusec_runtime::model::Model;
use serde::Serialize;

use super::Args;
use crate::device::{self, Memory, Started};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::ShapeArg;
use crate::model;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::{Align, Table};

/// Sequences, and tokens of each run that steps are compared with, where --shape does not say.
const LONG: Shape = Shape {
    batch: 1,
    time: 2048,
};

#[derive(Serialize)]
struct LongAnswer<'a> {
    model: &'a str,
    dtype: String,
    passed: bool,
    #[serde(flatten)]
    run: LongRun,
}

#[derive(Serialize)]
struct RepeatAnswer<'a> {
    model: &'a str,
    dtype: String,
    passed: bool,
    #[serde(flatten)]
    repeated: Repeated,
}

/// Steps against runs.
pub fn long(
    args: &Args,
    tokens: usize,
    model: &Model,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let shape = args.shape.map_or(LONG, |ShapeArg(shape)| shape);
    limits::size("the number of steps", tokens, limits::MAX_STEPS).map_err(failure::input)?;
    let (mut started, inputs) = start(args, model, shape, tokens)?;
    let runs = tokens.div_ceil(shape.time.max(1));
    let progress = Progress::new(
        format!("{tokens} steps on {}", started.session.device()),
        tokens + runs,
    );
    let all = Shape {
        batch: shape.batch,
        time: tokens,
    };
    let run = long_run::long_run(
        started.session.as_mut(),
        &inputs,
        all,
        shape.time.max(1),
        &mut || progress.step(),
    );
    drop(progress);
    let run = run.map_err(failure::input)?;
    let answer = LongAnswer {
        model: &model.graph.name,
        dtype: started.storage.to_string(),
        passed: run.passed(),
        run,
    };
    output.answer(&answer, || long_text(&answer))?;
    Ok(exit(answer.passed))
}

/// Steps against themselves.
pub fn repeat(
    args: &Args,
    times: usize,
    model: &Model,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let steps = args.steps.max(1);
    for (what, size) in [
        ("the number of steps", steps),
        ("the number of repeats", times),
    ] {
        limits::size(what, size, limits::MAX_STEPS).map_err(failure::input)?;
    }
    let batch = args.shape.map_or(LONG.batch, |ShapeArg(shape)| shape.batch);
    let (mut started, inputs) = start(args, model, Shape { batch, time: 1 }, steps)?;
    let progress = Progress::new(
        format!("the same {steps} steps on {}", started.session.device()),
        times,
    );
    let all = Shape { batch, time: steps };
    let session = started.session.as_mut();
    let repeated = long_run::repeated(session, &inputs, all, times, &mut || progress.step());
    drop(progress);
    let repeated = repeated.map_err(failure::input)?;
    let answer = RepeatAnswer {
        model: &model.graph.name,
        dtype: started.storage.to_string(),
        passed: repeated.differing == 0,
        repeated,
    };
    output.answer(&answer, || repeat_text(&answer))?;
    Ok(exit(answer.passed))
}

/// A model that runs up to `shape`, and inputs of as many tokens.
fn start<'m>(
    args: &Args,
    model: &'m Model,
    shape: Shape,
    tokens: usize,
) -> Result<(Started<'m>, RunInputs), Failure> {
    device::admit(args.device, &model.graph, shape)?;
    let weights = model::weights(model, args.weights.as_ref())?;
    let started = device::start(
        args.device,
        &model.graph,
        None,
        weights,
        &args.kernels,
        shape,
        Memory::AsFound,
    )?;
    let all = Shape {
        batch: shape.batch,
        time: tokens,
    };
    let inputs = RunInputs::random(&model.graph, all, args.seed);
    Ok((started, inputs))
}

fn exit(passed: bool) -> Exit {
    match passed {
        true => Exit::Success,
        false => Exit::ToleranceExceeded,
    }
}

fn long_text(answer: &LongAnswer<'_>) -> String {
    let run = &answer.run;
    let mut table = Table::new([
        ("tokens", Align::Right),
        ("output", Align::Right),
        ("largest", Align::Left),
        ("state", Align::Right),
        ("", Align::Left),
    ]);
    for mark in &run.marks {
        let largest = if mark.same_largest { "same" } else { "other" };
        table.row([
            mark.tokens.to_string(),
            format!("{:.2e}", mark.output),
            largest.into(),
            format!("{:.2e}", mark.state),
            mark.of_state.clone(),
        ]);
    }
    let verdict = if answer.passed { "passed" } else { "FAILED" };
    format!(
        "{} in {} on {}, B={}: single steps against runs of {} tokens, relative L2 errors\n{}{verdict}: beyond the \
         first tenth of the tokens, {DRIFT} times the largest error inside of it is accepted\n",
        answer.model,
        answer.dtype,
        run.device,
        run.batch,
        run.chunk,
        table.text(),
    )
}

fn repeat_text(answer: &RepeatAnswer<'_>) -> String {
    let Repeated {
        device,
        batch,
        steps,
        times,
        differing,
        first,
    } = &answer.repeated;
    let head = format!(
        "{} in {} on {device}, B={batch}: {steps} steps, {times} times: ",
        answer.model, answer.dtype
    );
    match first {
        None => format!("{head}the same bits in every output and state\n"),
        Some(of) => format!(
            "{head}FAILED: {differing} were not as the first; the first difference is in time {}, step {}, \
             `{}` element {}: {:e} was {:e}\n",
            of.time, of.step, of.name, of.element, of.is, of.was
        ),
    }
}
