"""Pooling, one pass over memory.

Where rows lie in memory, a thread owns whole planes, and every window is taken in two steps, in vectors: first *down*,
the rows under a row of windows into one padded line, then *across*, the taps along that line. Where channels lie closest
together, lanes are channels and a window is taken tap by tap.

Arrays are passed as addresses and steps in bytes, so that there is one compiled form for each dtype.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import Ints, PoolPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import VECTOR_BYTES, kernel
from cnnkit.rooms.numba.vectors import (
    alike,
    any_lane,
    every,
    gather,
    lanes,
    larger,
    largest,
    load,
    load_all,
    minus_zero,
    numbered,
    select,
    size,
    splat,
    splat_as,
    store,
    store_all,
    total,
    wide,
)

LINES = 8 << 10  # bytes of lines that are filled before they are read: far enough behind, and still in the L1 cache


def max_pool(x: Array, plan: PoolPlan, out: Array, indices: Array | None) -> None:
    lowest = x.dtype.type(-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
    if indices is None:
        in_doubt = np.zeros(1, np.bool_)
        _pool(x, plan, out, None, None, lowest, in_doubt)
        if not in_doubt[0]:
            return
        indices = np.empty(out.shape, np.int64)
    _pool(x, plan, out, indices, None, lowest, np.zeros(1, np.bool_))


def avg_pool(x: Array, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    _pool(x, plan, out, None, divisors, x.dtype.type(0), np.zeros(1, np.bool_))


class Axis(NamedTuple):
    """The windows along one axis: where each begins on it, how many of its taps lie on it, and its divisor's factor."""

    first: Array
    count: Array
    divisor: Array


class Lines(NamedTuple):
    """How rows of windows are taken: `rows` lines of `pitch` elements at a time, all in `length` elements, of which
    `width` are read from x; `flat` if the outputs of many lines follow each other, `by_taps` if lanes are taps."""

    pitch: int
    rows: int
    length: int
    width: int
    stride: int
    flat: bool
    by_taps: bool


def _pool(
    x: Array,
    plan: PoolPlan,
    out: Array,
    indices: Array | None,
    divisors: tuple[Ints, ...] | None,
    empty: Any,
    in_doubt: Array,
) -> None:
    plan, x = geometry.lift(plan), arrays.lift(x)
    by_channels = _channels_closest(out)
    results = [_dense(each, by_channels) for each in (out, indices) if each is not None]
    places = [_address(each) for each in results]
    found = places[1] if indices is not None else None
    kind = np.int32 if geometry.volume(plan.input_size) < 1 << 31 else np.int64
    source = _address(x), x.strides
    summing = None if divisors is None else True
    given = empty, kind(np.iinfo(kind).max), summing, plan.kernel_size, plan.dilation, source, plan.channels, plan.input_size
    work = (x.size + out.size) / 4
    if by_channels:
        items = plan.batch * plan.output_size[0] * plan.output_size[1]
        threads.run(_pixels, items, work, *given, places[0], found, _axes(plan, x.dtype, divisors, 1))
    else:
        lines = _lines(plan, x.dtype, divisors)
        args = _axes(plan, x.dtype, divisors, lines.rows if lines.flat else 1), tuple(lines), plan.before[2], in_doubt
        threads.run(_planes, plan.batch * plan.channels, work, *given, places[0], found, *args)
    for result, wanted in zip(results, (out, indices), strict=False):
        if result is not wanted and wanted is not None:
            wanted[...] = result


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def _channels_closest(array: Array) -> bool:
    return not array.flags.c_contiguous and arrays.channels_last(array)


def _dense(array: Array, by_channels: bool) -> Array:
    """The array itself if it lies without gaps in the order that a kernel fills, else a new one."""
    if by_channels:
        last = np.moveaxis(array, 1, -1)
        return array if last.flags.c_contiguous else np.moveaxis(np.empty(last.shape, array.dtype), -1, 1)
    return array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)


@lru_cache(64)
def _axes(plan: PoolPlan, dtype: np.dtype, divisors: tuple[Ints, ...] | None, rows: int) -> tuple[tuple[Array, ...], ...]:
    """The windows along each axis, those of a row `rows` times."""
    factors = ((1,),) * (3 - len(divisors)) + divisors if divisors is not None else ((1,),) * 3
    axes = []
    for axis in range(3):
        first = np.arange(plan.output_size[axis]) * plan.stride[axis] - plan.before[axis]
        skipped = np.maximum(0, -(first // plan.dilation[axis]))
        first += skipped * plan.dilation[axis]
        count = np.minimum(plan.kernel_size[axis] - skipped, (plan.input_size[axis] - 1 - first) // plan.dilation[axis] + 1)
        axes.append(Axis(first, count, np.array(factors[axis] * (rows if axis == 2 else 1), dtype)))
    return tuple(map(tuple, axes))


@lru_cache(1024)
def _lines(plan: PoolPlan, dtype: np.dtype, divisors: tuple[Ints, ...] | None) -> Lines:
    outputs, taps, stride, dilation = (
        each[-1] for each in (plan.output_size, plan.kernel_size, plan.stride, plan.dilation)
    )
    vector = VECTOR_BYTES // dtype.itemsize
    span = dilation * (taps - 1) + 1
    stride = stride if outputs > 1 else span
    needed = (outputs - 1) * stride + span
    flat = span <= stride and all(len(set(factors)) == 1 for factors in (divisors or ())[:-1])
    pitch = outputs * stride if flat else needed
    rows = max(1, min(LINES // dtype.itemsize // pitch, plan.output_size[1]))
    width = min(plan.input_size[-1], needed - plan.before[-1])
    across = taps * -(-outputs // vector) * (stride if stride < 3 else vector)
    by_taps = dilation == 1 and outputs * (-(-taps // vector) + 4) < across
    return Lines(pitch, rows, rows * pitch + span + 4 * vector, width, stride, flat, by_taps)


@kernel
def _read(address, step, count, empty):
    return load(address, count, empty) if step == size(empty) else gather(address, step, count, empty)


@kernel
def _combined(summing, a, b):
    return larger(a, b) if summing is None else a + b


@kernel
def _planes(
    start, stop, empty, nowhere, summing, kernel_size, dilation, x, channels, sizes, out, indices, axes, lines, before, in_doubt
):
    """Planes of outputs: rows under a block of windows down into lines, then across."""
    (first_d, count_d, divide_d), (first_h, count_h, divide_h), (first_w, count_w, divide_w) = axes
    pitch, rows, length, width, stride, flat, by_taps = lines
    memory, memory_keys = np.full(length, empty), np.full(length, nowhere)
    line, keys, item, key = memory.ctypes.data, memory_keys.ctypes.data, size(empty), size(nowhere)
    address, steps = x
    divisors = divide_w.ctypes.data
    step_d, step_h = dilation[0] * steps[2], dilation[1] * steps[3]
    position_d, position_h = dilation[0] * sizes[1] * sizes[2], dilation[1] * sizes[2]
    outputs = first_w.size
    at = start * first_d.size * first_h.size * outputs
    odd = False
    for plane in range(start, stop):
        n, c = divmod(plane, channels)
        source = address + n * steps[0] + c * steps[1]
        for i in range(first_d.size):
            d, nd = first_d[i], count_d[i]
            for j0 in range(0, first_h.size, rows):
                count = min(rows, first_h.size - j0)
                for j in range(count):
                    h, taps = first_h[j0 + j], (nd, step_d, count_h[j0 + j], step_h)
                    row, to = source + d * steps[2] + h * steps[3], j * pitch + before
                    if indices is None:
                        odd |= _down(empty, summing, row, steps[4], taps, line + to * item, width)
                    else:
                        position = (d * sizes[1] + h) * sizes[2], position_d, position_h
                        _down_keys(empty, nowhere, row, steps[4], taps, position, line + to * item, keys + to * key, width)
                parts, n_out = (1, count * outputs) if flat else (count, outputs)
                for j in range(parts):
                    divisor, at_line = divide_d[i] * divide_h[j0 + j], line + j * pitch * item
                    if indices is not None:
                        _across_keys(empty, nowhere, at_line, keys + j * pitch * key, kernel_size[2], stride, dilation[2], n_out, out + at * item, indices + at * 8)
                    elif by_taps:
                        _across_taps(empty, summing, at_line, kernel_size[2], stride, n_out, out + at * item, divisor, divide_w)
                    elif stride == 1:  # a stride that is known when compiling
                        _across(empty, summing, at_line, kernel_size[2], 1, dilation[2], n_out, out + at * item, divisor, divisors)
                    elif stride == 2:
                        _across(empty, summing, at_line, kernel_size[2], 2, dilation[2], n_out, out + at * item, divisor, divisors)
                    else:
                        _across(empty, summing, at_line, kernel_size[2], stride, dilation[2], n_out, out + at * item, divisor, divisors)
                    at += n_out
    if odd:
        in_doubt[0] = True


@kernel
def _down(empty, summing, row, step, taps, line, width):
    """line[p] = the rows at `row` + d * taps[1] + h * taps[3] combined. Whether ..."""
    nd, step_d, nh, step_h = taps
    odd = minus_zero(splat(empty, empty))
    for p in range(0, width, lanes(empty)):
        best = splat(empty, empty)
        for d in range(nd):
            for h in range(nh):
                best = _combined(summing, best, _read(row + d * step_d + h * step_h + p * step, step, width - p, empty))
        store_all(line + p * size(empty), best)
        if summing is None:
            odd = odd | minus_zero(best)
    return any_lane(odd)


@kernel
def _down_keys(empty, nowhere, row, step, taps, plane_steps, line, keys, width):
    nd, step_d, nh, step_h = taps
    position, position_d, position_h = plane_steps
    for p in range(0, width, lanes(empty)):
        best, found = splat(empty, empty), splat_as(empty, nowhere, position)
        for d in range(nd):
            for h in range(nh):
                value = _read(row + d * step_d + h * step_h + p * step, step, width - p, empty)
                better = (value > best) | (value != value)
                best = select(better, value, best)
                found = select(better, splat_as(empty, nowhere, position + d * position_d + h * position_h), found)
        found = numbered(found + p)
        store_all(line + p * size(empty), best)
        store(keys + p * size(nowhere), select(best != best, found ^ -1, found), width - p)


@kernel
def _merged(best, found, value, key):
    better = (value > best) | (alike(value, best) & (key < found))
    return select(better, value, best), select(better, key, found)


@kernel
def _across(empty, summing, line, taps, stride, dilation, outputs, out, divisor, divisors):
    item = size(empty)
    for o in range(0, outputs, lanes(empty)):
        count = outputs - o
        best = every(line + o * stride * item, stride, count, empty)
        for t in range(1, taps):
            best = _combined(summing, best, every(line + (o * stride + t * dilation) * item, stride, count, empty))
        if summing is not None:
            best = best / (load(divisors + o * item, count, empty) * divisor)
        store(out + o * item, best, count)


@kernel
def _across_taps(empty, summing, line, taps, stride, outputs, out, divisor, divisors):
    item = size(empty)
    for o in range(outputs):
        best = splat(empty, empty)
        for t in range(0, taps, lanes(empty)):
            best = _combined(summing, best, load(line + (o * stride + t) * item, taps - t, empty))
        if summing is None:
            store(out + o * item, splat(empty, largest(best)), 1)
        else:
            store(out + o * item, splat(empty, total(best) / (divisor * divisors[o])), 1)


@kernel
def _across_keys(empty, nowhere, line, keys, taps, stride, dilation, outputs, out, indices):
    item, key = size(empty), size(nowhere)
    for o in range(0, outputs, lanes(empty)):
        count = outputs - o
        best, found = every(line + o * stride * item, stride, count, empty), every(keys + o * stride * key, stride, count, splat(empty, nowhere))
        for t in range(1, taps):
            to = o * stride + t * dilation
            best, found = _merged(best, found, every(line + to * item, stride, count, empty), every(keys + to * key, stride, count, splat(empty, nowhere)))
        store(out + o * item, best, count)
        store(indices + o * 8, wide(select(found < 0, found ^ -1, found)), count)


@kernel
def _pixels(start, stop, empty, nowhere, summing, kernel_size, dilation, x, channels, sizes, out, indices, axes):
    """Rows of pixels of outputs, all channels of a pixel in vectors."""
    (first_d, count_d, divide_d), (first_h, count_h, divide_h), (first_w, count_w, divide_w) = axes
    address, steps = x
    item = size(empty)
    step_d, step_h, step_w = dilation[0] * steps[2], dilation[1] * steps[3], dilation[2] * steps[4]
    at = start * first_w.size * channels
    for row in range(start, stop):
        ni, j = divmod(row, first_h.size)
        n, i = divmod(ni, first_d.size)
        d, h = first_d[i], first_h[j]
        for k in range(first_w.size):
            w = first_w[k]
            source = address + n * steps[0] + d * steps[2] + h * steps[3] + w * steps[4]
            position = (d * sizes[1] + h) * sizes[2] + w
            divisor = divide_d[i] * divide_h[j] * divide_w[k]
            for c in range(0, channels, lanes(empty)):
                best, found = splat(empty, empty), splat_as(empty, nowhere, position)
                for a in range(count_d[i]):
                    for b in range(count_h[j]):
                        tap = source + c * steps[1] + a * step_d + b * step_h
                        for e in range(count_w[k]):
                            value = _read(tap + e * step_w, steps[1], channels - c, empty)
                            if indices is None:
                                best = _combined(summing, best, value)
                            else:
                                better = (value > best) | (value != value)
                                best = select(better, value, best)
                                there = position + (a * dilation[0] * sizes[1] + b * dilation[1]) * sizes[2] + e * dilation[2]
                                found = select(better, splat_as(empty, nowhere, there), found)
                if summing is not None:
                    best = best / splat(empty, divisor)
                store(out + (at + c) * item, best, channels - c)
                if indices is not None:
                    store(indices + (at + c) * 8, wide(found), channels - c)
            at += channels


NARROW = 8
def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    planes, outputs = grad_x.shape[0] * grad_x.shape[1], geometry.volume(grad_output.shape[2:])
    total = np.zeros((planes, geometry.volume(grad_x.shape[2:])), grad_x.dtype)
    given = grad_output.reshape(planes, outputs), indices.reshape(planes, outputs)
    threads.run(_max_planes_backward, planes, 2 * grad_output.size, *given, total)
    grad_x[...] = total.reshape(grad_x.shape)

def avg_pool_backward(grad_output: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    spread = _avg_windows_backward if plan.output_size[-1] < NARROW else _avg_rows_backward
    _run(spread, plan, arrays.lift(grad_output), arrays.lift(grad_x), *_factorsold(divisors, grad_x.dtype))


def _run(kernel_, plan: PoolPlan, *args: Any) -> None:
    plan = geometry.lift(plan)
    work = plan.batch * plan.channels * geometry.volume(plan.output_size) * geometry.volume(plan.kernel_size)
    window = plan.kernel_size, plan.stride, plan.dilation, plan.before
    threads.run(kernel_, plan.batch * plan.channels, work, window, *args)


def _factorsold(divisors: tuple[Ints, ...], dtype: np.dtype) -> list[Array]:
    """The divisors' factors along three axes."""
    return [np.array(factors, dtype) for factors in ((1,),) * (3 - len(divisors)) + divisors]


@kernel
def _reach(offset, stride, size, outputs):
    """The outputs low <= o < high whose tap, at ``o * stride + offset``, lies on an axis of `size`."""
    low = max(0, -(offset // stride))
    high = min(outputs, (size - 1 - offset) // stride + 1)
    return low, max(low, high)

@kernel
def _max_planes_backward(start, stop, grad_output, indices, total):
    for item in range(start, stop):
        for o in range(grad_output.shape[1]):
            total[item, indices[item, o]] += grad_output[item, o]

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
