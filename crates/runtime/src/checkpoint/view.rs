//! A stored tensor seen in place, and its conversion to plain row-major vectors.
//!
//! Nothing here knows file formats; both formats end as bytes + dtype + shape + strides.

use half::{bf16, f16};
use rayon::prelude::*;

/// Element type of a stored tensor. Values are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredDtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte; zero is false.
    Bool,
}

impl StoredDtype {
    /// Every supported name, for messages.
    pub const NAMES: &'static str =
        "F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL";

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The dtype with this safetensors name (`F32`, `BF16`, ...).
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "I64" => Self::I64,
            "I32" => Self::I32,
            "I16" => Self::I16,
            "I8" => Self::I8,
            "U64" => Self::U64,
            "U32" => Self::U32,
            "U16" => Self::U16,
            "U8" => Self::U8,
            "BOOL" => Self::Bool,
            _ => return None,
        })
    }

    /// The safetensors name of the dtype.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }
}

impl std::fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor in a mapped file.
///
/// Invariant (checked when the file is opened): the product of `shape` fits in `usize`, and for
/// every index inside `shape`, `sum(index * strides)` is an element inside `bytes`.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: StoredDtype,
    /// Extent of each dimension; empty for a scalar.
    pub shape: &'a [usize],
    /// Distance in elements between neighbours along each dimension.
    pub strides: &'a [usize],
    /// Stored bytes from the first element on; not aligned. May hold more than the tensor when the
    /// strides leave gaps or other tensors share the storage.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie densely in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.numel() == 0 || {
            let mut expected = 1;
            self.shape
                .iter()
                .zip(self.strides)
                .rev()
                .all(|(&extent, &stride)| {
                    let dense = extent == 1 || stride == expected;
                    expected *= extent;
                    dense
                })
        }
    }

    /// The elements as f32, row-major. f64 is rounded; integers must be exactly representable.
    pub(crate) fn to_f32(self) -> Result<Vec<f32>, String> {
        match self.dtype {
            StoredDtype::F32 => Ok(self.gather::<4, _>(f32::from_le_bytes)),
            StoredDtype::F16 => Ok(self.gather::<2, _>(|b| f16::from_le_bytes(b).to_f32())),
            StoredDtype::BF16 => Ok(self.gather::<2, _>(|b| bf16::from_le_bytes(b).to_f32())),
            StoredDtype::F64 => Ok(self.gather::<8, _>(|b| f64::from_le_bytes(b) as f32)),
            _ => self
                .to_i64()?
                .into_iter()
                .map(|v| exact(v, v as f32, v as f32 as i64))
                .collect(),
        }
    }

    /// The elements as f64, row-major. Integers must be exactly representable.
    pub(crate) fn to_f64(self) -> Result<Vec<f64>, String> {
        match self.dtype {
            StoredDtype::F64 => Ok(self.gather::<8, _>(f64::from_le_bytes)),
            StoredDtype::F32 => Ok(self.gather::<4, _>(|b| f32::from_le_bytes(b).into())),
            StoredDtype::F16 => Ok(self.gather::<2, _>(|b| f16::from_le_bytes(b).to_f64())),
            StoredDtype::BF16 => Ok(self.gather::<2, _>(|b| bf16::from_le_bytes(b).to_f64())),
            _ => self
                .to_i64()?
                .into_iter()
                .map(|v| exact(v, v as f64, v as f64 as i64))
                .collect(),
        }
    }

    /// The elements as i64, row-major; only integers and booleans can be read so.
    pub(crate) fn to_i64(self) -> Result<Vec<i64>, String> {
        Ok(match self.dtype {
            StoredDtype::I64 => self.gather::<8, _>(i64::from_le_bytes),
            StoredDtype::I32 => self.gather::<4, _>(|b| i32::from_le_bytes(b).into()),
            StoredDtype::I16 => self.gather::<2, _>(|b| i16::from_le_bytes(b).into()),
            StoredDtype::I8 => self.gather::<1, _>(|b| i8::from_le_bytes(b).into()),
            StoredDtype::U64 => {
                let all = self.gather::<8, _>(u64::from_le_bytes);
                let beyond = |v: &u64| format!("the integer {v} is beyond 63 bits");
                let narrow = all.iter().map(|v| i64::try_from(*v).map_err(|_| beyond(v)));
                narrow.collect::<Result<_, _>>()?
            }
            StoredDtype::U32 => self.gather::<4, _>(|b| u32::from_le_bytes(b).into()),
            StoredDtype::U16 => self.gather::<2, _>(|b| u16::from_le_bytes(b).into()),
            StoredDtype::U8 => self.gather::<1, _>(|b| u8::from_le_bytes(b).into()),
            StoredDtype::Bool => self.gather::<1, _>(|[b]| i64::from(b != 0)),
            StoredDtype::F64 | StoredDtype::F32 | StoredDtype::F16 | StoredDtype::BF16 => {
                return Err("it holds fractions".into());
            }
        })
    }

    /// Decodes `SIZE`-byte elements in row-major order.
    fn gather<const SIZE: usize, T: Copy + Default + Send>(
        &self,
        decode: impl Fn([u8; SIZE]) -> T + Sync,
    ) -> Vec<T> {
        let (elements, _) = self.bytes.as_chunks::<SIZE>();
        let mut out = vec![T::default(); self.numel()];
        if self.is_contiguous() {
            // Chunks large enough that handing them to threads costs nothing beside the decoding.
            const CHUNK: usize = 1 << 16;
            out.par_chunks_mut(CHUNK)
                .zip(elements.par_chunks(CHUNK))
                .for_each(|(to, from)| {
                    to.iter_mut().zip(from).for_each(|(t, &f)| *t = decode(f));
                });
            return out;
        }
        let mut index = vec![0usize; self.shape.len()];
        let mut at = 0usize;
        for slot in &mut out {
            if let Some(&element) = elements.get(at) {
                *slot = decode(element);
            }
            for dim in (0..index.len()).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                at -= self.strides[dim] * self.shape[dim];
                index[dim] = 0;
            }
        }
        out
    }
}

fn exact<T>(value: i64, converted: T, back: i64) -> Result<T, String> {
    // `as` saturates: i64::MAX would come back unchanged from the float 2^63.
    if back == value && value != i64::MAX {
        Ok(converted)
    } else {
        Err(format!(
            "the integer {value} has no exact floating-point value"
        ))
    }
}

/// Row-major strides of `shape`; `None` when the number of elements overflows.
pub(crate) fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1usize; shape.len()];
    let mut step = 1usize;
    for (stride, &extent) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        // An extent of 0 must not hide an overflow of the others.
        step = step.checked_mul(extent.max(1))?;
    }
    Some(strides)
}
