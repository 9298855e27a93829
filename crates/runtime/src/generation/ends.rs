//! The ids that end a text, as a checkpoint names them.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, CheckpointError, read_object};

/// Where a checkpoint says how text is generated; what it leaves open is in its `config.json`.
const FILE: &str = "generation_config.json";
/// The option: an id, or a list of them.
const OPTION: &str = "eos_token_id";

/// `eos_token_id` of the checkpoint's `generation_config.json`, else of its `config.json`; none if
/// neither has it.
pub fn ends(checkpoint: &Checkpoint) -> Result<Vec<i32>, CheckpointError> {
    let path = checkpoint.path().join(FILE);
    let own = match path.is_file() {
        true => Some(read_object(&path, FILE)?),
        false => None,
    };
    let configs = own.as_ref().into_iter().chain(checkpoint.config());
    let mut options = configs.filter_map(|config| config.get(OPTION));
    Ok(options
        .find(|option| !option.is_null())
        .map_or(Vec::new(), ids))
}

fn ids(option: &Value) -> Vec<i32> {
    let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
    match option.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(option).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_an_id_or_a_list_of_them() {
        for (text, expected) in [
            ("2", &[2][..]),
            ("[2, 7]", &[2, 7]),
            ("\"x\"", &[]),
            ("[1, null, 99999999999]", &[1]),
        ] {
            let option: Value = serde_json::from_str(text).unwrap();
            assert_eq!(ids(&option), expected, "{text}");
        }
    }
}
