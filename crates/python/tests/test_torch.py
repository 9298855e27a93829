"""fusec in torch: the operator, torch.compile, modules."""

import copy
import gc
import io
import runpy

import numpy as np
import pytest
import torch

import fusec
import fusec.torch
from test_call import AXES, MIXER, STEP, reference


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(batch=2, time=7):
    shape = dict(w=("H", "j"), k=("H", "j"), v=("H", "i"), r=("H", "j"))
    given = {n: torch.randn(batch, time, *(AXES[a] for a in axes)) for n, axes in shape.items()}
    given["w"] = given["w"].sigmoid()
    return given


@pytest.fixture(scope="module")
def op():
    return fusec.recurrence(STEP, axes=AXES, device="cpu")


def test_tensors_of_torch_come_back_as_tensors_of_torch(op):
    given = inputs()
    y, state = op(**given, return_state=True)
    assert isinstance(y, torch.Tensor) and y.dtype == torch.float32
    want, S = reference(**{n: x.numpy() for n, x in given.items()})
    torch.testing.assert_close(y, torch.from_numpy(want).float(), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(state.tensors["step.S"], torch.from_numpy(S).float(), rtol=2e-5, atol=2e-5)
    # numpy and torch are the same thing.
    assert np.array_equal(op(**{n: x.numpy() for n, x in given.items()}), y.numpy())


def test_bfloat16_goes_through(op):
    given = {n: x.bfloat16() for n, x in inputs().items()}
    y = op(**given)
    assert y.dtype == torch.bfloat16
    want = op(**{n: x.float() for n, x in given.items()})
    assert torch.equal(y, want.bfloat16())
    assert op(**dict(given, w=given["w"].float())).dtype == torch.float32


def test_the_operator_is_what_torch_asks_of_one(op):
    given = [inputs()[n] for n in ("w", "k", "v", "r")]
    state = [torch.randn(2, AXES["H"], AXES["i"], AXES["j"])]
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for states, position in ((None, 0), (state, 4)):
        torch.library.opcheck(
            torch.ops.fusec.call, (op._key, given, [], "", states, position), test_utils=checks
        )


def test_compile_keeps_one_graph_for_any_length(op):
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def f(w, k, v, r):
        y, state = op(w, k, v * 2, r, return_state=True)
        return torch.relu(y), state.tensors["step.S"]

    # No two sizes are equal: torch would take that for a rule, and compile again.
    for batch, time in ((4, 7), (6, 9), (4, 40)):
        given = inputs(batch, time)
        y, S = f(**given)
        want, carried = op(**dict(given, v=given["v"] * 2), return_state=True)
        torch.testing.assert_close(y, torch.relu(want))
        torch.testing.assert_close(S, carried.tensors["step.S"])
    assert len(graphs) == 1
    assert any("fusec" in str(node.target) for node in graphs[0].graph.nodes)


def test_compile_carries_a_state(op):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(state, w, k, v, r):
        return op(w, k, v, r, state=state, return_state=True)

    given = inputs(time=8)
    whole = op(**given)
    first = {n: x[:, :3].contiguous() for n, x in given.items()}
    rest = {n: x[:, 3:].contiguous() for n, x in given.items()}
    y, state = op(**first, return_state=True)
    z, state = f(state, **rest)
    torch.testing.assert_close(torch.cat([y, z], 1), whole, rtol=2e-5, atol=2e-5)
    assert state.position == 8


def double(tensors):
    return [x.double().requires_grad_() for x in tensors]


@pytest.mark.parametrize("carried", [False, True])
def test_derivatives_of_a_recurrence_pass_gradcheck(op, carried):
    given = inputs(2, 4)
    tensors = double(given[n] for n in "wkvr")
    if not carried:
        assert torch.autograd.gradcheck(lambda *x: op(*x), tensors)
        return

    def run(S, *x):
        y, state = op(*x, state=fusec.State({"step.S": S}, 2), return_state=True)
        return y, state.tensors["step.S"]

    start = torch.randn(2, AXES["H"], AXES["i"], AXES["j"]).double().requires_grad_()
    assert torch.autograd.gradcheck(run, (start, *tensors))


def test_derivatives_through_two_calls_are_those_of_one(op):
    tensors = double(inputs(1, 6)[n] for n in "wkvr")
    (op(*tensors) ** 2).sum().backward()
    whole = [x.grad.clone() for x in tensors]
    for x in tensors:
        x.grad = None
    first, state = op(*(x[:, :4].contiguous() for x in tensors), return_state=True)
    last = op(*(x[:, 4:].contiguous() for x in tensors), state=state)
    (torch.cat([first, last], 1) ** 2).sum().backward()
    for x, want in zip(tensors, whole):
        torch.testing.assert_close(x.grad, want)


def test_derivatives_come_in_the_type_of_the_tensor(op):
    given = {n: x.bfloat16().requires_grad_() for n, x in inputs().items()}
    op(**given).sum().backward()
    single = {n: x.detach().float().requires_grad_() for n, x in given.items()}
    op(**single).sum().backward()
    for n, x in given.items():
        assert x.grad.dtype == torch.bfloat16 and x.grad.shape == x.shape
        torch.testing.assert_close(x.grad.float(), single[n].grad, rtol=2e-2, atol=2e-2)


def test_kernels_give_the_derivatives_of_the_interpreter(op):
    emulated = fusec.recurrence(STEP, axes=AXES, device="emulator")
    here = {n: x.requires_grad_() for n, x in inputs().items()}
    there = {n: x.detach().clone().requires_grad_() for n, x in here.items()}
    for _ in range(2):  # The second call finds the kernels of the first.
        op(**here).square().sum().backward()
        emulated(**there).square().sum().backward()
    for n, x in here.items():
        torch.testing.assert_close(there[n].grad, x.grad, rtol=1e-4, atol=1e-5)


def test_what_has_no_backward_is_refused_by_name(op):
    # Rows that a shift carries are constants: nobody is to think that a gradient went through them.
    mixer = fusec.compile(MIXER, device="cpu")
    x = torch.randn(1, 4, 8, requires_grad=True)
    params = mixer.initial_params(like=x)
    _, state = mixer(x, params=params)
    with pytest.raises(NotImplementedError, match="carried from the call before, are constants; detach"):
        mixer(x, params=params, state=state)[0].sum().backward()
    detached = fusec.State({n: s.detach() for n, s in state.tensors.items()}, state.position)
    mixer(x, params=params, state=detached)[0].sum().backward()
    assert x.grad is not None
    # Without gradients nothing is remembered.
    given = {n: x.requires_grad_() for n, x in inputs().items()}
    with torch.no_grad():
        assert not op(**given).requires_grad
    with torch.inference_mode():
        op(**given)


def test_a_compiled_graph_has_the_same_derivatives(op):
    def f(w, k, v, r):
        return torch.relu(op(w, k, v * 2, r)).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (f, compiled):
        tensors = [inputs()[n].requires_grad_() for n in "wkvr"] if not grads else [
            x.detach().clone().requires_grad_() for x in grads[0][0]
        ]
        function(*tensors).backward()
        grads.append((tensors, [x.grad for x in tensors]))
    for got, want in zip(grads[1][1], grads[0][1]):
        torch.testing.assert_close(got, want)


def test_mixed_libraries_and_devices_are_refused(op):
    given = inputs()
    with pytest.raises(TypeError, match="`k` is a ndarray, the others are torch tensors"):
        op(**dict(given, k=given["k"].numpy()))
    with pytest.raises(ValueError, match="`k` lies on meta, `w` on cpu"):
        op(**dict(given, k=given["k"].to("meta")))


def test_strided_tensors_of_torch_are_copied_with_a_warning(op):
    given = inputs()
    y = op(**given)
    given["v"] = given["v"].transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.warns(fusec.CopyWarning, match="`v`"):
        torch.testing.assert_close(op(**given), y)


def test_a_graph_whose_model_is_gone_says_so():
    op = fusec.recurrence(STEP, axes=AXES, device="cpu")
    key = op._key
    del op
    gc.collect()
    with pytest.raises(RuntimeError, match="keep the model"):
        torch.ops.fusec.call(key, list(inputs().values()), [], "", None, 0)


STACK = """
name = "stack"

[axes]
L = 2
C = 8

[input]
x = "C"

[recurrence.ema]
inputs  = "x[C], a[C]"
state   = "S[C]"
outputs = "y[C]"
step    = '''
  S = a * S + (1 - a) * x
  y = S
'''

[block.layer]
args = ["x"]
flow = "return x + silu(ema(x, f32(sigmoid(rate)))) @ w"

[block.layer.param]
rate = { shape = "C", init = "uniform(-2, 2)", precision = "f32" }
w    = { shape = "C, C" }

[model]
flow = '''
  repeat l in L { x = layer(x) }
  return x
'''
"""

NAMES = ["layers.0.layer.rate", "layers.0.layer.w", "layers.1.layer.rate", "layers.1.layer.w"]


def stack(x, state):
    """The same in torch."""
    for layer in range(2):
        a = state[f"layers.{layer}.layer.rate"].sigmoid()
        S, y = torch.zeros(x.shape[0], x.shape[2]), []
        for t in range(x.shape[1]):
            S = a * S + (1 - a) * x[:, t]
            y.append(S)
        x = x + torch.nn.functional.silu(torch.stack(y, 1)) @ state[f"layers.{layer}.layer.w"].T
    return x


def test_a_module_has_the_parameters_of_the_text():
    layer = fusec.torch.Module(STACK, device="cpu", seed=4)
    state = layer.state_dict()
    assert sorted(state) == NAMES and state["layers.1.layer.w"].shape == (8, 8)
    x = torch.randn(3, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), stack(x, state), rtol=1e-5, atol=1e-5)
        again = fusec.torch.Module(STACK, device="cpu", seed=4)
        assert torch.equal(again(x), layer(x))
        other = fusec.torch.Module(STACK, device="cpu", seed=5)
        assert not torch.equal(other(x), layer(x))
        # A checkpoint of torch.
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        other.load_state_dict(torch.load(file))
        assert torch.equal(other(x), layer(x))
        # What is written in place is seen, whoever writes.
        layer.get_parameter("layers.0.layer.w").data.mul_(2)
        torch.testing.assert_close(layer(x), stack(x, layer.state_dict()), rtol=1e-5, atol=1e-5)


def test_functional_call_and_optimisers_see_the_parameters():
    layer = fusec.torch.Module(STACK, device="cpu")
    x = torch.randn(1, 5, 8)
    given = {n: torch.randn_like(p) for n, p in layer.named_parameters()}
    with torch.no_grad():
        y = torch.func.functional_call(layer, given, (x,))
        torch.testing.assert_close(y, stack(x, given), rtol=1e-5, atol=1e-5)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        torch.testing.assert_close(layer(x), stack(x, layer.state_dict()), rtol=1e-5, atol=1e-5)


def test_a_module_trains_as_the_same_module_in_torch():
    layer = fusec.torch.Module(STACK, device="cpu")
    params = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
    x, target = torch.randn(2, 8, 8), torch.randn(2, 8, 8)
    ours = torch.optim.AdamW(layer.parameters(), lr=0.02)
    theirs = torch.optim.AdamW(params.values(), lr=0.02)
    losses = []
    for _ in range(20):
        pair = []
        for optimiser, y in ((ours, layer(x)), (theirs, stack(x, params))):
            loss = torch.nn.functional.mse_loss(y, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            pair.append(loss.item())
        losses.append(pair)
    losses = torch.tensor(losses)
    torch.testing.assert_close(losses[:, 0], losses[:, 1], rtol=1e-3, atol=1e-5)
    assert losses[-1, 0] < 0.9 * losses[0, 0]


def test_a_module_in_float64_passes_gradcheck():
    layer = fusec.torch.Module(STACK, device="cpu").double()
    x = torch.randn(1, 3, 8).double().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    params = [p.detach().requires_grad_() for p in layer.parameters()]
    run = lambda x, *params: torch.func.functional_call(layer, dict(zip(names, params)), (x,))
    assert torch.autograd.gradcheck(run, (x, *params))


def test_a_module_stands_in_a_model_of_torch_and_compiles():
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 8), fusec.torch.Module(STACK, device="cpu"), torch.nn.LayerNorm(8)
    )
    assert "1.layers.0.layer.w" in model.state_dict()
    x = torch.randn(2, 9, 8)
    with torch.no_grad():
        want = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), want)
        torch.testing.assert_close(copy.deepcopy(model[0])(x), model[0](x))


def test_a_module_goes_on_from_a_state():
    layer = fusec.torch.Module(STACK, device="cpu", return_state=True)
    x = torch.randn(2, 7, 8)
    with torch.no_grad():
        whole, _ = layer(x)
        a, state = layer(x[:, :4].contiguous())
        b, state = layer(x[:, 4:].contiguous(), state=state)
    torch.testing.assert_close(torch.cat([a, b], 1), whole, rtol=1e-5, atol=1e-5)
    assert sorted(state.tensors) == [port.name for port in layer.model.states]


def test_what_a_module_does_not_take():
    with pytest.raises(TypeError, match="the weights are the module's"):
        fusec.torch.Module(STACK, weights="random:0")
    with pytest.raises(fusec.ModelError):
        fusec.torch.Module(STACK.replace("ema(x,", "emu(x,"), device="cpu")


def test_the_example_of_a_training_runs(root):
    script = runpy.run_path(str(root / "examples/train_in_torch.py"), run_name="example")
    ours, theirs = script["main"](12)
    assert np.allclose(ours, theirs, rtol=1e-3) and ours[-1] < ours[0]
