"""Waiting for a word of memory to change, awake and without the GIL: a sleeping thread takes a tenth of a millisecond
and more to wake, a spinning one less than a microsecond."""

import time
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from cnnkit.rooms.numba.machine import kernel

RESTS = {"x86_64": ("llvm.x86.sse2.pause",), "aarch64": ("llvm.aarch64.isb", 15)}  # a moment's rest for the core
REST = RESTS.get(llvm.get_process_triple().split("-")[0], ())


@intrinsic
def _pause_and_load(typing: Any, address: Any) -> Any:
    """The int64 at an address as other threads left it, after a moment's rest."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for name, *numbers in [REST] if REST else []:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(numbers))
            rest = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(rest, [ir.Constant(ir.IntType(32), number) for number in numbers])
        pointer = builder.inttoptr(args[0], cgutils.intp_t.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), emit


@kernel
def spin(word, seen, turns, more):
    """Whether the int64 at address `word` is another than `seen`, now or within so many turns; after some `more`."""
    for _ in range(turns):
        if _pause_and_load(word) != seen:
            for _ in range(more):
                _pause_and_load(word)
            return True
    return False


@lru_cache
def turns(seconds: float) -> int:
    """How many turns take about so long."""
    still = np.zeros(1, np.int64)

    def thousand() -> float:
        start = time.perf_counter()
        spin(still.ctypes.data, 0, 1000, 0)
        return time.perf_counter() - start

    return max(1, int(1000 * seconds / min(thousand() for _ in range(4))))
