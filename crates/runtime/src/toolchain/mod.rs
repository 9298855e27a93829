//! From CUDA source to cubin: finding NVRTC, fetching it, compiling with it, remembering results.
//!
//! NVRTC is the only compiler; nothing here calls nvcc, and nothing here touches a GPU. A
//! [`Toolchain`] is what the rest of the program uses; the modules are its parts.

pub mod arch;
pub mod disassemble;
pub mod fetch;
mod images;
pub mod locate;
pub mod nvrtc;
pub mod ptxas;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::thread;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use fusec_codegen::{Manifest, prelude, without_comments};

use crate::cache::{self, CacheError, Contents, Entry, KernelCache, KeyParts, Outcome};
use crate::cubin::{self, CubinError, Resources, Spills};

pub use arch::{Arch, UnknownArch};
pub use locate::{Located, Origin, Place, Skipped};

use fetch::{FetchError, FetchedCopy, HOW_TO_GET};
use locate::ExplicitError;
use nvrtc::{Nvrtc, NvrtcError};

/// Stack of a compiling thread. NVRTC recurses over expressions; unrolled kernels overflow the
/// 2 MiB that threads get by default.
const COMPILER_STACK_BYTES: usize = 32 << 20;

/// How a toolchain is found.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Never use the network.
    pub offline: bool,
    /// The NVRTC to use (a file, or the directory it is in); no other is tried.
    pub nvrtc: Option<PathBuf>,
    /// Where fusec keeps what it fetches and compiles; `None` is the user's usual cache directory.
    pub cache_dir: Option<PathBuf>,
    /// Compile everything anew: neither read nor write the cubin cache.
    pub no_cubin_cache: bool,
    /// Directories searched before the fetched copy: those of the environment that calls.
    pub preferred: Vec<Place>,
    /// Directories in which NVRTC may be installed; searched after the fetched copy.
    pub places: Vec<Place>,
}

impl Options {
    /// The options that the environment asks for: `FUSEC_NVRTC`, `FUSEC_CACHE_DIR`, and the
    /// system's library directories.
    pub fn from_env() -> Self {
        let path = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            offline: false,
            nvrtc: path("FUSEC_NVRTC"),
            cache_dir: path("FUSEC_CACHE_DIR"),
            no_cubin_cache: false,
            preferred: Vec::new(),
            places: locate::system_places(),
        }
    }
}

/// Why there is no toolchain, or why it did not compile.
#[derive(Debug, Error)]
pub enum ToolchainError {
    /// The NVRTC that the user named cannot be used.
    #[error(transparent)]
    Explicit(#[from] ExplicitError),
    /// There is none here, and none may be fetched.
    #[error(
        "no NVRTC (the CUDA compiler library) on this machine{details}, \
         and --offline forbids fetching {}; {HOW_TO_GET}",
        fetch::pinned_name()
    )]
    Offline {
        /// Libraries that were found and could not be used, in words; empty if there were none.
        details: String,
    },
    /// Fetching failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The fetched library does not load on this machine.
    #[error("the NVRTC that was fetched does not work here: {0}")]
    Fetched(#[source] NvrtcError),
    /// There is no place to put a fetched library.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// NVRTC refused or could not be called.
    #[error(transparent)]
    Nvrtc(#[from] NvrtcError),
    /// NVRTC gave a cubin that cannot be read.
    #[error("NVRTC {version} gave a cubin for `{name}` that cannot be read: {source}")]
    Cubin {
        /// The source's name.
        name: String,
        /// The compiler's version.
        version: nvrtc::Version,
        /// What is wrong with the cubin.
        source: CubinError,
    },
    /// Threads to compile in cannot be started.
    #[error("cannot start threads to compile in: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl ToolchainError {
    /// Whether the compiler is missing (plan and sources can still be written), as opposed to
    /// there being something wrong with what was to be compiled.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Explicit(_)
            | Self::Offline { .. }
            | Self::Fetch(_)
            | Self::Fetched(_)
            | Self::Cache(_) => true,
            Self::Nvrtc(_) | Self::Cubin { .. } | Self::Threads(_) => false,
        }
    }
}

/// A CUDA source to compile.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What messages and the line table call it, such as `time_mix.cu`.
    pub name: &'a str,
    /// CUDA C++.
    pub text: &'a str,
    /// What it may include. There are no other headers.
    pub headers: &'a [Header<'a>],
}

/// A text that sources include. It is in memory only.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// The name by which it is included.
    pub name: &'a str,
    /// CUDA C++.
    pub text: &'a str,
}

impl<'a> Header<'a> {
    /// The primitives that the kernels of a manifest include.
    pub fn prelude(manifest: &'a Manifest) -> Self {
        Header {
            name: prelude::FILE,
            text: &manifest.prelude,
        }
    }
}

/// A compiled source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The ELF image that the driver loads.
    pub cubin: Vec<u8>,
    /// The compiler's warnings and figures; the same for the same source.
    pub log: String,
    /// What each kernel uses, by kernel name.
    pub resources: BTreeMap<String, Resources>,
    /// Whether it came from the cubin cache.
    pub cached: bool,
}

/// State of the cubin cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum CacheState {
    /// In use.
    Ready {
        /// Its directory.
        dir: PathBuf,
    },
    /// Cannot be used: everything is compiled anew.
    Unusable {
        /// Why.
        reason: String,
    },
    /// Not wanted.
    Off,
}

/// What is known about a toolchain, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolchainInfo {
    /// The compiler.
    pub nvrtc: Located,
    /// The architectures it compiles for.
    pub architectures: Vec<Arch>,
    /// Libraries that were tried before and could not be used.
    pub skipped: Vec<Skipped>,
    /// The cubin cache.
    pub cubin_cache: CacheState,
}

/// A compiler that is loaded and ready, with its cache.
#[derive(Debug)]
pub struct Toolchain {
    nvrtc: Nvrtc,
    /// NVRTC down to its build: part of every cache key.
    identity: String,
    cache: Option<KernelCache>,
    info: ToolchainInfo,
}

impl Toolchain {
    /// Finds NVRTC: the one that the options name; else one in a preferred place; else the copy that was
    /// fetched before; else one installed on the system; else fetches the pinned one, unless offline.
    ///
    /// A cubin cache that cannot be used is no error: it is logged, and [`Toolchain::info`] says it.
    pub fn discover(options: &Options) -> Result<Self, ToolchainError> {
        let mut skipped = Vec::new();
        let (nvrtc, located) = match &options.nvrtc {
            Some(path) => locate::explicit(path)?,
            None => find(options, &mut skipped)?,
        };
        for Skipped { path, reason } in &skipped {
            tracing::warn!("skipped {}: {reason}", path.display());
        }
        let (cache, cubin_cache) = if options.no_cubin_cache {
            (None, CacheState::Off)
        } else {
            let cache_dir = cache::user_cache_dir(options.cache_dir.as_deref());
            match cache_dir.and_then(|dir| {
                KernelCache::open(&dir.join(Contents::Cubins.directory()), Contents::Cubins)
            }) {
                Ok(cache) => {
                    let dir = cache.dir().to_owned();
                    (Some(cache), CacheState::Ready { dir })
                }
                Err(error) => {
                    tracing::warn!("compiling without a cubin cache: {error}");
                    (
                        None,
                        CacheState::Unusable {
                            reason: error.to_string(),
                        },
                    )
                }
            }
        };
        let identity = format!(
            "nvrtc {} build {}",
            nvrtc.version(),
            nvrtc.build().unwrap_or("unknown")
        );
        let info = ToolchainInfo {
            nvrtc: located,
            architectures: nvrtc.architectures(),
            skipped,
            cubin_cache,
        };
        Ok(Self {
            nvrtc,
            identity,
            cache,
            info,
        })
    }

    /// What was found.
    pub fn info(&self) -> &ToolchainInfo {
        &self.info
    }

    /// Compiles one source, or takes the cubin from the cache. Comments change nothing: the compiler
    /// does not see them, and what is cached is found again whatever they say.
    pub fn compile(&self, source: &Source<'_>, arch: Arch) -> Result<Artifact, ToolchainError> {
        let text = without_comments(source.text);
        let compile = || {
            let compiled = self
                .nvrtc
                .compile(source.name, &text, source.headers, arch)?;
            Ok(Entry {
                image: compiled.cubin,
                log: compiled.log,
            })
        };
        let (entry, cached) = match &self.cache {
            None => (compile()?, false),
            Some(cache) => {
                let headers: Vec<_> = source.headers.iter().map(|h| (h.name, h.text)).collect();
                let parts = KeyParts {
                    name: source.name,
                    source: &text,
                    headers: &headers,
                    arch: &arch.to_string(),
                    options: &Nvrtc::options(arch),
                    compiler: &self.identity,
                };
                let lookup = cache
                    .get_or_compile(&parts, compile)
                    .map_err(|error: NvrtcError| error)?;
                if let Outcome::Rebuilt(corrupt) = &lookup.outcome {
                    tracing::warn!("{corrupt}");
                }
                if let Some(error) = &lookup.not_stored {
                    tracing::warn!("`{}` was compiled but not cached: {error}", source.name);
                }
                (lookup.entry, lookup.outcome == Outcome::Hit)
            }
        };
        let mut resources =
            cubin::resources(&entry.image).map_err(|error| ToolchainError::Cubin {
                name: source.name.to_owned(),
                version: self.nvrtc.version(),
                source: error,
            })?;
        for report in ptxas::parse_ptxas_log(&entry.log) {
            let (Some(found), Some(store_bytes), Some(load_bytes)) = (
                resources.get_mut(&report.kernel),
                report.spill_store_bytes,
                report.spill_load_bytes,
            ) else {
                continue;
            };
            found.spills = Some(Spills {
                store_bytes,
                load_bytes,
            });
        }
        Ok(Artifact {
            cubin: entry.image,
            log: entry.log,
            resources,
            cached,
        })
    }

    /// Compiles several sources in parallel; the results are in the order of the sources, each
    /// with its own error. `finished` is called, from any thread, after each of them.
    pub fn compile_all(
        &self,
        sources: &[Source<'_>],
        arch: Arch,
        finished: impl Fn() + Sync,
    ) -> Result<Vec<Result<Artifact, ToolchainError>>, ToolchainError> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(processors.min(sources.len()).max(1))
            .stack_size(COMPILER_STACK_BYTES)
            .thread_name(|index| format!("nvrtc-{index}"))
            .build()?;
        Ok(pool.install(|| {
            sources
                .par_iter()
                .map(|source| {
                    let artifact = self.compile(source, arch);
                    finished();
                    artifact
                })
                .collect()
        }))
    }
}

/// The library that no one named: fetched before, installed, or fetched now.
fn find(options: &Options, skipped: &mut Vec<Skipped>) -> Result<(Nvrtc, Located), ToolchainError> {
    if let Some(found) = locate::search(&options.preferred, skipped) {
        return Ok(found);
    }
    let cache_dir = || cache::user_cache_dir(options.cache_dir.as_deref());
    // Without a place for a cache there is no fetched copy either, but there may be another.
    match cache_dir().map(|dir| fetch::fetched(&dir)) {
        Ok(FetchedCopy::Present(library)) => match locate::load(&library, Origin::Fetched) {
            Ok(found) => return Ok(found),
            Err(error) => skipped.push(Skipped {
                path: library,
                reason: error.to_string(),
            }),
        },
        Ok(FetchedCopy::Damaged { path, reason }) => skipped.push(Skipped { path, reason }),
        Ok(FetchedCopy::Absent) | Err(_) => {}
    }
    if let Some(found) = locate::search(&options.places, skipped) {
        return Ok(found);
    }
    if options.offline {
        let unusable: Vec<String> = skipped
            .iter()
            .map(|skipped| format!("{}: {}", skipped.path.display(), skipped.reason))
            .collect();
        let details = match unusable.as_slice() {
            [] => String::new(),
            some => format!(" that works ({})", some.join("; ")),
        };
        return Err(ToolchainError::Offline { details });
    }
    let library = fetch::fetch(&cache_dir()?)?;
    locate::load(&library, Origin::Fetched).map_err(ToolchainError::Fetched)
}
