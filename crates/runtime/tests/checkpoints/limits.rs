//! Every limit of what is read of a checkpoint: so much is read, one more is refused by that limit.

use std::path::Path;

use fusec_runtime::checkpoint::Checkpoint;
use zip::CompressionMethod;

use crate::write::{Pickle, Tensor, archive, floats, torch_archive};

/// What is counted, the most of it, how its limit is said, and a file with exactly so much.
type Limit = (&'static str, usize, &'static str, fn(usize) -> Vec<u8>);

fn start() -> Pickle {
    Pickle::default().op(b"\x80\x02")
}

fn saved(pickle: Pickle) -> Vec<u8> {
    torch_archive(&pickle, &[("data/0", floats(&[0.0; 12]))])
}

/// A dictionary of one entry: a list of `items`.
fn list(items: &[u8]) -> Pickle {
    let pickle = start().op(b"}(").string("a");
    pickle.op(b"](").op(items).op(b"eu.")
}

/// A file with one tensor, called `name`.
fn called(name: &str, tensor: Tensor) -> Vec<u8> {
    let storage = format!("data/{}", tensor.key);
    let pickle = Pickle::state_dict(&[(name, tensor)]);
    torch_archive(&pickle, &[(&storage, floats(&[0.0; 12]))])
}

const LIMITS: &[Limit] = &[
    ("instructions", 1 << 24, "16777216 instructions", |n| {
        // One for the protocol, one for the dictionary, one for the end; a second protocol where the
        // rest is odd.
        let odd = [0x80, 2].repeat((n - 3) % 2);
        saved(start().op(&odd).op(&b"N0".repeat((n - 3) / 2)).op(b"}."))
    }),
    (
        "values on the stack",
        1 << 21,
        "2097152 values on its stack",
        |n| saved(start().op(&b"N".repeat(n - 1)).op(b"}.")),
    ),
    ("open marks", 1 << 21, "2097152 open marks", |n| {
        saved(start().op(&b"(".repeat(n)).op(b"}."))
    }),
    ("objects", 1 << 21, "2097152 objects", |n| {
        saved(start().op(&b")0".repeat(n - 1)).op(b"}."))
    }),
    ("memo entries", 1 << 21, "2097152 memo entries", |n| {
        saved(start().op(b"}").op(&b"\x94".repeat(n)).op(b"."))
    }),
    (
        "bytes of a pickle",
        32 << 20,
        "limit of 33554432 bytes",
        |n| {
            // What follows its end is not looked at.
            let pickle = [b"\x80\x02}.", &vec![0; n - 4][..]].concat();
            archive(&[("data.pkl", pickle)], CompressionMethod::Deflated)
        },
    ),
    (
        "values, unfolded",
        1 << 20,
        "1048576 values, nested ones unfolded",
        // The dictionary and the list are two.
        |n| saved(list(&b"N".repeat(n - 2))),
    ),
    ("levels of nesting", 64, "64 levels of nesting", |n| {
        let lists = start().op(b"}(").string("a").op(&b"]".repeat(n));
        saved(lists.op(&b"a".repeat(n - 1)).op(b"u."))
    }),
    ("bytes of a name", 4096, "4096 bytes in one name", |n| {
        called(&"n".repeat(n), Tensor::PLAIN)
    }),
    (
        "bytes of all names",
        64 << 20,
        "67108864 bytes in all names",
        |n| {
            // The longest name, remembered and used again, and one for the rest.
            let (whole, rest) = (n / 4096, n % 4096);
            let names = start().string(&"n".repeat(4096)).op(b"q\x000}(");
            let names = names.op(&b"h\x00N".repeat(whole));
            let names = match rest {
                0 => names,
                rest => names.string(&"r".repeat(rest)).op(b"N"),
            };
            saved(names.op(b"u."))
        },
    ),
    (
        "bytes of a storage's key",
        256,
        "256 bytes in the key of a storage",
        |n| {
            let key: &'static str = "k".repeat(n).leak();
            called(
                "x",
                Tensor {
                    key,
                    ..Tensor::PLAIN
                },
            )
        },
    ),
    ("dimensions", 64, "64 dimensions in one tensor", |n| {
        let ones: &'static [i64] = vec![1; n].leak();
        called(
            "x",
            Tensor {
                shape: ones,
                strides: ones,
                ..Tensor::PLAIN
            },
        )
    }),
    (
        "elements that are repeated",
        1 << 28,
        "more than 268435456",
        |n| {
            let shape: &'static [i64] = vec![n as i64].leak();
            called(
                "x",
                Tensor {
                    shape,
                    strides: &[0],
                    ..Tensor::PLAIN
                },
            )
        },
    ),
];

fn opened(path: &Path) -> Result<Checkpoint, String> {
    Checkpoint::open(path).map_err(|error| error.to_string())
}

#[test]
fn torch_files_are_read_up_to_each_limit_and_refused_beyond() {
    for (what, limit, says, file) in LIMITS {
        let path = tempfile::NamedTempFile::with_suffix(".pth").unwrap();
        std::fs::write(&path, file(*limit)).unwrap();
        if let Err(refused) = opened(path.path()) {
            panic!("{limit} {what}: {refused}");
        }
        std::fs::write(&path, file(limit + 1)).unwrap();
        let refused = opened(path.path()).expect_err(what);
        assert!(refused.contains(says), "{what}: {refused}");
        let named = path.path().display().to_string();
        assert!(refused.starts_with(&named), "{what}: {refused}");
    }
}

/// Files whose length is looked at first: at the limit they are read, and found to be empty.
#[test]
fn lengths_of_files_are_accepted_up_to_their_limit() {
    let holes = |path: &Path, length: u64, head: &[u8]| {
        // Nothing but zeros behind the head, which take no room.
        std::fs::write(path, head).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(length).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let json = 256u64 << 20;
    for name in ["config.json", "model.safetensors.index.json"] {
        let path = dir.path().join(name);
        holes(&path, json, b"");
        let refused = opened(dir.path()).expect_err(name);
        assert!(refused.contains("not valid"), "{refused}");
        holes(&path, json + 1, b"");
        let refused = opened(dir.path()).expect_err(name);
        let says = refused.contains(name) && refused.contains("268435456");
        assert!(says, "{refused}");
        std::fs::remove_file(&path).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let header = 100_000_000u64;
    for (length, says) in [
        // As long as it says, and no JSON.
        (header, "the header is not valid"),
        (header + 1, "the header is 100000001 bytes"),
    ] {
        holes(&path, length + 8, &length.to_le_bytes());
        let refused = opened(&path).expect_err("zeros");
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn json_is_nested_up_to_the_limit_of_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let config = |levels: usize| {
        let text = format!(
            "{{\"a\":{}{}}}",
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        );
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        opened(dir.path()).expect_err("there is no weight")
    };
    let accepted = config(127);
    assert!(!accepted.contains("recursion"), "{accepted}");
    let refused = config(128);
    assert!(
        refused.contains("config.json is not valid") && refused.contains("recursion limit"),
        "{refused}"
    );
}
