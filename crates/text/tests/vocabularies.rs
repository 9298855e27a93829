//! Vocabularies of each form against what the libraries that defined them give (`expected.json`: PyPI
//! `tokenizers` 0.22 for the two `tokenizer.json`, PyPI `rwkv` 0.8.32 for the excerpt of its vocabulary).

use std::path::{Path, PathBuf};

use fusec_text::{TokenizeError, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    dir.join(name)
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(&data(name)).expect("it is a vocabulary")
}

/// The text of ids that come one by one.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder();
    let mut text = String::new();
    for id in ids {
        text.push_str(&decoder.push(*id).expect("it decodes"));
    }
    text.push_str(&decoder.finish().expect("it decodes"));
    text
}

#[test]
fn ids_and_texts_are_those_of_the_public_libraries() {
    let expected = std::fs::read(data("expected.json")).expect("there");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    for (name, file) in [
        ("byte-level", "byte-level.json"),
        ("byte-fallback", "byte-fallback.json"),
        ("world", "world.txt"),
    ] {
        let tokenizer = open(file);
        let cases = expected[name].as_array().expect("cases");
        assert!(cases.len() >= 4);
        for case in cases {
            let text = case[0].as_str().expect("a text");
            let ids: Vec<u32> = serde_json::from_value(case[1].clone()).expect("ids");
            assert_eq!(tokenizer.encode(text).expect("it encodes"), ids, "{text}");
            // The World vocabulary loses nothing.
            let decoded = case[2].as_str().unwrap_or(text);
            assert_eq!(streamed(&tokenizer, &ids), decoded, "{name}");
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.entries()));
        }
    }
}

#[test]
fn text_comes_as_soon_as_it_is_certain_and_bad_bytes_stop_nothing() {
    for file in ["byte-level.json", "byte-fallback.json", "world.txt"] {
        let tokenizer = open(file);
        // A character of three bytes and more tokens than one: nothing until it is whole.
        let ids = tokenizer.encode("a\u{9f98}b").expect("it encodes");
        let mut decoder = tokenizer.decoder();
        let pieces: Vec<String> = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
        assert!(pieces.contains(&"\u{9f98}".to_string()), "{pieces:?}");
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
        // One byte of it left out: the rest of the text is still there.
        let first = pieces.iter().position(|p| p == "\u{9f98}").unwrap() - 1;
        let mut broken = ids.clone();
        broken.remove(first);
        let text = streamed(&tokenizer, &broken);
        assert!(text.starts_with('a') || text.starts_with(" a"), "{text:?}");
        assert!(text.contains('\u{fffd}') && text.ends_with('b'), "{text:?}");
        // And bytes without end are given up, not collected.
        let endless = vec![ids[first]; 1000];
        let mut decoder = tokenizer.decoder();
        let given: usize = endless
            .iter()
            .map(|id| decoder.push(*id).unwrap().len())
            .sum();
        assert!(given > 900, "{given}");
    }
}

#[test]
fn a_vocabulary_that_cannot_be_used_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    assert!(matches!(
        Tokenizer::open(&path),
        Err(TokenizeError::Read { .. })
    ));
    for (text, says) in [
        ("{\"model\": 1}", "no tokenizer.json"),
        ("1 'a' 1\n2 b 1\n", "line 2: it is no quoted text"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Tokenizer::open(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&path, "1 'a' 1\n").unwrap();
    let error = Tokenizer::open(&path).unwrap().encode("ab").unwrap_err();
    assert!(error.to_string().contains("0x62"), "{error}");
}

#[test]
fn lengths_and_ids_are_accepted_up_to_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let said = || {
        Tokenizer::open(&path)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    std::fs::write(&path, "16777216 'a' 1\n").unwrap();
    assert_eq!(said(), Ok(()));
    std::fs::write(&path, "16777217 'a' 1\n").unwrap();
    let refused = said().unwrap_err();
    assert!(
        refused.contains("line 1: the id is 16777217, allowed are 1 to 16777216"),
        "{refused}"
    );
    for (length, says) in [
        (1u64 << 28, "line 1: it is not of the form"),
        (
            (1 << 28) + 1,
            "it has 268435457 bytes, allowed are 268435456",
        ),
    ] {
        // Nothing but zeros, which take no room.
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(length).unwrap();
        let refused = said().unwrap_err();
        assert!(
            refused.contains(says) && refused.len() < 1000,
            "{refused:.1000}"
        );
    }
}

#[test]
fn the_vocabulary_of_a_directory_is_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Tokenizer::beside(dir.path()).unwrap().is_none());
    for (file, name) in [
        ("world.txt", Tokenizer::files()[1]),
        ("byte-level.json", Tokenizer::files()[0]),
    ] {
        std::fs::copy(data(file), dir.path().join(name)).unwrap();
        let found = Tokenizer::beside(dir.path()).unwrap().unwrap();
        assert!(found.name().ends_with(name), "{}", found.name());
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(text: String) {
        for tokenizer in [open("byte-level.json"), open("world.txt"), Tokenizer::bytes()] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &ids), text.clone(), "{}", tokenizer.name());
        }
    }

    #[test]
    fn no_ids_break_the_stream(ids in prop::collection::vec(0u32..70_000, 0..40)) {
        for file in ["byte-level.json", "byte-fallback.json", "world.txt"] {
            streamed(&open(file), &ids);
        }
    }
}

/// Millions of bytes in many scripts, as `bench/tokenizers.py` leaves them in the directory that
/// `FUSEC_TOKENIZED` names: the ids are those of the public tokenizers, and ids become the same text however
/// characters are cut. Without the directory there is nothing to compare with.
#[test]
fn public_tokenizers_give_the_same_ids() {
    let Some(root) = std::env::var_os("FUSEC_TOKENIZED").map(PathBuf::from) else {
        return;
    };
    let mut compared = 0;
    for name in ["world", "json"] {
        let dir = root.join(name);
        let tokenizer = Tokenizer::open(&dir.join("vocabulary")).expect("a vocabulary");
        let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "ids"))
            .collect();
        files.sort();
        for file in files {
            let bytes = std::fs::read(&file).expect("ids");
            let ids = bytes.chunks_exact(4);
            let ids: Vec<u32> = ids
                .map(|id| u32::from_le_bytes(id.try_into().expect("four bytes")))
                .collect();
            let text = std::fs::read_to_string(file.with_extension("txt")).expect("a text");
            let start = std::time::Instant::now();
            if !file.ends_with("stream.ids") {
                let got = tokenizer.encode(&text).expect("it encodes");
                let differ = got.iter().zip(&ids).position(|(a, b)| a != b);
                assert_eq!((differ, got.len()), (None, ids.len()), "{file:?}");
            }
            let encoded = start.elapsed().as_secs_f64();
            // A tokenizer.json may normalise, so that its text is another.
            if name == "world" {
                assert!(streamed(&tokenizer, &ids) == text, "{file:?}");
            }
            let all = start.elapsed().as_secs_f64();
            println!(
                "{name} {:?}: {} bytes, {} ids, {encoded:.2} s to encode, {:.2} s to decode",
                file.file_stem().unwrap_or_default(),
                text.len(),
                ids.len(),
                all - encoded,
            );
            compared += 1;
        }
    }
    assert!(compared > 0, "{root:?} has no ids");
}

/// A vocabulary of bytes with a member of its JSON replaced, in a file.
fn edited(member: &str, value: Value) -> tempfile::NamedTempFile {
    let text = std::fs::read(data("byte-level.json")).expect("there");
    let mut json: Value = serde_json::from_slice(&text).expect("JSON");
    json[member] = value;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), json.to_string()).expect("written");
    file
}

/// How batches were once cut and filled up is saved with many vocabularies, and is no part of what a text is.
#[test]
fn a_text_is_read_whole_and_nothing_is_added() {
    let text = "a text that is longer than four tokens, by far";
    let usual = open("byte-level.json").encode(text).expect("it encodes");
    assert!(usual.len() > 8);
    let cut =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    let filled = |length: u64| {
        json!({"strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x"})
    };
    for (member, value) in [
        ("truncation", cut),
        ("padding", filled(100)),
        // As many as no machine has room for.
        ("padding", filled(1 << 50)),
    ] {
        let file = edited(member, value);
        let tokenizer = Tokenizer::open(file.path()).expect("it is a vocabulary");
        assert_eq!(
            tokenizer.encode(text).expect("it encodes"),
            usual,
            "{member}"
        );
    }
}

/// What the library panics on is refused, when it is read or when it is used.
#[test]
fn what_the_library_gives_up_on_is_an_error() {
    let one = |piece: Value| {
        json!({"type": "TemplateProcessing", "single": [piece], "special_tokens": {},
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]})
    };
    for (member, value) in [
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        (
            "post_processor",
            one(json!({"Sequence": {"id": "B", "type_id": 0}})),
        ),
        (
            "post_processor",
            one(json!({"SpecialToken": {"id": "none", "type_id": 0}})),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "////"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(("}, "content": ""}),
        ),
        (
            "decoder",
            json!({"type": "Strip", "content": "e", "start": 1u64 << 40, "stop": 1u64 << 40}),
        ),
        (
            "decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 4_294_967_295_u32}, "merges": []}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": null, "vocab": []}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {}, "unk_token": "none"}),
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {}, "unk_token": "none",
            "continuing_subword_prefix": "", "max_input_chars_per_word": 0}),
        ),
        (
            "added_tokens",
            json!([{"id": 4_294_967_295_u32, "content": "", "single_word": true,
            "lstrip": true, "rstrip": true, "normalized": true, "special": true}]),
        ),
    ] {
        let what = format!("{member}: {value}");
        let file = edited(member, value);
        let tried = Tokenizer::open(file.path()).and_then(|tokenizer| {
            let ids = tokenizer.encode("a text, \u{9f98} and\tmore")?;
            tokenizer.entries();
            let mut decoder = tokenizer.decoder();
            ids.iter().try_for_each(|id| decoder.push(*id).map(drop))?;
            decoder.finish()
        });
        println!("{what}: {tried:?}");
        if let Err(error) = tried {
            assert!(!error.to_string().is_empty());
        }
    }
}
