//! Runs generated CUDA C++ on the CPU: the very source that ships, compiled by g++ behind a shim that
//! gives CUDA's dialect and every primitive of the prelude a CPU body.
//!
//! Lives here: building kernels (one shared object per kernel, cached by content), launching them over
//! the host's cores, and turning what goes wrong inside a kernel into an error. The execution model
//! (fibers, seeded order, divergence detection, poisoned shared memory) is in `execution.h`.
//! Copies by tensor maps and products of warpgroups (`bulk.h`) happen as late as barriers allow. There are
//! no clusters of blocks: no template launches any.
//! What it cannot show, and only a GPU can: the memory model between threads (a fence that is missing,
//! an asynchronous proxy), the registers that warpgroups hand over, overlap of dependent launches, bank conflicts and coalescing, the tensor
//! cores' own rounding, and races between blocks that a host's few threads never meet.
//! Never here: knowledge of plans, models or numerics bounds; a GPU.

mod arena;
mod build;
mod launch;
mod library;
mod sanitizer;

pub use build::{EmulatedModule, Emulator, EmulatorOptions};
pub use launch::{KernelArg, LaunchShape, TensorMapArg};
pub use sanitizer::Sanitizer;

use fusec_codegen::manifest::readable;
use std::path::PathBuf;

/// What can go wrong while kernels are built for the CPU or run there.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The emulator's fibers are written for one platform.
    #[error("the emulator runs on x86-64 Linux only; use `--device cpu` or a GPU on this machine")]
    Platform,
    /// There is no C++ compiler.
    #[error(
        "the emulator needs the C++ compiler `{compiler}`, which could not be started: {source}. Install it (Debian, Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`) or name another one in FUSEC_CXX"
    )]
    CompilerMissing {
        /// What was started.
        compiler: String,
        /// Why it did not start.
        source: std::io::Error,
    },
    /// A kernel does not compile.
    #[error(
        "kernel `{}` does not compile for the emulator:\n{log}",
        readable(kernel)
    )]
    Compile {
        /// Its entry.
        kernel: String,
        /// What the compiler said, with the lines of the kernel's source.
        log: String,
    },
    /// The directory in which the compiler works cannot be made or written.
    #[error("cannot compile for the emulator in {path}: {source}; free some space there, or name another place in TMPDIR or FUSEC_CACHE_DIR", path = path.display())]
    Build {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Kernels with sanitizers were asked for, in a process without them.
    #[error(
        "kernels with sanitizers can be loaded only by a process that was started with libasan: set LD_PRELOAD to what `g++ -print-file-name=libasan.so` says"
    )]
    NoSanitizer,
    /// A compiled kernel cannot be loaded.
    #[error("kernel `{}` cannot be loaded: {reason}", readable(kernel))]
    Load {
        /// The kernel's entry.
        kernel: String,
        /// What the loader said.
        reason: String,
    },
    /// Two kernels of a module share a name, or a name is no C identifier.
    #[error("`{kernel}` cannot name a kernel here: {reason}")]
    Name {
        /// The name.
        kernel: String,
        /// Why not.
        reason: &'static str,
    },
    /// The module has no such kernel.
    #[error(
        "the emulated module has no kernel `{}`; it has {known}",
        readable(kernel)
    )]
    UnknownKernel {
        /// The entry asked for.
        kernel: String,
        /// The readable names there are.
        known: String,
    },
    /// Arguments do not fit the kernel's parameters.
    #[error(
        "kernel `{}` takes {expected}, but the launch gives {got}",
        readable(kernel)
    )]
    Arguments {
        /// The kernel's entry.
        kernel: String,
        /// The parameters, in words.
        expected: String,
        /// The arguments, in words.
        got: String,
    },
    /// A grid, block or shared-memory size that no GPU would take.
    #[error(
        "kernel `{}` cannot be launched with grid {grid:?}, block {block:?}, {smem} bytes of shared memory: {reason}",
        readable(kernel)
    )]
    Shape {
        /// The kernel's entry.
        kernel: String,
        /// Blocks along x, y, z.
        grid: [u32; 3],
        /// Threads along x, y, z.
        block: [u32; 3],
        /// Dynamic shared memory, bytes.
        smem: u32,
        /// Why not.
        reason: &'static str,
    },
    /// The kernel did something illegal: a divergent barrier, a misaligned access, an overrun.
    #[error("kernel `{}` failed in the emulator: {message}", readable(kernel))]
    Execution {
        /// The kernel's entry.
        kernel: String,
        /// What happened, with block, thread and source line.
        message: String,
    },
    /// Memory for fibers could not be mapped.
    #[error("the emulator cannot map memory for its fibers: {0}")]
    Memory(#[source] std::io::Error),
}
