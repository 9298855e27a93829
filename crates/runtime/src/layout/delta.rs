//! DeltaNet, Gated DeltaNet and Kimi Delta Attention of fla.

use super::config::Config;
use super::frame::{Frame, attn};
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number};

/// Key heads, value heads, key width, value width, taps of the convolutions.
fn heads(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<[usize; 5], LayoutError> {
    let h = config.size("num_heads")?;
    let hv = config.optional_size("num_v_heads")?.unwrap_or(h);
    let [k, _] = tensors.shape(&attn("k_proj.weight"), "width of the keys")?;
    let [v, _] = tensors.shape(&attn("v_proj.weight"), "width of the values")?;
    let [_, _, taps] = tensors.shape(&attn("k_conv1d.weight"), "width of the convolutions")?;
    config.only("conv_size", &[&taps.to_string()])?;
    config.only("use_short_conv", &["true"])?;
    // The widths are those of the matrices.
    config.ignore(&["expand_k", "expand_v"]);
    Ok([
        h,
        hv,
        tensors.divided(&attn("k_proj.weight"), k, h, "heads of equal width")?,
        tensors.divided(&attn("v_proj.weight"), v, hv, "heads of equal width")?,
        taps,
    ])
}

/// DeltaNet.
pub(super) fn deltanet(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    let [h, _, k, v, taps] = heads(config, tensors)?;
    config.only("num_v_heads", &[&h.to_string()])?;
    config.only("qk_activation", &["\"silu\""])?;
    config.only("qk_norm", &["\"l2\""])?;
    config.only("use_beta", &["true"])?;
    let gated = config.flag("use_gate", false)?;
    config.only("use_output_norm", &["true"])?;
    let negative = config.flag("allow_neg_eigval", false)?;
    Ok(Layout::new(
        "deltanet",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Dk", k),
            ("Dv", v),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("neg_eigval", flag(negative)),
            ("gated", flag(gated)),
        ],
    ))
}

/// Gated DeltaNet.
pub(super) fn gated_deltanet(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    let [h, hv, k, v, taps] = heads(config, tensors)?;
    let per = tensors.divided(&attn("v_proj.weight"), hv, h, "value heads per key head")?;
    config.only("head_dim", &[&k.to_string()])?;
    config.only("use_gate", &["true"])?;
    config.only("output_gate_activation", &["\"swish\"", "\"silu\""])?;
    let negative = config.flag("allow_neg_eigval", false)?;
    Ok(Layout::new(
        "gated-deltanet",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Gv", per),
            ("Dk", k),
            ("Dv", v),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("neg_eigval", flag(negative)),
        ],
    ))
}

/// Kimi Delta Attention.
pub(super) fn kda(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    let [h, hv, k, v, taps] = heads(config, tensors)?;
    let per = tensors.divided(&attn("v_proj.weight"), hv, h, "value heads per key head")?;
    config.only("head_dim", &[&k.to_string()])?;
    config.only("safe_gate", &["true", "false"])?;
    let negative = config.flag("allow_neg_eigval", false)?;
    // Null is the unbounded decay, which the model text spells 0.
    let bound = config.number("lower_bound", 0.0)?;
    if config.has("lower_bound") && !(bound < 0.0 && bound.is_finite()) {
        return Err(config.unimplemented("lower_bound", "a number below 0"));
    }
    Ok(Layout::new(
        "kda",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Gv", per),
            ("Dk", k),
            ("Dv", v),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("neg_eigval", flag(negative)),
            ("lower_bound", number(bound)),
        ],
    ))
}
