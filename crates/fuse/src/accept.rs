//! Whether a plan is one that this crate makes: what a plan from a file has to be before anything is
//! generated from it.
//!
//! The opposite of planning: groups are given, and every fact about them is found again. What never
//! lives here: choosing anything.

use crate::Device;
use crate::error::PlanError;
use crate::fit;
use crate::name::Names;
use crate::plan::{Kernel, PLAN_VERSION, Plan};
use crate::planner::{Options, Submit};
use crate::schedule::launch;
use crate::validate::validate;
use fusec_ir::{Graph, OpId};
use std::collections::BTreeMap;

/// Refuses a plan of a graph unless every operation that has to be planned is in exactly one kernel,
/// kernels come after those they read from, and each is what its operations become on the device: one of
/// the ways to compute them, under the name that the planner gives it. Costs and what is said of them are not looked
/// at, since nothing follows from them.
///
/// Sizes at the plan's shape have to fit their types: whoever calls this has checked them.
pub fn accept(graph: &Graph, plan: &Plan, device: &Device) -> Result<(), PlanError> {
    let refuse = |kernel: Option<&Kernel>, what: String| {
        Err(PlanError::Foreign {
            place: kernel.map_or("the plan".into(), |kernel| {
                format!("kernel `{}`", kernel.name)
            }),
            what,
        })
    };
    validate(graph)?;
    if plan.version != PLAN_VERSION {
        let what = format!(
            "version {}, this program makes {PLAN_VERSION}",
            plan.version
        );
        return refuse(None, what);
    }
    if plan.shape.batch == 0 || plan.shape.time == 0 {
        return Err(PlanError::Shape {
            batch: plan.shape.batch,
            time: plan.shape.time,
        });
    }
    let options = Options {
        shape: plan.shape,
        storage: plan.storage,
        mode: plan.mode,
        device,
        launch: Submit::Graph,
        pins: Vec::new(),
    };
    let all_rows = options.context(graph);
    let one_row = all_rows.at_last_row();
    let mut home: BTreeMap<OpId, usize> = BTreeMap::new();
    for (k, kernel) in plan.kernels.iter().enumerate() {
        if !kernel.ops.is_sorted_by(|a, b| a < b) {
            return refuse(Some(kernel), "its operations are not in order".into());
        }
        if let Some(id) = kernel.ops.iter().find(|id| home.insert(**id, k).is_some()) {
            return refuse(
                Some(kernel),
                format!("operation {} is in another too", id.0),
            );
        }
    }
    if !home.keys().eq(all_rows.planned()) {
        return refuse(
            None,
            "its operations are not those that the model has".into(),
        );
    }
    let mut names = Names::default();
    for (k, kernel) in plan.kernels.iter().enumerate() {
        let operands = kernel.ops.iter().flat_map(|id| &graph.op(*id).inputs);
        let mut makers = operands.filter_map(|access| graph.producer(access.value));
        if makers.any(|id| home.get(&id).is_some_and(|of| *of > k)) {
            return refuse(Some(kernel), "it reads what a later one makes".into());
        }
        let single = kernel.ops.iter().filter(|id| all_rows.is_of_one_row(**id));
        let ctx = match single.count() {
            0 => &all_rows,
            n if n == kernel.ops.len() => &one_row,
            _ => {
                let what = "some of its operations have one row, and some have all";
                return refuse(Some(kernel), what.into());
            }
        };
        let forms = match fit::forms(ctx, &kernel.ops) {
            Ok(forms) => forms,
            Err(reject) => return refuse(Some(kernel), reject.to_string()),
        };
        // What the planner chooses from comes first: it is found at once.
        let ways = || fit::ways(ctx, &kernel.ops).is_ok_and(|ways| ways.contains(&kernel.phases));
        if !forms.contains(&kernel.phases) && !ways() {
            return refuse(
                Some(kernel),
                "its operations are not computed in this way".into(),
            );
        }
        if launch(ctx, &kernel.phases) != kernel.launch {
            return refuse(Some(kernel), "it is launched otherwise".into());
        }
        if names.name(ctx, &kernel.ops, &kernel.phases) != kernel.name {
            return refuse(Some(kernel), "its operations have another name".into());
        }
    }
    Ok(())
}
