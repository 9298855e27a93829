//! From the sources of a manifest to cubins.

use fusec_codegen::Manifest;
use fusec_runtime::toolchain::{Arch, Artifact, Toolchain};
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
    let progress = Progress::new("compiling kernels", manifest.images().count());
    toolchain
        .compile_images(manifest, arch, || progress.step())
        .map_err(failure::input)
}
