//! The cache of compiled kernels on disk: cubins, and the emulator's libraries. An entry is found by a
//! hash of everything that made it.
//!
//! Several processes may use one cache at the same time: entries are written under a temporary
//! name and renamed, and are never changed. What is read is checked against its hash, and has to be
//! the user's own; a corrupt entry is reported and built anew. The cache knows nothing about compilers.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::partial;

/// First bytes of an entry. The digit is the format's version: raising it abandons old entries.
const MAGIC: &[u8; 8] = b"fuscub1\n";
const HEADER_BYTES: usize = 8 + 32 + 32 + 8 + 8;
/// No kernel is near this size: what is larger is no entry, and is not read.
const MAX_ENTRY_BYTES: u64 = 1 << 30;

/// What the entries of a cache hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// What a GPU runs.
    Cubins,
    /// Shared objects for the emulator.
    Libraries,
}

impl Contents {
    /// The directory of such a cache below the user's.
    pub fn directory(self) -> &'static str {
        match self {
            Contents::Cubins => "cubin",
            Contents::Libraries => "emulator",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Contents::Cubins => "cubin-entry",
            Contents::Libraries => "library-entry",
        }
    }
}

/// Everything a compiled kernel depends on.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// The source's name: it is written into the line table.
    pub name: &'a str,
    /// The source.
    pub source: &'a str,
    /// The names and texts that it may include.
    pub headers: &'a [(&'a str, &'a str)],
    /// The architecture, such as `sm_90a` or `x86_64`.
    pub arch: &'a str,
    /// The compiler's options.
    pub options: &'a [String],
    /// The compiler, down to its build.
    pub compiler: &'a str,
}

/// The name of an entry: SHA-256 over its [`KeyParts`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of these parts. Each part is hashed with its length, so that no two different
    /// lists of parts are the same bytes.
    pub fn new(parts: &KeyParts<'_>) -> Self {
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part.as_bytes());
        };
        for part in [parts.compiler, parts.arch, parts.name, parts.source] {
            add(part);
        }
        for option in parts.options {
            add(option);
        }
        // No option is empty: what follows is told from one.
        for (name, text) in parts.headers {
            ["", name, text].into_iter().for_each(&mut add);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// What the cache keeps of a compilation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The ELF image.
    pub image: Vec<u8>,
    /// The compiler's log.
    pub log: String,
}

/// Why the cache, or an entry of it, cannot be used. Compilation can go on without; whoever does
/// so should say it.
#[derive(Debug, Error)]
pub enum CacheError {
    /// There is no home directory to put a cache in.
    #[error(
        "no place for a cache: this user has no home directory; set FUSEC_CACHE_DIR to a directory"
    )]
    NoHome,
    /// The directory cannot be made or written to.
    #[error(
        "cache directory {dir} cannot be written: {source}; \
         make it writable, or set FUSEC_CACHE_DIR to another directory"
    )]
    Unwritable {
        /// The cache's directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The directory can be written but not listed.
    #[error("cache directory {dir} cannot be read: {source}")]
    Unreadable {
        /// The cache's directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// An entry that was found and could not be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cache entry {path} is corrupt ({reason}); it is built anew")]
pub struct Corrupt {
    /// The entry's file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was in the cache.
    Hit,
    /// It was compiled.
    Miss,
    /// It was in the cache, but corrupt, so it was compiled.
    Rebuilt(Corrupt),
}

/// What [`KernelCache::get_or_compile`] found.
#[derive(Debug)]
pub struct Lookup {
    /// The compiled kernel.
    pub entry: Entry,
    /// Where it came from.
    pub outcome: Outcome,
    /// Set when it was compiled but could not be written to the cache.
    pub not_stored: Option<CacheError>,
}

/// How much a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Number of entries.
    pub entries: u64,
    /// Their size on disk.
    pub bytes: u64,
}

/// The directory below which everything lies that fusec keeps for a user: `explicit`, or the
/// system's usual place (`~/.cache/fusec` on Linux).
pub fn user_cache_dir(explicit: Option<&Path>) -> Result<PathBuf, CacheError> {
    match explicit {
        Some(dir) => Ok(dir.to_owned()),
        None => directories::ProjectDirs::from("", "", "fusec")
            .map(|dirs| dirs.cache_dir().to_owned())
            .ok_or(CacheError::NoHome),
    }
}

/// A directory of compiled kernels.
#[derive(Debug, Clone)]
pub struct KernelCache {
    dir: PathBuf,
    contents: Contents,
    /// Who writes entries, as the file system says: entries of others may hold anything.
    owner: Owner,
}

impl KernelCache {
    /// Opens the cache in `dir`, making the directory where it is missing, and removes what writers
    /// that were killed have left. An error if entries cannot be written there.
    pub fn open(dir: &Path, contents: Contents) -> Result<Self, CacheError> {
        let unwritable = |source| CacheError::Unwritable {
            dir: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(unwritable)?;
        // Permission bits do not tell (file systems mounted read-only, quotas): try it.
        let (probe, _unfinished) = partial::file_in(dir).map_err(unwritable)?;
        let owner = Owner::of(&probe.as_file().metadata().map_err(unwritable)?);
        partial::sweep(dir, |_| true);
        Ok(Self {
            dir: dir.to_owned(),
            contents,
            owner,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that holds `key`'s entry, whether it exists or not.
    pub fn path(&self, key: &Key) -> PathBuf {
        let extension = self.contents.extension();
        self.dir.join(format!("{key}.{extension}"))
    }

    /// The entry of `parts`, from the cache if it is there and sound, else from `compile`.
    /// Fails only when `compile` does.
    pub fn get_or_compile<E>(
        &self,
        parts: &KeyParts<'_>,
        compile: impl FnOnce() -> Result<Entry, E>,
    ) -> Result<Lookup, E> {
        let key = Key::new(parts);
        let outcome = match self.read(&key) {
            Ok(Some(entry)) => {
                return Ok(Lookup {
                    entry,
                    outcome: Outcome::Hit,
                    not_stored: None,
                });
            }
            Ok(None) => Outcome::Miss,
            Err(corrupt) => Outcome::Rebuilt(corrupt),
        };
        let entry = compile()?;
        let not_stored = self.write(&key, &entry).err();
        Ok(Lookup {
            entry,
            outcome,
            not_stored,
        })
    }

    fn read(&self, key: &Key) -> Result<Option<Entry>, Corrupt> {
        let path = self.path(key);
        let result = match self.read_own(&path) {
            Ok(Ok(bytes)) => decode(key, &bytes).map(Some).map_err(str::to_owned),
            Ok(Err(reason)) => Err(reason.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        result.map_err(|reason| Corrupt { path, reason })
    }

    /// The contents of a file that this user wrote, or why it is not read. A hash says that an entry is
    /// what was written, not who wrote it, and entries are code.
    fn read_own(&self, path: &Path) -> io::Result<Result<Vec<u8>, &'static str>> {
        // Before it is opened: opening a pipe waits for somebody to write to it.
        if !fs::metadata(path)?.is_file() {
            return Ok(Err("it is no file"));
        }
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        if !self.owner.trusts(&about) {
            return Ok(Err("it belongs to another user"));
        }
        if about.len() > MAX_ENTRY_BYTES {
            return Ok(Err("it is larger than any kernel"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Ok(bytes))
    }

    fn write(&self, key: &Key, entry: &Entry) -> Result<(), CacheError> {
        let attempt = || {
            let (mut file, _unfinished) = partial::file_in(&self.dir)?;
            file.write_all(&encode(key, entry))?;
            file.persist(self.path(key)).map_err(|error| error.error)?;
            Ok(())
        };
        attempt().map_err(|source| CacheError::Unwritable {
            dir: self.dir.clone(),
            source,
        })
    }

    /// The number of entries and their size.
    pub fn usage(&self) -> Result<Usage, CacheError> {
        let mut usage = Usage::default();
        self.for_each(
            |name| self.is_entry_name(name),
            |file| {
                // Another process may have removed it meanwhile.
                if let Ok(metadata) = file.metadata() {
                    usage.entries += 1;
                    usage.bytes += metadata.len();
                }
                Ok(())
            },
        )?;
        Ok(usage)
    }

    /// Removes every entry and what killed writers have left, and nothing else that may lie in the
    /// directory. A writer that is at work meanwhile reports that it could not store its entry.
    pub fn clear(&self) -> Result<Usage, CacheError> {
        let mut removed = Usage::default();
        self.for_each(
            |name| self.is_entry_name(name) || partial::is_partial_name(name),
            |file| {
                let bytes = file.metadata().map_or(0, |metadata| metadata.len());
                match fs::remove_file(file.path()) {
                    Ok(()) => {
                        removed.entries += 1;
                        removed.bytes += bytes;
                        Ok(())
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(source) => Err(CacheError::Unwritable {
                        dir: self.dir.clone(),
                        source,
                    }),
                }
            },
        )?;
        Ok(removed)
    }

    fn is_entry_name(&self, name: &OsStr) -> bool {
        let extension = self.contents.extension();
        let stem = name
            .to_str()
            .and_then(|name| name.strip_suffix(extension)?.strip_suffix('.'));
        let is_hex = |stem: &str| stem.bytes().all(|byte| byte.is_ascii_hexdigit());
        stem.is_some_and(|stem| stem.len() == 64 && is_hex(stem))
    }

    fn for_each(
        &self,
        wanted: impl Fn(&OsStr) -> bool,
        mut visit: impl FnMut(&fs::DirEntry) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let unreadable = |source| CacheError::Unreadable {
            dir: self.dir.clone(),
            source,
        };
        for file in fs::read_dir(&self.dir).map_err(unreadable)? {
            let file = file.map_err(unreadable)?;
            if wanted(&file.file_name()) {
                visit(&file)?;
            }
        }
        Ok(())
    }
}

/// A user, as far as a file system tells one from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner(u32);

impl Owner {
    #[cfg(unix)]
    fn of(file: &fs::Metadata) -> Self {
        Self(std::os::unix::fs::MetadataExt::uid(file))
    }

    #[cfg(not(unix))]
    fn of(_file: &fs::Metadata) -> Self {
        Self(0)
    }

    /// Whether a file is this user's, or the administrator's, who can do anything anyway.
    fn trusts(self, file: &fs::Metadata) -> bool {
        let owner = Self::of(file);
        owner == self || owner == Self(0)
    }
}

/// An entry's file: magic, key, SHA-256 of the rest, length of image and log, image, log.
fn encode(key: &Key, entry: &Entry) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + entry.image.len() + entry.log.len());
    for part in [entry.image.as_slice(), entry.log.as_bytes()] {
        body.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    }
    body.extend(&entry.image);
    body.extend(entry.log.as_bytes());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend(MAGIC);
    bytes.extend(key.0);
    bytes.extend(Sha256::digest(&body).as_slice());
    bytes.extend(body);
    bytes
}

fn decode(key: &Key, bytes: &[u8]) -> Result<Entry, &'static str> {
    const CUT: &str = "it is cut short";
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or(CUT)?;
    let (stored_key, rest) = rest.split_at_checked(32).ok_or(CUT)?;
    let (hash, body) = rest.split_at_checked(32).ok_or(CUT)?;
    if magic != MAGIC {
        return Err("it is not a cache entry of this version");
    }
    if stored_key != key.0 {
        return Err("it belongs to another key");
    }
    if hash != Sha256::digest(body).as_slice() {
        return Err("its contents do not have the hash they were written with");
    }
    let (image_len, rest) = body.split_first_chunk::<8>().ok_or(CUT)?;
    let (log_len, rest) = rest.split_first_chunk::<8>().ok_or(CUT)?;
    let length = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).map_err(|_| CUT);
    let (image, log) = rest.split_at_checked(length(image_len)?).ok_or(CUT)?;
    if log.len() != length(log_len)? {
        return Err(CUT);
    }
    let log = std::str::from_utf8(log).map_err(|_| "its log is not text")?;
    Ok(Entry {
        image: image.to_vec(),
        log: log.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn parts<'a>(source: &'a str, options: &'a [String]) -> KeyParts<'a> {
        KeyParts {
            name: "k.cu",
            source,
            headers: &[],
            arch: "sm_80",
            options,
            compiler: "nvrtc 13.5",
        }
    }

    fn entry() -> Entry {
        Entry {
            image: vec![0, 1, 2, 255, 254],
            log: "Used 8 registers\n".to_owned(),
        }
    }

    fn compile(count: &mut u32) -> Result<Entry, Infallible> {
        *count += 1;
        Ok(entry())
    }

    #[test]
    fn the_second_time_nothing_is_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(&dir.path().join("a/b"), Contents::Cubins).unwrap();
        let mut compiled = 0;
        for expected in [Outcome::Miss, Outcome::Hit, Outcome::Hit] {
            let Ok(lookup) = cache.get_or_compile(&parts("s", &[]), || compile(&mut compiled));
            assert_eq!(lookup.outcome, expected);
            assert_eq!(lookup.entry, entry());
            assert!(lookup.not_stored.is_none());
        }
        assert_eq!(compiled, 1);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let options = ["-x".to_owned(), "-y".to_owned()];
        let joined = ["-x-y".to_owned()];
        let base = parts("source", &options);
        let variants = [
            base,
            KeyParts {
                name: "other.cu",
                ..base
            },
            KeyParts {
                source: "sourc",
                ..base
            },
            KeyParts {
                headers: &[("a.cuh", "text")],
                ..base
            },
            KeyParts {
                headers: &[("a.cuh", "other text")],
                ..base
            },
            KeyParts {
                headers: &[("a.cuh", ""), ("", "text")],
                ..base
            },
            KeyParts {
                arch: "sm_90",
                ..base
            },
            KeyParts {
                options: &options[..1],
                ..base
            },
            KeyParts {
                options: &joined,
                ..base
            },
            KeyParts {
                compiler: "nvrtc 13.6",
                ..base
            },
            // The same characters, cut elsewhere.
            KeyParts {
                arch: "sm_80k",
                name: ".cu",
                ..base
            },
        ];
        let keys: std::collections::BTreeSet<Key> = variants.iter().map(Key::new).collect();
        assert_eq!(keys.len(), variants.len());
    }

    #[cfg(unix)]
    #[test]
    fn an_entry_of_another_user_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Libraries).unwrap();
        let mut compiled = 0;
        let Ok(_) = cache.get_or_compile(&parts("s", &[]), || compile(&mut compiled));
        // To another user the same directory is one of somebody else's entries.
        let stranger = Owner(cache.owner.0.wrapping_add(4711));
        let of_stranger = KernelCache {
            owner: stranger,
            ..cache.clone()
        };
        let Ok(lookup) = of_stranger.get_or_compile(&parts("s", &[]), || compile(&mut compiled));
        // Tests may run as the administrator, whose entries everybody takes.
        let trusted = cache.owner == Owner(0);
        assert_eq!(matches!(lookup.outcome, Outcome::Rebuilt(_)), !trusted);
        assert_eq!(compiled, if trusted { 1 } else { 2 });
    }

    #[test]
    fn what_a_killed_writer_left_is_gone_once_the_cache_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (abandoned, _) = partial::file_in(dir.path()).unwrap();
        let abandoned = abandoned.keep().unwrap().1;
        let (at_work, _unfinished) = partial::file_in(dir.path()).unwrap();
        KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        assert!(!abandoned.exists());
        assert!(at_work.path().exists());
    }

    #[test]
    fn a_failed_compilation_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        let result = cache.get_or_compile(&parts("s", &[]), || Err("syntax error"));
        assert_eq!(result.unwrap_err(), "syntax error");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn any_damage_is_found_reported_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        let key_parts = parts("s", &[]);
        let key = Key::new(&key_parts);
        let sound = encode(&key, &entry());
        let other_key = Key::new(&parts("t", &[]));

        let mut damaged = vec![Vec::new(), encode(&other_key, &entry())];
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x20;
            damaged.push(flipped);
            damaged.push(sound[..at].to_vec());
        }
        damaged.push([sound.as_slice(), b"x"].concat());

        for bytes in damaged {
            fs::write(cache.path(&key), &bytes).unwrap();
            let mut compiled = 0;
            let Ok(lookup) = cache.get_or_compile(&key_parts, || compile(&mut compiled));
            let Outcome::Rebuilt(corrupt) = lookup.outcome else {
                panic!("{bytes:?} was taken for sound")
            };
            assert!(corrupt.to_string().contains(&key.to_string()), "{corrupt}");
            assert_eq!((compiled, lookup.entry), (1, entry()));
            assert_eq!(fs::read(cache.path(&key)).unwrap(), sound);
        }
    }

    #[test]
    fn an_entry_that_is_larger_than_any_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        let key_parts = parts("s", &[]);
        // Nothing but zeros, which take no room.
        let file = File::create(cache.path(&Key::new(&key_parts))).unwrap();
        file.set_len(MAX_ENTRY_BYTES + 1).unwrap();
        let mut compiled = 0;
        let Ok(lookup) = cache.get_or_compile(&key_parts, || compile(&mut compiled));
        let Outcome::Rebuilt(corrupt) = lookup.outcome else {
            panic!("it was taken for sound")
        };
        assert!(corrupt.to_string().contains("larger than any"), "{corrupt}");
        assert_eq!((compiled, lookup.entry), (1, entry()));
    }

    #[test]
    fn an_entry_that_cannot_be_written_is_reported_with_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        // A directory in the entry's place can neither be read nor replaced.
        let key_parts = parts("s", &[]);
        fs::create_dir_all(cache.path(&Key::new(&key_parts)).join("x")).unwrap();
        let mut compiled = 0;
        let Ok(lookup) = cache.get_or_compile(&key_parts, || compile(&mut compiled));
        assert_eq!(lookup.entry, entry());
        assert!(matches!(lookup.outcome, Outcome::Rebuilt(_)));
        let text = lookup.not_stored.unwrap().to_string();
        assert!(text.contains("cannot be written"), "{text}");
    }

    #[test]
    fn a_place_that_cannot_be_a_cache_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for place in [file.clone(), file.join("below")] {
            let text = KernelCache::open(&place, Contents::Cubins)
                .unwrap_err()
                .to_string();
            assert!(text.contains(&place.display().to_string()), "{text}");
            assert!(text.contains("FUSEC_CACHE_DIR"), "{text}");
        }
    }

    #[test]
    fn clearing_removes_entries_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
        fs::write(dir.path().join("mine.txt"), "x").unwrap();
        let mut compiled = 0;
        for source in ["a", "b"] {
            let Ok(_) = cache.get_or_compile(&parts(source, &[]), || compile(&mut compiled));
        }
        let usage = cache.usage().unwrap();
        assert_eq!(usage.entries, 2);
        let (abandoned, _) = partial::file_in(dir.path()).unwrap();
        let abandoned = abandoned.keep().unwrap().1;
        assert_eq!(
            cache.clear().unwrap(),
            Usage {
                entries: 3,
                ..usage
            }
        );
        assert!(!abandoned.exists());
        assert_eq!(cache.usage().unwrap(), Usage::default());
        assert!(dir.path().join("mine.txt").exists());
    }

    #[test]
    fn many_threads_with_one_key_all_get_the_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = KernelCache::open(dir.path(), Contents::Cubins).unwrap();
                    for source in ["a", "b", "c"] {
                        let Ok(lookup) =
                            cache.get_or_compile(&parts(source, &[]), || compile(&mut 0));
                        assert_eq!(lookup.entry, entry());
                        assert!(!matches!(lookup.outcome, Outcome::Rebuilt(_)));
                    }
                });
            }
        });
        assert_eq!(
            KernelCache::open(dir.path(), Contents::Cubins)
                .unwrap()
                .usage()
                .unwrap()
                .entries,
            3
        );
    }
}
