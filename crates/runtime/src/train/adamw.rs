//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay
//! regularization", ICLR 2019), with the order of operations of `torch.optim.AdamW`.

use rayon::prelude::*;

/// Elements updated by one thread at a time.
const CHUNK: usize = 1 << 14;

/// What does not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Fraction of the learning rate that a decayed parameter shrinks by per step.
    pub weight_decay: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Rates {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }
}

/// The means of one set of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// See [`Rates`].
    pub rates: Rates,
    /// Steps made.
    pub steps: u64,
    /// Mean of the gradients, per parameter.
    pub first: Vec<Vec<f32>>,
    /// Mean of their squares.
    pub second: Vec<Vec<f32>>,
}

impl AdamW {
    /// Before the first step, for parameters of these sizes.
    pub fn new(rates: Rates, params: &[Vec<f32>]) -> Self {
        let zeros = || params.iter().map(|p| vec![0.0; p.len()]).collect();
        AdamW {
            rates,
            steps: 0,
            first: zeros(),
            second: zeros(),
        }
    }

    /// Makes a step. `decayed` says which parameters shrink.
    pub fn step(
        &mut self,
        params: &mut [Vec<f32>],
        gradients: &[Vec<f32>],
        decayed: &[bool],
        rate: f64,
    ) {
        self.steps += 1;
        let Rates {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.rates;
        let count = self.steps as f64;
        let size = (rate / (1.0 - beta1.powf(count))) as f32;
        let correction = (1.0 - beta2.powf(count)).sqrt() as f32;
        let (keep1, keep2) = (1.0 - beta1, 1.0 - beta2);
        for (k, param) in params.iter_mut().enumerate() {
            let shrink = match decayed[k] {
                true => (1.0 - rate * weight_decay) as f32,
                false => 1.0,
            };
            let means = self.first[k]
                .par_chunks_mut(CHUNK)
                .zip(self.second[k].par_chunks_mut(CHUNK));
            let all = param
                .par_chunks_mut(CHUNK)
                .zip(gradients[k].par_chunks(CHUNK))
                .zip(means);
            all.for_each(|((x, g), (m, v))| {
                for (((x, g), m), v) in x.iter_mut().zip(g).zip(m).zip(v) {
                    *x *= shrink;
                    *m += (*g - *m) * keep1 as f32;
                    *v = *v * beta2 as f32 + *g * *g * keep2 as f32;
                    *x -= size * (*m / (v.sqrt() / correction + eps as f32));
                }
            });
        }
    }
}

/// The L2 norm of a gradient, in f64.
pub fn norm(gradient: &[f32]) -> f64 {
    let squares = gradient.iter().map(|x| f64::from(*x) * f64::from(*x));
    squares.sum::<f64>().sqrt()
}

/// Scales gradients of this norm together so that it is at most `most`, as `torch.nn.utils.clip_grad_norm_`.
pub fn clip(gradients: &mut [Vec<f32>], norm: f64, most: f64) {
    let factor = (most / (norm + 1e-6)).min(1.0) as f32;
    if factor < 1.0 {
        for g in gradients.iter_mut().flatten() {
            *g *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One parameter of two numbers, two steps by hand.
    #[test]
    fn steps_follow_the_paper() {
        let rates = Rates {
            weight_decay: 0.5,
            ..Rates::default()
        };
        let mut params = vec![vec![1.0f32, -2.0], vec![1.0]];
        let mut adam = AdamW::new(rates, &params);
        adam.step(
            &mut params,
            &[vec![0.5, 0.0], vec![0.5]],
            &[true, true],
            0.1,
        );
        // The first step is the rate, whatever the gradient; the decay shrinks before it.
        let close = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-6, "{a} {b}");
        close(params[0][0], 0.95 - 0.1);
        close(params[0][1], -1.9);
        let before = params[1][0];
        adam.step(
            &mut params,
            &[vec![0.0, 0.0], vec![-1.0]],
            &[true, false],
            0.1,
        );
        let m = (0.9 * 0.1 * 0.5 - 0.1) / (1.0 - 0.81);
        let v: f64 = (0.999 * 0.001 * 0.25 + 0.001) / (1.0 - 0.998_001);
        close(params[1][0], f64::from(before) - 0.1 * m / v.sqrt());
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut g = vec![vec![3.0f32], vec![4.0]];
        let n = norm(&g.concat());
        assert_eq!(n, 5.0);
        clip(&mut g, n, 10.0);
        assert_eq!(g, [[3.0], [4.0]]);
        clip(&mut g, n, 1.0);
        assert!((norm(&g.concat()) - 1.0).abs() < 1e-5);
    }
}
