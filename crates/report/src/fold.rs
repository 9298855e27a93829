//! Launches by layer, equal layers once.

use fusec_fuse::Kernel;

/// Consecutive kernels of one layer (or of none), and of the layers right after it that have the same.
#[derive(Debug)]
pub(crate) struct Folded<'a> {
    /// Index of the first kernel in the plan.
    pub first: usize,
    /// The kernels of one of these layers.
    pub kernels: &'a [Kernel],
    /// The layers; empty outside of them.
    pub layers: Vec<u32>,
    /// How many times they are run.
    pub times: usize,
    /// Where they are if they are of no layer.
    place: &'static str,
}

impl Folded<'_> {
    /// In words: `layers 1 to 6`.
    pub fn title(&self) -> String {
        match &self.layers[..] {
            [] => self.place.into(),
            [one] => format!("layer {one}"),
            [first, .., last] => format!("layers {first} to {last}"),
        }
    }
}

/// Folds the kernels of a plan. Kernels of equal name are equal.
pub(crate) fn fold(kernels: &[Kernel]) -> Vec<Folded<'_>> {
    let mut out: Vec<Folded<'_>> = Vec::new();
    let has_layers = kernels.iter().any(|kernel| kernel.layer.is_some());
    let more_layers = |from: usize| kernels[from..].iter().any(|kernel| kernel.layer.is_some());
    let mut first = 0;
    for run in kernels.chunk_by(|a, b| a.layer == b.layer) {
        let layer = run.first().and_then(|kernel| kernel.layer);
        let alike = |last: &Folded<'_>| {
            let names = |of: &[Kernel]| of.iter().map(|k| k.name.clone()).collect::<Vec<_>>();
            layer.is_some() && !last.layers.is_empty() && names(last.kernels) == names(run)
        };
        match out.last_mut() {
            Some(last) if alike(last) => {
                last.layers.extend(layer);
                last.times += 1;
            }
            _ => out.push(Folded {
                first,
                kernels: run,
                layers: layer.into_iter().collect(),
                times: 1,
                place: match (has_layers, first, more_layers(first + run.len())) {
                    (false, _, _) => "the model",
                    (true, 0, _) => "before the layers",
                    (true, _, true) => "between the layers",
                    (true, _, false) => "after the layers",
                },
            }),
        }
        first += run.len();
    }
    out
}
