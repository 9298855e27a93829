//! What gives the loss of a batch and its derivatives: the interpreter, or kernels.

use super::trainer::TrainError;

/// Loss and derivatives of a language model on some device, with weights of its own copy.
pub trait Evaluator: std::fmt::Debug {
    /// Evaluates one batch of tokens `[batch, length + 1]`, row-major, forwards and backwards.
    fn differentiate(&mut self, tokens: &[i32], batch: usize) -> Result<Sums, TrainError>;

    /// The summed loss of one batch, and the tokens that counted.
    fn loss(&mut self, tokens: &[i32], batch: usize) -> Result<(f64, usize), TrainError>;

    /// The derivatives by the model's parameters, in their order, from what batches contributed.
    fn by_params(&self, params: &[Vec<f32>], sums: &Sums) -> Result<Vec<Vec<f32>>, TrainError>;

    /// Takes the weights of now, in the order of the model's parameters.
    fn bind(&mut self, params: &[Vec<f32>]) -> Result<(), TrainError>;

    /// The first value of the model that is not finite on a batch, in words.
    fn first_non_finite(
        &mut self,
        params: &[Vec<f32>],
        tokens: &[i32],
        batch: usize,
    ) -> Result<Option<String>, TrainError>;
}

/// What batches contribute: sums over their counted tokens.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Of the loss.
    pub loss: f64,
    /// How many counted.
    pub tokens: usize,
    /// Of what each transposed graph sums, in its order.
    pub parts: Vec<Vec<Vec<f32>>>,
}

impl Sums {
    /// Adds those of another batch.
    pub fn add(&mut self, more: &Sums) {
        self.loss += more.loss;
        self.tokens += more.tokens;
        for (to, more) in self.parts.iter_mut().zip(&more.parts) {
            add(to, more);
        }
    }

    /// Makes sums means over the counted tokens.
    pub fn mean(&mut self) {
        let scale = 1.0 / self.tokens.max(1) as f32;
        let all = self.parts.iter_mut().flatten().flatten();
        all.for_each(|x| *x *= scale);
    }
}

/// Adds numbers to numbers, each list to its own.
pub(super) fn add(to: &mut [Vec<f32>], more: &[Vec<f32>]) {
    for (to, more) in to.iter_mut().zip(more) {
        to.iter_mut().zip(more).for_each(|(a, b)| *a += b);
    }
}

/// Inputs and labels of `[batch, length + 1]` tokens.
pub(super) fn parts(tokens: &[i32], batch: usize) -> (Vec<i32>, Vec<f32>) {
    let row = tokens.len() / batch.max(1);
    let mut ids = Vec::new();
    let mut labels = Vec::new();
    for piece in tokens.chunks_exact(row) {
        ids.extend_from_slice(&piece[..row - 1]);
        labels.extend(piece[1..].iter().map(|id| *id as f32));
    }
    (ids, labels)
}

/// Labels that are no token do not count.
pub(super) fn counted(labels: &[f32]) -> usize {
    labels.iter().filter(|label| **label >= 0.0).count()
}
