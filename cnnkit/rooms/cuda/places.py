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
