//! A plan at once, from the one before: the kernels that were chosen stay together, and what is new is merged
//! greedily. Whether other kernels would cost less is for exact selection to say, which takes longer.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use fusec_fuse::{Mode, Planned, Recipe, Shape};
use fusec_ir::{Graph, Pin, PinKind};

use crate::failure::Failure;
use crate::pipeline::Planner;

/// Plans a changed model with the kernels of its last plan, as far as they are still there; `before` is the
/// graph that was planned then.
pub fn kept(
    planner: &Planner,
    (before, last): (&Graph, &Planned),
    graph: &Graph,
    shape: Shape,
) -> Result<Planned, Failure> {
    let chosen = last.decisions.forms.iter().find(|form| form.chosen);
    let recipe = Recipe {
        mode: Mode::Greedy,
        pins: kernels(before, last, graph),
        form: chosen.map(|form| form.uses.clone()),
        schedules: Vec::new(),
    };
    // A kernel may have become too large for one, or a rule may apply nowhere any more.
    let without_form = Recipe {
        form: None,
        ..recipe.clone()
    };
    let by = |recipe: &Recipe| planner.by(graph, shape, recipe);
    by(&recipe)
        .or_else(|_| by(&without_form))
        .or_else(|_| by(&Recipe::plain(Mode::Greedy)))
}

/// The kernels of a plan as wishes for a graph: values that are still made, two at least. A name stands for the
/// same value in all layers, so where layers differ the kernels that most of them have are wished for.
fn kernels(before: &Graph, last: &Planned, graph: &Graph) -> Vec<Pin> {
    let names = |graph: &Graph| -> BTreeSet<String> {
        graph
            .values
            .iter()
            .map(|value| value.name.clone())
            .collect()
    };
    let (old, new) = (names(before), names(graph));
    // What the model does not name was made by a rule.
    let is_there = |name: &String| new.contains(name) || !old.contains(name);
    let made = last.plan.kernels.iter().map(|kernel| {
        let made = kernel
            .ops
            .iter()
            .filter_map(|id| last.graph.op(*id).outputs.first());
        let made = made.map(|value| last.graph.value(*value).name.clone());
        made.filter(is_there).collect::<Vec<String>>()
    });
    let mut often: Vec<(Vec<String>, usize)> = Vec::new();
    for values in made {
        match often.iter_mut().find(|(known, _)| *known == values) {
            Some((_, layers)) => *layers += 1,
            None => often.push((values, 1)),
        }
    }
    often.sort_by_key(|(_, layers)| Reverse(*layers));
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut pins = Vec::new();
    for (values, _) in often {
        let is_new = values.iter().all(|name| !taken.contains(name));
        if values.len() < 2 || !is_new {
            continue;
        }
        taken.extend(values.iter().cloned());
        pins.push(Pin {
            kind: PinKind::Fuse,
            values,
            span: None,
        });
    }
    pins
}
