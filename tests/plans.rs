//! The plans that the models of models/ become: a case each in tests/plans/, NAME.toml beside the
//! expected NAME.snap, and what their kernels look like.
//!
//! A case says model, device, storage type, mode and shapes; the snapshot holds the plan and the
//! three most interesting decisions at each shape. The CUDA text of all kernels of all models
//! would be some ten thousand lines that change together, so tests/plans/kernels/ holds the first
//! kernel of each distinct use of a template: what differs otherwise is names, sizes and
//! expressions.
//!
//! A change in them is a change of what users run: read it, then `cargo xtask bless`.

use fusec_codegen::generate;
use fusec_fuse::schedule::AttendTile;
use fusec_fuse::{
    Body, Device, Kernel, Mode, Options, Planned, Schedule, Shape, Storage, Submit, explain,
};
use fusec_ir::class::classify;
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpId, OpKind};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// NAME.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    model: String,
    preset: Option<String>,
    device: String,
    storage: Storage,
    mode: String,
    /// Batch and time.
    shapes: Vec<(usize, usize)>,
}

/// The `.toml` files of a directory of the repository, by name.
fn texts(directory: &str) -> BTreeMap<String, PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| {
            let stem = path.file_stem().expect("a name").to_string_lossy();
            (stem.into_owned(), path)
        })
        .collect()
}

fn cases() -> BTreeMap<String, Case> {
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a case");
    texts("tests/plans")
        .iter()
        .map(|(name, path)| match toml::from_str(&read(path)) {
            Ok(case) => (name.clone(), case),
            Err(error) => panic!("{name}: {error}"),
        })
        .collect()
}

impl Case {
    fn graph(&self) -> Graph {
        let path = &texts("models")[&self.model];
        let source = ModelSource::from_path(path).expect("a model of the repository");
        let overrides = Overrides {
            preset: self.preset.clone(),
            ..Overrides::default()
        };
        match compile(&source, &overrides) {
            Ok(graph) => graph,
            Err(error) => panic!("{}: {error}", self.model),
        }
    }

    /// What is asked of the planner, for each shape.
    fn options<'d>(&self, device: &'d Device) -> Vec<Options<'d>> {
        let mode: Mode = self.mode.parse().expect("a mode");
        let of = |(batch, time): &(usize, usize)| Options {
            shape: Shape {
                batch: *batch,
                time: *time,
            },
            storage: self.storage,
            mode,
            device,
            launch: Submit::Graph,
            pins: vec![],
        };
        self.shapes.iter().map(of).collect()
    }
}

/// A case and what was planned for each of its shapes.
struct Made {
    case: Case,
    device: Device,
    planned: Vec<Planned>,
}

/// All cases by name: planned once for all tests.
fn made() -> &'static BTreeMap<String, Made> {
    static MADE: LazyLock<BTreeMap<String, Made>> = LazyLock::new(|| {
        let cases: Vec<(String, Case)> = cases().into_iter().collect();
        let made = cases.into_par_iter().map(|(name, case)| {
            let device = Device::find(&case.device).expect("a device");
            let graph = case.graph();
            let options = case.options(&device);
            let planned = options.iter().map(|options| planned(&graph, options));
            let planned = planned.collect();
            (
                name,
                Made {
                    case,
                    device,
                    planned,
                },
            )
        });
        made.collect()
    });
    &MADE
}

fn planned(graph: &Graph, options: &Options<'_>) -> Planned {
    match fusec_fuse::plan(graph, options) {
        Ok(planned) => planned,
        Err(error) => panic!("{}: {error}", graph.name),
    }
}

fn snapshot(directory: &str, name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => directory,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn every_model_has_a_case_and_becomes_the_plan_expected() {
    let made = made();
    for name in texts("models").keys() {
        let has_case = made.values().any(|made| made.case.model == *name);
        assert!(has_case, "no case of {name} in tests/plans/");
    }
    for (name, made) in made {
        let mut text = String::new();
        let options = made.case.options(&made.device);
        for (planned, options) in made.planned.iter().zip(options) {
            let decisions = match explain::highlights(planned, &options) {
                Ok(decisions) => decisions,
                Err(error) => panic!("{name}: {error}"),
            };
            let _ = writeln!(text, "{planned}");
            for decision in decisions {
                let _ = writeln!(text, "{decision}");
            }
            let _ = writeln!(text, "\n{}\n", "=".repeat(96));
        }
        snapshot("plans", name, text.trim_end_matches(['=', '\n']));
    }
}

/// The plan that the README shows is that of tests/plans/hybrid.snap, a line a kernel; `cargo xtask bless`
/// writes it there.
#[test]
fn the_readme_shows_the_plan_that_there_is() {
    const FIRST: &str = "hybrid on h200: bf16 storage, B=8 T=2048, plan auto";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("a text");
    let snapshot = read("tests/plans/hybrid.snap");
    let mut wanted: Vec<String> = Vec::new();
    for line in snapshot.lines().skip_while(|line| *line != FIRST) {
        // What belongs to a kernel is said with -v.
        if !line.starts_with("      ") {
            wanted.push(format!("    {line}").trim_end().to_owned());
        }
        if line.starts_with("per layer:") {
            break;
        }
    }
    let readme = read("README.md");
    let lines: Vec<&str> = readme.lines().collect();
    let first = lines.iter().position(|line| line.trim() == FIRST);
    let first = first.expect("the README shows the plan");
    let shown = lines[first..].iter();
    let shown = shown.take_while(|line| line.is_empty() || line.starts_with("    "));
    let mut shown: Vec<&str> = shown.copied().collect();
    while shown.last().is_some_and(|line| line.is_empty()) {
        shown.pop();
    }
    if shown != wanted && std::env::var("SNAPSHOTS").is_ok_and(|how| how == "overwrite") {
        let (before, after) = (&lines[..first], &lines[first + shown.len()..]);
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let text = [before, &wanted, after].concat().join("\n");
        fs::write(root.join("README.md"), text + "\n").expect("written");
        return;
    }
    assert_eq!(shown, wanted, "`cargo xtask bless` brings it up to date");
}

/// Every snapshot has its case: a text that nothing is compared with any more says what is not so.
#[test]
fn no_snapshot_is_left_behind() {
    let mut known: BTreeSet<String> = cases().into_keys().collect();
    // tests/cli/plans.rs
    known.extend(["gated-scan.f32.cu", "gated-scan.bf16.cu"].map(str::to_owned));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let files = fs::read_dir(directory).expect("a directory").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let there: BTreeSet<String> = names
        .filter_map(|name| Some(name.strip_suffix(".snap")?.to_owned()))
        .collect();
    let left: Vec<&String> = there.difference(&known).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a kernel shows of its templates: which, what is before and after the anchors, what a
/// row kernel does, how a recurrence is classified.
fn template_use(graph: &Graph, kernel: &Kernel) -> String {
    let phases = kernel.phases.iter();
    let uses: Vec<String> = phases
        .map(|phase| match &phase.lanes[..] {
            [lane] => lane_use(graph, lane),
            lanes => format!("{}-lanes", lanes[0].template()),
        })
        .collect();
    uses.join("-then-")
}

fn lane_use(graph: &Graph, lane: &Body) -> String {
    let mut parts = vec![lane.template().to_string()];
    if let Schedule::Attend(AttendTile::Mma(_)) = &lane.schedule {
        parts.push("tensor-cores".to_string());
    }
    if lane.schedule.by_warpgroup() {
        parts.push("by-warpgroup".to_string());
    }
    let kind = |id: &OpId| &graph.op(*id).kind;
    for id in lane.anchors() {
        if let OpKind::Scan { recurrence, .. } = kind(id) {
            let found = classify(graph, graph.recurrence(*recurrence));
            parts.extend(found.states.iter().map(|class| class.name().to_string()));
        }
    }
    if lane.anchors().is_empty() {
        let combines = |id: &OpId| matches!(kind(id), OpKind::Norm { .. } | OpKind::Reduce { .. });
        let looks_up = |id: &OpId| matches!(kind(id), OpKind::Gather);
        let delayed = |id: &OpId| graph.op(*id).inputs.iter().any(|a| a.delay > 0);
        let has = |what: &dyn Fn(&OpId) -> bool| lane.ops.iter().any(what);
        for (name, there) in [
            ("look-up", has(&looks_up)),
            ("norm", has(&combines)),
            ("shift", has(&delayed)),
        ] {
            if there {
                parts.push(name.to_string());
            }
        }
    } else {
        let first = lane.anchors().iter().min();
        let last = lane.anchors().iter().max();
        if lane.anchors().len() > 1 {
            parts.push("joined".to_string());
        }
        if lane.ops.first() < first {
            parts.push("prologue".to_string());
        }
        if lane.ops.last() > last {
            parts.push("epilogue".to_string());
        }
    }
    parts.dedup();
    parts.join("-")
}

#[test]
fn every_use_of_a_template_becomes_the_kernel_expected() {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for (name, made) in made() {
        let case = &made.case;
        for (planned, options) in made.planned.iter().zip(case.options(&made.device)) {
            let mut manifest = None;
            for (i, kernel) in planned.plan.kernels.iter().enumerate() {
                let key = template_use(&planned.graph, kernel);
                if first.contains_key(&key) {
                    continue;
                }
                let manifest = manifest.get_or_insert_with(|| {
                    let regime = fusec_codegen::Planned {
                        name: "only",
                        min_time: 1,
                        max_time: options.shape.longest_run(),
                        graph: &planned.graph,
                        plan: &planned.plan,
                    };
                    match generate(&case.model, case.storage, &[regime]) {
                        Ok(manifest) => manifest,
                        Err(error) => panic!("{name}: {error}"),
                    }
                });
                let steps = &manifest.regimes[0].steps;
                let step = steps.iter().find(|s| s.plan_kernel == i);
                let source = &manifest.kernels[step.expect("a launch").kernel].source;
                // What is above is of the plan, whose figures are in other snapshots.
                let start = source.find("#include").expect("a kernel");
                let of = format!("// Of case {name}, T={}.\n", options.shape.time);
                first.insert(key, format!("{of}{}", &source[start..]));
            }
        }
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/kernels");
    let files = fs::read_dir(directory).expect("a directory").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names
        .filter_map(|name| Some(name.strip_suffix(".snap")?.to_owned()))
        .filter(|name| !first.contains_key(name))
        .collect();
    for (key, text) in first {
        snapshot("plans/kernels", &key, &text);
    }
    assert!(left.is_empty(), "no kernel is like these: {left:?}");
}
