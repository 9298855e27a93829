//! What follows from parameters alone, computed by kernels of its own before the run that reads it: where
//! parameters come with each call and lie on a device.

use fusec_codegen::BufferKind;
use fusec_fuse::Shape;
use fusec_ir::ParamId;
use std::sync::{Arc, OnceLock};

use super::as_rows::AsRows;
use super::error::TensorError;
use super::kernels::Kernels;
use super::start;
use super::{Options, ProgramError};
use crate::executor::in_place::{Addresses, InPlace, Prepared};

/// A [`Load`], made when it is first needed.
pub(super) struct Later {
    pub(super) rows: AsRows,
    pub(super) made: OnceLock<Result<Load, String>>,
}

/// Values that are computed from the parameters of each call.
#[derive(Debug)]
pub(super) struct Load {
    run: InPlace,
    params: Vec<ParamId>,
    /// Bytes of each value.
    bytes: Vec<usize>,
}

/// B and T of what is computed from parameters alone.
const ONE_ROW: Shape = Shape { batch: 1, time: 1 };

impl Load {
    /// Loads the kernels of a graph of one row whose inputs are parameters.
    pub(super) fn new(rows: &AsRows, options: &Options) -> Result<Self, ProgramError> {
        let options = Options {
            shape: ONE_ROW,
            ..options.clone()
        };
        let arch = start::arch(options.device)?.map(|arch| arch.to_string());
        let kernels = Kernels::new(&rows.graph, &options, arch.as_deref())?;
        let launcher = start::launcher(&options, &kernels.manifest)?;
        let run = InPlace::new(launcher, kernels.manifest, None)?;
        let regime = &run.manifest().regimes[0];
        let bytes = regime.graph.outputs.iter().map(|id| {
            let of = |kind| kind == BufferKind::Output(*id);
            let buffer = regime.buffers.iter().find(|buffer| of(buffer.kind));
            buffer.and_then(|buffer| buffer.bytes(ONE_ROW)).unwrap_or(0)
        });
        Ok(Self {
            bytes: bytes.collect(),
            run,
            params: rows.params.clone(),
        })
    }

    /// Bytes of each value.
    pub(super) fn bytes(&self) -> &[usize] {
        &self.bytes
    }

    /// What a run needs.
    pub(super) fn prepare(&self) -> Result<Arc<Prepared>, ProgramError> {
        Ok(self.run.prepare(ONE_ROW)?)
    }

    /// Submits a run.
    ///
    /// # Safety
    ///
    /// As of [`InPlace::run`].
    pub(super) unsafe fn run(
        &self,
        prepared: &Prepared,
        addresses: &Addresses<'_>,
        stream: u64,
    ) -> Result<(), ProgramError> {
        // SAFETY: the caller's promise.
        let ran = unsafe { self.run.run(prepared, 0, addresses, stream) };
        Ok(ran?)
    }

    /// Its inputs among the parameters of a call.
    pub(super) fn inputs(&self, params: &[u64]) -> Result<Vec<u64>, ProgramError> {
        let missing = |id: &ParamId| TensorError::Missing {
            name: format!("parameter {}", id.0),
            want: "its shape".into(),
        };
        let params = self
            .params
            .iter()
            .map(|id| params.get(id.index()).copied().ok_or_else(|| missing(id)));
        Ok(params.collect::<Result<_, _>>()?)
    }
}
