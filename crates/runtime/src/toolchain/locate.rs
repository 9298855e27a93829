//! Where NVRTC is looked for, and in which order.
//!
//! Looks only at file names, and loads what it finds until one works; it never downloads
//! anything. A path that the user gave is used or refused, never replaced by another.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::nvrtc::{Nvrtc, NvrtcError, Version};

/// Names of the library, most wanted first.
const NAMES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];
/// The name a toolkit's development package adds: taken where the user points at a directory.
const UNVERSIONED: &str = "libnvrtc.so";

/// Which rule found the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The user named it.
    Explicit,
    /// The pinned copy in fusec's own cache.
    Fetched,
    /// A directory of `LD_LIBRARY_PATH`.
    LibraryPath,
    /// An installed CUDA toolkit.
    Toolkit,
    /// NVIDIA's package in the active Python environment.
    PythonPackage,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "named by the user",
            Self::Fetched => "fetched by fusec",
            Self::LibraryPath => "LD_LIBRARY_PATH",
            Self::Toolkit => "installed CUDA toolkit",
            Self::PythonPackage => "active Python environment",
        })
    }
}

/// A library that was found and works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The file, with links resolved.
    pub path: PathBuf,
    /// Its release.
    pub version: Version,
    /// The linker's build id in hexadecimal, if it has one.
    pub build: Option<String>,
    /// How it was found.
    pub origin: Origin,
}

/// A file that has the right name but could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

/// A directory in which NVRTC may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// What to call a find there.
    pub origin: Origin,
}

/// Why the path that the user gave cannot be used.
#[derive(Debug, Error)]
pub enum ExplicitError {
    /// Nothing is there, or a directory without the library.
    #[error(
        "FUSEC_NVRTC={path}: {reason}; give the path of libnvrtc.so.13 or .12, \
         or of the directory it is in, or unset it to have NVRTC searched"
    )]
    NotFound {
        /// The path as given.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// The library is there and does not load.
    #[error("FUSEC_NVRTC={path}: {source}")]
    Unusable {
        /// The path as given.
        path: PathBuf,
        /// Why it does not load.
        source: NvrtcError,
    },
}

/// Loads the library at `path`: a file, or a directory that holds it (directly or in `lib64` or
/// `lib`).
pub fn explicit(path: &Path) -> Result<(Nvrtc, Located), ExplicitError> {
    let file = if path.is_dir() {
        let dirs = [path.to_owned(), path.join("lib64"), path.join("lib")];
        dirs.iter()
            .flat_map(|dir| {
                NAMES
                    .iter()
                    .chain([&UNVERSIONED])
                    .map(|name| dir.join(name))
            })
            .find(|file| file.is_file())
            .ok_or_else(|| ExplicitError::NotFound {
                path: path.to_owned(),
                reason: "the directory holds no libnvrtc.so.13 or .12".to_owned(),
            })?
    } else if path.exists() {
        path.to_owned()
    } else {
        let reason = "there is no such file".to_owned();
        return Err(ExplicitError::NotFound {
            path: path.to_owned(),
            reason,
        });
    };
    load(&file, Origin::Explicit).map_err(|source| ExplicitError::Unusable {
        path: path.to_owned(),
        source,
    })
}

/// Loads a library whose place is known.
pub fn load(file: &Path, origin: Origin) -> Result<(Nvrtc, Located), NvrtcError> {
    let nvrtc = Nvrtc::load(file)?;
    let located = Located {
        path: nvrtc.path().to_owned(),
        version: nvrtc.version(),
        build: nvrtc.build().map(str::to_owned),
        origin,
    };
    Ok((nvrtc, located))
}

/// Loads the first library of `places` that works. Files of the right name that do not work are
/// added to `skipped`.
pub fn search(places: &[Place], skipped: &mut Vec<Skipped>) -> Option<(Nvrtc, Located)> {
    for place in places {
        for name in NAMES {
            let file = place.dir.join(name);
            if !file.is_file() {
                continue;
            }
            match load(&file, place.origin) {
                Ok(found) => return Some(found),
                Err(error) => {
                    skipped.push(Skipped {
                        path: file,
                        reason: error.to_string(),
                    });
                }
            }
        }
    }
    None
}

/// The directories of this system in which NVRTC may be installed, in the order of search:
/// `LD_LIBRARY_PATH`, CUDA toolkits (those named by the environment, `/usr/local/cuda`, then
/// versioned ones, newest first), the distribution's libraries, the active Python environment.
pub fn system_places() -> Vec<Place> {
    let mut places = Vec::new();
    let mut add = |origin, dirs: Vec<PathBuf>| {
        places.extend(dirs.into_iter().map(|dir| Place { dir, origin }));
    };
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        // An empty element means the current directory to the loader; we do not follow it there.
        let dirs = env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty());
        add(Origin::LibraryPath, dirs.collect());
    }
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = env::var_os(variable).filter(|root| !root.is_empty()) {
            add(Origin::Toolkit, toolkit_libraries(Path::new(&root)));
        }
    }
    for root in toolkits(Path::new("/usr/local")) {
        add(Origin::Toolkit, toolkit_libraries(&root));
    }
    let distribution = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    add(
        Origin::Toolkit,
        vec![
            PathBuf::from(distribution),
            PathBuf::from("/usr/lib64"),
            PathBuf::from("/usr/lib"),
        ],
    );
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(root) = env::var_os(variable).filter(|root| !root.is_empty()) {
            add(Origin::PythonPackage, python_libraries(Path::new(&root)));
        }
    }
    places
}

fn toolkit_libraries(root: &Path) -> Vec<PathBuf> {
    let target = format!("targets/{}-linux/lib", env::consts::ARCH);
    vec![root.join("lib64"), root.join(target)]
}

/// `cuda` below `base`, then `cuda-MAJOR[.MINOR]`, newest first.
fn toolkits(base: &Path) -> Vec<PathBuf> {
    let mut versioned: Vec<(Vec<u32>, PathBuf)> = children(base)
        .into_iter()
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix("cuda-")?;
            let numbers = version
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            Some((numbers, path))
        })
        .collect();
    versioned.sort_by(|left, right| right.cmp(left));
    let default = base.join("cuda");
    std::iter::once(default)
        .chain(versioned.into_iter().map(|(_, path)| path))
        .collect()
}

/// Where NVIDIA's Python packages put NVRTC in the environment at `root`.
fn python_libraries(root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for python in children(&root.join("lib")) {
        let is_python = python
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|n| n.starts_with("python"));
        if is_python {
            let nvidia = python.join("site-packages/nvidia");
            dirs.extend([nvidia.join("cu13/lib"), nvidia.join("cuda_nvrtc/lib")]);
        }
    }
    dirs.push(root.join("lib"));
    dirs
}

/// What lies in `dir`, by name; nothing where it cannot be read.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_path_is_never_replaced_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let broken = dir.path().join("libnvrtc.so.13");
        fs::write(&broken, "not a library").unwrap();
        let cases = [
            (dir.path().join("absent"), "there is no such file"),
            (empty, "the directory holds no libnvrtc"),
            (broken, "not a 64-bit ELF file"),
            (dir.path().to_owned(), "not a 64-bit ELF file"),
        ];
        for (path, reason) in cases {
            let text = explicit(&path).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("FUSEC_NVRTC={}", path.display())),
                "{text}"
            );
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn broken_finds_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("libnvrtc.so.12"), "not a library").unwrap();
        let places = [
            Place {
                dir: dir.path().join("absent"),
                origin: Origin::LibraryPath,
            },
            Place {
                dir: dir.path().to_owned(),
                origin: Origin::Toolkit,
            },
        ];
        let mut skipped = Vec::new();
        assert!(search(&places, &mut skipped).is_none());
        let [only] = skipped.as_slice() else {
            panic!("{skipped:?}")
        };
        assert!(
            only.path.ends_with("libnvrtc.so.12") && only.reason.contains("ELF"),
            "{only:?}"
        );
    }

    #[test]
    fn toolkits_are_ordered_by_version_not_by_letter() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "cuda-9.2",
            "cuda-12.4",
            "cuda-13",
            "cuda-12.10",
            "cuda-samples",
            "other",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let names: Vec<String> = toolkits(dir.path())
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            ["cuda", "cuda-13", "cuda-12.10", "cuda-12.4", "cuda-9.2"]
        );
    }

    #[test]
    fn python_packages_of_every_interpreter_in_an_environment() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib/python3.12")).unwrap();
        fs::create_dir_all(dir.path().join("lib/pkgconfig")).unwrap();
        let nvidia = dir.path().join("lib/python3.12/site-packages/nvidia");
        assert_eq!(
            python_libraries(dir.path()),
            [
                nvidia.join("cu13/lib"),
                nvidia.join("cuda_nvrtc/lib"),
                dir.path().join("lib")
            ]
        );
    }
}
