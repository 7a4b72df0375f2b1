"""Depthwise convolution, and in small groups, of channels-last arrays: blocks of windows, up to 7 columns of taps.

Nothing is laid out. A block is some rows by some columns of windows, for a vector of channels: a row of x is read once
for all rows of windows that see it, and each of its numbers once for all columns. A block goes through the channels
vector by vector, then comes the next one in the row. Columns that lie in the padding are read from a vector of zeros,
which is right for finite numbers (others go the way of `depthwise`); rows there are left out. In groups each number is
given to all lanes of its group, once for all windows that see it.

On the way back to the weights (of depthwise layers only) the sums are those of taps, and a block's windows are terms.
"""

import math
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.depthwise import FEWEST, by_number, by_vectors, to_group
from cnnkit.rooms.numba.depthwise import takes as depthwise_takes
from cnnkit.rooms.numba.emit import Emitter, Unit, called, itemsize, lanes, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, REGISTERS, VECTOR_BYTES, address_of, kernel
from cnnkit.rooms.numba.moves import copy, transpose
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import TileType, compiled
from cnnkit.rooms.numba.vectors import load, load_all, multiply_add, rolled, store, store_all

TAPS = (1, 2, 3, 5, 7)  # columns of a kernel
GROUPS = (1, 2, 4, 8)  # channels in and out of a group
STRIDES = (1, 2)  # across: neighbouring windows share numbers
ROWS = 4 if REGISTERS >= 32 else 2  # of a block's windows
ACROSS = 4  # columns of a block's windows
MOST = 16  # more than either, than a stride and than a group
LONGEST = 24  # columns of a kernel times channels of a group: code is as long as that
TERM, STORED = 1.3, 8  # cycles for a vector's product, and to read and to store a vector
SMALL = 9  # taps of a strided layer: of more, each phase has enough of them to do it by itself
BAND = 4  # rows of a block on the way back to the weights
BANDWIDTH = 4  # numbers read or written in a nanosecond, about
TERMS = 32  # multiply-adds in a nanosecond, about


class Kind:
    """What a loop is compiled for: vectors of a dtype, a stride across, channels of a group, columns of a kernel."""

    def __init__(self, vectors: Unit, stride: int, group: int, taps: int) -> None:
        self._numba_type_ = TileType(group * MOST + stride, taps, vectors._numba_type_)


@lru_cache
def sums_loop(vectors: Unit, stride: int, group: int, taps: int) -> int:
    """The address of the loop over windows, compiled (or read from the disk) when it is first asked for."""
    return _sums_address(Kind(vectors, stride, group, taps))


@lru_cache
def taps_loop(vectors: Unit, stride: int, taps: int) -> int:
    """The same of the loop that sums over windows."""
    return _taps_address(Kind(vectors, stride, 1, taps))


def vectors_of(plan: ConvPlan, dtype: np.dtype) -> Unit:
    """Halves of registers, if all channels are no more: processors that start one multiply-add start two of these."""
    return unit(dtype, 2 if 2 * plan.out_channels <= unit(dtype).lanes else 1)


@lru_cache(1024)
def cycles(plan: ConvPlan, dtype: np.dtype) -> float:
    """About how many cycles a plan over three spatial axes takes forward; infinitely many if it is not done here."""
    group, lanes = plan.in_channels // plan.groups, vectors_of(plan, dtype).lanes
    if not takes(plan) or lanes % group:
        return math.inf
    sums = plan.batch * volume(plan.output_size) * parts(plan.out_channels, lanes)
    a_term = TERM / 2 if FMAS == 1 and lanes < unit(dtype).lanes else TERM
    return sums * (a_term * volume(plan.kernel_size) * group + STORED)


@lru_cache(1024)
def takes(plan: ConvPlan) -> bool:
    """Whether a plan over three spatial axes is of the kind done here."""
    group, taps = plan.in_channels // plan.groups, plan.kernel_size[2]
    return (
        plan.in_channels == plan.out_channels >= FEWEST
        and group in GROUPS
        and taps in TAPS
        and taps * group <= LONGEST
        and plan.stride[2] in STRIDES
        and plan.kernel_size[0] == plan.stride[0] == 1
        and plan.dilation == lines.ONES
        and not plan.before[0]
        and not plan.after[0]
    )


def forward(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> bool:
    """As `convolve.convolve`, of arrays whose channels lie together; not if a depthwise weight is not finite."""
    group, stride, columns = plan.in_channels // plan.groups, plan.stride[2], plan.kernel_size[2]
    if group == 1 and not np.isfinite(weight).all():
        return False
    if swapped and group > 1:
        weight = weight.reshape(plan.groups, group, group, *weight.shape[2:]).swapaxes(1, 2)
    taps, vectors = np.ascontiguousarray(weight), vectors_of(plan, x.dtype)
    first = np.zeros(plan.out_channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    threads.run(
        _forward, plan.batch * plan.output_size[0] * parts(plan.output_size[1], ROWS), _work(plan),
        vectors, sums_loop(vectors, stride, group, columns), lines.numbers(x), plan.out_channels, group,
        plan.kernel_size[1], columns, plan.stride[1], stride, plan.before[1:], address_of(taps), address_of(first),
        then, lines.numbers(out), keep=(x, taps, first, out),
    )  # fmt: skip
    return True


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> bool:
    """Fill grad_weight (C, 1, *kernel): over all windows, the output gradient times what the taps met.

    Whether all of it is finite: then no zero of the padding met what is no number.
    """
    stride, columns, vectors = plan.stride[2], plan.kernel_size[2], vectors_of(plan, x.dtype)
    total = np.empty((plan.out_channels, volume(plan.kernel_size)), np.float64)
    threads.run(
        _weight_gradient, parts(plan.out_channels, vectors.lanes), _work(plan),
        vectors, taps_loop(vectors, stride, columns), x.dtype.type(0), lines.numbers(grad), lines.numbers(x),
        plan.out_channels, plan.kernel_size[1], columns, plan.stride[1], stride, plan.before[1:],
        total, keep=(grad, x),
    )  # fmt: skip
    grad_weight[...] = total.reshape(grad_weight.shape)
    return bool(np.isfinite(total).all())


def takes_back(plan: ConvPlan, *given: Array) -> bool:
    """Whether `strided_input_gradient` does the way back of a depthwise plan over three spatial axes.

    Without a stride that is a forward convolution; with many taps, or long vectors, several of these.
    """
    return (
        VECTOR_BYTES < 64
        and depthwise_takes(plan, *given)
        and max(plan.stride) > 1
        and volume(plan.kernel_size) <= SMALL
        and plan.kernel_size[0] == plan.stride[0] == 1
        and plan.dilation == lines.ONES
        and not plan.before[0]
        and not plan.after[0]
    )


def strided_input_gradient(grad: Array, weight: Array, bias: Array | None, plan: ConvPlan, grad_x: Array) -> None:
    """Fill grad_x (N, C, *spatial) from the output's gradient and weight (C, 1, *kernel), on top of a bias."""
    packed = np.ascontiguousarray(weight.reshape(plan.in_channels, -1).T)
    first = np.zeros(plan.in_channels, grad.dtype) if bias is None else np.ascontiguousarray(bias)
    threads.run(
        _strided_input_gradient, plan.batch * volume(plan.input_size[:2]), _work(plan),
        unit(grad.dtype), grad.dtype.type(0), lines.numbers(grad), plan.in_channels, plan.kernel_size[1:],
        plan.stride[1:], plan.before[1:], address_of(packed), address_of(first), lines.numbers(grad_x),
        keep=(grad, packed, first, grad_x),
    )  # fmt: skip


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    outputs = plan.batch * plan.out_channels * volume(plan.output_size)
    return outputs * (2 / BANDWIDTH + volume(plan.kernel_size) * plan.in_channels // plan.groups / TERMS)


# ---------------------------------------------------------------- kernels


@straight
def _forward(
    start,
    stop,
    unit,
    loop,
    x_numbers,
    channels,
    group,
    high,
    wide,
    down,
    stride,
    before,
    weight,
    bias,
    then,
    out_numbers,
):
    """A work item is `ROWS` rows of windows, of all channels: x is read once for all of them."""
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, vector, taps = itemsize(unit), lanes(unit), group * high * wide
    nothing = np.zeros(vector * bytes_, np.uint8)
    packed = np.zeros((channels + vector) * (1 + taps) * bytes_, np.uint8)
    place = packed.ctypes.data
    for c in range(0, channels, vector):  # a vector's bias, then its taps
        here = min(vector, channels - c)
        copy(unit, place, 1, bias + c * bytes_, here)
        transpose(unit, place + vector * bytes_, vector, weight + c * taps * bytes_, taps, here, taps)
        place += (1 + taps) * vector * bytes_
    bands = (out.height + ROWS - 1) // ROWS
    row, band = divmod(start, bands)
    n, d = divmod(row, out.depth)
    for _ in range(start, stop):
        h, end = band * ROWS, min(out.height, band * ROWS + ROWS)
        here = ROWS
        while h < end:
            while here > end - h:
                here //= 2
            top = h * down - before[0]
            low, below = max(0, -top), min(x.height - top, (here - 1) * down + high)
            w, across = 0, ACROSS if out.width >= ACROSS else 1
            while w < out.width:
                w = min(w, out.width - across)
                to = out.address + (n * out.n + d * out.d + h * out.h + w * out.w) * bytes_
                left = w * stride - before[1]
                sums(
                    loop, here * MOST + across, to, out.h, out.w, packed.ctypes.data,
                    x.address + (n * x.n + d * x.d + top * x.h + left * x.w) * bytes_, x.h, x.w, low, below, down,
                    high, left, x.width, nothing.ctypes.data, channels, then == RELU,
                )  # fmt: skip
                if then > RELU:
                    for i in range(here):
                        call(then, to + i * out.h * bytes_, to + i * out.h * bytes_, out.w, across, channels)
                w += across
            h += here
        band += 1
        if band == bands:
            band, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1


@straight
def _weight_gradient(
    start, stop, unit, loop, zero, grad_numbers, x_numbers, channels, high, wide, down, stride, before, total
):
    """A work item is a vector of channels; those of a thread go through the blocks together, in the order of memory.

    Sums over a block stay in registers; they are added up over an image, and images in float64.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, vector, taps = itemsize(unit), lanes(unit), high * wide
    first = start * vector
    own = min(stop * vector, channels) - first
    nothing = np.zeros(vector * bytes_, np.uint8)
    image = np.empty(((stop - start) * taps, vector), zero)
    whole = np.zeros(((stop - start) * taps, vector), np.float64)
    many = (grad.height + BAND - 1) // BAND
    rows = (grad.height + many - 1) // many
    for n in range(grad.batch):
        image[:] = 0
        for d in range(grad.depth):
            for h in range(0, grad.height, rows):
                top, here = h * down - before[0], min(rows, grad.height - h)
                w, some = 0, ACROSS
                while w < grad.width:
                    while some > grad.width - w:
                        some //= 2
                    left = w * stride - before[1]
                    taps_of_block(
                        loop, some, image.ctypes.data,
                        grad.address + (n * grad.n + d * grad.d + h * grad.h + w * grad.w + first) * bytes_,
                        grad.h, grad.w,
                        x.address + (n * x.n + d * x.d + top * x.h + left * x.w + first) * bytes_, x.h, x.w,
                        here, top, x.height, down, high, left, x.width, nothing.ctypes.data, own,
                    )  # fmt: skip
                    w += some
        for t in range((stop - start) * taps):
            for k in range(vector):
                whole[t, k] += image[t, k]
    for c in range(own):
        for t in range(taps):
            total[first + c, t] = whole[c // vector * taps + t, c % vector]


@straight
def _strided_input_gradient(
    start, stop, unit, zero, grad_numbers, channels, size, stride, before, weight, bias, x_numbers
):
    """A work item is a row of pixels of x's gradient: each is the sum over the few windows that hold it.

    All channels of a pixel, four vectors at a time, then one.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, vector = itemsize(unit), lanes(unit)
    some, fours, step = vector * bytes_, channels // (4 * vector) * (4 * vector), grad.w * bytes_
    back = stride[1] * channels * bytes_  # from a window's tap to that of the next window
    holders = np.empty((x.width, 2), np.int64)
    for w in range(x.width):
        holders[w, 0], holders[w, 1] = _holders(w + before[1], size[1], stride[1], grad.width)
    nd, h = divmod(start, x.height)
    n, d = divmod(nd, x.depth)
    for _ in range(start, stop):
        y = h + before[0]
        top, low = _holders(y, size[0], stride[0], grad.height)
        rows = grad.address + (n * grad.n + d * grad.d) * bytes_
        to = x.address + (n * x.n + d * x.d + h * x.h) * bytes_
        for w in range(x.width):
            left, right = holders[w, 0], holders[w, 1]
            pixel, tap = rows + left * step, weight + (w + before[1] - left * stride[1]) * channels * bytes_
            for c in range(0, fours, 4 * vector):
                here = bias + c * bytes_
                v0, v1 = load_all(here, zero), load_all(here + some, zero)
                v2, v3 = load_all(here + 2 * some, zero), load_all(here + 3 * some, zero)
                for o in range(top, low):
                    g = pixel + (o * grad.h + c) * bytes_
                    t = tap + ((y - o * stride[0]) * size[1] * channels + c) * bytes_
                    for _ in range(left, right):
                        rolled()
                        v0 = multiply_add(load_all(g, zero), load_all(t, zero), v0)
                        v1 = multiply_add(load_all(g + some, zero), load_all(t + some, zero), v1)
                        v2 = multiply_add(load_all(g + 2 * some, zero), load_all(t + 2 * some, zero), v2)
                        v3 = multiply_add(load_all(g + 3 * some, zero), load_all(t + 3 * some, zero), v3)
                        g += step
                        t -= back
                place = to + c * bytes_
                store_all(place, v0)
                store_all(place + some, v1)
                store_all(place + 2 * some, v2)
                store_all(place + 3 * some, v3)
            for c in range(fours, channels, vector):
                count = channels - c
                total = load(bias + c * bytes_, count, zero)
                for o in range(top, low):
                    g = pixel + (o * grad.h + c) * bytes_
                    t = tap + ((y - o * stride[0]) * size[1] * channels + c) * bytes_
                    for _ in range(left, right):
                        rolled()
                        total = multiply_add(load(g, count, zero), load(t, count, zero), total)
                        g += step
                        t -= back
                store(to + c * bytes_, total, count)
            to += x.w * bytes_
        h += 1
        if h == x.height:
            h, d = 0, d + 1
        if d == x.depth:
            d, n = 0, n + 1


def _holders(at, taps, stride, windows):
    """The windows first <= o < end that hold an element, of which padding is counted."""
    return max(0, (at - taps) // stride + 1), min(windows, at // stride + 1)


# ---------------------------------------------------------------- the loops


class _Columns:
    """Columns of a row of x that a block meets, from column `left` on; what lies in the padding is `nothing`."""

    def __init__(self, emit: Emitter, step: Any, left: Any, wide: Any, nothing: Any, count: int) -> None:
        self.emit, self.nothing, builder = emit, nothing, emit.builder
        numbers = [emit.number(k) for k in range(count)]
        self.offsets = [builder.mul(step, k) for k in numbers]
        self.inside = [builder.icmp_unsigned("<", builder.add(left, k), wide) for k in numbers]  # -1 is large here

    def all_inside(self) -> Any:
        """Whether none lies in the padding."""
        return self.emit.builder.and_(self.inside[0], self.inside[-1])

    def __call__(self, row: Any, k: int) -> Any:
        return self.emit.builder.select(self.inside[k], self.without_padding(row, k), self.nothing)

    def without_padding(self, row: Any, k: int) -> Any:
        """The same, if all are inside."""
        return self.emit.at(row, self.offsets[k])


def ask(emit: Emitter, place: Any, first: Any, rows: Any, step: Any, vectors: int, apart: Any) -> None:
    """Ask for some vectors of each of some rows: all blocks and channels of a row of blocks ask for the one below.

    They come to the L2 cache, what is to be written too: nobody else has it. Else a line of results costs 15 cycles.
    """
    builder = emit.builder

    def row(r: Any) -> None:
        line = emit.at(place, builder.mul(builder.add(first, r), step))
        for k in range(vectors):
            emit.fetch(emit.at(line, builder.mul(apart, emit.number(k))), near=2)

    emit.loop(rows, row)


@intrinsic
def sums(
    typingctx: Any, loop: Any, case: Any, to: Any, to_row: Any, to_step: Any, weight: Any, x: Any,
    x_row: Any, x_step: Any, low: Any, below: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any, relu: Any,
) -> Any:  # fmt: skip
    """Of a block of i < rows by j < columns windows, for every channel c, the sums over taps.

    ``to[i * to_row + j * to_step + c] = bias + sum over t < high and k of weight[t, k] * x[row, column, c]``, where
    the row is ``i * down + t``, if ``low <= row < below``, and the column ``j * stride + k``, and x is taken for zero
    unless ``0 <= left + column < wide``. The case is ``rows * MOST + columns``.

    Of each vector of channels `weight` has the bias, then all taps.
    The rows of x and of the results that the next block below will meet are asked for.

    Arguments are addresses or numbers, all steps are elements; what lies behind the channels is not touched.
    """
    return called(17)


def _emit_sums(
    emit: Emitter, kind: TileType, case: Any, to: Any, to_row: Any, to_step: Any, weight: Any, x: Any,
    x_row: Any, x_step: Any, low: Any, below: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any, relu: Any,
) -> None:  # fmt: skip
    builder, (group, stride), taps = emit.builder, divmod(kind.rows, MOST), kind.vectors
    to, weight, x, nothing = (emit.pointer(address) for address in (to, weight, x, nothing))
    count, of_channel = builder.sub(below, low), builder.mul(high, emit.number(taps))
    packed = builder.add(builder.mul(of_channel, emit.number(group)), emit.number(1))

    def block(rows: int, across: int) -> None:
        columns = _Columns(emit, x_step, left, wide, nothing, (across - 1) * stride + taps)

        def vector(c: Any, read: Any, write: Any) -> None:
            here = emit.at(x, c)
            bias = emit.at(weight, builder.mul(c, packed))
            filters = emit.at(bias, emit.lanes)

            def row(r: Any, acc: list[Any]) -> list[Any]:
                r = builder.add(r, low)
                source = emit.at(here, builder.mul(r, x_row))
                met = [read(columns(source, k)) for k in range((across - 1) * stride + taps)]
                for g in range(group):
                    numbers = [to_group(emit, number, g, group) for number in met] if group > 1 else met
                    acc = rows_of_windows(
                        r, emit.at(filters, builder.mul(of_channel, emit.number(g * emit.lanes))), numbers, acc
                    )
                return acc

            def rows_of_windows(r: Any, filters: Any, numbers: list[Any], acc: list[Any]) -> list[Any]:
                """Add a row's numbers of a channel to what sees it."""
                results = []
                for i in range(rows):
                    t = builder.sub(r, builder.mul(down, emit.number(i)))
                    there = builder.zext(builder.icmp_unsigned("<", t, high), emit.index)
                    near = emit.at(filters, builder.mul(t, emit.number(taps * emit.lanes)))

                    def add(_: Any, own: list[Any], near: Any = near) -> list[Any]:
                        own = list(own)
                        for k in range(taps):
                            factor = emit.load_vector(emit.at(near, k * emit.lanes))
                            for j in range(across):
                                own[j] = builder.call(emit.fma, [factor, numbers[j * stride + k], own[j]])
                        return own

                    results += emit.accumulate(there, acc[i * across : (i + 1) * across], add)
                return results

            new = builder.mul(down, emit.number(rows))
            some = across * stride
            in_order = emit.at(x, builder.mul(c, emit.number(some)))  # pixels of x have no gaps between them, mostly
            ask(emit, in_order, builder.add(high, builder.sub(new, down)), new, x_row, some, emit.number(emit.lanes))
            ask(emit, emit.at(to, c), emit.number(rows), emit.number(rows), to_row, across, to_step)
            acc = emit.accumulate(count, [emit.load_vector(bias)] * rows * across, row)
            for i in range(rows):
                there = emit.at(emit.at(to, c), builder.mul(to_row, emit.number(i)))
                for j in range(across):
                    one = emit.at(there, builder.mul(to_step, emit.number(j)))
                    write(emit.relu(acc[i * across + j], relu), one)

        by_vectors(emit, channels, vector)

    sizes = [(rows, across) for rows in (1, 2, 4) for across in (1, ACROSS) if rows <= ROWS]
    cases = {rows * MOST + across: (rows, across) for rows, across in sizes}
    by_number(emit, case, cases, lambda case: block(*cases[case]))


_sums_loop = compiled("depthwise_sums", 17, _emit_sums)


@kernel
def _sums_address(kind):
    return _sums_loop(kind)


@intrinsic
def taps_of_block(
    typingctx: Any, loop: Any, some: Any, to: Any, grad: Any, grad_row: Any, grad_step: Any, x: Any, x_row: Any,
    x_step: Any, rows: Any, top: Any, x_high: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any,
) -> Any:  # fmt: skip
    """To the sums of all taps, of every vector of channels, add those over a block's windows.

    ``to[t, k, c] += sum over h < rows and j of grad[h, j, c] * x[row, column, c]``, where the row is ``h * down + t``,
    if ``0 <= top + row < x_high``, and the rest is as in `sums`.
    """
    return called(17)


def _emit_taps(
    emit: Emitter, kind: TileType, some: Any, to: Any, grad: Any, grad_row: Any, grad_step: Any, x: Any, x_row: Any,
    x_step: Any, rows: Any, top: Any, x_high: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any,
) -> None:  # fmt: skip
    builder, stride, taps = emit.builder, kind.rows % MOST, kind.vectors
    to, grad, x, nothing = (emit.pointer(address) for address in (to, grad, x, nothing))
    all_taps = builder.mul(high, emit.number(taps))

    def block(many: int) -> None:
        columns = _Columns(emit, x_step, left, wide, nothing, (many - 1) * stride + taps)
        at_once = max(1, min(max(3, taps), (REGISTERS - 3 - many) // taps))
        passes = builder.udiv(builder.add(high, emit.number(at_once - 1)), emit.number(at_once))
        met = [
            [(j, q - j * stride) for j in range(many) if 0 <= q - j * stride < taps]
            for q in range((many - 1) * stride + taps)
        ]  # windows, and their taps, by columns of x

        def vector(column: Any, c: Any, read: Any, write: Any) -> None:
            here, there, total = emit.at(x, c), emit.at(grad, c), emit.at(to, builder.mul(c, all_taps))
            next_x = emit.at(x, builder.mul(c, emit.number(many * stride)))
            next_grad = emit.at(grad, builder.mul(c, emit.number(many)))

            def some_taps(n: Any) -> None:
                begin = builder.mul(n, emit.number(at_once))
                each = [builder.add(begin, emit.number(n)) for n in range(at_once)]
                real = [builder.icmp_signed("<", t, high) for t in each]
                new = builder.zext(builder.icmp_signed("==", n, emit.number(0)), emit.index)  # it is asked for once

                def row(h: Any, acc: list[Any]) -> list[Any]:
                    below, top_row = builder.add(rows, h), builder.mul(down, h)
                    next_row = builder.add(builder.sub(high, down), builder.mul(down, below))
                    ask(emit, next_x, next_row, builder.mul(new, down), x_row, many * stride, emit.number(emit.lanes))
                    ask(emit, next_grad, below, new, grad_row, many, emit.number(emit.lanes))
                    source = emit.at(there, builder.mul(h, grad_row))
                    grads = [read(emit.at(source, builder.mul(grad_step, emit.number(j)))) for j in range(many)]
                    results = []
                    for n, t in enumerate(each):
                        r = builder.add(top_row, t)
                        inside = builder.icmp_unsigned("<", builder.add(r, top), x_high)
                        inside = builder.zext(builder.and_(inside, real[n]), emit.index)
                        line = emit.at(here, builder.mul(r, x_row))

                        def add(_: Any, own: list[Any], line: Any = line) -> list[Any]:
                            own = list(own)
                            for q, pairs in enumerate(met):
                                number = read(column(line, q)) if pairs else None
                                for j, k in pairs:
                                    own[k] = builder.call(emit.fma, [grads[j], number, own[k]])
                            return own

                        results += emit.accumulate(inside, acc[n * taps : (n + 1) * taps], add)
                    return results

                acc = emit.accumulate(rows, [emit.zero()] * at_once * taps, row)
                for n, t in enumerate(each):
                    place = emit.at(total, builder.mul(t, emit.number(taps * emit.lanes)))

                    def add_up(_: Any, place: Any = place, own: Any = acc[n * taps : (n + 1) * taps]) -> None:
                        for k, value in enumerate(own):
                            one = emit.at(place, k * emit.lanes)
                            emit.store_vector(builder.fadd(emit.load_vector(one), value), one)

                    emit.loop(builder.zext(real[n], emit.index), add_up)

            emit.loop(passes, some_taps)

        with builder.if_else(columns.all_inside()) as (inside, edge):  # at an edge, addresses take as long as sums
            with inside:
                by_vectors(emit, channels, partial(vector, columns.without_padding))
            with edge:
                by_vectors(emit, channels, partial(vector, columns))

    by_number(emit, some, (1, 2, 4), block)


_taps_loop = compiled("depthwise_taps", 17, _emit_taps)


@kernel
def _taps_address(kind):
    return _taps_loop(kind)
