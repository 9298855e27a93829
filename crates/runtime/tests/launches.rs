//! Launches: what a plan says of a kernel's threads, shared memory and blocks is what its text is
//! launched with, and fits the device that it was planned for.

use common::root;
use fusec_codegen::{Planned, generate};
use fusec_fuse::{Device, Mode, Options, Shape, Storage, Submit, Target, plan};
use fusec_ir::Graph;
use fusec_ir::language::{ModelSource, Overrides, compile};

mod common;

fn model(name: &str, preset: Option<&str>) -> Graph {
    let path = root().join("models").join(format!("{name}.toml"));
    let source = ModelSource::from_path(&path).expect("a model");
    let overrides = Overrides {
        preset: preset.map(str::to_owned),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("models")).expect("the zoo");
    let paths = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| {
            path.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Plans and generates; every kernel is checked. Returns their number.
fn check(
    name: &str,
    graph: &Graph,
    device: &Device,
    storage: Storage,
    mode: Mode,
    shape: Shape,
) -> usize {
    let case = format!(
        "{name} {} {storage} {mode} B={} T={}",
        device.name, shape.batch, shape.time
    );
    let options = Options {
        shape,
        storage,
        mode,
        device,
        launch: Submit::Graph,
        pins: vec![],
    };
    let made = plan(graph, &options).unwrap_or_else(|why| panic!("{case}: {why}"));
    let regime = Planned {
        name: "all",
        min_time: 1,
        max_time: shape.longest_run(),
        graph: &made.graph,
        plan: &made.plan,
    };
    let manifest = generate(name, storage, &[regime]).unwrap_or_else(|why| panic!("{case}: {why}"));
    let target = Target::of(device);
    for step in &manifest.regimes[0].steps {
        let (image, kernel) = (
            &manifest.kernels[step.kernel],
            &made.plan.kernels[step.plan_kernel],
        );
        let at = format!("{case}: {}", kernel.name);
        let launch = kernel.launch;
        assert_eq!(image.threads, launch.threads, "{at}: threads");
        assert_eq!(
            image.shared_bytes, launch.shared_bytes,
            "{at}: shared memory"
        );
        let blocks: Option<u64> = step.lanes.iter().map(|lane| lane.count(shape)).sum();
        match kernel.phases.len() {
            1 => assert_eq!(blocks, Some(launch.blocks), "{at}: blocks"),
            // Blocks go on from phase to phase.
            _ => assert!(blocks >= Some(launch.blocks), "{at}: blocks"),
        }
        assert!((32..=1024).contains(&launch.threads), "{at}: {launch:?}");
        assert!(
            launch.shared_bytes as usize <= target.shared_bytes,
            "{at}: {launch:?}"
        );
        assert!(
            image.min_arch <= target.arch,
            "{at}: instructions of sm_{}",
            image.min_arch
        );
    }
    for step in &manifest.regimes[0].steps {
        let image = &manifest.kernels[step.kernel];
        let waits = starts_clean(&image.source).unwrap_or_else(|line| {
            panic!(
                "{case}: {}: before it waits for the kernel before: {line}",
                image.name
            )
        });
        assert_eq!(waits, step.early, "{case}: {}", image.name);
    }
    manifest.regimes[0].steps.len()
}

/// Whether a text waits for the kernel before it. Whatever stands before that in a function, or in the kernel
/// itself, must be about constants (`w_`); the first line that is not is the error.
fn starts_clean(source: &str) -> Result<bool, String> {
    const WAIT: &str = "grid_dependency_wait();";
    // What kernels write, and what others read of it.
    const WRITTEN: [&str; 4] = ["g_", "state_", "tail_", "new_tail_"];
    let written = |code: &str| {
        let mut words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.any(|word| WRITTEN.iter().any(|prefix| word.starts_with(prefix)))
    };
    let (mut waits, mut head, mut early) = (false, false, None);
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or("").trim_end();
        head |= code.starts_with("static __device__") || code.starts_with("extern \"C\"");
        if head {
            // A body begins behind its parameters.
            head = !code.ends_with(") {");
            early = None;
        } else if code.contains(WAIT) {
            waits = true;
            if let Some(line) = early.take() {
                return Err(line);
            }
        } else if written(code) && !code.contains("block < blocks_") {
            // Calls of other functions, for other blocks, apart.
            early.get_or_insert_with(|| line.to_string());
        }
    }
    Ok(waits)
}

#[test]
fn a_kernel_that_reads_before_it_waits_is_seen() {
    let text = |first: &str| {
        format!(
            "f(\n    const i64 T) {{\n    {first}\n    grid_dependency_wait();\n    x = g_x[0];\n}}\n"
        )
    };
    let cases = [
        ("prefetch_share<8>(w_gain, 64);", Ok(true)),
        (
            "const float x = g_x[0];",
            Err("    const float x = g_x[0];".to_string()),
        ),
        (
            "load_vec(state_S + 4, S);",
            Err("    load_vec(state_S + 4, S);".to_string()),
        ),
        ("// g_x is for later", Ok(true)),
    ];
    for (first, expected) in cases {
        assert_eq!(starts_clean(&text(first)), expected, "{first}");
    }
    assert_eq!(
        starts_clean("extern \"C\" f(\n    const i64 T) {\n    y[0] = g_x[0];\n}\n"),
        Ok(false)
    );
}

const SHAPES: [Shape; 3] = [
    Shape { batch: 1, time: 1 },
    Shape { batch: 8, time: 1 },
    Shape {
        batch: 8,
        time: 2048,
    },
];

#[test]
fn every_kernel_fits_the_device_that_it_is_planned_for() {
    let mut kernels = 0;
    for name in names() {
        let graph = model(&name, None);
        for device in Device::names() {
            let device = Device::find(device).expect("a profile");
            let half = match device.arch.as_str() {
                "sm_75" => Storage::F16,
                _ => Storage::Bf16,
            };
            for storage in [Storage::F32, half] {
                for shape in SHAPES {
                    kernels += check(&name, &graph, &device, storage, Mode::Greedy, shape);
                }
            }
        }
    }
    assert!(kernels > 10_000, "{kernels}");
}

#[test]
fn large_models_fit_devices_with_little_shared_memory() {
    for (name, preset) in [("rwkv7", "1.5b"), ("mamba2", "1.3b")] {
        let graph = model(name, Some(preset));
        for (device, storage) in [("rtx4090", Storage::Bf16), ("t4", Storage::F16)] {
            let device = Device::find(device).expect("a profile");
            for shape in [
                Shape { batch: 8, time: 1 },
                Shape {
                    batch: 1,
                    time: 2048,
                },
            ] {
                check(name, &graph, &device, storage, Mode::Auto, shape);
            }
        }
    }
}
