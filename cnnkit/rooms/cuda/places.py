"""Which number of an array a thread owns."""

from typing import Any

import numpy as np
from numba import cuda

part: Any = cuda.jit(device=True, inline="always")  # else numba-cuda asks the GPU, when it compiles, what it is


@part
def place(i, shape, channels_last):
    """The i-th number of an (N, channels, depth, height, width) array in the order of its memory."""
    channels, depth, height, width = np.uint32(shape[0]), np.uint32(shape[1]), np.uint32(shape[2]), np.uint32(shape[3])
    rest, c = np.uint32(i), np.uint32(0)
    if channels_last:
        c = np.uint32(rest % channels)
        rest = np.uint32(rest // channels)
    w = np.uint32(rest % width)
    rest = np.uint32(rest // width)
    h = np.uint32(rest % height)
    rest = np.uint32(rest // height)
    d = np.uint32(rest % depth)
    rest = np.uint32(rest // depth)
    if not channels_last:
        c = np.uint32(rest % channels)
        rest = np.uint32(rest // channels)
    return np.int64(rest), np.int64(c), np.int64(d), np.int64(h), np.int64(w)


@part
def digits(i, radix):
    """The four digits of i, below 2**31: `radix` has the last three radices, each with what divides by it.

    With d the radix, ``i // d`` is ``i * ceil(2**s / d) >> s``, for ``s = 31 + ceil(log2(d))``.
    """
    n = np.uint32(i)
    two = np.uint32((np.uint64(n) * np.uint64(np.uint32(radix[7]))) >> np.uint64(radix[8]))
    one = np.uint32((np.uint64(two) * np.uint64(np.uint32(radix[4]))) >> np.uint64(radix[5]))
    zero = np.uint32((np.uint64(one) * np.uint64(np.uint32(radix[1]))) >> np.uint64(radix[2]))
    last = np.int32(np.int64(n) - np.int64(two) * radix[6])
    third = np.int32(np.int64(two) - np.int64(one) * radix[3])
    second = np.int32(np.int64(one) - np.int64(zero) * radix[0])
    return np.int32(zero), second, third, last


@part
def below(place, size):
    """Whether a place lies in an axis; negative ones are large without a sign."""
    return np.uint32(np.int32(place)) < np.uint32(size)
