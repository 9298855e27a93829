"""fusec in torch: one operator that torch.compile keeps whole, and a module.

The operator ``torch.ops.fusec.call`` carries a model by its key, so that graphs of torch hold nothing but
tensors, texts and integers; its fake kernel gives the shapes of outputs and states for any B and T. Its
backward, ``torch.ops.fusec.backward``, evaluates the model again on the CPU and then its transpose; float64
tensors are computed in float64 there.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

import torch

from ._model import Model, Port, State, compile, model_of

__all__ = ["Module"]


def _floating(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The type of outputs: that of all inputs of numbers, if they have one."""
    types = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}
    return types.pop() if len(types) == 1 else torch.float32


def _exact(model: Model, inputs: Sequence[torch.Tensor], params: Sequence[torch.Tensor]) -> bool:
    """Whether a call is one in float64: on the CPU, if the first tensor of numbers is."""
    numbers = (t.dtype for t in (*inputs, *params) if t.dtype.is_floating_point)
    return model.device == "cpu" and next(numbers, None) == torch.float64


def _carries(port: Port) -> bool:
    """Whether it is the state of a recurrence, not rows that a shift or a convolution carries."""
    return len(port.leading) == 1


def _plain(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in tensors]


@torch.library.custom_op(
    "fusec::call",
    mutates_args=(),
    schema="(str model, Tensor[] inputs, Tensor[] params, str names, Tensor[]? states, int position)"
    " -> Tensor[]",
)
def _op(model, inputs, params, names, states, position):
    of = model_of(model)
    states = None if states is None else _plain(states)
    outputs, carried, _ = of._native(_plain(inputs), _plain(params), states, position, names)
    return [torch.from_dlpack(tensor) for tensor in (*outputs, *carried)]


@_op.register_fake
def _(model, inputs, params, names, states, position):
    of = model_of(model)
    first = inputs[0]
    exact = _exact(of, inputs, params)
    rows, dtype = first.shape[:2], torch.float64 if exact else _floating(inputs)
    outputs = [first.new_empty((*rows, *port.extents), dtype=dtype) for port in of.outputs]
    carried = []
    for port in of.states:
        leading = [first.shape[0] if size is None else size for size in port.leading]
        dtype = torch.float64 if exact else torch.float32
        carried.append(first.new_empty((*leading, *port.extents), dtype=dtype))
    return [*outputs, *carried]


@torch.library.custom_op(
    "fusec::backward",
    mutates_args=(),
    schema="(str model, Tensor[] inputs, Tensor[] params, str names, Tensor[]? states, int position,"
    " Tensor?[] gradients) -> Tensor[]",
)
def _back(model, inputs, params, names, states, position, gradients):
    """Derivatives by inputs, parameters and states; nothing ([0]) by token ids and carried rows."""
    of = model_of(model)
    found = of._backward(
        _plain(inputs),
        _plain(params),
        None if states is None else _plain(states),
        position,
        names,
        [None if g is None else g.detach().contiguous() for g in gradients],
    )
    tensors = (*inputs, *params, *(states or ()))
    return [
        like.new_empty(0)
        if tensor is None
        else torch.from_dlpack(tensor).to(like.dtype).reshape(like.shape)
        for tensor, like in zip(found, tensors)
    ]


@_back.register_fake
def _(model, inputs, params, names, states, position, gradients):
    of = model_of(model)
    carry = [_carries(port) for port in of.states]
    tensors = [t if t.dtype.is_floating_point else None for t in inputs] + list(params)
    tensors += [t if carries else None for t, carries in zip(states or (), carry)]
    like = inputs[0]
    return [like.new_empty(0) if t is None else torch.empty_like(t) for t in tensors]


def _remember(ctx, inputs, output):
    ctx.model, given, params, ctx.names, states, ctx.position = inputs
    ctx.counts = len(given), len(params), None if states is None else len(states)
    ctx.save_for_backward(*given, *params, *(states or ()))
    ctx.set_materialize_grads(False)


def _backward(ctx, gradients):
    of = model_of(ctx.model)
    given, params, carried = ctx.counts
    tensors = list(ctx.saved_tensors)
    inputs, params = tensors[:given], tensors[given : given + params]
    states = None if carried is None else tensors[len(inputs) + len(params) :]
    for port, state in zip(of.states, states or ()):
        if state.requires_grad and not _carries(port):
            raise NotImplementedError(
                f"`{of.name}` has no backward through `{port.name}`: these rows, carried from the call "
                "before, are constants; detach() the state between calls"
            )
    found = _back(ctx.model, inputs, params, ctx.names, states, ctx.position, list(gradients))
    # By token ids and carried rows there is nothing.
    kinds = [tensor.dtype.is_floating_point for tensor in (*inputs, *params)]
    kinds += [_carries(port) for port in of.states] if states is not None else []
    found = [by if kind else None for by, kind in zip(found, kinds)]
    by_inputs, rest = found[: len(inputs)], found[len(inputs) :]
    by_params, by_states = rest[: len(params)], rest[len(params) :]
    return None, by_inputs, by_params, None, None if states is None else by_states, None


_op.register_autograd(_backward, setup_context=_remember)


def _call(model: Model, inputs, params, state: State | None):
    """What :class:`Model` does with tensors of torch."""
    for port, tensor in zip((*model.inputs, *model.params), (*inputs, *params)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{port.name}` is a {type(tensor).__name__}, the others are torch tensors")
    # torch would take a call with one tensor on `meta` for one of which only the shapes are asked.
    first = inputs[0]
    for port, tensor in zip((*model.inputs, *model.params), (*inputs, *params)):
        if tensor.device != first.device:
            raise ValueError(
                f"`{port.name}` lies on {tensor.device}, `{model.inputs[0].name}` on {first.device}"
            )
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

    On device ``cpu`` it has a backward: by the parameters, the inputs, and the states of recurrences. On
    others, a gradient through it raises ``NotImplementedError``.
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
