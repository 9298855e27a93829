//! Model texts and places in them.
//!
//! A model may be spread over several files (`include`). They are laid end to
//! end, the main file first, so that one [`Span`] names a place in any of them.

use crate::{Span, files};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Largest model text in bytes that is read.
pub const MAX_SOURCE_BYTES: usize = 4 << 20;

/// Largest sum over the files of a model, in bytes.
pub(super) const MAX_MODEL_BYTES: usize = 16 << 20;

/// Reads the text of an included file, given its path relative to the model's directory.
pub type Loader<'a> = dyn Fn(&Path) -> std::io::Result<String> + 'a;

/// A model text and a way to read what it includes.
pub struct ModelSource<'a> {
    /// Shown in messages, usually the path of the file.
    pub name: String,
    /// The text of the main file.
    pub text: String,
    /// Reads included files.
    pub loader: Box<Loader<'a>>,
}

impl ModelSource<'static> {
    /// A text that includes nothing.
    pub fn from_text(name: impl Into<String>, text: impl Into<String>) -> Self {
        ModelSource {
            name: name.into(),
            text: text.into(),
            loader: Box::new(|_| {
                Err(std::io::Error::other(
                    "a model given as text cannot include files",
                ))
            }),
        }
    }

    /// A model file; `include` reads files below its directory and no others.
    pub fn from_path(path: &Path) -> std::io::Result<Self> {
        let text = read_text(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let root = directory.canonicalize()?;
        Ok(ModelSource {
            name: path.display().to_string(),
            text,
            loader: Box::new(move |relative| {
                let file = root.join(relative).canonicalize()?;
                if !file.starts_with(&root) {
                    return Err(std::io::Error::other(
                        "it lies outside the model's directory",
                    ));
                }
                read_text(&file)
            }),
        })
    }
}

/// The text of a file, not much more of it than is accepted.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let most = MAX_SOURCE_BYTES as u64 + 1;
    files::open(path)?.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_SOURCE_BYTES {
        // Refused for its length, whatever is in it.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    files::utf8(bytes)
}

/// Joins an include path to the directory of the file that names it. `None` when it
/// is absolute, empty, or climbs out with `..`.
pub(super) fn join_include(from: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    let inside = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside || path.is_empty() {
        return None;
    }
    let mut out = from.parent().map(Path::to_path_buf).unwrap_or_default();
    out.extend(relative.components().filter_map(|c| match c {
        Component::Normal(part) => Some(part),
        _ => None,
    }));
    Some(out)
}

/// The files of a model, laid end to end.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

/// One file of a [`SourceMap`].
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Shown in messages.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Offset of its first byte in the map.
    pub base: u32,
}

impl SourceMap {
    /// Adds a file and returns the offset of its first byte.
    pub(super) fn add(&mut self, name: String, text: String) -> u32 {
        // One byte between files keeps an end-of-file place distinct from the next start.
        let base = self
            .files
            .last()
            .map_or(0, |f| f.base.saturating_add(f.text.len() as u32 + 1));
        self.files.push(SourceFile { name, text, base });
        base
    }

    /// All files, the main one first.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The file that holds a place, and the byte range within it.
    pub fn locate(&self, span: Span) -> Option<(&SourceFile, std::ops::Range<usize>)> {
        let file = self.files.iter().rev().find(|f| f.base <= span.start)?;
        let len = file.text.len();
        let start = ((span.start - file.base) as usize).min(len);
        let end = (span.end.saturating_sub(file.base) as usize).clamp(start, len);
        Some((file, start..end))
    }
}

/// A piece of model language inside a TOML string.
#[derive(Clone, Debug)]
pub(super) struct Snippet {
    /// The text.
    pub text: String,
    /// Offset of its first byte in the source map; `None` when escapes in the TOML
    /// string make positions inside it unknown.
    pub base: Option<u32>,
    /// The whole TOML string.
    pub whole: Span,
}

impl Snippet {
    /// The place of a byte range of the text.
    pub fn span(&self, range: std::ops::Range<usize>) -> Span {
        match self.base {
            Some(base) => Span {
                start: base + range.start as u32,
                end: base + range.end as u32,
            },
            None => self.whole,
        }
    }
}

/// The smallest place that covers both.
pub(super) fn cover(a: Span, b: Span) -> Span {
    Span {
        start: a.start.min(b.start),
        end: a.end.max(b.end),
    }
}
