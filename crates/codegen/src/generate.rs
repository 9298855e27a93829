//! From plans to a manifest: every kernel's source once, every launch with its arguments.

use crate::CodegenError;
use crate::kernel::{self, Source};
use crate::manifest::{
    Arg, Buffer, BufferKind, Element, Extent, KernelImage, MANIFEST_VERSION, Manifest, Regime, Step,
};
use crate::memory::Place;
use fusec_fuse::chunked::Classes;
use fusec_fuse::elements::Elements;
use fusec_fuse::{Plan, Storage};
use fusec_ir::{Def, Graph, StateId, StateKind, ValueId};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

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
        kernels: Vec::new(),
        regimes: Vec::new(),
    };
    for regime in planned {
        let regime = generate_regime(storage, regime, &mut out.kernels)?;
        out.regimes.push(regime);
    }
    Ok(out)
}

fn generate_regime(
    storage: Storage,
    planned: &Planned,
    kernels: &mut Vec<KernelImage>,
) -> Result<Regime, CodegenError> {
    let graph = planned.graph;
    let elements = Elements::new(graph, storage);
    let classes = Classes::new(graph);
    let mut memory = Memory {
        graph,
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
    let mut steps = Vec::new();
    for (plan_kernel, kernel) in planned.plan.kernels.iter().enumerate() {
        let source = kernel::generate(graph, &classes, &elements, storage, kernel)?;
        let image = add_kernel(kernels, &kernel.name, planned.name, &source)?;
        let mut args = Vec::new();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for pointer in &source.pointers {
            let buffer = memory.buffer(pointer.place);
            args.push(match pointer.place {
                Place::Value(_) | Place::State(_) => Arg::Buffer(buffer),
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

/// Adds a kernel unless the same text is there already. A name is given twice only to different
/// kernels of different regimes; the later one gets the regime's name appended.
fn add_kernel(
    kernels: &mut Vec<KernelImage>,
    name: &str,
    regime: &str,
    source: &Source,
) -> Result<usize, CodegenError> {
    let mut entry = name.to_string();
    let mut n = 1;
    loop {
        let text = source.text(&entry)?;
        match kernels.iter().position(|k| k.entry == entry) {
            Some(i) if kernels[i].source == text => return Ok(i),
            Some(_) => {
                entry = if n == 1 {
                    format!("{name}_{regime}")
                } else {
                    format!("{name}_{regime}_{n}")
                };
                n += 1;
            }
            None => {
                kernels.push(KernelImage {
                    name: entry.clone(),
                    entry,
                    source_sha256: hex(&Sha256::digest(text.as_bytes())),
                    source: text,
                    threads: source.threads as u32,
                    shared_bytes: source.shared_bytes as u32,
                    min_arch: source.min_arch,
                    params: source.params(),
                });
                return Ok(kernels.len() - 1);
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
            Def::Op(..) if !value.rows => BufferKind::LoadTime(v),
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
            extent: if value.rows {
                Extent::Rows
            } else {
                Extent::Fixed
            },
        }
    }
}
