//! One kernel: phases of lanes side by side, parameters, header comment, source text.

use crate::CodegenError;
use crate::affine::Grid;
use crate::attend;
use crate::chunks;
use crate::lane::Lane;
use crate::manifest::{KernelParam, LaneGrid, ParamKind, RowUnits};
use crate::matmul;
use crate::memory::{Pointer, Pointers, c_type};
use crate::names::Names;
use crate::prelude;
use crate::render::render;
use crate::text::Text;
use crate::walk::{self, Walk};
use fusec_fuse::chunked::Classes;
use fusec_fuse::elements::Elements;
use fusec_fuse::schedule::walk::{Placed, Walked};
use fusec_fuse::{Body, Kernel, Phase, Schedule, Storage, Template};
use fusec_ir::{Graph, Op, OpId, OpKind, ValueId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use tera::Context;

/// A kernel's source with everything a launch needs, before it has its final entry name.
pub struct Source {
    context: Context,
    body: String,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: usize,
    /// Pointer parameters, in order.
    pub pointers: Vec<Pointer>,
    /// Whether it takes the position.
    pub position: bool,
    /// Blocks of each lane.
    pub lanes: Vec<LaneGrid>,
    /// Smallest compute capability.
    pub min_arch: u32,
}

/// The number of a block of a phase, of which a block of the grid has several in turn.
const TURN: &str = "turn";

#[derive(Serialize)]
struct GridLine {
    name: String,
    blocks: usize,
    tile: usize,
}

#[derive(Serialize)]
struct ParamLine {
    declaration: String,
    comment: String,
}

/// Generates one kernel of a plan.
pub fn generate(
    graph: &Graph,
    classes: &Classes,
    elements: &Elements,
    storage: Storage,
    kernel: &Kernel,
) -> Result<Source, CodegenError> {
    let one_phase = kernel.phases.len() <= 1;
    let lanes = kernel.phases.iter().flat_map(|phase| &phase.lanes);
    let bodies: Vec<&Body> = lanes.collect();
    let uses = |templates: &[Template]| bodies.iter().any(|b| templates.contains(&b.template()));
    let mut taken = BTreeSet::new();
    if uses(&[Template::Gemv, Template::Thin, Template::Gemm]) {
        taken.extend(crate::projection::reserved_identifiers());
    }
    for body in bodies.iter().filter(|b| b.template() == Template::Chunked) {
        taken.extend(chunks::reserved_identifiers(graph, classes, body));
    }
    if !one_phase {
        taken.insert(TURN);
    }
    let mut names = Names::beside(taken);
    let mut pointers = Pointers::new(graph, elements);
    let threads = kernel.launch.threads as usize;
    let mut lanes = Vec::new();
    for body in &bodies {
        lanes.push(match body.schedule {
            Schedule::Row(_) | Schedule::Scan(_) => {
                walk_lane(graph, storage, body, threads, &mut pointers, &mut names)?
            }
            Schedule::Gemv(_) | Schedule::Thin(_) | Schedule::Gemm(_) => {
                matmul::lane(graph, storage, kernel, body, &mut pointers, &mut names)?
            }
            Schedule::Attend(_) => attend::lane(graph, kernel, body, &mut pointers, &mut names)?,
            Schedule::Chunked(_) => {
                let request = chunks::Request {
                    graph,
                    classes,
                    storage,
                    kernel,
                    body,
                    threads,
                };
                chunks::lane(&request, &mut pointers, &mut names)?
            }
        });
    }
    obeys(kernel, &lanes)?;
    let mut text = Text::at(1);
    let mut rest = &lanes[..];
    for (i, phase) in kernel.phases.iter().enumerate() {
        let (lanes, later) = rest.split_at(phase.lanes.len());
        rest = later;
        if one_phase {
            side_by_side(graph, phase, lanes, &mut text);
            continue;
        }
        if i > 0 {
            text.line("grid_barrier();");
        }
        // The grid may have fewer blocks than the phase: as many as the device holds at once.
        let blocks: Vec<&str> = lanes.iter().map(|l| l.blocks.as_str()).collect();
        let anchors: Vec<&Body> = phase.lanes.iter().collect();
        text.line(format!("// phase {i}: {}", anchor_names(graph, &anchors)));
        text.open(format!("if (FUSEC_PHASE({i}))"));
        text.open(format!(
            "for (i64 {TURN} = blockIdx.x; {TURN} < {}; {TURN} += gridDim.x)",
            blocks.join(" + ")
        ));
        text.line(format!("i64 block = {TURN};"));
        side_by_side(graph, phase, lanes, &mut text);
        // Shared memory is that of the next turn.
        text.line("__syncthreads();");
        text.close();
        text.close();
    }
    let body = text.finish();
    let shared_bytes = kernel.launch.shared_bytes as usize;
    let position = lanes.iter().any(|l| l.position);
    let mut names_used = prelude::primitives_in(&body);
    if shared_bytes > 0 {
        // Named by the frame around the body.
        names_used.insert("FUSEC_DYNAMIC_SMEM");
    }
    let mut params: Vec<ParamLine> = pointers
        .list()
        .iter()
        .map(|p| ParamLine {
            declaration: declaration(p, one_phase),
            comment: comment(graph, p),
        })
        .collect();
    params.push(ParamLine {
        declaration: "const i64 B".into(),
        comment: String::new(),
    });
    params.push(ParamLine {
        declaration: "const i64 T".into(),
        comment: String::new(),
    });
    if position {
        params.push(ParamLine {
            declaration: "const i64 position".into(),
            comment: String::new(),
        });
    }
    let mut context = Context::new();
    context.insert("title", &title(kernel));
    context.insert("header", &header(graph, kernel, storage));
    context.insert("threads", &threads);
    // Lanes beside each other have the registers that each of them needs.
    let resident = match bodies[..] {
        [body] => body.schedule.resident(),
        _ => 1,
    };
    context.insert("resident", &resident);
    context.insert("open", "{");
    context.insert("shared", &(shared_bytes > 0));
    context.insert("one_phase", &one_phase);
    context.insert("params", &params);
    let prelude_text = prelude::prelude_for(&names_used)?;
    context.insert("prelude", &prelude_text);
    Ok(Source {
        context,
        body,
        threads,
        shared_bytes,
        pointers: pointers.list().to_vec(),
        position,
        lanes: lanes.into_iter().map(|l| l.grid).collect(),
        min_arch: prelude::min_arch(&names_used)?,
    })
}

/// The code of the lanes of a phase: each has a range of the blocks.
fn side_by_side(graph: &Graph, phase: &Phase, lanes: &[Lane], text: &mut Text) {
    if let [lane] = lanes {
        text.lines(&lane.code);
        return;
    }
    for (i, (lane, body)) in lanes.iter().zip(&phase.lanes).enumerate() {
        text.line(format!("// lane {i}: {}", anchor_names(graph, &[body])));
        text.line(format!("const i64 lane{i}_blocks = {};", lane.blocks));
        text.open(format!("if (block >= 0 && block < lane{i}_blocks)"));
        text.lines(&lane.code);
        text.close();
        text.line(format!("block -= lane{i}_blocks;"));
    }
}

fn anchor_names(graph: &Graph, bodies: &[&Body]) -> String {
    let anchors = bodies.iter().flat_map(|body| body.anchors());
    let names: Vec<&str> = anchors.map(|o| graph.op(*o).name.as_str()).collect();
    names.join(", ")
}

impl Source {
    /// The source text with this entry name.
    pub fn text(&self, entry: &str) -> Result<String, CodegenError> {
        let mut context = self.context.clone();
        context.insert("entry", entry);
        context.insert("body", &self.body);
        Ok(tidy(&render("kernel.cu", &context)?))
    }

    /// The declared parameters, in order.
    pub fn params(&self) -> Vec<KernelParam> {
        let pointer = |p: &Pointer| KernelParam {
            name: p.name.clone(),
            kind: ParamKind::Pointer,
        };
        let number = |name: &str| KernelParam {
            name: name.into(),
            kind: ParamKind::I64,
        };
        let mut out: Vec<KernelParam> = self.pointers.iter().map(pointer).collect();
        out.push(number("B"));
        out.push(number("T"));
        if self.position {
            out.push(number("position"));
        }
        out
    }
}

/// Pragmas stand at the margin of what they are for; no two empty lines follow each other.
fn tidy(source: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let mut out = String::with_capacity(source.len());
    let mut empty = false;
    for (i, line) in lines.iter().enumerate() {
        let line = line.trim_end();
        if line.is_empty() && empty {
            continue;
        }
        empty = line.is_empty();
        let bare = line.trim_start();
        if bare.starts_with("#pragma") {
            let next = lines.get(i + 1).copied().unwrap_or("");
            out.push_str(&next[..next.len() - next.trim_start().len()]);
            out.push_str(bare);
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// The text needs no more shared memory than its plan says.
fn obeys(kernel: &Kernel, lanes: &[Lane]) -> Result<(), CodegenError> {
    let used = lanes.iter().map(|l| 4 * l.shared_floats).max().unwrap_or(0);
    match used <= kernel.launch.shared_bytes as usize {
        true => Ok(()),
        false => Err(CodegenError::Unplanned {
            kernel: kernel.name.clone(),
            used,
            planned: kernel.launch.shared_bytes as usize,
        }),
    }
}

fn walk_lane<'g>(
    graph: &'g Graph,
    storage: Storage,
    body: &Body,
    threads: usize,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let grid_axes = body.schedule.grid();
    let grid = Grid::new(graph, grid_axes);
    // Rows of a block, if it does not walk along all of T.
    let (rows, run) = match &body.schedule {
        Schedule::Row(tile) => (Some(tile.rows.max(1)), 1),
        Schedule::Scan(tile) => (None, tile.run),
        _ => (None, 1),
    };
    let walked = Walked {
        graph,
        ops: &body.ops,
        tails: &body.tails,
        stores: &body.stores,
        vector: 16 / storage.bytes(),
    };
    let Placed { program, layouts } = walked.placed(grid_axes, threads, run);
    let mut first_index = BTreeMap::new();
    let mut lines = Vec::new();
    // Innermost grid axis first: it is the fastest to vary from block to block.
    for g in grid_axes.iter().rev() {
        let name = names.fresh(&format!("{}0", graph.axis_name(g.axis).to_lowercase()));
        lines.push(GridLine {
            name: name.clone(),
            blocks: graph.size(g.axis) / g.tile,
            tile: g.tile,
        });
        first_index.insert(g.axis, name);
    }
    let walk = Walk {
        grid: &grid,
        program: &program,
        layouts: &layouts,
        stores: &body.stores,
        sink: None,
        writer: None,
        first_index,
        halo: rows.is_some(),
        repeats: rows != Some(1),
        streams: &|value| body.streamed.contains(&value),
        shared_base: 0,
    };
    let walked = walk::emit(&walk, pointers, names);
    let blocks = grid.blocks();
    let mut context = Context::new();
    context.insert("rows", &rows.unwrap_or(1));
    context.insert("row_runs", &rows.is_some());
    context.insert("grid", &lines);
    context.insert("code", &walked.code);
    let code = render("walk.cu", &context)?;
    let (units, count) = match rows {
        None => (RowUnits::Batch, "B".into()),
        Some(1) => (RowUnits::Runs(1), "B * T".into()),
        Some(rows) => {
            let runs = format!("B * ((T + {}) / {rows})", rows - 1);
            (RowUnits::Runs(rows), runs)
        }
    };
    Ok(Lane {
        code: code.trim_start_matches('\n').to_string(),
        grid: LaneGrid {
            blocks: blocks as u64,
            rows: units,
        },
        blocks: if blocks == 1 {
            count
        } else {
            format!("{count} * {blocks}")
        },
        shared_floats: walked.shared_floats,
        position: walk::uses_position(&program),
    })
}

fn declaration(p: &Pointer, one_phase: bool) -> String {
    let ty = c_type(p.element);
    if p.written && p.read && !one_phase {
        // What another block wrote: a restricted pointer would promise that nobody else does.
        format!("{ty}* {}", p.name)
    } else if p.written {
        format!("{ty}* __restrict__ {}", p.name)
    } else {
        format!("const {ty}* __restrict__ {}", p.name)
    }
}

fn comment(graph: &Graph, p: &Pointer) -> String {
    use crate::memory::Place;
    match p.place {
        Place::Value(v) => {
            let value = graph.value(v);
            format!("{} {}", value.name, shape_text(graph, v))
        }
        Place::State(s) => format!(
            "recurrence state [B, {}]",
            axes_text(graph, &graph.state(s).axes)
        ),
        Place::OldTail(_) => "rows before the first token".into(),
        Place::NewTail(_) => "rows for the next run".into(),
    }
}

fn axes_text(graph: &Graph, axes: &[fusec_ir::AxisId]) -> String {
    let parts: Vec<String> = axes
        .iter()
        .map(|a| format!("{}={}", graph.axis_name(*a), graph.size(*a)))
        .collect();
    parts.join(", ")
}

/// `[B, T, H=32, N=64]`.
pub fn shape_text(graph: &Graph, v: ValueId) -> String {
    let value = graph.value(v);
    let inner = axes_text(graph, &value.axes);
    match (value.rows, inner.is_empty()) {
        (true, true) => "[B, T]".into(),
        (true, false) => format!("[B, T, {inner}]"),
        (false, _) => format!("[{inner}]"),
    }
}

fn title(kernel: &Kernel) -> String {
    let n = kernel.ops.len();
    let ops = if n == 1 {
        "1 operation".to_string()
    } else {
        format!("{n} operations")
    };
    format!("{ops} of the model in one launch")
}

fn header(graph: &Graph, kernel: &Kernel, storage: Storage) -> Vec<String> {
    let mut out = Vec::new();
    for (n, phase) in kernel.phases.iter().enumerate() {
        if kernel.phases.len() > 1 {
            let waits = if n > 0 {
                ", after a barrier of the grid"
            } else {
                ""
            };
            out.push(format!("phase {n}{waits}:"));
        }
        for (i, body) in phase.lanes.iter().enumerate() {
            let template = body.template();
            if phase.lanes.len() > 1 {
                out.push(format!("lane {i}, template {template}, storage {storage}:"));
            } else {
                out.push(format!("template {template}, storage {storage}:"));
            }
            for op in &body.ops {
                out.push(format!("  {}", op_text(graph, *op)));
            }
        }
    }
    if !kernel.forms.is_empty() {
        out.push(String::new());
        out.push(format!("forms: {}", kernel.forms.join(", ")));
    }
    out
}

/// One operation on one line: `xx [B, T, H=2, N=64] = map(x, x@t-1)`.
pub fn op_text(graph: &Graph, id: OpId) -> String {
    let op: &Op = graph.op(id);
    let operands: Vec<String> = op
        .inputs
        .iter()
        .map(|a| {
            let name = &graph.value(a.value).name;
            if a.delay == 0 {
                name.clone()
            } else {
                format!("{name}@t-{}", a.delay)
            }
        })
        .collect();
    let what = match &op.kind {
        OpKind::Map { .. } if op.inputs.iter().any(|a| a.delay != 0) => "stencil",
        OpKind::Map { .. } => "map",
        OpKind::Reduce { .. } => "reduce",
        OpKind::Norm { .. } => "norm",
        OpKind::Contract { .. } => "contract",
        OpKind::Gather => "gather",
        OpKind::Scan { recurrence, .. } => graph.recurrence(*recurrence).name.as_str(),
        OpKind::Attend { .. } => "attention",
        OpKind::CumSum { .. } => "cumsum",
    };
    let results: Vec<String> = op
        .outputs
        .iter()
        .map(|v| format!("{} {}", graph.value(*v).name, shape_text(graph, *v)))
        .collect();
    format!("{} = {what}({})", results.join(", "), operands.join(", "))
}
