//! What changed between two plans.
//!
//! Operations are matched by layer and name, so plans of different forms, shapes or devices can
//! be compared. Kernels that share an operation, directly or through others, are one change.

use crate::board::nanoseconds;
use crate::plan::{Kernel, Plan, Shape};
use crate::print::template;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Differences between two plans.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanDiff {
    /// The shape of the first plan and of the second.
    pub shape: (Shape, Shape),
    /// What was planned for, and with what claim, where it differs.
    pub settings: Vec<Setting>,
    /// Forms that only the first plan takes.
    pub forms_gone: Vec<String>,
    /// Forms that only the second takes.
    pub forms_new: Vec<String>,
    /// Launches before and after.
    pub launches: (usize, usize),
    /// Bytes of device memory traffic before and after.
    pub bytes: (f64, f64),
    /// Predicted microseconds before and after.
    pub total_us: (f64, f64),
    /// The changes, in launch order of the first plan; equal ones of several layers once.
    pub changes: Vec<Change>,
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Which.
    pub name: &'static str,
    /// In the first plan.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// What happened to kernels that share operations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What, in a word.
    pub kind: ChangeKind,
    /// Layers in which it happened; empty outside the layers.
    pub layers: Vec<u32>,
    /// The kernels of the first plan.
    pub before: Vec<Part>,
    /// The kernels of the second.
    pub after: Vec<Part>,
    /// Operations that went from one kernel to another that is otherwise the same or larger.
    pub moved: Vec<Move>,
}

/// The kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Several kernels became one.
    Merged,
    /// One kernel became several.
    Split,
    /// Several kernels became several others.
    Regrouped,
    /// The same operations in one kernel, with another template, cost or name.
    Altered,
    /// Operations that the first plan lacks.
    Added,
    /// Operations that the second plan lacks.
    Removed,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its templates.
    pub template: String,
    /// Its operations.
    pub ops: Vec<String>,
    /// Its predicted microseconds.
    pub us: f64,
}

/// An operation that changed its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The operation.
    pub op: String,
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub to: String,
}

impl Part {
    /// Whether nothing differs that shows: times that were written and read again may differ
    /// in their last digit.
    fn equals(&self, other: &Part) -> bool {
        nanoseconds(self.us) == nanoseconds(other.us)
            && (&self.name, &self.template, &self.ops) == (&other.name, &other.template, &other.ops)
    }
}

impl PlanDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
            && self.forms_gone.is_empty()
            && self.forms_new.is_empty()
            && self.changes.is_empty()
    }
}

/// Compares the plans of two lists: those of equal shape with each other, the rest in order.
/// Returns also how many of each list are without a counterpart.
pub fn compare_all(before: &[Plan], after: &[Plan]) -> (Vec<PlanDiff>, (usize, usize)) {
    let mut free: Vec<usize> = (0..after.len()).collect();
    let mut partner: Vec<Option<usize>> = vec![None; before.len()];
    let of_shape =
        |shape: Shape, free: &[usize]| free.iter().position(|j| after[*j].shape == shape);
    for (i, plan) in before.iter().enumerate() {
        partner[i] = of_shape(plan.shape, &free).map(|at| free.remove(at));
    }
    for of in &mut partner {
        if of.is_none() && !free.is_empty() {
            *of = Some(free.remove(0));
        }
    }
    let diffs: Vec<PlanDiff> = before
        .iter()
        .zip(&partner)
        .filter_map(|(plan, of)| of.map(|j| compare(plan, &after[j])))
        .collect();
    let lonely = before.len() - diffs.len();
    (diffs, (lonely, free.len()))
}

/// Compares two plans.
pub fn compare(before: &Plan, after: &Plan) -> PlanDiff {
    let only = |a: &Plan, b: &Plan| -> Vec<String> {
        a.forms
            .iter()
            .filter(|f| !b.forms.contains(f))
            .cloned()
            .collect()
    };
    let bytes = |plan: &Plan| plan.kernels.iter().map(|k| k.cost.bytes).sum();
    PlanDiff {
        shape: (before.shape, after.shape),
        settings: settings(before, after),
        forms_gone: only(before, after),
        forms_new: only(after, before),
        launches: (before.kernels.len(), after.kernels.len()),
        bytes: (bytes(before), bytes(after)),
        total_us: (before.total_us, after.total_us),
        changes: changes(&before.kernels, &after.kernels),
    }
}

fn settings(before: &Plan, after: &Plan) -> Vec<Setting> {
    let of = |plan: &Plan| {
        [
            ("model", plan.model.clone()),
            ("device", plan.device.clone()),
            (
                "shape",
                format!("B={} T={}", plan.shape.batch, plan.shape.time),
            ),
            ("storage", plan.storage.to_string()),
            ("plan", plan.mode.to_string()),
            ("claim", plan.claim.clone()),
        ]
    };
    of(before)
        .into_iter()
        .zip(of(after))
        .filter(|((_, a), (_, b))| a != b)
        .map(|((name, before), (_, after))| Setting {
            name,
            before,
            after,
        })
        .collect()
}

/// An operation of any plan of the model: layer, name, and which of that name it is.
type Key = (Option<u32>, String, usize);

/// For each kernel its operations as keys, and for each key its kernel.
struct Side<'a> {
    kernels: &'a [Kernel],
    keys: Vec<Vec<Key>>,
    of: BTreeMap<Key, usize>,
}

impl<'a> Side<'a> {
    fn new(kernels: &'a [Kernel]) -> Side<'a> {
        // Names that occur twice in a layer are told apart by the order of their operations.
        let mut all: Vec<(u32, usize, usize)> = Vec::new();
        for (k, kernel) in kernels.iter().enumerate() {
            let ops = kernel.ops.iter().take(kernel.names.len());
            all.extend(ops.enumerate().map(|(i, id)| (id.0, k, i)));
        }
        all.sort_unstable();
        let mut seen: BTreeMap<(Option<u32>, &str), usize> = BTreeMap::new();
        let mut keys = vec![Vec::new(); kernels.len()];
        let mut of = BTreeMap::new();
        for (_, k, i) in all {
            let kernel = &kernels[k];
            let name = kernel.names[i].as_str();
            let count = seen.entry((kernel.layer, name)).or_insert(0);
            let key = (kernel.layer, name.to_string(), *count);
            *count += 1;
            keys[k].push(key.clone());
            of.insert(key, k);
        }
        Side { kernels, keys, of }
    }

    fn part(&self, k: usize) -> Part {
        let kernel = &self.kernels[k];
        Part {
            name: kernel.name.clone(),
            template: template(kernel),
            ops: kernel.names.clone(),
            us: kernel.cost.total_us,
        }
    }

    /// Kernels of this side that share an operation with a kernel of the other.
    fn partners(&self, other: &Side<'_>, k: usize) -> BTreeSet<usize> {
        let keys = other.keys[k].iter();
        keys.filter_map(|key| self.of.get(key).copied()).collect()
    }
}

/// What changed between the kernels of two plans.
pub fn changes(before: &[Kernel], after: &[Kernel]) -> Vec<Change> {
    let (a, b) = (Side::new(before), Side::new(after));
    let mut out: Vec<Change> = Vec::new();
    let mut done = BTreeSet::new();
    for first in 0..before.len() {
        if !done.contains(&first) {
            let (left, right) = connected(&a, &b, first);
            done.extend(left.iter().copied());
            push(&mut out, change(&a, &b, &left, &right));
        }
    }
    for k in 0..after.len() {
        if a.partners(&b, k).is_empty() {
            push(
                &mut out,
                change(&a, &b, &BTreeSet::new(), &BTreeSet::from([k])),
            );
        }
    }
    out
}

/// The kernels of both sides that share operations with each other, from one of the first.
fn connected(a: &Side<'_>, b: &Side<'_>, first: usize) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let (mut left, mut right) = (BTreeSet::from([first]), BTreeSet::new());
    let mut stack = vec![first];
    while let Some(k) = stack.pop() {
        for r in b.partners(a, k) {
            if right.insert(r) {
                stack.extend(a.partners(b, r).into_iter().filter(|l| left.insert(*l)));
            }
        }
    }
    (left, right)
}

/// Adds a change; the same in another layer is the same change.
fn push(out: &mut Vec<Change>, change: Option<Change>) {
    let Some(change) = change else { return };
    let same = out.iter_mut().find(|c| {
        c.kind == change.kind
            && c.layers.is_empty() == change.layers.is_empty()
            && c.before == change.before
            && c.after == change.after
    });
    match same {
        Some(same) if !change.layers.is_empty() => same.layers.extend(change.layers),
        _ => out.push(change),
    }
}

/// The change between connected kernels, if there is one.
fn change(
    a: &Side<'_>,
    b: &Side<'_>,
    left: &BTreeSet<usize>,
    right: &BTreeSet<usize>,
) -> Option<Change> {
    let before: Vec<Part> = left.iter().map(|k| a.part(*k)).collect();
    let after: Vec<Part> = right.iter().map(|k| b.part(*k)).collect();
    let kind = match (before.len(), after.len()) {
        (_, 0) => ChangeKind::Removed,
        (0, _) => ChangeKind::Added,
        (1, 1) if before.iter().zip(&after).all(|(a, b)| a.equals(b)) => return None,
        (1, 1) => ChangeKind::Altered,
        (_, 1) => ChangeKind::Merged,
        (1, _) => ChangeKind::Split,
        _ => ChangeKind::Regrouped,
    };
    let layer = left.iter().find_map(|k| a.kernels[*k].layer);
    let layer = layer.or_else(|| right.iter().find_map(|k| b.kernels[*k].layer));
    Some(Change {
        kind,
        layers: layer.into_iter().collect(),
        moved: match kind {
            ChangeKind::Regrouped => moves(a, b, left, right),
            _ => vec![],
        },
        before,
        after,
    })
}

/// Operations of a kernel of the second plan that come from elsewhere than most of the kernel.
fn moves(a: &Side<'_>, b: &Side<'_>, left: &BTreeSet<usize>, right: &BTreeSet<usize>) -> Vec<Move> {
    let shared = |l: usize, r: usize| {
        let keys = b.keys[r].iter();
        keys.filter(|key| a.of.get(*key) == Some(&l)).count()
    };
    let mut out = Vec::new();
    for r in right {
        let most = left.iter().copied().max_by_key(|l| {
            let same_name = a.kernels[*l].name == b.kernels[*r].name;
            (shared(*l, *r), same_name, std::cmp::Reverse(*l))
        });
        for key in &b.keys[*r] {
            let from = a.of.get(key).copied();
            if let Some(from) = from
                && Some(from) != most
            {
                out.push(Move {
                    op: key.1.clone(),
                    from: a.kernels[from].name.clone(),
                    to: b.kernels[*r].name.clone(),
                });
            }
        }
    }
    out
}
