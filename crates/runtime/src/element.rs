//! Element types in memory: f32 on the host, anything else on a device.

use fusec_codegen::Element;
use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers are converted by as many threads as there are pieces of this size.
const PIECE: usize = 1 << 14;

/// A number that an element type cannot hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "`{name}`: element {index} is {value}, which {element:?} cannot hold; use a wider storage type"
)]
pub struct NotRepresentable {
    /// What it belongs to.
    pub name: String,
    /// Which element, row-major.
    pub index: usize,
    /// The number.
    pub value: f32,
    /// The type.
    pub element: Element,
}

/// The little-endian bytes of numbers stored as `element`, rounded to nearest. A finite number
/// that would become infinite, and a number that is no integer where one is wanted, is an error.
pub fn encode(name: &str, values: &[f32], element: Element) -> Result<Vec<u8>, NotRepresentable> {
    let fits = |x: f32| match element {
        Element::F32 => true,
        Element::Bf16 => bf16::from_f32(x).is_finite() || !x.is_finite(),
        Element::F16 => f16::from_f32(x).is_finite() || !x.is_finite(),
        Element::I32 => f64::from(x as i32) == f64::from(x),
    };
    let bad = values
        .par_iter()
        .with_min_len(PIECE)
        .position_first(|x| !fits(*x));
    if let Some(index) = bad {
        return Err(NotRepresentable {
            name: name.to_owned(),
            index,
            value: values[index],
            element,
        });
    }
    Ok(match element {
        Element::F32 => map(values, |x| x.to_le_bytes()),
        Element::Bf16 => map(values, |x| bf16::from_f32(x).to_le_bytes()),
        Element::F16 => map(values, |x| f16::from_f32(x).to_le_bytes()),
        Element::I32 => map(values, |x| (x as i32).to_le_bytes()),
    })
}

/// The little-endian bytes of integers.
pub fn encode_ids(ids: &[i32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// The numbers that little-endian bytes of `element` stand for. Bytes after the last whole
/// element are left out.
pub fn decode(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => unmap(bytes, f32::from_le_bytes),
        Element::Bf16 => unmap(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Element::F16 => unmap(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Element::I32 => unmap(bytes, |b| i32::from_le_bytes(b) as f32),
    }
}

/// The integers that little-endian bytes stand for.
pub fn decode_ids(bytes: &[u8]) -> Vec<i32> {
    let (elements, _) = bytes.as_chunks::<4>();
    elements.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

fn map<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    let (slots, _) = bytes.as_chunks_mut::<N>();
    let pairs = slots.par_iter_mut().zip(values).with_min_len(PIECE);
    pairs.for_each(|(slot, x)| *slot = encode(*x));
    bytes
}

fn unmap<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements
        .par_iter()
        .with_min_len(PIECE)
        .map(|b| decode(*b))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_round_trip_as_the_type_rounds_them() {
        let values = [0.0, -1.5, 3.0, 1.0 + 1.0 / 512.0, f32::INFINITY];
        for (element, want) in [
            (Element::F32, values),
            (
                Element::F16,
                [0.0, -1.5, 3.0, 1.0 + 1.0 / 512.0, f32::INFINITY],
            ),
            (Element::Bf16, [0.0, -1.5, 3.0, 1.0, f32::INFINITY]),
        ] {
            let bytes = encode("x", &values, element).expect("all fit");
            assert_eq!(bytes.len(), values.len() * element.bytes());
            assert_eq!(decode(&bytes, element), want, "{element:?}");
        }
        let ids = [0, -7, i32::MAX];
        assert_eq!(decode_ids(&encode_ids(&ids)), ids);
        let bytes = encode("ids", &[3.0, -2.0], Element::I32).expect("integers");
        assert_eq!(decode_ids(&bytes), [3, -2]);
    }

    #[test]
    fn what_a_type_cannot_hold_is_named() {
        for (value, element) in [
            (70_000.0, Element::F16),
            (f32::MAX, Element::Bf16),
            (0.5, Element::I32),
            (f32::NAN, Element::I32),
        ] {
            let error = encode("gain", &[1.0, value], element).expect_err("does not fit");
            assert_eq!((error.index, error.element), (1, element));
            assert!(error.to_string().contains("`gain`"));
        }
    }
}
