//! xLSTM of transformers: blocks of mLSTM cells, as xLSTM 7B has them.

use super::config::Config;
use super::tensors::{HEAD, Tensors};
use super::{Layout, LayoutError, number, text};

fn block(name: &str) -> String {
    format!("backbone.blocks.0.{name}")
}

/// xLSTM.
pub(super) fn xlstm(config: &Config<'_>, tensors: &Tensors<'_>) -> Result<Layout, LayoutError> {
    let [v, c] = tensors.shape("backbone.embeddings.weight", "vocabulary and width")?;
    let [_, _] = tensors.shape(HEAD, "the head, which is never the embedding")?;
    let heads = config.size_or("num_heads", 8)?;
    // The class builds as many blocks as the one says, whatever the other does.
    let layers = match config.has("num_blocks") {
        true => config.layers_by("num_blocks", 32)?,
        false => config.layers(32)?,
    };
    config.ignore(&["num_hidden_layers"]);
    let parts = config.word("weight_mode", "single", &["single", "fused"])?;
    let out = block("mlstm_layer.out_proj.weight");
    let [_, values] = tensors.shape(&out, "width of the values")?;
    let (queries, keys) = match parts {
        "fused" => {
            let packed = block("mlstm_layer.qkv_opreact.weight");
            let [rows, _] = tensors.shape(&packed, "widths of queries, keys and values")?;
            let rest = rows.saturating_sub(2 * values);
            let what = "queries and keys beside values and gates";
            (packed.clone(), tensors.divided(&packed, rest, 2, what)?)
        }
        _ => {
            let queries = block("mlstm_layer.q.weight");
            let [keys, _] = tensors.shape(&queries, "width of the queries")?;
            (queries, keys)
        }
    };
    let [_, inner] = tensors.shape(&block("ffn.proj_down.weight"), "width of the MLP")?;
    for width in ["hidden_size", "embedding_dim"] {
        config.only(width, &[&c.to_string()])?;
    }
    config.only("vocab_size", &[&v.to_string()])?;
    config.widens("qk_dim_factor", c, keys)?;
    config.widens("v_dim_factor", c, values)?;
    mlp_width(config, c, inner)?;
    config.only("use_bias", &["false"])?;
    config.only("tie_word_embeddings", &["false"])?;
    let eps = config.number("norm_eps", 1e-6)?;
    let key = tensors.divided(&queries, keys, heads, "heads of equal width")?;
    let value = tensors.divided(&out, values, heads, "heads of equal width")?;
    // In files of the authors' own class, before it was part of transformers.
    config.only("add_qk_norm", &["false"])?;
    config.only("add_post_norm", &["false"])?;
    config.only("add_post_blocks_norm", &["true"])?;
    config.only("cell_norm_eps", &[&eps.to_string()])?;
    config.only("head_dim", &[&value.to_string()])?;
    // Which of several equal implementations is used and in which precision, padding, how weights
    // were first drawn, and a norm after the blocks that the class has whatever this says.
    config.ignore(&[
        "add_embedding_dropout",
        "add_forward_backend_padding",
        "add_out_norm",
        "autocast_kernel_dtype",
        "chunkwise_kernel",
        "force_bos_token_insert",
        "igate_bias_init_range",
        "inference_state_dtype",
        "max_inference_chunksize",
        "mlstm_round_up_to_multiple_of",
        "mode",
        "norm_reduction_force_float32",
        "return_last_states",
        "sequence_kernel",
        "step_kernel",
    ]);
    Ok(Layout::new(
        "xlstm",
        [
            ("V", v),
            ("C", c),
            ("L", layers),
            ("H", heads),
            ("Dk", key),
            ("Dv", value),
            ("I", inner),
        ],
        [
            ("norm_eps", number(eps)),
            ("cell_eps", number(config.number("eps", 1e-6)?)),
            ("gate_cap", number(config.number("gate_soft_cap", 15.0)?)),
            (
                "logit_cap",
                number(config.number("output_logit_soft_cap", 30.0)?),
            ),
            ("layout", text(parts)),
        ],
    ))
}

/// The width of the MLP: a multiple of the model's, up to the next multiple of another number.
fn mlp_width(config: &Config<'_>, width: usize, inner: usize) -> Result<(), LayoutError> {
    const FACTOR: &str = "ffn_proj_factor";
    let multiple = config.size_or("ffn_round_up_to_multiple_of", 64)?;
    let factor = config.number(FACTOR, 2.667)?;
    // Beyond the floats that are whole numbers it saturates, and differs.
    let blocks = ((width as f64 * factor + multiple as f64 - 1.0) / multiple as f64).floor();
    if !config.has(FACTOR) || (blocks as usize).checked_mul(multiple) == Some(inner) {
        return Ok(());
    }
    let implemented = format!("one that gives the {inner} of the tensors");
    Err(config.unimplemented(FACTOR, implemented))
}
