//! The header of a safetensors file: u64 length (little-endian), JSON, data.
//!
//! Parsed here, not by the `safetensors` crate, because a message must name the tensor at fault,
//! and because a name that appears twice must be an error.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{
    Contents, Entry,
    error::Problem,
    view::{StoredDtype, row_major},
};

/// The format's own limit on the header, in bytes.
const HEADER_LIMIT: u64 = 100_000_000;

/// Bytes of the length field before the header.
const LENGTH_FIELD: usize = 8;

/// Reads the header of `bytes` (a whole file): each tensor with its place, in file order.
pub(super) fn entries(bytes: &[u8]) -> Result<Contents, Problem> {
    let truncated = |what: &str, needed: u64| Problem::Truncated {
        what: what.to_string(),
        needed,
        got: bytes.len() as u64,
    };
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_FIELD>()
        .ok_or_else(|| truncated("the header length", LENGTH_FIELD as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT {
        return Err(Problem::TooLong {
            what: "the header",
            got: length,
            limit: HEADER_LIMIT,
        });
    }
    let (header, data) = rest
        .split_at_checked(length as usize)
        .ok_or_else(|| truncated("the header", length + LENGTH_FIELD as u64))?;
    let data_start = LENGTH_FIELD + header.len();

    let mut found = Vec::new();
    for (tensor, value) in parse_header(header)? {
        if tensor == "__metadata__" {
            continue;
        }
        let entry = entry(&tensor, &value, data.len())?;
        found.push((tensor, entry));
    }
    check_cover(&mut found, data.len())?;
    for (_, entry) in &mut found {
        entry.bytes = entry.bytes.start + data_start..entry.bytes.end + data_start;
    }
    Ok(Contents {
        tensors: found,
        skipped: Vec::new(),
    })
}

/// The header's members in the order written; repeated names are kept, so that they can be refused.
fn parse_header(header: &[u8]) -> Result<Vec<(String, Value)>, Problem> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Value)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object that maps tensor names to dtype, shape and data_offsets")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let bad = |e: serde_json::Error| Problem::BadJson {
        what: "the header",
        why: e.to_string(),
    };
    let mut parser = serde_json::Deserializer::from_slice(header);
    let members = parser.deserialize_map(Members).map_err(bad)?;
    parser.end().map_err(bad)?;
    Ok(members)
}

/// One member of the header; its bytes count from the start of the data.
fn entry(tensor: &str, value: &Value, available: usize) -> Result<Entry, Problem> {
    let bad = |why: &str| Problem::BadEntry {
        tensor: tensor.to_string(),
        why: why.to_string(),
    };
    let dtype = value
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| bad("its header entry has no string 'dtype'"))?;
    let dtype = StoredDtype::from_name(dtype).ok_or_else(|| Problem::UnknownDtype {
        tensor: tensor.to_string(),
        dtype: dtype.to_string(),
    })?;
    let shape = integers(value.get("shape"))
        .ok_or_else(|| bad("its header entry has no list of non-negative integers 'shape'"))?;
    let offsets = integers(value.get("data_offsets"));
    let Some(&[begin, end]) = offsets.as_deref() else {
        return Err(bad(
            "its header entry has no pair of non-negative integers 'data_offsets'",
        ));
    };
    if begin > end || end > available as u64 {
        return Err(Problem::OutOfRange {
            tensor: tensor.to_string(),
            begin,
            end,
            available: available as u64,
        });
    }
    let needed = shape
        .iter()
        .try_fold(dtype.size() as u64, |n, &extent| n.checked_mul(extent));
    let extents = shape
        .iter()
        .map(|&e| usize::try_from(e).ok())
        .collect::<Option<Vec<_>>>();
    match (needed, extents.as_deref().and_then(row_major), extents) {
        (Some(needed), Some(strides), Some(shape)) if needed == end - begin => Ok(Entry {
            file: 0,
            dtype,
            shape,
            strides,
            bytes: begin as usize..end as usize,
        }),
        _ => Err(Problem::SizeMismatch {
            tensor: tensor.to_string(),
            shape,
            dtype,
            got: end - begin,
        }),
    }
}

fn integers(value: Option<&Value>) -> Option<Vec<u64>> {
    value?.as_array()?.iter().map(Value::as_u64).collect()
}

/// The format wants every byte of the data to belong to exactly one tensor.
fn check_cover(found: &mut [(String, Entry)], available: usize) -> Result<(), Problem> {
    found.sort_by(|a, b| {
        (a.1.bytes.start, a.1.bytes.end, &a.0).cmp(&(b.1.bytes.start, b.1.bytes.end, &b.0))
    });
    let mut covered = 0;
    let mut last = None;
    for (tensor, entry) in found.iter() {
        let begin = entry.bytes.start;
        match last {
            Some(other) if begin < covered => {
                return Err(Problem::Overlap {
                    tensor: tensor.clone(),
                    begin: begin as u64,
                    other: String::clone(other),
                    other_end: covered as u64,
                });
            }
            _ if begin > covered => {
                return Err(Problem::Hole {
                    begin: covered as u64,
                    end: begin as u64,
                });
            }
            _ => {}
        }
        covered = entry.bytes.end;
        last = Some(tensor);
    }
    if covered < available {
        return Err(Problem::Hole {
            begin: covered as u64,
            end: available as u64,
        });
    }
    Ok(())
}
