//! What is loaded with the weights: parameters, and values that follow from them alone. Regimes share what is
//! equal by its definition, so that neither the text nor the file of weights depends on numbers.

use crate::manifest::{BufferKind, Element, Manifest};
use fusec_ir::{Def, Graph, ParamId, ValueId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// The value's name; of different values of one name, the later ones have a number behind it.
    pub name: String,
    /// Its type in memory.
    pub element: Element,
    /// Its extents.
    pub shape: Vec<usize>,
    /// A regime that has it, and what it is there.
    pub regime: usize,
    /// The parameter or the load-time value.
    pub kind: BufferKind,
}

/// All constants of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constants {
    /// Each once.
    pub list: Vec<Constant>,
    /// For each regime and buffer, which it is.
    pub of: Vec<Vec<Option<usize>>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Param(ParamId, Element),
    Computed([u8; 32], Element),
}

impl Constants {
    /// Those of a manifest.
    pub fn new(manifest: &Manifest) -> Self {
        let mut out = Self::default();
        let mut known: BTreeMap<Key, usize> = BTreeMap::new();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (at, regime) in manifest.regimes.iter().enumerate() {
            let graph = &regime.graph;
            let mut digests = BTreeMap::new();
            let buffers = regime.buffers.iter();
            let of = buffers.map(|buffer| {
                let (key, value) = match buffer.kind {
                    BufferKind::Param(id) => {
                        let value = graph.params.get(id.index())?.value;
                        (Key::Param(id, buffer.element), value)
                    }
                    BufferKind::LoadTime(id) => {
                        let digest = definition(graph, id, &mut digests);
                        (Key::Computed(digest, buffer.element), id)
                    }
                    _ => return None,
                };
                let list = &mut out.list;
                let found = known.entry(key).or_insert_with(|| {
                    let axes = &graph.value(value).axes;
                    list.push(Constant {
                        name: fresh(&buffer.name, &mut names),
                        element: buffer.element,
                        shape: axes.iter().map(|axis| graph.size(*axis)).collect(),
                        regime: at,
                        kind: buffer.kind,
                    });
                    list.len() - 1
                });
                Some(*found)
            });
            let of = of.collect();
            out.of.push(of);
        }
        out
    }
}

/// A name that no other tensor has.
fn fresh(name: &str, names: &mut BTreeSet<String>) -> String {
    let (mut out, mut n) = (name.to_owned(), 1);
    while !names.insert(out.clone()) {
        n += 1;
        out = format!("{name}#{n}");
    }
    out
}

/// What a value is computed from, and how: equal for values that are equal whatever the parameters are.
fn definition(graph: &Graph, id: ValueId, known: &mut BTreeMap<ValueId, [u8; 32]>) -> [u8; 32] {
    if let Some(digest) = known.get(&id) {
        return *digest;
    }
    let value = graph.value(id);
    let mut hash = Sha256::new();
    let sizes: Vec<usize> = value.axes.iter().map(|axis| graph.size(*axis)).collect();
    hash.update(format!("{:?}{sizes:?}{:?}", value.axes, value.precision));
    match value.def {
        Def::Op(op, output) => {
            let op = graph.op(op);
            hash.update(format!("{:?}{output}", op.kind));
            for access in &op.inputs {
                hash.update(definition(graph, access.value, known));
                let how = fusec_ir::Access {
                    value: ValueId(0),
                    ..access.clone()
                };
                hash.update(format!("{how:?}"));
            }
        }
        other => hash.update(format!("{other:?}")),
    }
    let digest = hash.finalize().into();
    known.insert(id, digest);
    digest
}
