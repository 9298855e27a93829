//! The work of each kernel in counts, recorded beside its time: what the figures of the cost model can
//! be fitted to later, without the model or its plan.

use fusec_codegen::{Manifest, Regime};
use fusec_fuse::context::Context;
use fusec_fuse::cost::{Work, work};
use fusec_fuse::{Device, Plan};
use serde::Serialize;

/// A kernel of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelWork {
    /// Its name.
    pub kernel: String,
    /// Launches of a run that do the same.
    pub launches: usize,
    /// For each phase the work of its subkernels.
    pub phases: Vec<Vec<Work>>,
}

/// The work of a run that `plan` was made for, in the order of the first launch. Counts do not depend
/// on the figures of `device`.
pub fn by_kernel(
    manifest: &Manifest,
    regime: &Regime,
    plan: &Plan,
    device: &Device,
) -> Vec<KernelWork> {
    let launch_us = device.graph_launch_us.value;
    let ctx = Context::new(&regime.graph, plan.shape, plan.storage, device, launch_us);
    let mut all: Vec<KernelWork> = Vec::new();
    for step in &regime.steps {
        let image = manifest.kernels.get(step.kernel);
        let (Some(image), Some(kernel)) = (image, plan.kernels.get(step.plan_kernel)) else {
            continue;
        };
        // One text serves all layers.
        match all.iter_mut().find(|known| known.kernel == image.name) {
            Some(known) => known.launches += 1,
            None => all.push(KernelWork {
                kernel: image.name.clone(),
                launches: 1,
                phases: work(&ctx, &kernel.phases),
            }),
        }
    }
    all
}
