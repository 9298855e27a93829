//! G3: some steps of training on one small batch should lower the loss, and reach every branch.

use super::{Gate, GateError, Verdict, scientific};
use crate::limits;
use crate::memory::Footprint;
use crate::train::learns::{Course, LEAST_FALL, Learning, learns};
use crate::train::trainer::TrainError;
use fusec_fuse::Shape;
use fusec_ir::Graph;
use fusec_ir::gradient::Objective;

/// Parameters of the largest model that is trained for this: the interpreter takes about a second for
/// a million of them.
pub const MOST_PARAMETERS: usize = 1 << 24;

/// Trains a copy of a model for a few steps from the weights that its text starts from, in f32 on the
/// CPU, whatever runs the other gates. Not available where a model has no loss or no derivative, has more
/// than `most` parameters, or needs more memory than there is; the figure says which.
pub fn learning(graph: &Graph, seed: u64, most: usize) -> Result<Gate, GateError> {
    let gate = |verdict, figure: String, details| Gate {
        gate: "G3",
        asks: "it learns",
        verdict,
        figure,
        details,
    };
    let not_available = |why: String| Ok(gate(Verdict::NotAvailable, why, vec![]));
    let parameters = graph.params.iter().fold(0usize, |sum, param| {
        sum.saturating_add(graph.row_elements(param.value))
    });
    if parameters > most {
        return not_available(format!(
            "{parameters} parameters, tried with at most {most}: try a smaller one with --axis"
        ));
    }
    let course = Course {
        seed,
        ..Course::default()
    };
    let objective = match Objective::new(graph) {
        Ok(objective) => objective,
        Err(error) => return not_available(format!("the model cannot be trained: {error}")),
    };
    let shape = Shape {
        batch: course.batch,
        time: course.length,
    };
    let transposed = &objective.trunk.graph;
    if let Err(error) = limits::run(transposed, shape) {
        return not_available(format!("too large to be trained: {error}"));
    }
    let need = Footprint::of_interpreter(transposed, shape, size_of::<f32>());
    if let Err(error) = need.check_host(0) {
        return not_available(format!("too large to be trained here: {error}"));
    }
    let found = match learns(graph, course) {
        Ok(found) => found,
        Err(error @ (TrainError::NoLanguageModel(_) | TrainError::Gradient(_))) => {
            return not_available(format!("the model cannot be trained: {error}"));
        }
        Err(error) => return Err(error.into()),
    };
    let faults = found.faults();
    let verdict = match faults.is_empty() {
        true => Verdict::Pass,
        false => Verdict::Fail,
    };
    Ok(gate(
        verdict,
        figure(&found, course),
        details(&found, faults),
    ))
}

fn figure(found: &Learning, course: Course) -> String {
    let Course { batch, length, .. } = course;
    let steps = found.norms.len();
    let run = format!("{steps} steps of AdamW on one batch of B={batch} T={length}");
    match (found.losses.first(), found.losses.last()) {
        (Some(first), Some(last)) if found.losses.len() > 1 => format!(
            "loss {first:.3} to {last:.3} nats in {run}: {:.1} % less, accepted from {:.0} %",
            100.0 * found.fall(),
            100.0 * LEAST_FALL
        ),
        _ => run,
    }
}

/// What is wrong; then what reached whom.
fn details(found: &Learning, faults: Vec<String>) -> Vec<String> {
    let mut details = faults;
    let reached = found.mixers.iter().filter_map(|mixer| {
        let norm = mixer.norm.filter(|norm| *norm > 0.0)?;
        Some(format!("`{}` {}", mixer.name, scientific(norm)))
    });
    let reached: Vec<String> = reached.collect();
    if !reached.is_empty() {
        details.push(format!("largest gradient of {}", reached.join(", ")));
    }
    if !found.untouched.is_empty() {
        let shown: Vec<String> = found
            .untouched
            .iter()
            .take(6)
            .map(|p| format!("`{p}`"))
            .collect();
        let more = match found.untouched.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        details.push(format!("no gradient by {}{more}", shown.join(", ")));
    }
    details
}
