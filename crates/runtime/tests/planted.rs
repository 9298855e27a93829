//! Tests of the tests: faults of every kind, planted one at a time into kernels that are right, and into
//! how they are launched, are all found by the comparison that the other tests make.
//!
//! Some places of every kind run always; `FUSEC_ALL_FAULTS=1` takes every place there is.

use std::collections::BTreeMap;

use common::{Case, Conditions, compare, generated, root, slow_steps};
use fusec_codegen::{Arg, BufferKind, Manifest};
use fusec_fuse::{Device, Mode, Storage};
use fusec_ir::expr::{Binary, Expr};
use fusec_ir::language::{ModelSource, Overrides, compile};
use fusec_ir::{Graph, OpKind, ValueId};
use rayon::prelude::*;

mod common;

/// Places of a kind that are tried in each model.
const PLACES: usize = 3;
/// Orders of threads under which a fault may show: a race need not show under every one.
const ORDERS: [u64; 4] = [11, 0, 7, 1234];

/// Largest accepted difference. Of a few terms, a sum in f16 is off by no more than this.
const BOUND: f64 = 2e-6;

/// A fault at a place: what is wrong, and the kernels with it.
struct Planted {
    kind: &'static str,
    place: String,
    manifest: Manifest,
}

/// A change of one line of a kernel: the line as it is to be, `None` where the kind has no place.
type Edit = fn(line: &str, around: &Around<'_>) -> Option<String>;

/// What a line is part of.
struct Around<'a> {
    /// The whole source.
    source: &'a str,
    /// The line before.
    before: &'a str,
    /// Pointers to the row of a token in shared memory.
    shared: &'a [&'a str],
    /// Whether the line lies in a loop along T, some rows at a time.
    row_by_row: bool,
    /// Whether it is the last of what is done for a row: behind it is the next.
    ends_row: bool,
    /// Whether the kernel is ever given more than one token.
    long: bool,
}

const EDITS: [(&str, Edit); 8] = [
    ("dropped barrier", |line, around| {
        // Between two turns of a lane there is one more wherever the lane itself has one before it writes
        // to shared memory.
        let between_turns = around.before.contains("(smem, block,");
        let barrier = ["__syncthreads();", "grid_barrier();"].contains(&line.trim());
        let between_rows = around.ends_row && !around.long;
        (barrier && !between_turns && !between_rows).then(String::new)
    }),
    ("copy that is not waited for", |line, _| {
        line.trim().starts_with("cp_async_wait<").then(String::new)
    }),
    ("halo that is a row too short", |line, around| {
        if !around.long {
            return None;
        }
        let (head, rest) = line.split_once("const i64 t_first = t_begin > ")?;
        let (rows, _) = rest.split_once(' ')?;
        let rows: usize = rows.parse().ok()?;
        let shorter = rows - 1;
        let first = format!("t_begin > {rows} ? t_begin - {shorter} : 0");
        Some(format!("{head}const i64 t_first = {first};"))
    }),
    ("state in another layout", |line, _| {
        let (head, tail) = line.split_once("state_")?;
        let (address, rest) = tail.split_once("+ elem")?;
        (!head.contains("__restrict__")).then(|| format!("{head}state_{address}+ (elem ^ 4){rest}"))
    }),
    ("sum in f16", |line, around| {
        let (sum, term) = line.split_once(" += ")?;
        let term = term.strip_suffix(';')?;
        // Counters and pointers are no sums.
        let name = sum.trim().split(['[', ' ']).next()?;
        let number = format!("float {name}");
        let number = around.source.contains(&number);
        (number && !line.contains("for (")).then(|| {
            format!(
                "{sum} = to_f32(from_f32<f16_t>({} + ({term})));",
                sum.trim()
            )
        })
    }),
    ("shared memory of the rows before", |line, around| {
        let target = line.trim().split_once('[')?.0;
        let stores = line.contains("] = ") && around.shared.contains(&target);
        let indent = line.len() - line.trim_start().len();
        (stores && around.row_by_row && around.long).then(|| {
            let indent = " ".repeat(indent);
            format!("{indent}if (first == t_begin) {}", line.trim())
        })
    }),
    ("chunk that ends a token early", |line, around| {
        if !around.long {
            return None;
        }
        let walk = line.trim() == "const i64 t_end = T;";
        let chunk = "const int tokens = steps - chunk0 < CHUNK ? int(steps - chunk0) : CHUNK;";
        if walk {
            return Some("const i64 t_end = T > 1 ? T - 1 : T;".into());
        }
        (line.trim() == chunk).then(|| {
            "const int tokens = steps - chunk0 < CHUNK ? int(steps - chunk0) : CHUNK - 1;".into()
        })
    }),
    ("tail of the rows before", |line, around| {
        if !around.long {
            return None;
        }
        let (head, rest) = line.split_once("if (t >= T - ")?;
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (rows, rest) = rest.split_at(digits);
        let rows: usize = rows.parse().ok()?;
        Some(format!("{head}if (t >= T - {}{rest}", rows - 1))
    }),
];

/// Every place of a kernel at which a kind fits, with the source that has it.
fn edited(source: &str, long: bool, edit: Edit) -> Vec<(String, String)> {
    let lines: Vec<&str> = source.lines().collect();
    let shared: Vec<&str> = lines
        .iter()
        .filter_map(|line| {
            let (_, rest) = line.split_once("float* const ")?;
            let (name, place) = rest.split_once(" = ")?;
            place.contains("_rows + at *").then_some(name)
        })
        .collect();
    let mut found = Vec::new();
    let mut loops: Vec<usize> = Vec::new();
    let mut rows: Vec<usize> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if !line.trim().is_empty() {
            loops.retain(|start| *start < indent);
            rows.retain(|start| *start < indent);
        }
        let after = lines.get(at + 1).copied().unwrap_or_default();
        let closes = after.trim() == "}" && rows.contains(&(after.len() - 1));
        let around = Around {
            source,
            before: at.checked_sub(1).map_or("", |before| lines[before]),
            shared: &shared,
            row_by_row: !loops.is_empty(),
            ends_row: closes,
            long,
        };
        if let Some(wrong) = edit(line, &around) {
            let mut changed: Vec<&str> = lines.clone();
            changed[at] = &wrong;
            let place = format!("line {}: {}", at + 1, line.trim());
            found.push((place, changed.join("\n") + "\n"));
        }
        if line.trim_start().starts_with("for (i64 first = t_begin") {
            loops.push(indent);
        }
        if line.trim_start().starts_with("for (i64 t = t_") {
            rows.push(indent);
        }
    }
    found
}

/// Whether an operation reads two values by an expression that does not tell them apart, as a sum does.
fn alike_to(graph: &Graph, x: ValueId, y: ValueId) -> bool {
    fn uses(expr: &Expr, count: &mut BTreeMap<usize, usize>, alike: &mut Vec<[usize; 2]>) {
        match expr {
            Expr::Input(n) => *count.entry(*n).or_default() += 1,
            Expr::Unary(_, a) => uses(a, count, alike),
            Expr::Binary(f, a, b) => {
                if let (Binary::Add | Binary::Mul, Expr::Input(a), Expr::Input(b)) = (f, &**a, &**b)
                {
                    alike.push([*a, *b]);
                }
                uses(a, count, alike);
                uses(b, count, alike);
            }
            _ => {}
        }
    }
    graph.ops.iter().any(|op| {
        let OpKind::Map { expr } = &op.kind else {
            return false;
        };
        let (mut count, mut alike) = (BTreeMap::new(), Vec::new());
        uses(expr, &mut count, &mut alike);
        alike.iter().any(|pair| {
            let [a, b] = pair.map(|n| &op.inputs[n]);
            let same = (a.delay, &a.index) == (b.delay, &b.index);
            let these = [a.value, b.value] == [x, y] || [a.value, b.value] == [y, x];
            same && these && pair.iter().all(|n| count[n] == 1)
        })
    })
}

/// How often a parameter of a kernel is named behind its signature.
fn mentions(source: &str, name: &str) -> usize {
    let (_, body) = source.split_once(") {\n").unwrap_or_default();
    let part = |c: char| c.is_alphanumeric() || c == '_';
    body.split(|c: char| !part(c))
        .filter(|word| *word == name)
        .count()
}

/// Wrong launches of right kernels: tails that are exchanged a run too early, and operands of one size
/// that change places.
fn launched_wrong(manifest: &Manifest) -> Vec<Planted> {
    let mut found = Vec::new();
    for (r, regime) in manifest.regimes.iter().enumerate() {
        for (s, step) in regime.steps.iter().enumerate() {
            let mut wrong = |kind, a: usize, b: usize| {
                let mut manifest = manifest.clone();
                let step = &mut manifest.regimes[r].steps[s];
                step.args.swap(a, b);
                let name = |i: usize| &manifest.kernels[step.kernel].params[i].name;
                let place = format!("{} step {s}: {}, {}", regime.name, name(a), name(b));
                found.push(Planted {
                    kind,
                    place,
                    manifest: manifest.clone(),
                });
            };
            for (a, first) in step.args.iter().enumerate() {
                for (b, second) in step.args.iter().enumerate().skip(a + 1) {
                    match (first, second) {
                        (Arg::OldTail(x), Arg::NewTail(y)) if x == y => {
                            wrong("wrong parity of a tail", a, b);
                        }
                        (Arg::Buffer(x), Arg::Buffer(y)) if x != y => {
                            let (x, y) = (&regime.buffers[*x], &regime.buffers[*y]);
                            let alike = (x.element, x.elements, x.extent)
                                == (y.element, y.elements, y.extent);
                            let read = |i| step.reads.contains(&i) && !step.writes.contains(&i);
                            let (Arg::Buffer(i), Arg::Buffer(j)) = (first, second) else {
                                continue;
                            };
                            // A weight that is all ones is as good as another.
                            let varies =
                                |kind| !matches!(kind, BufferKind::Param(id) if flat(manifest, id));
                            // Nor is there a difference between the two sides of a sum.
                            let kernel = &manifest.kernels[step.kernel];
                            let image = manifest.images().find(|one| one.name == kernel.image);
                            let once = |n: usize| {
                                let name = &kernel.params[n].name;
                                image.is_some_and(|image| mentions(&image.source, name) == 1)
                            };
                            let symmetric = match (value(x.kind), value(y.kind)) {
                                (Some(x), Some(y)) => {
                                    once(a) && once(b) && alike_to(&regime.graph, x, y)
                                }
                                _ => false,
                            };
                            let varies = varies(x.kind) || varies(y.kind);
                            if alike && read(*i) && read(*j) && varies && !symmetric {
                                wrong("operands that change places", a, b);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// The value that a buffer holds.
fn value(kind: BufferKind) -> Option<ValueId> {
    match kind {
        BufferKind::Input(id) | BufferKind::Scratch(id) | BufferKind::Output(id) => Some(id),
        _ => None,
    }
}

/// Whether a parameter starts as one number.
fn flat(manifest: &Manifest, id: fusec_ir::ParamId) -> bool {
    let param = &manifest.regimes[0].graph.params[id.0 as usize];
    matches!(param.init, fusec_ir::Init::Constant(_))
}

/// Whether an image is launched for runs of more than one token.
fn long(manifest: &Manifest, image: &str) -> bool {
    let regimes = manifest.regimes.iter();
    let mut steps = regimes
        .filter(|regime| regime.max_time != Some(1))
        .flat_map(|regime| &regime.steps);
    steps.any(|step| manifest.kernels[step.kernel].image == image)
}

/// Every fault that fits these kernels.
fn faults(manifest: &Manifest) -> Vec<Planted> {
    let mut found = launched_wrong(manifest);
    for (kind, edit) in EDITS {
        for (k, kernel) in manifest.kernels.iter().enumerate() {
            if kernel.image != kernel.name {
                continue;
            }
            for (place, source) in edited(&kernel.source, long(manifest, &kernel.name), edit) {
                let mut manifest = manifest.clone();
                manifest.kernels[k].source = source;
                found.push(Planted {
                    kind,
                    place: format!("{} {place}", kernel.name),
                    manifest,
                });
            }
        }
    }
    found
}

/// Some of the faults of each kind, from all over the model; or all.
fn chosen(all: Vec<Planted>) -> Vec<Planted> {
    if std::env::var_os("FUSEC_ALL_FAULTS").is_some() {
        return all;
    }
    let mut kinds: BTreeMap<&str, Vec<Planted>> = BTreeMap::new();
    for fault in all {
        kinds.entry(fault.kind).or_default().push(fault);
    }
    let some = kinds.into_values().flat_map(|faults| {
        let step = faults.len().div_ceil(PLACES);
        faults.into_iter().step_by(step)
    });
    some.collect()
}

fn model(file: &str, axes: &[(&str, usize)]) -> Graph {
    let source = ModelSource::from_path(&root().join("models").join(file)).expect("model file");
    let overrides = Overrides {
        axes: axes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
        ..Overrides::default()
    };
    compile(&source, &overrides).unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

#[test]
fn every_fault_is_found() {
    let (today, slow) = (Device::find("h200").expect("profile"), slow_steps(false));
    // So wide that the rows of a value take several warps: what one warp does alone needs no barrier.
    let rwkv6 = [
        ("V", 64),
        ("L", 1),
        ("H", 4),
        ("N", 16),
        ("R", 8),
        ("Rd", 16),
    ];
    let mamba2 = [
        ("V", 64),
        ("L", 1),
        ("C", 256),
        ("Hg", 8),
        ("P", 32),
        ("Ns", 32),
    ];
    let deltanet = [
        ("V", 64),
        ("L", 1),
        ("C", 256),
        ("H", 8),
        ("Dk", 32),
        ("Dv", 32),
        ("I", 64),
    ];
    let cases = [
        ("rwkv6.toml", &rwkv6[..], Mode::Auto, &today),
        ("mamba2.toml", &mamba2[..], Mode::Unfused, &today),
        ("mamba2.toml", &mamba2[..], Mode::Auto, &slow),
        ("gated-deltanet.toml", &deltanet[..], Mode::Auto, &slow),
    ];
    let mut missed = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, axes, mode, device) in cases {
        let graph = model(file, axes);
        let case = Case {
            name: file,
            graph: &graph,
            storage: Storage::F32,
            mode,
            batch: 2,
            times: &[39, 1, 70, 2],
            bound: BOUND,
        };
        let conditions = Conditions::on(device);
        let manifest = generated(&case, conditions).unwrap_or_else(|why| panic!("{why}"));
        for order in ORDERS {
            let conditions = Conditions {
                order,
                ..conditions
            };
            let sound = compare(&case, manifest.clone(), conditions);
            sound.unwrap_or_else(|why| panic!("{file} {mode} without a fault: {why}"));
        }
        let faults = chosen(faults(&manifest));
        // Each is a kernel to build, and building one takes one core.
        let found: Vec<Option<String>> = faults
            .par_iter()
            .map(|fault| {
                ORDERS.into_iter().find_map(|order| {
                    let conditions = Conditions {
                        order,
                        ..conditions
                    };
                    compare(&case, fault.manifest.clone(), conditions).err()
                })
            })
            .collect();
        for (fault, found) in faults.into_iter().zip(found) {
            *counts.entry(fault.kind).or_default() += 1;
            let Planted { kind, place, .. } = fault;
            match found {
                None => missed.push(format!("{file} {mode}: {kind}: {place}")),
                // A fault that does not compile shows nothing.
                Some(why) => assert!(!why.contains("compiling"), "{kind}: {place}: {why}"),
            }
        }
    }
    println!("planted: {counts:?}");
    let kinds = EDITS.len() + 2;
    assert_eq!(counts.len(), kinds, "a kind has no place: {counts:?}");
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n"));
}
