//! Mamba 1 and 2: the classes of Hugging Face and of fla.

use super::config::Config;
use super::tensors::Tensors;
use super::{Layout, LayoutError, flag, number, text};

/// What every Mamba has.
struct Frame {
    /// Entries of the vocabulary.
    v: usize,
    /// Width.
    c: usize,
    /// Layers.
    layers: usize,
    /// Whether the embedding is the head too.
    tied: bool,
    /// Whether the convolution has a bias.
    conv_bias: bool,
    /// Whether the projections in and out have biases.
    proj_bias: bool,
}

impl Frame {
    /// Reads it; `layers` and `tied` are what the class has without the options.
    fn read(
        config: &Config<'_>,
        tensors: &Tensors<'_>,
        layers: usize,
        tied: bool,
    ) -> Result<Self, LayoutError> {
        let name = match tensors.has("backbone.embedding.weight") {
            true => "backbone.embedding.weight",
            false => "backbone.embeddings.weight",
        };
        let [v, c] = tensors.shape(name, "vocabulary and width")?;
        let layers = config.layers(layers)?;
        config.only("hidden_size", &[&c.to_string()])?;
        config.only("vocab_size", &[&v.to_string()])?;
        config.only("hidden_act", &["\"silu\"", "\"swish\""])?;
        tensors.check_head(config, tied)?;
        // Left in converted checkpoints by the class that they were converted from.
        config.only("d_model", &[&c.to_string()])?;
        config.only("n_layer", &[&layers.to_string()])?;
        config.only("rms_norm", &["true"])?;
        config.only("ssm_cfg", &["{}"])?;
        // Two implementations of the same norm.
        config.only("fuse_norm", &["true", "false"])?;
        // How the weights were first drawn, in which precision the residual is kept (f32 here),
        // and which of several equal implementations is used. The widths are those of the tensors.
        config.ignore(&[
            "dt_init_floor",
            "dt_init_scheme",
            "dt_max",
            "dt_min",
            "dt_scale",
            "expand",
            "fused_add_norm",
            "residual_in_fp32",
            "time_step_floor",
            "time_step_init_scheme",
            "time_step_max",
            "time_step_min",
            "time_step_scale",
            "use_associative_scan",
            "use_falcon_mamba",
            "use_mambapy",
        ]);
        Ok(Frame {
            v,
            c,
            layers,
            tied: !tensors.has("lm_head.weight"),
            conv_bias: config.flag("use_conv_bias", true)?,
            proj_bias: config.flag("use_bias", false)?,
        })
    }
}

const MIXER: &str = "backbone.layers.0.mixer.";

fn mixer(name: &str) -> String {
    format!("{MIXER}{name}")
}

/// Mamba 1 of Hugging Face or fla, which name a few options otherwise.
pub(super) fn mamba1(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let fla = config.has("norm_eps");
    let (layers, tied) = if fla { (48, false) } else { (32, true) };
    let frame = Frame::read(config, tensors, layers, tied)?;
    let [d, n] = tensors.shape(&mixer("A_log"), "inner width and state size")?;
    let [_, r] = tensors.shape(&mixer("dt_proj.weight"), "rank of the time step")?;
    let [_, _, taps] = tensors.shape(&mixer("conv1d.weight"), "width of the convolution")?;
    let (eps, rank) = match fla {
        true => ("norm_eps", "dt_rank"),
        false => ("layer_norm_epsilon", "time_step_rank"),
    };
    config.only("state_size", &[&n.to_string()])?;
    config.only("intermediate_size", &[&d.to_string()])?;
    config.only("d_inner", &[&d.to_string()])?;
    config.only(rank, &[&r.to_string(), "\"auto\""])?;
    config.only("conv_kernel", &[&taps.to_string()])?;
    let eps = config.number(eps, 1e-5)?;
    Ok(Layout::new(
        "mamba1",
        [
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
            ("Di", d),
            ("Ns", n),
            ("R", r),
            ("K", taps),
        ],
        [
            ("norm_eps", number(eps)),
            ("tied", flag(frame.tied)),
            ("conv_bias", flag(frame.conv_bias)),
            ("proj_bias", flag(frame.proj_bias)),
        ],
    ))
}

/// Mamba 2 of Hugging Face or fla, whose files look the same: they differ in the names of
/// options, and in how the gated norm treats several groups.
pub(super) fn mamba2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let fla = config.has("norm_eps") || config.has("dt_limit");
    let (layers, groups, eps, limit) = match fla {
        true => (48, 1, "norm_eps", "dt_limit"),
        false => (64, 8, "layer_norm_epsilon", "time_step_limit"),
    };
    let frame = Frame::read(config, tensors, layers, false)?;
    let [h] = tensors.shape(&mixer("A_log"), "number of heads")?;
    let [_, inner] = tensors.shape(&mixer("out_proj.weight"), "inner width")?;
    let [conv, _, taps] = tensors.shape(&mixer("conv1d.weight"), "channels that are convolved")?;
    let p = tensors.divided(&mixer("out_proj.weight"), inner, h, "heads of equal width")?;
    let groups = config.size_or("n_groups", groups)?;
    let states = conv.saturating_sub(inner);
    let n = tensors.divided(&mixer("conv1d.weight"), states, 2 * groups, "B and C")?;
    config.only("num_heads", &[&h.to_string()])?;
    config.only("head_dim", &[&p.to_string()])?;
    config.only("state_size", &[&n.to_string()])?;
    config.only("conv_kernel", &[&taps.to_string()])?;
    let gated_norm = match (
        config.flag("rmsnorm", true)?,
        config.flag("norm_before_gate", false)?,
    ) {
        (false, _) => "none",
        (true, false) => "after",
        (true, true) => "before",
    };
    let skip = match config.flag("D_has_hdim", false)? {
        true => "channel",
        false => "head",
    };
    let group = tensors.divided(&mixer("A_log"), h, groups, "heads in equal groups")?;
    config.ignore(&["time_step_rank", "A_init_range", "conv_init"]);
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
            ("V", frame.v),
            ("C", frame.c),
            ("L", frame.layers),
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
            ("tied", flag(frame.tied)),
            ("conv_bias", flag(frame.conv_bias)),
            ("proj_bias", flag(frame.proj_bias)),
            ("skip", text(skip)),
            ("gated_norm", text(gated_norm)),
        ],
    ))
}
