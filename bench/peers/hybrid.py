"""Hybrid blocks in PyTorch: the same equations as models/hybrid*.toml, checked and timed.

    python3 bench/peers/hybrid.py check --fusec FUSEC [--models DIR]
    python3 bench/peers/hybrid.py time --fusec FUSEC --out FILE.json [--times 256,512,..] [--batch 8]

RWKV-6 time mix beside a Mamba-2 mixer, brought together in one of the ways below (parallel, gated,
residual, weighted sum, cross attention), then an RWKV-6 channel mix. `check` takes the weights that
`fusec export` draws, runs both on the CPU in f32 and compares all logits; recurrences are compared token
by token and in chunks. `time` needs a GPU: eager and compiled, by the protocol of bench/README.md
(10 warm-ups, 100 runs timed with events), recurrences in chunks, as one would write them without a
kernel of one's own. Needs torch and safetensors.
"""

import argparse
import datetime
import fcntl
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time as clock

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

MODELS = ["hybrid", "hybrid-gf", "hybrid-rf", "hybrid-ws", "hybrid-cp"]
LN_EPS, GN_EPS, RMS_EPS = 1e-5, 64e-5, 1e-5
WINDOW = 4096
WARMUPS, RUNS = 10, 100
# Largest difference of logits over the largest logit, f32 against f32.
BOUND = 5e-5


def shift(x):
    """The row of the token before, zero before the first."""
    return F.pad(x, (0, 0, 1, -1))


def rms(x, gain=None):
    return F.rms_norm(x, x.shape[-1:], gain, RMS_EPS)


# Recurrences, token by token: what the model texts say.


def wkv6_steps(r, k, v, d, u):
    """r, k, d: [B, T, H, N]; v: [B, T, H, M]; u: [H, N]."""
    batch, time, heads, keys = r.shape
    state = r.new_zeros(batch, heads, v.shape[-1], keys)
    out = []
    for t in range(time):
        kv = v[:, t, :, :, None] * k[:, t, :, None, :]
        out.append(((state + u[:, None, :] * kv) * r[:, t, :, None, :]).sum(-1))
        state = d[:, t, :, None, :] * state + kv
    return torch.stack(out, 1)


def ssd_steps(x, b, c, dt, log_decay):
    """x: [B, T, H, P]; b, c: [B, T, N]; dt, log_decay: [B, T, H]."""
    batch, time, heads, width = x.shape
    state = x.new_zeros(batch, heads, width, b.shape[-1])
    out = []
    for t in range(time):
        update = dt[:, t, :, None, None] * x[:, t, :, :, None] * b[:, t, None, None, :]
        state = log_decay[:, t, :, None, None].exp() * state + update
        out.append((state * c[:, t, None, None, :]).sum(-1))
    return torch.stack(out, 1)


# The same in chunks. Every exponent is of a sum of logarithms of decays between two tokens, and so at
# most zero: nothing overflows.


def chunked(x, size):
    """[B, T, ...] -> [B, T / size, size, ...], with zeros at the end."""
    pad = -x.shape[1] % size
    x = F.pad(x, [0, 0] * (x.dim() - 2) + [0, pad])
    return x.reshape(x.shape[0], -1, size, *x.shape[2:])


def carried(left, added):
    """The state before each chunk, [B, chunks, ...]: zero before the first, then left * state + added. By doubling, the
    logarithm of the number of chunks in steps: a loop over chunks would launch kernels of a few microseconds."""
    count, step = added.shape[1], 1
    while step < count:
        later = left[:, step:]
        added = torch.cat([added[:, :step], added[:, step:] + later * added[:, :-step]], 1)
        left = torch.cat([left[:, :step], later * left[:, :-step]], 1)
        step *= 2
    return torch.cat([torch.zeros_like(added[:, :1]), added[:, :-1]], 1)


def wkv6_chunks(r, k, v, log_d, u, size=16):
    time = r.shape[1]
    r, k, v, log_d = (chunked(x, size) for x in (r, k, v, log_d))
    upto = log_d.cumsum(2)
    before = upto - log_d
    # From token s (after its own step) to token t (before its step), for s < t.
    between = before[:, :, :, None] - upto[:, :, None]
    mask = torch.ones(size, size, dtype=torch.bool, device=r.device).tril(-1)[None, None, :, :, None, None]
    weights = between.masked_fill(~mask, -torch.inf).exp()
    inner = torch.einsum("bcthn,bcshn,bctshn->bchts", r, k, weights)
    y = torch.einsum("bchts,bcshm->bcthm", inner, v)
    y = y + (r * u * k).sum(-1, keepdim=True) * v
    # What a chunk adds to the state at its end, and what is left of the state before it.
    added = torch.einsum("bcshn,bcshm->bchmn", k * (upto[:, :, -1:] - upto).exp(), v)
    states = carried(upto[:, :, -1, :, None, :].exp(), added)
    y = y + torch.einsum("bcthn,bchmn->bcthm", r * before.exp(), states)
    return y.flatten(1, 2)[:, :time]


def ssd_chunks(x, b, c, dt, log_decay, size=64):
    time = x.shape[1]
    x, b, c, dt, log_decay = (chunked(a, size) for a in (x, b, c, dt, log_decay))
    upto = log_decay.cumsum(2)
    between = upto[:, :, :, None] - upto[:, :, None]
    mask = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()[None, None, :, :, None]
    weights = between.masked_fill(~mask, -torch.inf).exp()
    inner = torch.einsum("bctn,bcsn->bcts", c, b)[..., None] * weights * dt[:, :, None]
    y = torch.einsum("bctsh,bcshp->bcthp", inner, x)
    scale = dt * (upto[:, :, -1:] - upto).exp()
    added = torch.einsum("bcsh,bcshp,bcsn->bchpn", scale, x, b)
    states = carried(upto[:, :, -1, :, None, None].exp(), added)
    y = y + torch.einsum("bctn,bchpn,bcth->bcthp", c, states, upto.exp())
    return y.flatten(1, 2)[:, :time]


class Hybrid(torch.nn.Module):
    """A model with weights by the names that `fusec export` gives."""

    def __init__(self, variant, weights, in_chunks=True):
        super().__init__()
        self.variant, self.in_chunks = variant, in_chunks
        self.layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        self.heads, self.width = weights["layers.0.time_mix.bonus"].shape
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, tensor in weights.items():
            self.register_buffer(self.names[name], tensor)

    def get(self, name, *shape):
        tensor = getattr(self, self.names[name])
        return tensor.reshape(shape) if shape else tensor

    def vector(self, name):
        return self.get(name, -1)

    def project(self, x, name, rows=-1):
        """x times a matrix whose last extents are those of x."""
        weight = self.get(name)
        return x @ weight.reshape(-1, x.shape[-1]).T

    def time_mix(self, x, at):
        batch, time, channels = x.shape
        heads = lambda y: y.unflatten(-1, (self.heads, -1))
        xx = shift(x) - x
        mixed = x + xx * self.vector(at + "maa_x")
        w1 = self.get(at + "maa_w1").reshape(5, -1, channels)
        w2 = self.get(at + "maa_w2").reshape(5, channels, -1)
        m = torch.einsum("btc,zrc->zbtr", mixed, w1).tanh()
        mw, mk, mv, mr, mg = torch.einsum("zbtr,zcr->zbtc", m, w2)
        stream = lambda name, m: x + xx * (self.vector(at + "maa_" + name) + m)
        r = heads(self.project(stream("r", mr), at + "receptance")).float()
        k = heads(self.project(stream("k", mk), at + "key")).float()
        v = heads(self.project(stream("v", mv), at + "value")).float()
        g = F.silu(self.project(stream("g", mg), at + "gate"))
        rank = self.project(stream("w", mw), at + "decay_w1").tanh()
        w = self.vector(at + "decay").float() + self.project(rank, at + "decay_w2").float()
        log_d, u = heads(-w.exp()), self.get(at + "bonus").float()
        y = wkv6_chunks(r, k, v, log_d, u) if self.in_chunks else wkv6_steps(r, k, v, log_d.exp(), u)
        y = F.layer_norm(y, y.shape[-1:], eps=GN_EPS).flatten(-2).to(x.dtype)
        y = y * self.vector(at + "ln_x_w") + self.vector(at + "ln_x_b")
        return self.project(y * g, at + "output")

    def channel_mix(self, x, at):
        xx = shift(x) - x
        k = self.project(x + xx * self.vector(at + "maa_k"), at + "key").relu().square()
        r = self.project(x + xx * self.vector(at + "maa_r"), at + "receptance")
        return r.sigmoid() * self.project(k, at + "value")

    def convolved(self, x, at, name):
        taps = self.get(at + "conv_" + name)
        taps = taps.reshape(-1, 1, taps.shape[-1])
        x = F.pad(x.transpose(1, 2), (taps.shape[-1] - 1, 0))
        return F.silu(F.conv1d(x, taps, self.vector(at + "bias_" + name), groups=taps.shape[0]).transpose(1, 2))

    def mixer(self, u, at):
        z = self.project(u, at + "w_z")
        x, b, c = (self.convolved(self.project(u, at + "w_" + name), at, name) for name in "xBC")
        dt = F.softplus(self.project(u, at + "w_dt").float() + self.vector(at + "dt_bias"))
        heads = x.unflatten(-1, (dt.shape[-1], -1)).float()
        log_decay = -self.vector(at + "A_log").exp() * dt
        recurrence = ssd_chunks if self.in_chunks else ssd_steps
        y = recurrence(heads, b.float(), c.float(), dt, log_decay)
        y = (y + self.vector(at + "D")[:, None] * heads).flatten(-2).to(u.dtype) * F.silu(z)
        return self.project(rms(y, self.vector(at + "norm")), at + "w_out")

    def attended(self, r, m, at):
        heads = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = (heads(self.project(x, at + name)) for x, name in ((r, "query"), (m, "key"), (m, "value")))
        assert r.shape[1] <= WINDOW, "attention is in full only within its window"
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(y.transpose(1, 2).flatten(-2), at + "output")

    def layer(self, x, l):
        own, mix, mixer = f"layers.{l}.layer.", f"layers.{l}.time_mix.", f"layers.{l}.mixer."
        norm = lambda x, n: F.layer_norm(x, x.shape[-1:], self.vector(f"{own}ln{n}_w"), self.vector(f"{own}ln{n}_b"), LN_EPS)
        u = norm(x, 1)
        if self.variant == "hybrid-rf":
            r = self.time_mix(u, mix)
            x = x + r + self.vector(own + "alpha") * self.mixer(r + u, mixer)
        else:
            r, m = rms(self.time_mix(u, mix)), rms(self.mixer(u, mixer))
            if self.variant == "hybrid":
                x = x + self.vector(own + "gain_r") * r + self.vector(own + "gain_m") * m
            elif self.variant == "hybrid-gf":
                g = (self.project(r, own + "gate_r") + self.project(m, own + "gate_m")).sigmoid()
                x = x + g * r + (1 - g) * m
            elif self.variant == "hybrid-ws":
                a = self.vector(own + "weight").softmax(0)
                x = x + a[0] * r + a[1] * m
            elif self.variant == "hybrid-cp":
                x = x + self.attended(r, m, own)
        return x + self.channel_mix(norm(x, 2), f"layers.{l}.channel_mix.")

    def forward(self, ids):
        channels = self.heads * self.width
        x = F.embedding(ids, self.get("emb", -1, channels))
        x = F.layer_norm(x, (channels,), self.vector("ln0_w"), self.vector("ln0_b"), LN_EPS)
        for l in range(self.layers):
            x = self.layer(x, l)
        x = F.layer_norm(x, (channels,), self.vector("out_w"), self.vector("out_b"), LN_EPS)
        return self.project(x, "head")


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")


def drawn(fusec, text, directory, *axes):
    weights = directory / f"{text.stem}.safetensors"
    run(fusec, "export", text, "--weights", "random:1", "-o", weights, *axes)
    return weights


def check(args):
    """Compares all variants with fusec on the CPU; the exit status says whether all agree."""
    torch.manual_seed(1)
    wrong = 0
    axes = ["--axis", f"L={args.layers}"]
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        directory = pathlib.Path(directory)
        for variant in MODELS:
            text = pathlib.Path(args.models) / f"{variant}.toml"
            weights = drawn(args.fusec, text, directory, *axes)
            # More than a chunk of either recurrence, and no multiple of one.
            ids = torch.randint(0, 256, (2, 77))
            given, got = directory / "ids.safetensors", directory / "logits.safetensors"
            save_file({"ids": ids}, given)
            run(args.fusec, "run", text, *axes, "--weights", weights, "--input", given, "--output", got, "--device", args.device)
            expected = load_file(got)["logits"]
            for in_chunks in (False, True):
                logits = Hybrid(variant, load_file(weights), in_chunks)(ids)
                error = ((logits - expected).abs().max() / expected.abs().max()).item()
                way = "in chunks" if in_chunks else "token by token"
                print(f"{variant:10} {way:15} {error:.2e} of the largest logit, accepted {BOUND:.0e}")
                wrong += not error <= BOUND
    return 1 if wrong else 0


def timed(call, most_seconds):
    """Medians of runs submitted back to back; fewer than RUNS where those would take longer, five at least."""
    for _ in range(WARMUPS):
        call()
    torch.cuda.synchronize()
    began = clock.monotonic()
    call()
    torch.cuda.synchronize()
    runs = min(RUNS, max(5, math.floor(most_seconds / (clock.monotonic() - began))))
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    times = [start.elapsed_time(end) for start, end in times]
    deciles = statistics.quantiles(times, n=10)
    return {"median": statistics.median(times), "p10": deciles[0], "p90": deciles[-1], "runs": len(times)}


class Turn:
    """Of several processes that compile side by side: each says when it is ready, waits until all are, and has the GPU
    to itself while it times."""

    def __init__(self, directory, name):
        self.directory, self.name = directory and pathlib.Path(directory), name

    def __enter__(self):
        if self.directory is None:
            return
        (self.directory / f"{self.name}.ready").touch()
        parent = os.getppid()
        while not (self.directory / "go").exists():
            if os.getppid() != parent:
                sys.exit("whoever gives turns has ended")
            clock.sleep(0.02)
        self.lock = open(self.directory / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def __exit__(self, *_):
        if self.directory is not None:
            self.lock.close()


def captured(way, ids):
    """What one call launches as one CUDA graph, which is how fusec submits a run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            way(ids)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = way(ids)
    return lambda: graph.replay() or kept


def time(args):
    """Times variants, eager, compiled, and what is compiled as one CUDA graph, at each T; what cannot be run is said
    and left out."""
    if not torch.cuda.is_available():
        sys.exit("there is no GPU: times are taken on one only")
    rows = []
    dtype = getattr(torch, args.dtype)
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "warmups": WARMUPS,
        "rows": rows,
    }
    turn = Turn(args.turns, pathlib.Path(args.out).stem)
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        calls = []
        for variant in args.only.split(","):
            text = pathlib.Path(args.models) / f"{variant}.toml"
            weights = load_file(drawn(args.fusec, text, pathlib.Path(directory)))
            model = Hybrid(variant, weights).to("cuda", dtype)
            # Each T is compiled for itself, as a user who measures would.
            ways = {"eager": model, "compiled": torch.compile(model, dynamic=False)}
            for tokens in map(int, args.times.split(",")):
                ids = torch.randint(0, 256, (args.batch, tokens), device="cuda")
                for name in args.ways.split(","):
                    row = {"model": variant, "way": name, "batch": args.batch, "time": tokens, "dtype": args.dtype}
                    try:
                        ways[name](ids)
                        torch.cuda.synchronize()
                        calls.append((row, ways[name], ids))
                    except Exception as error:  # out of memory, or a graph that is not compiled
                        rows.append(row | {"error": str(error).splitlines()[0]})
        with turn:
            for row, way, ids in calls:
                for name in [row["way"]] + ["compiled, graph"] * (row["way"] == "compiled"):
                    torch.cuda.reset_peak_memory_stats()
                    timing = row | {"way": name}
                    try:
                        call = captured(way, ids) if "graph" in name else lambda: way(ids)
                        timing["milliseconds"] = timed(call, args.most_seconds)
                        timing["tokens_per_second"] = row["batch"] * row["time"] / timing["milliseconds"]["median"] * 1e3
                        timing["peak_bytes"] = torch.cuda.max_memory_allocated()
                        del call
                    except Exception as error:
                        timing["error"] = str(error).splitlines()[0]
                    torch.cuda.empty_cache()
                    rows.append(timing)
                    print(json.dumps(timing), flush=True)
                    pathlib.Path(args.out).write_text(json.dumps(record, indent=2) + "\n")
    pathlib.Path(args.out).write_text(json.dumps(record, indent=2) + "\n")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, action in (("check", check), ("time", time)):
        own = verbs.add_parser(verb)
        own.set_defaults(action=action)
        own.add_argument("--fusec", default="fusec")
        own.add_argument("--models", default="models")
        if verb == "check":
            own.add_argument("--layers", type=int, default=2)
            own.add_argument("--device", default="cpu")
        else:
            own.add_argument("--out", required=True)
            own.add_argument("--times", default="256,512,1024,2048,4096")
            own.add_argument("--only", default=",".join(MODELS), help="variants, with commas between them")
            own.add_argument("--ways", default="eager,compiled")
            own.add_argument("--most-seconds", type=float, default=2.0, help="of timed runs of one thing at one T")
            own.add_argument("--turns", help="a directory that processes share which compile side by side and time in turn")
            own.add_argument("--batch", type=int, default=8)
            own.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    sys.exit(args.action(args))


if __name__ == "__main__":
    main()
