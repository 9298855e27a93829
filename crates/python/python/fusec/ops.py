"""Ready operators, with the arguments and layouts of fla and mamba-ssm.

Each is a few lines of the model language, compiled when it is first called for some sizes; B and T may
change without another compilation. Tensors may come from torch or numpy. ``device`` is where it runs: by
default where the first tensor lies; ``"emulator"`` runs the generated kernels on the CPU.

What fusec cannot do is refused by name (``NotImplementedError``): packed sequences (``cu_seqlens``,
``seq_idx``) and head-first layouts. There are gradients, on device ``cpu`` with float64 tensors in float64;
none by and through the rows that ``causal_conv1d_fn`` carries. On a GPU, kernels store activations as halves
where all inputs are bfloat16 or float16, and else as float32, which inputs of other types are converted to.
"""

from __future__ import annotations

import math
from typing import Any

from ._arrays import is_torch, returner
from ._model import model_of

__all__ = [
    "causal_conv1d_fn",
    "chunk_gated_delta_rule",
    "chunk_gla",
    "chunk_rwkv7",
    "mamba_chunk_scan_combined",
    "selective_scan_fn",
]


def chunk_rwkv7(
    r: Any,
    w: Any,
    k: Any,
    v: Any,
    a: Any,
    b: Any,
    scale: float = 1.0,
    initial_state: Any = None,
    output_final_state: bool = True,
    cu_seqlens: Any = None,
    head_first: bool = False,
    *,
    device: str | None = None,
) -> tuple[Any, Any]:
    """The recurrence of RWKV-7: ``S = diag(exp(w)) S + b (a' S) + k v'``, ``o = scale * r' S``.

    As ``fla.ops.rwkv7.chunk_rwkv7``: r, w (logarithm of the decay), k, a, b ``[B, T, H, K]``; v
    ``[B, T, H, V]``; initial_state ``[B, H, K, V]``, float32.

    Returns ``(o, final_state)``: o ``[B, T, H, V]`` in the type of r; final_state ``[B, H, K, V]`` in
    float32, or None without ``output_final_state``.
    """
    _refuse(cu_seqlens=cu_seqlens, head_first=head_first)
    heads, key, value = *_sizes("r", r, 4)[2:], _sizes("v", v, 4)[3]
    text = f"""
name = "chunk_rwkv7"
[axes]
H = {heads}
K = {key}
V = {value}
[input]
r = "H, K"
w = "H, K"
k = "H, K"
v = "H, V"
a = "H, K"
b = "H, K"
[recurrence.rwkv7]
inputs  = "r[H, K], w[H, K], k[H, K], v[H, V], a[H, K], b[H, K]"
state   = "S[H, K, V]"
outputs = "o[H, V]"
step    = '''
  sa = sum(S * a, K)
  S  = S * w + b * sa + k * v
  o  = sum(S * r, K)
'''
[model]
flow = "return rwkv7(r, f32(exp(w)), k, v, a, b) * {_number(scale)}"
"""
    o, final = _run(text, device, [r, w, k, v, a, b], [], initial_state)
    return o, final if output_final_state else None


def chunk_gla(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    cu_seqlens: Any = None,
    head_first: bool = False,
    *,
    device: str | None = None,
) -> tuple[Any, Any]:
    """Gated linear attention: ``S = diag(exp(g)) S + k v'``, ``o = scale * q' S``.

    As ``fla.ops.gla.chunk_gla``: q, k, g (logarithm of the decay) ``[B, T, H, K]``; v ``[B, T, H, V]``;
    initial_state ``[B, H, K, V]``, float32. ``scale`` is ``K ** -0.5`` by default.

    Returns ``(o, final_state)``: o ``[B, T, H, V]`` in the type of q; final_state ``[B, H, K, V]`` in
    float32, or None without ``output_final_state``.
    """
    _refuse(cu_seqlens=cu_seqlens, head_first=head_first)
    heads, key, value = *_sizes("q", q, 4)[2:], _sizes("v", v, 4)[3]
    scale = key**-0.5 if scale is None else scale
    text = f"""
name = "chunk_gla"
[axes]
H = {heads}
K = {key}
V = {value}
[input]
q = "H, K"
k = "H, K"
v = "H, V"
g = "H, K"
[recurrence.gla]
inputs  = "q[H, K], k[H, K], v[H, V], d[H, K]"
state   = "S[H, K, V]"
outputs = "o[H, V]"
step    = '''
  S = d * S + k * v
  o = sum(q * S, K)
'''
[model]
flow = "return gla(q * {_number(scale)}, k, v, f32(exp(g)))"
"""
    o, final = _run(text, device, [q, k, v, g], [], initial_state)
    return o, final if output_final_state else None


def chunk_gated_delta_rule(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Any = None,
    head_first: bool = False,
    *,
    device: str | None = None,
) -> tuple[Any, Any]:
    """The gated delta rule: ``S = exp(g) S``, ``S = S + k (beta (v - k' S))'``, ``o = scale * q' S``.

    As ``fla.ops.gated_delta_rule.chunk_gated_delta_rule``: q, k ``[B, T, H, K]``; v ``[B, T, HV, V]``; g
    (logarithm of the decay) and beta ``[B, T, HV]``, where HV is a multiple of H and value head i reads key
    head ``i // (HV / H)``; initial_state ``[B, HV, K, V]``, float32. ``scale`` is ``K ** -0.5`` by default.
    ``use_qk_l2norm_in_kernel`` divides q and k by ``sqrt(sum of squares + 1e-6)``.

    Returns ``(o, final_state)``: o ``[B, T, HV, V]`` in the type of q; final_state ``[B, HV, K, V]`` in
    float32, or None without ``output_final_state``.
    """
    _refuse(cu_seqlens=cu_seqlens, head_first=head_first)
    heads, key = _sizes("q", q, 4)[2:]
    value_heads, value = _sizes("v", v, 4)[2:]
    if value_heads % heads:
        raise ValueError(f"`v` has {value_heads} heads, which is no multiple of the {heads} of `q`")
    scale = key**-0.5 if scale is None else scale
    norm = "l2_norm({}, K, eps = 1e-6)" if use_qk_l2norm_in_kernel else "{}"
    text = f"""
name = "chunk_gated_delta_rule"
[axes]
H = {heads}
G = {value_heads // heads}
HV = "H * G"
K = {key}
V = {value}
[input]
q = "H, K"
k = "H, K"
v = "HV, V"
g = "HV"
beta = "HV"
[recurrence.gated_delta]
inputs  = "q[H, K], k[H, K], v[HV, V], beta[HV], d[HV]"
state   = "S[HV, K, V]"
outputs = "o[HV, V]"
step    = '''
  S = d * S
  S = S + k * (beta * (v - sum(S * k, K)))
  o = sum(q * S, K)
'''
[model]
flow = "return gated_delta({norm.format("q")} * {_number(scale)}, {norm.format("k")}, v, beta, f32(exp(g)))"
"""
    o, final = _run(text, device, [q, k, v, g, beta], [], initial_state)
    return o, final if output_final_state else None


def mamba_chunk_scan_combined(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    chunk_size: int | None = None,
    D: Any = None,
    z: Any = None,
    dt_bias: Any = None,
    initial_states: Any = None,
    seq_idx: Any = None,
    cu_seqlens: Any = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    *,
    device: str | None = None,
) -> Any:
    """The scan of Mamba-2: ``S = exp(dt A) S + dt x B'``, ``y = C S + D x``, times ``silu(z)``.

    As ``mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined``: x ``[B, T, H, P]``; dt
    ``[B, T, H]``; A ``[H]``; B, C ``[B, T, G, N]`` with H a multiple of G; D ``[H]`` or ``[H, P]``; z
    ``[B, T, H, P]``; dt_bias ``[H]``; initial_states ``[B, H, P, N]``, float32. dt is biased, then passes
    softplus if ``dt_softplus``, then is clamped to ``dt_limit``. ``chunk_size`` is fusec's own choice.

    Returns y ``[B, T, H, P]`` in the type of x; with ``return_final_states`` ``(y, states)``, these
    ``[B, H, P, N]`` in float32.
    """
    del chunk_size
    _refuse(seq_idx=seq_idx, cu_seqlens=cu_seqlens, return_varlen_states=return_varlen_states)
    heads, channels = _sizes("x", x, 4)[2:]
    groups, size = _sizes("B", B, 4)[2:]
    if heads % groups:
        raise ValueError(f"`x` has {heads} heads, which is no multiple of the {groups} groups of `B`")
    # Heads are numbered group by group.
    per = heads // groups
    inputs, params = [x, dt, B, C], [A]
    declared, constants, step_size = "", "", "dt"
    if dt_bias is not None:
        constants += 'dt_bias = { shape = "H", precision = "f32" }\n'
        params.append(dt_bias)
        step_size = "(dt + dt_bias)"
    if dt_softplus:
        step_size = f"softplus({step_size})"
    if tuple(dt_limit) != (0.0, math.inf) or not dt_softplus:
        step_size = f"clamp({step_size}, {_number(dt_limit[0])}, {_number(dt_limit[1])})"
    y = "ssd(x, s, B, C, f32(exp(s * A)))"
    if D is not None:
        constants += f'D = {{ shape = "{"H" if len(D.shape) == 1 else "H, P"}", precision = "f32" }}\n'
        params.append(D)
        y = f"{y} + D * x"
    if z is not None:
        declared = 'z = "H, P"\n'
        inputs.append(z)
        y = f"({y}) * silu(z)"
    text = f"""
name = "mamba_chunk_scan_combined"
[axes]
G = {groups}
Hg = {per}
H = "G * Hg"
P = {channels}
N = {size}
[input]
x = "H, P"
dt = "H"
B = "G, N"
C = "G, N"
{declared}[param]
A = {{ shape = "H", precision = "f32" }}
{constants}[recurrence.ssd]
inputs  = "x[H, P], s[H], B[G, N], C[G, N], d[H]"
state   = "S[H, P, N]"
outputs = "y[H, P]"
step    = '''
  S = d * S + s * x * B
  y = sum(S * C, N)
'''
[model]
flow = '''
  s = f32({step_size})
  return {y}
'''
"""
    names = ["A"] + ["dt_bias"] * (dt_bias is not None) + ["D"] * (D is not None)
    y, final = _run(text, device, inputs, list(zip(names, params)), initial_states)
    return (y, final) if return_final_states else y


def selective_scan_fn(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    device: str | None = None,
) -> Any:
    """The scan of Mamba-1: ``x = exp(delta A) x + delta B u``, ``y = C x + D u``, times ``silu(z)``.

    As ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``, time last: u, delta, z ``[B, D, T]``; A
    ``[D, N]``, real; B, C ``[B, N, T]``, or ``[B, G, N, T]`` with D a multiple of G, or constant
    ``[D, N]``; D, delta_bias ``[D]``. Tensors are brought to time before channels, which copies them.

    Returns y ``[B, D, T]`` in the type of u; with ``return_last_state`` ``(y, state)``, this
    ``[B, D, N]`` in float32.
    """
    channels = _sizes("u", u, 3)[1]
    size = _sizes("A", A, 2)[1]
    if "complex" in str(A.dtype):
        raise NotImplementedError("fusec: `A` is complex; selective_scan_fn takes a real one")
    groups = {len(X.shape): X for X in (B, C)}.get(4)
    groups = 1 if groups is None else groups.shape[1]
    if channels % groups:
        raise ValueError(f"`u` has {channels} channels, which is no multiple of {groups} groups")
    inputs, names, params, declared, constants = [u, delta], ["A"], [A], "", ""
    formals = {}
    for name, X in (("B", B), ("C", C)):
        if len(X.shape) == 2:
            constants += f'{name} = {{ shape = "D, N", precision = "f32" }}\n'
            names.append(name)
            params.append(X)
            formals[name] = f"{name}[D, N]"
        else:
            grouped = len(X.shape) == 4
            declared += f'{name} = "{"G, N" if grouped else "N"}"\n'
            inputs.append(X)
            formals[name] = f"{name}[{'G, N' if grouped else 'N'}]"
    step_size = "delta"
    if delta_bias is not None:
        constants += 'delta_bias = { shape = "D", precision = "f32" }\n'
        names.append("delta_bias")
        params.append(delta_bias)
        step_size = "delta + delta_bias"
    if delta_softplus:
        step_size = f"softplus({step_size})"
    y = "selective_scan(u, s, A, B, C)"
    if D is not None:
        constants += 'skip = { shape = "D", precision = "f32" }\n'
        names.append("skip")
        params.append(D)
        y = f"{y} + skip * u"
    if z is not None:
        declared += 'z = "D"\n'
        inputs.append(z)
        y = f"({y}) * silu(z)"
    text = f"""
name = "selective_scan_fn"
[axes]
G = {groups}
Dg = {channels // groups}
D = "G * Dg"
N = {size}
[input]
u = "D"
delta = "D"
{declared}[param]
A = {{ shape = "D, N", precision = "f32" }}
{constants}[recurrence.selective_scan]
inputs  = "u[D], s[D], A[D, N], {formals["B"]}, {formals["C"]}"
state   = "x[D, N]"
outputs = "y[D]"
step    = '''
  x = exp(s * A) * x + s * B * u
  y = sum(x * C, N)
'''
[model]
flow = '''
  s = f32({step_size})
  return {y}
'''
"""
    inputs = [_time_second(tensor) for tensor in inputs]
    y, final = _run(text, device, inputs, list(zip(names, params)), None)
    y = y.swapaxes(1, 2)
    return (y, final) if return_last_state else y


def causal_conv1d_fn(
    x: Any,
    weight: Any,
    bias: Any = None,
    seq_idx: Any = None,
    initial_states: Any = None,
    return_final_states: bool = False,
    final_states_out: Any = None,
    activation: str | None = None,
    *,
    device: str | None = None,
) -> Any:
    """A causal convolution per channel, of a few taps.

    As ``causal_conv1d.causal_conv1d_fn``, time last: x ``[B, D, T]``; weight ``[D, W]``, whose last tap
    meets the current token; bias ``[D]``; initial_states ``[B, D, W - 1]``, what precedes the first token;
    activation None, ``"silu"`` or ``"swish"``. Tensors are brought to time before channels, which copies
    them.

    Returns y ``[B, D, T]`` in the type of x; with ``return_final_states`` ``(y, states)``, these
    ``[B, D, W - 1]`` in the type of x.
    """
    _refuse(seq_idx=seq_idx, final_states_out=final_states_out)
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(f"fusec: activation {activation!r}: there are None, silu and swish")
    channels = _sizes("x", x, 3)[1]
    width = _sizes("weight", weight, 2)[1]
    names, params, constants, y = ["weight"], [weight], "", "conv(x, weight)"
    if bias is not None:
        constants = 'bias = { shape = "D", precision = "f32" }\n'
        names.append("bias")
        params.append(bias)
        y = f"{y} + bias"
    if activation is not None:
        y = f"silu({y})"
    text = f"""
name = "causal_conv1d_fn"
[axes]
D = {channels}
W = {width}
[input]
x = "D"
[param]
weight = {{ shape = "D, W", precision = "f32" }}
{constants}[model]
flow = "return {y}"
"""
    before = None if initial_states is None else _time_second(initial_states)
    y, final = _run(text, device, [_time_second(x)], list(zip(names, params)), before)
    y = y.swapaxes(1, 2)
    if not return_final_states:
        return y
    return y, _cast(final.swapaxes(1, 2), x)


def _refuse(**arguments: Any) -> None:
    """Arguments that mean something that cannot be done here."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise NotImplementedError(
                f"fusec.ops does not take {name}: "
                + {
                    "cu_seqlens": "packed sequences; give each sequence as a row of a batch",
                    "seq_idx": "packed sequences; give each sequence as a row of a batch",
                    "return_varlen_states": "packed sequences; give each sequence as a row of a batch",
                    "head_first": "give tensors as [B, T, H, ...]",
                    "final_states_out": "the states are returned",
                }[name]
            )


def _sizes(name: str, tensor: Any, axes: int) -> tuple[int, ...]:
    if len(tensor.shape) != axes:
        raise ValueError(f"`{name}` has shape {list(tensor.shape)}, expected {axes} axes")
    return tuple(tensor.shape)


def _number(value: float) -> str:
    """As the model language reads it."""
    return repr(float(value))


def _run(text: str, device: str | None, inputs: list, params: list, before: Any) -> tuple[Any, Any]:
    """One output, in the type of the first input, and one state, float32 (None where there is none)."""
    first = inputs[0]
    if device is None:
        place = str(getattr(first, "device", "cpu"))
        device = "cuda:0" if place == "cuda" else place
    # Kernels store as halves where all inputs are: what is float32 keeps its precision.
    types = {str(tensor.dtype).rpartition(".")[2] for tensor in inputs}
    dtype = _HALVES.get(types.pop(), "f32") if len(types) == 1 and device != "cpu" else "f32"
    key = f"{device}\n{dtype}\n{text}"
    names = ",".join(name for name, _ in params)
    params = [tensor for _, tensor in params]
    states = None if before is None else [before]
    if is_torch(first):
        from . import torch as _torch

        results = _torch._ready(key, inputs, params, names, states)
    else:
        outputs, carried, _ = model_of(key)._native(inputs, params, states, 0, names)
        back = returner(inputs)
        results = [back(tensor) for tensor in (*outputs, *carried)]
    return _cast(results[0], first), results[1] if len(results) > 1 else None


_HALVES = {"bfloat16": "bf16", "float16": "f16"}


def _cast(tensor: Any, like: Any) -> Any:
    if tensor.dtype == like.dtype:
        return tensor
    return tensor.to(like.dtype) if is_torch(tensor) else tensor.astype(like.dtype)


def _time_second(tensor: Any) -> Any:
    """``[B, ..., T]`` as ``[B, T, ...]``, row-major."""
    order = (0, len(tensor.shape) - 1, *range(1, len(tensor.shape) - 1))
    if is_torch(tensor):
        return tensor.permute(order).contiguous()
    return tensor.transpose(order).copy()
