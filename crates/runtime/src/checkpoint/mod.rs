//! Checkpoints as people download them: safetensors (one file or shards), and what `torch.save`
//! writes, opened in place and never trusted.
//!
//! A [`Checkpoint`] is a set of named tensors and perhaps a configuration. Which tensor becomes
//! which parameter is not decided here; no model family is known here.

mod config;
mod error;
mod legacy;
mod pickle;
mod pth;
mod rename;
mod safetensors;
#[cfg(target_os = "linux")]
mod shrunk;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Component, Path, PathBuf},
};

use fusec_ir::files;
use memmap2::Mmap;
use serde_json::Value;

pub use self::{
    error::{CheckpointError, Problem},
    pickle::PickleError,
    view::{StoredDtype, TensorView},
};

#[cfg(target_os = "linux")]
pub use self::shrunk::exit_when_files_shrink;
pub(crate) use self::{config::read_object, view::row_major};

/// Single-file names in a directory, in order of preference.
const SINGLE: [&str; 5] = [
    "model.safetensors",
    "model.st",
    "model.pth",
    "model.pt",
    "pytorch_model.bin",
];
/// Index files of sharded checkpoints, in order of preference.
const INDEXES: [&str; 2] = [
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];
/// Endings that make any other file in a directory a candidate.
const ENDINGS: [&str; 4] = ["safetensors", "st", "pth", "pt"];

/// How a file begins that stands for another in a Git repository.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Named tensors in one or several mapped files.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Entry>,
    skipped: Vec<Skipped>,
    config: Option<Value>,
    /// Under which name the file has a tensor, where that is another.
    stored_as: BTreeMap<String, String>,
}

/// Where a tensor lies. The invariant of [`TensorView`] holds.
#[derive(Debug, Clone)]
struct Entry {
    /// Index into [`Checkpoint::files`].
    file: usize,
    dtype: StoredDtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// Bytes of the file from the first element to the last.
    bytes: Range<usize>,
}

/// What one file holds; the names may still clash.
#[derive(Debug, Default)]
struct Contents {
    tensors: Vec<(String, Entry)>,
    skipped: Vec<Skipped>,
}

/// Something in the checkpoint that is not one of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its name; empty for the top of a pickle.
    pub name: String,
    /// What it is.
    pub why: String,
}

impl Checkpoint {
    /// Opens a checkpoint: a `.safetensors` file, a file written by `torch.save`, the index of a
    /// sharded checkpoint, or a directory that holds one of them and perhaps a `config.json`.
    ///
    /// In a directory the first of `model.safetensors`, its index, `model.st`, `model.pth`,
    /// `model.pt`, `pytorch_model.bin`, its index is taken; else the only file with such an ending (the
    /// recorded outputs of a golden case, [`crate::golden::FILE`], are never taken).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(|source| {
            CheckpointError::new(
                path,
                Problem::Io {
                    action: "open",
                    source,
                },
            )
        })?;
        let mut checkpoint = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            skipped: Vec::new(),
            config: None,
            stored_as: BTreeMap::new(),
        };
        let file = if metadata.is_dir() {
            let config = path.join("config.json");
            if config.symlink_metadata().is_ok() {
                checkpoint.config = Some(read_object(&config, "config.json")?);
            }
            find_in(path)?
        } else {
            path.to_path_buf()
        };
        if file.extension().is_some_and(|e| e == "json") {
            checkpoint.add_shards(&file)?;
        } else {
            checkpoint.add_file(&file, None)?;
        }
        Ok(checkpoint)
    }

    /// The path given to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`, when the checkpoint is a directory that has one. An object.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// What the files hold beside tensors, in the order found.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The tensor of that name, in place.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let entry = self.tensors.get(name)?;
        let (_, map) = self.files.get(entry.file)?;
        Some(TensorView {
            dtype: entry.dtype,
            shape: &entry.shape,
            strides: &entry.strides,
            bytes: map.get(entry.bytes.clone())?,
        })
    }

    /// The tensor as f32, row-major. f64 is rounded; integers must be exactly representable.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.read(name, "f32", |view| view.to_f32())
    }

    /// The tensor as f64, row-major. Integers must be exactly representable.
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>, CheckpointError> {
        self.read(name, "f64", |view| view.to_f64())
    }

    /// The tensor as i64, row-major. Only integers and booleans (0 or 1) can be read so.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        self.read(name, "i64", |view| view.to_i64())
    }

    fn read<T>(
        &self,
        name: &str,
        to: &'static str,
        convert: impl for<'v> FnOnce(TensorView<'v>) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>, CheckpointError> {
        let Some(view) = self.tensor(name) else {
            return Err(CheckpointError::new(
                &self.path,
                Problem::NoSuchTensor {
                    tensor: name.to_string(),
                    nearest: self.nearest(name),
                },
            ));
        };
        convert(view).map_err(|why| {
            let problem = Problem::Conversion {
                tensor: name.to_string(),
                from: view.dtype,
                to,
                why,
            };
            CheckpointError::new(&self.path, problem)
        })
    }

    /// The stored name that shares most with `name`: the longest common start plus end.
    pub fn nearest(&self, name: &str) -> Option<String> {
        let common = |pairs: &mut dyn Iterator<Item = (u8, u8)>| {
            pairs
                .take_while(|(stored, wanted)| stored == wanted)
                .count()
        };
        let mut best = (0, None);
        for stored in self.names() {
            let score = common(&mut stored.bytes().zip(name.bytes()))
                + common(&mut stored.bytes().rev().zip(name.bytes().rev()));
            if score > best.0 {
                best = (score, Some(stored.to_string()));
            }
        }
        best.1
    }

    /// Maps one file and takes its tensors; with `wanted`, only those that the index puts in it.
    fn add_file(
        &mut self,
        path: &Path,
        wanted: Option<(&Path, &BTreeSet<&str>)>,
    ) -> Result<(), CheckpointError> {
        let fail = |problem| CheckpointError::new(path, problem);
        let map = map_file(path)?;
        if map.starts_with(LFS_POINTER) {
            return Err(fail(Problem::LfsPointer));
        }
        let Contents { tensors, skipped } = read_entries(path, &map).map_err(fail)?;
        self.skipped.extend(skipped);
        let file = self.files.len();
        let mut seen = BTreeSet::new();
        for (tensor, entry) in tensors {
            if let Some((index, wanted)) = wanted
                && !wanted.contains(tensor.as_str())
            {
                let why = format!("in {} but not in {}", path.display(), index.display());
                self.skipped.push(Skipped { name: tensor, why });
                continue;
            }
            let other = self
                .tensors
                .get(&tensor)
                .map(|entry| entry.file)
                .filter(|&f| f != file);
            if !seen.insert(tensor.clone()) || other.is_some() {
                let other = other.and_then(|f| Some(self.files.get(f)?.0.display().to_string()));
                return Err(fail(Problem::Duplicate { tensor, other }));
            }
            self.tensors.insert(tensor, Entry { file, ..entry });
        }
        if let Some((index, wanted)) = wanted
            && let Some(missing) = wanted.iter().find(|tensor| !seen.contains(**tensor))
        {
            return Err(fail(Problem::NotInShard {
                tensor: missing.to_string(),
                index: index.display().to_string(),
            }));
        }
        self.files.push((path.to_path_buf(), map));
        Ok(())
    }

    fn add_shards(&mut self, index: &Path) -> Result<(), CheckpointError> {
        let map = config::read_index(index)?;
        let mut shards: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, shard) in &map {
            shards.entry(shard).or_default().insert(tensor);
        }
        let directory = index.parent().unwrap_or(Path::new(""));
        for (shard, tensors) in &shards {
            let bad = |why: &str| {
                let tensor = tensors.first().copied().unwrap_or_default().to_string();
                let problem = Problem::BadShard {
                    shard: shard.to_string(),
                    tensor,
                    why: why.into(),
                };
                CheckpointError::new(index, problem)
            };
            // An index comes from the network: it must not reach outside its own directory.
            let mut parts = Path::new(shard).components();
            if !matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            ) {
                return Err(bad("is not a plain file name"));
            }
            let path = directory.join(shard);
            if !path.is_file() {
                return Err(bad("is missing: download it into the same directory"));
            }
            self.add_file(&path, Some((index, tensors)))?;
        }
        Ok(())
    }
}

fn find_in(directory: &Path) -> Result<PathBuf, CheckpointError> {
    let fail = |problem| CheckpointError::new(directory, problem);
    let [tensors, rest @ ..] = SINGLE;
    let [tensors_index, rest_index] = INDEXES;
    let preferred = [tensors, tensors_index]
        .into_iter()
        .chain(rest)
        .chain([rest_index]);
    // A link to nothing is one whose file is missing, and no reason to take another one.
    if let Some(found) = preferred
        .map(|name| directory.join(name))
        .find(|path| path.symlink_metadata().is_ok())
    {
        return Ok(found);
    }
    let io = |source| {
        fail(Problem::Io {
            action: "read",
            source,
        })
    };
    let mut others = BTreeSet::new();
    for item in std::fs::read_dir(directory).map_err(io)? {
        let path = item.map_err(io)?.path();
        let fits = ENDINGS
            .iter()
            .any(|e| path.extension().is_some_and(|x| x == *e));
        if fits && path.is_file() && !path.ends_with(crate::golden::FILE) {
            others.insert(path);
        }
    }
    match others.len() {
        0 => Err(fail(Problem::NothingFound)),
        1 => Ok(others.pop_first().unwrap_or_default()),
        _ => Err(fail(Problem::Ambiguous {
            names: others
                .iter()
                .map(|path| {
                    path.file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned()
                })
                .collect(),
        })),
    }
}

fn map_file(path: &Path) -> Result<Mmap, CheckpointError> {
    let io = |action| move |source| CheckpointError::new(path, Problem::Io { action, source });
    let file = files::open_regular(path).map_err(io("open"))?;
    // SAFETY: the map is read-only and read as bytes, of which every pattern is valid. As with any
    // mapped file, another process that truncates it meanwhile ends this one with SIGBUS (see `shrunk`);
    // copying every checkpoint first would double memory and start-up time for all.
    unsafe { Mmap::map(&file) }.map_err(io("map"))
}

/// Tells the format by content: an ending is only a hint, and `.bin` none.
fn read_entries(path: &Path, bytes: &[u8]) -> Result<Contents, Problem> {
    let named = |ending| path.extension().is_some_and(|e| e == ending);
    if named("safetensors") || named("st") {
        return safetensors::entries(bytes);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return pth::entries(bytes);
    }
    if bytes.starts_with(legacy::MAGIC) {
        return legacy::entries(bytes);
    }
    // PROTO with a version: how every pickle starts.
    let pickle = matches!(bytes, [0x80, 0..=5, ..]);
    // A safetensors file under another name: the length of a JSON object, and the object. The
    // length may begin as a pickle does, and then has to fit the file.
    let header = bytes.first_chunk().map(|n| u64::from_le_bytes(*n));
    let fits = header.is_some_and(|n| n < bytes.len() as u64);
    if bytes.get(8) == Some(&b'{') && (fits || !pickle) {
        return safetensors::entries(bytes);
    }
    if pickle {
        return Err(Problem::BarePickle);
    }
    Err(Problem::UnknownFormat)
}
