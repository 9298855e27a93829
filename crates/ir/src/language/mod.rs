//! The model language: `model.toml` to [`Graph`].
//!
//! A model reads like the equations of its paper: named axes, expressions in
//! strings, blocks with parameters, recurrences written as step equations. What
//! lives here: reading the file, the expression language, binding of axes, and
//! cutting flows into operations. What never will: knowledge of any one model.

mod arguments;
mod attention;
mod bind;
mod constant;
mod document;
mod emit;
mod error;
mod excerpt;
mod flow;
mod functions;
mod grammar;
mod lower;
mod message;
mod multiplied;
mod nesting;
mod operations;
mod parameters;
mod parts;
mod picked;
mod pins;
mod pointed;
mod pointwise;
mod prune;
mod recurrence_text;
mod scope;
mod source;
mod step;
mod syntax;
mod table;
mod tensor;
mod terms;
mod token;

pub use document::Setting;
pub use error::{LanguageError, Problem, Warning};
pub use message::{LONGEST_MESSAGE, readable};
pub use nesting::{MAX_TOML_NESTING, too_deep};
pub use pointed::Pointed;
pub use recurrence_text::RecurrenceText;
pub use source::{ModelSource, SourceFile, SourceMap};

use crate::{Graph, Span, StateKind, coalesce, delays, rotations};
use document::Document;
use error::{Fault, Result, fail};
use indexmap::IndexMap;
use scope::Axes;
use std::collections::BTreeMap;

/// What a caller sets in a model: later entries of this list win over the file, then the
/// preset, then `axes` and `settings`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// A named preset of the model.
    pub preset: Option<String>,
    /// Sizes of axes.
    pub axes: BTreeMap<String, usize>,
    /// Settings.
    pub settings: BTreeMap<String, Setting>,
}

/// A compiled model with everything said on the way.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The graph.
    pub graph: Graph,
    /// How many atomic axes each declared dimension of an input, a parameter or the state of a recurrence
    /// has, by its name: a weight `[C, C]` with `C = H * N` has two dimensions of two axes.
    pub dimensions: BTreeMap<String, Vec<usize>>,
    /// Things that look like mistakes but stop nothing.
    pub warnings: Vec<Warning>,
    /// The texts that spans point into.
    pub sources: SourceMap,
}

/// Compiles a model: reads it, lowers it, merges element-wise operations, and takes out of recurrences what
/// is none: rows kept for the next token ([`delays::delayed`]) and rotations ([`rotations::unrotated`]).
pub fn compile(
    source: &ModelSource<'_>,
    options: &Overrides,
) -> std::result::Result<Graph, LanguageError> {
    Ok(compile_with_warnings(source, options)?.graph)
}

/// [`compile`], with warnings and the texts.
pub fn compile_with_warnings(
    source: &ModelSource<'_>,
    options: &Overrides,
) -> std::result::Result<Compiled, LanguageError> {
    let mut compiled = lower(source, options)?;
    let graph = delays::delayed(coalesce::coalesce(&compiled.graph));
    compiled.graph = rotations::unrotated(graph);
    for state in &compiled.graph.states {
        if let StateKind::Scan { .. } = state.kind {
            let axes = || vec![1; state.axes.len()];
            let known = compiled.dimensions.entry(state.name.clone());
            known.or_insert_with(axes);
        }
    }
    Ok(compiled)
}

/// The graph as the text cuts it: one operation per statement and per function, none merged.
pub fn lower(
    source: &ModelSource<'_>,
    options: &Overrides,
) -> std::result::Result<Compiled, LanguageError> {
    let mut sources = SourceMap::default();
    match lower_into(source, options, &mut sources) {
        Ok(lowered) => Ok(Compiled {
            graph: coalesce::normalise(lowered.graph),
            dimensions: lowered.dimensions,
            warnings: lowered.warnings,
            sources,
        }),
        Err(fault) => Err(fault.resolve(&sources)),
    }
}

/// Names of the presets of a model.
pub fn presets(source: &ModelSource<'_>) -> std::result::Result<Vec<String>, LanguageError> {
    let mut sources = SourceMap::default();
    match document::read(source, &mut sources) {
        Ok(document) => Ok(document.presets.keys().cloned().collect()),
        Err(fault) => Err(fault.resolve(&sources)),
    }
}

fn lower_into(
    source: &ModelSource<'_>,
    options: &Overrides,
    sources: &mut SourceMap,
) -> Result<lower::Lowered> {
    let document = document::read(source, sources)?;
    let (sizes, settings) = overridden(&document, options)?;
    let axes = Axes::resolve(&document, &settings, &sizes)?;
    lower::lower(&document, axes, settings)
}

type Sizes = BTreeMap<String, (usize, Option<Span>)>;

/// The sizes given from outside and the final settings.
fn overridden(
    document: &Document,
    options: &Overrides,
) -> Result<(Sizes, IndexMap<String, Setting>)> {
    let nowhere = Span::default();
    let mut sizes = Sizes::new();
    let mut settings: IndexMap<String, Setting> = document
        .settings
        .iter()
        .map(|(name, setting)| (name.clone(), setting.value.clone()))
        .collect();
    let mut set = |name: &str, value: Setting, span: Span| match settings.get_mut(name) {
        Some(old) if std::mem::discriminant(old) == std::mem::discriminant(&value) => {
            *old = value;
            Ok(())
        }
        Some(old) => fail(
            Problem::WrongType {
                key: name.to_owned(),
                expected: old.type_name(),
                found: value.type_name().to_owned(),
            },
            span,
        ),
        None if document.axes.contains_key(name) => fail(
            Problem::OtherOverride {
                name: name.to_owned(),
                is: "an axis",
                given: "a setting",
                instead: "--axis",
            },
            span,
        ),
        None => fail(
            Problem::UnknownOverride {
                what: "axis or setting",
                name: name.to_owned(),
                known: document
                    .axes
                    .keys()
                    .chain(document.settings.keys())
                    .cloned()
                    .collect(),
            },
            span,
        ),
    };
    if let Some(name) = &options.preset {
        let Some(preset) = document.presets.get(name) else {
            return fail(
                Problem::UnknownOverride {
                    what: "preset",
                    name: name.clone(),
                    known: document.presets.keys().cloned().collect(),
                },
                nowhere,
            );
        };
        for (key, value) in &preset.value {
            if !document.axes.contains_key(&key.value) {
                set(&key.value, value.clone(), key.span)?;
                continue;
            }
            let size = match value {
                Setting::Number(n) => {
                    constant::whole(*n, &format!("the size of `{}`", key.value), key.span)?
                }
                other => {
                    return fail(
                        Problem::WrongType {
                            key: key.value.clone(),
                            expected: "a size",
                            found: other.type_name().to_owned(),
                        },
                        key.span,
                    );
                }
            };
            let size = usize::try_from(size).unwrap_or(0);
            sizes.insert(key.value.clone(), (size, Some(key.span)));
        }
    }
    for (name, size) in &options.axes {
        match document.axes.get(name) {
            Some(_) => {
                sizes.insert(name.clone(), (*size, None));
            }
            None if document.settings.contains_key(name) => {
                return fail(
                    Problem::OtherOverride {
                        name: name.clone(),
                        is: "a setting",
                        given: "an axis",
                        instead: "--set",
                    },
                    nowhere,
                );
            }
            None => {
                return Err(Fault::new(
                    Problem::UnknownOverride {
                        what: "axis",
                        name: name.clone(),
                        known: document.axes.keys().cloned().collect(),
                    },
                    nowhere,
                ));
            }
        }
    }
    for (name, value) in &options.settings {
        set(name, value.clone(), nowhere)?;
    }
    Ok((sizes, settings))
}
