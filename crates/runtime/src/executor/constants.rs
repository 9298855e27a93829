//! The region of constants: every parameter and load-time result once, in the form the kernels read.

use super::ExecuteError;
use crate::element::encode;
use crate::memory::{MemoryError, align};
use crate::weights::Weights;
use fusec_codegen::{BufferKind, Element, Manifest};
use fusec_ir::interpret::evaluate_load_time;
use fusec_ir::{ParamId, ValueId};
use std::collections::BTreeMap;

/// Where the bytes of a constant come from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Param(ParamId, Element),
    /// Computed at load, already in its element type.
    Bytes(Vec<u8>),
}

/// A constant and its place.
#[derive(Clone, Debug)]
struct Constant {
    name: String,
    source: Source,
    offset: usize,
    bytes: usize,
}

/// All constants of a manifest. Regimes share what is equal.
#[derive(Clone, Debug)]
pub struct Constants {
    list: Vec<Constant>,
    /// For each regime and buffer, the index of its constant.
    by_buffer: Vec<Vec<Option<usize>>>,
    bytes: usize,
}

impl Constants {
    /// Lays them out, evaluating what depends on the weights alone.
    pub fn new(manifest: &Manifest, weights: &Weights) -> Result<Self, ExecuteError> {
        let mut constants = Self {
            list: Vec::new(),
            by_buffer: Vec::new(),
            bytes: 0,
        };
        for regime in &manifest.regimes {
            let has_load_time = |kind| matches!(kind, BufferKind::LoadTime(_));
            let computed: BTreeMap<ValueId, Vec<f32>> = if regime
                .buffers
                .iter()
                .any(|buffer| has_load_time(buffer.kind))
            {
                let param = |id| weights.param(id).unwrap_or_default().to_vec();
                evaluate_load_time(&regime.graph, &param)
                    .map_err(|error| ExecuteError::LoadTime(Box::new(error)))?
            } else {
                BTreeMap::new()
            };
            let mut by_buffer = Vec::new();
            for buffer in &regime.buffers {
                let source = match buffer.kind {
                    BufferKind::Param(id) => Source::Param(id, buffer.element),
                    BufferKind::LoadTime(id) => {
                        let values =
                            computed
                                .get(&id)
                                .ok_or_else(|| super::ManifestError::Damaged {
                                    place: format!(
                                        "regime `{}`, buffer `{}`",
                                        regime.name, buffer.name
                                    ),
                                    reason: "its value is not computed at load".into(),
                                })?;
                        Source::Bytes(encode(&buffer.name, values, buffer.element)?)
                    }
                    _ => {
                        by_buffer.push(None);
                        continue;
                    }
                };
                let bytes = buffer.elements.checked_mul(buffer.element.bytes());
                let added = bytes.and_then(|bytes| constants.add(&buffer.name, source, bytes));
                by_buffer.push(Some(added.ok_or_else(|| MemoryError::TooLarge {
                    buffer: buffer.name.clone(),
                    batch: 1,
                    time: 1,
                })?));
            }
            constants.by_buffer.push(by_buffer);
        }
        Ok(constants)
    }

    /// The index of a constant, new or equal to an earlier one.
    fn add(&mut self, name: &str, source: Source, bytes: usize) -> Option<usize> {
        if let Some(at) = self.list.iter().position(|known| known.source == source) {
            return Some(at);
        }
        let offset = self.bytes;
        self.bytes = offset.checked_add(align(bytes)?)?;
        self.list.push(Constant {
            name: name.to_owned(),
            source,
            offset,
            bytes,
        });
        Some(self.list.len() - 1)
    }

    /// Size of the region.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether every constant has the place that it has in another layout.
    pub fn lie_as(&self, other: &Self) -> bool {
        let places = |of: &Self| -> Vec<(usize, usize)> {
            of.list.iter().map(|c| (c.offset, c.bytes)).collect()
        };
        self.by_buffer == other.by_buffer && places(self) == places(other)
    }

    /// First byte and size of a buffer that is a constant.
    pub fn place(&self, regime: usize, buffer: usize) -> Option<(usize, usize)> {
        let at = (*self.by_buffer.get(regime)?.get(buffer)?)?;
        self.list.get(at).map(|c| (c.offset, c.bytes))
    }

    /// Hands each constant's first byte and contents to `write`, one at a time: a model's
    /// parameters are never all encoded at once. Computed contents are dropped on the way.
    pub fn upload(
        &mut self,
        manifest: &Manifest,
        weights: &Weights,
        mut write: impl FnMut(usize, &[u8]) -> Result<(), ExecuteError>,
    ) -> Result<(), ExecuteError> {
        let Some(graph) = manifest.regimes.first().map(|regime| &regime.graph) else {
            return Ok(());
        };
        for constant in &mut self.list {
            let contents = match &mut constant.source {
                Source::Param(id, element) => weights.encode(graph, *id, *element)?,
                Source::Bytes(bytes) => std::mem::take(bytes),
            };
            if contents.len() != constant.bytes {
                return Err(super::ManifestError::Damaged {
                    place: format!("buffer `{}`", constant.name),
                    reason: format!(
                        "the weights give {} bytes, it has {}",
                        contents.len(),
                        constant.bytes
                    ),
                }
                .into());
            }
            write(constant.offset, &contents)?;
        }
        Ok(())
    }
}
