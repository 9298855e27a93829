//! The classes of a model's recurrences, component by component, as `fusec plan` shows them.

use fusec_ir::class::{classify, log_decay};
use fusec_ir::components::separate;
use fusec_ir::language::{Pointed, SourceMap};
use fusec_ir::{Class, Graph, OpId, OpKind, RecurrenceId};
use serde::Serialize;

/// A recurrence of the model, or a component of one, and what the analysis found.
#[derive(Debug, Serialize)]
pub struct RecurrenceClass {
    /// Name of the operation, without the layer number.
    op: String,
    /// Name of its definition.
    recurrence: String,
    /// Whether it is one of several components of that, each of which is planned by itself where that is
    /// cheaper.
    is_component: bool,
    /// One per state.
    states: Vec<StateClass>,
}

#[derive(Debug, Serialize)]
struct StateClass {
    state: String,
    class: &'static str,
    /// Why it is of this class.
    reason: String,
    /// The term or statement that leaves it without one.
    #[serde(flatten)]
    place: Option<Place>,
    /// What would give it one, where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
    /// Whether it is multiplied by a decay.
    #[serde(skip)]
    has_decay: bool,
    /// Whether the logarithm of its decay is known and at most 0, as chunked forms need it; if
    /// not, why.
    log_decay: Result<(), String>,
}

/// A place in the model text.
#[derive(Debug, Serialize)]
struct Place {
    file: String,
    line: usize,
    column: usize,
    /// The same for people.
    #[serde(skip)]
    shown: String,
}

impl From<Pointed> for Place {
    fn from(at: Pointed) -> Self {
        let shown = at.to_string();
        Place {
            file: at.file,
            line: at.line,
            column: at.column,
            shown,
        }
    }
}

impl RecurrenceClass {
    /// Name of its definition.
    pub fn recurrence(&self) -> &str {
        &self.recurrence
    }

    /// Its states, each with its class.
    pub fn states(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let states = self.states.iter();
        states.map(|state| (state.state.as_str(), state.class))
    }
}

/// The recurrences of a graph in components, each definition once per name of its operation, with places
/// in the texts that the graph was read from.
pub fn of(graph: &Graph, sources: &SourceMap) -> Vec<RecurrenceClass> {
    let graph = &separate(graph, |_| true);
    let mut seen: Vec<(RecurrenceId, &str)> = Vec::new();
    let mut out = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let OpKind::Scan { recurrence, .. } = &op.kind else {
            continue;
        };
        if seen.contains(&(*recurrence, &op.name)) {
            continue;
        }
        seen.push((*recurrence, &op.name));
        let step = graph.recurrence(*recurrence);
        // What a training step adds is no recurrence that somebody wrote.
        if !step.direction.is_forward() {
            continue;
        }
        let found = classify(graph, step);
        let sentences = found.sentences(graph, step);
        let states = step.states.iter().zip(&found.states).zip(sentences);
        // A component is called by its recurrence and its states.
        let of = step.name.rsplit_once('.').map(|(whole, _)| whole);
        out.push(RecurrenceClass {
            op: op.name.clone(),
            recurrence: of.unwrap_or(&step.name).to_owned(),
            is_component: of.is_some(),
            states: states
                .enumerate()
                .map(|(s, ((state, class), reason))| StateClass {
                    state: state.name.clone(),
                    class: class.name(),
                    reason,
                    place: found
                        .blame
                        .and_then(|at| sources.point(at))
                        .map(Place::from),
                    remedy: match class {
                        Class::General { why } => why.remedy(),
                        _ => None,
                    },
                    has_decay: !class.decays().is_empty(),
                    log_decay: log_decay(graph, OpId(i as u32), &found, s)
                        .map(|_| ())
                        .map_err(|why| why.to_string()),
                })
                .collect(),
        });
    }
    out
}

/// The same for people.
pub fn text(classes: &[RecurrenceClass]) -> String {
    let mut out = String::new();
    for class in classes {
        for state in &class.states {
            let of = match class.is_component {
                true => format!("state {}, a component of {}", state.state, class.recurrence),
                false => format!("state {} of {}", state.state, class.recurrence),
            };
            out.push_str(&format!(
                "recurrence {} ({of}): {}\n    {}\n",
                class.op, state.class, state.reason
            ));
            for line in state.place.iter().flat_map(|place| place.shown.lines()) {
                out.push_str(&format!("    {line}\n"));
            }
            if let Some(remedy) = state.remedy {
                out.push_str(&format!("    what would free it: {remedy}\n"));
            }
            if let (Err(why), true) = (&state.log_decay, state.has_decay) {
                out.push_str(&format!("    no logarithm of its decay: {why}\n"));
            }
        }
    }
    out
}
