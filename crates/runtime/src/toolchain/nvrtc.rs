//! A small binding to NVRTC, NVIDIA's run-time compiler: CUDA C++ in, cubin and log out.
//!
//! The library is loaded from an explicit path; where it comes from is decided elsewhere. All of
//! the crate's unsafe code towards NVRTC is in this file. Needs no GPU and no driver.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;

use fusec_ir::files;
use libloading::Library;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ReadCache};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Header;
use super::arch::Arch;

/// The oldest NVRTC that is used: the first with `sm_90a`.
const OLDEST: Version = Version {
    major: 12,
    minor: 0,
};

/// Program names are given an absolute path, since NVRTC writes the current directory into the
/// line table of a relative one, and the same source would give other bytes in other directories.
const SOURCE_ROOT: &str = "/fusec/";

/// An NVRTC release, such as 13.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The CUDA major version.
    pub major: u32,
    /// The CUDA minor version.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why NVRTC could not be loaded, or did not compile.
#[derive(Debug, Error)]
pub enum NvrtcError {
    /// The file is not a complete shared library for this machine.
    #[error("{path} is not a usable NVRTC library: {reason}")]
    NotALibrary {
        /// The file that was to be loaded.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The dynamic loader refused the file, or it lacks a function of NVRTC's interface.
    #[error("{path} cannot be loaded as NVRTC: {source}")]
    Load {
        /// The file that was to be loaded.
        path: PathBuf,
        /// The dynamic loader's message.
        source: libloading::Error,
    },
    /// The library works, but is older than fusec's kernels need.
    #[error("{path} is NVRTC {found}; fusec needs {OLDEST} or newer")]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// This NVRTC release has no such architecture.
    #[error(
        "NVRTC {version} at {path} cannot compile for {arch}: it knows {}; \
         use another --arch, or point FUSEC_NVRTC at a newer libnvrtc",
        sm_list(supported)
    )]
    UnsupportedArch {
        /// The architecture asked for.
        arch: Arch,
        /// The library's version.
        version: Version,
        /// The library.
        path: PathBuf,
        /// The compute capabilities (times ten) that it knows.
        supported: Vec<u32>,
    },
    /// The source or its name holds a NUL byte, which C cannot pass on.
    #[error("kernel source `{name}` holds a NUL byte in its {part}, so NVRTC cannot read it")]
    NulByte {
        /// The source's name.
        name: String,
        /// `name`, `text`, `headers` or `options`.
        part: &'static str,
    },
    /// NVRTC compiled the source and found it wrong, or gave up on it.
    #[error("kernel source `{name}` does not compile ({status}); NVRTC says:\n{log}")]
    Compile {
        /// The source's name.
        name: String,
        /// NVRTC's name of the failure.
        status: String,
        /// The compilation log.
        log: String,
    },
    /// A call failed that has no log.
    #[error("{call} failed for kernel source `{name}`: {status}")]
    Call {
        /// NVRTC's function.
        call: &'static str,
        /// The source's name.
        name: String,
        /// NVRTC's name of the failure.
        status: String,
    },
}

fn sm_list(supported: &[u32]) -> String {
    supported
        .iter()
        .map(|number| format!("sm_{number}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What a compilation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The ELF image that the driver loads.
    pub cubin: Vec<u8>,
    /// Warnings, and ptxas' report on each kernel; without the lines that hold times, so that the
    /// same source has the same log.
    pub log: String,
}

type Program = *mut c_void;
type Status = c_int;
const SUCCESS: Status = 0;

/// The functions that are called, by value: valid for as long as the library stays loaded, which
/// is for ever (see [`Nvrtc`]).
#[derive(Clone, Copy)]
struct Functions {
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    create_program: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy_program: unsafe extern "C" fn(*mut Program) -> Status,
    compile_program: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
}

/// A loaded NVRTC. Any number of threads may compile with one at the same time.
pub struct Nvrtc {
    functions: Functions,
    path: PathBuf,
    version: Version,
    build: Option<String>,
    supported: Vec<u32>,
    /// Never unloaded: NVRTC registers exit handlers and thread-local state that must outlive us.
    _library: ManuallyDrop<Library>,
    _builtins: Option<ManuallyDrop<Library>>,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// Loads the library at `path` (a file; no search is made).
    pub fn load(path: &Path) -> Result<Self, NvrtcError> {
        // The loader looks for `$ORIGIN`, and we for the builtins, where the real file is.
        let real = path
            .canonicalize()
            .map_err(|error| NvrtcError::NotALibrary {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        let build = check_library(&real).map_err(|reason| NvrtcError::NotALibrary {
            path: path.to_owned(),
            reason,
        })?;
        let failed = |source| NvrtcError::Load {
            path: path.to_owned(),
            source,
        };
        // SAFETY: loading runs the library's initialisers. The file is a complete ELF library
        // (checked above) that the user named, installed or let us fetch as the compiler.
        let library = ManuallyDrop::new(unsafe { Library::new(&real) }.map_err(failed)?);

        /// The function of this name.
        ///
        /// # Safety
        /// `T` must be the type of the function in nvrtc.h.
        unsafe fn function<T: Copy>(
            library: &Library,
            name: &CStr,
        ) -> Result<T, libloading::Error> {
            // SAFETY: the caller vouches for the type; the library is never unloaded, so the
            // pointer may outlive the symbol.
            unsafe { library.get::<T>(name) }.map(|symbol| *symbol)
        }
        type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
        type CountArchs = unsafe extern "C" fn(*mut c_int) -> Status;
        type GetArchs = unsafe extern "C" fn(*mut c_int) -> Status;
        // SAFETY: the types are those that nvrtc.h declares for these names, the same from 12.0 on.
        let (functions, get_version, count_archs, get_archs) = unsafe {
            let functions = Functions {
                error_string: function(&library, c"nvrtcGetErrorString").map_err(failed)?,
                create_program: function(&library, c"nvrtcCreateProgram").map_err(failed)?,
                destroy_program: function(&library, c"nvrtcDestroyProgram").map_err(failed)?,
                compile_program: function(&library, c"nvrtcCompileProgram").map_err(failed)?,
                cubin_size: function(&library, c"nvrtcGetCUBINSize").map_err(failed)?,
                cubin: function(&library, c"nvrtcGetCUBIN").map_err(failed)?,
                log_size: function(&library, c"nvrtcGetProgramLogSize").map_err(failed)?,
                log: function(&library, c"nvrtcGetProgramLog").map_err(failed)?,
            };
            let get_version: GetVersion = function(&library, c"nvrtcVersion").map_err(failed)?;
            let count_archs: CountArchs =
                function(&library, c"nvrtcGetNumSupportedArchs").map_err(failed)?;
            let get_archs: GetArchs =
                function(&library, c"nvrtcGetSupportedArchs").map_err(failed)?;
            (functions, get_version, count_archs, get_archs)
        };

        let unusable = |call: &str, status| NvrtcError::NotALibrary {
            path: path.to_owned(),
            reason: format!("{call} failed: {}", functions.describe(status)),
        };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: both pointers are to live integers.
        let status = unsafe { get_version(&mut major, &mut minor) };
        if status != SUCCESS {
            return Err(unusable("nvrtcVersion", status));
        }
        let version = Version {
            major: u32::try_from(major).unwrap_or(0),
            minor: u32::try_from(minor).unwrap_or(0),
        };
        if version < OLDEST {
            return Err(NvrtcError::TooOld {
                path: path.to_owned(),
                found: version,
            });
        }
        // SAFETY: the pointer is to a live integer.
        let status = unsafe { count_archs(&mut count) };
        if status != SUCCESS {
            return Err(unusable("nvrtcGetNumSupportedArchs", status));
        }
        let mut archs = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
        if !archs.is_empty() {
            // SAFETY: the array has the length that the library asked for.
            let status = unsafe { get_archs(archs.as_mut_ptr()) };
            if status != SUCCESS {
                return Err(unusable("nvrtcGetSupportedArchs", status));
            }
        }
        let supported = archs
            .into_iter()
            .filter_map(|number| u32::try_from(number).ok())
            .collect();

        let builtins = preload_builtins(&real, version).map_err(|source| NvrtcError::Load {
            path: real.clone(),
            source,
        })?;
        Ok(Self {
            functions,
            path: real,
            version,
            build,
            supported,
            _library: library,
            _builtins: builtins,
        })
    }

    /// The file that was loaded, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The linker's build id in hexadecimal: tells releases apart that report the same version.
    pub fn build(&self) -> Option<&str> {
        self.build.as_deref()
    }

    /// The known architectures that this release compiles for.
    pub fn architectures(&self) -> Vec<Arch> {
        Arch::known().filter(|&arch| self.supports(arch)).collect()
    }

    fn supports(&self, arch: Arch) -> bool {
        self.supported.contains(&u32::from(arch.number()))
    }

    /// The options of every compilation for `arch`. No fast-math: approximations are named in
    /// the source where they are meant.
    pub fn options(arch: Arch) -> Vec<String> {
        vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
            "-lineinfo".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ]
    }

    /// Compiles `source` for `arch` with [`Nvrtc::options`]. `name` is what messages and the
    /// line table call it; `headers` are what it may include.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[Header<'_>],
        arch: Arch,
    ) -> Result<Compiled, NvrtcError> {
        if !self.supports(arch) {
            return Err(NvrtcError::UnsupportedArch {
                arch,
                version: self.version,
                path: self.path.clone(),
                supported: self.supported.clone(),
            });
        }
        let c_string = |text: String, part| {
            CString::new(text).map_err(|_| NvrtcError::NulByte {
                name: name.to_owned(),
                part,
            })
        };
        let c_name = c_string(format!("{SOURCE_ROOT}{name}"), "name")?;
        let c_source = c_string(source.to_owned(), "text")?;
        let options = Self::options(arch)
            .into_iter()
            .map(|option| c_string(option, "options"))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).expect("a handful of options");

        let mut c_headers = Vec::new();
        for header in headers {
            c_headers.push((
                c_string(header.name.to_owned(), "headers")?,
                c_string(header.text.to_owned(), "headers")?,
            ));
        }
        let program = OpenProgram::create(&self.functions, name, &c_name, &c_source, &c_headers)?;
        // SAFETY: the program is live, and `pointers` holds `count` strings that outlive the call.
        let status =
            unsafe { (self.functions.compile_program)(program.handle, count, pointers.as_ptr()) };
        let log = program.read(
            ("nvrtcGetProgramLogSize", self.functions.log_size),
            ("nvrtcGetProgramLog", self.functions.log),
        );
        if status != SUCCESS {
            return Err(NvrtcError::Compile {
                name: name.to_owned(),
                status: self.functions.describe(status),
                log: match log {
                    Ok(bytes) => readable_log(&bytes),
                    Err(error) => format!("(the log cannot be read: {error})"),
                },
            });
        }
        let cubin = program.read(
            ("nvrtcGetCUBINSize", self.functions.cubin_size),
            ("nvrtcGetCUBIN", self.functions.cubin),
        )?;
        Ok(Compiled {
            cubin,
            log: readable_log(&log?),
        })
    }
}

impl Functions {
    /// NVRTC's own name of a status.
    fn describe(&self, status: Status) -> String {
        // SAFETY: takes any integer and returns a static string.
        let text = unsafe { (self.error_string)(status) };
        if text.is_null() {
            return format!("status {status}");
        }
        // SAFETY: not null, and NUL-terminated by NVRTC's contract.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }
}

/// A program that is destroyed when it goes out of scope.
struct OpenProgram<'a> {
    functions: &'a Functions,
    name: &'a str,
    handle: Program,
}

type ReadSize = unsafe extern "C" fn(Program, *mut usize) -> Status;
type ReadBytes = unsafe extern "C" fn(Program, *mut c_char) -> Status;

impl<'a> OpenProgram<'a> {
    fn create(
        functions: &'a Functions,
        name: &'a str,
        c_name: &CStr,
        source: &CStr,
        headers: &[(CString, CString)],
    ) -> Result<Self, NvrtcError> {
        let mut handle = ptr::null_mut();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let count = c_int::try_from(headers.len()).expect("a handful of headers");
        // SAFETY: the strings outlive the call (NVRTC copies them), and both arrays hold `count`.
        let status = unsafe {
            (functions.create_program)(
                &mut handle,
                source.as_ptr(),
                c_name.as_ptr(),
                count,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        let program = Self {
            functions,
            name,
            handle,
        };
        program.check("nvrtcCreateProgram", status)?;
        Ok(program)
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), NvrtcError> {
        if status == SUCCESS {
            return Ok(());
        }
        Err(NvrtcError::Call {
            call,
            name: self.name.to_owned(),
            status: self.functions.describe(status),
        })
    }

    /// One of NVRTC's pairs of functions that give a length and then that many bytes.
    fn read(
        &self,
        (size_call, read_size): (&'static str, ReadSize),
        (bytes_call, read_bytes): (&'static str, ReadBytes),
    ) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is live, the pointer is to a live integer.
        self.check(size_call, unsafe { read_size(self.handle, &mut size) })?;
        let mut bytes = vec![0u8; size];
        if size > 0 {
            // SAFETY: the buffer has the size that NVRTC just asked for.
            self.check(bytes_call, unsafe {
                read_bytes(self.handle, bytes.as_mut_ptr().cast())
            })?;
        }
        Ok(bytes)
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by NVRTC, not destroyed before, not used after.
            unsafe { (self.functions.destroy_program)(&mut self.handle) };
        }
    }
}

/// The log as text, without what differs from run to run.
fn readable_log(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut log = String::with_capacity(text.len());
    for line in text.trim_end_matches(['\0', '\n']).lines() {
        if line.contains("Compile time = ") {
            continue;
        }
        log.push_str(&line.replace(SOURCE_ROOT, ""));
        log.push('\n');
    }
    log
}

/// Loads `libnvrtc-builtins` from NVRTC's own directory, if it is there.
///
/// NVRTC opens it by its bare name at the first compilation. Some wheels (13.0.88) carry no run
/// path, so the loader would not find it next to the library; one that is already loaded under
/// that name, it finds.
fn preload_builtins(
    nvrtc: &Path,
    version: Version,
) -> Result<Option<ManuallyDrop<Library>>, libloading::Error> {
    let path = nvrtc.with_file_name(format!("libnvrtc-builtins.so.{version}"));
    if !path.is_file() {
        return Ok(None);
    }
    // SAFETY: as for NVRTC itself, whose data file this is.
    unsafe { Library::new(&path) }.map(|library| Some(ManuallyDrop::new(library)))
}

/// Checks that `path` is a complete ELF library for this machine, and returns its build id.
///
/// The dynamic loader maps segments without looking whether the file is long enough: a download
/// that was cut short would end the process by a signal instead of an error.
fn check_library(path: &Path) -> Result<Option<String>, String> {
    let file = files::open_regular(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let data = ReadCache::new(file);
    let elf: ElfFile64<'_, Endianness, _> =
        ElfFile64::parse(&data).map_err(|error| format!("not a 64-bit ELF file ({error})"))?;
    let endian = elf.endian();
    let host = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        other => return Err(format!("NVRTC does not exist for {other}")),
    };
    if elf.architecture() != host {
        return Err(format!(
            "built for {:?}, this machine is {}",
            elf.architecture(),
            std::env::consts::ARCH
        ));
    }
    let header = elf.elf_header();
    let segments = header
        .program_headers(endian, &data)
        .map_err(|error| error.to_string())?;
    for segment in segments {
        let end = segment
            .p_offset(endian)
            .checked_add(segment.p_filesz(endian));
        if end.is_none_or(|end| end > length) {
            return Err(format!("the file is cut short at {length} bytes"));
        }
    }
    let id = elf.build_id().map_err(|error| error.to_string())?;
    Ok(id.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_an_error_not_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let own_binary = std::fs::read("/proc/self/exe").unwrap();
        let cases: [(&str, &[u8], &str); 4] = [
            ("empty.so", b"", "not a 64-bit ELF"),
            ("text.so", b"hello", "not a 64-bit ELF"),
            (
                "header_only.so",
                &own_binary[..64],
                "is not a usable NVRTC library",
            ),
            (
                "cut_short.so",
                &own_binary[..own_binary.len() / 2],
                "is not a usable NVRTC library",
            ),
        ];
        for (name, bytes, expected) in cases {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let text = Nvrtc::load(&path).unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains(name), "{text}");
        }
        let text = Nvrtc::load(&dir.path().join("absent.so"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("absent.so") && text.contains("No such file"),
            "{text}"
        );
    }

    #[test]
    fn the_log_loses_times_and_the_internal_path_only() {
        let log = b"/fusec/k.cu(3): warning: unused\nptxas info : Used 8 registers\n\
                    ptxas info    : Compile time = 1.499 ms\n\n\0";
        assert_eq!(
            readable_log(log),
            "k.cu(3): warning: unused\nptxas info : Used 8 registers\n"
        );
        assert_eq!(readable_log(b"\0"), "");
    }
}
