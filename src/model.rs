//! Opening what the user names as MODEL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusec_ir::Graph;
use fusec_ir::language::{self, ModelSource, Overrides, Setting};

use crate::failure::{self, Failure};
use crate::flags::ModelArgs;

/// A model that was given as text, ready to be planned or interpreted.
#[derive(Debug)]
pub struct Model {
    /// What it means.
    pub graph: Graph,
    /// Name for directories: that of the file, without its ending.
    pub name: String,
    /// The checkpoint it was read from, if MODEL is one; weights then come from there.
    pub checkpoint: Option<PathBuf>,
}

/// Opens a model.
pub fn open(args: &ModelArgs) -> Result<Model, Failure> {
    let path = &args.model;
    let source = ModelSource::from_path(path).map_err(|error| {
        failure::io(
            "read the model",
            path,
            &error,
            "MODEL is a model.toml (models/ has some), a checkpoint, or a directory that \
             `fusec compile` wrote",
        )
    })?;
    let compiled = language::compile_with_warnings(&source, &overrides(args)?)?;
    for warning in &compiled.warnings {
        let place = compiled.sources.locate(warning.span).map(|(file, range)| {
            let line = file.text[..range.start].matches('\n').count() + 1;
            format!("{}:{line}: ", file.name)
        });
        tracing::warn!("{}{}", place.unwrap_or_default(), warning.message);
    }
    Ok(Model {
        graph: compiled.graph,
        name: stem(path),
        checkpoint: None,
    })
}

/// What the command line sets in the model text.
fn overrides(args: &ModelArgs) -> Result<Overrides, Failure> {
    let mut axes = BTreeMap::new();
    for given in &args.axes {
        if axes.insert(given.axis.clone(), given.size).is_some() {
            return Err(twice("--axis", &given.axis));
        }
    }
    let mut settings = BTreeMap::new();
    for given in &args.settings {
        let value = setting(&given.value);
        if settings.insert(given.name.clone(), value).is_some() {
            return Err(twice("--set", &given.name));
        }
    }
    Ok(Overrides {
        preset: args.preset.clone(),
        axes,
        settings,
    })
}

fn twice(flag: &str, name: &str) -> Failure {
    failure::message(
        format!("{flag} gives `{name}` twice"),
        "leave one of them out",
    )
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    stem.filter(|s| !s.is_empty()).unwrap_or_else(|| "model".into())
}

/// A setting as written on the command line: a switch, a number, or else a word.
fn setting(text: &str) -> Setting {
    match (text, text.parse::<f64>()) {
        ("true", _) => Setting::Bool(true),
        ("false", _) => Setting::Bool(false),
        (_, Ok(number)) => Setting::Number(number),
        (word, Err(_)) => Setting::Text(word.to_string()),
    }
}
