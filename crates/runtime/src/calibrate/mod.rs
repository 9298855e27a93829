//! Measuring a GPU: a device profile for the cost model, each figure with its provenance.
//!
//! Lives here: what is run to learn each figure. Never here: what the cost model makes of them.

mod models;
mod profile;

pub use profile::text;

use crate::bench::Spread;
use crate::executor::ExecuteError;
use crate::executor::gpu::{GpuError, GpuInfo, Probe};
use crate::toolchain::{Arch, Source, Toolchain, ToolchainError};
use fusec_codegen::prelude::with_prelude;
use fusec_codegen::{KernelImage, KernelParam, ParamKind};
use fusec_fuse::device::{Figure, Provenance};
use fusec_fuse::{Device, Storage};
use models::Bench;

const SOURCE: &str = include_str!("rates.cu");

/// The kernels of the source: name and threads of a block.
const KERNELS: [(&str, u32); 7] = [
    ("l2_read", 512),
    ("fused_multiply_add", 512),
    ("special_function", 512),
    ("exchange", 256),
    ("grid_barriers", 256),
    ("cycles", 512),
    ("nothing", 128),
];
const L2_READ: usize = 0;
const FUSED_MULTIPLY_ADD: usize = 1;
const SPECIAL_FUNCTION: usize = 2;
const EXCHANGE: usize = 3;
const GRID_BARRIERS: usize = 4;
const CYCLES: usize = 5;
const NOTHING: usize = 6;

/// Bytes that `l2_read` reads per round.
const L2_ROUND: f64 = (16 << 20) as f64;
/// Memory of the measurements: half of it is copied to the other half.
const MEMORY: usize = 2 << 30;
/// Operations per thread and unit of `n` of the two arithmetic kernels.
const OPERATIONS: f64 = 16.0;
/// Blocks per multiprocessor: with 512 threads each, a full one.
const BLOCKS_PER_SM: u32 = 4;

/// What is measured, in order; for progress.
pub const PARTS: [&str; 7] = [
    "memory",
    "L2 cache",
    "arithmetic",
    "barriers",
    "launches",
    "matrix product",
    "recurrence",
];

/// Why a GPU cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The GPU.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Running fusec's own kernels.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The compiler.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// No architecture that both the GPU and the compiler know.
    #[error("{device}: the compiler makes code for none of {known}; use a newer NVRTC")]
    Architecture {
        /// The GPU.
        device: String,
        /// What it runs.
        known: String,
    },
    /// One of the models of the calibration does not compile.
    #[error("a model of the calibration does not compile: {reason}; report this")]
    Own {
        /// Why.
        reason: String,
    },
    /// A figure came out impossible.
    #[error(
        "`{figure}` was measured as {value}, which is impossible; is another program using the GPU? Try again"
    )]
    Impossible {
        /// The field of the profile.
        figure: &'static str,
        /// What came out.
        value: f64,
    },
}

impl CalibrateError {
    fn own(reason: String) -> Self {
        Self::Own { reason }
    }
}

/// Measures a GPU. `planned_as` is the profile whose fitted figures are kept, as estimates where it is
/// another GPU's; `name` is the short name of the new one. `next` is called before each of [`PARTS`].
pub fn calibrate(
    ordinal: usize,
    name: Option<&str>,
    toolchain: &Toolchain,
    planned_as: &Device,
    mut next: impl FnMut(&'static str),
) -> Result<Device, CalibrateError> {
    let info = crate::executor::gpu::gpu(ordinal)?;
    let arch = architecture(&info, toolchain)?;
    let probe = Probe::open(ordinal, MEMORY, &kernels(toolchain, arch)?)?;
    let sms = info.multiprocessors.max(1);
    let blocks = sms * BLOCKS_PER_SM;
    let threads = f64::from(blocks) * 512.0;
    let launches = |kernel: usize, blocks: u32, n: i64| {
        // Blocks that wait for each other must all be there.
        let resident = kernel == GRID_BARRIERS;
        let times = probe.launches(kernel, KERNELS[kernel].1, blocks, n, resident, 15)?;
        Ok::<f64, GpuError>(median(&times))
    };

    next(PARTS[0]);
    let copied = MEMORY / 2;
    let memory_tbs = 2.0 * copied as f64 / median(&probe.copies(copied, 15)?) / 1e9;

    next(PARTS[1]);
    let rounds = 64;
    let l2_tbs = L2_ROUND * rounds as f64 / launches(L2_READ, blocks, rounds)? / 1e9;

    next(PARTS[2]);
    let n = 4096;
    let rate = |ms: f64| threads * OPERATIONS * n as f64 / ms / 1e9;
    let fp32_tflops = 2.0 * rate(launches(FUSED_MULTIPLY_ADD, blocks, n)?);
    let special = rate(launches(SPECIAL_FUNCTION, blocks, n)?);
    // Long enough that the start of the kernel does not count.
    // One block to a multiprocessor, so that each is there from the start to the end.
    let cycles_ms = launches(CYCLES, sms, 1 << 18)?;
    let clock_ghz = probe.first_word()? as f64 / cycles_ms / 1e6;
    let sfu_per_sm = special * 1e3 / clock_ghz / f64::from(sms);

    next(PARTS[3]);
    // Long and short, so that the start of the kernel does not count.
    let each = |kernel: usize, few: i32, many: i32| {
        let more = launches(kernel, sms, many.into())? - launches(kernel, sms, few.into())?;
        Ok::<f64, GpuError>(more * 1e3 / f64::from(many - few))
    };
    let barrier_us = each(EXCHANGE, 1 << 12, 1 << 14)?;
    let grid_barrier_us = each(GRID_BARRIERS, 1 << 8, 1 << 12)?;

    next(PARTS[4]);
    let (stream_launch_us, graph_launch_us) = probe.launch_spacing(NOTHING, 500)?;
    let registers = probe.registers()?;
    // Its memory is needed no longer.
    drop(probe);

    let half = match info.compute_capability {
        (major, _) if major >= 8 => Storage::Bf16,
        _ => Storage::F16,
    };
    let bench = Bench {
        ordinal,
        arch,
        toolchain,
        planned_as,
    };
    next(PARTS[5]);
    let tensor_tflops = bench.product_tflops(half)?;
    next(PARTS[6]);
    let step_us = bench.step_us(half)?;

    let figure = |value: f64| Figure {
        value,
        from: Provenance::Measured,
    };
    let device = Device {
        name: name.map_or_else(|| short_name(&info.name), str::to_owned),
        title: info.name.clone(),
        arch: arch.to_string(),
        sms: figure(f64::from(sms)),
        memory_tbs: figure(memory_tbs),
        l2_mb: figure(info.l2_bytes as f64 / f64::from(1 << 20)),
        l2_tbs: figure(l2_tbs),
        tensor_tflops: figure(tensor_tflops),
        fp32_tflops: figure(fp32_tflops),
        sfu_per_sm: figure(sfu_per_sm),
        clock_ghz: figure(clock_ghz),
        step_us: figure(step_us),
        barrier_us: figure(barrier_us),
        grid_barrier_us: figure(grid_barrier_us),
        stream_launch_us: figure(stream_launch_us),
        graph_launch_us: figure(graph_launch_us),
        smem_kb: figure(info.shared_bytes_per_block as f64 / 1024.0),
        registers: figure(f64::from(registers)),
        fitted: match info.name == planned_as.title {
            true => planned_as.fitted.clone(),
            false => planned_as.fitted.clone().taken_over(),
        },
    };
    for (figure, Figure { value, .. }) in device.figures() {
        if !(value.is_finite() && value > 0.0) {
            return Err(CalibrateError::Impossible { figure, value });
        }
    }
    Ok(device)
}

fn median(times: &[f32]) -> f64 {
    Spread::of(times).median
}

/// The last word of a GPU's name, in small letters: `h200` of `NVIDIA H200`.
fn short_name(name: &str) -> String {
    let last = name.split_whitespace().last().unwrap_or("gpu");
    let small = last.to_lowercase();
    small
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect()
}

fn architecture(info: &GpuInfo, toolchain: &Toolchain) -> Result<Arch, CalibrateError> {
    let names = info.architectures();
    let known = &toolchain.info().architectures;
    names
        .iter()
        .filter_map(|name| name.parse().ok())
        .find(|arch| known.contains(arch))
        .ok_or_else(|| CalibrateError::Architecture {
            device: info.name.clone(),
            known: names.join(", "),
        })
}

/// The kernels of the source, all from one cubin.
fn kernels(
    toolchain: &Toolchain,
    arch: Arch,
) -> Result<Vec<(KernelImage, Vec<u8>)>, CalibrateError> {
    let text = with_prelude(SOURCE);
    let source = Source {
        name: "rates.cu",
        text: &text,
        headers: &[],
    };
    let cubin = toolchain.compile(&source, arch)?.cubin;
    let param = |name: &str, kind| KernelParam {
        name: name.into(),
        kind,
    };
    let kernels = KERNELS.iter().map(|(name, threads)| {
        let image = KernelImage {
            name: (*name).into(),
            image: (*name).into(),
            entry: (*name).into(),
            source_sha256: String::new(),
            source: String::new(),
            threads: *threads,
            shared_bytes: 0,
            min_arch: 0,
            params: vec![
                param("data", ParamKind::Pointer),
                param("n", ParamKind::I64),
            ],
        };
        (image, cubin.clone())
    });
    Ok(kernels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::Options;

    #[test]
    fn a_short_name_is_what_people_call_the_gpu() {
        for (name, short) in [
            ("NVIDIA H200", "h200"),
            ("Tesla T4", "t4"),
            ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
            ("", "gpu"),
        ] {
            assert_eq!(short_name(name), short);
        }
    }

    #[test]
    fn the_kernels_compile_for_old_and_new_gpus_under_their_names() {
        let options = Options {
            offline: true,
            ..Options::from_env()
        };
        // Without a compiler there is nothing to try; machines that test have one.
        let Ok(toolchain) = Toolchain::discover(&options) else {
            assert!(std::env::var_os("CI").is_none(), "no NVRTC in CI");
            return;
        };
        for arch in ["sm_75", "sm_90a"] {
            let arch = arch.parse().expect("a known architecture");
            let kernels = kernels(&toolchain, arch).expect("they compile");
            let found = crate::cubin::resources(&kernels[0].1).expect("a cubin");
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            let mut wanted: Vec<&str> = KERNELS.iter().map(|(name, _)| *name).collect();
            wanted.sort_unstable();
            assert_eq!(names, wanted);
        }
    }
}
