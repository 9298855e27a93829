//! What an executor relies on in a manifest, checked once so that nothing after it can fail on it.
//!
//! A manifest that the compiler wrote always passes. One read from a file may be damaged, and a
//! wrong index or size in it would make kernels read memory that is not theirs.

use super::ManifestError;
use super::device::MAP_AXES;
use fusec_codegen::manifest::{ENTRY, MANIFEST_VERSION};
use fusec_codegen::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, Manifest, MapExtent, ParamKind, Regime,
    Step, TensorMap,
};
use fusec_ir::{Graph, Precision, StateId, StateKind, ValueId, last_row};
use std::collections::{BTreeMap, BTreeSet};

type Checked = Result<(), ManifestError>;

fn damaged<T>(place: impl Into<String>, reason: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError::Damaged {
        place: place.into(),
        reason: reason.into(),
    })
}

/// Checks the whole manifest.
pub fn check(manifest: &Manifest) -> Checked {
    if manifest.version != MANIFEST_VERSION {
        return Err(ManifestError::Version {
            got: manifest.version,
            want: MANIFEST_VERSION,
        });
    }
    kernels(&manifest.kernels)?;
    run_lengths(&manifest.regimes)?;
    for regime in &manifest.regimes {
        values(regime)?;
        buffers(regime)?;
        for at in 0..regime.steps.len() {
            step(regime, at, &manifest.kernels)?;
        }
    }
    shared(&manifest.regimes)
}

fn kernels(kernels: &[KernelImage]) -> Checked {
    let mut names = BTreeSet::new();
    for kernel in kernels {
        let place = || format!("kernel `{}`", kernel.name);
        // Names become file names and symbols.
        for name in [&kernel.name, &kernel.entry] {
            let mut letters = name.bytes();
            let starts_well = letters
                .next()
                .is_some_and(|b| b == b'_' || b.is_ascii_alphabetic());
            if !starts_well || !letters.all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return damaged(place(), format!("`{name}` is no C identifier"));
            }
        }
        if !kernel.entry.starts_with(ENTRY) {
            // Other symbols may be those of a library.
            return damaged(
                place(),
                format!("its entry `{}` does not begin with `{ENTRY}`", kernel.entry),
            );
        }
        let image = kernels.iter().find(|k| k.name == kernel.image);
        let same = |image: &KernelImage| {
            let kinds = |k: &KernelImage| k.params.iter().map(|p| p.kind).collect::<Vec<_>>();
            image.image == image.name
                && image.entry == kernel.entry
                && kinds(image) == kinds(kernel)
                && (image.threads, image.shared_bytes) == (kernel.threads, kernel.shared_bytes)
        };
        if !image.is_some_and(same) {
            return damaged(
                place(),
                format!("`{}` is not the kernel it is compiled as", kernel.image),
            );
        }
        if !names.insert(&kernel.name) {
            return damaged(place(), "two kernels have this name");
        }
        if !(1..=1024).contains(&kernel.threads) {
            return damaged(
                place(),
                format!("{} threads, allowed 1 to 1024", kernel.threads),
            );
        }
    }
    Ok(())
}

/// One regime holds for every `T` from 1 on, as far as they go.
fn run_lengths(regimes: &[Regime]) -> Checked {
    let mut order: Vec<&Regime> = regimes.iter().collect();
    order.sort_by_key(|regime| regime.min_time);
    let mut next = Some(1);
    for regime in order {
        if next != Some(regime.min_time) {
            return damaged(
                format!("regime `{}`", regime.name),
                format!(
                    "it starts at T={}, but the regimes before it end elsewhere",
                    regime.min_time
                ),
            );
        }
        next = match regime.max_time {
            Some(max) if max < regime.min_time => {
                return damaged(format!("regime `{}`", regime.name), "it holds for no T");
            }
            Some(max) => max.checked_add(1),
            None => None,
        };
    }
    match next {
        Some(1) => damaged("regimes", "none holds for T=1"),
        _ => Ok(()),
    }
}

/// Indices inside the graph, as far as an executor follows them.
fn values(regime: &Regime) -> Checked {
    let graph = &regime.graph;
    let place = |what: &str, name: &str| format!("regime `{}`, {what} `{name}`", regime.name);
    let known_axes = |axes: &[fusec_ir::AxisId]| {
        axes.iter().all(|axis| {
            let axis = graph.axes.get(axis.0 as usize);
            axis.is_some_and(|axis| axis.size > 0)
        })
    };
    for value in &graph.values {
        if !known_axes(&value.axes) {
            return damaged(
                place("value", &value.name),
                "it has an unknown or empty axis",
            );
        }
    }
    for state in &graph.states {
        if !known_axes(&state.axes) {
            return damaged(
                place("state", &state.name),
                "it has an unknown or empty axis",
            );
        }
    }
    for param in &graph.params {
        if param.value.index() >= graph.values.len() {
            return damaged(place("parameter", &param.name), "its value is unknown");
        }
    }
    for id in graph.inputs.iter().chain(&graph.outputs) {
        if id.index() >= graph.values.len() {
            return damaged(
                format!("regime `{}`", regime.name),
                format!("value {} is unknown", id.0),
            );
        }
    }
    for op in &graph.ops {
        let ids = op.inputs.iter().map(|access| access.value);
        if ids
            .chain(op.outputs.iter().copied())
            .any(|id| id.index() >= graph.values.len())
        {
            return damaged(place("operation", &op.name), "it names an unknown value");
        }
    }
    Ok(())
}

fn buffers(regime: &Regime) -> Checked {
    let one_row = last_row::one_row(&regime.graph);
    let graph = &regime.graph;
    let mut seen_states = BTreeSet::new();
    let mut inputs = BTreeSet::new();
    let mut outputs = BTreeSet::new();
    for buffer in &regime.buffers {
        let place = || format!("regime `{}`, buffer `{}`", regime.name, buffer.name);
        let value = match buffer.kind {
            BufferKind::Param(id) => match graph.params.get(id.index()) {
                Some(param) => Some(param.value),
                None => return damaged(place(), "its parameter is unknown"),
            },
            BufferKind::State(id) | BufferKind::Tail(id) => {
                check_state(graph, buffer, id).or_else(|reason| damaged(place(), reason))?;
                if !seen_states.insert(id) {
                    return damaged(place(), "another buffer holds this state");
                }
                None
            }
            BufferKind::Segments(id) => {
                check_segments(graph, buffer, id).or_else(|reason| damaged(place(), reason))?;
                None
            }
            BufferKind::Chunks(id) => {
                check_chunks(graph, buffer, id).or_else(|reason| damaged(place(), reason))?;
                None
            }
            BufferKind::Input(id) => {
                inputs.insert(id);
                Some(id)
            }
            BufferKind::Output(id) => {
                outputs.insert(id);
                Some(id)
            }
            BufferKind::LoadTime(id) | BufferKind::Scratch(id) | BufferKind::Parts(id) => Some(id),
        };
        if let Some(id) = value {
            check_value(graph, &one_row, buffer, id).or_else(|reason| damaged(place(), reason))?;
        }
    }
    let missing = (0..graph.states.len()).find(|i| !seen_states.contains(&StateId(*i as u32)));
    if let Some(id) = missing {
        let name = &graph.states[id].name;
        return damaged(
            format!("regime `{}`", regime.name),
            format!("no buffer holds the state `{name}`"),
        );
    }
    for (ids, have, what) in [
        (&graph.inputs, &inputs, "input"),
        (&graph.outputs, &outputs, "output"),
    ] {
        if let Some(id) = ids.iter().find(|id| !have.contains(id)) {
            let name = &graph.value(*id).name;
            return damaged(
                format!("regime `{}`", regime.name),
                format!("no buffer holds the {what} `{name}`"),
            );
        }
    }
    Ok(())
}

fn check_state(graph: &Graph, buffer: &Buffer, id: StateId) -> Result<(), String> {
    let Some(state) = graph.states.get(id.index()) else {
        return Err("its state is unknown".into());
    };
    let tail = matches!(state.kind, StateKind::Tail { .. });
    if tail != matches!(buffer.kind, BufferKind::Tail(_)) {
        return Err(format!(
            "`{}` is {} tail",
            state.name,
            if tail { "a" } else { "no" }
        ));
    }
    let want = graph.state_elements(id);
    if buffer.extent != Extent::Batch || buffer.elements != want {
        return Err(format!(
            "{:?} x {} elements, but `{}` has {want} per batch row",
            buffer.extent, buffer.elements, state.name
        ));
    }
    if buffer.element == Element::I32 {
        return Err("a state holds numbers, not integers".into());
    }
    Ok(())
}

fn check_value(
    graph: &Graph,
    one_row: &[bool],
    buffer: &Buffer,
    id: ValueId,
) -> Result<(), String> {
    let Some(value) = graph.values.get(id.index()) else {
        return Err("its value is unknown".into());
    };
    let rows = match buffer.kind {
        BufferKind::Param(_) | BufferKind::LoadTime(_) => false,
        // Scratch belongs to the kernels alone: they may keep several partial results of a value.
        BufferKind::Scratch(_) => return Ok(()),
        BufferKind::Parts(_) => return check_parts(graph, buffer, id),
        _ => value.rows,
    };
    let extent = match rows {
        true if one_row[id.index()] => Extent::Sequences,
        true => Extent::Rows,
        false => Extent::Fixed,
    };
    let want = graph.row_elements(id);
    if buffer.extent != extent || buffer.elements != want {
        return Err(format!(
            "{:?} x {} elements, but `{}` has {extent:?} x {want}",
            buffer.extent, buffer.elements, value.name
        ));
    }
    if (value.precision == Precision::Index) != (buffer.element == Element::I32) {
        return Err(format!("{:?} cannot hold `{}`", buffer.element, value.name));
    }
    Ok(())
}

/// Whole copies of a value without rows, as they are added.
fn check_parts(graph: &Graph, buffer: &Buffer, id: ValueId) -> Result<(), String> {
    let (of, value) = (graph.row_elements(id), graph.value(id));
    let whole = buffer.extent == Extent::Fixed
        && buffer.elements >= of
        && buffer.elements.is_multiple_of(of.max(1));
    match whole && !value.rows && buffer.element == Element::F32 {
        true => Ok(()),
        false => Err(format!(
            "{:?} x {} elements are no parts of `{}`, of {of}",
            buffer.extent, buffer.elements, value.name
        )),
    }
}

/// Whole numbers of f32 elements for each sequence: what a state is multiplied by may be smaller than it.
fn check_segments(graph: &Graph, buffer: &Buffer, id: StateId) -> Result<(), String> {
    let Some(state) = graph.states.get(id.index()) else {
        return Err("its state is unknown".into());
    };
    let recurrent = matches!(state.kind, StateKind::Scan { .. });
    match recurrent && buffer.extent == Extent::Batch && buffer.element == Element::F32 {
        true => Ok(()),
        false => Err(format!(
            "{:?} x {} elements are no segments of `{}`",
            buffer.extent, buffer.elements, state.name
        )),
    }
}

/// Elements of chunks of tokens, for a recurrence.
fn check_chunks(graph: &Graph, buffer: &Buffer, id: StateId) -> Result<(), String> {
    let Some(state) = graph.states.get(id.index()) else {
        return Err("its state is unknown".into());
    };
    let recurrent = matches!(state.kind, StateKind::Scan { .. });
    let of_tokens = matches!(buffer.extent, Extent::Runs(tokens) if tokens > 0);
    match recurrent && of_tokens && matches!(buffer.element, Element::Bf16 | Element::F32) {
        true => Ok(()),
        false => Err(format!(
            "{:?} x {} elements are no chunks of a recurrence with `{}`",
            buffer.extent, buffer.elements, state.name
        )),
    }
}

fn step(regime: &Regime, at: usize, kernels: &[KernelImage]) -> Checked {
    let step: &Step = &regime.steps[at];
    let Some(kernel) = kernels.get(step.kernel) else {
        return damaged(
            format!("regime `{}`, step {at}", regime.name),
            format!("kernel {} is unknown", step.kernel),
        );
    };
    let place = || {
        format!(
            "regime `{}`, step {at} (kernel `{}`)",
            regime.name, kernel.name
        )
    };
    let extent = |index: &usize| regime.buffers.get(*index).map(|buffer| buffer.extent);
    let has = |of: Extent, list: &[usize]| list.iter().any(|index| extent(index) == Some(of));
    let rows_mixed = match step.one_row {
        true => has(Extent::Rows, &step.reads) || has(Extent::Rows, &step.writes),
        false => has(Extent::Sequences, &step.reads),
    };
    if rows_mixed {
        return damaged(
            place(),
            "it takes all rows of a sequence for one, or one for all",
        );
    }
    if step.lanes.is_empty() {
        return damaged(place(), "it has no blocks");
    }
    let unknown = |index: &&usize| **index >= regime.buffers.len();
    if let Some(index) = step.reads.iter().chain(&step.writes).find(unknown) {
        return damaged(place(), format!("buffer {index} is unknown"));
    }
    for &index in &step.writes {
        let buffer = &regime.buffers[index];
        if matches!(
            buffer.kind,
            BufferKind::Param(_) | BufferKind::LoadTime(_) | BufferKind::Input(_)
        ) {
            return damaged(
                place(),
                format!("it writes `{}`, which is given", buffer.name),
            );
        }
    }
    if step.args.len() != kernel.params.len() {
        return damaged(
            place(),
            format!(
                "{} arguments for {} parameters",
                step.args.len(),
                kernel.params.len()
            ),
        );
    }
    for (arg, param) in step.args.iter().zip(&kernel.params) {
        let (index, tail, used): (usize, bool, &[&[usize]]) = match arg {
            Arg::TensorMap(index) => {
                if param.kind != ParamKind::TensorMap {
                    return damaged(place(), format!("`{}` wants no tensor map", param.name));
                }
                let Some(map) = step.tensor_maps.get(*index) else {
                    return damaged(place(), format!("tensor map {index} is unknown"));
                };
                tensor_map(regime, step, map).or_else(|reason| damaged(place(), reason))?;
                continue;
            }
            Arg::Batch | Arg::Time | Arg::Position => {
                if param.kind != ParamKind::I64 {
                    return damaged(place(), format!("`{}` wants a pointer", param.name));
                }
                continue;
            }
            Arg::Buffer(index) => (*index, false, &[&step.reads, &step.writes]),
            Arg::OldTail(index) => (*index, true, &[&step.reads]),
            Arg::NewTail(index) => (*index, true, &[&step.writes]),
        };
        if param.kind != ParamKind::Pointer {
            return damaged(place(), format!("`{}` wants an integer", param.name));
        }
        let Some(buffer) = regime.buffers.get(index) else {
            return damaged(place(), format!("buffer {index} is unknown"));
        };
        if tail != matches!(buffer.kind, BufferKind::Tail(_)) {
            return damaged(
                place(),
                format!("`{}`: {arg:?} does not fit `{}`", param.name, buffer.name),
            );
        }
        if !used.iter().any(|list| list.contains(&index)) {
            return damaged(
                place(),
                format!("`{}` is passed, but not listed as used", buffer.name),
            );
        }
    }
    Ok(())
}

/// A tensor map stays inside its buffer at every shape, and is one that the copy engine takes.
fn tensor_map(regime: &Regime, step: &Step, map: &TensorMap) -> Result<(), String> {
    let Some(buffer) = regime.buffers.get(map.buffer) else {
        return Err(format!("buffer {} is unknown", map.buffer));
    };
    let refuse = |what: &str| Err(format!("the tensor map of `{}` {what}", buffer.name));
    if !step.reads.contains(&map.buffer) {
        return Err(format!(
            "`{}` is mapped, but not listed as read",
            buffer.name
        ));
    }
    if matches!(buffer.kind, BufferKind::Tail(_) | BufferKind::State(_)) {
        return refuse("is of a state");
    }
    let bytes = buffer.element.bytes();
    let aligned = |elements: usize| elements.checked_mul(bytes).is_some_and(|b| b % 16 == 0);
    let [line, outer @ ..] = map.axes.as_slice() else {
        return refuse("has no axes");
    };
    if outer.len() >= MAP_AXES || line.stride != 1 || line.span.checked_mul(bytes) != Some(128) {
        return refuse("has too many axes, or lines that are not of 128 bytes");
    }
    if !aligned(map.offset) || !outer.iter().all(|axis| aligned(axis.stride)) {
        return refuse("is not aligned to 16 bytes");
    }
    if !map.axes.iter().all(|axis| (1..=256).contains(&axis.span)) {
        return refuse("has boxes of more than 256 places, or of none");
    }
    // The last element of a row, or of the whole where no axis is that of the rows.
    let mut last = Some(map.offset);
    let mut rows = 0;
    for axis in &map.axes {
        match axis.extent {
            MapExtent::Fixed(0) => return refuse("has an empty axis"),
            MapExtent::Fixed(n) => {
                let reach = (n - 1).checked_mul(axis.stride);
                last = last.zip(reach).and_then(|(a, b)| a.checked_add(b));
            }
            MapExtent::Rows if axis.stride == buffer.elements => rows += 1,
            MapExtent::Rows => return refuse("has rows that are not those of the buffer"),
        }
    }
    let (wanted, extent) = match buffer.extent {
        Extent::Fixed => (0, true),
        Extent::Rows | Extent::Sequences => (1, true),
        Extent::Batch | Extent::Runs(_) => (0, false),
    };
    match last {
        Some(last) if last < buffer.elements && rows == wanted && extent => Ok(()),
        _ => refuse("reaches beyond it"),
    }
}

/// Parameters and states are the same in all regimes.
fn shared(regimes: &[Regime]) -> Checked {
    let Some((first, rest)) = regimes.split_first() else {
        return Ok(());
    };
    let params = |regime: &Regime| -> Vec<String> {
        let params = regime.graph.params.iter();
        params.map(|param| param.name.clone()).collect()
    };
    let states = |regime: &Regime| -> BTreeMap<StateId, Element> {
        let states = regime
            .buffers
            .iter()
            .filter_map(|buffer| match buffer.kind {
                BufferKind::State(id) | BufferKind::Tail(id) => Some((id, buffer.element)),
                _ => None,
            });
        states.collect()
    };
    let shapes = |regime: &Regime, ids: &[ValueId]| -> Vec<usize> {
        ids.iter()
            .map(|id| regime.graph.row_elements(*id))
            .collect()
    };
    for regime in rest {
        let same = params(regime) == params(first)
            && states(regime) == states(first)
            && regime.graph.states.len() == first.graph.states.len()
            && (0..first.graph.states.len())
                .map(|i| StateId(i as u32))
                .all(|id| {
                    regime.graph.state_elements(id) == first.graph.state_elements(id)
                        && regime.graph.state(id).name == first.graph.state(id).name
                })
            && shapes(regime, &regime.graph.inputs) == shapes(first, &first.graph.inputs)
            && shapes(regime, &regime.graph.outputs) == shapes(first, &first.graph.outputs);
        if !same {
            return damaged(
                format!("regimes `{}` and `{}`", first.name, regime.name),
                "they do not share parameters, states, inputs and outputs",
            );
        }
    }
    Ok(())
}
