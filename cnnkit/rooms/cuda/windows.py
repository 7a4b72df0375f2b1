"""Pooling kernels: a thread owns one number of the result and gathers what its window holds.

Windows come as a table, two numbers for each output coordinate of the depths, then the heights, then the widths: where
the window begins in x, and how many taps it has there. So there is nothing to check here, and equal and unequal
windows, forward and backward, are one thing.
"""

from typing import Any

from numba import cuda

from cnnkit.rooms.cuda.places import place


def averages(real: Any, back: bool) -> Any:
    """Sums over windows: average pooling forward, and backward, where the windows hold outputs instead of inputs.

    Forward, the sum is divided by its own divisor; backward, each number is divided by its own before it is added.
    Divisors are a table too: their factors, in float64, along the axes of y, or backward along those of x. Moves x once
    (windows that overlap meet in the L1 cache) and y once.
    """

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
                    value = x[x0 + a * xs[2] + b * xs[3] + e * xs[4]]
                    if back:
                        part = divisors[a] * divisors[extents[0] + b] * divisors[extents[0] + extents[1] + e]
                        value = value / real(part)
                    total += value
        if not back:
            total = total / real(divisors[d] * divisors[shape[1] + h] * divisors[shape[1] + shape[2] + w])
        y[n * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = total

    return kernel


def maxima(real: Any) -> Any:
    """The largest number of each window and, if wanted, its place in the plane; of equals the first, of NaN the last.

    Moves x once, y once, and 8 bytes for each index.
    """

    def kernel(x, table, y, indices, count, shape, extents, keep, channels_last, steps, xs, ys, js):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        n, c, d, h, w = place(i, shape, channels_last)
        height, width = 2 * (shape[1] + h), 2 * (shape[1] + shape[2] + w)
        x0 = n * xs[0] + c * xs[1]
        best = x[x0 + table[2 * d] * xs[2] + table[height] * xs[3] + table[width] * xs[4]]
        found = (table[2 * d] * extents[1] + table[height]) * extents[2] + table[width]
        for a in range(table[2 * d + 1]):
            for b in range(table[height + 1]):
                for e in range(table[width + 1]):
                    at = table[2 * d] + a * steps[0]
                    bt = table[height] + b * steps[1]
                    et = table[width] + e * steps[2]
                    value = x[x0 + at * xs[2] + bt * xs[3] + et * xs[4]]
                    if value > best or value != value:
                        best = value
                        found = (at * extents[1] + bt) * extents[2] + et
        y[n * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = best
        if keep:
            indices[n * js[0] + c * js[1] + d * js[2] + h * js[3] + w * js[4]] = found

    return kernel
