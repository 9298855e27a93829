//! The axes of a model: declared names, their sizes, and the atoms they stand for.

use super::constant;
use super::document::{AxisSize, Document, Setting};
use super::error::{Fault, Problem, Result, fail};
use super::syntax::{Dimension, Ident, Node, NodeKind, Operator};
use crate::{Axis, AxisId, Span};
use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeMap;

/// Largest size of one axis and of one tensor, in elements.
pub(super) const MAX_ELEMENTS: usize = 1 << 40;

/// Most axes of one tensor, products counted by their factors.
pub(super) const MAX_TENSOR_AXES: usize = 32;

/// Refuses a tensor beyond [`MAX_TENSOR_AXES`].
pub(super) fn too_many_axes<T>(what: String, span: Span) -> Result<T> {
    fail(
        Problem::TooLong {
            what,
            limit: MAX_TENSOR_AXES,
            unit: "axes",
            advice: "sum over axes, or merge them into one",
        },
        span,
    )
}

/// Longest chain of formulas that need each other.
const MAX_CHAIN: usize = 64;

/// What a declared name stands for.
#[derive(Clone, Debug)]
struct Declared {
    size: usize,
    /// `None` for an atom; the names of the atoms for a composite.
    atoms: Option<Vec<String>>,
}

/// All axes: the declared ones, and the atoms in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Axes {
    declared: IndexMap<String, Declared>,
    used: IndexSet<Axis>,
}

impl Axes {
    /// Works out every declared size. `given` replaces sizes in the file (presets, overrides).
    pub fn resolve(
        document: &Document,
        settings: &IndexMap<String, Setting>,
        given: &BTreeMap<String, (usize, Option<Span>)>,
    ) -> Result<Axes> {
        let mut axes = Axes::default();
        for name in document.axes.keys() {
            axes.declare(name, document, settings, given, &mut Vec::new())?;
        }
        Ok(axes)
    }

    fn declare(
        &mut self,
        name: &str,
        document: &Document,
        settings: &IndexMap<String, Setting>,
        given: &BTreeMap<String, (usize, Option<Span>)>,
        path: &mut Vec<String>,
    ) -> Result<()> {
        let Some(decl) = document.axes.get(name) else {
            return Ok(());
        };
        if self.declared.contains_key(name) {
            return Ok(());
        }
        if path.len() >= MAX_CHAIN {
            return fail(Problem::TooDeep { limit: MAX_CHAIN }, decl.span);
        }
        if path.iter().any(|p| p == name) {
            path.push(name.to_owned());
            return fail(
                Problem::Recursion {
                    what: "an axis",
                    path: path.join(" -> "),
                },
                decl.span,
            );
        }
        path.push(name.to_owned());
        let override_of = given.get(name);
        let place = override_of.and_then(|(_, span)| *span).unwrap_or(decl.span);
        let found = match &decl.value {
            AxisSize::Number(n) => Declared {
                size: check_size(name, override_of.map_or(*n as f64, |g| g.0 as f64), place)?,
                atoms: None,
            },
            AxisSize::Formula(node) => {
                let mut names = Vec::new();
                node.reads(&mut |n| names.push(n.to_owned()));
                let factors = product(node, document);
                // An override replaces arithmetic, so what it names need not have a size.
                if factors.is_some() || override_of.is_none() {
                    for n in &names {
                        self.declare(n, document, settings, given, path)?;
                    }
                }
                match (factors, override_of) {
                    (Some(factors), _) => {
                        let mut atoms: Vec<String> = Vec::new();
                        for factor in factors {
                            for atom in self.atom_names(&factor) {
                                if atoms.contains(&atom) {
                                    return fail(
                                        Problem::AxisTwice {
                                            axis: atom,
                                            place: format!("the product `{name}`"),
                                        },
                                        node.span,
                                    );
                                }
                                atoms.push(atom);
                            }
                        }
                        let size = atoms.iter().fold(1.0, |p, a| p * self.size_of(a) as f64);
                        let size = check_size(name, size, decl.span)?;
                        if let Some((wanted, _)) = override_of
                            && *wanted != size
                        {
                            return fail(
                                Problem::Other {
                                    what: format!(
                                        "axis `{name}` is the product of {}, which is {size}, \
                                         not {wanted}",
                                        atoms.join(" * ")
                                    ),
                                    advice: format!("set {} instead", atoms.join(" and ")),
                                },
                                place,
                            );
                        }
                        Declared {
                            size,
                            atoms: Some(atoms),
                        }
                    }
                    (None, Some((size, _))) => Declared {
                        size: check_size(name, *size as f64, place)?,
                        atoms: None,
                    },
                    (None, None) => {
                        let size = constant::number(
                            node,
                            &format!("the size of `{name}`"),
                            &|n, span| match self.declared.get(n) {
                                Some(d) => Ok(Some(Setting::Number(d.size as f64))),
                                None => match settings.get(n) {
                                    Some(setting) => Ok(Some(setting.clone())),
                                    None if n == "inf" || n == "true" || n == "false" => Ok(None),
                                    None => fail(
                                        Problem::UnknownAxis {
                                            name: n.to_owned(),
                                            known: document.axes.keys().cloned().collect(),
                                        },
                                        span,
                                    ),
                                },
                            },
                        )?;
                        Declared {
                            size: check_size(name, size, decl.span)?,
                            atoms: None,
                        }
                    }
                }
            }
        };
        path.pop();
        self.declared.insert(name.to_owned(), found);
        Ok(())
    }

    fn atom_names(&self, name: &str) -> Vec<String> {
        match self.declared.get(name) {
            Some(Declared {
                atoms: Some(atoms), ..
            }) => atoms.clone(),
            Some(_) => vec![name.to_owned()],
            None => Vec::new(),
        }
    }

    fn size_of(&self, name: &str) -> usize {
        self.declared.get(name).map_or(0, |d| d.size)
    }

    /// The size of a declared axis, merged or not.
    pub fn size_by_name(&self, name: &str) -> Option<usize> {
        self.declared.get(name).map(|d| d.size)
    }

    /// Names of all declared axes.
    pub fn names(&self) -> Vec<String> {
        self.declared.keys().cloned().collect()
    }

    /// The atoms of a declared axis.
    pub fn atoms(&mut self, name: &Ident) -> Result<Vec<AxisId>> {
        if !self.declared.contains_key(&name.text) {
            return fail(
                Problem::UnknownAxis {
                    name: name.text.clone(),
                    known: self.names(),
                },
                name.span,
            );
        }
        let names = self.atom_names(&name.text);
        Ok(names
            .iter()
            .map(|atom| self.intern(atom, self.size_of(atom)))
            .collect())
    }

    /// The axis of this name and size, made on first use.
    pub fn intern(&mut self, name: &str, size: usize) -> AxisId {
        let (at, _) = self.used.insert_full(Axis {
            name: name.to_owned(),
            size,
        });
        AxisId(at as u32)
    }

    /// The primed copy of an axis.
    pub fn primed(&mut self, axis: AxisId) -> AxisId {
        let Axis { name, size } = self.axis(axis).clone();
        self.intern(&format!("{name}'"), size)
    }

    fn axis(&self, axis: AxisId) -> &Axis {
        &self.used[axis.0 as usize]
    }

    /// The number of elements of an axis.
    pub fn size(&self, axis: AxisId) -> usize {
        self.axis(axis).size
    }

    /// The name of an axis.
    pub fn name(&self, axis: AxisId) -> &str {
        &self.axis(axis).name
    }

    /// Whether two axes are the same up to priming.
    pub fn same_base(&self, a: AxisId, b: AxisId) -> bool {
        let (a, b) = (self.axis(a), self.axis(b));
        a.size == b.size && a.name.trim_end_matches('\'') == b.name.trim_end_matches('\'')
    }

    /// `[H, N]`
    pub fn describe(&self, axes: &[AxisId]) -> String {
        format!("[{}]", self.list(axes).join(", "))
    }

    /// Names of some axes.
    pub fn list(&self, axes: &[AxisId]) -> Vec<String> {
        axes.iter().map(|a| self.name(*a).to_owned()).collect()
    }

    /// Number of elements over some axes, if it is within [`MAX_ELEMENTS`].
    pub fn elements(&self, axes: &[AxisId]) -> Option<usize> {
        axes.iter()
            .try_fold(1usize, |n, a| n.checked_mul(self.size(*a)))
            .filter(|n| *n <= MAX_ELEMENTS)
    }

    /// All axes in use, by id.
    pub fn into_list(self) -> Vec<Axis> {
        self.used.into_iter().collect()
    }

    /// The axes of a declared shape: an atom that comes again is primed. Also the number of
    /// atoms of each dimension.
    pub fn shape(&mut self, dimensions: &[Dimension]) -> Result<(Vec<AxisId>, Vec<usize>)> {
        let mut axes: Vec<AxisId> = Vec::new();
        let mut counts = Vec::new();
        for dimension in dimensions {
            let mut count = 0;
            for name in dimension {
                for mut atom in self.atoms(name)? {
                    while axes.contains(&atom) {
                        atom = self.primed(atom);
                    }
                    axes.push(atom);
                    count += 1;
                    if axes.len() > MAX_TENSOR_AXES {
                        return too_many_axes("this shape".into(), name.span);
                    }
                }
            }
            counts.push(count);
        }
        Ok((axes, counts))
    }
}

/// The factors of a product of declared axes; `None` for any other formula.
fn product(node: &Node, document: &Document) -> Option<Vec<String>> {
    match &node.kind {
        NodeKind::Name(name) if document.axes.contains_key(name) => Some(vec![name.clone()]),
        NodeKind::Binary(..) => {
            let (first, links) = node.chain();
            let mut factors = product(first, document)?;
            for link in links {
                if link.operator != Operator::Mul {
                    return None;
                }
                factors.extend(product(link.right, document)?);
            }
            Some(factors)
        }
        _ => None,
    }
}

fn check_size(name: &str, size: f64, span: Span) -> Result<usize> {
    let whole = constant::whole(size, &format!("the size of `{name}`"), span).or_else(|fault| {
        // A product beyond every integer is a size out of range, not a fraction.
        if size.abs() > MAX_ELEMENTS as f64 {
            Ok(i64::MAX)
        } else {
            Err(fault)
        }
    })?;
    if whole < 1 || whole as u64 > MAX_ELEMENTS as u64 {
        return Err(Fault::new(
            Problem::BadSize {
                what: format!("the size of axis `{name}`"),
                size: size.to_string(),
                limit: "2^40".into(),
            },
            span,
        ));
    }
    Ok(whole as usize)
}
