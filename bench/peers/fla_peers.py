"""flash-linear-attention: its operators over the inputs of inputs.py. fla takes another path where tilelang or
flash-qla are installed; what ran stands in a record as `backends`."""

import logging
import os

import torch
import torch.nn.functional as F


TAKEN = []


def watch():
    """fla says in its log which of its backends it took for a call, or why not: kept in TAKEN."""

    class Kept(logging.Handler):
        def emit(self, record):
            TAKEN.append(record.getMessage().removeprefix("[FLA Backend] ")[:200])

    log = logging.getLogger("fla.backends")
    log.setLevel(logging.INFO)
    log.addHandler(Kept())


def wkv6(x):
    from fla.ops.rwkv6 import chunk_rwkv6

    return lambda: chunk_rwkv6(x.r, x.k, x.v, x.log_decay, x.u, scale=1.0)[0]


def wkv7(**options):
    def make(x):
        from fla.ops.rwkv7 import chunk_rwkv7

        return lambda: chunk_rwkv7(x.r, x.log_decay, x.k, x.v, x.a, x.b, scale=1.0, **options)[0]

    return make


def gla(x):
    from fla.ops.gla import chunk_gla

    return lambda: chunk_gla(x.q, x.k, x.v, x.log_decay, scale=x.scale)[0]


def ssd(x):
    """As gated linear attention with a decay per head: keys and queries repeated for each head, as it needs them."""
    from fla.ops.simple_gla import chunk_simple_gla

    if torch.is_grad_enabled():
        raise NotImplementedError("timed forwards only: what it repeats for each head is no input of the operator")
    heads = x.sizes.H
    dt = F.softplus(x.dt.float() + x.dt_bias)
    q, k = (t.expand(-1, -1, heads, -1).contiguous() for t in (x.c, x.b))
    v, g = (x.x * dt[..., None]).to(x.x.dtype), dt * x.rate
    skip = x.skip[:, None].to(x.x.dtype)
    return lambda: chunk_simple_gla(q, k, v, g, scale=1.0)[0] + skip * x.x


def gated_deltanet(x):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return lambda: chunk_gated_delta_rule(x.q, x.k, x.v, x.log_decay, x.beta, scale=x.scale)[0]


def kda(**options):
    def make(x):
        from fla.ops.kda import chunk_kda

        gate = x.gate if options.get("use_gate_in_kernel") else x.log_decay
        return lambda: chunk_kda(x.q, x.k, x.v, gate, x.beta, scale=x.scale, **options)[0]

    return make


def linear_attention(x):
    from fla.ops.linear_attn import chunk_linear_attn

    return lambda: chunk_linear_attn(x.q, x.k, x.v, scale=x.scale, normalize=True)[0]


def delta_product(x):
    from fla.ops.gated_delta_product import chunk_gated_delta_product

    return lambda: chunk_gated_delta_product(x.q, x.k, x.v, x.log_decay, x.beta, x.sizes.M, scale=x.scale)[0]


def conv_silu(x):
    from fla.modules.causal_conv1d import causal_conv1d

    return lambda: causal_conv1d(x.x, x.taps, x.bias, activation="silu", backend="triton")[0]


def conv_silu_gluon(x):
    os.environ["FLA_GLUON"] = "1"  # Off unless asked for; a process times one peer.
    return conv_silu(x)


def gated_scan(x):
    """cuBLAS, fla's scan with its gate in front, and an elementwise pass behind."""
    from fla.ops.hgrn import fused_recurrent_hgrn

    def before(x):
        v, a, g = F.linear(x.x, x.weights).chunk(3, -1)
        log_decay = F.logsigmoid(a.float())
        return ((1 - log_decay.exp()) * v).to(x.x.dtype), log_decay.to(x.x.dtype), g

    def after(y, g):
        return y * F.silu(g)

    before, after = torch.compile(before, dynamic=False), torch.compile(after, dynamic=False)

    def run():
        v, log_decay, g = before(x)
        return after(fused_recurrent_hgrn(v, log_decay)[0], g)

    return run


PEERS = {
    "wkv6": {"fla": wkv6},
    "wkv7": {
        "fla": wkv7(),
        "fla, safe gate": wkv7(safe_gate=True, chunk_size=64),
        "fla, bounded": wkv7(lower_bound=-0.606530659712633),
    },
    "gla": {"fla": gla},
    "ssd": {"fla, as simple GLA": ssd},
    "gated_deltanet": {"fla": gated_deltanet},
    "kda": {
        "fla": kda(),
        "fla, safe gate": kda(safe_gate=True),
        "fla, gate in kernel": kda(use_gate_in_kernel=True, safe_gate=True, lower_bound=-5.0, A_log=None),
    },
    "linear_attention": {"fla": linear_attention},
    "delta_product": {"fla": delta_product},
    "conv_silu": {"fla": conv_silu, "fla, Gluon": conv_silu_gluon},
    "gated_scan": {"cuBLAS, fla HGRN, torch.compile": gated_scan},
}
