//! The law by which the next token is drawn from logits: the same token on every device.
//!
//! Given the logits of one sequence, f32, one per token:
//!
//! 1. *Repetition penalty* `r`: the logit `l` of a token that was seen becomes `l / r` where `l > 0`, else
//!    `l * r` (Keskar et al. 2019, CTRL, eq. 5, with the sign taken care of as `transformers` does).
//! 2. *Order*: larger logits first, of equal ones the smaller id. At temperature 0 the first token is the
//!    answer.
//! 3. *Weights*: with `m` the largest logit and `T` the temperature, `w = floor(2^40 * 2^z)`,
//!    `z = (l - m) * s`, `s = 1 / (T ln 2)`: whole numbers, so that their sums do not depend on the order of
//!    the additions. Every operation is one of IEEE f32 rounded to nearest; [`weight`] says which.
//! 4. *Top-k*: the first `k` tokens of the order stay.
//! 5. *Top-p* (Holtzman et al. 2019): of those, as many of the first as are needed for the share `p` of
//!    their weight; at least one.
//! 6. *Draw*: 64 bits of Philox 4x32-10 (Salmon et al. 2011), whose key is the seed and whose counter is the
//!    position of the token and the number of the sequence; `u` of them out of `2^64` times the weight of
//!    what stays, rounded down, falls to one of the tokens laid end to end in the order of their ids.
//!
//! So a token is a function of logits, settings, position and sequence, and of nothing that ran before.
//! What lives here: the law and its meaning on the CPU. Kernels of it are made elsewhere and compared.

use std::cmp::Reverse;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the first token of the order.
    pub temperature: f32,
    /// Tokens that stay; 0 for all.
    pub top_k: u32,
    /// Share of the weight that stays, above 0 and at most 1.
    pub top_p: f32,
    /// Above 0; 1 leaves the logits of tokens that were seen as they are.
    pub repetition_penalty: f32,
    /// Key of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    /// All tokens at temperature 1.
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Why there is no next token.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting outside its range.
    #[error("{what} is {got}, expected {expected}")]
    Setting {
        /// Which.
        what: &'static str,
        /// Its value.
        got: f32,
        /// What it should be.
        expected: &'static str,
    },
    /// A logit that is not a finite number.
    #[error("the logit of token {token} is {value}: there is nothing to choose by")]
    NotFinite {
        /// The token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// No logits, or more than the weights have room for.
    #[error("there are {got} logits, allowed are 1 to {MAX_TOKENS}")]
    Tokens {
        /// How many.
        got: usize,
    },
}

/// Most tokens of a vocabulary: their weights have to add up within 63 bits.
pub const MAX_TOKENS: usize = 1 << 22;

/// The weight of the first token is two to this power.
pub const WEIGHT_BITS: i32 = 40;

/// `2^f = 1 + f (c0 + f (c1 + ...))` for `f` in [0, 1], within 7e-8 of it and never falling.
pub const EXP2: [f32; 6] = [
    std::f32::consts::LN_2,
    0.240_227_22,
    0.055_495_936,
    0.009_652_44,
    0.001_268_935_2,
    0.000_208_291_92,
];

impl Sampling {
    /// Whether every setting is in its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let wrong = |what, got, expected| {
            Err(SamplingError::Setting {
                what,
                got,
                expected,
            })
        };
        if !(self.temperature == 0.0 || (1e-4..=1e4).contains(&self.temperature)) {
            return wrong("the temperature", self.temperature, "0, or 0.0001 to 10000");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top-p", self.top_p, "a number above 0 and at most 1");
        }
        if !(1e-4..=1e4).contains(&self.repetition_penalty) {
            let expected = "0.0001 to 10000";
            return wrong("the repetition penalty", self.repetition_penalty, expected);
        }
        Ok(())
    }

    /// What `l - m` is multiplied by, in the law's third step.
    pub fn scale(&self) -> f32 {
        (1.0 / (f64::from(self.temperature) * std::f64::consts::LN_2)) as f32
    }

    /// Top-p in units of 2^-32: 1 to 2^32.
    pub fn share(&self) -> u64 {
        let share = (f64::from(self.top_p) * 2f64.powi(32)).round() as u64;
        share.clamp(1, 1 << 32)
    }

    /// The next token of a sequence, for which the logits are. `seen` says of each token whether it was
    /// there before; `position` is that of the token drawn, counted from the first of the sequence, and
    /// `sequence` the number of the sequence. Time: linear in the tokens, and with top-k or top-p
    /// that of sorting those that stay.
    pub fn next(
        &self,
        logits: &[f32],
        seen: &[bool],
        position: u64,
        sequence: u32,
    ) -> Result<u32, SamplingError> {
        self.check()?;
        if !(1..=MAX_TOKENS).contains(&logits.len()) {
            return Err(SamplingError::Tokens { got: logits.len() });
        }
        let penalised = |(token, l): (usize, &f32)| match seen.get(token) {
            Some(true) if *l > 0.0 => *l / self.repetition_penalty,
            Some(true) => *l * self.repetition_penalty,
            _ => *l,
        };
        let logits: Vec<f32> = logits.iter().enumerate().map(penalised).collect();
        if let Some(token) = logits.iter().position(|l| !l.is_finite()) {
            let value = logits[token];
            return Err(SamplingError::NotFinite { token, value });
        }
        let mut first = 0;
        for (token, l) in logits.iter().enumerate() {
            if rank(*l) > rank(logits[first]) {
                first = token;
            }
        }
        if self.temperature == 0.0 {
            return Ok(first as u32);
        }
        let (most, scale) = (logits[first], self.scale());
        let weights = logits.iter().map(|l| weight(*l, most, scale));
        let mut tokens: Vec<(u32, u64)> = (0..).zip(weights).filter(|(_, w)| *w > 0).collect();
        self.cut(&mut tokens, &logits);
        let total: u64 = tokens.iter().map(|(_, w)| w).sum();
        let mut left = scaled(total, draw(self.seed, position, sequence));
        for (token, weight) in &tokens {
            if left < *weight {
                return Ok(*token);
            }
            left -= weight;
        }
        // `left` is below the sum, so that one was found.
        Ok(first as u32)
    }

    /// Leaves the tokens that top-k and top-p leave, in the order of their ids. Those without weight
    /// are gone already: they come last in the order, and nothing falls to them.
    fn cut(&self, tokens: &mut Vec<(u32, u64)>, logits: &[f32]) {
        let order = |of: &(u32, u64)| (Reverse(rank(logits[of.0 as usize])), of.0);
        let k = self.top_k as usize;
        if k > 0 && k < tokens.len() {
            tokens.select_nth_unstable_by_key(k - 1, order);
            tokens.truncate(k);
        }
        if self.share() < 1 << 32 {
            tokens.sort_unstable_by_key(order);
            let total: u64 = tokens.iter().map(|(_, w)| w).sum();
            // Both factors are doubled or more to 64 bits, where there is room for them.
            let needed = scaled(total << 1, self.share() << 31).max(1);
            let mut before = 0;
            let stays = tokens.iter().take_while(|(_, w)| {
                let stays = before < needed;
                before += w;
                stays
            });
            let stays = stays.count();
            tokens.truncate(stays);
        }
        tokens.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// A whole number that orders f32 as numbers, both zeros alike.
pub fn rank(l: f32) -> u32 {
    // Minus zero becomes zero.
    let bits = (l + 0.0).to_bits();
    match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    }
}

/// `floor(2^40 * 2^((l - most) * scale))`, by this sequence of f32 operations: a difference, a product, its
/// integer part `n` and fraction `f`, a chain of fused multiply-adds, an exact product with `2^23`, a shift.
pub fn weight(l: f32, most: f32, scale: f32) -> u64 {
    let z = (l - most) * scale;
    let n = z.floor();
    // Below, a shift leaves nothing.
    if n < -(WEIGHT_BITS as f32) - 1.0 {
        return 0;
    }
    let f = z - n;
    let mut power = EXP2[5];
    for c in [EXP2[4], EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
        power = power.mul_add(f, c);
    }
    let mantissa = (power * 8_388_608.0) as u64;
    let shift = WEIGHT_BITS - 23 + n as i32;
    match shift >= 0 {
        true => mantissa << shift,
        false => mantissa >> -shift,
    }
}

/// `floor(weight * share / 2^64)`.
pub fn scaled(weight: u64, share: u64) -> u64 {
    ((u128::from(weight) * u128::from(share)) >> 64) as u64
}

/// 64 random bits for a token.
pub fn draw(seed: u64, position: u64, sequence: u32) -> u64 {
    let low = |x: u64| x as u32;
    let counter = [low(position), low(position >> 32), sequence, 0];
    let [a, b, ..] = philox(counter, [low(seed), low(seed >> 32)]);
    u64::from(a) << 32 | u64::from(b)
}

/// Philox 4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = 0xd251_1f53 * u64::from(counter[0]);
        let b = 0xcd9e_8d57 * u64::from(counter[2]);
        let (high, low) = (|x: u64| (x >> 32) as u32, |x: u64| x as u32);
        counter = [
            high(b) ^ counter[1] ^ key[0],
            low(b),
            high(a) ^ counter[3] ^ key[1],
            low(a),
        ];
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn philox_gives_the_published_numbers() {
        // Known answers of the Random123 library, version 1.14.
        for (counter, key, expected) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn weights_are_powers_of_two_times_an_exponential() {
        for (l, expected) in [
            (0.0f32, 1.0f64),
            (-1.0, -1f64),
            (-20.0, -20.0),
            (-27.0, -27.0),
        ] {
            let got = weight(l, 0.0, Sampling::default().scale()) as f64 / 2f64.powi(WEIGHT_BITS);
            let expected = if l == 0.0 { 1.0 } else { expected.exp() };
            // One unit of the weight, and the rounding of `z`.
            let bound = expected * 2e-6 + 2f64.powi(-WEIGHT_BITS);
            assert!((got - expected).abs() <= bound, "{l}: {got} {expected}");
        }
        assert_eq!(weight(-28.5, 0.0, Sampling::default().scale()), 0);
        assert_eq!(weight(f32::MIN, f32::MAX, 1.0), 0);
        // A fraction that rounds up to 1 is the next power.
        assert_eq!(weight(-1e-30, 0.0, 1.0), 1 << WEIGHT_BITS);
    }

    #[test]
    fn the_order_is_that_of_numbers_and_then_of_ids() {
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        for (logits, token) in [
            (&[1.0f32, 3.0, 3.0, 2.0][..], 1),
            (&[-1.0, -3.0][..], 0),
            (&[-0.0, 0.0][..], 0),
            (&[0.0, -0.0][..], 0),
            (&[-1.0, 1e-40][..], 1),
            (&[f32::MIN, f32::MAX][..], 1),
        ] {
            assert_eq!(greedy.next(logits, &[], 0, 0), Ok(token), "{logits:?}");
        }
    }

    #[test]
    fn the_penalty_moves_what_was_seen_towards_less() {
        let greedy = Sampling {
            temperature: 0.0,
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        let next = |logits: &[f32], seen: &[bool]| greedy.next(logits, seen, 0, 0);
        assert_eq!(next(&[3.0, 2.0], &[true, false]), Ok(1));
        assert_eq!(next(&[5.0, 2.0], &[true, false]), Ok(0));
        assert_eq!(next(&[-1.0, -1.5], &[true, false]), Ok(1));
    }

    /// Which share of many draws falls to each token.
    fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let draws = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for position in 0..draws {
            let token = sampling.next(logits, &[], position, 3).unwrap();
            counts[token as usize] += 1;
        }
        let share = |count: u32| f64::from(count) / draws as f64;
        counts.into_iter().map(share).collect()
    }

    #[test]
    fn tokens_fall_as_often_as_their_weights_say() {
        let logits = [0.6f32, 0.3, 0.06, 0.04].map(f32::ln);
        let base = Sampling::default();
        for (sampling, expected) in [
            (base, [0.6, 0.3, 0.06, 0.04]),
            (
                Sampling { top_k: 2, ..base },
                [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0],
            ),
            (Sampling { top_k: 1, ..base }, [1.0, 0.0, 0.0, 0.0]),
            (Sampling { top_k: 9, ..base }, [0.6, 0.3, 0.06, 0.04]),
            (Sampling { top_p: 0.5, ..base }, [1.0, 0.0, 0.0, 0.0]),
            (
                Sampling { top_p: 0.8, ..base },
                [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0],
            ),
            (
                Sampling {
                    top_p: 1e-9,
                    ..base
                },
                [1.0, 0.0, 0.0, 0.0],
            ),
            // Of the two that top-k leaves, the first has two thirds.
            (
                Sampling {
                    top_k: 2,
                    top_p: 0.65,
                    ..base
                },
                [1.0, 0.0, 0.0, 0.0],
            ),
            (
                Sampling {
                    temperature: 0.5,
                    ..base
                },
                [0.36, 0.09, 0.0036, 0.0016].map(|w| w / 0.4552),
            ),
        ] {
            for (got, expected) in shares(&sampling, &logits).iter().zip(expected) {
                let room = 4.0 * (expected * (1.0 - expected) / 2e4f64).sqrt();
                assert!(
                    (got - expected).abs() <= room,
                    "{sampling:?}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn of_equal_logits_the_first_stay() {
        let sampling = Sampling {
            top_k: 2,
            ..Sampling::default()
        };
        let shares = shares(&sampling, &[0.0, 1.0, 1.0, 1.0]);
        assert!(shares[0] == 0.0 && shares[3] == 0.0, "{shares:?}");
        assert!(shares[1] > 0.4 && shares[2] > 0.4, "{shares:?}");
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused() {
        let base = Sampling::default();
        let next = |sampling: Sampling, logits: &[f32]| {
            let error = sampling.next(logits, &[], 0, 0).unwrap_err();
            error.to_string()
        };
        assert!(next(base, &[0.0, f32::NAN]).contains("token 1 is NaN"));
        assert!(next(base, &[f32::INFINITY]).contains("token 0 is inf"));
        assert!(next(base, &[]).contains("0 logits"));
        for (sampling, says) in [
            (
                Sampling {
                    temperature: -1.0,
                    ..base
                },
                "temperature is -1",
            ),
            (
                Sampling {
                    temperature: f32::NAN,
                    ..base
                },
                "temperature is NaN",
            ),
            (Sampling { top_p: 0.0, ..base }, "top-p is 0"),
            (Sampling { top_p: 1.5, ..base }, "top-p is 1.5"),
            (
                Sampling {
                    repetition_penalty: 0.0,
                    ..base
                },
                "penalty is 0",
            ),
        ] {
            assert!(next(sampling, &[0.0]).contains(says), "{sampling:?}");
        }
    }

    proptest! {
        #[test]
        fn weights_never_fall(a in -30.0f32..0.0, b in -30.0f32..0.0, t in 0.1f32..4.0) {
            let scale = Sampling { temperature: t, ..Sampling::default() }.scale();
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(weight(less, 0.0, scale) <= weight(more, 0.0, scale));
        }

        #[test]
        fn ranks_order_as_numbers_do(a: f32, b: f32) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(rank(a).cmp(&rank(b)), a.partial_cmp(&b).unwrap());
        }
    }
}
