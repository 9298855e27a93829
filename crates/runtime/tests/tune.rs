//! Tuning with times that are given: what is chosen, what the record keeps, when it is used again and when
//! it is refused; and that every plan that could be timed computes what the model means.

use fusec_codegen::{Manifest, Planned as Regime, generate};
use fusec_fuse::variants::Variants;
use fusec_fuse::{Device, Mode, Options, Plan, Planned, Recipe, Shape, Storage, Submit, accept};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, Pin, PinKind};
use fusec_runtime::bench::{Spread, check};
use fusec_runtime::emulator::{Emulator, EmulatorOptions};
use fusec_runtime::executor::{EmulatedDevice, Executor};
use fusec_runtime::tune::{
    Bounds, Machine, PROTOCOL, TUNED_VERSION, Timer, TuneError, Tuned, TunedRegime, tune,
};
use fusec_runtime::weights::Weights;

/// Products, a recurrence in chunks or not, row kernels: several plans and many schedules.
const MODEL: &str = r#"
name = "small"
[axes]
H = 2
N = 32
C = "H * N"
F = 192
[input]
x = "C"
[param]
gain = { shape = "C", init = 1 }
w_q  = { shape = "C, C" }
w_k  = { shape = "C, C" }
w_d  = { shape = "C, C" }
w_o  = { shape = "C, C" }
w_u  = { shape = "F, C" }
w_v  = { shape = "C, F" }
[recurrence.memory]
inputs  = "q[H, j], k[H, j], v[H, i], d[H, j]"
state   = "S[H, i = N, j = N]"
outputs = "y[H, i]"
step    = """
  S = d * S + k * v
  y = sum(q * S, j)
"""
[model]
flow = """
  u = rms_norm(x, C, eps = 1e-5, gain = gain)
  q = u @ w_q
  k = (u + shift(u)) @ w_k
  d = f32(sigmoid(u @ w_d))
  y = silu(memory(q, k, k, d))
  z = x + y @ w_o
  return z + (silu(z @ w_u) @ w_v)
"""
"#;

fn graph(text: &str) -> Graph {
    let source = ModelSource::from_text("test", text);
    compile(&source, &Overrides::default()).expect("a model")
}

/// What the emulator runs.
fn device() -> Device {
    Device::find("h200")
        .expect("compiled in")
        .compiled_for("sm_90")
}

fn options(device: &Device, time: usize, storage: Storage) -> Options<'_> {
    Options {
        shape: Shape { batch: 2, time },
        storage,
        mode: Mode::Auto,
        device,
        launch: Submit::Graph,
        pins: vec![],
    }
}

/// Times by the place of a plan in the order of timing.
struct Given<'a> {
    ms: &'a dyn Fn(usize) -> Result<f64, String>,
    asked: usize,
}

impl Timer for Given<'_> {
    fn time(&mut self, manifest: &Manifest, plan: &Plan) -> Result<Spread, String> {
        assert_eq!(manifest.regimes.len(), 1);
        assert_eq!(manifest.regimes[0].steps.len(), plan.kernels.len());
        let at = self.asked;
        self.asked += 1;
        (self.ms)(at).map(|ms| Spread::of(&[ms as f32]))
    }
}

const BOUNDS: Bounds = Bounds {
    within: 0.5,
    most: 10,
};

fn tuned(
    time: usize,
    bounds: Bounds,
    ms: &dyn Fn(usize) -> Result<f64, String>,
) -> Result<(TunedRegime, Planned), TuneError> {
    let (device, graph) = (device(), graph(MODEL));
    let mut timer = Given { ms, asked: 0 };
    let options = options(&device, time, Storage::Bf16);
    let mut told = 0;
    let result = tune("prefill", &graph, &options, bounds, &mut timer, &mut |_| {
        told += 1;
    });
    assert_eq!(told, timer.asked);
    if let Ok((record, _)) = &result {
        assert_eq!(record.candidates.len(), timer.asked);
        assert!(timer.asked <= bounds.most);
    }
    result
}

/// Where schedules begin in a record.
fn first_schedule(record: &TunedRegime) -> usize {
    let mut all = record.candidates.iter();
    all.position(|of| of.on.is_some()).expect("schedules")
}

#[test]
fn the_fastest_is_chosen_and_the_cost_model_is_believed_within_noise() {
    let (record, own) = tuned(300, BOUNDS, &|_| Ok(1.0)).expect("a plan");
    let schedules = first_schedule(&record);
    assert!(schedules >= 2, "{record:?}");
    assert_eq!(record.candidates[0].what, "the cost model's choice");
    // Predictions grow, and stay within the share.
    let predicted: Vec<f64> = record.candidates.iter().map(|of| of.predicted_us).collect();
    assert!(predicted[1..schedules].is_sorted(), "{predicted:?}");
    let most = predicted[0] * 1.5;
    assert!(
        predicted[..schedules].iter().all(|us| *us <= most),
        "{predicted:?}"
    );
    // Times of the plans in order; all that follow take `rest`. Then which wins.
    type Case = (&'static [f64], f64, Option<usize>);
    const FAILS: f64 = -1.0;
    let cases: [Case; 7] = [
        (&[1.0], 1.0, Some(0)),
        (&[1.0, 0.95], 1.0, Some(1)),
        (&[1.0, 0.995], 1.0, Some(0)),
        (
            &[1.0, 0.9, 0.8],
            1.0,
            Some(if schedules > 2 { 2 } else { 1 }),
        ),
        (&[FAILS, 1.1], 1.2, Some(1)),
        (&[f64::NAN, 1.1], 1.2, Some(1)),
        (&[FAILS], FAILS, None),
    ];
    for (times, rest, chosen) in cases {
        // Schedules are no faster here.
        let ms = |at: usize| match times.get(at).filter(|_| at < schedules) {
            Some(ms) if *ms == FAILS => Err("too large".to_string()),
            Some(ms) => Ok(*ms),
            None if rest == FAILS => Err("too large".to_string()),
            None => Ok(rest),
        };
        match (tuned(300, BOUNDS, &ms), chosen) {
            (Ok((record, planned)), Some(chosen)) => {
                assert_eq!(record.chosen, chosen, "{times:?}");
                let predicted = record.candidates[chosen].predicted_us;
                assert_eq!(planned.plan.total_us, predicted, "{times:?}");
                assert_eq!(chosen == 0, planned.plan == own.plan, "{times:?}");
            }
            (Err(error), None) => {
                let text = error.to_string();
                assert!(
                    text.contains("too large") && text.contains("T=300"),
                    "{text}"
                );
            }
            (other, _) => panic!("{times:?}: {other:?}"),
        }
    }
}

#[test]
fn schedules_are_tried_on_the_fastest_so_far() {
    let (record, _) = tuned(300, BOUNDS, &|_| Ok(1.0)).expect("a plan");
    let schedules = first_schedule(&record);
    // Each schedule is faster than all before it, or none is.
    let falling = |at: usize| Ok(1.0 - 0.05 * (at + 1).saturating_sub(schedules) as f64);
    let (record, planned) = tuned(300, BOUNDS, &falling).expect("a plan");
    let last = record.candidates.len() - 1;
    assert!(last > schedules, "{record:?}");
    assert_eq!(record.chosen, last);
    for at in schedules + 1..=last {
        assert_eq!(record.candidates[at].on, Some(at - 1));
    }
    let asked = &record.candidates[last].recipe.schedules;
    let kernels: Vec<&[String]> = asked.iter().map(|of| &of.operations[..]).collect();
    let mut once = kernels.clone();
    once.dedup();
    assert_eq!(kernels, once, "a kernel is asked for once");
    assert!(
        planned.plan.claim.contains("asked for"),
        "{}",
        planned.plan.claim
    );
    // A schedule within noise is not kept, and what follows is tried without it.
    let noisy = |at: usize| Ok(if at < schedules { 1.0 } else { 0.995 });
    let (record, _) = tuned(300, BOUNDS, &noisy).expect("a plan");
    assert_eq!(record.chosen, 0);
    assert!(
        record.candidates[schedules..]
            .iter()
            .all(|of| of.on == Some(0))
    );
    // No more are timed than are allowed, and it is said how many were not.
    for most in [1, 2, 3] {
        let bounds = Bounds { most, ..BOUNDS };
        let (record, _) = tuned(300, bounds, &|_| Ok(1.0)).expect("a plan");
        assert!(record.candidates.len() <= most && record.left_out > 0);
    }
    let nothing = Bounds {
        within: 0.0,
        most: 10,
    };
    let (record, _) = tuned(300, nothing, &|_| Ok(1.0)).expect("a plan");
    let least = record.candidates[0].predicted_us;
    let near = |of: &fusec_runtime::tune::Candidate| of.predicted_us <= least * 1.000_001;
    assert!(record.candidates.iter().all(near), "{record:?}");
}

/// A record of the regime, as `fusec compile --tune` would write it.
fn record(regime: TunedRegime, device: &Device) -> Tuned {
    Tuned {
        version: TUNED_VERSION,
        model: "small".into(),
        storage: Storage::Bf16,
        profile: device.name.clone(),
        arch: device.arch.clone(),
        pins: vec![],
        machine: Machine {
            device: "a device\u{1b}[2J of a test".into(),
            driver: None,
            fusec: "0".into(),
            commit: "unknown".into(),
            date: "2026-01-31T12:00:00Z".into(),
        },
        protocol: PROTOCOL,
        within: BOUNDS.within,
        most: BOUNDS.most,
        regimes: vec![regime],
    }
}

#[test]
fn a_record_makes_the_plan_again_and_is_refused_where_anything_differs() {
    let (device, model) = (device(), graph(MODEL));
    // The winner has a form, perhaps a pin, and another schedule.
    let falling = |at: usize| Ok(1.0 / (at + 1) as f64);
    let (regime, planned) = tuned(300, BOUNDS, &falling).expect("a plan");
    let tuned = record(regime, &device);
    let bytes = serde_json::to_vec_pretty(&tuned).expect("JSON");
    assert_eq!(Tuned::parse(&bytes).as_ref(), Ok(&tuned));
    let usual = options(&device, 300, Storage::Bf16);
    let again = tuned.plan(&model, &usual).expect("the same plan");
    assert_eq!(again, planned);
    // Every plan that was timed is one that this program makes.
    for of in &tuned.regimes[0].candidates {
        let made = fusec_fuse::plan_by(&model, &usual, &of.recipe).expect("a plan");
        accept(&made.graph, &made.plan, &device).expect("accepted");
        assert_eq!(made.plan.total_us, of.predicted_us);
    }
    let text = tuned.to_string();
    assert!(
        text.contains("measured on a device") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(text.contains("the cost model's choice"), "{text}");

    let refused = |tuned: &Tuned, graph: &Graph, options: &Options<'_>, what: &str| {
        let error = tuned.plan(graph, options).expect_err(what).to_string();
        assert!(
            error.contains(what) && error.contains("--tune"),
            "{what}: {error}"
        );
    };
    let other_time = options(&device, 301, Storage::Bf16);
    refused(&tuned, &model, &other_time, "T=301");
    let other_batch = Options {
        shape: Shape {
            batch: 3,
            time: 300,
        },
        ..usual.clone()
    };
    refused(&tuned, &model, &other_batch, "B=3");
    refused(
        &tuned,
        &model,
        &options(&device, 300, Storage::F32),
        "storage type",
    );
    let a100 = Device::find("a100").expect("compiled in");
    refused(
        &tuned,
        &model,
        &options(&a100, 300, Storage::Bf16),
        "device profile",
    );
    let older = device.clone().compiled_for("sm_80");
    refused(
        &tuned,
        &model,
        &options(&older, 300, Storage::Bf16),
        "architecture",
    );
    let pinned = Options {
        pins: vec![Pin {
            kind: PinKind::Split,
            values: vec!["q".into(), "d".into()],
            span: None,
        }],
        ..usual.clone()
    };
    refused(&tuned, &model, &pinned, "split q,d");
    refused(
        &tuned,
        &graph(&MODEL.replace("\"small\"", "\"other\"")),
        &usual,
        "the model was",
    );
    // Another constant in a kernel, and a kernel more.
    refused(
        &tuned,
        &graph(&MODEL.replace("1e-5", "1e-6")),
        &usual,
        "the sources",
    );
    let mut changed = tuned.clone();
    let of = &mut changed.regimes[0];
    of.candidates[of.chosen].launches_sha256.clear();
    refused(&changed, &model, &usual, "the launches");
    let mut changed = tuned.clone();
    let of = &mut changed.regimes[0];
    of.candidates[of.chosen].recipe.schedules[0].operations[0].push_str("_2");
    let error = changed.plan(&model, &usual).expect_err("no such kernel");
    assert!(
        error.to_string().contains("cannot plan as asked"),
        "{error}"
    );

    for (from, to, what) in [
        ("\"version\": 1,", "\"version\": 2,", "version 2"),
        ("\"chosen\": ", "\"chosen\": 99", "no winner"),
        ("\"recipe\"", "\"receipt\"", "recipe"),
    ] {
        let text = String::from_utf8_lossy(&bytes).replacen(from, to, 1);
        let error = Tuned::parse(text.as_bytes()).expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
    }
}

/// The manifest of a plan for every length of run, or for single steps.
fn manifest(planned: &Planned, storage: Storage) -> Manifest {
    let regime = Regime {
        name: "tuned",
        min_time: 1,
        max_time: planned.plan.shape.longest_run(),
        graph: &planned.graph,
        plan: &planned.plan,
    };
    generate("small", storage, &[regime]).expect("sources")
}

/// Every plan that tuning could time, and every schedule of every kernel (the first of each kernel together,
/// then the second of each, ..), gives what the f64 interpreter gives.
#[test]
fn all_that_could_be_timed_is_right() {
    let model = graph(MODEL);
    let by_warpgroups = Device::find("h200").expect("compiled in");
    let emulator = Emulator::without_cache(EmulatorOptions::default()).expect("an emulator");
    let mut side_by_side = 0;
    for (device, time, storage) in [
        (&device(), 37, Storage::F32),
        (&device(), 300, Storage::Bf16),
        (&by_warpgroups, 300, Storage::Bf16),
        (&device(), 1, Storage::Bf16),
        (&device(), 1, Storage::F32),
    ] {
        let options = options(device, time, storage);
        let mut variants = Variants::new(&model, &options, 100.0);
        let plans = variants.plans(16).expect("plans").list;
        let mut recipes: Vec<Recipe> = plans.iter().take(3).map(|of| of.recipe.clone()).collect();
        // Of the first plan, and of the first with subkernels side by side.
        let beside = plans.iter().find(|of| has_subkernels(&of.planned));
        side_by_side += usize::from(beside.is_some());
        for of in plans.first().into_iter().chain(beside) {
            let rounds = rounds(&variants, &of.recipe, &of.planned);
            assert!(!rounds.is_empty(), "{}", of.what);
            recipes.extend(rounds);
        }
        for recipe in recipes {
            let planned = variants.make(&recipe).expect("a plan");
            accept(&planned.graph, &planned.plan, device).expect("accepted");
            let manifest = manifest(&planned, storage);
            let weights = Weights::random(&planned.graph, 1).expect("weights");
            let on = EmulatedDevice::new(&emulator, &manifest, 1).expect("kernels");
            let mut executor =
                Executor::new(on, manifest, &weights, options.shape).expect("a session");
            let found = check(&mut executor, &weights, storage, 3).expect("runs");
            assert!(found.passed, "T={time} {storage} {recipe:?}: {found:?}");
        }
    }
    assert!(side_by_side > 0);
}

fn has_subkernels(planned: &Planned) -> bool {
    let mut phases = planned
        .plan
        .kernels
        .iter()
        .flat_map(|kernel| &kernel.phases);
    phases.any(|phase| phase.lanes.len() > 1)
}

/// The first other schedule of each kernel, then the second of each, ..
fn rounds(variants: &Variants<'_, '_>, recipe: &Recipe, planned: &Planned) -> Vec<Recipe> {
    let mut rounds: Vec<Recipe> = Vec::new();
    let mut seen: Vec<Vec<String>> = Vec::new();
    for offer in variants.schedules(planned, 100).list {
        let of = &offer.asked.operations;
        let round = seen.iter().filter(|known| *known == of).count();
        seen.push(of.clone());
        match rounds.get_mut(round) {
            Some(so_far) => *so_far = so_far.with(offer.asked),
            None => rounds.push(recipe.with(offer.asked)),
        }
    }
    rounds
}
