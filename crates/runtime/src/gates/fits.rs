//! G0: every kernel is compiled, and fits the GPU that it is planned for.

use super::{Gate, Verdict};
use crate::cubin::Resources;
use crate::occupancy::occupancy;
use fusec_codegen::Manifest;
use fusec_fuse::Device;

/// Kernels that are named; the rest are counted.
const NAMED: usize = 5;

/// What became of the kernels of a manifest.
pub struct Compiled<'a> {
    /// The kernels.
    pub manifest: &'a Manifest,
    /// What each uses, in the same order; `None` where it is not in a cubin.
    pub resources: &'a [Option<Resources>],
    /// The GPU.
    pub device: &'a Device,
}

/// Judges kernels that were compiled: one that a multiprocessor holds no block of fails, one that keeps
/// numbers in slow memory for want of registers is warned of.
pub fn fits(compiled: &Compiled<'_>) -> Gate {
    let (mut too_large, mut spilling, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut most = 0;
    for (kernel, used) in compiled.manifest.kernels.iter().zip(compiled.resources) {
        let Some(used) = used else {
            missing.push(format!("{}: not in a cubin", kernel.name));
            continue;
        };
        most = most.max(used.registers);
        let held = occupancy(compiled.device, used, kernel.threads, kernel.shared_bytes);
        if let Some(held) = held.filter(|held| held.blocks == 0) {
            too_large.push(format!(
                "{}: no block of {} threads fits a multiprocessor of {}: too little of {}",
                kernel.name, kernel.threads, compiled.device.title, held.limited_by
            ));
        }
        let spills = used.spills.unwrap_or_default();
        if spills.store_bytes + spills.load_bytes > 0 {
            spilling.push(format!(
                "{}: spills {} B stored and {} B loaded per thread",
                kernel.name, spills.store_bytes, spills.load_bytes
            ));
        }
    }
    let kernels = compiled.manifest.kernels.len();
    let (bad, warned) = (too_large.len() + missing.len(), spilling.len());
    let verdict = match (bad, warned) {
        (0, 0) => Verdict::Pass,
        (0, _) => Verdict::Warn,
        _ => Verdict::Fail,
    };
    let spill = match warned {
        0 => "none spills".into(),
        some => format!("{some} spill"),
    };
    let figure = format!(
        "{} of {kernels} kernels compiled for {} and fit, at most {most} registers, {spill}",
        kernels - bad,
        compiled.device.arch,
    );
    let mut details: Vec<String> = too_large.into_iter().chain(missing).collect();
    details.extend(spilling);
    let more = details.len().saturating_sub(NAMED);
    details.truncate(NAMED);
    if more > 0 {
        details.push(format!("and {more} more"));
    }
    Gate {
        gate: "G0",
        asks: "kernels compile and fit",
        verdict,
        figure,
        details,
    }
}
