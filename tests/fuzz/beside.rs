//! Seeds of what lies beside the weights of a model: an index of shards, a vocabulary, how far a training is.

use crate::root;
use crate::seeds::{Seed, edits, json, numbered};

/// Indices of shards.
pub fn indices() -> Vec<Seed> {
    let shard = "model-00001-of-00001.safetensors";
    let map =
        |entries: &str| format!("{{\"metadata\": {{}}, \"weight_map\": {entries}}}").into_bytes();
    let to = |place: &str| map(&format!("{{\"x\": \"{place}\"}}"));
    let many: Vec<String> = (0..300)
        .map(|n| format!("\"t{n}\": \"shard-{n}.safetensors\""))
        .collect();
    numbered(
        "map",
        [
            to(shard),
            to("../model-00001-of-00001.safetensors"),
            to("/etc/passwd"),
            to("."),
            to(""),
            to("a/../model-00001-of-00001.safetensors"),
            to("model.safetensors.index.json"),
            to("none.safetensors"),
            to("\\u0000"),
            map(&format!("{{\"y\": \"{shard}\"}}")),
            map(&format!("{{\"x\": \"{shard}\", \"x\": \"{shard}\"}}")),
            map("{}"),
            map("[]"),
            map("{\"x\": 3}"),
            map(&format!("{{{}}}", many.join(","))),
            b"{}".to_vec(),
            b"[]".to_vec(),
            "[".repeat(3000).into_bytes(),
        ],
    )
}

/// Vocabularies of both forms, and what the library that reads one of them has given up on.
pub fn vocabularies() -> Vec<Seed> {
    let data = root().join("crates/text/tests/data");
    let read = |name: &str| std::fs::read(data.join(name)).expect("a vocabulary");
    let mut seeds: Vec<Seed> = ["byte-level.json", "byte-fallback.json", "world.txt"]
        .into_iter()
        .map(|name| (name.to_owned(), read(name)))
        .collect();
    let small = |member: &str, value: serde_json::Value| {
        let mut vocabulary = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "decoder": null,
            "truncation": null, "padding": null, "post_processor": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "x": 1}, "unk_token": "x"},
        });
        vocabulary[member] = value;
        json(&vocabulary)
    };
    let template = |piece: serde_json::Value| {
        serde_json::json!({"type": "TemplateProcessing", "single": [piece], "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"s": {"id": "s", "ids": [7], "tokens": ["s"]}}})
    };
    use serde_json::json as value;
    seeds.extend(numbered(
        "part",
        [
            small("version", value!("1.0")),
            small("truncation", value!({"direction": "Left", "max_length": 1, "strategy": "OnlySecond", "stride": 9})),
            small("padding", value!({"strategy": {"Fixed": 1u64 << 50}, "direction": "Left", "pad_to_multiple_of": 0,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"})),
            small("pre_tokenizer", value!({"type": "FixedLength", "length": 0})),
            small("pre_tokenizer", value!({"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated",
                "invert": true})),
            small("pre_tokenizer", value!({"type": "Metaspace", "replacement": "", "prepend_scheme": "first"})),
            small("pre_tokenizer", value!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})),
            small("post_processor", template(value!({"Sequence": {"id": "B", "type_id": 0}}))),
            small("post_processor", template(value!({"SpecialToken": {"id": "s", "type_id": 0}}))),
            small("post_processor", template(value!({"SpecialToken": {"id": "none", "type_id": 0}}))),
            small("normalizer", value!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
            small("normalizer", value!({"type": "Replace", "pattern": {"Regex": "(("}, "content": ""})),
            small("normalizer", value!({"type": "Prepend", "prepend": ""})),
            small("normalizer", value!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "BertNormalizer",
                "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}]})),
            small("decoder", value!({"type": "Strip", "content": "e", "start": 1u64 << 60, "stop": 1u64 << 60})),
            small("decoder", value!({"type": "ByteFallback"})),
            small("decoder", value!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true})),
            small("model", value!({"type": "BPE", "vocab": {"a": u32::MAX}, "merges": []})),
            small("model", value!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b", "ab ab"]})),
            small("model", value!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]})),
            small("model", value!({"type": "Unigram", "unk_id": 0, "vocab": [["", 1e308], ["a", -1e308]]})),
            small("model", value!({"type": "WordPiece", "vocab": {}, "unk_token": "none",
                "continuing_subword_prefix": "", "max_input_chars_per_word": 0})),
            small("added_tokens", value!([{"id": u32::MAX, "content": "", "single_word": true, "lstrip": true,
                "rstrip": true, "normalized": true, "special": true}])),
            "{".repeat(3000).into_bytes(),
            b"1 'a' 1\n2 'b' 1\n2 'c' 1\n".to_vec(),
            b"1 b'\\xff' 1\n16777216 '\\n' 1\n".to_vec(),
            b"4294967296 'a' 1\n".to_vec(),
        ],
    ));
    seeds
}

/// How far trainings are.
pub fn trainings() -> Vec<Seed> {
    let whole = r#"{"step":7,"settings":{"model":"small","steps":9,"batch":2,"length":8,"accumulate":1,"seed":1,"rate":0.001,"least_rate":0.0,"schedule":"cosine","warmup":0,"weight_decay":0.1,"clip":1.0,"text":"0","graph":"0"}}"#;
    let mut seeds = vec![("whole".to_owned(), whole.as_bytes().to_vec())];
    seeds.extend(edits(
        "edit",
        whole,
        &[
            ("\"step\":7", "\"step\":8"),
            ("\"step\":7", "\"step\":-7"),
            ("\"step\":7", "\"step\":18446744073709551616"),
            ("0.001", "1e999"),
            ("\"cosine\"", "\"a schedule that nobody knows\""),
            ("\"small\"", "\"\\u001b[2J\""),
            ("{\"step\"", "[{\"step\""),
        ],
    ));
    seeds.push(("deep".into(), "[".repeat(3000).into_bytes()));
    seeds
}
