//! Options of a `config.json`: each is read, checked against what the tensors say, or refused with
//! its name and the file. What an option means is shown by equality with a checkpoint that says the
//! same in another way: a missing bias is one of zeros, a missing gain one of ones.

use serde_json::{Value, json};
use stored::{Stored, difference};

mod stored;

const ATTN: &str = "model.layers.{l}.attn.";
const MIXER: &str = "backbone.layers.{l}.mixer.";

fn attn(name: &str) -> String {
    format!("{ATTN}{name}")
}

fn mixer(name: &str) -> String {
    format!("{MIXER}{name}")
}

/// The taps of a convolution that changes nothing: the last one is the current token.
fn only_now(i: usize) -> f32 {
    if i % 4 == 3 { 1.0 } else { 0.0 }
}

/// Projections of one input as one tensor, their rows one after the other.
fn fused(mut xlstm: Stored) -> Stored {
    const PARTS: [(&str, &[&str]); 4] = [
        (
            "mlstm_layer.qkv_opreact.weight",
            &[
                "mlstm_layer.q.weight",
                "mlstm_layer.k.weight",
                "mlstm_layer.v.weight",
                "mlstm_layer.ogate_preact.weight",
            ],
        ),
        (
            "mlstm_layer.ifgate_preact.weight",
            &[
                "mlstm_layer.igate_preact.weight",
                "mlstm_layer.fgate_preact.weight",
            ],
        ),
        (
            "mlstm_layer.ifgate_preact.bias",
            &[
                "mlstm_layer.igate_preact.bias",
                "mlstm_layer.fgate_preact.bias",
            ],
        ),
        (
            "ffn.proj_up_gate_z.weight",
            &["ffn.proj_up_gate.weight", "ffn.proj_up.weight"],
        ),
    ];
    for l in 0..2 {
        let full = |name: &str| format!("backbone.blocks.{l}.{name}");
        for (whole, parts) in PARTS {
            let mut shape: Vec<usize> = vec![];
            let mut elements = vec![];
            for part in parts {
                let (rows, values) = xlstm.tensors.remove(&full(part)).expect("it");
                let first = shape.first().copied().unwrap_or(0);
                shape = rows;
                shape[0] += first;
                elements.extend(values);
            }
            xlstm.tensors.insert(full(whole), (shape, elements));
        }
    }
    xlstm.set("weight_mode", json!("fused"))
}

#[test]
fn an_option_means_what_another_checkpoint_says_otherwise() {
    let hgrn = Stored::golden("hgrn-fla");
    let hgrn2 = Stored::golden("hgrn2-fla");
    let gla = Stored::golden("gla-fla");
    let retnet = Stored::golden("retnet-fla");
    let delta = Stored::golden("deltanet-fla");
    let gated_delta = Stored::golden("gated-deltanet-fla");
    let kda = Stored::golden("kda-fla");
    let mamba1 = Stored::golden("mamba1-hf");
    let mamba2 = Stored::golden("mamba2-fla");
    let rwkv7 = Stored::golden("rwkv7-fla");
    let comba = Stored::golden("comba-fla");
    let product = Stored::golden("deltaproduct-fla");
    let linear = Stored::golden("linear-attention-fla");
    let xlstm = Stored::golden("xlstm-hf");
    let griffin = Stored::golden("griffin-hf");
    let lfm2 = Stored::golden("lfm2-hf");
    // Taps of current tokens only, for q, k and v of a model with these widths of q, k and v.
    let taps = |stored: Stored, names: [&str; 3]| {
        names.into_iter().fold(stored, |s, name| {
            let rows = s.tensors[&attn(&format!("{name}_proj.weight")).replace("{l}", "0")].0[0];
            s.put(
                &attn(&format!("{name}_conv1d.weight")),
                &[rows, 1, 4],
                only_now,
            )
        })
    };
    let without_taps = |stored: Stored| {
        ["q", "k", "v"].into_iter().fold(stored, |s, name| {
            s.drop(&attn(&format!("{name}_conv1d.weight")))
        })
    };
    let unbounded = |mut stored: Stored| {
        // All of the softmax over the layers is in the first, which is subtracted.
        let (shape, elements) = stored.tensors.get_mut("model.lower_bounds").expect("it");
        let row = shape[1];
        for (i, x) in elements.iter_mut().enumerate() {
            *x = if i < row { 200.0 } else { -200.0 };
        }
        stored
    };
    let no_bound = |mut stored: Stored| {
        stored.tensors.remove("model.lower_bounds");
        stored.set("use_lower_bound", json!(false))
    };
    let ones = |stored: Stored, name: &str| stored.map(&attn(name), |_, _| 1.0);
    let no_gain = |stored: Stored, name: &str| {
        stored
            .drop(&attn(name))
            .set("elementwise_affine", json!(false))
    };
    let (inner, heads) = (256, 8);
    let cases = [
        (
            "hgrn: no bounds",
            unbounded(hgrn.clone()),
            no_bound(hgrn.clone()),
        ),
        (
            "hgrn 2: no bounds",
            unbounded(hgrn2.clone()),
            no_bound(hgrn2.clone()),
        ),
        (
            "hgrn: convolutions, which have no activation",
            hgrn.clone(),
            hgrn.clone()
                .put(&attn("i_conv1d.weight"), &[128, 1, 4], only_now)
                .put(&attn("f_conv1d.weight"), &[128, 1, 4], only_now)
                .set("use_short_conv", json!(true)),
        ),
        (
            "hgrn 2: convolutions, which have no activation",
            hgrn2.clone(),
            taps(hgrn2.clone(), ["q", "f", "i"]).set("use_short_conv", json!(true)),
        ),
        (
            "hgrn: no gain",
            ones(hgrn.clone(), "g_norm.weight"),
            no_gain(hgrn.clone(), "g_norm.weight"),
        ),
        (
            "hgrn 2: no gain",
            ones(hgrn2.clone(), "g_norm.weight"),
            no_gain(hgrn2.clone(), "g_norm.weight"),
        ),
        (
            "gla: no gain",
            ones(gla.clone(), "g_norm_swish_gate.weight"),
            no_gain(gla.clone(), "g_norm_swish_gate.weight"),
        ),
        (
            "retnet: no gain",
            ones(retnet.clone(), "g_norm.weight"),
            no_gain(retnet.clone(), "g_norm.weight"),
        ),
        ("gla: the norm of a head under either name", gla.clone(), {
            let gain = gla.tensors[&attn("g_norm_swish_gate.weight").replace("{l}", "0")].clone();
            let other = gla
                .clone()
                .map(&attn("g_norm_swish_gate.weight"), |i, _| gain.1[i]);
            let renamed = other.clone().drop(&attn("g_norm_swish_gate.weight"));
            let renamed = renamed.put(&attn("g_norm.weight"), &gain.0, |i| gain.1[i]);
            assert!(
                difference(
                    &other.logits().expect("runs"),
                    &renamed.logits().expect("runs")
                ) == 0.0
            );
            gla.clone()
        }),
        (
            "gla: a bound of the log decay below all",
            gla.clone(),
            gla.clone().set("clamp_min", json!(-1e9)),
        ),
        (
            "gla: decays of 1, by the bound and by the gate",
            gla.clone().map(&attn("gk_proj.1.bias"), |_, _| 1e4),
            gla.clone().set("clamp_min", json!(0.0)),
        ),
        (
            "deltanet: no convolutions",
            taps(delta.clone(), ["q", "k", "v"]),
            without_taps(delta.clone()).set("use_short_conv", json!(false)),
        ),
        (
            "gated deltanet: no convolutions",
            taps(gated_delta.clone(), ["q", "k", "v"]),
            without_taps(gated_delta.clone()).set("use_short_conv", json!(false)),
        ),
        (
            "kda: no convolutions",
            taps(kda.clone(), ["q", "k", "v"]),
            without_taps(kda.clone()).set("use_short_conv", json!(false)),
        ),
        (
            "mamba 1: no bias of the convolution",
            mamba1.clone().map(&mixer("conv1d.bias"), |_, _| 0.0),
            mamba1
                .clone()
                .drop(&mixer("conv1d.bias"))
                .set("use_conv_bias", json!(false)),
        ),
        (
            "mamba 1: biases of the projections",
            mamba1.clone(),
            mamba1
                .clone()
                .put(&mixer("in_proj.bias"), &[256], |_| 0.0)
                .put(&mixer("out_proj.bias"), &[64], |_| 0.0)
                .set("use_bias", json!(true)),
        ),
        (
            "mamba 2: no bias of the convolution",
            mamba2.clone().map(&mixer("conv1d.bias"), |_, _| 0.0),
            mamba2
                .clone()
                .drop(&mixer("conv1d.bias"))
                .set("use_conv_bias", json!(false)),
        ),
        (
            "mamba 2: a bias of the time step, in the projection and after it",
            mamba2
                .clone()
                .map(&mixer("dt_bias"), |i, x| x + 0.125 * i as f32),
            mamba2
                .clone()
                .put(&mixer("in_proj.bias"), &[2 * inner + 2 * 32 + heads], |i| {
                    0.125 * i.saturating_sub(2 * inner + 2 * 32) as f32
                })
                .put(&mixer("out_proj.bias"), &[128], |_| 0.0)
                .set("use_bias", json!(true)),
        ),
        (
            "mamba 2: what passes by the scan, per head and per channel",
            mamba2.clone().map(&mixer("D"), |i, _| 0.5 + i as f32),
            mamba2
                .clone()
                .put(&mixer("D"), &[inner], |i| 0.5 + (i / 32) as f32)
                .set("D_has_hdim", json!(true)),
        ),
        (
            "mamba 2: limits of the time step that limit nothing",
            mamba2.clone(),
            mamba2.clone().set("dt_limit", json!([1e-30, 1e30])),
        ),
        (
            "rwkv 7: heads from their width",
            rwkv7.clone(),
            rwkv7.clone().set("num_heads", json!(32)),
        ),
        (
            "rwkv 7: width of a head from their number",
            rwkv7.clone(),
            rwkv7.clone().set("head_dim", json!(null)),
        ),
        (
            "hgrn 2: heads from their width",
            hgrn2.clone(),
            hgrn2.clone().set("num_heads", json!(4)),
        ),
        (
            "hgrn 2: width of a head from their number",
            hgrn2.clone(),
            hgrn2.clone().set("expand_ratio", json!(null)),
        ),
        (
            "comba: options that the class does not obey",
            comba.clone(),
            comba
                .clone()
                .set("use_inner_decay", json!(false))
                .set("correction_factor", json!(0.02)),
        ),
        (
            "deltaproduct: no convolutions",
            taps(product.clone(), ["q", "k", "v"]),
            without_taps(product.clone()).set("use_short_conv", json!(false)),
        ),
        (
            "linear attention: one map for queries and keys",
            {
                let mut same = linear.clone();
                for (name, to) in [("q", "k")] {
                    for part in ["weight", "bias"] {
                        for l in 0..2 {
                            let map = |x: &str| {
                                format!("model.layers.{l}.attn.feature_map_{x}.layer.{part}")
                            };
                            let tensor = same.tensors[&map(name)].clone();
                            same.tensors.insert(map(to), tensor);
                        }
                    }
                }
                same
            },
            linear
                .clone()
                .drop(&attn("feature_map_k.layer.weight"))
                .drop(&attn("feature_map_k.layer.bias"))
                .set("tie_feature_map_qk", json!(true)),
        ),
        (
            "xlstm: projections in one piece",
            xlstm.clone(),
            fused(xlstm.clone()),
        ),
        (
            "xlstm: what the file of the 7B has beside",
            xlstm.clone(),
            xlstm
                .clone()
                .set("hidden_size", json!(null))
                .set("num_hidden_layers", json!(null))
                .set("add_post_blocks_norm", json!(true))
                .set("add_qk_norm", json!(false))
                .set("cell_norm_eps", json!(1e-6))
                .set("head_dim", json!(64))
                .set("igate_bias_init_range", json!(-10.0))
                .set("mlstm_round_up_to_multiple_of", json!(64)),
        ),
        (
            "lfm2: layers by the places of attention",
            lfm2.clone(),
            lfm2.clone()
                .set("layer_types", json!(null))
                .set("full_attn_idxs", json!([1])),
        ),
        (
            "lfm2: names of options before it was part of transformers",
            lfm2.clone(),
            lfm2.clone()
                .set("rope_parameters", json!(null))
                .set("rope_theta", json!(1000000.0))
                .set("theta", json!(1000000.0))
                .set("block_dim", json!(64))
                .set("intermediate_size", json!(null))
                .set("block_ff_dim", json!(144))
                .set("block_auto_adjust_ff_dim", json!(true))
                .set("block_multiple_of", json!(32))
                .set("tie_embedding", json!(true)),
        ),
        (
            "griffin: options of the rotation beside all others",
            griffin.clone(),
            griffin
                .clone()
                .set("rope_parameters", json!(null))
                .set("rope_theta", json!(10000.0))
                .set("partial_rotary_factor", json!(0.5)),
        ),
        (
            "griffin: a list that is not repeated",
            griffin.clone(),
            griffin.clone().set(
                "block_types",
                json!(["recurrent", "recurrent", "attention", "attention"]),
            ),
        ),
        (
            "tied, and untied with the same tensor",
            gla.clone()
                .drop("lm_head.weight")
                .set("tie_word_embeddings", json!(true)),
            {
                let mut twice = gla.clone();
                let table = twice.tensors["model.embeddings.weight"].clone();
                twice.tensors.insert("lm_head.weight".into(), table);
                twice
            },
        ),
    ];
    let mut failed = vec![];
    for (name, one, other) in cases {
        match (one.logits(), other.logits()) {
            (Ok(one), Ok(other)) => {
                let d = difference(&one, &other);
                if d.is_nan() || d > 1e-6 {
                    failed.push(format!("{name}: they differ by {d:.1e}"));
                }
            }
            (one, other) => failed.push(format!("{name}: {:?} {:?}", one.err(), other.err())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn one_layer_is_enough() {
    for case in [
        "deltanet-fla",
        "gated-deltanet-fla",
        "gla-fla",
        "hgrn-fla",
        "hgrn2-fla",
        "kda-fla",
        "mamba1-hf",
        "mamba2-fla",
        "mamba2-hf",
        "retnet-fla",
        "rwkv6-fla",
        "rwkv7-fla",
    ] {
        let mut one = Stored::golden(case).cut(1);
        if let Some((shape, elements)) = one.tensors.get_mut("model.lower_bounds") {
            elements.truncate(shape[1]);
            shape[0] = 1;
        }
        if one.options.contains_key("value_dim") {
            one = one.set("value_dim", json!([128]));
        }
        let logits = one.logits().unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(logits.iter().all(|x| x.is_finite()), "{case}");
    }
}

#[test]
fn activations_and_norms_of_queries_and_keys() {
    let delta = Stored::golden("deltanet-fla");
    let base = delta.logits().expect("runs");
    let options = [
        ("qk_activation", json!("relu")),
        ("qk_activation", json!("elu")),
        ("qk_activation", json!("identity")),
        ("qk_norm", json!("sum")),
        ("use_beta", json!(false)),
        ("allow_neg_eigval", json!(true)),
    ];
    for (option, value) in options {
        let mut other = delta.clone().set(option, value.clone());
        if option == "use_beta" {
            other = other.drop(&attn("b_proj.weight"));
        }
        let logits = other.logits().unwrap_or_else(|e| panic!("{option}: {e}"));
        assert!(
            difference(&logits, &base) > 1e-4,
            "{option} {value} changes nothing"
        );
    }
    // Never negative: the norm by the sum of absolute values is a division by the sum.
    let scaled = |s: f32| {
        let relu = delta.clone().set("qk_activation", json!("relu"));
        let sum = relu.set("qk_norm", json!("sum"));
        sum.map(&attn("q_proj.weight"), |_, x| s * x)
            .logits()
            .expect("runs")
    };
    assert!(difference(&scaled(2.0), &scaled(1.0)) < 1e-5);
}

/// Options that are not implemented, or that contradict the tensors.
#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let attention = json!({"layers": [1], "num_heads": 2});
    let cases = [
        ("gla-fla", "attn", attention.clone(), "null"),
        ("rwkv7-fla", "attn", attention, "null"),
        ("gla-fla", "feature_map", json!("relu"), "null"),
        ("gla-fla", "num_kv_heads", json!(1), "2"),
        ("gla-fla", "use_gk", json!(false), "true"),
        (
            "gla-fla",
            "hidden_act",
            json!("gelu"),
            "\"swish\" or \"silu\"",
        ),
        ("gla-fla", "num_heads", json!(3), "a multiple of 3"),
        ("gla-fla", "hidden_size", json!(64), "128"),
        ("gla-fla", "intermediate_size", json!(300), "512"),
        (
            "gla-fla",
            "hidden_ratio",
            json!(8),
            "the 512 of the tensors",
        ),
        ("gla-fla", "expand_k", json!(1), "0.5, as the tensors say"),
        ("retnet-fla", "expand_v", json!(1), "2, as the tensors say"),
        (
            "hgrn-fla",
            "expand_ratio",
            json!(2),
            "1, as the tensors say",
        ),
        ("kda-fla", "expand_v", json!(2), "1, as the tensors say"),
        ("mamba2-hf", "expand", json!(3), "2, as the tensors say"),
        ("mamba2-hf", "intermediate_size", json!(64), "128"),
        (
            "rwkv7-fla",
            "hidden_ratio",
            json!(5),
            "the 512 of the tensors",
        ),
        ("rwkv6-fla", "intermediate_size", json!(512), "448"),
        ("gla-fla", "vocab_size", json!(300), "256"),
        (
            "gla-fla",
            "num_heads",
            json!("two"),
            "a whole number from 1 on",
        ),
        (
            "gla-fla",
            "num_heads",
            json!(1e30),
            "a whole number from 1 on",
        ),
        ("gla-fla", "norm_eps", json!("small"), "a number"),
        ("gla-fla", "attnres_block_size", json!(2), "null"),
        (
            "gla-fla",
            "conv_bias",
            json!(true),
            "leaving this option out",
        ),
        (
            "gla-fla",
            "quantization_config",
            json!({"bits": 4}),
            "leaving this option out",
        ),
        (
            "deltanet-fla",
            "qk_activation",
            json!("gelu"),
            "\"silu\" or \"relu\"",
        ),
        (
            "deltanet-fla",
            "qk_norm",
            json!("softmax"),
            "\"l2\" or \"sum\"",
        ),
        ("deltanet-fla", "conv_size", json!(3), "4"),
        (
            "gated-deltanet-fla",
            "num_v_heads",
            json!(1),
            "a multiple of the 2",
        ),
        ("gated-deltanet-fla", "head_dim", json!(32), "64"),
        (
            "gated-deltanet-fla",
            "output_gate_activation",
            json!("tanh"),
            "\"sigmoid\"",
        ),
        ("comba-fla", "num_v_heads", json!(1), "a multiple of the 2"),
        ("comba-fla", "head_dim", json!(32), "16"),
        (
            "deltaproduct-fla",
            "num_householder",
            json!(3),
            "2, as the tensors say",
        ),
        ("deltaproduct-fla", "head_dim", json!(32), "16"),
        (
            "linear-attention-fla",
            "feature_map",
            json!("dpfp"),
            "\"hedgehog\"",
        ),
        (
            "linear-attention-fla",
            "num_kv_heads",
            json!(3),
            "a divisor of the 2",
        ),
        ("xlstm-hf", "use_bias", json!(true), "false"),
        (
            "xlstm-hf",
            "ffn_proj_factor",
            json!(2.667),
            "one that gives the 128",
        ),
        ("xlstm-hf", "num_heads", json!(3), "a multiple of 3"),
        ("xlstm-hf", "add_qk_norm", json!(true), "false"),
        ("xlstm-hf", "weight_mode", json!("packed"), "\"fused\""),
        (
            "griffin-hf",
            "block_types",
            json!(["recurrent", "other"]),
            "\"attention\"",
        ),
        (
            "griffin-hf",
            "hidden_activation",
            json!("gelu"),
            "gelu_pytorch_tanh",
        ),
        (
            "griffin-hf",
            "num_key_value_heads",
            json!(3),
            "a divisor of the 2",
        ),
        (
            "griffin-hf",
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.3}),
            "1/2",
        ),
        ("lfm2-hf", "layer_types", json!(["conv"]), "each of 3"),
        (
            "lfm2-hf",
            "intermediate_size",
            json!(128),
            "one that gives the 96",
        ),
        (
            "lfm2-hf",
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "\"default\"",
        ),
        ("lfm2-hf", "conv_L_cache", json!(4), "3"),
        ("kda-fla", "lower_bound", json!(1.0), "a number below 0"),
        ("kda-fla", "safe_gate", json!(true), "'lower_bound' is null"),
        ("hgrn2-fla", "expand_ratio", json!(96), "a multiple of 96"),
        ("mamba1-hf", "hidden_act", json!("relu"), "\"silu\""),
        ("mamba1-hf", "time_step_rank", json!(9), "4"),
        ("mamba1-hf", "ssm_cfg", json!({"d_state": 8}), "{}"),
        ("mamba2-hf", "n_groups", json!(3), "a multiple of 6"),
        ("mamba2-hf", "num_heads", json!(8), "4"),
        ("mamba2-hf", "time_step_limit", json!([0.0]), "two numbers"),
        ("rwkv6-fla", "expand_k", json!(0.5), "1, as the tensors say"),
        ("rwkv6-fla", "norm_first", json!(false), "true"),
        ("rwkv6-fla", "norm_bias", json!(false), "true"),
        ("rwkv7-fla", "head_dim", json!(32), "64"),
        ("rwkv7-fla", "value_dim", json!([128, 256]), "128"),
        ("rwkv7-fla", "hidden_act", json!("relu"), "\"sqrelu\""),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let mut failed = vec![];
    for (case, option, value, implemented) in cases {
        let stored = Stored::golden(case).set(option, value.clone());
        match stored.open(directory.path()) {
            Ok(_) => failed.push(format!("{case}: {option} = {value} is accepted")),
            Err(message) => {
                // A size that does not divide is told with the tensor that it comes from.
                let told = message.contains(option) || message.contains("tensor '");
                if !(told && message.contains(implemented)) {
                    failed.push(format!("{case}: {option} = {value}: {message}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Without an option, the public class's own default decides.
#[test]
fn defaults_are_those_of_the_public_classes() {
    let missing = |case: &str, option: &str| {
        let stored = Stored::golden(case).set(option, Value::Null);
        stored.logits()
    };
    for (case, option) in [
        ("gla-fla", "norm_eps"),
        ("gla-fla", "use_output_gate"),
        ("gla-fla", "elementwise_affine"),
        ("gla-fla", "tie_word_embeddings"),
        ("gla-fla", "vocab_size"),
        ("rwkv7-fla", "fuse_norm"),
        ("rwkv7-fla", "norm_eps"),
        ("mamba1-hf", "tie_word_embeddings"),
        ("mamba1-hf", "layer_norm_epsilon"),
        ("mamba2-fla", "n_groups"),
        ("mamba2-fla", "dt_limit"),
        ("gated-deltanet-fla", "use_gate"),
        ("hgrn2-fla", "num_heads"),
        ("hgrn2-fla", "expand_ratio"),
        ("kda-fla", "use_short_conv"),
        ("deltaproduct-fla-plain", "use_forget_gate"),
        ("deltaproduct-fla-plain", "allow_neg_eigval"),
        ("deltaproduct-fla", "use_output_gate"),
        ("linear-attention-fla-product", "feature_map"),
        ("linear-attention-fla-product", "norm_feature_map"),
        ("xlstm-hf", "output_logit_soft_cap"),
        ("xlstm-hf", "num_hidden_layers"),
        ("xlstm-hf", "weight_mode"),
        ("griffin-hf", "block_types"),
        ("griffin-hf", "rope_parameters"),
        ("griffin-hf", "logits_soft_cap"),
        ("lfm2-hf", "rope_parameters"),
        ("lfm2-hf", "conv_bias"),
        ("lfm2-hf", "tie_word_embeddings"),
    ] {
        let base = Stored::golden(case).logits().expect("runs");
        let logits = missing(case, option).unwrap_or_else(|e| panic!("{case} {option}: {e}"));
        assert!(difference(&logits, &base) == 0.0, "{case} {option}");
    }
    // 24 layers, 8 groups: the tensors say otherwise.
    for (case, option, part) in [
        ("gla-fla", "num_hidden_layers", "model.layers.2."),
        ("mamba2-hf", "n_groups", "'state_size' is 32"),
    ] {
        let error = missing(case, option).expect_err("the default contradicts the tensors");
        assert!(error.contains(part), "{case} {option}: {error}");
    }
}

#[test]
fn a_head_that_is_not_tied_has_to_be_there() {
    for (case, option) in [
        ("gla-fla", json!(false)),
        ("rwkv6-fla", json!(null)),
        ("mamba2-hf", json!(null)),
    ] {
        let mut stored = Stored::golden(case).set("tie_word_embeddings", option);
        stored.tensors.remove("lm_head.weight");
        let error = stored.logits().expect_err("there is no head");
        assert!(
            error.contains("'lm_head.weight' is missing"),
            "{case}: {error}"
        );
    }
}

/// Options that converted checkpoints of the original Mamba carry along.
#[test]
fn options_left_by_a_conversion_are_checked() {
    let stored = Stored::golden("mamba1-hf")
        .set("d_model", json!(64))
        .set("d_inner", json!(128))
        .set("n_layer", json!(2))
        .set("rms_norm", json!(true))
        .set("fused_add_norm", json!(true))
        .set("ssm_cfg", json!({}))
        .set("pad_vocab_size_multiple", json!(8));
    stored.logits().expect("they say what the tensors say");
    let error = stored
        .set("d_inner", json!(256))
        .logits()
        .expect_err("another width");
    assert!(error.contains("'d_inner' is 256"), "{error}");
}

/// Whatever an option or the extents of a tensor become: a model or a message, never a panic.
#[test]
fn broken_checkpoints_never_panic() {
    let mut seed = 1u64;
    let mut below = |n: usize| {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    let values = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1e30),
        json!(0.5),
        json!(u64::MAX),
        json!(true),
        json!(false),
        json!(""),
        json!("silu"),
        json!("auto"),
        json!("Infinity"),
        json!([]),
        json!([1, 2]),
        json!([[]]),
        json!({}),
        json!({"__float__": "NaN"}),
        json!(4096),
        json!(1_000_000_007),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let mut accepted = 0;
    for case in [
        "comba-fla",
        "deltanet-fla",
        "deltaproduct-fla",
        "griffin-hf",
        "lfm2-hf",
        "linear-attention-fla",
        "xlstm-hf",
        "gated-deltanet-fla",
        "gla-fla",
        "hgrn-fla",
        "hgrn2-fla",
        "kda-fla",
        "mamba1-hf",
        "mamba2-fla",
        "mamba2-hf",
        "retnet-fla",
        "rwkv6-fla",
        "rwkv7-fla",
    ] {
        let stored = Stored::golden(case);
        let options: Vec<String> = stored.options.keys().cloned().collect();
        let tensors: Vec<String> = stored.tensors.keys().cloned().collect();
        for _ in 0..25 {
            let mut broken = stored.clone();
            for _ in 0..=below(2) {
                let option = &options[below(options.len())];
                broken = broken.set(option, values[below(values.len())].clone());
            }
            if below(2) == 0 {
                let name = &tensors[below(tensors.len())];
                let (shape, elements) = broken.tensors.get_mut(name).expect("it");
                match below(4) {
                    0 => shape.insert(0, 1),
                    1 => *shape = vec![elements.len()],
                    2 => (*shape, *elements) = (vec![], vec![1.0]),
                    _ => (*shape, *elements) = (vec![0, 3], vec![]),
                }
            }
            match broken.open(directory.path()) {
                // Sizes that a tensor does not have are told when the weights are bound.
                Ok(model) => accepted += usize::from(model.weights(None).is_ok()),
                Err(message) => assert!(!message.is_empty()),
            }
        }
    }
    assert!(accepted > 20, "{accepted}");
}

/// Classes that a recurrence of fixed states, or rows that all go one way, cannot express.
#[test]
fn what_cannot_be_expressed_is_refused_with_its_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    for (kind, reason) in [
        ("log_linear_mamba2", "Fenwick tree"),
        ("mesa_net", "conjugate gradients"),
        ("minimax", "a router"),
        ("lfm2_moe", "a router"),
        ("mamba3", "on GPUs only"),
    ] {
        let stored = Stored::golden("gla-fla").set("model_type", json!(kind));
        let refused = stored.open(directory.path()).map(|_| ()).expect_err(kind);
        let told = refused.contains(kind) && refused.contains(reason);
        assert!(told, "{kind}: {refused}");
    }
}

/// A checkpoint says how many layers it has, or its names do.
#[test]
fn layers_are_accepted_up_to_their_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = |layers: usize| Stored::golden("gla-fla").set("num_hidden_layers", json!(layers));
    let named = |last: usize| {
        let name = |name: &str| Some(name.replace("blocks.1.", &format!("blocks.{last}.")));
        Stored::golden("rwkv7-native").renamed(name)
    };
    for (what, stored, says) in [
        ("option", said(4097), "a whole number from 1 to 4096"),
        (
            "names",
            named(4096),
            "'blocks.4096.' is a tensor of more than 4096 layers",
        ),
    ] {
        let refused = stored.open(directory.path()).map(|_| ()).expect_err(what);
        assert!(refused.contains(says), "{what}: {refused}");
        std::fs::remove_file(directory.path().join("config.json")).ok();
    }
    for (what, stored) in [("option", said(4096)), ("names", named(4095))] {
        // What the checkpoint lacks of so many layers is told of its tensors.
        let opened = stored
            .open(directory.path())
            .map(|model| model.graph.layers);
        let fits = match &opened {
            Ok(layers) => *layers == 4096,
            Err(refused) => !refused.contains("4096"),
        };
        assert!(fits, "{what}: {opened:?}");
        std::fs::remove_file(directory.path().join("config.json")).ok();
    }
}
