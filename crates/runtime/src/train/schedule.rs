//! The learning rate of each step.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// How the rate falls after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It stays.
    Constant,
    /// Along a line to the least.
    Linear,
    /// Along half a cosine to the least.
    Cosine,
}

/// The rate of every step of a training of `steps` steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How it falls.
    pub shape: Shape,
    /// The largest rate.
    pub rate: f64,
    /// The rate at the end.
    pub least: f64,
    /// Steps over which it rises from 0 along a line.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
}

impl Schedule {
    /// The rate of a step, the first of which is 1.
    pub fn rate(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.rate * step as f64 / self.warmup as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        let left = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - done,
            Shape::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        };
        match self.shape {
            Shape::Constant => self.rate,
            _ => self.least + (self.rate - self.least) * left,
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "constant" => Ok(Shape::Constant),
            "linear" => Ok(Shape::Linear),
            "cosine" => Ok(Shape::Cosine),
            _ => Err(format!("`{text}` is none of constant, linear, cosine")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Constant => "constant",
            Shape::Linear => "linear",
            Shape::Cosine => "cosine",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let of = |shape| Schedule {
            shape,
            rate: 2.0,
            least: 0.5,
            warmup: 4,
            steps: 12,
        };
        for (shape, step, want) in [
            (Shape::Cosine, 1, 0.5),
            (Shape::Cosine, 4, 2.0),
            (Shape::Cosine, 8, 1.25),
            (Shape::Cosine, 12, 0.5),
            (Shape::Linear, 10, 0.875),
            (Shape::Constant, 12, 2.0),
        ] {
            let got = of(shape).rate(step);
            assert!((got - want).abs() < 1e-12, "{shape} {step}: {got}");
        }
    }
}
