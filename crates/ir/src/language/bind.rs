//! Axes of a recurrence: which axis of the model each formal axis runs along at a call.

use super::document::RecurrenceDecl;
use super::error::{Fault, Problem, Result, refuse};
use super::lower::Lowering;
use super::pointwise;
use super::syntax::{Formal, Node};
use super::tensor::Tensor;
use crate::{AxisId, Span};
use indexmap::IndexMap;

/// An axis letter of a definition, at one call.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub size: usize,
    /// The axis of the model that it runs along.
    pub atom: AxisId,
}

/// How the formal axes of a definition are bound at a call.
pub(super) struct Binding {
    /// Per formal input: for each axis of the argument, the formal axis that indexes it.
    pub arguments: Vec<Vec<(AxisId, Slot)>>,
    pub letters: IndexMap<String, Letter>,
}

/// A formal axis: an atom of the model or a letter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Slot {
    Atom(AxisId),
    Letter(String),
}

impl Lowering<'_> {
    /// The slots of a formal: model axes are expanded to their atoms.
    fn slots(&mut self, formal: &Formal) -> Result<Vec<Slot>> {
        let mut out = Vec::new();
        for axis in &formal.axes {
            if axis.size.is_none() && self.axes.size_by_name(&axis.name.text).is_some() {
                out.extend(self.axes.atoms(&axis.name)?.into_iter().map(Slot::Atom));
            } else {
                out.push(Slot::Letter(axis.name.text.clone()));
            }
        }
        Ok(out)
    }

    pub fn bind_axes(
        &mut self,
        decl: &RecurrenceDecl,
        arguments: &[Tensor],
        nodes: &[&Node],
        span: Span,
    ) -> Result<Binding> {
        let mut letters: IndexMap<String, Letter> = IndexMap::new();
        for formal in decl.inputs.iter().chain(&decl.states).chain(&decl.outputs) {
            for axis in &formal.axes {
                let Some(size) = &axis.size else { continue };
                let atoms = self.axes.atoms(size)?;
                let [atom] = atoms.as_slice() else {
                    return refuse(
                        format!("`{}` is a product of axes", size.text),
                        "give a letter the size of an axis that is no product",
                        size.span,
                    );
                };
                let letter = Letter {
                    size: self.axes.size(*atom),
                    atom: *atom,
                };
                if let Some(first) = letters.insert(axis.name.text.clone(), letter.clone())
                    && first.atom != letter.atom
                {
                    return refuse(
                        format!("`{}` is given two sizes", axis.name.text),
                        "give a letter one size",
                        axis.name.span,
                    );
                }
            }
        }
        let mut bound = Vec::new();
        for ((formal, argument), node) in decl.inputs.iter().zip(arguments).zip(nodes) {
            let mut open = self.slots(formal)?;
            let mut slots: Vec<(AxisId, Slot)> = Vec::new();
            let mut rest: Vec<AxisId> = Vec::new();
            for axis in &argument.axes {
                // By name first, then a letter known to run along this axis.
                let by_name = open.iter().position(|s| *s == Slot::Atom(*axis));
                let at = by_name.or_else(|| {
                    open.iter().position(|s| match s {
                        Slot::Letter(l) => letters.get(l).is_some_and(|l| l.atom == *axis),
                        Slot::Atom(_) => false,
                    })
                });
                match at {
                    Some(at) => slots.push((*axis, open.remove(at))),
                    None => rest.push(*axis),
                }
            }
            for axis in rest {
                let size = self.axes.size(axis);
                let at = open.iter().position(|s| match s {
                    Slot::Letter(l) => letters.get(l).is_none_or(|l| l.size == size),
                    Slot::Atom(a) => self.axes.size(*a) == size,
                });
                let Some(at) = at else {
                    let found = self.axes.describe(&argument.axes);
                    let names: Vec<&str> =
                        formal.axes.iter().map(|a| a.name.text.as_str()).collect();
                    let wanted = format!("[{}]", names.join(", "));
                    return Err(Fault::new(
                        Problem::ShapeMismatch {
                            left: format!("{}{found}", pointwise::called(node, "the argument ")),
                            right: format!("`{}`{wanted}", formal.name.text),
                            why: format!(
                                "axis {} of size {size} has no place in `{}`",
                                self.axes.name(axis),
                                formal.name.text
                            ),
                            advice: "reduce or rename the axis, or declare it in the recurrence"
                                .into(),
                        },
                        node.span,
                    )
                    .also(node.span, found)
                    .also(formal.name.span, wanted));
                };
                let slot = open.remove(at);
                if let Slot::Letter(l) = &slot {
                    letters
                        .entry(l.clone())
                        .or_insert(Letter { size, atom: axis });
                }
                slots.push((axis, slot));
            }
            bound.push(slots);
        }
        for formal in decl.inputs.iter().chain(&decl.states).chain(&decl.outputs) {
            for slot in self.slots(formal)? {
                if let Slot::Letter(l) = slot
                    && !letters.contains_key(&l)
                {
                    return Err(Fault::new(
                        Problem::UnknownAxis {
                            name: l.clone(),
                            known: self.axes.names(),
                        },
                        formal.name.span,
                    )
                    .also(span, format!("no argument gives `{l}` a size")));
                }
            }
        }
        Ok(Binding {
            arguments: bound,
            letters,
        })
    }

    /// The axis of each letter: the one it runs along if an output has it and it is free,
    /// else a new one.
    pub fn concrete(
        &mut self,
        decl: &RecurrenceDecl,
        binding: &Binding,
    ) -> IndexMap<String, AxisId> {
        let mut used: Vec<AxisId> = Vec::new();
        for formal in decl.inputs.iter().chain(&decl.states).chain(&decl.outputs) {
            // Unknown axes were refused when the slots were bound.
            for slot in self.slots(formal).unwrap_or_default() {
                if let Slot::Atom(atom) = slot {
                    used.push(atom);
                }
            }
        }
        let in_output = |letter: &str| {
            decl.outputs
                .iter()
                .any(|o| o.axes.iter().any(|a| a.name.text == letter))
        };
        let mut out = IndexMap::new();
        for (name, letter) in &binding.letters {
            if in_output(name) && !used.contains(&letter.atom) {
                used.push(letter.atom);
                out.insert(name.clone(), letter.atom);
            }
        }
        for (name, letter) in &binding.letters {
            if !out.contains_key(name) {
                let mut axis = self.axes.intern(name, letter.size);
                while used.contains(&axis) {
                    axis = self.axes.primed(axis);
                }
                used.push(axis);
                out.insert(name.clone(), axis);
            }
        }
        out
    }
}
