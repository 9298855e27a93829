"""fusec.ops beside the operators whose arguments they have, on a GPU in f32: outputs and final states.

    drop_in.py --out FILE.json

Needs the Python package of fusec (bench/python_gpu.sh says how), fla, and the Triton files of mamba-ssm. fusec takes
tensors of the CPU and runs on `cuda:0`; the peers take the same numbers on the GPU, without TF32. Gradients are not
compared here: fusec.ops has them on the CPU only.
"""

import argparse
import json
import os
import pathlib
import sys

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


def apart(got, want):
    return ((got.double().cpu() - want.double().cpu()).norm() / want.double().cpu().norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    rows, wrong = [], 0
    for case in (rwkv7, gla, gated_delta_rule, ssd):
        for given in (False, True):
            row = {"operator": case.__name__, "initial_state": given}
            torch.manual_seed(0)
            try:
                ours, theirs, tensors, named = case(given)
                there = lambda x: x.cuda() if torch.is_tensor(x) else x
                got = ours(*tensors, **named, device="cuda:0")
                want = theirs(*map(there, tensors), **{name: there(x) for name, x in named.items()})
                row["output"], row["state"] = (apart(g, w) for g, w in zip(got, want))
                row["passed"] = max(row["output"], row["state"]) <= BOUND
            except Exception as error:
                row.update(error=brief(error), passed=False)
            wrong += not row["passed"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    record = {"stage": "drop-in", "bound": BOUND, **machine(), "torch": torch.__version__, "rows": rows}
    pathlib.Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
