//! The middle of some measurements, and how far they lie apart.

use serde::{Deserialize, Serialize};

/// Quantiles of measurements, in their unit. A quantile lies between two measurements where it
/// must: linear interpolation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half are below.
    pub median: f64,
    /// A tenth are below.
    pub p10: f64,
    /// A tenth are above.
    pub p90: f64,
    /// The smallest.
    pub least: f64,
    /// How many measurements.
    pub runs: usize,
}

impl Spread {
    /// Of some measurements; all zero if there are none.
    pub fn of(measured: &[f32]) -> Self {
        let mut sorted: Vec<f64> = measured.iter().map(|x| f64::from(*x)).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = q * sorted.len().saturating_sub(1) as f64;
            let below = sorted.get(at as usize).copied().unwrap_or(0.0);
            let above = sorted.get(at.ceil() as usize).copied().unwrap_or(below);
            below + (above - below) * at.fract()
        };
        Spread {
            median: quantile(0.5),
            p10: quantile(0.1),
            p90: quantile(0.9),
            least: quantile(0.0),
            runs: sorted.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_measurements_where_they_must() {
        for (measured, median, p10, p90) in [
            (vec![], 0.0, 0.0, 0.0),
            (vec![3.0], 3.0, 3.0, 3.0),
            (vec![4.0, 2.0], 3.0, 2.2, 3.8),
            (vec![5.0, 1.0, 3.0, 2.0, 4.0], 3.0, 1.4, 4.6),
        ] {
            let spread = Spread::of(&measured);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(near(spread.median, median), "{measured:?} {spread:?}");
            assert!(near(spread.p10, p10), "{measured:?} {spread:?}");
            assert!(near(spread.p90, p90), "{measured:?} {spread:?}");
            assert_eq!(spread.runs, measured.len());
        }
    }
}
