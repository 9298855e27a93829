//! One kernel: phases of lanes side by side, parameters, header comment, source text.

use crate::CodegenError;
use crate::affine::Grid;
use crate::attend;
use crate::chunks;
use crate::function::{Functions, Scoped};
use crate::header;
use crate::lane::Lane;
use crate::last_row;
use crate::manifest::{ENTRY, KernelParam, LaneGrid, ParamKind, RowUnits};
use crate::matmul;
use crate::memory::{Mapped, Place, Pointer, Pointers, c_type};
use crate::names::{Canonical, Chosen, Names};
use crate::prelude;
use crate::render::render;
use crate::row_sum;
use crate::scatter;
use crate::text::Text;
use crate::walk::{self, Walk};
use crate::wgmma;
use fusec_fuse::chunked::Classes;
use fusec_fuse::chunked::weighted::Row;
use fusec_fuse::elements::Elements;
use fusec_fuse::schedule::Segments;
use fusec_fuse::schedule::program::Held;
use fusec_fuse::schedule::walk::{Placed, Walked};
use fusec_fuse::{Body, Kernel, Phase, Schedule, Shape, Storage};
use fusec_ir::class::{Algebra, Class};
use fusec_ir::{AxisId, Direction, Graph, OpId, OpKind, ValueId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use tera::Context;

/// A kernel's source with everything a launch needs, before it has its final name.
pub struct Source {
    /// The text; [`NAME`] stands for its name.
    text: String,
    /// The text without comments and names.
    pub canonical: String,
    params: Vec<KernelParam>,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: usize,
    /// Pointer parameters, in order.
    pub pointers: Vec<Pointer>,
    /// Whether it takes the position.
    pub position: bool,
    /// Tensor map parameters, in order, behind the pointers.
    pub maps: Vec<Mapped>,
    /// Whether its blocks go from tile to tile, whatever their number.
    pub persistent: bool,
    /// Blocks of each lane.
    pub lanes: Vec<LaneGrid>,
    /// The primitives that it uses.
    pub primitives: BTreeSet<&'static str>,
    /// Smallest compute capability.
    pub min_arch: u32,
}

/// In place of a kernel's name, which no other text has.
const NAME: &str = "\u{e002}";

/// Before anything that a kernel reads which others write, or writes. The kernel after it waits likewise, so
/// that it may start from here on: whatever it does before it waits touches constants only.
const AFTER_PREVIOUS: &str = "grid_dependency_wait();\ngrid_dependency_launch();\n";

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

/// What the kernels of a plan are generated for.
#[derive(Clone, Copy)]
pub struct Request<'a, 'g> {
    /// The model.
    pub graph: &'g Graph,
    /// The classes of its recurrences.
    pub classes: &'a Classes,
    /// Element types of its values.
    pub elements: &'g Elements,
    /// Storage type of activations and matrices.
    pub storage: Storage,
    /// The shape that the plan is for.
    pub shape: Shape,
    /// Tokens of a sequence in a run, where all runs of the plan have as many.
    pub tokens: Option<usize>,
    /// The device that the plan is for.
    pub device: &'a str,
}

/// Generates one kernel of a plan.
pub fn generate(request: &Request<'_, '_>, kernel: &Kernel) -> Result<Source, CodegenError> {
    let Request {
        graph,
        classes,
        elements,
        storage,
        ..
    } = *request;
    let one_phase = kernel.phases.len() <= 1;
    let lanes = kernel.phases.iter().flat_map(|phase| &phase.lanes);
    let bodies: Vec<&Body> = lanes.collect();
    let threads = kernel.launch.threads as usize;
    // Blocks that go from tile to tile of all lanes have one text, and its names, for all.
    let by_warpgroups =
        |body: &&Body| matches!(&body.schedule, Schedule::Gemm(tile) if tile.by_warpgroups());
    let persistent = bodies.iter().any(by_warpgroups);
    let mut names = Names::default();
    let mut pointers = Pointers::new(graph, elements, kernel.layer);
    let mut lanes = Vec::new();
    let mut scopes = Vec::new();
    for body in &bodies {
        let mut scoped_names = Names::default();
        let mut scoped_pointers = Pointers::new(graph, elements, kernel.layer);
        let (pointers, names) = match persistent {
            true => (&mut pointers, &mut names),
            false => (&mut scoped_pointers, &mut scoped_names),
        };
        let lane = match body.schedule {
            Schedule::Row(_) | Schedule::Scan(_) => {
                walk_lane(request, body, threads, pointers, names)?
            }
            Schedule::Gemv(_)
            | Schedule::Stream(_)
            | Schedule::NonZero(_)
            | Schedule::Thin(_)
            | Schedule::Gemm(_) => matmul::lane(
                graph,
                storage,
                request.tokens,
                kernel,
                body,
                pointers,
                names,
            )?,
            Schedule::Attend(_) => attend::lane(graph, kernel, body, pointers, names)?,
            Schedule::LastRow(_) => last_row::lane(graph, kernel, body, pointers, names)?,
            Schedule::RowSum(tile) => row_sum::lane(graph, kernel, body, &tile, pointers, names)?,
            Schedule::Scatter(_) => scatter::lane(graph, kernel, body, pointers, names)?,
            Schedule::Chunked(_) => {
                let request = chunks::Request {
                    graph,
                    classes,
                    storage,
                    kernel,
                    body,
                    threads,
                };
                chunks::lane(&request, pointers, names)?
            }
        };
        scopes.push(Scoped {
            template: body.template(),
            code: lane.code.clone(),
            shared: lane.shared_floats > 0,
            position: lane.position,
            names: scoped_names,
            pointers: scoped_pointers,
        });
        lanes.push(lane);
    }
    let mut functions = Functions::default();
    if persistent {
        let tile = |lane: &Lane| lane.by_warpgroups.clone();
        let tiles: Option<Vec<_>> = lanes.iter().map(tile).collect();
        let (Some(tiles), true) = (tiles, one_phase) else {
            return Err(CodegenError::Unsupported {
                kernel: kernel.name.clone(),
                what: "products by warpgroups beside other lanes or in phases".into(),
            });
        };
        functions.calls.push(wgmma::render(&tiles)?);
    } else if let [scope] = &scopes[..] {
        // The only one is the kernel itself.
        (names, pointers) = (scope.names.clone(), scope.pointers.clone());
        functions.calls.push(scope.code.clone());
    } else {
        functions = Functions::new(&scopes, &mut pointers, &mut names);
    }
    obeys(kernel, &lanes)?;
    let mut text = Text::at(1);
    let mut rest = lanes.iter().zip(&functions.calls);
    for (i, phase) in kernel.phases.iter().enumerate() {
        let lanes: Vec<(&Lane, &String)> = rest.by_ref().take(phase.lanes.len()).collect();
        if persistent {
            if kernel.launch.early {
                text.lines(AFTER_PREVIOUS);
            }
            text.lines(&functions.calls.concat());
            continue;
        }
        if one_phase {
            side_by_side(graph, phase, &lanes, kernel.launch.early, &mut text);
            continue;
        }
        if i > 0 {
            text.line("grid_barrier();");
        }
        // The grid may have fewer blocks than the phase: as many as the device holds at once.
        let blocks: Vec<&str> = lanes.iter().map(|(l, _)| l.blocks.as_str()).collect();
        let anchors: Vec<&Body> = phase.lanes.iter().collect();
        text.line(format!("// phase {i}: {}", anchor_names(graph, &anchors)));
        text.open(format!("if (FUSEC_PHASE({i}))"));
        text.open(format!(
            "for (i64 {TURN} = blockIdx.x; {TURN} < {}; {TURN} += gridDim.x)",
            blocks.join(" + ")
        ));
        text.line(format!("i64 block = {TURN};"));
        side_by_side(graph, phase, &lanes, false, &mut text);
        // Shared memory is that of the next turn.
        text.line("__syncthreads();");
        text.close();
        text.close();
    }
    let body = text.finish();
    let shared_bytes = kernel.launch.shared_bytes as usize;
    let position = lanes.iter().any(|l| l.position);
    let mut context = Context::new();
    context.insert("entry", &format!("{ENTRY}{NAME}"));
    context.insert("threads", &threads);
    // Lanes beside each other have the registers that each of them needs. Streams of weights are the exception: there are as
    // many blocks as are resident together, and a few registers more would leave half of them for later (one model's
    // first products had 76, and took 14.1 us where 27 MB take 6.5).
    let streams = bodies
        .iter()
        .all(|body| matches!(body.schedule, Schedule::Stream(_)));
    let alone = streams || kernel.phases.iter().all(|phase| phase.lanes.len() == 1);
    let wanted = bodies.iter().map(|body| {
        let schedule = &body.schedule;
        schedule.resident() * schedule.threads() / threads.max(1)
    });
    let resident = wanted.min().filter(|_| alone).unwrap_or(1).max(1);
    context.insert("resident", &resident);
    context.insert("open", "{");
    context.insert("shared", &(shared_bytes > 0));
    context.insert("one_phase", &one_phase);
    context.insert("persistent", &persistent);
    // A loop over tokens that is known to be short becomes straight code, without what it would carry on.
    let walks = bodies
        .iter()
        .any(|b| matches!(b.schedule, Schedule::Scan(_)));
    context.insert("tokens", &request.tokens.filter(|_| walks));
    // Where the kernel is a function's caller, only the functions ask for the thread.
    context.insert("tid", &(bodies.len() == 1 || persistent));
    context.insert("params", &parameters(graph, &pointers, one_phase, position));
    let constants = match kernel.launch.early {
        true => small_constants(graph, &bodies, &pointers),
        false => Vec::new(),
    };
    context.insert("constants", &constants);
    context.insert("constant_blocks", &CONSTANT_BLOCKS);
    context.insert("body", &body);
    let frame = render("kernel.cu", &context)?;
    let chosen = names.choose(&[&frame]);
    let own = format!("{}{}", functions.text(), chosen.apply(&frame));
    let primitives = prelude::primitives_in(&own);
    let text = format!(
        "{}\n#include \"{}\"\n\n{own}",
        header::text(request, kernel, NAME),
        prelude::FILE
    );
    Ok(Source {
        text: tidy(&text),
        canonical: format!("{}\n{}", functions.canonical(), Canonical::of(&frame).text),
        params: declared(&pointers, &chosen, position),
        threads,
        shared_bytes,
        pointers: pointers.list().to_vec(),
        maps: pointers.maps().to_vec(),
        persistent,
        position,
        lanes: lanes.into_iter().map(|l| l.grid).collect(),
        min_arch: prelude::min_arch(&primitives)?,
        primitives,
    })
}

/// Constants of at most so many bytes come to the L2 cache while a kernel waits for the one before it: they
/// are read by every block, once, and no kernel writes them.
const SMALL_CONSTANT: usize = 128 * 1024;
/// Blocks that see to it: the others begin with their weights at once.
const CONSTANT_BLOCKS: usize = 8;

#[derive(Serialize)]
struct ConstantLine {
    name: String,
    bytes: usize,
}

/// The small constants that a kernel reads, but for weights of products, of which each block brings its own.
fn small_constants(graph: &Graph, bodies: &[&Body], pointers: &Pointers<'_>) -> Vec<ConstantLine> {
    let of_products = bodies
        .iter()
        .filter(|body| body.schedule.is_product_of_few_rows());
    let anchors = of_products.flat_map(|body| body.anchors());
    let weights: BTreeSet<ValueId> = anchors
        .filter_map(|id| Some(graph.op(*id).inputs.get(1)?.value))
        .collect();
    let constant = |p: &Pointer| {
        let Place::Value(value) = p.place else {
            return None;
        };
        let about = graph.value(value);
        let bytes = graph.elements(&about.axes) * p.element.bytes();
        let kept =
            !about.rows && !p.written && !weights.contains(&value) && bytes <= SMALL_CONSTANT;
        kept.then(|| ConstantLine {
            name: p.name.clone(),
            bytes,
        })
    };
    pointers.list().iter().filter_map(constant).collect()
}

/// The kernel's parameters as its text declares them.
fn parameters(
    graph: &Graph,
    pointers: &Pointers<'_>,
    one_phase: bool,
    position: bool,
) -> Vec<ParamLine> {
    let pointer = |p: &Pointer| ParamLine {
        declaration: declaration(p, one_phase),
        comment: header::one_line(&comment(graph, p.place)),
    };
    let map = |m: &Mapped| ParamLine {
        declaration: format!("const __grid_constant__ tensor_map {}", m.name),
        comment: header::one_line(&comment(graph, m.place)),
    };
    let number = |name: &str| ParamLine {
        declaration: format!("const i64 {name}"),
        comment: String::new(),
    };
    let mut out: Vec<ParamLine> = pointers.list().iter().map(pointer).collect();
    out.extend(pointers.maps().iter().map(map));
    out.extend(["B", "T"].map(number));
    out.extend(position.then(|| number("position")));
    out
}

/// The kernel's parameters for whoever launches it.
fn declared(pointers: &Pointers<'_>, chosen: &Chosen, position: bool) -> Vec<KernelParam> {
    let pointer = |p: &Pointer| KernelParam {
        name: chosen.apply(&p.name),
        kind: ParamKind::Pointer,
    };
    let map = |m: &Mapped| KernelParam {
        name: chosen.apply(&m.name),
        kind: ParamKind::TensorMap,
    };
    let number = |name: &str| KernelParam {
        name: name.into(),
        kind: ParamKind::I64,
    };
    let mut out: Vec<KernelParam> = pointers.list().iter().map(pointer).collect();
    out.extend(pointers.maps().iter().map(map));
    out.extend(["B", "T"].map(number));
    out.extend(position.then(|| number("position")));
    out
}

/// The calls, or the code, of the lanes of a phase: each has a range of the blocks. `early`: they wait for
/// the kernel before this one.
fn side_by_side(
    graph: &Graph,
    phase: &Phase,
    lanes: &[(&Lane, &String)],
    early: bool,
    text: &mut Text,
) {
    // Lanes that find something to do meanwhile wait by themselves.
    let waits = |body: &Body| body.schedule.is_product_of_few_rows();
    let together = early && !phase.lanes.iter().any(waits);
    if together {
        text.lines(AFTER_PREVIOUS);
    }
    if let [(_, code)] = lanes {
        text.lines(code);
        return;
    }
    for (i, ((lane, code), body)) in lanes.iter().zip(&phase.lanes).enumerate() {
        text.line(format!(
            "// subkernel {i}: {}",
            anchor_names(graph, &[body])
        ));
        text.line(format!("const i64 blocks_{i} = {};", lane.blocks));
        if early && !together && !waits(body) {
            text.open(format!("if (block >= 0 && block < blocks_{i})"));
            text.lines(AFTER_PREVIOUS);
            text.lines(code);
            text.close();
        } else {
            text.line(format!("if (block >= 0 && block < blocks_{i}) {code}"));
        }
        text.line(format!("block -= blocks_{i};"));
    }
}

fn anchor_names(graph: &Graph, bodies: &[&Body]) -> String {
    let anchors = bodies.iter().flat_map(|body| body.anchors());
    let names: Vec<&str> = anchors.map(|o| graph.op(*o).name.as_str()).collect();
    header::one_line(&names.join(", "))
}

impl Source {
    /// The source text under this name, and its entry.
    pub fn named(&self, name: &str) -> (String, String) {
        (self.text.replace(NAME, name), format!("{ENTRY}{name}"))
    }

    /// The declared parameters, in order.
    pub fn params(&self) -> Vec<KernelParam> {
        self.params.clone()
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
    request: &Request<'_, 'g>,
    body: &Body,
    threads: usize,
    pointers: &mut Pointers<'g>,
    names: &mut Names,
) -> Result<Lane, CodegenError> {
    let Request {
        graph,
        classes,
        storage,
        ..
    } = *request;
    let grid_axes = body.schedule.grid();
    let grid = Grid::new(graph, grid_axes);
    let segments = body.schedule.segments();
    // Rows of a block, if it does not walk along all of T.
    let (rows, run, direction) = match &body.schedule {
        Schedule::Row(tile) => (Some(tile.rows.max(1)), 1, Direction::Forward),
        Schedule::Scan(tile) => (None, tile.run, tile.direction),
        _ => (None, 1, Direction::Forward),
    };
    let walked = Walked {
        graph,
        ops: &body.ops,
        tails: &body.tails,
        stores: &body.stores,
        vector: 16 / storage.bytes(),
        direction,
        states: None,
    };
    let walked = walked.in_pass(segments, classes);
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
        direction,
        segments,
        met: segments.map_or_else(Vec::new, |_| met(request, body)),
        halo: rows.is_some() || segments.is_some(),
        repeats: rows != Some(1),
        streams: &|value| body.streamed.contains(&value),
        shared_base: 0,
    };
    let walked = walk::emit(&walk, pointers, names);
    let taken = segments.map_or(1, Segments::walked);
    let blocks = grid.blocks() * taken;
    let mut context = Context::new();
    context.insert("run", &run.max(1));
    context.insert("segments", &segments.map_or(0, |segments| segments.count));
    context.insert("walked", &taken);
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
        by_warpgroups: None,
    })
}

/// The axes of what the states of a lane's recurrences meet, and in which algebra, in the order of the states.
fn met(request: &Request<'_, '_>, body: &Body) -> Vec<(Vec<AxisId>, Algebra)> {
    let Request { graph, classes, .. } = *request;
    let of_scan = |id: &OpId| -> Vec<(Vec<AxisId>, Algebra)> {
        let OpKind::Scan { recurrence, .. } = &graph.op(*id).kind else {
            return Vec::new();
        };
        let step = graph.recurrence(*recurrence);
        let Some(found) = classes.of(graph, *recurrence) else {
            return Vec::new();
        };
        let met = found.states.iter().filter_map(Class::met);
        let axes = |item| match found.statement(item) {
            Some(statement) => statement.axes.clone(),
            None => step.axes_of(item).to_vec(),
        };
        met.map(|(item, algebra)| (axes(item), algebra)).collect()
    };
    body.ops.iter().flat_map(of_scan).collect()
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

fn comment(graph: &Graph, place: Place) -> String {
    match place {
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
        Place::Segments(s, held, _) => {
            let what = match held {
                Held::State => "states at the ends of segments",
                Held::Product => "products of decays over segments",
            };
            format!("{what}, {}", graph.state(s).name)
        }
        Place::Chunks(s, row, _) => {
            let what = match row {
                Row::Query => "queries of chunks, weighted by decays",
                Row::Key => "keys of chunks, weighted by decays",
                Row::Score => "products of both, weighted by decays",
                Row::Decay => "decays of chunks",
            };
            format!("{what}, {}", graph.state(s).name)
        }
        Place::Parts(v, parts) => {
            let axes = axes_text(graph, &graph.value(v).axes);
            let separator = if axes.is_empty() { "" } else { ", " };
            format!("sums of parts of the rows [{parts}{separator}{axes}]")
        }
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
