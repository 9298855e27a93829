#!/usr/bin/env python3
"""Compares what a checkpoint's options mean here with what they mean to the class that reads them.

    python3 compare_options.py FUSEC [--only CASE ...]

Each case is a class of `transformers` or `fla` at a tiny size. Every key of its configuration is
changed, one at a time, in two ways: a model is built with another value and saved ("built"), and
the value is changed in, or left out of, the config.json of a model saved before ("edited").
Whatever the class then reads with `from_pretrained` is compared with `FUSEC run --device cpu`:

    same      equal logits
    refused   FUSEC refuses, and names the key or a tensor
    neither   the class refuses, FUSEC too
    read      the class refuses: its default for a key that is left out, or what READ names
    WRONG     other logits, or logits where the class gives none: exit status 1

What is never here: any arithmetic of a model. Needs torch, transformers and
flash-linear-attention; no GPU (fla's kernels run in Triton's interpreter).
"""

import argparse
import importlib
import inspect
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="critical")
warnings.filterwarnings("ignore")

SEED, BATCH, TIME, VOCAB, BOUND = 3, 2, 9, 32, 1e-4

FLA = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, fuse_cross_entropy=False)
RECURRENT = dict(FLA, attn_mode="fused_recurrent")
HF = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)

# case: (package, class stem, options)
CASES = {
    "mamba": ("transformers", "Mamba", dict(HF, state_size=8, tie_word_embeddings=False)),
    "mamba2": ("transformers", "Mamba2", dict(
        HF, num_heads=4, head_dim=8, state_size=8, n_groups=2, chunk_size=4)),
    "fla-mamba": ("fla.models", "Mamba", dict(FLA, state_size=8)),
    "fla-mamba2": ("fla.models", "Mamba2", dict(FLA, head_dim=16, state_size=8, n_groups=2, chunk_size=4)),
    "rwkv6": ("fla.models", "RWKV6", dict(
        RECURRENT, num_heads=2, expand_k=1.0, proj_low_rank_dim=8, gate_low_rank_dim=8)),
    "rwkv7": ("fla.models", "RWKV7", dict(
        RECURRENT, head_dim=16, decay_low_rank_dim=8, gate_low_rank_dim=8, a_low_rank_dim=8, v_low_rank_dim=8)),
    "gla": ("fla.models", "GLA", dict(RECURRENT, num_heads=2)),
    "retnet": ("fla.models", "RetNet", dict(RECURRENT, num_heads=2)),
    "deltanet": ("fla.models", "DeltaNet", dict(RECURRENT, num_heads=2)),
    "gated-deltanet": ("fla.models", "GatedDeltaNet", dict(RECURRENT, num_heads=2, head_dim=16)),
    "kda": ("fla.models", "KDA", dict(RECURRENT, num_heads=2, head_dim=16)),
    "hgrn": ("fla.models", "HGRN", dict(RECURRENT)),
    "hgrn2": ("fla.models", "HGRN2", dict(RECURRENT, expand_ratio=16)),
    "deltaproduct": ("fla.models", "GatedDeltaProduct", dict(RECURRENT, num_heads=2, head_dim=16, num_householder=2)),
    "comba": ("fla.models", "Comba", dict(RECURRENT, num_heads=2, head_dim=16)),
    "linear-attention": ("fla.models", "LinearAttention", dict(RECURRENT, num_heads=2)),
    "xlstm": ("transformers", "xLSTM", dict(
        HF, hidden_size=64, num_heads=2, ffn_proj_factor=1.0, tie_word_embeddings=False)),
    "griffin": ("transformers", "RecurrentGemma", dict(
        HF, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, attention_window_size=4,
        block_types=["recurrent", "attention"])),
    "lfm2": ("transformers", "Lfm2", dict(
        HF, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, block_multiple_of=8,
        layer_types=["conv", "full_attention"])),
}

# Values that say more than "twice" and "not": by key, for every class that has it.
VALUES = {
    "hidden_act": ["silu", "swish", "gelu", "relu", "sqrelu", "sigmoid"],
    "qk_activation": ["relu", "elu", "identity", "gelu"],
    "qk_norm": ["sum", "softmax"],
    "output_gate_activation": ["silu", "sigmoid", "tanh"],
    "feature_map": ["relu", "elu", "hedgehog", "t2r", "identity", "dpfp", "elementwise_product"],
    "attn": [{"layers": [1], "num_heads": 2}],
    "attn_mode": ["fused_recurrent", "chunk"],
    "clamp_min": [-0.05],
    "lower_bound": [-5.0, -1.0],
    "num_kv_heads": [1, 2],
    "num_v_heads": [2, 4, 1],
    "num_heads": [1, 2, 4],
    "intermediate_size": [32, 64, 96],
    "attnres_block_size": [1],
    "time_step_limit": [[0.0, 0.05], [0.01, 0.05]],
    "dt_limit": [[0.0, 0.05], [0.01, 0.05]],
    "A_init_range": [[1, 8]],
    "conv_init": [0.5],
    "value_dim": [32, 64, [32, 32]],
    "time_step_rank": [2, "auto"],
    "dt_rank": [2, "auto"],
    "time_step_init_scheme": ["constant"],
    "dt_init_scheme": ["constant"],
    "expand_k": [0.5, 1.0, 2.0],
    "expand_v": [0.5, 1.0, 2.0],
    "elementwise_affine": [True, False, None],
    "block_types": [["attention"], ["recurrent"], ["attention", "recurrent"]],
    "layer_types": [["conv", "conv"], ["full_attention", "conv"]],
    "full_attn_idxs": [[0], [0, 1], []],
    "rope_parameters": [{"rope_type": "default", "rope_theta": 100.0},
                        {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}],
    "weight_mode": ["fused"],
    "mode": ["train"],
    "hidden_activation": ["gelu"],
}
# What a class refuses though the weights and the meaning are there.
READ = {
    ("hidden_act", "silu"): "another word for swish",
    ("fuse_norm", False): "the same norm under another name",
    ("fuse_norm", True): "the same norm under another name",
    ("return_dict", False): "how an answer is wrapped",
    ("mode", "train"): "xLSTM then takes whole chunks only",
}
# Keys of other classes, other versions and other writers that a file may carry along.
FOREIGN = {
    "norm_before_gate": [True, False], "rmsnorm": [True, False], "rms_norm": [True, False],
    "D_has_hdim": [True, False], "unsloth_version": ["2025.1"], "sep_token_id": [None, 3],
    "model_max_length": [2048], "intermediate_size": [32, 64], "d_model": [16, 32], "tie_word_embeddings": [True, False],
    "is_decoder": [True, False], "num_attention_heads": [2],
}


def others(key, value):
    """Values to try in place of `value`."""
    if key in VALUES:
        return [v for v in VALUES[key] if v != value]
    match value:
        case bool():
            return [not value]
        case int():
            return [2 * value, value + 1]
        case float():
            return [value * 0.5, value * 8]
        case _:
            return []


def first_lines(text):
    """A message in one short line."""
    return " ".join(str(text).split())[:160]


class Case:
    """A class at a tiny size."""

    def __init__(self, name, fusec, work):
        package, stem, self.options = CASES[name]
        # fla's Mamba-2 without mamba_ssm gives heads other groups in its prefill than in its steps.
        self.by_steps = name == "fla-mamba2"
        module = importlib.import_module(package)
        self.name, self.fusec, self.work = name, fusec, work
        self.config, self.model = getattr(module, stem + "Config"), getattr(module, stem + "ForCausalLM")
        self.ids = work / "ids.safetensors"

    def build(self, folder, **options):
        """Saves a model with weights of its own in `folder`; says why not if the class refuses."""
        import torch
        from make_variants import drawn
        torch.manual_seed(SEED)
        model = self.model(self.config(**{**self.options, **options})).float().eval()
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(drawn(name, parameter, generator))
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(str(folder))

    def expected(self, folder, ids):
        """The logits of the class for what is in `folder`."""
        import torch
        from make_variants import fed, zero_state
        from safetensors.torch import load_file
        model, info = self.model.from_pretrained(str(folder), output_loading_info=True, dtype=torch.float32)
        if info["missing_keys"] or info["unexpected_keys"] or info.get("mismatched_keys"):
            raise ValueError(f"the class makes up or drops {sorted(info['missing_keys']) + sorted(info['unexpected_keys'])}")
        # Some classes scale weights anew after they have read them.
        with torch.no_grad():
            stored = load_file(str(folder / "model.safetensors"))
            model.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, strict=False)
            model = model.eval()
            if self.by_steps:
                return fed(model, ids, zero_state(model, ids))[0].float()
            return model(ids, use_cache=False, return_dict=True).logits.float()

    def compare(self, folder, ids, how, key, value):
        """(verdict, why) for a folder."""
        import torch
        from safetensors.torch import load_file
        try:
            expected, refusal = self.expected(folder, ids), None
        except Exception as error:
            expected, refusal = None, first_lines(error)
        out = self.work / "out.safetensors"
        command = [self.fusec, "run", str(folder), "--input", str(self.ids), "--output", str(out), "--device", "cpu"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 2:
            message = first_lines(run.stderr.replace(str(folder), "DIR"))
            if expected is None:
                return "neither", f"{refusal} | {message}"
            # A size that contradicts the tensors is told with the tensor.
            told = {"built": "'", "left out": "'"}.get(how, f"'{key}'")
            named = key is None or told in run.stderr or "tensor '" in run.stderr
            return ("refused" if named else "WRONG"), message
        if run.returncode != 0:
            return "WRONG", f"exit {run.returncode}: {first_lines(run.stderr)}"
        if expected is None:
            # Sizes follow from the tensors, which a default does not fit.
            meant = how == "left out" or (isinstance(value, (str, bool)) and (key, value) in READ)
            return ("read" if meant else "WRONG"), f"the class refuses: {refusal}"
        got = load_file(str(out))["logits"]
        error = float((got - expected).abs().max() / expected.abs().max())
        if not error <= BOUND:
            return "WRONG", f"off by {error:.2g} of the largest logit; {first_lines(run.stderr)}"
        return "same", f"{error:.1g} {first_lines(run.stderr)}"

    def trials(self):
        """(how, key, value, prepare): every change of every key."""
        signature = inspect.signature(self.config.__init__).parameters
        keys = {k: p.default for k, p in signature.items() if k not in ("self", "kwargs", "args")}
        base = self.work / "base"
        self.build(base)
        saved = json.loads((base / "config.json").read_text())
        keys = {k: v for k, v in {**keys, **saved}.items() if k not in ("architectures", "dtype", "model_type")}
        yield "built", None, None, lambda folder: shutil.copytree(base, folder)

        def edited(key, value, drop=False):
            def prepare(folder):
                shutil.copytree(base, folder)
                config = dict(saved)
                config.pop(key, None)
                if not drop:
                    config[key] = value
                (folder / "config.json").write_text(json.dumps(config, indent=1))
            return prepare

        for key in sorted(keys):
            value = self.options.get(key, saved.get(key, keys[key]))
            for other in others(key, value):
                yield "built", key, other, lambda folder, key=key, other=other: self.build(folder, **{key: other})
                yield "edited", key, other, edited(key, other)
            if key in saved:
                yield "left out", key, None, edited(key, None, drop=True)
        for key, values in FOREIGN.items():
            for value in values if key not in keys else []:
                yield "added", key, value, edited(key, value)

    def run(self):
        """Prints a line for each trial; how many were wrong."""
        import torch
        from safetensors.torch import save_file
        ids = torch.randint(3, VOCAB, (BATCH, TIME), generator=torch.Generator().manual_seed(SEED))
        save_file({"input_ids": ids}, str(self.ids))
        wrong = 0
        for how, key, value, prepare in self.trials():
            folder = self.work / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                prepare(folder)
            except Exception as error:
                print(f"{self.name:15} {how:8} {key} = {value}: none ({first_lines(error)})", flush=True)
                continue
            verdict, why = self.compare(folder, ids, how, key, value)
            wrong += verdict == "WRONG"
            print(f"{self.name:15} {how:8} {key} = {value}: {verdict} ({why})", flush=True)
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fusec", type=pathlib.Path, help="the program")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="these cases only")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # Every folder beside this file is a case.
    sys.dont_write_bytecode = True
    import torch
    from make_variants import without_tuning
    without_tuning()
    torch.set_num_threads(1)
    wrong = 0
    for name in args.only or CASES:
        with tempfile.TemporaryDirectory() as work:
            wrong += Case(name, str(args.fusec.resolve()), pathlib.Path(work)).run()
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
