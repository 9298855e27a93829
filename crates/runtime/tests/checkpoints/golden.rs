//! The golden checkpoints, against facts taken from the files with other tools.

use std::path::PathBuf;

use fusec_runtime::{
    checkpoint::{Checkpoint, StoredDtype},
    golden::{GoldenCase, GoldenError},
};

use crate::write::safetensors;

pub fn case(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

#[test]
fn torch_archive_is_read_in_place() {
    let checkpoint = Checkpoint::open(case("rwkv6-native")).unwrap();
    assert_eq!(checkpoint.names().len(), 62);
    assert!(checkpoint.config().is_none());
    assert_eq!(checkpoint.skipped(), []);

    for (name, dtype, shape) in [
        ("emb.weight", StoredDtype::F32, &[256, 128][..]),
        ("blocks.0.att.time_maa_x", StoredDtype::BF16, &[1, 1, 128]),
        ("blocks.1.att.time_maa_w2", StoredDtype::BF16, &[5, 32, 128]),
        ("blocks.1.att.time_faaaa", StoredDtype::BF16, &[2, 64]),
        ("blocks.1.ffn.value.weight", StoredDtype::BF16, &[128, 448]),
    ] {
        let tensor = checkpoint.tensor(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((tensor.dtype, tensor.shape), (dtype, shape), "{name}");
    }

    // First, second, last element and sum, computed from the archive with Python's struct module.
    for (name, first, second, last, sum) in [
        (
            "emb.weight",
            -1.3203125,
            -1.0234375,
            -0.345703125,
            -113.79895926266909,
        ),
        (
            "head.weight",
            0.87109375,
            -0.0341796875,
            0.341796875,
            -93.49087393283844,
        ),
        (
            "blocks.1.ffn.value.weight",
            -0.0208740234375,
            0.051513671875,
            0.018310546875,
            7.447868123650551,
        ),
    ] {
        let values = checkpoint.read_f64(name).unwrap();
        assert_eq!(
            (values[0], values[1], values[values.len() - 1]),
            (first, second, last),
            "{name}"
        );
        assert!((values.iter().sum::<f64>() - sum).abs() < 1e-9, "{name}");
    }
}

#[test]
fn safetensors_agree_with_the_safetensors_crate() {
    let directory = case("mamba2-hf");
    let bytes = std::fs::read(directory.join("model.safetensors")).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let checkpoint = Checkpoint::open(&directory).unwrap();

    let mut names: Vec<_> = reference.names().into_iter().map(str::to_string).collect();
    names.sort();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), names);
    for name in &names {
        let (ours, theirs) = (
            checkpoint.tensor(name).unwrap(),
            reference.tensor(name).unwrap(),
        );
        assert_eq!(ours.shape, theirs.shape(), "{name}");
        assert_eq!(ours.bytes, theirs.data(), "{name}");
    }
    let conv = checkpoint
        .tensor("backbone.layers.1.mixer.conv1d.weight")
        .unwrap();
    assert_eq!(
        (conv.dtype, conv.shape),
        (StoredDtype::BF16, &[192, 1, 4][..])
    );
    assert_eq!(checkpoint.config().unwrap()["model_type"], "mamba2");
}

#[test]
fn recorded_outputs_come_with_their_bound() {
    for name in ["rwkv6-native", "mamba2-hf"] {
        let golden = GoldenCase::open(case(name)).unwrap();
        assert_eq!(golden.bound, 5e-5, "{name}");
        assert_eq!(
            (golden.batch, golden.length, golden.vocab),
            (2, 37, 256),
            "{name}"
        );
        assert_eq!(golden.logits.len(), 2 * 37 * 256);
        assert_eq!(golden.step_logits.len(), 2 * golden.steps * 256);
        assert!(golden.steps > 0 && golden.step_ids.len() == 2 * golden.steps);
        assert_eq!(
            GoldenCase::open(&golden.file).unwrap(),
            golden,
            "the file names the same case"
        );
    }
}

#[test]
fn a_case_without_a_usable_bound_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(
        case("mamba2-hf").join("golden.safetensors"),
        copy.path().join("golden.safetensors"),
    )
    .unwrap();
    assert!(
        matches!(GoldenCase::open(copy.path()), Err(GoldenError::File(_))),
        "no about.json"
    );
    for (about, got) in [
        ("{}", "null"),
        (r#"{"bound": "small"}"#, "\"small\""),
        (r#"{"bound": -1}"#, "-1"),
    ] {
        std::fs::write(copy.path().join("about.json"), about).unwrap();
        let message = GoldenCase::open(copy.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("'bound' is {got}")), "{message}");
    }
}

#[test]
fn a_record_with_a_tensor_that_would_be_passed_over_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::write(copy.path().join("about.json"), r#"{"bound": 1e-5}"#).unwrap();
    let header = r#"{"attention_mask":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let record = safetensors(header, &[1]);
    std::fs::write(copy.path().join("golden.safetensors"), record).unwrap();
    let message = GoldenCase::open(copy.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("'attention_mask' is none of input_ids, logits, step_ids, step_logits"),
        "{message}"
    );
}
