"""fusec.ops beside the operators whose arguments they have, on a GPU in f32: outputs, final states, and the
derivatives by every tensor, from an initial state and without one; and what is refused by name.

    drop_in.py --out FILE.json [--only CASE ..] [--seconds 250]

Needs the Python package of fusec (bench/python_gpu.sh says how), fla, and the Python files of mamba-ssm and
causal-conv1d. Both sides get the same tensors of the GPU; the peers compute without TF32. Where a peer's CUDA
extension is not built, its own reference in PyTorch stands for it, and the row says so.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import traceback
import types

# Before triton is imported: its products in f32 as f32.
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from protocol import brief, machine  # noqa: E402

BOUND = 2e-3
B, T, H, K, V = 3, 300, 4, 64, 64


def draw(*shape):
    return torch.randn(*shape)


def states(given):
    return draw(B, H, K, V) if given else None


def rwkv7(given):
    from fla.ops.rwkv7 import chunk_rwkv7 as theirs

    from fusec.ops import chunk_rwkv7 as ours

    kk, rate = F.normalize(draw(B, T, H, K), dim=-1), torch.rand(B, T, H, K)
    r, w, k, v = draw(B, T, H, K), -0.6 * torch.rand(B, T, H, K), draw(B, T, H, K), draw(B, T, H, V)
    return ours, theirs, [r, w, k, v, -kk, kk * rate], dict(scale=0.7, initial_state=states(given), output_final_state=True)


def gla(given):
    from fla.ops.gla import chunk_gla as theirs

    from fusec.ops import chunk_gla as ours

    q, k, v, g = draw(B, T, H, K), draw(B, T, H, K), draw(B, T, H, V), F.logsigmoid(draw(B, T, H, K)) / 16
    return ours, theirs, [q, k, v, g], dict(initial_state=states(given), output_final_state=True)


def gated_delta_rule(given):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule as theirs

    from fusec.ops import chunk_gated_delta_rule as ours

    q, k = (F.normalize(draw(B, T, H // 2, K), dim=-1) for _ in range(2))
    more = [draw(B, T, H, V), -F.softplus(draw(B, T, H)), torch.sigmoid(draw(B, T, H))]
    return ours, theirs, [q, k, *more], dict(initial_state=states(given), output_final_state=True)


def ssd(given):
    import mamba_peers

    mamba_peers.packages()
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as theirs

    from fusec.ops import mamba_chunk_scan_combined as ours

    x, dt, rate = draw(B, T, H, V), draw(B, T, H), -torch.exp(draw(H))
    b, c = draw(B, T, 1, K), draw(B, T, 1, K)
    start = draw(B, H, V, K) if given else None
    named = dict(chunk_size=64, D=draw(H), dt_bias=draw(H), initial_states=start, dt_softplus=True, return_final_states=True)
    return ours, theirs, [x, dt, rate, b, c], named


def stand_in(*names):
    """Modules of extensions that are not built, so that the Python files beside them can be imported."""
    import importlib.util

    missing = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
    return missing


def selective_scan(given):
    import mamba_peers

    mamba_peers.packages()
    missing = stand_in("selective_scan_cuda", "causal_conv1d_cuda")
    from mamba_ssm.ops import selective_scan_interface as interface

    from fusec.ops import selective_scan_fn as ours

    theirs = interface.selective_scan_ref if "selective_scan_cuda" in missing else interface.selective_scan_fn
    D, N = 128, 16
    u, delta, a = draw(B, D, T), draw(B, D, T), -torch.exp(draw(D, N))
    b, c = (draw(B, N, T), draw(B, N, T)) if not given else (draw(B, 2, N, T), draw(B, 2, N, T))
    named = dict(D=draw(D), z=draw(B, D, T), delta_bias=draw(D), delta_softplus=True, return_last_state=True)
    return ours, theirs, [u, delta, a, b, c], named


def conv1d(given):
    missing = stand_in("causal_conv1d_cuda")
    from causal_conv1d import causal_conv1d_interface as interface

    from fusec.ops import causal_conv1d_fn as ours

    theirs = interface.causal_conv1d_ref if "causal_conv1d_cuda" in missing else interface.causal_conv1d_fn
    D, W = 128, 4
    named = dict(bias=draw(D), activation="silu")
    if given:
        # Rows that are carried have no derivative in fusec.
        named.update(initial_states=draw(B, D, W - 1), return_final_states=True)
        if theirs is not interface.causal_conv1d_ref:
            # The kernel reads and writes states with channels last.
            named["initial_states"] = named["initial_states"].transpose(1, 2).contiguous().transpose(1, 2)
    return ours, theirs, [draw(B, D, T), draw(D, W)], named


CASES = {f.__name__: f for f in (rwkv7, gla, gated_delta_rule, ssd, selective_scan, conv1d)}


def apart(got, want):
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    return ((got - want).norm() / want.norm().clamp_min(1e-30)).item()


def evaluated(function, tensors, named, constant):
    """Results by name, and derivatives of the same sum of them by every tensor that is not constant."""
    leaf = lambda x: x.cuda().requires_grad_()
    given = [leaf(x) for x in tensors]
    more = {n: leaf(x) if torch.is_tensor(x) and n not in constant else x for n, x in named.items()}
    more = {n: x.cuda() if torch.is_tensor(x) else x for n, x in more.items()}
    found = function(*given, **more)
    found = found if isinstance(found, (tuple, list)) else (found,)
    found = dict(zip(("output", "state"), (x for x in found if x is not None)))
    torch.manual_seed(7)
    seeds = {n: torch.randn(x.shape).cuda() for n, x in found.items()}
    constant_state = "initial_states" in constant
    loss = sum((x.float() * seeds[n]).sum() for n, x in found.items() if n == "output" or not constant_state)
    loss.backward()
    leaves = {**dict(enumerate(given)), **{n: x for n, x in more.items() if torch.is_tensor(x) and n not in constant}}
    return {**found, **{f"d {n}": x.grad for n, x in leaves.items()}}


def refused():
    """What fusec.ops does not do is said by name."""
    from fusec import ops

    q = torch.randn(1, 8, 2, 64).cuda()
    lengths = torch.tensor([0, 4, 8]).cuda()
    x = torch.randn(1, 8, 8).cuda()
    calls = {
        "chunk_rwkv7 cu_seqlens": lambda: ops.chunk_rwkv7(q, q, q, q, q, q, cu_seqlens=lengths),
        "chunk_gla cu_seqlens": lambda: ops.chunk_gla(q, q, q, q, cu_seqlens=lengths),
        "chunk_gated_delta_rule cu_seqlens": lambda: ops.chunk_gated_delta_rule(q, q, q, q[..., 0], q[..., 0], cu_seqlens=lengths),
        "mamba_chunk_scan_combined cu_seqlens": lambda: ops.mamba_chunk_scan_combined(q, q[..., 0], q[0, 0, :, 0], q, q, cu_seqlens=lengths),
        "mamba_chunk_scan_combined seq_idx": lambda: ops.mamba_chunk_scan_combined(q, q[..., 0], q[0, 0, :, 0], q, q, seq_idx=lengths),
        "causal_conv1d_fn seq_idx": lambda: ops.causal_conv1d_fn(x, x[0, :, :4], seq_idx=lengths),
    }
    for name, call in calls.items():
        try:
            call()
        except NotImplementedError as error:
            yield {"operator": name, "refused": str(error), "passed": name.split()[1] in str(error)}
        else:
            yield {"operator": name, "passed": False, "error": "it was taken"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", nargs="*", choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=250)
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    rows = []

    def add(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        # What is known is kept, whatever becomes of the rest.
        record = {"stage": "drop-in", "bound": BOUND, **machine(), "torch": torch.__version__, "rows": rows}
        pathlib.Path(args.out).write_text(json.dumps(record, indent=1) + "\n")

    for row in refused():
        add(row)
    for name in args.only or CASES:
        for given in (False, True):
            row = {"operator": name, "initial_state" if name != "selective_scan" else "groups": given}
            if time.monotonic() > until:
                add({**row, "passed": None, "error": "not run: out of time"})
                continue
            began = time.monotonic()
            torch.manual_seed(0)
            try:
                ours, theirs, tensors, named = CASES[name](given)
                row["peer"] = f"{theirs.__module__}.{theirs.__name__}"
                constant = ("initial_states",) if name == "conv1d" and given else ()
                got = evaluated(ours, tensors, named, constant)
                want = evaluated(theirs, tensors, named, constant)
                assert set(got) == set(want), f"{sorted(got)} beside {sorted(want)}"
                row["apart"] = {key: apart(got[key], want[key]) for key in want}
                row["passed"] = max(row["apart"].values()) <= BOUND
            except Exception as error:
                row.update(error=brief(error), trace=traceback.format_exc()[-1500:], passed=False)
            row["seconds"] = round(time.monotonic() - began, 1)
            add(row)
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
