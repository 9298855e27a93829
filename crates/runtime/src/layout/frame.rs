//! The frame that fla's attention-like families share: embedding, two norms, a gated MLP, head.

use super::LayoutError;
use super::config::Config;
use super::tensors::Tensors;

/// Sizes of the frame.
pub(super) struct Frame {
    /// Entries of the vocabulary.
    pub v: usize,
    /// Width.
    pub c: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the MLP.
    pub i: usize,
    /// Epsilon of every norm.
    pub eps: f64,
}

/// Name of a tensor of layer 0's mixer.
pub(super) fn attn(name: &str) -> String {
    format!("model.layers.0.attn.{name}")
}

impl Frame {
    /// Reads the frame and deals with the options that all its families have. `layers` is their
    /// number without the option.
    pub fn read(
        config: &Config<'_>,
        tensors: &Tensors<'_>,
        layers: usize,
    ) -> Result<Self, LayoutError> {
        let [v, c] = tensors.shape("model.embeddings.weight", "vocabulary and width")?;
        let [i, _] = tensors.shape("model.layers.0.mlp.gate_proj.weight", "width of the MLP")?;
        config.only("hidden_size", &[&c.to_string()])?;
        config.mlp_width(c, i, 2.0 / 3.0, 256)?;
        config.only("hidden_act", &["\"swish\"", "\"silu\""])?;
        config.only("vocab_size", &[&v.to_string()])?;
        // Two implementations of the same norm.
        config.only("fuse_norm", &["true", "false"])?;
        tensors.check_head(config, false)?;
        config.only("attn", &[])?;
        config.only("attnres_block_size", &[])?;
        Ok(Frame {
            v,
            c,
            layers: config.layers(layers)?,
            i,
            eps: config.number("norm_eps", 1e-6)?,
        })
    }
}

/// Taps of the short convolutions, the first of which is the mixer's tensor `name`; without them,
/// what the option says.
pub(super) fn taps(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
    short_conv: bool,
    name: &str,
) -> Result<usize, LayoutError> {
    if !short_conv {
        return config.size_or("conv_size", 4);
    }
    let [_, _, taps] = tensors.shape(&attn(name), "width of the convolutions")?;
    config.only("conv_size", &[&taps.to_string()])?;
    Ok(taps)
}
