//! The chunked recurrence against a plain loop over tokens, in the emulator: sizes that divide nothing,
//! decays from 0 to 1, states carried in and out, every storage type.

use fusec_codegen::Element;
use fusec_codegen::chunked::{Chunked, Decay};
use fusec_codegen::prelude::with_prelude;
use fusec_fuse::chunked::staging::Room;
use fusec_runtime::emulator::{Emulator, KernelArg, LaunchShape};
use kernels::{Draw, Tensor, c_type, compiled, distance, emulator, nvrtc, pieces, tensor};

mod kernels;

/// Which decays the case draws.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decays {
    /// Anything in (0, 1).
    Mixed,
    /// exp(-60) at every step: the past is gone at once, its inverse overflows after two.
    Tiny,
    /// 1 - 1e-4 u: all of the past counts.
    NearOne,
    /// Exactly 0, exactly 1 and between, in turns.
    Extremes,
}

/// One case of the table: sequences, heads, tokens, sizes.
#[derive(Clone, Copy, Debug)]
struct Case {
    steps: usize,
    key: usize,
    value: usize,
    /// Value columns of a block.
    tile: usize,
    chunk: usize,
    warps: usize,
    /// Threads of the block that do not work.
    surplus: usize,
    decay: Decay,
    decays: Decays,
    before: bool,
    bonus: bool,
    storage: Element,
}

const CASE: Case = Case {
    steps: 300,
    key: 64,
    value: 64,
    tile: 64,
    chunk: 64,
    warps: 4,
    surplus: 0,
    decay: Decay::PerKey,
    decays: Decays::Mixed,
    before: false,
    bonus: false,
    storage: Element::F32,
};

const BATCH: usize = 2;
const HEADS: usize = 2;

fn decay(decays: Decays, at: usize, draw: &mut Draw) -> f32 {
    let u = draw.next() * 0.5 + 0.5;
    match decays {
        Decays::Mixed => (-(6.0 * u - 4.0).exp()).exp(),
        Decays::Tiny => (-60.0f32).exp(),
        Decays::NearOne => 1.0 - 1e-4 * u,
        Decays::Extremes => match at % 7 {
            0 => 0.0,
            1..=4 => 1.0,
            _ => u,
        },
    }
}

fn chunked(case: Case) -> Chunked {
    let Case { key, value, .. } = case;
    let key_at = format!("((b * T + t) * {HEADS} + h) * {key} + kj");
    let value_at = format!("((b * T + t) * {HEADS} + h) * {value} + i0 + vi");
    let state_at = format!("((b * {HEADS} + h) * {key} + kj) * {value} + i0 + vi");
    let per_key = case.decay == Decay::PerKey;
    let decay = "decay_element = to_f32(decay[((b * T + t) * HEADS_OF_DECAY + h)]);"
        .replace("HEADS_OF_DECAY", &HEADS.to_string());
    Chunked {
        key,
        value: case.tile,
        chunk: case.chunk,
        warps: case.warps,
        block_threads: 32 * case.warps + case.surplus,
        pieces: pieces(case.storage),
        decay: case.decay,
        before: case.before,
        steps: "T".into(),
        segments: None,
        tokens: String::new(),
        ahead: String::new(),
        late: false,
        keys_first: case.before,
        room: Room::default(),
        setup: "const float scale = 0.5f;".into(),
        keys: format!(
            "q_element = to_f32(q[{key_at}]) * scale;\nk_element = to_f32(k[{key_at}]);\n{}",
            if per_key {
                format!("decay_element = decay[{key_at}];")
            } else {
                String::new()
            }
        ),
        token_decay: decay,
        values: format!("v_element = to_f32(v[{value_at}]);"),
        bonus: case
            .bonus
            .then(|| format!("bonus_element = bonus[h * {key} + kj];")),
        load_state: format!("s_element = state_in[{state_at}];"),
        store_state: format!("state_out[{state_at}] = s_element;"),
        epilogue: format!(
            "for (int vi = lane; live && vi < {}; vi += 32) y[{value_at}] = y_row[vi];",
            case.tile
        ),
    }
}

fn source(case: Case) -> String {
    let body = chunked(case)
        .render()
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({}) fusec_recurrence(const {x}* __restrict__ q, const {x}* __restrict__ k, \
         const {x}* __restrict__ v, const float* __restrict__ decay, const float* __restrict__ bonus, \
         const float* __restrict__ state_in, float* __restrict__ state_out, float* __restrict__ y, i64 T) {{\n    \
         FUSEC_DYNAMIC_SMEM(smem);\n    const int i0 = blockIdx.x % {tiles} * {tile};\n    \
         const int h = blockIdx.x / {tiles} % {HEADS};\n    const i64 b = blockIdx.x / {tiles} / {HEADS};\n{body}}}\n",
        chunked(case).block_threads,
        x = c_type(case.storage),
        tile = case.tile,
        tiles = case.value / case.tile,
    ))
}

/// The recurrence as it is written: y and the final state.
fn reference(case: Case, data: &[Tensor; 6]) -> (Vec<f64>, Vec<f64>) {
    let Case {
        steps, key, value, ..
    } = case;
    let [q, k, v, decay, bonus, initial] = data;
    let mut state = initial.values.clone();
    let mut y = vec![0.0; BATCH * steps * HEADS * value];
    for b in 0..BATCH {
        for t in 0..steps {
            for h in 0..HEADS {
                let at = (b * steps + t) * HEADS + h;
                for j in 0..key {
                    let d = match case.decay {
                        Decay::PerKey => decay.values[at * key + j],
                        Decay::PerToken => decay.values[at],
                    };
                    let u = if case.bonus {
                        bonus.values[h * key + j]
                    } else {
                        0.0
                    };
                    for i in 0..value {
                        let s = &mut state[((b * HEADS + h) * key + j) * value + i];
                        let kv = k.values[at * key + j] * v.values[at * value + i];
                        let old = *s;
                        *s = d * old + kv;
                        let read = if case.before { old } else { *s };
                        y[at * value + i] += 0.5 * q.values[at * key + j] * (read + u * kv);
                    }
                }
            }
        }
    }
    (y, state)
}

fn data(case: Case) -> [Tensor; 6] {
    let Case {
        steps, key, value, ..
    } = case;
    let rows = BATCH * steps * HEADS;
    let mut draw = Draw(17);
    let mut uniform = |storage, n: usize, scale: f32| {
        let numbers: Vec<f32> = (0..n).map(|_| draw.next() * scale).collect();
        tensor(storage, numbers.into_iter())
    };
    let q = uniform(case.storage, rows * key, 1.0);
    let k = uniform(case.storage, rows * key, 1.0);
    let v = uniform(case.storage, rows * value, 1.0);
    let bonus = uniform(Element::F32, HEADS * key, 2.0);
    let initial = uniform(Element::F32, BATCH * HEADS * key * value, 3.0);
    let n = match case.decay {
        Decay::PerKey => rows * key,
        Decay::PerToken => rows,
    };
    let decays = tensor(
        Element::F32,
        (0..n).map(|at| decay(case.decays, at, &mut draw)),
    );
    [q, k, v, decays, bonus, initial]
}

fn check(emulator: &Emulator, case: Case, seed: u64) {
    let mut data = data(case);
    let (y_expected, state_expected) = reference(case, &data);
    let guard = f32::from_bits(0x7fc0_1234);
    // One element of guard values behind each result: nothing may be written there.
    let mut y = vec![guard; y_expected.len() + 1];
    let mut state = vec![guard; state_expected.len() + 1];
    let description = chunked(case);
    let module = emulator
        .build(&[("fusec_recurrence", &source(case))], "")
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let shape = LaunchShape {
        grid: [(BATCH * HEADS * case.value / case.tile) as u32, 1, 1],
        block: [description.block_threads as u32, 1, 1],
        smem_bytes: description.shared_bytes() as u32,
        seed,
    };
    let mut args: Vec<KernelArg> = data
        .iter_mut()
        .map(|t| KernelArg::Ptr(t.bytes.as_mut_ptr()))
        .collect();
    args.push(KernelArg::Ptr(state.as_mut_ptr().cast()));
    args.push(KernelArg::Ptr(y.as_mut_ptr().cast()));
    args.push(KernelArg::I64(case.steps as i64));
    // SAFETY: the buffers have the sizes that the case states.
    unsafe { module.launch("fusec_recurrence", shape, &args) }
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    // Operands of the tensor cores keep 8, 16 or all 24 bits.
    let bound = match pieces(case.storage) {
        1 => 6e-3,
        2 => 2e-5,
        _ => 1e-6,
    };
    for (what, got, expected) in [
        ("y", &y, &y_expected),
        ("the final state", &state, &state_expected),
    ] {
        let error = distance(&got[..expected.len()], expected);
        assert!(
            error <= bound,
            "{case:?} seed {seed}: {what} is off by {error:e}, not {bound:e}"
        );
        assert_eq!(
            got[expected.len()].to_bits(),
            guard.to_bits(),
            "{case:?}: wrote behind {what}"
        );
    }
}

fn cases() -> Vec<Case> {
    use Decay::{PerKey, PerToken};
    use Decays::{Extremes, Mixed, NearOne, Tiny};
    use Element::{Bf16, F16, F32};
    let mut cases = Vec::new();
    for decay in [PerKey, PerToken] {
        let case = Case { decay, ..CASE };
        for steps in [1, 2, 37, 64, 65, 300] {
            cases.push(Case { steps, ..case });
        }
        for decays in [Mixed, Tiny, NearOne, Extremes] {
            for before in [false, true] {
                cases.push(Case {
                    steps: 130,
                    key: 32,
                    value: 32,
                    tile: 32,
                    decays,
                    before,
                    bonus: before,
                    ..case
                });
            }
        }
        cases.push(Case {
            steps: 70,
            bonus: true,
            surplus: 96,
            ..case
        });
        for (key, value, tile, chunk, warps) in [
            (32, 64, 64, 64, 8),
            (64, 128, 64, 32, 4),
            (128, 64, 64, 32, 4),
            (256, 32, 32, 32, 8),
            (64, 128, 128, 32, 8),
            (16, 16, 16, 16, 4),
            (20, 12, 12, 32, 2),
            (48, 40, 40, 64, 4),
            (5, 3, 3, 16, 1),
        ] {
            cases.push(Case {
                steps: 75,
                key,
                value,
                tile,
                chunk,
                warps,
                before: true,
                bonus: true,
                ..case
            });
        }
        for storage in [Bf16, F16, F32] {
            cases.push(Case {
                steps: 150,
                storage,
                ..case
            });
            cases.push(Case {
                steps: 150,
                storage,
                before: true,
                bonus: true,
                ..case
            });
        }
    }
    cases
}

#[test]
fn chunks_equal_a_plain_loop_over_tokens() {
    let emulator = emulator();
    for (i, case) in cases().into_iter().enumerate() {
        check(&emulator, case, i as u64);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (what, case) in [
        ("chunk", Case { chunk: 48, ..CASE }),
        ("warps", Case { warps: 6, ..CASE }),
        ("warps", Case { warps: 2, ..CASE }),
        ("key", Case { key: 300, ..CASE }),
        ("key", Case { key: 0, ..CASE }),
        ("value", Case { tile: 129, ..CASE }),
    ] {
        let error = chunked(case).render().expect_err("does not fit");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn chunks_compile_for_every_architecture_that_has_them() {
    let Some(toolchain) = nvrtc() else { return };
    for decay in [Decay::PerKey, Decay::PerToken] {
        for (storage, arch) in [
            (Element::Bf16, "sm_80"),
            (Element::F32, "sm_90a"),
            (Element::Bf16, "sm_90a"),
        ] {
            let text = source(Case {
                decay,
                storage,
                before: true,
                bonus: true,
                ..CASE
            });
            let what = format!("{decay:?} {storage:?}");
            let artifact = compiled(&toolchain, "recurrence", &text, arch, &what);
            let resources = artifact.resources.get("fusec_recurrence");
            println!("{decay:?} {storage:?} {arch}: {resources:?}");
        }
    }
}
