//! `fusec compile --standalone`: the program that it writes is compiled by g++ alone, and run against a driver whose
//! device is this processor (`driver.cpp`): its cubins are the very kernels, compiled by the emulator. What it
//! computes is what `fusec run` computes, to the last bit.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use fusec_runtime::checkpoint::Checkpoint;
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::plan_dir::read_plan_dir;
use fusec_runtime::standalone::{FOLDER, WEIGHTS};

fn compiler() -> Command {
    Command::new(std::env::var_os("FUSEC_CXX").unwrap_or_else(|| "g++".into()))
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("standalone")
}

/// The directory of the driver, built once.
fn driver() -> &'static Path {
    static BUILT: OnceLock<tempfile::TempDir> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a directory");
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standalone/driver.cpp");
            let built = compiler()
                .args([
                    "-std=c++17",
                    "-O1",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-shared",
                    "-fPIC",
                ])
                .arg(source)
                .arg("-o")
                .arg(dir.path().join("libcuda.so.1"))
                .status();
            assert!(built.expect("a compiler").success());
            dir
        })
        .path()
}

/// A compiled model with its program.
struct Program {
    dir: tempfile::TempDir,
    name: &'static str,
}

fn fusec(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fusec"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .env("FUSEC_NVRTC", "/no/such/libnvrtc.so.13")
        .env("FUSEC_CACHE_DIR", cache())
        .output()
        .expect("the binary starts")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

impl Program {
    /// `name`: what the program is called. There is no NVRTC here: cubins are the emulator's objects.
    fn new(name: &'static str, model: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("plan").display().to_string();
        let mut all = vec![
            "compile",
            model,
            "--standalone",
            "--weights",
            "random:1",
            "--arch",
            "sm_90a",
            "--out",
            &out,
        ];
        all.extend(arguments);
        let compiled = fusec(&all);
        assert_eq!(compiled.status.code(), Some(3), "{}", said(&compiled));
        let program = Self { dir, name };
        let plan = read_plan_dir(&program.plan()).expect("a plan");
        let emulator = Emulator::new(&cache().join("emulator"), EmulatorOptions::default())
            .expect("a compiler");
        let kernels = program.folder().join("kernels");
        let images: Vec<_> = plan.manifest.images().collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let object =
                            emulator.object(&image.entry, &image.source, &plan.manifest.prelude);
                        let path = kernels.join(format!("{}.sm_90a.cubin", image.name));
                        fs::write(path, object.expect("a kernel")).expect("written");
                    }
                });
            }
        });
        program
    }

    fn plan(&self) -> PathBuf {
        self.dir.path().join("plan")
    }

    fn folder(&self) -> PathBuf {
        self.plan().join(FOLDER)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// As the comment at its head says, with all warnings.
    fn build(&self) {
        let built = compiler()
            .args([
                "-std=c++17",
                "-O0",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
            ])
            .args([&format!("{}.cpp", self.name), "-o", self.name, "-ldl"])
            .current_dir(self.folder())
            .output()
            .expect("a compiler");
        assert!(built.status.success(), "{}", said(&built));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder().join(self.name));
        // Somewhere else: what it needs lies beside it.
        command
            .args(arguments)
            .current_dir("/")
            .env("LD_LIBRARY_PATH", driver());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("it starts");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// What `fusec run` makes of the inputs with the same plan, on the emulator.
    fn reference(&self, model: &str, arguments: &[&str]) -> Checkpoint {
        let (plan, inputs, outputs) = (self.plan(), self.path("inputs"), self.path("reference"));
        let plan = plan.display().to_string();
        let mut all = vec![
            "run",
            model,
            "--weights",
            "random:1",
            "--plan-dir",
            &plan,
            "--device",
            "emulator",
        ];
        all.extend(["--input", &inputs, "--output", &outputs]);
        all.extend(arguments);
        let output = fusec(&all);
        assert!(output.status.success(), "{}", said(&output));
        Checkpoint::open(&outputs).expect("outputs")
    }

    fn outputs(&self, name: &str) -> Checkpoint {
        Checkpoint::open(self.path(name)).expect("outputs")
    }
}

fn tensors(file: &Checkpoint) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let names = file.names();
    names
        .map(|name| {
            let shape = file.tensor(name).expect("a tensor").shape.to_vec();
            (
                name.to_owned(),
                shape,
                file.read_f32(name).expect("numbers"),
            )
        })
        .collect()
}

/// The largest difference, by the largest number.
fn difference(a: &Checkpoint, b: &Checkpoint) -> f32 {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(&b).map(|((name, shape, x), (other, its, y))| {
        assert_eq!((name, shape), (other, its));
        let largest = y.iter().fold(0f32, |most, y| most.max(y.abs()));
        assert!(largest > 0.0, "`{name}` is zero everywhere");
        x.iter()
            .zip(y)
            .fold(0f32, |most, (x, y)| most.max((x - y).abs()))
            / largest
    });
    pairs.fold(0.0, f32::max)
}

/// What stands in the page of the book: its first block of a kind.
fn in_the_book(kind: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/standalone.md");
    let page = fs::read_to_string(page).expect("a page");
    let (_, rest) = page
        .split_once(&format!("```{kind}\n"))
        .expect("a block begins");
    rest.split_once("```").expect("and ends").0.to_owned()
}

/// The model of the page, in a file.
fn small(dir: &Path) -> String {
    let path = dir.join("small.toml");
    fs::write(&path, in_the_book("toml")).expect("written");
    path.display().to_string()
}

/// In f32: states, tails, a constant that follows from weights, kernels that start early, one whose blocks wait for
/// each other, single steps.
#[test]
fn a_program_computes_what_fusec_run_computes() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = small(dir.path());
    let program = Program::new("small", &model, &[]);
    program.build();
    let [inputs, outputs, pieces, log] =
        ["inputs", "outputs", "pieces", "log"].map(|name| program.path(name));
    let drawn = [
        "--batch",
        "2",
        "--time",
        "11",
        "--seed",
        "5",
        "--inputs-out",
        &inputs,
        "--output",
        &outputs,
    ];
    program.run(&drawn);
    let reference = program.reference(&model, &[]);
    assert_eq!(tensors(&program.outputs("outputs")), tensors(&reference));
    // The same run cut into a long one, single steps and a long one: other kernels, the same state.
    let mut command = program.command(&[
        "--input", &inputs, "--pieces", "5,1,1,4", "--output", &pieces, "--repeat", "2",
    ]);
    let answer = command.env("DRIVER_LOG", &log).output().expect("it starts");
    let answer = said(&answer);
    assert!(answer.contains("B=2, T=11, next position 11"), "{answer}");
    assert!(answer.contains("2 runs of 4 tokens"), "{answer}");
    let error = difference(&program.outputs("pieces"), &reference);
    assert!(error < 1e-5, "{error:e}");
    let log = fs::read_to_string(log).expect("a log");
    for what in [" early\n", " resident\n", "left: 0 allocations, 0 contexts"] {
        assert!(log.contains(what), "{what}: {log}");
    }
    program_of_the_book(&program);
    mistakes_are_said(&program);
}

/// The program of somebody else around it.
fn program_of_the_book(program: &Program) {
    let source = program.folder().join("own.cpp");
    fs::write(source, in_the_book("cpp")).expect("written");
    let mut build = compiler();
    build.args([
        "-std=c++17",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Werror",
        "own.cpp",
        "-o",
        "own",
        "-ldl",
    ]);
    let built = build.current_dir(program.folder()).output();
    let built = built.expect("a compiler");
    assert!(built.status.success(), "{}", said(&built));
    let mut own = Command::new(program.folder().join("own"));
    own.current_dir(program.folder())
        .env("LD_LIBRARY_PATH", driver());
    let answer = own.output().expect("it starts");
    assert_eq!(said(&answer), "position 11: fine\n");
}

/// Each with a status of its own, and in words.
fn mistakes_are_said(program: &Program) {
    let weights = program.folder().join(WEIGHTS).display().to_string();
    let inputs = program.path("inputs");
    let outputs = program.path("outputs");
    let nowhere = program.path("nowhere");
    let cut = program.path("cut");
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&cut, &bytes[..bytes.len() - 100]).expect("written");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);
    // Found before one that the machine may have.
    let broken = program.dir.path().join("broken");
    fs::create_dir(&broken).expect("a directory");
    fs::write(broken.join("libcuda.so.1"), "").expect("written");
    let broken = broken.display().to_string();
    let cases: [Case<'_>; 16] = [
        (
            &[("LD_LIBRARY_PATH", &broken)],
            &[],
            &["no driver of CUDA", "libcuda.so.1"],
        ),
        (
            &[("DRIVER_VERSION", "11080")],
            &[],
            &["for CUDA 11.8", "at least 12.0"],
        ),
        (
            &[("DRIVER_ARCH", "80")],
            &[],
            &["for sm_90a", "capability 8.0", "--arch"],
        ),
        // Kernels of sm_90a run on no later device.
        (
            &[("DRIVER_ARCH", "100")],
            &[],
            &["for sm_90a", "capability 10.0"],
        ),
        (
            &[("DRIVER_MEMORY", "20000")],
            &[],
            &[
                "cannot allocate",
                "bytes for weights",
                "CUDA_ERROR_OUT_OF_MEMORY",
            ],
        ),
        (&[], &["--device", "1"], &["no device 1", "sees 1"]),
        (
            &[],
            &["--weights", &nowhere],
            &["cannot read", "nowhere", "No such file"],
        ),
        (
            &[],
            &["--weights", &inputs],
            &["no tensor `emb`", "weights of small"],
        ),
        (&[], &["--weights", &cut], &["lies outside of the file"]),
        (&[], &["--input", &outputs], &["no tensor `ids`"]),
        (&[], &["--input", &weights], &["no tensor `ids`"]),
        (&[], &["--pieces", "4,4"], &["8 tokens together", "have 16"]),
        (&[], &["--time", "0"], &["--time 0", "from 1 to"]),
        (
            &[],
            &["--device", "4294967296"],
            &["--device 4294967296", "a number from 0"],
        ),
        (&[], &["--seed", "1x"], &["--seed 1x", "a number"]),
        (&[], &["--bogus", "1"], &["--bogus: unknown", "--pieces"]),
    ];
    for (environment, arguments, says) in cases {
        let mut command = program.command(arguments);
        command.envs(environment.iter().copied());
        let output = command.output().expect("it starts");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        for words in says {
            assert!(
                text.contains(words),
                "{arguments:?}: `{words}` is not in {text}"
            );
        }
    }
    // A token that no table has.
    let mut ids = fs::read(&inputs).expect("inputs");
    let last = ids.len() - 4;
    ids[last..].copy_from_slice(&96i32.to_le_bytes());
    let wrong = program.path("wrong");
    fs::write(&wrong, ids).expect("written");
    let output = program.command(&["--input", &wrong]).output();
    let text = said(&output.expect("it starts"));
    assert!(text.contains("has the id 96"), "{text}");
}

/// In bf16, last rows only: products of warpgroups, which copy boxes of tensors, and the same built by CMake, where
/// there is one.
#[test]
fn products_of_warpgroups_find_their_tensors() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = small(dir.path());
    let how = [
        "--dtype",
        "bf16",
        "--logits",
        "last",
        "--shape",
        "B=4,T=512",
    ];
    let program = Program::new("small", &model, &how);
    let by_cmake = Command::new("cmake")
        .args(["-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Debug"])
        .current_dir(program.folder())
        .output();
    match by_cmake {
        Ok(configured) => {
            assert!(configured.status.success(), "{}", said(&configured));
            let built = Command::new("cmake")
                .args(["--build", "build"])
                .current_dir(program.folder())
                .output()
                .expect("cmake");
            assert!(built.status.success(), "{}", said(&built));
        }
        Err(_) => program.build(),
    }
    let [inputs, outputs, log] = ["inputs", "outputs", "log"].map(|name| program.path(name));
    let drawn = [
        "--batch",
        "3",
        "--time",
        "43",
        "--inputs-out",
        &inputs,
        "--output",
        &outputs,
    ];
    let mut command = program.command(&drawn);
    let answer = command.env("DRIVER_LOG", &log).output().expect("it starts");
    assert!(answer.status.success(), "{}", said(&answer));
    let log = fs::read_to_string(log).expect("a log");
    assert!(log.contains(" maps\n"), "{log}");
    let reference = program.reference(&model, &["--logits", "last"]);
    assert_eq!(tensors(&program.outputs("outputs")), tensors(&reference));
}

/// A recurrence with a decay for each key, and no weights.
const KEYED: &str = r#"
name = "keyed-1.0"
[axes]
H = 2
N = 128
M = 128
[input]
q = "H, N"
k = "H, N"
v = "H, M"
w = "H, N"
[recurrence.r]
inputs = "q[H, j], k[H, j], v[H, i], w[H, j]"
state = "S[H, i = M, j = N]"
outputs = "y[H, i]"
step = """
S = w * S + v * k
y = sum(S * q, j)
"""
[model]
flow = "return r(q, k, v, f32(sigmoid(w)))"
"#;

/// Inputs that are numbers, memory of chunks of tokens, of which the last is shorter, a model without weights, whose
/// name is no identifier.
#[test]
fn chunks_have_memory_for_each_of_their_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("keyed.toml");
    fs::write(&model, KEYED).expect("written");
    let model = model.display().to_string();
    let how = ["--dtype", "bf16", "--shape", "B=4,T=512"];
    let program = Program::new("keyed_1_0", &model, &how);
    program.build();
    let source = fs::read_to_string(program.folder().join("keyed_1_0.cpp"));
    assert!(source.expect("a source").contains("Rows::runs, "));
    let [inputs, outputs] = ["inputs", "outputs"].map(|name| program.path(name));
    let drawn = [
        "--batch",
        "2",
        "--time",
        "75",
        "--inputs-out",
        &inputs,
        "--output",
        &outputs,
    ];
    program.run(&drawn);
    let reference = program.reference(&model, &[]);
    assert_eq!(tensors(&program.outputs("outputs")), tensors(&reference));
}

/// What a reader sees of the model: its tables and its launches.
#[test]
fn the_text_of_a_program() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = small(dir.path());
    let out = dir.path().join("plan");
    let compiled = fusec(&[
        "compile",
        &model,
        "--standalone",
        "--arch",
        "sm_90a",
        "--out",
        &out.display().to_string(),
    ]);
    assert_eq!(compiled.status.code(), Some(3), "{}", said(&compiled));
    assert!(said(&compiled).contains("without weights: --weights writes them"));
    let folder = out.join(FOLDER);
    assert!(!folder.join(WEIGHTS).exists());
    let source = fs::read_to_string(folder.join("small.cpp")).expect("a source");
    let between = |from: &str, to: &str| {
        let (_, rest) = source.split_once(from).expect("a section");
        rest.split_once(to).expect("the next one").0.to_owned()
    };
    let tables = between("struct Kernels {", "// Memory\n");
    let launches = between("// Its launches, in order\n", "// Files of tensors");
    insta::with_settings!({ snapshot_path => ".", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("small", format!("struct Kernels {{{tables}{launches}"));
    });
    // Compiled again without it, there is none that another plan would belong to.
    let compiled = fusec(&[
        "compile",
        &model,
        "--arch",
        "sm_90a",
        "--out",
        &out.display().to_string(),
    ]);
    assert_eq!(compiled.status.code(), Some(3), "{}", said(&compiled));
    assert!(out.join("manifest.json").exists() && !folder.exists());
}
