"""Calling models and recurrences with numpy."""

import copy
import ctypes
import gc
import html
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

import fusec
from devices import DEVICES

STEP = "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"
AXES = dict(H=2, i=5, j=3)

MIXER = """
name = "mixer"

[axes]
H = 2
N = 4
C = "H * N"

[input]
x = "C"

[param]
w_k = { shape = "C, C" }
w_v = { shape = "C, C" }
decay = { shape = "H", init = "uniform(-3, -1)", precision = "f32" }

[recurrence.retain]
inputs  = "k[H, j], v[H, i], d[H]"
state   = "S[H, i = N, j = N]"
outputs = "y[H, i]"
step    = '''
  S = d * S + k * v
  y = sum(S * k, j)
'''

[model]
flow = '''
  y = retain((x + shift(x)) @ w_k, x @ w_v, f32(exp(-exp(decay))))
  return y
'''
"""


def inputs(rng, batch=2, time=7):
    shape = dict(r=("H", "j"), w=("H", "j"), k=("H", "j"), v=("H", "i"))
    given = {
        name: rng.standard_normal((batch, time, *(AXES[a] for a in axes)), dtype=np.float32)
        for name, axes in shape.items()
    }
    given["w"] = 1 / (1 + np.exp(-given["w"]))
    return given


def reference(r, w, k, v, state=None):
    batch, time = r.shape[:2]
    S = np.zeros((batch, AXES["H"], AXES["i"], AXES["j"])) if state is None else state.astype(float)
    y = []
    for t in range(time):
        S = S * w[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
        y.append((S * r[:, t, :, None, :]).sum(-1))
    return np.stack(y, 1), S


@pytest.fixture(scope="module", params=DEVICES)
def op(request):
    return fusec.recurrence(STEP, axes=AXES, device=request.param)


def test_a_recurrence_is_its_equation(op, rng):
    given = inputs(rng)
    want, state = reference(**given)
    y, carried = op(**given, return_state=True)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(carried.tensors["step.S"], state, rtol=2e-5, atol=2e-5)
    assert carried.position == 7
    # By position: in the order in which the step reads them.
    assert [port.name for port in op.inputs] == ["w", "k", "v", "r"]
    np.testing.assert_array_equal(op(given["w"], given["k"], given["v"], given["r"]), y)


def test_a_run_goes_on_where_another_ended(op, rng):
    given = inputs(rng, time=9)
    whole = op(**given)
    state, parts = None, []
    for start, end in ((0, 1), (1, 5), (5, 6), (6, 9)):
        part = {name: np.ascontiguousarray(x[:, start:end]) for name, x in given.items()}
        y, state = op(**part, state=state, return_state=True)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=2e-5, atol=2e-5)
    assert state.position == 9


def test_declarations_may_stand_beside_the_step(rng):
    beside = fusec.recurrence(
        "S = S * w + k * v; y = sum(S * r, j)",
        axes=AXES,
        inputs="w[H, j], k[H, j], v[H, i], r[H, j]",
        state="S[H, i, j] = 2",
        outputs="y[H, i]",
        device="cpu",
    )
    given = inputs(rng)
    start = np.full((2, AXES["H"], AXES["i"], AXES["j"]), 2.0)
    np.testing.assert_allclose(beside(**given), reference(**given, state=start)[0], rtol=2e-5, atol=2e-5)


def test_constants_have_no_batch_and_time(rng):
    op = fusec.recurrence(
        "h[D] = a[D] * h + x[D]; y[D] = h", axes=dict(D=3), constants="a", device="cpu"
    )
    x, a = rng.standard_normal((1, 4, 3), dtype=np.float32), np.float32([0.5, 0.0, 1.0])
    h, want = np.zeros(3), []
    for t in range(4):
        h = a * h + x[0, t]
        want.append(h)
    np.testing.assert_allclose(op(x=x, a=a)[0], want, rtol=1e-6)
    np.testing.assert_allclose(op(x=x, a=2 * a)[0, 0], x[0, 0], rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_takes_its_parameters_in_a_call_or_has_them(rng, device):
    model = fusec.compile(MIXER, device=device)
    x = rng.standard_normal((2, 6, 8), dtype=np.float32)
    params = model.initial_params(3, like=x)
    assert {name: p.shape for name, p in params.items()} == {
        "w_k": (8, 8),
        "w_v": (8, 8),
        "decay": (2,),
    }
    y, state = model(x, params=params)
    # What enters as one dimension leaves as one.
    assert y.shape == (2, 6, 8) and state.tensors["retain.S"].shape == (2, 2, 4, 4)
    bound = fusec.compile(MIXER, device=device, weights="initial:3")
    np.testing.assert_allclose(bound(x)[0], y, rtol=1e-6, atol=1e-6)
    # Heads may be split on the way in.
    np.testing.assert_array_equal(bound(x.reshape(2, 6, 2, 4))[0], bound(x)[0])
    # Other parameters, other result; and the first ones again.
    other = dict(params, w_v=2 * params["w_v"])
    np.testing.assert_allclose(model(x, params=other)[0], 2 * y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x, params=params)[0], y)


@pytest.mark.parametrize("device", DEVICES[1:])
def test_devices_agree_on_a_model(rng, device):
    x = rng.standard_normal((2, 33, 8), dtype=np.float32)
    cpu = fusec.compile(MIXER, device="cpu", weights="random:1")
    kernels = fusec.compile(MIXER, device=device, weights="random:1")
    (a, at), (b, bt) = cpu(x), kernels(x)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # A state of one goes on in the other.
    a, b = cpu(x[:, :1].copy(), state=bt)[0], kernels(x[:, :1].copy(), state=at)[0]
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_file_and_a_checkpoint(root, rng):
    ema = fusec.compile(root / "docs/examples/ema.toml", device="cpu", weights="random:0")
    assert ema(rng.standard_normal((1, 5, 32), dtype=np.float32))[0].shape == (1, 5, 32)
    gla = fusec.compile(root / "tests/golden/gla-fla", device="cpu")
    assert gla.has_weights and gla.inputs[0].ids
    ids = rng.integers(0, 50, (2, 9))
    logits, state = gla(ids)
    assert logits.dtype == np.float32 and logits.shape[:2] == (2, 9)
    np.testing.assert_array_equal(gla(ids.astype(np.int32))[0], logits)
    first, state = gla(ids[:, :4].copy())
    rest, state = gla(ids[:, 4:].copy(), state=state)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), logits, rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_as_it_went_in(rng):
    given = {name: x.astype(np.float16) for name, x in inputs(rng).items()}
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    y = op(**given)
    assert y.dtype == np.float16
    want = op(**{name: x.astype(np.float32) for name, x in given.items()})
    np.testing.assert_array_equal(y, want.astype(np.float16))
    stored = fusec.recurrence(STEP, axes=AXES, device="emulator", dtype="f16")
    np.testing.assert_allclose(stored(**given), want, rtol=5e-3, atol=5e-3)


def test_float64_is_computed_in_float64_on_the_cpu(rng):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = {name: x.astype(np.float64) for name, x in inputs(rng).items()}
    start = rng.standard_normal((2, AXES["H"], AXES["i"], AXES["j"]))
    state = fusec.State({"step.S": start}, 3)
    y, carried = op(**given, state=state, return_state=True)
    want, S = reference(**given, state=start)
    assert y.dtype == carried.tensors["step.S"].dtype == np.float64 and carried.position == 10
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(carried.tensors["step.S"], S, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="`k` is float32, expected float64, as the first tensor"):
        op(**dict(given, k=given["k"].astype(np.float32)))
    kernels = fusec.recurrence(STEP, axes=AXES, device="emulator")
    with pytest.raises(ValueError, match="`w` is float64, expected float32"):
        kernels(**given)
    # Weights of a file are float32.
    with pytest.raises(ValueError, match="`mixer` was compiled with weights"):
        fusec.compile(MIXER, device="cpu", weights="random:0")(np.zeros((1, 2, 8)))


def test_derivatives_are_those_of_finite_differences(rng):
    model = fusec.compile(MIXER, device="cpu")
    x = rng.standard_normal((2, 5, 8))
    params = [rng.standard_normal(port.extents) for port in model.params]
    states = [
        rng.standard_normal([2 if n is None else n for n in port.leading] + list(port.extents))
        for port in model.states
    ]
    carries = [len(port.leading) == 1 for port in model.states]
    assert sorted(carries) == [False, True], model.states

    def results():
        outputs, after, _, _ = model._program.call([x], params, states, 3)
        return [np.from_dlpack(t) for t in (*outputs, *after)]

    weights = [rng.standard_normal(t.shape) for t in results()]
    # Carried rows are constants, on both sides.
    for at, is_one in enumerate(carries):
        if not is_one:
            weights[1 + at] = None
    value = lambda: sum((w * t).sum() for w, t in zip(weights, results()) if w is not None)
    found = model._backward([x], params, states, 3, "", weights)
    moved = [x, *params, *states]
    assert len(found) == len(moved)
    for tensor, by in zip(moved, found):
        if by is None:
            assert tensor is states[carries.index(False)]
            continue
        by = np.from_dlpack(by)
        assert by.shape == tensor.shape and by.dtype == np.float64
        direction = rng.standard_normal(tensor.shape)
        start, h = tensor.copy(), 1e-6
        tensor[...] = start + h * direction
        above = value()
        tensor[...] = start - h * direction
        below = value()
        tensor[...] = start
        np.testing.assert_allclose((by * direction).sum(), (above - below) / (2 * h), rtol=1e-6)
    # In float32 they are the same, rounded.
    single = lambda tensors: [None if t is None else t.astype(np.float32) for t in tensors]
    rounded = model._backward(single([x])[0:1], single(params), single(states), 3, "", single(weights))
    for by, exact in zip(rounded, found):
        if by is not None:
            np.testing.assert_allclose(np.from_dlpack(by), np.from_dlpack(exact), rtol=2e-3, atol=2e-3)


def test_a_backward_that_is_not_there_is_refused_by_name(rng):
    x, y = (rng.standard_normal((1, 3, 8), dtype=np.float32) for _ in range(2))
    model = fusec.compile(MIXER, device="cpu")
    params = list(model.initial_params(like=x).values())
    tail = next(port for port in model.states if len(port.leading) == 2)
    after = [np.zeros((1, 1, *tail.extents), np.float32) if port == tail else None for port in model.states]
    weights = fusec.compile(MIXER, device="cpu", weights="random:0")
    for of, given, gradients, error, says in (
        (model, params, [y, *after], NotImplementedError, f"`{tail.name}` are rows carried to the next run"),
        (weights, [], [y, None, None], ValueError, "compiled with weights, which are float32 and fixed"),
        (model, params, [y[:, :2].copy(), None, None], ValueError, "`gradient of y` has T=2, but `y` has T=3"),
        (model, params, [y[..., :4].copy(), None, None], ValueError, "`gradient of y` has shape"),
    ):
        with pytest.raises(error, match=says):
            of._backward([x], given, None, 0, "", gradients)


def test_strided_tensors_are_copied_with_a_warning(rng):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    y = op(**given)
    strided = dict(given, v=np.asfortranarray(given["v"]))
    with pytest.warns(fusec.CopyWarning, match="`v` of recurrence did not lie row-major"):
        np.testing.assert_array_equal(op(**strided), y)
    reversed_twice = dict(given, k=given["k"][:, ::-1].copy()[:, ::-1])
    with pytest.warns(fusec.CopyWarning, match="`k`"):
        np.testing.assert_array_equal(op(**reversed_twice), y)


def test_results_are_shared_and_outlive_their_model(rng):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    outputs, states, _, _ = op._program.call([given[n] for n in "wkvr"], [], None, 0)
    first, second = np.from_dlpack(outputs[0]), np.from_dlpack(outputs[0])
    first[0, 0, 0, 0] = 17
    assert second[0, 0, 0, 0] == 17
    own = np.from_dlpack(outputs[0], copy=True)
    own[...] = 0
    assert second[0, 0, 0, 0] == 17
    with pytest.raises(BufferError, match=r"lies on the CPU, device \(2, 0\)"):
        outputs[0].__dlpack__(dl_device=(2, 0))
    kept = second.copy()
    del op, outputs, states, first
    gc.collect()
    np.testing.assert_array_equal(second, kept)


def test_what_may_not_be_written_is_read(rng):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    y = op(**given)
    for x in given.values():
        x.flags.writeable = False
    np.testing.assert_array_equal(op(**given), y)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(2, "`k` lies on cuda:0, and this call is one with tensors of the CPU"), (10, "`k` lies on a device of DLPack's kind 10")],
)
def test_a_tensor_that_lies_elsewhere_is_refused_before_it_is_read(rng, kind, says):
    class Elsewhere:
        """A tensor of numpy whose capsule says that it lies on another device."""

        def __dlpack__(self, **_):
            capsule = given["k"].__dlpack__()
            pointer = ctypes.pythonapi.PyCapsule_GetPointer
            pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            # The device comes behind the address of the elements.
            ctypes.c_int32.from_address(pointer(capsule, b"dltensor") + 8).value = kind
            return capsule

    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    with pytest.raises(ValueError, match=says):
        op(**dict(given, k=Elsewhere()))
    assert op(**given).shape == (2, 7, 2, 5)


WRONG_TENSORS = [
    (dict(k=np.zeros((2, 7, 2, 4), np.float32)), r"`k` has shape \[2, 7, 2, 4\], expected \[B, T, H=2, j=3\]: axis `j` is 4, not 3"),
    (dict(v=np.zeros((2, 6, 2, 5), np.float32)), "`v` has T=6, but `w` has T=7"),
    (dict(v=np.zeros((1, 7, 2, 5), np.float32)), "`v` has B=1, but `w` has B=2"),
    (dict(w=np.zeros((2, 7), np.float32)), r"`w` has 2 axes, shape \[2, 7\]; expected \[B, T, H=2, j=3\]"),
    (dict(r=np.zeros((2, 7, 2, 3), np.float64)), "`r` is float64, expected float32, bfloat16 or float16"),
    (dict(r=np.zeros((2, 7, 2, 3), np.int32)), "`r` is int32, expected float32"),
    (dict(w=np.zeros((0, 7, 2, 3), np.float32)), "`w` has no elements"),
    (dict(q=np.zeros((2, 7, 2, 3), np.float32)), "takes nothing called `q`; its inputs are w, k, v, r"),
    (dict(r=None), "`r` is missing"),
    (dict(state=fusec.State({}, 0)), "the state `step.S` is missing"),
    (dict(state=fusec.State({"step.S": np.zeros((2, 2, 5, 4), np.float32)})), "`step.S` has shape .*: axis `j` is 4, not 3"),
    (dict(state=fusec.State({"step.S": np.zeros((3, 2, 5, 3), np.float32)})), "`step.S` has B=3, but `w` has B=2"),
    (dict(state=fusec.State({"step.S": np.zeros((2, 2, 5, 3), np.float32)}, -4)), "position is -4"),
    (dict(state=fusec.State({"x": np.zeros(3, np.float32)})), "has no state `x`; it has step.S"),
]


@pytest.mark.parametrize(("change", "says"), WRONG_TENSORS, ids=[says[:24] for _, says in WRONG_TENSORS])
def test_a_wrong_tensor_is_named_with_its_axis(rng, change, says):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = {name: x for name, x in dict(inputs(rng), **change).items() if x is not None}
    with pytest.raises(ValueError, match=says):
        op(**given)
    # The operator is as good as before.
    assert op(**inputs(rng)).shape == (2, 7, 2, 5)


def test_other_wrong_arguments(rng, root):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    with pytest.raises(TypeError, match="`w` is a list: give a tensor"):
        op([[1.0]], given["k"], given["v"], given["r"])
    with pytest.raises(ValueError, match=r"takes 4 inputs \(w, k, v, r\), 5 are given"):
        op(*[given["w"]] * 5)
    with pytest.raises(ValueError, match="`w` is given twice"):
        op(given["w"], w=given["w"])
    with pytest.raises(ValueError, match="mixer` has 3 parameters and no weights"):
        fusec.compile(MIXER, device="cpu")(np.zeros((1, 2, 8), np.float32))
    with pytest.raises(ValueError, match="the parameter `w_v` is missing"):
        fusec.compile(MIXER, device="cpu")(np.zeros((1, 2, 8), np.float32), w_k=np.zeros((8, 8), np.float32))
    with pytest.raises(ValueError, match="compiled with weights"):
        model = fusec.compile(MIXER, device="cpu", weights="random:0")
        x = np.zeros((1, 2, 8), np.float32)
        model(x, params=model.initial_params(like=x))
    gla = fusec.compile(root / "tests/golden/gla-fla", device="cpu")
    with pytest.raises(ValueError, match="100000"):
        gla(np.full((1, 2), 100000))
    with pytest.raises(ValueError, match="32 bits"):
        gla(np.full((1, 2), 2**40))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (dict(model="nowhere.toml"), FileNotFoundError, "nowhere.toml"),
        (dict(model=MIXER, device="gpu"), ValueError, "`gpu` is no device"),
        (dict(model=MIXER, dtype="f8"), ValueError, "f8"),
        (dict(model=MIXER, dtype="bf16", device="cpu"), ValueError, "computes in float32"),
        (dict(model=MIXER, plan="best"), ValueError, "best"),
        (dict(model=MIXER, weights="random:x"), ValueError, "no seed"),
        (dict(model=MIXER, weights="nowhere"), FileNotFoundError, "nowhere"),
        (dict(model=MIXER, axes=dict(Q=3)), fusec.ModelError, "`Q`"),
        (dict(model=MIXER, settings=dict(a=[])), TypeError, "`a` is a list"),
        (dict(model=MIXER, device="emulator", profile="h2000"), ValueError, "h2000"),
        (dict(model=MIXER, device="emulator", shape=(0, 1)), ValueError, "0"),
    ],
)
def test_a_model_that_cannot_be_had(arguments, error, says):
    with pytest.raises(error, match=says):
        fusec.compile(**arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MIXER.replace("sum(S * k, j)", "sum(S * q, j)"), ["`q`", "<text>:23:15", "y = sum(S * q, j)", "`-- here", "help: set it above"]),
        (MIXER.replace('x = "C"', 'x = "D"'), ["`D`", 'x = "D"']),
        ("name = \n", ["TOML"]),
    ],
)
def test_an_error_in_a_text_points_at_its_place(text, says):
    with pytest.raises(fusec.ModelError) as error:
        fusec.compile(text, device="cpu")
    for words in says:
        assert words in str(error.value), str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("S[H] = S * w + x[H]; y[H] = S", "over which axes `w` runs is not said"),
        ("S[H] = S + x[H]", "the step has no outputs"),
        ("y[H] = 1", "the step has no inputs"),
        ("S[H] = S * x[H] + x[i]; y[H] = S", r"`x` runs over \[H\] before, and over \[i\] here"),
        ("S[H] = S + x[H] ) ; y[H] = S", "expected"),
        ("S[Q] = S + x[Q]; y[Q] = S", "Q"),
        ("S[H] = S $ x[H]; y[H] = S", r"`\$`"),
        ("", "no inputs"),
    ],
)
def test_an_error_in_a_step(step, says):
    with pytest.raises(fusec.ModelError, match=says):
        fusec.recurrence(step, axes=dict(H=2, i=3), device="cpu")


def test_a_model_can_be_looked_at():
    model = fusec.compile(MIXER, device="cpu", shape=(1, 128))
    assert "kernel" in model.plan() or "launch" in model.plan()
    assert model.kernels and "__global__" in model.kernels[0].source
    assert "fusec" in model.prelude
    assert model.explain()
    with pytest.raises(ValueError, match="nothing"):
        model.explain("y", "nothing")
    with pytest.raises(TypeError, match="two values, or none"):
        model.explain("y")
    page = model.report()
    assert page.startswith("<!doctype html>") and model.kernels[0].name in page
    assert model.report() is page
    shown = model._repr_html_()  # it has few kernels
    assert "<iframe" in shown and html.unescape(shown.split('srcdoc="')[1].split('"')[0]) == page
    assert repr(model) == (
        "<fusec model mixer on cpu: x[B, T, H*N=8] -> y[B, T, H*N=8]>"
    )


def test_a_model_is_copied_and_pickled(rng):
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    given = inputs(rng)
    for other in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        np.testing.assert_array_equal(other(**given), op(**given))
        assert type(other) is type(op) and other.text == op.text


def test_threads_and_models_do_not_disturb_each_other(rng):
    ops = [fusec.recurrence(STEP, axes=AXES, device=device) for device in ("cpu", "cpu", "emulator")]
    cases = [inputs(rng, batch, time) for batch, time in ((1, 1), (2, 9), (3, 4))]
    wants = [reference(**case)[0] for case in cases]
    failures = []

    def work(op):
        try:
            for i in range(60 if op.device == "cpu" else 6):
                y = op(**cases[i % 3])
                np.testing.assert_allclose(y, wants[i % 3], rtol=2e-5, atol=2e-5)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    # Two threads on each model, all at once.
    threads = [threading.Thread(target=work, args=(op,)) for op in ops for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_calls_of_changing_length_do_not_grow(rng):
    op = fusec.recurrence("h[D] = a[D] * h + x[D]; y[D] = h", axes=dict(D=8), device="cpu")
    a, x = (rng.standard_normal((2, 64, 8), dtype=np.float32) for _ in range(2))
    state, sizes = None, []
    for i in range(10_000):
        time = 1 + i * 7 % 64
        y, state = op(
            a=a.reshape(-1)[: 2 * time * 8].reshape(2, time, 8),
            x=x.reshape(-1)[: 2 * time * 8].reshape(2, time, 8),
            state=state if i % 5 else None,
            return_state=True,
        )
        assert y.shape == (2, time, 8)
        if i % 1000 == 999:
            gc.collect()
            sizes.append(resident_bytes())
    # The allocator settles within the first calls; 2 MB are less than 300 bytes a call.
    assert sizes[-1] - sizes[1] < 2 << 20, sizes


@pytest.mark.parametrize("what", ["compiles", "runs", "differentiates"])
def test_the_lock_of_the_interpreter_is_free_while_something(what, rng):
    op = fusec.recurrence(STEP, axes=dict(H=8, i=32, j=32), device="cpu")
    given = [rng.standard_normal((2, 600, 8, 32), dtype=np.float32) * 0.1 for _ in "wkvr"]
    # Sizes that no other test has: nothing is there from before.
    compiles = lambda: fusec.recurrence(STEP, axes=dict(H=3, i=11, j=7), device="emulator")
    differentiates = lambda: op._backward(given, [], None, 0, "", [given[0], None])
    work = dict(compiles=compiles, runs=lambda: op(*given), differentiates=differentiates)[what]
    running, done, ticks = threading.Event(), threading.Event(), 0

    def thread():
        running.set()
        work()
        done.set()

    worker = threading.Thread(target=thread)
    worker.start()
    running.wait()
    while not done.is_set() and worker.is_alive():
        ticks += 1
        done.wait(0.001)
    worker.join()
    assert done.is_set() and ticks > 3, ticks


def test_a_fork_is_refused_and_does_not_hang():
    code = textwrap.dedent(
        f"""
        import os, sys, numpy as np, fusec
        op = fusec.recurrence("h[D] = h + x[D]; y[D] = h", axes=dict(D=2), device="cpu")
        x = np.zeros((1, 3, 2), np.float32)
        op(x)
        pid = os.fork()
        if pid == 0:
            try:
                op(x)
            except fusec.FusecError as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


def test_nothing_but_the_standard_library_is_imported():
    code = "import sys, fusec, fusec.ops; print([m for m in ('torch', 'numpy', 'jax') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "[]", out.stderr


def test_warnings_of_a_model_text_are_warnings():
    text = MIXER.replace("[recurrence.retain]", "unused = { shape = \"C\" }\n\n[recurrence.retain]")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fusec.compile(text, device="cpu")
    assert any("unused" in str(w.message) and "<text>:" in str(w.message) for w in caught)


def test_the_compiler_of_the_environment_comes_first():
    try:
        import importlib.metadata as metadata

        metadata.distribution("nvidia-cuda-nvrtc")
    except metadata.PackageNotFoundError:
        pytest.skip("no nvidia-cuda-nvrtc in this environment")
    found = fusec.toolchain(offline=True)
    assert found["origin"] == "active Python environment" and sys.prefix in found["path"]
