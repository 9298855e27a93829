//! The chunked recurrence, with and without a rank-one factor, against a plain loop over tokens, in the
//! emulator: sizes that divide nothing, decays from 0 to 1, tiny and large operands, states carried in and out,
//! every storage type.

use fusec_codegen::Element;
use fusec_codegen::chunked::{Chunked, Read};
use fusec_codegen::prelude::with_prelude;
use fusec_fuse::chunked::staging::Room;
use fusec_fuse::chunked::tile::{Decays, Factor, Tile};
use fusec_fuse::chunked::warpgroup::Products;
use fusec_runtime::emulator::{Emulator, KernelArg, LaunchShape};
use kernels::{Draw, Tensor, c_type, compiled, distance, emulator, nvrtc, pieces, tensor};
use rayon::prelude::*;

mod kernels;

/// Which decays the case draws.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drawn {
    /// From the lowest that the form takes to 1.
    Mixed,
    /// The lowest: exp(-5.5) or, where a form takes any, exp(-60).
    Tiny,
    /// 1 - 1e-4 u: all of the past counts.
    NearOne,
    /// The lowest that the form takes (0, where it takes any), exactly 1 and between, in turns.
    Extremes,
}

/// How a and b are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Factors {
    /// b = -beta a with a of length 1 and beta from 0 to 1: a reflection, or less.
    Delta,
    /// beta from 1.9 to 2: full reflections, nothing fades.
    Reflections,
    /// Independent, short enough that the state stays bounded.
    Free,
    /// All keys of a run point the same way: the solve matters most.
    Aligned,
}

/// One case of the table: sequences, heads, tokens, sizes.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    steps: usize,
    key: usize,
    value: usize,
    /// Value columns of a block.
    tile: usize,
    chunk: usize,
    /// Threads of the block that do not work.
    surplus: usize,
    decays: Decays,
    drawn: Drawn,
    factors: Factors,
    of_decayed: bool,
    /// Per read: its result, whether it is of the state before the step, whether it has a bonus.
    reads: &'static [(usize, bool, bool)],
    outputs: usize,
    /// Which of a and b there are.
    factor: Factor,
    products: Products,
    storage: Element,
    /// Magnitude of values and of the initial state.
    scale: f32,
    zero_state: bool,
}

const CASE: Case = Case {
    batch: 2,
    steps: 300,
    key: 64,
    value: 64,
    tile: 64,
    chunk: 64,
    surplus: 0,
    decays: Decays::Centred,
    drawn: Drawn::Mixed,
    factors: Factors::Delta,
    of_decayed: false,
    reads: &[(0, false, false)],
    outputs: 1,
    factor: Factor::Apart,
    products: Products::Warp,
    storage: Element::F32,
    scale: 1.0,
    zero_state: false,
};

const HEADS: usize = 2;
const READS: usize = 3;

fn described(case: Case) -> Chunked {
    let Case { key, value, .. } = case;
    let key_at = format!("((b * T + t) * {HEADS} + h) * {key} + kj");
    let value_at = format!("((b * T + t) * {HEADS} + h) * {value} + i0 + vi");
    let state_at = format!("((b * {HEADS} + h) * {value} + i0 + vi) * {key} + kj");
    let query = |n: usize| {
        format!("to_f32(q[(((b * T + t) * {READS} + {n}) * {HEADS} + h) * {key} + kj]) * scale")
    };
    let a = format!("to_f32(a[{key_at}])");
    let lefts = (case.factor != Factor::Nothing).then_some(a);
    let lefts = lefts.into_iter().chain((0..case.reads.len()).map(query));
    let mut keys = String::new();
    for (n, element) in lefts.enumerate() {
        keys += &format!("left_elements[{n}] = {element};\n");
    }
    keys += &match case.factor {
        Factor::Nothing | Factor::AlongKey => format!("right_elements[0] = to_f32(k[{key_at}]);"),
        Factor::Apart => format!(
            "right_elements[0] = to_f32(b_[{key_at}]);\nright_elements[1] = to_f32(k[{key_at}]);"
        ),
    };
    let reads = case.reads.iter().enumerate();
    let reads = reads.map(|(n, (output, before, bonus))| Read {
        output: *output,
        before: *before,
        bonus: bonus.then(|| {
            let query = query(n);
            format!("bonus_element = bonus[h * {key} + kj] * {query} * to_f32(k[{key_at}]);")
        }),
    });
    let (mut epilogue, column) = match case.products {
        Products::Warp => {
            let each = format!(
                "for (int vi = lane; live && vi < {}; vi += 32) {{\n",
                case.tile
            );
            (each, "vi")
        }
        // Four lanes have a token.
        Products::Warpgroup => {
            let each = "for (int nth = 0; live && nth < 16; ++nth) {\nconst int vi = nth / 2 * 8 + lane_pair + nth % 2;\n";
            (each.to_string(), "nth")
        }
    };
    for n in 0..case.outputs {
        let row = match n {
            0 => "y_row".to_string(),
            n => format!("y{n}_row"),
        };
        // The number of sequences is the launch's: cases that differ in no more are one kernel.
        epilogue += &format!(
            "result[{n} * (gridDim.x / {tiles} * T * {value}) + {value_at}] = {row}[{column}];\n",
            tiles = value / case.tile,
        );
    }
    epilogue += "}";
    let tile = Tile {
        key,
        value: case.tile,
        chunk: case.chunk,
        updates: 1,
        decays: case.decays,
        reads: case.reads.len(),
        outputs: case.outputs,
        factor: case.factor,
        bonus: case.reads.iter().any(|(_, _, bonus)| *bonus),
        pieces: pieces(case.storage),
        resident: 1,
        warps: 4,
        room: Room::default(),
        arriving: 0,
        values_arrive: false,
        products: Products::Warp,
        weighted: None,
    };
    // As many as have value columns, or some more.
    let more = if case.steps.is_multiple_of(2) { 8 } else { 4 };
    let tile = Tile {
        warps: tile.value_warps().max(more),
        ..tile
    };
    let tile = match case.products {
        Products::Warp => tile,
        Products::Warpgroup => tile
            .by_warpgroup()
            .unwrap_or_else(|limit| panic!("{case:?}: {limit}")),
    };
    Chunked {
        tile,
        block_threads: 32 * tile.warps + case.surplus,
        of_decayed: case.of_decayed,
        reads: reads.collect(),
        read_at: 0,
        at_once: 0,
        begin: "0".into(),
        steps: "T".into(),
        handed: None,
        setup: "const float scale = 0.5f;".into(),
        tokens: String::new(),
        ahead: String::new(),
        late: false,
        query_arrives: false,
        key_arrives: false,
        keys,
        decay: match case.decays {
            Decays::PerToken => format!("decay_element = decay[(b * T + t) * {HEADS} + h];"),
            _ => format!("decay_element = decay[{key_at}];"),
        },
        values: format!("v_element = to_f32(v[{value_at}]);"),
        value_runs: String::new(),
        value_factor: String::new(),
        load_state: format!("s_element = state_in[{state_at}];"),
        store_state: format!("state_out[{state_at}] = s_element;"),
        epilogue,
    }
}

fn source(case: Case) -> String {
    let described = described(case);
    let body = described
        .render()
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    with_prelude(&format!(
        "extern \"C\" __global__ void __launch_bounds__({}) fusec_recurrence(const {x}* __restrict__ q, const {x}* __restrict__ k, \
         const {x}* __restrict__ v, const {x}* __restrict__ a, const {x}* __restrict__ b_, const float* __restrict__ decay, \
         const float* __restrict__ bonus, \
         const float* __restrict__ state_in, float* __restrict__ state_out, float* __restrict__ result, i64 T) {{\n    \
         FUSEC_DYNAMIC_SMEM(smem);\n    const int i0 = blockIdx.x % {tiles} * {tile};\n    \
         const int h = blockIdx.x / {tiles} % {HEADS};\n    const i64 b = blockIdx.x / {tiles} / {HEADS};\n{body}}}\n",
        described.block_threads,
        x = c_type(case.storage),
        tile = case.tile,
        tiles = case.value / case.tile,
    ))
}

fn decay(case: Case, at: usize, draw: &mut Draw) -> f32 {
    let u = draw.next() * 0.5 + 0.5;
    let any = case.decays != Decays::Centred;
    let lowest: f32 = (-5.5f32).exp();
    match case.drawn {
        Drawn::Mixed if any => (-(6.0 * u - 4.0).exp()).exp(),
        Drawn::Mixed => (-5.5 * u * u).exp(),
        Drawn::Tiny if any => (-60.0f32).exp(),
        Drawn::Tiny => lowest,
        Drawn::NearOne => 1.0 - 1e-4 * u,
        Drawn::Extremes => match at % 7 {
            0 if any => 0.0,
            0 => lowest,
            1..=4 => 1.0,
            _ => lowest + u * (1.0 - lowest),
        },
    }
}

/// q, k, v, a, b, decay, bonus, initial state.
fn data(case: Case) -> [Tensor; 8] {
    let Case {
        batch, steps, key, ..
    } = case;
    let rows = batch * steps * HEADS;
    let mut draw = Draw(17);
    let mut uniform = |storage, n: usize, scale: f32| {
        let numbers: Vec<f32> = (0..n).map(|_| draw.next() * scale).collect();
        tensor(storage, numbers.into_iter())
    };
    let q = uniform(case.storage, READS * rows * key, 1.0);
    let k = uniform(case.storage, rows * key, 1.0);
    let v = uniform(case.storage, rows * case.value, case.scale);
    let bonus = uniform(Element::F32, HEADS * key, 2.0);
    let initial = match case.zero_state {
        true => 0.0,
        false => 3.0 * case.scale,
    };
    let initial = uniform(Element::F32, batch * HEADS * key * case.value, initial);
    let (mut a, mut b) = (vec![], vec![]);
    for row in 0..rows {
        let mut direction: Vec<f32> = (0..key).map(|_| draw.next()).collect();
        if case.factors == Factors::Aligned && row % (HEADS * 40) > HEADS {
            direction = (0..key)
                .map(|j| ((j * 7 + row % HEADS) % 5) as f32 - 1.9 + 0.01 * draw.next())
                .collect();
        }
        let length = direction
            .iter()
            .map(|x| x * x)
            .sum::<f32>()
            .sqrt()
            .max(1e-6);
        let u = draw.next() * 0.5 + 0.5;
        let beta = match case.factors {
            Factors::Delta | Factors::Aligned => u,
            Factors::Reflections => 1.9 + 0.1 * u,
            Factors::Free => 0.5,
        };
        for x in direction {
            a.push(x / length);
            b.push(match case.factors {
                Factors::Free => beta * draw.next() / (key as f32).sqrt(),
                _ => -beta * x / length,
            });
        }
    }
    // Along a key it is `a` that takes the number in.
    let k = match case.factor {
        Factor::AlongKey => tensor(
            case.storage,
            std::mem::replace(&mut a, b.clone()).into_iter(),
        ),
        Factor::Nothing | Factor::Apart => k,
    };
    let n = match case.decays {
        Decays::PerToken => rows,
        _ => rows * key,
    };
    let decays = tensor(Element::F32, (0..n).map(|at| decay(case, at, &mut draw)));
    let (a, b) = (
        tensor(case.storage, a.into_iter()),
        tensor(case.storage, b.into_iter()),
    );
    [q, k, v, a, b, decays, bonus, initial]
}

/// The recurrence as it is written: results and the final state.
fn reference(case: Case, data: &[Tensor; 8]) -> (Vec<f64>, Vec<f64>) {
    let Case {
        batch,
        steps,
        key,
        value,
        ..
    } = case;
    let [q, k, v, a, b_, decay, bonus, initial] = data;
    let b_ = match case.factor {
        Factor::AlongKey => k,
        Factor::Nothing | Factor::Apart => b_,
    };
    let mut state = initial.values.clone();
    let result = batch * steps * HEADS * value;
    let mut y = vec![0.0; case.outputs * result];
    for b in 0..batch {
        for t in 0..steps {
            for h in 0..HEADS {
                let at = (b * steps + t) * HEADS + h;
                let d = |j: usize| match case.decays {
                    Decays::PerToken => decay.values[at],
                    _ => decay.values[at * key + j],
                };
                for i in 0..value {
                    let start = ((b * HEADS + h) * value + i) * key;
                    let s = &mut state[start..start + key];
                    let old = s.to_vec();
                    let columns = match case.factor {
                        Factor::Nothing => 0..0,
                        Factor::AlongKey | Factor::Apart => 0..key,
                    };
                    let u: f64 = columns
                        .map(|j| {
                            let weight = if case.of_decayed { d(j) } else { 1.0 };
                            old[j] * weight * a.values[at * key + j]
                        })
                        .sum();
                    for j in 0..key {
                        s[j] = d(j) * old[j]
                            + u * b_.values[at * key + j]
                            + v.values[at * value + i] * k.values[at * key + j];
                    }
                    for (n, (output, before, has_bonus)) in case.reads.iter().enumerate() {
                        let read = (0..key).map(|j| {
                            let of = if *before { old[j] } else { s[j] };
                            let current = match has_bonus {
                                true => {
                                    bonus.values[h * key + j]
                                        * k.values[at * key + j]
                                        * v.values[at * value + i]
                                }
                                false => 0.0,
                            };
                            let row = ((b * steps + t) * READS + n) * HEADS + h;
                            0.5 * q.values[row * key + j] * (of + current)
                        });
                        y[output * result + at * value + i] += read.sum::<f64>();
                    }
                }
            }
        }
    }
    (y, state)
}

fn check(emulator: &Emulator, case: Case, seed: u64) -> Result<(), String> {
    let mut data = data(case);
    let (y_expected, state_expected) = reference(case, &data);
    let guard = f32::from_bits(0x7fc0_1234);
    // One element of guard values behind each result: nothing may be written there.
    let mut y = vec![guard; y_expected.len() + 1];
    let mut state = vec![guard; state_expected.len() + 1];
    let description = described(case);
    let module = emulator
        .build(&[("fusec_recurrence", &source(case))], "")
        .map_err(|error| format!("{case:?}: {error}"))?;
    let shape = LaunchShape {
        grid: [(case.batch * HEADS * case.value / case.tile) as u32, 1, 1],
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
        .map_err(|error| format!("{case:?}: {error}"))?;
    // Operands of the tensor cores keep 8, 16 or all 24 bits; where nothing fades, the errors of all
    // tokens add up.
    let bound = match pieces(case.storage) {
        1 => 8e-3,
        2 => 3e-5,
        _ => 2e-6,
    } * if case.factors == Factors::Reflections {
        3.0
    } else {
        1.0
    };
    for (what, got, expected) in [
        ("y", &y, &y_expected),
        ("the final state", &state, &state_expected),
    ] {
        let error = distance(&got[..expected.len()], expected);
        if error.is_nan() || error > bound {
            return Err(format!(
                "{case:?} seed {seed}: {what} is off by {error:e}, not {bound:e}"
            ));
        }
        println!("{what} {error:e}");
        if got[expected.len()].to_bits() != guard.to_bits() {
            return Err(format!("{case:?}: wrote behind {what}"));
        }
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    use Decays::{Centred, PerKey, PerToken};
    use Drawn::{Extremes, Mixed, NearOne, Tiny};
    use Element::{Bf16, F16, F32};
    let small = Case {
        key: 32,
        value: 32,
        tile: 32,
        ..CASE
    };
    let mut cases = Vec::new();
    let all = [Factor::Nothing, Factor::Apart, Factor::AlongKey];
    let pairs = all.map(|factor| [Centred, PerToken, PerKey].map(|decays| (decays, factor)));
    for (decays, factor) in pairs.into_iter().flatten() {
        let start = cases.len();
        for (n, steps) in [1, 2, 15, 16, 17, 37, 63, 64, 65, 300]
            .into_iter()
            .enumerate()
        {
            cases.push(Case {
                steps,
                decays,
                batch: 1 + n % 2 * 2,
                of_decayed: n % 3 == 0,
                zero_state: n % 4 == 1,
                ..CASE
            });
        }
        // What a solve adds is the same whatever decays are; those at the ends try all of it.
        let drawn: &[Drawn] = match (factor, decays) {
            (Factor::Nothing, _) | (_, Centred) => &[Mixed, Tiny, NearOne, Extremes],
            _ => &[Tiny, Extremes],
        };
        for drawn in drawn.iter().copied() {
            let factors = [
                Factors::Delta,
                Factors::Free,
                Factors::Reflections,
                Factors::Aligned,
            ];
            // Of what there is no factor for, with a read before the step and with one after it.
            let kinds = if factor == Factor::Nothing { 2 } else { 4 };
            for factors in factors.into_iter().take(kinds) {
                let before = factors == Factors::Free;
                cases.push(Case {
                    steps: 130,
                    decays,
                    drawn,
                    factors,
                    of_decayed: factors == Factors::Delta || factors == Factors::Aligned,
                    reads: if before {
                        &[(0, true, true)]
                    } else {
                        CASE.reads
                    },
                    ..small
                });
            }
        }
        // Results, and reads of the state, by any number.
        #[allow(clippy::type_complexity, reason = "a table")]
        let reads: [(&[(usize, bool, bool)], usize); 4] = [
            (&[(0, false, false), (1, true, true)], 2),
            (&[(1, true, false), (1, false, true)], 2),
            (&[(0, true, true), (0, false, false), (2, false, false)], 3),
            (&[(0, false, true)], 1),
        ];
        for (n, (reads, outputs)) in reads.into_iter().enumerate() {
            cases.push(Case {
                steps: 70,
                decays,
                reads,
                outputs,
                of_decayed: n % 2 == 0,
                surplus: 96,
                ..small
            });
        }
        for (key, value, tile, chunk) in [
            (64, 128, 32, 32),
            (128, 64, 64, 32),
            (256, 32, 32, 16),
            (64, 128, 128, 32),
            (16, 16, 16, 16),
            (20, 12, 12, 32),
            (48, 40, 40, 64),
            (5, 3, 3, 16),
        ] {
            cases.push(Case {
                steps: 75,
                key,
                value,
                tile,
                chunk,
                decays,
                ..CASE
            });
        }
        for storage in [Bf16, F16, F32] {
            for (n, scale) in [1e-6, 1.0, 1e4].into_iter().enumerate() {
                cases.push(Case {
                    steps: 150,
                    storage,
                    scale,
                    decays,
                    of_decayed: n == 1,
                    ..CASE
                });
            }
        }
        for case in &mut cases[start..] {
            case.factor = factor;
        }
    }
    cases.extend(by_warpgroups());
    // What f16 holds: no less than 1e-7, with few bits below 1e-4.
    cases.retain(|case| case.storage != F16 || case.scale >= 1.0);
    cases
}

/// Cases of products of warpgroups: one decay per token, bf16, 64 value columns of a block.
fn by_warpgroups() -> Vec<Case> {
    let of = Case {
        decays: Decays::PerToken,
        factor: Factor::Nothing,
        products: Products::Warpgroup,
        storage: Element::Bf16,
        ..CASE
    };
    let before: &[(usize, bool, bool)] = &[(0, true, false)];
    let lengths = [1, 15, 16, 17, 63, 64, 65, 300].into_iter().enumerate();
    let mut cases: Vec<Case> = lengths
        .map(|(n, steps)| Case {
            steps,
            batch: 1 + n % 2 * 2,
            zero_state: n % 4 == 1,
            reads: if n % 3 == 2 { before } else { CASE.reads },
            ..of
        })
        .collect();
    for drawn in [Drawn::Mixed, Drawn::Tiny, Drawn::NearOne, Drawn::Extremes] {
        for reads in [CASE.reads, before] {
            cases.push(Case {
                steps: 130,
                drawn,
                reads,
                ..of
            });
        }
    }
    for (key, value, surplus) in [(128, 64, 0), (64, 128, 96), (192, 64, 32)] {
        cases.push(Case {
            steps: 75,
            key,
            value,
            surplus,
            ..of
        });
    }
    for scale in [1e-6, 1e4] {
        cases.push(Case {
            steps: 150,
            scale,
            ..of
        });
    }
    cases
}

#[test]
fn chunks_equal_a_plain_loop_over_tokens() {
    let emulator = emulator();
    let cases: Vec<Case> = cases();
    // Most of the time goes into building a kernel, which takes one core.
    let wrong: Vec<String> = cases
        .par_iter()
        .enumerate()
        .filter_map(|(i, case)| check(&emulator, *case, i as u64).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (what, case) in [
        ("chunk", Case { chunk: 48, ..CASE }),
        ("key", Case { key: 300, ..CASE }),
        ("key", Case { key: 0, ..CASE }),
        ("value", Case { tile: 129, ..CASE }),
        ("reads", Case { reads: &[], ..CASE }),
    ] {
        let error = described(case).render().expect_err("does not fit");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn chunks_compile_for_every_architecture_that_has_them() {
    let Some(toolchain) = nvrtc() else { return };
    for case in by_warpgroups() {
        let what = format!("warpgroups {}", case.key);
        compiled(&toolchain, "recurrence", &source(case), "sm_90a", &what);
    }
    for (decays, factor) in [
        (Decays::Centred, Factor::Apart),
        (Decays::PerToken, Factor::AlongKey),
        (Decays::PerKey, Factor::AlongKey),
        (Decays::Centred, Factor::Nothing),
        (Decays::PerToken, Factor::Nothing),
        (Decays::PerKey, Factor::Nothing),
    ] {
        for (storage, arch, key) in [
            (Element::Bf16, "sm_80", 64),
            (Element::F32, "sm_90a", 64),
            (Element::Bf16, "sm_90a", 64),
            (Element::Bf16, "sm_90a", 128),
            (Element::Bf16, "sm_90a", 256),
        ] {
            let text = source(Case {
                decays,
                factor,
                storage,
                key,
                value: key.min(128),
                tile: key.min(128),
                chunk: 32,
                reads: &[(0, true, true)],
                ..CASE
            });
            let what = format!("{factor:?} {decays:?} {storage:?} {key}");
            let artifact = compiled(&toolchain, "recurrence", &text, arch, &what);
            let resources = artifact.resources.get("fusec_recurrence");
            println!("{what} {arch}: {resources:?}");
        }
    }
}
