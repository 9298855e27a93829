//! Linear attention with a feature map, of fla.

use super::config::Config;
use super::frame::{Frame, attn};
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number, text};

/// The feature maps that the model text has.
const FEATURES: [&str; 6] = [
    "elementwise_product",
    "hedgehog",
    "t2r",
    "elu",
    "relu",
    "identity",
];

/// Linear attention.
pub(super) fn linear_attention(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let heads = config.size_or("num_heads", 4)?;
    let shared = config.size_or("num_kv_heads", heads)?;
    if !heads.is_multiple_of(shared) {
        let implemented = format!("a divisor of the {heads} of 'num_heads'");
        return Err(config.unimplemented("num_kv_heads", implemented));
    }
    let (queries, out) = (attn("q_proj.weight"), attn("o_proj.weight"));
    let [k, _] = tensors.shape(&queries, "width of the queries")?;
    let [_, v] = tensors.shape(&out, "width of the values")?;
    config.widens("expand_k", frame.c, k)?;
    config.widens("expand_v", frame.c, v)?;
    let features = config.word("feature_map", FEATURES[0], &FEATURES)?;
    // Where queries and keys have one map it is stored once, and read for both.
    config.ignore(&["tie_feature_map_qk"]);
    let equal = "heads of equal width";
    Ok(Layout::new(
        "linear-attention",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("G", shared),
            ("Q", heads / shared),
            ("Dk", tensors.divided(&queries, k, heads, equal)?),
            ("Part", if features == "hedgehog" { 2 } else { 1 }),
            ("Dv", tensors.divided(&out, v, heads, equal)?),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("features", text(features)),
            ("normalised", flag(config.flag("norm_feature_map", false)?)),
            ("norm_q", flag(config.flag("norm_q", false)?)),
            ("norm_k", flag(config.flag("norm_k", false)?)),
            ("affine", flag(config.flag("elementwise_affine", true)?)),
        ],
    ))
}
