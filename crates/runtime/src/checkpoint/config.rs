//! The JSON files beside the weights: `config.json` and the index of a sharded checkpoint.
//!
//! What a configuration means for a model is not decided here.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::error::{CheckpointError, Problem};

/// Longest JSON file accepted, in bytes. An index of a million tensors stays far below.
const JSON_LIMIT: u64 = 256 << 20;

/// Reads a JSON file whose top level is an object; `what` names it in messages.
pub(crate) fn read_object(path: &Path, what: &'static str) -> Result<Value, CheckpointError> {
    let fail = |problem| CheckpointError::new(path, problem);
    let io = |action| move |source| fail(Problem::Io { action, source });
    let length = std::fs::metadata(path).map_err(io("open"))?.len();
    if length > JSON_LIMIT {
        return Err(fail(Problem::TooLong {
            what,
            got: length,
            limit: JSON_LIMIT,
        }));
    }
    let text = std::fs::read(path).map_err(io("read"))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| {
        fail(Problem::BadJson {
            what,
            why: e.to_string(),
        })
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(fail(Problem::BadJson {
            what,
            why: "the top level is not an object".into(),
        }))
    }
}

/// Reads `model.safetensors.index.json`: which shard holds each tensor, sorted by tensor.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    const WHAT: &str = "the shard index";
    let bad = |why: &str| {
        CheckpointError::new(
            path,
            Problem::BadJson {
                what: WHAT,
                why: why.to_string(),
            },
        )
    };
    let index = read_object(path, WHAT)?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("it has no object 'weight_map'"))?;
    map.iter()
        .map(|(tensor, shard)| match shard.as_str() {
            Some(shard) => Ok((tensor.clone(), shard.to_string())),
            None => Err(bad(&format!(
                "the shard of tensor '{tensor}' is not a string"
            ))),
        })
        .collect()
}
