//! From what the user types to the name of a value.

use crate::context::Context;
use fusec_ir::{Def, Graph};
use std::collections::{BTreeMap, BTreeSet};

/// Names offered when there is no such name.
const OFFERED: usize = 3;

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no such value.
    #[error("there is no value `{name}`{}", offer(near))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest names there are.
        near: Vec<String>,
    },
    /// Several values end in this name.
    #[error("`{name}` may be any of {}; give the whole name", list(candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Whole names.
        candidates: Vec<String>,
    },
    /// It is a value, but no kernel computes it.
    #[error("no kernel computes `{name}`: it is {what}; name a value that is computed at each run")]
    NotComputed {
        /// What was asked for.
        name: String,
        /// What it is.
        what: &'static str,
    },
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    quoted.join(", ")
}

fn offer(near: &[String]) -> String {
    match near {
        [] => "; `fusec plan --plan unfused` lists all names".into(),
        near => format!("; did you mean {}?", list(near)),
    }
}

/// The names of the values that kernels compute.
pub fn computed(ctx: &Context<'_>) -> BTreeSet<String> {
    let ops = ctx.planned().iter().map(|id| ctx.graph.op(*id));
    let values = ops.flat_map(|op| &op.outputs);
    values.map(|v| ctx.graph.value(*v).name.clone()).collect()
}

/// The one name among `names` that is meant: as typed, or what alone ends in `.typed`.
/// `graph` tells what a name that is not computed stands for.
pub fn resolve(names: &BTreeSet<String>, graph: &Graph, typed: &str) -> Result<String, NameError> {
    if names.contains(typed) {
        return Ok(typed.to_string());
    }
    if let Some(value) = graph.values.iter().find(|v| v.name == typed) {
        let what = match value.def {
            Def::Input => "given by the caller",
            Def::Param(_) => "a parameter",
            Def::Op(..) if !value.rows => "computed once, at load",
            Def::Op(..) => "needed by nobody",
        };
        return Err(NameError::NotComputed {
            name: typed.into(),
            what,
        });
    }
    let ending = format!(".{typed}");
    let candidates: Vec<String> = names
        .iter()
        .filter(|n| n.ends_with(&ending))
        .cloned()
        .collect();
    match candidates.len() {
        0 => Err(NameError::Unknown {
            name: typed.into(),
            near: nearest(names, typed),
        }),
        1 => Ok(candidates.into_iter().collect()),
        _ => Err(NameError::Ambiguous {
            name: typed.into(),
            candidates,
        }),
    }
}

/// The names that take the fewest edits to become `typed`, compared whole and by their last part.
fn nearest(names: &BTreeSet<String>, typed: &str) -> Vec<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    let mut by_edits: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for name in names {
        let whole = edits(name, typed);
        let end = edits(&last(name), &last(typed));
        // A third of what was typed may be wrong; more is another word.
        let near = [(whole, typed), (end, &last(typed))]
            .iter()
            .any(|(n, of)| *n <= of.chars().count().div_ceil(3));
        if near {
            by_edits.entry(whole + end).or_default().push(name);
        }
    }
    by_edits
        .into_values()
        .flatten()
        .take(OFFERED)
        .cloned()
        .collect()
}

/// Insertions, deletions, replacements and exchanges of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut n = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                n = n.min(rows[i - 2][j - 2] + 1);
            }
            row.push(n);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_the_slips_of_a_typist() {
        for (a, b, n) in [
            ("", "abc", 3),
            ("wkv", "wkv", 0),
            ("wkv", "wvk", 1),
            ("gate", "gte", 1),
            ("gate", "date", 1),
            ("ab", "xy", 2),
        ] {
            assert_eq!(edits(a, b), n, "{a} {b}");
            assert_eq!(edits(b, a), n, "{b} {a}");
        }
    }
}
