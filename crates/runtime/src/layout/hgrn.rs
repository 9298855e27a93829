//! HGRN and HGRN 2 of fla.

use super::config::Config;
use super::frame::{Frame, attn};
use super::tensors::Tensors;
use super::{Layout, LayoutError, number};

/// What both have: no convolution, and lower bounds of the forget gates that are learnt.
fn common(config: &Config<'_>) -> Result<(), LayoutError> {
    config.only("use_short_conv", &["false"])?;
    config.only("use_lower_bound", &["true"])?;
    config.ignore(&["conv_size"]);
    Ok(())
}

/// HGRN.
pub(super) fn hgrn(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    common(config)?;
    let [d, _] = tensors.shape(&attn("f_proj.weight"), "width of the state")?;
    // The width is that of the matrix.
    config.ignore(&["expand_ratio"]);
    Ok(Layout::new(
        "hgrn",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("D", d),
        ],
        [("norm_eps", number(frame.eps))],
    ))
}

/// HGRN 2.
pub(super) fn hgrn2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors)?;
    common(config)?;
    let [forget, _] = tensors.shape(&attn("f_proj.weight"), "width of the keys")?;
    let [inputs, _] = tensors.shape(&attn("i_proj.weight"), "width of the values")?;
    let h = config.size("num_heads")?;
    let k = tensors.divided(&attn("f_proj.weight"), forget, h, "heads of equal width")?;
    let d = tensors.divided(&attn("i_proj.weight"), inputs, h, "heads of equal width")?;
    config.only("expand_ratio", &[&k.to_string()])?;
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
        ],
        [("norm_eps", number(frame.eps))],
    ))
}
