"""Depthwise convolution of channels-last arrays: every channel by itself, vectors run along channels.

Nothing is laid out: numbers are read where they are, and taps that meet no number are left out. The three ways are one
loop, `sums`, whose accumulators are pixels and whose terms are taps (forward, and the input gradient, which is a
forward convolution for each stride phase), or whose accumulators are taps and whose terms are pixels (weight gradient).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.emit import Emitter, emitted, itemsize, lanes, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import keep, kernel

SUMS = 9  # accumulators of the loop: a window of 3 x 3 taps, and enough for a multiply-add not to wait for the last one
PIXELS = 8  # windows that the forward way computes at a time
STRETCH = 64  # windows of a row that are a work item, and that the weight gradient sums by themselves
FEWEST = 8  # channels: with fewer, most lanes would be idle
BANDWIDTH = 2  # numbers read or written in a nanosecond, about
TERMS = 16  # multiply-adds in a nanosecond, about


class Window(NamedTuple):
    """What of a plan over three spatial axes the kernels count by."""

    size: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    before: tuple[int, int, int]
    channels: int


def takes(plan: ConvPlan, *given: Array) -> bool:
    """Whether the plan is depthwise with one output for each input channel, and channels of all arrays lie together."""
    alone = plan.groups == plan.in_channels == plan.out_channels >= FEWEST
    return alone and all(array.strides[1] == array.itemsize for array in given)


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, relu: bool, out: Array) -> None:
    """Fill out (N, C, D, H, W) from x (N, C, D, H, W) and weight (C, 1, *kernel)."""
    channels = plan.in_channels
    packed = np.ascontiguousarray(weight.reshape(channels, -1).T)
    first = np.zeros(channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    stretches = _stretches(plan)
    threads.run(
        _forward, plan.batch * volume(plan.output_size[:2]) * len(stretches), _work(plan),
        unit(x.dtype), lines.block(x), _window(plan), stretches, lines.address(packed), lines.address(first), relu,
        lines.block(out), keep=(x, packed, first, out),
    )  # fmt: skip


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, total: Array) -> None:
    """Fill total (taps, C) with the sums over all windows of the output gradient times what the taps met."""
    vector = unit(x.dtype)
    threads.run(
        _weight_gradient, parts(plan.in_channels, vector.lanes), _work(plan),
        vector, lines.block(grad), lines.block(x), _window(plan), _stretches(plan), total, keep=(grad, x),
    )  # fmt: skip


def _window(plan: ConvPlan) -> Window:
    return Window(plan.kernel_size, plan.stride, plan.dilation, plan.before, plan.in_channels)


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    numbers, outputs = (plan.batch * plan.in_channels * volume(size) for size in (plan.input_size, plan.output_size))
    return (numbers + outputs) / BANDWIDTH + outputs * volume(plan.kernel_size) / TERMS


@lru_cache(1024)
def _stretches(plan: ConvPlan) -> Array:
    """A row's windows in stretches (first, end, first tap, end of taps) that meet numbers with the same taps."""
    rows: list[list[int]] = []
    for w in range(plan.output_size[2]):
        taps = _met(w, plan.stride[2], plan.before[2], plan.dilation[2], plan.kernel_size[2], plan.input_size[2])
        if rows and rows[-1][2:] == [*taps] and rows[-1][1] - rows[-1][0] < STRETCH:
            rows[-1][1] = w + 1
        else:
            rows.append([w, w + 1, *taps])
    return np.array(rows, np.int64).reshape(-1, 4)


# ---------------------------------------------------------------- kernels


@kernel
def _meets(o, stride, before, dilation, taps, size):
    """The taps low <= k < high with which window o meets an axis of `size`."""
    start = o * stride - before
    low = min(taps, max(0, -(start // dilation)))
    return low, max(low, min(taps, (size - 1 - start) // dilation + 1))


_met = _meets.py_func  # the same in Python


@kernel
def _reach(x, window, n, d, h, first, end, offsets, channels):
    """Fill offsets with the tap number times `channels`, and the element of x, of the taps that window (d, h) has.

    Columns `first` to `end` of the taps; the elements are those that a window at column 0 of x would meet. How many.
    """
    size, stride, dilation, before, _ = window
    d_low, d_high = _meets(d, stride[0], before[0], dilation[0], size[0], x.depth)
    h_low, h_high = _meets(h, stride[1], before[1], dilation[1], size[1], x.height)
    t = 0
    for kd in range(d_low, d_high):
        plane = n * x.n + (d * stride[0] - before[0] + kd * dilation[0]) * x.d
        for kh in range(h_low, h_high):
            row = plane + (h * stride[1] - before[1] + kh * dilation[1]) * x.h
            for kw in range(first, end):
                offsets[t, 0] = ((kd * size[1] + kh) * size[2] + kw) * channels
                offsets[t, 1] = row + (kw * dilation[2] - before[2]) * x.w
                t += 1
    return t


@kernel
def _forward(start, stop, unit, x, window, stretches, weight, bias, relu, out):
    """A work item is a stretch of windows of a row, of all channels.

    A tile of pixels goes through the channels vector by vector. Its numbers are read once for each tap, from the L1
    cache after the first time, a row's from the L2 cache for the next rows, and every result is written once.
    """
    bytes_, channels = itemsize(unit), window.channels
    terms, places = np.empty((max(1, volume3(window.size)), 2), np.int64), np.empty((PIXELS, 3), np.int64)
    step = window.stride[2] * x.w
    for j in range(PIXELS):
        places[j, 0], places[j, 1], places[j, 2] = j * step, 0, j * out.w
    row, s = divmod(start, len(stretches))
    row, h = divmod(row, out.height)
    n, d = divmod(row, out.depth)
    for _ in range(start, stop):
        w, end, first, last = stretches[s]
        count = _reach(x, window, n, d, h, first, last, terms, channels)
        to = out.address + (n * out.n + d * out.d + h * out.h) * bytes_
        while w < end:
            here = min(PIXELS, end - w)
            sums(
                unit, here, to + w * out.w * bytes_, bias, weight, x.address + w * step * bytes_,
                places.ctypes.data, terms.ctypes.data, count, channels, relu,
            )  # fmt: skip
            w += here
        s += 1
        if s == len(stretches):
            s, h = 0, h + 1
        if h == out.height:
            h, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1
    keep(terms, places)


@kernel
def volume3(size):
    return size[0] * size[1] * size[2]


@kernel
def _weight_gradient(start, stop, unit, grad, x, window, stretches, total):
    """A work item is a vector of channels; all those of a thread go through the windows together, row by row.

    Of every stretch, the sums over its windows stay in registers; they are added up over an image, and images in
    float64.
    """
    bytes_ = itemsize(unit)
    c = start * lanes(unit)
    channels = min(stop * lanes(unit), window.channels) - c
    taps = volume3(window.size)
    image = np.empty((taps, channels), total.dtype)
    whole = np.zeros((taps, channels), np.float64)
    reach, places, terms = np.empty((taps, 2), np.int64), np.empty((taps, 3), np.int64), np.empty((STRETCH, 2), np.int64)
    step = window.stride[2] * x.w
    for t in range(STRETCH):
        terms[t, 0], terms[t, 1] = t * grad.w, t * step
    for n in range(grad.batch):
        image[:] = 0
        for d in range(grad.depth):
            for h in range(grad.height):
                for s in range(len(stretches)):
                    w, end, first, last = stretches[s]
                    count = _reach(x, window, n, d, h, first, last, reach, channels)
                    for j in range(count):
                        places[j, 0], places[j, 1], places[j, 2] = reach[j, 1], reach[j, 0], reach[j, 0]
                    a = grad.address + (n * grad.n + d * grad.d + h * grad.h + w * grad.w + c) * bytes_
                    b = x.address + (w * step + c) * bytes_
                    for j in range(0, count, SUMS):
                        sums(
                            unit, min(SUMS, count - j), image.ctypes.data, image.ctypes.data, a, b,
                            places[j:].ctypes.data, terms.ctypes.data, end - w, channels, False,
                        )  # fmt: skip
        whole += image
    for t in range(taps):
        for k in range(channels):
            total[t, c + k] = whole[t, k]
    keep(image, reach, places, terms)


# ---------------------------------------------------------------- the loop


@intrinsic
def sums(
    typingctx: Any, unit: Any, count: Any, to: Any, first: Any, a: Any, b: Any, places: Any, terms: Any, many: Any,
    channels: Any, relu: Any,
) -> Any:  # fmt: skip
    """Sums of products of `count` places (at most `SUMS`), for every channel c < `channels`.

    ``to[place[2] + c] = first[place[1] + c] + sum over terms of a[term[0] + c] * b[place[0] + term[1] + c]``

    Arguments are addresses, but for `count`, `many` (terms), `channels` and `relu` (0 or 1); `places` has three numbers
    of elements for each place, `terms` two for each term. What lies behind the channels is neither read nor written.
    """
    return types.void(unit, *(types.intp,) * 10), emitted("sums", 10, _emit_sums)


def _emit_sums(
    emit: Emitter, count: Any, to: Any, first: Any, a: Any, b: Any, places: Any, terms: Any, many: Any,
    channels: Any, relu: Any,
) -> None:  # fmt: skip
    """One loop for each number of places; in the last vector of channels, lanes are masked."""
    builder, lanes = emit.builder, emit.number(emit.lanes)
    to, first, a, b = (emit.pointer(address) for address in (to, first, a, b))
    places, terms = (emit.pointer(address, emit.index) for address in (places, terms))
    whole = builder.udiv(channels, lanes)
    done = builder.mul(whole, lanes)
    rest = builder.sub(channels, done)
    mask = emit.lanes_below(rest)

    def masked(pointer: Any) -> Any:
        return emit.load_masked(pointer, mask)

    def vectors(number: int) -> None:
        place = [[builder.load(emit.at(places, 3 * j + k)) for k in range(3)] for j in range(number)]

        def total(c: Any, read: Any) -> list[Any]:
            near = [emit.at(b, builder.add(one[0], c)) for one in place]
            here = emit.at(a, c)

            def add_term(t: Any, acc: list[Any]) -> list[Any]:
                term = emit.at(terms, builder.mul(t, emit.number(2)))
                left, offset = read(emit.at(here, builder.load(term))), builder.load(emit.at(term, 1))
                return [
                    builder.call(emit.fma, [left, read(emit.at(one, offset)), old])
                    for one, old in zip(near, acc, strict=True)
                ]

            summed = emit.accumulate(many, [emit.zero()] * number, add_term)
            starts = [read(emit.at(first, builder.add(one[1], c))) for one in place]
            return [emit.relu(builder.fadd(old, new), relu) for old, new in zip(starts, summed, strict=True)]

        def vector(v: Any) -> None:
            c = builder.mul(v, lanes)
            for one, value in zip(place, total(c, emit.load_vector), strict=True):
                emit.store_vector(value, emit.at(to, builder.add(one[2], c)))

        def last(_: Any) -> None:
            for one, value in zip(place, total(done, masked), strict=True):
                emit.store_masked(value, emit.at(to, builder.add(one[2], done)), mask)

        emit.loop(whole, vector)
        emit.loop(builder.zext(builder.icmp_signed(">", rest, emit.number(0)), emit.index), last)

    after = builder.append_basic_block("after")
    choice = builder.switch(count, after)
    for number in range(1, SUMS + 1):
        block = builder.append_basic_block(f"places_{number}")
        choice.add_case(emit.number(number), block)
        builder.position_at_end(block)
        vectors(number)
        builder.branch(after)
    builder.position_at_end(after)
