"""fusec: recurrences and linear-recurrent sequence models, compiled to fused kernels.

Start with one of these::

    import fusec

    # An equation, over axes of given sizes. Tensors are [batch, time, axes...].
    op = fusec.recurrence(
        "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)",
        axes=dict(H=4, i=16, j=16),
    )
    y = op(r=r, w=w, k=k, v=v)

    # A model: a file, a text of several lines, or the directory of a checkpoint.
    model = fusec.compile("mixer.toml", weights="random:0")
    y, state = model(x)
    y, state = model(x_next, state=state)

    # A layer of a torch model, and ready operators with the arguments of fla and mamba-ssm.
    import fusec.torch, fusec.ops

Tensors come from torch, numpy, jax or anything else that speaks DLPack, and go back to the same library;
they are not copied where they lie row-major. What is wrong with a model text raises :class:`ModelError`,
which points at the place; a tensor of the wrong shape, type or device raises ``ValueError``, which names
tensor and axis; what no argument caused raises :class:`FusecError`.

Devices are ``"cpu"`` (the interpreter), ``"emulator"`` (the generated kernels, run on the CPU to look at
them and to test them: slow), ``"cuda:N"``, and ``"auto"``, which is the first GPU or else the CPU.
"""

from __future__ import annotations

from ._arrays import CopyWarning
from ._model import Kernel, Model, Port, Recurrence, State, compile, recurrence, toolchain
from ._native import FusecError, ModelError, Tensor, __version__

__all__ = [
    "CopyWarning",
    "FusecError",
    "Kernel",
    "Model",
    "ModelError",
    "Port",
    "Recurrence",
    "State",
    "Tensor",
    "__version__",
    "compile",
    "recurrence",
    "toolchain",
]
