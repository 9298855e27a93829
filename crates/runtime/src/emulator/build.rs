//! From kernel sources to loaded shared objects, through a cache on disk.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::Library;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::EmulatorError;
use super::launch::LaunchRecord;

use crate::partial;

/// What surrounds a kernel's source, in order: before it and behind it.
const BEFORE: [(&str, &str); 4] = [
    ("execution.h", include_str!("execution.h")),
    ("builtins.h", include_str!("builtins.h")),
    ("primitives.h", include_str!("primitives.h")),
    ("bulk.h", include_str!("bulk.h")),
];
const BEHIND: (&str, &str) = ("entry.h", include_str!("entry.h"));

/// How kernels are compiled for the CPU.
#[derive(Debug, Clone)]
pub struct EmulatorOptions {
    /// The C++ compiler: GCC's driver, or one that takes its options.
    pub compiler: OsString,
    /// Instrument global accesses. The process must have libasan preloaded to load such kernels.
    pub address_sanitizer: bool,
}

impl Default for EmulatorOptions {
    /// The compiler in `FUSEC_CXX`, else `g++`; no sanitizer.
    fn default() -> Self {
        Self {
            compiler: std::env::var_os("FUSEC_CXX").unwrap_or_else(|| "g++".into()),
            address_sanitizer: false,
        }
    }
}

/// Builds kernels for the CPU and keeps the results in a directory.
#[derive(Debug, Clone)]
pub struct Emulator {
    options: EmulatorOptions,
    cache: PathBuf,
    compiler_version: String,
}

/// Kernels of one plan, ready to be launched on the CPU.
#[derive(Debug)]
pub struct EmulatedModule {
    pub(super) kernels: BTreeMap<String, EmulatedKernel>,
}

#[derive(Debug)]
pub(super) struct EmulatedKernel {
    pub(super) run_block: unsafe extern "C" fn(*mut LaunchRecord) -> i32,
    /// One letter per parameter, as `fusec_emu_signature` says.
    pub(super) signature: String,
    /// Keeps `run_block` mapped.
    _library: Library,
}

impl Emulator {
    /// An emulator that caches compiled kernels under `cache` (created when missing).
    pub fn new(cache: &Path, options: EmulatorOptions) -> Result<Self, EmulatorError> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(EmulatorError::Platform);
        }
        let output = Command::new(&options.compiler)
            .arg("--version")
            .output()
            .map_err(|source| EmulatorError::CompilerMissing {
                compiler: options.compiler.to_string_lossy().into_owned(),
                source,
            })?;
        std::fs::create_dir_all(cache).map_err(|source| EmulatorError::Cache {
            path: cache.to_owned(),
            source,
        })?;
        Ok(Self {
            options,
            cache: cache.to_owned(),
            compiler_version: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    /// Compiles and loads `sources`, pairs of a kernel's name and the text that defines
    /// `extern "C" __global__ void NAME(...)`. Kernels that are in the cache are not compiled again.
    pub fn build(&self, sources: &[(&str, &str)]) -> Result<EmulatedModule, EmulatorError> {
        let mut unique = BTreeMap::new();
        for (name, source) in sources {
            let kernel = || (*name).to_owned();
            let mut letters = name.bytes();
            let starts_well = letters
                .next()
                .is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
            if !starts_well || !letters.all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return Err(EmulatorError::Name {
                    kernel: kernel(),
                    reason: "it is no C identifier",
                });
            }
            if unique
                .insert(*name, *source)
                .is_some_and(|earlier| earlier != *source)
            {
                return Err(EmulatorError::Name {
                    kernel: kernel(),
                    reason: "another kernel of the module has it",
                });
            }
        }
        let kernels = unique
            .par_iter()
            .map(|(name, source)| {
                let path = self.compiled(name, source)?;
                Ok(((*name).to_owned(), load(name, &path)?))
            })
            .collect::<Result<BTreeMap<_, _>, EmulatorError>>()?;
        Ok(EmulatedModule { kernels })
    }

    fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![
            "-x",
            "c++",
            "-std=c++17",
            // Tests build hundreds of kernels and run each for milliseconds: -O1 halves the former.
            "-O1",
            "-w",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-fno-exceptions",
            "-fno-rtti",
            "-fno-math-errno",
            "-ffp-contract=off",
            "-fcf-protection=none",
            "-fno-stack-protector",
        ];
        // Wider vectors change the speed, not the numbers: contraction is off.
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            flags.extend(["-mavx2", "-mfma"]);
        }
        if self.options.address_sanitizer {
            // Fibers bring their own stacks, which the sanitizer does not know.
            flags.extend(["-fsanitize=address", "--param", "asan-stack=0"]);
        }
        flags
    }

    /// The shared object of one kernel, compiled now when the cache has none.
    fn compiled(&self, name: &str, source: &str) -> Result<PathBuf, EmulatorError> {
        let kernel_file = format!("{name}.cu");
        let mut text = format!("#define FUSEC_EMULATOR 1\n#define FUSEC_KERNEL {name}\n");
        for (file, part) in BEFORE
            .into_iter()
            .chain([(kernel_file.as_str(), source), BEHIND])
        {
            text.push_str(&format!("#line 1 \"{file}\"\n{part}\n"));
        }
        let flags = self.flags();
        let mut hash = Sha256::new();
        for part in [self.compiler_version.as_str(), &flags.join(" "), &text] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let key: String = hash
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = self.cache.join(format!("{key}.so"));
        if path.is_file() {
            return Ok(path);
        }
        let cache_error = |source| EmulatorError::Cache {
            path: self.cache.clone(),
            source,
        };
        // Built under a temporary name and renamed: other processes see a whole file or none.
        let (scratch, _unfinished) = partial::dir_in("build-", &self.cache).map_err(cache_error)?;
        let input = scratch.path().join("kernel.cpp");
        let output = scratch.path().join("kernel.so");
        std::fs::File::create(&input)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(cache_error)?;
        let result = Command::new(&self.options.compiler)
            .args(&flags)
            .arg(&input)
            .arg("-o")
            .arg(&output)
            .arg("-lm")
            .output()
            .map_err(|source| EmulatorError::CompilerMissing {
                compiler: self.options.compiler.to_string_lossy().into_owned(),
                source,
            })?;
        if !result.status.success() {
            return Err(EmulatorError::Compile {
                kernel: name.to_owned(),
                log: String::from_utf8_lossy(&result.stderr).into_owned(),
            });
        }
        std::fs::rename(&output, &path).map_err(cache_error)?;
        Ok(path)
    }
}

fn load(name: &str, path: &Path) -> Result<EmulatedKernel, EmulatorError> {
    let error = |reason: libloading::Error| EmulatorError::Load {
        kernel: name.to_owned(),
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    // SAFETY: the object was compiled from the headers of this directory, whose symbols have these types, and it
    // runs no code when it is loaded. The symbols live as long as the library, which is kept beside them.
    unsafe {
        let library = Library::new(path).map_err(error)?;
        let run_block = *library
            .get::<unsafe extern "C" fn(*mut LaunchRecord) -> i32>(b"fusec_emu_run_block\0")
            .map_err(error)?;
        let signature = library
            .get::<unsafe extern "C" fn() -> *const std::ffi::c_char>(b"fusec_emu_signature\0")
            .map_err(error)?;
        let signature = CStr::from_ptr(signature()).to_string_lossy().into_owned();
        Ok(EmulatedKernel {
            run_block,
            signature,
            _library: library,
        })
    }
}
