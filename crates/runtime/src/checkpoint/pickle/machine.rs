//! The stack machine itself: opcodes, memo, arena, and the few calls it knows.
//!
//! Values live in an arena and refer to each other by index, so that a pickle that refers to itself
//! can neither leak nor overflow the stack when it is dropped.

use std::collections::BTreeMap;

use super::{KEY_LIMIT, OBJECT_LIMIT, PickleError, RANK_LIMIT, STEP_LIMIT, StorageRef, TensorRef};
use crate::checkpoint::view::StoredDtype;

/// Everything that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`
    RebuildParameter,
    /// `collections.OrderedDict()`
    OrderedDict,
    /// `torch.<X>Storage`, only as the type in a storage reference.
    Storage(StoredDtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self, PickleError> {
        Ok(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "DoubleStorage") => Self::Storage(StoredDtype::F64),
            ("torch", "FloatStorage") => Self::Storage(StoredDtype::F32),
            ("torch", "HalfStorage") => Self::Storage(StoredDtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(StoredDtype::BF16),
            ("torch", "LongStorage") => Self::Storage(StoredDtype::I64),
            ("torch", "IntStorage") => Self::Storage(StoredDtype::I32),
            ("torch", "ShortStorage") => Self::Storage(StoredDtype::I16),
            ("torch", "CharStorage") => Self::Storage(StoredDtype::I8),
            ("torch", "ByteStorage") => Self::Storage(StoredDtype::U8),
            ("torch", "BoolStorage") => Self::Storage(StoredDtype::Bool),
            _ => {
                return Err(PickleError::ForbiddenGlobal {
                    name: format!("{module}.{name}"),
                });
            }
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Int(i64),
    Str(&'a str),
    Bool(bool),
    Global(Global),
    /// A value that no tensor needs; only its kind is kept.
    Leaf(&'static str),
    /// Index into the arena.
    Object(usize),
}

#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict {
        items: Vec<(Value<'a>, Value<'a>)>,
        /// Python attributes set on it (`_metadata` of a state dict).
        has_attributes: bool,
    },
    Storage(StorageRef),
    Tensor(TensorRef),
}

#[derive(Default)]
pub(super) struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    /// Offset of the instruction being executed, for messages.
    instruction: usize,
    /// Instructions executed.
    steps: usize,
    stack: Vec<Value<'a>>,
    /// Stack heights at each open MARK.
    marks: Vec<usize>,
    memo: BTreeMap<usize, Value<'a>>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(code: &'a [u8]) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Offset of the next instruction.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Executes up to STOP; the result is what lies on top of the stack. May be called again for a
    /// pickle that follows; each has a memo of its own.
    pub(super) fn run(&mut self) -> Result<Value<'a>, PickleError> {
        self.memo.clear();
        loop {
            self.instruction = self.at;
            self.steps += 1;
            if self.steps > STEP_LIMIT {
                return Err(PickleError::TooMuch {
                    what: "instructions",
                    limit: STEP_LIMIT,
                });
            }
            let [opcode] = self.take_array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // PROTO
            0x80 => {
                let [version] = self.take_array()?;
                if !(2..=5).contains(&version) {
                    return Err(self.malformed(format!("protocol {version} is not one of 2 to 5")));
                }
                Ok(())
            }
            // FRAME: only a reading hint
            0x95 => self.take(8).map(drop),
            b'(' => self.mark(),
            // POP, POP_MARK
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'N' => self.push(Value::Leaf("None")),
            // NEWTRUE, NEWFALSE
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2
            b'J' => {
                let v = i32::from_le_bytes(self.take_array()?);
                self.push(Value::Int(v.into()))
            }
            b'K' => {
                let [v] = self.take_array()?;
                self.push(Value::Int(v.into()))
            }
            b'M' => {
                let v = u16::from_le_bytes(self.take_array()?);
                self.push(Value::Int(v.into()))
            }
            // LONG1, LONG4
            0x8a => {
                let length = self.length::<1>()?;
                self.long(length)
            }
            0x8b => {
                let length = self.length::<4>()?;
                self.long(length)
            }
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.push(Value::Leaf("a float"))
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.text::<1>(),
            b'X' => self.text::<4>(),
            0x8d => self.text::<8>(),
            // SHORT_BINSTRING, BINSTRING: Python 2 strings
            b'U' => self.text::<1>(),
            b'T' => self.text::<4>(),
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.blob::<1>(),
            b'B' => self.blob::<4>(),
            0x8e | 0x96 => self.blob::<8>(),
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push_object(Object::Tuple(Vec::new())),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Tuple(items))
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.push_object(Object::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::List(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push_object(Object::Dict {
                items: Vec::new(),
                has_attributes: false,
            }),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push_object(Object::Dict {
                    items: Vec::new(),
                    has_attributes: false,
                })?;
                self.extend_dict(items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(items)
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push(Value::Global(Global::find(&module, &name)?))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Str(module), Value::Str(name)) => {
                        self.push(Value::Global(Global::find(module, name)?))
                    }
                    _ => Err(self.malformed("a global whose name is not a string")),
                }
            }
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let slot = self.length::<1>()?;
                self.memoize(slot)
            }
            b'r' => {
                let slot = self.length::<4>()?;
                self.memoize(slot)
            }
            0x94 => self.memoize(self.memo.len()),
            // BINGET, LONG_BINGET
            b'h' => {
                let slot = self.length::<1>()?;
                self.recall(slot)
            }
            b'j' => {
                let slot = self.length::<4>()?;
                self.recall(slot)
            }
            _ => Err(PickleError::UnknownOpcode {
                opcode,
                at: self.instruction,
            }),
        }
    }

    pub(super) fn malformed(&self, why: impl Into<String>) -> PickleError {
        PickleError::Malformed {
            why: why.into(),
            at: self.instruction,
        }
    }

    // --- reading code ---

    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let truncated = PickleError::Truncated {
            at: self.code.len(),
        };
        let end = self.at.checked_add(count).ok_or(truncated)?;
        let taken = self.code.get(self.at..end).ok_or(PickleError::Truncated {
            at: self.code.len(),
        })?;
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let at = self.code.len();
        self.take(N)?
            .try_into()
            .map_err(|_| PickleError::Truncated { at })
    }

    /// An unsigned little-endian integer of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, PickleError> {
        let mut wide = [0u8; 8];
        let narrow: [u8; N] = self.take_array()?;
        wide.iter_mut().zip(narrow).for_each(|(w, n)| *w = n);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| self.malformed("a length beyond memory"))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.code.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or(PickleError::Truncated {
                at: self.code.len(),
            })?;
        let line = self.take(length)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn text<const N: usize>(&mut self) -> Result<(), PickleError> {
        let length = self.length::<N>()?;
        let text = std::str::from_utf8(self.take(length)?)
            .map_err(|_| self.malformed("a string that is not UTF-8"))?;
        self.push(Value::Str(text))
    }

    fn blob<const N: usize>(&mut self) -> Result<(), PickleError> {
        let length = self.length::<N>()?;
        self.take(length)?;
        self.push(Value::Leaf("bytes"))
    }

    /// A little-endian two's complement integer of `length` bytes.
    fn long(&mut self, length: usize) -> Result<(), PickleError> {
        let digits = self.take(length)?;
        let negative = digits.last().is_some_and(|&d| d & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        if digits.len() > wide.len() {
            return self.push(Value::Leaf("an integer of more than 64 bits"));
        }
        wide.iter_mut().zip(digits).for_each(|(w, &d)| *w = d);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    // --- stack, memo, arena ---

    fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.stack.len() >= OBJECT_LIMIT {
            return Err(PickleError::TooMuch {
                what: "values on its stack",
                limit: OBJECT_LIMIT,
            });
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        // What lies below an open mark belongs to the container around it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.malformed("the stack is empty"));
        }
        self.stack
            .pop()
            .ok_or_else(|| self.malformed("the stack is empty"))
    }

    fn top(&self) -> Result<Value<'a>, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(<[_]>::last) {
            Some(&value) => Ok(value),
            None => Err(self.malformed("the stack is empty")),
        }
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() >= OBJECT_LIMIT {
            return Err(PickleError::TooMuch {
                what: "open marks",
                limit: OBJECT_LIMIT,
            });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.malformed("no mark is open"))?;
        Ok(self.stack.split_off(mark))
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<(), PickleError> {
        if self.objects.len() >= OBJECT_LIMIT {
            return Err(PickleError::TooMuch {
                what: "objects",
                limit: OBJECT_LIMIT,
            });
        }
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    fn tuple(&mut self, count: usize) -> Result<(), PickleError> {
        let mut items = (0..count)
            .map(|_| self.pop())
            .collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push_object(Object::Tuple(items))
    }

    fn memoize(&mut self, slot: usize) -> Result<(), PickleError> {
        if self.memo.len() >= OBJECT_LIMIT {
            return Err(PickleError::TooMuch {
                what: "memo entries",
                limit: OBJECT_LIMIT,
            });
        }
        let value = self.top()?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), PickleError> {
        match self.memo.get(&slot) {
            Some(&value) => self.push(value),
            None => Err(self.malformed(format!("nothing was remembered under {slot}"))),
        }
    }

    /// The object that a value refers to, if it refers to one.
    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => self.objects.get(id),
            _ => None,
        }
    }

    fn top_object(&mut self) -> Result<Option<&mut Object<'a>>, PickleError> {
        Ok(match self.top()? {
            Value::Object(id) => self.objects.get_mut(id),
            _ => None,
        })
    }

    // --- containers ---

    fn extend_list(&mut self, new: Vec<Value<'a>>) -> Result<(), PickleError> {
        if let Some(Object::List(items)) = self.top_object()? {
            items.extend(new);
            return Ok(());
        }
        Err(self.malformed("items are appended to something that is not a list"))
    }

    fn extend_dict(&mut self, new: Vec<Value<'a>>) -> Result<(), PickleError> {
        if !new.len().is_multiple_of(2) {
            return Err(self.malformed("a key without a value"));
        }
        if let Some(Object::Dict { items, .. }) = self.top_object()? {
            items.extend(new.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            return Ok(());
        }
        Err(self.malformed("items are set on something that is not a dictionary"))
    }

    /// BUILD sets attributes; on a dictionary they are noted and dropped, elsewhere refused.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        if let Some(Object::Dict { has_attributes, .. }) = self.top_object()? {
            *has_attributes = true;
            return Ok(());
        }
        Err(self.malformed("attributes are set on something that is not a dictionary"))
    }

    // --- tensors ---

    fn tuple_items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value)? {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A shape, or strides.
    fn integers(&self, value: Value<'a>) -> Result<Vec<i64>, PickleError> {
        let Some(items) = self.tuple_items(value) else {
            return Err(self.malformed("a tensor whose shape or strides are no tuple"));
        };
        if items.len() > RANK_LIMIT {
            return Err(PickleError::TooMuch {
                what: "dimensions in one tensor",
                limit: RANK_LIMIT,
            });
        }
        let integers = items.iter().map(|&item| match item {
            Value::Int(v) => Ok(v),
            _ => Err(self.malformed("a tensor whose shape or strides are no integers")),
        });
        integers.collect()
    }

    /// REDUCE: the only calls there are.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Some(items) = self.tuple_items(arguments) else {
            return Err(self.malformed("call arguments that are not a tuple"));
        };
        match (callee, items) {
            (Value::Global(Global::OrderedDict), []) => self.push_object(Object::Dict {
                items: Vec::new(),
                has_attributes: false,
            }),
            (
                Value::Global(Global::RebuildTensor),
                &[
                    storage,
                    Value::Int(offset),
                    shape,
                    strides,
                    _requires_grad,
                    _hooks,
                    ..,
                ],
            ) => {
                let Some(Object::Storage(storage)) = self.object(storage) else {
                    return Err(self.malformed("a tensor without a storage"));
                };
                let tensor = TensorRef {
                    storage: storage.clone(),
                    offset,
                    shape: self.integers(shape)?,
                    strides: self.integers(strides)?,
                };
                self.push_object(Object::Tensor(tensor))
            }
            (Value::Global(Global::RebuildParameter), &[tensor, ..])
                if matches!(self.object(tensor), Some(Object::Tensor(_))) =>
            {
                self.push(tensor)
            }
            (Value::Global(global), _) => Err(self.malformed(format!(
                "a call of {global:?} with arguments that do not fit it"
            ))),
            _ => Err(self.malformed("a call of something that is not a global")),
        }
    }

    /// BINPERSID: `('storage', torch.<X>Storage, key, location, numel)`, before zip archives with
    /// a sixth item that is None, as no storage is a view of another any more.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = match self.tuple_items(id) {
            Some(
                &[
                    Value::Str("storage"),
                    Value::Global(Global::Storage(dtype)),
                    Value::Str(key),
                    Value::Str(_location),
                    Value::Int(numel),
                    ref view @ ..,
                ],
            ) if matches!(view, [] | [Value::Leaf("None")]) => {
                if key.len() > KEY_LIMIT {
                    return Err(PickleError::TooMuch {
                        what: "bytes in the key of a storage",
                        limit: KEY_LIMIT,
                    });
                }
                StorageRef {
                    key: key.to_string(),
                    dtype,
                    numel,
                }
            }
            _ => return Err(self.malformed("a reference to something that is not a typed storage")),
        };
        self.push_object(Object::Storage(storage))
    }

    /// What a value is, for messages.
    pub(super) fn kind(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::Int(_) => "an integer",
            Value::Str(_) => "a string",
            Value::Bool(_) => "a boolean",
            Value::Global(_) => "a global",
            Value::Leaf(kind) => kind,
            Value::Object(_) => match self.object(value) {
                Some(Object::Tuple(_)) => "a tuple",
                Some(Object::List(_)) => "a list",
                Some(Object::Dict { .. }) => "a dictionary",
                Some(Object::Storage(_)) => "a storage",
                Some(Object::Tensor(_)) => "a tensor",
                None => "nothing",
            },
        }
    }
}
