"""Models: compiled, looked at, called."""

from __future__ import annotations

import functools
import html
import importlib.util
import itertools
import os
import warnings
import weakref
from typing import Any, Mapping, NamedTuple, Sequence

from . import _native
from ._arrays import CopyWarning, device_of, is_torch, returner


class State(NamedTuple):
    """What is carried from one call to the next; plain data, to keep, change or save.

    ``tensors``: by name, float32: ``[B, axes...]`` for the state of a recurrence, ``[B, tokens, axes...]``
    for the last rows of a value that a shift or a convolution needs. ``position``: tokens seen so far.
    """

    tensors: Mapping[str, Any]
    position: int = 0


class Port(NamedTuple):
    """A tensor that a model takes or gives."""

    name: str
    #: Token ids (int32 or int64) instead of numbers.
    ids: bool
    #: Shape with the names of axes: ``[B, T, H=32, N=64]``.
    text: str
    #: Extents before the model's axes; None where any length goes (B, T).
    leading: tuple[int | None, ...]
    #: Extents of the model's axes.
    extents: tuple[int, ...]


class Kernel(NamedTuple):
    """A generated kernel."""

    name: str
    #: CUDA C++, made to be read.
    source: str
    #: Threads of a block.
    threads: int
    #: Dynamic shared memory of a block, bytes.
    shared_bytes: int


def _ports(tuples: Sequence[tuple]) -> tuple[Port, ...]:
    return tuple(
        Port(name, ids, text, tuple(leading), tuple(extents))
        for name, ids, text, leading, extents in tuples
    )


#: Models by key: what an operator of torch carries instead of the object.
_MODELS: "weakref.WeakValueDictionary[str, Model]" = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def model_of(key: str) -> "Model":
    """The model of a key: one that lives, or, for a key of a device, a type and a text, one that is compiled once."""
    if not key.startswith("#"):
        return _of_text(key)
    model = _MODELS.get(key)
    if model is None:
        raise RuntimeError("the fusec model of this graph is gone: keep the model while the graph lives")
    return model


#: Kernels of a model whose page a notebook shows unasked.
_FEW_KERNELS = 12

_in_torch: Any = None


def _call_of_torch() -> Any:
    """What :mod:`fusec.torch` does with a call; imported by the first one."""
    global _in_torch
    if _in_torch is None:
        from . import torch

        _in_torch = torch._call
    return _in_torch


@functools.lru_cache(maxsize=64)
def _of_text(key: str) -> "Model":
    device, dtype, text = key.split("\n", 2)
    return compile(text, device=device, dtype=dtype)


class Model:
    """A compiled model. Made by :func:`compile`; may be called from several threads.

    ``inputs``, ``outputs``, ``params`` and ``states`` say what it takes, gives and carries.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = dict(options)
        self._program = program = _native.Program.compile(nvrtc=_nvrtc_directories(), **options)
        self.name: str = program.name
        #: What runs it: ``cpu``, ``emulator``, ``cuda:0 NVIDIA H200``.
        self.device: str = program.device
        #: Storage type of its kernels: ``f32``, ``bf16`` or ``f16``.
        self.dtype: str = program.dtype
        #: Whether it holds weights; if not, each call brings all parameters.
        self.has_weights: bool = program.has_weights
        self.inputs = _ports(program.inputs)
        self.outputs = _ports(program.outputs)
        self.params = _ports(program.params)
        self.states = _ports(program.states)
        self._names = tuple(port.name for port in self.inputs)
        #: Where its kernels take tensors as they lie, as torch writes it, and DLPack; None: nowhere.
        self._place: str | None = None
        self._place_of_dlpack: tuple[int, int] | None = None
        #: Types of inputs, parameters, states and outputs there.
        self._types: tuple = ((), (), (), ())
        found = _native.place_on_device(program)
        if found is not None:
            (kind, number), self._types = found
            self._place = f"cuda:{number}" if kind == 2 else "cpu"
            self._place_of_dlpack = (kind, number)
        #: What :meth:`report` has made.
        self._page: str | None = None
        self._key = f"#{next(_NUMBERS)}"
        _MODELS[self._key] = self
        for warning in program.warnings:
            warnings.warn(f"{self.name}: {warning}", stacklevel=4)

    def __call__(
        self,
        *tensors: Any,
        state: State | None = None,
        params: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> tuple[Any, State]:
        """Runs B sequences of T tokens: ``y, state = model(x)``, then ``model(x, state=state)``.

        Inputs are ``[B, T, axes...]`` in the order of ``inputs``, or by name; neighbouring axes may be
        merged or split. Numbers are float32, bfloat16 or float16 (on device ``cpu`` also float64, if all
        tensors of numbers are), ids int32 or int64. ``params`` are the
        parameters by name, for a model without weights; a parameter may also be given by keyword.

        Returns ``(y, state)``; y is a tuple where the model has several outputs. Outputs have the type of
        the inputs of numbers if these have one type, and else float32.

        On ``cuda:N``, tensors of that GPU are taken where they lie, on the stream that torch has there:
        nothing is copied or waited for, and the call may be captured in a CUDA graph. For other libraries
        the call waits for its end. Tensors of the CPU are copied there and back.

        Raises ``ValueError``, which names the tensor and the axis.
        """
        outputs, state = self._run(tensors, state, params, named)
        return (outputs[0] if len(outputs) == 1 else outputs), state

    def _run(self, tensors, state, params, named, keeps=True):
        if not params and not named and len(tensors) == len(self._names):
            inputs, params = tensors, []
        elif not params and not tensors and len(named) == len(self._names) and all(
            name in named for name in self._names
        ):
            inputs, params = [named[name] for name in self._names], []
        else:
            inputs, params = self._sort(tensors, params or {}, named)
        if is_torch(inputs[0]) or any(is_torch(t) for t in itertools.chain(inputs, params)):
            return _call_of_torch()(self, inputs, params, state, keeps)
        states, position = self._states(state)
        if self._place_of_dlpack not in (None, (1, 0)) and device_of(inputs[0]) != (1, 0):
            outputs, states = self._on_gpu(inputs, params, states, position)
            position += inputs[0].shape[1]
        else:
            outputs, states, position = self._native(inputs, params, states, position)
        back = returner(inputs)
        names = (port.name for port in self.states)
        carried = {name: back(tensor) for name, tensor in zip(names, states)}
        return tuple(back(output) for output in outputs), State(carried, position)

    def _on_gpu(self, inputs, params, states, position):
        """A call with tensors of a GPU that are not of torch: it waits for its end."""
        found = _native.call_on_device(self._program, inputs, params, states or [], position, True)
        if isinstance(found, list):
            ports = (self.inputs, self.params, self.states)
            named = ", ".join(f"`{ports[kind][at].name}` as {dtype}" for kind, at, dtype in found)
            raise ValueError(
                f"the kernels of {self.name} read {named}, row-major and at an address that 16 divides: "
                "bring it into that form"
            )
        return found

    def _native(self, inputs, params, states, position, names=""):
        """A call without any conversion. ``names``: of the parameters, if they are not in order."""
        params = self._in_order(params, names)
        outputs, states, position, copied = self._program.call(
            list(inputs), list(params), states, position
        )
        if copied:
            names = ", ".join(f"`{name}`" for name in copied)
            warnings.warn(
                f"{names} of {self.name} did not lie row-major and was copied: .contiguous() avoids it",
                CopyWarning,
                stacklevel=5,
            )
        return outputs, states, position

    def _in_order(self, params, names):
        """Parameters in the model's order."""
        if not names:
            return params
        given = dict(zip(names.split(","), params))
        return [given[port.name] for port in self.params]

    def _backward(self, inputs, params, states, position, names, gradients):
        """Derivatives by the tensors of a call, in their order; ``gradients`` are those of its results."""
        by_inputs, by_params, by_states = self._program.backward(
            list(inputs),
            list(self._in_order(params, names)),
            states,
            position,
            list(gradients[: len(self.outputs)]),
            list(gradients[len(self.outputs) :]),
        )
        if names:
            named = {port.name: by for port, by in zip(self.params, by_params)}
            by_params = [named[name] for name in names.split(",")]
        return (*by_inputs, *by_params, *(by_states if states is not None else ()))

    def _sort(self, tensors, params, named):
        """Inputs and parameters in the model's order."""
        takes = [port.name for port in self.inputs]
        parameters = [port.name for port in self.params]
        if len(tensors) > len(takes):
            raise ValueError(
                f"{self.name} takes {len(takes)} inputs ({', '.join(takes)}), {len(tensors)} are given"
            )
        given = dict(zip(takes, tensors))
        for name, tensor in itertools.chain(named.items(), params.items()):
            if name in given:
                raise ValueError(f"`{name}` is given twice")
            if name not in takes and name not in parameters:
                raise ValueError(
                    f"{self.name} takes nothing called `{name}`; its inputs are {', '.join(takes)}"
                    + (f", its parameters {', '.join(parameters[:12])}" if parameters else "")
                )
            given[name] = tensor
        for port in self.inputs:
            if port.name not in given:
                raise ValueError(f"`{port.name}` is missing: give a tensor of shape {port.text}")
        brings = any(name in given for name in parameters)
        for port in self.params if brings else ():
            if port.name not in given:
                raise ValueError(
                    f"the parameter `{port.name}` is missing: give a tensor of shape {port.text}"
                )
        inputs = [given[name] for name in takes]
        return inputs, [given[name] for name in parameters] if brings else []

    def _states(self, state):
        """The tensors of a state in the model's order, and the position."""
        if state is None:
            return None, 0
        tensors, position = state
        for name in tensors:
            if not any(port.name == name for port in self.states):
                known = ", ".join(port.name for port in self.states)
                raise ValueError(f"{self.name} has no state `{name}`; it has {known}")
        for port in self.states:
            if port.name not in tensors:
                raise ValueError(
                    f"the state `{port.name}` is missing: give a tensor of shape {port.text}"
                )
        return [tensors[port.name] for port in self.states], int(position)

    def initial_params(self, seed: int = 0, like: Any = None) -> dict[str, Any]:
        """The parameters as training starts from, by name: what the model text says of each.

        ``like``: a tensor of the library whose tensors these shall be. Without it, they are
        :class:`Tensor`, which ``from_dlpack`` of any library takes.
        """
        back = returner([] if like is None else [like])
        tensors = self._program.initial_params(seed)
        return {port.name: back(tensor) for port, tensor in zip(self.params, tensors)}

    def plan(self) -> str:
        """The kernels, what each fuses and what each costs. On the CPU, which has none: those of the
        profile's GPU."""
        return self._program.plan()

    def report(self) -> str:
        """The plans as a page, which needs nothing beside it: the kernels of each layer as a graph, what each
        costs and why its neighbours are no part of it, before and after, memory, sources.
        ``open("report.html", "w").write(model.report())``; a notebook shows it by itself. Of a large model it takes
        seconds, once."""
        if self._page is None:
            self._page = self._program.report()
        return self._page

    def explain(self, a: str | None = None, b: str | None = None) -> str:
        """Why the kernels are what they are. With two values of the model: are they computed in one kernel,
        and if not, by which rule, or at what price."""
        return self._program.explain(a, b)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The generated kernels: ``model.kernels[0].source``."""
        return tuple(Kernel(*kernel) for kernel in self._program.kernels())

    @property
    def prelude(self) -> str:
        """The primitives that the kernels include."""
        return self._program.prelude()

    def __deepcopy__(self, memo: Any) -> "Model":
        # Nothing in it changes.
        return self

    def __reduce__(self) -> tuple:
        # What it is made of, compiled again where it is taken out: a path has to be there as well.
        return type(self), (self._options,)

    def __repr__(self) -> str:
        takes = ", ".join(f"{port.name}{port.text}" for port in self.inputs)
        gives = ", ".join(f"{port.name}{port.text}" for port in self.outputs)
        return f"<fusec model {self.name} on {self.device}: {takes} -> {gives}>"

    def _repr_html_(self) -> str:
        name = html.escape(repr(self))
        # Nobody who looks at a model wants to wait: a page of many kernels takes seconds to be made.
        if self._page is None and len(self._program.kernels()) > _FEW_KERNELS:
            plan = html.escape(self.plan())
            return f"<b>{name}</b><pre>{plan}</pre><p><code>.report()</code> makes the page of it.</p>"
        page = html.escape(self.report())
        return (
            f'<b>{name}</b><iframe title="{html.escape(self.name)}" srcdoc="{page}" '
            'style="width: 100%; height: 45em; border: 0"></iframe>'
        )


class Recurrence(Model):
    """A recurrence as an operator. Made by :func:`recurrence`."""

    @property
    def text(self) -> str:
        """The model text that the step became."""
        return self._options["text"]

    def __call__(
        self,
        *tensors: Any,
        state: State | None = None,
        return_state: bool = False,
        params: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Any:
        """``y = op(r=r, w=w, k=k, v=v)``; with ``return_state=True``, ``(y, state)``.

        Tensors are ``[B, T, axes...]``, constants ``[axes...]``. See :meth:`Model.__call__`.
        """
        outputs, state = self._run(tensors, state, params, named, return_state)
        y = outputs[0] if len(outputs) == 1 else outputs
        return (y, state) if return_state else y


def compile(
    model: str | os.PathLike[str],
    *,
    dtype: str = "f32",
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    axes: Mapping[str, int] | None = None,
    settings: Mapping[str, float | str | bool] | None = None,
    plan: str = "auto",
    shape: tuple[int, int] = (8, 2048),
    profile: str = "h200",
    offline: bool = False,
) -> Model:
    """Compiles a model.

    ``model``: the path of a model text (``.toml``), of a directory with one, or of a checkpoint; or, if it
    has more than one line, the text itself.

    ``dtype``: in which type kernels store activations and matrices: ``f32``, ``bf16``, ``f16``; states,
    norms and decays are float32 always. The CPU computes in f32.
    ``device``: ``auto``, ``cpu``, ``emulator``, ``cuda:N``.
    ``weights``: a checkpoint, ``random:SEED`` (for checks), or ``initial:SEED`` (as training starts). A
    checkpoint has its own. A text without weights takes its parameters in every call.
    ``preset``, ``axes``, ``settings``: other sizes and settings of the model text.
    ``plan``: how kernels are chosen: ``auto``, ``greedy``, ``unfused``, ``random:SEED``.
    ``shape``: batch and tokens of the run that costs are computed for; the kernels run at any.
    ``profile``: the GPU whose costs are used. ``offline``: fetch no compiler.

    Raises :class:`ModelError` with the place in the text, ``FileNotFoundError``, ``ValueError`` for wrong
    arguments, :class:`FusecError` where something failed.
    """
    is_text = isinstance(model, str) and "\n" in model
    return Model(
        dict(
            path=None if is_text else os.fspath(model),
            text=model if is_text else None,
            preset=preset,
            axes=dict(axes or {}),
            settings=dict(settings or {}),
            weights=None if weights is None else os.fspath(weights),
            dtype=dtype,
            device=device,
            plan=plan,
            shape=tuple(shape),
            profile=profile,
            offline=offline,
        )
    )


def recurrence(
    step: str,
    *,
    axes: Mapping[str, int],
    inputs: str | None = None,
    constants: str | None = None,
    state: str | None = None,
    outputs: str | None = None,
    dtype: str = "f32",
    device: str = "auto",
    plan: str = "auto",
    shape: tuple[int, int] = (8, 2048),
    profile: str = "h200",
    offline: bool = False,
) -> Recurrence:
    """Compiles the step equations of a recurrence to an operator on tensors ``[B, T, axes...]``.

    Each name says over which axes it runs where it is first written; what is read and never assigned is an
    input, what is read before it is assigned is a state (and begins at 0), and what else is assigned and
    has axes is an output::

        op = fusec.recurrence(
            "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)",
            axes=dict(H=4, i=16, j=16),
        )
        y = op(r=r, w=w, k=k, v=v)

    The same can be said beside the step, in the notation of model texts: ``inputs="r[H, j], w[H, j]"``,
    ``state="m[H] = -inf"`` (which begins at minus infinity), ``outputs="y[H, i]"``. ``constants`` are inputs
    without batch and time: ``constants="A"``. Inputs are taken in the order in which they appear.

    For the other arguments see :func:`compile`. Raises :class:`ModelError` with the place in the step.
    """
    text = _native.recurrence_text(
        step,
        list(axes.items()),
        inputs=inputs,
        constants=constants,
        state=state,
        outputs=outputs,
    )
    return Recurrence(
        dict(
            text=text,
            dtype=dtype,
            device=device,
            plan=plan,
            shape=tuple(shape),
            profile=profile,
            offline=offline,
        )
    )


def toolchain(*, offline: bool = False) -> dict[str, str]:
    """The CUDA compiler (NVRTC) that ``device="cuda:N"`` uses: ``path``, ``version``, ``origin``.

    The ``nvidia-cuda-nvrtc`` package of this environment comes first, then a copy that was fetched before,
    then the system's; else one is fetched, unless ``offline``. ``FUSEC_NVRTC`` names another one.
    """
    path, version, origin = _native.toolchain_info(offline=offline, nvrtc=_nvrtc_directories())
    return {"path": str(path), "version": version, "origin": origin}


def _nvrtc_directories() -> list[str]:
    """Where NVIDIA's packages for Python put the library, newest first."""
    try:
        found = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    roots = list(found.submodule_search_locations or []) if found else []
    return [
        os.path.join(root, *parts)
        for root in roots
        for parts in (("cu13", "lib"), ("cuda_nvrtc", "lib"))
        if os.path.isdir(os.path.join(root, *parts))
    ]
