//! A pickle machine that can only build tensors.
//!
//! A pickle is a program; Python's own reader runs whatever it names. This one knows the opcodes
//! that `torch.save` writes (protocols 2 to 5), a closed list of globals (see [`machine::Global`]), and
//! calls nothing. It never will: every other global or opcode is an error that names it.

mod machine;

use std::collections::BTreeSet;

use self::machine::{Machine, Object, Value};
use super::view::StoredDtype;

/// Longest pickle accepted, in bytes.
pub(super) const PICKLE_LIMIT: u64 = 32 << 20;
/// Most instructions executed (a tensor takes some fifty).
const STEP_LIMIT: usize = 1 << 24;
/// Most objects, stack slots and memo entries (a tensor takes some seven objects).
const OBJECT_LIMIT: usize = 1 << 21;
/// Deepest nesting of containers around a tensor.
const DEPTH_LIMIT: usize = 64;
/// Most containers and leaves visited when nested names are flattened: shared containers can
/// otherwise unfold without bound.
const VISIT_LIMIT: usize = 1 << 20;
/// Longest flattened name, in bytes.
const NAME_LIMIT: usize = 4096;
/// Most bytes in all flattened names together.
const NAMES_LIMIT: usize = 64 << 20;
/// Longest key of a storage, in bytes.
const KEY_LIMIT: usize = 256;
/// Most dimensions of a tensor: torch has no more either.
const RANK_LIMIT: usize = 64;

/// Why a pickle was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PickleError {
    /// A global outside the closed list.
    #[error("pickle names the global {name}; only tensors may be built")]
    ForbiddenGlobal {
        /// `module.name` as the pickle spells it.
        name: String,
    },
    /// An opcode that saving tensors does not need.
    #[error("pickle uses opcode 0x{opcode:02x} at byte {at}, which building tensors does not need")]
    UnknownOpcode {
        /// The opcode.
        opcode: u8,
        /// Its offset in the pickle.
        at: usize,
    },
    /// The pickle ends inside an instruction, or before STOP.
    #[error("pickle ends at byte {at}, before it is complete")]
    Truncated {
        /// Length of the pickle.
        at: usize,
    },
    /// An instruction that does not fit what is on the stack.
    #[error("damaged pickle: {why} (at byte {at})")]
    Malformed {
        /// What does not fit.
        why: String,
        /// Offset of the instruction.
        at: usize,
    },
    /// One of the limits that keep a hostile pickle from exhausting memory.
    #[error("pickle holds more than {limit} {what}")]
    TooMuch {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The result is not a dictionary.
    #[error("pickle holds {kind} at the top, expected a dictionary of tensors")]
    NotADictionary {
        /// What it holds.
        kind: &'static str,
    },
    /// Two tensors with one flattened name.
    #[error("pickle gives the name '{name}' to two tensors")]
    DuplicateName {
        /// The name.
        name: String,
    },
}

/// A tensor as the pickle describes it; nothing about it has been checked against the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorRef {
    /// Storage that holds the elements.
    pub storage: StorageRef,
    /// First element, counted in elements of the storage.
    pub offset: i64,
    /// Extents.
    pub shape: Vec<i64>,
    /// Distances in elements.
    pub strides: Vec<i64>,
}

/// A storage: the archive entry `data/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageRef {
    /// Name of the entry under `data/`.
    pub key: String,
    /// Element type.
    pub dtype: StoredDtype,
    /// Elements.
    pub numel: i64,
}

/// What a pickle holds: tensors by flattened name, and the leaves that are not tensors.
#[derive(Debug, Default)]
pub(super) struct Unpickled {
    pub tensors: Vec<(String, TensorRef)>,
    pub skipped: Vec<(String, &'static str)>,
}

/// Runs a pickle and flattens its dictionary, joining nested keys with '.'.
pub(super) fn unpickle(bytes: &[u8]) -> Result<Unpickled, PickleError> {
    let mut machine = Machine::new(bytes);
    let top = machine.run()?;
    flatten(&machine, top)
}

/// The pickles of a file from before zip archives.
#[derive(Debug)]
pub(super) struct Stream {
    /// What was saved.
    pub saved: Unpickled,
    /// Keys of the storages, in the order in which their data follow.
    pub keys: Vec<String>,
    /// Where the data begin, in bytes from the start.
    pub data: usize,
}

/// How the first of these pickles begins: a number that tells the format.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Runs the pickles of a file from before zip archives: [`MAGIC`], the version, the machine it was
/// written on, what was saved, the keys of the storages.
pub(super) fn unpickle_stream(bytes: &[u8]) -> Result<Stream, PickleError> {
    let mut machine = Machine::new(bytes);
    machine.run()?;
    let version = machine.run()?;
    if !matches!(version, Value::Int(1001)) {
        return Err(machine.malformed("the version of the format is not 1001"));
    }
    let written_on = machine.run()?;
    if let Some(Object::Dict { items, .. }) = machine.object(written_on) {
        let big = |(key, value): &(Value<'_>, Value<'_>)| {
            matches!(
                (key, value),
                (Value::Str("little_endian"), Value::Bool(false))
            )
        };
        if items.iter().any(big) {
            return Err(machine.malformed("the data is not little-endian"));
        }
    }
    let top = machine.run()?;
    let saved = flatten(&machine, top)?;
    let keys = machine.run()?;
    let Some(Object::List(keys)) = machine.object(keys) else {
        return Err(machine.malformed("the keys of the storages are not a list"));
    };
    let keys = keys.iter().map(|key| match key {
        Value::Str(key) if key.len() <= KEY_LIMIT => Ok(key.to_string()),
        _ => Err(machine.malformed("the key of a storage is no short string")),
    });
    Ok(Stream {
        saved,
        keys: keys.collect::<Result<_, _>>()?,
        data: machine.at(),
    })
}

fn flatten<'a>(machine: &Machine<'a>, top: Value<'a>) -> Result<Unpickled, PickleError> {
    if !matches!(machine.object(top), Some(Object::Dict { .. })) {
        return Err(PickleError::NotADictionary {
            kind: machine.kind(top),
        });
    }
    let mut flat = Flattener {
        machine,
        visits: 0,
        name_bytes: 0,
        names: BTreeSet::new(),
        out: Unpickled::default(),
    };
    flat.visit(String::new(), top, 0)?;
    Ok(flat.out)
}

struct Flattener<'m, 'a> {
    machine: &'m Machine<'a>,
    visits: usize,
    /// Of all names so far.
    name_bytes: usize,
    names: BTreeSet<String>,
    out: Unpickled,
}

impl<'a> Flattener<'_, 'a> {
    fn visit(&mut self, name: String, value: Value<'a>, depth: usize) -> Result<(), PickleError> {
        self.visits += 1;
        if self.visits > VISIT_LIMIT {
            return Err(PickleError::TooMuch {
                what: "values, nested ones unfolded",
                limit: VISIT_LIMIT,
            });
        }
        if depth > DEPTH_LIMIT {
            return Err(PickleError::TooMuch {
                what: "levels of nesting",
                limit: DEPTH_LIMIT,
            });
        }
        if name.len() > NAME_LIMIT {
            return Err(PickleError::TooMuch {
                what: "bytes in one name",
                limit: NAME_LIMIT,
            });
        }
        self.name_bytes += name.len();
        if self.name_bytes > NAMES_LIMIT {
            return Err(PickleError::TooMuch {
                what: "bytes in all names",
                limit: NAMES_LIMIT,
            });
        }
        let machine = self.machine;
        match machine.object(value) {
            Some(Object::Tensor(tensor)) => {
                if !self.names.insert(name.clone()) {
                    return Err(PickleError::DuplicateName { name });
                }
                self.out.tensors.push((name, tensor.clone()));
            }
            Some(Object::Dict {
                items,
                has_attributes,
            }) => {
                if *has_attributes {
                    self.out
                        .skipped
                        .push((name.clone(), "attributes of a dictionary"));
                }
                for &(key, item) in items {
                    let inner = match key {
                        Value::Str(key) => join(&name, key),
                        Value::Int(key) => join(&name, &key.to_string()),
                        _ => {
                            self.out
                                .skipped
                                .push((name.clone(), "an item whose key is no string or integer"));
                            continue;
                        }
                    };
                    self.visit(inner, item, depth + 1)?;
                }
            }
            Some(Object::List(items) | Object::Tuple(items)) => {
                for (position, &item) in items.iter().enumerate() {
                    self.visit(join(&name, &position.to_string()), item, depth + 1)?;
                }
            }
            Some(Object::Storage(_)) | None => self.out.skipped.push((name, machine.kind(value))),
        }
        Ok(())
    }
}

/// The name of an item. A key that is too long is cut, still too long: its text is not needed.
fn join(outer: &str, key: &str) -> String {
    let end = key.floor_char_boundary(NAME_LIMIT + 4);
    let key = key.get(..end).unwrap_or_default();
    if outer.is_empty() {
        key.to_string()
    } else {
        format!("{outer}.{key}")
    }
}
