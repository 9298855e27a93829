//! Gated linear attention and retention of fla.

use super::config::Config;
use super::frame::{Frame, attn};
use super::tensors::Tensors;
use super::{Layout, LayoutError, number};

/// Heads, key width and value width per head.
fn heads(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<[usize; 3], LayoutError> {
    let h = config.size("num_heads")?;
    let [k, _] = tensors.shape(&attn("k_proj.weight"), "width of the keys")?;
    let [v, _] = tensors.shape(&attn("v_proj.weight"), "width of the values")?;
    config.only("num_kv_heads", &[&h.to_string()])?;
    config.only("feature_map", &[])?;
    config.only("use_short_conv", &["false"])?;
    config.only("use_output_gate", &["true"])?;
    // The widths are those of the matrices; the convolution is off.
    config.ignore(&["expand_k", "expand_v", "conv_size"]);
    Ok([
        h,
        tensors.divided(&attn("k_proj.weight"), k, h, "heads of equal width")?,
        tensors.divided(&attn("v_proj.weight"), v, h, "heads of equal width")?,
    ])
}

/// GLA.
pub(super) fn gla(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    let [h, k, v] = heads(config, tensors)?;
    let [r, _] = tensors.shape(&attn("gk_proj.0.weight"), "rank of the decay")?;
    config.only("use_gk", &["true"])?;
    config.only("use_gv", &["false"])?;
    config.only("clamp_min", &[])?;
    config.only("gate_low_rank_dim", &[&r.to_string()])?;
    let normalizer = config.number("gate_logit_normalizer", 16.0)?;
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
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("gate_normalizer", number(normalizer)),
        ],
    ))
}

/// RetNet.
pub(super) fn retnet(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    let [h, k, v] = heads(config, tensors)?;
    let pairs = tensors.divided(&attn("k_proj.weight"), k, 2, "rotated in pairs")?;
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
        [("norm_eps", number(frame.eps))],
    ))
}
