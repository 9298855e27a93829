//! What a plan was chosen by, where it was measured: beside the plan and its explanation.

use std::fmt::Display;

use fusec_fuse::Shape;
use fusec_runtime::tune::{Machine, Tuned, TunedRegime};
use serde::Serialize;

use crate::failure::{self, Failure};
use crate::output::Output;

/// What was measured for one shape; nothing of a plan that is predicted only.
#[derive(Serialize)]
pub struct Measured<'t> {
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Of<'t>>,
}

#[derive(Serialize)]
struct Of<'t> {
    machine: &'t Machine,
    #[serde(flatten)]
    regime: &'t TunedRegime,
    #[serde(skip)]
    text: String,
}

/// An answer, and what was measured.
#[derive(Serialize)]
struct With<'a, T> {
    #[serde(flatten)]
    answer: &'a T,
    #[serde(flatten)]
    measured: &'a Measured<'a>,
}

impl<'t> Measured<'t> {
    /// What a record says of a shape.
    pub fn new(tuned: Option<&'t Tuned>, shape: Shape) -> Result<Self, Failure> {
        let of = |tuned: &'t Tuned| -> Result<Of<'t>, Failure> {
            let regime = tuned.regime(shape).map_err(failure::input)?;
            Ok(Of {
                machine: &tuned.machine,
                regime,
                text: tuned.text_of(regime),
            })
        };
        Ok(Measured {
            measured: tuned.map(of).transpose()?,
        })
    }

    /// For people, after an empty line; nothing if nothing was measured.
    pub fn text(&self) -> String {
        let of = self.measured.as_ref();
        of.map_or_else(String::new, |of| format!("\n{}", of.text))
    }

    /// Answers with it.
    pub fn answer<T: Serialize + Display>(
        &self,
        answer: &T,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let with = With {
            answer,
            measured: self,
        };
        output.answer(&with, || format!("{answer}{}", self.text()))
    }
}
