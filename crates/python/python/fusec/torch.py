"""fusec in torch: one operator that torch.compile keeps whole, and a module.

The operator ``torch.ops.fusec.call`` carries a model by its key, so that graphs of torch hold nothing but
tensors, texts and integers; its fake kernel gives the shapes of outputs and states for any B and T.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

import torch

from ._model import Model, State, compile, model_of

__all__ = ["Module"]


def _floating(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The type of outputs: that of all inputs of numbers, if they have one."""
    types = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}
    return types.pop() if len(types) == 1 else torch.float32


@torch.library.custom_op(
    "fusec::call",
    mutates_args=(),
    schema="(str model, Tensor[] inputs, Tensor[] params, str names, Tensor[]? states, int position)"
    " -> Tensor[]",
)
def _op(model, inputs, params, names, states, position):
    of = model_of(model)
    plain = [tensor.detach() for tensor in inputs]
    outputs, carried, _ = of._native(
        plain,
        [tensor.detach() for tensor in params],
        None if states is None else [tensor.detach() for tensor in states],
        position,
        names,
    )
    return [torch.from_dlpack(tensor) for tensor in (*outputs, *carried)]


@_op.register_fake
def _(model, inputs, params, names, states, position):
    of = model_of(model)
    first = inputs[0]
    rows, dtype = first.shape[:2], _floating(inputs)
    outputs = [first.new_empty((*rows, *port.extents), dtype=dtype) for port in of.outputs]
    carried = []
    for port in of.states:
        leading = [first.shape[0] if size is None else size for size in port.leading]
        carried.append(first.new_empty((*leading, *port.extents), dtype=torch.float32))
    return [*outputs, *carried]


def _remember(ctx, inputs, output):
    # What a backward of the model needs is decided here, once there is one.
    ctx.model = inputs[0]


def _backward(ctx, *gradients):
    name = model_of(ctx.model).name
    raise NotImplementedError(
        f"fusec: there is no backward of `{name}` yet: call it under torch.no_grad(), or detach what goes "
        "in or comes out"
    )


_op.register_autograd(_backward, setup_context=_remember)


def _call(model: Model, inputs, params, state: State | None):
    """What :class:`Model` does with tensors of torch."""
    for port, tensor in zip((*model.inputs, *model.params), (*inputs, *params)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{port.name}` is a {type(tensor).__name__}, the others are torch tensors")
    states, position = model._states(state)
    results = _op(model._key, list(inputs), list(params), "", states, position)
    count = len(model.outputs)
    carried = {port.name: tensor for port, tensor in zip(model.states, results[count:])}
    return tuple(results[:count]), State(carried, position + inputs[0].shape[1])


class Module(torch.nn.Module):
    """A fusec model as a layer of a torch model.

    Its parameters are those of the model text, under the same names in ``state_dict``; they begin as the
    text says, drawn from ``seed``. ``forward`` takes the model's inputs, ``[B, T, axes...]``, and gives its
    output; with ``return_state=True``, ``(output, state)``.

    ``model``: a path or a text, as for :func:`fusec.compile`, whose other arguments may follow; no weights,
    which are the module's.

    There is no backward yet: a gradient through it raises ``NotImplementedError``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        seed: int = 0,
        return_state: bool = False,
        **options: Any,
    ):
        super().__init__()
        if "weights" in options:
            raise TypeError("the weights are the module's: load_state_dict() sets them")
        self.model = compile(model, **options)
        if self.model.has_weights:
            raise ValueError("a checkpoint has weights of its own: give the model text")
        self.return_state = return_state
        first = torch.empty(0)
        for name, tensor in self.model.initial_params(seed, like=first).items():
            *path, last = name.split(".")
            owner: torch.nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, torch.nn.Module())
                owner = owner._modules[part]
            owner.register_parameter(last, torch.nn.Parameter(tensor))

    def _parameter(self, name: str) -> torch.Tensor:
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def forward(self, *tensors: torch.Tensor, state: State | None = None, **named: torch.Tensor) -> Any:
        params = {port.name: self._parameter(port.name) for port in self.model.params}
        outputs, state = self.model._run(tensors, state, params, named)
        y = outputs[0] if len(outputs) == 1 else outputs
        return (y, state) if self.return_state else y

    def extra_repr(self) -> str:
        return repr(self.model)
