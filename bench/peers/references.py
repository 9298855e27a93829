"""The formulas of bench/cases in float64, a loop along time: what every peer is compared with before it is timed."""

import torch
import torch.nn.functional as F


def reference(operator, x):
    wide = {name: t.double() if torch.is_tensor(t) and t.is_floating_point() else t for name, t in vars(x).items()}
    return OPERATORS[operator](type(x)(**wide))


def loop(time, state, step):
    """step(t, state) -> (output, state), from the first token to the last."""
    out = []
    for t in range(time):
        y, state = step(t, state)
        out.append(y)
    return torch.stack(out, 1)


def rms(x, gain):
    return F.rms_norm(x, x.shape[-1:], gain, 1e-6)


def ln_shift6(x):
    y = F.layer_norm(x.x, (x.x.shape[-1],), x.gain, x.bias)
    d = F.pad(y, (0, 0, 1, -1)) - y
    return torch.stack([y + d * mix for mix in x.mix])


def norm_gain(x):
    return rms(x.x, x.norm_x) * x.gain_x + rms(x.a, x.norm_a) * x.gain_a


def groupnorm_gate(x):
    y = F.group_norm(x.y.flatten(0, 1), x.heads, x.gain, x.bias, 64e-5)
    return y.view_as(x.y) * F.silu(x.g)


def add_norm(x):
    z = x.x + x.r
    return torch.stack([z, rms(z, x.gain)])


def ln_linear(x):
    return F.layer_norm(x.x, (x.x.shape[-1],), x.gain, x.bias) @ x.weight.T


def product(x):
    return x.x @ x.weight.T


def conv_silu(x):
    rows = F.pad(x.x, (0, 0, x.taps.shape[1] - 1, 0))
    taps = x.taps.shape[1]
    sums = sum(rows[:, tap : tap + x.x.shape[1]] * x.taps[:, tap] for tap in range(taps))
    return F.silu(sums + x.bias)


def gated_scan(x):
    v, a, g = (x.x @ x.weights.T).chunk(3, -1)
    a = torch.sigmoid(a)

    def step(t, state):
        state = a[:, t] * state + (1 - a[:, t]) * v[:, t]
        return state, state

    return loop(v.shape[1], torch.zeros_like(v[:, 0]), step) * F.silu(g)


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def wkv6(x):
    def step(t, state):
        kv = outer(x.k[:, t], x.v[:, t])
        y = torch.einsum("bhk,bhkv->bhv", x.r[:, t], state + x.u[..., None] * kv)
        return y, x.log_decay[:, t, :, :, None].exp() * state + kv

    s = x.sizes
    return loop(s.T, x.r.new_zeros(s.B, s.H, s.N, s.N), step)


def wkv7(x):
    def step(t, state):
        removed = torch.einsum("bhk,bhkv->bhv", x.a[:, t], state)
        state = state * x.log_decay[:, t, :, :, None].exp() + outer(x.b[:, t], removed) + outer(x.k[:, t], x.v[:, t])
        return torch.einsum("bhk,bhkv->bhv", x.r[:, t], state), state

    s = x.sizes
    return loop(s.T, x.r.new_zeros(s.B, s.H, s.N, s.N), step)


def gla(x):
    def step(t, state):
        state = x.log_decay[:, t, :, :, None].exp() * state + outer(x.k[:, t], x.v[:, t])
        return x.scale * torch.einsum("bhk,bhkv->bhv", x.q[:, t], state), state

    s = x.sizes
    return loop(s.T, x.q.new_zeros(s.B, s.H, s.K, s.V), step)


def ssd(x):
    dt = F.softplus(x.dt + x.dt_bias)

    def step(t, state):
        decay = torch.exp(dt[:, t] * x.rate)[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x.x[:, t])[..., None] * x.b[:, t, :, None, :]
        y = torch.einsum("bhpn,bn->bhp", state, x.c[:, t, 0])
        return y + x.skip[:, None] * x.x[:, t], state

    s = x.sizes
    return loop(s.T, x.x.new_zeros(s.B, s.H, s.P, s.N), step)


def selective_scan(x):
    dt = F.softplus(x.dt + x.dt_bias[:, None])

    def step(t, state):
        state = torch.exp(dt[:, :, t, None] * x.rate) * state + (dt * x.x)[:, :, t, None] * x.b[:, None, :, t]
        return (state * x.c[:, None, :, t]).sum(-1), state

    s = x.sizes
    y = loop(s.T, x.x.new_zeros(s.B, s.D, s.N), step).transpose(1, 2)
    return (y + x.skip[:, None] * x.x) * F.silu(x.z)


def delta_rule(x, q, k, decay, heads):
    """decay(t): what the state [B, H, K, V] is multiplied by."""

    def step(t, state):
        state = decay(t) * state
        missing = x.v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        state = state + outer(k[:, t], x.beta[:, t, :, None] * missing)
        return x.scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state), state

    s = x.sizes
    return loop(s.T, x.q.new_zeros(s.B, heads, s.D, s.D), step)


def gated_deltanet(x):
    many = x.sizes.Hv // x.sizes.H
    q, k = (t.repeat_interleave(many, 2) for t in (x.q, x.k))
    return delta_rule(x, q, k, lambda t: x.log_decay[:, t, :, None, None].exp(), x.sizes.Hv)


def kda(x):
    return delta_rule(x, x.q, x.k, lambda t: x.log_decay[:, t, :, :, None].exp(), x.sizes.H)


def linear_attention(x):
    def step(t, state):
        sums, weights = state
        sums, weights = sums + outer(x.k[:, t], x.v[:, t]), weights + x.k[:, t]
        q = x.scale * x.q[:, t]
        y = torch.einsum("bhk,bhkv->bhv", q, sums) / ((q * weights).sum(-1, keepdim=True) + 1e-10)
        return y, (sums, weights)

    s = x.sizes
    return loop(s.T, (x.q.new_zeros(s.B, s.H, s.D, s.D), x.q.new_zeros(s.B, s.H, s.D)), step)


def mlstm(x):
    log_f = F.logsigmoid(x.f)

    def step(t, state):
        cells, weights, top = state
        later = torch.maximum(log_f[:, :, t] + top, x.i[:, :, t])
        kept, new = ((part - later).exp() for part in (log_f[:, :, t] + top, x.i[:, :, t]))
        cells = kept[..., None, None] * cells + new[..., None, None] * outer(x.k[:, :, t], x.v[:, :, t])
        weights = kept[..., None] * weights + new[..., None] * x.k[:, :, t]
        q = x.scale * x.q[:, :, t]
        size = torch.maximum((q * weights).sum(-1).abs(), (-later).exp()) + 1e-6
        return torch.einsum("bhk,bhkv->bhv", q, cells) / size[..., None], (cells, weights, later)

    s = x.sizes
    zeros = x.q.new_zeros
    return loop(s.T, (zeros(s.B, s.H, s.D, s.D), zeros(s.B, s.H, s.D), zeros(s.B, s.H)), step).transpose(1, 2)


def delta_product(x):
    def step(t, state):
        state = x.log_decay[:, t, :, None, None].exp() * state
        for n in range(x.sizes.M * t, x.sizes.M * (t + 1)):
            missing = x.v[:, n] - torch.einsum("bhk,bhkv->bhv", x.k[:, n], state)
            state = state + outer(x.k[:, n], x.beta[:, n, :, None] * missing)
        return x.scale * torch.einsum("bhk,bhkv->bhv", x.q[:, t], state), state

    s = x.sizes
    return loop(s.T, x.q.new_zeros(s.B, s.H, s.D, s.D), step)


def attention(x):
    return F.scaled_dot_product_attention(x.q, x.k, x.v, is_causal=True, enable_gqa=True)


OPERATORS = {
    f.__name__: f
    for f in (
        ln_shift6, norm_gain, groupnorm_gate, add_norm, ln_linear, product, conv_silu, gated_scan,
        wkv6, wkv7, gla, ssd, selective_scan, gated_deltanet, kda, linear_attention, mlstm, delta_product, attention,
    )
}
