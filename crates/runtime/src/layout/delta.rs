//! DeltaNet, Gated DeltaNet, Gated DeltaProduct, Comba and Kimi Delta Attention of fla.

use super::config::Config;
use super::frame::{Frame, attn, taps};
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number, text};

/// Sizes that all have.
struct Heads {
    /// Key heads.
    keys: usize,
    /// Value heads.
    values: usize,
    /// Key width of a head.
    k: usize,
    /// Value width of a head.
    v: usize,
    /// Whether there are short convolutions.
    short_conv: bool,
    /// Taps of the convolutions.
    taps: usize,
}

/// Reads them; `heads` is the number of key heads without the option.
fn heads(config: &Config<'_>, tensors: &Tensors<'_>, heads: usize) -> Result<Heads, LayoutError> {
    let keys = config.size_or("num_heads", heads)?;
    let values = config.size_or("num_v_heads", keys)?;
    let [k, _] = tensors.shape(&attn("k_proj.weight"), "width of the keys")?;
    let [v, _] = tensors.shape(&attn("v_proj.weight"), "width of the values")?;
    let short_conv = config.flag("use_short_conv", true)?;
    Ok(Heads {
        keys,
        values,
        k: tensors.divided(&attn("k_proj.weight"), k, keys, "heads of equal width")?,
        v: tensors.divided(&attn("v_proj.weight"), v, values, "heads of equal width")?,
        short_conv,
        taps: taps(config, tensors, short_conv, "k_conv1d.weight")?,
    })
}

/// What models have in common whose value heads share key heads.
struct Grouped {
    eps: f64,
    short_conv: bool,
    axes: [(&'static str, usize); 9],
}

impl Grouped {
    /// With so many layers and heads where the config leaves them open.
    fn read(
        config: &Config<'_>,
        tensors: &Tensors<'_>,
        layers: usize,
        key_heads: usize,
    ) -> Result<Self, LayoutError> {
        let frame = Frame::read(config, tensors, layers)?;
        let heads = heads(config, tensors, key_heads)?;
        if !heads.values.is_multiple_of(heads.keys) {
            let implemented = format!("a multiple of the {} of 'num_heads'", heads.keys);
            return Err(config.unimplemented("num_v_heads", implemented));
        }
        config.only("head_dim", &[&heads.k.to_string()])?;
        config.widens("expand_v", heads.k, heads.v)?;
        Ok(Grouped {
            eps: frame.eps,
            short_conv: heads.short_conv,
            axes: [
                ("V", frame.v),
                ("C", frame.c),
                ("L", frame.layers),
                ("I", frame.i),
                ("H", heads.keys),
                ("Gv", heads.values / heads.keys),
                ("Dk", heads.k),
                ("Dv", heads.v),
                ("K", heads.taps),
            ],
        })
    }
}

/// DeltaNet.
pub(super) fn deltanet(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 24)?;
    let heads = heads(config, tensors, 16)?;
    config.only("num_v_heads", &[&heads.keys.to_string()])?;
    config.widens("expand_k", frame.c, heads.keys * heads.k)?;
    config.widens("expand_v", frame.c, heads.values * heads.v)?;
    let activation = ["silu", "relu", "elu", "identity"];
    let activation = config.word("qk_activation", "silu", &activation)?;
    let norm = config.word("qk_norm", "l2", &["l2", "sum"])?;
    let learnt_beta = config.flag("use_beta", true)?;
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
            ("H", heads.keys),
            ("Dk", heads.k),
            ("Dv", heads.v),
            ("K", heads.taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("neg_eigval", flag(negative)),
            ("gated", flag(gated)),
            ("learnt_beta", flag(learnt_beta)),
            ("short_conv", flag(heads.short_conv)),
            ("qk_activation", text(activation)),
            ("qk_norm", text(norm)),
        ],
    ))
}

/// Gated DeltaNet.
pub(super) fn gated_deltanet(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
) -> Result<Layout, LayoutError> {
    let grouped = Grouped::read(config, tensors, 21, 6)?;
    let gated = config.flag("use_gate", true)?;
    let gate = ["swish", "silu", "sigmoid"];
    let gate = match config.word("output_gate_activation", "swish", &gate)? {
        _ if !gated => "none",
        "sigmoid" => "sigmoid",
        _ => "silu",
    };
    let negative = config.flag("allow_neg_eigval", false)?;
    Ok(Layout::new(
        "gated-deltanet",
        grouped.axes,
        [
            ("norm_eps", number(grouped.eps)),
            ("neg_eigval", flag(negative)),
            ("short_conv", flag(grouped.short_conv)),
            ("gate", text(gate)),
        ],
    ))
}

/// Gated DeltaProduct.
pub(super) fn deltaproduct(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
) -> Result<Layout, LayoutError> {
    let frame = Frame::read(config, tensors, 21)?;
    let heads = config.size_or("num_heads", 6)?;
    let updates = config.size_or("num_householder", 1)?;
    let [k, _] = tensors.shape(&attn("q_proj.weight"), "width of the queries")?;
    let [_, v] = tensors.shape(&attn("o_proj.weight"), "width of the values")?;
    let [rows, _] = tensors.shape(&attn("k_proj.weight"), "keys of all updates")?;
    if updates.checked_mul(k) != Some(rows) {
        let implemented = format!("{}, as the tensors say", rows as f64 / k as f64);
        return Err(config.unimplemented("num_householder", implemented));
    }
    let equal = "heads of equal width";
    let key = tensors.divided(&attn("q_proj.weight"), k, heads, equal)?;
    let value = tensors.divided(&attn("o_proj.weight"), v, heads, equal)?;
    config.only("head_dim", &[&key.to_string()])?;
    config.widens("expand_v", key, value)?;
    let short_conv = config.flag("use_short_conv", true)?;
    let taps = taps(config, tensors, short_conv, "k_conv1d.weight")?;
    let negative = config.flag("allow_neg_eigval", false)?;
    Ok(Layout::new(
        "deltaproduct",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("I", frame.i),
            ("M", updates),
            ("H", heads),
            ("Dk", key),
            ("Dv", value),
            ("K", taps),
        ],
        [
            ("norm_eps", number(frame.eps)),
            ("forget", flag(config.flag("use_forget_gate", false)?)),
            ("neg_eigval", flag(negative)),
            ("short_conv", flag(short_conv)),
            ("gated", flag(config.flag("use_output_gate", true)?)),
        ],
    ))
}

/// Comba.
pub(super) fn comba(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let grouped = Grouped::read(config, tensors, 21, 6)?;
    // The class has both the shortened key and the corrected query whatever these say.
    config.ignore(&[
        "correction_factor",
        "use_inner_decay",
        "use_output_correction",
    ]);
    Ok(Layout::new(
        "comba",
        grouped.axes,
        [
            ("norm_eps", number(grouped.eps)),
            ("short_conv", flag(grouped.short_conv)),
            ("gated", flag(config.flag("use_output_gate", true)?)),
        ],
    ))
}

/// Kimi Delta Attention.
pub(super) fn kda(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let grouped = Grouped::read(config, tensors, 24, 16)?;
    // Another implementation of the bounded decay, which the public class wants a bound for.
    if config.flag("safe_gate", false)? && !config.has("lower_bound") {
        return Err(config.unimplemented("safe_gate", "false where 'lower_bound' is null"));
    }
    let negative = config.flag("allow_neg_eigval", false)?;
    // Null is the unbounded decay, which the model text spells 0.
    let bound = config.number("lower_bound", 0.0)?;
    if config.has("lower_bound") && !(bound < 0.0 && bound.is_finite()) {
        return Err(config.unimplemented("lower_bound", "a number below 0"));
    }
    Ok(Layout::new(
        "kda",
        grouped.axes,
        [
            ("norm_eps", number(grouped.eps)),
            ("neg_eigval", flag(negative)),
            ("short_conv", flag(grouped.short_conv)),
            ("lower_bound", number(bound)),
        ],
    ))
}
