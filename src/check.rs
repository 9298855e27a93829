//! `fusec check`: the gates that a new model should pass before anybody trains or times it.

use fusec_codegen::KernelImage;
use fusec_fuse::{Mode, Shape, Storage};
use fusec_runtime::gates::{self, Balance, Compiled, Gate, GateError, Verdict};
use fusec_runtime::limits;
use fusec_runtime::model::Model;
use fusec_runtime::session::{Session, SessionError};
use fusec_runtime::toolchain::{Toolchain, ToolchainError};
use fusec_runtime::weights::{WeightSpec, Weights};
use serde::Serialize;

use crate::device::{self, Device, Memory};
use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{ArchArgs, KernelArgs, ModelArgs, ShapeArg};
use crate::kernels;
use crate::model;
use crate::output::Output;
use crate::pipeline::Planner;
use crate::progress::Progress;
use crate::table::wrapped;

/// Tries a model before anybody trains it or times it. G0: every kernel compiles and fits the GPU. G1: a
/// run gives finite numbers of the right shape, with random weights and with given ones. G2: with the
/// weights that training starts from, it holds every token for about as likely. G3: it learns in a few steps of
/// training on the CPU, all its branches included; models of up to 2^24 parameters are tried. G4: the
/// branches of a hybrid are about as large as each other, and differ. G5: fused kernels give the loss
/// and the tokens of unfused ones.
///
/// Each gate is PASS, WARN or FAIL, with what was measured and what is accepted. The exit status is 1 if
/// one fails, and 3 if there is no CUDA compiler for G0.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec check models/hybrid.toml --axis L=2
  fusec check models/gated-scan.toml --device emulator --shape B=2,T=24
  fusec check checkpoints/rwkv6 --json | jq '.gates[].verdict'")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A checkpoint, or random:SEED, that G1 tries beside random weights; by default those of the
    /// checkpoint that MODEL is.
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<WeightSpec>,
    /// Where it runs: auto, cpu, emulator, cuda:N.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// The run that is tried.
    #[arg(long, value_name = "B=N,T=N", default_value = "B=2,T=48")]
    shape: ShapeArg,
    /// Tokens that G5 takes one after the other, each the likeliest.
    #[arg(long, value_name = "N", default_value_t = 16)]
    steps: usize,
    /// Seed of weights and tokens.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    kernels: KernelArgs,
    #[command(flatten)]
    arch: ArchArgs,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer {
    model: String,
    /// What ran it.
    device: String,
    shape: Shape,
    gates: Vec<Gate>,
    /// What G4 measured, pair by pair.
    branches: Vec<Balance>,
    /// The worst verdict.
    verdict: Verdict,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if args.kernels.plan_dir.is_some() {
        return Err(failure::message(
            "a model is checked as it is planned here",
            "leave --plan-dir out; fusec verify checks what a directory holds",
        ));
    }
    limits::size("the number of steps", args.steps.max(1), limits::MAX_STEPS)
        .map_err(failure::input)?;
    let model = model::open(&args.model)?;
    output.assume(&model);
    let ShapeArg(shape) = args.shape;
    device::admit(args.device, &model.graph, shape)?;
    let mut all = Vec::new();
    let (kernels, has_compiler) = compiled(args, &model)?;
    all.push(kernels);

    let random = draw(Weights::random(&model.graph, args.seed))?;
    let mut session = start(args, &model, random.clone(), args.kernels.plan)?;
    let place = session.device();
    let sane = |session: &mut dyn Session, with: &str| {
        let _progress = Progress::line(format!("running on {}", session.device()));
        gates::sane(session, shape, args.seed, with, args.kernels.dtype).map_err(failure::input)
    };
    all.push(sane(session.as_mut(), &format!("random:{}", args.seed))?);
    if args.weights.is_some() || model.checkpoint.is_some() {
        let given = model::weights(&model, args.weights.as_ref())?;
        let mut session = start(args, &model, given, args.kernels.plan)?;
        all.push(sane(session.as_mut(), "the weights given")?);
    }

    let initial = draw(Weights::initial(&model.graph, args.seed))?;
    let mut beginner = start(args, &model, initial, args.kernels.plan)?;
    let undecided = gates::undecided(beginner.as_mut(), shape, args.seed);
    all.push(finite(undecided, "G2", "undecided at the start")?);
    drop(beginner);
    let learning = {
        let _progress = Progress::line("training on the CPU for a few steps");
        gates::learning(&model.graph, args.seed, gates::MOST_PARAMETERS)
    };
    all.push(learning.map_err(failure::input)?);
    let (balanced, branches) =
        gates::balance(&model.graph, &random, shape, args.seed).map_err(failure::input)?;
    all.push(balanced);
    all.push(equal(args, &model, random, session.as_mut())?);

    let rank = |gate: &&Gate| match gate.verdict {
        Verdict::NotAvailable => 0,
        Verdict::Pass => 1,
        Verdict::Warn => 2,
        Verdict::Fail => 3,
    };
    let worst = all.iter().max_by_key(rank);
    let verdict = worst.map_or(Verdict::NotAvailable, |gate| gate.verdict);
    let answer = Answer {
        model: model.graph.name.clone(),
        device: place,
        shape,
        gates: all,
        branches,
        verdict,
    };
    output.answer(&answer, || text(&answer))?;
    Ok(match (verdict, has_compiler) {
        (Verdict::Fail, _) => Exit::ToleranceExceeded,
        (_, false) => Exit::NoToolchain,
        _ => Exit::Success,
    })
}

/// A gate that ends at a number that is not finite is not passed; that is no error of the call.
fn finite(
    found: Result<Gate, GateError>,
    gate: &'static str,
    asks: &'static str,
) -> Result<Gate, Failure> {
    match found {
        Err(GateError::Session(SessionError::NonFinite(found))) => Ok(Gate {
            gate,
            asks,
            verdict: Verdict::Fail,
            figure: format!("a number that is not finite: {found}"),
            details: vec![],
        }),
        found => found.map_err(failure::input),
    }
}

fn draw<E>(weights: Result<Weights, E>) -> Result<Weights, Failure>
where
    E: std::error::Error + Send + Sync + 'static,
{
    weights.map_err(failure::input)
}

fn start<'g>(
    args: &Args,
    model: &'g Model,
    weights: Weights,
    plan: Mode,
) -> Result<Box<dyn Session + 'g>, Failure> {
    let kernels = KernelArgs {
        plan,
        ..args.kernels.clone()
    };
    let ShapeArg(shape) = args.shape;
    Ok(device::start(
        args.device,
        &model.graph,
        None,
        weights,
        &kernels,
        shape,
        Memory::Poisoned,
    )?
    .session)
}

/// G0, and whether there is a compiler.
fn compiled(args: &Args, model: &Model) -> Result<(Gate, bool), Failure> {
    let ShapeArg(shape) = args.shape;
    let planner = Planner::new(&args.kernels.plan_args(shape))?;
    let arch = planner.arch(&args.arch)?;
    let planner = planner.compiled_for(arch);
    let regimes = planner.regimes(&model.graph, None)?;
    let manifest = planner.manifest(&model.graph.name, &regimes)?;
    let unavailable = |error: ToolchainError| match error.is_unavailable() {
        true => Ok(error.to_string()),
        false => Err(failure::input(error)),
    };
    let toolchain = match Toolchain::discover(&args.kernels.toolchain.options()) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            let gate = Gate {
                gate: "G0",
                asks: "kernels compile and fit",
                verdict: Verdict::NotAvailable,
                figure: format!("no CUDA compiler: {}", unavailable(error)?),
                details: vec![],
            };
            return Ok((gate, false));
        }
    };
    let artifacts = kernels::compile(&toolchain, &manifest, arch)?;
    let used = |kernel: &KernelImage| {
        let image = artifacts.get(&kernel.image)?;
        image.resources.get(&kernel.entry).cloned()
    };
    let resources: Vec<_> = manifest.kernels.iter().map(used).collect();
    let gate = gates::fits(&Compiled {
        manifest: &manifest,
        resources: &resources,
        device: planner.device(),
    });
    Ok((gate, true))
}

/// G5.
fn equal(
    args: &Args,
    model: &Model,
    weights: Weights,
    fused: &mut dyn Session,
) -> Result<Gate, Failure> {
    let not_available = |why: &str| Gate {
        gate: "G5",
        asks: "fused equals unfused",
        verdict: Verdict::NotAvailable,
        figure: why.into(),
        details: vec![],
    };
    if !fused.has_kernels() {
        return Ok(not_available(
            "the interpreter runs no kernels: --device emulator or cuda:N compares them",
        ));
    }
    if args.kernels.plan == Mode::Unfused {
        return Ok(not_available("the plan is the unfused one"));
    }
    let mut unfused = start(args, model, weights, Mode::Unfused)?;
    let ShapeArg(shape) = args.shape;
    let storage: Storage = args.kernels.dtype;
    let _progress = Progress::line("comparing with the unfused plan");
    let unfused = unfused.as_mut();
    let equal = gates::equal(fused, unfused, shape, args.steps, args.seed, storage);
    finite(equal, "G5", "fused equals unfused")
}

/// One gate a line, and below it what there is more to say.
fn text(answer: &Answer) -> String {
    let Shape { batch, time } = answer.shape;
    let mut out = format!(
        "{} on {}, B={batch} T={time}\n",
        answer.model, answer.device
    );
    for gate in &answer.gates {
        out.push_str(&format!(
            "  {}  {:4}  {}\n{}",
            gate.gate,
            gate.verdict.word(),
            gate.asks,
            wrapped(&gate.figure, 12, 96)
        ));
        for detail in &gate.details {
            out.push_str(&wrapped(detail, 14, 96));
        }
    }
    out
}
