"""Pooling, one pass over memory, in vectors.

Where rows lie in memory, a thread owns whole planes, and a row of windows is taken in two steps: first *down*, the rows
under it combined into one padded line, then *across*, the taps along that line. Where channels lie closest together,
lanes are channels and a window is taken tap by tap.

Kernels get addresses and steps in bytes, so that each has one compiled form for each dtype. `summing` is True for means
and None for maxima, `indices` an address or None: what is None at compile time is not compiled.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import Ints, PoolPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import VECTOR_BYTES, kernel
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
LONG = 16  # taps: windows with more of them are read as they lie in memory


def max_pool(x: Array, plan: PoolPlan, out: Array, indices: Array | None) -> None:
    lowest = x.dtype.type(-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
    in_doubt = np.zeros(1, np.bool_)
    _pool(x, plan, None, lowest, in_doubt, out, indices)
    if in_doubt[0] and indices is None:  # which of 0.0 and -0.0 comes first is known where places are
        _pool(x, plan, None, lowest, in_doubt, out, np.empty(out.shape, np.int64))


def avg_pool(x: Array, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    _pool(x, plan, divisors, x.dtype.type(0), np.zeros(1, np.bool_), out, None)


class Lines(NamedTuple):
    """How rows of windows are taken: `rows` lines of `pitch` elements at a time, in a buffer of `length` elements.

    A line has `before` elements of padding and `width` of x; its windows begin `stride` apart. The outputs of all lines
    follow each other if it is `flat`; lanes are taps rather than outputs if `by_taps`.
    """

    pitch: int
    rows: int
    length: int
    before: int
    width: int
    stride: int
    flat: bool
    by_taps: bool


class Way(NamedTuple):
    """What a kernel needs to know of a plan; `axes` has for every axis and window its first tap on x, how many of its
    taps are there, and its divisor's factor."""

    channels: int
    sizes: Ints
    window: tuple[Ints, Ints]
    axes: tuple[tuple[Array, Array, Array], ...]
    lines: Lines
    nowhere: Any
    items: tuple[int, int]


def _pool(
    x: Array,
    plan: PoolPlan,
    divisors: tuple[Ints, ...] | None,
    empty: Any,
    in_doubt: Array,
    out: Array,
    indices: Array | None,
) -> None:
    way, by_channels, x = _way(plan, x.dtype, divisors), _by_channels(out, x), arrays.lift(x)
    to, found = _dense(out, by_channels), None if indices is None else _dense(indices, by_channels)
    source = address(x), x.strides, way.channels, way.sizes
    results = address(to), None if found is None else address(found)
    summing = None if divisors is None else True
    given = empty, way.nowhere, summing, source, way.window, way.axes, *results
    work = (x.size + out.size) / 4
    if by_channels:
        threads.run(_pixels, way.items[1], work, *given)
    else:
        threads.run(_planes, way.items[0], work, *given, tuple(way.lines), in_doubt)
    for result, wanted in ((to, out), (found, indices)):
        if wanted is not None and result is not wanted:
            wanted[...] = result


def _by_channels(result: Array, like: Array) -> bool:
    """Whether channels lie closest together in the result and in what it is made of, or can only lie so."""
    if result.flags.c_contiguous and not arrays.channels_last(like):
        return False
    return _channels_behind(result).flags.c_contiguous


def _channels_behind(array: Array) -> Array:
    return array.transpose(0, *range(2, array.ndim), 1)


def _dense(array: Array, by_channels: bool) -> Array:
    """The array itself if it lies without gaps in the order that a kernel fills, else a new one."""
    if by_channels:
        last = _channels_behind(array)
        return array if last.flags.c_contiguous else np.moveaxis(np.empty(last.shape, array.dtype), -1, 1)
    return array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)


@lru_cache(128)
def _way(plan: PoolPlan, dtype: np.dtype, divisors: tuple[Ints, ...] | None) -> Way:
    plan = geometry.lift(plan)
    factors = _factors(divisors or ((1,) * n for n in plan.output_size))
    lines = _lines(plan, dtype, factors)
    parts = [np.array(each, dtype) for each in factors]
    parts[2] = np.tile(parts[2], lines.rows) if lines.flat else parts[2]
    axes = tuple((*_windows(plan, axis), parts[axis]) for axis in range(3))
    kind = np.int32 if geometry.volume(plan.input_size) < 1 << 31 else np.int64
    items = plan.batch * plan.channels, plan.batch * plan.output_size[0] * plan.output_size[1]
    window = plan.kernel_size, plan.dilation
    return Way(plan.channels, plan.input_size, window, axes, lines, kind(np.iinfo(kind).max), items)


def _factors(divisors: Iterable[Ints]) -> tuple[Ints, ...]:
    """The divisors' factors along three axes."""
    factors = tuple(divisors)
    return ((1,),) * (3 - len(factors)) + factors


def _windows(plan: PoolPlan, axis: int) -> tuple[Array, Array]:
    """Where the first tap on x of each window along an axis lies, and how many taps lie on x."""
    dilation = plan.dilation[axis]
    first = np.arange(plan.output_size[axis]) * plan.stride[axis] - plan.before[axis]
    skipped = np.maximum(0, -(first // dilation))
    first += skipped * dilation
    return first, np.minimum(plan.kernel_size[axis] - skipped, (plan.input_size[axis] - 1 - first) // dilation + 1)


def _lines(plan: PoolPlan, dtype: np.dtype, factors: tuple[Ints, ...]) -> Lines:
    outputs, taps, dilation, before = (
        each[2] for each in (plan.output_size, plan.kernel_size, plan.dilation, plan.before)
    )
    lanes_ = VECTOR_BYTES // dtype.itemsize
    span = dilation * (taps - 1) + 1
    stride = plan.stride[2] if outputs > 1 else span
    needed = (outputs - 1) * stride + span
    flat = span <= stride and all(len(set(each)) < 2 for each in factors[:2])
    pitch = outputs * stride if flat else needed
    rows = max(1, min(LINES // dtype.itemsize // pitch, plan.output_size[1]))
    length = rows * pitch + span + 6 * lanes_  # of which `every` reads some behind the last window
    width = min(plan.input_size[2], needed - before)
    vectors = taps * -(-outputs // lanes_) * (stride if stride < 5 else lanes_)
    by_taps = dilation == 1 and outputs * (-(-taps // lanes_) + 4) < vectors
    return Lines(pitch, rows, length, before, width, stride, flat, by_taps)


@kernel
def _read(near, source, step, count, empty):
    """`count` numbers, `step` bytes apart unless they are neighbours."""
    return load(source, count, empty) if near else gather(apart(source, step, empty), count, empty)


@kernel
def _combined(summing, a, b):
    return larger(a, b) if summing is None else a + b


@kernel
def _planes(start, stop, empty, nowhere, summing, source, window, axes, out, indices, lines, in_doubt):
    """Planes of outputs: x is read once, what follows from a block of its rows is written while these are near."""
    base, strides, channels, sizes = source
    (_, _, taps), dilation = window
    (first_d, count_d, factor_d), (first_h, count_h, factor_h), (first_w, _, factor_w) = axes
    pitch, rows, length, before, width, stride, flat, by_taps = lines
    memory, memory_keys = np.full(length, empty), np.full(length, nowhere)
    line, keys, item, steps = memory.ctypes.data, memory_keys.ctypes.data, size(empty), strides[2:]
    to_line, to_keys = line + before * item, keys + before * size(nowhere)
    outputs, high = first_w.size, first_h.size
    doubt, done = False, start * first_d.size * high * outputs
    n, c = divmod(start, channels)
    for _ in range(start, stop):
        plane = base + n * strides[0] + c * strides[1]
        n, c = (n, c + 1) if c + 1 < channels else (n + 1, 0)
        for i in range(first_d.size):
            deep = plane + first_d[i] * steps[0]
            for j in range(0, high, rows):
                n_lines = min(rows, high - j)
                block = count_d[i], n_lines, first_h.ctypes.data + j * 8, count_h.ctypes.data + j * 8
                if indices is not None:
                    position = first_d[i] * sizes[1] * sizes[2]
                    _down_keys(
                        empty, nowhere, deep, steps, block, dilation, position, sizes, to_line, to_keys, pitch, width
                    )
                elif steps[2] == item:
                    doubt |= _down(True, empty, summing, deep, steps, block, dilation, to_line, pitch, width)
                else:
                    doubt |= _down(False, empty, summing, deep, steps, block, dilation, to_line, pitch, width)
                shape = (1, n_lines * outputs, pitch) if flat else (n_lines, outputs, pitch)
                to = out + done * item
                factors = factor_d[i], factor_h.ctypes.data + j * item, factor_w.ctypes.data
                if indices is not None:
                    _across_keys(empty, nowhere, line, keys, taps, stride, dilation[2], shape, to, indices + done * 8)
                elif by_taps:
                    _across_taps(empty, summing, line, taps, stride, shape, factors, to)
                elif stride == 1:  # a stride that is known when compiling
                    _across(1, empty, summing, line, taps, dilation[2], shape, factors, to)
                elif stride == 2:
                    _across(2, empty, summing, line, taps, dilation[2], shape, factors, to)
                elif stride == 3:
                    _across(3, empty, summing, line, taps, dilation[2], shape, factors, to)
                else:
                    _across(stride, empty, summing, line, taps, dilation[2], shape, factors, to)
                done += n_lines * outputs
    if doubt:
        in_doubt[0] = True
    keep(memory)
    keep(memory_keys)


@kernel
def _down(near, empty, summing, source, steps, block, dilation, line, pitch, width):
    """Fill the lines of a block with the rows under its windows, combined.

    Whether a maximum is -0.0 there: across, it may be equal to a 0.0 that lies before it in the window.
    """
    inlined()
    n_deep, rows, firsts, counts = block
    step_d, step_h = dilation[0] * steps[0], dilation[1] * steps[1]
    doubt = minus_zero(splat(empty, empty))
    for j in range(rows):
        row, n_high, to = source + at(firsts, j, rows) * steps[1], at(counts, j, rows), line + j * pitch * size(empty)
        for p in range(0, width, lanes(empty)):
            best = splat(empty, empty)
            for d in range(n_deep):
                tap = row + d * step_d + p * steps[2]
                for _ in range(n_high):
                    rolled()
                    best = _combined(summing, best, _read(near, tap, steps[2], width - p, empty))
                    tap += step_h
            store_all(to + p * size(empty), best)
            if summing is None:
                doubt = doubt | minus_zero(best)
    return any_lane(doubt)


@kernel
def _down_keys(empty, nowhere, source, steps, block, dilation, plane, sizes, line, keys, pitch, width):
    """The same, and where in the plane each maximum was found: its key, all bits turned (so negative) if it is NaN."""
    n_deep, rows, firsts, counts = block
    for j in range(rows):
        h, n_high = at(firsts, j, rows), at(counts, j, rows)
        for p in range(0, width, lanes(empty)):
            best, key = splat(empty, empty), splat_as(empty, nowhere, plane + h * sizes[2])
            for a in range(n_deep):
                for b in range(n_high):
                    rolled()
                    d, down = a * dilation[0], h + b * dilation[1]
                    tap = source + d * steps[0] + down * steps[1] + p * steps[2]
                    value = _read(steps[2] == size(empty), tap, steps[2], width - p, empty)
                    row = splat_as(empty, nowhere, plane + (d * sizes[1] + down) * sizes[2])
                    best, key = _taken(best, key, value, row)
            key, at_line = numbered(key + p), j * pitch + p
            store_all(line + at_line * size(empty), best)
            store(keys + at_line * size(nowhere), select(best != best, key ^ -1, key), width - p)


@kernel
def _taken(best, key, value, place):
    """The better of what was found before and what comes after it: of equal ones the first, of NaN the last."""
    better = (value > best) | (value != value)
    return select(better, value, best), select(better, place, key)


@kernel
def _merged(best, key, other, other_key):
    """The better of two, wherever they lie: of equal ones, and of NaN, that of the smaller key."""
    better = (other > best) | (alike(other, best) & (other_key < key))
    return select(better, other, best), select(better, other_key, key)


@kernel
def _across(stride, empty, summing, line, taps, dilation, shape, factors, out):
    """Rows of outputs from lines, lanes being outputs."""
    inlined()
    rows, outputs, pitch = shape
    factor_d, factor_h, factor_w = factors
    item, step = size(empty), dilation * size(empty)
    for j in range(rows):
        divisor, row = factor_d * at(factor_h, j, empty), line + j * pitch * item
        for o in range(0, outputs, lanes(empty)):
            tap, count = row + o * stride * item, outputs - o
            best = every(tap, stride, count, empty)
            for _ in range(1, taps):
                rolled()
                tap += step
                best = _combined(summing, best, every(tap, stride, count, empty))
            if summing is not None:
                best = best / (load(factor_w + o * item, count, empty) * divisor)
            store(out + (j * outputs + o) * item, best, count)


@kernel
def _across_taps(empty, summing, line, taps, stride, shape, factors, out):
    """Rows of outputs from lines, lanes being taps: for few and long windows, as in global pooling."""
    inlined()
    rows, outputs, pitch = shape
    factor_d, factor_h, factor_w = factors
    for j in range(rows):
        divisor = factor_d * at(factor_h, j, empty)
        for o in range(outputs):
            best, window = splat(empty, empty), line + (j * pitch + o * stride) * size(empty)
            for t in range(0, taps, lanes(empty)):
                best = _combined(summing, best, load(window + t * size(empty), taps - t, empty))
            if summing is None:
                put(out, j * outputs + o, largest(best), empty)
            else:
                put(out, j * outputs + o, sum_lanes(best) / (divisor * at(factor_w, o, empty)), empty)


@kernel
def _across_keys(empty, nowhere, line, keys, taps, stride, dilation, shape, out, indices):
    """Rows of maxima from lines, and where they were found from their keys."""
    rows, outputs, pitch = shape
    item, key_item, like = size(empty), size(nowhere), splat(empty, nowhere)
    for j in range(rows):
        for o in range(0, outputs, lanes(empty)):
            first, count, to = j * pitch + o * stride, outputs - o, j * outputs + o
            best = every(line + first * item, stride, count, empty)
            key = every(keys + first * key_item, stride, count, like)
            for t in range(1, taps):
                rolled()
                tap = first + t * dilation
                other = every(line + tap * item, stride, count, empty)
                best, key = _merged(best, key, other, every(keys + tap * key_item, stride, count, like))
            store(out + to * item, best, count)
            store(indices + to * 8, wide(select(key < 0, key ^ -1, key)), count)


@kernel
def _pixels(start, stop, empty, nowhere, summing, source, window, axes, out, indices):
    """Rows of pixels of outputs, all channels of a pixel, which lie together: every tap of a window is read once."""
    base, steps, channels, sizes = source
    _, dilation = window
    (first_d, count_d, factor_d), (first_h, count_h, factor_h), (first_w, count_w, factor_w) = axes
    jumps = dilation[0] * steps[2], dilation[1] * steps[3], dilation[2] * steps[4]
    places = dilation[0] * sizes[1] * sizes[2], dilation[1] * sizes[2], dilation[2]
    done = start * first_w.size * channels
    for row in range(start, stop):
        image, j = divmod(row, first_h.size)
        n, i = divmod(image, first_d.size)
        d, h = first_d[i], first_h[j]
        for k in range(first_w.size):
            w, counts = first_w[k], (count_d[i], count_h[j], count_w[k])
            pixel = base + n * steps[0] + d * steps[2] + h * steps[3] + w * steps[4], steps[1]
            to = out + done * size(empty)
            if indices is not None:
                place = (d * sizes[1] + h) * sizes[2] + w
                _pixel_keys(empty, nowhere, pixel, channels, counts, jumps, place, places, to, indices + done * 8)
            else:
                divisor = factor_d[i] * factor_h[j] * factor_w[k]
                if counts[0] * counts[1] * counts[2] > LONG:
                    _pixel_by_taps(empty, summing, pixel, channels, counts, jumps, divisor, to)
                else:
                    _pixel(empty, summing, pixel, channels, counts, jumps, divisor, to)
            done += channels


@kernel
def _pixel(empty, summing, pixel, channels, counts, jumps, divisor, out):
    """The channels of one output, a vector of them at a time."""
    source, step = pixel
    for c in range(0, channels, lanes(empty)):
        best = splat(empty, empty)
        for a in range(counts[0]):
            for b in range(counts[1]):
                tap = source + c * step + a * jumps[0] + b * jumps[1]
                for _ in range(counts[2]):
                    rolled()
                    best = _combined(summing, best, _read(step == size(empty), tap, step, channels - c, empty))
                    tap += jumps[2]
        if summing is not None:
            best = best / splat(empty, divisor)
        store(out + c * size(empty), best, channels - c)


@kernel
def _pixel_by_taps(empty, summing, pixel, channels, counts, jumps, divisor, out):
    """The same, all channels of a tap at a time: x is read in the order of memory."""
    source, step = pixel
    _fill(empty, out, channels)
    for a in range(counts[0]):
        for b in range(counts[1]):
            for e in range(counts[2]):
                tap = source + a * jumps[0] + b * jumps[1] + e * jumps[2]
                for c in range(0, channels, lanes(empty)):
                    to, count = out + c * size(empty), channels - c
                    value = _read(step == size(empty), tap + c * step, step, count, empty)
                    store(to, _combined(summing, load(to, count, empty), value), count)
    if summing is not None:
        for c in range(0, channels, lanes(empty)):
            to, count = out + c * size(empty), channels - c
            store(to, load(to, count, empty) / splat(empty, divisor), count)


@kernel
def _pixel_keys(empty, nowhere, pixel, channels, counts, jumps, place, places, out, indices):
    """The maxima of one output and where they were found, a vector of channels at a time."""
    source, step = pixel
    for c in range(0, channels, lanes(empty)):
        best, key = splat(empty, empty), splat_as(empty, nowhere, place)
        for a in range(counts[0]):
            for b in range(counts[1]):
                for e in range(counts[2]):
                    rolled()
                    tap = source + c * step + a * jumps[0] + b * jumps[1] + e * jumps[2]
                    value = _read(step == size(empty), tap, step, channels - c, empty)
                    there = place + a * places[0] + b * places[1] + e * places[2]
                    best, key = _taken(best, key, value, splat_as(empty, nowhere, there))
        store(out + c * size(empty), best, channels - c)
        store(indices + c * 8, wide(key), channels - c)


@kernel
def _fill(value, to, count):
    for p in range(0, count, lanes(value)):
        store(to + p * size(value), splat(value, value), count - p)


# ---------------------------------------------------------------- backward


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    by_channels, zero = _by_channels(grad_x, grad_output), grad_x.dtype.type(0)
    result = _dense(grad_x, by_channels)
    sources = _gapless(grad_output, by_channels), _gapless(indices, by_channels)
    places = [address(each) for each in (*sources, result)]
    batch, channels = grad_x.shape[:2]
    shape = channels, geometry.volume(grad_x.shape[2:]), geometry.volume(grad_output.shape[2:])
    work = grad_x.size / 8 + grad_output.size
    if by_channels:
        parts = min(channels, -(-threads.get_num_threads() // max(1, batch)))
        threads.run(_scatter_pixels, batch * parts, work, zero, *places, *shape, parts, keep=sources)
    else:
        threads.run(_scatter_planes, batch * channels, work, zero, *places, *shape[1:], keep=sources)
    if result is not grad_x:
        grad_x[...] = result


def avg_pool_backward(grad_output: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    by_channels, zero = _by_channels(grad_x, grad_output), grad_x.dtype.type(0)
    result, grad_output = _dense(grad_x, by_channels), arrays.lift(grad_output)
    lines, axes, items = _way_back(plan, grad_x.dtype, divisors)
    given = zero, (address(grad_output), grad_output.strides, plan.channels), axes, address(result)
    work = (grad_x.size + grad_output.size) / 4
    if by_channels:
        threads.run(_pixels_backward, items[1], work, *given)
    else:
        threads.run(_planes_backward, items[0], work, *given, lines)
    if result is not grad_x:
        grad_x[...] = result


def _gapless(array: Array, by_channels: bool) -> Array:
    """The array without gaps, in the order that a kernel reads."""
    if by_channels:
        return np.ascontiguousarray(_channels_behind(array))
    return np.ascontiguousarray(array)


@lru_cache(128)
def _way_back(plan: PoolPlan, dtype: np.dtype, divisors: tuple[Ints, ...]) -> tuple[Ints, tuple, tuple[int, int]]:
    """Of a line: its taps, padding and stride. Along each axis: the first of the windows that hold an element of x, how
    many do, and one over the divisors' factors. Planes, and rows of pixels."""
    plan, factors = geometry.lift(plan), _factors(divisors)
    axes = []
    for axis in range(3):
        at, stride = np.arange(plan.input_size[axis]) + plan.before[axis], plan.stride[axis]
        first = np.maximum(0, (at - plan.kernel_size[axis]) // stride + 1)
        count = np.minimum(plan.output_size[axis], at // stride + 1) - first
        axes.append((first, np.maximum(0, count), (1 / np.array(factors[axis], np.float64)).astype(dtype)))
    taps = plan.kernel_size[2]
    lines = taps, taps - 1 - plan.before[2], plan.stride[2] if plan.output_size[2] > 1 else 1
    items = plan.batch * plan.channels, plan.batch * plan.input_size[0] * plan.input_size[1]
    return lines, tuple(axes), items


@kernel
def _scatter_planes(start, stop, zero, grad, indices, grad_x, pixels, outputs):
    """Planes of the gradient: filled with zeros, and what each output brings added while they are near."""
    grad, indices = grad + start * outputs * size(zero), indices + start * outputs * 8
    to = grad_x + start * pixels * size(zero)
    for _ in range(start, stop):
        _fill(zero, to, pixels)
        for o in range(outputs):
            place = at(indices, o, outputs)
            put(to, place, at(to, place, zero) + at(grad, o, zero), zero)
        grad, indices, to = grad + outputs * size(zero), indices + outputs * 8, to + pixels * size(zero)


@kernel
def _scatter_pixels(start, stop, zero, grad, indices, grad_x, channels, pixels, outputs, parts):
    """The same, where channels lie together: images, in so many parts of their channels."""
    item = size(zero)
    for piece in range(start, stop):
        n, part = divmod(piece, parts)
        c = part * channels // parts
        width = (part + 1) * channels // parts - c
        to = grad_x + (n * pixels * channels + c) * item
        for p in range(pixels):
            _fill(zero, to + p * channels * item, width)
        for o in range(n * outputs * channels + c, (n + 1) * outputs * channels + c, channels):
            places, values = indices + o * 8, grad + o * item
            for lane in range(width):
                place = at(places, lane, channels) * channels + lane
                put(to, place, at(to, place, zero) + at(values, lane, zero), zero)


@kernel
def _planes_backward(start, stop, zero, grad, axes, grad_x, lines):
    """Planes of the gradient, row by row: the windows over a row down into a line, `stride` apart, then across."""
    taps, left, stride = lines
    (first_d, count_d, part_d), (first_h, count_h, part_h), (first_w, _, part_w) = axes
    base, steps, channels = grad
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
                while (
                    h + alike_rows < height
                    and first_h[h] == first_h[h + alike_rows]
                    and count_h[h] == count_h[h + alike_rows]
                ):
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
def _pixels_backward(start, stop, zero, grad, axes, grad_x):
    """Rows of pixels of the gradient, all channels of a pixel in vectors."""
    (first_d, count_d, part_d), (first_h, count_h, part_h), (first_w, count_w, part_w) = axes
    base, steps, channels = grad
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
