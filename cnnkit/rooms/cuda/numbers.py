"""How kernels read and write numbers of a dtype: halves are made float32 on the way in, and rounded on the way out."""

from typing import Any

from numba import cuda, types

from cnnkit.rooms.cuda.instructions import NARROW, WIDEN

part: Any = cuda.jit(device=True, inline="always")  # see `places`


@part
def same(value):
    return value


def numbers(kind: Any) -> tuple[Any, Any, Any]:
    """What numbers are summed in, and the functions that read and write one; halves are known by name."""
    if kind in WIDEN:
        return types.float32, WIDEN[kind], NARROW[kind]
    return kind, same, same
