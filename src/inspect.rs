//! `fusec inspect`: what one kernel is made of, or all of them side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use fusec_codegen::{KernelImage, Manifest, Regime};
use fusec_fuse::{Device, Kernel, Plan, Shape};
use fusec_ir::Span;
use fusec_ir::language::SourceMap;
use fusec_runtime::cubin::{self, Resources};
use fusec_runtime::occupancy::{Occupancy, occupancy};
use fusec_runtime::plan_dir::PlanDir;
use fusec_runtime::toolchain::disassemble::{DisassembleError, disassemble};
use fusec_runtime::toolchain::{Arch, Toolchain, ToolchainError};
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::{self, Failure};
use crate::flags::{ArchArgs, ModelArgs, PlanArgs, ToolchainArgs};
use crate::kernels;
use crate::model::{self, Opened};
use crate::output::Output;
use crate::overview::{self, KernelOverview};
use crate::pipeline::Planner;
use crate::table::{self, Align, Table};

/// Shows the kernels of a model: registers, shared memory, spills, stack and occupancy as compiled,
/// grid, bytes, operations and time as predicted, and how much of its time a kernel spends at the roof
/// that limits it. With KERNEL: that one, where in the model its operations stand, and its source.
///
/// MODEL is compiled first, or is a directory that `fusec compile` wrote.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec inspect models/rwkv7.toml
  fusec inspect out/hybrid 3
  fusec inspect out/hybrid time_mix_out_1 | less
  fusec inspect out/hybrid 3 --with-prelude
  fusec inspect models/rwkv7.toml 3 --sass
  fusec inspect models/mamba2.toml --dtype bf16 --json | jq '.kernels[].resources.registers'")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Name or number of a kernel, as the table shows them.
    kernel: Option<String>,
    /// Show the primitives that the source includes as well (kernels/fusec.cuh).
    #[arg(long, requires = "kernel")]
    with_prelude: bool,
    /// Show the machine code too, where there is a disassembler (nvdisasm).
    #[arg(long, requires = "kernel")]
    sass: bool,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    arch: ArchArgs,
    #[command(flatten)]
    toolchain: ToolchainArgs,
}

/// A compiled model, however it was come by.
struct Compiled {
    manifest: Manifest,
    /// One for each regime.
    plans: Vec<Plan>,
    /// The profile that was planned with.
    device: Device,
    /// One for each kernel, where there is a cubin.
    resources: Vec<Option<Resources>>,
    /// By image, where there are any.
    cubins: BTreeMap<String, Vec<u8>>,
    /// The texts that places point into; none for a compiled directory.
    sources: Option<SourceMap>,
    /// Why there are no cubins.
    missing: Option<String>,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    kernels: Vec<KernelReport<'a>>,
    /// What the sources include.
    #[serde(skip_serializing_if = "Option::is_none")]
    prelude: Option<&'a str>,
}

#[derive(Serialize)]
struct KernelReport<'a> {
    number: usize,
    name: &'a str,
    /// The kernel that it is compiled as.
    image: &'a str,
    threads: u32,
    dynamic_shared_bytes: u32,
    min_arch: u32,
    source_sha256: &'a str,
    /// As compiled; null without a cubin.
    resources: Option<&'a Resources>,
    /// Blocks on a multiprocessor; null without a cubin.
    occupancy: Option<Occupancy>,
    uses: Vec<Use<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    /// The machine code, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    sass: Option<String>,
}

/// A kernel's part in a regime.
#[derive(Serialize)]
struct Use<'a> {
    regime: &'a str,
    shape: Shape,
    /// Launches of one run.
    launches: usize,
    /// Blocks of the first of these launches, at the shape planned for.
    grid: u64,
    /// Arithmetic for each byte of memory traffic; null where there is none.
    intensity: Option<f64>,
    /// The part of its predicted time that the largest term takes by itself.
    roof_share: f64,
    /// Of the first of these launches.
    planned: KernelOverview<'a>,
    /// Its operations and where they stand in the model.
    places: Vec<PlacedOp<'a>>,
}

/// An operation of a kernel.
#[derive(Serialize)]
struct PlacedOp<'a> {
    name: &'a str,
    /// File and line; null for what a form made, and for compiled directories.
    place: Option<String>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let compiled = compiled(args, output)?;
    let mut no_sass = None;
    let images = compiled.manifest.kernels.iter().enumerate();
    let report = |with_source: bool, wanted: Option<usize>| Report {
        model: &compiled.manifest.model,
        kernels: images
            .filter(|(number, _)| wanted.is_none_or(|wanted| wanted == *number))
            .map(|(number, image)| kernel_report(&compiled, number, image, with_source))
            .collect(),
        prelude: (args.with_prelude).then_some(compiled.manifest.prelude.as_str()),
    };
    match &args.kernel {
        None => {
            let report = report(false, None);
            output.answer(&report, || summary(&compiled, &report))?;
        }
        Some(wanted) => {
            let mut report = report(true, Some(find(&compiled.manifest, wanted)?));
            if args.sass {
                for kernel in &mut report.kernels {
                    no_sass = sass(&compiled, kernel)?;
                }
            }
            output.answer(&report, || {
                let kernels: String = report.kernels.iter().map(detail).collect();
                match report.prelude {
                    Some(prelude) => format!("{kernels}\n{prelude}"),
                    None => kernels,
                }
            })?;
        }
    }
    if let (Some(error), None) = (&no_sass, &compiled.missing) {
        output.finish()?;
        return Err(failure::message(
            format!("no machine code is shown: {error}"),
            "what is shown above is everything else",
        ));
    }
    match compiled.missing {
        None => Ok(Exit::Success),
        Some(reason) => {
            output.finish()?;
            Err(failure::message(
                format!("nothing was compiled: {reason}"),
                "what is shown above is the plan's prediction and the source only",
            )
            .with_exit(Exit::NoToolchain))
        }
    }
}

/// Adds the machine code of a kernel; or says why there is none.
fn sass(
    compiled: &Compiled,
    report: &mut KernelReport<'_>,
) -> Result<Option<DisassembleError>, Failure> {
    let kernel = &compiled.manifest.kernels[report.number];
    let Some(cubin) = compiled.cubins.get(&kernel.image) else {
        return match compiled.missing {
            // That is said anyway.
            Some(_) => Ok(None),
            None => Err(failure::message(
                format!("there is no cubin of `{}` here", kernel.name),
                "compile the model where there is a CUDA compiler",
            )),
        };
    };
    match disassemble(cubin, &kernel.entry) {
        Ok(text) => report.sass = Some(text),
        Err(error) if error.is_missing() => return Ok(Some(error)),
        Err(error) => return Err(failure::input(error)),
    }
    Ok(None)
}

fn compiled(args: &Args, output: &mut Output) -> Result<Compiled, Failure> {
    let model = match model::open_any(&args.model)? {
        Opened::Model(model) => model,
        Opened::Compiled(dir) => return carried(*dir, &args.model.model, args.arch.arch),
    };
    output.assume(&model);
    let planner = Planner::new(&args.plan)?;
    let arch = planner.arch(&args.arch)?;
    let planner = planner.compiled_for(arch);
    let regimes = planner.regimes(&model.graph, None)?;
    let manifest = planner.manifest(&model.graph.name, &regimes)?;
    let plans = regimes.into_iter().map(|r| r.planned.plan).collect();
    let (resources, cubins, missing) = match Toolchain::discover(&args.toolchain.options()) {
        Ok(toolchain) => {
            let artifacts = kernels::compile(&toolchain, &manifest, arch)?;
            let of =
                |kernel: &KernelImage| artifacts.get(&kernel.image)?.resources.get(&kernel.entry);
            let resources = manifest.kernels.iter().map(|k| of(k).cloned()).collect();
            let cubins = artifacts.into_iter().map(|(image, a)| (image, a.cubin));
            (resources, cubins.collect(), None)
        }
        Err(error) => (
            vec![None; manifest.kernels.len()],
            BTreeMap::new(),
            Some(unavailable(error)?),
        ),
    };
    Ok(Compiled {
        manifest,
        plans,
        device: planner.device().clone(),
        resources,
        cubins,
        sources: Some(model.sources),
        missing,
    })
}

/// What a plan directory carries, for one of its architectures.
fn carried(dir: PlanDir, path: &Path, arch: Option<Arch>) -> Result<Compiled, Failure> {
    dir.check_plans(path).map_err(failure::input)?;
    let wanted = arch.map(|arch| arch.to_string());
    let images = match (wanted, dir.cubins.first_key_value()) {
        (Some(arch), _) => Some(dir.cubins_for(&arch, path).map_err(failure::input)?),
        (None, Some((_, images))) => Some(images),
        (None, None) => None,
    };
    let resources = (dir.manifest.kernels.iter())
        .map(
            |kernel| match images.and_then(|images| images.get(&kernel.image)) {
                Some(image) => {
                    let mut all = cubin::resources(image).map_err(failure::input)?;
                    Ok(all.remove(&kernel.entry))
                }
                None => Ok(None),
            },
        )
        .collect::<Result<_, Failure>>()?;
    Ok(Compiled {
        resources,
        missing: None,
        cubins: images.cloned().unwrap_or_default(),
        sources: None,
        device: dir.device,
        manifest: dir.manifest,
        plans: dir.plans,
    })
}

fn unavailable(error: ToolchainError) -> Result<String, Failure> {
    match error.is_unavailable() {
        true => Ok(error.to_string()),
        false => Err(failure::input(error)),
    }
}

/// The kernel that the user named.
fn find(manifest: &Manifest, wanted: &str) -> Result<usize, Failure> {
    let by_name = manifest.kernels.iter().position(|k| k.name == wanted);
    let by_number = || {
        let number = wanted.parse::<usize>().ok();
        number.filter(|number| *number < manifest.kernels.len())
    };
    by_name.or_else(by_number).ok_or_else(|| {
        failure::message(
            format!("`{}` has no kernel `{wanted}`", manifest.model),
            format!(
                "kernels are numbered 0 to {}; leave KERNEL out to see them",
                manifest.kernels.len().saturating_sub(1)
            ),
        )
    })
}

fn kernel_report<'a>(
    compiled: &'a Compiled,
    number: usize,
    image: &'a KernelImage,
    with_source: bool,
) -> KernelReport<'a> {
    let regimes = compiled.manifest.regimes.iter().zip(&compiled.plans);
    let resources = compiled.resources.get(number).and_then(Option::as_ref);
    KernelReport {
        number,
        name: &image.name,
        image: &image.image,
        threads: image.threads,
        dynamic_shared_bytes: image.shared_bytes,
        min_arch: image.min_arch,
        source_sha256: &image.source_sha256,
        resources,
        occupancy: resources
            .and_then(|used| occupancy(&compiled.device, used, image.threads, image.shared_bytes)),
        uses: regimes
            .filter_map(|(regime, plan)| kernel_use(compiled, regime, plan, number))
            .collect(),
        source: with_source.then_some(image.source.as_str()),
        sass: None,
    }
}

fn kernel_use<'a>(
    compiled: &Compiled,
    regime: &'a Regime,
    plan: &'a Plan,
    number: usize,
) -> Option<Use<'a>> {
    let launches = || regime.steps.iter().filter(|step| step.kernel == number);
    let planned: &Kernel = plan.kernels.get(launches().next()?.plan_kernel)?;
    let cost = &planned.cost;
    let place = |span: Span| {
        let (file, range) = compiled.sources.as_ref()?.locate(span)?;
        let before = file.text.get(..range.start).unwrap_or_default();
        Some(format!(
            "{}:{}",
            file.name,
            before.matches('\n').count() + 1
        ))
    };
    let ops = planned.ops.iter().map(|id| regime.graph.op(*id));
    Some(Use {
        regime: &regime.name,
        shape: regime.shape,
        launches: launches().count(),
        grid: planned.launch.blocks,
        intensity: (cost.bytes > 0.0).then(|| overview::flops(cost) / cost.bytes),
        roof_share: overview::roof_share(cost),
        planned: KernelOverview::new(&regime.graph, planned),
        places: ops
            .map(|op| PlacedOp {
                name: &op.name,
                place: op.span.and_then(place),
            })
            .collect(),
    })
}

/// All kernels, a table for each regime.
fn summary(compiled: &Compiled, report: &Report<'_>) -> String {
    let mut out = String::new();
    for regime in &compiled.manifest.regimes {
        let Shape { batch, time } = regime.shape;
        let _ = writeln!(
            out,
            "{} {}: B={batch} T={time}, {} launches",
            report.model,
            regime.name,
            regime.steps.len()
        );
        let mut table = Table::new([
            ("#", Align::Right),
            ("kernel", Align::Left),
            ("by", Align::Left),
            ("launches", Align::Right),
            ("blocks", Align::Right),
            ("threads", Align::Right),
            ("regs", Align::Right),
            ("shared", Align::Right),
            ("spills", Align::Right),
            ("stack", Align::Right),
            ("occupancy", Align::Right),
            ("bytes", Align::Right),
            ("flops", Align::Right),
            ("flops/B", Align::Right),
            ("predicted", Align::Right),
            ("limited by", Align::Left),
            ("share", Align::Right),
        ]);
        for kernel in &report.kernels {
            let Some(used) = kernel.uses.iter().find(|used| used.regime == regime.name) else {
                continue;
            };
            let cost = used.planned.cost();
            let resource = |f: &dyn Fn(&Resources) -> Option<u64>| {
                let figure = kernel.resources.and_then(f);
                figure.map_or("-".to_string(), |figure| figure.to_string())
            };
            table.row([
                kernel.number.to_string(),
                kernel.name.to_string(),
                used.planned.template(),
                used.launches.to_string(),
                used.grid.to_string(),
                kernel.threads.to_string(),
                resource(&|r| Some(r.registers.into())),
                resource(&|r| Some(r.shared_bytes + u64::from(kernel.dynamic_shared_bytes))),
                resource(&|r| r.spills.map(|s| (s.store_bytes + s.load_bytes).into())),
                resource(&|r| Some(r.local_bytes.into())),
                (kernel.occupancy).map_or("-".into(), |held| table::percent(held.part)),
                table::bytes(cost.bytes),
                table::count(overview::flops(cost)),
                used.intensity.map_or("-".into(), |x| format!("{x:.1}")),
                table::microseconds(cost.total_us),
                used.planned.limited_by().to_string(),
                table::percent(used.roof_share),
            ]);
        }
        out.push_str(&table.text());
        out.push('\n');
    }
    out.push_str(
        "regs per thread; shared in bytes per block; spills (stored + loaded) and stack in bytes \
         per thread;\noccupancy: threads that a multiprocessor holds of those it can; blocks, bytes, \
         flops and time are the\nplan's, for one launch; share: the limiting term's part of that time\n",
    );
    out
}

/// One kernel with its source.
fn detail(kernel: &KernelReport<'_>) -> String {
    let mut out = format!("{} (number {})\n", kernel.name, kernel.number);
    match kernel.resources {
        Some(r) => {
            let spills = match r.spills {
                Some(s) => format!("{} B stored, {} B loaded", s.store_bytes, s.load_bytes),
                None => "not recorded".to_string(),
            };
            let _ = writeln!(
                out,
                "  threads {}, registers {}, shared {} B static + {} B dynamic, stack {} B, \
                 spills {spills}",
                kernel.threads,
                r.registers,
                r.shared_bytes,
                kernel.dynamic_shared_bytes,
                r.local_bytes,
            );
        }
        None => {
            let _ = writeln!(
                out,
                "  threads {}, shared {} B dynamic; not compiled",
                kernel.threads, kernel.dynamic_shared_bytes
            );
        }
    }
    if let Some(held) = &kernel.occupancy {
        let _ = writeln!(
            out,
            "  a multiprocessor holds {} blocks, {} of its threads; one more lacks {}",
            held.blocks,
            table::percent(held.part),
            held.limited_by,
        );
    }
    for used in &kernel.uses {
        let cost = used.planned.cost();
        let intensity = used.intensity;
        let _ = writeln!(
            out,
            "  {} (B={} T={}): {} {} of {} blocks; each {}, {} flops ({} a byte), {}, {} of it {}",
            used.regime,
            used.shape.batch,
            used.shape.time,
            used.launches,
            if used.launches == 1 {
                "launch"
            } else {
                "launches"
            },
            used.grid,
            table::bytes(cost.bytes),
            table::count(overview::flops(cost)),
            intensity.map_or("-".into(), |x| format!("{x:.1}")),
            table::microseconds(cost.total_us),
            table::percent(used.roof_share),
            used.planned.limited_by(),
        );
        let mut computed = Table::new([("", Align::Left), ("", Align::Left)]);
        for op in &used.places {
            computed.row([
                format!("    {}", op.name),
                op.place.clone().unwrap_or_default(),
            ]);
        }
        let _ = write!(
            out,
            "    computes\n{}",
            computed.text().trim_start_matches([' ', '\n'])
        );
    }
    let _ = write!(out, "\n{}", kernel.source.unwrap_or_default());
    if let Some(sass) = &kernel.sass {
        let _ = write!(out, "\n{sass}");
    }
    out
}
