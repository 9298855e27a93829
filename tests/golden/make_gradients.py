#!/usr/bin/env python3
"""Records the gradients that PyTorch's autograd gives for golden cases.

    python3 make_gradients.py CASE_DIRECTORY ...

Each directory gets a gradients.safetensors: the derivatives of the mean cross-entropy of the next token,
over the recorded `input_ids` [B,T], by every parameter of the checkpoint, under its name and in its shape
there; in f32 up to 8192 elements, beyond in bf16. Beside it gradients.json holds the loss, and the L2 norm
of every derivative before it was rounded.

What is never here: any arithmetic of a model. The `transformers` classes run on the CPU in f32. Those of
`fla` are run by Triton's interpreter (TRITON_INTERPRET=1 is set here), which needs no GPU; where that
cannot run an operator of theirs, by the reference of that operator which `fla` itself ships
(`references`).

Made with torch 2.14.1, transformers 5.24.0, flash-linear-attention 0.6.0.
"""

import importlib
import json
import os
import pathlib
import sys

os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
os.environ.setdefault("FLA_USE_COMPILE", "0")

MOST = 8192
SOURCE = "torch 2.14.1 autograd, transformers 5.24.0, flash-linear-attention 0.6.0, CPU f32"


def model_of(folder):
    """The model of a case in f32, on the CPU."""
    import torch
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    if "-fla" in folder.name:
        importlib.import_module("fla.models")
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    print(f"{folder.name}: {kind}")
    return model.float()


def references():
    """Puts fla's own references in the place of the operators that Triton's interpreter cannot run."""
    import torch
    import torch.nn.functional as F
    from fla.layers import gated_deltanet, rwkv7
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence

    def gated_delta_rule(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval=False, **_):
        # What the operator's `use_*_in_kernel` say, as its documentation gives it.
        q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
        g = -A_log.exp() * F.softplus(g + dt_bias)
        beta = beta.sigmoid() * (2.0 if allow_neg_eigval else 1.0)
        heads = v.shape[2] // k.shape[2]
        q, k = (x.repeat_interleave(heads, dim=2) for x in (q, k))
        return naive_recurrent_gated_delta_rule(q, k, v, beta, g)

    def wkv7(r, w, k, v, a, b, **_):
        r, w, k, v, a, b = (x.transpose(1, 2) for x in (r, w, k, v, a, b))
        # The reference scales by 1 / sqrt(K), the operator is called with a scale of 1.
        o, state = dplr_recurrence(r * r.shape[-1] ** 0.5, k, v, a, b, w)
        return o.transpose(1, 2), state

    gated_deltanet.chunk_gated_delta_rule = gated_delta_rule
    rwkv7.chunk_rwkv7 = wkv7


def main():
    import torch
    from safetensors.torch import load_file, save_file
    for folder in map(pathlib.Path, sys.argv[1:]):
        if "-fla" in folder.name and os.environ.get("TRITON_INTERPRET") != "1":
            os.environ["TRITON_INTERPRET"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if "-fla" in folder.name:
            sys.path.insert(0, str(pathlib.Path(__file__).parent))
            from make_variants import without_tuning
            without_tuning()
            references()
        model = model_of(folder).train()
        ids = load_file(str(folder / "golden.safetensors"))["input_ids"]
        want = load_file(str(folder / "golden.safetensors"))["logits"]
        logits = model(ids, use_cache=False).logits
        off = float((logits - want).abs().max() / want.abs().max())
        if not off < 1e-3:
            raise SystemExit(f"{folder.name}: its logits are {off:.1e} off the recorded ones")
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        out, norms = {}, {}
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                print(f"  {name}: no gradient")
                continue
            grad = parameter.grad.float()
            norms[name] = float(grad.double().norm())
            out[name] = grad.contiguous() if grad.numel() <= MOST else grad.to(torch.bfloat16).contiguous()
        save_file(out, str(folder / "gradients.safetensors"))
        about = {"source": SOURCE, "loss": float(loss.detach()), "norms": norms}
        (folder / "gradients.json").write_text(json.dumps(about, indent=1) + "\n")
        size = (folder / "gradients.safetensors").stat().st_size
        print(f"  loss {float(loss):.6f}, logits {off:.1e} off the recorded ones, {len(out)} tensors, {size} bytes")


if __name__ == "__main__":
    main()
