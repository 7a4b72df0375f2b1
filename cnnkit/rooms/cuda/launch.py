"""Kernels on the GPU: loaded by CuPy once for each device, started on its current stream.

CuPy is imported when there is something to start: kernels can be compiled ahead where there is none.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit.rooms.cuda import compiler, problems

NEWEST = (9, 0)  # later devices run the same PTX


def run(name: str, dtype: Any, grid: tuple[int, int, int], *args: Any) -> None:
    """Start a kernel; arrays are given as what they point to."""
    import cupy

    function = _function(name, dtype.name, cupy.cuda.runtime.getDevice())
    function(grid, (compiler.KERNELS[name].threads, 1, 1), tuple(problems.packed(args)))


@lru_cache
def _function(name: str, dtype: str, device: int) -> Any:
    import cupy

    digits = cupy.cuda.Device(device).compute_capability
    capability = min((int(digits[:-1]), int(digits[-1])), NEWEST)
    module = cupy.cuda.function.Module()
    module.load(compiler.ptx(name, dtype, capability))
    return module.get_function(f"cnnkit_{name}")


def tables(plan: Any, back: bool, divisors: Any) -> tuple[Any, Any]:
    """Tables of windows on the current device; the first call for a plan waits until they are there."""
    import cupy

    return _tables(plan, back, divisors, cupy.cuda.runtime.getDevice())


@lru_cache(128)
def _tables(plan: Any, back: bool, divisors: Any, device: int) -> tuple[Any, Any]:
    import cupy

    found, factors = problems.windows(plan, back, divisors)
    there = cupy.asarray(np.array(found, np.int32)), cupy.asarray(np.array(factors, np.float64))
    cupy.cuda.get_current_stream().synchronize()  # another stream may be the next to read them
    return there
