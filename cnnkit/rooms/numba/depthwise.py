"""Depthwise convolution of channels-last arrays: every channel by itself, vectors run along channels.

Or by small groups: each number of a group of 2 or 4 lanes is given to all of them, one after another. Any kernel and
dilation, in up to three axes; what most layers have, `depthwise_pixels` does faster.

Nothing is laid out: numbers are read where they are, and taps that meet no number are left out. (Planes of few windows
are brought into this form: channels fill vectors that a row of seven pixels does not.) The three ways are one
loop, `sums`, whose accumulators are pixels and whose terms are taps (forward, and the input gradient, which is a
forward convolution for each stride phase), or whose accumulators are taps and whose terms are pixels (weight gradient).
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import Emitter, UnitType, called, itemsize, lanes, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import REGISTERS, VECTOR_BYTES, address_of, kernel
from cnnkit.rooms.numba.moves import AHEAD, transpose
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import TileType, compiled

SUMS = 9  # taps that are summed at a time: a window of 3 x 3, and enough for multiply-adds not to wait for the last one
GROUPS = (2, 4)  # channels in and out of a group, neighbouring lanes: of a vector, each is given to all of its group
PIXELS = 8  # windows that the forward way computes at a time
RUN = 3  # neighbouring taps whose numbers are read once
STRETCH = 64  # windows of a row that are a work item, and that the weight gradient sums by themselves
FEWEST = 8  # channels: with fewer, most lanes would be idle
BANDWIDTH = 2  # numbers read or written in a nanosecond, about
TERM = 1.25  # cycles for a vector's product
GIVEN = 1.5  # times as many where lanes are moved for each product, in groups
TERMS = 16  # multiply-adds in a nanosecond, about


class Window(NamedTuple):
    """What of a plan over three spatial axes the kernels count by."""

    size: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    channels: int
    taps: int


def takes(plan: ConvPlan, *given: Array) -> bool:
    """Whether the plan is depthwise with one output for each input channel, and channels of all arrays lie together."""
    return _alone(plan) and all(array.strides[1] == array.itemsize for array in given)


def takes_turned(plan: ConvPlan, windows: int, *given: Array) -> bool:
    """Whether a depthwise plan has so few windows that arrays are better `turned`, and there is memory for that."""
    few = _alone(plan) and 0 < plan.batch * volume(plan.output_size) <= plan.batch * windows
    return few and not takes(plan, *given) and sum(array.nbytes for array in given) <= settings.current().max_workspace


def _alone(plan: ConvPlan) -> bool:
    return plan.groups == plan.in_channels == plan.out_channels >= FEWEST


def empty(like: Array) -> Array:
    """An array (N, C, *spatial) whose channels lie together."""
    n, channels, *size = like.shape
    return np.moveaxis(np.empty((n, *size, channels), like.dtype), -1, 1)


def turned(array: Array) -> Array:
    """A copy of an array (N, C, *spatial) whose channels lie together."""
    copy = empty(array)
    _turn(np.ascontiguousarray(array), (array.shape[1], volume(array.shape[2:])), np.moveaxis(copy, 1, -1))
    return copy


def turn_back(array: Array, out: Array) -> None:
    """Fill out from an array that is laid out as `turned` ones are."""
    to = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    _turn(np.moveaxis(array, 1, -1), (volume(array.shape[2:]), array.shape[1]), to)
    if to is not out:
        out[...] = to


def _turn(source: Array, shape: tuple[int, int], to: Array) -> None:
    """Turn the contiguous matrix that each image is."""
    places = address_of(source), address_of(to)
    threads.run(_turn_images, len(source), source.size / BANDWIDTH, unit(to.dtype), *shape, *places, keep=(source, to))


@straight
def _turn_images(start, stop, unit, rows, columns, source, to):
    """A work item is an image."""
    step = rows * columns * itemsize(unit)
    for image in range(start, stop):
        transpose(unit, to + image * step, rows, source + image * step, columns, rows, columns)


class Group:
    """A vector of a dtype whose lanes are in groups of so many channels, to compile loops for."""

    def __init__(self, dtype: np.dtype, group: int) -> None:
        self._numba_type_ = TileType(group, 1, UnitType(dtype.name, unit(dtype).lanes))


@lru_cache
def windows_loop(dtype: np.dtype, group: int) -> int:
    """The address of the loop over windows, compiled (or read from the disk) when it is first asked for."""
    return _windows_address(Group(dtype, group))


@lru_cache
def sums_loop(dtype: np.dtype, group: int) -> tuple[int, int]:
    """The same of the loop that sums, and how many taps it sums at a time."""
    return _sums_address(Group(dtype, group)), at_once(group)


def forward(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """Fill out (N, C, D, H, W) from x (N, C, D, H, W) and weight (C, C / groups, *kernel)."""
    channels = plan.in_channels
    if swapped:
        group = channels // plan.groups
        weight = weight.reshape(plan.groups, group, group, *weight.shape[2:]).swapaxes(1, 2)
    packed = np.ascontiguousarray(weight.reshape(channels, -1).T)
    first = np.zeros(channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    rows, by = stretches(plan), window(plan)
    threads.run(
        forward_kernel, plan.batch * volume(plan.output_size[:2]) * len(rows), _work(plan),
        unit(x.dtype), windows_loop(x.dtype, channels // plan.groups), lines.numbers(x), by, rows,
        address_of(packed), address_of(first), then, lines.numbers(out), keep=(x, packed, first, out),
    )  # fmt: skip


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Fill grad_weight (C, C / groups, *kernel): over all windows, the output gradient times what taps met."""
    vector, group = unit(x.dtype), plan.in_channels // plan.groups
    total = np.zeros((group * volume(plan.kernel_size), plan.in_channels))
    loop, some = sums_loop(x.dtype, group)
    threads.run(
        gradient_kernel, parts(plan.in_channels, vector.lanes), _work(plan),
        vector, loop, group, some, x.dtype.type(0), lines.numbers(grad), lines.numbers(x), window(plan),
        stretches(plan), total, keep=(grad, x),
    )  # fmt: skip
    grad_weight[...] = total.T.reshape(grad_weight.shape)


def window(plan: ConvPlan) -> Window:
    """What the kernels count by."""
    return Window(plan.kernel_size, plan.stride, plan.dilation, plan.before, plan.in_channels, volume(plan.kernel_size))


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    numbers, outputs = (plan.batch * plan.in_channels * volume(size) for size in (plan.input_size, plan.output_size))
    return (numbers + outputs) / BANDWIDTH + outputs * volume(
        plan.kernel_size
    ) * plan.in_channels // plan.groups / TERMS


@lru_cache(1024)
def stretches(plan: ConvPlan) -> Array:
    """A row's windows in stretches (first, end, first tap, end of taps) that meet numbers with the same taps."""
    rows: list[list[int]] = []
    for w in range(plan.output_size[2]):
        taps = _met(w, plan.stride[2], plan.before[2], plan.dilation[2], plan.kernel_size[2], plan.input_size[2])
        if rows and rows[-1][2:] == [*taps] and rows[-1][1] - rows[-1][0] < STRETCH:
            rows[-1][1] = w + 1
        else:
            rows.append([w, w + 1, *taps])
    return np.array(rows, np.int64).reshape(-1, 4)


@lru_cache(1024)
def cycles(plan: ConvPlan, dtype: np.dtype) -> float:
    """About how many cycles the products of a plan over three spatial axes take; a sum waits 4 for itself.

    Infinitely many if its groups are no parts of a vector.
    """
    group, lanes = plan.in_channels // plan.groups, VECTOR_BYTES // dtype.itemsize
    square = plan.in_channels == plan.out_channels >= FEWEST
    if not square or (group != 1 and (group not in GROUPS or lanes % group)):
        return math.inf
    row = 0
    for first, end, low, high in stretches(plan):
        whole, rest = divmod(int(end - first), PIXELS)
        pixels = whole * PIXELS + sum(max(4, n) for n in (4, 2, 1) if rest & n)
        row += pixels * int(high - low)
    rows = plan.batch * parts(plan.in_channels, lanes) * volume(plan.output_size[:2])
    return TERM * group * row * rows * volume(plan.kernel_size[:2])


# ---------------------------------------------------------------- kernels


def _met(o, stride, before, dilation, taps, size):
    """The taps low <= k < high with which window o meets an axis of `size`."""
    start = o * stride - before
    low = min(taps, max(0, -(start // dilation)))
    return low, max(low, min(taps, (size - 1 - start) // dilation + 1))


def _reach(x, window, n, d, h, first, end, table, channels, run):
    """The taps with which windows of row (d, h) meet x, of the columns `first` to `end` of taps; how many terms.

    Fill table with the tap's number times `channels` and the element of x that it has in the window at column 0 (of
    the whole row, so that it may lie in the padding), of every `run`-th tap of a row.
    """
    size, stride, dilation, before = window.size, window.stride, window.dilation, window.before
    d_low, d_high = _met(d, stride[0], before[0], dilation[0], size[0], x.depth)
    h_low, h_high = _met(h, stride[1], before[1], dilation[1], size[1], x.height)
    t = 0
    for kd in range(d_low, d_high):
        plane = n * x.n + (d * stride[0] - before[0] + kd * dilation[0]) * x.d
        for kh in range(h_low, h_high):
            row = plane + (h * stride[1] - before[1] + kh * dilation[1]) * x.h
            for kw in range(first, end, run):
                table[t, 0] = ((kd * size[1] + kh) * size[2] + kw) * channels
                table[t, 1] = row + (kw * dilation[2] - before[2]) * x.w
                t += 1
    return t


@straight
def forward_kernel(start, stop, unit, loop, x_numbers, window, stretches, weight, bias, then, out_numbers):
    """A work item is a stretch of windows of a row, of all channels.

    A tile of pixels goes through the channels vector by vector. Its numbers are read once for each tap, from the L1
    cache after the first time, a row's from the L2 cache for the next rows, and every result is written once.
    """
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, channels = itemsize(unit), window.channels
    terms = np.empty((window.taps, 2), np.int64)
    step = window.stride[2] * x.w
    fresh = min(window.size[1], window.stride[1]) if x.n else 0  # images without a step are copies that are near
    spread = 2 if window.stride[2] == 2 * window.dilation[2] else 1
    shared = window.stride[2] == spread * window.dilation[2]
    row, s = divmod(start, len(stretches))
    row, h = divmod(row, out.height)
    n, d = divmod(row, out.depth)
    for _ in range(start, stop):
        w, end, first, last = stretches[s]
        in_runs = first + ((last - first) // RUN * RUN if shared else 0)
        runs = _reach(x, window, n, d, h, first, in_runs, terms, channels, RUN)
        singles = _reach(x, window, n, d, h, in_runs, last, terms[runs:], channels, 1)
        to = out.address + (n * out.n + d * out.d + h * out.h) * bytes_
        here = PIXELS
        while w < end:
            while here > end - w:
                here //= 2
            windows(
                loop, here, spread, to + w * out.w * bytes_, out.w, bias, weight, channels,
                x.address + w * step * bytes_, step // spread, terms.ctypes.data, runs, singles, channels,
                then == RELU, fresh, x.h, here * window.stride[2], x.w, window.taps * channels,
            )  # fmt: skip
            if then > RELU:
                call(then, to + w * out.w * bytes_, to + w * out.w * bytes_, out.w, here, channels)
            w += here
        s += 1
        if s == len(stretches):
            s, h = 0, h + 1
        if h == out.height:
            h, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1


@straight
def gradient_kernel(start, stop, unit, loop, group, some, zero, grad_numbers, x_numbers, window, stretches, total):
    """A work item is a vector of channels, in groups of so many; those of a thread go through the windows together.

    That is row by row. Of every stretch, the sums over its windows, of `some` taps at a time, stay in registers; they
    are added up over an image, and images in float64 to `total`.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_ = itemsize(unit)
    c = start * lanes(unit)
    channels = min(stop * lanes(unit), window.channels) - c
    taps = window.taps
    image = np.full((group * taps, channels), zero)
    whole = np.zeros((group * taps, channels), np.float64)
    places = np.empty((taps, 2), np.int64)
    step = window.stride[2] * x.w
    for n in range(grad.batch):
        image[:] = 0
        for d in range(grad.depth):
            for h in range(grad.height):
                for s in range(len(stretches)):
                    w, end, first, last = stretches[s]
                    count = _reach(x, window, n, d, h, first, last, places, channels, 1)
                    a = grad.address + (n * grad.n + d * grad.d + h * grad.h + w * grad.w + c) * bytes_
                    b = x.address + (w * step + c) * bytes_
                    for j in range(0, count, some):
                        sums(
                            loop, min(some, count - j), image.ctypes.data, a, b, places[j:].ctypes.data,
                            grad.w, step, end - w, channels, taps * channels,
                        )  # fmt: skip
        for t in range(group * taps):
            for k in range(channels):
                whole[t, k] += image[t, k]
    for t in range(group * taps):
        for k in range(channels):
            total[t, c + k] += whole[t, k]


# ---------------------------------------------------------------- the loops


@intrinsic
def windows(
    typingctx: Any, loop: Any, count: Any, spread: Any, to: Any, to_step: Any, first: Any, weight: Any, tap_step: Any,
    x: Any, step: Any, terms: Any, runs: Any, singles: Any, channels: Any, relu: Any, rows: Any,
    row_step: Any, pixels: Any, pixel_step: Any, beside: Any,
) -> Any:  # fmt: skip
    """Of `count` (1, 2, 4 or 8) windows, for every channel c < `channels`, the sums over taps, and over its group.

    ``to[j * to_step + c] = first[c] + sum over taps and g of weight[g * beside + tap[0] + c] * number``, where the
    number is ``x[j * spread * step + tap[1] + first channel of the group + g]``.

    The first `runs` terms are of `RUN` taps each, whose weights are `tap_step` apart and whose numbers are `step`, so
    that windows that are `spread` (1 or 2) steps apart share numbers that are read once; then come `singles` of one.
    What the next windows will read of the last `rows` rows of taps is fetched ahead, and what they write.

    Arguments are addresses or, as all steps, numbers; what lies behind the channels is neither read nor written.
    """
    return called(19)


def _emit_windows(
    emit: Emitter, group: TileType, count: Any, spread: Any, to: Any, to_step: Any, first: Any, weight: Any,
    tap_step: Any, x: Any, step: Any, terms: Any, runs: Any, singles: Any, channels: Any, relu: Any,
    rows: Any, row_step: Any, pixels: Any, pixel_step: Any, beside: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    to, first, weight, x = (emit.pointer(address) for address in (to, first, weight, x))
    terms = emit.pointer(terms, emit.index)
    one, all_terms = emit.number(1), builder.add(runs, singles)
    last = builder.sub(all_terms, builder.zext(builder.icmp_signed(">", all_terms, emit.number(0)), emit.index))
    newest = emit.at(x, builder.load(emit.at(terms, builder.add(builder.mul(last, emit.number(2)), one))))
    zero, lowest = (ir.Constant(emit.scalar, value) for value in (0.0, float("-inf")))
    floor = emit.spread(builder.select(builder.trunc(relu, ir.IntType(1)), zero, lowest), emit.vector)

    def along(pointer: Any, by: Any, number: int) -> list[Any]:
        return [emit.at(pointer, builder.mul(by, emit.number(k))) for k in range(number)]

    def tile(number: int, spread: int) -> None:
        def vector(c: Any, read: Any, write: Any) -> None:
            def fetch_row(r: Any) -> None:
                row = emit.at(emit.at(newest, c), builder.add(ahead, builder.mul(r, builder.neg(row_step))))
                emit.loop(pixels, lambda k: emit.fetch(emit.at(row, builder.mul(k, pixel_step))))

            ahead = emit.number(AHEAD // emit.align)
            emit.loop(rows, fetch_row)
            for one in along(emit.at(emit.at(to, c), ahead), to_step, number):
                emit.fetch(one, write=True)

            def add_taps(taps: int, begin: Any, g: int, weight: Any) -> Any:
                def add(t: Any, acc: list[Any]) -> list[Any]:
                    term = emit.at(terms, builder.mul(builder.add(begin, t), emit.number(2)))
                    here = emit.at(emit.at(weight, c), builder.load(term))
                    weights = [read(one) for one in along(here, tap_step, taps)]
                    there = emit.at(emit.at(x, c), builder.load(emit.at(term, 1)))
                    acc, met = list(acc), {j * spread + k: None for j, k in product(range(number), range(taps))}
                    numbers = {n: given(emit.at(there, builder.mul(step, emit.number(n))), g) for n in met}
                    for k, j in product(range(taps), range(number)):
                        acc[j] = builder.call(emit.fma, [weights[k], numbers[j * spread + k], acc[j]])
                    return acc

                return add

            def given(pointer: Any, g: int) -> Any:
                return to_group(emit, read(pointer), g, group.rows)

            acc = [read(emit.at(first, c))] * number
            for g, one in enumerate(along(weight, beside, group.rows)):
                acc = emit.accumulate(runs, acc, add_taps(RUN, emit.number(0), g, one))
                acc = emit.accumulate(singles, acc, add_taps(1, runs, g, one))
            for value, one in zip(acc, along(emit.at(to, c), to_step, number), strict=True):
                write(builder.select(builder.fcmp_ordered("<", value, floor), floor, value), one)  # NaN stays

        by_vectors(emit, channels, vector)

    case = builder.add(count, builder.mul(spread, emit.number(2 * PIXELS)))
    tiles = {number + 2 * PIXELS * apart: (number, apart) for number, apart in product((1, 2, 4, 8), (1, 2))}
    by_number(emit, case, tiles, lambda case: tile(*tiles[case]))


_windows_loop = compiled("windows", 19, _emit_windows)


@kernel
def _windows_address(group):
    return _windows_loop(group)


def to_group(emit: Emitter, vector: Any, g: int, group: int) -> Any:
    """Number g of each group of lanes, given to all lanes of the group."""
    return emit.shuffle(vector, vector, [lane // group * group + g for lane in range(emit.lanes)])


@intrinsic
def sums(
    typingctx: Any, loop: Any, count: Any, to: Any, a: Any, b: Any, places: Any, a_step: Any, b_step: Any, many: Any,
    channels: Any, beside: Any,
) -> Any:  # fmt: skip
    """To `count` places (at most `at_once`), for every channel c < `channels` and g < its group, add sums of products.

    ``to[g * beside + place[0] + c] += sum over t < many of a[t * a_step + c] * number``, where the number is
    ``b[place[1] + t * b_step + first channel of the group + g]``.

    Arguments are addresses or numbers; what lies behind the channels is neither read nor written.
    """
    return called(10)


def _emit_sums(
    emit: Emitter, group: TileType, count: Any, to: Any, a: Any, b: Any, places: Any, a_step: Any, b_step: Any,
    many: Any, channels: Any, beside: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    to, a, b = (emit.pointer(address) for address in (to, a, b))
    places = emit.pointer(places, emit.index)

    def tile(number: int) -> None:
        at = [[builder.load(emit.at(places, 2 * j + k)) for k in range(2)] for j in range(number)]

        def vector(c: Any, read: Any, write: Any) -> None:
            near = [emit.at(b, builder.add(one, c)) for _, one in at]
            here = emit.at(a, c)

            def add_term(t: Any, acc: list[Any]) -> list[Any]:
                left, offset = read(emit.at(here, builder.mul(t, a_step))), builder.mul(t, b_step)
                for one in (emit.at(here, builder.mul(t, a_step)), emit.at(near[-1], offset)):
                    emit.fetch(one, AHEAD)
                new = []
                for k, one in enumerate(near):
                    number = read(emit.at(one, offset))
                    for g in range(group.rows):
                        factor = to_group(emit, number, g, group.rows)
                        new.append(builder.call(emit.fma, [left, factor, acc[k * group.rows + g]]))
                return new

            summed = emit.accumulate(many, [emit.zero()] * (number * group.rows), add_term)
            for k, (one, _) in enumerate(at):
                for g in range(group.rows):
                    place = emit.at(to, builder.add(builder.add(one, c), builder.mul(beside, emit.number(g))))
                    write(builder.fadd(read(place), summed[k * group.rows + g]), place)

        by_vectors(emit, channels, vector)

    by_number(emit, count, range(1, at_once(group.rows) + 1), tile)


_sums_loop = compiled("sums", 10, _emit_sums)


@kernel
def _sums_address(group):
    return _sums_loop(group)


def at_once(group: int) -> int:
    """How many taps are summed at a time: an accumulator for each, and each channel of a group."""
    return max(1, min(SUMS, REGISTERS * 3 // 4 // group))


def by_number(emit: Emitter, count: Any, numbers: Iterable[int], body: Any) -> None:
    """``body(number)`` for the one of the numbers that is `count`."""
    builder = emit.builder
    after = builder.append_basic_block("after")
    choice = builder.switch(count, after)
    for number in numbers:
        block = builder.append_basic_block(f"number_{number}")
        choice.add_case(emit.number(number), block)
        builder.position_at_end(block)
        body(number)
        builder.branch(after)
    builder.position_at_end(after)


def by_vectors(emit: Emitter, channels: Any, body: Any) -> None:
    """``body(c, read, write)`` for every vector of channels, the last one masked if it is not whole."""
    builder, lanes = emit.builder, emit.number(emit.lanes)
    whole = builder.udiv(channels, lanes)
    done = builder.mul(whole, lanes)
    rest = builder.sub(channels, done)
    mask = emit.lanes_below(rest)

    def last(_: Any) -> None:
        body(done, lambda at: emit.load_masked(at, mask), lambda value, at: emit.store_masked(value, at, mask))

    emit.loop(whole, lambda v: body(builder.mul(v, lanes), emit.load_vector, emit.store_vector))
    emit.loop(builder.zext(builder.icmp_signed(">", rest, emit.number(0)), emit.index), last)
