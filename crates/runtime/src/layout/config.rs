//! Reading a `config.json` so that nothing in it is overlooked.
//!
//! Every option is either read, required to have a value that is implemented, or known not to
//! change what the model computes. What is left over is refused by name: a checkpoint must not
//! run as something it is not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::LayoutError;
use super::tensors::MAX_LAYERS;

/// Options of every family that do not change what the model computes: provenance, tokenisation,
/// training, generation, and which of several equal implementations is used.
const HARMLESS: [&str; 74] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "attn_mode",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "fuse_cross_entropy",
    "fuse_linear_cross_entropy",
    "fuse_swiglu",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_position_embeddings",
    "min_length",
    "model_max_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "pad_vocab_size_multiple",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "rescale_prenorm_residual",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_l2warp",
];

/// The options of a checkpoint, and which of them have been dealt with.
pub(super) struct Config<'a> {
    file: PathBuf,
    /// What an option's name begins with in messages: `ssm_cfg.` inside that option.
    inside: String,
    options: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
}

impl<'a> Config<'a> {
    /// The options of the checkpoint at `path`.
    pub fn new(path: &Path, options: &'a Map<String, Value>) -> Self {
        let seen = HARMLESS.map(str::to_string).into_iter().collect();
        Config {
            file: path.join("config.json"),
            inside: String::new(),
            options,
            seen: RefCell::new(seen),
        }
    }

    /// The options inside an option; none if it is missing. To be finished like these.
    pub fn nested(&self, option: &str, none: &'a Map<String, Value>) -> Result<Self, LayoutError> {
        let options = match self.get(option) {
            None => none,
            Some(value) => {
                (value.as_object()).ok_or_else(|| self.bad(option, value, "an object"))?
            }
        };
        Ok(Config {
            file: self.file.clone(),
            inside: format!("{}{option}.", self.inside),
            options,
            seen: RefCell::default(),
        })
    }

    /// The release of transformers that wrote the file: its first two numbers.
    pub fn release(&self) -> Option<(u32, u32)> {
        let version = self.options.get("transformers_version")?.as_str()?;
        let mut parts = version.split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        }
    }

    /// The value of an option, unless it is missing or null.
    fn get(&self, option: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().insert(option.to_string());
        self.options.get(option).filter(|value| !value.is_null())
    }

    /// Whether an option is there and not null. Does not deal with it.
    pub fn has(&self, option: &str) -> bool {
        self.options
            .get(option)
            .is_some_and(|value| !value.is_null())
    }

    /// Options that this family has and that do not change what it computes.
    pub fn ignore(&self, options: &[&str]) {
        let mut seen = self.seen.borrow_mut();
        seen.extend(options.iter().map(|option| option.to_string()));
    }

    fn missing(&self, option: &str) -> LayoutError {
        LayoutError::MissingOption {
            file: self.file.clone(),
            option: format!("{}{option}", self.inside),
        }
    }

    fn bad(&self, option: &str, value: &Value, expected: &'static str) -> LayoutError {
        LayoutError::BadOption {
            file: self.file.clone(),
            option: format!("{}{option}", self.inside),
            value: value.to_string(),
            expected,
        }
    }

    /// A refusal of an option's value that the checkpoint may have and fusec does not implement.
    pub fn unimplemented(&self, option: &str, implemented: impl Into<String>) -> LayoutError {
        LayoutError::NotImplemented {
            file: self.file.clone(),
            option: format!("{}{option}", self.inside),
            value: self.options.get(option).unwrap_or(&Value::Null).to_string(),
            implemented: implemented.into(),
        }
    }

    /// A whole number from 1 on, if it is there.
    pub fn optional_size(&self, option: &str) -> Result<Option<usize>, LayoutError> {
        self.get(option)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| *n > 0)
                    .ok_or_else(|| self.bad(option, value, "a whole number from 1 on"))
            })
            .transpose()
    }

    /// A whole number from 1 on.
    pub fn size(&self, option: &str) -> Result<usize, LayoutError> {
        self.optional_size(option)?
            .ok_or_else(|| self.missing(option))
    }

    /// A whole number from 1 on, with the default of the public implementation.
    pub fn size_or(&self, option: &str, default: usize) -> Result<usize, LayoutError> {
        Ok(self.optional_size(option)?.unwrap_or(default))
    }

    /// The number of layers, with the default of the public implementation. Beyond what a model may have
    /// it is refused here, before anything is made for each of them.
    pub fn layers(&self, default: usize) -> Result<usize, LayoutError> {
        self.layers_by("num_hidden_layers", default)
    }

    /// The same, by an option of another name.
    pub fn layers_by(&self, option: &str, default: usize) -> Result<usize, LayoutError> {
        let layers = self.size_or(option, default)?;
        match (layers <= MAX_LAYERS, self.options.get(option)) {
            (false, Some(value)) => Err(self.bad(option, value, "a whole number from 1 to 4096")),
            _ => Ok(layers),
        }
    }

    /// A list, if it is there.
    pub fn list(&self, option: &str) -> Result<Option<&'a [Value]>, LayoutError> {
        let Some(value) = self.get(option) else {
            return Ok(None);
        };
        match value.as_array() {
            Some(list) => Ok(Some(list)),
            None => Err(self.bad(option, value, "a list")),
        }
    }

    /// One of the words that are implemented, with the default of the public implementation.
    pub fn word(
        &self,
        option: &str,
        default: &'static str,
        implemented: &[&'static str],
    ) -> Result<&'static str, LayoutError> {
        let Some(value) = self.get(option) else {
            return Ok(default);
        };
        let known = implemented
            .iter()
            .find(|word| value.as_str() == Some(**word));
        known.copied().ok_or_else(|| {
            let words: Vec<String> = implemented.iter().map(|w| format!("\"{w}\"")).collect();
            self.unimplemented(option, words.join(" or "))
        })
    }

    /// A finite or infinite number, with the default of the public implementation.
    pub fn number(&self, option: &str, default: f64) -> Result<f64, LayoutError> {
        match self.get(option) {
            None => Ok(default),
            Some(value) => number(value).ok_or_else(|| self.bad(option, value, "a number")),
        }
    }

    /// A pair of numbers.
    pub fn range(&self, option: &str, default: (f64, f64)) -> Result<(f64, f64), LayoutError> {
        let Some(value) = self.get(option) else {
            return Ok(default);
        };
        let pair = value.as_array().and_then(|a| match a.as_slice() {
            [low, high] => Some((number(low)?, number(high)?)),
            _ => None,
        });
        pair.ok_or_else(|| self.bad(option, value, "two numbers"))
    }

    /// A switch, with the default of the public implementation. Null is off, as in Python.
    pub fn flag(&self, option: &str, default: bool) -> Result<bool, LayoutError> {
        match self.get(option) {
            None => Ok(default && !self.options.contains_key(option)),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.bad(option, value, "true or false")),
        }
    }

    /// An option that may only be absent, null or one of the implemented values (JSON texts).
    pub fn only(&self, option: &str, implemented: &[&str]) -> Result<(), LayoutError> {
        let fits = |value: &Value| {
            implemented.iter().any(|text| {
                serde_json::from_str::<Value>(text).is_ok_and(|wanted| {
                    // 1 and 1.0 are the same value of an option.
                    wanted == *value || (wanted.is_number() && wanted.as_f64() == value.as_f64())
                })
            })
        };
        match self.get(option) {
            Some(value) if !fits(value) => Err(match implemented {
                [] => self.unimplemented(option, "null"),
                _ => self.unimplemented(option, implemented.join(" or ")),
            }),
            _ => Ok(()),
        }
    }

    /// An option that widens something `from` wide; the product, rounded, has to be `to`.
    pub fn widens(&self, option: &str, from: usize, to: usize) -> Result<(), LayoutError> {
        let Some(value) = self.get(option) else {
            return Ok(());
        };
        let factor = number(value).ok_or_else(|| self.bad(option, value, "a number"))?;
        if (factor * from as f64 - to as f64).abs() < 1.0 {
            return Ok(());
        }
        let implemented = to as f64 / from as f64;
        Err(self.unimplemented(option, format!("{implemented}, as the tensors say")))
    }

    /// The width of an MLP in a model `width` wide: 'intermediate_size', or else 'hidden_ratio'
    /// times `width` times `share`, up to the next multiple. It has to be `inner`.
    pub fn mlp_width(
        &self,
        width: usize,
        inner: usize,
        share: f64,
        multiple: usize,
    ) -> Result<(), LayoutError> {
        const RATIO: &str = "hidden_ratio";
        let ratio = self.get(RATIO);
        if self.has("intermediate_size") {
            return self.only("intermediate_size", &[&inner.to_string()]);
        }
        let Some(value) = ratio else {
            return self.only("intermediate_size", &[]);
        };
        let ratio = number(value).ok_or_else(|| self.bad(RATIO, value, "a number"))?;
        // Beyond the floats that are whole numbers it saturates, and differs.
        let product = (width as f64 * ratio * share) as usize;
        if product.checked_next_multiple_of(multiple) == Some(inner) {
            return Ok(());
        }
        let implemented = format!("one that gives the {inner} of the tensors");
        Err(self.unimplemented(RATIO, implemented))
    }

    /// Refuses an option that nobody has dealt with. Null is the absence of an option.
    pub fn finish(&self) -> Result<(), LayoutError> {
        let seen = self.seen.borrow();
        let mut left = self
            .options
            .iter()
            .filter(|(option, value)| !value.is_null() && !seen.contains(*option));
        match left.next() {
            None => Ok(()),
            Some((option, _)) => Err(self.unimplemented(option, "leaving this option out")),
        }
    }
}

/// A number, also in the spellings that JSON lacks: `"Infinity"`, `{"__float__": "Infinity"}`.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => match text.as_str() {
            "Infinity" | "inf" => Some(f64::INFINITY),
            "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        Value::Object(object) => match object.get("__float__") {
            Some(text) if object.len() == 1 && text.is_string() => number(text),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with<T>(options: Value, f: impl FnOnce(&Config<'_>) -> T) -> T {
        let map = options.as_object().cloned().unwrap_or_default();
        f(&Config::new(Path::new("dir"), &map))
    }

    #[test]
    fn numbers_in_every_spelling() {
        for (value, expected) in [
            (json!(0.5), Some(0.5)),
            (json!("Infinity"), Some(f64::INFINITY)),
            (json!({"__float__": "Infinity"}), Some(f64::INFINITY)),
            (json!({"__float__": "-Infinity"}), Some(f64::NEG_INFINITY)),
            (json!({"__float__": 1}), None),
            (json!("1"), None),
            (json!([1]), None),
        ] {
            assert_eq!(number(&value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_dealt_with_is_refused_by_name() {
        let options = json!({"a": 3, "b": null, "use_cache": true, "c": 1.0, "new": [1]});
        with(options, |config| {
            assert_eq!(config.size("a").map_err(|e| e.to_string()), Ok(3));
            assert!(config.only("c", &["1"]).is_ok());
            let error = config.finish().expect_err("`new` is left over").to_string();
            assert!(error.contains("'new' is [1]"), "{error}");
        });
        with(json!({"act": "gelu"}), |config| {
            let error = config.only("act", &["\"silu\"", "\"swish\""]);
            let error = error.expect_err("gelu is refused").to_string();
            assert!(
                error.contains("'act' is \"gelu\"") && error.contains("silu"),
                "{error}"
            );
        });
        for bad in [
            json!({"n": 0}),
            json!({"n": -1}),
            json!({"n": 1.5}),
            json!({"n": "1"}),
            json!({}),
        ] {
            assert!(with(bad.clone(), |c| c.size("n").is_err()), "{bad}");
        }
    }
}
