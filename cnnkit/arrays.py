"""What an array is: its library, its dtype, its memory order; every complaint about one is made here."""

import sys
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray; which one is known at run time only

FLOATS = (np.dtype("float32"), np.dtype("float64"))  # computed as they are; where they are taken, halves are too
HALVES = ("float16", "bfloat16")  # by name: the second is a dtype of ml_dtypes, which need not be there
INTEGERS = tuple(np.dtype(kind) for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"))
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}  # by bytes
BOOLS = (np.dtype("bool"),)
OPTIONAL = ("bias", "gamma", "beta", "running_mean", "running_var")  # arguments that may be None


class ForeignArrayError(TypeError):
    """An array of another library where one of NumPy or CuPy is needed; `foreign.any_library` knows what to do."""


def family(array: Any) -> str | None:
    """The library that an array belongs to, "numpy" or "cupy"; None if it is no array of either."""
    if isinstance(array, np.ndarray):
        return "numpy"
    return "cupy" if type(array).__module__.partition(".")[0] == "cupy" and hasattr(array, "strides") else None


def namespace(array: Array) -> Any:
    """The module whose functions make and take this array."""
    return sys.modules[family(array) or "numpy"]


def on_host(array: Array) -> Array:
    """The array in the memory of the processor: itself, or a copy of what is on the GPU."""
    return array.get() if family(array) == "cupy" else array


def beside(array: Array, other: Array) -> Array:
    """The array in the memory where `other` is, and of its library."""
    return namespace(other).asarray(array) if family(other) == "cupy" else on_host(array)


def check(dtypes: tuple[np.dtype, ...] = FLOATS, **given: Any) -> list[Array]:
    """The given arrays in a form that every backend takes; one library and one dtype for all of them.

    Returns
    -------
    list
        The arrays themselves; unaligned and byte-swapped ones as plain copies.
    """
    first = None
    checked: list[Array] = []
    for name, array in given.items():
        if array is not None or name not in OPTIONAL:
            array = plain(array, name, dtypes)
            if first is None:
                first = array
            elif type(array) is not type(first) or array.dtype is not first.dtype:
                one_library(**{next(iter(given)): first, name: array})
                _one_dtype(**{next(iter(given)): first, name: array})
        checked.append(array)
    return checked


def plain(array: Any, name: str, dtypes: tuple[np.dtype, ...] = FLOATS) -> Array:
    """`array` itself if it is an aligned, native array of one of `dtypes`; a copy if only its bytes lie otherwise."""
    if type(array) is np.ndarray and array.dtype in dtypes and array.flags.aligned:
        return array
    _refuse_foreign(array, name, dtypes)
    native = _native(array.dtype)
    if native not in dtypes and not (FLOATS[0] in dtypes and is_half(native)):
        raise TypeError(f"{name} is {array.dtype}, but {_either(dtypes)} is needed")
    if family(array) == "numpy":
        return np.require(np.asarray(array), native, "A")
    return array


@lru_cache
def is_half(dtype: np.dtype) -> bool:
    """Whether a dtype is stored as it is and computed in float32."""
    return dtype.name in HALVES


def accumulator(dtype: np.dtype) -> np.dtype:
    """What numbers of a dtype are summed in: float32 for halves."""
    return FLOATS[0] if is_half(dtype) else dtype


def rounded(array: Array, dtype: np.dtype) -> Array:
    """The numbers in the given dtype, to the nearest; what is too large is infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def _native(dtype: np.dtype) -> np.dtype:
    """The dtype in the machine's byte order; those of ml_dtypes always are, and their `newbyteorder` forgets them."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _refuse_foreign(array: Any, name: str, dtypes: tuple[np.dtype, ...] = FLOATS) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, but cnnkit knows no masks: write {name}.filled(value)")
    if family(array):
        return
    if array is None:
        raise TypeError(f"{name} is None, but an array is needed")
    if hasattr(array, "__dlpack__"):
        raise ForeignArrayError(
            f"{name} is a {kind(array)}, but a numpy or cupy array is needed: numpy.from_dlpack({name}) makes one"
        )
    dtype = "float32" if FLOATS[0] in dtypes else "bool" if dtypes is BOOLS else "int64"
    raise TypeError(f"{name} is a {kind(array)}, but an array is needed: write numpy.asarray({name}, dtype='{dtype}')")


def kind(value: Any) -> str:
    """What something is called in a complaint: its type, in full."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _either(dtypes: tuple[np.dtype, ...]) -> str:
    names = [*(HALVES if FLOATS[0] in dtypes else ()), *map(str, dtypes)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def empty(shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """A new array of `like`'s library and, unless given, dtype; channels-last if `like` (N, C, *spatial) is.

    A shape of one axis less is that of an unbatched array.
    """
    make = np.empty if type(like) is np.ndarray else namespace(like).empty
    dtype = like.dtype if dtype is None else dtype
    if like.flags.c_contiguous:
        return make(shape, dtype)
    if len(shape) == like.ndim - 1:
        return empty((1, *shape), like, dtype)[0]
    if len(shape) != like.ndim or not channels_last(like):
        return make(shape, dtype)
    memory = make((shape[0], *shape[2:], shape[1]), dtype)
    return memory.transpose(0, len(shape) - 1, *range(1, len(shape) - 1))


def channels_last(array: Array) -> bool:
    """Whether channels lie closest together: an (N, *spatial, C) array seen as (N, C, *spatial)."""
    if array.ndim < 3 or array.shape[1] < 2:
        return False
    spatial = [abs(step) for step, n in zip(array.strides[2:], array.shape[2:], strict=True) if n > 1]
    return 0 < abs(array.strides[1]) < min(spatial, default=0)


def lift(array: Array) -> Array:
    """(N, C, *spatial) over three spatial axes, as `geometry.lift` does with plans: axes of size 1 are put in front."""
    return array[_LIFT[array.ndim]]


_LIFT = {ndim: (slice(None), slice(None), *(None,) * (5 - ndim)) for ndim in (3, 4, 5)}


def one_library(**given: Any) -> None:
    """Two arrays of different dtypes still belong to one library."""
    (first, a), (second, b) = given.items()
    if family(a) != family(b) or (family(a) is None and home(a) is not home(b)):
        names = library(b), library(a)
        raise TypeError(f"{second} is a {names[0]} array, but {first} is a {names[1]} array: one library a call")


def library(array: Any) -> str:
    """The name of an array's library."""
    return family(array) or getattr(home(array), "__name__", kind(array)).partition(".")[0]


def home(array: Any) -> Any:
    """The module that makes foreign arrays like this one from others through DLPack; None if there is none."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    bases: Any = type(array).__mro__
    return _home(bases)


@lru_cache
def _home(bases: tuple[type, ...]) -> Any:
    modules = [sys.modules.get(base.__module__.partition(".")[0]) for base in bases]
    return next((module for module in modules if hasattr(module, "from_dlpack")), None)


def _one_dtype(**given: Array) -> None:
    (first, a), (second, b) = given.items()
    if a.dtype != b.dtype:
        raise TypeError(f"{second} is {b.dtype}, but {first} is {a.dtype}: one dtype a call")


def within(numbers: Array, stop: int) -> bool:
    """Whether all of these integers are from 0 to ``stop - 1``, in one pass: negative ones are large without a sign.

    Of an array on the GPU this is not asked: the answer would take the host to wait for all that was started there.
    Rooms that take such arrays read and write nothing beyond their own arrays, whatever the numbers are.
    """
    if family(numbers) != "numpy":
        return True
    bits = 8 * numbers.itemsize - (numbers.dtype.kind == "i")
    positive = numbers.view(UNSIGNED[numbers.itemsize])
    return not numbers.size or int(np.maximum.reduce(positive, None)) < min(stop, 1 << bits)


def _overlap(a: Array, b: Array) -> bool:
    """Whether two arrays have an element in common; where that is too hard to say, whether their bounds overlap."""
    if family(a) != "numpy":
        return bool(namespace(a).may_share_memory(a, b))
    if not np.may_share_memory(a, b):
        return False
    enough: Any = 100_000  # solving the question exactly can take forever
    try:
        return np.shares_memory(a, b, max_work=enough)
    except np.exceptions.TooHardError:
        return True


def state(inputs: dict[str, Any], **given: Any) -> None:
    """Complain unless the `given` arrays, which were checked, may be changed in place: like `out`, they are no inputs.

    `inputs` are, by name, the arrays that must stay as they are.
    """
    others = dict(inputs)
    for name, array in given.items():
        if array is None:
            continue
        if not getattr(array.flags, "writeable", True):
            raise ValueError(f"{name} is read-only, but is updated in training")
        for other, one in others.items():
            if one is not None and _overlap(array, one):
                raise ValueError(f"{name} shares memory with {other}, but is updated in training: give another array")
        others[name] = array


def result(out: Any, shape: tuple[int, ...], like: Array, inputs: tuple[Array | None, ...]) -> Array:
    """`out` after a check that it can take the result, or a new array where it is None."""
    if out is None:
        return empty(shape, like)
    _refuse_foreign(out, "out")
    if family(out) != family(like):
        raise TypeError(f"out is a {family(out)} array, but the inputs are {family(like)} arrays: one library a call")
    if out.dtype != like.dtype:
        raise TypeError(f"out is {out.dtype}, but the result is {like.dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {shape}")
    if not getattr(out.flags, "writeable", True) or not getattr(out.flags, "aligned", True):
        raise ValueError("out is read-only or unaligned, but must take the result")
    for one in inputs:
        if one is not None and _overlap(out, one):
            raise ValueError("out shares memory with an input, but inputs are never written: give another array")
    return out
