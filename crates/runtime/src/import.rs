//! A checkpoint's model as one text of its own, and where each parameter is found.
//!
//! The text is the built-in one of the checkpoint's family with what it includes merged in, its
//! presets left out, and the sizes and settings found in the checkpoint in place of the defaults.
//! Recognising the family is [`crate::layout`]'s; no element of a tensor is read here.

use std::collections::{BTreeMap, BTreeSet};

use fusec_ir::language::{ModelSource, Overrides, Setting, compile};
use fusec_ir::print;
use serde::Serialize;

use crate::model::{Model, ModelError};
use crate::weights::{self, Mapped, SpecError};

/// What an import gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The model, complete: it includes nothing.
    pub text: String,
    /// Where its parameters are.
    pub weights: WeightMap,
}

/// Which tensor becomes which parameter, and what is left over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightMap {
    /// Name of the model.
    pub model: String,
    /// Every parameter, in the order of the model.
    pub parameters: Vec<Mapped>,
    /// Tensors that no parameter reads, as the model text allows. Sorted.
    pub unused: Vec<String>,
    /// What the checkpoint holds beside tensors, or outside its index, with what it is.
    pub skipped: BTreeMap<String, String>,
}

/// Why a checkpoint could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is nothing to import.
    #[error("`{model}` is a model text already: give a checkpoint")]
    NoCheckpoint {
        /// The model.
        model: String,
    },
    /// Tensors are missing, left over, or of another shape.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The text written is not the model that was recognised.
    #[error("the text written for `{model}` is another model ({why}); this is a bug of fusec")]
    Unfaithful {
        /// The model.
        model: String,
        /// What differs.
        why: String,
    },
}

/// Imports the checkpoint of a model opened from one.
pub fn import(model: &Model) -> Result<Imported, ImportError> {
    let name = model.graph.name.clone();
    let Some(checkpoint) = &model.checkpoint else {
        return Err(ImportError::NoCheckpoint { model: name });
    };
    let parameters = weights::map(&model.graph, checkpoint)
        .map_err(|error| ModelError::from(SpecError::from(error)))?;
    let text = merged(model);
    let unfaithful = |why: String| ImportError::Unfaithful {
        model: name.clone(),
        why,
    };
    let again = compile(
        &ModelSource::from_text("the text written", text.as_str()),
        &Overrides::default(),
    );
    let again = again.map_err(|error| unfaithful(error.to_string()))?;
    if print::graph(&again) != print::graph(&model.graph) {
        return Err(unfaithful("its graph differs".into()));
    }
    let read: BTreeSet<&str> = parameters.iter().map(|p| p.tensor.as_str()).collect();
    let stored = checkpoint.names().map(|name| checkpoint.stored_name(name));
    let unused = stored.filter(|tensor| !read.contains(tensor));
    let skipped = checkpoint.skipped().iter();
    Ok(Imported {
        text,
        weights: WeightMap {
            unused: unused.map(str::to_string).collect(),
            skipped: skipped.map(|s| (s.name.clone(), s.why.clone())).collect(),
            model: name,
            parameters,
        },
    })
}

/// The lines from one table header of a text to the next.
struct Section<'t> {
    /// `axes` for `[axes]`; empty before the first header.
    table: &'t str,
    /// With the header and the comment above it.
    lines: Vec<&'t str>,
}

/// Cuts a text at its table headers. Strings over several lines may hold what looks like one.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut out = vec![Section {
        table: "",
        lines: vec![],
    }];
    let mut in_string = false;
    for line in text.lines() {
        let header = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next());
        if let (Some(table), false) = (header, in_string) {
            let mut lines = vec![];
            if let Some(before) = out.last_mut() {
                let comment = before.lines.iter().rev().take_while(|l| l.starts_with('#'));
                let kept = before.lines.len() - comment.count();
                lines = before.lines.split_off(kept);
            }
            lines.push(line);
            out.push(Section { table, lines });
        } else if let Some(section) = out.last_mut() {
            section.lines.push(line);
        }
        in_string ^= line.matches("\"\"\"").count() % 2 == 1;
    }
    out
}

/// The key of a `key = value` line.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with('#')).then_some(key)
}

/// A `key = value  # comment` line with another value.
fn with_value(line: &str, value: &str) -> String {
    let Some((key, rest)) = line.split_once('=') else {
        return line.to_string();
    };
    let mut quoted = false;
    let comment = rest.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '#' && !quoted).then(|| rest.get(at..)).flatten()
    });
    match comment {
        // Comments stay where they were as long as there is room.
        Some(comment) => {
            let written = line.chars().count() - comment.chars().count();
            let column = written.saturating_sub(1);
            format!("{:<column$} {comment}", format!("{key}= {value}"))
        }
        None => format!("{key}= {value}"),
    }
}

fn toml_value(setting: &Setting) -> String {
    match setting {
        Setting::Bool(switch) => switch.to_string(),
        Setting::Number(number) => format!("{number:?}"),
        Setting::Text(text) => format!("{text:?}"),
    }
}

/// The model's text with its includes merged in and its sizes and settings set.
fn merged(model: &Model) -> String {
    let files: Vec<Vec<Section<'_>>> = (model.sources.files().iter())
        .map(|file| sections(&file.text))
        .collect();
    let axes = model.overrides.axes.iter();
    let axes = axes.map(|(name, size)| (name.as_str(), size.to_string()));
    let settings = model.overrides.settings.iter();
    let settings = settings.map(|(name, value)| (name.as_str(), toml_value(value)));
    let tables = [
        ("axes", table(&files, "axes", &axes.collect())),
        ("settings", table(&files, "settings", &settings.collect())),
    ];
    let mut out: Vec<String> = vec![];
    let top = files.iter().take(1).flatten();
    let (start, main): (Vec<_>, Vec<_>) = top.partition(|section| section.table.is_empty());
    for section in start {
        for line in &section.lines {
            match key(line) {
                Some("include" | "allow_unused") => {}
                Some("name") => {
                    out.push(line.to_string());
                    out.extend(allow_unused(&model.graph.allow_unused));
                }
                _ => out.push(line.to_string()),
            }
        }
    }
    for (name, lines) in tables.iter().filter(|(_, lines)| !lines.is_empty()) {
        out.push(format!("[{name}]"));
        out.extend(lines.iter().cloned());
        out.push(String::new());
    }
    let included = files.iter().skip(1).flatten();
    for section in main.into_iter().chain(included) {
        let elsewhere = ["", "axes", "settings"].contains(&section.table);
        if elsewhere || section.table.starts_with("preset.") {
            continue;
        }
        out.extend(section.lines.iter().map(|line| line.to_string()));
        if section.lines.last().is_some_and(|line| !line.is_empty()) {
            out.push(String::new());
        }
    }
    let mut text = out.join("\n").trim_end().to_string();
    text.push('\n');
    text
}

/// The line that names the tensors which may be left over, if there are any.
fn allow_unused(patterns: &[String]) -> Option<String> {
    let quoted: Vec<String> = patterns.iter().map(|p| format!("{p:?}")).collect();
    (!quoted.is_empty()).then(|| format!("allow_unused = [{}]", quoted.join(", ")))
}

/// The lines of a table over all files, of which the first that has a key wins, with other values.
fn table(files: &[Vec<Section<'_>>], name: &str, values: &BTreeMap<&str, String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut out = vec![];
    for (i, file) in files.iter().enumerate() {
        for section in file.iter().filter(|section| section.table == name) {
            for line in &section.lines {
                match key(line) {
                    Some(key) if known.insert(key) => out.push(match values.get(key) {
                        Some(value) => with_value(line, value),
                        None => line.to_string(),
                    }),
                    // A comment that goes on from line to line.
                    None if i == 0 && line.trim_start().starts_with('#') => {
                        out.push(line.to_string());
                    }
                    _ => {}
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_inside_strings_are_no_headers() {
        let text = "name = \"x\"\n\n# About axes.\n[axes]\nC = 1\n[model]\nflow = \"\"\"\n[axes]\n\"\"\"\n";
        let found = sections(text);
        let tables: Vec<_> = found.iter().map(|s| (s.table, s.lines.len())).collect();
        assert_eq!(tables, [("", 2), ("axes", 3), ("model", 4)]);
    }

    #[test]
    fn a_value_is_replaced_and_its_comment_stays() {
        for (line, value, expected) in [
            ("C = 64", "128", "C = 128"),
            ("C = \"a # b\"  # why", "7", "C = 7        # why"),
            ("eps = 1e-5 # why", "0.0000015", "eps = 0.0000015 # why"),
        ] {
            assert_eq!(with_value(line, value), expected);
        }
    }
}
