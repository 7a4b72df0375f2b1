"""Kernels as PTX, without a GPU: all that knows numba-cuda's compiler. The driver makes machine code of it.

What was compiled is kept on disk, by the sources of this room, the versions of what compiles, the types and the compute
capability. An entry is written as a whole or not at all, carries a checksum, and is compiled anew where it is missing
or damaged; a folder that cannot be written is no error.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda, types

from cnnkit.rooms.cuda import convolve, matrix, windows

LABEL = b"cnnkit ptx "


RESIDENT = 384  # threads that a multiprocessor must have room for: 65536 registers are 168 for each


class Kernel(NamedTuple):
    """One kernel: how it is made for a type of number, the types of its arguments, how many threads run it."""

    make: Callable[[Any], Any]
    arguments: tuple[Any, ...]
    threads: int
    dtypes: tuple[str, ...] = ("float32", "float64")
    resident: int = RESIDENT


TALL = {"float32": 8, "float64": 4}  # rows of `product` a thread: as many as there are registers for
ELEMENTWISE = 128  # threads in a block where each owns one number
NUMBERS = "numbers"  # stands for a pointer to numbers of the kernel's dtype
SUMS, NUMBER = "sums", "number"  # for a pointer to what they are summed in, and for one such number
HALVES = ("float16", "bfloat16")  # pointers to them are pointers to 16 bits
TABLE, FACTORS, PLACES = types.CPointer(types.int32), types.CPointer(types.float64), types.CPointer(types.int64)
INT = types.int32


def _ints(n: int) -> Any:
    return types.UniTuple(INT, n)


STEPS = types.UniTuple(types.int64, 5)
CONV = (NUMBER, _ints(8), _ints(9), _ints(9), STEPS, STEPS, STEPS, types.UniTuple(types.int64, 4))
DEPTHWISE = (_ints(8), _ints(9), _ints(9), STEPS, STEPS, STEPS)
RADIX = types.UniTuple(types.int64, 9)
MATRIX = (_ints(9), NUMBER, RADIX, RADIX, _ints(3), _ints(9), _ints(5), _ints(2), types.UniTuple(types.int64, 7))
TOTALS = (SUMS, NUMBERS, INT, INT, _ints(4), INT, types.UniTuple(types.int64, 1), STEPS, STEPS)
AVERAGES = (NUMBERS, TABLE, FACTORS, NUMBERS, INT, _ints(4), _ints(3), INT, STEPS, STEPS)
MAXIMA = (NUMBERS, TABLE, NUMBERS, PLACES, INT, _ints(4), _ints(3), INT, INT, _ints(3), STEPS, STEPS, STEPS)


def _matrix(back: bool, tile: matrix.Tile, dtypes: tuple[str, ...]) -> Kernel:
    arguments = (NUMBERS, NUMBERS, NUMBERS, SUMS if back else NUMBERS, *MATRIX)
    return Kernel(lambda real: matrix.product(str(real), back, tile), arguments, tile.threads, dtypes, 2 * tile.threads)


KERNELS = {
    "averages": Kernel(lambda real: windows.averages(real, False), AVERAGES, ELEMENTWISE),
    "averages_back": Kernel(lambda real: windows.averages(real, True), AVERAGES, ELEMENTWISE),
    "maxima": Kernel(windows.maxima, MAXIMA, ELEMENTWISE),
    "product": Kernel(lambda real: convolve.product(real, TALL[real.name]), (NUMBERS,) * 4 + CONV, convolve.THREADS),
    "direct": Kernel(convolve.direct, (NUMBERS,) * 4 + (INT, _ints(4), *CONV), ELEMENTWISE),
    "weight_gradient": Kernel(convolve.weight_gradient, (NUMBERS,) * 3 + DEPTHWISE, convolve.REDUCERS),
    "totals": Kernel(convolve.totals, TOTALS, ELEMENTWISE, ("float32", "float64", *HALVES)),
    "matrix": _matrix(False, matrix.WIDE, (*HALVES, "float32")),  # for float32 this is tf32
    "matrix_slim": _matrix(False, matrix.SLIM, (*HALVES, "float32")),
    "matrix_back": _matrix(True, matrix.WIDE, HALVES),
    "matrix_back_slim": _matrix(True, matrix.SLIM, (*HALVES, "float32")),
}


def ptx(name: str, dtype: str, capability: tuple[int, int]) -> bytes:
    """The kernel `name` for numbers of `dtype`, from the disk or compiled; its entry is ``cnnkit_NAME``."""
    key = hashlib.sha256(repr((_everything(), name, dtype, capability)).encode()).hexdigest()
    path = folder() / f"{key}.ptx"
    code = _read(path)
    if code is None:
        code = compile_ptx(name, dtype, capability)
        with suppress(OSError):
            _write(path, code)
    return code


def compile_ptx(name: str, dtype: str, capability: tuple[int, int]) -> bytes:
    if not hasattr(np, "row_stack"):  # gone in NumPy 2.5; numba-cuda 0.30 still asks for it
        np.vstack = np.vstack
    kernel, half = KERNELS[name], dtype in HALVES
    summed = types.float32 if half else getattr(types, dtype)
    given = {NUMBERS: types.CPointer(types.int16 if half else summed), SUMS: types.CPointer(summed), NUMBER: summed}
    signature = tuple(given.get(one, one) for one in kernel.arguments)
    bounds = (kernel.threads, kernel.resident // kernel.threads)
    code, _ = cuda.compile_ptx(kernel.make(dtype if half else summed), signature, cc=capability, launch_bounds=bounds)
    entry = next(line for line in code.splitlines() if ".entry" in line).split(".entry")[1].strip().rstrip("(")
    return code.replace(entry, f"cnnkit_{name}").encode()


def folder() -> Path:
    """Where compiled kernels are kept."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cnnkit"


@lru_cache
def _everything() -> tuple[str, ...]:
    """All that PTX depends on, but for its types: the sources of this room and what compiles them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest(), numba.__version__, cuda.__file__ or "", getattr(cuda, "__version__", "")


def _read(path: Path) -> bytes | None:
    """An entry, if it is there and as it was written."""
    with suppress(OSError):
        head, _, code = path.read_bytes().partition(b"\n")
        if head == LABEL + hashlib.sha256(code).hexdigest().encode():
            return code
    return None


def _write(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(LABEL + hashlib.sha256(code).hexdigest().encode() + b"\n" + code)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
