//! Mamba 1 and 2: the Hugging Face classes, and for 2 also fla's.

use super::config::Config;
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number};

/// V, C and number of layers, and the options that every Mamba has.
fn frame(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<[usize; 3], LayoutError> {
    let name = match tensors.has("backbone.embedding.weight") {
        true => "backbone.embedding.weight",
        false => "backbone.embeddings.weight",
    };
    let [v, c] = tensors.shape(name, "vocabulary and width")?;
    config.only("hidden_size", &[&c.to_string()])?;
    config.only("hidden_act", &["\"silu\"", "\"swish\""])?;
    config.only("use_bias", &["false"])?;
    config.only("use_conv_bias", &["true"])?;
    config.only("tie_word_embeddings", &["true", "false"])?;
    // How the weights were first drawn, and in which precision the residual is kept (f32 here).
    config.ignore(&[
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        "time_step_scale",
        "use_mambapy",
        "use_associative_scan",
        "use_falcon_mamba",
    ]);
    Ok([v, c, config.size("num_hidden_layers")?])
}

const MIXER: &str = "backbone.layers.0.mixer.";

fn mixer(name: &str) -> String {
    format!("{MIXER}{name}")
}

/// Mamba 1 of Hugging Face.
pub(super) fn mamba1(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c, layers] = frame(config, tensors)?;
    let [d, n] = tensors.shape(&mixer("A_log"), "inner width and state size")?;
    let [_, r] = tensors.shape(&mixer("dt_proj.weight"), "rank of the time step")?;
    let [_, _, taps] = tensors.shape(&mixer("conv1d.weight"), "width of the convolution")?;
    config.only("state_size", &[&n.to_string()])?;
    config.only("intermediate_size", &[&d.to_string()])?;
    config.only("time_step_rank", &[&r.to_string(), "\"auto\""])?;
    config.only("conv_kernel", &[&taps.to_string()])?;
    // The inner width is that of the tensors.
    config.ignore(&["expand"]);
    let eps = config.number("layer_norm_epsilon", 1e-5)?;
    Ok(Layout::new(
        "mamba1",
        [
            ("V", v),
            ("C", c),
            ("L", layers),
            ("Di", d),
            ("Ns", n),
            ("R", r),
            ("K", taps),
        ],
        [
            ("norm_eps", number(eps)),
            ("tied", flag(!tensors.has("lm_head.weight"))),
        ],
    ))
}

/// Mamba 2 of Hugging Face or fla, whose files look the same: they differ in the names of
/// options, and in how the gated norm treats several groups.
pub(super) fn mamba2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c, layers] = frame(config, tensors)?;
    let [h] = tensors.shape(&mixer("A_log"), "number of heads")?;
    let [inner] = tensors.shape(&mixer("norm.weight"), "inner width")?;
    let [conv, _, taps] = tensors.shape(&mixer("conv1d.weight"), "channels that are convolved")?;
    let p = tensors.divided(&mixer("norm.weight"), inner, h, "heads of equal width")?;
    let groups = config.size("n_groups")?;
    let states = conv.saturating_sub(inner);
    let n = tensors.divided(&mixer("conv1d.weight"), states, 2 * groups, "B and C")?;
    config.only("num_heads", &[&h.to_string()])?;
    config.only("head_dim", &[&p.to_string()])?;
    config.only("state_size", &[&n.to_string()])?;
    config.only("conv_kernel", &[&taps.to_string()])?;
    config.only("rms_norm", &["true"])?;
    config.only("rmsnorm", &["true"])?;
    config.only("norm_before_gate", &["false"])?;
    config.only("D_has_hdim", &["false"])?;
    config.only("fuse_norm", &["true", "false"])?;
    let group = tensors.divided(&mixer("A_log"), h, groups, "heads in equal groups")?;
    config.ignore(&[
        "expand",
        "time_step_rank",
        "A_init_range",
        "conv_init",
        "dt_init_floor",
        "dt_max",
        "dt_min",
    ]);
    let fla = config.has("norm_eps") || config.has("dt_limit");
    let (eps, limit) = if fla {
        ("norm_eps", "dt_limit")
    } else {
        ("layer_norm_epsilon", "time_step_limit")
    };
    let eps = config.number(eps, 1e-5)?;
    let (dt_min, dt_max) = config.range(limit, (0.0, f64::INFINITY))?;
    // A step size is a softplus: a limit at or below 0 is none.
    let dt_min = match dt_min > 0.0 {
        true => dt_min,
        false => f64::NEG_INFINITY,
    };
    Ok(Layout::new(
        "mamba2",
        [
            ("V", v),
            ("C", c),
            ("L", layers),
            ("G", groups),
            ("Hg", group),
            ("P", p),
            ("Ns", n),
            ("K", taps),
        ],
        [
            ("norm_eps", number(eps)),
            ("mixer_eps", number(eps)),
            ("dt_min", number(dt_min)),
            ("dt_max", number(dt_max)),
            ("norm_per_group", flag(fla)),
            ("tied", flag(!tensors.has("lm_head.weight"))),
        ],
    ))
}
