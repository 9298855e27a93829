"""Inputs of each operator, drawn from a seed, in the layout [B, T, ..] that fla and fusec share.

What a case of bench/cases computes before its recurrence (decays from gates, sigmoids) is computed here, before
the peer is timed: fusec does it inside of what is timed.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


class Draw:
    def __init__(self, dtype, device, seed=0):
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape, dtype=None, scale=1.0):
        drawn = torch.randn(*shape, device=self.device, generator=self.generator)
        return (drawn * scale).to(dtype or self.dtype)


def draw(operator, sizes, dtype, device):
    """The inputs of an operator as attributes, the sizes beside them."""
    of = SimpleNamespace(**sizes)
    x = OPERATORS[operator](of, Draw(TYPES[dtype], device))
    return SimpleNamespace(sizes=of, **x)


def ln_shift6(s, draw):
    return dict(x=draw(s.B, s.T, s.C), gain=draw(s.C), bias=draw(s.C), mix=draw(6, s.C))


def norm_gain(s, draw):
    return dict(x=draw(s.B, s.T, s.C), a=draw(s.B, s.T, s.C), norm_x=draw(s.C), norm_a=draw(s.C), gain_x=draw(s.C), gain_a=draw(s.C))


def groupnorm_gate(s, draw):
    return dict(y=draw(s.B, s.T, s.C), g=draw(s.B, s.T, s.C), gain=draw(s.C), bias=draw(s.C), heads=s.C // 64)


def add_norm(s, draw):
    return dict(x=draw(s.B, s.T, s.C), r=draw(s.B, s.T, s.C), gain=draw(s.C))


def ln_linear(s, draw):
    return dict(x=draw(s.B, s.T, s.C), gain=draw(s.C), bias=draw(s.C), weight=draw(s.C, s.C, scale=s.C**-0.5))


def product(s, draw):
    return dict(x=draw(s.B, s.T, s.K), weight=draw(s.N, s.K, scale=s.K**-0.5))


def conv_silu(s, draw):
    return dict(x=draw(s.B, s.T, s.C), taps=draw(s.C, s.K, scale=0.5), bias=draw(s.C, scale=0.1))


def gated_scan(s, draw):
    return dict(x=draw(s.B, s.T, s.C), weights=draw(3 * s.D, s.C, scale=s.C**-0.5))


def wkv6(s, draw):
    r, k, v, w = (draw(s.B, s.T, s.H, s.N) for _ in range(4))
    return dict(r=r, k=k, v=v, log_decay=-torch.exp(w.float() - 2), u=draw(s.H, s.N, scale=0.3))


def wkv7(s, draw):
    r, k, v, w, c, a = (draw(s.B, s.T, s.H, s.N) for _ in range(6))
    kk = F.normalize(c.float(), dim=-1)
    rate = torch.sigmoid(a.float())
    kept = lambda x: x.to(r.dtype)
    return dict(r=r, k=k, v=v, log_decay=-0.606530659712633 * torch.sigmoid(w.float()), a=kept(-kk), b=kept(kk * rate))


def gla(s, draw):
    q, k, g = (draw(s.B, s.T, s.H, s.K) for _ in range(3))
    return dict(q=q, k=k, v=draw(s.B, s.T, s.H, s.V), log_decay=F.logsigmoid(g.float()) / 16, scale=s.K**-0.5)


def ssd(s, draw):
    f32 = torch.float32
    shared = {name: draw(s.B, s.T, 1, s.N) for name in ("b", "c")}
    bias = torch.log(torch.expm1(torch.exp(torch.rand(s.H, device=draw.device, generator=draw.generator) * 4.7 - 6.9)))
    rate = -(1 + 15 * torch.rand(s.H, device=draw.device, generator=draw.generator))
    skip = torch.ones(s.H, device=draw.device, dtype=f32)
    return dict(x=draw(s.B, s.T, s.H, s.P), dt=draw(s.B, s.T, s.H), dt_bias=bias, rate=rate, skip=skip, **shared)


def selective_scan(s, draw):
    # Time last, as mamba-ssm has it: its callers bring tensors in this layout.
    x, dt, z = (draw(s.B, s.D, s.T) for _ in range(3))
    b, c = draw(s.B, s.N, s.T), draw(s.B, s.N, s.T)
    uniform = lambda *shape: torch.rand(*shape, device=draw.device, generator=draw.generator)
    rate = -torch.exp(uniform(s.D, s.N) * 2.77)
    return dict(x=x, dt=dt, z=z, b=b, c=c, rate=rate, dt_bias=-6.9 + 4.7 * uniform(s.D), skip=torch.ones(s.D, device=draw.device))


def gated_deltanet(s, draw):
    q, k = (F.normalize(draw(s.B, s.T, s.H, s.D).float(), dim=-1).to(draw.dtype) for _ in range(2))
    beta = torch.sigmoid(draw(s.B, s.T, s.Hv).float())
    return dict(q=q, k=k, v=draw(s.B, s.T, s.Hv, s.D), beta=beta, log_decay=-F.softplus(draw(s.B, s.T, s.Hv).float()), scale=s.D**-0.5)


def kda(s, draw):
    q, k = (F.normalize(draw(s.B, s.T, s.H, s.D).float(), dim=-1).to(draw.dtype) for _ in range(2))
    gate = draw(s.B, s.T, s.H, s.D)
    beta = torch.sigmoid(draw(s.B, s.T, s.H).float())
    return dict(
        q=q, k=k, v=draw(s.B, s.T, s.H, s.D), gate=gate, beta=beta, log_decay=-5 * torch.sigmoid(gate.float()), scale=s.D**-0.5
    )


def linear_attention(s, draw):
    q, k = (draw(s.B, s.T, s.H, s.D).abs() for _ in range(2))
    return dict(q=q, k=k, v=draw(s.B, s.T, s.H, s.D), scale=s.D**-0.5)


def mlstm(s, draw):
    # Time inside heads, as mlstm_kernels has it.
    q, k, v = (draw(s.B, s.H, s.T, s.D) for _ in range(3))
    return dict(q=q, k=k, v=v, i=draw(s.B, s.H, s.T), f=draw(s.B, s.H, s.T), scale=s.D**-0.5)


def delta_product(s, draw):
    # The steps of a token lie one after the other along time.
    q, k = (F.normalize(draw(s.B, n, s.H, s.D).float(), dim=-1).to(draw.dtype) for n in (s.T, s.M * s.T))
    beta = torch.sigmoid(draw(s.B, s.M * s.T, s.H).float())
    log_decay = -F.softplus(draw(s.B, s.T, s.H).float())
    return dict(q=q, k=k, v=draw(s.B, s.M * s.T, s.H, s.D), beta=beta, log_decay=log_decay, scale=s.D**-0.5)


def attention(s, draw):
    heads = lambda n: draw(s.B, n, s.T, s.N)
    return dict(q=heads(s.G * s.H), k=heads(s.G), v=heads(s.G))


OPERATORS = {
    f.__name__: f
    for f in (
        ln_shift6, norm_gain, groupnorm_gate, add_norm, ln_linear, product, conv_silu, gated_scan,
        wkv6, wkv7, gla, ssd, selective_scan, gated_deltanet, kda, linear_attention, mlstm, delta_product, attention,
    )
}

# By what gradients are computed.
LEAVES = {
    "wkv6": ("r", "k", "v", "log_decay", "u"),
    "wkv7": ("r", "k", "v", "log_decay", "a", "b"),
    "gla": ("q", "k", "v", "log_decay"),
    "ssd": ("x", "dt", "b", "c", "rate", "dt_bias", "skip"),
    "selective_scan": ("x", "dt", "z", "b", "c", "rate", "dt_bias", "skip"),
    "gated_deltanet": ("q", "k", "v", "log_decay", "beta"),
    "kda": ("q", "k", "v", "log_decay", "beta"),
}
