//! Mamba 1 and 2 of mamba_ssm, the authors' own package: a `config.json` without a `model_type`,
//! in which `ssm_cfg` holds the arguments of the mixer.

use serde_json::Map;

use super::config::Config;
use super::mamba::{Frame, Mixer1, Mixer2, gated_norm, skip, table};
use super::tensors::{HEAD, Tensors};
use super::{Layout, LayoutError};

/// The epsilon of every norm; no option says it.
const EPS: f64 = 1e-5;

/// Whether a configuration is of this form.
pub(super) fn wrote(config: &Config<'_>) -> bool {
    ["d_model", "n_layer"]
        .iter()
        .all(|option| config.has(option))
}

/// Either version.
pub(super) fn mamba(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c] = table(tensors)?;
    config.only("d_model", &[&c.to_string()])?;
    // The table has as many rows as make a multiple.
    let multiple = config.size_or("pad_vocab_size_multiple", 8)?;
    let vocab = config.size("vocab_size")?;
    if vocab.checked_next_multiple_of(multiple) != Some(v) {
        let rows =
            format!("a number that 'pad_vocab_size_multiple' raises to the {v} of the table");
        return Err(config.unimplemented("vocab_size", rows));
    }
    config.only("rms_norm", &["true"])?;
    config.only("d_intermediate", &["0"])?;
    config.only("attn_layer_idx", &["[]"])?;
    config.only("attn_cfg", &["{}"])?;
    if !config.flag("tie_embeddings", true)? && !tensors.has(HEAD) {
        return Err(tensors.no_head("'tie_embeddings' is false"));
    }
    // In which precision the residual is kept (f32 here), and two implementations of one sum.
    config.ignore(&["residual_in_fp32", "fused_add_norm"]);

    let none = Map::new();
    let mixer = config.nested("ssm_cfg", &none)?;
    let frame = Frame {
        v,
        c,
        layers: config.size("n_layer")?,
        tied: !tensors.has(HEAD),
        conv_bias: mixer.flag("conv_bias", true)?,
        proj_bias: mixer.flag("bias", false)?,
        eps: EPS,
    };
    // How the weights were first drawn, and which of several equal implementations is used.
    mixer.ignore(&[
        "dt_min",
        "dt_max",
        "dt_init",
        "dt_scale",
        "dt_init_floor",
        "A_init_range",
        "conv_init",
        "chunk_size",
        "use_fast_path",
        "use_mem_eff_path",
    ]);
    let layout = match mixer.word("layer", "Mamba1", &["Mamba1", "Mamba2"])? {
        "Mamba1" => {
            let sizes = Mixer1::read(tensors)?;
            mixer.only("d_state", &[&sizes.state.to_string()])?;
            mixer.only("dt_rank", &[&sizes.rank.to_string(), "\"auto\""])?;
            mixer.only("d_conv", &[&sizes.taps.to_string()])?;
            mixer.widens("expand", c, sizes.inner)?;
            sizes.layout(&frame)
        }
        _ => {
            let mut sizes = Mixer2::read(tensors, mixer.size_or("ngroups", 1)?)?;
            mixer.only("d_state", &[&sizes.state.to_string()])?;
            mixer.only("headdim", &[&sizes.head.to_string()])?;
            mixer.only("d_conv", &[&sizes.taps.to_string()])?;
            // An MLP beside the scan in the inner width.
            mixer.only("d_ssm", &[&sizes.inner().to_string()])?;
            mixer.widens("expand", c, sizes.inner())?;
            mixer.only("dt_softplus", &["true"])?;
            sizes.limit = mixer.range("dt_limit", (0.0, f64::INFINITY))?;
            sizes.gated_norm = gated_norm(&mixer)?;
            sizes.skip = skip(&mixer)?;
            sizes.layout(&frame, tensors)?
        }
    };
    mixer.finish()?;
    Ok(layout)
}
