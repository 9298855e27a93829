//! The kernel's parameters: which memory its lanes touch, under which names.

use crate::manifest::{Element, MapAxis};
use crate::names::{Names, last};
use fusec_fuse::chunked::weighted::Row;
use fusec_fuse::elements::Elements;
use fusec_fuse::schedule::program::Held;
use fusec_ir::{Def, Graph, StateId, StateKind, ValueId};
use std::cmp::Ordering;

/// A piece of memory that a kernel points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A value: input, parameter, load-time result or intermediate.
    Value(ValueId),
    /// A recurrence state.
    State(StateId),
    /// The rows before this run.
    OldTail(StateId),
    /// The last rows of this run.
    NewTail(StateId),
    /// What so many parts of the rows each make of a value without rows, before they are added.
    Parts(ValueId, u32),
    /// What segments of T hand to those after them of a state: so many elements of each sequence.
    Segments(StateId, Held, usize),
    /// Weighted rows of chunks of a recurrence with this state: so many elements of each chunk.
    Chunks(StateId, Row, usize),
}

/// A pointer parameter.
#[derive(Clone, Debug)]
pub struct Pointer {
    /// What it points to.
    pub place: Place,
    /// Its name in the source.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Whether the kernel writes through it.
    pub written: bool,
    /// Whether the kernel reads through it.
    pub read: bool,
}

/// A tensor map parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// What it maps.
    pub place: Place,
    /// Its name in the source.
    pub name: String,
    /// First element of the tensor.
    pub offset: usize,
    /// Axes of the tensor, innermost first.
    pub axes: Vec<MapAxis>,
}

/// The pointers and tensor maps of a kernel or of one of its functions, in order of first use.
#[derive(Clone, Debug)]
pub struct Pointers<'g> {
    graph: &'g Graph,
    elements: &'g Elements,
    layer: Option<u32>,
    list: Vec<Pointer>,
    maps: Vec<Mapped>,
}

/// The C type of an element.
pub fn c_type(element: Element) -> &'static str {
    match element {
        Element::F32 => "float",
        Element::Bf16 => "bf16_t",
        Element::F16 => "f16_t",
        Element::I32 => "i32",
    }
}

impl<'g> Pointers<'g> {
    /// No pointers yet, of a kernel in this layer.
    pub fn new(graph: &'g Graph, elements: &'g Elements, layer: Option<u32>) -> Self {
        Pointers {
            graph,
            elements,
            layer,
            list: Vec::new(),
            maps: Vec::new(),
        }
    }

    /// In which type each value lies in memory.
    pub fn elements(&self) -> &'g Elements {
        self.elements
    }

    /// The name of the tensor map of a value from an element on.
    pub fn map(
        &mut self,
        value: ValueId,
        offset: usize,
        axes: Vec<MapAxis>,
        names: &mut Names,
    ) -> String {
        let place = Place::Value(value);
        let same = |m: &&Mapped| m.place == place && m.offset == offset && m.axes == axes;
        if let Some(map) = self.maps.iter().find(same) {
            return map.name.clone();
        }
        let spellings = self.spellings(place);
        let name = names.one_of(spellings.iter().map(|s| format!("{s}_map")).collect());
        self.maps.push(Mapped {
            place,
            name: name.clone(),
            offset,
            axes,
        });
        name
    }

    /// All tensor maps, in order of first use.
    pub fn maps(&self) -> &[Mapped] {
        &self.maps
    }

    /// The name under which a place is read.
    pub fn read(&mut self, place: Place, names: &mut Names) -> String {
        self.get(place, false, names)
    }

    /// The name under which a place is written.
    pub fn write(&mut self, place: Place, names: &mut Names) -> String {
        self.get(place, true, names)
    }

    /// Element type behind a place.
    pub fn element(&self, place: Place) -> Element {
        match place {
            Place::Value(v) => self.elements.get(v),
            Place::State(_)
            | Place::OldTail(_)
            | Place::NewTail(_)
            | Place::Parts(..)
            | Place::Segments(..)
            | Place::Chunks(_, Row::Decay, _) => Element::F32,
            Place::Chunks(..) => Element::Bf16,
        }
    }

    /// All pointers, in order of first use.
    pub fn list(&self) -> &[Pointer] {
        &self.list
    }

    /// The name under which a place is read or written as some function of the kernel does.
    pub fn pass(&mut self, pointer: &Pointer, names: &mut Names) -> String {
        if pointer.read {
            self.read(pointer.place, names);
        }
        self.get(pointer.place, pointer.written, names)
    }

    fn get(&mut self, place: Place, written: bool, names: &mut Names) -> String {
        if let Some(p) = self.list.iter_mut().find(|p| p.place == place) {
            p.written |= written;
            p.read |= !written;
            return p.name.clone();
        }
        let name = names.one_of(self.spellings(place));
        let element = self.element(place);
        self.list.push(Pointer {
            place,
            name: name.clone(),
            element,
            written,
            read: !written,
        });
        name
    }

    /// What a place may be called: by the last part of its name, by all of it, and by where its
    /// layer is as well. Kernels of equal layers are equal: no number of a layer is in them.
    fn spellings(&self, place: Place) -> Vec<String> {
        let graph = self.graph;
        let of_value = |v: ValueId| (graph.value(v).name.as_str(), graph.value(v).layer);
        let (kind, (name, layer)) = match place {
            Place::Value(v) => match graph.value(v).def {
                Def::Input | Def::Op(..) if graph.value(v).rows => ("g", of_value(v)),
                Def::Op(id, _) if !graph.is_load_time(id) => ("g", of_value(v)),
                Def::Param(_) | Def::Input | Def::Op(..) => ("w", of_value(v)),
            },
            Place::State(s) => ("state", self.of_state(s)),
            Place::OldTail(s) => ("tail", self.of_state(s)),
            Place::NewTail(s) => ("new_tail", self.of_state(s)),
            Place::Parts(v, _) => ("parts", of_value(v)),
            Place::Segments(s, Held::State, _) => ("handed", self.of_state(s)),
            Place::Segments(s, Held::Product, _) => ("handed_decay", self.of_state(s)),
            Place::Chunks(s, row, _) => (
                match row {
                    Row::Query => "queries",
                    Row::Key => "keys",
                    Row::Score => "scores",
                    Row::Decay => "chunk_decays",
                },
                self.of_state(s),
            ),
        };
        let long = format!("{kind}_{name}");
        let mut out = vec![format!("{kind}_{}", last(name)), long.clone()];
        out.extend(elsewhere(self.layer, layer).map(|place| format!("{long}_{place}")));
        out
    }

    /// A state's name without its layer, and that layer.
    fn of_state(&self, state: StateId) -> (&'g str, Option<u32>) {
        let of = self.graph.state(state);
        match of.kind {
            StateKind::Tail { value, .. } => (self.graph.value(value).name.as_str(), of.layer),
            StateKind::Scan { .. } => (last(&of.name), of.layer),
        }
    }
}

/// Where a layer is, seen from that of a kernel, if it is another one.
pub fn elsewhere(own: Option<u32>, layer: Option<u32>) -> Option<&'static str> {
    match (own, layer) {
        (Some(own), Some(layer)) => match layer.cmp(&own) {
            Ordering::Less => Some("earlier_layer"),
            Ordering::Equal => None,
            Ordering::Greater => Some("next_layer"),
        },
        (None, Some(_)) => Some("of_layer"),
        (_, None) => None,
    }
}
