//! Pins: wishes about fusion, resolved to names of values.

use super::error::{Problem, Result, fail};
use super::lower::Lowering;
use crate::{Def, Pin};

impl Lowering<'_> {
    /// Resolves pins to names of values.
    pub fn pins(&mut self) -> Result<()> {
        let document = self.document;
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
                    if self.graph.values.iter().any(|v| v.name == *candidate) {
                        Some(candidate.clone())
                    } else {
                        self.aliases.get(candidate).cloned()
                    }
                });
                let used = block.is_none_or(|b| {
                    self.graph
                        .values
                        .iter()
                        .any(|v| v.name.starts_with(&format!("{b}.")))
                });
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
