//! The kernel's parameters: which memory its lanes touch, under which names.

use crate::manifest::Element;
use crate::names::Names;
use fusec_fuse::elements::Elements;
use fusec_ir::{Def, Graph, StateId, ValueId};

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

/// The pointers of a kernel, in order of first use.
#[derive(Clone, Debug)]
pub struct Pointers<'g> {
    graph: &'g Graph,
    elements: &'g Elements,
    list: Vec<Pointer>,
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
    /// No pointers yet.
    pub fn new(graph: &'g Graph, elements: &'g Elements) -> Self {
        Pointers {
            graph,
            elements,
            list: Vec::new(),
        }
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
            Place::State(_) | Place::OldTail(_) | Place::NewTail(_) => Element::F32,
        }
    }

    /// All pointers, in order of first use.
    pub fn list(&self) -> &[Pointer] {
        &self.list
    }

    fn get(&mut self, place: Place, written: bool, names: &mut Names) -> String {
        if let Some(p) = self.list.iter_mut().find(|p| p.place == place) {
            p.written |= written;
            p.read |= !written;
            return p.name.clone();
        }
        let wanted = match place {
            Place::Value(v) => {
                let value = self.graph.value(v);
                let base = crate::names::identifier(&value.name);
                match value.def {
                    Def::Param(_) => format!("w_{base}"),
                    Def::Input | Def::Op(..) if value.rows => format!("g_{base}"),
                    Def::Input | Def::Op(..) => format!("w_{base}"),
                }
            }
            Place::State(s) => format!("state_{}", self.state_name(s)),
            Place::OldTail(s) => format!("tail_{}", self.state_name(s)),
            Place::NewTail(s) => format!("new_tail_{}", self.state_name(s)),
        };
        let name = names.fresh(&wanted);
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

    // State names carry the layer number; kernels must not.
    fn state_name(&self, state: StateId) -> String {
        match self.graph.state(state).kind {
            fusec_ir::StateKind::Tail { value, .. } => {
                crate::names::identifier(&self.graph.value(value).name)
            }
            fusec_ir::StateKind::Scan { .. } => {
                crate::names::identifier(&self.graph.state(state).name)
            }
        }
    }
}
