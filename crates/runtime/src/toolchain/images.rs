//! From a manifest to cubins: every image of it once.

use super::{Arch, Artifact, Header, Source, Toolchain, ToolchainError};
use fusec_codegen::Manifest;
use std::collections::BTreeMap;

impl Toolchain {
    /// Compiles all images of a manifest, in parallel, by their names; `finished` is told of each. The
    /// first source that does not compile is the error.
    pub fn compile_images(
        &self,
        manifest: &Manifest,
        arch: Arch,
        finished: impl Fn() + Sync,
    ) -> Result<BTreeMap<String, Artifact>, ToolchainError> {
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
        let artifacts = self.compile_all(&sources, arch, finished)?;
        artifacts
            .into_iter()
            .zip(manifest.images())
            .map(|(artifact, kernel)| Ok((kernel.name.clone(), artifact?)))
            .collect()
    }

    /// The same, without what else is known of them.
    pub fn cubins(
        &self,
        manifest: &Manifest,
        arch: Arch,
    ) -> Result<BTreeMap<String, Vec<u8>>, ToolchainError> {
        let artifacts = self.compile_images(manifest, arch, || {})?.into_iter();
        Ok(artifacts.map(|(image, a)| (image, a.cubin)).collect())
    }
}
