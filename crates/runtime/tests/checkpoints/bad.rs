//! Files that must be refused, each with a message that names the file and the thing.

use std::path::Path;

use fusec_runtime::checkpoint::Checkpoint;
use proptest::prelude::*;
use zip::CompressionMethod;

use crate::write::{Pickle, Tensor, archive, floats, legacy_torch, safetensors, torch_archive};

/// Opens `bytes` as a file with that ending; the message must name the file.
fn refusal(suffix: &str, bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::with_suffix(suffix).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let message = Checkpoint::open(&file).unwrap_err().to_string();
    assert!(
        message.starts_with(&file.path().display().to_string()),
        "{message}"
    );
    message
}

fn expect(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "expected '{part}' in: {message}");
    }
}

#[test]
fn safetensors_headers() {
    let with = |header: &str| safetensors(header, &[0; 8]);
    let x = |dtype: &str, shape: &str, offsets: &str| {
        with(&format!(
            r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
        ))
    };
    for (bytes, parts) in [
        (vec![1, 2, 3], &["truncated", "header length", "has 3"][..]),
        (
            u64::MAX.to_le_bytes().to_vec(),
            &["the header is 18446744073709551615 bytes", "limit"],
        ),
        (
            100u64.to_le_bytes().to_vec(),
            &["truncated: the header needs 108 bytes"],
        ),
        (with("{"), &["the header is not valid", "EOF"]),
        (with("[]"), &["the header is not valid"]),
        (with("{} {}"), &["the header is not valid", "trailing"]),
        (with(&"[".repeat(100_000)), &["the header is not valid"]),
        (with(r#"{"x":3}"#), &["'x'", "'dtype'"]),
        (x("F4", "[2]", "[0,8]"), &["'x' has dtype F4", "supported"]),
        (x("F32", "[-2]", "[0,8]"), &["'x'", "'shape'"]),
        (x("F32", "[2]", "[0]"), &["'x'", "'data_offsets'"]),
        (
            x("F32", "[4]", "[0,16]"),
            &["'x' has bytes 0..16, outside the 8 bytes"],
        ),
        (x("F32", "[2]", "[8,0]"), &["'x' has bytes 8..0"]),
        (
            x("F32", "[3]", "[0,8]"),
            &["'x' of shape [3] and dtype F32 does not take 8 bytes"],
        ),
        (
            x("F32", "[4294967296,4294967296,2]", "[0,8]"),
            &["'x' of shape"],
        ),
        (
            x(
                "F32",
                "[0,9223372036854775807,9223372036854775807]",
                "[0,0]",
            ),
            &["'x' of shape"],
        ),
        (
            x("F32", "[1]", "[0,4]"),
            &["bytes 4..8 of the data belong to no tensor"],
        ),
        (
            with(
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            ),
            &["'y' starts at byte 4, inside tensor 'x' which ends at 8"],
        ),
        (
            with(
                r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            ),
            &["'x' appears twice"],
        ),
    ] {
        expect(&refusal(".safetensors", &bytes), parts);
    }
}

#[test]
fn pickles_that_would_do_more_than_build_tensors() {
    let start = || Pickle::default().op(b"\x80\x02");
    for (pickle, part) in [
        (
            start()
                .global("os", "system")
                .op(b"(")
                .string("true")
                .op(b"tR."),
            "pickle names the global os.system; only tensors may be built",
        ),
        (
            start().global("builtins", "eval").op(b"0}."),
            "builtins.eval",
        ),
        (
            Pickle::default().op(b"\x80\x04\x8c\x05posix\x8c\x06system\x93."),
            "pickle names the global posix.system",
        ),
        // OBJ, INST, NEWOBJ, EXT1, PERSID
        (start().op(b"(o."), "opcode 0x6f at byte 3"),
        (start().op(b"(ios\nsystem\n."), "opcode 0x69"),
        (
            start().global("collections", "OrderedDict").op(b")\x81."),
            "opcode 0x81",
        ),
        (start().op(b"\x82\x01."), "opcode 0x82"),
        (start().op(b"Pid\n."), "opcode 0x50"),
        (
            start().global("torch", "FloatStorage").op(b")R."),
            "call of Storage(F32)",
        ),
        (
            start().op(b"K\x01)R."),
            "call of something that is not a global",
        ),
        (start().op(b"}N}b."), "damaged pickle"),
        (start().op(b"K\x01."), "holds an integer at the top"),
        (start().op(b"}h\x05."), "nothing was remembered under 5"),
        (start().op(b"}"), "ends at byte 3"),
        (start().op(b"X\xff\xff\xff\xff"), "ends at byte"),
        (start().op(b"."), "the stack is empty"),
        (start().op(b"}(K\x01s."), "the stack is empty"),
        (start().op(b"}(K\x01u."), "a key without a value"),
        (Pickle::default().op(b"\x80\x09}."), "protocol 9"),
        // A dictionary inside itself.
        (
            start().op(b"}q\x00(X\x01\x00\x00\x00ah\x00u."),
            "levels of nesting",
        ),
    ] {
        let message = refusal(
            ".pth",
            &torch_archive(&pickle, &[("data/0", floats(&[0.0; 12]))]),
        );
        expect(&message, &[part]);
    }
}

/// Small files that unfold to more than any memory: each is refused at a count that is said. Each limit on
/// its own is in `limits`.
#[test]
fn bombs_are_refused_at_a_limit() {
    let start = || Pickle::default().op(b"\x80\x02");
    // Each level holds the one below twice: 2^40 paths in 500 bytes.
    let doubled = |leaf: &[u8]| {
        let mut pickle = start().op(leaf).op(b"q\x00");
        for level in 0..40u8 {
            pickle = pickle.op(&[b'h', level, b'h', level, 0x86, b'q', level + 1]);
        }
        pickle.op(b"0}(X\x01\x00\x00\x00ah\x28u.")
    };
    // As wide as deep: 16 of 16 of 16 of 16 of 16.
    let wide = || {
        let mut pickle = start().op(b")q\x00");
        for level in 0..5u8 {
            let below = [b'h', level].repeat(16);
            pickle = pickle.op(b"(").op(&below).op(&[b't', b'q', level + 1]);
        }
        pickle.op(b"0}(X\x00\x00\x00\x00h\x05u.")
    };
    for (what, pickle, part) in [
        ("tuples", doubled(b")"), "bytes in all names"),
        ("tensors", doubled(b"N"), "bytes in all names"),
        (
            "paths",
            wide(),
            "more than 1048576 values, nested ones unfolded",
        ),
        (
            "name",
            start().op(b"}(").string(&"n".repeat(1 << 20)).op(b"Nu."),
            "more than 4096 bytes in one name",
        ),
        (
            "names",
            start()
                .op(b"}(")
                .string(&"n".repeat(4000))
                .op(b"](")
                .op(&b"N".repeat(20_000))
                .op(b"eu."),
            "more than 67108864 bytes in all names",
        ),
    ] {
        let message = refusal(
            ".pth",
            &torch_archive(&pickle, &[("data/0", floats(&[0.0; 12]))]),
        );
        assert!(message.contains(part), "{what}: {message}");
    }
}

#[test]
fn files_of_torch_before_zip_archives() {
    let saved = || {
        let start = Pickle::default().op(b"\x80\x02}(").string("x");
        start.legacy_tensor(&Tensor::PLAIN).op(b"u.")
    };
    let data = || ("0", floats(&[1.0; 12]));
    let whole = legacy_torch(1001, true, &saved(), &[data()]);
    for (bytes, parts) in [
        (
            legacy_torch(1002, true, &saved(), &[data()]),
            &["version of the format is not 1001"][..],
        ),
        (
            legacy_torch(1001, false, &saved(), &[data()]),
            &["not little-endian"],
        ),
        (
            whole[..whole.len() - 4].to_vec(),
            &["truncated: storage '0' needs"],
        ),
        (
            whole[..whole.len() - 50].to_vec(),
            &["truncated: storage '0' needs"],
        ),
        (whole[..60].to_vec(), &["pickle ends at byte 60"]),
        (
            legacy_torch(1001, true, &saved(), &[]),
            &["the data of storage '0' are not in the file"],
        ),
        (
            legacy_torch(1001, true, &saved(), &[data(), ("1", vec![0; 8])]),
            &["no tensor says what storage '1' holds"],
        ),
        (
            legacy_torch(1001, true, &saved(), &[("0", floats(&[1.0; 3]))]),
            &["'x'", "should have 12 elements of F32, the file has 3"],
        ),
        (
            legacy_torch(1001, true, &Pickle::default().op(b"\x80\x02K\x01."), &[]),
            &["holds an integer at the top"],
        ),
    ] {
        expect(&refusal(".bin", &bytes), parts);
    }
}

#[test]
fn torch_tensors_that_leave_their_storage() {
    let plain = Tensor::PLAIN;
    for (tensor, parts) in [
        (
            Tensor { offset: 1, ..plain },
            &["'x' has bytes 4..52, outside the 48 bytes"][..],
        ),
        (
            Tensor {
                shape: &[4, 4],
                ..plain
            },
            &["'x' has bytes 0..64"],
        ),
        (
            Tensor {
                strides: &[i64::MAX, 1],
                ..plain
            },
            &["'x' has bytes 0.."],
        ),
        (
            Tensor {
                offset: i64::MAX,
                ..plain
            },
            &["'x' has bytes"],
        ),
        (
            Tensor {
                offset: -1,
                ..plain
            },
            &["'x'", "offset has the value -1"],
        ),
        (
            Tensor {
                strides: &[-4, 1],
                ..plain
            },
            &["'x'", "strides has the value -4"],
        ),
        (
            Tensor {
                shape: &[3, -4],
                ..plain
            },
            &["'x'", "shape has the value -4"],
        ),
        (
            Tensor {
                shape: &[3],
                ..plain
            },
            &["'x'", "differ in length"],
        ),
        (
            Tensor {
                shape: &[i64::MAX, i64::MAX],
                strides: &[0, 0],
                ..plain
            },
            &["'x'", "overflows"],
        ),
        (
            Tensor {
                shape: &[1 << 20, 1 << 20],
                strides: &[0, 0],
                ..plain
            },
            &["'x'", "repeats"],
        ),
        (
            Tensor { numel: 13, ..plain },
            &["'x'", "storage '0' should have 13 elements of F32"],
        ),
        (Tensor { numel: -1, ..plain }, &["'x'", "storage '0'"]),
        (
            Tensor {
                storage: "DoubleStorage",
                ..plain
            },
            &["'x'", "12 elements of F64, the file has 6"],
        ),
        (
            Tensor { key: "7", ..plain },
            &["'model/data/7'", "is not in the archive"],
        ),
        (
            Tensor {
                storage: "ComplexFloatStorage",
                ..plain
            },
            &["torch.ComplexFloatStorage"],
        ),
    ] {
        let pickle = Pickle::state_dict(&[("x", tensor)]);
        expect(
            &refusal(
                ".pth",
                &torch_archive(&pickle, &[("data/0", floats(&[0.0; 12]))]),
            ),
            parts,
        );
    }
}

#[test]
fn containers() {
    let pickle = || Pickle::state_dict(&[("x", Tensor::PLAIN)]);
    let good = torch_archive(&pickle(), &[("data/0", floats(&[0.0; 12]))]);
    let zip = |entries: &[(&str, Vec<u8>)]| archive(entries, CompressionMethod::Stored);
    for (bytes, parts) in [
        (
            good[..good.len() / 2].to_vec(),
            &["damaged zip archive", "truncated?"][..],
        ),
        (
            zip(&[("readme", vec![])]),
            &["'data.pkl'", "is not in the archive"],
        ),
        (
            zip(&[("data.pkl", vec![]), ("byteorder", b"big".to_vec())]),
            &["byteorder", "little-endian"],
        ),
        (
            vec![0x80, 2, 0x8a, 10],
            &["a pickle that torch.save did not write"],
        ),
        (
            b"hello".to_vec(),
            &["neither a safetensors file nor a zip archive"],
        ),
        (vec![], &["neither"]),
    ] {
        expect(&refusal(".pth", &bytes), parts);
    }
    let compressed = {
        let pickle = pickle();
        let stored = torch_archive(&pickle, &[("data/0", floats(&[0.0; 12]))]);
        let mut inner = zip::ZipArchive::new(std::io::Cursor::new(stored)).unwrap();
        let entries: Vec<_> = ["data.pkl", "data/0"]
            .map(|name| {
                let mut content = Vec::new();
                let mut entry = inner.by_name(&format!("model/{name}")).unwrap();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                (name, content)
            })
            .into();
        archive(&entries, CompressionMethod::Deflated)
    };
    expect(
        &refusal(".pth", &compressed),
        &["'model/data/0'", "compressed"],
    );
}

#[test]
fn shard_indexes() {
    for (index, parts) in [
        ("{", &["the shard index is not valid"][..]),
        ("[]", &["not an object"]),
        ("{}", &["weight_map"]),
        (r#"{"weight_map": {"x": 1}}"#, &["'x'", "not a string"]),
        (
            r#"{"weight_map": {"x": "b.safetensors"}}"#,
            &["shard 'b.safetensors'", "'x'", "is missing"],
        ),
        (
            r#"{"weight_map": {"x": "../a.safetensors"}}"#,
            &["'../a.safetensors'", "plain file name"],
        ),
        (
            r#"{"weight_map": {"x": "/a.safetensors"}}"#,
            &["'/a.safetensors'", "plain file name"],
        ),
        (
            r#"{"weight_map": {"y": "a.safetensors"}}"#,
            &["a.safetensors: tensor 'y' is missing"],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let header = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        std::fs::write(
            directory.path().join("a.safetensors"),
            safetensors(header, &[0; 4]),
        )
        .unwrap();
        std::fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
        let message = Checkpoint::open(directory.path()).unwrap_err().to_string();
        assert!(
            message.contains(&directory.path().display().to_string()),
            "{message}"
        );
        expect(&message, parts);
    }
    let nowhere = Checkpoint::open("no/such/file.pth")
        .unwrap_err()
        .to_string();
    expect(&nowhere, &["no/such/file.pth", "cannot open"]);
}

/// Opens whatever the bytes have become; if they open, everything in them must be readable.
fn survive(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(path) {
        for name in checkpoint.names() {
            let view = checkpoint.tensor(name).expect("a listed tensor is there");
            // Reading may be refused (an integer beyond f32), never panic.
            let read = checkpoint.read_f32(name);
            assert!(read.is_ok_and(|v| v.len() == view.numel()) || !view.dtype.is_float());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_bytes_never_panic(
        format in 0..3,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (suffix, mut bytes) = if format == 2 {
            let saved = Pickle::default().op(b"\x80\x02}(").string("x");
            let saved = saved.legacy_tensor(&Tensor::PLAIN).op(b"u.");
            (".bin", legacy_torch(1001, true, &saved, &[("0", floats(&[1.0; 12]))]))
        } else if format == 1 {
            let tensors = [
                ("x", Tensor::PLAIN),
                ("y", Tensor { shape: &[4, 3], strides: &[1, 4], ..Tensor::PLAIN }),
            ];
            (".pth", torch_archive(&Pickle::state_dict(&tensors), &[("data/0", floats(&[1.0; 12]))]))
        } else {
            let header = r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"y":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}"#;
            (".safetensors", safetensors(header, &[7; 14]))
        };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = tempfile::NamedTempFile::with_suffix(suffix).unwrap();
        survive(file.path(), &bytes);
    }
}
