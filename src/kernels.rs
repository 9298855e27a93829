//! From the sources of a manifest to cubins.

use fusec_codegen::Manifest;
use fusec_runtime::toolchain::{Arch, Artifact, Source, Toolchain};

use crate::failure::{self, Failure};
use crate::progress::Progress;

/// Compiles all kernels of a manifest, in parallel; the artifacts are in the manifest's order.
/// The first source that does not compile is the failure.
pub fn compile(
    toolchain: &Toolchain,
    manifest: &Manifest,
    arch: Arch,
) -> Result<Vec<Artifact>, Failure> {
    let names: Vec<String> = manifest
        .kernels
        .iter()
        .map(|kernel| format!("{}.cu", kernel.name))
        .collect();
    let sources: Vec<Source<'_>> = names
        .iter()
        .zip(&manifest.kernels)
        .map(|(name, kernel)| Source {
            name,
            text: &kernel.source,
        })
        .collect();
    let progress = Progress::new("compiling kernels", sources.len());
    toolchain
        .compile_all(&sources, arch, || progress.step())
        .map_err(failure::input)?
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(failure::input)
}
