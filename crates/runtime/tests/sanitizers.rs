//! Kernels touch nothing but the buffers they were given, and compute nothing that C++ leaves undefined:
//! built with the address and the undefined-behaviour sanitizers, which end a process with a report. So
//! what is looked at runs in a process of its own, where libasan was loaded first; and what has to be
//! found is planted in others.
//!
//! Some random models run always; `FUSEC_SANITIZED_MODELS=N` takes N.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use common::{Case, Conditions, Dice, compare, generated, root, slow_steps};
use fusec_codegen::{Arg, Extent, Manifest};
use fusec_fuse::{Device, Mode, Storage};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};
use model_text::model_text;

mod common;
#[path = "random_models/model_text.rs"]
mod model_text;

/// Random models that are always looked at.
const MODELS: u64 = 3;
/// The test that a process of its own runs, and what it is asked to plant.
const INNER: &str = "inner";
const PLANTED: &str = "FUSEC_TEST_PLANTED";

/// This very program with libasan, running [`inner`] only.
fn sanitized(planted: &str) -> Output {
    let compiler = std::env::var("FUSEC_CXX").unwrap_or_else(|_| "g++".into());
    let asked = Command::new(compiler)
        .arg("-print-file-name=libasan.so")
        .output();
    let path = String::from_utf8(asked.expect("g++ is installed").stdout).expect("a path");
    let path = std::fs::canonicalize(path.trim()).expect("g++ comes with libasan");
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", INNER, "--ignored", "--nocapture"])
        .env("LD_PRELOAD", path)
        // What the test keeps to its end is no leak of a kernel.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env("UBSAN_OPTIONS", "print_stacktrace=0")
        .env(PLANTED, planted)
        .output()
        .expect("it starts")
}

#[test]
fn kernels_touch_what_they_were_given_and_nothing_else() {
    let output = sanitized("");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{said}", output.status);
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "{ran}");
}

#[test]
fn what_is_planted_is_reported() {
    for (planted, report) in FAULTS.map(|fault| (fault.name, fault.report)) {
        let output = sanitized(planted);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{planted}: nothing was found");
        assert!(said.contains(report), "{planted}:\n{said}");
    }
}

/// Something that a kernel may not do.
struct Fault {
    name: &'static str,
    /// Of the sanitizer.
    report: &'static str,
    /// A condition, about a buffer and the number of its elements.
    condition: fn(buffer: &str, elements: &str) -> String,
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "behind a buffer",
        report: "use-after-poison",
        condition: |p, n| format!("{p}[{n}] == {p}[0]"),
    },
    Fault {
        name: "an index of 32 bits",
        report: "signed integer overflow",
        condition: |_, _| "int(T) + 0x7fffffff == 7".into(),
    },
    Fault {
        name: "a shift too far",
        report: "shift exponent",
        condition: |_, _| "1 << (int(T) + 40) == 7".into(),
    },
];

/// Puts it at the head of every kernel.
fn plant(manifest: &mut Manifest, fault: &Fault) {
    let steps = manifest.regimes.iter().flat_map(|regime| {
        let steps = regime.steps.iter();
        steps.map(move |step| (step, &regime.buffers))
    });
    let mut conditions: BTreeMap<String, String> = BTreeMap::new();
    for (step, buffers) in steps {
        let kernel = &manifest.kernels[step.kernel];
        let image = manifest.images().find(|image| image.name == kernel.image);
        let params = &image.expect("an image").params;
        let mut pointers = step.args.iter().zip(params);
        let (buffer, param) = pointers
            .find_map(|(arg, param)| match arg {
                Arg::Buffer(buffer) => Some((&buffers[*buffer], param)),
                _ => None,
            })
            .expect("a buffer");
        let elements = match buffer.extent {
            Extent::Fixed => format!("{}", buffer.elements),
            Extent::Batch | Extent::Sequences => format!("{} * B", buffer.elements),
            Extent::Rows => format!("{} * B * T", buffer.elements),
            Extent::Runs(rows) => {
                format!("{} * B * ((T + {}) / {rows})", buffer.elements, rows - 1)
            }
        };
        let condition = (fault.condition)(&param.name, &elements);
        conditions.insert(kernel.image.clone(), condition);
    }
    for kernel in &mut manifest.kernels {
        if let Some(condition) = conditions.get(&kernel.name) {
            // Functions that it calls stand before it.
            let entry = kernel.source.find("__global__").expect("an entry");
            let body = kernel.source[entry..].find(") {\n").expect("a body");
            let head = entry + body + ") {\n".len();
            let line = format!("    if ({condition}) return;\n");
            kernel.source.insert_str(head, &line);
        }
    }
}

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

fn sound(case: &Case<'_>, device: &Device, fault: Option<&Fault>) {
    let conditions = Conditions {
        sanitizers: true,
        ..Conditions::on(device)
    };
    let mut manifest = generated(case, conditions).unwrap_or_else(|why| panic!("{why}"));
    if let Some(fault) = fault {
        plant(&mut manifest, fault);
    }
    compare(case, manifest, conditions).unwrap_or_else(|why| panic!("{}: {why}", case.name));
}

#[test]
#[ignore = "runs in a process with the sanitizers"]
fn inner() {
    let planted = std::env::var(PLANTED).unwrap_or_default();
    let fault = FAULTS.iter().find(|fault| fault.name == planted);
    let (today, slow) = (Device::find("h200").expect("profile"), slow_steps(false));
    if fault.is_some() {
        let graph = model("gated-scan.toml", &[("C", 24), ("D", 24)]);
        let case = Case {
            name: "planted",
            graph: &graph,
            storage: Storage::F32,
            mode: Mode::Auto,
            batch: 1,
            times: &[5],
            bound: 2e-4,
        };
        return sound(&case, &today, fault);
    }
    let asked = std::env::var("FUSEC_SANITIZED_MODELS").ok();
    let models = asked.and_then(|n| n.parse().ok()).unwrap_or(MODELS);
    for seed in 0..models {
        let text = model_text(seed);
        let source = ModelSource::from_text(format!("random {seed}"), text.as_str());
        let graph = compile(&source, &Overrides::default()).expect("it compiles");
        let mut dice = Dice::new(seed);
        let case = Case {
            name: &format!("random-{seed}"),
            graph: &graph,
            storage: Storage::F32,
            mode: [Mode::Auto, Mode::Random(seed)][dice.below(2)],
            batch: [1, 3][dice.below(2)],
            times: &[39, 1, 2, 64],
            bound: 2e-4,
        };
        sound(&case, [&today, &slow][dice.below(2)], None);
    }
    // Products and chunks on tensor cores, and a cache that is shorter than the run.
    let mamba2 = [
        ("V", 60),
        ("L", 1),
        ("C", 64),
        ("Hg", 4),
        ("P", 32),
        ("Ns", 24),
    ];
    let deltanet = [
        ("V", 60),
        ("L", 1),
        ("C", 64),
        ("H", 2),
        ("Dk", 24),
        ("Dv", 40),
        ("I", 72),
    ];
    for (file, axes, device) in [
        ("mamba2.toml", &mamba2[..], &slow),
        ("gated-deltanet.toml", &deltanet[..], &slow),
    ] {
        let graph = model(file, axes);
        let case = Case {
            name: file,
            graph: &graph,
            storage: Storage::Bf16,
            mode: Mode::Auto,
            batch: 1,
            times: &[71, 1],
            bound: 4e-2,
        };
        sound(&case, device, None);
    }
}
