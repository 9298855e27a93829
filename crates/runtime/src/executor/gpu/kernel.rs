//! A compiled kernel, loaded and checked against the device's limits.

use super::error::{GpuError, words};
use super::info::{GpuInfo, failed};
use crate::executor::device::{MAP_AXES, TensorMapValue};
use crate::executor::{ArgValue, Launch};
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use fusec_codegen::{Element, KernelImage};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Dynamic shared memory that every kernel may use without asking, bytes.
const SHARED_BYTES_UNASKED: u32 = 48 * 1024;

/// A kernel that can be launched.
#[derive(Debug)]
pub(super) struct LoadedKernel {
    function: sys::CUfunction,
    module: sys::CUmodule,
    context: Arc<CudaContext>,
    /// Blocks that the device holds at once.
    pub(super) resident_blocks: u32,
}

// SAFETY: the handles are the driver's, whose calls may come from any thread; each call binds
// the context to its thread first.
unsafe impl Send for LoadedKernel {}
// SAFETY: as above; a loaded kernel does not change.
unsafe impl Sync for LoadedKernel {}

impl LoadedKernel {
    /// A launch with grid barriers would hang unless all its blocks were resident: it has no more than
    /// the device holds at once, and at least one.
    pub(super) fn check_resident(&self, launch: &Launch) -> Result<(), GpuError> {
        if launch.cooperative && self.resident_blocks == 0 {
            return Err(GpuError::Limit {
                kernel: launch.name.clone(),
                launch: describe(launch),
                limit: "it has grid barriers, and the device holds none of its blocks".into(),
            });
        }
        Ok(())
    }

    /// Loads a cubin and asks for the resources that the kernel's launches take.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        info: &GpuInfo,
        kernel: &KernelImage,
        cubin: &[u8],
    ) -> Result<Self, GpuError> {
        let (major, minor) = info.compute_capability;
        if kernel.min_arch > 10 * major + minor {
            return Err(GpuError::TooOld {
                kernel: kernel.name.clone(),
                ordinal: info.ordinal,
                needs: kernel.min_arch,
                capability: info.compute_capability,
            });
        }
        let load = |error: DriverError| match error.0 {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => GpuError::Architecture {
                kernel: kernel.name.clone(),
                ordinal: info.ordinal,
                capability: info.compute_capability,
            },
            CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_INVALID_SOURCE
            | CUresult::CUDA_ERROR_NOT_FOUND => GpuError::Load {
                kernel: kernel.name.clone(),
                cause: words(error),
            },
            // Nothing that the kernel is to blame for.
            _ => failed(info.ordinal, "cannot load a kernel", error),
        };
        // The driver reads as far as the image's own header says; a damaged one must not make it
        // read beyond the bytes there are.
        if crate::cubin::resources(cubin).is_err() {
            return Err(GpuError::Load {
                kernel: kernel.name.clone(),
                cause: "it is no cubin".into(),
            });
        }
        let entry = CString::new(kernel.entry.as_str()).map_err(|_| GpuError::Load {
            kernel: kernel.name.clone(),
            cause: "its entry has a NUL".into(),
        })?;
        context.bind_to_thread().map_err(load)?;
        // SAFETY: the image is a whole ELF file, checked above, and is copied by the call.
        let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(load)?;
        let mut loaded = Self {
            function: std::ptr::null_mut(),
            module,
            context: context.clone(),
            resident_blocks: 0,
        };
        // SAFETY: the module was just loaded and is unloaded only when `loaded` is dropped.
        loaded.function = unsafe { result::module::get_function(module, entry) }.map_err(load)?;
        loaded.fit(info, kernel)?;
        Ok(loaded)
    }

    /// Asks for the shared memory, and checks the block against what the kernel's registers allow.
    fn fit(&mut self, info: &GpuInfo, kernel: &KernelImage) -> Result<(), GpuError> {
        let limit = |limit: String| GpuError::Limit {
            kernel: kernel.name.clone(),
            launch: format!(
                "blocks of {} threads and {} bytes of dynamic shared memory",
                kernel.threads, kernel.shared_bytes
            ),
            limit,
        };
        let ask = |error| failed(info.ordinal, "cannot read a kernel's properties", error);
        // SAFETY: `self.function` belongs to `self.module`, which is loaded.
        let attribute =
            |what| unsafe { result::function::get_function_attribute(self.function, what) };
        let threads = attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).map_err(ask)?;
        if kernel.threads > u32::try_from(threads).unwrap_or(0) {
            return Err(limit(format!("its registers allow {threads} threads")));
        }
        let fixed = attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES).map_err(ask)?;
        let shared = usize::try_from(fixed).unwrap_or(0) + kernel.shared_bytes as usize;
        if shared > info.shared_bytes_per_block {
            return Err(limit(format!(
                "with {fixed} bytes of static shared memory, {shared} bytes are wanted, a block has {}",
                info.shared_bytes_per_block
            )));
        }
        let dynamic = i32::try_from(kernel.shared_bytes).unwrap_or(i32::MAX);
        if kernel.shared_bytes > SHARED_BYTES_UNASKED {
            let what = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: `self.function` belongs to `self.module`, which is loaded.
            unsafe { result::function::set_function_attribute(self.function, what, dynamic) }
                .map_err(|error| limit(words(error)))?;
        }
        // SAFETY: as above.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                self.function,
                i32::try_from(kernel.threads).unwrap_or(i32::MAX),
                kernel.shared_bytes as usize,
            )
        }
        .map_err(ask)?;
        let blocks = u32::try_from(blocks).unwrap_or(0);
        self.resident_blocks = blocks.saturating_mul(info.multiprocessors);
        Ok(())
    }

    /// Blocks of a launch: where any number does the work, no more than the device holds at once.
    fn grid(&self, launch: &Launch) -> u32 {
        match launch.cooperative || launch.persistent {
            true => launch.grid.min(self.resident_blocks.max(1)),
            false => launch.grid,
        }
    }

    /// Puts a launch on a stream.
    pub(super) fn enqueue(
        &self,
        launch: &Launch,
        position: i64,
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let mut arguments = Arguments::default();
        arguments.put(&launch.args, position)?;
        // SAFETY: the addresses were resolved inside the device's regions, which are freed only after the
        // stream was waited for; the stream lives.
        unsafe { self.launch(launch, &mut arguments, stream.cu_stream()) }
    }

    /// Puts a launch on a stream, with these arguments in place of the launch's.
    ///
    /// # Safety
    ///
    /// There is one argument for each of the kernel's parameters, of its kind; their addresses are memory
    /// that the kernel may use until the stream has come to its end; the stream is one of the context, which is
    /// the thread's.
    pub(super) unsafe fn launch(
        &self,
        launch: &Launch,
        arguments: &mut Arguments,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        let params = arguments.pointers();
        let (grid, block) = ((self.grid(launch), 1, 1), (launch.block, 1, 1));
        let shared = launch.shared_bytes;
        // SAFETY: the function is loaded, the parameters are one value of its size per parameter of the
        // kernel and are copied by the call; the rest is the caller's promise.
        unsafe {
            if launch.cooperative {
                let f = self.function;
                result::launch_cooperative_kernel(f, grid, block, shared, stream, params)
            } else {
                result::launch_kernel(self.function, grid, block, shared, stream, params)
            }
        }
    }

    /// The parameters of a graph node. `params` must outlive their use.
    pub(super) fn node(
        &self,
        launch: &Launch,
        params: &mut [*mut c_void],
    ) -> sys::CUDA_KERNEL_NODE_PARAMS {
        sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.function,
            gridDimX: self.grid(launch),
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            kernelParams: params.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: std::ptr::null_mut(),
            ctx: std::ptr::null_mut(),
        }
    }
}

impl Drop for LoadedKernel {
    fn drop(&mut self) {
        let unload = || {
            self.context.bind_to_thread()?;
            // SAFETY: loaded by `new`, unloaded only here.
            unsafe { result::module::unload(self.module) }
        };
        if let Err(error) = unload() {
            tracing::debug!("unloading a kernel: {error:?}");
        }
    }
}

/// The arguments of a launch as a kernel takes them; room that is used again for the next one.
#[derive(Default)]
pub(super) struct Arguments {
    /// Addresses and integers.
    words: Vec<u64>,
    maps: Vec<sys::CUtensorMap>,
    /// For each argument, where it is: among the words, or among the maps.
    order: Vec<(bool, usize)>,
    pointers: Vec<*mut c_void>,
}

impl Arguments {
    /// Takes those of a launch.
    pub(super) fn put(&mut self, args: &[ArgValue], position: i64) -> Result<(), DriverError> {
        self.words.clear();
        self.maps.clear();
        self.order.clear();
        for arg in args {
            let word = match arg {
                ArgValue::Address(address) => *address,
                ArgValue::Integer(value) => value.cast_unsigned(),
                ArgValue::Position => position.cast_unsigned(),
                ArgValue::TensorMap(map) => {
                    self.order.push((true, self.maps.len()));
                    self.maps.push(encoded(map)?);
                    continue;
                }
            };
            self.order.push((false, self.words.len()));
            self.words.push(word);
        }
        Ok(())
    }

    /// A pointer to each, as the driver takes arguments; they hold until the next ones are put.
    pub(super) fn pointers(&mut self) -> &mut [*mut c_void] {
        let Self {
            words,
            maps,
            order,
            pointers,
        } = self;
        pointers.clear();
        pointers.extend(order.iter().map(|(is_map, at)| match is_map {
            true => std::ptr::from_mut(&mut maps[*at]).cast::<c_void>(),
            false => std::ptr::from_mut(&mut words[*at]).cast::<c_void>(),
        }));
        pointers
    }
}

/// A tensor map as the copy engine reads it: lines of 128 bytes, swizzled, zeros outside.
fn encoded(map: &TensorMapValue) -> Result<sys::CUtensorMap, DriverError> {
    let kind = match map.element {
        Element::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        Element::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Element::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Element::I32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
    };
    let mut out = sys::CUtensorMap { opaque: [0; 16] };
    let steps = [1u32; MAP_AXES];
    // SAFETY: the arrays have an entry for each axis (strides one less), of which there are at most
    // `MAP_AXES`; the address is only stored, and the call writes the map it is given.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut out,
            kind,
            map.axes as u32,
            map.address as *mut c_void,
            map.extents.as_ptr(),
            map.strides[1..].as_ptr(),
            map.spans.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()?;
    Ok(out)
}

/// A launch that the driver did not take.
pub(super) fn refused(launch: &Launch, error: DriverError) -> GpuError {
    GpuError::Refused {
        kernel: launch.name.clone(),
        launch: describe(launch),
        cause: words(error),
    }
}

/// Grid, block and shared memory, for messages.
pub(super) fn describe(launch: &Launch) -> String {
    format!(
        "{} blocks of {} threads and {} bytes of shared memory{}",
        launch.grid,
        launch.block,
        launch.shared_bytes,
        if launch.cooperative {
            ", all resident"
        } else {
            ""
        }
    )
}
