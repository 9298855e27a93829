//! Rounding errors drawn anew: as large as those of rounding to nearest, and others for every seed.

use super::real::{Real, StorageType};

/// `x` with an error as if rounded to `storage`: `round(x + d) - d` for a `d` of up to half the
/// spacing of the type at x, drawn from the seed and from x itself.
pub(super) fn dithered<F: Real>(x: F, storage: StorageType, seed: u64) -> F {
    let (digits, smallest) = match storage {
        StorageType::Bf16 => (7, -126),
        StorageType::F16 => (10, -14),
    };
    with_error(
        x,
        |x| F::from_f64(x).rounded(storage).to_f64(),
        digits,
        smallest,
        seed,
    )
}

/// As [`dithered`], for rounding to f32; of an f32 it is the number itself.
pub(super) fn single<F: Real>(x: F, seed: u64) -> F {
    with_error(x, |x| f64::from(x as f32), 23, -126, seed)
}

/// `round` is to numbers of this many binary digits behind the first, with exponents from `smallest`.
fn with_error<F: Real>(
    x: F,
    round: impl Fn(f64) -> f64,
    digits: i32,
    smallest: i32,
    seed: u64,
) -> F {
    let exact = x.to_f64();
    let nearest = round(exact);
    if nearest == exact || !nearest.is_finite() {
        return F::from_f64(nearest);
    }
    // The exponent of a normal f64; subnormal ones are below every storage type.
    let exponent = ((exact.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let spacing = f64::exp2(f64::from(exponent.max(smallest) - digits));
    let d = uniform(seed ^ exact.to_bits()) * spacing;
    let shifted = round(exact + d);
    match shifted.is_finite() {
        true => F::from_f64(shifted - d),
        false => F::from_f64(nearest),
    }
}

/// From -0.5 to 0.5 (SplitMix64).
fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64 - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean square of errors of n numbers around `scale`.
    fn mean_square(scale: f64, n: u32, round: impl Fn(f64) -> f64) -> f64 {
        let errors = (0..n).map(|i| {
            let x = scale * (1.0 + f64::from(i) / f64::from(n));
            (round(x) - x).powi(2)
        });
        errors.sum::<f64>() / f64::from(n)
    }

    #[test]
    fn errors_are_as_large_as_those_of_rounding_to_nearest() {
        for storage in [StorageType::Bf16, StorageType::F16] {
            for scale in [1.0, 1000.0, -0.3, 2e-5, -3e-7] {
                let nearest = mean_square(scale, 20_000, |x| x.rounded(storage));
                for seed in 0..3 {
                    let dithered = mean_square(scale, 20_000, |x| dithered(x, storage, seed));
                    let ratio = dithered / nearest;
                    assert!((0.9..1.1).contains(&ratio), "{storage:?} {scale}: {ratio}");
                }
            }
        }
    }

    #[test]
    fn errors_of_single_precision_are_as_large_as_its_rounding() {
        for scale in [1.0, 1000.0, -0.3, 2e-30] {
            let nearest = mean_square(scale, 20_000, |x| f64::from(x as f32));
            let ratio = mean_square(scale, 20_000, |x| single(x, 5)) / nearest;
            // Steps of these numbers are few units of the last place, so errors repeat.
            assert!((0.8..1.25).contains(&ratio), "{scale}: {ratio}");
        }
        for x in [0.0, 1.0, f64::from(0.1f32), f64::NEG_INFINITY] {
            assert_eq!(single(x, 3), x);
        }
        assert_ne!(single(0.1, 3), single(0.1, 4));
        assert_eq!(single(0.1f32, 3), 0.1);
    }

    #[test]
    fn what_the_type_holds_stays() {
        for storage in [StorageType::Bf16, StorageType::F16] {
            for x in [0.0, 1.0, -2.5, 0.125, f64::INFINITY] {
                assert_eq!(dithered(x, storage, 3), x);
            }
            assert!(dithered(f64::NAN, storage, 3).is_nan());
        }
        // Beyond the largest: as rounding to nearest.
        assert_eq!(dithered(1e9, StorageType::F16, 1), f64::INFINITY);
    }
}
