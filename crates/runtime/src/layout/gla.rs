//! Gated linear attention and retention of fla.

use super::config::Config;
use super::frame::{Frame, attn, taps};
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number};

/// Heads, key width and value width per head of a model `c` wide; `heads` is their number without
/// the option.
fn heads(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
    c: usize,
    heads: usize,
) -> Result<[usize; 3], LayoutError> {
    let h = config.size_or("num_heads", heads)?;
    let [k, _] = tensors.shape(&attn("q_proj.weight"), "width of the queries")?;
    let [_, v] = tensors.shape(&attn("o_proj.weight"), "width of the values")?;
    config.only("num_kv_heads", &[&h.to_string()])?;
    config.only("feature_map", &[])?;
    config.widens("expand_k", c, k)?;
    config.widens("expand_v", c, v)?;
    Ok([
        h,
        tensors.divided(&attn("q_proj.weight"), k, h, "heads of equal width")?,
        tensors.divided(&attn("o_proj.weight"), v, h, "heads of equal width")?,
    ])
}

/// GLA.
pub(super) fn gla(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let [h, k, v] = heads(config, tensors, frame.c, 4)?;
    let [r, _] = tensors.shape(&attn("gk_proj.0.weight"), "rank of the decay")?;
    config.only("use_gk", &["true"])?;
    config.only("use_gv", &["false"])?;
    config.only("gate_low_rank_dim", &[&r.to_string()])?;
    let normalizer = config.number("gate_logit_normalizer", 16.0)?;
    let clamp = config.number("clamp_min", f64::NEG_INFINITY)?;
    let short_conv = config.flag("use_short_conv", false)?;
    let taps = taps(config, tensors, short_conv, "q_conv1d.weight")?;
    Ok(Layout::new(
        "gla",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Dk", k),
            ("Dv", v),
            ("R", r),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("gate_normalizer", number(normalizer)),
            ("log_decay_min", number(clamp)),
            ("short_conv", flag(short_conv)),
            ("gated", flag(config.flag("use_output_gate", true)?)),
            ("affine", flag(config.flag("elementwise_affine", true)?)),
        ],
    ))
}

/// RetNet.
pub(super) fn retnet(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let [h, k, v] = heads(config, tensors, frame.c, 8)?;
    let pairs = tensors.divided(&attn("q_proj.weight"), k, 2, "rotated in pairs")?;
    // The public class has these options and no convolution whatever they say.
    config.ignore(&["use_short_conv", "conv_size"]);
    Ok(Layout::new(
        "retnet",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Dr", pairs),
            ("Dv", v),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("gated", flag(config.flag("use_output_gate", true)?)),
            ("affine", flag(config.flag("elementwise_affine", true)?)),
        ],
    ))
}
