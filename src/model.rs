//! Opening what the command line calls MODEL, with its overrides.

use fusec_ir::language::{Overrides, Setting};
use fusec_runtime::model::{Model, ModelError};

use crate::failure::{self, Failure};
use crate::flags::ModelArgs;

/// Opens the model; what its text looks mistaken in is logged.
pub fn open(args: &ModelArgs) -> Result<Model, Failure> {
    let model = Model::open(&args.model, &overrides(args)).map_err(report)?;
    for warning in &model.warnings {
        tracing::warn!("{}", warning.message);
    }
    Ok(model)
}

/// A failure that points into the model's text where there is a place to point at.
pub fn report(error: ModelError) -> Failure {
    match error {
        ModelError::Language(error) => error.into(),
        error => failure::input(error),
    }
}

fn overrides(args: &ModelArgs) -> Overrides {
    let axes = args.axes.iter().map(|a| (a.axis.clone(), a.size));
    let settings = args.settings.iter();
    Overrides {
        preset: args.preset.clone(),
        axes: axes.collect(),
        settings: settings
            .map(|s| (s.name.clone(), setting(&s.value)))
            .collect(),
    }
}

/// A switch, a number, or else a word.
fn setting(text: &str) -> Setting {
    match (text, text.parse()) {
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
