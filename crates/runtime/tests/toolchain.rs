//! The toolchain as a whole, with the real NVRTC: found or fetched, compiling, cached.
//!
//! A machine that has no NVRTC and cannot fetch one fails these tests. `FUSEC_OFFLINE_TESTS=1`
//! leaves them out, and says so.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use fusec_runtime::cubin::{self, Parameter, Spills};
use fusec_runtime::toolchain::{
    Arch, CacheState, Options, Origin, Source, Toolchain, ToolchainError, fetch, ptxas,
};

/// Three kernels that differ in what they use.
const KERNELS: &str = r#"
extern "C" __global__ void __launch_bounds__(128) rotate(float* y, const float* x, int n) {
  __shared__ float row[256];
  row[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = row[(threadIdx.x + 1) % 128] * n;
}

extern "C" __global__ void __launch_bounds__(1024, 1)
spilling(float* y, const float* x, int n) {
  float a[96];
  for (int k = 0; k < 96; k++) a[k] = x[k * n + threadIdx.x];
  for (int r = 0; r < n; r++) {
#pragma unroll
    for (int k = 0; k < 96; k++) a[k] = a[k] * a[(k * 7 + 1) % 96] + 1.0f;
  }
  float sum = 0.0f;
  for (int k = 0; k < 96; k++) sum += a[k];
  y[threadIdx.x] = sum;
}

extern "C" __global__ void dynamic(int* y) {
  extern __shared__ int row[];
  row[threadIdx.x] = y[1];
  __syncthreads();
  y[threadIdx.x] = row[3];
}
"#;

fn source() -> Source<'static> {
    Source {
        name: "kernels.cu",
        text: KERNELS,
        headers: &[],
    }
}

fn arch(name: &str) -> Arch {
    name.parse().unwrap()
}

/// Whether this run has to do without NVRTC.
fn offline(test: &str) -> bool {
    let offline = std::env::var("FUSEC_OFFLINE_TESTS").is_ok_and(|value| value == "1");
    if offline {
        // Not `eprintln!`: the test harness would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN, since FUSEC_OFFLINE_TESTS=1: {test}"
        );
    }
    offline
}

/// NVRTC as this machine has it, with a cubin cache of its own in `cache`.
fn toolchain(cache: &Path) -> Toolchain {
    let found = Toolchain::discover(&Options {
        no_cubin_cache: true,
        ..Options::from_env()
    })
    .unwrap_or_else(|error| {
        panic!("these tests need NVRTC (FUSEC_OFFLINE_TESTS=1 leaves them out): {error}")
    });
    let options = Options {
        nvrtc: Some(found.info().nvrtc.path.clone()),
        cache_dir: Some(cache.to_owned()),
        ..Options::default()
    };
    Toolchain::discover(&options).unwrap()
}

#[test]
fn compiles_for_every_generation_and_reads_what_the_kernels_use() {
    if offline("compiling real kernels") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let toolchain = toolchain(dir.path());
    for name in ["sm_75", "sm_80", "sm_89", "sm_90", "sm_90a", "sm_120a"] {
        let artifact = toolchain.compile(&source(), arch(name)).unwrap();
        let kernels: Vec<&String> = artifact.resources.keys().collect();
        assert_eq!(kernels, ["dynamic", "rotate", "spilling"], "{name}");

        let rotate = &artifact.resources["rotate"];
        assert_eq!(rotate.shared_bytes, 1024, "{name}");
        let reserved = if arch(name).number() >= 90 { 1024 } else { 0 };
        assert_eq!(rotate.reserved_shared_bytes, reserved, "{name}");
        assert_eq!(rotate.max_threads, Some(128), "{name}");
        assert_eq!(rotate.param_bytes, 20, "{name}");
        let pointer = |offset| Parameter { offset, bytes: 8 };
        let int = Parameter {
            offset: 16,
            bytes: 4,
        };
        assert_eq!(rotate.params, [pointer(0), pointer(8), int], "{name}");
        assert_eq!(rotate.spills, Some(Spills::default()), "{name}");
        assert_eq!(rotate.local_bytes, 0, "{name}");
        assert!(rotate.constant_bytes >= 20, "{name}");

        assert_eq!(artifact.resources["dynamic"].shared_bytes, 0, "{name}");
        assert_eq!(artifact.resources["dynamic"].max_threads, None, "{name}");

        let spilling = &artifact.resources["spilling"];
        let spills = spilling.spills.unwrap();
        assert!(
            spills.store_bytes > 0 && spills.load_bytes > 0,
            "{name}: {spilling:?}"
        );
        assert!(spilling.local_bytes > 0, "{name}: {spilling:?}");
        assert!(spilling.registers <= 64, "{name}: {spilling:?}");

        // Two sources for the same figures: the cubin's attributes and the compiler's words.
        let reports = ptxas::parse_ptxas_log(&artifact.log);
        assert_eq!(reports.len(), 3, "{name}: {}", artifact.log);
        for report in reports {
            let found = &artifact.resources[&report.kernel];
            assert_eq!(
                report.registers,
                Some(found.registers),
                "{name}: {report:?}"
            );
            assert_eq!(
                report.stack_bytes,
                Some(found.local_bytes),
                "{name}: {report:?}"
            );
            let shared = u64::from(report.shared_bytes.unwrap_or(0));
            assert_eq!(shared, found.shared_bytes, "{name}: {report:?}");
        }
    }
}

#[test]
fn the_same_source_gives_the_same_bytes_wherever_it_is_compiled() {
    if offline("comparing cubins") {
        return;
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = toolchain(one.path())
        .compile(&source(), arch("sm_90a"))
        .unwrap();
    let second = toolchain(two.path())
        .compile(&source(), arch("sm_90a"))
        .unwrap();
    assert_eq!(first, second);
    let current_dir = std::env::current_dir().unwrap().display().to_string();
    let written = first
        .cubin
        .windows(current_dir.len())
        .any(|at| at == current_dir.as_bytes());
    assert!(!written, "the cubin names the directory it was compiled in");
}

#[test]
fn the_cache_answers_the_second_time_and_survives_damage() {
    if offline("the cubin cache with real cubins") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let toolchain = toolchain(dir.path());
    let cubins = dir.path().join("cubin");
    assert_eq!(
        toolchain.info().cubin_cache,
        CacheState::Ready {
            dir: cubins.clone()
        }
    );

    let first = toolchain.compile(&source(), arch("sm_80")).unwrap();
    let second = toolchain.compile(&source(), arch("sm_80")).unwrap();
    assert!(!first.cached && second.cached);
    assert_eq!(
        (&first.cubin, &first.resources),
        (&second.cubin, &second.resources)
    );
    assert!(!toolchain.compile(&source(), arch("sm_86")).unwrap().cached);

    for entry in fs::read_dir(&cubins).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let third = toolchain.compile(&source(), arch("sm_80")).unwrap();
    assert!(!third.cached);
    assert_eq!(third.cubin, first.cubin);
    assert!(toolchain.compile(&source(), arch("sm_80")).unwrap().cached);
}

#[test]
fn an_unusable_cache_is_reported_and_compiling_goes_on() {
    if offline("compiling without a cache") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let toolchain = toolchain(&file);
    let CacheState::Unusable { reason } = &toolchain.info().cubin_cache else {
        panic!("{:?}", toolchain.info())
    };
    assert!(reason.contains(&file.display().to_string()), "{reason}");
    assert!(!toolchain.compile(&source(), arch("sm_80")).unwrap().cached);
}

#[test]
fn errors_carry_the_place_and_stay_with_their_source() {
    if offline("compiling wrong sources") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let toolchain = toolchain(dir.path());
    let names: Vec<String> = (0..12).map(|index| format!("k{index}.cu")).collect();
    let texts: Vec<String> = (0..12)
        .map(|index| match index {
            3 => "extern \"C\" __global__ void k3(float* y) {\n  y[0] = missing;\n}\n".to_owned(),
            7 => "int nul\0byte;".to_owned(),
            _ => format!("extern \"C\" __global__ void k{index}(int* y) {{ y[0] = {index}; }}\n"),
        })
        .collect();
    let sources: Vec<Source<'_>> = names
        .iter()
        .zip(&texts)
        .map(|(name, text)| Source {
            name,
            text,
            headers: &[],
        })
        .collect();
    let results = toolchain
        .compile_all(&sources, arch("sm_80"), || {})
        .unwrap();
    assert_eq!(results.len(), sources.len());
    for (index, result) in results.into_iter().enumerate() {
        match (index, result) {
            (3, Err(error)) => {
                let text = error.to_string();
                assert!(
                    text.contains("k3.cu(2): error") && text.contains("missing"),
                    "{text}"
                );
                assert!(!error.is_unavailable());
            }
            (7, Err(error)) => {
                let text = error.to_string();
                assert!(text.contains("k7.cu") && text.contains("NUL"), "{text}");
            }
            (_, Ok(artifact)) => {
                assert!(artifact.resources.contains_key(&format!("k{index}")));
            }
            (_, Err(error)) => panic!("{index}: {error}"),
        }
    }
}

#[test]
fn a_damaged_cubin_is_an_error_or_a_reading_never_a_panic() {
    if offline("reading damaged cubins") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sound = toolchain(dir.path())
        .compile(&source(), arch("sm_90a"))
        .unwrap()
        .cubin;
    for length in (0..sound.len()).step_by(97) {
        assert!(
            cubin::resources(&sound[..length]).is_err(),
            "cut at {length}"
        );
    }
    let mut damaged = sound.clone();
    for at in 0..sound.len() {
        damaged[at] ^= 0xff;
        let _ = cubin::resources(&damaged);
        damaged[at] ^= 0xff;
    }
    // An address that no allocator gives: the reader must not rely on alignment.
    let shifted = [b"x".as_slice(), &sound].concat();
    assert_eq!(cubin::resources(&shifted[1..]), cubin::resources(&sound));
}

#[test]
fn fetches_once_for_all_processes_and_then_needs_no_network() {
    if offline("fetching NVRTC") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let killed = dir.path().join("nvrtc/.fusec-partial-killed");
    fs::create_dir_all(killed.join("wheels")).unwrap();
    let fetched: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| fetch::fetch(dir.path())))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect()
    });
    let library = fetch::directory(dir.path()).join("libnvrtc.so.13");
    assert!(fetched.iter().all(|path| *path == library), "{fetched:?}");

    let offline = Options {
        offline: true,
        cache_dir: Some(dir.path().to_owned()),
        ..Options::default()
    };
    let toolchain = Toolchain::discover(&offline).unwrap();
    assert_eq!(toolchain.info().nvrtc.origin, Origin::Fetched);
    toolchain.compile(&source(), arch("sm_90a")).unwrap();

    // Nothing but the library and the lock stays behind, not even of a fetch that was killed.
    let mut left: Vec<_> = fs::read_dir(dir.path().join("nvrtc"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", "13.5.37"]);

    // A copy that was cut short is neither loaded nor silently replaced by nothing.
    let other = tempfile::tempdir().unwrap();
    let copy = fetch::directory(other.path());
    fs::create_dir_all(&copy).unwrap();
    fs::write(copy.join("libnvrtc.so.13"), "cut short").unwrap();
    let options = Options {
        cache_dir: Some(other.path().to_owned()),
        ..offline
    };
    let error = Toolchain::discover(&options).unwrap_err();
    assert!(error.is_unavailable());
    let text = error.to_string();
    assert!(
        text.contains("9 bytes instead of") && text.contains("--offline"),
        "{text}"
    );
}

#[test]
fn without_nvrtc_and_offline_the_error_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        offline: true,
        cache_dir: Some(dir.path().to_owned()),
        ..Options::default()
    };
    let error = Toolchain::discover(&options).unwrap_err();
    assert!(matches!(error, ToolchainError::Offline { .. }), "{error:?}");
    assert!(error.is_unavailable());
    let text = error.to_string();
    for part in [
        "no NVRTC",
        "--offline",
        "nvidia-cuda-nvrtc 13.5.37",
        "FUSEC_NVRTC",
        "pip",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[test]
fn a_named_library_is_used_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        nvrtc: Some(dir.path().join("absent")),
        cache_dir: Some(dir.path().to_owned()),
        ..Options::from_env()
    };
    let error = Toolchain::discover(&options).unwrap_err();
    assert!(matches!(error, ToolchainError::Explicit(_)), "{error:?}");
    assert!(error.is_unavailable());
}
