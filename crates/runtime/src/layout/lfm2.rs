//! LFM2 of transformers: short convolutions, and softmax attention in some layers.

use super::config::Config;
use super::rope::Rope;
use super::tensors::{HEAD, Tensors};
use super::{Layout, LayoutError, flag, number, text};

/// Tokens that attention sees where nobody says it.
const CACHE: usize = 4096;

/// LFM2.
pub(super) fn lfm2(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c] = tensors.shape("model.embed_tokens.weight", "vocabulary and width")?;
    let inner = "model.layers.0.feed_forward.w1.weight";
    let [inner, _] = tensors.shape(inner, "width of the MLP")?;
    let layers = config.layers(32)?;
    let heads = config.size_or("num_attention_heads", 32)?;
    let keys = config.size_or("num_key_value_heads", 8)?;
    let head = match config.optional_size("head_dim")? {
        Some(head) => head,
        None if c.is_multiple_of(heads) => c / heads,
        None => {
            let implemented = format!("a divisor of the width {c}");
            return Err(config.unimplemented("num_attention_heads", implemented));
        }
    };
    let per_key = match heads.is_multiple_of(keys) {
        true => heads / keys,
        false => {
            let implemented = format!("a divisor of the {heads} of 'num_attention_heads'");
            return Err(config.unimplemented("num_key_value_heads", implemented));
        }
    };
    if !head.is_multiple_of(2) {
        return Err(config.unimplemented("head_dim", "an even number"));
    }
    let mixers = mixers(config, layers)?;
    let taps = match mixers.find('c') {
        Some(l) => {
            let taps = format!("model.layers.{l}.conv.conv.weight");
            let [_, _, taps] = tensors.shape(&taps, "width of the convolutions")?;
            config.only("conv_L_cache", &[&taps.to_string()])?;
            taps
        }
        None => config.size_or("conv_L_cache", 3)?,
    };
    mlp_width(config, inner)?;
    let eps = config.number("norm_eps", 1e-5)?;
    let rope = Rope::read(config, 1e6, 1.0)?;
    if rope.share != 1.0 {
        return Err(config.unimplemented(Rope::says_share(config), "1"));
    }
    // The older name decides where both are there.
    let tied = config.flag("tie_word_embeddings", true)?;
    let tied = config.flag("tie_embedding", tied)?;
    if !tied && !tensors.has(HEAD) {
        return Err(tensors.no_head("'tie_word_embeddings' is false"));
    }
    for width in ["hidden_size", "block_dim", "conv_dim", "conv_dim_out"] {
        config.only(width, &[&c.to_string()])?;
    }
    config.only("vocab_size", &[&v.to_string()])?;
    config.only("num_heads", &[&heads.to_string()])?;
    config.only("theta", &[&rope.theta.to_string()])?;
    config.only("block_norm_eps", &[&eps.to_string()])?;
    config.only("block_use_swiglu", &["true"])?;
    config.only("use_pos_enc", &["true"])?;
    // How weights were first drawn.
    config.ignore(&[
        "block_mlp_init_scale",
        "block_out_init_scale",
        "block_use_xavier_init",
        "conv_use_xavier_init",
    ]);
    let layout = Layout::new(
        "lfm2",
        [
            ("V", v),
            ("C", c),
            ("L", layers),
            ("K", taps),
            ("G", keys),
            ("Q", per_key),
            ("Dr", head / 2),
            ("I", inner),
        ],
        [
            ("mixers", text(&mixers)),
            ("cache", number(CACHE as f64)),
            ("theta", number(rope.theta)),
            ("norm_eps", number(eps)),
            ("conv_bias", flag(config.flag("conv_bias", false)?)),
            ("tied", flag(!tensors.has(HEAD))),
        ],
    );
    let why = "as many tokens as attention sees and keeps; the class sees all";
    Ok(match mixers.contains('a') {
        true => layout.assuming("cache", why),
        false => layout,
    })
}

/// What each layer mixes tokens with, a letter each: by name, or by the places of attention.
fn mixers(config: &Config<'_>, layers: usize) -> Result<String, LayoutError> {
    const BY_NAME: &str = "layer_types";
    const BY_PLACE: &str = "full_attn_idxs";
    let places = config.list(BY_PLACE)?;
    if let Some(types) = config.list(BY_NAME)? {
        let letters = types.iter().map(|of| match of.as_str() {
            Some("conv") => Some('c'),
            Some("full_attention") => Some('a'),
            _ => None,
        });
        return match letters.collect::<Option<String>>() {
            Some(letters) if types.len() == layers => Ok(letters),
            _ => {
                let implemented = format!("\"conv\" or \"full_attention\" for each of {layers}");
                Err(config.unimplemented(BY_NAME, implemented))
            }
        };
    }
    let Some(places) = places else {
        return Ok("a".repeat(layers));
    };
    let letter = |l: usize| match places.iter().any(|p| p.as_u64() == Some(l as u64)) {
        true => 'a',
        false => 'c',
    };
    Ok((0..layers).map(letter).collect())
}

/// The width of the MLP, which the class adjusts if it is told to.
fn mlp_width(config: &Config<'_>, inner: usize) -> Result<(), LayoutError> {
    const OLDER: &str = "block_ff_dim";
    const NEWER: &str = "intermediate_size";
    let newer = config.size_or(NEWER, 12288)?;
    let given = config.size_or(OLDER, newer)?;
    let multiple = config.size_or("block_multiple_of", 256)?;
    let factor = config.number("block_ffn_dim_multiplier", 1.0)?;
    let width = match config.flag("block_auto_adjust_ff_dim", true)? {
        // Beyond the floats that are whole numbers it saturates, and differs.
        true => {
            let two_thirds = (2.0 * given as f64 / 3.0).floor();
            ((factor * two_thirds) as usize).checked_next_multiple_of(multiple)
        }
        false => Some(given),
    };
    if width == Some(inner) {
        return Ok(());
    }
    let implemented = format!("one that gives the {inner} of the tensors");
    let option = if config.has(OLDER) { OLDER } else { NEWER };
    Err(config.unimplemented(option, implemented))
}
