//! The kernel that draws tokens gives those of the law in `sampling`, whatever the logits and settings.

use std::path::Path;

use fusec_codegen::draw::{self, SEQUENCE_BYTES, Sequence, Settings};
use fusec_codegen::manifest::MANIFEST_VERSION;
use fusec_codegen::{Element, KernelImage, Manifest};
use fusec_fuse::Storage;
use fusec_runtime::element::{decode, encode};
use fusec_runtime::emulator::{EmulatedModule, Emulator, EmulatorOptions, KernelArg, LaunchShape};
use fusec_runtime::sampling::{Sampling, SamplingError};
use fusec_runtime::toolchain::{Options, Source, Toolchain};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Drawn tokens of a sequence that are kept.
const KEPT: usize = 4;

/// The kernel for a type of logits.
struct Kernel {
    module: EmulatedModule,
    image: KernelImage,
    element: Element,
}

impl Kernel {
    fn image(element: Element) -> KernelImage {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            model: String::new(),
            storage: Storage::F32,
            prelude: String::new(),
            prelude_sha256: String::new(),
            kernels: Vec::new(),
            regimes: Vec::new(),
        };
        draw::kernel(&manifest, element).expect("its text")
    }

    fn new(element: Element) -> Self {
        let image = Self::image(element);
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
        let emulator = Emulator::new(&cache, EmulatorOptions::default()).expect("g++");
        let module = emulator.build(&[(&image.entry, &image.source)], "");
        Kernel {
            module: module.unwrap_or_else(|error| panic!("{error}")),
            image,
            element,
        }
    }
}

/// Sequences with their logits, and what is drawn from them.
#[derive(Clone, Debug)]
struct Draws {
    /// Of each sequence, `[width]`, of which the first `tokens` count.
    logits: Vec<Vec<f32>>,
    tokens: usize,
    seen: Vec<Vec<bool>>,
    position: u64,
    sampling: Sampling,
    steps: usize,
}

impl Draws {
    /// What the law gives, step by step: a token that was drawn was seen from then on.
    fn expected(&self) -> Vec<Vec<Result<u32, SamplingError>>> {
        let rows = self.logits.iter().zip(&self.seen).enumerate();
        rows.map(|(number, (logits, seen))| {
            let mut seen = seen.clone();
            let steps = (0..self.steps).map(|step| {
                let position = self.position + step as u64;
                let logits = &logits[..self.tokens];
                let token = self.sampling.next(logits, &seen, position, number as u32);
                if let Ok(token) = token {
                    seen[token as usize] = true;
                }
                token
            });
            steps.collect()
        })
        .collect()
    }

    /// What the kernel gives, its threads and blocks in an order by `order`.
    fn got(&self, kernel: &Kernel, order: u64) -> Vec<Vec<Result<u32, SamplingError>>> {
        let batch = self.logits.len();
        let mut logits = encode("logits", &self.logits.concat(), kernel.element).expect("logits");
        let settings = Settings {
            scale: match self.sampling.temperature {
                0.0 => 0.0,
                _ => self.sampling.scale(),
            },
            penalty: self.sampling.repetition_penalty,
            top_k: self.sampling.top_k,
            greedy: self.sampling.temperature == 0.0,
            share: self.sampling.share(),
            seed: self.sampling.seed,
        };
        let mut settings = settings.bytes();
        let mut records: Vec<u8> = Vec::new();
        for number in 0..batch {
            let sequence = Sequence {
                position: self.position,
                number: number as u32,
                ..Sequence::default()
            };
            records.extend(sequence.bytes());
        }
        let mut marks = vec![0u32; batch * self.tokens.div_ceil(32)];
        for (row, seen) in marks.chunks_mut(self.tokens.div_ceil(32)).zip(&self.seen) {
            for token in (0..self.tokens).filter(|token| seen[*token]) {
                row[token / 32] |= 1 << (token % 32);
            }
        }
        let mut next = vec![-1i32; batch];
        let mut drawn = vec![-7i32; batch * KEPT];
        let pointer = |at: *mut u8| KernelArg::Ptr(at.cast());
        for step in 0..self.steps {
            let args = [
                pointer(logits.as_mut_ptr()),
                pointer(next.as_mut_ptr().cast()),
                pointer(settings.as_mut_ptr()),
                pointer(records.as_mut_ptr()),
                pointer(drawn.as_mut_ptr().cast()),
                pointer(marks.as_mut_ptr().cast()),
                KernelArg::I64(self.logits[0].len() as i64),
                KernelArg::I64(self.tokens as i64),
                KernelArg::I64(KEPT as i64),
            ];
            let shape = LaunchShape {
                grid: [batch as u32, 1, 1],
                block: [kernel.image.threads, 1, 1],
                smem_bytes: kernel.image.shared_bytes,
                seed: order,
            };
            // SAFETY: the buffers have the sizes that the kernel is told.
            let launched = unsafe { kernel.module.launch(&kernel.image.entry, shape, &args) };
            launched.unwrap_or_else(|error| panic!("{error}"));
            for (row, next) in next.iter().enumerate() {
                let drawn = drawn[row * KEPT + step % KEPT];
                assert_eq!(*next, drawn.max(0), "the input of the next step");
            }
        }
        let rows = (0..batch).map(|row| {
            let record = &records[row * SEQUENCE_BYTES..][..SEQUENCE_BYTES];
            let record = Sequence::from_bytes(record.try_into().expect("a record"));
            assert_eq!(record.position, self.position + self.steps as u64);
            let steps = (0..self.steps).map(|step| match drawn[row * KEPT + step % KEPT] {
                token if token >= 0 => Ok(token as u32),
                _ => {
                    let (token, value) = record.fault.expect("why there is none");
                    let token = token as usize;
                    Err(SamplingError::NotFinite { token, value })
                }
            });
            steps.collect()
        });
        rows.collect()
    }

    fn check(&self, kernel: &Kernel, order: u64) {
        assert_eq!(
            self.got(kernel, order),
            self.expected(),
            "{:?}",
            self.sampling
        );
    }
}

/// Logits: a spread, tied ones, some beyond the others, all alike, and neighbours in f32.
fn logits(tokens: usize) -> impl Strategy<Value = Vec<f32>> {
    let spread = move |width: f32| prop::collection::vec(-width..width, tokens);
    let tied = prop::collection::vec((-3i8..3).prop_map(|l| f32::from(l) / 2.0), tokens);
    let close = prop::collection::vec(
        (0u32..3000).prop_map(|i| f32::from_bits(1.5f32.to_bits() + i)),
        tokens,
    );
    let extreme = prop::sample::select(vec![0.0f32, -0.0, 1e-40, 3e38, -3e38, 1.0, -1.0]);
    prop_oneof![
        4 => (0.1f32..40.0).prop_flat_map(spread),
        2 => tied,
        1 => close,
        1 => prop::collection::vec(extreme, tokens),
        1 => Just(vec![0.25; tokens]),
    ]
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![1 => Just(0.0f32), 6 => 0.05f32..3.0, 1 => Just(1e4f32)];
    let top_k = prop_oneof![2 => Just(0u32), 1 => Just(1), 4 => 1u32..60, 1 => 900u32..3000];
    let top_p = prop_oneof![2 => Just(1.0f32), 5 => 0.01f32..1.0, 1 => Just(1e-9f32)];
    let penalty = prop_oneof![1 => Just(1.0f32), 1 => 0.5f32..2.0];
    (temperature, top_k, top_p, penalty, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, repetition_penalty, seed)| Sampling {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            seed,
        },
    )
}

fn draws() -> impl Strategy<Value = Draws> {
    let tokens = prop_oneof![
        Just(1usize),
        Just(2),
        Just(33),
        2usize..300,
        1000usize..2500,
        Just(5000),
    ];
    let spare = prop_oneof![Just(0usize), Just(3)];
    let shape = (tokens, spare, 1usize..3);
    let sequences = shape.prop_flat_map(|(tokens, spare, batch)| {
        let row = logits(tokens).prop_map(move |mut logits| {
            // Beyond the tokens, nobody looks.
            logits.extend(vec![f32::MAX; spare]);
            logits
        });
        let rows = prop::collection::vec(row, batch);
        let seen = prop::collection::vec(
            prop::collection::vec(prop::bool::weighted(0.2), tokens),
            batch,
        );
        (rows, seen, Just(tokens))
    });
    let position = prop_oneof![0u64..100, any::<u64>().prop_map(|p| p >> 1)];
    (sequences, sampling(), position).prop_map(|((logits, seen, tokens), sampling, position)| {
        Draws {
            logits,
            tokens,
            seen,
            position,
            sampling,
            steps: 2,
        }
    })
}

/// `FUSEC_DRAWS=N` looks at so many cases.
fn cases() -> u32 {
    let given = std::env::var("FUSEC_DRAWS").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn the_kernel_draws_what_the_law_says() {
    let kernel = Kernel::new(Element::F32);
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&(draws(), 0u64..3), |(draws, order)| {
        prop_assert_eq!(draws.got(&kernel, order), draws.expected());
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Whatever the logits are stored as, the law sees them as f32.
#[test]
fn logits_of_16_bits_are_drawn_from() {
    for element in [Element::Bf16, Element::F16] {
        let kernel = Kernel::new(element);
        let logits = (0..2).map(|row| (0..700).map(move |i| ((i * 37 + row) % 101) as f32 / 9.0));
        let logits = logits.map(|row| {
            let row: Vec<f32> = row.collect();
            decode(&encode("logits", &row, element).expect("logits"), element)
        });
        let draws = Draws {
            logits: logits.collect(),
            tokens: 700,
            seen: vec![vec![false; 700]; 2],
            position: 5,
            sampling: Sampling {
                temperature: 0.8,
                top_k: 50,
                top_p: 0.9,
                repetition_penalty: 1.3,
                seed: 9,
            },
            steps: KEPT,
        };
        draws.check(&kernel, 1);
    }
}

/// The vocabulary of RWKV World, with more tied logits than a search compares with each other.
#[test]
fn a_large_vocabulary_is_drawn_from() {
    let kernel = Kernel::new(Element::F32);
    let tokens = 65_529;
    for (logits, top_k, top_p) in [
        (
            (0..tokens)
                .map(|i| ((i * 7919) % 4001) as f32 / 300.0)
                .collect(),
            0,
            0.9,
        ),
        (vec![0.0; tokens], 40_000, 0.3),
    ] {
        let draws = Draws {
            logits: vec![logits],
            tokens,
            seen: vec![vec![false; tokens]],
            position: 1 << 40,
            sampling: Sampling {
                temperature: 1.0,
                top_k,
                top_p,
                repetition_penalty: 1.1,
                seed: 3,
            },
            steps: 1,
        };
        draws.check(&kernel, 2);
    }
}

#[test]
fn a_logit_that_is_no_number_ends_the_sequence() {
    let kernel = Kernel::new(Element::F32);
    for value in [f32::INFINITY, f32::NEG_INFINITY] {
        let mut logits = vec![vec![1.0f32; 50], vec![2.0; 50]];
        logits[1][40] = f32::INFINITY;
        logits[1][17] = value;
        let draws = Draws {
            logits,
            tokens: 50,
            seen: vec![vec![false; 50]; 2],
            position: 0,
            sampling: Sampling::default(),
            steps: 1,
        };
        draws.check(&kernel, 0);
    }
    let draws = Draws {
        logits: vec![vec![0.0, f32::NAN, 1.0]],
        tokens: 3,
        seen: vec![vec![false; 3]],
        position: 0,
        sampling: Sampling::default(),
        steps: 1,
    };
    let got = draws.got(&kernel, 0).concat();
    assert!(
        matches!(got[..], [Err(SamplingError::NotFinite { token: 1, value })] if value.is_nan()),
        "{got:?}"
    );
}

#[test]
fn it_compiles_for_every_generation_without_spilling() {
    if std::env::var("FUSEC_OFFLINE_TESTS").is_ok_and(|value| value == "1") {
        return;
    }
    let toolchain = Toolchain::discover(&Options::from_env()).expect("NVRTC is found or fetched");
    for element in [Element::F32, Element::Bf16, Element::F16] {
        let image = Kernel::image(element);
        for arch in ["sm_75", "sm_90a", "sm_120"] {
            let source = Source {
                name: "draw_token.cu",
                text: &image.source,
                headers: &[],
            };
            let artifact = toolchain.compile(&source, arch.parse().expect("known"));
            let artifact = artifact.unwrap_or_else(|error| panic!("{arch}: {error}"));
            let resources = &artifact.resources[&image.entry];
            // As many registers as a block of its threads can have.
            assert!(resources.registers <= 64, "{arch}: {resources:?}");
            assert_eq!(resources.local_bytes, 0, "{arch}: {resources:?}");
        }
    }
}
