//! Where the corpus comes from: small inputs of every kind, sound and not, written by
//! `cargo test --test fuzz -- --ignored write_the_corpus`. What else is found is added by hand.

use fusec_codegen::{Manifest, Planned, generate};
use fusec_fuse::{Device, Plan, Storage};
use fusec_runtime::bench::Spread;
use fusec_runtime::executor::HostState;
use fusec_runtime::tune::{Bounds, Timer};
use zip::CompressionMethod;

use crate::beside::{indices, trainings, vocabularies};
use crate::entries;
use crate::root;
use crate::tuning;
use crate::write::{Pickle, Tensor, archive, floats, legacy_torch, safetensors, torch_archive};

/// A seed: its name and its bytes.
pub type Seed = (String, Vec<u8>);

pub fn numbered(name: &str, all: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seed> {
    let all = all.into_iter().enumerate();
    all.map(|(n, bytes)| (format!("{name}-{n:02}"), bytes))
        .collect()
}

/// A text with each of these replacements alone.
pub fn edits(name: &str, text: &str, edits: &[(&str, &str)]) -> Vec<Seed> {
    let edited = edits.iter().map(|(from, to)| {
        assert!(text.contains(from), "{name} has no `{from}`");
        text.replacen(from, to, 1).into_bytes()
    });
    numbered(name, edited)
}

fn models() -> Vec<Seed> {
    let small = entries::SMALL;
    let deep =
        |open: &str, close: &str, n: usize| format!("{}x{}", open.repeat(n), close.repeat(n));
    let long = |unit: &str, n: usize| vec![unit; n].join(" + ");
    let mut seeds = vec![("small".to_owned(), small.as_bytes().to_vec())];
    let flow = |line: &str| small.replace("  u = silu", &format!("  z = {line}\n  u = silu"));
    let lines = [
        "softmax(x, C)",
        "layer_norm(x, C, eps = 1e-5)",
        "x[C = 0]",
        "where(x < 0.5, x, -x)",
        "x / 0",
        "cumsum(x, C)",
        "x @ w @ w",
        "sum(x, T)",
        "shift(shift(x))",
        "delay(x, 4097)",
        "rename(x, C -> V)",
        "max_over(x, C) + index(C)",
        "2 ** 2 ** 2 ** x",
        "position() * x",
        "average(x)",
        "free(x)",
        "not x and x",
        "1e999 * x",
        "x x",
        "\u{0}",
    ];
    seeds.extend(numbered("line", lines.map(|line| flow(line).into_bytes())));
    for (name, line) in [
        ("deep-brackets", deep("(", ")", 90)),
        ("too-deep-brackets", deep("(", ")", 2000)),
        ("deep-calls", deep("tanh(", ")", 90)),
        ("signs", format!("{}x", "-".repeat(3000))),
        ("powers", format!("{}x", "2 ** ".repeat(900))),
        ("terms", long("x", 900)),
        ("too-many-terms", long("x", 5000)),
        ("long-name", "y".repeat(5000)),
    ] {
        seeds.push((name.into(), flow(&line).into_bytes()));
    }
    for (name, text) in [
        ("open-arrays", "a = [".repeat(3000)),
        ("open-tables", "[a.b]\nc = {".repeat(500)),
        ("dotted-key", format!("{} = 1\n", vec!["a"; 3000].join("."))),
        (
            "dotted-header",
            format!("[{}]\n", vec!["a"; 3000].join(".")),
        ),
        (
            "one-long-line",
            format!("name = \"{}\"", "m".repeat(70_000)),
        ),
        (
            "many-keys",
            (0..3000).map(|n| format!("k{n} = 1\n")).collect(),
        ),
        (
            "many-tables",
            (0..1500).map(|n| format!("[t{n}]\n")).collect(),
        ),
        ("open-string", "name = \"\"\"".into()),
        ("nothing", String::new()),
    ] {
        seeds.push((name.into(), text.into_bytes()));
    }
    seeds.extend(edits(
        "small",
        small,
        &[
            ("C = 8", "C = 0"),
            ("C = 8", "C = 1099511627777"),
            ("C = 8", "C = \"C\""),
            ("C = 8", "C = \"K * 1e300\""),
            ("K = 3", "K = 65"),
            ("[axes]", "[axes"),
            ("[axes]", "include = [\"../../etc/passwd\"]\n[axes]"),
            ("[axes]", "include = [\"small.toml\"]\n[axes]"),
            ("emb = {", "free = {"),
            ("S[C]\"", "S[C] = 1e39\""),
            ("S = a * S", "S = a * S * S"),
            ("return y @ emb", "return"),
            (
                "return y @ emb",
                "repeat l in 4097 { x = x }\n  return x @ emb",
            ),
            (
                "return y @ emb",
                "if true { x = x } else { x = u }\n  return x @ emb",
            ),
            ("\"V, C\" }", "\"V, C\", init = \"normal(-1)\" }"),
            (
                "\"V, C\" }",
                "\"V, C\", from = \"a.{l}.b\", load = \"t(0, 9)\" }",
            ),
            ("name = \"small\"", "name = 1"),
            ("[model]", "[model]\nfuse = [\"x\", \"y\"]\nsplit = [\"u\"]"),
        ],
    ));
    seeds
}

/// The steps of every recurrence of the repository.
fn steps() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for folder in ["models", "models/blocks", "docs/examples", "bench/cases"] {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
        let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.sort();
        for path in paths
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        {
            let text = std::fs::read_to_string(path).expect("a text");
            let table: toml::Table = toml::from_str(&text).expect("TOML");
            let recurrences = table.get("recurrence").and_then(|r| r.as_table());
            let stem = path.file_stem().expect("a name").to_string_lossy();
            for (name, recurrence) in recurrences.into_iter().flatten() {
                let step = recurrence.get("step").and_then(|step| step.as_str());
                let step = step.unwrap_or_default().as_bytes().to_vec();
                seeds.push((format!("{stem}-{name}"), step));
            }
        }
    }
    let own = [
        "S = d * S + k * v\ny = sum(S * k, j)\nm = max(m, x)",
        "m = m * x\nS = S * m\ny = v",
        "t = sum(S * k, j)\nS = d * S + k * (v - t)\ny = t\nm = x",
        "S = where(x < 0, S, k * v)\ny = mean(S, j)\nm = abs(m)",
        "S = S / (1 + max_over(abs(S), j))\ny = sum(S, j)\nm = m",
        "y = v\ny = v\nS = S\nm = m",
        "S = S",
        "",
    ];
    seeds.extend(numbered("own", own.map(|step| step.as_bytes().to_vec())));
    for n in [3, 30, 1001] {
        let chain = vec!["S"; n].join(" * ");
        let step = format!("S = {chain}\ny = sum(S * k, j)\nm = m");
        seeds.push((format!("chain-{n}"), step.into_bytes()));
    }
    seeds
}

fn tensors() -> Vec<Seed> {
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        safetensors(
            &format!("{{{}}}", entry("x", dtype, shape, offsets)),
            &[0; 8],
        )
    };
    let mut seeds = numbered(
        "one",
        [
            one("F32", "[2]", "[0,8]"),
            one("BF16", "[2,2]", "[0,8]"),
            one("F16", "[4]", "[0,8]"),
            one("F64", "[]", "[0,8]"),
            one("I64", "[1]", "[0,8]"),
            one("U8", "[8]", "[0,8]"),
            one("BOOL", "[2,2,2]", "[0,8]"),
            one("F8_E4M3", "[8]", "[0,8]"),
            one("F32", "[2]", "[8,0]"),
            one("F32", "[0]", "[0,0]"),
            one("F32", "[4294967296,4294967296,4294967296]", "[0,8]"),
            one("F32", "[18446744073709551615]", "[0,8]"),
            one("F32", "[-1]", "[0,8]"),
            one("F32", "[2.0]", "[0,8]"),
            one("F32", "[2]", "[0,8,16]"),
            one("F32", "null", "[0,8]"),
            one("", "[2]", "[0,8]"),
        ],
    );
    let two = |a: &str, b: &str| safetensors(&format!("{{{a},{b}}}"), &[1; 16]);
    let first = entry("x", "F32", "[2]", "[0,8]");
    seeds.extend(numbered(
        "two",
        [
            two(&first, &entry("y", "F32", "[2]", "[8,16]")),
            two(&first, &entry("x", "F32", "[2]", "[8,16]")),
            two(&first, &entry("y", "F32", "[2]", "[4,12]")),
            two(&first, &entry("../../y", "F32", "[2]", "[8,16]")),
            two(&first, "\"__metadata__\":{\"format\":\"pt\"}"),
            two(&first, "\"__metadata__\":[[[[]]]]"),
        ],
    ));
    let many: Vec<String> = (0..200)
        .map(|n| {
            entry(
                &format!("t.{n}"),
                "F32",
                "[1]",
                &format!("[{},{}]", 4 * n, 4 * n + 4),
            )
        })
        .collect();
    let many = safetensors(&format!("{{{}}}", many.join(",")), &[0; 800]);
    seeds.push(("many".into(), many));
    seeds.push(("deep".into(), safetensors(&"[".repeat(5000), &[])));
    seeds.push(("long-name".into(), {
        let name = "n".repeat(20_000);
        safetensors(
            &format!("{{{}}}", entry(&name, "F4", "[2]", "[0,8]")),
            &[0; 8],
        )
    }));
    seeds.push(("no-header".into(), vec![1, 2, 3]));
    seeds.push(("huge-header".into(), u64::MAX.to_le_bytes().to_vec()));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    seeds.push(("lfs-pointer".into(), pointer.as_bytes().to_vec()));
    seeds
}

fn pickles() -> Vec<Seed> {
    let plain = Tensor::PLAIN;
    let data = || vec![("data/0", floats(&[0.5; 12]))];
    let saved = |tensor: Tensor| torch_archive(&Pickle::state_dict(&[("a", tensor)]), &data());
    let pickled = |pickle: Pickle| torch_archive(&pickle, &data());
    let start = || Pickle::default().op(b"\x80\x02");
    let mut seeds = numbered(
        "tensor",
        [
            saved(plain),
            saved(Tensor {
                storage: "HalfStorage",
                numel: 24,
                shape: &[4, 6],
                strides: &[6, 1],
                ..plain
            }),
            saved(Tensor {
                storage: "BFloat16Storage",
                numel: 24,
                shape: &[24],
                strides: &[1],
                ..plain
            }),
            saved(Tensor {
                storage: "LongStorage",
                numel: 6,
                shape: &[6],
                strides: &[1],
                ..plain
            }),
            saved(Tensor {
                storage: "QInt8Storage",
                ..plain
            }),
            saved(Tensor {
                strides: &[1, 3],
                ..plain
            }),
            saved(Tensor {
                strides: &[0, 0],
                ..plain
            }),
            saved(Tensor {
                strides: &[4, -1],
                ..plain
            }),
            saved(Tensor {
                strides: &[4],
                ..plain
            }),
            saved(Tensor {
                offset: 11,
                ..plain
            }),
            saved(Tensor {
                offset: -1,
                ..plain
            }),
            saved(Tensor {
                offset: i64::MAX,
                ..plain
            }),
            saved(Tensor {
                shape: &[1 << 40, 1 << 40],
                ..plain
            }),
            saved(Tensor {
                shape: &[i64::MAX, i64::MAX],
                strides: &[i64::MAX, 1],
                ..plain
            }),
            saved(Tensor {
                shape: &[],
                strides: &[],
                ..plain
            }),
            saved(Tensor {
                shape: &[0, 4],
                ..plain
            }),
            saved(Tensor {
                numel: -12,
                ..plain
            }),
            saved(Tensor {
                numel: 1 << 60,
                ..plain
            }),
            saved(Tensor {
                key: "../../0",
                ..plain
            }),
            saved(Tensor { key: "9", ..plain }),
            torch_archive(
                &Pickle::state_dict(&[("a", plain), ("b", plain), ("a", plain)]),
                &data(),
            ),
        ],
    );
    // A memo that doubles, thirty times over.
    let doubled = (0..30u8).fold(start().op(b"]q\x00"), |p, n| {
        p.op(&[b']', b'q', n + 1, b'(', b'h', n, b'h', n, b'e'])
    });
    seeds.extend(numbered(
        "machine",
        [
            pickled(doubled.op(b".")),
            pickled(start().op(&b"(".repeat(5000)).op(b".")),
            pickled(start().op(&b"]".repeat(5000)).op(b".")),
            pickled(start().op(&b")\x85".repeat(3000)).op(b".")),
            pickled(start().op(&b"2".repeat(100)).op(b".")),
            pickled(start().op(b"}2s.")),
            pickled(start().op(b"h\x07.")),
            pickled(start().op(b"j\xff\xff\xff\x7f.")),
            pickled(start().op(b"r\xff\xff\xff\xff.")),
            pickled(start().op(b"X\xff\xff\xff\xff.")),
            pickled(start().op(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.")),
            pickled(start().op(b"\x8b\xff\xff\xff\x7f.")),
            pickled(start().global("os", "system").string("true").op(b"\x85R.")),
            pickled(start().global("builtins", "eval").string("1").op(b"\x85R.")),
            pickled(
                start()
                    .op(b"}(X\x0a\x00\x00\x00state_dict}(")
                    .string("a")
                    .tensor(&plain)
                    .op(b"uu."),
            ),
            pickled(start().op(b"N.")),
            pickled(start().op(b"\x88.")),
            pickled(start()),
            pickled(Pickle::default()),
        ],
    ));
    let legacy = |tensor| {
        start()
            .op(b"}(")
            .string("a")
            .legacy_tensor(tensor)
            .op(b"u.")
    };
    let storages = [("0", floats(&[0.5; 12]))];
    seeds.extend(numbered(
        "legacy",
        [
            legacy_torch(1001, true, &legacy(&plain), &storages),
            legacy_torch(1001, false, &legacy(&plain), &storages),
            legacy_torch(7, true, &legacy(&plain), &storages),
            legacy_torch(1001, true, &legacy(&plain), &[]),
        ],
    ));
    let zipped = |entries: &[(&str, Vec<u8>)]| archive(entries, CompressionMethod::Stored);
    seeds.extend(numbered(
        "archive",
        [
            zipped(&[]),
            zipped(&[("data.pkl", vec![])]),
            zipped(&[
                ("data.pkl", b"\x80\x02}.".to_vec()),
                ("../../out", vec![1; 9]),
            ]),
            zipped(&[
                ("data.pkl", b"\x80\x02}.".to_vec()),
                ("byteorder", b"big".to_vec()),
            ]),
            archive(
                &[("data.pkl", vec![b'('; 60_000])],
                CompressionMethod::Deflated,
            ),
            b"PK\x03\x04".to_vec(),
            b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0".to_vec(),
        ],
    ));
    seeds
}

fn configs() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let entries = std::fs::read_dir(root().join("tests/golden")).expect("a folder");
    let mut cases: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    cases.sort();
    for case in cases {
        if let Ok(text) = std::fs::read(case.join("config.json")) {
            let name = case.file_name().expect("a name").to_string_lossy();
            seeds.push((name.into_owned(), text));
        }
    }
    let mamba2 = std::fs::read_to_string(root().join("tests/golden/mamba2-hf/config.json"));
    let mamba2 = mamba2.expect("a config");
    seeds.extend(edits(
        "mamba2",
        &mamba2,
        &[
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4097"),
            (
                "\"num_hidden_layers\": 2",
                "\"num_hidden_layers\": 4611686018427387904",
            ),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.5"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": NaN"),
            ("\"mamba2\"", "\"mamba9\""),
            ("\"mamba2\"", "null"),
            ("{", "\u{feff}{"),
            ("{", "{\"x\": {\"y\": [[[[[[[[1]]]]]]]]},"),
        ],
    ));
    let word = |text: &str| text.as_bytes().to_vec();
    seeds.extend(numbered(
        "other",
        [
            word("{}"),
            word("[]"),
            word("{\"model_type\": \"mamba\"}"),
            word("{\"d_model\": 64, \"n_layer\": 2, \"ssm_cfg\": {\"layer\": \"Mamba2\"}, \"vocab_size\": 50}"),
            word("{\"model_type\": \"rwkv7\", \"num_hidden_layers\": Infinity}"),
            word("{\"architectures\": [\"x\"], \"model_type\": 3}"),
            "[".repeat(3000).into_bytes(),
            "{\"a\":".repeat(3000).into_bytes(),
            word("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        ],
    ));
    seeds
}

pub fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is plain data")
}

fn plans() -> (Vec<Seed>, Vec<Seed>) {
    let device = Device::find("h200").expect("a profile");
    let planned = entries::plans(&device);
    let plans = planned.iter().map(|planned| json(&planned.plan));
    let plans = numbered("small", plans);
    let manifests = planned.chunks(2).map(|pair| {
        let regime = |name, min_time, max_time, planned: &'_ fusec_fuse::Planned| {
            // Borrowed for as long as the pair is.
            (
                name,
                min_time,
                max_time,
                planned.graph.clone(),
                planned.plan.clone(),
            )
        };
        let regimes = [
            regime("decode", 1, Some(1), &pair[0]),
            regime("prefill", 2, None, &pair[1]),
        ];
        let regimes: Vec<Planned<'_>> = regimes
            .iter()
            .map(|(name, min_time, max_time, graph, plan)| Planned {
                name,
                min_time: *min_time,
                max_time: *max_time,
                graph,
                plan,
            })
            .collect();
        json(&generate("small", Storage::F32, &regimes).expect("kernels"))
    });
    (plans, numbered("small", manifests))
}

fn devices() -> Vec<Seed> {
    let text = std::fs::read_to_string(root().join("devices/h200.toml")).expect("a profile");
    let bare: String = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| format!("{}\n", line.split(" # ").next().unwrap_or(line)))
        .collect();
    let line = |key: &str| {
        let found = bare.lines().find(|line| line.starts_with(key));
        found.expect("a figure").to_owned()
    };
    let sms = line("sms");
    let mut seeds = vec![("h200".to_owned(), bare.clone().into_bytes())];
    for (n, with) in [
        "",
        "sms = 0",
        "sms = { value = -1.0, from = \"datasheet\" }",
        "sms = { value = nan, from = \"datasheet\" }",
        "sms = { value = inf, from = \"datasheet\" }",
        "sms = { value = 1e300, from = \"guess\" }",
        "sms = [[[[[[[[1]]]]]]]]",
    ]
    .into_iter()
    .enumerate()
    {
        seeds.push((format!("sms-{n}"), bare.replace(&sms, with).into_bytes()));
    }
    seeds.push(("open".into(), "[a]\nb = {".repeat(600).into_bytes()));
    seeds
}

fn states() -> Vec<Seed> {
    let graph = entries::small();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.safetensors");
    let mut seeds = Vec::new();
    for batch in [1, 3] {
        let state = HostState::initial(&graph, batch);
        state.save(&graph, &path).expect("written");
        let whole = std::fs::read(&path).expect("a file");
        seeds.push((format!("short-{batch}"), whole[..whole.len() - 4].to_vec()));
        seeds.push((format!("batch-{batch}"), whole));
    }
    seeds.push(("empty".into(), safetensors("{}", &[])));
    seeds
}

fn golden() -> Vec<Seed> {
    let header = r#"{"input_ids":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]},"logits":{"dtype":"F32","shape":[1,2,2],"data_offsets":[16,32]},"step_ids":{"dtype":"I64","shape":[1,1],"data_offsets":[32,40]},"step_logits":{"dtype":"F32","shape":[1,1,2],"data_offsets":[40,48]}}"#;
    let tensors = safetensors(header, &[0; 48]);
    let with = |about: &str, tensors: &[u8]| [about.as_bytes(), b"\0", tensors].concat();
    numbered(
        "record",
        [
            with("{\"bound\": 1e-4}", &tensors),
            with("{\"bound\": -1}", &tensors),
            with("{\"bound\": NaN}", &tensors),
            with("{}", &tensors),
            with(
                "{\"bound\": 1e-4}",
                &safetensors(&header.replace("[1,1,2]", "[2,1,1]"), &[0; 48]),
            ),
            with("{\"bound\": 1e-4}", &safetensors(header, &[9; 48])),
        ],
    )
}

/// Times that grow and fall.
struct Times(f32);

impl Timer for Times {
    fn time(&mut self, _: &Manifest, plan: &Plan) -> Result<Spread, String> {
        self.0 = (self.0 * 1.7) % 1.0 + 0.1;
        match plan.kernels.len() % 5 {
            0 => Err("it was not to be".into()),
            _ => Ok(Spread::of(&[self.0, self.0 + 0.01])),
        }
    }
}

/// Records of tuning, of which the first is as it would be written.
fn records() -> Vec<Seed> {
    let bounds = Bounds {
        within: 10.0,
        most: 6,
    };
    let machine = ("NVIDIA H200", None);
    let tuned = tuning::record(&entries::small(), (2, 40), bounds, || Times(0.3), machine);
    let text = String::from_utf8_lossy(&json(&tuned)).into_owned();
    let mut seeds = vec![("record".to_owned(), text.clone().into_bytes())];
    seeds.extend(edits(
        "edit",
        &text,
        &[
            ("\"version\":1", "\"version\":2"),
            ("\"chosen\":", "\"chosen\":9"),
            ("\"auto\"", "{\"random\":18446744073709551615}"),
            (
                "\"pins\":[]",
                "\"pins\":[{\"kind\":\"fuse\",\"values\":[],\"span\":null}]",
            ),
            (
                "\"form\":[]",
                "\"form\":[{\"rule\":\"none\",\"block\":\"\"}]",
            ),
            ("NVIDIA H200", "\\u001b[2J\\u0007"),
            ("\"time\":40", "\"time\":4611686018427387904"),
        ],
    ));
    seeds
}

fn results() -> Vec<Seed> {
    let place = root().join("bench/results/h200");
    let names = ["op-add_norm", "op-gla", "ss-f16-4"];
    let read = |name: &str| {
        let path = place.join(format!("2026-11-29-{name}.json"));
        let text = std::fs::read_to_string(path).expect("results");
        // As small as it was.
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        (name.to_owned(), json(&value))
    };
    let mut seeds: Vec<Seed> = names.map(read).into();
    seeds.push(("empty".into(), b"{}".to_vec()));
    seeds.push(("deep".into(), "[".repeat(3000).into_bytes()));
    seeds
}

/// What a compiler for GPUs writes, where there is one; and headers of other files.
fn cubins() -> Vec<Seed> {
    let mut seeds = numbered(
        "header",
        [
            b"\x7fELF".to_vec(),
            b"\x7fELF\x02\x01\x01\x33\x07"
                .iter()
                .copied()
                .chain([0; 55])
                .collect(),
            {
                // A header of 64 bytes that promises sections far behind the end.
                let mut header = vec![0u8; 64];
                header[..9].copy_from_slice(b"\x7fELF\x02\x01\x01\x33\x07");
                header[16] = 2;
                header[18] = 190;
                header[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
                header[58..62].copy_from_slice(&[64, 0, 0xff, 0xff]);
                header
            },
        ],
    );
    let toolchain = fusec_runtime::toolchain::Toolchain::discover(
        &fusec_runtime::toolchain::Options::from_env(),
    );
    let Ok(toolchain) = toolchain else {
        return seeds;
    };
    let text = "extern \"C\" __global__ void fusec_seed(float* y, const long long n) {\n\
                extern __shared__ float s[];\n s[threadIdx.x] = y[threadIdx.x];\n\
                __syncthreads();\n y[n] = s[31 - threadIdx.x];\n}\n";
    let source = fusec_runtime::toolchain::Source {
        name: "seed.cu",
        text,
        headers: &[],
    };
    for arch in ["sm_75", "sm_80", "sm_90a"] {
        let artifact = toolchain.compile(&source, arch.parse().expect("known"));
        seeds.push((arch.into(), artifact.expect("it compiles").cubin));
    }
    seeds
}

/// Those whose names begin so.
fn starting(seeds: Vec<Seed>, name: &str) -> Vec<Seed> {
    let named = seeds.into_iter().filter(|seed| seed.0.starts_with(name));
    named.collect()
}

/// Inputs of a kind that are as they should be, made by what writes them today: what a corpus holds of plans,
/// profiles and records is that of the day when it was written, and may be refused at its first line.
pub fn sound(kind: &str) -> Vec<Vec<u8>> {
    let (seeds, count) = match kind {
        "model" => (models(), 1),
        "step" => (starting(steps(), "own-00"), 1),
        "safetensors" => (tensors(), 1),
        "pickle" => (pickles(), 1),
        "plan" => (plans().0, usize::MAX),
        "manifest" => (plans().1, usize::MAX),
        "device" => (devices(), 1),
        "state" => (starting(states(), "batch"), 2),
        "golden" => (golden(), 1),
        "results" => (results(), 3),
        "tuned" => (records(), 1),
        "index" => (indices(), 1),
        "tokenizer" => (vocabularies(), 3),
        // Of these only a part is read: the rest fits no model.
        _ => (Vec::new(), 0),
    };
    seeds.into_iter().take(count).map(|seed| seed.1).collect()
}

#[test]
#[ignore = "writes fuzz/corpus"]
fn write_the_corpus() {
    let (plans, manifests) = plans();
    for (kind, seeds) in [
        ("model", models()),
        ("step", steps()),
        ("safetensors", tensors()),
        ("pickle", pickles()),
        ("config", configs()),
        ("plan", plans),
        ("manifest", manifests),
        ("cubin", cubins()),
        ("device", devices()),
        ("state", states()),
        ("golden", golden()),
        ("results", results()),
        ("tuned", records()),
        ("index", indices()),
        ("tokenizer", vocabularies()),
        ("training", trainings()),
    ] {
        let folder = root().join("fuzz/corpus").join(kind);
        std::fs::create_dir_all(&folder).expect("a folder");
        println!("{kind}: {}", seeds.len());
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes).expect("written");
        }
    }
}
