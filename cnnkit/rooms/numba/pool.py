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
from cnnkit.geometry import AdaptivePlan, Ints, PoolPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import VECTOR_BYTES, address_of
from cnnkit.rooms.numba.moves import AHEAD
from cnnkit.rooms.numba.planes import channels_together, copy, dense, fill
from cnnkit.rooms.numba.straight import LINE, straight
from cnnkit.rooms.numba.vectors import (
    alike,
    any_lane,
    apart,
    at,
    every,
    fetch,
    gather,
    lane,
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
    smallest,
    splat,
    splat_as,
    store,
    store_all,
    sum_lanes,
    wide,
)

LINES = 8 << 10  # bytes of lines that are filled before they are read: far enough behind, and still in the L1 cache
FEW = 6  # taps that are combined one by one
LONG = 16  # taps: windows with more of them are read as they lie in memory


Plan = PoolPlan | AdaptivePlan


def max_pool(x: Array, plan: Plan, out: Array, indices: Array | None) -> None:
    lowest = x.dtype.type(-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
    in_doubt = np.zeros(x.shape[:2], np.bool_)
    _pool(x, plan, None, lowest, in_doubt, out, indices)
    if indices is not None or not np.count_nonzero(in_doubt):
        return
    for n in np.flatnonzero(in_doubt.any(1)):  # which of 0.0 and -0.0 comes first is known where places are
        doubtful = np.flatnonzero(in_doubt[n])
        some = slice(n, n + 1), slice(doubtful[0], doubtful[-1] + 1)
        few = plan._replace(batch=1, channels=int(doubtful[-1] - doubtful[0]) + 1)
        _pool(x[some], few, None, lowest, in_doubt[some], out[some], np.empty(out[some].shape, np.int64))


def avg_pool(x: Array, plan: Plan, divisors: tuple[Ints, ...], out: Array) -> None:
    _pool(x, plan, divisors, x.dtype.type(0), np.zeros(x.shape[:2], np.bool_), out, None)


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
    """What a kernel needs to know of a plan: integers at one address, in the order of `_known`. `kept` are the arrays
    that they lead to; `items` are planes, and rows of pixels. With `whole` there is one window, all of a plane."""

    address: int
    kept: tuple[Array, ...]
    nowhere: Any
    items: tuple[int, int]
    whole: bool


def _pool(
    x: Array,
    plan: Plan,
    divisors: tuple[Ints, ...] | None,
    empty: Any,
    in_doubt: Array,
    out: Array,
    indices: Array | None,
) -> None:
    way, by_channels, x = _way(plan, x.dtype, divisors), channels_together(out, x), arrays.lift(x)
    to, found = dense(out, by_channels), None if indices is None else dense(indices, by_channels)
    summing = None if divisors is None else True
    given = empty, way.nowhere, summing, address_of(x), x.strides, way.address
    results = address_of(to), None if found is None else address_of(found)
    if by_channels:
        threads.run(_pixels, way.items[1], _cost(x, out), *given, *results)
    else:
        whole = way.whole and x[:1, :1].flags.c_contiguous
        run = _whole_planes if whole else _planes
        threads.run(run, way.items[0], _cost(x, out) / (3 if whole else 1), *given, *results, in_doubt.reshape(-1))
    for result, wanted in ((to, out), (found, indices)):
        if wanted is not None and result is not wanted:
            wanted[...] = result


def _cost(*arrays_: Array) -> float:
    """Nanoseconds of a pass over arrays, about."""
    return sum(array.size for array in arrays_) / 6


@lru_cache(128)
def _way(plan: Plan, dtype: np.dtype, divisors: tuple[Ints, ...] | None) -> Way:
    plan = geometry.lift(plan)
    factors = _factors(divisors or ((1,) * n for n in plan.output_size))
    lines = _lines(plan, dtype, factors) if isinstance(plan, PoolPlan) else _uneven_lines(plan, dtype)
    parts = [np.array(each, dtype) for each in factors]
    parts[2] = np.tile(parts[2], lines.rows) if lines.flat else parts[2]
    axes = [(*_windows(plan, axis), parts[axis]) for axis in range(3)]
    kind = np.int32 if geometry.volume(plan.input_size) < 1 << 31 else np.int64
    items = plan.batch * plan.channels, plan.batch * plan.output_size[0] * plan.output_size[1]
    taps, dilation = (plan.kernel_size, plan.dilation) if isinstance(plan, PoolPlan) else ((1, 1, 1),) * 2
    along = [(first.size, *map(address_of, (first, count, part))) for first, count, part in axes]
    known = np.array([plan.channels, *plan.input_size, *taps, *dilation, *sum(along, ()), *lines], np.int64)
    nowhere = kind(np.iinfo(kind).max)
    return Way(address_of(known), (known, *sum(axes, ())), nowhere, items, _whole(plan))


def _known(way):
    """Of a plan: channels, sizes, taps and dilation; for every axis how many windows there are, and where it says of
    each its first tap on x, how many of its taps are there, and its divisor's factor."""
    return way[0], way[1:4], way[4:7], way[7:10], (way[10:14], way[14:18], way[18:22])


def _whole(plan: Plan) -> bool:
    """Whether pooling is global: its one window is all of a plane."""
    if isinstance(plan, AdaptivePlan) or plan.kernel_size != plan.input_size:
        return False
    return set(plan.output_size) == {1} and not any(plan.before)


def _factors(divisors: Iterable[Ints]) -> tuple[Ints, ...]:
    """The divisors' factors along three axes."""
    factors = tuple(divisors)
    return ((1,),) * (3 - len(factors)) + factors


def _windows(plan: Plan, axis: int) -> tuple[Array, Array]:
    """Where the first tap on x of each window along an axis lies, and how many taps lie on x."""
    if isinstance(plan, AdaptivePlan):
        return _uneven_windows(plan, axis)
    dilation = plan.dilation[axis]
    first = np.arange(plan.output_size[axis]) * plan.stride[axis] - plan.before[axis]
    skipped = np.maximum(0, -(first // dilation))
    first += skipped * dilation
    return first, np.minimum(plan.kernel_size[axis] - skipped, (plan.input_size[axis] - 1 - first) // dilation + 1)


def _uneven_windows(plan: AdaptivePlan, axis: int) -> tuple[Array, Array]:
    first, count = geometry.adaptive_windows(plan.input_size[axis], plan.output_size[axis])
    return np.array(first, np.int64), np.array(count, np.int64)


def _uneven_lines(plan: AdaptivePlan, dtype: np.dtype) -> Lines:
    """Rows as they are: windows that differ in size are taken one by one, along the lanes."""
    width, lanes_ = plan.input_size[2], VECTOR_BYTES // dtype.itemsize
    rows = max(1, min(LINES // dtype.itemsize // width, plan.output_size[1]))
    return Lines(width, rows, rows * width + lanes_, 0, width, 0, flat=False, by_taps=True)


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


def _read(near, source, step, count, empty):
    """`count` numbers, `step` bytes apart unless they are neighbours."""
    return load(source, count, empty) if near else gather(apart(source, step, empty), count, empty)


def _combined(summing, a, b):
    return larger(a, b) if summing is None else a + b


@straight
def _planes(start, stop, empty, nowhere, summing, base, strides, way, out, indices, in_doubt):
    """Planes of outputs: x is read once, what follows from a block of its rows is written while these are near."""
    channels, sizes, (_, _, taps), dilation, axes = _known(way)
    (deep, first_d, count_d, factor_d), (high, first_h, count_h, factor_h), (outputs, first_w, count_w, factor_w) = axes
    pitch, rows, length, before, width, stride, flat, by_taps = way[22:30]
    memory, memory_keys = np.full(length, empty), np.full(0 if indices is None else length, nowhere)
    line, keys, item, steps = memory.ctypes.data, memory_keys.ctypes.data, size(empty), strides[2:]
    to_line, to_keys, windows = line + before * item, keys + before * size(nowhere), (before, first_w, count_w)
    done = start * deep * high * outputs
    n, c = divmod(start, channels)
    for o in range(start, stop):
        plane, doubt = base + n * strides[0] + c * strides[1], False
        n, c = (n, c + 1) if c + 1 < channels else (n + 1, 0)
        for i in range(deep):
            under = plane + first_d[i] * steps[0]
            for j in range(0, high, rows):
                n_lines = min(rows, high - j)
                block = count_d[i], n_lines, first_h + j * 8, count_h + j * 8
                if indices is not None:
                    position = first_d[i] * sizes[1] * sizes[2]
                    _down_keys(
                        empty, nowhere, under, steps, block, dilation, position, sizes, to_line, to_keys, pitch, width
                    )
                elif steps[2] == item:
                    doubt |= _down(True, empty, summing, under, steps, block, dilation, to_line, pitch, width)
                else:
                    doubt |= _down(False, empty, summing, under, steps, block, dilation, to_line, pitch, width)
                shape = (1, n_lines * outputs, pitch) if flat else (n_lines, outputs, pitch)
                to = out + done * item
                factors = at(factor_d, i, empty), factor_h + j * item, factor_w
                if by_taps and indices is not None:
                    rest = windows, (n_lines, outputs, pitch), to, indices + done * 8
                    _across_taps_keys(empty, nowhere, line, keys, *rest)
                elif by_taps:
                    _across_taps(empty, summing, line, windows, (n_lines, outputs, pitch), factors, to)
                elif indices is not None:
                    _across_keys(empty, nowhere, line, keys, taps, stride, dilation[2], shape, to, indices + done * 8)
                elif stride == 1:  # a stride that is known when compiling
                    _across(1, empty, summing, line, taps, dilation[2], shape, factors, to)
                elif stride == 2:
                    _across(2, empty, summing, line, taps, dilation[2], shape, factors, to)
                elif stride == 3:
                    _across(3, empty, summing, line, taps, dilation[2], shape, factors, to)
                else:
                    _across(stride, empty, summing, line, taps, dilation[2], shape, factors, to)
                done += n_lines * outputs
        in_doubt[o] = doubt


def _down(near, empty, summing, source, steps, block, dilation, line, pitch, width):
    """Fill the lines of a block with the rows under its windows, combined.

    Whether a maximum is -0.0 there: across, it may be equal to a 0.0 that lies before it in the window.
    """
    n_deep, rows, firsts, counts = block
    step_d, step_h = dilation[0] * steps[0], dilation[1] * steps[1]
    doubt = minus_zero(splat(empty, empty))
    for j in range(rows):
        row, n_high, to = source + firsts[j] * steps[1], counts[j], line + j * pitch * size(empty)
        for p in range(0, width, lanes(empty)):
            tap, count = row + p * steps[2], width - p
            if near:
                fetch(tap + AHEAD)
                if n_high > 1:
                    fetch(tap + step_h + AHEAD)
            best = _read(near, tap, steps[2], count, empty)
            if n_deep == 1 and n_high == 2:
                best = _combined(summing, best, _read(near, tap + step_h, steps[2], count, empty))
            elif n_deep == 1 and n_high == 3:
                best = _combined(summing, best, _read(near, tap + step_h, steps[2], count, empty))
                best = _combined(summing, best, _read(near, tap + 2 * step_h, steps[2], count, empty))
            else:
                for a in range(n_deep):
                    for b in range(0 if a else 1, n_high):
                        rolled()
                        there = tap + a * step_d + b * step_h
                        best = _combined(summing, best, _read(near, there, steps[2], count, empty))
            store_all(to + p * size(empty), best)
            if summing is None:
                doubt = doubt | minus_zero(best)
    return any_lane(doubt)


def _down_keys(empty, nowhere, source, steps, block, dilation, plane, sizes, line, keys, pitch, width):
    """The same, and where in the plane each maximum was found: its key, all bits turned (so negative) if it is NaN."""
    n_deep, rows, firsts, counts = block
    for j in range(rows):
        h, n_high = firsts[j], counts[j]
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


def _taken(best, key, value, place):
    """The better of what was found before and what comes after it: of equal ones the first, of NaN the last."""
    better = (value > best) | (value != value)
    return select(better, value, best), select(better, place, key)


def _merged(best, key, other, other_key):
    """The better of two, wherever they lie: of equal ones, and of NaN, that of the smaller key."""
    better = (other > best) | (alike(other, best) & (other_key < key))
    return select(better, other, best), select(better, other_key, key)


def _across(stride, empty, summing, line, taps, dilation, shape, factors, out):
    """Rows of outputs from lines, lanes being outputs."""
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


def _across_taps(empty, summing, line, windows, shape, factors, out):
    """Rows of outputs from lines, lanes being taps: for long windows, as in global pooling, and for unequal ones."""
    rows, outputs, pitch = shape
    before, firsts, counts = windows
    factor_d, factor_h, factor_w = factors
    for j in range(rows):
        divisor, row = factor_d * at(factor_h, j, empty), line + (j * pitch + before) * size(empty)
        for o in range(outputs):
            best = _window(empty, summing, row + firsts[o] * size(empty), counts[o])
            put(out, j * outputs + o, best if summing is None else best / (divisor * at(factor_w, o, empty)), empty)


def _window(empty, summing, place, taps):
    """So many neighbouring numbers, combined."""
    if taps > FEW:
        best = load(place, taps, empty)
        for t in range(lanes(empty), taps, lanes(empty)):
            best = _combined(summing, best, load(place + t * size(empty), taps - t, empty))
        return largest(best) if summing is None else sum_lanes(best)
    best = splat(empty, at(place, 0, empty))  # in all lanes, of which none need be combined then
    for t in range(1, taps):
        best = _combined(summing, best, splat(empty, at(place, t, empty)))
    return lane(best, 0)


def _across_taps_keys(empty, nowhere, line, keys, windows, shape, out, indices):
    """The same for maxima, and where they were found from their keys."""
    rows, outputs, pitch = shape
    before, firsts, counts = windows
    like = splat(empty, nowhere)
    for j in range(rows):
        for o in range(outputs):
            first, taps, to = j * pitch + before + firsts[o], counts[o], j * outputs + o
            best, key = splat(empty, empty), like
            for t in range(0, taps, lanes(empty)):
                rolled()
                other = load(line + (first + t) * size(empty), taps - t, empty)
                best, key = _merged(best, key, other, load(keys + (first + t) * size(nowhere), taps - t, like))
            _put_best(empty, like, best, key, to, out, indices)


def _put_best(empty, like, best, key, o, out, indices):
    """Write the best of all lanes and where it was found: of equal ones, and of NaN, that of the smallest key."""
    place = smallest(select(alike(best, splat(empty, largest(best))), key, like))
    put(out, o, largest(select(key == place, best, splat(empty, empty))), empty)
    put(indices, o, place if place >= 0 else ~place, o)


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


@straight
def _whole_planes(start, stop, empty, nowhere, summing, base, strides, way, out, indices, in_doubt):
    """Global pooling: one output for each plane, which is read once, as it lies in memory."""
    channels, (depth, height, width), _, _, axes = _known(way)
    pixels = depth * height * width
    divisor = at(axes[0][3], 0, empty) * at(axes[1][3], 0, empty) * at(axes[2][3], 0, empty)
    n, c = divmod(start, channels)
    for o in range(start, stop):
        plane = base + n * strides[0] + c * strides[1]
        n, c = (n, c + 1) if c + 1 < channels else (n + 1, 0)
        if indices is not None:
            _whole_keys(empty, splat(empty, nowhere), plane, pixels, o, out, indices)
            continue
        v0, v1, v2, v3 = _whole_lanes(empty, summing, plane, pixels)
        best = _combined(summing, _combined(summing, v0, v1), _combined(summing, v2, v3))
        if summing is None:
            in_doubt[o] = any_lane(minus_zero(v0) | minus_zero(v1) | minus_zero(v2) | minus_zero(v3))
            put(out, o, largest(best), empty)
        else:
            put(out, o, sum_lanes(best) / divisor, empty)


def _whole_lanes(empty, summing, plane, pixels):
    """All numbers of a plane, combined in the lanes of four vectors."""
    width = lanes(empty) * size(empty)
    v0 = v1 = v2 = v3 = splat(empty, empty)
    fours, rest = divmod(pixels, 4 * lanes(empty))
    for _ in range(fours):
        if pixels * size(empty) < AHEAD:  # in long planes processors look ahead by themselves
            for p in range(0, 4 * width, LINE):
                fetch(plane + AHEAD + p)
        v0 = _combined(summing, v0, load_all(plane, empty))
        v1 = _combined(summing, v1, load_all(plane + width, empty))
        v2 = _combined(summing, v2, load_all(plane + 2 * width, empty))
        v3 = _combined(summing, v3, load_all(plane + 3 * width, empty))
        plane += 4 * width
    if rest >= 2 * lanes(empty):
        v0 = _combined(summing, v0, load_all(plane, empty))
        v1 = _combined(summing, v1, load_all(plane + width, empty))
        plane, rest = plane + 2 * width, rest - 2 * lanes(empty)
    if rest >= lanes(empty):
        v2 = _combined(summing, v2, load_all(plane, empty))
        plane, rest = plane + width, rest - lanes(empty)
    if rest:
        v3 = _combined(summing, v3, load(plane, rest, empty))
    return v0, v1, v2, v3


def _whole_keys(empty, like, plane, pixels, o, out, indices):
    """The maximum of a plane, and where it was found."""
    best, here = splat(empty, empty), numbered(select(like == like, 0, like))
    key = here
    for p in range(0, pixels, lanes(empty)):
        rolled()
        best, key = _taken(best, key, load(plane + p * size(empty), pixels - p, empty), here + p)
    _put_best(empty, like, best, select(best != best, key ^ -1, key), o, out, indices)


@straight
def _pixels(start, stop, empty, nowhere, summing, base, steps, way, out, indices):
    """Rows of pixels of outputs, all channels of a pixel, which lie together: every tap of a window is read once."""
    channels, sizes, _, dilation, axes = _known(way)
    (deep, first_d, count_d, factor_d), (high, first_h, count_h, factor_h), (outputs, first_w, count_w, factor_w) = axes
    jumps = dilation[0] * steps[2], dilation[1] * steps[3], dilation[2] * steps[4]
    places = dilation[0] * sizes[1] * sizes[2], dilation[1] * sizes[2], dilation[2]
    done = start * outputs * channels
    for row in range(start, stop):
        image, j = divmod(row, high)
        n, i = divmod(image, deep)
        d, h = first_d[i], first_h[j]
        for k in range(outputs):
            w, counts = first_w[k], (count_d[i], count_h[j], count_w[k])
            pixel = base + n * steps[0] + d * steps[2] + h * steps[3] + w * steps[4], steps[1]
            to = out + done * size(empty)
            if indices is not None:
                place = (d * sizes[1] + h) * sizes[2] + w
                _pixel_keys(empty, nowhere, pixel, channels, counts, jumps, place, places, to, indices + done * 8)
            else:
                divisor = at(factor_d, i, empty) * at(factor_h, j, empty) * at(factor_w, k, empty)
                if counts[0] * counts[1] * counts[2] > LONG:
                    _pixel_by_taps(empty, summing, pixel, channels, counts, jumps, divisor, to)
                else:
                    _pixel(empty, summing, pixel, channels, counts, jumps, divisor, to)
            done += channels


def _pixel(empty, summing, pixel, channels, counts, jumps, divisor, out):
    """The channels of one output, four vectors of them at a time, then one."""
    (source, step), width, item = pixel, 4 * lanes(empty), size(empty)
    fours = channels // width * width if step == item else 0
    for c in range(0, fours, width):
        v0 = v1 = v2 = v3 = splat(empty, empty)
        for a in range(counts[0]):
            for b in range(counts[1]):
                tap = source + c * item + a * jumps[0] + b * jumps[1]
                for _ in range(counts[2]):
                    rolled()
                    v0 = _combined(summing, v0, load_all(tap, empty))
                    v1 = _combined(summing, v1, load_all(tap + lanes(empty) * item, empty))
                    v2 = _combined(summing, v2, load_all(tap + 2 * lanes(empty) * item, empty))
                    v3 = _combined(summing, v3, load_all(tap + 3 * lanes(empty) * item, empty))
                    tap += jumps[2]
        to, by = out + c * item, splat(empty, divisor)
        store_all(to, v0 if summing is None else v0 / by)
        store_all(to + lanes(empty) * item, v1 if summing is None else v1 / by)
        store_all(to + 2 * lanes(empty) * item, v2 if summing is None else v2 / by)
        store_all(to + 3 * lanes(empty) * item, v3 if summing is None else v3 / by)
    for c in range(fours, channels, lanes(empty)):
        best = splat(empty, empty)
        for a in range(counts[0]):
            for b in range(counts[1]):
                tap = source + c * step + a * jumps[0] + b * jumps[1]
                for _ in range(counts[2]):
                    rolled()
                    best = _combined(summing, best, _read(step == item, tap, step, channels - c, empty))
                    tap += jumps[2]
        if summing is not None:
            best = best / splat(empty, divisor)
        store(out + c * item, best, channels - c)


def _pixel_by_taps(empty, summing, pixel, channels, counts, jumps, divisor, out):
    """The same, all channels of a tap, or of four, at a time: x is read in the order of memory."""
    (source, step), (deep, high, wide_taps) = pixel, counts
    if jumps[1] == wide_taps * jumps[2]:  # rows of taps that follow each other are one
        high, wide_taps = 1, high * wide_taps
    fill(empty, out, channels)
    for a in range(deep):
        for b in range(high):
            taps = source + a * jumps[0] + b * jumps[1], step, jumps[2]
            fours = wide_taps - wide_taps % 4
            for e in range(0, fours, 4):
                _taps_of_pixel(True, empty, summing, taps, e, channels, out)
            for e in range(fours, wide_taps):
                _taps_of_pixel(None, empty, summing, taps, e, channels, out)
    if summing is not None:
        for c in range(0, channels, lanes(empty)):
            to, count = out + c * size(empty), channels - c
            store(to, load(to, count, empty) / splat(empty, divisor), count)


def _taps_of_pixel(four, empty, summing, taps, e, channels, out):
    """Combine what there is of a pixel with a tap, or with four of them."""
    source, step, jump = taps
    near, tap = step == size(empty), source + e * jump
    for c in range(0, channels, lanes(empty)):
        to, count, place = out + c * size(empty), channels - c, tap + c * step
        value = _read(near, place, step, count, empty)
        if four is not None:
            value = _combined(summing, value, _read(near, place + jump, step, count, empty))
            third = _read(near, place + 2 * jump, step, count, empty)
            fourth = _read(near, place + 3 * jump, step, count, empty)
            value = _combined(summing, value, _combined(summing, third, fourth))
        store(to, _combined(summing, load(to, count, empty), value), count)


def _pixel_keys(empty, nowhere, pixel, channels, counts, jumps, place, places, out, indices):
    """The maxima of one output and where they were found, two vectors of channels at a time, then one."""
    (source, step), width, item = pixel, 2 * lanes(empty), size(empty)
    pairs = channels // width * width if step == item else 0
    for c in range(0, pairs, width):
        v0 = v1 = splat(empty, empty)
        k0 = k1 = splat_as(empty, nowhere, place)
        for a in range(counts[0]):
            for b in range(counts[1]):
                tap = source + c * item + a * jumps[0] + b * jumps[1]
                there = place + a * places[0] + b * places[1]
                for _ in range(counts[2]):
                    rolled()
                    key = splat_as(empty, nowhere, there)
                    v0, k0 = _taken(v0, k0, load_all(tap, empty), key)
                    v1, k1 = _taken(v1, k1, load_all(tap + lanes(empty) * item, empty), key)
                    tap += jumps[2]
                    there += places[2]
        store_all(out + c * item, v0)
        store_all(out + (c + lanes(empty)) * item, v1)
        store_all(indices + c * 8, wide(k0))
        store_all(indices + (c + lanes(empty)) * 8, wide(k1))
    for c in range(pairs, channels, lanes(empty)):
        best, key = splat(empty, empty), splat_as(empty, nowhere, place)
        for a in range(counts[0]):
            for b in range(counts[1]):
                for e in range(counts[2]):
                    rolled()
                    tap = source + c * step + a * jumps[0] + b * jumps[1] + e * jumps[2]
                    value = _read(step == item, tap, step, channels - c, empty)
                    there = place + a * places[0] + b * places[1] + e * places[2]
                    best, key = _taken(best, key, value, splat_as(empty, nowhere, there))
        store(out + c * item, best, channels - c)
        store(indices + c * 8, wide(key), channels - c)


# ---------------------------------------------------------------- backward


def avg_pool_backward(grad_output: Array, plan: Plan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    by_channels, zero = channels_together(grad_x, grad_output), grad_x.dtype.type(0)
    result, grad_output = dense(grad_x, by_channels), arrays.lift(grad_output)
    lines, axes, items = _way_back(plan, grad_x.dtype, divisors)
    source, to = (address_of(grad_output), grad_output.strides, plan.channels), address_of(result)
    work = (grad_x.size + grad_output.size) / 4
    if _whole(plan):
        share = grad_output / geometry.volume(sum(divisors, ()))
        _spread(share, result, by_channels)
    elif by_channels:
        threads.run(_pixels_backward, items[1], work, zero, source, axes, to)
    elif isinstance(plan, AdaptivePlan):
        windows = _way(plan, grad_x.dtype, divisors)
        threads.run(_uneven_planes_backward, items[0], work, zero, source, windows.address, axes[2], to, keep=windows)
    else:
        threads.run(_planes_backward, items[0], work, zero, source, axes, to, lines)
    if result is not grad_x:
        grad_x[...] = result


def _spread(share: Array, result: Array, by_channels: bool) -> None:
    """The way back of global pooling: a plane is filled with one number."""
    if by_channels:
        arrays.lift(result)[...] = share
        return
    share = np.ascontiguousarray(share)
    pixels = geometry.volume(result.shape[2:])
    threads.run(
        _fill_planes,
        share.size,
        result.size / 8,
        share.dtype.type(0),
        address_of(share),
        pixels,
        address_of(result),
        keep=share,
    )


@straight
def _fill_planes(start, stop, zero, shares, pixels, to):
    for plane in range(start, stop):
        fill(at(shares, plane, zero), to + plane * pixels * size(zero), pixels)


@lru_cache(128)
def _way_back(plan: Plan, dtype: np.dtype, divisors: tuple[Ints, ...]) -> tuple[Ints, tuple, tuple[int, int]]:
    """Of a line: its taps, padding and stride. Along each axis: the first of the windows that hold an element of x, how
    many do, and one over the divisors' factors. Planes, and rows of pixels."""
    plan, factors = geometry.lift(plan), _factors(divisors)
    parts = [(1 / np.array(each, np.float64)).astype(dtype) for each in factors]
    axes = tuple((*_holders(plan, axis), parts[axis]) for axis in range(3))
    items = plan.batch * plan.channels, plan.batch * plan.input_size[0] * plan.input_size[1]
    if isinstance(plan, AdaptivePlan):
        return (), axes, items
    taps = plan.kernel_size[2]
    lines = taps, taps - 1 - plan.before[2], plan.stride[2] if plan.output_size[2] > 1 else 1
    return lines, axes, items


def _holders(plan: Plan, axis: int) -> tuple[Array, Array]:
    """Along an axis the first of the windows that hold each element of x, and how many do."""
    if isinstance(plan, AdaptivePlan):
        return _uneven_windows(plan.turned(), axis)
    at, stride = np.arange(plan.input_size[axis]) + plan.before[axis], plan.stride[axis]
    first = np.maximum(0, (at - plan.kernel_size[axis]) // stride + 1)
    return first, np.maximum(0, np.minimum(plan.output_size[axis], at // stride + 1) - first)


@straight
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
                    copy(zero, to - height * width * item, to, alike_rows * width)
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


@straight
def _uneven_planes_backward(start, stop, zero, grad, way, holders, grad_x):
    """The same where windows differ in size: a row of outputs across into a line, which the rows under it all take.

    Across, each number of the line adds up the few outputs whose windows hold it.
    """
    _, (depth, height, width), _, _, axes = _known(way)
    (deep, first_d, count_d, factor_d), (high, first_h, count_h, factor_h), _ = axes
    first_w, count_w, part_w = holders
    base, steps, channels = grad
    item, outputs, plane, row_bytes = size(zero), part_w.size, depth * height * width, width * size(zero)
    memory_shares, memory_line = np.full(outputs + lanes(zero), zero), np.full(width + lanes(zero), zero)
    shares, line, parts = memory_shares.ctypes.data, memory_line.ctypes.data, part_w.ctypes.data
    firsts, counts = first_w.ctypes.data, count_w.ctypes.data
    to = grad_x + start * plane * item
    for image in range(start, stop):
        n, c = divmod(image, channels)
        source = base + n * steps[0] + c * steps[1]
        fill(zero, to, plane)
        for i in range(deep):
            for j in range(high):
                for p in range(0, outputs, lanes(zero)):
                    tap = source + i * steps[2] + j * steps[3] + p * steps[4]
                    value = _read(steps[4] == item, tap, steps[4], outputs - p, zero)
                    part = load(parts + p * item, outputs - p, zero) / (at(factor_d, i, zero) * at(factor_h, j, zero))
                    store_all(shares + p * item, value * part)
                for w in range(width):
                    first = at(firsts, w, width)
                    share = at(shares, first, zero)
                    for o in range(first + 1, first + at(counts, w, width)):
                        share += at(shares, o, zero)
                    put(line, w, share, zero)
                for a in range(count_d[i]):
                    row = to + ((first_d[i] + a) * height + first_h[j]) * row_bytes
                    for _ in range(count_h[j]):
                        for p in range(0, width, lanes(zero)):
                            added = load(row + p * item, width - p, zero) + load_all(line + p * item, zero)
                            store(row + p * item, added, width - p)
                        row += row_bytes
        to += plane * item


@straight
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
            counts, first = (count_d[d], count_h[h], count_w[w]), source + k * steps[4]
            fours = channels // (4 * lanes(zero)) * (4 * lanes(zero)) if steps[1] == item else 0
            for c in range(0, fours, 4 * lanes(zero)):
                v0 = v1 = v2 = v3 = splat(zero, zero)
                for a in range(counts[0]):
                    for b in range(counts[1]):
                        tap = first + a * steps[2] + b * steps[3] + c * item
                        for e in range(counts[2]):
                            rolled()
                            part = splat(zero, part_d[i + a] * part_h[j + b] * part_w[k + e])
                            v0 = v0 + load_all(tap, zero) * part
                            v1 = v1 + load_all(tap + lanes(zero) * item, zero) * part
                            v2 = v2 + load_all(tap + 2 * lanes(zero) * item, zero) * part
                            v3 = v3 + load_all(tap + 3 * lanes(zero) * item, zero) * part
                            tap += steps[4]
                store_all(to + c * item, v0)
                store_all(to + (c + lanes(zero)) * item, v1)
                store_all(to + (c + 2 * lanes(zero)) * item, v2)
                store_all(to + (c + 3 * lanes(zero)) * item, v3)
            for c in range(fours, channels, lanes(zero)):
                share = splat(zero, zero)
                for a in range(counts[0]):
                    for b in range(counts[1]):
                        tap = first + a * steps[2] + b * steps[3] + c * steps[1]
                        for e in range(counts[2]):
                            rolled()
                            value = _read(steps[1] == item, tap, steps[1], channels - c, zero)
                            share = share + value * (part_d[i + a] * part_h[j + b] * part_w[k + e])
                            tap += steps[4]
                store(to + c * item, share, channels - c)
            to += channels * item
