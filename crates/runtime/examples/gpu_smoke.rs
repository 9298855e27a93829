//! A first look at a GPU: the small model of the executor's tests, compiled and run there,
//! against the interpreter.
//!
//!     gpu_smoke compile DIR ARCH...   where the compiler is
//!     gpu_smoke run DIR               where the GPU is
//!
//! Exit status 1 and a line beginning with FAIL when anything is wrong.

#[path = "../tests/executor/sample.rs"]
mod sample;

use fusec_codegen::{Element, Manifest};
use fusec_fuse::{Shape, Storage};
use fusec_ir::interpret::{Input, Interpreter, Keep, State};
use fusec_runtime::executor::gpu::{GpuDevice, GpuError, GpuOptions, Timing, gpus};
use fusec_runtime::executor::{Device, ExecuteError, Executor, Fetch, HostState};
use fusec_runtime::plan_dir::{Cubins, PlanDir, read_plan_dir, write_plan_dir};
use fusec_runtime::toolchain::{Header, Options, Source, Toolchain};
use fusec_runtime::weights::Weights;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

type Outcome = Result<(), Box<dyn Error>>;

const STORAGES: [Storage; 3] = [Storage::F32, Storage::Bf16, Storage::F16];

/// A kernel that writes where it must not.
const FAULTY: &str = "*reinterpret_cast<volatile float*>(i64(16)) = 1.0f;";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["compile", dir, archs @ ..] if !archs.is_empty() => compile(Path::new(dir), archs),
        ["run", dir] => run(Path::new(dir)),
        _ => Err("usage: gpu_smoke compile DIR ARCH... | gpu_smoke run DIR".into()),
    };
    match outcome {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The sample with a scan whose blocks must all be resident, so that this kind of launch is
/// tried as well.
fn cooperative(storage: Storage) -> Manifest {
    let mut manifest = sample::manifest(storage);
    manifest.regimes[1].steps[2].cooperative = true;
    manifest
}

fn faulty() -> Manifest {
    let mut manifest = sample::manifest(Storage::F32);
    let kernel = &mut manifest.kernels[3];
    let first = "const i64 b = blockIdx.x;";
    kernel.source = kernel.source.replace(first, &format!("{first} {FAULTY}"));
    kernel.source_sha256 = fusec_runtime::plan_dir::sha256(kernel.source.as_bytes());
    manifest
}

fn manifests() -> Vec<(String, Manifest)> {
    let mut all: Vec<_> = STORAGES
        .iter()
        .map(|storage| (storage.to_string(), cooperative(*storage)))
        .collect();
    all.push(("faulty".into(), faulty()));
    all
}

fn compile(dir: &Path, archs: &[&str]) -> Outcome {
    let toolchain = Toolchain::discover(&Options::from_env())?;
    for (name, manifest) in manifests() {
        let mut cubins = Cubins::new();
        for arch in archs {
            let mut images = BTreeMap::new();
            for kernel in manifest.images() {
                let source = Source {
                    name: &format!("{}.cu", kernel.name),
                    text: &kernel.source,
                    headers: &[Header::prelude(&manifest)],
                };
                let artifact = toolchain.compile(&source, arch.parse()?)?;
                images.insert(kernel.name.clone(), artifact.cubin);
            }
            cubins.insert((*arch).to_owned(), images);
        }
        let compiled = PlanDir {
            manifest,
            plans: vec![],
            device: fusec_fuse::Device::find("h200")?,
            text: "the executor's sample\n".into(),
            tuned: None,
            cubins,
        };
        write_plan_dir(&dir.join(&name), &compiled)?;
        println!("wrote {}", dir.join(&name).display());
    }
    Ok(())
}

fn run(dir: &Path) -> Outcome {
    for gpu in gpus()? {
        println!("{gpu:?}");
    }
    let missing = GpuDevice::open(
        99,
        &sample::manifest(Storage::F32),
        &BTreeMap::new(),
        GpuOptions::default(),
    );
    println!("cuda:99: {}", missing.err().ok_or("cuda:99 was opened")?);
    let poisoned = GpuOptions {
        poison: true,
        ..GpuOptions::default()
    };
    let streamed = GpuOptions {
        recorded_runs: 0,
        ..GpuOptions::default()
    };
    for storage in STORAGES {
        for options in [GpuOptions::default(), streamed, poisoned] {
            against_interpreter(dir, storage, options)?;
        }
    }
    too_large(dir)?;
    timing(dir)?;
    fault(dir)
}

fn weights() -> Result<Weights, Box<dyn Error>> {
    // Exact in every storage type, so that one reference answers for all.
    let graph = sample::graph();
    let weights = Weights::random(&graph, 1)?.rounded(&graph, Element::Bf16)?;
    Ok(weights.rounded(&graph, Element::F16)?)
}

fn executor(
    dir: &Path,
    name: &str,
    options: GpuOptions,
    shape: Shape,
) -> Result<Executor<GpuDevice>, Box<dyn Error>> {
    let place = dir.join(name);
    let compiled = read_plan_dir(&place)?;
    let (major, minor) = gpus()?.first().ok_or("no GPU")?.compute_capability;
    let plain = format!("sm_{major}{minor}");
    let specific = format!("{plain}a");
    let cubins = compiled
        .cubins_for(&specific, &place)
        .or_else(|_| compiled.cubins_for(&plain, &place))?;
    let device = GpuDevice::open(0, &compiled.manifest, cubins, options)?;
    Ok(Executor::new(
        device,
        compiled.manifest.clone(),
        &weights()?,
        shape,
    )?)
}

fn against_interpreter(dir: &Path, storage: Storage, options: GpuOptions) -> Outcome {
    let graph = sample::graph();
    let batch = 3;
    let shape = Shape { batch, time: 4 };
    let mut executor = executor(dir, &storage.to_string(), options, shape)?;
    let interpreter = Interpreter::<f32>::new(&graph, weights()?.into_params())?;
    let mut state = State::zero(&graph, batch);
    let mut how = Vec::new();
    let mut worst = 0f32;
    // Every shape often enough to be recorded and repeated at another position; then longer ones,
    // which make the arena move.
    let times = [1, 1, 1, 1, 1, 7, 7, 7, 7, 7, 300, 7, 7, 7, 1, 1, 1];
    for (at, time) in times.into_iter().enumerate() {
        let ids = sample::ids(batch, time, at);
        let inputs = BTreeMap::from([(graph.inputs[0], Input::Ids(&ids))]);
        let want = interpreter.run(&mut state, batch, time, &inputs, Keep::Outputs)?;
        let want = want.values[&graph.outputs[0]].numbers().ok_or("numbers")?;
        let result = executor.run(time, &[Input::Ids(&ids)], Fetch::All)?;
        let got = result.outputs[0].numbers().ok_or("numbers")?;
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (got - want).abs() / want.abs().max(1.0);
            if error.is_nan() || error > 1e-5 {
                return Err(format!("run {at} T={time} element {i}: {got}, want {want}").into());
            }
            worst = worst.max(error);
        }
        how.push(format!("{:?}", result.submission));
        // Half way, everything moves to a fresh start.
        if at == 8 {
            let saved = executor.save_state()?;
            executor.reset(1)?;
            executor.load_state(&saved)?;
        }
    }
    let saved = executor.save_state()?;
    let want = HostState::from(state);
    if saved.position != want.position {
        return Err("positions differ".into());
    }
    println!(
        "{}: {storage} {options:?}: {} runs, worst error {worst:.1e}, {}",
        executor.device().name(),
        times.len(),
        how.join(" ")
    );
    Ok(())
}

fn too_large(dir: &Path) -> Outcome {
    let shape = Shape {
        batch: 1 << 14,
        time: 1 << 24,
    };
    match executor(dir, "f32", GpuOptions::default(), shape) {
        Err(error) => println!("too large: {error}"),
        Ok(_) => return Err("22 TB were allocated".into()),
    }
    Ok(())
}

fn timing(dir: &Path) -> Outcome {
    let shape = Shape {
        batch: 64,
        time: 512,
    };
    let mut executor = executor(dir, "f32", GpuOptions::default(), shape)?;
    let before = executor.save_state()?;
    for time in [1, 512] {
        let ids = sample::ids(shape.batch, time, 0);
        let timing = Timing {
            warmups: 10,
            runs: 20,
            cold: false,
            longest: None,
        };
        let times = executor.time_run(time, &[Input::Ids(&ids)], timing)?;
        let mut ms = times.milliseconds.clone();
        ms.sort_by(f32::total_cmp);
        println!(
            "T={time}: {:?}, median {} ms of {ms:?}",
            times.submission,
            ms[ms.len() / 2]
        );
        for cold in [false, true] {
            let steps = executor.time_steps(time, &[Input::Ids(&ids)], 20, cold)?;
            println!("T={time} cold={cold}: {steps:?}");
        }
    }
    if executor.save_state()? != before {
        return Err("timing changed the state".into());
    }
    Ok(())
}

/// Last: after it the context is of no use.
fn fault(dir: &Path) -> Outcome {
    let shape = Shape { batch: 1, time: 4 };
    let mut executor = executor(dir, "faulty", GpuOptions::default(), shape)?;
    let ids = sample::ids(1, 4, 0);
    executor.run(4, &[Input::Ids(&ids)], Fetch::All)?;
    let error = executor
        .run(1, &[Input::Ids(&ids[..1])], Fetch::All)
        .err()
        .ok_or("no fault")?;
    println!("fault: {error}");
    if !error.to_string().contains("`step`") {
        return Err("the fault does not name its kernel".into());
    }
    let again = executor
        .reset(1)
        .err()
        .ok_or("the device was used after a fault")?;
    println!("after: {again}");
    match again {
        ExecuteError::Gpu(error) if matches!(*error, GpuError::GivenUp { .. }) => Ok(()),
        other => Err(format!("another error: {other}").into()),
    }
}
