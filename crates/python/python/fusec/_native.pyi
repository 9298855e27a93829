import os
from typing import Any, Callable, Sequence

__version__: str

class FusecError(RuntimeError): ...
class ModelError(ValueError): ...

class Tensor:
    """A tensor, row-major; ``from_dlpack`` of any array library takes it without a copy."""

    @property
    def shape(self) -> list[int]: ...
    @property
    def dtype(self) -> str: ...
    def __dlpack__(
        self,
        *,
        stream: Any | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

_Port = tuple[str, bool, str, list[int | None], list[int]]

class Program:
    @staticmethod
    def compile(
        *,
        path: str | os.PathLike[str] | None = None,
        text: str | None = None,
        preset: str | None = None,
        axes: dict[str, int] | None = None,
        settings: dict[str, float | str | bool] | None = None,
        weights: str | None = None,
        device: str = "auto",
        dtype: str = "f32",
        plan: str = "auto",
        profile: str = "h200",
        shape: tuple[int, int] = (8, 2048),
        offline: bool = False,
        nvrtc: Sequence[str | os.PathLike[str]] = (),
    ) -> Program: ...
    def call(
        self,
        inputs: Sequence[Any],
        params: Sequence[Any],
        states: Sequence[Any] | None,
        position: int,
    ) -> tuple[list[Tensor], list[Tensor], int, list[str]]: ...
    def backward(
        self,
        inputs: Sequence[Any],
        params: Sequence[Any],
        states: Sequence[Any] | None,
        position: int,
        outputs: Sequence[Any | None],
        carried: Sequence[Any | None],
    ) -> tuple[list[Tensor | None], list[Tensor], list[Tensor | None]]: ...
    def initial_params(self, seed: int) -> list[Tensor]: ...
    def plan(self) -> str: ...
    def report(self) -> str: ...
    def explain(self, a: str | None = None, b: str | None = None) -> str: ...
    def kernels(self) -> list[tuple[str, str, int, int]]: ...
    def prelude(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def has_weights(self) -> bool: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def inputs(self) -> list[_Port]: ...
    @property
    def outputs(self) -> list[_Port]: ...
    @property
    def params(self) -> list[_Port]: ...
    @property
    def states(self) -> list[_Port]: ...

def toolchain_info(
    *, offline: bool = False, nvrtc: Sequence[str | os.PathLike[str]] = ()
) -> tuple[str, str, str]: ...
def recurrence_text(
    step: str,
    axes: Sequence[tuple[str, int]],
    *,
    inputs: str | None = None,
    constants: str | None = None,
    state: str | None = None,
    outputs: str | None = None,
) -> str: ...
def place_on_device(
    program: Program,
) -> tuple[tuple[int, int], tuple[list[str | None], list[str | None], list[str | None], list[str]]] | None: ...
def call_on_device(
    program: Program,
    inputs: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any | None],
    position: int,
    keeps: bool,
    stream: int | None = None,
    empty: tuple[Callable[..., Any], dict[str, dict[str, Any]]] | None = None,
) -> tuple[list[Any], list[Any]] | list[tuple[int, int, str]]: ...
def backward_on_device(
    program: Program,
    inputs: Sequence[Any],
    params: Sequence[Any],
    states: Sequence[Any | None],
    position: int,
    outputs: Sequence[Any | None],
    carried: Sequence[Any | None],
    stream: int | None = None,
    empty: tuple[Callable[..., Any], dict[str, dict[str, Any]]] | None = None,
) -> tuple[Any, ...] | list[tuple[int, int, str]]: ...
