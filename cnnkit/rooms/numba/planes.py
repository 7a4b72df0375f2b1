"""How pooling takes arrays: planes one behind the other, or pixels whose channels lie together."""

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.vectors import lanes, load, size, splat, store, store_all


def channels_together(result: Array, like: Array) -> bool:
    """Whether channels lie closest together in the result and in what it is made of, or can only lie so."""
    if result.flags.c_contiguous and (like.flags.c_contiguous or not arrays.channels_last(like)):
        return False
    return channels_behind(result).flags.c_contiguous


def channels_behind(array: Array) -> Array:
    return array.transpose(0, *range(2, array.ndim), 1)


def dense(array: Array, by_channels: bool) -> Array:
    """The array itself if it lies without gaps in the order that a kernel fills, else a new one."""
    if by_channels:
        last = channels_behind(array)
        return array if last.flags.c_contiguous else np.moveaxis(np.empty(last.shape, array.dtype), -1, 1)
    return array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)


def gapless(array: Array, by_channels: bool) -> Array:
    """The array without gaps, in the order that a kernel reads."""
    if by_channels:
        return np.ascontiguousarray(channels_behind(array))
    return np.ascontiguousarray(array)


@kernel
def fill(value, to, count):
    numbers, last = splat(value, value), count - count % lanes(value)
    for p in range(0, last, lanes(value)):
        store_all(to + p * size(value), numbers)
    if last < count:
        store(to + last * size(value), numbers, count - last)


@kernel
def copy(like, source, to, count):
    for p in range(0, count, lanes(like)):
        store(to + p * size(like), load(source + p * size(like), count - p, like), count - p)
