//! Recipes: what the planner is told to make one certain plan, and to make it again.
//!
//! A plan that was measured is kept as its recipe beside what was measured: whoever uses it again plans
//! again, so that it is a plan of this program and not one from a file. What never lives here: which
//! recipes are worth a try (see [`crate::variants`]), and times.

use crate::forms::Use;
use crate::plan::{Kernel, Mode, Phase};
use crate::schedule::Schedule;
use fusec_ir::Pin;
use serde::{Deserialize, Serialize};

/// What makes one certain plan of a model, for a shape, a storage type and a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// How kernels are chosen.
    pub mode: Mode,
    /// Wishes about fusion beside those of the model and of whoever plans.
    pub pins: Vec<Pin>,
    /// The rules to use, and where; the form with the cheapest plan if nobody says.
    pub form: Option<Vec<RuleUse>>,
    /// Kernels that are executed otherwise than the cost model would have it.
    pub schedules: Vec<Asked>,
}

/// A rule of [`crate::forms`] in a block of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleUse {
    /// Name of the rule.
    pub rule: String,
    /// Name of the block; empty for what is outside of all.
    pub block: String,
}

/// A kernel, and how it is to be executed in all layers where it can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Names of the operations that it computes, in its order.
    pub operations: Vec<String>,
    /// The schedules of its subkernels, phase by phase.
    pub schedules: Vec<Vec<Schedule>>,
}

impl Recipe {
    /// Nothing but a way to choose kernels.
    pub fn plain(mode: Mode) -> Self {
        Recipe {
            mode,
            pins: Vec::new(),
            form: None,
            schedules: Vec::new(),
        }
    }

    /// The same with one kernel executed otherwise.
    pub fn with(&self, asked: Asked) -> Self {
        let mut recipe = self.clone();
        let others = |of: &Asked| of.operations != asked.operations;
        recipe.schedules.retain(others);
        recipe.schedules.push(asked);
        recipe
    }
}

impl RuleUse {
    /// Whether it is this use.
    pub(crate) fn is(&self, other: &Use) -> bool {
        self.rule == other.rule && self.block == other.block
    }
}

impl From<&Use> for RuleUse {
    fn from(of: &Use) -> Self {
        RuleUse {
            rule: of.rule.to_string(),
            block: of.block.clone(),
        }
    }
}

impl Asked {
    /// A kernel as it is, with some of its schedules changed; `None` if `change` leaves all alone.
    pub fn of(kernel: &Kernel, change: impl Fn(&Schedule) -> Option<Schedule>) -> Option<Self> {
        let mut schedules = schedules(&kernel.phases);
        let mut changed = false;
        for schedule in schedules.iter_mut().flatten() {
            if let Some(other) = change(schedule) {
                *schedule = other;
                changed = true;
            }
        }
        changed.then(|| Asked {
            operations: kernel.names.clone(),
            schedules,
        })
    }
}

/// The schedules of the subkernels of some phases.
pub(crate) fn schedules(phases: &[Phase]) -> Vec<Vec<Schedule>> {
    let of = |phase: &Phase| {
        phase
            .lanes
            .iter()
            .map(|body| body.schedule.clone())
            .collect()
    };
    phases.iter().map(of).collect()
}
