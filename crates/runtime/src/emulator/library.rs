//! Loading a compiled kernel into this process, from the very bytes that were checked.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};

use libloading::Library;

use super::EmulatorError;
use super::launch::LaunchRecord;

/// `emulator::Table`, the only thing that an object exports.
#[repr(C)]
struct Table {
    signature: unsafe extern "C" fn() -> *const std::ffi::c_char,
    run_block: unsafe extern "C" fn(*mut LaunchRecord) -> i32,
}

/// A kernel that can be called.
#[derive(Debug)]
pub(super) struct EmulatedKernel {
    pub(super) run_block: unsafe extern "C" fn(*mut LaunchRecord) -> i32,
    /// One letter per parameter, as the table's `signature` says.
    pub(super) signature: String,
    /// Keeps `run_block` mapped.
    _library: Library,
    /// Open as long as the library is mapped: the loader knows it by this number, and takes a second
    /// file of the same name for the first.
    _image: File,
}

impl EmulatedKernel {
    /// Loads the shared object `image`.
    ///
    /// It is handed to the loader in memory: a file could be another one by the time it is mapped, and
    /// would stay behind if the process were killed.
    pub(super) fn load(name: &str, image: &[u8]) -> Result<Self, EmulatorError> {
        let failed = |reason: String| EmulatorError::Load {
            kernel: name.to_owned(),
            reason,
        };
        let (file, path) = in_memory(image).map_err(|error| failed(error.to_string()))?;
        let error = |reason: libloading::Error| failed(reason.to_string());
        // SAFETY: the object was compiled from the headers of this directory, whose symbols have these types, and it
        // runs no code when it is loaded. The symbols live as long as the library, which is kept beside them.
        unsafe {
            let library = Library::new(path).map_err(error)?;
            let table = *library
                .get::<*const Table>(b"emulator_table\0")
                .map_err(error)?;
            let signature = CStr::from_ptr(((*table).signature)());
            let signature = signature.to_string_lossy().into_owned();
            Ok(Self {
                run_block: (*table).run_block,
                signature,
                _library: library,
                _image: file,
            })
        }
    }
}

/// A file that exists in memory only, and a path by which this process opens it.
#[cfg(target_os = "linux")]
fn in_memory(contents: &[u8]) -> io::Result<(File, String)> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    let mut file = File::from(memfd_create("fusec-kernel", MemfdFlags::CLOEXEC)?);
    file.write_all(contents)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((file, path))
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_contents: &[u8]) -> io::Result<(File, String)> {
    Err(io::ErrorKind::Unsupported.into())
}
