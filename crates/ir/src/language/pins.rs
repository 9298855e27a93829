//! Pins: wishes about fusion, resolved to names of values.

use super::error::{Problem, Result, fail};
use super::lower::Lowering;
use crate::{Def, Pin};
use std::collections::HashSet;

impl Lowering<'_> {
    /// Resolves pins to names of values.
    pub fn pins(&mut self) -> Result<()> {
        let document = self.document;
        let mut names: HashSet<&str> = HashSet::new();
        let mut called: HashSet<&str> = HashSet::new();
        for value in &self.graph.values {
            names.insert(&value.name);
            called.extend(value.name.split_once('.').map(|(block, _)| block));
        }
        let model = document.pins.iter().map(|p| (None, p));
        let blocks = document
            .blocks
            .iter()
            .flat_map(|(name, block)| block.pins.iter().map(move |p| (Some(name), p)));
        for (block, pin) in model.chain(blocks) {
            let mut values = Vec::new();
            for name in &pin.names {
                let local = block.map(|b| format!("{b}.{}", name.value));
                let found = local.iter().chain([&name.value]).find_map(|candidate| {
                    if names.contains(candidate.as_str()) {
                        Some(candidate.clone())
                    } else {
                        self.aliases.get(candidate).cloned()
                    }
                });
                let used = block.is_none_or(|b| called.contains(b.as_str()));
                match found {
                    Some(found) => values.push(found),
                    // A block that this model does not call has nothing to pin.
                    None if !used => {}
                    None => {
                        let mut known: Vec<String> = self
                            .graph
                            .values
                            .iter()
                            .filter(|v| matches!(v.def, Def::Op(..)))
                            .map(|v| v.name.clone())
                            .collect();
                        known.sort();
                        known.dedup();
                        return fail(
                            Problem::UnknownName {
                                name: name.value.clone(),
                                known,
                            },
                            name.span,
                        );
                    }
                }
            }
            if values.len() >= 2 {
                self.graph.pins.push(Pin {
                    kind: pin.kind,
                    values,
                    span: Some(pin.span),
                });
            }
        }
        Ok(())
    }
}
