"""Pooling, one pass over memory: a thread owns whole planes and goes through them row by row.

Every kernel position brings one strided row of the input to (part of) one row of the output: `_reach` says which part.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import Ints, PoolPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel, summing_kernel

NARROW = 8  # outputs in a row: fewer are not worth going through a row at a time


def max_pool(x: Array, plan: PoolPlan, out: Array, indices: Array | None) -> None:
    narrow = plan.output_size[-1] < NARROW
    if indices is None and not narrow:
        lowest = x.dtype.type(-np.inf) if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        _run(_max_rows, plan, arrays.lift(x), arrays.lift(out), x.dtype.type(lowest))
        return
    found = np.empty(out.shape, np.int64) if indices is None else indices
    zero = np.int32(0) if geometry.volume(plan.input_size) < 1 << 31 else np.int64(0)
    given = arrays.lift(x), arrays.lift(out), arrays.lift(found)
    if narrow:
        _run(_argmax_windows, plan, *given)
    else:
        _run(_argmax_rows, plan, *given, zero)


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    planes, outputs = grad_x.shape[0] * grad_x.shape[1], geometry.volume(grad_output.shape[2:])
    total = np.zeros((planes, geometry.volume(grad_x.shape[2:])), grad_x.dtype)
    given = grad_output.reshape(planes, outputs), indices.reshape(planes, outputs)
    threads.run(_max_planes_backward, planes, 2 * grad_output.size, *given, total)
    grad_x[...] = total.reshape(grad_x.shape)


def avg_pool(x: Array, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    average = _avg_windows if plan.output_size[-1] < NARROW else _avg_rows
    _run(average, plan, arrays.lift(x), arrays.lift(out), *_factors(divisors, out.dtype))


def avg_pool_backward(grad_output: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    spread = _avg_windows_backward if plan.output_size[-1] < NARROW else _avg_rows_backward
    _run(spread, plan, arrays.lift(grad_output), arrays.lift(grad_x), *_factors(divisors, grad_x.dtype))


def _run(kernel_: Callable[..., Any], plan: PoolPlan, *args: Any) -> None:
    plan = geometry.lift(plan)
    work = plan.batch * plan.channels * geometry.volume(plan.output_size) * geometry.volume(plan.kernel_size)
    window = plan.kernel_size, plan.stride, plan.dilation, plan.before
    threads.run(kernel_, plan.batch * plan.channels, work, window, *args)


def _factors(divisors: tuple[Ints, ...], dtype: np.dtype) -> list[Array]:
    """The divisors' factors along three axes."""
    return [np.array(factors, dtype) for factors in ((1,),) * (3 - len(divisors)) + divisors]


@kernel
def _reach(offset, stride, size, outputs):
    """The outputs low <= o < high whose tap, at ``o * stride + offset``, lies on an axis of `size`."""
    low = max(0, -(offset // stride))
    high = min(outputs, (size - 1 - offset) // stride + 1)
    return low, max(low, high)


@kernel
def _max_rows(start, stop, window, x, out, lowest):
    size, stride, dilation, before = window
    _, channels, depth, height, width = x.shape
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                best = out[n, c, i, j]
                best[:] = lowest
                for kd in range(size[0]):
                    d = i * stride[0] - before[0] + kd * dilation[0]
                    for kh in range(size[1]):
                        h = j * stride[1] - before[1] + kh * dilation[1]
                        if not (0 <= d < depth and 0 <= h < height):
                            continue
                        row = x[n, c, d, h]
                        for kw in range(size[2]):
                            offset = kw * dilation[2] - before[2]
                            low, high = _reach(offset, stride[2], width, best.size)
                            for k in range(low, high):
                                value = row[k * stride[2] + offset]
                                best[k] = value if value > best[k] or value != value else best[k]


@kernel
def _argmax_rows(start, stop, window, x, out, indices, zero):
    """As `_max_rows`, and where each maximum is, by integers of the type of `zero`: a row at a time, in vectors."""
    size, stride, dilation, before = window
    _, channels, depth, height, width = x.shape
    best, found = np.empty(out.shape[4], x.dtype), np.full(out.shape[4], zero)
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                found[:] = -1
                for kd in range(size[0]):
                    d = i * stride[0] - before[0] + kd * dilation[0]
                    for kh in range(size[1]):
                        h = j * stride[1] - before[1] + kh * dilation[1]
                        if not (0 <= d < depth and 0 <= h < height):
                            continue
                        row, position = x[n, c, d, h], (d * height + h) * width
                        for kw in range(size[2]):
                            offset = kw * dilation[2] - before[2]
                            low, high = _reach(offset, stride[2], width, best.size)
                            first = low * stride[2] + offset
                            if stride[2] == 1:  # a stride that is known when compiling halves the time
                                _take(row[first:], position + first, 1, best[low:high], found[low:high])
                            elif stride[2] == 2:
                                _take(row[first:], position + first, 2, best[low:high], found[low:high])
                            else:
                                _take(row[first:], position + first, stride[2], best[low:high], found[low:high])
                for k in range(best.size):
                    out[n, c, i, j, k] = best[k]
                    indices[n, c, i, j, k] = found[k]


@kernel
def _take(row, position, stride, best, found):
    """Where row[k * stride] is the first seen, or larger than the best, or NaN, it becomes the best."""
    for k in range(best.size):
        value = row[k * stride]
        better = (found[k] < 0) | (value > best[k]) | (value != value)
        best[k] = value if better else best[k]
        found[k] = position + k * stride if better else found[k]


@kernel
def _argmax_windows(start, stop, window, x, out, indices):
    """The same, a window at a time: for few and large windows, as in global pooling."""
    size, stride, dilation, before = window
    _, channels, depth, height, width = x.shape
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for i in range(out.shape[2]):
            d0, d1 = _inside(i * stride[0] - before[0], dilation[0], size[0], depth)
            for j in range(out.shape[3]):
                h0, h1 = _inside(j * stride[1] - before[1], dilation[1], size[1], height)
                for k in range(out.shape[4]):
                    w0, w1 = _inside(k * stride[2] - before[2], dilation[2], size[2], width)
                    best, found = x[n, c, d0, h0, w0], (d0 * height + h0) * width + w0
                    for d in range(d0, d1, dilation[0]):
                        for h in range(h0, h1, dilation[1]):
                            for w in range(w0, w1, dilation[2]):
                                value = x[n, c, d, h, w]
                                if (value > best) | (value != value):
                                    best, found = value, (d * height + h) * width + w
                    out[n, c, i, j, k] = best
                    indices[n, c, i, j, k] = found


@kernel
def _inside(first, dilation, size, length):
    """The taps low <= at < high, `dilation` apart from `first` on, that lie on an axis of `length`."""
    low = first if first >= 0 else first + dilation * -(first // dilation)
    return low, min(first + dilation * size, length)


@kernel
def _max_planes_backward(start, stop, grad_output, indices, total):
    for item in range(start, stop):
        for o in range(grad_output.shape[1]):
            total[item, indices[item, o]] += grad_output[item, o]


@kernel
def _avg_rows(start, stop, window, x, out, divide_d, divide_h, divide_w):
    size, stride, _, before = window
    _, channels, depth, height, width = x.shape
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                total = out[n, c, i, j]
                total[:] = 0
                first_d, first_h = i * stride[0] - before[0], j * stride[1] - before[1]
                for d in range(max(0, first_d), min(depth, first_d + size[0])):
                    for h in range(max(0, first_h), min(height, first_h + size[1])):
                        row = x[n, c, d, h]
                        for kw in range(size[2]):
                            offset = kw - before[2]
                            low, high = _reach(offset, stride[2], width, total.size)
                            for k in range(low, high):
                                total[k] += row[k * stride[2] + offset]
                for k in range(total.size):
                    total[k] /= divide_d[i] * divide_h[j] * divide_w[k]


@kernel
def _avg_rows_backward(start, stop, window, grad_output, grad_x, divide_d, divide_h, divide_w):
    size, stride, _, before = window
    _, channels, depth, height, width = grad_x.shape
    share = np.empty(grad_output.shape[4], grad_x.dtype)
    for item in range(start, stop):
        n, c = divmod(item, channels)
        grad_x[n, c] = 0
        for i in range(grad_output.shape[2]):
            for j in range(grad_output.shape[3]):
                for k in range(share.size):
                    share[k] = grad_output[n, c, i, j, k] / (divide_d[i] * divide_h[j] * divide_w[k])
                first_d, first_h = i * stride[0] - before[0], j * stride[1] - before[1]
                for d in range(max(0, first_d), min(depth, first_d + size[0])):
                    for h in range(max(0, first_h), min(height, first_h + size[1])):
                        row = grad_x[n, c, d, h]
                        for kw in range(size[2]):
                            offset = kw - before[2]
                            low, high = _reach(offset, stride[2], width, share.size)
                            for k in range(low, high):
                                row[k * stride[2] + offset] += share[k]


@summing_kernel
def _avg_windows(start, stop, window, x, out, divide_d, divide_h, divide_w):
    """The same as `_avg_rows`, a window at a time: for few and large windows, as in global pooling."""
    size, stride, _, before = window
    _, channels, depth, height, width = x.shape
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for i in range(out.shape[2]):
            d0 = i * stride[0] - before[0]
            for j in range(out.shape[3]):
                h0 = j * stride[1] - before[1]
                for k in range(out.shape[4]):
                    w0 = k * stride[2] - before[2]
                    total = x.dtype.type(0)
                    for d in range(max(0, d0), min(depth, d0 + size[0])):
                        for h in range(max(0, h0), min(height, h0 + size[1])):
                            for w in range(max(0, w0), min(width, w0 + size[2])):
                                total += x[n, c, d, h, w]
                    out[n, c, i, j, k] = total / (divide_d[i] * divide_h[j] * divide_w[k])


@kernel
def _avg_windows_backward(start, stop, window, grad_output, grad_x, divide_d, divide_h, divide_w):
    """The same as `_avg_rows_backward`, a window at a time."""
    size, stride, _, before = window
    _, channels, depth, height, width = grad_x.shape
    for item in range(start, stop):
        n, c = divmod(item, channels)
        grad_x[n, c] = 0
        for i in range(grad_output.shape[2]):
            d0 = i * stride[0] - before[0]
            for j in range(grad_output.shape[3]):
                h0 = j * stride[1] - before[1]
                for k in range(grad_output.shape[4]):
                    w0 = k * stride[2] - before[2]
                    share = grad_output[n, c, i, j, k] / (divide_d[i] * divide_h[j] * divide_w[k])
                    for d in range(max(0, d0), min(depth, d0 + size[0])):
                        for h in range(max(0, h0), min(height, h0 + size[1])):
                            for w in range(max(0, w0), min(width, w0 + size[2])):
                                grad_x[n, c, d, h, w] += share
