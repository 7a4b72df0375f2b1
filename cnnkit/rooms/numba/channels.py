"""Sums of channels: what the gradient of a bias is."""

import math

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.softmax import row_sum

TOGETHER = 64  # numbers of neighbouring pixels that are summed as if they were channels, if one pixel has fewer


def sum_channels(x: Array, out: Array) -> None:
    x = arrays.lift(x)
    pixels = x.transpose(0, 2, 3, 4, 1)
    if x.strides[4] == x.itemsize or not pixels.flags.c_contiguous:
        threads.run(_sum_rows, len(out), x.size, x, out)
        return
    width, channels = pixels.shape[3:]
    many = math.gcd(width, max(1, TOGETHER // channels))
    sums = np.empty((many, channels), out.dtype)
    pixels = pixels.reshape(*pixels.shape[:3], width // many, many * channels)
    threads.run(_sum_pixels, sums.size, x.size / 4, pixels, sums.ravel())
    out[...] = sums.sum(0, dtype=np.float64)


@kernel
def _sum_rows(start, stop, x, out):
    """A work item is a channel: rows in vector order, then row by row in float64."""
    batch, _, depth, height, _ = x.shape
    for c in range(start, stop):
        total = np.float64(0)
        for n in range(batch):
            for d in range(depth):
                for h in range(height):
                    total += row_sum(x[n, c, d, h])
        out[c] = total


@kernel
def _sum_pixels(start, stop, pixels, out):
    """A work item is a channel, of pixels (N, D, H, W, C): pixel by pixel of a row, then row by row in float64."""
    batch, depth, height, width, _ = pixels.shape
    row, total = np.empty(stop - start, out.dtype), np.zeros(stop - start, np.float64)
    for n in range(batch):
        for d in range(depth):
            for h in range(height):
                row[:] = 0
                for w in range(width):
                    pixel = pixels[n, d, h, w][start:stop]
                    for c in range(row.size):
                        row[c] += pixel[c]
                for c in range(row.size):
                    total[c] += row[c]
    for c in range(row.size):
        out[start + c] = total[c]
