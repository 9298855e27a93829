//! Rotary embedding of positions, as classes of transformers say it.

use serde_json::Map;

use super::LayoutError;
use super::config::Config;

/// The options of a rotation.
pub(super) struct Rope {
    /// The wavelengths run up to about this many positions.
    pub theta: f64,
    /// The share of a head that is rotated.
    pub share: f64,
}

impl Rope {
    /// The option that says the share, for a refusal of it.
    pub fn says_share(config: &Config<'_>) -> &'static str {
        match config.has("rope_parameters") {
            true => "rope_parameters",
            false => "partial_rotary_factor",
        }
    }

    /// Reads it, with the values of the public class; files before release 5 have the options
    /// beside all others.
    pub fn read(config: &Config<'_>, theta: f64, share: f64) -> Result<Self, LayoutError> {
        let theta = config.number("rope_theta", theta)?;
        let share = config.number("partial_rotary_factor", share)?;
        config.only("rope_scaling", &[])?;
        let none = Map::new();
        let inside = config.nested("rope_parameters", &none)?;
        inside.only("rope_type", &["\"default\""])?;
        inside.only("type", &["\"default\""])?;
        let theta = inside.number("rope_theta", theta)?;
        let share = inside.number("partial_rotary_factor", share)?;
        inside.finish()?;
        Ok(Rope { theta, share })
    }
}
