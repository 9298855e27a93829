//! Every layout that is accepted: shards, single files, views into shared storages, nesting.

use fusec_runtime::checkpoint::{Checkpoint, StoredDtype};

use crate::write::{Pickle, Tensor, floats, legacy_torch, safetensors, torch_archive};

fn counting(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

fn one_tensor(name: &str, values: &[f32]) -> Vec<u8> {
    let header = format!(
        r#"{{"{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        values.len(),
        4 * values.len()
    );
    safetensors(&header, &floats(values))
}

#[test]
fn shards_are_joined_and_what_the_index_leaves_out_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("a.safetensors"), one_tensor("x", &[1.0, 2.0])).unwrap();
    std::fs::write(path("b.safetensors"), {
        let header = r#"{"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
        safetensors(header, &floats(&[3.0, 4.0]))
    })
    .unwrap();
    std::fs::write(
        path("model.safetensors.index.json"),
        r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#,
    )
    .unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(checkpoint.read_f32("x").unwrap(), [1.0, 2.0]);
    assert_eq!(checkpoint.read_f32("y").unwrap(), [3.0]);
    assert_eq!(
        checkpoint
            .skipped()
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["z"]
    );
}

#[test]
fn a_directory_prefers_the_usual_names_and_never_guesses() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, value: f32| {
        std::fs::write(directory.path().join(name), one_tensor("x", &[value])).unwrap();
    };
    let read = || Checkpoint::open(directory.path()).map(|c| c.read_f32("x").unwrap()[0]);

    put("golden.safetensors", -1.0);
    assert!(
        read()
            .unwrap_err()
            .to_string()
            .contains("no checkpoint here")
    );
    put("only.safetensors", 1.0);
    assert_eq!(read().unwrap(), 1.0);
    put("other.safetensors", 2.0);
    let message = read().unwrap_err().to_string();
    assert!(
        message.contains("only.safetensors, other.safetensors"),
        "{message}"
    );
    put("model.safetensors", 3.0);
    assert_eq!(read().unwrap(), 3.0);
}

#[test]
fn views_into_one_storage_come_out_row_major() {
    let twelve = Tensor::PLAIN;
    let cases: [(&str, Tensor, &[usize], &[f32]); 8] = [
        (
            "plain",
            twelve,
            &[3, 4],
            &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.],
        ),
        (
            "transposed",
            Tensor {
                shape: &[4, 3],
                strides: &[1, 4],
                ..twelve
            },
            &[4, 3],
            &[0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.],
        ),
        (
            "column",
            Tensor {
                offset: 2,
                shape: &[3],
                strides: &[4],
                ..twelve
            },
            &[3],
            &[2., 6., 10.],
        ),
        (
            "repeated",
            Tensor {
                offset: 5,
                shape: &[2, 2],
                strides: &[0, 1],
                ..twelve
            },
            &[2, 2],
            &[5., 6., 5., 6.],
        ),
        (
            "scalar",
            Tensor {
                offset: 11,
                shape: &[],
                strides: &[],
                ..twelve
            },
            &[],
            &[11.],
        ),
        (
            "empty",
            Tensor {
                offset: 12,
                shape: &[0, 4],
                strides: &[4, 1],
                ..twelve
            },
            &[0, 4],
            &[],
        ),
        (
            "hollow",
            Tensor {
                shape: &[0, 4],
                strides: &[1, i64::MAX],
                ..twelve
            },
            &[0, 4],
            &[],
        ),
        // The stride of an extent of 1 may be anything.
        (
            "odd",
            Tensor {
                shape: &[1, 2],
                strides: &[i64::MAX, 1],
                ..twelve
            },
            &[1, 2],
            &[0., 1.],
        ),
    ];
    let tensors: Vec<_> = cases
        .iter()
        .map(|(name, tensor, ..)| (*name, *tensor))
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".pth").unwrap();
    let bytes = torch_archive(
        &Pickle::state_dict(&tensors),
        &[("data/0", floats(&counting(12)))],
    );
    std::fs::write(&file, bytes).unwrap();

    let checkpoint = Checkpoint::open(&file).unwrap();
    for (name, _, shape, values) in cases {
        assert_eq!(checkpoint.tensor(name).unwrap().shape, shape, "{name}");
        assert_eq!(checkpoint.read_f32(name).unwrap(), values, "{name}");
    }
}

#[test]
fn nested_dictionaries_flatten_and_other_leaves_are_listed() {
    let pickle = Pickle::default()
        .op(b"\x80\x02}(")
        .string("epoch")
        .integer(7)
        .string("model")
        // An OrderedDict with attributes, as Module.state_dict returns.
        .global("collections", "OrderedDict")
        .op(b")R(")
        .string("w")
        .global("torch._utils", "_rebuild_parameter")
        .op(b"(")
        .tensor(&Tensor::PLAIN)
        .op(b"\x88NtR")
        .op(b"u}(")
        .string("_metadata")
        .op(b"Nub")
        .string("list")
        .op(b"](")
        .tensor(&Tensor::PLAIN)
        .op(b"Ne")
        .op(b"u.");
    let file = tempfile::NamedTempFile::with_suffix(".pt").unwrap();
    std::fs::write(
        &file,
        torch_archive(&pickle, &[("data/0", floats(&counting(12)))]),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        ["list.0", "model.w"]
    );
    let skipped: Vec<_> = checkpoint
        .skipped()
        .iter()
        .map(|s| (s.name.as_str(), s.why.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [
            ("epoch", "an integer"),
            ("model", "attributes of a dictionary"),
            ("list.1", "None")
        ]
    );
}

#[test]
fn files_of_torch_before_zip_archives_are_read_in_place() {
    let turned = Tensor {
        shape: &[4, 3],
        strides: &[1, 4],
        ..Tensor::PLAIN
    };
    let other = Tensor {
        key: "94",
        numel: 2,
        shape: &[2],
        strides: &[1],
        ..Tensor::PLAIN
    };
    let saved = Pickle::default()
        .op(b"\x80\x02}(")
        .string("x")
        .legacy_tensor(&Tensor::PLAIN);
    let saved = saved
        .string("y")
        .legacy_tensor(&turned)
        .string("z")
        .legacy_tensor(&other);
    let saved = saved.op(b"u.");
    let storages = [("0", floats(&counting(12))), ("94", floats(&[5.0, 6.0]))];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pytorch_model.bin");
    std::fs::write(&path, legacy_torch(1001, true, &saved, &storages)).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x", "y", "z"]);
    assert_eq!(checkpoint.read_f32("x").unwrap(), counting(12));
    assert_eq!(checkpoint.read_f32("y").unwrap()[..3], [0.0, 4.0, 8.0]);
    assert_eq!(checkpoint.read_f32("z").unwrap(), [5.0, 6.0]);
}

#[test]
fn unsigned_integers_are_read() {
    let header = r#"{"a":{"dtype":"U16","shape":[2],"data_offsets":[0,4]},
        "b":{"dtype":"U32","shape":[1],"data_offsets":[4,8]},
        "c":{"dtype":"U64","shape":[2],"data_offsets":[8,24]}}"#;
    let mut data = [65535u16.to_le_bytes(), 7u16.to_le_bytes()].concat();
    data.extend(u32::MAX.to_le_bytes());
    data.extend([9u64, u64::MAX].map(u64::to_le_bytes).concat());
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    std::fs::write(&file, safetensors(header, &data)).unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(checkpoint.read_i64("a").unwrap(), [65535, 7]);
    assert_eq!(checkpoint.read_i64("b").unwrap(), [i64::from(u32::MAX)]);
    let beyond = checkpoint.read_i64("c").unwrap_err().to_string();
    assert!(
        beyond.contains("the integer 18446744073709551615"),
        "{beyond}"
    );
}

#[test]
fn conversions_are_exact_or_refused() {
    let integers = [0i64, -3, (1 << 24) + 1];
    let data = integers
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .chain(*b"\x00\x3c\x80\x3f")
        .collect::<Vec<_>>();
    let header = r#"{"i":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},
        "h":{"dtype":"F16","shape":[1],"data_offsets":[24,26]},
        "b":{"dtype":"BF16","shape":[1],"data_offsets":[26,28]}}"#;
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    std::fs::write(&file, safetensors(header, &data)).unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(checkpoint.tensor("i").unwrap().dtype, StoredDtype::I64);
    assert_eq!(checkpoint.read_i64("i").unwrap(), integers);
    assert_eq!(checkpoint.read_f64("i").unwrap(), [0.0, -3.0, 16777217.0]);
    assert_eq!(checkpoint.read_f32("h").unwrap(), [1.0]);
    assert_eq!(checkpoint.read_f32("b").unwrap(), [1.0]);
    let refused = |message: String, part: &str| assert!(message.contains(part), "{message}");
    refused(
        checkpoint.read_f32("i").unwrap_err().to_string(),
        "16777217",
    );
    refused(
        checkpoint.read_i64("h").unwrap_err().to_string(),
        "'h' (F16) cannot be read as i64",
    );
    refused(
        checkpoint.read_f32("ii").unwrap_err().to_string(),
        "no tensor 'ii' (nearest name: 'i')",
    );
}

#[test]
fn a_safetensors_file_needs_no_ending_whatever_the_length_of_its_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    // The first bytes are the length; 0x0280 begins as a pickle of protocol 2 does.
    for length in [0x60usize, 0x80, 0x180, 0x280, 0x480] {
        let header = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let padding = " ".repeat(length - header.len());
        let bytes = safetensors(&format!("{header}{padding}"), &floats(&[1.0, 2.0]));
        assert_eq!(bytes[..8], (length as u64).to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.read_f32("x").unwrap(), [1.0, 2.0]);
    }
}
