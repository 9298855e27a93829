//! RWKV 6 and 7: the authors' `.pth` files, and the layout of fla.

use super::config::Config;
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number, text};

/// What the authors' code divides the output of a head by; its square multiplies the epsilon of
/// the norm over heads. Not stored in the file.
const HEAD_SIZE_DIVISOR: f64 = 8.0;
const NATIVE_EPS: f64 = 1e-5;
const NATIVE_GN_EPS: &str = "as the authors' code has it";

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
                ("layout", text("native")),
                ("ln_eps", number(NATIVE_EPS)),
                ("gn_eps", number(NATIVE_EPS * HEAD_SIZE_DIVISOR.powi(2))),
            ],
        )
        .assuming("gn_eps", NATIVE_GN_EPS));
    }
    if tensors.has("blocks.0.att.r_k") {
        let [h, n] = tensors.shape("blocks.0.att.r_k", "heads and their width")?;
        let rank = |name: &str| -> Result<usize, LayoutError> {
            let [_, r] = tensors.shape(name, "rank of a low-rank pair")?;
            Ok(r)
        };
        let rv = match layers {
            1 => 1,
            _ => rank("blocks.1.att.v1")?,
        };
        same_width(tensors, c, h * n)?;
        return Ok(Layout::new(
            "rwkv7",
            [
                ("V", v),
                ("L", layers),
                ("H", h),
                ("N", n),
                ("F", f),
                ("Rw", rank("blocks.0.att.w1")?),
                ("Ra", rank("blocks.0.att.a1")?),
                ("Rg", rank("blocks.0.att.g1")?),
                ("Rv", rv),
            ],
            [
                ("layout", text("native")),
                ("ln_eps", number(NATIVE_EPS)),
                ("gn_eps", number(NATIVE_EPS * HEAD_SIZE_DIVISOR.powi(2))),
                ("kk_floor", flag(true)),
            ],
        )
        .assuming("gn_eps", NATIVE_GN_EPS));
    }
    Err(tensors.unrecognised(
        "it looks like RWKV, but is neither version 6 ('att.time_maa_w1') nor 7 ('att.r_k'); \
         earlier versions are not implemented",
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

/// What both versions have in fla: V, number of layers, C. Without the option they have 24 layers.
fn fla(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<[usize; 3], LayoutError> {
    let [v, c] = tensors.shape("model.embeddings.weight", "vocabulary and width")?;
    let layers = config.layers(24)?;
    config.only("vocab_size", &[&v.to_string()])?;
    config.only("hidden_size", &[&c.to_string()])?;
    config.only("attn", &[])?;
    config.only("hidden_act", &["\"sqrelu\""])?;
    config.only("norm_bias", &["true"])?;
    config.only("norm_first", &["true"])?;
    tensors.check_head(config, false)?;
    Ok([v, layers, c])
}

/// RWKV 6 of fla.
pub(super) fn rwkv6(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, layers, c] = fla(config, tensors)?;
    let [h, n] = tensors.shape("model.layers.0.attn.bonus", "heads and their width")?;
    let [f, _] = tensors.shape(
        "model.layers.0.ffn.key.linear.weight",
        "width of the channel mix",
    )?;
    let [rd, _] = tensors.shape(
        "model.layers.0.attn.w_proj.linear.lora.0.weight",
        "rank of the decay",
    )?;
    const SHIFT: &str = "model.layers.0.attn.x_proj.0.linear.weight";
    let [r5, _] = tensors.shape(SHIFT, "five times the rank of the shift")?;
    let r = tensors.divided(SHIFT, r5, 5, "five inputs are mixed")?;
    const VALUE: &str = "model.layers.0.attn.v_proj.linear.weight";
    let [values, _] = tensors.shape(VALUE, "width of the values")?;
    let nv = tensors.divided(VALUE, values, h, "heads of equal width")?;
    config.mlp_width(c, f, 1.0, 32)?;
    config.only("num_heads", &[&h.to_string()])?;
    config.widens("expand_k", c, h * n)?;
    config.widens("expand_v", c, values)?;
    config.only("proj_low_rank_dim", &[&r.to_string()])?;
    config.only("gate_low_rank_dim", &[&rd.to_string()])?;
    // Two implementations of the same norm.
    config.only("fuse_norm", &["true", "false"])?;
    let eps = config.number("norm_eps", 1e-5)?;
    let settings = [
        ("layout", text("fla")),
        ("ln_eps", number(eps)),
        ("gn_eps", number(eps)),
    ];
    if (h * n, values) == (c, c) {
        let axes = [
            ("V", v),
            ("L", layers),
            ("H", h),
            ("N", n),
            ("F", f),
            ("R", r),
            ("Rd", rd),
        ];
        return Ok(Layout::new("rwkv6", axes, settings));
    }
    Ok(Layout::new(
        "rwkv6-expanded",
        [
            ("V", v),
            ("L", layers),
            ("C", c),
            ("H", h),
            ("N", n),
            ("Nv", nv),
            ("F", f),
            ("R", r),
            ("Rd", rd),
        ],
        settings,
    ))
}

/// RWKV 7 of fla.
pub(super) fn rwkv7(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, layers, c] = fla(config, tensors)?;
    let [h, n] = tensors.shape("model.layers.0.attn.r_k", "heads and their width")?;
    let [f, _] = tensors.shape("model.layers.0.ffn.key.weight", "width of the channel mix")?;
    config.mlp_width(c, f, 1.0, 32)?;
    let rank = |layer: usize, which: &str| -> Result<usize, LayoutError> {
        let name = format!("model.layers.{layer}.attn.{which}_lora.lora.0.weight");
        let [r, _] = tensors.shape(&name, "rank of a low-rank pair")?;
        Ok(r)
    };
    let (rw, ra, rg) = (rank(0, "w")?, rank(0, "a")?, rank(0, "g")?);
    let rv = match layers {
        1 => 1,
        _ => rank(1, "v")?,
    };
    // The public class takes the number of heads from the width of one, if that is given.
    match config.has("head_dim") {
        true => {
            config.only("head_dim", &[&n.to_string()])?;
            config.ignore(&["num_heads"]);
        }
        false => config.only("num_heads", &[&h.to_string()])?,
    }
    for (option, rank) in [
        ("decay_low_rank_dim", rw),
        ("a_low_rank_dim", ra),
        ("gate_low_rank_dim", rg),
    ] {
        config.only(option, &[&rank.to_string()])?;
    }
    match layers {
        // The first layer has no values to mix in.
        1 => config.ignore(&["v_low_rank_dim"]),
        _ => config.only("v_low_rank_dim", &[&rv.to_string()])?,
    }
    // One width of the values for all layers, that of the model.
    config.only(
        "value_dim",
        &[&c.to_string(), &format!("{:?}", vec![c; layers])],
    )?;
    same_width(tensors, c, h * n)?;
    let eps = config.number("norm_eps", 1e-5)?;
    let fused = config.flag("fuse_norm", true)?;
    Ok(Layout::new(
        "rwkv7",
        [
            ("V", v),
            ("L", layers),
            ("H", h),
            ("N", n),
            ("F", f),
            ("Rw", rw),
            ("Ra", ra),
            ("Rg", rg),
            ("Rv", rv),
        ],
        [
            ("layout", text("fla")),
            ("ln_eps", number(eps)),
            ("gn_eps", number(eps * n as f64)),
            ("kk_floor", flag(!fused)),
        ],
    ))
}
