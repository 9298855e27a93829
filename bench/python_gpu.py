"""The Python package on a GPU, claim by claim: whether each holds, and what a call costs.

    python_gpu.py --out FILE.json [--only NAME ..] [--seconds 180]

Each check runs by itself: what fails is said with its traceback, and the next one goes on. The checks run in a
process that is started again where one leaves the GPU in a fault, or hangs. Needs the package of fusec and torch;
triton for the launch that a call is put beside.
"""

import argparse
import gc
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import traceback
import warnings

#: The repository.
ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Where tensors lie, and where models run; --emulator looks whether this file is right, without a GPU.
PLACE, DEVICE = "cuda", "cuda:0"
CHECKS = {}
#: Seconds after which a check counts as hanging.
LONGEST = 75


def check(function):
    CHECKS[function.__name__] = function
    return function


STEP = "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"
AXES = dict(H=4, i=32, j=32)


def draw(batch, time, dtype=None, device=None, seed=0, heads=4, size=32):
    import torch

    torch.manual_seed(seed)
    given = {name: torch.randn(batch, time, heads, size) for name in "wkvr"}
    given["w"] = torch.sigmoid(given["w"])
    return {name: x.to(device or PLACE, dtype or torch.float32) for name, x in given.items()}


def loop(w, k, v, r, state=None):
    """The same equation in torch, in the type of the tensors."""
    import torch

    if state is None:
        state = torch.zeros(w.shape[0], w.shape[2], v.shape[3], w.shape[3], dtype=w.dtype, device=w.device)
    y = []
    for t in range(w.shape[1]):
        state = state * w[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
        y.append((state * r[:, t, :, None, :]).sum(-1))
    return torch.stack(y, 1), state


def traced():
    """The traceback of what is being handled, with files named from where they are found: a record is read elsewhere."""
    text = traceback.format_exc()
    for place in sorted({str(ROOT), *sys.path} - {""}, key=len, reverse=True):
        text = text.replace(place + os.sep, "")
    return text


def few(number, instead=40):
    """A size, or a smaller one where it takes too long."""
    return number if PLACE == "cuda" else min(number, instead)


def exact(given, state=None):
    wide = {name: x.double() for name, x in given.items()}
    return loop(**wide, state=None if state is None else state.double())


def apart(got, want):
    got, want = got.double(), want.double()
    return ((got - want).norm() / want.norm().clamp_min(1e-30)).item()


def near(got, want, bound=1e-5):
    distance = apart(got, want)
    assert distance <= bound, f"{distance:.2e} apart, {bound:.0e} allowed"
    return distance


def operator(**options):
    import fusec

    return fusec.recurrence(STEP, axes=AXES, device=DEVICE, **options)


_OPS = {}


def op(**options):
    key = tuple(sorted(options.items()))
    if key not in _OPS:
        _OPS[key] = operator(**options)
    return _OPS[key]


MIXER = """
name = "mixer"

[axes]
H = 4
N = 32
C = "H * N"

[input]
x = "C"

[param]
gain = { shape = "C" }
w_k = { shape = "C, C" }
w_v = { shape = "C, C" }
w_r = { shape = "C, C" }
w_d = { shape = "C, C" }
w_o = { shape = "C, C" }

[recurrence.gla]
inputs  = "r[H, j], k[H, j], v[H, i], d[H, j]"
state   = "S[H, i = N, j = N]"
outputs = "y[H, i]"
step    = '''
  S = d * S + k * v
  y = sum(S * r, j)
'''

[model]
flow = '''
  x = rms_norm(x, C, eps = 1e-6) * exp(gain)
  d = f32(exp(logsigmoid(x @ w_d) / 16))
  y = gla(x @ w_r, x @ w_k, x @ w_v, d)
  return group_rms_norm(y, H, eps = 1e-6) @ w_o
'''
"""


def mixer(**options):
    """A model that holds weights; blocks of a kernel for longer runs wait for each other."""
    import fusec

    key = ("mixer", *sorted(options.items()))
    if key not in _OPS:
        _OPS[key] = fusec.compile(MIXER, weights="random:3", device=DEVICE, **options)
    return _OPS[key]


def waits(model):
    """Whether it has a kernel whose blocks wait for each other."""
    return any("grid_barrier()" in kernel.source for kernel in model.kernels)


# What is here


@check
def here():
    import fusec
    import torch

    said = {
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(0),
        "exchange_api": hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
        "toolchain": fusec.toolchain(offline=True),
    }
    try:
        import triton

        said["triton"] = triton.__version__
    except ImportError as error:
        said["triton"] = str(error)
    began = time.perf_counter()
    made = op()
    said["compile_s"] = round(time.perf_counter() - began, 2)
    said["place"], said["types"] = made._place, made._types
    said["kernels"] = [kernel.name for kernel in made.kernels]
    said["blocks wait in the mixer"] = waits(mixer())
    return said


# Tensors


@check
def forward():
    import torch

    said = {}
    for dtype, options, bound in (
        (torch.float32, {}, 1e-5),
        (torch.bfloat16, dict(dtype="bf16"), 2e-2),
        (torch.float16, dict(dtype="f16"), 4e-3),
    ):
        for batch, length in ((1, 1), (3, 65), (2, few(300)), (1, 17), (4, few(1024))):
            given = draw(batch, length, dtype)
            before = {name: x.clone() for name, x in given.items()}
            y = op(**options)(**given)
            assert y.device == given["w"].device and y.dtype == dtype and y.shape == given["v"].shape
            want, _ = exact(given)
            name = f"{str(dtype)[6:]} B={batch} T={length}"
            said[name] = near(y, want, bound)
            assert all(torch.equal(before[n], given[n]) for n in given), "an input was written to"
    return said


@check
def other_types_are_converted():
    import torch

    given = draw(2, 65, torch.bfloat16)
    y = op()(**given)
    assert y.dtype == torch.bfloat16
    return near(y, exact(given)[0], 2e-2)


@check
def state():
    import torch

    made, given = op(), draw(2, 70)
    want, last = exact(given)
    whole, state = made(**given, return_state=True)
    assert state.position == 70
    said = {"state": near(state.tensors["step.S"], last)}
    now, parts = None, []
    for begin, end in ((0, 33), (33, 34), (34, 69), (69, 70)):
        part = {name: x[:, begin:end].contiguous() for name, x in given.items()}
        y, now = made(**part, state=now, return_state=True)
        parts.append(y)
    said["in parts"] = near(torch.cat(parts, 1), want)
    kept = now.tensors["step.S"].clone()
    made(**draw(2, 5), state=now, return_state=True)
    assert torch.equal(kept, now.tensors["step.S"]), "a given state was written to"
    # A maximum begins at minus infinity.
    import fusec

    highest = fusec.recurrence(
        "m[D] = max(m, x[D]); y[D] = m * 1", axes=dict(D=8), state="m[D] = -inf", device=DEVICE
    )
    x = -torch.rand(2, 40, 8, device=PLACE) - 1
    assert torch.equal(highest(x), torch.cummax(x, 1).values)
    return said


@check
def rows_are_carried():
    import fusec
    import torch

    text = """
name = "shift"
[axes]
D = 24
W = 4
[input]
x = "D"
[param]
weight = { shape = "D, W", precision = "f32" }
[model]
flow = "return silu(conv(x, weight))"
"""
    said = {}
    for dtype, kind, bound in (("f32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 2e-2)):
        model = fusec.compile(text, device=DEVICE, dtype=dtype)
        x, weight = torch.randn(2, 50, 24, device=PLACE, dtype=kind), torch.randn(24, 4, device=PLACE)
        wide = torch.nn.functional.pad(x.double().transpose(1, 2), (3, 0))
        want = torch.nn.functional.conv1d(wide, weight.double()[:, None], groups=24).transpose(1, 2)
        want = torch.nn.functional.silu(want)
        now, parts = None, []
        for begin, end in ((0, 1), (1, 3), (3, 30), (30, 31), (31, 50)):
            y, now = model(x[:, begin:end].contiguous(), state=now, params=dict(weight=weight))
            parts.append(y)
        said[dtype] = near(torch.cat(parts, 1), want, bound)
    return said


@check
def nothing_is_copied_or_waited_for():
    import torch
    from torch.profiler import ProfilerActivity, profile

    made, given = op(), draw(2, 64)
    for _ in range(3):
        made(**given)
    torch.cuda.synchronize()
    # The stream is busy; the call returns all the same.
    torch.cuda._sleep(int(5e8))
    began = time.perf_counter()
    y = made(**given)
    took = time.perf_counter() - began
    busy = not torch.cuda.current_stream().query()
    assert busy, "the stream was idle: the pause was too short to tell"
    assert took < 0.02, f"the call took {took * 1e3:.1f} ms of a busy stream"
    near(y, exact(given)[0])
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        made(**given, return_state=True)
        torch.cuda.synchronize()
    on_gpu = [e.name for e in seen.events() if str(e.device_type).endswith("CUDA")]
    assert on_gpu, "the profiler saw nothing on the GPU"
    copies = [name for name in on_gpu if "Memcpy" in name and "DtoD" not in name]
    assert not copies, f"copies to or from the host: {copies}"
    return {"call_ms_while_busy": took * 1e3, "on_gpu": on_gpu}


@check
def on_the_callers_stream():
    import torch

    made, given = op(), draw(2, 64)
    made(**given)
    want, _ = exact(given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    for _ in range(20):
        late = {name: torch.zeros_like(x) for name, x in given.items()}
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(int(2e6))
            for name, x in late.items():
                x.copy_(given[name])
            y = made(**late)
            for x in late.values():
                x.zero_()
        stream.synchronize()
        near(y, want)


@check
def captured():
    import torch

    said = {}
    for name, options, length in (
        ("f32", {}, 64),
        ("bf16", dict(dtype="bf16"), 300),
        ("one step", {}, 1),
    ):
        made = op(**options)
        dtype = torch.bfloat16 if options else torch.float32
        given = draw(2, length, dtype)
        start = torch.randn(2, 4, 32, 32, device=PLACE)
        import fusec

        before = fusec.State({"step.S": start}, 7)
        made(**given, state=before, return_state=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, after = made(**given, state=before, return_state=True)
        for seed in (1, 2, 3):
            for key, x in draw(2, length, dtype, seed=seed).items():
                given[key].copy_(x)
            start.normal_()
            graph.replay()
            torch.cuda.synchronize()
            want, last = exact(given, start)
            said[name] = near(y, want, 2e-2 if options else 1e-5)
            near(after.tensors["step.S"], last, 2e-2 if options else 1e-5)
    # Two captured runs of a model whose blocks wait for each other, at once.
    model, x = mixer(), torch.randn(2, 300, 128, device=PLACE)
    want = model(x)[0].clone()
    graphs = []
    for _ in range(2):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)[0]
        graphs.append((graph, y, torch.cuda.Stream()))
    torch.cuda.synchronize()
    for _ in range(30):
        for graph, y, stream in graphs:
            with torch.cuda.stream(stream):
                y.zero_()
                graph.replay()
        eager = model(x)[0]
        torch.cuda.synchronize()
        for y in [eager] + [y for _, y, _ in graphs]:
            assert torch.equal(y, want), f"{apart(y, want):.2e} apart"
    said["blocks wait"] = waits(model)
    return said


@check
def captured_without_a_call_before():
    import torch

    made, given = operator(), draw(2, 96)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(**given)
    graph.replay()
    return near(y, exact(given)[0])


@check
def views():
    import fusec
    import torch

    made, given = op(), draw(2, 64)
    want, _ = exact(given)
    wide = torch.randn(2, 64, 4, 64, device=PLACE)
    wide[..., ::2] = given["k"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        near(made(**{**given, "k": wide[..., ::2]}), want)
    assert [w for w in seen if w.category is fusec.CopyWarning and "`k`" in str(w.message)], "no warning"
    moved = torch.empty(given["v"].numel() + 1, device=PLACE)[1:].view_as(given["v"])
    moved.copy_(given["v"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        near(made(**{**given, "v": moved}), want)
    assert [w for w in seen if w.category is fusec.CopyWarning], "no warning of an odd address"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near(made(**{n: x.view(2, 64, 128) for n, x in given.items()}).view(2, 64, 4, 32), want)


@check
def mistakes_are_named():
    import torch

    made, given = op(), draw(2, 8)
    said = {}
    for name, change, words in (
        ("shape", dict(k=given["k"][..., :31].contiguous()), ("k", "31")),
        ("length", dict(v=given["v"][:, :7].contiguous()), ("v", "T=7")),
        ("type", dict(r=given["r"].double()), ("r", "float64")),
        ("device", dict(w=given["w"].cpu()), ("w", "cpu")),
    ):
        if name == "device" and PLACE == "cpu":
            continue
        try:
            made(**{**given, **change})
        except ValueError as error:
            said[name] = str(error)
            missing = [word for word in words if word.lower() not in str(error).lower()]
            assert not missing, f"{name}: {error} does not say {missing}"
        else:
            raise AssertionError(f"a wrong {name} was taken")
    near(made(**given), exact(given)[0])
    return said


@check
def tensors_of_another_library():
    import fusec
    import torch

    class Other:
        """DLPack and nothing else."""

        def __init__(self, tensor):
            self.tensor, self.shape = tensor, tensor.shape

        def __dlpack__(self, **named):
            named.pop("max_version", None)
            return self.tensor.__dlpack__(**named)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    made, given = op(), draw(2, 64)
    y, state = made(**{n: Other(x) for n, x in given.items()}, return_state=True)
    assert isinstance(y, fusec.Tensor) and y.__dlpack_device__() == (2, 0), y
    back = torch.from_dlpack(y)
    assert back.is_cuda
    del y
    gc.collect()
    again, _ = made(**{n: Other(x) for n, x in given.items()}, state=state, return_state=True)
    want, last = exact(given)
    near(torch.from_dlpack(again), exact(given, last)[0])
    return near(back, want)


@check
def tensors_of_the_cpu():
    made, given = op(), draw(2, 64, device="cpu")
    y = made(**given)
    assert y.device.type == "cpu"
    return near(y, exact(given)[0])


@check
def weights():
    import fusec
    import torch

    x = torch.randn(2, 40, 128)
    want, _ = fusec.compile(MIXER, weights="random:3", device="cpu")(x)
    said = {}
    for dtype, bound in (("f32", 1e-4), ("bf16", 5e-2)):
        model = mixer(dtype=dtype)
        kind = torch.bfloat16 if dtype == "bf16" else torch.float32
        y, state = model(x.to(PLACE).to(kind))
        said[dtype] = near(y.cpu(), want, bound)
        y, state = model(x.to(PLACE).to(kind), state=state)
        assert state.position == 80
    return said


# Training


def gradients(made, given, state, seed):
    import fusec
    import torch

    given = {n: x.clone().requires_grad_() for n, x in given.items()}
    state = state.clone().requires_grad_()
    if made is None:
        y, last = loop(**given, state=state)
    else:
        y, after = made(**given, state=fusec.State({"step.S": state}), return_state=True)
        last = after.tensors["step.S"]
    torch.manual_seed(seed)
    by_y, by_last = torch.randn(y.shape), torch.randn(last.shape)
    ((y * by_y.to(y)).sum() + (last * by_last.to(last)).sum()).backward()
    return {**{n: x.grad for n, x in given.items()}, "state": state.grad}


@check
def gradient():
    import torch

    said = {}
    for batch, length in ((2, 1), (2, 33), (1, few(130))):
        given, state = draw(batch, length), torch.randn(batch, 4, 32, 32, device=PLACE)
        got = gradients(op(), given, state, 5)
        want = gradients(None, {n: x.double() for n, x in given.items()}, state.double(), 5)
        said[f"B={batch} T={length}"] = {n: near(got[n], want[n], 1e-4) for n in want}
        assert all(x.device.type == PLACE for x in got.values())
    return said


@check
def module():
    import fusec.torch
    import torch

    torch.manual_seed(0)
    ours = fusec.torch.Module(MIXER, seed=0, device=DEVICE).to(PLACE)
    cpu = fusec.torch.Module(MIXER, seed=0, device="cpu")
    assert {n: x.shape for n, x in ours.state_dict().items()} == {n: x.shape for n, x in cpu.state_dict().items()}
    for x in cpu.parameters():
        torch.nn.init.normal_(x, std=0.1)
    ours.load_state_dict(cpu.state_dict())
    x = torch.randn(2, 50, 128)
    target = torch.randn(2, 50, 128)
    said = {}
    losses = []
    for model in (ours, cpu):
        device = next(model.parameters()).device
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses.append([])
        for step in range(4):
            loss = torch.nn.functional.mse_loss(model(x.to(device)), target.to(device))
            optimiser.zero_grad()
            loss.backward()
            if step == 0:
                said[str(device)] = {n: p.grad.norm().item() for n, p in model.named_parameters()}
            optimiser.step()
            losses[-1].append(loss.item())
    said["losses"] = losses
    for a, b in zip(*losses):
        assert abs(a - b) < 1e-3 * abs(b), losses
    values = {n: p.detach() for n, p in ours.named_parameters()}
    near(torch.func.functional_call(ours, values, (x.to(PLACE),)), ours(x.to(PLACE)), 1e-6)
    return said


@check
def compiled():
    import fusec.torch
    import torch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = fusec.torch.Module(MIXER, seed=0, device=DEVICE)
            self.norm = torch.nn.LayerNorm(128)
            self.mlp = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.GELU(), torch.nn.Linear(256, 128))

        def forward(self, x):
            x = x + self.mixer(x)
            return x + self.mlp(self.norm(x))

    block = Block().to(PLACE)
    x = torch.randn(2, 50, 128, device=PLACE)
    said = {}
    whole = torch.compile(block, fullgraph=True)
    results = []
    for run in (block, whole, whole):
        block.zero_grad()
        y = run(x)
        (y * y).mean().backward()
        results.append([y.detach().clone()] + [p.grad.clone() for p in block.parameters()])
    for other in results[1:]:
        for got, want in zip(other, results[0]):
            near(got, want, 1e-3)
    with torch.no_grad():
        for length in (50, 31, 77):
            z = torch.randn(2, length, 128, device=PLACE)
            said[f"T={length}"] = near(whole(z), block(z), 1e-3)
        said["graphs"] = torch._dynamo.utils.counters["stats"].get("unique_graphs")
    return said


@check
def compiled_to_cuda_graphs():
    """torch.compile(mode="reduce-overhead") keeps the call in the graphs that it captures."""
    import torch

    made, given = op(), draw(2, 64)
    fused = torch.compile(lambda w, k, v, r: made(w=torch.sigmoid(w), k=k, v=v, r=r) * 2, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for seed in range(4):
            given = draw(2, 64, seed=seed)
            torch.compiler.cudagraph_mark_step_begin()
            got = fused(*(given[n] for n in "wkvr")).clone()
            near(got, 2 * exact({**given, "w": torch.sigmoid(given["w"])})[0])
    skipped = torch._dynamo.utils.counters["inductor"].get("cudagraph_skips", 0)
    assert not skipped, f"torch captured no graph ({skipped} skips)"


@check
def two_layers():
    """The example: the same losses as a loop in torch, and how much faster."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_in_torch", ROOT / "examples/train_in_torch.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    said = {}
    for length, steps in ((48, few(20, 2)), (few(256), few(6, 1))):
        ours, theirs, seconds, loop_seconds = example.compare(steps, PLACE, length)
        worst = max(abs(a - b) / b for a, b in zip(ours, theirs))
        said[f"T={length}"] = {
            "fusec_ms": seconds * 1e3,
            "loop_ms": loop_seconds * 1e3,
            "times_faster": loop_seconds / seconds,
            "losses": [ours[0], ours[-1]],
            "loop_losses": [theirs[0], theirs[-1]],
            "worst": worst,
        }
        assert worst < 1e-3, said
    return said


@check
def ready_operators():
    """fusec.ops on the GPU beside the same on the CPU in f64, outputs, states and gradients."""
    import fusec.ops as ops
    import torch
    import torch.nn.functional as F

    B, T, H, K, V = 2, 100, 4, 32, 32

    def drawn():
        torch.manual_seed(1)
        n = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        kk, rate = F.normalize(n(B, T, H, K), dim=-1), torch.rand(B, T, H, K, dtype=torch.float64)
        qk = [F.normalize(n(B, T, H // 2, K), dim=-1) for _ in range(2)]
        start = n(B, H, K, V)
        return {
            "chunk_rwkv7": (
                [n(B, T, H, K), -0.6 * rate, n(B, T, H, K), n(B, T, H, V), -kk, kk * rate],
                dict(scale=0.7, initial_state=start, output_final_state=True),
            ),
            "chunk_gla": (
                [n(B, T, H, K), n(B, T, H, K), n(B, T, H, V), F.logsigmoid(n(B, T, H, K)) / 16],
                dict(initial_state=start, output_final_state=True),
            ),
            "chunk_gated_delta_rule": (
                [*qk, n(B, T, H, V), -F.softplus(n(B, T, H)), torch.sigmoid(n(B, T, H))],
                dict(initial_state=start, output_final_state=True),
            ),
            "mamba_chunk_scan_combined": (
                [n(B, T, H, V), n(B, T, H), -torch.exp(n(H)), n(B, T, 2, K), n(B, T, 2, K)],
                dict(D=n(H), dt_bias=n(H), z=n(B, T, H, V), initial_states=n(B, H, V, K), dt_softplus=True,
                     return_final_states=True),
            ),
            "selective_scan_fn": (
                [n(B, 64, T), n(B, 64, T), -torch.exp(n(64, 16)), n(B, 16, T), n(B, 16, T)],
                dict(D=n(64), z=n(B, 64, T), delta_bias=n(64), delta_softplus=True, return_last_state=True),
            ),
            "causal_conv1d_fn": (
                [n(B, 64, T), n(64, 4)],
                dict(bias=n(64), activation="silu", return_final_states=True),
            ),
        }

    said, wrong = {}, []
    for name, (tensors, named) in drawn().items():
        try:
            function = getattr(ops, name)
            results = []
            for device, dtype in (("cpu", torch.float64), (PLACE, torch.float32)):
                place = lambda x: x.detach().to(device, dtype, copy=True).requires_grad_() if torch.is_tensor(x) else x
                given, more = [place(x) for x in tensors], {n: place(x) for n, x in named.items()}
                # Where tensors lie on the CPU, the emulator has to be asked for.
                where = dict(device="emulator") if dtype == torch.float32 and PLACE == "cpu" else {}
                y, last = function(*given, **more, **where)
                assert y.device.type == device
                torch.manual_seed(2)
                seeds = torch.randn(y.shape), torch.randn(last.shape)
                carried = name != "causal_conv1d_fn"
                loss = (y * seeds[0].to(y)).sum()
                if carried:
                    loss = loss + (last * seeds[1].to(last)).sum()
                loss.backward()
                leaves = {**dict(enumerate(given)), **{n: x for n, x in more.items() if torch.is_tensor(x)}}
                grads = {f"d {n}": x.grad.cpu() for n, x in leaves.items()}
                results.append({"y": y.detach().cpu(), "last": last.detach().cpu(), **grads})
            said[name] = {n: apart(results[1][n], results[0][n]) for n in results[0]}
            bad = {n: d for n, d in said[name].items() if not d <= 2e-3}
            if bad:
                wrong.append(f"{name}: {bad}")
        except Exception:
            wrong.append(f"{name}: {traced()}")
    assert not wrong, "\n".join(wrong)
    return said


# What a call costs


def host_us(call, calls=200, rounds=25):
    """Least mean time on the host of calls that are submitted and not waited for: few enough for the queue."""
    import torch

    for _ in range(50):
        call()
    best = float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, time.perf_counter() - began)
        torch.cuda.synchronize()
    return best / calls * 1e6


def whole_us(call, calls=500):
    """Mean time of calls one after the other, to the end of the last."""
    import torch

    for _ in range(20):
        call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls * 1e6


def replayed(call):
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@check
def overhead():
    """Host time of an eager call and of the replay of a captured one: fusec, a Triton launch, torch.compile."""
    import fusec
    import torch

    said = {}
    made = op()
    for length in (1, 16):
        given = draw(1, length)
        w, k, v, r = (given[n] for n in "wkvr")
        _, state = made(w, k, v, r, return_state=True)
        calls = {
            "fusec": lambda: made(w, k, v, r),
            "fusec, by name": lambda: made(w=w, k=k, v=v, r=r),
            "fusec, with states": lambda: made(w, k, v, r, state=state, return_state=True),
        }
        for name, call in calls.items():
            with torch.no_grad():
                said[f"{name}, T={length}"] = {
                    "host_us": host_us(call),
                    "replay_host_us": host_us(replayed(call)),
                    "whole_us": whole_us(call),
                }
        leaf = w.clone().requires_grad_()
        said[f"fusec, recorded for a gradient, T={length}"] = {"host_us": host_us(lambda: made(leaf, k, v, r))}
        said[f"launches, T={length}"] = len(made.kernels)
    small = fusec.recurrence("h[D] = a[D] * h + x[D]; y[D] = h * 1", axes=dict(D=64), device=DEVICE)
    a, x = torch.rand(1, 4, 64, device=PLACE), torch.rand(1, 4, 64, device=PLACE)
    with torch.no_grad():
        said["fusec, one small kernel"] = {
            "host_us": host_us(lambda: small(a, x)),
            "replay_host_us": host_us(replayed(lambda: small(a, x))),
            "whole_us": whole_us(lambda: small(a, x)),
        }
    out = torch.empty_like(x)
    said["torch.add"] = {"host_us": host_us(lambda: torch.add(a, x, out=out))}
    try:
        said["triton"] = triton_launch(a, x, out)
    except Exception:
        said["triton"] = {"error": traced()}
    try:
        torch._dynamo.reset()
        fused = torch.compile(lambda a, x: torch.sigmoid(a) * x + a)
        with torch.no_grad():
            said["torch.compile, one kernel"] = {
                "host_us": host_us(lambda: fused(a, x)),
                "replay_host_us": host_us(replayed(lambda: fused(a, x))),
            }
    except Exception:
        said["torch.compile, one kernel"] = {"error": traced()}
    # Where the time goes: the same call below Python, and its parts.
    from fusec import _native
    from fusec.torch import _ground_of

    program = small._program
    stream, empty = _ground_of(a)
    said["parts_us"] = {
        "native": host_us(lambda: _native.call_on_device(program, (a, x), (), (), 0, False, stream, empty)),
        "torch.empty_strided": host_us(lambda: empty[0]((1, 4, 64), (256, 64, 1), **empty[1]["float32"])),
        "torch.empty": host_us(lambda: torch.empty((1, 4, 64), dtype=torch.float32, device=a.device)),
        "stream and what allocates": host_us(lambda: _ground_of(a)),
    }
    small_us = said["fusec, one small kernel"]["host_us"]
    said["aim_10_us"] = {"small": small_us <= 10, "attention": said["fusec, T=16"]["host_us"] <= 10}
    assert small_us <= 20, f"an eager call of one kernel takes {small_us:.1f} us of the host\n{json.dumps(said, indent=1)}"
    return said


def triton_launch(a, x, out):
    # Triton reads the source of its kernels from a file.
    import importlib.util
    import tempfile

    import torch

    text = """
import triton
import triton.language as tl

@triton.jit
def add(a, x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at, at < n) + tl.load(x + at, at < n), at < n)
"""
    path = pathlib.Path(tempfile.mkdtemp()) / "a_triton_kernel.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    n = x.numel()

    def alone():
        module.add[(1,)](a, x, out, n, BLOCK=256)

    def with_result():
        made = torch.empty_like(x)
        module.add[(1,)](a, x, made, n, BLOCK=256)
        return made

    return {
        "host_us": host_us(alone),
        "with_torch_empty_host_us": host_us(with_result),
        "replay_host_us": host_us(replayed(alone)),
    }


# What goes on for long


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@check
def ten_thousand_lengths():
    import torch

    made = op()
    full = draw(1, 2048)
    lengths = [1 + (7919 * n) % 2047 for n in range(10_000)]
    marks = []
    with torch.no_grad():
        for n, length in enumerate(lengths):
            # Row-major, as B is 1.
            y = made(**{name: x[:, :length] for name, x in full.items()})
            if n in (1999, 9999):
                del y
                torch.cuda.synchronize()
                gc.collect()
                free, _ = torch.cuda.mem_get_info()
                marks.append(
                    {
                        "call": n + 1,
                        "allocated": torch.cuda.memory_allocated(),
                        "reserved": torch.cuda.memory_reserved(),
                        "used_by_all": torch.cuda.mem_get_info()[1] - free,
                        "resident": resident(),
                    }
                )
    first, last = marks
    grown = {name: last[name] - first[name] for name in ("allocated", "used_by_all", "resident")}
    assert grown["allocated"] <= 0, grown
    assert grown["used_by_all"] <= 32 << 20, grown
    assert grown["resident"] <= 32 << 20, grown
    return {"marks": marks, "grown": grown}


@check
def two_threads_two_streams_two_models():
    import fusec
    import torch

    other = fusec.recurrence("h[D] = a[D] * h + x[D]; y[D] = h * 1", axes=dict(D=few(4096, 64)), device=DEVICE)
    made = [op(), op(dtype="bf16"), other, mixer()]
    long = draw(2, few(512))
    long_half = draw(2, few(512), torch.bfloat16)
    a, x = torch.rand(2, few(512), few(4096, 64), device=PLACE), torch.rand(2, few(512), few(4096, 64), device=PLACE)
    z = torch.randn(2, few(300), 128, device=PLACE)
    calls = [
        lambda: made[0](**long),
        lambda: made[1](**long_half),
        lambda: made[2](a, x),
        lambda: made[3](z)[0],
        lambda: made[3](z)[0],
        lambda: made[0](**long),
    ]
    want = [call().clone() for call in calls]
    torch.cuda.synchronize()
    failures = []

    def work(which):
        stream = torch.cuda.Stream()
        try:
            with torch.cuda.stream(stream), torch.no_grad():
                for _ in range(few(150, 2)):
                    results = [calls[which]() for _ in range(4)]
                    stream.synchronize()
                    for got in results:
                        if not torch.equal(got, want[which]):
                            raise AssertionError(f"call {which}: {apart(got, want[which]):.2e} apart")
        except Exception:
            failures.append(traced())

    # Some run the same model, on streams of their own.
    threads = [threading.Thread(target=work, args=(which,)) for which in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    assert not failures, "\n".join(failures)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


@check
def one_model_on_two_streams():
    """Many runs under way at once on streams that nobody waits for."""
    import torch

    made, x = mixer(), torch.randn(1, few(700), 128, device=PLACE)
    want = made(x)[0].clone()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(6)]
    for _ in range(few(30, 2)):
        results = []
        for stream in streams:
            with torch.cuda.stream(stream), torch.no_grad():
                results += [made(x)[0] for _ in range(3)]
        torch.cuda.synchronize()
        assert all(torch.equal(y, want) for y in results), "a run disturbed another one"
    return {"blocks wait": waits(made)}


@check
def dropped_while_it_runs():
    import fusec
    import torch

    given = draw(2, 300)
    want, _ = exact(given)
    for _ in range(5):
        made = operator()
        torch.cuda._sleep(int(1e8))
        y = made(**given)
        busy = not torch.cuda.current_stream().query()
        del made
        gc.collect()
        near(y, want)
    x = torch.randn(2, 40, 128, device=PLACE)
    model = fusec.compile(MIXER, weights="random:3", device=DEVICE)
    want, _ = model(x)
    want = want.clone()
    torch.cuda._sleep(int(1e8))
    y, _ = model(x)
    del model
    gc.collect()
    near(y, want, 1e-6)
    # A graph goes on after the operator that was captured is gone.
    made = operator()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(**given)
    del made
    gc.collect()
    graph.replay()
    torch.cuda.synchronize()
    near(y, exact(given)[0])
    # Tensors outlive their use: inputs are dropped at once.
    made = op()
    for _ in range(20):
        torch.cuda._sleep(int(1e6))
        y = made(**draw(2, 300))
        noise = [torch.randn(2, 300, 4, 32, device=PLACE) for _ in range(8)]
        near(y, exact(given)[0])
        del noise
    return {"was_busy": busy}


@check
def the_device_of_the_thread_stays():
    import fusec
    import torch

    said = {"count": torch.cuda.device_count()}
    before = torch.cuda.current_device()
    fusec.recurrence(STEP, axes=dict(H=1, i=16, j=16), device=DEVICE)
    assert torch.cuda.current_device() == before
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(1)
        given = {n: x.to(PLACE) for n, x in draw(2, 40, device="cpu").items()}
        near(op()(**given), exact(given)[0])
        assert torch.cuda.current_device() == 1
        torch.cuda.set_device(0)
    return said


# Running them


#: What is most of all asked comes first, should the time not do.
FIRST = (
    "here forward state nothing_is_copied_or_waited_for on_the_callers_stream captured overhead gradient "
    "two_threads_two_streams_two_models one_model_on_two_streams dropped_while_it_runs ten_thousand_lengths "
    "two_layers module compiled ready_operators"
).split()
CHECKS = {name: CHECKS[name] for name in FIRST + [name for name in CHECKS if name not in FIRST]}

#: What means nothing without a GPU.
OF_A_GPU = (
    "nothing_is_copied_or_waited_for on_the_callers_stream captured captured_without_a_call_before overhead "
    "ten_thousand_lengths tensors_of_another_library compiled_to_cuda_graphs the_device_of_the_thread_stays dropped_while_it_runs"
).split()


def pretend():
    """The emulator in place of the GPU: slow, for small tensors."""
    import contextlib

    import torch

    global PLACE, DEVICE
    PLACE, DEVICE = "cpu", "emulator"

    class Stream:
        synchronize = query = lambda self: True

    torch.cuda.Stream, torch.cuda.stream = Stream, lambda stream: contextlib.nullcontext()
    torch.cuda.synchronize = torch.cuda._sleep = lambda *given: None
    torch.cuda.get_device_name = lambda number: "none"
    for name in OF_A_GPU:
        CHECKS.pop(name)


def child(names, out, emulator):
    import torch

    if emulator:
        pretend()
    for name in names:
        began = time.perf_counter()
        row = {"check": name}
        try:
            said = CHECKS[name]()
            torch.cuda.synchronize()
            row.update(passed=True, said=said)
        except BaseException:
            row.update(passed=False, error=traced())
        row["seconds"] = round(time.perf_counter() - began, 2)
        with open(out, "a") as file:
            file.write(json.dumps(row, default=str) + "\n")
        try:
            torch.cuda.synchronize()
            (torch.ones(4, device=PLACE) + 1).sum().item()
        except Exception:
            # The context is of no use any more.
            os._exit(3)
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", nargs="*", choices=list(CHECKS))
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--emulator", action="store_true", help="try this file without a GPU")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        return child(args.child, args.out, args.emulator)
    if args.emulator:
        for name in OF_A_GPU:
            CHECKS.pop(name)
    until = time.monotonic() + args.seconds
    left, rows = list(args.only or CHECKS), []
    lines = pathlib.Path(args.out + ".lines")
    lines.unlink(missing_ok=True)

    def read():
        new = lines.read_text().splitlines()[len(rows) :] if lines.exists() else []
        for line in new:
            row = json.loads(line)
            rows.append(row)
            left.remove(row["check"])
            show(row)
        return bool(new)

    while left and time.monotonic() < until:
        command = [sys.executable, __file__, "--out", str(lines), *["--emulator"] * args.emulator, "--child", *left]
        process = subprocess.Popen(command)
        last = time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            if read():
                last = time.monotonic()
            hangs = time.monotonic() - last > LONGEST + (30 if not rows else 0)
            if hangs or time.monotonic() > until:
                process.kill()
                process.wait()
                break
        read()
        if process.returncode != 0 and left:
            # Killed, or gone in the middle of a check.
            if process.returncode != 3:
                why = "out of time" if time.monotonic() > until else "it hangs, or the process died"
                rows.append({"check": left[0], "passed": False, "error": f"{why} ({process.returncode})"})
                show(rows[-1])
                with open(lines, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                left.pop(0)
    for name in left:
        rows.append({"check": name, "passed": None, "error": "not run: out of time"})
        show(rows[-1])
    pathlib.Path(args.out).write_text(json.dumps({"checks": rows}, indent=1, default=str) + "\n")
    lines.unlink(missing_ok=True)
    passed = sum(1 for row in rows if row["passed"])
    print(f"{passed} of {len(rows)} checks passed")
    return 0 if passed == len(rows) else 1


def show(row):
    mark = {True: "ok  ", False: "FAIL", None: "----"}[row["passed"]]
    print(f"{mark} {row['check']} ({row.get('seconds', 0)} s)", flush=True)
    text = row.get("error") or json.dumps(row.get("said"), default=str)
    if text and text != "null":
        print("     " + text[:4000].replace("\n", "\n     "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
