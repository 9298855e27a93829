//! From the sources of a manifest to cubins.

use fusec_codegen::Manifest;
use fusec_runtime::toolchain::{Arch, Artifact, Header, Source, Toolchain};
use std::collections::BTreeMap;

use crate::failure::{self, Failure};
use crate::progress::Progress;

/// Compiles all images of a manifest, in parallel, by their names. The first source that does not
/// compile is the failure.
pub fn compile(
    toolchain: &Toolchain,
    manifest: &Manifest,
    arch: Arch,
) -> Result<BTreeMap<String, Artifact>, Failure> {
    let names: Vec<String> = manifest
        .images()
        .map(|kernel| format!("{}.cu", kernel.name))
        .collect();
    let headers = [Header::prelude(manifest)];
    let sources: Vec<Source<'_>> = names
        .iter()
        .zip(manifest.images())
        .map(|(name, kernel)| Source {
            name,
            text: &kernel.source,
            headers: &headers,
        })
        .collect();
    let progress = Progress::new("compiling kernels", sources.len());
    toolchain
        .compile_all(&sources, arch, || progress.step())
        .map_err(failure::input)?
        .into_iter()
        .zip(manifest.images())
        .map(|(artifact, kernel)| Ok((kernel.name.clone(), artifact.map_err(failure::input)?)))
        .collect()
}
