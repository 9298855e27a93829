//! What `torch.save` wrote before zip archives, and writes still if asked: five pickles, then the
//! bytes of every storage, each after the number of its elements (u64, little-endian).

use std::{collections::BTreeMap, ops::Range};

use super::{
    Contents,
    error::Problem,
    pickle::{PICKLE_LIMIT, PickleError, unpickle_stream},
    pth,
    view::StoredDtype,
};

pub(super) use super::pickle::MAGIC;

/// Bytes of the number before a storage.
const COUNT_FIELD: usize = 8;

/// Reads the pickles of `bytes` (a whole file): each tensor with its place.
pub(super) fn entries(bytes: &[u8]) -> Result<Contents, Problem> {
    let limit = usize::try_from(PICKLE_LIMIT).unwrap_or(usize::MAX);
    let pickles = bytes.get(..limit.min(bytes.len())).unwrap_or_default();
    let stream = unpickle_stream(pickles).map_err(|error| match error {
        PickleError::Truncated { .. } if pickles.len() < bytes.len() => PickleError::TooMuch {
            what: "bytes",
            limit,
        },
        other => other,
    })?;
    let mut dtypes: BTreeMap<&str, StoredDtype> = BTreeMap::new();
    for (_, tensor) in &stream.saved.tensors {
        dtypes.insert(&tensor.storage.key, tensor.storage.dtype);
    }
    let mut storages: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut at = stream.data;
    for key in &stream.keys {
        let truncated = |needed: u128| Problem::Truncated {
            what: format!("storage '{key}'"),
            needed: u64::try_from(needed).unwrap_or(u64::MAX),
            got: bytes.len() as u64,
        };
        let field = bytes.get(at..).unwrap_or_default().first_chunk();
        let field: &[u8; COUNT_FIELD] =
            field.ok_or_else(|| truncated(at as u128 + COUNT_FIELD as u128))?;
        let start = at + COUNT_FIELD;
        let Some(dtype) = dtypes.get(key.as_str()) else {
            let why = format!("no tensor says what storage '{key}' holds");
            return Err(PickleError::Malformed { why, at }.into());
        };
        let length = u128::from(u64::from_le_bytes(*field)) * dtype.size() as u128;
        let end = start as u128 + length;
        at = usize::try_from(end)
            .ok()
            .filter(|end| *end <= bytes.len())
            .ok_or_else(|| truncated(end))?;
        storages.insert(key.clone(), start..at);
    }
    pth::contents(stream.saved, |tensor| {
        let key = &tensor.storage.key;
        storages.get(key).cloned().ok_or_else(|| {
            let why = format!("the data of storage '{key}' are not in the file");
            PickleError::Malformed { why, at }.into()
        })
    })
}
