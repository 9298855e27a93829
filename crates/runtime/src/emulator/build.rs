//! From kernel sources to shared objects, through a cache on disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use fusec_codegen::manifest::{ENTRY, readable};
use fusec_codegen::prelude;
use rayon::prelude::*;

use super::EmulatorError;
use super::library::EmulatedKernel;
use super::sanitizer::Sanitizer;

use crate::cache::{Contents, Entry, KernelCache, KeyParts, Outcome};
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
    /// Build kernels with the address and the undefined-behaviour sanitizers: what they find ends the
    /// process with a report. They can be loaded only where libasan was loaded first ([`Sanitizer`]).
    pub sanitizers: bool,
}

impl Default for EmulatorOptions {
    /// The compiler in `FUSEC_CXX`, else `g++`; no sanitizers.
    fn default() -> Self {
        Self {
            compiler: std::env::var_os("FUSEC_CXX").unwrap_or_else(|| "g++".into()),
            sanitizers: false,
        }
    }
}

/// Builds kernels for the CPU and keeps the results in a directory.
#[derive(Debug, Clone)]
pub struct Emulator {
    options: EmulatorOptions,
    cache: Option<KernelCache>,
    compiler_version: String,
    sanitizer: Option<Sanitizer>,
}

/// Kernels of one plan, ready to be launched on the CPU.
#[derive(Debug)]
pub struct EmulatedModule {
    pub(super) kernels: BTreeMap<String, EmulatedKernel>,
}

/// The only thing that an object exports, for the linker: whatever a kernel is called and defines, it
/// takes the place of nothing.
const EXPORTED: &str = "{ global: emulator_table; local: *; };\n";

impl Emulator {
    /// An emulator that caches compiled kernels under `cache` (created when missing). A cache that
    /// cannot be used is no error: it is logged, and every kernel is compiled anew.
    pub fn new(cache: &Path, options: EmulatorOptions) -> Result<Self, EmulatorError> {
        let uncached = Self::without_cache(options)?;
        let cache = KernelCache::open(cache, Contents::Libraries)
            .inspect_err(|error| tracing::warn!("emulating without a cache: {error}"))
            .ok();
        Ok(Self { cache, ..uncached })
    }

    /// An emulator that compiles every kernel anew and remembers none.
    pub fn without_cache(options: EmulatorOptions) -> Result<Self, EmulatorError> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(EmulatorError::Platform);
        }
        let sanitizer = match options.sanitizers {
            true => Some(Sanitizer::of_process().ok_or(EmulatorError::NoSanitizer)?),
            false => None,
        };
        let output = Command::new(&options.compiler)
            .arg("--version")
            .output()
            .map_err(|source| EmulatorError::CompilerMissing {
                compiler: options.compiler.to_string_lossy().into_owned(),
                source,
            })?;
        Ok(Self {
            options,
            cache: None,
            compiler_version: String::from_utf8_lossy(&output.stdout).into_owned(),
            sanitizer,
        })
    }

    /// How the sanitizer of its kernels is told what a launch may touch, if they have one.
    pub fn sanitizer(&self) -> Option<Sanitizer> {
        self.sanitizer
    }

    /// Compiles and loads `sources`, pairs of a kernel's entry and the text that defines
    /// `extern "C" __global__ void ENTRY(...)` and may include `prelude` under its name. Kernels that
    /// are in the cache are not compiled again.
    pub fn build(
        &self,
        sources: &[(&str, &str)],
        prelude: &str,
    ) -> Result<EmulatedModule, EmulatorError> {
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
            if !name.starts_with(ENTRY) {
                return Err(EmulatorError::Name {
                    kernel: kernel(),
                    reason: "it does not begin as entries do, and may be that of a library",
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
                let image = self.compiled(name, source, prelude)?;
                Ok(((*name).to_owned(), EmulatedKernel::load(name, &image)?))
            })
            .collect::<Result<BTreeMap<_, _>, EmulatorError>>()?;
        Ok(EmulatedModule { kernels })
    }

    /// One kernel compiled for the CPU, as the bytes of a shared object: what [`Emulator::build`] loads. Its
    /// table, `emulator_table`, is laid out as `entry.h` has it.
    pub fn object(
        &self,
        name: &str,
        source: &str,
        prelude: &str,
    ) -> Result<Vec<u8>, EmulatorError> {
        self.compiled(name, source, prelude)
    }

    fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![
            "-x",
            "c++",
            "-std=c++17",
            // Tests build thousands of kernels and run each for milliseconds: -Og takes two thirds of
            // the time of -O1 to build one.
            "-Og",
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
            // What the object calls of its own is its own, whatever else has the name.
            "-Wl,-Bsymbolic",
        ];
        // Wider vectors change the speed, not the numbers: contraction is off.
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            flags.extend(["-mavx2", "-mfma"]);
        }
        if self.options.sanitizers {
            flags.extend([
                "-fsanitize=address,undefined,float-cast-overflow",
                // It needs type information, which is off.
                "-fno-sanitize=vptr",
                "-fno-sanitize-recover=all",
                // Fibers bring their own stacks, which the sanitizer does not know.
                "--param",
                "asan-stack=0",
                "-g1",
            ]);
        }
        flags
    }

    /// The shared object of one kernel, compiled now when the cache has none that is sound.
    fn compiled(&self, name: &str, source: &str, prelude: &str) -> Result<Vec<u8>, EmulatorError> {
        let kernel_file = format!("{}.cu", readable(name));
        let mut text = format!("#define FUSEC_EMULATOR 1\n#define FUSEC_KERNEL {name}\n");
        for (file, part) in BEFORE
            .into_iter()
            .chain([(kernel_file.as_str(), source), BEHIND])
        {
            text.push_str(&format!("#line 1 \"{file}\"\n{part}\n"));
        }
        let Some(cache) = &self.cache else {
            return self.compile(name, &text, prelude, &std::env::temp_dir());
        };
        let options: Vec<String> = self.flags().into_iter().map(str::to_owned).collect();
        let parts = KeyParts {
            name: &kernel_file,
            source: &text,
            headers: &[(prelude::FILE, prelude), ("exported.map", EXPORTED)],
            arch: std::env::consts::ARCH,
            options: &options,
            compiler: &self.compiler_version,
        };
        let lookup = cache.get_or_compile(&parts, || {
            let image = self.compile(name, &text, prelude, cache.dir())?;
            let log = String::new();
            Ok::<_, EmulatorError>(Entry { image, log })
        })?;
        if let Outcome::Rebuilt(corrupt) = &lookup.outcome {
            tracing::warn!("{corrupt}");
        }
        if let Some(error) = &lookup.not_stored {
            tracing::warn!("`{name}` was compiled but not cached: {error}");
        }
        Ok(lookup.entry.image)
    }

    /// Runs the compiler, in a directory of its own below `place`.
    fn compile(
        &self,
        name: &str,
        text: &str,
        prelude: &str,
        place: &Path,
    ) -> Result<Vec<u8>, EmulatorError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EmulatorError::Build { path, source }
        };
        let (scratch, _unfinished) = partial::dir_in(place).map_err(failed(place))?;
        let input = scratch.path().join("kernel.cpp");
        let output = scratch.path().join("kernel.so");
        let exported = scratch.path().join("exported.map");
        for (path, text) in [
            (&input, text),
            (&scratch.path().join(prelude::FILE), prelude),
            (&exported, EXPORTED),
        ] {
            std::fs::write(path, text).map_err(failed(path))?;
        }
        let mut export = OsString::from("-Wl,--version-script=");
        export.push(&exported);
        let result = Command::new(&self.options.compiler)
            .args(self.flags())
            .arg(&input)
            .arg("-o")
            .arg(&output)
            .arg(export)
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
        std::fs::read(&output).map_err(failed(&output))
    }
}
