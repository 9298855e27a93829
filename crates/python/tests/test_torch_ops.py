"""fusec.ops against the formulas, written in torch as loops along time, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from fusec import ops
from devices import DEVICES

B, T, H, K, V = 2, 9, 3, 4, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def close(got, want, tolerance=2e-5):
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def delta_rule(q, w, k, v, a, b, scale, S):
    """S = diag(w) S + b (a' S) + k v', o = scale q' S. S: [B, H, K, V]."""
    o = []
    for t in range(q.shape[1]):
        sa = torch.einsum("bhk,bhkv->bhv", a[:, t], S)
        S = S * w[:, t, :, :, None] + b[:, t, :, :, None] * sa[:, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
        o.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], S))
    return torch.stack(o, 1), S


def start(given, *shape):
    return torch.randn(*shape) if given else None


def zero_or(state, *shape):
    return torch.zeros(*shape).double() if state is None else state.double()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("given", [False, True])
def test_chunk_rwkv7(device, given):
    r, k = (torch.randn(B, T, H, K) for _ in range(2))
    kk = F.normalize(torch.randn(B, T, H, K), dim=-1)
    w, v = -torch.rand(B, T, H, K), torch.randn(B, T, H, V)
    a, b = -kk, kk * torch.rand(B, T, H, K)
    S = start(given, B, H, K, V)
    o, final = ops.chunk_rwkv7(r, w, k, v, a, b, scale=0.7, initial_state=S, device=device)
    d = [x.double() for x in (r, w.exp(), k, v, a, b)]
    want, state = delta_rule(*d, 0.7, zero_or(S, B, H, K, V))
    close(o, want)
    close(final, state)
    assert ops.chunk_rwkv7(r, w, k, v, a, b, output_final_state=False)[1] is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("given", [False, True])
def test_chunk_gla(device, given):
    q, k, v = torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H, V)
    g = F.logsigmoid(torch.randn(B, T, H, K))
    S = start(given, B, H, K, V)
    o, final = ops.chunk_gla(q, k, v, g, initial_state=S, output_final_state=True, device=device)
    zero = torch.zeros(B, T, H, K).double()
    d = [x.double() for x in (q, g.exp(), k, v)]
    want, state = delta_rule(*d, zero, zero, K**-0.5, zero_or(S, B, H, K, V))
    close(o, want)
    close(final, state)
    assert ops.chunk_gla(q, k, v, g)[1] is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("group", "norm", "given"), [(1, False, False), (2, True, True)])
def test_chunk_gated_delta_rule(device, group, norm, given):
    q, k, v = torch.randn(B, T, H, K), torch.randn(B, T, H, K), torch.randn(B, T, H * group, V)
    if not norm:
        k = F.normalize(k, dim=-1)
    g, beta = -torch.rand(B, T, H * group), torch.rand(B, T, H * group)
    S = start(given, B, H * group, K, V)
    o, final = ops.chunk_gated_delta_rule(
        q, k, v, g, beta, initial_state=S, output_final_state=True, use_qk_l2norm_in_kernel=norm, device=device
    )
    q, k, v, g, beta = (x.double() for x in (q, k, v, g, beta))
    if norm:
        q, k = (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
    q, k = (x.repeat_interleave(group, 2) for x in (q, k))
    w, beta = g.exp()[..., None].expand_as(k), beta[..., None]
    want, state = delta_rule(q, w, k * beta, v, -k * w, k * beta, K**-0.5, zero_or(S, B, H * group, K, V))
    close(o, want)
    close(final, state)
    assert o.shape == v.shape and final.shape == (B, H * group, K, V)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("groups", "per_channel", "everything"), [(1, False, False), (2, True, True), (2, False, True)]
)
def test_mamba_chunk_scan_combined(device, groups, per_channel, everything):
    heads, P, N = 4, 3, 5
    x, dt = torch.randn(B, T, heads, P), torch.rand(B, T, heads)
    A, Bm, C = -torch.rand(heads) - 0.5, torch.randn(B, T, groups, N), torch.randn(B, T, groups, N)
    more = {}
    if everything:
        more = dict(
            D=torch.randn(heads, P) if per_channel else torch.randn(heads),
            z=torch.randn(B, T, heads, P),
            dt_bias=torch.randn(heads),
            initial_states=torch.randn(B, heads, P, N),
            dt_softplus=True,
            dt_limit=(0.1, 0.9),
        )
    y, final = ops.mamba_chunk_scan_combined(
        x, dt, A, Bm, C, 64, **more, return_final_states=True, device=device
    )
    d = {n: t.double() if isinstance(t, torch.Tensor) else t for n, t in more.items()}
    x, dt, A, Bm, C = (t.double() for t in (x, dt, A, Bm, C))
    if everything:
        dt = F.softplus(dt + d["dt_bias"]).clamp(0.1, 0.9)
    Bm, C = (t.repeat_interleave(heads // groups, 2) for t in (Bm, C))
    S, want = d.get("initial_states", torch.zeros(B, heads, P, N).double()), []
    for t in range(T):
        s = dt[:, t]
        S = S * (s * A).exp()[..., None, None] + (s[..., None] * x[:, t])[..., None] * Bm[:, t, :, None]
        want.append((S * C[:, t, :, None]).sum(-1))
    want = torch.stack(want, 1)
    if everything:
        want = (want + (d["D"] if per_channel else d["D"][:, None]) * x) * F.silu(d["z"])
    close(y, want)
    close(final, S)
    alone = ops.mamba_chunk_scan_combined(*(t.float() for t in (x, dt, A, Bm, C)))
    assert alone.shape == (B, T, heads, P)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["plain", "groups", "constant", "everything"])
def test_selective_scan_fn(device, kind):
    D, N, G = 6, 4, 2
    u, delta, A = torch.randn(B, D, T), torch.rand(B, D, T), -torch.rand(D, N)
    shapes = dict(groups=(B, G, N, T), constant=(D, N)).get(kind, (B, N, T))
    Bm = torch.randn(*shapes)
    C = torch.randn(B, N, T) if kind == "constant" else torch.randn(*shapes)
    more = {}
    if kind == "everything":
        more = dict(D=torch.randn(D), z=torch.randn(B, D, T), delta_bias=torch.randn(D), delta_softplus=True)
    y, last = ops.selective_scan_fn(u, delta, A, Bm, C, **more, return_last_state=True, device=device)
    d = {n: t.double() if isinstance(t, torch.Tensor) else t for n, t in more.items()}
    u, delta, A = u.double(), delta.double(), A.double()

    def whole(X):
        X = X.double()
        if X.dim() == 2:
            return X[None, :, :, None].expand(B, D, N, T)
        if X.dim() == 3:
            return X[:, None].expand(B, D, N, T)
        return X.repeat_interleave(D // G, 1)

    Bm, C = whole(Bm), whole(C)
    if more:
        delta = F.softplus(delta + d["delta_bias"][:, None])
    S, want = torch.zeros(B, D, N).double(), []
    for t in range(T):
        S = S * (delta[:, :, t, None] * A).exp() + (delta[:, :, t] * u[:, :, t])[..., None] * Bm[..., t]
        want.append((S * C[..., t]).sum(-1))
    want = torch.stack(want, -1)
    if more:
        want = (want + d["D"][:, None] * u) * F.silu(d["z"])
    close(y, want)
    close(last, S)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("width", "bias", "activation", "given"),
    [(4, True, "silu", False), (3, False, None, True), (4, True, "swish", True), (2, False, None, False)],
)
def test_causal_conv1d_fn(device, width, bias, activation, given):
    D = 6
    x, weight = torch.randn(B, D, T), torch.randn(D, width)
    b = torch.randn(D) if bias else None
    before = start(given, B, D, width - 1)
    y, final = ops.causal_conv1d_fn(
        x, weight, b, initial_states=before, return_final_states=True, activation=activation, device=device
    )
    padded = torch.cat([zero_or(before, B, D, width - 1), x.double()], -1)
    want = F.conv1d(padded, weight.double()[:, None], None if b is None else b.double(), groups=D)
    close(y, F.silu(want) if activation else want)
    close(final, padded[..., T:])
    assert ops.causal_conv1d_fn(x, weight).shape == x.shape


def leaf(*shape, of=torch.randn):
    return of(*shape).double().requires_grad_()


DIFFERENTIATED = {
    "chunk_rwkv7": (
        lambda r, w, k, v, a, b, S: ops.chunk_rwkv7(r, -w, k, v, a, b, initial_state=S),
        lambda: [leaf(1, 3, 2, 3), leaf(1, 3, 2, 3, of=torch.rand), *(leaf(1, 3, 2, n) for n in (3, 2, 3, 3)), leaf(1, 2, 3, 2)],
    ),
    "chunk_gla": (
        lambda q, k, v, g, S: ops.chunk_gla(q, k, v, -g, initial_state=S, output_final_state=True),
        lambda: [leaf(1, 3, 2, 3), leaf(1, 3, 2, 3), leaf(1, 3, 2, 2), leaf(1, 3, 2, 3, of=torch.rand), leaf(1, 2, 3, 2)],
    ),
    "chunk_gated_delta_rule": (
        lambda q, k, v, g, beta, S: ops.chunk_gated_delta_rule(
            q, k, v, -g, beta, initial_state=S, output_final_state=True, use_qk_l2norm_in_kernel=True
        ),
        lambda: [leaf(1, 3, 1, 3), leaf(1, 3, 1, 3), leaf(1, 3, 2, 2), *(leaf(1, 3, 2, of=torch.rand) for _ in "gb"), leaf(1, 2, 3, 2)],
    ),
    "mamba_chunk_scan_combined": (
        lambda x, dt, A, Bm, C, D, z, bias, S: ops.mamba_chunk_scan_combined(
            x, dt, -A, Bm, C, 64, D, z, bias, S, dt_softplus=True, return_final_states=True
        ),
        lambda: [leaf(1, 3, 2, 2), leaf(1, 3, 2), leaf(2, of=torch.rand), leaf(1, 3, 1, 3), leaf(1, 3, 1, 3), leaf(2), leaf(1, 3, 2, 2), leaf(2), leaf(1, 2, 2, 3)],
    ),
    "selective_scan_fn": (
        lambda u, delta, A, Bm, C, D, z, bias: ops.selective_scan_fn(
            u, delta, -A, Bm, C, D, z, bias, delta_softplus=True, return_last_state=True
        ),
        lambda: [leaf(1, 3, 4), leaf(1, 3, 4), leaf(3, 2, of=torch.rand), leaf(1, 2, 4), leaf(1, 2, 4), leaf(3), leaf(1, 3, 4), leaf(3)],
    ),
    "causal_conv1d_fn": (
        lambda x, weight, bias: ops.causal_conv1d_fn(x, weight, bias, activation="silu"),
        lambda: [leaf(1, 3, 5), leaf(3, 4), leaf(3)],
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_derivatives_pass_gradcheck(name):
    call, tensors = DIFFERENTIATED[name]
    assert torch.autograd.gradcheck(call, tensors())


def test_types_of_the_first_tensor_come_back():
    q, k, v = (torch.randn(B, T, H, K).bfloat16() for _ in range(3))
    g = F.logsigmoid(torch.randn(B, T, H, K))
    o, final = ops.chunk_gla(q, k, v, g, output_final_state=True)
    assert o.dtype == torch.bfloat16 and final.dtype == torch.float32
    want = ops.chunk_gla(q.float(), k.float(), v.float(), g)[0]
    torch.testing.assert_close(o, want.bfloat16())


def test_numpy_does_as_well():
    q, k, v = (torch.randn(B, T, H, K) for _ in range(3))
    g = F.logsigmoid(torch.randn(B, T, H, K))
    o, _ = ops.chunk_gla(q.numpy(), k.numpy(), v.numpy(), g.numpy())
    torch.testing.assert_close(torch.from_numpy(o), ops.chunk_gla(q, k, v, g)[0])
    x, weight = torch.randn(B, 6, T), torch.randn(6, 4)
    y = ops.causal_conv1d_fn(x.numpy(), weight.numpy())
    torch.testing.assert_close(torch.from_numpy(y), ops.causal_conv1d_fn(x, weight))


def test_operators_compile_into_one_graph():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(q, k, v, g):
        o, final = ops.chunk_gla(q * 2, k, v, g, output_final_state=True)
        return o + 1, final

    for time in (5, 8):
        q, k, v = (torch.randn(B, time, H, K) for _ in range(3))
        g = F.logsigmoid(torch.randn(B, time, H, K))
        o, final = f(q, k, v, g)
        want, state = ops.chunk_gla(q * 2, k, v, g, output_final_state=True)
        torch.testing.assert_close(o, want + 1)
        torch.testing.assert_close(final, state)


def test_one_compilation_serves_all_lengths():
    from fusec._model import _of_text

    q = torch.randn(1, 3, 7, 8)
    g = F.logsigmoid(q)
    ops.chunk_gla(q, q, q, g)
    misses = _of_text.cache_info().misses
    for time in (1, 2, 5):
        x = torch.randn(2, time, 7, 8)
        ops.chunk_gla(x, x, x, -x.abs())
    assert _of_text.cache_info().misses == misses


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: ops.chunk_gla(x, x, x, x, cu_seqlens=torch.tensor([0, 3])), "cu_seqlens: packed sequences"),
        (lambda x: ops.chunk_rwkv7(x, x, x, x, x, x, cu_seqlens=torch.tensor([0, 3])), "cu_seqlens"),
        (lambda x: ops.chunk_gated_delta_rule(x, x, x, x[..., 0], x[..., 0], cu_seqlens=torch.tensor([0, 3])), "cu_seqlens"),
        (lambda x: ops.chunk_gla(x, x, x, x, head_first=True), "head_first"),
        (lambda x: ops.mamba_chunk_scan_combined(x, x[..., 0], x[0, 0, :, 0], x, x, 64, seq_idx=x), "seq_idx"),
        (lambda x: ops.selective_scan_fn(x[0], x[0], torch.randn(9, 2, dtype=torch.complex64), x[0], x[0]), "complex"),
        (lambda x: ops.causal_conv1d_fn(x[0], x[0, 0], activation="relu"), "relu"),
    ],
)
def test_what_is_not_done_is_refused_by_name(call, says):
    with pytest.raises(NotImplementedError, match=says):
        call(torch.randn(B, T, H, K))


def test_wrong_shapes_are_named():
    x = torch.randn(B, T, H, K)
    with pytest.raises(ValueError, match="`k` has shape .*axis `K` is 3, not 4"):
        ops.chunk_gla(x, x[..., :3].contiguous(), x, x)
    with pytest.raises(ValueError, match=r"`q` has shape \[2, 9, 3\], expected 4 axes"):
        ops.chunk_gla(x[..., 0], x, x, x)
    with pytest.raises(ValueError, match="`v` has 4 heads, which is no multiple of the 3"):
        v = torch.randn(B, T, 4, V)
        ops.chunk_gated_delta_rule(x, x, v, v[..., 0], v[..., 0])
    assert math.isfinite(ops.chunk_gla(x, x, x, -x.abs())[0].sum())
