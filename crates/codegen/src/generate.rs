//! From plans to a manifest: every kernel's source once, every launch with its arguments.

use crate::CodegenError;
use crate::kernel::{self, Request, Source};
use crate::manifest::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, MANIFEST_VERSION, Manifest, Regime,
    Step, TensorMap,
};
use crate::memory::Place;
use crate::prelude;
use fusec_fuse::chunked::Classes;
use fusec_fuse::chunked::weighted::{Row, TOKENS};
use fusec_fuse::elements::Elements;
use fusec_fuse::row::check_rows;
use fusec_fuse::schedule::program::Held;
use fusec_fuse::{Plan, Storage};
use fusec_ir::{Def, Graph, StateId, StateKind, ValueId, last_row};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A plan and the lengths of run it is for.
pub struct Planned<'a> {
    /// `decode`, `prefill`, ...
    pub name: &'a str,
    /// Smallest T.
    pub min_time: usize,
    /// Largest T, if there is one.
    pub max_time: Option<usize>,
    /// The form of the model that the plan is for.
    pub graph: &'a Graph,
    /// The plan.
    pub plan: &'a Plan,
}

/// Generates all kernels of some plans of one model and the manifest that launches them.
pub fn generate(
    model: &str,
    storage: Storage,
    planned: &[Planned],
) -> Result<Manifest, CodegenError> {
    let mut out = Manifest {
        version: MANIFEST_VERSION,
        model: model.to_string(),
        storage,
        prelude: String::new(),
        prelude_sha256: String::new(),
        kernels: Vec::new(),
        regimes: Vec::new(),
    };
    let mut written = Written::default();
    for regime in planned {
        let regime = generate_regime(storage, regime, &mut written)?;
        out.regimes.push(regime);
    }
    out.kernels = written.kernels;
    out.prelude = prelude::file(&written.primitives)?;
    out.prelude_sha256 = hex(&Sha256::digest(out.prelude.as_bytes()));
    Ok(out)
}

fn generate_regime(
    storage: Storage,
    planned: &Planned,
    written: &mut Written,
) -> Result<Regime, CodegenError> {
    let graph = planned.graph;
    check_rows(graph)?;
    let elements = Elements::new(graph, storage);
    let classes = Classes::new(graph);
    let one_row = last_row::one_row(graph);
    let mut memory = Memory {
        graph,
        one_row: &one_row,
        elements: &elements,
        buffers: Vec::new(),
        of: BTreeMap::new(),
    };
    for v in graph.inputs.iter().chain(&graph.outputs) {
        memory.buffer(Place::Value(*v));
    }
    for s in 0..graph.states.len() {
        let id = StateId(s as u32);
        memory.buffer(match graph.state(id).kind {
            StateKind::Scan { .. } => Place::State(id),
            StateKind::Tail { .. } => Place::OldTail(id),
        });
    }
    let request = Request {
        graph,
        classes: &classes,
        elements: &elements,
        storage,
        shape: planned.plan.shape,
        tokens: (planned.max_time == Some(planned.min_time)).then_some(planned.min_time),
        device: &planned.plan.device,
    };
    let mut steps = Vec::new();
    for (plan_kernel, kernel) in planned.plan.kernels.iter().enumerate() {
        let single = kernel.ops.iter();
        let single = single.filter(|id| last_row::is_of_one_row(graph, **id, &one_row));
        let of_one_row = match single.count() {
            0 => false,
            n if n == kernel.ops.len() => true,
            _ => {
                return Err(CodegenError::Unsupported {
                    kernel: kernel.name.clone(),
                    what: "operations of one row beside those of all".into(),
                });
            }
        };
        let source = kernel::generate(&request, kernel)?;
        let image = written.add(&kernel.name, planned.name, &source);
        let mut args = Vec::new();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for pointer in &source.pointers {
            let buffer = memory.buffer(pointer.place);
            args.push(match pointer.place {
                Place::Value(_)
                | Place::State(_)
                | Place::Parts(..)
                | Place::Segments(..)
                | Place::Chunks(..) => Arg::Buffer(buffer),
                Place::OldTail(_) => Arg::OldTail(buffer),
                Place::NewTail(_) => Arg::NewTail(buffer),
            });
            // A state is updated in place, a tail is written to its other copy.
            if pointer.written {
                writes.push(buffer);
            }
            if !pointer.written || matches!(pointer.place, Place::State(_)) {
                reads.push(buffer);
            }
        }
        let mut tensor_maps = Vec::new();
        for map in &source.maps {
            let buffer = memory.buffer(map.place);
            if !reads.contains(&buffer) {
                reads.push(buffer);
            }
            args.push(Arg::TensorMap(tensor_maps.len()));
            tensor_maps.push(TensorMap {
                buffer,
                offset: map.offset,
                axes: map.axes.clone(),
            });
        }
        args.push(Arg::Batch);
        args.push(Arg::Time);
        if source.position {
            args.push(Arg::Position);
        }
        steps.push(Step {
            kernel: image,
            plan_kernel,
            lanes: source.lanes.clone(),
            args,
            reads,
            writes,
            cooperative: kernel.phases.len() > 1,
            persistent: source.persistent,
            early: kernel.launch.early,
            one_row: of_one_row,
            tensor_maps,
        });
    }
    Ok(Regime {
        name: planned.name.to_string(),
        min_time: planned.min_time,
        max_time: planned.max_time,
        shape: planned.plan.shape,
        graph: graph.clone(),
        buffers: memory.buffers,
        steps,
    })
}

/// The kernels of a manifest so far.
#[derive(Default)]
struct Written {
    kernels: Vec<KernelImage>,
    /// Code without names, of each kernel.
    canonical: Vec<String>,
    primitives: BTreeSet<&'static str>,
}

impl Written {
    /// Adds a kernel unless the same text is there already. A name is given twice only to different
    /// kernels of different regimes; the later one gets the regime's name appended. Kernels that
    /// differ in names and comments only are compiled once, as the first of them.
    fn add(&mut self, name: &str, regime: &str, source: &Source) -> usize {
        let mut own = name.to_string();
        let mut n = 1;
        loop {
            let (text, entry) = source.named(&own);
            match self.kernels.iter().position(|k| k.name == own) {
                Some(i) if self.kernels[i].source == text => return i,
                Some(_) => {
                    own = match n {
                        1 => format!("{name}_{regime}"),
                        n => format!("{name}_{regime}_{n}"),
                    };
                    n += 1;
                }
                None => {
                    let alike = self.canonical.iter().position(|c| *c == source.canonical);
                    let (image, entry) = match alike.and_then(|i| self.kernels.get(i)) {
                        Some(first) => (first.image.clone(), first.entry.clone()),
                        None => (own.clone(), entry),
                    };
                    self.kernels.push(KernelImage {
                        name: own,
                        image,
                        entry,
                        source_sha256: hex(&Sha256::digest(text.as_bytes())),
                        source: text,
                        threads: source.threads as u32,
                        shared_bytes: source.shared_bytes as u32,
                        min_arch: source.min_arch,
                        params: source.params(),
                    });
                    self.canonical.push(source.canonical.clone());
                    self.primitives.extend(&source.primitives);
                    return self.kernels.len() - 1;
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

struct Memory<'a> {
    graph: &'a Graph,
    elements: &'a Elements,
    /// Per value, whether it has one row for each sequence.
    one_row: &'a [bool],
    buffers: Vec<Buffer>,
    of: BTreeMap<Place, usize>,
}

impl Memory<'_> {
    fn buffer(&mut self, place: Place) -> usize {
        // Both copies of a tail are one buffer.
        let key = match place {
            Place::NewTail(s) => Place::OldTail(s),
            other => other,
        };
        if let Some(i) = self.of.get(&key) {
            return *i;
        }
        let buffer = match key {
            Place::Value(v) => self.value(v),
            Place::Parts(v, parts) => {
                let whole = self.value(v);
                Buffer {
                    name: format!("{}.parts", whole.name),
                    kind: BufferKind::Parts(v),
                    element: Element::F32,
                    elements: parts as usize * whole.elements,
                    extent: Extent::Fixed,
                }
            }
            Place::Segments(s, held, elements) => {
                let state = &self.graph.state(s).name;
                Buffer {
                    name: match held {
                        Held::State => format!("{state}.segments"),
                        Held::Product => format!("{state}.segment_decays"),
                    },
                    kind: BufferKind::Segments(s),
                    element: Element::F32,
                    elements,
                    extent: Extent::Batch,
                }
            }
            Place::Chunks(s, row, elements) => {
                let state = &self.graph.state(s).name;
                Buffer {
                    name: match row {
                        Row::Query => format!("{state}.queries"),
                        Row::Key => format!("{state}.keys"),
                        Row::Score => format!("{state}.scores"),
                        Row::Decay => format!("{state}.chunk_decays"),
                    },
                    kind: BufferKind::Chunks(s),
                    element: match row {
                        Row::Decay => Element::F32,
                        Row::Query | Row::Key | Row::Score => Element::Bf16,
                    },
                    elements,
                    extent: Extent::Runs(TOKENS as u32),
                }
            }
            Place::State(s) | Place::OldTail(s) | Place::NewTail(s) => {
                let state = self.graph.state(s);
                Buffer {
                    name: state.name.clone(),
                    kind: match state.kind {
                        StateKind::Scan { .. } => BufferKind::State(s),
                        StateKind::Tail { .. } => BufferKind::Tail(s),
                    },
                    element: Element::F32,
                    elements: self.graph.state_elements(s),
                    extent: Extent::Batch,
                }
            }
        };
        self.buffers.push(buffer);
        self.of.insert(key, self.buffers.len() - 1);
        self.buffers.len() - 1
    }

    fn value(&self, v: ValueId) -> Buffer {
        let value = self.graph.value(v);
        let kind = match value.def {
            Def::Input => BufferKind::Input(v),
            Def::Param(p) => BufferKind::Param(p),
            Def::Op(id, _) if self.graph.is_load_time(id) => BufferKind::LoadTime(v),
            Def::Op(..) if self.graph.outputs.contains(&v) => BufferKind::Output(v),
            Def::Op(..) => BufferKind::Scratch(v),
        };
        let name = match (value.def, value.layer) {
            (Def::Param(p), _) => self.graph.param(p).name.clone(),
            (_, Some(layer)) => format!("layers.{layer}.{}", value.name),
            (_, None) => value.name.clone(),
        };
        Buffer {
            name,
            kind,
            element: self.elements.get(v),
            elements: self.graph.row_elements(v),
            extent: match value.rows {
                true if self.one_row[v.index()] => Extent::Sequences,
                true => Extent::Rows,
                false => Extent::Fixed,
            },
        }
    }
}
