"""PyTorch: eager, compiled, cuBLAS, and its own attention. Each operator gives {peer: make}, make(x) a function to time."""

import torch
import torch.nn.functional as F

EAGER, COMPILED, TUNED = "torch eager", "torch.compile", "torch.compile, max-autotune"
TUNING = "max-autotune-no-cudagraphs"


def ways(function, *more):
    """An operator written with torch's own, as it is and compiled; compilation happens when it is first called."""

    def bound(x, compiled=None, mode=None):
        called = torch.compile(function, mode=mode, dynamic=False) if compiled else function
        return lambda: called(x)

    # A function over the attributes of `x` is compiled whole: they are tensors of fixed shapes.
    peers = {EAGER: bound, COMPILED: lambda x: bound(x, True)}
    if TUNED in more:
        peers[TUNED] = lambda x: bound(x, True, TUNING)
    return peers


def ln_shift6(x):
    y = F.layer_norm(x.x, (x.x.shape[-1],), x.gain, x.bias)
    d = F.pad(y, (0, 0, 1, -1)) - y
    return [y + d * x.mix[i] for i in range(6)]


def norm_gain(x):
    width = (x.x.shape[-1],)
    return F.rms_norm(x.x, width, x.norm_x, 1e-6) * x.gain_x + F.rms_norm(x.a, width, x.norm_a, 1e-6) * x.gain_a


def groupnorm_gate(x):
    y = F.group_norm(x.y.flatten(0, 1), x.heads, x.gain, x.bias, 64e-5)
    return y.view_as(x.y) * F.silu(x.g)


def add_norm(x):
    z = x.x + x.r
    return [z, F.rms_norm(z, (z.shape[-1],), x.gain, 1e-6)]


def ln_linear(x):
    return F.linear(F.layer_norm(x.x, (x.x.shape[-1],), x.gain, x.bias), x.weight)


def conv_silu(x):
    taps = x.taps.shape[1]
    y = F.conv1d(x.x.transpose(1, 2), x.taps[:, None], x.bias, padding=taps - 1, groups=x.taps.shape[0])
    return F.silu(y[..., : x.x.shape[1]]).transpose(1, 2)


def conv_silu_by_taps(x):
    """Sums of shifted rows, which a compiler makes one kernel of."""
    taps, time = x.taps.shape[1], x.x.shape[1]
    rows = F.pad(x.x, (0, 0, taps - 1, 0))
    y = rows[:, :time] * x.taps[:, 0] + x.bias
    for tap in range(1, taps):
        y = y + rows[:, tap : tap + time] * x.taps[:, tap]
    return F.silu(y)


def sdpa(backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def make(x):
        q, k, v = (t.contiguous() for t in (x.q, x.k, x.v))
        grouped = q.shape[1] != k.shape[1]

        def run():
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

        return run

    return make


PEERS = {
    "ln_shift6": ways(ln_shift6),
    "norm_gain": ways(norm_gain),
    "groupnorm_gate": ways(groupnorm_gate),
    "add_norm": ways(add_norm),
    "ln_linear": ways(ln_linear, TUNED),
    "product": {"cuBLAS": lambda x: lambda: F.linear(x.x, x.weight)},
    "conv_silu": {**ways(conv_silu), "torch.compile, sums of taps": ways(conv_silu_by_taps)[COMPILED]},
    "attention": {
        "torch SDPA, FlashAttention": sdpa("FLASH_ATTENTION"),
        "torch SDPA, cuDNN": sdpa("CUDNN_ATTENTION"),
    },
}
