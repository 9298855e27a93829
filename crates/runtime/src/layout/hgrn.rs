//! HGRN and HGRN 2 of fla.

use super::config::Config;
use super::frame::{Frame, attn, taps};
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number};

/// HGRN.
pub(super) fn hgrn(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let [d, _] = tensors.shape(&attn("f_proj.weight"), "width of the state")?;
    let short_conv = config.flag("use_short_conv", false)?;
    let taps = taps(config, tensors, short_conv, "f_conv1d.weight")?;
    config.widens("expand_ratio", frame.c, d)?;
    Ok(Layout::new(
        "hgrn",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("D", d),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("bounded", flag(config.flag("use_lower_bound", true)?)),
            ("short_conv", flag(short_conv)),
            ("affine", flag(config.flag("elementwise_affine", true)?)),
        ],
    ))
}

/// HGRN 2. The public class takes the number of heads from the width of a head if that is given,
/// and `num_heads` only if it is null.
pub(super) fn hgrn2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let [forget, _] = tensors.shape(&attn("f_proj.weight"), "width of the keys")?;
    let [inputs, _] = tensors.shape(&attn("i_proj.weight"), "width of the values")?;
    let (k, h) = if config.has("expand_ratio") || !config.has("num_heads") {
        config.ignore(&["num_heads"]);
        let k = config.size_or("expand_ratio", 128)?;
        let heads = tensors.divided(&attn("f_proj.weight"), forget, k, "heads of equal width")?;
        (k, heads)
    } else {
        let h = config.size("num_heads")?;
        let k = tensors.divided(&attn("f_proj.weight"), forget, h, "heads of equal width")?;
        (k, h)
    };
    let d = tensors.divided(&attn("i_proj.weight"), inputs, h, "heads of equal width")?;
    let short_conv = config.flag("use_short_conv", false)?;
    let taps = taps(config, tensors, short_conv, "q_conv1d.weight")?;
    Ok(Layout::new(
        "hgrn2",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("H", h),
            ("Dk", k),
            ("Dv", d),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("bounded", flag(config.flag("use_lower_bound", true)?)),
            ("short_conv", flag(short_conv)),
            ("affine", flag(config.flag("elementwise_affine", true)?)),
        ],
    ))
}
