//! Tensors that the caller holds, read as a run wants them: row-major and in f32, without a copy where they
//! are that already.

use half::{bf16, f16};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Element types, as array libraries call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// `float32`.
    F32,
    /// `float64`: the interpreter alone computes in it.
    F64,
    /// `bfloat16`.
    Bf16,
    /// `float16`.
    F16,
    /// `int32`.
    I32,
    /// `int64`.
    I64,
    /// One that no run takes: its kind (`float`, `int`, ...) and bits.
    Other(&'static str, u8),
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::F32 => f.write_str("float32"),
            DType::F64 => f.write_str("float64"),
            DType::Bf16 => f.write_str("bfloat16"),
            DType::F16 => f.write_str("float16"),
            DType::I32 => f.write_str("int32"),
            DType::I64 => f.write_str("int64"),
            DType::Other(kind, bits) => write!(f, "{kind}{bits}"),
        }
    }
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::Bf16 | DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 | DType::F64 => 8,
            DType::Other(_, bits) => usize::from(bits).div_ceil(8),
        }
    }
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In memory that this process reads.
    Host,
    /// On a GPU, by number.
    Cuda(usize),
    /// Somewhere else, by the number that DLPack has for the kind of device.
    Other(i32),
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Host => f.write_str("the CPU"),
            Memory::Cuda(n) => write!(f, "cuda:{n}"),
            Memory::Other(kind) => write!(f, "a device of DLPack's kind {kind}"),
        }
    }
}

/// A tensor of the caller: an address with extents and strides.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    data: *const u8,
    dtype: DType,
    memory: Memory,
    shape: Vec<usize>,
    /// In elements. Empty: row-major without gaps.
    strides: Vec<isize>,
    held: PhantomData<&'a [u8]>,
}

// SAFETY: a view only reads, and whoever made it has promised that nobody writes meanwhile.
unsafe impl Send for TensorView<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorView<'_> {}

impl<'a> TensorView<'a> {
    /// A view of the elements at `data`; `strides` in elements, none for row-major without gaps.
    ///
    /// # Safety
    ///
    /// For `'a`, every element that shape and strides reach is there, in the given memory, and is not
    /// written to.
    pub unsafe fn from_raw(
        data: *const u8,
        dtype: DType,
        memory: Memory,
        shape: Vec<usize>,
        strides: Option<Vec<isize>>,
    ) -> Self {
        let strides = strides.filter(|strides| !is_row_major(&shape, strides));
        Self {
            data,
            dtype,
            memory,
            shape,
            strides: strides.unwrap_or_default(),
            held: PhantomData,
        }
    }

    /// Numbers of this program, row-major. `None` if they are not as many as the shape says.
    pub fn of_numbers(numbers: &'a [f32], shape: &[usize]) -> Option<Self> {
        (elements(shape) == Some(numbers.len())).then(|| Self {
            data: numbers.as_ptr().cast(),
            dtype: DType::F32,
            memory: Memory::Host,
            shape: shape.to_vec(),
            strides: Vec::new(),
            held: PhantomData,
        })
    }

    /// Token ids of this program, row-major. `None` if they are not as many as the shape says.
    pub fn of_ids(ids: &'a [i32], shape: &[usize]) -> Option<Self> {
        (elements(shape) == Some(ids.len())).then(|| Self {
            data: ids.as_ptr().cast(),
            dtype: DType::I32,
            memory: Memory::Host,
            shape: shape.to_vec(),
            strides: Vec::new(),
            held: PhantomData,
        })
    }

    /// Its extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it lies.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// The address of its first element.
    pub fn address(&self) -> *const u8 {
        self.data
    }

    /// Whether its elements lie row-major without gaps.
    pub fn is_row_major(&self) -> bool {
        self.strides.is_empty()
    }

    /// The numbers, row-major; borrowed if they lie so in f32. `None` for other types than the three of
    /// numbers, and for memory that is not the host's.
    pub fn numbers(&self) -> Option<Cow<'a, [f32]>> {
        if self.memory != Memory::Host {
            return None;
        }
        Some(match self.dtype {
            DType::F32 => match self.slice::<f32>() {
                Some(slice) => Cow::Borrowed(slice),
                None => Cow::Owned(self.gather(f32::from_le_bytes)),
            },
            DType::Bf16 => Cow::Owned(self.gather(|b| bf16::from_le_bytes(b).to_f32())),
            DType::F16 => Cow::Owned(self.gather(|b| f16::from_le_bytes(b).to_f32())),
            _ => return None,
        })
    }

    /// The numbers of a float64 tensor, row-major; borrowed if they lie so. `None` for other types, and for
    /// memory that is not the host's.
    pub fn wide_numbers(&self) -> Option<Cow<'a, [f64]>> {
        if self.memory != Memory::Host || self.dtype != DType::F64 {
            return None;
        }
        Some(match self.slice::<f64>() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(self.gather(f64::from_le_bytes)),
        })
    }

    /// The integers, row-major. `None` for other types than the two of integers, and for memory that is
    /// not the host's. An integer beyond 32 bits is an error: itself.
    pub fn ids(&self) -> Option<Result<Cow<'a, [i32]>, i64>> {
        if self.memory != Memory::Host {
            return None;
        }
        match self.dtype {
            DType::I32 => Some(Ok(match self.slice::<i32>() {
                Some(slice) => Cow::Borrowed(slice),
                None => Cow::Owned(self.gather(i32::from_le_bytes)),
            })),
            DType::I64 => {
                let wide = self.gather(i64::from_le_bytes);
                let narrow = wide.into_iter().map(|id| i32::try_from(id).map_err(|_| id));
                Some(narrow.collect::<Result<Vec<_>, _>>().map(Cow::Owned))
            }
            _ => None,
        }
    }

    fn elements(&self) -> usize {
        // Whoever made the view has as many.
        elements(&self.shape).unwrap_or(0)
    }

    /// The elements as they lie, if that is row-major and aligned.
    fn slice<E: Copy>(&self) -> Option<&'a [E]> {
        let elements = self.elements();
        if elements == 0 {
            return Some(&[]);
        }
        let data = self.data.cast::<E>();
        // SAFETY: the maker of the view has promised that the elements are there and stay as they are.
        (self.is_row_major() && data.is_aligned())
            .then(|| unsafe { std::slice::from_raw_parts(data, elements) })
    }

    /// The elements, row-major, read one by one.
    fn gather<const N: usize, E>(&self, decode: impl Fn([u8; N]) -> E) -> Vec<E> {
        debug_assert_eq!(N, self.dtype.bytes());
        let elements = self.elements();
        let mut gathered = Vec::with_capacity(elements);
        let rank = self.shape.len();
        let mut index = vec![0usize; rank];
        let mut at: isize = 0;
        for i in 0..elements {
            let offset = match self.is_row_major() {
                true => i as isize,
                false => at,
            };
            // SAFETY: the offset is that of an element, which the maker of the view has promised.
            let bytes = unsafe {
                let element = self.data.offset(offset * N as isize);
                element.cast::<[u8; N]>().read_unaligned()
            };
            gathered.push(decode(bytes));
            if self.is_row_major() {
                continue;
            }
            for axis in (0..rank).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis] as isize;
                index[axis] = 0;
            }
        }
        gathered
    }
}

/// The number of elements of a shape, if it fits.
fn elements(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, extent| product.checked_mul(*extent))
}

/// Whether strides are those of a row-major tensor without gaps. An axis of one element has any stride.
fn is_row_major(shape: &[usize], strides: &[isize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut next: isize = 1;
    for (extent, stride) in shape.iter().zip(strides).rev() {
        if *extent != 1 && *stride != next {
            return false;
        }
        next = next.saturating_mul(*extent as isize);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From element `first` of `data` on, and before it where a stride is negative.
    fn view(data: &[f32], first: usize, shape: &[usize], strides: &[isize]) -> TensorView<'static> {
        // SAFETY: the tests keep `data` while they read, and their strides stay inside it.
        unsafe {
            TensorView::from_raw(
                data.as_ptr().add(first).cast(),
                DType::F32,
                Memory::Host,
                shape.to_vec(),
                Some(strides.to_vec()),
            )
        }
    }

    #[test]
    fn row_major_numbers_are_borrowed_and_others_gathered() {
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        for (shape, strides, borrowed, want) in [
            (&[2, 3][..], &[3, 1][..], true, vec![0., 1., 2., 3., 4., 5.]),
            (&[1, 3], &[77, 1], true, vec![0., 1., 2.]),
            (&[3, 2], &[1, 3], false, vec![0., 3., 1., 4., 2., 5.]),
            (&[2, 2], &[6, 2], false, vec![0., 2., 6., 8.]),
            (&[2, 2], &[0, 1], false, vec![0., 1., 0., 1.]),
            (&[0, 2], &[5, 9], true, vec![]),
        ] {
            let view = view(&data, 0, shape, strides);
            let numbers = view.numbers().expect("numbers of the host");
            assert_eq!(matches!(numbers, Cow::Borrowed(_)), borrowed, "{shape:?}");
            assert_eq!(numbers.as_ref(), want, "{shape:?} {strides:?}");
        }
        let last = view(&data, 3, &[2, 2], &[-1, 2]);
        assert_eq!(last.numbers().expect("numbers").as_ref(), [3., 5., 2., 4.]);
    }

    #[test]
    fn types_are_converted_exactly_or_named() {
        let halves: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
            .collect();
        let of = |data: *const u8, dtype| {
            // SAFETY: two elements of each type are there.
            unsafe { TensorView::from_raw(data, dtype, Memory::Host, vec![2], None) }
        };
        let view = of(halves.as_ptr(), DType::Bf16);
        assert_eq!(view.numbers().expect("numbers").as_ref(), [1.5, -2.0]);
        assert!(view.ids().is_none());
        let wide = [3i64, 1 << 40];
        let view = of(wide.as_ptr().cast(), DType::I64);
        assert!(view.numbers().is_none());
        assert_eq!(view.ids().expect("integers"), Err(1 << 40));
        let wide = [1.5f64, -2.0];
        let view = of(wide.as_ptr().cast(), DType::F64);
        assert!(view.numbers().is_none() && view.ids().is_none());
        assert_eq!(view.wide_numbers().expect("numbers").as_ref(), wide);
        assert_eq!(DType::Other("float", 8).to_string(), "float8");
    }
}
