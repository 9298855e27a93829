//! A manifest as one C++ file that launches its kernels with nothing but the driver: for those who have neither
//! Rust nor Python where the model shall run.
//!
//! What the runtime's executor does at run time stands in the text: which kernel, how many blocks, which
//! arguments, in the model's names. What depends on the shape of a run is computed by the file itself.

mod constants;
mod steps;

pub use constants::{Constant, Constants};

use crate::header::one_line;
use crate::manifest::{Buffer, BufferKind, Element, Extent, Manifest, Regime};
use crate::names::{is_reserved, spelled};
use crate::{CodegenError, render::render};
use fusec_ir::{Graph, OpKind, Precision, StateId, StateKind, ValueId};
use serde::Serialize;
use std::collections::BTreeSet;
use tera::Context;

/// The symbols of cubins begin so: no name of a model reaches a linker.
const SYMBOL: &str = "fusec_cubin";

/// What a file is made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is launched.
    pub manifest: &'a Manifest,
    /// What its cubins are compiled for: `sm_90a`.
    pub arch: &'a str,
    /// For each regime and buffer the first and the last step that needs it, of buffers that share memory.
    pub lifetimes: &'a [Vec<Option<(usize, usize)>>],
    /// What is loaded with the weights.
    pub constants: &'a Constants,
}

/// The text of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// What it is called: an identifier. The source is `NAME.cpp`, its namespace `NAME_model`.
    pub name: String,
    /// C++17.
    pub source: String,
    /// `CMakeLists.txt`.
    pub cmake: String,
}

#[derive(Serialize)]
struct Kernel {
    id: String,
    name: String,
    entry: String,
    image: String,
    threads: u32,
    shared_bytes: u32,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    element: &'static str,
    shape: String,
}

#[derive(Serialize)]
struct Carried {
    name: String,
    element: &'static str,
    shape: String,
    initial: String,
    is_tail: bool,
}

#[derive(Serialize)]
struct Port {
    id: String,
    name: String,
    element: &'static str,
    shape: String,
    rows: &'static str,
    ids: usize,
    /// Its shape and type for people.
    words: String,
}

#[derive(Serialize)]
struct Place {
    id: String,
    name: String,
    what: &'static str,
    index: usize,
    element: &'static str,
    elements: usize,
    rows: &'static str,
    run: u32,
    first: i64,
    last: i64,
}

#[derive(Serialize)]
struct Lengths {
    name: String,
    class: String,
    table: String,
    function: String,
    min_time: usize,
    max_time: String,
    lengths: String,
    lengths_sentence: String,
    buffers: Vec<Place>,
    steps: String,
}

/// The program of a manifest.
pub fn standalone(request: &Request<'_>) -> Result<Files, CodegenError> {
    let manifest = request.manifest;
    let name = identifier(&manifest.model);
    let kernels = kernels(manifest);
    let ids: Vec<&str> = kernels.iter().map(|kernel| kernel.id.as_str()).collect();
    let regimes = manifest.regimes.iter().enumerate();
    let regimes: Vec<Lengths> = regimes
        .map(|(at, regime)| lengths(request, at, regime, &ids))
        .collect();
    let inputs = ports(manifest, Side::Inputs)?;
    let outputs = ports(manifest, Side::Outputs)?;
    let launches = manifest.regimes.iter().map(|regime| {
        let plural = if regime.steps.len() == 1 { "" } else { "es" };
        format!(
            "{} launch{plural} for {}",
            regime.steps.len(),
            range(regime)
        )
    });
    let launches: Vec<String> = launches.collect();
    let ranges: Vec<String> = manifest.regimes.iter().map(range).collect();
    let args = manifest.regimes.iter().flat_map(|regime| &regime.steps);
    let most_args = args.map(|step| step.args.len()).max().unwrap_or(0).max(1);
    let images = kernels.iter().filter(|kernel| kernel.name == kernel.image);
    let mut context = Context::new();
    context.insert("model", &one_line(&manifest.model));
    context.insert("model_in_text", &quoted(&manifest.model));
    context.insert("version", env!("CARGO_PKG_VERSION"));
    context.insert("arch", request.arch);
    context.insert("storage", &manifest.storage.to_string());
    context.insert("file", &name);
    // Libraries have functions of any name.
    context.insert("space", &format!("{name}_model"));
    context.insert("symbol", SYMBOL);
    context.insert("images", &images.collect::<Vec<_>>());
    context.insert("kernels", &kernels);
    context.insert("launches", &launches.join(", "));
    context.insert(
        "lengths",
        &ranges
            .iter()
            .map(|of| format!(" {of}"))
            .collect::<Vec<_>>()
            .join(","),
    );
    context.insert("most_args", &most_args);
    context.insert("wrong_device", &wrong_device(request.arch));
    context.insert("constants", &tensors(request.constants));
    context.insert("states", &carried(manifest));
    context.insert("inputs", &inputs);
    context.insert("outputs", &outputs);
    context.insert("regimes", &regimes);
    Ok(Files {
        source: render("standalone.cpp", &context)?,
        cmake: render("standalone.cmake", &context)?,
        name,
    })
}

/// A name of the model as an identifier of C++.
fn identifier(name: &str) -> String {
    let mut out = spelled(name);
    if is_reserved(&out) {
        out.push('_');
    }
    out
}

/// The same for names that stand side by side.
fn identifiers<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let one = |name: &str| {
        let base = identifier(name);
        let (mut id, mut n) = (base.clone(), 1);
        while !taken.insert(id.clone()) {
            n += 1;
            id = format!("{base}_{n}");
        }
        id
    };
    names.into_iter().map(one).collect()
}

/// A name of the model between quotes.
fn quoted(name: &str) -> String {
    one_line(name).replace('"', "?")
}

fn element(element: Element) -> &'static str {
    match element {
        Element::F32 => "f32",
        Element::Bf16 => "bf16",
        Element::F16 => "f16",
        Element::I32 => "i32",
    }
}

fn rows(extent: Extent) -> &'static str {
    match extent {
        Extent::Fixed => "once",
        Extent::Batch | Extent::Sequences => "sequences",
        Extent::Rows => "tokens",
        Extent::Runs(_) => "runs",
    }
}

/// Of how many tokens the runs are that a buffer has a row for; 0 where it has none of those.
fn run(extent: Extent) -> u32 {
    match extent {
        Extent::Runs(tokens) => tokens.max(1),
        Extent::Fixed | Extent::Batch | Extent::Sequences | Extent::Rows => 0,
    }
}

fn extents(shape: &[usize]) -> String {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("{{{}}}", extents.join(", "))
}

fn kernels(manifest: &Manifest) -> Vec<Kernel> {
    let ids = identifiers(manifest.kernels.iter().map(|kernel| kernel.name.as_str()));
    let kernels = manifest.kernels.iter().zip(ids);
    kernels
        .map(|(kernel, id)| Kernel {
            id,
            name: kernel.name.clone(),
            entry: kernel.entry.clone(),
            image: kernel.image.clone(),
            threads: kernel.threads,
            shared_bytes: kernel.shared_bytes,
        })
        .collect()
}

/// When a device of compute capability `major`.`minor` does not run cubins for an architecture: those for exactly
/// one run there only, others on later devices of the same generation.
fn wrong_device(arch: &str) -> String {
    let digits: String = arch.chars().filter(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().unwrap_or(0);
    let compares = if arch.ends_with('a') { "!=" } else { "<" };
    format!(
        "major != {} || minor {compares} {}",
        number / 10,
        number % 10
    )
}

fn tensors(constants: &Constants) -> Vec<Tensor> {
    let list = constants.list.iter();
    list.map(|constant| Tensor {
        name: quoted(&constant.name),
        element: element(constant.element),
        shape: extents(&constant.shape),
    })
    .collect()
}

/// States as any regime has them: all have the same.
fn carried(manifest: &Manifest) -> Vec<Carried> {
    let Some(regime) = manifest.regimes.first() else {
        return Vec::new();
    };
    let graph = &regime.graph;
    let of = |id: StateId| {
        let holds = |b: &&Buffer| matches!(b.kind, BufferKind::State(of) | BufferKind::Tail(of) if of == id);
        let buffer = regime.buffers.iter().find(holds);
        buffer.map_or(Element::F32, |buffer| buffer.element)
    };
    let states = graph.states.iter().enumerate();
    states
        .map(|(at, state)| {
            let axes = state.axes.iter().map(|axis| graph.size(*axis));
            let (width, initial, is_tail) = match state.kind {
                StateKind::Scan { init } => (None, init, false),
                StateKind::Tail { width, .. } => (Some(width as usize), 0.0, true),
            };
            Carried {
                name: quoted(&state.name),
                element: element(of(StateId(at as u32))),
                shape: extents(&width.into_iter().chain(axes).collect::<Vec<_>>()),
                initial: number(initial as f32),
                is_tail,
            }
        })
        .collect()
}

/// A number of C++.
fn number(x: f32) -> String {
    match x {
        x if x.is_nan() => "NAN".into(),
        x if x == f32::INFINITY => "INFINITY".into(),
        x if x == f32::NEG_INFINITY => "-INFINITY".into(),
        x => format!("{x:?}f"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inputs,
    Outputs,
}

impl Side {
    /// The values, each once.
    fn values(self, graph: &Graph) -> Vec<ValueId> {
        let all = match self {
            Side::Inputs => &graph.inputs,
            Side::Outputs => &graph.outputs,
        };
        let mut seen = BTreeSet::new();
        all.iter().copied().filter(|id| seen.insert(*id)).collect()
    }

    fn buffer(self, regime: &Regime, id: ValueId) -> Option<&Buffer> {
        let kind = match self {
            Side::Inputs => BufferKind::Input(id),
            Side::Outputs => BufferKind::Output(id),
        };
        regime.buffers.iter().find(|buffer| buffer.kind == kind)
    }
}

/// What a run takes or gives, as the regime of the longest runs has it: single steps have one row of either kind.
fn ports(manifest: &Manifest, side: Side) -> Result<Vec<Port>, CodegenError> {
    let longest = manifest.regimes.iter().max_by_key(|regime| regime.min_time);
    let Some(longest) = longest else {
        return Ok(Vec::new());
    };
    let graph = &longest.graph;
    let values = side.values(graph);
    let names: Vec<&str> = values
        .iter()
        .map(|id| graph.value(*id).name.as_str())
        .collect();
    let ids = identifiers(names.iter().copied());
    let mut out = Vec::new();
    for (at, (id, field)) in values.iter().zip(ids).enumerate() {
        let Some(buffer) = side.buffer(longest, *id) else {
            continue;
        };
        for regime in &manifest.regimes {
            let same = side.values(&regime.graph).get(at).copied();
            let other = same.and_then(|id| side.buffer(regime, id));
            if other.is_none_or(|other| other.element != buffer.element) {
                return Err(CodegenError::Regimes {
                    tensor: names[at].to_owned(),
                });
            }
        }
        let value = graph.value(*id);
        let axes: Vec<usize> = value.axes.iter().map(|axis| graph.size(*axis)).collect();
        let named = value
            .axes
            .iter()
            .map(|axis| format!("{}={}", graph.axis_name(*axis), graph.size(*axis)));
        let leading = match buffer.extent {
            Extent::Rows => "B, T",
            _ => "B, 1",
        };
        let shape: Vec<String> = std::iter::once(leading.to_owned()).chain(named).collect();
        let (limit, kind) = match value.precision {
            Precision::Index => {
                let limit = entries(graph, *id);
                (limit, format!("token ids below {limit}, int32"))
            }
            _ => (0, element(buffer.element).to_owned()),
        };
        out.push(Port {
            id: field,
            name: quoted(names[at]),
            element: element(buffer.element),
            shape: extents(&axes),
            rows: rows(buffer.extent),
            ids: limit,
            words: one_line(&format!("[{}], {kind}", shape.join(", "))),
        });
    }
    Ok(out)
}

/// How many rows the smallest table has that an input of ids is looked up in; if it is in none, all ids there are.
fn entries(graph: &Graph, input: ValueId) -> usize {
    let gathers = graph
        .ops
        .iter()
        .filter(|op| matches!(op.kind, OpKind::Gather));
    let tables = gathers.filter_map(|op| match op.inputs.as_slice() {
        [table, ids] if ids.value == input => graph.value(table.value).axes.first(),
        _ => None,
    });
    tables
        .map(|axis| graph.size(*axis))
        .min()
        .unwrap_or(1 << 31)
}

/// The lengths of run of a regime, for people.
fn range(regime: &Regime) -> String {
    match (regime.min_time, regime.max_time) {
        (1, None) => "any T".into(),
        (min, None) => format!("T from {min} on"),
        (min, Some(max)) if min == max => format!("T = {min}"),
        (min, Some(max)) => format!("T from {min} to {max}"),
    }
}

fn lengths(request: &Request<'_>, at: usize, regime: &Regime, kernels: &[&str]) -> Lengths {
    let name = identifier(&regime.name);
    let mut letters = name.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    let class: String = first.into_iter().chain(letters).collect();
    let ids = identifiers(regime.buffers.iter().map(|buffer| buffer.name.as_str()));
    let steps = steps::text(regime, &class, kernels, &ids);
    let places = regime.buffers.iter().zip(&ids).enumerate();
    let buffers = places
        .map(|(buffer, (of, id))| {
            let (what, index) = source(request.constants, at, buffer, regime);
            let lifetime = request
                .lifetimes
                .get(at)
                .and_then(|list| *list.get(buffer)?);
            let lifetime = lifetime.filter(|_| what == "scratch");
            let step = |step: usize| i64::try_from(step).unwrap_or(i64::MAX);
            Place {
                id: id.clone(),
                name: one_line(&of.name),
                what,
                index,
                element: element(of.element),
                elements: of.elements,
                rows: rows(of.extent),
                run: run(of.extent),
                first: lifetime.map_or(-1, |(first, _)| step(first)),
                last: lifetime.map_or(-1, |(_, last)| step(last)),
            }
        })
        .collect();
    Lengths {
        table: format!("{}_BUFFERS", class.to_ascii_uppercase()),
        function: format!("run_{name}"),
        name: quoted(&regime.name),
        class,
        min_time: regime.min_time,
        max_time: regime
            .max_time
            .map_or("INT64_MAX".into(), |max| max.to_string()),
        lengths: range(regime),
        lengths_sentence: format!(
            "{}: as planned for B={} T={}.",
            range(regime),
            regime.shape.batch,
            regime.shape.time
        ),
        buffers,
        steps,
    }
}

/// What a buffer is, and which one of these.
fn source(constants: &Constants, regime: usize, at: usize, of: &Regime) -> (&'static str, usize) {
    let among = |side: Side, id: ValueId| {
        side.values(&of.graph)
            .iter()
            .position(|of| *of == id)
            .unwrap_or(0)
    };
    match of.buffers[at].kind {
        BufferKind::Input(id) => ("input", among(Side::Inputs, id)),
        BufferKind::Output(id) => ("output", among(Side::Outputs, id)),
        BufferKind::State(id) | BufferKind::Tail(id) => ("carried", id.index()),
        BufferKind::Param(_) | BufferKind::LoadTime(_) => {
            let found = constants.of.get(regime).and_then(|list| *list.get(at)?);
            ("constant", found.unwrap_or(0))
        }
        BufferKind::Scratch(_)
        | BufferKind::Parts(_)
        | BufferKind::Segments(_)
        | BufferKind::Chunks(_) => ("scratch", 0),
    }
}
