"""Pooling kernels: a thread owns one number of the result and gathers what its window holds.

Windows come as a table, two numbers for each output coordinate of the depths, then the heights, then the widths: where
the window begins in x, and how many taps it has there. So there is nothing to check here, and equal and unequal
windows, forward and backward, are one thing.
"""

from typing import Any

import numpy as np
from numba import cuda, types

from cnnkit.rooms.cuda.numbers import numbers
from cnnkit.rooms.cuda.places import place

PLANE = 128  # threads of a block that owns a part of a plane
PART = 32 * PLANE  # numbers of it
TABLE = 4096  # integers that a block keeps: two for each coordinate of a plane and of its outputs


def averages(kind: Any, back: bool) -> Any:
    """Sums over windows: average pooling forward, and backward, where the windows hold outputs instead of inputs.

    Forward, the sum is divided by its own divisor; backward, each number is divided by its own before it is added.
    Divisors are a table too: their factors, in float64, along the axes of y, or backward along those of x. Moves x once
    (windows that overlap meet in the L1 cache) and y once.
    """
    real, read, write = numbers(kind)

    def kernel(x, table, divisors, y, count, shape, extents, channels_last, xs, ys):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        n, c, d, h, w = place(i, shape, channels_last)
        height, width = 2 * (shape[1] + h), 2 * (shape[1] + shape[2] + w)
        d0, h0, w0 = table[2 * d], table[height], table[width]
        x0 = n * xs[0] + c * xs[1]
        total = real(0)
        for a in range(d0, d0 + table[2 * d + 1]):
            for b in range(h0, h0 + table[height + 1]):
                for e in range(w0, w0 + table[width + 1]):
                    value = read(x[x0 + a * xs[2] + b * xs[3] + e * xs[4]])
                    if back:
                        part = divisors[a] * divisors[extents[0] + b] * divisors[extents[0] + extents[1] + e]
                        value = value / real(part)
                    total += value
        if not back:
            total = total / real(divisors[d] * divisors[shape[1] + h] * divisors[shape[1] + shape[2] + w])
        y[n * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = write(total)

    return kernel


def maxima(kind: Any) -> Any:
    """The largest number of each window and, if wanted, its place in the plane; of equals the first, of NaN the last.

    Moves x once, y once, and 8 bytes for each index.
    """
    _, read, write = numbers(kind)

    def kernel(x, table, y, indices, count, shape, extents, keep, channels_last, steps, xs, ys, js):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        n, c, d, h, w = place(i, shape, channels_last)
        height, width = 2 * (shape[1] + h), 2 * (shape[1] + shape[2] + w)
        x0 = n * xs[0] + c * xs[1]
        best = read(x[x0 + table[2 * d] * xs[2] + table[height] * xs[3] + table[width] * xs[4]])
        found = (table[2 * d] * extents[1] + table[height]) * extents[2] + table[width]
        for a in range(table[2 * d + 1]):
            for b in range(table[height + 1]):
                for e in range(table[width + 1]):
                    at = table[2 * d] + a * steps[0]
                    bt = table[height] + b * steps[1]
                    et = table[width] + e * steps[2]
                    value = read(x[x0 + at * xs[2] + bt * xs[3] + et * xs[4]])
                    if value > best or value != value:
                        best = value
                        found = (at * extents[1] + bt) * extents[2] + et
        y[n * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = write(best)
        if keep:
            indices[n * js[0] + c * js[1] + d * js[2] + h * js[3] + w * js[4]] = found

    return kernel


def maxima_back(kind: Any) -> Any:
    """The way back of maxima, from their places alone: a block owns a part of a plane, a thread every 128th number.

    It adds up the gradients of the outputs whose place is its own, in their order: nothing is added by two threads.
    They are looked for where they can be: along each axis an output coordinate reaches from the lowest to the highest
    place that is found there, and a coordinate of the plane is reached by outputs from a first to a last one, which the
    block finds out before. So windows need not be known, and any places in a plane are right. Moves the gradients of a
    plane once, and its indices, of which each block of the plane reads all (from the L2 cache but for the first).
    """
    real, read, write = numbers(kind)

    def kernel(grad, indices, y, channels, shape, extents, gs, js, ys):
        table = cuda.shared.array(TABLE, types.int32)
        t = cuda.threadIdx.x
        n = np.int64(np.uint32(cuda.blockIdx.x) // np.uint32(channels))
        c = cuda.blockIdx.x - n * channels
        g0, j0, y0 = n * gs[0] + c * gs[1], n * js[0] + c * js[1], n * ys[0] + c * ys[1]
        height, width = np.uint32(extents[1]), np.uint32(extents[2])
        outputs = shape[0] + shape[1] + shape[2]
        for q in range(t, outputs, PLANE):  # how far each output coordinate reaches
            d0, d1, h0, h1, w0, w1, axis = 0, shape[0], 0, shape[1], 0, shape[2], 0
            if q < shape[0]:
                d0, d1 = q, q + 1
            elif q < shape[0] + shape[1]:
                h0, h1, axis = q - shape[0], q - shape[0] + 1, 1
            else:
                w0, w1, axis = q - shape[0] - shape[1], q - shape[0] - shape[1] + 1, 2
            low, high = np.int64(extents[axis]), np.int64(-1)
            for a in range(d0, d1):
                for b in range(h0, h1):
                    for e in range(w0, w1):
                        found = np.uint32(indices[j0 + a * js[2] + b * js[3] + e * js[4]])
                        rows = found // width
                        at = np.int64(rows // height)
                        if axis == 1:
                            at = np.int64(rows % height)
                        if axis == 2:
                            at = np.int64(found % width)
                        low, high = min(low, at), max(high, at)
            table[2 * q], table[2 * q + 1] = low, high
        cuda.syncthreads()
        for q in range(t, extents[0] + extents[1] + extents[2], PLANE):  # the outputs that reach each coordinate
            at, begin, count = np.int64(q), 0, shape[0]
            if at >= extents[0]:
                at, begin, count = at - extents[0], shape[0], shape[1]
                if at >= extents[1]:
                    at, begin, count = at - extents[1], shape[0] + shape[1], shape[2]
            first, last = 0, 0
            for o in range(count):
                if table[2 * (begin + o)] <= at and at <= table[2 * (begin + o) + 1]:
                    if last == 0:
                        first = o
                    last = o + 1
            table[2 * (outputs + q)], table[2 * (outputs + q) + 1] = first, last
        cuda.syncthreads()
        start = cuda.blockIdx.y * PART
        for i in range(start + t, min(start + PART, extents[0] * extents[1] * extents[2]), PLANE):
            rows = np.uint32(i) // width
            w, h, d = np.int64(np.uint32(i) % width), np.int64(rows % height), np.int64(rows // height)
            ds, hs = 2 * (outputs + d), 2 * (outputs + extents[0] + h)
            es = 2 * (outputs + extents[0] + extents[1] + w)
            total = real(0)
            for a in range(table[ds], table[ds + 1]):
                for b in range(table[hs], table[hs + 1]):
                    for e in range(table[es], table[es + 1]):
                        if indices[j0 + a * js[2] + b * js[3] + e * js[4]] == i:
                            total += read(grad[g0 + a * gs[2] + b * gs[3] + e * gs[4]])
            y[y0 + d * ys[2] + h * ys[3] + w * ys[4]] = write(total)

    return kernel
