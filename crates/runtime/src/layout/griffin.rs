//! RecurrentGemma of transformers: RG-LRU and local attention, as Griffin has them.

use super::config::Config;
use super::rope::Rope;
use super::tensors::{HEAD, Tensors};
use super::{Layout, LayoutError, flag, number, text};

/// RecurrentGemma.
pub(super) fn recurrent_gemma(
    config: &Config<'_>,
    tensors: &Tensors<'_>,
) -> Result<Layout, LayoutError> {
    let [v, c] = tensors.shape("model.embed_tokens.weight", "vocabulary and width")?;
    let inner = "model.layers.0.mlp_block.up_proj.weight";
    let [inner, _] = tensors.shape(inner, "width of the MLP")?;
    let layers = config.layers(26)?;
    let heads = config.size_or("num_attention_heads", 10)?;
    let keys = config.size_or("num_key_value_heads", heads)?;
    let head = match c.is_multiple_of(heads) {
        true => c / heads,
        false => {
            let implemented = format!("a divisor of the width {c}");
            return Err(config.unimplemented("num_attention_heads", implemented));
        }
    };
    if !heads.is_multiple_of(keys) {
        let implemented = format!("a divisor of the {heads} of 'num_attention_heads'");
        return Err(config.unimplemented("num_key_value_heads", implemented));
    }
    let mixers = mixers(config)?;
    let rope = Rope::read(config, 10_000.0, 0.5)?;
    // Parts of a head of which the first is rotated, in two halves.
    let parts = (1.0 / rope.share).round();
    let fits = parts * rope.share == 1.0 && (1.0..=head as f64).contains(&parts);
    if !fits || !head.is_multiple_of(2 * parts as usize) {
        let implemented =
            format!("a partial_rotary_factor of 1, 1/2, 1/4, ... of the head's {head}");
        return Err(config.unimplemented(Rope::says_share(config), implemented));
    }
    let first = mixers
        .chars()
        .position(|m| m == 'r')
        .filter(|l| *l < layers);
    let (width, taps) = match first {
        Some(l) => {
            let taps = format!("model.layers.{l}.temporal_block.conv_1d.weight");
            let [width, _, taps] = tensors.shape(&taps, "width of the recurrence")?;
            (width, taps)
        }
        None => (
            config.size_or("lru_width", c)?,
            config.size_or("conv1d_width", 4)?,
        ),
    };
    if !width.is_multiple_of(heads) {
        let implemented = format!("a multiple of the {heads} of 'num_attention_heads'");
        return Err(config.unimplemented("lru_width", implemented));
    }
    config.only("lru_width", &[&width.to_string()])?;
    config.only("conv1d_width", &[&taps.to_string()])?;
    config.only("hidden_size", &[&c.to_string()])?;
    config.only("vocab_size", &[&v.to_string()])?;
    config.only("head_dim", &[&head.to_string()])?;
    // The class halves it: it counts the gate's channels too.
    let both = (2 * inner).to_string();
    config.only("intermediate_size", &[&both, &(2 * inner + 1).to_string()])?;
    config.only("hidden_activation", &["\"gelu_pytorch_tanh\""])?;
    config.only("embeddings_scale_by_sqrt_dim", &["true"])?;
    tensors.check_head(config, true)?;
    // How weights were first drawn, and what only training does.
    config.ignore(&[
        "attention_dropout",
        "final_w_init_variance_scale",
        "w_init_variance_scale",
    ]);
    // The class rounds it, whatever the type of the weights.
    let scale = half::bf16::from_f64((c as f64).sqrt()).to_f64();
    let window = config.size_or("attention_window_size", 2048)?;
    Ok(Layout::new(
        "griffin",
        [
            ("V", v),
            ("C", c),
            ("L", layers),
            ("B", heads),
            ("Db", width / heads),
            ("G", keys),
            ("Q", heads / keys),
            ("Turn", parts as usize),
            ("Dr", head / (2 * parts as usize)),
            ("I", inner),
            ("K", taps),
        ],
        [
            ("mixers_repeat", number(mixers.len() as f64)),
            ("mixers", text(&mixers)),
            ("window", number(window as f64)),
            ("scale", number(scale)),
            ("theta", number(rope.theta)),
            ("norm_eps", number(config.number("rms_norm_eps", 1e-6)?)),
            ("logit_cap", number(config.number("logits_soft_cap", 30.0)?)),
            ("tied", flag(!tensors.has(HEAD))),
            ("qkv_bias", flag(config.flag("attention_bias", false)?)),
        ],
    ))
}

/// What layers mix tokens with, one after the other and again: a letter each.
fn mixers(config: &Config<'_>) -> Result<String, LayoutError> {
    const OPTION: &str = "block_types";
    let Some(types) = config.list(OPTION)? else {
        return Ok("rra".to_string());
    };
    let letters = types.iter().map(|of| match of.as_str() {
        Some("recurrent") => Some('r'),
        Some("attention") => Some('a'),
        _ => None,
    });
    match letters.collect::<Option<String>>() {
        Some(letters) if !letters.is_empty() => Ok(letters),
        _ => Err(config.unimplemented(OPTION, "a list of \"recurrent\" and \"attention\"")),
    }
}
