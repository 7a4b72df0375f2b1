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
from cnnkit.rooms.numba.machine import L2, VECTOR_BYTES, kernel
from cnnkit.rooms.numba.vectors import (
    address,
    alike,
    any_lane,
    apart,
    at,
    every,
    gather,
    inlined,
    keep,
    lanes,
    larger,
    largest,
    load,
    load_all,
    minus_zero,
    numbered,
    put,
    rolled,
    scatter,
    select,
    size,
    splat,
    splat_as,
    store,
    store_all,
    sum_lanes,
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
    places = [address(each) for each in results]
    found = places[1] if indices is not None else None
    kind = np.int32 if geometry.volume(plan.input_size) < 1 << 31 else np.int64
    source = address(x), x.strides
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
    across = taps * -(-outputs // vector) * (stride if stride < 5 else vector)
    by_taps = dilation == 1 and outputs * (-(-taps // vector) + 4) < across
    return Lines(pitch, rows, rows * pitch + span + 6 * vector, width, stride, flat, by_taps)


@kernel
def _read(near, source, step, count, empty):
    return load(source, count, empty) if near else gather(apart(source, step, empty), count, empty)


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
    base, steps = x
    steps = steps[2:]
    outputs, n_rows, n_planes = first_w.size, first_h.size, first_d.size
    firsts, counts, factors, row_factors = first_h.ctypes.data, count_h.ctypes.data, divide_h.ctypes.data, divide_w.ctypes.data
    to = start * n_planes * n_rows * outputs
    odd = False
    taps = kernel_size[2]
    n, c = divmod(start, channels)
    for _ in range(start, stop):
        source = base + n * x[1][0] + c * x[1][1]
        n, c = (n, c + 1) if c + 1 < channels else (n + 1, 0)
        for i in range(n_planes):
            deep, nd, factor = source + first_d[i] * steps[0], count_d[i], divide_d[i]
            for j in range(0, n_rows, rows):
                n_lines = min(rows, n_rows - j)
                high = nd, n_lines, firsts + j * 8, counts + j * 8
                filled = line + before * item
                if indices is not None:
                    position = first_d[i] * sizes[1] * sizes[2]
                    _down_keys(empty, nowhere, deep, steps, high, dilation, position, sizes, filled, keys + before * key, pitch, width)
                elif steps[2] == item:
                    odd |= _down(1, empty, summing, deep, steps, high, dilation, filled, pitch, width)
                else:
                    odd |= _down(0, empty, summing, deep, steps, high, dilation, filled, pitch, width)
                results = out + to * item
                factors_h = factors + j * item
                shape = (1, n_lines * outputs) if flat else (n_lines, outputs)
                if indices is not None:
                    _across_keys(empty, nowhere, line, keys, pitch, taps, stride, dilation[2], shape, results, indices + to * 8)
                elif by_taps:
                    _across_taps(empty, summing, line, pitch, taps, stride, shape, results, factor, factors_h, row_factors)
                elif stride == 1:  # a stride that is known when compiling
                    _across(1, empty, summing, line, pitch, taps, dilation[2], shape, results, factor, factors_h, row_factors)
                elif stride == 2:
                    _across(2, empty, summing, line, pitch, taps, dilation[2], shape, results, factor, factors_h, row_factors)
                elif stride == 3:
                    _across(3, empty, summing, line, pitch, taps, dilation[2], shape, results, factor, factors_h, row_factors)
                else:
                    _across(stride, empty, summing, line, pitch, taps, dilation[2], shape, results, factor, factors_h, row_factors)
                to += n_lines * outputs
    if odd:
        in_doubt[0] = True
    keep(memory)
    keep(memory_keys)


@kernel
def _down(near, empty, summing, source, steps, high, dilation, line, pitch, width):
    """line[p] = the rows at `row` + d * taps[1] + h * taps[3] combined. Whether ..."""
    inlined()
    nd, rows, firsts, counts = high
    step_d, step_h = dilation[0] * steps[0], dilation[1] * steps[1]
    odd = minus_zero(splat(empty, empty))
    for j in range(rows):
        row, taps = source + at(firsts, j, rows) * steps[1], at(counts, j, rows)
        to = line + j * pitch * size(empty)
        for p in range(0, width, lanes(empty)):
            best = splat(empty, empty)
            for d in range(nd):
                tap = row + d * step_d + p * steps[2]
                for _ in range(taps):
                    rolled()
                    best = _combined(summing, best, _read(near, tap, steps[2], width - p, empty))
                    tap += step_h
            store_all(to + p * size(empty), best)
            if summing is None:
                odd = odd | minus_zero(best)
    return any_lane(odd)


@kernel
def _down_keys(empty, nowhere, source, steps, high, dilation, plane, sizes, line, keys, pitch, width):
    nd, rows, firsts, counts = high
    for j in range(rows):
        h, taps = at(firsts, j, rows), at(counts, j, rows)
        for p in range(0, width, lanes(empty)):
            best, found = splat(empty, empty), splat_as(empty, nowhere, plane + h * sizes[2])
            for d in range(nd):
                for b in range(taps):
                    rolled()
                    down, back = h + b * dilation[1], d * dilation[0]
                    tap = source + back * steps[0] + down * steps[1] + p * steps[2]
                    value = _read(steps[2] == size(empty), tap, steps[2], width - p, empty)
                    better = (value > best) | (value != value)
                    best = select(better, value, best)
                    position = plane + (back * sizes[1] + down) * sizes[2]
                    found = select(better, splat_as(empty, nowhere, position), found)
            found = numbered(found + p)
            store_all(line + (j * pitch + p) * size(empty), best)
            store(keys + (j * pitch + p) * size(nowhere), select(best != best, found ^ -1, found), width - p)


@kernel
def _merged(best, found, value, key):
    better = (value > best) | (alike(value, best) & (key < found))
    return select(better, value, best), select(better, key, found)


@kernel
def _across(stride, empty, summing, line, pitch, taps, dilation, shape, out, factor, factors_h, factors_w):
    inlined()
    rows, outputs = shape
    item, step = size(empty), dilation * size(empty)
    for j in range(rows):
        divisor = factor * at(factors_h, j, empty)
        row, to = line + j * pitch * item, out + j * outputs * item
        for o in range(0, outputs, lanes(empty)):
            tap, count = row + o * stride * item, outputs - o
            best = every(tap, stride, count, empty)
            for t in range(1, taps):
                rolled()
                tap += step
                best = _combined(summing, best, every(tap, stride, count, empty))
            if summing is not None:
                best = best / (load(factors_w + o * item, count, empty) * divisor)
            store(to + o * item, best, count)


@kernel
def _across_taps(empty, summing, line, pitch, taps, stride, shape, out, factor, factors_h, factors_w):
    inlined()
    rows, outputs = shape
    item = size(empty)
    for j in range(rows):
        divisor = factor * at(factors_h, j, empty)
        row, to = line + j * pitch * item, out + j * outputs * item
        for o in range(outputs):
            best = splat(empty, empty)
            for t in range(0, taps, lanes(empty)):
                best = _combined(summing, best, load(row + (o * stride + t) * item, taps - t, empty))
            if summing is None:
                store(to + o * item, splat(empty, largest(best)), 1)
            else:
                store(to + o * item, splat(empty, sum_lanes(best) / (divisor * at(factors_w, o, empty))), 1)


@kernel
def _across_keys(empty, nowhere, line, keys, pitch, taps, stride, dilation, shape, out, indices):
    rows, outputs = shape
    item, key, like = size(empty), size(nowhere), splat(empty, nowhere)
    for j in range(rows):
        for o in range(0, outputs, lanes(empty)):
            first, count, to = j * pitch + o * stride, outputs - o, j * outputs + o
            best, found = every(line + first * item, stride, count, empty), every(keys + first * key, stride, count, like)
            for t in range(1, taps):
                at = first + t * dilation
                best, found = _merged(best, found, every(line + at * item, stride, count, empty), every(keys + at * key, stride, count, like))
            store(out + to * item, best, count)
            store(indices + to * 8, wide(select(found < 0, found ^ -1, found)), count)


@kernel
def _pixels(start, stop, empty, nowhere, summing, kernel_size, dilation, x, channels, sizes, out, indices, axes):
    """Rows of pixels of outputs, all channels of a pixel in vectors."""
    (first_d, count_d, divide_d), (first_h, count_h, divide_h), (first_w, count_w, divide_w) = axes
    base, steps = x
    item = size(empty)
    step_d, step_h, step_w = dilation[0] * steps[2], dilation[1] * steps[3], dilation[2] * steps[4]
    to = start * first_w.size * channels
    for row in range(start, stop):
        ni, j = divmod(row, first_h.size)
        n, i = divmod(ni, first_d.size)
        d, h = first_d[i], first_h[j]
        for k in range(first_w.size):
            w = first_w[k]
            source = base + n * steps[0] + d * steps[2] + h * steps[3] + w * steps[4]
            position = (d * sizes[1] + h) * sizes[2] + w
            divisor = divide_d[i] * divide_h[j] * divide_w[k]
            for c in range(0, channels, lanes(empty)):
                best, found = splat(empty, empty), splat_as(empty, nowhere, position)
                for a in range(count_d[i]):
                    for b in range(count_h[j]):
                        tap = source + c * steps[1] + a * step_d + b * step_h
                        for e in range(count_w[k]):
                            value = _read(steps[1] == item, tap + e * step_w, steps[1], channels - c, empty)
                            if indices is None:
                                best = _combined(summing, best, value)
                            else:
                                better = (value > best) | (value != value)
                                best = select(better, value, best)
                                there = position + (a * dilation[0] * sizes[1] + b * dilation[1]) * sizes[2] + e * dilation[2]
                                found = select(better, splat_as(empty, nowhere, there), found)
                if summing is not None:
                    best = best / splat(empty, divisor)
                store(out + (to + c) * item, best, channels - c)
                if indices is not None:
                    store(indices + (to + c) * 8, wide(found), channels - c)
            to += channels


# ---------------------------------------------------------------- backward


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    by_channels = _channels_closest(grad_x)
    result = _dense(grad_x, by_channels)
    grad_output, indices = _copied(grad_output, by_channels), _copied(indices, by_channels)
    batch, channels, *sizes = grad_x.shape
    pixels, outputs = geometry.volume(sizes), geometry.volume(grad_output.shape[2:])
    parts = 1 if by_channels else channels
    block = -(-channels // parts) if not by_channels else min(channels, _round_up(channels // parts, VECTOR_BYTES // grad_x.itemsize))
    items = batch * -(-channels // block)
    places = address(grad_output), address(indices), address(result)
    work = grad_x.size / 8 + grad_output.size
    threads.run(_scatter, items, work, grad_x.dtype.type(0), *places, channels, block, by_channels, pixels, outputs)
    if result is not grad_x:
        grad_x[...] = result


def avg_pool_backward(grad_output: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    plan, grad_output = geometry.lift(plan), arrays.lift(grad_output)
    by_channels = _channels_closest(grad_x)
    result = _dense(grad_x, by_channels)
    given = grad_x.dtype.type(0), (address(grad_output), grad_output.strides), plan.channels, address(result)
    axes, work = _spreads(plan, grad_x.dtype, divisors), (grad_x.size + grad_output.size) / 4
    if by_channels:
        items = plan.batch * plan.input_size[0] * plan.input_size[1]
        threads.run(_pixels_backward, items, work, *given, axes)
    else:
        taps, left, stride = plan.kernel_size[2], plan.kernel_size[2] - 1 - plan.before[2], plan.stride[2]
        stride = stride if plan.output_size[2] > 1 else 1
        threads.run(_planes_backward, plan.batch * plan.channels, work, *given, axes, taps, left, stride)
    if result is not grad_x:
        grad_x[...] = result


def _copied(array: Array, by_channels: bool) -> Array:
    """The array, without gaps in the order that a kernel reads."""
    if by_channels:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    return np.ascontiguousarray(array)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


@lru_cache(64)
def _spreads(plan: PoolPlan, dtype: np.dtype, divisors: tuple[Ints, ...]) -> tuple[tuple[Array, ...], ...]:
    """Along each axis: the first of the windows that hold an element of x, how many do, and one over the divisors."""
    factors = ((1,),) * (3 - len(divisors)) + divisors
    axes = []
    for axis in range(3):
        at, stride = np.arange(plan.input_size[axis]) + plan.before[axis], plan.stride[axis]
        first = np.maximum(0, (at - plan.kernel_size[axis]) // stride + 1)
        count = np.minimum(plan.output_size[axis], at // stride + 1) - first
        axes.append((first, np.maximum(count, 0), (1 / np.array(factors[axis], np.float64)).astype(dtype)))
    return tuple(axes)


@kernel
def _scatter(start, stop, zero, grad, indices, grad_x, channels, block, by_channels, pixels, outputs):
    """Planes, or blocks of channels of images: filled with zeros, and what each output brings added while they are near."""
    blocks, item, step = -(-channels // block), size(zero), channels if by_channels else 1
    for part in range(start, stop):
        n, c = divmod(part, blocks)
        c *= block
        width = min(block, channels - c)
        to = grad_x + (n * channels * pixels + (c if by_channels else c * pixels)) * item
        source = n * channels * outputs + (c if by_channels else c * outputs)
        g, places = grad + source * item, indices + source * 8
        if by_channels:
            for p in range(pixels):
                _fill(zero, to + p * step * item, width)
            for o in range(outputs):
                for lane in range(width):
                    place = at(places, lane, step) * step + lane
                    put(to, place, at(to, place, zero) + at(g, lane, zero), zero)
                places += step * 8
                g += step * item
        else:
            _fill(zero, to, pixels)
            for o in range(outputs):
                place = at(places, o, step)
                put(to, place, at(to, place, zero) + at(g, o, zero), zero)


@kernel
def _fill(value, to, count):
    for p in range(0, count, lanes(value)):
        store(to + p * size(value), splat(value, value), count - p)


@kernel
def _planes_backward(start, stop, zero, grad, channels, grad_x, axes, taps, left, stride):
    """Planes of the gradient, row by row: the windows over a row down into a line, `stride` apart, then across."""
    (first_d, count_d, part_d), (first_h, count_h, part_h), (first_w, _, part_w) = axes
    base, steps = grad
    item, depth, height, width, outputs = size(zero), first_d.size, first_h.size, first_w.size, part_w.size
    memory = np.full(max(left + outputs * stride, width + taps) + 2 * lanes(zero), zero)
    line = memory.ctypes.data
    parts_h, parts_w = part_h.ctypes.data, part_w.ctypes.data
    to = grad_x + start * depth * height * width * item
    for plane in range(start, stop):
        n, c = divmod(plane, channels)
        source = base + n * steps[0] + c * steps[1]
        for d in range(depth):
            same_d = d > 0 and first_d[d] == first_d[d - 1] and count_d[d] == count_d[d - 1]
            h = 0
            while h < height:
                alike_rows = 1
                while h + alike_rows < height and first_h[h] == first_h[h + alike_rows] and count_h[h] == count_h[h + alike_rows]:
                    alike_rows += 1
                if same_d:
                    _copy(zero, to - height * width * item, to, alike_rows * width)
                else:
                    i, j = first_d[d], first_h[h]
                    rows = source + i * steps[2] + j * steps[3]
                    for p in range(0, outputs, lanes(zero)):
                        share = splat(zero, zero)
                        for a in range(count_d[d]):
                            tap = rows + a * steps[2] + p * steps[4]
                            for b in range(count_h[h]):
                                rolled()
                                value = _read(steps[4] == item, tap, steps[4], outputs - p, zero)
                                share = share + value * (part_d[i + a] * at(parts_h, j + b, zero))
                                tap += steps[3]
                        share = share * load(parts_w + p * item, outputs - p, zero)
                        if stride == 1:
                            store(line + (left + p) * item, share, outputs - p)
                        else:
                            scatter(apart(line + (left + p * stride) * item, stride * item, zero), share, outputs - p)
                    for p in range(0, width, lanes(zero)):
                        tap = line + p * item
                        share = load_all(tap, zero)
                        for _ in range(1, taps):
                            rolled()
                            tap += item
                            share = share + load_all(tap, zero)
                        for row in range(alike_rows):
                            store(to + (row * width + p) * item, share, width - p)
                to += alike_rows * width * item
                h += alike_rows
    keep(memory)


@kernel
def _copy(like, source, to, count):
    for p in range(0, count, lanes(like)):
        store(to + p * size(like), load(source + p * size(like), count - p, like), count - p)


@kernel
def _pixels_backward(start, stop, zero, grad, channels, grad_x, axes):
    """Rows of pixels of the gradient, all channels of a pixel in vectors."""
    (first_d, count_d, part_d), (first_h, count_h, part_h), (first_w, count_w, part_w) = axes
    base, steps = grad
    item, depth, height, width = size(zero), first_d.size, first_h.size, first_w.size
    to = grad_x + start * width * channels * item
    for row in range(start, stop):
        nd, h = divmod(row, height)
        n, d = divmod(nd, depth)
        i, j = first_d[d], first_h[h]
        source = base + n * steps[0] + i * steps[2] + j * steps[3]
        for w in range(width):
            k = first_w[w]
            for c in range(0, channels, lanes(zero)):
                share = splat(zero, zero)
                for a in range(count_d[d]):
                    for b in range(count_h[h]):
                        tap = source + a * steps[2] + b * steps[3] + k * steps[4] + c * steps[1]
                        for e in range(count_w[w]):
                            rolled()
                            value = _read(steps[1] == item, tap, steps[1], channels - c, zero)
                            share = share + value * (part_d[i + a] * part_h[j + b] * part_w[k + e])
                            tap += steps[4]
                store(to + c * item, share, channels - c)
            to += channels * item
