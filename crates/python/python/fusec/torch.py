"""fusec in torch: one operator that torch.compile keeps whole, and a module.

The operator ``torch.ops.fusec.call`` carries a model by its key, so that graphs of torch hold nothing but
tensors, texts and integers; its fake kernel gives the shapes of outputs and states for any B and T. Its
backward, ``torch.ops.fusec.backward``, evaluates the model again and then its transpose; float64 tensors of
the CPU are computed in float64.

Where a model has kernels (``cuda:N``, and ``emulator`` with tensors of the CPU), tensors are taken as they
lie, on torch's current stream of their device, and results are allocated by torch, which knows the stream
that they belong to: nothing is copied or waited for. A call that nothing differentiates or traces goes past
torch's dispatcher, which takes longer than the call.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, Callable, Mapping, Sequence

import torch

from . import _native
from ._arrays import CopyWarning
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


_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}


@functools.lru_cache(maxsize=64)
def _empty_on(device: torch.device) -> tuple[Callable[..., torch.Tensor], dict[str, dict]]:
    """What allocates on a device, on torch's current stream there: a function of extents and strides, and what else
    it is given, by type. ``empty`` takes half as long again."""
    return torch.empty_strided, {name: {"dtype": dtype, "device": device} for name, dtype in _DTYPES.items()}


_raw_stream = getattr(
    torch._C,
    "_cuda_getCurrentRawStream",
    lambda index: torch.cuda.current_stream(index).cuda_stream,
)
#: What allocates, by the number of a GPU; -1: the CPU.
_ROOMS: dict[int, tuple] = {}


def _ground_of(tensor: torch.Tensor) -> tuple[int, tuple]:
    """The stream that torch's work on the device of a tensor goes to now (0 on the CPU), and what allocates there.
    Every attribute of a tensor that is asked for takes a tenth of a microsecond, its ``device`` several."""
    number = tensor.get_device()
    room = _ROOMS.get(number)
    if room is None:
        room = _ROOMS[number] = _empty_on(tensor.device)
    return (_raw_stream(number) if number >= 0 else 0), room


def _takes(model: Model, tensor: torch.Tensor) -> bool:
    """Whether the model's kernels take a tensor where it lies."""
    place = model._place
    if place == "cpu":
        # float64 is refused there by the name of the tensor, as are other devices.
        return tensor.is_cpu
    return place is not None and tensor.is_cuda


def _suited(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in the form that kernels read, itself if it has that."""
    tensor = tensor.to(dtype).contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _bring(model: Model, found: list, lists: Sequence[list]) -> None:
    """Brings tensors into the form that kernels read."""
    copied = []
    for kind, at, dtype in found:
        tensor = lists[kind][at]
        if not tensor.is_contiguous() or tensor.data_ptr() % 16:
            copied.append((model.inputs, model.params, model.states)[kind][at].name)
        lists[kind][at] = _suited(tensor, _DTYPES[dtype])
    if copied:
        names = ", ".join(f"`{name}`" for name in copied)
        warnings.warn(
            f"{names} of {model.name} did not lie row-major from an address that 16 divides, and was copied: "
            ".contiguous() or .clone(), once, avoids it",
            CopyWarning,
            stacklevel=6,
        )


def _on_device(model: Model, inputs, params, states, position: int, keeps: bool):
    """A call on tensors where they lie: outputs, and states if they are kept."""
    call = _native.call_on_device
    if states is None:
        states = ()
    stream, empty = _ground_of(inputs[0])
    found = call(model._program, inputs, params, states, position, keeps, stream, empty)
    if type(found) is list:
        lists = [list(inputs), list(params), list(states)]
        _bring(model, found, lists)
        found = call(model._program, *lists, position, keeps, stream, empty)
        if type(found) is list:
            raise RuntimeError(f"{model.name}: tensors cannot be brought into the form of its kernels")
    outputs, carried = found
    dtype = inputs[0].dtype
    for output in outputs:
        if output.dtype is not dtype:
            wanted = _floating(inputs)
            return [output.to(wanted) for output in outputs], carried
    return outputs, carried


@torch.library.custom_op(
    "fusec::call",
    mutates_args=(),
    schema="(str model, Tensor[] inputs, Tensor[] params, str names, Tensor[]? states, int position)"
    " -> Tensor[]",
)
def _op(model, inputs, params, names, states, position):
    of = model_of(model)
    states = None if states is None else _plain(states)
    inputs, params = _plain(inputs), _plain(params)
    if _takes(of, inputs[0]):
        outputs, carried = _on_device(of, inputs, of._in_order(params, names), states, position, True)
        return [*outputs, *carried]
    outputs, carried, _ = of._native(inputs, params, states, position, names)
    return [torch.from_dlpack(tensor) for tensor in (*outputs, *carried)]


@_op.register_fake
def _(model, inputs, params, names, states, position):
    of = model_of(model)
    first = inputs[0]
    exact = _exact(of, inputs, params)
    rows, dtype = first.shape[:2], torch.float64 if exact else _floating(inputs)
    outputs = [first.new_empty((*rows, *port.extents), dtype=dtype) for port in of.outputs]
    carried = []
    in_place = _takes(of, first)
    for at, port in enumerate(of.states):
        leading = [first.shape[0] if size is None else size for size in port.leading]
        dtype = torch.float64 if exact else torch.float32
        if in_place:
            dtype = _DTYPES[of._types[2][at] or "float32"]
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
    given = _plain(inputs), _plain(params), None if states is None else _plain(states)
    gradients = [None if g is None else g.detach().contiguous() for g in gradients]
    tensors = (*inputs, *params, *(states or ()))
    if _takes(of, inputs[0]):
        found = _backward_on_device(of, *given, position, names, gradients)
    else:
        found = [
            tensor if tensor is None else torch.from_dlpack(tensor)
            for tensor in of._backward(*given, position, names, gradients)
        ]
    results: list[torch.Tensor] = []
    for tensor, like in zip(found, tensors):
        if tensor is None:
            results.append(like.new_empty(0))
        elif isinstance(tensor, int):
            results.append(torch.zeros_like(like, memory_format=torch.contiguous_format))
        else:
            result = tensor.to(like.dtype).reshape(like.shape)
            # An operator's results are tensors of their own.
            shared = any(result.data_ptr() == other.data_ptr() for other in results if other.numel())
            results.append(result.clone() if shared else result)
    return results


def _backward_on_device(model: Model, inputs, params, states, position, names, gradients):
    """As :meth:`Model._backward`, on tensors where they lie; 0 for zeros."""
    first = inputs[0]
    rows = first.shape[:2]
    outputs, carried = gradients[: len(model.outputs)], gradients[len(model.outputs) :]
    outputs = [
        torch.zeros((*rows, *port.extents), dtype=torch.float32, device=first.device) if g is None else g
        for port, g in zip(model.outputs, outputs)
    ]
    params = list(model._in_order(params, names))
    back = _native.backward_on_device
    stream, empty = _ground_of(first)
    lists = [list(inputs), params, [] if states is None else list(states)]
    found = back(model._program, *lists, position, outputs, carried, stream, empty)
    if type(found) is list:
        # Gradients come after inputs, and after the model's states.
        count, own = len(lists[0]), len(model.states)
        whole = [lists[0] + outputs, params, lists[2] + [None] * (own - len(lists[2]))]
        for kind, at, dtype in found:
            of_state = kind == 2 and at >= own
            if of_state:
                for place, gradient in enumerate(carried):
                    if gradient is not None:
                        carried[place] = _suited(gradient, torch.float32)
                continue
            whole[kind][at] = _suited(whole[kind][at], _DTYPES[dtype])
        lists = [whole[0][:count], params, whole[2][: len(lists[2])]]
        outputs = whole[0][count:]
        found = back(model._program, *lists, position, outputs, carried, stream, empty)
        if type(found) is list:
            raise RuntimeError(f"{model.name}: tensors cannot be brought into the form of its kernels")
    found = list(found)
    if names:
        count = len(inputs)
        named = {port.name: by for port, by in zip(model.params, found[count:])}
        found[count : count + len(params)] = [named[name] for name in names.split(",")]
    return found


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


_TENSORS = (torch.Tensor, torch.nn.Parameter)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transforms = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: True)


_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled


def _nobody_looks(inputs, params, states) -> bool:
    """Whether nothing differentiates, traces or transforms a call with these tensors."""
    if _is_compiling() or _modes() or _transforms() is not None:
        return False
    grad = _is_grad_enabled()
    for tensors in (inputs, params, states or ()):
        for tensor in tensors:
            if type(tensor) not in _TENSORS or (grad and tensor.requires_grad):
                return False
    return True


def _call(model: Model, inputs, params, state: State | None, keeps: bool = True):
    """What :class:`Model` does with tensors of torch."""
    states, position = (None, 0) if state is None else model._states(state)
    if _nobody_looks(inputs, params, states) and _takes(model, inputs[0]):
        outputs, carried = _on_device(model, inputs, params, states, position, keeps)
        if not keeps:
            return outputs, None
        carried = {port.name: tensor for port, tensor in zip(model.states, carried)}
        return tuple(outputs), State(carried, position + inputs[0].shape[1])
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
    results = _op(model._key, list(inputs), list(params), "", states, position)
    count = len(model.outputs)
    carried = {port.name: tensor for port, tensor in zip(model.states, results[count:])}
    return tuple(results[:count]), State(carried, position + inputs[0].shape[1])


def _ready(key: str, inputs, params, names: str, states) -> Sequence[torch.Tensor]:
    """A call of a ready operator: its outputs and states."""
    if _nobody_looks(inputs, params, states):
        model = model_of(key)
        if _takes(model, inputs[0]):
            params = model._in_order(params, names)
            outputs, carried = _on_device(model, inputs, params, states, 0, True)
            return [*outputs, *carried]
    return _op(key, inputs, params, names, states, 0)


class Module(torch.nn.Module):
    """A fusec model as a layer of a torch model.

    Its parameters are those of the model text, under the same names in ``state_dict``; they begin as the
    text says, drawn from ``seed``. ``forward`` takes the model's inputs, ``[B, T, axes...]``, and gives its
    output; with ``return_state=True``, ``(output, state)``.

    ``model``: a path or a text, as for :func:`fusec.compile`, whose other arguments may follow; no weights,
    which are the module's.

    It has a backward, by the parameters, the inputs, and the states of recurrences; where there is none
    (attention on a GPU), a gradient through it raises ``NotImplementedError``.
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
