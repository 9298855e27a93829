//! Readable kernel names, from the model's own names.

use crate::context::Context;
use crate::plan::Phase;
use crate::segment::signature;
use fusec_ir::{OpId, ValueId};
use std::collections::BTreeMap;

/// Longest name.
const MAX: usize = 60;

/// Gives equal names to equal kernels and different names to different ones.
#[derive(Debug, Default)]
pub struct Names {
    /// Name -> what bears it.
    taken: BTreeMap<String, String>,
}

impl Names {
    /// The name of the kernel that computes `ops` in `phases`.
    pub fn name(&mut self, ctx: &Context<'_>, ops: &[OpId], phases: &[Phase]) -> String {
        let bearer = signature(ctx, ops);
        let base = base_name(ctx, ops, phases);
        let mut n = 1;
        loop {
            let name = match n {
                1 => base.clone(),
                _ => {
                    let suffix = format!("_{n}");
                    let keep = base.len().min(MAX - suffix.len());
                    format!("{}{suffix}", &base[..keep])
                }
            };
            match self.taken.get(&name) {
                Some(other) if *other != bearer => n += 1,
                _ => {
                    self.taken.insert(name.clone(), bearer);
                    return name;
                }
            }
        }
    }
}

/// The names of the results that leave the kernel, as many as fit, each block said once.
fn base_name(ctx: &Context<'_>, ops: &[OpId], phases: &[Phase]) -> String {
    let graph = ctx.graph;
    let lanes = phases.iter().flat_map(|phase| &phase.lanes);
    let mut values: Vec<ValueId> = lanes.flat_map(|lane| lane.stores.clone()).collect();
    // What only a later phase reads does not leave the kernel.
    let inside = |id: &OpId| ops.binary_search(id).is_ok();
    values.retain(|v| ctx.is_output(*v) || !ctx.readers(*v).iter().all(inside));
    if values.is_empty() {
        values = ops
            .iter()
            .flat_map(|id| graph.op(*id).outputs.clone())
            .collect();
    }
    let mut name = String::new();
    let mut previous: Vec<String> = vec![];
    for value in values {
        let path: Vec<String> = graph
            .value(value)
            .name
            .split('.')
            .map(identifier)
            .filter(|part| !part.is_empty())
            .collect();
        // What this name has in common with the one before is not said again.
        let said = path
            .iter()
            .zip(&previous)
            .take_while(|(a, b)| a == b)
            .count();
        let part = path[said.min(path.len().saturating_sub(1))..].join("_");
        if !name.is_empty() {
            if name.len() + 1 + part.len() > MAX {
                break;
            }
            name.push('_');
        }
        name.push_str(&part);
        previous = path;
    }
    name.truncate(MAX);
    match name.chars().next() {
        None => "kernel".to_string(),
        Some(c) if c.is_ascii_lowercase() => name,
        Some(_) => {
            name.insert_str(0, "k_");
            name.truncate(MAX);
            name
        }
    }
}

/// Lower-case ASCII letters, digits and single underscores.
fn identifier(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
    }
    out.trim_end_matches('_').to_string()
}

#[cfg(test)]
mod tests {
    use super::identifier;

    #[test]
    fn identifiers_are_plain() {
        for (from, to) in [
            ("time_mix.xx", "time_mix_xx"),
            ("S'", "s"),
            ("é__x", "x"),
            ("", ""),
        ] {
            assert_eq!(identifier(from), to);
        }
    }
}
