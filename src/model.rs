//! Opening what the user names as MODEL.

use std::collections::BTreeMap;
use std::path::Path;

use fusec_ir::language::{Overrides, Setting};
use fusec_runtime::model::{Model, ModelError};
use fusec_runtime::plan_dir::{self, PlanDir};
use fusec_runtime::weights::{WeightSpec, Weights};

use crate::failure::{self, Failure};
use crate::flags::ModelArgs;
use crate::progress::Progress;

/// What MODEL is.
#[derive(Debug)]
pub enum Opened {
    /// A model text, or a checkpoint whose model is known.
    Model(Box<Model>),
    /// A directory that `fusec compile` wrote.
    Compiled(Box<PlanDir>),
}

/// Opens MODEL, whatever it is.
pub fn open_any(args: &ModelArgs) -> Result<Opened, Failure> {
    if !plan_dir::is_plan_dir(&args.model) {
        return Ok(Opened::Model(Box::new(open(args)?)));
    }
    let given = args.preset.is_some()
        || !args.axes.is_empty()
        || !args.settings.is_empty()
        || !args.allow_unused.is_empty()
        || args.zeros.zeros.is_some();
    if given {
        return Err(failure::message(
            format!(
                "{} is compiled: its sizes and settings are fixed",
                args.model.display()
            ),
            "leave --preset, --axis, --set, --allow-unused and --zeros out, or give the model it was \
             compiled from",
        ));
    }
    let dir = plan_dir::read_plan_dir(&args.model).map_err(failure::input)?;
    Ok(Opened::Compiled(Box::new(dir)))
}

/// Opens a MODEL that still is to be planned.
pub fn open(args: &ModelArgs) -> Result<Model, Failure> {
    if plan_dir::is_plan_dir(&args.model) {
        return Err(failure::message(
            format!("{} is compiled already", args.model.display()),
            "give the model it was compiled from",
        ));
    }
    let mut model = Model::open(&args.model, &overrides(args)?).map_err(report)?;
    let allowed = args.allow_unused.iter().cloned();
    model.graph.allow_unused.extend(allowed);
    args.zeros.apply(&mut model.graph);
    for assumed in &model.assumed {
        tracing::warn!("{assumed}");
    }
    for warning in &model.warnings {
        let place = model.sources.locate(warning.span).map(|(file, range)| {
            let before = file.text.get(..range.start).unwrap_or_default();
            format!("{}:{}: ", file.name, before.matches('\n').count() + 1)
        });
        tracing::warn!("{}{}", place.unwrap_or_default(), warning.message);
    }
    Ok(model)
}

/// The weights asked for, or those of the checkpoint that MODEL is.
pub fn weights(model: &Model, spec: Option<&WeightSpec>) -> Result<Weights, Failure> {
    let _progress = Progress::line(match spec {
        Some(WeightSpec::Random(_)) => "drawing the weights",
        _ => "reading the weights",
    });
    model.weights(spec).map_err(report)
}

/// A failure that points into the model's text where there is a place to point at.
pub fn report(error: ModelError) -> Failure {
    match error {
        ModelError::Language(error) => error.into(),
        error => failure::input(error),
    }
}

/// A name for a model's directory: that of its file or directory, without an ending.
pub fn short_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    let name = name.map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
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

/// A setting as written on the command line: a switch, a number, or else a word.
fn setting(text: &str) -> Setting {
    match (text, text.parse::<f64>()) {
        ("true", _) => Setting::Bool(true),
        ("false", _) => Setting::Bool(false),
        (_, Ok(number)) => Setting::Number(number),
        (word, Err(_)) => Setting::Text(word.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_their_looks() {
        for (text, expected) in [
            ("true", Setting::Bool(true)),
            ("1e-5", Setting::Number(1e-5)),
            ("inf", Setting::Number(f64::INFINITY)),
            ("native", Setting::Text("native".into())),
        ] {
            assert_eq!(setting(text), expected);
        }
    }
}
