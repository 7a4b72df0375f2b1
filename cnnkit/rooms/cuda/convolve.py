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
from numba import cuda, types

from cnnkit.rooms.cuda.activations import activation
from cnnkit.rooms.cuda.numbers import numbers
from cnnkit.rooms.cuda.places import below, digits, place

DEPTH = 16  # terms in a step of `product`
ACROSS, DOWN, WIDE = 16, 8, 8  # its threads: 16 along columns by 8 along rows, each with 8 columns
THREADS = ACROSS * DOWN
COLUMNS = ACROSS * WIDE  # a thread loads one column: they must be as many as threads
WEIGHTS = DEPTH * COLUMNS  # where they begin in the shared memory of `product`
FEW = 8  # channels and outputs of a group, for which a tile would be mostly empty
ROWS = 4  # numbers of y that a thread of `direct` owns
REDUCERS = 256  # threads that sum numbers of a weight's gradient
TAPS = 9  # as many as they sum at once
NOWHERE = -(1 << 30)  # a tap that reads nothing


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


def direct(kind: Any) -> Any:
    """Convolution by the definition, for groups of few channels (depthwise): a thread owns a number in each of 4 rows.

    They share the weights and where their columns lie. Moves x once (taps meet in the L1 cache), y once, and the
    weights. Neighbouring threads have numbers of y next to each other in memory.
    """
    real, read, write = numbers(kind)
    activated = activation(real)

    def kernel(x, weight, bias, y, count, shape, parameter, counts, sizes, steps, xs, ws, ys, gs):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        n, o, d, h, w = place(i, shape, counts[5])
        h = h * ROWS
        sums = cuda.local.array(ROWS, real)
        rows = cuda.local.array(ROWS, types.int64)
        inside = cuda.local.array(ROWS, types.int32)
        first = real(0)
        if counts[3]:
            first = read(bias[o])
        for j in range(ROWS):
            sums[j] = first
        for c in range(counts[0]):
            x0 = n * xs[0] + np.int64(np.uint32(o) // np.uint32(counts[1])) * gs[0] + c * xs[1]
            for a in range(sizes[3]):
                at = d * steps[0] - steps[6] + a * steps[3]
                if below(at, sizes[0]):
                    for b in range(sizes[4]):
                        for j in range(ROWS):
                            bt = (h + j) * steps[1] - steps[7] + b * steps[4]
                            rows[j] = x0 + at * xs[2] + bt * xs[3]
                            inside[j] = 0
                            if below(bt, sizes[1]) and h + j < sizes[7]:
                                inside[j] = 1
                        for e in range(sizes[5]):
                            et = w * steps[2] - steps[8] + e * steps[5]
                            if below(et, sizes[2]):
                                factor = read(weight[o * ws[0] + c * ws[1] + a * ws[2] + b * ws[3] + e * ws[4]])
                                for j in range(ROWS):
                                    if inside[j]:
                                        sums[j] += factor * read(x[rows[j] + et * xs[4]])
        first, second, third, fourth = sums[0], sums[1], sums[2], sums[3]  # registers, of which there is no j-th
        for j in range(min(ROWS, sizes[7] - h)):
            total = first
            if j == 1:
                total = second
            elif j == 2:
                total = third
            elif j == 3:
                total = fourth
            total = write(activated(counts[4], total, parameter))
            y[n * ys[0] + o * ys[1] + d * ys[2] + (h + j) * ys[3] + w * ys[4]] = total

    return kernel


def weight_gradient(kind: Any) -> Any:
    """The gradient of a depthwise weight: a block owns 9 taps of an output, and sums a split of images and positions.

    Its threads take every 256th position, then their sums are added up in pairs: always in the same order. Reads the
    output gradient once for 9 taps, and x for each tap, from the L1 cache but for the first.
    """
    real, read, _ = numbers(kind)
    area = TAPS * REDUCERS

    def kernel(grad, x, parts, counts, sizes, steps, positions, terms, gs, xs, ps, step):
        shared = cuda.shared.array(area, real)
        sums = cuda.local.array(TAPS, real)
        taps = cuda.local.array((TAPS, 3), types.int32)
        offsets = cuda.local.array(TAPS, types.int64)
        t, o, split = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.z
        every = sizes[3] * sizes[4] * sizes[5]
        for q in range(TAPS):
            sums[q] = real(0)
            _, _, a, b, e = place(cuda.blockIdx.y * TAPS + q, (1, sizes[3], sizes[4], sizes[5]), 0)
            taps[q, 0], taps[q, 1], taps[q, 2] = a * steps[3], b * steps[4], e * steps[5]
            offsets[q] = taps[q, 0] * xs[2] + taps[q, 1] * xs[3] + taps[q, 2] * xs[4]
            if cuda.blockIdx.y * TAPS + q >= every:
                taps[q, 0] = NOWHERE
        x0 = np.int64(np.uint32(o) // np.uint32(counts[1])) * xs[1]
        start = split * terms
        for i in range(start + t, min(start + terms, counts[2] * sizes[6] * sizes[7] * sizes[8]), REDUCERS):
            n, d, h, w = digits(i, positions)
            factor = read(grad[n * gs[0] + o * gs[1] + d * gs[2] + h * gs[3] + w * gs[4]])
            d, h, w = d * steps[0] - steps[6], h * steps[1] - steps[7], w * steps[2] - steps[8]
            base = n * xs[0] + x0 + d * xs[2] + h * xs[3] + w * xs[4]
            for q in range(TAPS):
                at, bt, et = d + taps[q, 0], h + taps[q, 1], w + taps[q, 2]
                if below(at, sizes[0]) and below(bt, sizes[1]) and below(et, sizes[2]):
                    sums[q] += factor * read(x[base + offsets[q]])
        for q in range(TAPS):
            shared[q * REDUCERS + t] = sums[q]
        half = REDUCERS // 2
        while half:
            cuda.syncthreads()
            if t < half:
                for q in range(TAPS):
                    shared[q * REDUCERS + t] += shared[q * REDUCERS + t + half]
            half //= 2
        cuda.syncthreads()
        for q in range(t, min(TAPS, every - cuda.blockIdx.y * TAPS), REDUCERS):
            _, _, a, b, e = place(cuda.blockIdx.y * TAPS + q, (1, sizes[3], sizes[4], sizes[5]), 0)
            parts[split * step[0] + o * ps[0] + a * ps[2] + b * ps[3] + e * ps[4]] = shared[q * REDUCERS]

    return kernel


def totals(kind: Any) -> Any:
    """Sums of parts: a thread owns one number of a weight's gradient and adds what the splits have for it, in order.

    Parts are (split, o, kd, kh, kw, c) or in any other order, by their steps; moves them and the gradient once.
    """
    real, _, write = numbers(kind)

    def kernel(parts, y, count, splits, shape, channels_last, step, ps, ys):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i >= count:
            return
        o, c, d, h, w = place(i, shape, channels_last)
        p0 = o * ps[0] + c * ps[1] + d * ps[2] + h * ps[3] + w * ps[4]
        total = real(0)
        for split in range(splits):
            total += parts[p0 + split * step[0]]
        y[o * ys[0] + c * ys[1] + d * ys[2] + h * ys[3] + w * ys[4]] = write(total)

    return kernel
