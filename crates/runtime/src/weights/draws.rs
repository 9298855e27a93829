//! Random numbers from a seed and a name.
//!
//! Element `i` depends on the seed, a name (that of the parameter) and `i` alone, through
//! integer arithmetic: any number of threads, and any device, draws the same numbers, and adding a
//! parameter changes no other.
//!
//! - word `w` of element `i`: the SplitMix64 output function of `key + (4 i + w + 1) * GAMMA`
//!   (Steele, Lea, Flood 2014), `key` being that of the seed combined with the FNV-1a hash of the
//!   name;
//! - uniform in [0, 1): the upper 53 bits of word 0, times 2^-53;
//! - normal: the sum of the twelve 16-bit lanes of words 0 to 2, less its mean, over 2^16 (mean 0,
//!   variance 1, bounded by 6). Chosen over Box-Muller because it needs no logarithm or cosine,
//!   whose last bits differ between devices.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The random numbers of one parameter or input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws {
    key: u64,
}

impl Draws {
    /// Those of a seed and a name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // Mixed before they meet, so that no seed undoes a name.
        Self {
            key: mix(mix(seed.wrapping_add(GAMMA)) ^ hash),
        }
    }

    fn word(self, element: u64, word: u64) -> u64 {
        let counter = element.wrapping_mul(4).wrapping_add(word + 1);
        mix(self.key.wrapping_add(counter.wrapping_mul(GAMMA)))
    }

    /// Element `i`, uniform in [0, 1).
    pub(crate) fn uniform(self, element: u64) -> f64 {
        (self.word(element, 0) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Element `i`, normal with mean 0 and variance 1.
    pub(crate) fn normal(self, element: u64) -> f64 {
        let lanes = |word: u64| {
            (0..4)
                .map(move |lane| word >> (16 * lane) & 0xffff)
                .sum::<u64>()
        };
        let sum: u64 = (0..3).map(|word| lanes(self.word(element, word))).sum();
        const MEAN: i64 = 12 * 0xffff / 2;
        (sum as i64 - MEAN) as f64 / 65536.0
    }
}

/// The output function of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First output of the published generator from state 0.
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let draws = Draws::new(1, "w");
        let moments = |sample: &dyn Fn(u64) -> f64| {
            let n = 100_000;
            let mean = |power: i32| (0..n).map(|i| sample(i).powi(power)).sum::<f64>() / n as f64;
            [mean(1), mean(2), mean(4)]
        };
        // Five standard errors of each moment over 100,000 draws.
        let near = |got: [f64; 3], want: [f64; 3], tolerance: [f64; 3]| {
            for ((got, want), tolerance) in got.into_iter().zip(want).zip(tolerance) {
                assert!((got - want).abs() < tolerance, "{got} {want}");
            }
        };
        // Fourth moment of a sum of twelve uniforms: 3 - 1.2 / 12.
        near(
            moments(&|i| draws.normal(i)),
            [0.0, 1.0, 2.9],
            [0.016, 0.023, 0.15],
        );
        near(
            moments(&|i| draws.uniform(i)),
            [0.5, 1.0 / 3.0, 0.2],
            [0.005, 0.005, 0.005],
        );
    }

    #[test]
    fn names_seeds_and_elements_all_matter() {
        let first = Draws::new(1, "w").word(0, 0);
        assert_ne!(first, Draws::new(2, "w").word(0, 0));
        assert_ne!(first, Draws::new(1, "v").word(0, 0));
        assert_ne!(first, Draws::new(1, "w").word(1, 0));
        assert_ne!(first, Draws::new(1, "w").word(0, 1));
        assert_eq!(first, Draws::new(1, "w").word(0, 0));
    }
}
