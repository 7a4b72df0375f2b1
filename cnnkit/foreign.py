"""Arrays of other libraries, such as torch tensors: in where their memory is, out as the same library's, by DLPack.

Arrays of NumPy and CuPy pay next to nothing for it: a public function runs as it is written, until its check meets a
foreign array. Then it is called once more, with NumPy or CuPy views of the same memory.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import numpy as np

from cnnkit import arrays, dispatch
from cnnkit.arrays import Array

Function = TypeVar("Function", bound=Callable[..., Any])

HOST, DEVICE = (1, 3), (2, 13)  # DLPack's numbers: of the processor's memory (pinned by CUDA), and of CUDA's (managed)


def any_library(function: Function) -> Function:
    """Let a public function take and return arrays of any library that has ``from_dlpack``."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except arrays.ForeignArrayError:
            arguments = dict(zip(_names(function), args, strict=False)) | kwargs
            given = {name: value for name, value in arguments.items() if hasattr(value, "__dlpack__")}
            if not given or not all(arrays.family(value) or arrays.home(value) for value in given.values()):
                raise  # what comes out could not go back
        return _abroad(function, arguments, given)

    return call  # type: ignore[return-value]


@lru_cache
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _abroad(function: Callable[..., Any], arguments: dict[str, Any], given: dict[str, Any]) -> Any:
    first, *others = given
    for name in others:
        if type(given[name]) is not type(given[first]):
            arrays.one_library(**{first: given[first], name: given[name]})
    views = {name: _view(array, name, function.__name__) for name, array in given.items()}
    result = function(**(arguments | views))
    return _returned(result, given[first], {id(view): given[name] for name, view in views.items()})


def _view(array: Any, name: str, function: str) -> Array:
    """A foreign array's memory as a NumPy or CuPy array."""
    what = f"{name} is a {arrays.kind(array)}"
    if getattr(array, "requires_grad", False):
        raise TypeError(
            f"{what} that requires grad, but no graph is kept here: give {name}.detach(), or call "
            f"cnnkit.interop.torch.{function.removesuffix('_backward')}"
        )
    try:
        place = int(array.__dlpack_device__()[0])
        if place in HOST:
            return _read(array, np)
        if place in DEVICE and not dispatch.why_not("cupy"):
            return _read(array, sys.modules["cupy"])
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{what} of {array.dtype} that DLPack cannot hand over: {reason}") from None
    if place in DEVICE:
        raise ImportError(f"{what} in CUDA memory, which CuPy must compute with: {dispatch.why_not('cupy')}")
    raise TypeError(f"{what} on {array.device}, but memory of the CPU or of CUDA is needed")


def _returned(result: Any, like: Any, originals: dict[int, Any]) -> Any:
    """The arrays of a result as arrays of `like`'s library; those that were given, as they were given."""
    if isinstance(result, tuple):
        parts = [_returned(part, like, originals) for part in result]
        return result._make(parts) if hasattr(result, "_make") else tuple(parts)
    if id(result) in originals:
        return originals[id(result)]
    if isinstance(result, np.generic):
        result = np.asarray(result)
    return _written(result, like) if arrays.family(result) else result


def _read(array: Any, xp: Any) -> Array:
    if hasattr(array, "resolve_neg"):  # the sign that torch keeps as a note beside the memory, DLPack does not tell
        array = array.resolve_neg()
    if not _is_bfloat16(array.dtype):
        return xp.from_dlpack(array)
    if isinstance(array.dtype, np.dtype):
        return xp.asarray(array)
    bits = array.view(arrays.home(array).int16)
    return xp.from_dlpack(bits).view(_bfloat16())


def _written(array: Array, like: Any) -> Any:
    """The way back of `_read`: NumPy's DLPack does not know bfloat16, so it goes as bits or, to JAX, as a copy."""
    home = arrays.home(like)
    if not _is_bfloat16(array.dtype):
        return home.from_dlpack(array)
    if isinstance(like.dtype, np.dtype):
        return home.asarray(array)
    return home.from_dlpack(array.view("int16")).view(home.bfloat16)


def _bfloat16() -> Any:
    try:
        return importlib.import_module("ml_dtypes").bfloat16
    except ImportError as error:
        raise ImportError(f'NumPy has no bfloat16 by itself: pip install "cnnkit[bfloat16]" ({error})') from None


@lru_cache
def _is_bfloat16(dtype: Any) -> bool:
    return str(dtype).rpartition(".")[2] == "bfloat16"  # torch's is called torch.bfloat16
