//! The comment at the head of a kernel: what it computes, as the model says it, and what the plan
//! expects of it.
//!
//! Whoever meets a kernel in a profile begins here. Nothing in it is seen by a compiler.

use crate::kernel::Request;
use crate::memory::elsewhere;
use fusec_fuse::{Body, Kernel, Schedule};
use fusec_ir::{AxisId, Direction, Graph, OpId, OpKind, ValueId, print};
use std::collections::BTreeSet;

/// Columns of a line.
const WIDTH: usize = 112;

/// The comment, of lines that end.
pub fn text(request: &Request<'_, '_>, kernel: &Kernel, name: &str) -> String {
    let Request {
        graph,
        storage,
        shape,
        device,
        ..
    } = *request;
    let mut lines = vec![
        format!("{name}: {}", fusec_fuse::summary(kernel)),
        format!(
            "As planned for B={} T={} on {device}, {storage} storage.",
            shape.batch, shape.time
        ),
    ];
    let axes = axes(graph, kernel);
    if !axes.is_empty() {
        lines.push(format!("Axes: {axes}."));
    }
    for (n, phase) in kernel.phases.iter().enumerate() {
        for (i, body) in phase.lanes.iter().enumerate() {
            lines.push(String::new());
            let mut place = Vec::new();
            if kernel.phases.len() > 1 {
                place.push(format!("phase {n}"));
            }
            if phase.lanes.len() > 1 {
                place.push(format!("subkernel {i}"));
            }
            place.push(body.template().to_string());
            if let Schedule::Scan(tile) = &body.schedule
                && tile.direction == Direction::Reverse
            {
                place.push("from the last row to the first".into());
            }
            if n > 0 && i == 0 {
                place.push("after a barrier of the grid".into());
            }
            lines.push(format!("{}:", place.join(", ")));
            lines.extend(equations(graph, kernel, body));
        }
    }
    if !kernel.forms.is_empty() {
        lines.push(String::new());
        lines.push(format!("forms: {}", kernel.forms.join(", ")));
    }
    let mut out = String::new();
    for line in lines.iter().flat_map(|line| wrapped(line)) {
        out.push_str(format!("// {}", one_line(&line)).trim_end());
        out.push('\n');
    }
    out
}

/// The operations of a body as the model has them, with the steps of its recurrences.
fn equations(graph: &Graph, kernel: &Kernel, body: &Body) -> Vec<String> {
    let name = |v: ValueId| {
        let value = graph.value(v);
        let place = elsewhere(kernel.layer, value.layer).map(|place| place.replace('_', " "));
        match place {
            Some(place) => format!("{} ({place})", value.name),
            None => value.name.clone(),
        }
    };
    let mut out = Vec::new();
    for id in &body.ops {
        let op = graph.op(*id);
        out.push(format!("  {}", print::equation(graph, op, &name)));
        if let OpKind::Scan { recurrence, .. } = &op.kind {
            let step = print::step(graph, graph.recurrence(*recurrence));
            out.extend(step.lines().map(|line| format!("    {line}")));
        }
    }
    out
}

/// The axes of what a kernel computes and reads, with their sizes.
fn axes(graph: &Graph, kernel: &Kernel) -> String {
    let mut used: BTreeSet<AxisId> = BTreeSet::new();
    let values = |id: &OpId| {
        let op = graph.op(*id);
        let read = op.inputs.iter().map(|access| access.value);
        read.chain(op.outputs.iter().copied()).collect::<Vec<_>>()
    };
    for value in kernel.ops.iter().flat_map(values) {
        used.extend(&graph.value(value).axes);
    }
    let sized = |a: &AxisId| format!("{}={}", graph.axis_name(*a), graph.size(*a));
    let all: Vec<String> = used.iter().map(sized).collect();
    all.join(" ")
}

/// A text of the model inside a comment, which ends with its line: no backslash at its end, and no
/// other end of a line, may make it longer or shorter.
pub fn one_line(text: &str) -> String {
    let inside = |c: char| if c == '\\' || c.is_control() { '?' } else { c };
    text.chars().map(inside).collect()
}

/// A line as several, broken at spaces; what follows the first is indented further.
fn wrapped(line: &str) -> Vec<String> {
    let words = line.trim_start();
    let indent = " ".repeat(line.len() - words.len());
    let mut out: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match out.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= WIDTH => {
                last.push(' ');
                last.push_str(word);
            }
            Some(_) => out.push(format!("{indent}    {word}")),
            None => out.push(format!("{indent}{word}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_and_nothing_leaves_the_comment() {
        let line = format!("  y = {}", ["x + 1"; 40].join(" + "));
        let lines = wrapped(&line);
        assert!(
            lines.len() > 1 && lines[0].starts_with("  y = x") && lines[1].starts_with("      ")
        );
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&lines.join(" ")), words(&line));
        assert_eq!(wrapped(""), [""]);
        assert_eq!(one_line("a\\\n*/"), "a??*/");
    }
}
