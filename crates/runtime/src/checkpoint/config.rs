//! The JSON files beside the weights: `config.json` and the index of a sharded checkpoint.
//!
//! What a configuration means for a model is not decided here.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use fusec_ir::files;
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
    let text = files::read_regular(path, JSON_LIMIT).map_err(io("read"))?;
    let value = parse(&text).map_err(|why| fail(Problem::BadJson { what, why }))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(fail(Problem::BadJson {
            what,
            why: "the top level is not an object".into(),
        }))
    }
}

/// The numbers that Python's `json` writes and JSON lacks.
const PYTHON_NUMBERS: [&[u8]; 3] = [b"Infinity", b"-Infinity", b"NaN"];

/// Parses JSON as Python reads it: with a byte order mark, and with numbers that are not finite,
/// which become strings of the same letters.
fn parse(text: &[u8]) -> Result<Value, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (plain, quoted) = quote_numbers(text);
    serde_json::from_slice(&plain).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let why = error.to_string();
        let place = format!(" at line {line} column {column}");
        let why = why.strip_suffix(&place).unwrap_or(&why);
        // The quotes are not in the file.
        let before = quoted.iter().filter(|(l, c)| *l == line && *c < column);
        let column = column.saturating_sub(2 * before.count());
        format!("{why} at line {line} column {column}")
    })
}

/// The text with [`PYTHON_NUMBERS`] in quotes, and where the quoted ones end: line and column in
/// the text with quotes, both from 1 on.
fn quote_numbers(text: &[u8]) -> (Cow<'_, [u8]>, Vec<(usize, usize)>) {
    let mut out: Vec<u8> = Vec::new();
    let mut places = Vec::new();
    let (mut copied, mut at) = (0, 0);
    let (mut line, mut line_start, mut added) = (1, 0, 0);
    let mut in_string = false;
    let in_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let number = PYTHON_NUMBERS.iter().find(|n| rest.starts_with(n));
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'\n' => (line, line_start, added) = (line + 1, at + 1, 0),
            _ => {}
        }
        let alone = |length: usize| {
            let before = at.checked_sub(1).and_then(|before| text.get(before));
            !in_word(before) && !in_word(text.get(at + length))
        };
        match number {
            Some(number) if !in_string && alone(number.len()) => {
                out.extend_from_slice(text.get(copied..at).unwrap_or_default());
                out.push(b'"');
                out.extend_from_slice(number);
                out.push(b'"');
                at += number.len();
                (copied, added) = (at, added + 2);
                places.push((line, at - line_start + added));
            }
            _ => at += 1,
        }
    }
    if places.is_empty() {
        return (Cow::Borrowed(text), places);
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    (Cow::Owned(out), places)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_read_as_python_writes_it() {
        for (text, expected) in [
            ("{\"a\": [0.0, Infinity]}", json!({"a": [0.0, "Infinity"]})),
            ("[-Infinity,NaN]", json!(["-Infinity", "NaN"])),
            ("Infinity", json!("Infinity")),
            ("\u{feff}{}", json!({})),
            (
                r#"{"NaN": "a \" Infinity", "b\\": NaN}"#,
                json!({"NaN": "a \" Infinity", "b\\": "NaN"}),
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_are_placed_in_the_text_as_it_is_in_the_file() {
        for (text, place) in [
            ("{\n\"a\": ?}", "line 2 column 6"),
            ("[Infinity, ?]", "line 1 column 12"),
            ("[NaN, -Infinity, ?]", "line 1 column 18"),
            ("[Infinity,\n?]", "line 2 column 1"),
            ("[Infinityx]", "line 1 column 2"),
            ("[xNaN]", "line 1 column 2"),
            ("\u{feff}?", "line 1 column 1"),
        ] {
            let why = parse(text.as_bytes()).expect_err(text);
            assert!(why.ends_with(place), "{text}: {why}");
        }
    }
}
