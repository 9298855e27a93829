//! Launching a kernel: argument checks, and blocks spread over the host's cores in a seeded order.

use std::ffi::{CStr, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use fusec_codegen::manifest::readable;
use rayon::prelude::*;

use super::EmulatorError;
use super::arena::Arena;
use super::build::EmulatedModule;
use super::library::EmulatedKernel;

/// Bytes behind the dynamic shared memory that the shim fills with a known pattern: `SMEM_GUARD`.
const SMEM_GUARD: usize = 256;
const SMEM_ALIGNMENT: usize = 128;
/// Launches with fewer threads than this are not worth waking another core for.
const PARALLEL_THREADS: u64 = 2048;

/// An argument of a launch, in the kernel's declared order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KernelArg {
    /// An address in host memory. The memory behind it must stay valid and unshared for the launch.
    Ptr(*mut u8),
    /// A 64-bit integer, signed or not.
    I64(i64),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 32-bit float.
    F32(f32),
    /// A tensor map, by value.
    TensorMap(TensorMapArg),
}

/// A tensor in host memory and the box of it that one copy moves, axes innermost first:
/// `emulator::TensorMap`.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TensorMapArg {
    /// Of the first element.
    pub address: u64,
    /// Bytes of an element.
    pub element_bytes: u32,
    /// Number of axes.
    pub axes: u32,
    /// Length of each axis, elements.
    pub extent: [u64; 5],
    /// Bytes from one place on each axis to the next.
    pub stride_bytes: [u64; 5],
    /// How much of each axis a copy moves.
    pub span: [u32; 5],
}

impl KernelArg {
    fn kind(self) -> char {
        match self {
            Self::Ptr(_) => 'p',
            Self::I64(_) => 'l',
            Self::I32(_) | Self::U32(_) => 'i',
            Self::F32(_) => 'f',
            Self::TensorMap(_) => 't',
        }
    }

    /// Its bytes, at the start of as many as the largest argument takes.
    fn bytes(self) -> TensorMapArg {
        let bits = match self {
            Self::Ptr(p) => p as u64,
            Self::I64(v) => v.cast_unsigned(),
            Self::I32(v) => u64::from(v.cast_unsigned()),
            Self::U32(v) => u64::from(v),
            Self::F32(v) => u64::from(v.to_bits()),
            Self::TensorMap(map) => return map,
        };
        TensorMapArg {
            address: bits,
            ..TensorMapArg::default()
        }
    }
}

/// Geometry of a launch, as CUDA takes it, and the seed of the execution order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z; at most 1024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub smem_bytes: u32,
    /// 0 runs threads and blocks in index order; any other seed shuffles both.
    pub seed: u64,
}

/// What one worker hands to the shim: `emulator::Launch`.
#[repr(C)]
pub(super) struct LaunchRecord {
    grid: [u32; 3],
    block: [u32; 3],
    index: [u32; 3],
    smem_bytes: u32,
    phase: u32,
    grid_barriers: u32,
    seed: u64,
    smem: *mut u8,
    arena: *mut u8,
    args: *mut *mut c_void,
    error: *mut u8,
    error_bytes: u64,
}

fn in_words(kinds: impl Iterator<Item = char>) -> String {
    let words: Vec<&str> = kinds
        .map(|kind| match kind {
            'p' => "pointer",
            'l' => "i64",
            'i' => "i32",
            'f' => "f32",
            't' => "tensor map",
            _ => "(a type that launches cannot pass)",
        })
        .collect();
    format!("({})", words.join(", "))
}

/// Blocks in the order in which they are handed out: a fixed stride through the grid, coprime to its
/// size, so that every block comes once without a list being kept.
#[derive(Clone, Copy)]
struct BlockOrder {
    count: u64,
    start: u64,
    stride: u64,
}

impl BlockOrder {
    fn new(count: u64, seed: u64) -> Self {
        if seed == 0 {
            return Self {
                count,
                start: 0,
                stride: 1,
            };
        }
        fn common_divisor(a: u64, b: u64) -> u64 {
            if b == 0 { a } else { common_divisor(b, a % b) }
        }
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut stride = (mixed >> 17) % count;
        while common_divisor(stride, count) != 1 {
            stride = (stride + 1) % count;
        }
        Self {
            count,
            start: (mixed >> 33) % count,
            stride,
        }
    }

    fn at(self, i: u64) -> u64 {
        let offset = u128::from(i) * u128::from(self.stride) + u128::from(self.start);
        u64::try_from(offset % u128::from(self.count)).expect("a remainder of a u64 fits one")
    }
}

impl EmulatedModule {
    /// Names of the kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// Runs `kernel` to its end. Returns the barriers of the grid that its blocks met.
    ///
    /// # Safety
    /// Every pointer argument must address memory that the kernel may read or write as its source says,
    /// and nobody else may use that memory meanwhile. Accesses outside it are undefined behaviour, as on
    /// a GPU.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        shape: LaunchShape,
        args: &[KernelArg],
    ) -> Result<u32, EmulatorError> {
        let Some(emulated) = self.kernels.get(kernel) else {
            return Err(EmulatorError::UnknownKernel {
                kernel: kernel.to_owned(),
                known: self.kernels().map(readable).collect::<Vec<_>>().join(", "),
            });
        };
        if !emulated
            .signature
            .chars()
            .eq(args.iter().map(|arg| arg.kind()))
        {
            return Err(EmulatorError::Arguments {
                kernel: kernel.to_owned(),
                expected: in_words(emulated.signature.chars()),
                got: in_words(args.iter().map(|arg| arg.kind())),
            });
        }
        check_shape(kernel, shape)?;
        // Every block meets all barriers in every run of the grid, so the first run says how many
        // phases there are.
        let barriers = run(emulated, kernel, shape, args, 0)?;
        for phase in 1..=barriers {
            let met = run(emulated, kernel, shape, args, phase)?;
            if met != barriers {
                return Err(uneven(kernel, met, barriers));
            }
        }
        Ok(barriers)
    }
}

/// A GPU would wait for ever, or let a block pass that others wait for.
fn uneven(kernel: &str, some: u32, others: u32) -> EmulatorError {
    EmulatorError::Execution {
        kernel: kernel.to_owned(),
        message: format!("some blocks met {some} barriers of the grid, others {others}"),
    }
}

fn check_shape(kernel: &str, shape: LaunchShape) -> Result<(), EmulatorError> {
    let threads = shape.block.iter().map(|n| u64::from(*n)).product::<u64>();
    let reason = if shape.grid.contains(&0) || shape.block.contains(&0) {
        "an extent is zero"
    } else if threads > 1024 || shape.block.iter().any(|n| *n > 1024) {
        "a block has at most 1024 threads"
    } else if shape.grid[1] > 65_535
        || shape.grid[2] > 65_535
        || shape.grid[0] > i32::MAX.cast_unsigned()
    {
        "a grid has at most 2147483647 x 65535 x 65535 blocks"
    } else if shape.smem_bytes > 227 * 1024 {
        "a block has at most 232448 bytes of shared memory"
    } else {
        return Ok(());
    };
    Err(EmulatorError::Shape {
        kernel: kernel.to_owned(),
        grid: shape.grid,
        block: shape.block,
        smem: shape.smem_bytes,
        reason,
    })
}

/// Runs every block once, for one phase of the kernel. Returns the barriers of the grid that each met.
fn run(
    emulated: &EmulatedKernel,
    kernel: &str,
    shape: LaunchShape,
    args: &[KernelArg],
    phase: u32,
) -> Result<u32, EmulatorError> {
    let blocks = shape.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    let threads = shape.block.iter().map(|n| u64::from(*n)).product::<u64>();
    let bytes: Vec<TensorMapArg> = args.iter().map(|arg| arg.bytes()).collect();
    let order = BlockOrder::new(blocks, shape.seed);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<String>> = Mutex::new(None);
    let fewest = AtomicU32::new(u32::MAX);
    let most = AtomicU32::new(0);

    let work = || -> Result<(), EmulatorError> {
        let mut arena = Arena::take()?;
        let mut smem = vec![0u8; shape.smem_bytes as usize + SMEM_GUARD + SMEM_ALIGNMENT];
        let offset = smem
            .as_ptr()
            .align_offset(SMEM_ALIGNMENT)
            .min(SMEM_ALIGNMENT);
        let mut error = [0u8; 1024];
        let mut values = bytes.clone();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let mut record = LaunchRecord {
            grid: shape.grid,
            block: shape.block,
            index: [0; 3],
            smem_bytes: shape.smem_bytes,
            phase,
            grid_barriers: 0,
            seed: shape.seed,
            smem: smem[offset..].as_mut_ptr(),
            arena: arena.as_mut_ptr(),
            args: pointers.as_mut_ptr(),
            error: error.as_mut_ptr(),
            error_bytes: error.len() as u64,
        };
        while !stop.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= blocks {
                break;
            }
            let at = order.at(i);
            let [gx, gy] = [u64::from(shape.grid[0]), u64::from(shape.grid[1])];
            let coordinates = [at % gx, at / gx % gy, at / (gx * gy)];
            record.index =
                coordinates.map(|c| u32::try_from(c).expect("a block index lies inside its grid"));
            // SAFETY: the record's pointers outlive the call and belong to this worker alone; what the
            // kernel does with its own arguments is the caller's promise.
            if unsafe { (emulated.run_block)(&mut record) } != 0 {
                stop.store(true, Ordering::Relaxed);
                let message = CStr::from_bytes_until_nul(&error).map_or_else(
                    |_| "(no message)".into(),
                    |text| text.to_string_lossy().into_owned(),
                );
                if let Ok(mut first) = failure.lock() {
                    first.get_or_insert(message);
                }
                break;
            }
            fewest.fetch_min(record.grid_barriers, Ordering::Relaxed);
            most.fetch_max(record.grid_barriers, Ordering::Relaxed);
        }
        Ok(())
    };

    let workers = if blocks * threads < PARALLEL_THREADS {
        1
    } else {
        (rayon::current_num_threads() as u64).min(blocks)
    };
    if workers == 1 {
        work()?;
    } else {
        (0..workers).into_par_iter().try_for_each(|_| work())?;
    }
    match failure.into_inner() {
        Ok(None) => match (fewest.into_inner(), most.into_inner()) {
            (fewest, most) if fewest == most => Ok(most),
            (fewest, most) => Err(uneven(kernel, fewest, most)),
        },
        Ok(Some(message)) => Err(EmulatorError::Execution {
            kernel: kernel.to_owned(),
            message,
        }),
        Err(_) => Err(EmulatorError::Execution {
            kernel: kernel.to_owned(),
            message: "a worker of the emulator panicked".to_owned(),
        }),
    }
}
