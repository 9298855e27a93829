//! The launches of a regime as statements, each with the names of what it computes.

use crate::header::one_line;
use crate::manifest::{Arg, LaneGrid, MapExtent, Regime, RowUnits, Step, TensorMap};

/// Columns of a line.
const WIDTH: usize = 112;
/// Values that a launch is named by.
const NAMED: usize = 4;

/// The body of the function of a regime. `class`: what holds the indices of buffers, whose names are `buffers`;
/// `kernels`: names of kernels.
pub(super) fn text(regime: &Regime, class: &str, kernels: &[&str], buffers: &[String]) -> String {
    let mut out = String::new();
    if regime.steps.iter().any(|step| step.one_row) {
        out.push_str("    // The same for the last row of each sequence.\n");
        out.push_str("    const Run row = run.of_one_row();\n\n");
    }
    for (at, step) in regime.steps.iter().enumerate() {
        let run = if step.one_row { "row" } else { "run" };
        let writer = Writer {
            regime,
            class,
            buffers,
            run,
        };
        out.push_str(&format!(
            "    // {at}: {}\n",
            one_line(&computed(regime, step))
        ));
        let kernel = kernels.get(step.kernel).copied().unwrap_or_default();
        let blocks = writer.blocks(&step.lanes);
        let how = how(step, at);
        out.push_str(&format!(
            "    launch({run}, Kernels::{kernel}, {blocks}, {how},\n"
        ));
        let args: Vec<String> = step
            .args
            .iter()
            .map(|arg| writer.argument(step, *arg))
            .collect();
        out.push_str(&list(&args));
    }
    out
}

/// What a step writes, as the model calls it.
fn computed(regime: &Regime, step: &Step) -> String {
    let written = step.writes.iter().filter_map(|at| regime.buffers.get(*at));
    let names: Vec<&str> = written.map(|buffer| buffer.name.as_str()).collect();
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// The flags of a launch. The first one of a run follows whatever was before it.
fn how(step: &Step, at: usize) -> String {
    let flags = [
        (step.cooperative, "RESIDENT"),
        (step.persistent, "SHARED"),
        (step.early && at > 0, "EARLY"),
    ];
    let set: Vec<&str> = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
    match set.is_empty() {
        true => "PLAIN".into(),
        false => set.join(" | "),
    }
}

/// Arguments in braces, as many in a line as fit.
fn list(args: &[String]) -> String {
    const INDENT: &str = "           ";
    let mut lines = vec![format!("{INDENT}{{")];
    for (at, arg) in args.iter().enumerate() {
        let end = if at + 1 == args.len() { "});" } else { "," };
        let piece = format!("{arg}{end}");
        match lines.last_mut() {
            Some(line) if line.ends_with('{') => line.push_str(&piece),
            Some(line) if line.len() + 1 + piece.len() <= WIDTH => {
                line.push(' ');
                line.push_str(&piece);
            }
            _ => lines.push(format!("{INDENT} {piece}")),
        }
    }
    if args.is_empty() {
        lines.push(format!("{INDENT}}});"));
    }
    lines.join("\n") + "\n"
}

struct Writer<'a> {
    regime: &'a Regime,
    class: &'a str,
    buffers: &'a [String],
    /// What holds the shape and the addresses.
    run: &'static str,
}

impl Writer<'_> {
    /// The blocks of all lanes; those of lanes whose numbers grow alike stand together.
    fn blocks(&self, lanes: &[LaneGrid]) -> String {
        let run = self.run;
        let mut sums: Vec<(String, Vec<u64>)> = Vec::new();
        for lane in lanes {
            let units = match lane.rows {
                RowUnits::Once => String::new(),
                RowUnits::Batch => format!("{run}.batch"),
                RowUnits::Runs(of) => format!("{run}.runs({})", of.max(1)),
                RowUnits::Tiles(of) => format!("{run}.tiles({})", of.max(1)),
            };
            match sums.iter_mut().find(|(known, _)| *known == units) {
                Some((_, blocks)) => blocks.push(lane.blocks),
                None => sums.push((units, vec![lane.blocks])),
            }
        }
        let sums = sums.iter().map(|(units, blocks)| {
            let sum: Vec<String> = blocks.iter().map(u64::to_string).collect();
            match (units.as_str(), blocks.as_slice()) {
                ("", _) => sum.join(" + "),
                (units, [1]) => units.to_owned(),
                (units, [blocks]) => format!("{blocks} * {units}"),
                (units, _) => format!("({}) * {units}", sum.join(" + ")),
            }
        });
        sums.collect::<Vec<_>>().join(" + ")
    }

    fn index(&self, buffer: usize) -> String {
        let name = self.buffers.get(buffer).map_or("", String::as_str);
        format!("{}::{name}", self.class)
    }

    fn argument(&self, step: &Step, arg: Arg) -> String {
        let run = self.run;
        match arg {
            Arg::Buffer(buffer) | Arg::OldTail(buffer) => format!("{run}[{}]", self.index(buffer)),
            Arg::NewTail(buffer) => format!("{run}.written[{}]", self.index(buffer)),
            Arg::TensorMap(map) => step
                .tensor_maps
                .get(map)
                .map_or_else(String::new, |map| self.tensor_map(map)),
            Arg::Batch => format!("{run}.batch"),
            Arg::Time => format!("{run}.time"),
            Arg::Position => format!("{run}.position"),
        }
    }

    fn tensor_map(&self, map: &TensorMap) -> String {
        let axes = map.axes.iter().map(|axis| {
            let extent = match axis.extent {
                MapExtent::Fixed(places) => places.to_string(),
                MapExtent::Rows => format!("{}.rows()", self.run),
            };
            format!("{{{extent}, {}, {}}}", axis.stride, axis.span)
        });
        let axes: Vec<String> = axes.collect();
        let buffer = self.regime.buffers.get(map.buffer);
        let element = buffer.map_or("f32", |buffer| super::element(buffer.element));
        format!(
            "tensor_map({}[{}], Type::{element}, {}, {{{}}})",
            self.run,
            self.index(map.buffer),
            map.offset,
            axes.join(", ")
        )
    }
}
