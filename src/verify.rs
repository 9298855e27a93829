//! `fusec verify`: are the numbers right?

mod long;

use std::path::PathBuf;

use fusec_fuse::{Mode, Shape, Storage};
use fusec_ir::Graph;
use fusec_ir::gradient::{GradientReport, checked_graph};
use fusec_ir::interpret::StorageType;
use fusec_runtime::golden::{self, GoldenCase};
use fusec_runtime::limits;
use fusec_runtime::localise::{self, FirstWrong};
use fusec_runtime::memory::Footprint;
use fusec_runtime::model::Model;
use fusec_runtime::session::Session;
use fusec_runtime::train::check;
use fusec_runtime::verify::{self, Case, Comparison, HalfComparison, Worst};
use fusec_runtime::weights::{WeightSpec, Weights};
use serde::Serialize;

use crate::device::{self, Device, Memory};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{KernelArgs, ModelArgs, ShapeArg};
use crate::model;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::{Align, Table};

/// Runs a model and compares its logits, or what else it returns first: with a golden case where
/// there is one beside the checkpoint (or --golden names one), else with the f64 interpreter on
/// random tokens or numbers. First all tokens in one run, then single steps from the state it
/// leaves. Memory that kernels have not written yet holds NaN, so that what is read or handed out
/// unwritten is a wrong number.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec verify checkpoints/rwkv6                       golden.safetensors is found by itself
  fusec verify models/hybrid.toml --weights random:2   against the f64 interpreter
  fusec verify models/mamba2.toml --axis L=1 --weights random:1 --long 200
  fusec verify models/mamba2.toml --axis L=1 --weights random:1 --repeat 20 --steps 8
  fusec verify models/gla.toml --gradients --axis V=16 --axis C=16 --shape B=1,T=5")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Recorded inputs and outputs (about.json beside it has the bound).
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// A checkpoint, or random:SEED.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    /// Where it runs: auto, cpu, emulator, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    #[command(flatten)]
    kernels: KernelArgs,
    /// Without a golden case: sequences, and tokens of the first run; B=2,T=37 unless said otherwise. With
    /// --long: tokens of each run that steps are compared with; B=1,T=2048.
    #[arg(long, value_name = "B=N,T=N")]
    shape: Option<ShapeArg>,
    /// Without a golden case: single steps after it.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Without a golden case: seed of the inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compare the derivatives by all parameters, number inputs and states with central finite
    /// differences, on the CPU in f64. Takes many runs: make the model small with --axis, and the
    /// run with --shape. Weights are random:0 if none are named.
    #[arg(long, conflicts_with_all = ["golden", "steps", "device"])]
    gradients: bool,
    /// Compare N single steps with runs of many tokens over the same random ones: outputs and states after
    /// 10, 20, 50, 100, ... and all tokens, which may not drift apart.
    #[arg(long, value_name = "N", conflicts_with_all = ["golden", "steps", "gradients"])]
    long: Option<usize>,
    /// Do the same --steps single steps N times, each from an empty state: outputs and states have to be
    /// equal in every bit.
    #[arg(long, value_name = "N", conflicts_with_all = ["golden", "gradients", "long"])]
    repeat: Option<usize>,
}

impl Args {
    /// Sequences, and tokens of the first run.
    fn shape(&self) -> Shape {
        const USUAL: Shape = Shape { batch: 2, time: 37 };
        self.shape.map_or(USUAL, |ShapeArg(shape)| shape)
    }
}

#[derive(Serialize)]
struct Answer {
    model: String,
    expected: String,
    passed: bool,
    #[serde(flatten)]
    comparison: Comparison,
    /// After a failure on kernels: where they go wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<Wrong>,
}

/// Where kernels go wrong.
#[derive(Serialize)]
struct Wrong {
    /// The first value they store that is further off the f64 interpreter than accepted.
    first: Option<FirstWrong>,
    /// Whether the same was looked for with one kernel per operation.
    looked_unfused: bool,
    /// What was found there.
    unfused: Option<FirstWrong>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let model = model::open(&args.model)?;
    output.assume(&model);
    if args.gradients {
        return gradients(args, &model, output);
    }
    if let Some(tokens) = args.long {
        return long::long(args, tokens, &model, output);
    }
    if let Some(times) = args.repeat {
        return long::repeat(args, times, &model, output);
    }
    let recorded = match golden_path(args) {
        Some(path) => Some(GoldenCase::open(&path).map_err(failure::input)?),
        None => None,
    };
    admit(args, &model.graph, recorded.as_ref())?;
    let weights = model::weights(&model, args.weights.as_ref())?;
    let (case, expected) = match recorded {
        Some(golden) => {
            let case = Case::golden(&model.graph, &golden).map_err(failure::input)?;
            (case, golden.file.display().to_string())
        }
        None => {
            let Shape { batch, time } = args.shape();
            let request = verify::Request {
                batch,
                time,
                steps: args.steps,
                seed: args.seed,
            };
            let _progress = Progress::line("running the f64 interpreter");
            let case = verify::reference(&model.graph, weights.clone(), request);
            (case.map_err(failure::input)?, "the f64 interpreter".into())
        }
    };
    let shape = Shape {
        batch: case.batch,
        time: case.length,
    };
    let (device, kernels) = (args.device, &args.kernels);
    let started = device::start(
        device,
        &model.graph,
        None,
        weights.clone(),
        kernels,
        shape,
        Memory::Poisoned,
    )?;
    let mut session = started.session;
    if let Some(storage) = half(started.storage) {
        let graph = &model.graph;
        let case = case.stored_as(started.storage.into());
        let progress = Progress::line(format!("running on {} and in f64", session.device()));
        let comparison = verify::half(session.as_mut(), graph, &weights, &case, storage)
            .map_err(failure::input)?;
        drop(progress);
        let wrong = match comparison.passed() {
            true => None,
            false => wrong(
                session.as_mut(),
                args,
                graph,
                &weights,
                &case,
                Some(storage),
            )?,
        };
        return half_answer(&model.graph.name, comparison, wrong, output);
    }
    let progress = Progress::line(format!("running on {}", session.device()));
    let comparison = verify::compare_conditioned(session.as_mut(), &model.graph, &weights, &case)
        .map_err(failure::input)?;
    drop(progress);
    let passed = comparison.passed();
    let wrong = match passed {
        true => None,
        false => wrong(session.as_mut(), args, &model.graph, &weights, &case, None)?,
    };
    let answer = Answer {
        model: model.graph.name.clone(),
        expected,
        passed,
        comparison,
        wrong,
    };
    output.answer(&answer, || text(&answer))?;
    Ok(match passed {
        true => Exit::Success,
        false => Exit::ToleranceExceeded,
    })
}

#[derive(Serialize)]
struct GradientAnswer<'a> {
    model: &'a str,
    expected: &'static str,
    passed: bool,
    #[serde(flatten)]
    report: &'a GradientReport,
}

/// Compares derivatives with finite differences.
fn gradients(args: &Args, model: &Model, output: &mut Output) -> Result<Exit, Failure> {
    let shape = args.shape();
    let whole = checked_graph(&model.graph).map_err(failure::input)?;
    limits::run(&whole, shape).map_err(failure::input)?;
    let need = Footprint::of_interpreter(&whole, shape, size_of::<f64>());
    need.check_host(0).map_err(failure::input)?;
    let weights = match (&args.weights, &model.checkpoint) {
        (None, None) => WeightSpec::Random(0)
            .load(&model.graph)
            .map_err(failure::input)?,
        _ => model::weights(model, args.weights.as_ref())?,
    };
    let _progress = Progress::line("taking differences of the f64 interpreter");
    let report = check::check(&model.graph, &weights, shape, args.seed).map_err(failure::input)?;
    let answer = GradientAnswer {
        model: &model.graph.name,
        expected: "central finite differences in f64",
        passed: report.passed(),
        report: &report,
    };
    output.answer(&answer, || gradient_text(&answer))?;
    Ok(match report.passed() {
        true => Exit::Success,
        false => Exit::ToleranceExceeded,
    })
}

fn gradient_text(answer: &GradientAnswer<'_>) -> String {
    let report = answer.report;
    let mut table = Table::new([
        ("derivative by", Align::Left),
        ("", Align::Left),
        ("numbers", Align::Right),
        ("norm", Align::Right),
        ("error of norm", Align::Right),
        ("", Align::Left),
    ]);
    for check in &report.checks {
        let verdict = match (check.passed, check.norm > 0.0) {
            (false, _) => "FAILED",
            (true, false) => "nothing depends on it",
            (true, true) => "",
        };
        table.row([
            check.name.clone(),
            check.kind.into(),
            check.elements.to_string(),
            format!("{:.2e}", check.norm),
            format!("{:.1e}", check.error),
            verdict.into(),
        ]);
    }
    let [forward, all] = report.operations;
    let verdict = if answer.passed { "passed" } else { "FAILED" };
    format!(
        "derivatives of {} against {}: {forward} operations, {} of the transpose\n{}{verdict}: accepted is {:.0e} of the norm, and what rounding explains\n",
        answer.model,
        answer.expected,
        all - forward,
        table.text(),
        report.bound,
    )
}

/// Refuses what is beyond the limits or the memory of this machine, before any of it is asked for: the
/// run itself, the f64 interpreter that it is compared with, and all logits of both.
fn admit(args: &Args, graph: &Graph, recorded: Option<&GoldenCase>) -> Result<(), Failure> {
    let drawn = args.shape();
    let (shape, steps) = match recorded {
        Some(case) => (
            Shape {
                batch: case.batch,
                time: case.length,
            },
            case.steps,
        ),
        None => (drawn, args.steps),
    };
    // None is as good as one, for sizes.
    limits::size("the number of steps", steps.max(1), limits::MAX_STEPS).map_err(failure::input)?;
    device::admit(args.device, graph, shape)?;
    if recorded.is_some() {
        return Ok(());
    }
    let mut need = Footprint::of_interpreter(graph, shape, size_of::<f64>());
    let row = graph
        .outputs
        .first()
        .map_or(0, |id| graph.row_elements(*id));
    let rows = shape.batch as u128 * (shape.time as u128 + steps as u128);
    // Expected and got.
    let logits = 2 * rows * row as u128 * size_of::<f32>() as u128;
    need.host = usize::try_from(logits).unwrap_or(usize::MAX);
    need.check_host(0).map_err(failure::input)
}

/// After a failure on kernels: the first value that is wrong, and whether it is one without fusion.
fn wrong(
    session: &mut dyn Session,
    args: &Args,
    graph: &Graph,
    weights: &Weights,
    case: &Case,
    storage: Option<StorageType>,
) -> Result<Option<Wrong>, Failure> {
    if args.device.resolved() == Device::Cpu {
        return Ok(None);
    }
    let look = |session: &mut dyn Session| {
        let _progress = Progress::line("looking for the first value that is wrong");
        localise::first_wrong(session, weights, case, storage, case.bound).map_err(failure::input)
    };
    let first = look(session)?;
    let fused = args.kernels.plan_dir.is_none() && args.kernels.plan != Mode::Unfused;
    let looked_unfused = first.is_some() && fused;
    let unfused = match looked_unfused {
        false => None,
        true => {
            let mut kernels = args.kernels.clone();
            kernels.plan = Mode::Unfused;
            let shape = Shape {
                batch: case.batch,
                time: case.length,
            };
            let started = device::start(
                args.device,
                graph,
                None,
                weights.clone(),
                &kernels,
                shape,
                Memory::Poisoned,
            )?;
            let mut session = started.session;
            look(session.as_mut())?
        }
    };
    Ok(Some(Wrong {
        first,
        looked_unfused,
        unfused,
    }))
}

/// What is wrong, in words.
fn wrong_text(wrong: &Option<Wrong>) -> String {
    let Some(wrong) = wrong else {
        return String::new();
    };
    let described = |found: &FirstWrong| {
        let layer = match found.layer {
            Some(layer) => format!(" of layer {layer}"),
            None => String::new(),
        };
        let finite = match found.not_finite {
            Some([b, t, i]) => format!(", not finite from [{b}, {t}, {i}] on"),
            None => String::new(),
        };
        format!(
            "`{}`{layer}, stored by kernel `{}` in the {}: relative error {:.2e}, accepted {:.2e}{finite}",
            found.value, found.kernel, found.run, found.error, found.accepted
        )
    };
    let Some(first) = &wrong.first else {
        return "no value that a kernel stores is further off the f64 interpreter than accepted: \
                what is expected is of something else\n"
            .into();
    };
    let unfused = match (&wrong.unfused, wrong.looked_unfused) {
        (Some(unfused), _) => format!("with --plan unfused: {}\n", described(unfused)),
        (None, true) => {
            "with --plan unfused no value is wrong: look at what that kernel fuses\n".into()
        }
        (None, false) => String::new(),
    };
    format!("first wrong: {}\n{unfused}", described(first))
}

fn half(storage: Storage) -> Option<StorageType> {
    match storage {
        Storage::F32 => None,
        Storage::Bf16 => Some(StorageType::Bf16),
        Storage::F16 => Some(StorageType::F16),
    }
}

#[derive(Serialize)]
struct HalfAnswer {
    model: String,
    expected: &'static str,
    passed: bool,
    #[serde(flatten)]
    comparison: HalfComparison,
    /// After a failure: where the kernels go wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<Wrong>,
}

fn half_answer(
    model: &str,
    comparison: HalfComparison,
    wrong: Option<Wrong>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let passed = comparison.passed();
    let answer = HalfAnswer {
        model: model.into(),
        expected: "the f64 interpreter",
        passed,
        comparison,
        wrong,
    };
    output.answer(&answer, || {
        let mut table = Table::new([
            ("", Align::Left),
            ("relative L2 error", Align::Right),
            ("unfused, rounded", Align::Right),
            ("ratio", Align::Right),
        ]);
        let comparison = &answer.comparison;
        for (i, name) in ["prefill", "steps"].into_iter().enumerate() {
            let (error, unfused) = (comparison.error[i], comparison.unfused_error[i]);
            table.row([
                name.into(),
                format!("{error:.2e}"),
                format!("{unfused:.2e}"),
                format!("{:.2}", error / unfused),
            ]);
        }
        let verdict = if passed { "passed" } else { "FAILED" };
        format!(
            "{model} on {} in half precision against the f64 interpreter\n{}{verdict}: accepted is {} times the error of the unfused plan{}\n{}",
            comparison.device,
            table.text(),
            comparison.factor,
            match comparison.draws {
                0 | 1 => String::new(),
                n => format!(", the largest of {n} ways of rounding it"),
            },
            wrong_text(&answer.wrong),
        )
    })?;
    Ok(match passed {
        true => Exit::Success,
        false => Exit::ToleranceExceeded,
    })
}

/// The golden case asked for, or the one that lies beside the checkpoint.
fn golden_path(args: &Args) -> Option<PathBuf> {
    if args.golden.is_some() {
        return args.golden.clone();
    }
    let model = &args.model.model;
    let is_text = model.extension().is_some_and(|e| e == "toml");
    let directory = match model.is_dir() {
        true => model.clone(),
        false => model.parent()?.to_path_buf(),
    };
    let found = directory.join(golden::FILE);
    // Other weights, or another model: the record is not of them.
    (!is_text && args.weights.is_none() && found.exists()).then_some(found)
}

fn text(answer: &Answer) -> String {
    let Answer {
        model,
        expected,
        passed,
        comparison,
        wrong,
    } = answer;
    let mut table = Table::new([
        ("", Align::Left),
        ("max |error|", Align::Right),
        ("of max |expected|", Align::Right),
        ("at [b, t, i]", Align::Left),
        ("compared", Align::Right),
    ]);
    let mut row = |name: &str, worst: &Worst| {
        table.row([
            name.into(),
            format!("{:.2e}", worst.absolute),
            format!("{:.2e}", worst.relative),
            format!("[{}, {}, {}]", worst.batch, worst.time, worst.token),
            worst.compared.to_string(),
        ]);
    };
    row("prefill", &comparison.prefill);
    row("steps", &comparison.steps);
    let verdict = match passed {
        true => "passed",
        false => "FAILED",
    };
    format!(
        "{model} on {} against {expected}\n{}{verdict}: accepted is {:.1e} of max |expected|{}\n{}",
        comparison.device,
        table.text(),
        comparison.bound,
        match comparison.rounding {
            None => String::new(),
            Some(of) => format!(
                ": rounding every value to f32 once leaves {:.1e}, the largest of {}; \
                 up to {} times that is accepted, and never more than 1 %",
                of.error, of.draws, of.factor
            ),
        },
        wrong_text(wrong),
    )
}
