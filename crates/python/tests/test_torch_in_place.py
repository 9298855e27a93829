"""Tensors taken where they lie. On the emulator, whose memory is the CPU's, a call goes the way of one on a GPU:
the same addresses in the same launches, allocated by torch. What only a GPU has is in test_torch_cuda.py."""

import gc
import threading
import warnings

import pytest
import torch
from devices import GPUS

import fusec
from fusec import _native

STEP = "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"
AXES = dict(H=2, i=16, j=16)
PLACES = ["emulator"] + (GPUS if torch.cuda.is_available() else [])


def where(device):
    return "cuda" if device.startswith("cuda") else "cpu"


def draw(batch, time, device="cpu", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    given = {name: torch.randn(batch, time, 2, 16) for name in "wkvr"}
    given["w"] = torch.sigmoid(given["w"])
    return {name: x.to(device, dtype) for name, x in given.items()}


def loop(w, k, v, r, state=None):
    if state is None:
        state = w.new_zeros(w.shape[0], 2, 16, 16)
    y = []
    for t in range(w.shape[1]):
        state = state * w[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
        y.append((state * r[:, t, :, None, :]).sum(-1))
    return torch.stack(y, 1), state


def exact(given, state=None):
    return loop(**{n: x.double() for n, x in given.items()}, state=None if state is None else state.double())


def near(got, want, bound=1e-5):
    assert ((got.double() - want.double()).norm() / want.double().norm()).item() <= bound


@pytest.fixture(scope="module", params=PLACES)
def op(request):
    made = fusec.recurrence(STEP, axes=AXES, device=request.param)
    made.where = where(request.param)
    return made


@pytest.mark.parametrize("shape", [(1, 1), (3, 65), (2, 17)])
def test_outputs_and_states_are_those_of_the_equation(op, shape):
    given = draw(*shape, op.where)
    before = {n: x.clone() for n, x in given.items()}
    y, state = op(**given, return_state=True)
    want, last = exact(given)
    assert y.device.type == op.where and y.dtype == torch.float32 and state.position == shape[1]
    near(y, want)
    near(state.tensors["step.S"], last)
    assert all(torch.equal(before[n], x) for n, x in given.items())
    assert torch.equal(op(**given), y)


def test_a_run_in_parts_goes_on_from_tensors(op):
    given, now, parts = draw(2, 40, op.where), None, []
    for begin, end in ((0, 1), (1, 20), (20, 21), (21, 40)):
        part = {n: x[:, begin:end].contiguous() for n, x in given.items()}
        y, now = op(**part, state=now, return_state=True)
        parts.append(y)
    near(torch.cat(parts, 1), exact(given)[0])
    kept = now.tensors["step.S"].clone()
    op(**draw(2, 3, op.where), state=now)
    assert torch.equal(kept, now.tensors["step.S"])


@pytest.mark.parametrize("place", PLACES)
def test_states_begin_as_the_text_says_and_rows_are_carried(place):
    highest = fusec.recurrence(
        "m[D] = max(m, x[D]); y[D] = m * 1", axes=dict(D=3), state="m[D] = -inf", device=place
    )
    x = -1 - torch.rand(2, 9, 3, device=where(place))
    assert torch.equal(highest(x), torch.cummax(x, 1).values)
    text = """
name = "shift"
[axes]
D = 5
W = 4
[input]
x = "D"
[param]
weight = { shape = "D, W", precision = "f32" }
[model]
flow = "return silu(conv(x, weight))"
"""
    for dtype, kind, bound in (("f32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 2e-2)):
        model = fusec.compile(text, device=place, dtype=dtype)
        x = torch.randn(3, 12, 5, device=where(place), dtype=kind)
        weight = torch.randn(5, 4, device=where(place))
        wide = torch.nn.functional.pad(x.double().transpose(1, 2), (3, 0))
        want = torch.nn.functional.conv1d(wide, weight.double()[:, None], groups=5)
        want = torch.nn.functional.silu(want.transpose(1, 2))
        now, parts = None, []
        for begin, end in ((0, 1), (1, 3), (3, 9), (9, 10), (10, 12)):
            y, now = model(x[:, begin:end].contiguous(), state=now, params=dict(weight=weight))
            parts.append(y)
        assert y.dtype == kind
        near(torch.cat(parts, 1), want, bound)


#: `exp(gain)` and its product with a matrix follow from parameters alone.
LOADED = """
name = "loaded"
[axes]
H = 2
N = 8
C = "H * N"
[input]
x = "C"
[param]
gain = { shape = "C" }
w_k = { shape = "C, C" }
w_v = { shape = "C, C" }
rate = { shape = "H", init = "uniform(-1, 1)" }
[recurrence.ema]
inputs  = "k[H, N], v[H, N], d[H]"
state   = "S[H, N]"
outputs = "y[H, N]"
step    = '''
  S = d * S + k * v
  y = S
'''
[model]
flow = '''
  x = rms_norm(x, C, eps = 1e-6) * exp(gain)
  return ema(x @ w_k, x @ w_v, f32(exp(-exp(rate))))
'''
"""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_what_follows_from_parameters_is_computed_from_those_of_the_call(place, dtype):
    exactly = fusec.compile(LOADED, device="cpu")
    model = fusec.compile(LOADED, device=place, dtype=dtype)
    assert not model.has_weights
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    for seed in (0, 1):
        params = {n: x + 0.1 * seed for n, x in exactly.initial_params(seed, like=torch.empty(0)).items()}
        x = torch.randn(2, 11, 16)
        want, _ = exactly(x.double(), params={n: p.double() for n, p in params.items()})
        there = {n: p.to(where(place)) for n, p in params.items()}
        y, _ = model(x.to(where(place), kind), params=there)
        near(y.cpu(), want, 5e-2 if dtype == "bf16" else 1e-5)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("began", [False, True])
def test_derivatives_are_those_of_the_interpreter(place, began):
    torch.manual_seed(3)
    exactly, model = (fusec.compile(LOADED, device=device) for device in ("cpu", place))
    first = exactly.initial_params(0, like=torch.empty(0))
    x, start = torch.randn(2, 11, 16), torch.randn(2, 2, 8)
    seeds = torch.randn(2, 11, 16), torch.randn(2, 2, 8)
    results = []
    for made, dtype, device in ((exactly, torch.float64, "cpu"), (model, torch.float32, where(place))):
        move = lambda t: t.to(device, dtype)
        params = {n: move(p).requires_grad_() for n, p in first.items()}
        given, state = move(x).requires_grad_(), move(start).requires_grad_()
        before = fusec.State({made.states[0].name: state}) if began else None
        y, after = made(given, params=params, state=before)
        ((y * move(seeds[0])).sum() + (after.tensors[made.states[0].name] * move(seeds[1])).sum()).backward()
        leaves = {**params, "x": given, **({"state": state} if began else {})}
        results.append({n: leaf.grad for n, leaf in leaves.items()})
    for name, want in results[0].items():
        near(results[1][name].cpu(), want, 1e-4)


def test_gradients_that_are_left_out_are_zeros(op):
    given = {n: x.requires_grad_() for n, x in draw(2, 5, op.where).items()}
    _, state = op(**given, return_state=True)
    state.tensors["step.S"].sum().backward()
    wide = {n: x.detach().double().requires_grad_() for n, x in given.items()}
    loop(**wide)[1].sum().backward()
    assert not given["r"].grad.any() and wide["r"].grad is None
    for name in "wkv":
        near(given[name].grad, wide[name].grad, 1e-4)


def test_a_compiled_call_is_the_same(op):
    given = draw(2, 9, op.where)
    whole = torch.compile(lambda **named: op(**named, return_state=True), fullgraph=True, backend="aot_eager")
    y, state = op(**given, return_state=True)
    with torch.no_grad():
        z, other = whole(**given)
    assert torch.equal(y, z) and torch.equal(state.tensors["step.S"], other.tensors["step.S"])


@pytest.mark.parametrize("place", PLACES)
def test_an_operator_of_torch_in_every_respect(place):
    text = LOADED.replace("loaded", "opchecked")
    model = fusec.compile(text, device=place)
    params = model.initial_params(0, like=torch.empty(0))
    params = [params[port.name].to(where(place)).requires_grad_() for port in model.params]
    x = torch.randn(2, 3, 16, device=where(place), requires_grad=True)
    given = (model._key, [x], params, "", [torch.randn(2, 2, 8, device=where(place))], 4)
    torch.library.opcheck(torch.ops.fusec.call.default, given, test_utils=("test_schema", "test_faketensor"))


def test_strided_and_odd_tensors_are_copied_with_a_warning(op):
    given = draw(2, 12, op.where)
    want = op(**given)
    wide = torch.randn(2, 12, 2, 32, device=op.where)
    wide[..., ::2] = given["k"]
    odd = torch.empty(given["v"].numel() + 1, device=op.where)[1:].view_as(given["v"])
    odd.copy_(given["v"])
    for name, tensor in (("k", wide[..., ::2]), ("v", odd)):
        with pytest.warns(fusec.CopyWarning, match=f"`{name}`"):
            assert torch.equal(op(**{**given, name: tensor}), want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(op(**{n: x.flatten(2) for n, x in given.items()}).view_as(want), want)
        near(op(**{**given, "k": given["k"].bfloat16()}), want, 1e-2)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda g: g.update(k=g["k"][..., :15].contiguous()), "`k` has shape .*axis `j` is 15, not 16"),
        (lambda g: g.update(v=g["v"][:, :7].contiguous()), "`v` has T=7"),
        (lambda g: g.update(r=g["r"].double()), "`r` is float64"),
        (lambda g: g.update(r=g["r"].long()), "`r` is int64"),
        (lambda g: g.update(w=g["w"].to("meta")), "`w`"),
        (lambda g: g.update(w=g["w"][:0]), "`w`"),
    ],
)
def test_mistakes_name_tensor_and_axis(op, change, words):
    given = draw(2, 8, op.where)
    change(given)
    with pytest.raises((ValueError, NotImplementedError, BufferError), match=words):
        op(**given)


def test_a_state_of_another_batch_is_refused(op):
    _, state = op(**draw(3, 2, op.where), return_state=True)
    with pytest.raises(ValueError, match="step.S.*B=3"):
        op(**draw(2, 2, op.where), state=state)
    with pytest.raises(ValueError, match="no state `T`"):
        op(**draw(2, 2, op.where), state=fusec.State({"T": 1}))


def test_a_callers_allocator_and_a_library_without_one(op):
    given = [draw(2, 6, op.where)[name] for name in op._names]
    asked = []

    def empty(shape, strides, dtype):
        asked.append((tuple(shape), tuple(strides), dtype))
        return torch.empty_strided(shape, strides, dtype=dtype, device=op.where)

    def by(function):
        types = {"float32": torch.float32, "uint8": torch.uint8}
        return function, {name: {"dtype": dtype} for name, dtype in types.items()}

    stream = 0 if op.where == "cpu" else torch.cuda.current_stream().cuda_stream
    call = _native.call_on_device
    outputs, states = call(op._program, given, [], [], 0, True, stream, by(empty))
    # What a run needs beside these is little: runs of a stream have it in turn.
    assert asked == [
        ((2, 6, 2, 16), (192, 32, 16, 1), torch.float32),
        ((2, 2, 16, 16), (512, 256, 16, 1), torch.float32),
    ]
    alone, _ = call(op._program, given, [], [], 0, False)
    assert isinstance(alone[0], fusec.Tensor)
    back = torch.from_dlpack(alone[0])
    del alone
    gc.collect()
    assert torch.equal(back, outputs[0]) and back.device.type == op.where
    assert len(states) == 1

    # What is much is allocated for each call.
    asked.clear()
    many = draw(200, 2, op.where)
    outputs, _ = call(op._program, [many[name] for name in op._names], [], [], 0, False, stream, by(empty))
    assert [dtype for *_, dtype in asked] == [torch.float32, torch.uint8]
    near(outputs[0], exact(many)[0])

    def broken(shape, strides, dtype):
        raise MemoryError("nothing is left")

    with pytest.raises(MemoryError, match="nothing is left"):
        call(op._program, given, [], [], 0, True, stream, by(broken))
    strided = lambda shape, strides, dtype: torch.empty((*shape, 2), device=op.where)[..., 0]
    with pytest.raises(RuntimeError, match="row-major"):
        call(op._program, given, [], [], 0, True, stream, by(strided))
    with pytest.raises(RuntimeError, match="nothing allocates float32"):
        call(op._program, given, [], [], 0, True, stream, (empty, {}))


def test_a_tensor_that_is_like_an_earlier_one_is_looked_at_all_the_same(op):
    given = draw(2, 12, op.where)
    want, _ = exact(given)
    near(op(**given), want)
    # The same shapes and types, but columns, at an odd address, or somewhere else.
    columns = given["k"].transpose(2, 3).contiguous().transpose(2, 3)
    moved = torch.empty(given["v"].numel() + 1, device=op.where)[1:].view_as(given["v"]).copy_(given["v"])
    for change in (dict(k=columns), dict(v=moved)):
        with pytest.warns(fusec.CopyWarning):
            near(op(**{**given, **change}), want)
    with pytest.raises((ValueError, NotImplementedError, BufferError)):
        op(**{**given, "w": given["w"].to("meta")})
    near(op(**given), want)


def test_threads_do_not_disturb_each_other(op):
    given = [draw(2, 20, op.where, seed=seed) for seed in range(3)]
    want, wrong = [op(**g) for g in given], []

    def work(which):
        for _ in range(5):
            if not torch.equal(op(**given[which]), want[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_outlive_the_model(op):
    made = fusec.recurrence(STEP, axes=AXES, device="emulator" if op.where == "cpu" else GPUS[0])
    given = draw(2, 20, op.where)
    y = made(**given)
    del made
    gc.collect()
    near(y, exact(given)[0])
