//! Robust least squares with bounds: Levenberg and Marquardt's method with numeric derivatives.
//!
//! Lives here: the method. Never here: what is fitted. Same input, same steps, same result.

/// A residual beyond which its weight falls.
const ROBUST: f64 = 0.2;
/// How strongly an unknown is drawn to the middle of its range.
const DRAWN: f64 = 0.1;
/// Sweeps along one unknown after the other before derivatives are followed: the residuals have kinks.
const SWEEPS: usize = 3;
/// First step of a sweep.
const FIRST_STEP: f64 = 0.5;
/// Steps along derivatives, at most.
const STEPS: usize = 40;
/// Distance over which derivatives are taken.
const APART: f64 = 0.02;
/// Tries to damp one step until it improves.
const TRIES: usize = 8;
/// Part of the sum below which an improvement is the last.
const LEAST_GAIN: f64 = 1e-5;

/// Where the sum is least.
pub struct Solution {
    /// The unknowns, each from -1 to 1.
    pub at: Vec<f64>,
    /// For each unknown the largest derivative of a residual, by its size.
    pub part: Vec<f64>,
}

/// Finds `unknowns` numbers from -1 to 1 for which the residuals are small, starting at 0.
pub fn solve(unknowns: usize, residuals: &dyn Fn(&[f64]) -> Vec<f64>) -> Solution {
    let mut best = Point::at(vec![0.0; unknowns], residuals);
    sweep(&mut best, residuals);
    let mut damping = 1e-2;
    let mut slopes = derivatives(&best, residuals);
    for _ in 0..STEPS {
        let Some(next) = step(&best, &slopes, &mut damping, residuals) else {
            break;
        };
        let last = best.sum - next.sum < LEAST_GAIN * best.sum;
        best = next;
        slopes = derivatives(&best, residuals);
        if last {
            break;
        }
    }
    let largest = |slopes: &Vec<f64>| slopes.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    Solution {
        part: slopes.iter().map(largest).collect(),
        at: best.at,
    }
}

struct Point {
    at: Vec<f64>,
    residuals: Vec<f64>,
    /// What is to be small.
    sum: f64,
}

impl Point {
    fn at(at: Vec<f64>, residuals: &dyn Fn(&[f64]) -> Vec<f64>) -> Point {
        let residuals = residuals(&at);
        // Square for small residuals, in proportion for large ones.
        let of = |r: &f64| 2.0 * ROBUST * ROBUST * ((1.0 + (r / ROBUST).powi(2)).sqrt() - 1.0);
        let drawn: f64 = at.iter().map(|u| (DRAWN * u).powi(2)).sum();
        let sum = residuals.iter().map(of).sum::<f64>() + drawn;
        Point { at, residuals, sum }
    }

    fn with(&self, i: usize, value: f64) -> Vec<f64> {
        let mut at = self.at.clone();
        if let Some(of) = at.get_mut(i) {
            *of = value;
        }
        at
    }
}

/// Moves along one unknown after the other, by halves of what did not help.
fn sweep(best: &mut Point, residuals: &dyn Fn(&[f64]) -> Vec<f64>) {
    let mut steps = vec![FIRST_STEP; best.at.len()];
    for _ in 0..SWEEPS {
        for (i, step) in steps.iter_mut().enumerate() {
            let from = best.at[i];
            let moved = [*step, -*step].into_iter().find_map(|by| {
                let to = (from + by).clamp(-1.0, 1.0);
                let point = (to != from).then(|| Point::at(best.with(i, to), residuals));
                point.filter(|point| point.sum < best.sum)
            });
            match moved {
                Some(point) => *best = point,
                None => *step /= 2.0,
            }
        }
    }
}

/// For each unknown the derivatives of all residuals.
fn derivatives(point: &Point, residuals: &dyn Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
    let of = |(i, u): (usize, &f64)| {
        let by = if *u + APART <= 1.0 { APART } else { -APART };
        let moved = residuals(&point.with(i, u + by));
        let pairs = moved.iter().zip(&point.residuals);
        pairs.map(|(there, here)| (there - here) / by).collect()
    };
    point.at.iter().enumerate().map(of).collect()
}

/// A damped step that improves, or none.
fn step(
    point: &Point,
    slopes: &[Vec<f64>],
    damping: &mut f64,
    residuals: &dyn Fn(&[f64]) -> Vec<f64>,
) -> Option<Point> {
    let weight = |r: &f64| 1.0 / (1.0 + (r / ROBUST).powi(2)).sqrt();
    let weights: Vec<f64> = point.residuals.iter().map(weight).collect();
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let terms = a.iter().zip(b).zip(&weights);
        terms.map(|((a, b), w)| a * b * w).sum()
    };
    let drawn = DRAWN * DRAWN;
    let gradient: Vec<f64> = (slopes.iter().zip(&point.at))
        .map(|(slope, u)| product(slope, &point.residuals) + drawn * u)
        .collect();
    // An unknown at the end of its range that wants to leave it stays.
    let free: Vec<usize> = (0..point.at.len())
        .filter(|i| {
            let (u, g) = (point.at[*i], gradient[*i]);
            !(u <= -1.0 && g > 0.0 || u >= 1.0 && g < 0.0)
        })
        .collect();
    let curvature: Vec<Vec<f64>> = free
        .iter()
        .map(|i| {
            free.iter()
                .map(|j| product(&slopes[*i], &slopes[*j]))
                .collect()
        })
        .collect();
    for _ in 0..TRIES {
        let mut matrix = curvature.clone();
        for (k, row) in matrix.iter_mut().enumerate() {
            row[k] = (row[k] + drawn) * (1.0 + *damping);
        }
        let right: Vec<f64> = free.iter().map(|i| -gradient[*i]).collect();
        let by = solve_linear(matrix, right);
        let mut at = point.at.clone();
        for (i, by) in free.iter().zip(by) {
            at[*i] = (at[*i] + by).clamp(-1.0, 1.0);
        }
        let next = Point::at(at, residuals);
        if next.sum < point.sum {
            *damping = (*damping / 3.0).max(1e-6);
            return Some(next);
        }
        *damping *= 4.0;
    }
    None
}

/// The solution of a system of equations whose matrix is positive definite.
fn solve_linear(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for k in 0..n {
        let (above, below) = matrix.split_at_mut(k + 1);
        let pivot = &above[k];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[k] / pivot[k];
            for (to, from) in row[k..].iter_mut().zip(&pivot[k..]) {
                *to -= factor * from;
            }
            right[k + 1 + offset] -= factor * right[k];
        }
    }
    for k in (0..n).rev() {
        let known = matrix[k][k + 1..].iter().zip(&right[k + 1..]);
        let rest: f64 = known.map(|(a, x)| a * x).sum();
        right[k] = (right[k] - rest) / matrix[k][k];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_of_equations() {
        let matrix = vec![
            vec![4.0, 1.0, 0.0],
            vec![1.0, 3.0, 1.0],
            vec![0.0, 1.0, 2.0],
        ];
        let x = solve_linear(matrix, vec![6.0, 10.0, 8.0]);
        for (got, expected) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((got - expected).abs() < 1e-12, "{x:?}");
        }
    }

    #[test]
    fn unknowns_are_found_within_their_range_in_spite_of_a_wild_measurement() {
        // A sum of two curves with a kink; one of the measurements is far off.
        let truth = [0.3, 0.6];
        let curve = |u: &[f64], x: f64| (u[0] * x).max(u[1] * x * x - 0.2) + u[1];
        let residuals = |u: &[f64]| -> Vec<f64> {
            (0..40)
                .map(|i| {
                    let x = f64::from(i) / 20.0;
                    let wild = if i == 17 { 5.0 } else { 0.0 };
                    curve(u, x) - curve(&truth, x) - wild
                })
                .collect()
        };
        let found = solve(2, &residuals);
        for (got, expected) in found.at.iter().zip(truth) {
            assert!((got - expected).abs() < 0.05, "{:?}", found.at);
        }
        assert!(found.part.iter().all(|part| *part > 0.1));
    }

    #[test]
    fn what_nothing_depends_on_stays_in_the_middle() {
        let found = solve(2, &|u| vec![u[0] - 0.5, 2.0 * u[0] - 1.0]);
        assert!((found.at[0] - 0.5).abs() < 0.02, "{:?}", found.at);
        assert_eq!((found.at[1], found.part[1]), (0.0, 0.0));
    }
}
