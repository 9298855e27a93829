"""What only a GPU has: streams, and graphs that are captured. bench/python_gpu.py has more of it, and times."""

import gc

import pytest
import torch
from devices import GPUS

import fusec

pytestmark = pytest.mark.skipif(not GPUS or not torch.cuda.is_available(), reason="no GPU is here")

STEP = "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"
AXES = dict(H=2, i=16, j=16)


def draw(batch, time, seed=0, **options):
    torch.manual_seed(seed)
    given = {name: torch.randn(batch, time, 2, 16, **options) for name in "wkvr"}
    given["w"] = torch.sigmoid(given["w"])
    return given


@pytest.fixture(scope="module")
def op():
    return fusec.recurrence(STEP, axes=AXES, device=GPUS[0])


def test_tensors_of_the_cpu_go_there_and_back(op):
    cpu = fusec.recurrence(STEP, axes=AXES, device="cpu")
    for batch, time in ((1, 1), (3, 65), (2, 300), (1, 17)):
        given = draw(batch, time)
        y = op(**given)
        assert y.device.type == "cpu" and y.dtype == torch.float32
        torch.testing.assert_close(y, cpu(**given), rtol=1e-4, atol=1e-4)


def test_tensors_on_two_devices_are_refused_by_name(op):
    given = draw(2, 5)
    given["k"] = given["k"].cuda()
    with pytest.raises(ValueError, match="k"):
        op(**given)
    there = {name: x.cuda() for name, x in draw(2, 5).items()}
    with pytest.raises(ValueError, match="`v` lies on"):
        op(**{**there, "v": there["v"].cpu()})


def test_a_call_is_on_the_stream_of_the_caller(op):
    given = draw(2, 64, device="cuda")
    want = op(**given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    late = {name: torch.zeros_like(x) for name, x in given.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        for name, x in late.items():
            x.copy_(given[name])
        y = op(**late)
        for x in late.values():
            x.zero_()
    stream.synchronize()
    assert torch.equal(y, want)


@pytest.mark.parametrize("time", [1, 64, 300])
def test_a_call_is_captured(op, time):
    given = draw(2, time, device="cuda")
    op(**given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, state = op(**given, return_state=True)
    for seed in (1, 2):
        for name, x in draw(2, time, seed, device="cuda").items():
            given[name].copy_(x)
        graph.replay()
        torch.cuda.synchronize()
        want, after = op(**given, return_state=True)
        assert torch.equal(y, want) and torch.equal(state.tensors["step.S"], after.tensors["step.S"])


def test_a_captured_call_outlives_its_model():
    made, given = fusec.recurrence(STEP, axes=AXES, device=GPUS[0]), draw(2, 64, device="cuda")
    want = made(**given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(**given)
    del made
    gc.collect()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, want)
