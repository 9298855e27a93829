//! Why the kernels next to one are not part of it.

use crate::data::{Edge, KernelReport, Neighbour, OpReport};
use fusec_fuse::explain::why::{Verdict, Why};

/// A verdict in a word and in a sentence.
fn told(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Illegal {
            reason,
            group,
            complete,
        } => {
            let sure = match complete {
                true => "",
                false => " (larger groups were not all examined)",
            };
            let text = format!(
                "No kernel may hold both{sure}. Rule {}: allowed {}, got {}. The smallest group \
                 with both has {} operations.",
                reason.rule,
                reason.limit,
                reason.got,
                group.len()
            );
            ("illegal", text)
        }
        Verdict::Dearer { by_us } if by_us.abs() < 5e-4 => (
            "dearer",
            "One kernel may hold both, and would take as long.".into(),
        ),
        Verdict::Dearer { by_us } => {
            let text = format!(
                "One kernel may hold both; all launches together would then take {:.3} us {}.",
                by_us.abs(),
                if *by_us > 0.0 { "more" } else { "less" }
            );
            ("dearer", text)
        }
        Verdict::Pinned { reason } => {
            let text = format!("Kept apart by a pin: {}, {}.", reason.rule, reason.got);
            ("pinned", text)
        }
        Verdict::Legal => (
            "legal",
            "One kernel may hold both. Other pairs were closer calls, so that this one's price was \
             not asked for: fusec explain MODEL A B tells it."
                .into(),
        ),
    }
}

/// Gives each kernel of a part its neighbours: those that the explanation names, and those of other
/// parts, which no kernel spans.
pub(crate) fn add(kernels: &mut [KernelReport], ops: &[OpReport], edges: &[Edge], why: &Why) {
    let position =
        |kernels: &[KernelReport], name: &str| kernels.iter().position(|k| k.name == name);
    for edge in &why.edges {
        let ends = (position(kernels, &edge.from), position(kernels, &edge.to));
        let (Some(from), Some(to)) = ends else {
            continue;
        };
        let (verdict, text) = told(&edge.verdict);
        for (at, other, before) in [(from, to, false), (to, from, true)] {
            let neighbour = Neighbour {
                kernel: Some(other),
                name: kernels[other].name.clone(),
                before,
                values: edge.values.clone(),
                bytes: edge.bytes,
                verdict,
                why: text.clone(),
            };
            kernels[at].neighbours.push(neighbour);
        }
    }
    for edge in edges {
        let kernel = |op: Option<usize>| op.and_then(|op| ops.get(op)).map(|op| op.kernel);
        match (kernel(edge.from), kernel(edge.to)) {
            (Some(from), Some(to)) if from != to => {
                for (at, other, before) in [(from, to, false), (to, from, true)] {
                    let name = kernels[other].name.clone();
                    let why = "No kernel spans both: a long layer is cut where fewest values cross, \
                               and its runs are planned one by one.";
                    elsewhere(&mut kernels[at], Some(other), &name, before, edge, why);
                }
            }
            (None, Some(at)) | (Some(at), None) => {
                let before = edge.from.is_none();
                let name = match before {
                    true => "what runs before",
                    false => "what runs after",
                };
                let why = "No kernel spans two layers, or a layer and what is outside of them: \
                           equal layers share their kernels.";
                elsewhere(&mut kernels[at], None, name, before, edge, why);
            }
            _ => {}
        }
    }
}

/// Adds a value that goes to a neighbour which the explanation says nothing of, unless it does.
fn elsewhere(
    kernel: &mut KernelReport,
    other: Option<usize>,
    name: &str,
    before: bool,
    edge: &Edge,
    why: &str,
) {
    let mut known = kernel.neighbours.iter_mut();
    let same = known.find(|n| {
        n.kernel == other
            && n.before == before
            && (n.verdict == "elsewhere" || n.values.contains(&edge.value))
    });
    match same {
        Some(known) if known.values.contains(&edge.value) => {}
        Some(known) => {
            known.values.push(edge.value.clone());
            known.bytes = known.bytes.max(edge.bytes);
        }
        None => kernel.neighbours.push(Neighbour {
            kernel: other,
            name: name.into(),
            before,
            values: vec![edge.value.clone()],
            bytes: edge.bytes,
            verdict: "elsewhere",
            why: why.into(),
        }),
    }
}
