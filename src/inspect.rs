//! `fusec inspect`: what one kernel is made of, or all of them side by side.

use std::fmt::Write as _;
use std::path::Path;

use fusec_codegen::{KernelImage, Manifest, Regime};
use fusec_fuse::{Kernel, Plan, Shape};
use fusec_runtime::cubin::{self, Resources};
use fusec_runtime::plan_dir::PlanDir;
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

/// Shows the kernels of a model: registers, shared memory, spills and stack as compiled, bytes,
/// operations and time as predicted. With KERNEL: that one, and its source.
///
/// MODEL is compiled first, or is a directory that `fusec compile` wrote.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusec inspect models/hybrid.toml
  fusec inspect out/hybrid 3
  fusec inspect out/hybrid time_mix_out_1 | less
  fusec inspect out/hybrid 3 --with-prelude
  fusec inspect models/hybrid.toml --dtype bf16 --json | jq '.kernels[].resources.registers'")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Name or number of a kernel, as the table shows them.
    kernel: Option<String>,
    /// Show the primitives that the source includes as well (kernels/fusec.cuh).
    #[arg(long, requires = "kernel")]
    with_prelude: bool,
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
    /// One for each kernel, where there is a cubin.
    resources: Vec<Option<Resources>>,
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
    uses: Vec<Use<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

/// A kernel's part in a regime.
#[derive(Serialize)]
struct Use<'a> {
    regime: &'a str,
    shape: Shape,
    /// Launches of one run.
    launches: usize,
    /// Of the first of these launches.
    planned: KernelOverview<'a>,
}

/// Runs the verb.
pub fn run(args: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let compiled = compiled(args, output)?;
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
            let report = report(true, Some(find(&compiled.manifest, wanted)?));
            output.answer(&report, || {
                let kernels: String = report.kernels.iter().map(detail).collect();
                match report.prelude {
                    Some(prelude) => format!("{kernels}\n{prelude}"),
                    None => kernels,
                }
            })?;
        }
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
    let (resources, missing) = match Toolchain::discover(&args.toolchain.options()) {
        Ok(toolchain) => {
            let artifacts = kernels::compile(&toolchain, &manifest, arch)?;
            let of =
                |kernel: &KernelImage| artifacts.get(&kernel.image)?.resources.get(&kernel.entry);
            let resources = manifest.kernels.iter().map(|k| of(k).cloned()).collect();
            (resources, None)
        }
        Err(error) => (
            vec![None; manifest.kernels.len()],
            Some(unavailable(error)?),
        ),
    };
    Ok(Compiled {
        manifest,
        plans,
        resources,
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
    KernelReport {
        number,
        name: &image.name,
        image: &image.image,
        threads: image.threads,
        dynamic_shared_bytes: image.shared_bytes,
        min_arch: image.min_arch,
        source_sha256: &image.source_sha256,
        resources: compiled.resources.get(number).and_then(Option::as_ref),
        uses: regimes
            .filter_map(|(regime, plan)| kernel_use(regime, plan, number))
            .collect(),
        source: with_source.then_some(image.source.as_str()),
    }
}

fn kernel_use<'a>(regime: &'a Regime, plan: &'a Plan, number: usize) -> Option<Use<'a>> {
    let launches = || regime.steps.iter().filter(|step| step.kernel == number);
    let planned: &Kernel = plan.kernels.get(launches().next()?.plan_kernel)?;
    Some(Use {
        regime: &regime.name,
        shape: regime.shape,
        launches: launches().count(),
        planned: KernelOverview::new(&regime.graph, planned),
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
            ("threads", Align::Right),
            ("regs", Align::Right),
            ("shared", Align::Right),
            ("spills", Align::Right),
            ("stack", Align::Right),
            ("bytes", Align::Right),
            ("flops", Align::Right),
            ("predicted", Align::Right),
            ("limited by", Align::Left),
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
                kernel.threads.to_string(),
                resource(&|r| Some(r.registers.into())),
                resource(&|r| Some(r.shared_bytes + u64::from(kernel.dynamic_shared_bytes))),
                resource(&|r| r.spills.map(|s| (s.store_bytes + s.load_bytes).into())),
                resource(&|r| Some(r.local_bytes.into())),
                table::bytes(cost.bytes),
                table::count(overview::flops(cost)),
                table::microseconds(cost.total_us),
                used.planned.limited_by().to_string(),
            ]);
        }
        out.push_str(&table.text());
        out.push('\n');
    }
    out.push_str(
        "regs per thread; shared in bytes per block; spills (stored + loaded) and stack in bytes \
         per thread;\nbytes, flops and time are the plan's, for one launch\n",
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
    for used in &kernel.uses {
        let cost = used.planned.cost();
        let _ = writeln!(
            out,
            "  {} (B={} T={}): {} launches; each {}, {} flops, {} (limited by {})\n    computes {}",
            used.regime,
            used.shape.batch,
            used.shape.time,
            used.launches,
            table::bytes(cost.bytes),
            table::count(overview::flops(cost)),
            table::microseconds(cost.total_us),
            used.planned.limited_by(),
            used.planned.ops().join(", "),
        );
    }
    let _ = write!(out, "\n{}", kernel.source.unwrap_or_default());
    out
}
