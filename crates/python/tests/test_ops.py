"""fusec.ops with numpy, where there is no torch: each operator against its formula in a loop.

test_torch_ops.py has all options of each.
"""

import numpy as np
import pytest

from fusec import ops
from devices import DEVICES

B, T, H, K, V = 2, 7, 2, 4, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def close(got, want):
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.fixture
def draw(rng):
    return lambda *shape: rng.standard_normal(shape, dtype=np.float32)


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def test_chunk_rwkv7(draw, device):
    r, k, a, b = (draw(B, T, H, K) / 2 for _ in range(4))
    w, v, S = -np.abs(draw(B, T, H, K)), draw(B, T, H, V), draw(B, H, K, V)
    o, final = ops.chunk_rwkv7(r, w, k, v, a, b, 0.5, S, device=device)
    want = []
    for t in range(T):
        sa = (S * a[:, t, ..., None]).sum(-2, keepdims=True)
        S = S * np.exp(w[:, t])[..., None] + b[:, t, ..., None] * sa + k[:, t, ..., None] * v[:, t, :, None]
        want.append(0.5 * (S * r[:, t, ..., None]).sum(-2))
    close(o, np.stack(want, 1))
    close(final, S)


def test_chunk_gla(draw, device):
    q, k, v, g = draw(B, T, H, K), draw(B, T, H, K), draw(B, T, H, V), -np.abs(draw(B, T, H, K))
    S = draw(B, H, K, V)
    o, final = ops.chunk_gla(q, k, v, g, initial_state=S, output_final_state=True, device=device)
    want = []
    for t in range(T):
        S = S * np.exp(g[:, t])[..., None] + k[:, t, ..., None] * v[:, t, :, None]
        want.append((S * q[:, t, ..., None]).sum(-2) / 2)
    close(o, np.stack(want, 1))
    close(final, S)


def test_chunk_gated_delta_rule(draw, device):
    q, k, v = draw(B, T, H, K) / 2, draw(B, T, H, K) / 2, draw(B, T, 2 * H, V)
    g, beta, S = -np.abs(draw(B, T, 2 * H)), sigmoid(draw(B, T, 2 * H)), draw(B, 2 * H, K, V)
    o, final = ops.chunk_gated_delta_rule(
        q, k, v, g, beta, initial_state=S, output_final_state=True, device=device
    )
    q, k, want = q.repeat(2, 2), k.repeat(2, 2), []
    for t in range(T):
        S = S * np.exp(g[:, t])[..., None, None]
        error = beta[:, t, :, None] * (v[:, t] - (S * k[:, t, ..., None]).sum(-2))
        S = S + k[:, t, ..., None] * error[:, :, None]
        want.append((S * q[:, t, ..., None]).sum(-2) / 2)
    close(o, np.stack(want, 1))
    close(final, S)


def test_mamba_chunk_scan_combined(draw, device):
    heads, P, N, G = 4, 3, 5, 2
    x, dt, A, z = draw(B, T, heads, P), draw(B, T, heads), -np.abs(draw(heads)), draw(B, T, heads, P)
    Bm, C, D, bias, S = draw(B, T, G, N), draw(B, T, G, N), draw(heads), draw(heads), draw(B, heads, P, N)
    y, final = ops.mamba_chunk_scan_combined(
        x, dt, A, Bm, C, 64, D, z, bias, S, dt_softplus=True, return_final_states=True, device=device
    )
    dt, Bm, C, want = softplus(dt + bias), Bm.repeat(2, 2), C.repeat(2, 2), []
    for t in range(T):
        s = dt[:, t]
        S = S * np.exp(s * A)[..., None, None] + (s[..., None] * x[:, t])[..., None] * Bm[:, t, :, None]
        want.append(((S * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t]) * z[:, t] * sigmoid(z[:, t]))
    close(y, np.stack(want, 1))
    close(final, S)


def test_selective_scan_fn(draw, device):
    D, N = 6, 4
    u, delta, A, z = draw(B, D, T), draw(B, D, T), -np.abs(draw(D, N)), draw(B, D, T)
    Bm, C, skip, bias = draw(B, N, T), draw(B, N, T), draw(D), draw(D)
    y, last = ops.selective_scan_fn(u, delta, A, Bm, C, skip, z, bias, True, True, device=device)
    delta, S, want = softplus(delta + bias[:, None]), np.zeros((B, D, N)), []
    for t in range(T):
        s = delta[:, :, t, None]
        S = S * np.exp(s * A) + s * u[:, :, t, None] * Bm[:, None, :, t]
        y_t = (S * C[:, None, :, t]).sum(-1) + skip * u[:, :, t]
        want.append(y_t * z[:, :, t] * sigmoid(z[:, :, t]))
    close(y, np.stack(want, -1))
    close(last, S)


def test_causal_conv1d_fn(draw, device):
    D, W = 6, 4
    x, weight, bias, before = draw(B, D, T), draw(D, W), draw(D), draw(B, D, W - 1)
    y, final = ops.causal_conv1d_fn(
        x, weight, bias, initial_states=before, return_final_states=True, activation="silu", device=device
    )
    padded = np.concatenate([before, x], -1)
    want = np.stack([(padded[..., t : t + W] * weight).sum(-1) + bias for t in range(T)], -1)
    close(y, want * sigmoid(want))
    close(final, padded[..., T:])


def test_packed_sequences_are_refused_by_name(draw):
    x = draw(B, T, H, K)
    with pytest.raises(NotImplementedError, match="cu_seqlens: packed sequences"):
        ops.chunk_gla(x, x, x, x, cu_seqlens=np.array([0, 3]))
