"""Convolution kernels. All take the same problem: a plan of plain integers, and the steps of three arrays in elements.

parameter  that of the activation
counts     channels and outputs of a group, images, whether there is a bias, the code of an activation, whether y has
           channels last, groups, terms of a split (a multiple of DEPTH)
sizes      depth, height and width of x, of the kernel and of y
steps      stride, dilation and padding before, per axis
xs ws ys   steps of x (n, c, d, h, w), weight (o, c, kd, kh, kw) and y (n, o, d, h, w)
gs         steps of a group in x, weight and y, and of a split in y
"""

from typing import Any

import numpy as np
from numba import cuda

from cnnkit.rooms.cuda.activations import activation
from cnnkit.rooms.cuda.instructions import NARROW
from cnnkit.rooms.cuda.places import place

DEPTH = 16  # terms in a step of `product`
ACROSS, DOWN, WIDE = 16, 8, 8  # its threads: 16 along columns by 8 along rows, each with 8 columns
THREADS = ACROSS * DOWN
COLUMNS = ACROSS * WIDE  # a thread loads one column: they must be as many as threads
WEIGHTS = DEPTH * COLUMNS  # where they begin in the shared memory of `product`
FEW = 8  # channels and outputs of a group, for which a tile would be mostly empty
REDUCERS = 256  # threads that sum one number of a weight's gradient


def product(real: Any, tall: int) -> Any:
    """Convolution as a matrix product that takes x where it lies: y[o, np] = sum of weight[o, ck] x[ck, np].

    A block of 128 threads owns ``8 * tall`` outputs of 128 positions np, a thread ``tall`` x 8 of them, in registers.
    For each 16 terms ck the block copies the weights and what x has there, zeros in the padding, to shared memory: a
    thread copies one position, whose place in x it knows from the start, and counts through the terms, dividing
    nothing. In the end the sums pass through the same memory: each thread stores its own position of all outputs.
    Where terms are split, each split has its own place in y.

    The gradient of a weight is such a convolution too, of x by the output gradient, see `problems.weight_gradient`.
    """
    activated = activation(real)
    rows = DOWN * tall
    parts = THREADS // rows
    area = rows * COLUMNS

    def kernel(x, weight, bias, y, parameter, counts, sizes, steps, xs, ws, ys, gs):
        shared = cuda.shared.array(area, real)  # first DEPTH lines of x, then the weights beside them
        sums = cuda.local.array((tall, WIDE), real)
        for i in range(tall):
            for j in range(WIDE):
                sums[i, j] = real(0)
        channels, outputs, images = counts[0], counts[1], counts[2]
        windows = (1, sizes[6], sizes[7], sizes[8])
        columns = images * sizes[6] * sizes[7] * sizes[8]
        t = cuda.threadIdx.x
        split = np.int64(np.uint32(cuda.blockIdx.z) // np.uint32(counts[6]))
        group = cuda.blockIdx.z - split * counts[6]
        first = split * counts[7]
        terms = min(first + counts[7], channels * sizes[3] * sizes[4] * sizes[5])
        column, row = cuda.blockIdx.x * COLUMNS + t, cuda.blockIdx.y * rows + t % rows
        n, _, d, h, w = place(column, windows, 0)
        d0 = d * steps[0] - steps[6]
        h0 = h * steps[1] - steps[7]
        w0 = w * steps[2] - steps[8]
        x0 = n * xs[0] + group * gs[0]
        y0 = n * ys[0] + d * ys[2] + h * ys[3] + w * ys[4] + group * gs[2] + split * gs[3]
        w_row = row * ws[0] + group * gs[1]
        taps = (1, sizes[3], sizes[4], sizes[5])
        c, _, i, j, k = place(first, taps, 0)
        for start in range(first, terms, DEPTH):
            for s in range(DEPTH):
                d, h, w = d0 + i * steps[3], h0 + j * steps[4], w0 + k * steps[5]
                value = real(0)
                inside = d >= 0 and d < sizes[0] and h >= 0 and h < sizes[1] and w >= 0 and w < sizes[2]
                if inside and start + s < terms and column < columns:
                    value = x[x0 + c * xs[1] + d * xs[2] + h * xs[3] + w * xs[4]]
                shared[s * COLUMNS + t] = value
                if s % parts == t // rows:
                    value = real(0)
                    if row < outputs and start + s < terms:
                        value = weight[w_row + c * ws[1] + i * ws[2] + j * ws[3] + k * ws[4]]
                    shared[WEIGHTS + s * rows + t % rows] = value
                k += 1
                if k == sizes[5]:
                    k = 0
                    j += 1
                if j == sizes[4]:
                    j = 0
                    i += 1
                if i == sizes[3]:
                    i = 0
                    c += 1
            cuda.syncthreads()
            for s in range(DEPTH):
                for i_ in range(tall):
                    for j_ in range(WIDE):
                        sums[i_, j_] += (
                            shared[WEIGHTS + s * rows + t // ACROSS * tall + i_]
                            * shared[s * COLUMNS + t % ACROSS + ACROSS * j_]
                        )
            cuda.syncthreads()
        for i_ in range(tall):
            for j_ in range(WIDE):
                shared[(t // ACROSS * tall + i_) * COLUMNS + t % ACROSS + ACROSS * j_] = sums[i_, j_]
        cuda.syncthreads()
        for r in range(rows):
            row = cuda.blockIdx.y * rows + r
            if row < outputs and column < columns:
                total = shared[r * COLUMNS + t]
                if counts[3]:
                    total += bias[group * outputs + row]
                y[y0 + row * ys[1]] = activated(counts[4], total, parameter)

    return kernel


def direct(real: Any) -> Any:
    """Convolution by the definition, for groups of few channels (depthwise): a thread owns one number of y.

    Moves x once (taps meet in the L1 cache), y once, and the weights.
    """
    activated = activation(real)

    def kernel(x, weight, bias, y, count, shape, parameter, counts, sizes, steps, xs, ws, ys, gs):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        n, o, d, h, w = place(i, shape, counts[5])
        x0 = n * xs[0] + np.int64(np.uint32(o) // np.uint32(counts[1])) * gs[0]
        total = real(0)
        if counts[3]:
            total = bias[o]
        for c in range(counts[0]):
            for a in range(sizes[3]):
                at = d * steps[0] - steps[6] + a * steps[3]
                if at >= 0 and at < sizes[0]:
                    for b in range(sizes[4]):
                        bt = h * steps[1] - steps[7] + b * steps[4]
                        if bt >= 0 and bt < sizes[1]:
                            for e in range(sizes[5]):
                                et = w * steps[2] - steps[8] + e * steps[5]
                                if et >= 0 and et < sizes[2]:
                                    total += (
                                        weight[o * ws[0] + c * ws[1] + a * ws[2] + b * ws[3] + e * ws[4]]
                                        * x[x0 + c * xs[1] + at * xs[2] + bt * xs[3] + et * xs[4]]
                                    )
        total = activated(counts[4], total, parameter)
        y[n * ys[0] + o * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = total

    return kernel


def weight_gradient(real: Any) -> Any:
    """The gradient of a depthwise weight: a block owns one tap of one output and sums over images and positions.

    Its threads take every 256th position, then their sums are added up in pairs: always in the same order. Reads x and
    the output gradient once for each tap, from the L2 cache but for the first.
    """

    def kernel(grad, x, grad_weight, counts, sizes, steps, gs, xs, ws):
        shared = cuda.shared.array(REDUCERS, real)
        t = cuda.threadIdx.x
        taps = (1, sizes[3], sizes[4], sizes[5])
        o, _, a, b, e = place(cuda.blockIdx.x, taps, 0)
        windows = (1, sizes[6], sizes[7], sizes[8])
        x0 = np.int64(np.uint32(o) // np.uint32(counts[1])) * xs[1]
        total = real(0)
        for i in range(t, counts[2] * sizes[6] * sizes[7] * sizes[8], REDUCERS):
            n, _, d, h, w = place(i, windows, 0)
            at = d * steps[0] - steps[6] + a * steps[3]
            bt = h * steps[1] - steps[7] + b * steps[4]
            et = w * steps[2] - steps[8] + e * steps[5]
            if at >= 0 and at < sizes[0] and bt >= 0 and bt < sizes[1] and et >= 0 and et < sizes[2]:
                total += (
                    grad[n * gs[0] + o * gs[1] + d * gs[2] + h * gs[3] + w * gs[4]]
                    * x[n * xs[0] + x0 + at * xs[2] + bt * xs[3] + et * xs[4]]
                )
        shared[t] = total
        half = REDUCERS // 2
        while half:
            cuda.syncthreads()
            if t < half:
                shared[t] += shared[t + half]
            half //= 2
        if t == 0:
            grad_weight[o * ws[0] + a * ws[2] + b * ws[3] + e * ws[4]] = shared[0]

    return kernel


def totals(real: Any) -> Any:
    """Sums of parts: a thread owns one number of a weight's gradient and adds what the splits have for it, in order.

    Parts are (split, o, kd, kh, kw, c) or in any other order, by their steps; moves them and the gradient once.
    """
    narrow = NARROW.get(str(real))
    zero = np.float64(0) if str(real) == "float64" else np.float32(0)

    def kernel(parts, y, count, splits, shape, channels_last, step, ps, ys):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        o, c, d, h, w = place(i, shape, channels_last)
        p0 = o * ps[0] + c * ps[1] + d * ps[2] + h * ps[3] + w * ps[4]
        total = zero
        for split in range(splits):
            total += parts[p0 + split * step[0]]
        at = o * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]
        if narrow is None:
            y[at] = total
        else:
            y[at] = narrow(total)

    return kernel
