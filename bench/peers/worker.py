"""One peer in a process of its own: compared with the formula at a small size, then timed, row by row.

    worker.py --stage STAGE --library LIBRARY --peer PEER --rows NAME,.. --out FILE.jsonl [--prepare] [--check-only]

Writes one JSON line a row, at once, so that a process stopped at its limit keeps what it has. `--prepare` compiles
and times nothing; `--check-only` compares and times nothing (on the CPU, where Triton's interpreter is asked for).
"""

import argparse
import importlib
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

# Largest distance from the formula in float64, of its norm: what operands of that type allow.
BOUNDS = {"bf16": 2e-2, "f16": 4e-3, "f32": 2e-3}
MODULES = {"torch": "torch_peers", "fla": "fla_peers", "mamba-ssm": "mamba_peers", "other": "other_peers"}


def compared(row, make, device):
    """Runs the peer at a small size; how far it is from the formula."""
    import torch

    import inputs
    import references

    x = inputs.draw(row.operator, row.small(), row.dtype, device)
    got = make(x)()
    got = torch.stack(list(got)) if isinstance(got, (list, tuple)) else got
    want = references.reference(row.operator, x)
    if got.shape != want.shape:
        return {"shape": list(got.shape), "expected": list(want.shape), "passed": False}
    error = ((got.double() - want).norm() / want.norm()).item()
    return {"error": error, "bound": BOUNDS[row.dtype], "passed": error <= BOUNDS[row.dtype]}


def gradients_of(operator, x, run, upstream=None):
    """The gradient of every input that has one, handed `upstream` for the output; (output, gradients)."""
    import torch

    import inputs

    leaves = [getattr(x, name) for name in inputs.LEAVES[operator]]
    y = run()
    upstream = torch.ones_like(y) if upstream is None else upstream.to(y)
    return y, torch.autograd.grad(y, leaves, upstream)


def differentiable(operator, x):
    import inputs

    for name in inputs.LEAVES[operator]:
        setattr(x, name, getattr(x, name).detach().requires_grad_())
    return x


def bound(row, make, sizes, device, backward):
    """The peer over inputs of a size, as what is timed."""
    import torch

    import inputs

    x = inputs.draw(row.operator, sizes, row.dtype, device)
    if not backward:
        return make(x)
    run = make(differentiable(row.operator, x))
    upstream = torch.randn_like(run())
    return lambda: gradients_of(row.operator, x, run, upstream)[1]


def compared_backward(row, make, device):
    """The same for gradients; the largest distance of any."""
    import torch

    import inputs
    import references

    x = differentiable(row.operator, inputs.draw(row.operator, row.small(), row.dtype, device))
    y, got = gradients_of(row.operator, x, make(x))
    wide = {k: t.detach().double() if torch.is_tensor(t) and t.is_floating_point() else t for k, t in vars(x).items()}
    wide = differentiable(row.operator, type(x)(**wide))
    _, want = gradients_of(row.operator, wide, lambda: references.OPERATORS[row.operator](wide))
    errors = {name: ((g.double() - w).norm() / w.norm()).item() for name, g, w in zip(inputs.LEAVES[row.operator], got, want)}
    bound = 2 * BOUNDS[row.dtype]
    return {"errors": errors, "error": max(errors.values()), "bound": bound, "passed": max(errors.values()) <= bound}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--library", required=True, choices=MODULES)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--check-only", action="store_true")
    args = parser.parse_args()

    import tuning

    if args.prepare:
        os.environ.update(tuning.PREPARING)
    import torch

    from protocol import DEVICE, Clock, brief
    from rows import rows

    device = DEVICE if torch.cuda.is_available() else "cpu"
    wanted = args.rows.split(",")
    chosen = {row.name: row for row in rows(args.stage) if row.name in wanted}
    if os.environ.get("TRITON_INTERPRET") == "1":
        tuning.first_variant()
        for row in chosen.values():  # The interpreter has no bf16.
            row.dtype = "f32"
    else:
        tuning.side_by_side(args.prepare)
    backward = args.stage == "backward"
    torch.set_grad_enabled(backward)
    clock = None
    if args.library == "fla":
        importlib.import_module("fla_peers").watch()
    with open(args.out, "a") as out:
        for name in wanted:
            row, began = chosen[name], time.time()
            found = {"row": name, "peer": args.peer}
            try:
                make = importlib.import_module(MODULES[args.library]).PEERS[row.operator][args.peer]
                if args.prepare:
                    for sizes in (row.small(), row.sizes):
                        bound(row, make, sizes, device, backward)()
                    torch.cuda.synchronize()
                else:
                    found["check"] = (compared_backward if backward else compared)(row, make, device)
                    if not args.check_only:
                        clock = clock or Clock()
                        run = bound(row, make, row.sizes, device, backward)
                        run()
                        torch.cuda.synchronize()
                        found["seconds_to_first"] = round(time.time() - began, 1)
                        found.update(clock.both(run))
                        del run
            except ModuleNotFoundError as missing:
                found["missing"] = missing.name or str(missing)
            except Exception as error:  # A peer that fails is a result of its own.
                found["error"] = brief(error)
            if args.library == "fla" and not args.prepare:
                found["backends"] = importlib.import_module("fla_peers").TAKEN[:20]
            out.write(json.dumps(found) + "\n")
            out.flush()
            if "error" in found and ("CUDA error" in found["error"] or "illegal" in found["error"]):
                return 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
