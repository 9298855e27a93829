//! RWKV 6: the authors' `.pth` files.

use super::tensors::Tensors;
use super::{Layout, LayoutError, number};

/// What the authors' code divides the output of a head by; its square multiplies the epsilon of
/// the norm over heads. Not stored in the file.
const HEAD_SIZE_DIVISOR: f64 = 8.0;
const NATIVE_EPS: f64 = 1e-5;

/// A `.pth` of the authors. It has no configuration: everything is in names and shapes.
pub(super) fn native(tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c] = tensors
        .shape("emb.weight", "vocabulary and width")
        .map_err(|_| {
            tensors.unrecognised(
                "there is no config.json, and no tensor 'emb.weight' as RWKV's own files have",
            )
        })?;
    let layers = tensors.layers("blocks.")?;
    let [f, _] = tensors.shape("blocks.0.ffn.key.weight", "width of the channel mix")?;
    if tensors.has("blocks.0.att.time_maa_w1") {
        let [h, n] = tensors.shape("blocks.0.att.time_faaaa", "heads and their width")?;
        let [_, r, _] = tensors.shape("blocks.0.att.time_maa_w2", "rank of the shift")?;
        let [_, rd] = tensors.shape("blocks.0.att.time_decay_w1", "rank of the decay")?;
        same_width(tensors, c, h * n)?;
        return Ok(Layout::new(
            "rwkv6",
            [
                ("V", v),
                ("L", layers),
                ("H", h),
                ("N", n),
                ("F", f),
                ("R", r),
                ("Rd", rd),
            ],
            [
                ("ln_eps", number(NATIVE_EPS)),
                ("gn_eps", number(NATIVE_EPS * HEAD_SIZE_DIVISOR.powi(2))),
            ],
        ));
    }
    Err(tensors.unrecognised(
        "it looks like RWKV, but is not version 6 (no 'att.time_maa_w1'); other versions are not implemented",
    ))
}

fn same_width(tensors: &Tensors<'_>, width: usize, heads: usize) -> Result<(), LayoutError> {
    if width == heads {
        return Ok(());
    }
    Err(tensors.unrecognised(format!(
        "the width of 'emb.weight' is {width}, heads times head width is {heads}"
    )))
}
