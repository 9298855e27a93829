"""Array libraries: whose tensors these are, and how results get back to it. None is imported here."""

from __future__ import annotations

import sys
from typing import Any, Callable, Iterable


class CopyWarning(UserWarning):
    """A tensor did not lie row-major, so it was copied. ``x.contiguous()``, once, avoids it."""


def is_torch(tensor: Any) -> bool:
    """Whether it is a tensor of torch. Where torch was never imported, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(tensor, torch.Tensor)


def device_of(tensor: Any) -> tuple[int, int]:
    """Where a tensor lies: DLPack's kind of device (1 the CPU, 2 a GPU) and its number."""
    asked = getattr(tensor, "__dlpack_device__", None)
    kind, number = asked() if asked is not None else (1, 0)
    return int(kind), int(number)


def returner(tensors: Iterable[Any]) -> Callable[[Any], Any]:
    """What makes a result a tensor of the library that the first of these comes from."""
    for tensor in tensors:
        library = type(tensor).__module__.partition(".")[0]
        module = sys.modules.get(library)
        if library in ("jaxlib", "jax"):
            return sys.modules["jax"].dlpack.from_dlpack
        if module is not None and hasattr(module, "from_dlpack"):
            return module.from_dlpack
    return lambda result: result
