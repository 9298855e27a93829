#!/usr/bin/env python3
"""Makes more golden cases: the public layouts at other options, ranks, head counts and norms.

    python3 make_variants.py OUT [--only CASE ...] [--jobs N] [--seconds S] [--interpreted]

Each case becomes a folder OUT/CASE of the form that README.md describes. What is here: the options
of each case, how its weights are drawn, and how the public implementation is run. What is never
here: any arithmetic of a model. Every expected number comes from `transformers`, `fla` or `rwkv`.

Needs one CUDA GPU, torch 2.11, transformers 5.17, flash-linear-attention 0.6.0, rwkv 0.8.32; with
--interpreted no GPU: fla's kernels run in Triton's interpreter (with numpy before 2.4). Cases in NEWER
were made with transformers 5.24, the fla ones among them interpreted.
Every case runs in a process of its own, so that a failed one (a CUDA error stays with its
process) costs no other. Arithmetic is f32 without TF32, in torch and in Triton.
"""

import argparse
import importlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

BATCH, PREFIX, STEPS, VOCAB, SEED = 2, 37, 5, 256, 2

# Options that all fla cases share; a case's own options come on top.
FLA = dict(vocab_size=VOCAB, hidden_size=128, num_hidden_layers=2, attn_mode="fused_recurrent",
           fuse_cross_entropy=False, tie_word_embeddings=False)
HF = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, bos_token_id=1, eos_token_id=2,
          pad_token_id=0, rescale_prenorm_residual=False, use_bias=False, use_conv_bias=True)
HF_MAMBA2 = dict(HF, num_heads=4, head_dim=32, expand=2, state_size=32, chunk_size=16,
                 tie_word_embeddings=False)
TINY = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)

# case: (package, class stem, bound, options[, how the tokens are fed])
CHECKPOINTS = {
    "mamba2-hf-groups": ("transformers", "Mamba2", 5e-5, dict(HF_MAMBA2, n_groups=2)),
    "mamba2-hf-tied": ("transformers", "Mamba2", 5e-5, dict(HF_MAMBA2, n_groups=1, tie_word_embeddings=True)),
    "mamba1-hf-state8": ("transformers", "Mamba", 5e-5, dict(
        HF, state_size=8, time_step_rank=6, expand=2, use_mambapy=False, tie_word_embeddings=False)),
    # Without mamba_ssm, fla 0.6.0 gives head h the group h % G in its prefill and h // (H/G) in its
    # cached steps. The latter is what its fused kernels and transformers do, so the steps are recorded.
    "mamba2-fla-groups": ("fla.models", "Mamba2", 5e-5, dict(
        FLA, expand=2, head_dim=32, state_size=32, n_groups=2, fuse_norm=True), "steps from a zero state"),
    "gated-deltanet-fla-values": ("fla.models", "GatedDeltaNet", 5e-5, dict(
        FLA, num_heads=2, num_v_heads=4, head_dim=32, expand_v=2.0, fuse_norm=True)),
    "gated-deltanet-fla-ungated": ("fla.models", "GatedDeltaNet", 5e-5, dict(
        FLA, num_heads=4, head_dim=32, expand_v=1.0, use_gate=False, allow_neg_eigval=True, fuse_norm=False)),
    "deltanet-fla-gated": ("fla.models", "DeltaNet", 5e-5, dict(
        FLA, num_heads=4, use_gate=True, allow_neg_eigval=True, conv_size=3, fuse_norm=True)),
    "kda-fla-values": ("fla.models", "KDA", 5e-5, dict(
        FLA, num_heads=2, num_v_heads=4, head_dim=32, expand_v=1.0, fuse_norm=True)),
    "kda-fla-bounded": ("fla.models", "KDA", 5e-5, dict(
        FLA, num_heads=2, head_dim=64, expand_v=1.0, safe_gate=True, lower_bound=-5.0,
        allow_neg_eigval=True, fuse_norm=False)),
    "gla-fla-wide": ("fla.models", "GLA", 5e-5, dict(FLA, num_heads=4, expand_k=1.0, fuse_norm=False)),
    "gla-fla-tied": ("fla.models", "GLA", 5e-5, dict(FLA, num_heads=2, fuse_norm=True, tie_word_embeddings=True)),
    "retnet-fla-even": ("fla.models", "RetNet", 5e-5, dict(FLA, num_heads=4, expand_v=1.0, fuse_norm=True)),
    "hgrn-fla-wide": ("fla.models", "HGRN", 5e-5, dict(FLA, num_hidden_layers=3, expand_ratio=2, fuse_norm=True)),
    "hgrn2-fla-heads": ("fla.models", "HGRN2", 5e-5, dict(FLA, expand_ratio=32, num_heads=4, fuse_norm=True)),
    "rwkv6-fla-ranks": ("fla.models", "RWKV6", 5e-5, dict(
        FLA, num_heads=4, expand_k=1.0, expand_v=1.0, proj_low_rank_dim=16, gate_low_rank_dim=32,
        hidden_ratio=4, norm_eps=1e-6, fuse_norm=True)),
    "rwkv7-fla-ranks": ("fla.models", "RWKV7", 5e-4, dict(
        FLA, num_hidden_layers=3, head_dim=32, decay_low_rank_dim=48, gate_low_rank_dim=40,
        a_low_rank_dim=24, v_low_rank_dim=16, fuse_norm=False)),
    # One case or more for every option that a checkpoint may have otherwise.
    "gla-fla-conv": ("fla.models", "GLA", 5e-5, dict(
        FLA, num_heads=2, use_short_conv=True, conv_size=3, clamp_min=-0.05, fuse_norm=False)),
    "gla-fla-plain": ("fla.models", "GLA", 5e-5, dict(
        FLA, num_heads=2, use_output_gate=False, elementwise_affine=False)),
    "retnet-fla-plain": ("fla.models", "RetNet", 5e-5, dict(FLA, num_heads=2, use_output_gate=False)),
    "deltanet-fla-relu": ("fla.models", "DeltaNet", 5e-5, dict(
        FLA, num_heads=2, qk_activation="relu", qk_norm="sum")),
    "deltanet-fla-elu": ("fla.models", "DeltaNet", 5e-5, dict(
        FLA, num_heads=2, qk_activation="elu", use_beta=False)),
    "deltanet-fla-identity": ("fla.models", "DeltaNet", 5e-5, dict(
        FLA, num_heads=2, qk_activation="identity", use_short_conv=False)),
    "gated-deltanet-fla-sigmoid": ("fla.models", "GatedDeltaNet", 5e-5, dict(
        FLA, num_heads=2, head_dim=32, output_gate_activation="sigmoid", use_short_conv=False)),
    "kda-fla-unconvolved": ("fla.models", "KDA", 5e-5, dict(
        FLA, num_heads=2, head_dim=32, expand_v=2.0, use_short_conv=False)),
    "hgrn-fla-conv": ("fla.models", "HGRN", 5e-5, dict(FLA, use_short_conv=True, elementwise_affine=False)),
    "hgrn-fla-unbounded": ("fla.models", "HGRN", 5e-5, dict(FLA, use_lower_bound=False)),
    "hgrn2-fla-conv": ("fla.models", "HGRN2", 5e-5, dict(
        FLA, expand_ratio=64, use_short_conv=True, use_lower_bound=False)),
    "mamba2-fla-unnormed": ("fla.models", "Mamba2", 5e-5, dict(
        FLA, expand=2, head_dim=32, state_size=32, n_groups=1, rmsnorm=False, D_has_hdim=True,
        use_conv_bias=False), "steps from a zero state"),
    "mamba2-fla-before": ("fla.models", "Mamba2", 5e-5, dict(
        FLA, expand=2, head_dim=32, state_size=32, n_groups=1, norm_before_gate=True, use_bias=True,
        dt_limit=(0.01, 0.05)), "steps from a zero state"),
    "mamba1-fla": ("fla.models", "Mamba", 5e-5, dict(
        {k: v for k, v in FLA.items() if k != "attn_mode"}, state_size=16, expand=2)),
    "mamba1-hf-biases": ("transformers", "Mamba", 5e-5, dict(
        HF, state_size=16, use_bias=True, use_conv_bias=False, tie_word_embeddings=True)),
    "mamba2-hf-biases": ("transformers", "Mamba2", 5e-5, dict(
        HF_MAMBA2, n_groups=1, use_bias=True, use_conv_bias=False, time_step_limit=(0.01, 0.05))),
}
# Classes that compute otherwise in later releases, and sizes small enough for Triton's interpreter.
NEWER = {
    # From 5.23 on each group is normalised by itself.
    "mamba2-hf-per-group": ("transformers", "Mamba2", 5e-5, dict(HF_MAMBA2, n_groups=2)),
    # The class's own default: keys half as wide as the model.
    "rwkv6-fla-expanded": ("fla.models", "RWKV6", 5e-5, dict(
        FLA, hidden_size=64, num_heads=2, proj_low_rank_dim=8, gate_low_rank_dim=16, fuse_norm=False)),
    "xlstm-hf": ("transformers", "xLSTM", 5e-5, dict(
        TINY, hidden_size=128, num_heads=2, ffn_proj_factor=1.0, gate_soft_cap=3.0, tie_word_embeddings=False)),
    "griffin-hf": ("transformers", "RecurrentGemma", 5e-5, dict(
        TINY, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, lru_width=96,
        intermediate_size=192, attention_window_size=16)),
    "lfm2-hf": ("transformers", "Lfm2", 5e-5, dict(
        TINY, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
        block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"])),
    "lfm2-hf-biases": ("transformers", "Lfm2", 5e-5, dict(
        TINY, num_attention_heads=2, num_key_value_heads=2, intermediate_size=96, block_multiple_of=32,
        conv_bias=True, conv_L_cache=4, tie_word_embeddings=False, layer_types=["full_attention", "conv"])),
    "deltaproduct-fla": ("fla.models", "GatedDeltaProduct", 5e-5, dict(
        FLA, hidden_size=64, num_heads=2, head_dim=16, expand_v=2.0, use_forget_gate=True,
        allow_neg_eigval=True, num_householder=2, intermediate_size=96)),
    "deltaproduct-fla-plain": ("fla.models", "GatedDeltaProduct", 5e-5, dict(
        FLA, hidden_size=64, num_heads=4, head_dim=16, expand_v=1.0, num_householder=3, conv_size=3,
        use_output_gate=False, intermediate_size=96)),
    "comba-fla": ("fla.models", "Comba", 5e-5, dict(
        FLA, hidden_size=64, num_heads=2, num_v_heads=4, head_dim=16, expand_v=2.0, intermediate_size=96)),
    "linear-attention-fla": ("fla.models", "LinearAttention", 5e-5, dict(
        FLA, hidden_size=64, num_heads=2, num_kv_heads=1, expand_v=2.0, norm_feature_map=True,
        feature_map="hedgehog", intermediate_size=96)),
    "linear-attention-fla-product": ("fla.models", "LinearAttention", 5e-5, dict(
        FLA, hidden_size=64, num_heads=2, expand_k=0.5, intermediate_size=96)),
}
CHECKPOINTS |= NEWER
NATIVE = {"rwkv6-native-ranks": 6, "rwkv7-native-ranks": 7}
NATIVE_SIZES = dict(layers=3, channels=192, head=64)


def without_tuning():
    """Makes fla's kernels run without a GPU: tuning would time them; the first setting does as well."""
    os.environ["TRITON_INTERPRET"] = "1"
    import fla.models  # noqa: F401, what subclasses the tuner has to be there
    from triton.runtime.autotuner import Autotuner

    def run(self, *args, **more):
        return self.fn.run(*args, **{**self.configs[0].kwargs, **more})

    tuners = [Autotuner]
    for tuner in tuners:
        tuner.run = run
        tuners.extend(tuner.__subclasses__())


def rounded(tensor):
    """The values that bf16 can hold, in f32."""
    import torch
    return tensor.to(torch.bfloat16).to(torch.float32)


def drawn(name, old, generator):
    """A new f32 value for the parameter `name` of a class, of `old`'s shape."""
    import torch
    old = old.detach().float().cpu()
    noise = torch.randn(old.shape, generator=generator)
    last = name.rsplit(".", 1)[-1]
    if last in ("A_log", "dt_bias", "D") or name.endswith("dt_proj.bias"):
        return old + 0.05 * noise  # decays and time steps: their ranges carry the meaning
    if name.endswith(("w_lora.lora.2.bias", "w_proj.linear.lora.2.bias")):
        return torch.linspace(-5.0, 0.5, old.numel()).view(old.shape) + 0.1 * noise  # slow to fast decay
    if last in ("mu", "x_bias", "x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
        return torch.rand(old.shape, generator=generator)  # token shift: between now and before
    if last in ("k_k", "k_a"):
        return 0.9 + 0.1 * noise
    if last in ("bonus", "r_k"):
        return 0.4 * noise
    if last == "lower_bounds":
        return noise
    if name.endswith("gate_preact.bias"):  # of mLSTM: input gates about 1, forget gates from fast to slow
        gates = torch.linspace(1.0, 5.0, old.numel()) if "igate" not in name else torch.zeros(old.shape)
        return gates + 0.5 * noise
    if last == "recurrent_param":
        return torch.linspace(-6.0, -1.0, old.numel()) + 0.1 * noise  # slow to fast decay
    if last in ("input_gate_weight", "recurrent_gate_weight"):
        return noise / old.shape[-1] ** 0.5  # one matrix [in, out] per head
    if last == "decay":
        return 0.5 + 0.5 * noise
    if last == "bias":
        return 0.1 * noise
    if old.dim() <= 1:
        return 1.0 + 0.1 * noise  # norms
    fan_in = old.numel() // old.shape[0]
    return noise * 0.7 / fan_in ** 0.5


def tokens(generator):
    """(input_ids [B,T], step_ids [B,S]); ids below 3 are the configs' special tokens."""
    import torch
    ids = torch.randint(3, VOCAB, (BATCH, PREFIX + STEPS), generator=generator)
    return ids[:, :PREFIX].contiguous(), ids[:, PREFIX:].contiguous()


def record(folder, prefix, steps, logits, step_logits, about):
    """Writes golden.safetensors and about.json."""
    import torch
    from safetensors.torch import save_file
    logits, step_logits = logits.float().cpu().contiguous(), step_logits.float().cpu().contiguous()
    if not (torch.isfinite(logits).all() and torch.isfinite(step_logits).all()):
        raise ValueError("the logits are not finite")
    save_file({"input_ids": prefix, "step_ids": steps, "logits": logits, "step_logits": step_logits},
              str(folder / "golden.safetensors"))
    about.update(logits_std=float(logits.std()), logits_shape=list(logits.shape))
    write_about(folder, about)


def write_about(folder, about):
    """Writes about.json, the bound last."""
    about["bound"] = about.pop("bound")
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def fed(model, ids, state=None):
    """The logits [B,n,V] of n cached single steps, and the state after them."""
    import torch
    rows = []
    for t in range(ids.shape[1]):
        out = model(ids[:, t:t + 1], use_cache=True, **(state or {}))
        state = state_of(model, out)
        rows.append(out.logits)
    return torch.cat(rows, dim=1), state


def state_of(model, out):
    """The cache that a model returned, under the name by which it takes it."""
    names = ("cache", "past_key_values", "cache_params")
    held = next((getattr(out, name) for name in names if getattr(out, name, None) is not None), None)
    taken = inspect.signature(model.forward).parameters
    if held is None:
        raise ValueError("the model returned no cache")
    return {next(name for name in names if name in taken): held}


def zero_state(model, ids):
    """A cache as before the first token: made by one token, then cleared."""
    state = state_of(model, model(ids[:, :1], use_cache=True))
    (cache,) = state.values()
    for layer in range(model.config.num_hidden_layers):
        for key in ("recurrent_state", "conv_state"):
            cache[layer][key].zero_()
    return state


def checkpoint_case(case, folder, interpreted):
    """A config.json + model.safetensors case of a transformers or fla class."""
    import torch
    from safetensors import safe_open
    package, stem, bound, options, *feeding = CHECKPOINTS[case]
    if interpreted:
        without_tuning()
    module = importlib.import_module(package)
    config = getattr(module, stem + "Config")(**options)
    torch.manual_seed(SEED)  # for what the class draws itself and `drawn` keeps
    model = getattr(module, stem + "ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(rounded(drawn(name, parameter, generator)))
    prefix, steps = tokens(generator)
    device = "cpu" if package == "transformers" or interpreted else "cuda"
    model.to(device)
    ids = torch.cat([prefix, steps], dim=1).to(device)
    with torch.no_grad():
        if feeding:
            logits, _ = fed(model, ids, zero_state(model, ids))
        else:
            logits = model(ids, use_cache=False).logits
    maker = {"transformers": "transformers", "fla.models": "flash-linear-attention"}[package]
    version = importlib.metadata.version(maker)
    about = {
        "source": f"{maker} {version} {stem}ForCausalLM, {device} f32"
                  + ("" if package == "transformers" else ", recurrent mode")
                  + (", Triton's interpreter" if interpreted and package != "transformers" else ""),
        "layout": "hf-dir",
        "dtype": "bf16 weights, f32 arithmetic",
        "step": feeding[0] if feeding else "one pass over prefix+steps (causal)",
        "seed": SEED,
        "bound": bound,
    }
    record(folder, prefix, steps, logits[:, :PREFIX], logits[:, PREFIX:], about)

    # Its own cached steps after its own prefill: what it says about itself when the two disagree.
    if not feeding:
        try:
            with torch.no_grad():
                state = state_of(model, model(ids[:, :PREFIX], use_cache=True))
                cached, _ = fed(model, ids[:, PREFIX:], state)
            about["max_abs_diff_of_its_own_cached_decode"] = float((cached - logits[:, PREFIX:]).abs().max())
        except Exception as error:
            print(f"  {case}: its cached decode did not run: {error!r}")
        write_about(folder, about)

    kept = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    model.cpu().to(torch.bfloat16).save_pretrained(str(folder))
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        stored = set(file.keys())
        for name in stored:
            if name not in kept or not torch.equal(file.get_tensor(name).float(), kept[name]):
                raise ValueError(f"the stored {name} is not the one that was computed with")
    if stored != set(kept):
        raise ValueError(f"parameters not stored: {sorted(set(kept) - stored)}")
    return about


def native_weights(version, generator):
    """The tensors of a .pth of RWKV `version`, in the order of the public ones (readers look at the order)."""
    import torch
    layers, c, n = NATIVE_SIZES["layers"], NATIVE_SIZES["channels"], NATIVE_SIZES["head"]
    heads = c // n

    def normal(*shape, std=1.0, mean=0.0):
        return mean + std * torch.randn(shape, generator=generator)

    def mix():
        return torch.rand((1, 1, c), generator=generator)

    def per_channel(low, high):
        return (torch.linspace(low, high, c) + normal(c, std=0.1)).view(1, 1, c)

    def norm(name):
        return {f"{name}.weight": normal(c, std=0.1, mean=1.0), f"{name}.bias": normal(c, std=0.1)}

    def linear(name, out, inp):
        return {f"{name}.weight": normal(out, inp, std=0.7 / inp ** 0.5)}

    def low_rank(down, up, rank):  # stored [in, rank] and [rank, out]
        return {down: normal(c, rank, std=0.7 / c ** 0.5), up: normal(rank, c, std=0.7 / rank ** 0.5)}

    w = {"emb.weight": normal(VOCAB, c, std=0.5), **linear("head", VOCAB, c), **norm("ln_out")}
    for i in range(layers):
        block, att, ffn = f"blocks.{i}", f"blocks.{i}.att", f"blocks.{i}.ffn"
        w |= norm(f"{block}.ln1") | norm(f"{block}.ln2")
        if i == 0:
            w |= norm(f"{block}.ln0")
        if version == 6:
            for x in "xwkvrg":
                w[f"{att}.time_maa_{x}"] = mix()
            mixing = 16
            w[f"{att}.time_maa_w1"] = normal(c, 5 * mixing, std=0.7 / c ** 0.5)
            w[f"{att}.time_maa_w2"] = normal(5, mixing, c, std=0.3 / mixing ** 0.5)
            w[f"{att}.time_decay"] = per_channel(-5.0, 0.5)
            w |= low_rank(f"{att}.time_decay_w1", f"{att}.time_decay_w2", 32)
            w[f"{att}.time_faaaa"] = normal(heads, n, std=0.4)
            projections = ("receptance", "key", "value", "gate", "output")
        else:
            for x in "rwkvag":
                w[f"{att}.x_{x}"] = mix()
            w[f"{att}.w0"] = per_channel(-5.0, 0.5)
            w |= low_rank(f"{att}.w1", f"{att}.w2", 48)
            w[f"{att}.a0"] = per_channel(-0.5, 0.5)
            w |= low_rank(f"{att}.a1", f"{att}.a2", 24)
            if i > 0:
                w[f"{att}.v0"] = per_channel(0.5, 1.0)
                w |= low_rank(f"{att}.v1", f"{att}.v2", 16)
            w |= low_rank(f"{att}.g1", f"{att}.g2", 40)
            w[f"{att}.k_k"] = normal(1, 1, c, std=0.1, mean=0.9)
            w[f"{att}.k_a"] = normal(1, 1, c, std=0.1, mean=0.9)
            w[f"{att}.r_k"] = normal(heads, n, std=0.4)
            projections = ("receptance", "key", "value", "output")
        for name in projections:
            w |= linear(f"{att}.{name}", c, c)
        w |= norm(f"{att}.ln_x")
        if version == 6:
            wide = c * 7 // 2
            w[f"{ffn}.time_maa_k"], w[f"{ffn}.time_maa_r"] = mix(), mix()
            w |= linear(f"{ffn}.key", wide, c) | linear(f"{ffn}.receptance", c, c) | linear(f"{ffn}.value", c, wide)
        else:
            w[f"{ffn}.x_k"] = mix()
            w |= linear(f"{ffn}.key", 4 * c, c) | linear(f"{ffn}.value", c, 4 * c)
    # The public package folds ln0 into emb at load, in the stored type: those three are f32.
    return {k: v if k == "emb.weight" or ".ln0." in k else v.to(torch.bfloat16) for k, v in w.items()}


def native_case(case, folder, _):
    """A model.pth case of the rwkv package."""
    import torch
    version = NATIVE[case]
    generator = torch.Generator().manual_seed(SEED)
    torch.save(native_weights(version, generator), str(folder / "model.pth"))
    prefix, steps = tokens(generator)
    os.environ.update(RWKV_V7_ON="1" if version == 7 else "0", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
    from rwkv.model import RWKV
    model = RWKV(model=str(folder / "model"), strategy="cpu fp32")
    logits, step_logits = [], []
    for row in range(BATCH):
        out, state = model.forward(prefix[row].tolist(), None, full_output=True)
        logits.append(out.clone())
        rows = []
        for token in steps[row].tolist():
            out, state = model.forward([token], state)
            rows.append(out.clone())
        step_logits.append(torch.stack(rows))
    about = {
        "source": "PyPI rwkv 0.8.32, strategy 'cpu fp32'",
        "layout": "rwkv-pth (bf16 weights; emb and ln0 f32)",
        "dtype": "f32",
        "step": "token by token from the state after the prefill",
        "seed": SEED,
        "bound": 5e-5,
    }
    record(folder, prefix, steps, torch.stack(logits), torch.stack(step_logits), about)
    return about


def run_case(case, out, interpreted):
    """Makes one case in this process; 0 if it was made, else 1."""
    folder = out / case
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import torch
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(2)
        about = (native_case if case in NATIVE else checkpoint_case)(case, folder, interpreted)
    except Exception:
        # A folder without about.json is no case.
        (folder / "about.json").unlink(missing_ok=True)
        print(f"FAILED {case}\n    " + "\n    ".join(traceback.format_exc().strip().splitlines()[-8:]))
        return 1
    print(f"made   {case}: std {about['logits_std']:.4f}, bound {about['bound']:g}, own cached decode differs by "
          f"{about.get('max_abs_diff_of_its_own_cached_decode')}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", help="make these cases only")
    parser.add_argument("--jobs", type=int, default=8, help="cases made at once")
    parser.add_argument("--seconds", type=float, default=215.0, help="cases unfinished after this time are given up")
    parser.add_argument("--interpreted", action="store_true", help="without a GPU")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return run_case(args.inside, args.out, args.interpreted)

    cases = list(CHECKPOINTS) + list(NATIVE)
    if unknown := set(args.only or ()) - set(cases):
        parser.error(f"no such case: {sorted(unknown)}; there are {cases}")
    # rwkv7 first: it compiles longest. TRITON_F32_DEFAULT: f32 dot products, not TF32.
    waiting = sorted(args.only or cases, key=lambda case: not case.startswith("rwkv7"))
    environment = dict(os.environ, TRITON_F32_DEFAULT="ieee", OMP_NUM_THREADS="2", TOKENIZERS_PARALLELISM="false",
                       PYTHONWARNINGS="ignore", TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1",
                       FLA_USE_COMPILE="0")
    args.out.mkdir(parents=True, exist_ok=True)
    start, running, made = time.monotonic(), {}, 0
    while waiting or running:
        late = time.monotonic() - start > args.seconds
        while waiting and len(running) < args.jobs and not late:
            case = waiting.pop(0)
            log = open(args.out / f"{case}.log", "w+")
            command = [sys.executable, os.path.abspath(__file__), str(args.out), "--inside", case]
            command += ["--interpreted"] if args.interpreted else []
            running[case] = (subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT), log)
        for case, (process, log) in list(running.items()):
            if process.poll() is None and not late:
                continue
            if process.poll() is None:
                process.kill()
                (args.out / case / "about.json").unlink(missing_ok=True)
            code = process.wait()
            made += code == 0
            log.seek(0)
            lines = log.read().strip().splitlines()
            log.close()
            del running[case]
            ours = [i for i, line in enumerate(lines) if line.startswith(("made ", "FAILED ", f"  {case}:"))]
            shown = lines[ours[0]:][:14] if ours else [f"FAILED {case}: exit {code}"] + lines[-6:]
            print("\n".join(shown) + f"  [{time.monotonic() - start:.0f} s]", flush=True)
        if late:
            for case in waiting:
                print(f"FAILED {case}: no time was left to start it")
            break
        time.sleep(0.2)
    total = len(args.only or cases)
    print(f"{made} of {total} cases made in {time.monotonic() - start:.0f} s")
    return 0 if made == total else 1


if __name__ == "__main__":
    sys.exit(main())
