//! What is done with bytes from outside, one function per kind: each reads them as the program does, and
//! panics where what comes of it is not as it should be. The fuzzer calls these functions, and so does
//! `tests/fuzz`, on any toolchain.
//!
//! A reader may refuse anything. It may not panic, and what it says is one message of a sensible length.

use std::cell::Cell;
use std::fmt::Display;
use std::path::Path;

use fusec_fuse::{Device, Mode, Options, Plan, Shape, Storage, Submit, accept, plan};
use fusec_ir::class::classify;
use fusec_ir::interpret::check_graph;
use fusec_ir::language::{LONGEST_MESSAGE, ModelSource, Overrides, compile, readable};
use fusec_ir::{Graph, print};
use fusec_runtime::calibrate::fit::Records;
use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::cubin;
use fusec_runtime::executor::{HostState, check_manifest};
use fusec_runtime::golden::GoldenCase;
use fusec_runtime::memory::{ArenaPlan, StatesPlan};
use fusec_runtime::model::Model;
use fusec_runtime::train::saved;
use fusec_runtime::tune::Tuned;
use fusec_text::{TokenizeError, Tokenizer};

/// A reader of bytes.
pub type Entry = fn(&[u8]);

/// Every kind of input: its name, which is that of its seeds' folder, and its reader.
pub const ENTRIES: [(&str, Entry); 16] = [
    ("model", model),
    ("step", step),
    ("safetensors", safetensors),
    ("pickle", pickle),
    ("config", config),
    ("plan", foreign_plan),
    ("manifest", manifest),
    ("cubin", cubin_resources),
    ("device", device),
    ("state", state),
    ("golden", golden),
    ("results", results),
    ("tuned", tuned),
    ("index", index),
    ("tokenizer", tokenizer),
    ("training", training),
];

/// The longest message, bytes: what it quotes, and paths around that.
const LONGEST: usize = LONGEST_MESSAGE + 4096;

thread_local! {
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

/// How many inputs were refused on this thread.
pub fn refusals() -> usize {
    REFUSED.get()
}

/// Checks what a reader says of what it refuses.
fn refused(error: impl Display) {
    REFUSED.set(REFUSED.get() + 1);
    let text = error.to_string();
    assert!(!text.trim().is_empty(), "a refusal without a word");
    assert!(
        text.len() <= LONGEST,
        "a message of {} bytes: {}...",
        text.len(),
        text.chars().take(300).collect::<String>()
    );
}

fn compiled(source: &ModelSource<'_>) {
    match compile(source, &Overrides::default()) {
        Ok(graph) => {
            for recurrence in &graph.recurrences {
                classify(&graph, recurrence).sentences(&graph, recurrence);
            }
            print::graph(&graph);
            if let Err(error) = check_graph(&graph) {
                panic!("the language accepts a graph that the interpreter refuses: {error}");
            }
        }
        Err(error) => {
            use miette::Diagnostic;
            let placed = error
                .labels()
                .is_some_and(|mut labels| labels.next().is_some());
            assert!(placed, "a message without a place: {error}");
            assert!(
                error.help().is_some(),
                "a message without a way out: {error}"
            );
            refused(error);
        }
    }
}

/// A model text.
pub fn model(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    compiled(&ModelSource::from_text("fuzz.toml", text.as_ref()));
}

/// The step of a recurrence, in a model whose operands have axes to try.
pub fn step(data: &[u8]) {
    // What would end the string is the business of `model`.
    let step = String::from_utf8_lossy(data).replace("\"\"\"", "");
    let text = format!(
        "name = \"steps\"\n[axes]\nH = 2\nN = 3\nM = 4\n[settings]\neps = 1e-5\n[input]\n\
         x = \"H\"\nk = \"H, M\"\nv = \"H, N\"\nd = \"H, M\"\n[recurrence.r]\n\
         inputs = \"x[H], k[H, j], v[H, i], d[H, j]\"\n\
         state = \"S[H, i = N, j = M], m[H] = -1e30\"\noutputs = \"y[H, i]\"\n\
         step = \"\"\"\n{step}\n\"\"\"\n[model]\nflow = \"return r(x, k, v, sigmoid(d))\"\n"
    );
    compiled(&ModelSource::from_text("step.toml", text));
}

/// Calls `read` with a file of this name and these bytes.
fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    std::fs::write(&path, data).expect("written");
    read(&path);
}

fn checkpoint(path: &Path) {
    match Checkpoint::open(path) {
        Ok(file) => {
            let names: Vec<String> = file.names().map(str::to_owned).collect();
            for name in names.iter().take(64) {
                let small = file.tensor(name).is_some_and(|t| t.numel() <= 1 << 20);
                if small && let Err(error) = file.read_f32(name) {
                    refused(error);
                }
            }
        }
        Err(error) => refused(error),
    }
}

/// A safetensors file.
pub fn safetensors(data: &[u8]) {
    with_file("fuzz.safetensors", data, checkpoint);
}

/// What `torch.save` writes: an archive with a pickle, or the older form.
pub fn pickle(data: &[u8]) {
    with_file("fuzz.pth", data, checkpoint);
}

/// The `config.json` of a checkpoint, beside tensors that fit no model.
pub fn config(data: &[u8]) {
    with_file("config.json", data, |path| {
        let dir = path.parent().expect("a directory");
        std::fs::write(dir.join("model.safetensors"), ONE).expect("written");
        if let Err(error) = Model::open(dir, &Overrides::default()) {
            refused(error);
        }
    });
}

/// The bytes of a safetensors file with a tensor `x` of one number.
const ONE: &[u8] = b"\x40\0\0\0\0\0\0\0{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}          \0\0\0\0";

/// The index of a sharded checkpoint, beside one shard.
pub fn index(data: &[u8]) {
    with_file("model.safetensors.index.json", data, |path| {
        let dir = path.parent().expect("a directory");
        std::fs::write(dir.join("model-00001-of-00001.safetensors"), ONE).expect("written");
        match Checkpoint::open(dir) {
            Ok(whole) => assert!(whole.names().all(|name| name == "x")),
            Err(error) => refused(error),
        }
    });
}

/// A vocabulary; a text goes through it and back.
pub fn tokenizer(data: &[u8]) {
    with_file("tokenizer.json", data, |path| {
        let round = || {
            let vocabulary = Tokenizer::open(path)?;
            let ids = vocabulary.encode("A text, it's 12 words long:\n\t\u{9f98} \u{1f600}")?;
            vocabulary.entries();
            let mut decoder = vocabulary.decoder();
            // And ids that no text gave.
            for id in ids.into_iter().chain([0, 1, u32::MAX]) {
                decoder.push(id)?;
            }
            decoder.finish()
        };
        let done: Result<String, TokenizeError> = round();
        if let Err(error) = done {
            // The library's words, which who shows them cuts.
            refused(readable(&error.to_string(), LONGEST_MESSAGE));
        }
    });
}

/// What says how far a training of [`SMALL`] is, beside weights that fit no model.
pub fn training(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let place = saved::directory(dir.path(), 7);
    std::fs::create_dir(&place).expect("a directory");
    std::fs::write(place.join("training.json"), data).expect("written");
    for name in ["weights.safetensors", "optimizer.safetensors"] {
        std::fs::write(place.join(name), ONE).expect("written");
    }
    if let Err(error) = saved::latest(dir.path(), &small()) {
        refused(error);
    }
}

/// The model that plans, manifests and states are of.
pub const SMALL: &str = r#"
name = "small"
[axes]
V = 12
C = 8
K = 3
[param]
emb = { shape = "V, C" }
w = { shape = "C, C" }
taps = { shape = "C, K" }
[recurrence.average]
inputs  = "v[C], a[C]"
state   = "S[C]"
outputs = "s[C]"
step    = "S = a * S + (1 - a) * v\ns = S"
[model]
flow = """
  x = gather(emb, ids)
  u = silu(conv(x, taps))
  y = average(u, sigmoid(u @ w))
  return y @ emb
"""
"#;

/// [`SMALL`] as a graph.
pub fn small() -> Graph {
    let source = ModelSource::from_text("small.toml", SMALL);
    compile(&source, &Overrides::default()).unwrap_or_else(|error| panic!("{error:?}"))
}

fn h200() -> Device {
    Device::find("h200").expect("a profile")
}

/// Plans of [`SMALL`]: seeds of [`foreign_plan`], and of what follows from them.
pub fn plans(device: &Device) -> Vec<fusec_fuse::Planned> {
    let graph = small();
    let modes = [Mode::Auto, Mode::Unfused, Mode::Greedy, Mode::Random(1)];
    let all = modes.into_iter().flat_map(|mode| {
        let graph = &graph;
        [1, 40].into_iter().map(move |time| {
            let options = Options {
                shape: Shape { batch: 2, time },
                storage: Storage::F32,
                mode,
                device,
                launch: Submit::Graph,
                pins: Vec::new(),
            };
            plan(graph, &options).unwrap_or_else(|error| panic!("{error}"))
        })
    });
    all.collect()
}

/// A plan of somebody else, in JSON.
pub fn foreign_plan(data: &[u8]) {
    match serde_json::from_slice::<Plan>(data) {
        // Who reads plans checks their sizes first.
        Ok(plan) if fusec_runtime::limits::shape(plan.shape).is_ok() => {
            if let Err(error) = accept(&small(), &plan, &h200()) {
                refused(error);
            }
        }
        Ok(_) => {}
        Err(error) => refused(readable(&error.to_string(), LONGEST_MESSAGE)),
    }
}

/// A manifest of somebody else, in JSON; what is accepted also gets its memory planned.
pub fn manifest(data: &[u8]) {
    let manifest: fusec_codegen::Manifest = match serde_json::from_slice(data) {
        Ok(manifest) => manifest,
        // The parser's words, which who reads manifests cuts.
        Err(error) => return refused(readable(&error.to_string(), LONGEST_MESSAGE)),
    };
    if let Err(error) = check_manifest(&manifest) {
        return refused(error);
    }
    for regime in &manifest.regimes {
        let shape = Shape {
            batch: 2,
            time: regime.min_time,
        };
        if let Err(error) = ArenaPlan::new(regime, &manifest.kernels, shape) {
            refused(error);
        }
        if let Err(error) = StatesPlan::new(regime, 2) {
            refused(error);
        }
    }
}

/// A compiled kernel.
pub fn cubin_resources(data: &[u8]) {
    cubin::tool(data);
    if let Err(error) = cubin::resources(data) {
        refused(error);
    }
}

/// A device profile.
pub fn device(data: &[u8]) {
    with_file("fuzz.toml", data, |path| {
        if let Err(error) = Device::load(path) {
            refused(error);
        }
    });
}

/// The state of a run, for [`SMALL`].
pub fn state(data: &[u8]) {
    with_file("state.safetensors", data, |path| {
        if let Err(error) = HostState::load(&small(), path) {
            refused(error);
        }
    });
}

/// A golden case: its record, and a `\0` behind which its tensors begin.
pub fn golden(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (about, tensors) = (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]));
    with_file("about.json", about, |path| {
        let dir = path.parent().expect("a directory");
        std::fs::write(dir.join("golden.safetensors"), tensors).expect("written");
        if let Err(error) = GoldenCase::open(dir) {
            refused(error);
        }
    });
}

/// Recorded results of `fusec bench`.
pub fn results(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = Records::default().add(Path::new("fuzz.json"), &text) {
        refused(error);
    }
}

/// A record of tuning: what it says is printed, and its plans are made where its shapes are admitted.
pub fn tuned(data: &[u8]) {
    let tuned = match Tuned::parse(data) {
        Ok(tuned) => tuned,
        Err(error) => return refused(error),
    };
    assert!(!tuned.to_string().contains('\u{1b}'));
    let (graph, device) = (small(), h200());
    for regime in &tuned.regimes {
        if fusec_runtime::limits::run(&graph, regime.shape).is_err() {
            continue;
        }
        let options = Options {
            shape: regime.shape,
            storage: Storage::F32,
            mode: Mode::Auto,
            device: &device,
            launch: Submit::Graph,
            pins: Vec::new(),
        };
        if let Err(error) = tuned.plan(&graph, &options) {
            refused(error);
        }
    }
}
