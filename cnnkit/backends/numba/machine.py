"""What kernels are compiled for: Numba's settings, this processor's vector registers, the sizes of its caches."""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba

WORKSPACE = 64 << 20  # bytes of scratch memory that one call may take
L2 = 512 << 10  # bytes that a thread can hope to keep near; half of what current cores have


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without the GIL, kept on disk where there is a writable place for it.

    Of fast maths only what keeps NaN and infinities right: fused multiply-add, and sums in vector order.
    """
    settings: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc", "nsz"},
    }
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # Numba found no folder that it can write to: compile anew in each process
        return numba.njit(**settings)(function)


def _vector_unit() -> tuple[int, int]:
    """Bytes in a vector register, and how many registers there are."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx2"):
        return 32, 16
    return 16, 32 if features.get("neon") else 16


VECTOR_BYTES, REGISTERS = _vector_unit()


def describe() -> dict[str, Any]:
    """The processor as the kernels see it, and where compiled kernels are kept."""
    from cnnkit.backends.numba import pool

    cache = getattr(pool._max_planes, "stats", None)
    return {
        "processor": llvm.get_host_cpu_name(),
        "vectors": f"{REGISTERS} registers of {VECTOR_BYTES} bytes",
        "workspace": f"{WORKSPACE >> 20} MiB",
        "cache": getattr(cache, "cache_path", None) or "none: no writable folder was found",
    }
