//! What planning has found, for planning the same model again after a part of it was changed.
//!
//! A plan does not depend on what was planned before: what is kept are the kernels of parts by all that they
//! follow from. What never lives here: a file of any of it.

use super::parts::Selections;
use super::{Options, Planned, Recipe, make};
use crate::error::PlanError;
use crate::forms;
use fusec_ir::Graph;
use fusec_ir::components::separate;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Kernels of the parts of models planned before.
#[derive(Debug, Default)]
pub struct Known {
    /// By what the texts of parts do not say: [`Known::about`].
    by: Mutex<BTreeMap<String, Selections>>,
}

impl Known {
    /// Plans a graph; parts that are as they were before are not planned again.
    pub fn plan(&self, graph: &Graph, options: &Options<'_>) -> Result<Planned, PlanError> {
        let about = about(graph, options);
        let mut selections = self.locked().remove(&about).unwrap_or_default();
        let recipe = Recipe::plain(options.mode);
        let planned = make(graph, options, &recipe, &mut selections, &mut |_| {});
        self.locked().insert(about, selections);
        planned
    }

    /// How many selections of parts were made, and not found.
    pub fn made(&self) -> usize {
        self.locked().values().map(|of| of.made).sum()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Selections>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernels of a part follow from, beside the text of the part: what is planned for, and what its
/// axes and recurrences are, of which that text has the numbers only.
fn about(graph: &Graph, options: &Options<'_>) -> String {
    let separated = separate(&forms::canonical(graph), |_| true);
    let sizes: Vec<usize> = separated.axes.iter().map(|axis| axis.size).collect();
    let Options {
        shape,
        storage,
        device,
        launch,
        ..
    } = options;
    let mut recurrences = separated.recurrences;
    for recurrence in &mut recurrences {
        for op in &mut recurrence.ops {
            op.places = fusec_ir::Places::default();
        }
    }
    let zeros = graph.zeros;
    format!("{shape:?} {storage:?} {launch:?} {device:?} {zeros} {sizes:?} {recurrences:?}")
}
