"""Where a GPU is: what a model on it takes from torch, and what it refuses by name."""

import pytest
import torch
from devices import GPUS

import fusec

pytestmark = pytest.mark.skipif(not GPUS or not torch.cuda.is_available(), reason="no GPU is here")

STEP = "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)"
AXES = dict(H=2, i=16, j=16)


def draw(batch, time, **options):
    torch.manual_seed(0)
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


def test_tensors_that_lie_on_a_gpu_are_refused_by_name(op):
    given = draw(2, 5)
    given["k"] = given["k"].cuda()
    with pytest.raises(ValueError, match="k"):
        op(**given)
    with pytest.raises((ValueError, NotImplementedError), match="cuda"):
        op(**draw(2, 5, device="cuda"))


def test_a_gradient_through_it_is_refused_by_name(op):
    given = draw(2, 5)
    given["v"].requires_grad_()
    with pytest.raises(NotImplementedError):
        op(**given).sum().backward()
