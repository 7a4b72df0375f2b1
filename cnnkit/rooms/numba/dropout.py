"""Dropout: what is kept, scaled; zeros elsewhere."""

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.activation import in_memory_order
from cnnkit.rooms.numba.machine import kernel


def dropout(x: Array, kept: Array, scale: float, out: Array) -> None:
    threads.run(_dropout, out.size, out.size / 4, x.dtype.type(scale), *in_memory_order(out, x, kept, out))


@kernel
def _dropout(start, stop, scale, x, kept, out):
    """A work item is a number: three are read and written once, one of them a byte."""
    x, kept, out = x[start:stop], kept[start:stop], out[start:stop]  # indices from 0 on: vectors
    nothing = scale - scale
    for i in range(x.size):
        factor = scale if kept[i] else nothing
        out[i] = x[i] * factor
