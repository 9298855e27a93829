"""Whole models of flash-linear-attention on one GPU, random weights: one process for each model.

    models.py --stage STAGE --library fla --peer PEER --rows NAME,.. --out FILE.jsonl [--prepare]

prefill: the last token's logits only, no state kept. decode: single steps after 16 tokens, eager and as a CUDA graph
in which the new states are copied to where the old ones were. training: loss of the next token and the gradients by
all weights, in bf16, no optimiser, which is what `fusec bench --training` times. Mamba-2 takes mamba-ssm's Triton
kernels in fla. transformers' own Mamba and Mamba-2 fall back to plain PyTorch without extensions: they are no peers.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

PEERS = {
    operator: {"fla": None}
    for operator in ("rwkv7-1.5b", "rwkv6-1.6b", "mamba2-1.3b", "gla-1.3b", "rwkv7-0.4b", "mamba2-370m", "gla-340m")
}
WARMUPS, RUNS = 4, 30


def model(operator):
    """The configuration with the sizes of models/ at that preset."""
    import mamba_peers

    mamba_peers.packages()
    import fla.models as fla

    common = dict(num_hidden_layers=24)
    rwkv7 = dict(common, head_dim=64, vocab_size=65536, use_l2warp=False)
    mamba2 = dict(num_hidden_layers=48, vocab_size=50288, head_dim=64, state_size=128, tie_word_embeddings=True)
    made = {
        "rwkv7-1.5b": lambda: fla.RWKV7ForCausalLM(fla.RWKV7Config(
            hidden_size=2048, decay_low_rank_dim=96, gate_low_rank_dim=256, a_low_rank_dim=96, v_low_rank_dim=64, **rwkv7)),
        "rwkv7-0.4b": lambda: fla.RWKV7ForCausalLM(fla.RWKV7Config(
            hidden_size=1024, decay_low_rank_dim=64, gate_low_rank_dim=128, a_low_rank_dim=64, v_low_rank_dim=32, **rwkv7)),
        "rwkv6-1.6b": lambda: fla.RWKV6ForCausalLM(fla.RWKV6Config(
            hidden_size=2048, expand_k=1.0, num_heads=32, vocab_size=65536, **common)),
        "mamba2-1.3b": lambda: fla.Mamba2ForCausalLM(fla.Mamba2Config(hidden_size=2048, num_heads=64, **mamba2)),
        "mamba2-370m": lambda: fla.Mamba2ForCausalLM(fla.Mamba2Config(hidden_size=1024, num_heads=32, **mamba2)),
        "gla-1.3b": lambda: fla.GLAForCausalLM(fla.GLAConfig(
            hidden_size=2048, num_heads=4, intermediate_size=5632, vocab_size=32000, **common)),
        "gla-340m": lambda: fla.GLAForCausalLM(fla.GLAConfig(
            hidden_size=1024, num_heads=4, intermediate_size=2816, vocab_size=32000, **common)),
    }
    return made[operator]()


def tensors(value):
    """All tensors of a cache, in order."""
    import torch

    if torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(value, "layers"):
        value = [layer.state for layer in value.layers]
    elif not isinstance(value, (list, tuple)):
        value = vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for item in value for tensor in tensors(item)]


def prefill(net, row, clock):
    import torch

    ids = torch.randint(0, net.config.vocab_size, (row.sizes["B"], row.sizes["T"]), device=net.device)

    def run():
        return net(ids, use_cache=False, logits_to_keep=1).logits

    return clock(run)


def decode(net, row, clock):
    import torch

    batch = row.sizes["B"]
    ids = torch.randint(0, net.config.vocab_size, (batch, 16), device=net.device)
    held = {"cache": net(ids, use_cache=True).past_key_values}
    token = ids[:, -1:].contiguous()

    def step():
        held["cache"] = net(token, past_key_values=held["cache"], use_cache=True).past_key_values

    def step_in_place():
        """States end where they began, so that a graph may be replayed: each replay is another token."""
        layers = held["cache"].layers
        before = [layer.state for layer in layers]
        kept = [dict(state) for state in before]
        old = [tensors(state) for state in kept]
        step()
        layers = held["cache"].layers
        for layer, states, where in zip(layers, kept, old):
            for new, place in zip(tensors(layer.state), where, strict=True):
                if new.data_ptr() != place.data_ptr():
                    place.copy_(new)
            layer.state = states

    found = clock.eager(step) if hasattr(clock, "eager") else clock(step)
    if not hasattr(clock, "captured"):
        return found
    try:
        graph = clock.captured(step_in_place)
    except Exception as error:
        from protocol import brief

        return {**found, "way": "eager", "graph": {"error": brief(error)}}
    if graph["median_ms"] < found["median_ms"]:
        return {**graph, "way": "graph", "eager": found}
    return {**found, "way": "eager", "graph": graph}


def training(net, row, clock):
    import torch

    ids = torch.randint(0, net.config.vocab_size, (row.sizes["B"], row.sizes["T"]), device=net.device)
    weights = [weight for weight in net.parameters() if weight.requires_grad]

    def run():
        return torch.autograd.grad(net(ids, labels=ids, use_cache=False).loss, weights)

    found = {}
    for fused in (False, True):
        net.config.fuse_linear_cross_entropy = fused
        net.config.fuse_cross_entropy = not fused
        net.criterion = None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        way = "head and loss in chunks" if fused else "all logits"
        try:
            found[way] = {**clock(run), "peak_bytes": torch.cuda.max_memory_allocated()}
        except Exception as error:
            from protocol import brief

            found[way] = {"error": brief(error)}
    right = {way: times for way, times in found.items() if "median_ms" in times}
    if not right:
        raise RuntimeError("; ".join(f"{way}: {times['error']}" for way, times in found.items()))
    way = min(right, key=lambda way: right[way]["median_ms"])
    return {**right[way], "way": way, "ways": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--stage", "--library", "--peer", "--rows", "--out"):
        parser.add_argument(option, required=True)
    parser.add_argument("--prepare", action="store_true")
    args = parser.parse_args()

    import tuning

    if args.prepare:
        os.environ.update(tuning.PREPARING)
    import torch

    tuning.side_by_side(args.prepare)
    from protocol import Clock, brief
    from rows import rows

    wanted = args.rows.split(",")
    chosen = [row for row in rows(args.stage) if row.name in wanted]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        net = model(chosen[0].operator)
    net = net.to("cuda", torch.bfloat16)
    torch.set_default_dtype(torch.float32)
    net.train(chosen[0].what == "training")
    torch.set_grad_enabled(chosen[0].what == "training")
    clock = Clock(flush=False, warmups=WARMUPS, runs=RUNS)
    ways = {"prefill": clock.both, "decode": clock, "training": clock.eager}
    with open(args.out, "a") as out:
        for row in chosen:
            found, began = {"row": row.name, "peer": args.peer, "parameters": sum(p.numel() for p in net.parameters())}, time.time()
            try:
                timed = {"prefill": prefill, "decode": decode, "training": training}[row.what]
                if args.prepare:
                    timed(net, row, lambda run: (run(), torch.cuda.synchronize(), {"median_ms": 0.0})[2])
                else:
                    found.update(timed(net, row, ways[row.what]))
                    # Random weights: what is checked is that something finite was computed.
                    logits = net(torch.zeros(1, 64, dtype=torch.long, device="cuda"), use_cache=False).logits
                    found["check"] = {"passed": bool(torch.isfinite(logits).all()), "what": "logits are finite"}
                    del logits
            except Exception as error:
                found["error"] = brief(error)
            found["seconds"] = round(time.time() - began, 1)
            out.write(json.dumps(found) + "\n")
            out.flush()
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
