//! What a `tokenizer.json` says of its table of characters, looked at before the library reads it.
//!
//! The table (`precompiled_charsmap`, of SentencePiece) begins with a length, for which `tokenizers` asks memory
//! before it looks at what is there: four bytes that ask for eight gigabytes.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
}

/// Refuses a table that says it is longer than it is, and what is no JSON: the library comes upon the table before
/// it comes upon what is wrong behind it.
pub(crate) fn check(text: &[u8]) -> Result<(), String> {
    let parts: Parts = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    walk(&parts.normalizer)
}

fn walk(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(all) => all.iter().try_for_each(walk),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| match value {
            Value::String(table) if name == "precompiled_charsmap" => table_fits(table),
            value => walk(value),
        }),
        _ => Ok(()),
    }
}

/// Four characters of base64 are three bytes.
fn table_fits(table: &str) -> Result<(), String> {
    let most = table.len() as u64 / 4 * 3 + 3;
    match first_number(table) {
        Some(said) if u64::from(said) > most => Err(format!(
            "its precompiled_charsmap says that it has {said} bytes, and has {most} at most"
        )),
        _ => Ok(()),
    }
}

/// The first four bytes, little-endian; `None` if that is no base64.
fn first_number(table: &str) -> Option<u32> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u64::from(byte - b'A')),
        b'a'..=b'z' => Some(u64::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u64::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // Six digits are 36 bits, of which the first 32 count.
    let first = table.as_bytes().get(..6)?;
    let bits = first
        .iter()
        .try_fold(0u64, |bits, byte| Some(bits << 6 | digit(*byte)?))?;
    u32::try_from(bits >> 4).ok().map(u32::swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_they_are_written() {
        // Python: base64.b64encode(struct.pack("<I", n) + b"rest").
        for (table, number) in [
            ("AAAAAHJlc3Q=", Some(0)),
            ("AQIDBHJlc3Q=", Some(0x0403_0201)),
            ("/////3Jlc3Q=", Some(u32::MAX)),
            ("AAAA", None),
            ("AAAA*A", None),
        ] {
            assert_eq!(first_number(table), number, "{table}");
        }
    }

    #[test]
    fn a_table_that_promises_more_than_there_is_is_refused_wherever_it_is() {
        let nested = |table: &str| {
            format!(
                r#"{{"normalizer": {{"normalizers": [{{"type": "Precompiled", "precompiled_charsmap": "{table}"}}]}}}}"#
            )
        };
        let refused = check(nested("/////w==").as_bytes()).expect_err("too long");
        assert!(refused.contains("4294967295 bytes"), "{refused}");
        assert_eq!(check(nested("BAAAAAAAAAA=").as_bytes()), Ok(()));
        assert_eq!(check(b"{}"), Ok(()));
        // The library would have read the table by then.
        assert!(check(&nested("BAAAAAAAAAA=").as_bytes()[..90]).is_err());
    }
}
