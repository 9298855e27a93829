//! `fusec import`, and checkpoints in the shapes they come in: the model written runs with the
//! checkpoint's weights and gives the recorded outputs, however the tensors are stored.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fusec_runtime::checkpoint::Checkpoint;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

fn fusec(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(args)
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn expect(status: i32, args: &[&str]) -> Output {
    let out = fusec(args);
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
    out
}

/// A tensor to be written: name, extents, elements.
type Plain = (String, Vec<usize>, Vec<f32>);

fn tensors(checkpoint: &Path) -> Vec<Plain> {
    let checkpoint = Checkpoint::open(checkpoint).expect("a checkpoint");
    let names: Vec<String> = checkpoint.names().map(str::to_string).collect();
    let read = names.into_iter().map(|name| {
        let shape = checkpoint.tensor(&name).expect("it").shape.to_vec();
        let values = checkpoint.read_f32(&name).expect("numbers");
        (name, shape, values)
    });
    read.collect()
}

/// Half precision of a number that it holds, or the nearest below in size.
fn f16(x: f32) -> [u8; 2] {
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let size = x.abs();
    let bits = if size < 2f32.powi(-14) {
        (size * 2f32.powi(24)) as u16
    } else {
        ((size.to_bits() >> 13) - (112 << 10)) as u16
    };
    (sign | bits).to_le_bytes()
}

fn encode(values: &[f32], dtype: &str) -> Vec<u8> {
    let bytes = values.iter().flat_map(|x| match dtype {
        "F32" => x.to_le_bytes().to_vec(),
        "BF16" => x.to_le_bytes()[2..].to_vec(),
        "F16" => f16(*x).to_vec(),
        _ => panic!("{dtype} is none of the types written here"),
    });
    bytes.collect()
}

/// Writes tensors of the given types as one safetensors file.
fn write(path: &Path, tensors: &[(&Plain, &str)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for ((name, shape, values), dtype) in tensors {
        let start = data.len();
        data.extend(encode(values, dtype));
        let entry = serde_json::json!({
            "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]
        });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], &header, &data].concat()).expect("written");
}

/// A directory with a golden case's files, its tensors left out.
fn without_tensors(case: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "about.json", "golden.safetensors"] {
        let from = golden(case).join(name);
        if from.exists() {
            std::fs::copy(from, copy.path().join(name)).expect("a copy");
        }
    }
    copy
}

/// [`without_tensors`], with these as one file of f32.
fn with_tensors(case: &str, tensors: &[Plain]) -> tempfile::TempDir {
    let copy = without_tensors(case);
    let typed: Vec<_> = tensors.iter().map(|t| (t, "F32")).collect();
    write(&copy.path().join("model.safetensors"), &typed);
    copy
}

#[test]
fn the_text_written_with_the_weights_gives_the_recorded_outputs() {
    let out = tempfile::tempdir().expect("a directory");
    let entries = std::fs::read_dir(golden("")).expect("tests/golden");
    let cases = entries.map(|entry| entry.expect("an entry").path());
    for case in cases.filter(|path| path.is_dir()) {
        let name = case.file_name().expect("a name").to_string_lossy();
        let file = shown(&out.path().join(format!("{name}.toml")));
        let case = shown(&case);
        expect(0, &["import", &case, "--out", &file]);
        let record = format!("{case}/golden.safetensors");
        let args = ["verify", &file, "--weights", &case, "--device", "cpu"];
        expect(0, &[&args[..], &["--golden", &record]].concat());
    }
}

#[test]
fn sizes_comments_and_the_weight_map_are_there() {
    let out = tempfile::tempdir().expect("a directory");
    let place = shown(&out.path().join("new/place"));
    let case = shown(&golden("gla-fla"));
    let answer = expect(0, &["import", &case, "--out", &place, "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(answer["axes"]["C"], 128);
    assert_eq!(answer["file"], format!("{place}/model.toml"));
    let written = std::fs::read_to_string(format!("{place}/model.toml")).expect("the text");
    for (part, there) in [
        ("C = 128 ", true),
        ("[recurrence.", true),
        ("[block.mlp]", true),
        ("include", false),
        ("[preset", false),
    ] {
        assert_eq!(written.contains(part), there, "{part}:\n{written}");
    }
    let map = std::fs::read(format!("{place}/model.weights.json")).expect("the map");
    let map: serde_json::Value = serde_json::from_slice(&map).expect("JSON");
    let parameters = map["parameters"].as_array().expect("a list");
    let checkpoint = Checkpoint::open(golden("gla-fla")).expect("the case");
    for tensor in checkpoint.names() {
        let found = parameters.iter().any(|p| p["tensor"] == tensor);
        assert!(found, "{tensor} is not in the map");
    }
    let embedding = parameters.iter().find(|p| p["param"] == "emb");
    let embedding = embedding.expect("the embedding");
    assert_eq!(embedding["stored"], serde_json::json!([256, 128]));
    assert_eq!(embedding["dtype"], "BF16");
    expect(
        0,
        &["plan", &format!("{place}/model.toml"), "--shape", "B=1,T=1"],
    );
}

#[test]
fn shards_of_mixed_types_are_one_checkpoint() {
    let plain = tensors(&golden("mamba2-hf"));
    let copy = without_tensors("mamba2-hf");
    let types = ["F32", "BF16", "F16"];
    let mut index = serde_json::Map::new();
    for shard in 0..3 {
        let file = format!("model-{shard}.safetensors");
        let own = plain.iter().enumerate().filter(|(i, _)| i % 3 == shard);
        // The type goes round within a shard, too.
        let typed: Vec<_> = own.map(|(i, t)| (t, types[(i / 3) % 3])).collect();
        for ((name, ..), _) in &typed {
            index.insert(name.clone(), file.as_str().into());
        }
        write(&copy.path().join(file), &typed);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": index});
    let path = copy.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).expect("written");
    let path = shown(copy.path());
    expect(0, &["verify", &path, "--device", "cpu"]);

    std::fs::remove_file(copy.path().join("model-1.safetensors")).expect("removed");
    let out = expect(2, &["verify", &path, "--device", "cpu"]);
    assert!(text(&out.stderr).contains("model-1.safetensors"));
}

#[test]
fn a_tied_head_is_the_embedding() {
    let out = tempfile::tempdir().expect("a directory");
    for (case, embedding) in [
        ("gla-fla", "model.embeddings.weight"),
        ("rwkv7-fla", "model.embeddings.weight"),
        ("mamba2-hf", "backbone.embeddings.weight"),
    ] {
        let mut plain = tensors(&golden(case));
        plain.retain(|(name, ..)| name != "lm_head.weight");
        let config = std::fs::read_to_string(golden(case).join("config.json")).expect("read");
        let config = config.replace(
            "\"tie_word_embeddings\": false",
            "\"tie_word_embeddings\": true",
        );
        let logits = |plain: &[Plain], name: &str| {
            let copy = with_tensors(case, plain);
            std::fs::write(copy.path().join("config.json"), &config).expect("written");
            let file = shown(&out.path().join(name));
            let args = ["run", &shown(copy.path()), "--device", "cpu", "--shape"];
            expect(0, &[&args[..], &["B=1,T=5", "--output", &file]].concat());
            std::fs::read(file).expect("logits")
        };
        let tied = logits(&plain, "tied");
        let (_, shape, values) = (plain.iter().find(|(name, ..)| name == embedding))
            .unwrap_or_else(|| panic!("{case} has no {embedding}"))
            .clone();
        plain.push(("lm_head.weight".into(), shape.clone(), values.clone()));
        assert_eq!(tied, logits(&plain, "copied"), "{case}");
        let half = values.iter().map(|x| 0.5 * x).collect();
        plain.pop();
        plain.push(("lm_head.weight".into(), shape, half));
        assert_ne!(tied, logits(&plain, "other"), "{case}");
    }
}

/// Some published files of one family hold the value mix of layer 0, which nothing reads; others,
/// such as the recorded one, do not.
#[test]
fn tensors_that_nothing_reads_may_be_there_or_not() {
    let mut plain = tensors(&golden("rwkv7-native"));
    let mix = ["v0", "v1", "v2"].map(|v| format!("blocks.0.att.{v}"));
    assert!(plain.iter().all(|(name, ..)| !mix.contains(name)));
    let extra = mix
        .iter()
        .map(|name| (name.clone(), vec![2], vec![1.0, 2.0]));
    let with = [plain.clone(), extra.collect()].concat();
    for tensors in [&plain, &with] {
        let copy = with_tensors("rwkv7-native", tensors);
        expect(0, &["verify", &shown(copy.path()), "--device", "cpu"]);
    }
    let copy = with_tensors("rwkv7-native", &with);
    let file = shown(&copy.path().join("out.toml"));
    let out = expect(0, &["import", &shown(copy.path()), "--out", &file]);
    assert!(text(&out.stdout).contains("not read: 'blocks.0.att.v1'"));
    // Elsewhere they are read.
    plain.retain(|(name, ..)| name != "blocks.1.att.v2");
    let copy = with_tensors("rwkv7-native", &plain);
    let out = expect(2, &["verify", &shown(copy.path()), "--device", "cpu"]);
    assert!(text(&out.stderr).contains("blocks.1.att.v2"));
}

#[test]
fn every_tensor_missing_left_over_or_of_another_shape_is_named() {
    let mut plain = tensors(&golden("mamba2-hf"));
    let missing = "backbone.layers.1.norm.weight";
    let wrong = "backbone.layers.0.mixer.D";
    plain.retain(|(name, ..)| name != missing);
    let (_, shape, values) = (plain.iter_mut().find(|(name, ..)| name == wrong)).expect("it");
    values.push(1.0);
    shape[0] += 1;
    plain.push(("backbone.layers.0.mixer.extra".into(), vec![1], vec![1.0]));
    let copy = with_tensors("mamba2-hf", &plain);
    let file = copy.path().join("out.toml");
    let out = expect(2, &["import", &shown(copy.path()), "--out", &shown(&file)]);
    let stderr = text(&out.stderr);
    for name in [missing, wrong, "backbone.layers.0.mixer.extra"] {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
    assert!(!file.exists(), "nothing is written");
}

#[test]
fn what_cannot_be_imported_is_named() {
    let copy = with_tensors("gla-fla", &tensors(&golden("gla-fla")));
    let path = shown(copy.path());
    let config = std::fs::read_to_string(golden("gla-fla").join("config.json")).expect("read");
    for (from, to, name) in [
        (r#""use_gk": true"#, r#""use_gk": false"#, "use_gk"),
        (
            r#""use_gk": true"#,
            r#""use_everything": 1"#,
            "use_everything",
        ),
        (
            r#""model_type": "gla""#,
            r#""model_type": "mystery""#,
            "mystery",
        ),
    ] {
        assert!(config.contains(from), "{from}");
        std::fs::write(copy.path().join("config.json"), config.replace(from, to)).expect("ok");
        let out = expect(2, &["import", &path, "--out", &path]);
        assert!(text(&out.stderr).contains(name), "{}", text(&out.stderr));
    }
    let model = shown(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/gla.toml"));
    let case = shown(&golden("gla-fla"));
    for (args, says) in [
        (vec!["import", &model], "a model text already"),
        (vec!["import", "gone"], "gone"),
        (vec!["import", &case, "--preset", "340m"], "--preset"),
        (vec!["import", &case, "--out", "/proc/no/place"], "/proc/no"),
    ] {
        let out = expect(2, &args);
        let stderr = text(&out.stderr);
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    }
}
