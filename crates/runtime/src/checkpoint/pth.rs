//! The zip archive that `torch.save` writes: `NAME/data.pkl` and one stored entry per storage.
//!
//! Storages are used where they lie in the mapped file, so they must be stored uncompressed, as
//! torch does. Their checksums are not verified: that would read gigabytes before the first use.

use std::{
    io::{Cursor, Read},
    ops::Range,
};

use zip::{CompressionMethod, ZipArchive, result::ZipError};

use super::{
    Contents, Entry, Skipped,
    error::Problem,
    pickle::{PICKLE_LIMIT, TensorRef, Unpickled, unpickle},
    view::row_major,
};

/// Most elements of a tensor that shows stored elements several times (a stride of 0 costs no
/// bytes in the file, so the file does not bound its size).
const REPEATED_LIMIT: usize = 1 << 28;

/// Reads the directory and the pickle of `bytes` (a whole file): each tensor with its place.
pub(super) fn entries(bytes: &[u8]) -> Result<Contents, Problem> {
    let mut archive = Archive::open(bytes)?;
    let names: Vec<String> = archive
        .zip
        .file_names()
        .filter_map(|n| n.ok().map(Into::into))
        .collect();
    let mut pickles = names.iter().filter_map(|name| {
        let prefix = name.strip_suffix("data.pkl")?;
        // `data.pkl` at the root or in the one folder that torch makes.
        (prefix.is_empty() || prefix.find('/') == Some(prefix.len() - 1)).then_some(prefix)
    });
    let prefix = pickles.next().ok_or_else(|| Problem::BadZipEntry {
        entry: "data.pkl".into(),
        why: "is not in the archive: torch.save did not write this file".into(),
    })?;
    if let Some(second) = pickles.next() {
        return Err(Problem::BadZipEntry {
            entry: format!("{second}data.pkl"),
            why: "is a second pickle: which one is meant?".into(),
        });
    }
    let byteorder = format!("{prefix}byteorder");
    if names.contains(&byteorder) && archive.read(&byteorder, 16)?.trim_ascii() != b"little" {
        return Err(Problem::BadZipEntry {
            entry: byteorder,
            why: "says the data is not little-endian".into(),
        });
    }
    let pickle = archive.read(&format!("{prefix}data.pkl"), PICKLE_LIMIT)?;
    let unpickled = unpickle(&pickle)?;
    contents(unpickled, |tensor| {
        archive.stored(&format!("{prefix}data/{}", tensor.storage.key))
    })
}

/// What a pickle described, each tensor placed in the bytes of its storage.
pub(super) fn contents(
    unpickled: Unpickled,
    mut storage: impl FnMut(&TensorRef) -> Result<Range<usize>, Problem>,
) -> Result<Contents, Problem> {
    let mut contents = Contents::default();
    for (name, tensor) in unpickled.tensors {
        let entry = place(&name, &tensor, storage(&tensor)?)?;
        contents.tensors.push((name, entry));
    }
    for (name, kind) in unpickled.skipped {
        let why = kind.to_string();
        contents.skipped.push(Skipped { name, why });
    }
    Ok(contents)
}

struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Problem> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| match e {
            ZipError::InvalidArchive(why) => Problem::BadZip {
                why: format!("{why} (truncated? the directory is at the end of the file)"),
            },
            other => Problem::BadZip {
                why: other.to_string(),
            },
        })?;
        if zip.has_duplicate_names() {
            return Err(Problem::BadZip {
                why: "two entries have the same name".into(),
            });
        }
        Ok(Self { bytes, zip })
    }

    /// The whole content of a small entry, its checksum verified.
    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, Problem> {
        let bad = |why: String| Problem::BadZipEntry {
            entry: name.to_string(),
            why,
        };
        let entry = self.zip.by_name(name).map_err(|e| bad(e.to_string()))?;
        let mut content = Vec::new();
        // One byte more than allowed, so that an entry which lies about its size is noticed.
        entry
            .take(limit + 1)
            .read_to_end(&mut content)
            .map_err(|e| bad(e.to_string()))?;
        if content.len() as u64 > limit {
            return Err(bad(format!("is longer than the limit of {limit} bytes")));
        }
        Ok(content)
    }

    /// Where an uncompressed entry lies in the file.
    fn stored(&mut self, name: &str) -> Result<Range<usize>, Problem> {
        let bad = |why: String| Problem::BadZipEntry {
            entry: name.to_string(),
            why,
        };
        let index = self
            .zip
            .index_for_name(name)
            .ok_or_else(|| bad("is named by the pickle but is not in the archive".into()))?;
        let entry = self
            .zip
            .by_index_raw(index)
            .map_err(|e| bad(e.to_string()))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(bad(
                "is compressed or encrypted: save it again with torch.save".into(),
            ));
        }
        let range = entry.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?)
        });
        match range {
            Some(range) if range.end <= self.bytes.len() => Ok(range),
            _ => Err(bad(format!(
                "truncated: its {} bytes do not fit in the file of {}",
                entry.size(),
                self.bytes.len()
            ))),
        }
    }
}

/// Checks that every element of a tensor lies in its storage, and says where the tensor is.
fn place(name: &str, tensor: &TensorRef, storage: Range<usize>) -> Result<Entry, Problem> {
    let bad = |why: String| Problem::BadEntry {
        tensor: name.to_string(),
        why,
    };
    let dtype = tensor.storage.dtype;
    let unsigned = |what: &str, values: &[i64]| {
        values
            .iter()
            .map(|&v| usize::try_from(v).map_err(|_| bad(format!("its {what} has the value {v}"))))
            .collect::<Result<Vec<_>, _>>()
    };
    let shape = unsigned("shape", &tensor.shape)?;
    let mut strides = unsigned("strides", &tensor.strides)?;
    let offset = unsigned("offset", &[tensor.offset])?.iter().sum::<usize>();
    if shape.len() != strides.len() {
        return Err(bad(format!(
            "its shape {shape:?} and strides {strides:?} differ in length"
        )));
    }
    let available = storage.len() / dtype.size();
    if usize::try_from(tensor.storage.numel)
        .ok()
        .is_none_or(|numel| numel > available)
    {
        return Err(bad(format!(
            "its storage '{}' should have {} elements of {dtype}, the file has {available}",
            tensor.storage.key, tensor.storage.numel
        )));
    }
    row_major(&shape).ok_or_else(|| bad(format!("its shape {shape:?} overflows")))?;
    let numel: usize = shape.iter().product();
    for (stride, &extent) in strides.iter_mut().zip(&shape) {
        // The stride of a single element, or in an empty tensor, says nothing and may be anything.
        if extent <= 1 || numel == 0 {
            *stride = 0;
        }
    }
    // One past the last element that any index reaches.
    let reach = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |reach, (&extent, &stride)| {
            reach.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
        });
    let end = match reach {
        Some(last) if numel > 0 => last.checked_add(1),
        _ if numel == 0 => Some(offset),
        _ => None,
    };
    match end {
        Some(end) if end <= available => {}
        _ => {
            let bytes = |elements: usize| (elements as u64).saturating_mul(dtype.size() as u64);
            return Err(Problem::OutOfRange {
                tensor: name.to_string(),
                begin: bytes(offset),
                end: bytes(end.unwrap_or(usize::MAX)),
                available: storage.len() as u64,
            });
        }
    }
    if numel > available && numel > REPEATED_LIMIT {
        return Err(bad(format!(
            "its shape {shape:?} repeats {available} stored elements into {numel}, more than {REPEATED_LIMIT}"
        )));
    }
    let end = end.unwrap_or(offset);
    let bytes = storage.start + offset * dtype.size()..storage.start + end * dtype.size();
    Ok(Entry {
        file: 0,
        dtype,
        shape,
        strides,
        bytes,
    })
}
