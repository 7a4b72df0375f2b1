"""The fastest that this machine multiplies and adds: the room's own tiles, fed from the first-level cache."""

import time

import numpy as np

from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.tile import Tile, outer, tiles

TERMS, TRIES = 256, 7  # the operands of so many terms are some 10 KiB
ITEM = 0.005  # seconds that a thread works at a time


def flops_per_second(dtype: str) -> float:
    """Of the best tile, in the best of some tries, on as many threads as are set."""
    return max(_rate(tile, np.dtype(dtype)) for tile in tiles("outer", np.dtype(dtype)))


def _rate(tile: Tile, dtype: np.dtype) -> float:
    n = threads.get_num_threads()
    a, b, offsets = np.zeros(TERMS * tile.rows, dtype), np.zeros(tile.columns, dtype), np.zeros(TERMS, np.int64)
    sums, bias = np.zeros((n, tile.rows, tile.columns), dtype), np.zeros(tile.rows, dtype)
    work = 2 * TERMS * tile.rows * tile.columns

    def seconds(repeats: int) -> float:
        start = time.perf_counter()
        threads.run(_repeat, n, n * 1e9, tile.loop, tile.rows, tile.columns, repeats, sums, bias, a, b, offsets)
        return time.perf_counter() - start

    seconds(1)  # compiled, the threads started
    repeats = int(1000 * ITEM / seconds(1000)) + 1
    return n * work * repeats / min(seconds(repeats) for _ in range(TRIES))


@kernel
def _repeat(start, stop, loop, rows, columns, repeats, sums, bias, a, b, offsets):
    for item in range(start, stop):
        to = sums[item].ctypes.data
        for _ in range(repeats):
            outer(  # type: ignore[call-arg]
                loop, to, columns, rows, columns, bias.ctypes.data, 0,
                a.ctypes.data, b.ctypes.data, offsets.ctypes.data, a.size // rows,
            )  # fmt: skip
