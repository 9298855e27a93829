//! The plan as a table for people.

use crate::decisions::Decisions;
use crate::plan::{Body, Cost, Kernel, Mode, Phase, Plan, Template};
use crate::planner::Planned;
use fusec_ir::{Graph, OpId};
use std::fmt::{self, Write as _};

/// Launches of an interior layer: of the kernel sequence that most layers other than the first
/// and the last have (the earliest of several). Of the whole run if there are no layers.
pub fn launches_per_layer(plan: &Plan) -> usize {
    interior(plan).len()
}

/// The kernels of an interior layer, as defined at [`launches_per_layer`].
pub fn interior(plan: &Plan) -> &[Kernel] {
    let runs = runs(plan);
    let layers: Vec<&Run<'_>> = runs.iter().filter(|r| r.layer.is_some()).collect();
    let inner = match layers.len() {
        0 => return &plan.kernels,
        1 | 2 => &layers[..],
        n => &layers[1..n - 1],
    };
    let mut best: (usize, &[Kernel]) = (0, &[]);
    for run in inner {
        let equal = inner.iter().filter(|other| same(run, other)).count();
        if equal > best.0 {
            best = (equal, run.kernels);
        }
    }
    best.1
}

/// Consecutive kernels of one layer, or of none.
struct Run<'a> {
    layer: Option<u32>,
    kernels: &'a [Kernel],
}

fn runs(plan: &Plan) -> Vec<Run<'_>> {
    plan.kernels
        .chunk_by(|a, b| a.layer == b.layer)
        .map(|kernels| Run {
            layer: kernels.first().and_then(|k| k.layer),
            kernels,
        })
        .collect()
}

/// Kernels of equal name are equal (see [`Kernel::name`]).
fn same(a: &Run<'_>, b: &Run<'_>) -> bool {
    a.layer.is_some() == b.layer.is_some()
        && a.kernels
            .iter()
            .map(|k| &k.name)
            .eq(b.kernels.iter().map(|k| &k.name))
}

/// A plan with one line a kernel: what each computes, and what was decided on the way, is left
/// out.
pub struct Brief<'a>(&'a Planned);

impl Planned {
    /// The plan with one line a kernel.
    pub fn brief(&self) -> Brief<'_> {
        Brief(self)
    }
}

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, false)
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, true)
    }
}

impl Planned {
    fn write(&self, f: &mut fmt::Formatter<'_>, whole: bool) -> fmt::Result {
        let Planned { graph, plan, .. } = self;
        writeln!(
            f,
            "{} on {}: {} storage, B={} T={}, plan {}",
            plan.model, plan.device, plan.storage, plan.shape.batch, plan.shape.time, plan.mode
        )?;
        writeln!(f, "{}", plan.claim)?;
        for form in &plan.forms {
            writeln!(f, "form {form}")?;
        }
        for runs in runs(plan).chunk_by(same) {
            let Some(first) = runs.first() else { continue };
            writeln!(f)?;
            write_heading(f, runs, &self.decisions)?;
            write_kernels(f, graph, first.kernels, whole)?;
        }
        writeln!(f)?;
        let bytes: f64 = plan.kernels.iter().map(|k| k.cost.bytes).sum();
        let operations = self.decisions.unfused_launches();
        writeln!(
            f,
            "total: {} launches ({operations} unfused), {} of memory traffic, {} predicted",
            plan.kernels.len(),
            amount(bytes),
            time(plan.total_us),
        )?;
        let inside = interior(plan);
        let layer = inside.first().and_then(|k| k.layer);
        let unfused = self.decisions.unfused_launches_of(layer);
        writeln!(
            f,
            "per layer: {} launches ({unfused} unfused)",
            inside.len()
        )?;
        if whole && matches!(plan.mode, Mode::Auto) {
            write!(f, "{}", self.decisions)?;
        }
        Ok(())
    }
}

fn write_heading(
    f: &mut fmt::Formatter<'_>,
    runs: &[Run<'_>],
    decisions: &Decisions,
) -> fmt::Result {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return Ok(());
    };
    match (first.layer, last.layer) {
        (Some(a), Some(b)) if a != b => write!(f, "layers {a}..{b} ({} equal)", runs.len())?,
        (Some(a), _) => write!(f, "layer {a}")?,
        (None, _) => write!(f, "outside the layers")?,
    }
    let unfused = match first.layer {
        Some(_) => format!(" ({} unfused)", decisions.unfused_launches_of(first.layer)),
        None => String::new(),
    };
    let us: f64 = first.kernels.iter().map(|k| k.cost.total_us).sum();
    let each = if runs.len() > 1 { " each" } else { "" };
    writeln!(
        f,
        ": {} launches{each}{unfused}, {}{each}",
        first.kernels.len(),
        time(us)
    )
}

fn write_kernels(
    f: &mut fmt::Formatter<'_>,
    graph: &Graph,
    kernels: &[Kernel],
    whole: bool,
) -> fmt::Result {
    let rows: Vec<[String; 5]> = kernels
        .iter()
        .map(|kernel| {
            [
                kernel.name.clone(),
                template(kernel),
                amount(kernel.cost.bytes),
                time(kernel.cost.total_us),
                limit(&kernel.cost).to_string(),
            ]
        })
        .collect();
    let heads = ["kernel", "template", "memory", "time", "limited by"].map(String::from);
    let width = |column: usize| {
        rows.iter()
            .chain([&heads])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 5]| {
        format!(
            "  {:<w0$}  {:<w1$}  {:>w2$}  {:>w3$}  {}",
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
        )
    };
    writeln!(f, "{}", line(&heads))?;
    for (kernel, row) in kernels.iter().zip(&rows) {
        writeln!(f, "{}", line(row))?;
        if !whole {
            continue;
        }
        for (i, phase) in kernel.phases.iter().enumerate() {
            for (j, body) in phase.lanes.iter().enumerate() {
                let mut label = String::new();
                if kernel.phases.len() > 1 {
                    let _ = write!(label, "phase {i}, ");
                }
                if phase.lanes.len() > 1 {
                    let _ = write!(label, "subkernel {j}, {}: ", body.template());
                }
                for piece in wrap(&format!("{label}{}", fuses(graph, body)), 92) {
                    writeln!(f, "      {piece}")?;
                }
            }
        }
        let lanes = kernel.phases.iter().flat_map(|p| &p.lanes);
        let mut schedules: Vec<String> = lanes.map(|body| body.schedule.to_string()).collect();
        schedules.dedup();
        let launch = format!("{}; {}", kernel.launch, schedules.join("; "));
        for piece in wrap(&launch, 92) {
            writeln!(f, "      {piece}")?;
        }
        if !kernel.forms.is_empty() {
            writeln!(f, "      forms: {}", kernel.forms.join(", "))?;
        }
    }
    Ok(())
}

/// The templates of a kernel, phase by phase: `gemv x6 + scan, chunked`.
pub fn template(kernel: &Kernel) -> String {
    let of_phase = |phase: &Phase| {
        let bodies = phase.lanes.iter().map(Body::template);
        let mut runs: Vec<(Template, usize)> = Vec::new();
        for template in bodies {
            match runs.iter_mut().find(|(known, _)| *known == template) {
                Some((_, n)) => *n += 1,
                None => runs.push((template, 1)),
            }
        }
        let names = runs.iter().map(|(template, n)| match n {
            1 => template.to_string(),
            n => format!("{template} x{n}"),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let phases: Vec<String> = kernel.phases.iter().map(of_phase).collect();
    phases.join(" + ")
}

/// A kernel's line of the plan in words.
pub fn summary(kernel: &Kernel) -> String {
    format!(
        "{}, {} of memory traffic, {} predicted, limited by {}.",
        template(kernel),
        amount(kernel.cost.bytes),
        time(kernel.cost.total_us),
        limit(&kernel.cost)
    )
}

/// The names of a body's operations, the block said once for a run of them.
fn fuses(graph: &Graph, body: &Body) -> String {
    let mut out = String::new();
    let mut block: Option<&str> = None;
    for id in &body.ops {
        let name = op_name(graph, *id);
        let (of, last) = name.rsplit_once('.').unwrap_or(("", name));
        if block != Some(of) {
            if block.is_some() {
                out.push_str("; ");
            }
            if !of.is_empty() {
                out.push_str(of);
                out.push_str(": ");
            }
            block = Some(of);
        } else {
            out.push_str(", ");
        }
        out.push_str(last);
        if body.anchors().contains(id) {
            out.push('*');
        }
    }
    out
}

fn op_name(graph: &Graph, id: OpId) -> &str {
    graph.ops.get(id.index()).map_or("?", |op| op.name.as_str())
}

/// Breaks a text at spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= width {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(format!("  {word}"));
            }
        }
    }
    lines
}

/// The term that decides the time of a kernel.
pub fn limit(cost: &Cost) -> &'static str {
    let terms = [
        ("memory", cost.memory_us),
        ("tensor cores", cost.tensor_us),
        ("arithmetic", cost.simt_us),
        ("special functions", cost.special_us),
        ("serial steps", cost.serial_us),
        ("launch", cost.launch_us),
        ("grid barriers", cost.barrier_us),
        ("latency", cost.latency_us),
        ("too few blocks", cost.underfill_us),
    ];
    terms
        .into_iter()
        .fold(
            ("nothing", 0.0),
            |best, term| {
                if term.1 > best.1 { term } else { best }
            },
        )
        .0
}

/// Bytes with a unit.
pub(crate) fn amount(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

/// Microseconds with a unit.
pub(crate) fn time(us: f64) -> String {
    if us >= 1e3 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{us:.1} us")
    }
}
