"""Operators: fusec beside its peers, in one run on one GPU.

    python3 bench/peers/ops.py --fusec FUSEC --plans DIR --out FILE.json [--only NAME,..]

Every figure is the median of event-timed runs after warm-ups, the L2 cache overwritten before
each, for the peers (here) and for fusec (`fusec bench --flush-l2`) alike. `gb` is the fewest bytes
an operator moves: inputs, weights and outputs once. Needs torch; the peers that are not installed
(flash-linear-attention, mamba-ssm, causal-conv1d) are listed as missing.
"""

import argparse
import datetime
import importlib
import json
import statistics
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F

DEVICE = "cuda"
WARMUPS, RUNS, MOST_SECONDS = 10, 100, 2.0


def randn(*shape, dtype=torch.bfloat16, scale=1.0):
    return (torch.randn(*shape, device=DEVICE) * scale).to(dtype)


class Clock:
    """Times a function as the protocol of bench/README.md says."""

    def __init__(self):
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(2 * cache, dtype=torch.uint8, device=DEVICE)

    def once(self, run):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        start.record()
        run()
        end.record()
        return start, end

    def __call__(self, run):
        for _ in range(WARMUPS):
            run()
        torch.cuda.synchronize()
        pilot = [self.once(run) for _ in range(5)]
        torch.cuda.synchronize()
        times = [start.elapsed_time(end) for start, end in pilot]
        runs = min(RUNS, int(MOST_SECONDS * 1e3 / max(times)))
        more = [self.once(run) for _ in range(max(0, runs - len(times)))]
        torch.cuda.synchronize()
        times += [start.elapsed_time(end) for start, end in more]
        deciles = statistics.quantiles(times, n=10)
        return {
            "median_ms": statistics.median(times),
            "p10_ms": deciles[0],
            "p90_ms": deciles[-1],
            "runs": len(times),
        }


class Row:
    """An operator at a shape: the plan that computes it, and what the peers run."""

    def __init__(self, name, shape, plan, gb, peers, gflop=0.0):
        self.name, self.shape, self.plan = name, shape, plan
        self.gb, self.gflop, self.peers = gb, gflop, peers


def gigabytes(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def eager_and_compiled(run, *modes):
    """The function as it is, and compiled in each mode. Compilation happens when first called."""
    peers = {"torch eager": lambda: run, "torch.compile": lambda: torch.compile(run)}
    for mode in modes:
        peers[f"torch.compile {mode}"] = lambda mode=mode: torch.compile(run, mode=mode)
    return peers


def pointwise():
    batch, time, channels = 8, 2048, 2048
    shape = f"B{batch} T{time} C{channels}"
    x, other = randn(batch, time, channels), randn(batch, time, channels)
    gain, bias = randn(channels), randn(channels)
    gain_x, gain_a = randn(channels), randn(channels)
    mix = randn(6, channels)
    one = gigabytes(x)

    def ln_shift6():
        y = F.layer_norm(x, (channels,), gain, bias)
        d = F.pad(y, (0, 0, 1, -1)) - y
        return [y + d * mix[i] for i in range(6)]

    def norm_gain():
        a = F.rms_norm(x, (channels,), gain, 1e-6) * gain_x
        return a + F.rms_norm(other, (channels,), bias, 1e-6) * gain_a

    def groupnorm_gate():
        y = F.group_norm(x.view(-1, channels), 32, gain, bias, 64e-5)
        return y.view(batch, time, channels) * F.silu(other)

    def add_norm():
        z = x + other
        return z, F.rms_norm(z, (channels,), gain, 1e-6)

    yield Row("ln_shift6", shape, "op-ln_shift6", 7 * one, eager_and_compiled(ln_shift6))
    yield Row("norm_gain", shape, "op-norm_gain", 3 * one, eager_and_compiled(norm_gain))
    yield Row("groupnorm_gate", shape, "op-groupnorm_gate", 3 * one, eager_and_compiled(groupnorm_gate))
    yield Row("add_norm", shape, "op-add_norm", 4 * one, eager_and_compiled(add_norm))


def projections():
    channels = 2048
    gain, bias, weight = randn(channels), randn(channels), randn(channels, channels, scale=0.02)
    for plan, batch, time, modes in [
        ("op-ln_linear", 8, 2048, ["max-autotune-no-cudagraphs"]),
        ("op-ln_linear_step", 1, 1, []),
    ]:
        x = randn(batch, time, channels)

        def ln_linear(x=x):
            return F.linear(F.layer_norm(x, (channels,), gain, bias), weight)

        peers = eager_and_compiled(ln_linear, *modes)
        gflop = 2e-9 * batch * time * channels * channels
        yield Row("ln_linear", f"B{batch} T{time} C{channels}", plan, 2 * gigabytes(x) + gigabytes(weight), peers, gflop)


def convolution():
    batch, time, channels, taps = 8, 2048, 4096, 4
    x = randn(batch, time, channels)
    weight, bias = randn(channels, taps), randn(channels)

    def conv_silu():
        y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=taps - 1, groups=channels)
        return F.silu(y[..., :time])

    def cuda():
        conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
        return lambda: conv(x.transpose(1, 2), weight, bias, activation="silu")

    peers = {**eager_and_compiled(conv_silu), "causal-conv1d": cuda}
    yield Row("conv_silu", f"B{batch} T{time} C{channels} K{taps}", "op-conv_silu", 2 * gigabytes(x), peers)


def scans():
    fla = lambda module: importlib.import_module(f"fla.ops.{module}")
    heads, width = 32, 64
    for batch, time, suffix in [(8, 2048, ""), (1, 16384, "_long")]:
        shape = f"B{batch} T{time} H{heads} N{width}"
        r, k, v, w, a = (randn(batch, time, heads, width) for _ in range(5))
        one = gigabytes(r)
        decay = -torch.exp(w.float() - 2)
        u = randn(heads, width)
        peers = {
            "fla chunk": lambda r=r, k=k, v=v, decay=decay: (
                lambda run: lambda: run(r, k, v, decay, u, scale=1.0)
            )(fla("rwkv6").chunk_rwkv6)
        }
        yield Row("wkv6", shape, f"op-wkv6{suffix}", 5 * one, peers, 6e-9 * batch * time * heads * width**2)

        decay7 = -0.606530659712633 * torch.sigmoid(w.float())
        kk = F.normalize(a.float(), dim=-1).to(torch.bfloat16)
        rate = torch.sigmoid(k.float()).to(torch.bfloat16)
        peers = {
            "fla chunk": lambda r=r, k=k, v=v, d=decay7, kk=kk, rate=rate: (
                lambda run: lambda: run(r, d, k, v, -kk, kk * rate)
            )(fla("rwkv7").chunk_rwkv7)
        }
        yield Row("wkv7", shape, f"op-wkv7{suffix}", 7 * one, peers, 9e-9 * batch * time * heads * width**2)

        many, channels, state = 64, 64, 128
        x = randn(batch, time, many, channels)
        dt, in_, out = randn(batch, time, many), randn(batch, time, 1, state), randn(batch, time, 1, state)
        rate2, skip, dt_bias = -torch.exp(randn(many).float()), torch.ones(many, device=DEVICE), randn(many).float()

        def ssd(x=x, dt=dt, in_=in_, out=out):
            module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
            return lambda: module.mamba_chunk_scan_combined(
                x, dt, rate2, in_, out, 256, D=skip, dt_bias=dt_bias, dt_softplus=True
            )

        yield Row(
            "ssd", f"B{batch} T{time} H{many} P{channels} N{state}", f"op-ssd{suffix}",
            2 * gigabytes(x) + gigabytes(dt, in_, out), {"mamba-ssm": ssd},
            5e-9 * batch * time * many * channels * state,
        )

    batch, time, heads, keys, values = 8, 2048, 4, 256, 512
    q, k = randn(batch, time, heads, keys), randn(batch, time, heads, keys)
    v = randn(batch, time, heads, values)
    gate = F.logsigmoid(randn(batch, time, heads, keys).float()) / 16
    peers = {"fla chunk": lambda: (lambda run: lambda: run(q, k, v, gate))(fla("gla").chunk_gla)}
    yield Row(
        "gla", f"B{batch} T{time} H{heads} K{keys} V{values}", "op-gla", 3 * gigabytes(q) + 2 * gigabytes(v),
        peers, 5e-9 * batch * time * heads * keys * values,
    )

    channels, state = 4096, 16
    u, dt, z = (randn(batch, channels, time) for _ in range(3))
    in_, out = randn(batch, 1, state, time), randn(batch, 1, state, time)
    rate, skip, dt_bias = -torch.exp(randn(channels, state).float()), torch.ones(channels, device=DEVICE), randn(channels).float()

    def selective():
        run = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
        return lambda: run(u, dt - 3, rate, in_, out, skip, z, dt_bias, delta_softplus=True)

    yield Row(
        "selective_scan", f"B{batch} T{time} D{channels} N{state}", "op-selective_scan",
        4 * gigabytes(u) + gigabytes(in_, out), {"mamba-ssm": selective}, 6e-9 * batch * time * channels * state,
    )


def attention():
    batch, time = 8, 2048
    for name, groups, heads, width in [
        ("attention", 32, 1, 64), ("attention_wide", 16, 1, 128), ("attention_group", 4, 4, 128), ("attention_hybrid", 2, 1, 64),
    ]:
        q = randn(batch, groups * heads, time, width)
        k, v = randn(batch, groups, time, width), randn(batch, groups, time, width)

        def sdpa(backend, q=q, k=k, v=v, grouped=heads > 1):
            from torch.nn.attention import SDPBackend, sdpa_kernel

            def run():
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

            return run

        peers = {
            "torch SDPA, FlashAttention": lambda sdpa=sdpa: sdpa("FLASH_ATTENTION"),
            "torch SDPA, cuDNN": lambda sdpa=sdpa: sdpa("CUDNN_ATTENTION"),
        }
        yield Row(
            name, f"B{batch} T{time} G{groups} H{heads} N{width}", f"op-{name}", 2 * gigabytes(q) + 2 * gigabytes(k), peers,
            2e-9 * batch * groups * heads * time**2 * width,
        )


def gated_scan():
    batch, time, channels, inner = 4, 2048, 256, 64
    half = torch.float16
    x = randn(batch, time, channels, dtype=half)
    weights = randn(3 * inner, channels, dtype=half, scale=0.05)

    def hgrn():
        scan = importlib.import_module("fla.ops.hgrn").fused_recurrent_hgrn

        def run():
            v, a, g = F.linear(x, weights).chunk(3, -1)
            y, _ = scan(v.contiguous(), F.logsigmoid(a.float()).to(half).contiguous())
            return y * F.silu(g)

        return torch.compile(run)

    def product_alone():
        return lambda: F.linear(x, weights)

    yield Row(
        "gated_scan", f"B{batch} T{time} C{channels} D{inner}", "op-gated_scan",
        gigabytes(x, weights) + batch * time * inner * 2e-9,
        {"cuBLAS, fla HGRN, torch.compile": hgrn, "cuBLAS, the product alone": product_alone},
    )


def ceilings(clock):
    """What this GPU moves and multiplies at most, today."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = clock(lambda: target.copy_(source))["median_ms"]
    x, y = randn(8192, 8192), randn(8192, 8192)
    product = clock(lambda: x @ y)["median_ms"]
    return {"copy_tbs": 2 * source.numel() / 1e9 / copy, "bf16_gemm_tflops": 2 * 8192**3 / 1e9 / product}


def fusec(args, names):
    """One `fusec bench` over all compiled directories; its report by directory."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.fusec, "bench", "--device", "cuda:0", "--flush-l2", "--per-kernel", "--check"]
        command += ["--warmup", str(WARMUPS), "--runs", str(RUNS), "--most-seconds", str(MOST_SECONDS)]
        for name in names:
            command += ["--plan-dir", f"{args.plans}/{name}"]
        done = subprocess.run(command + ["--out", file.name], text=True)
        try:
            report = json.load(open(file.name))
        except ValueError:
            return {"error": f"fusec bench ended with status {done.returncode}"}, {}
    subjects = {subject["name"]: subject for subject in report.pop("subjects")}
    return report, subjects


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusec", required=True, help="the program")
    parser.add_argument("--plans", required=True, help="where its compiled directories are")
    parser.add_argument("--out", required=True, help="the JSON file to write")
    parser.add_argument("--only", help="operators, with commas between them")
    args = parser.parse_args()
    torch.manual_seed(0)
    only = args.only.split(",") if args.only else None
    clock = Clock()
    limits = ceilings(clock)
    print(f"copy {limits['copy_tbs']:.2f} TB/s, bf16 GEMM {limits['bf16_gemm_tflops']:.0f} TFLOP/s", flush=True)

    results, names = [], []
    for group in (pointwise, projections, convolution, scans, attention, gated_scan):
        for row in group():
            if only and row.name not in only:
                continue
            peers = {}
            for peer, make in row.peers.items():
                try:
                    peers[peer] = clock(make())
                except ModuleNotFoundError as missing:
                    peers[peer] = {"missing": missing.name}
                except Exception as error:  # A peer that fails is a result of its own.
                    peers[peer] = {"error": repr(error)[:300]}
            names.append(row.plan)
            results.append(
                {"operator": row.name, "shape": row.shape, "plan": row.plan, "gb": row.gb, "gflop": row.gflop, "peers": peers}
            )
        torch.cuda.empty_cache()
    del clock
    torch.cuda.empty_cache()

    report, subjects = fusec(args, names)
    failed = "error" in report
    head = f"{'operator':16} {'shape':26} {'fusec':>9} {'best peer':>9}  {'of it':>6} {'of copy':>8}  check"
    print(head)
    for row in results:
        row["fusec"] = subject = subjects.get(row["plan"])
        measured = subject["measurements"][0] if subject and subject["measurements"] else None
        ours = measured["milliseconds"]["median"] if measured else None
        theirs = [(t["median_ms"], peer) for peer, t in row["peers"].items() if "median_ms" in t and "alone" not in peer]
        best = min(theirs) if theirs else None
        row["ratio_to_best_peer"] = ours / best[0] if ours and best else None
        row["copy_fraction"] = row["gb"] / ours / limits["copy_tbs"] if ours else None
        check = subject.get("check") if subject else None
        failed |= ours is None or not (check and check["passed"])
        text = lambda value, form: format(value, form) if value is not None else "-"
        print(
            f"{row['operator']:16} {row['shape']:26} {text(ours, '9.4f'):>9} {text(best and best[0], '9.4f'):>9}  "
            f"{text(row['ratio_to_best_peer'], '.2f'):>6} {text(row['copy_fraction'], '.2f'):>8}  "
            f"{'-' if not check else 'right' if check['passed'] else 'WRONG'}  {best[1] if best else ''}",
            flush=True,
        )
    everything = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "limits": limits,
        "fusec": report,
        "rows": results,
    }
    with open(args.out, "w") as file:
        json.dump(everything, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
