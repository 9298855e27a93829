//! What can be said of the GPU on any machine: the rest is `examples/gpu_smoke.rs`.

use crate::sample;
use fusec_fuse::Storage;
use fusec_runtime::executor::ExecuteError;
use fusec_runtime::executor::gpu::{GpuDevice, GpuError, GpuOptions, gpu, gpus};
use std::collections::BTreeMap;

#[test]
fn a_device_that_is_not_there_is_an_error_not_a_panic() {
    let count = match gpus() {
        Ok(gpus) => {
            for (ordinal, info) in gpus.iter().enumerate() {
                assert_eq!(info.ordinal, ordinal);
                assert!(
                    info.multiprocessors > 0 && info.memory_bytes > 0,
                    "{info:?}"
                );
            }
            gpus.len()
        }
        Err(GpuError::NoDriver | GpuError::OldDriver { .. } | GpuError::Driver { .. }) => 0,
        Err(other) => panic!("{other}"),
    };
    let manifest = sample::manifest(Storage::F32);
    let options = GpuOptions::default();
    let error =
        GpuDevice::open(count, &manifest, &BTreeMap::new(), options).expect_err("not there");
    let ExecuteError::Gpu(error) = error else {
        panic!("{error}")
    };
    let missing = matches!(
        *error,
        GpuError::NoDriver
            | GpuError::OldDriver { .. }
            | GpuError::NoDevice { .. }
            | GpuError::Driver { .. }
    );
    assert!(missing, "{error}");
    assert!(gpu(usize::MAX).is_err());
}
