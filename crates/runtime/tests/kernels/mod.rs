//! Operands and results of kernels that a test launches by itself.

#![allow(dead_code, reason = "each test uses a part of what is here")]

use std::path::Path;

use fusec_codegen::Element;
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::toolchain::{Artifact, Options, Source, Toolchain};

/// The C type of stored elements.
pub fn c_type(element: Element) -> &'static str {
    match element {
        Element::F32 => "float",
        Element::Bf16 => "bf16_t",
        Element::F16 => "f16_t",
        Element::I32 => "i32",
    }
}

/// Uniform numbers in [-1, 1).
pub struct Draw(pub u32);

impl Draw {
    /// The next one.
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Elements of a storage type, and what they are as numbers.
pub struct Tensor {
    /// As they lie in memory.
    pub bytes: Vec<u8>,
    /// As numbers, rounded to the storage type.
    pub values: Vec<f64>,
}

/// Numbers rounded to a storage type.
pub fn tensor(storage: Element, numbers: impl Iterator<Item = f32>) -> Tensor {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for x in numbers {
        match storage {
            Element::Bf16 => {
                let x = half::bf16::from_f32(x);
                bytes.extend(x.to_le_bytes());
                values.push(x.to_f64());
            }
            Element::F16 => {
                let x = half::f16::from_f32(x);
                bytes.extend(x.to_le_bytes());
                values.push(x.to_f64());
            }
            Element::F32 | Element::I32 => {
                bytes.extend(x.to_le_bytes());
                values.push(f64::from(x));
            }
        }
    }
    Tensor { bytes, values }
}

/// A matrix of drawn numbers. Kernels may use 16-byte accesses on what the allocator aligned to at
/// least 16 bytes.
pub fn matrix(elements: usize, storage: Element, seed: u32) -> Tensor {
    let mut draw = Draw(seed.wrapping_mul(2_654_435_761).wrapping_add(99));
    let matrix = tensor(storage, (0..elements).map(|_| draw.next()));
    assert_eq!(matrix.bytes.as_ptr().align_offset(16), 0);
    matrix
}

/// bf16 numbers that an operand of this type is split into.
pub fn pieces(storage: Element) -> usize {
    match storage {
        Element::Bf16 => 1,
        Element::F16 => 2,
        Element::F32 | Element::I32 => 3,
    }
}

/// Relative L2 distance.
pub fn distance(got: &[f32], expected: &[f64]) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (g, e) in got.iter().zip(expected) {
        error += (f64::from(*g) - e).powi(2);
        norm += e * e;
    }
    (error / norm.max(1e-30)).sqrt()
}

/// The emulator, with a cache.
pub fn emulator() -> Emulator {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    Emulator::new(&cache, EmulatorOptions::default()).expect("g++ is installed where the tests run")
}

/// NVRTC; `None` where tests are offline.
pub fn nvrtc() -> Option<Toolchain> {
    let offline = std::env::var("FUSEC_OFFLINE_TESTS").is_ok_and(|value| value == "1");
    (!offline)
        .then(|| Toolchain::discover(&Options::from_env()).expect("NVRTC is found or fetched"))
}

/// The text of `fusec_NAME`, compiled; `what` says of which case.
pub fn compiled(toolchain: &Toolchain, name: &str, text: &str, arch: &str, what: &str) -> Artifact {
    let source = Source {
        name: &format!("{name}.cu"),
        text,
        headers: &[],
    };
    let artifact = toolchain
        .compile(&source, arch.parse().expect("known"))
        .unwrap_or_else(|error| panic!("{what} {arch}: {error}"));
    let kernel = format!("fusec_{name}");
    assert!(
        artifact.resources.contains_key(&kernel),
        "{what} {arch}: {:?}",
        artifact.resources
    );
    artifact
}
