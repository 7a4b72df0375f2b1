"""Convolution with channels last: lanes are output channels, rows are pixels, and nothing is turned.

Forward a row of a tile is a window, a term is a tap of an input channel; on the way back to the weights a row is such a
tap, a term is a window. Either way a product's number of x lies at the sum of two table entries, one for the window and
one for the tap, and the other operand is whole vectors along output channels. Where windows reach into the padding, the
rows of x that a *band* of windows needs are copied with zeros around them; else x is read where it is.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.convolve import pack_blocks, weight_numbers
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, L2, MASK_REGISTERS, MULTIPLY_ADDS, address_of
from cnnkit.rooms.numba.moves import fetch_far, fill, gather_lines, transpose
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import Tile, gather, tiles

END = 20  # cycles to begin and to end a tile, beside storing its sums
COPY = 10  # cycles to copy a vector
BAND = 1024  # windows, at most: tables of where they are stay near, and threads have bands to share
FAR = 8 * L2  # bytes of x and of what it meets, from which on the next band is asked for while one is summed
PRODUCTS = 3  # for each of these bytes, at least: with fewer, memory is as fast as it can be by itself
SUM = 3  # cycles for each of a band's sums, measured with AVX2 (Zen 3), whose tiles are small
# windows of a band of the weights' gradient: output gradients stay near while all weights read them
NEAR = 256 if MASK_REGISTERS else 128


class Sizes(NamedTuple):
    """What the kernels count by.

    A group's channels, blocks of output channels and their columns, a tile's rows, taps, the windows of a band
    (planes of all images, rows, columns), how many bands there are, rows and columns of x under a band, and how many
    numbers of x are copied for one: 0 if x is read in place.
    It comes to kernels as a plain tuple of ints, which Numba takes faster.
    """

    groups: int
    channels: int
    per_group: int
    blocks: int
    columns: int
    rows: int
    taps: int
    planes: int
    high: int
    wide: int
    down: int
    across: int
    bands: int
    x_high: int
    x_wide: int
    copied: int


class Way(NamedTuple):
    """How a plan is done, forward or for its weights' gradient: by which tile, and about how many cycles it takes."""

    tile: Tile
    sizes: Sizes
    cycles: float


def together(*given: Array) -> bool:
    """Whether channels of all arrays lie together, or there is one."""
    return all(array.strides[1] == array.itemsize or array.shape[1] == 1 for array in given)


@lru_cache(1024)
def forward_cycles(plan: ConvPlan, dtype: np.dtype, workspace: int) -> float:
    """About how many cycles it takes; infinitely many if what is kept is not near the caches, or not in memory."""
    _, sizes, cycles = _forward_way(plan, dtype)
    block, copy = (n * dtype.itemsize for n in (sizes.channels * sizes.taps * sizes.columns, sizes.copied))
    near = block <= 2 * L2 and copy <= 4 * L2 and sizes.groups * sizes.blocks * block <= workspace
    return cycles if near else math.inf


@lru_cache(1024)
def gradient_cycles(plan: ConvPlan, dtype: np.dtype) -> float:
    """The same for the weights' gradient."""
    _, sizes, cycles = _gradient_way(plan, dtype)
    return cycles if sizes.copied * dtype.itemsize <= 4 * L2 else math.inf


@lru_cache(1024)
def _forward_way(plan: ConvPlan, dtype: np.dtype) -> Way:
    return _way(plan, dtype, BAND, plan.batch * volume(plan.output_size), _terms(plan))


@lru_cache(1024)
def _gradient_way(plan: ConvPlan, dtype: np.dtype) -> Way:
    per_group, windows = plan.out_channels // plan.groups, plan.batch * volume(plan.output_size)
    way = _way(plan, dtype, min(NEAR, 4 * L2 // dtype.itemsize // per_group), _terms(plan), windows)
    vectors, rest = divmod(per_group, way.tile.unit.lanes)
    groups = min(plan.groups, parts(way.tile.unit.lanes, max(1, per_group)))  # whose last vector may cross the end
    copied = groups * windows * (vectors + 1) * COPY if rest else 0  # gradients
    sums = plan.groups * way.sizes.blocks * way.sizes.columns * _terms(plan)  # which each band reads and writes
    a_sum = 0 if MASK_REGISTERS else SUM if sums * dtype.itemsize <= L2 else 2 * SUM
    return way._replace(cycles=way.cycles + copied + way.sizes.bands * sums * a_sum)


def _terms(plan: ConvPlan) -> int:
    """The products that a result is a sum of."""
    return plan.in_channels // plan.groups * volume(plan.kernel_size)


def _way(plan: ConvPlan, dtype: np.dtype, near: int, rows: int, terms: int) -> Way:
    """The way to sum so many terms in so many rows of a group's output channels, in bands of about `near` windows."""
    per_group = plan.out_channels // plan.groups
    tile, cycles = _tile(dtype, rows, per_group, terms)
    sizes = sizes_of(plan, tile, dtype, near)
    return Way(tile, sizes, plan.groups * (cycles + copying(sizes, tile)))


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds all products take a core."""
    return plan.batch * volume(plan.output_size) * plan.out_channels * _terms(plan) / MULTIPLY_ADDS


def copying(sizes: Sizes, tile: Tile) -> float:
    """About how many cycles it takes to copy what all bands read of a group."""
    channels, lanes = sizes.channels, tile.unit.lanes
    a_pixel = channels / lanes if sizes.groups == 1 else parts(channels, lanes)
    return sizes.copied // max(1, channels) * sizes.bands * a_pixel * COPY


def inside(plan: ConvPlan) -> bool:
    """Whether no window reaches into the padding, so that x is read in place."""
    axes = zip(plan.input_size, plan.output_size, plan.kernel_size, plan.stride, plan.dilation, strict=True)
    return not any(plan.before) and all((n - 1) * s + (k - 1) * d < size for size, n, k, s, d in axes)


def sizes_of(plan: ConvPlan, tile: Tile, dtype: np.dtype, near: int) -> Sizes:
    """The sizes with bands of about `near` windows: rows, parts of a row, or whole planes."""
    depth, height, width = plan.output_size
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    a_window = max(1, plan.in_channels * dtype.itemsize * volume(plan.stride))  # of all groups, for lines have several
    near = max(4 * tile.rows, min(near, L2 // 2 // a_window))
    across = parts(width, near)
    wide = parts(width, across)
    down = parts(height, max(1, near // wide)) if across == 1 else height
    high = parts(height, down)
    planes = max(1, near // (high * wide)) if down == across == 1 else 1
    _, x_high, x_wide = (
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip((1, high, wide), plan.kernel_size, plan.stride, plan.dilation, strict=True)
    )
    copied = 0 if inside(plan) else planes * plan.kernel_size[0] * x_high * x_wide * channels
    return Sizes(
        plan.groups, channels, per_group, parts(per_group, tile.columns), tile.columns, tile.rows,
        volume(plan.kernel_size), planes, high, wide, parts(height, high), across,
        parts(plan.batch * depth, planes) * parts(height, high) * across, x_high, x_wide, copied,
    )  # fmt: skip


def _tile(dtype: np.dtype, rows: int, per_group: int, terms: int) -> tuple[Tile, float]:
    """The tile that takes the fewest cycles to sum so many terms in so many rows, and how many.

    A term takes its multiply-adds, two in a cycle at most, or loads, of which there are two; a tile, some more to begin
    and to store.
    """

    def cycles(tile: Tile) -> tuple[float, int]:
        share = tile.lanes / tile.unit.lanes
        blocks, rest = divmod(parts(per_group, tile.lanes), tile.vectors)
        sums = 0.0
        for n in [tile.vectors] * blocks + [rest] * (rest > 0):
            a_term = max(tile.rows * n * max(share / FMAS, 0.5), (tile.rows + 1) / 2 + n * share, 4)
            sums += terms * a_term + END + 2 * tile.rows * n
        return parts(rows, tile.rows) * sums, tile.columns

    tile = min(tiles("gather", dtype), key=cycles)
    return tile, cycles(tile)[0]


def forward(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """As `convolve.convolve`, of arrays whose channels lie together."""
    tile, sizes, _ = _forward_way(plan, x.dtype)
    terms, counts, work = sizes.channels * sizes.taps, tuple(sizes), _work(plan)
    weights, bias_address = weight_numbers(weight, plan.groups, swapped), address_of(bias)
    packed, there = None, 0
    if threads.many(work):
        packed = np.empty((sizes.groups * sizes.blocks, 1 + terms, sizes.columns), x.dtype)
        there = address_of(packed)
        threads.run(
            pack_terms, sizes.groups * sizes.blocks, weight.size,
            tile.unit, counts, plan.kernel_size, weights, bias_address, there, keep=(weight, bias, packed),
        )  # fmt: skip
    threads.run(
        _convolve, sizes.bands * sizes.groups * sizes.blocks, work,
        tile.unit, tile.loop, counts, plan.kernel_size, plan.stride, plan.dilation, plan.before,
        lines.numbers(x), lines.numbers(out), weights, bias_address, there, then, keep=(x, weight, bias, packed, out),
    )  # fmt: skip


def weight_gradient(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Fill grad_weight (C_out, C_in / groups, *kernel), which is contiguous."""
    tile, sizes, _ = _gradient_way(plan, x.dtype)
    tall = parts(sizes.channels * sizes.taps, sizes.rows)
    total = np.zeros((sizes.groups * sizes.blocks, tall * sizes.rows, sizes.columns), x.dtype)
    x_panels, grad_panels = _panels(sizes, tall, x.dtype)
    threads.run(
        _correlate, sizes.groups * sizes.blocks * tall, _work(plan),
        tile.unit, tile.loop, tuple(sizes), plan.kernel_size, plan.stride, plan.dilation, plan.before,
        lines.numbers(x), lines.numbers(grad_output), address_of(total), x_panels, grad_panels,
        keep=(x, grad_output, total),
    )  # fmt: skip
    threads.run(
        _turn, sizes.groups * sizes.blocks, grad_weight.size,
        tile.unit, tuple(sizes), address_of(total), tall * sizes.rows, address_of(grad_weight),
        keep=(total, grad_weight),
    )  # fmt: skip


def _panels(sizes: Sizes, tall: int, dtype: np.dtype) -> tuple[bool, bool]:
    """Whether a band's x, and its output gradients, are brought together for each tile before any of them is summed.

    As they lie, pixels of many channels are far apart, in the same places of the L1 cache and on pages of their own. To
    bring them together pays if they are read often enough, and if a tile's rows are channels of one tap.
    """
    if MASK_REGISTERS:  # not measured
        return False, False
    windows = sizes.planes * sizes.high * sizes.wide
    fits = windows * tall * sizes.rows * dtype.itemsize <= L2
    return one_tap(sizes) and fits and sizes.blocks >= 4, tall >= 8


def one_tap(sizes: Sizes) -> bool:
    """Whether the rows of a tile are neighbouring channels of one tap."""
    return sizes.taps == 1 or sizes.channels % sizes.rows == 0


# ---------------------------------------------------------------- where things lie


def steps_of(sizes, dilation, x):
    """The elements between planes, rows and columns of what taps read, and of what windows read."""
    if not sizes.copied:
        return dilation[0] * x.d, x.h, x.w
    column = sizes.channels
    return sizes.x_high * sizes.x_wide * column, sizes.x_wide * column, column


def offsets_of_taps(sizes, kernel, dilation, steps, offsets):
    """Where each term, by tap and input channel, is from where its window is."""
    t = 0
    for d in range(kernel[0]):
        for h in range(kernel[1]):
            for w in range(kernel[2]):
                offset = d * steps[0] + h * dilation[1] * steps[1] + w * dilation[2] * steps[2]
                for c in range(sizes.channels):
                    offsets[t] = offset + c
                    t += 1


def band_at(sizes, band, out):
    """The first plane, row and column of a band, and how many of each it has."""
    rest, w = divmod(band, sizes.across)
    plane, h = divmod(rest, sizes.down)
    plane, h, w = plane * sizes.planes, h * sizes.high, w * sizes.wide
    planes = min(sizes.planes, out.batch * out.depth - plane)
    return plane, h, w, planes, min(sizes.high, out.height - h), min(sizes.wide, out.width - w)


def _windows(sizes, where, kernel, stride, steps, x, out, sources, targets):
    """Where a band's windows are in x, or in its copy, and in `out`; how many there are.

    Behind them come `rows` times the last: a tile has no rows to spare.
    """
    plane, first, left, planes, high, wide = where
    p = 0
    for j in range(planes):
        n, d = divmod(plane + j, out.depth)
        target = n * out.n + d * out.d + left * out.w
        source = j * kernel[0] * steps[0]
        if not sizes.copied:
            source = n * x.n + d * stride[0] * x.d + first * stride[1] * x.h + left * stride[2] * x.w
        for h in range(high):
            for w in range(wide):
                sources[p] = source + h * stride[1] * steps[1] + w * stride[2] * steps[2]
                targets[p] = target + (first + h) * out.h + w * out.w
                p += 1
    for i in range(p, p + sizes.rows):
        sources[i], targets[i] = sources[p - 1], targets[p - 1]
    return p


def copy_band(unit, sizes, where, kernel, stride, dilation, before, x, depth, channel, to):
    """Copy what a band's windows read of a group's channels from one on, zeros where it is padding.

    Behind it there must be room for a vector. Rows of all channels are copied as a whole.
    """
    plane, first, left, planes, _, _ = where
    bytes_, count = itemsize(unit), sizes.channels
    top, start = first * stride[1] - before[1], left * stride[2] - before[2]
    above, below = max(0, min(-top, sizes.x_high)), max(0, min(x.height - top, sizes.x_high))
    low, end = max(0, min(-start, sizes.x_wide)), max(0, min(x.width - start, sizes.x_wide))
    row = sizes.x_wide * count
    for j in range(planes):
        n, d = divmod(plane + j, depth)
        for k in range(kernel[0]):
            at = d * stride[0] + k * dilation[0] - before[0]
            last = below if 0 <= at < x.depth and low < end else 0
            source = x.address + (n * x.n + at * x.d + top * x.h + start * x.w + channel) * bytes_
            if x.w == count:
                fill(
                    unit,
                    to,
                    0,
                    source,
                    1,
                    0,
                    sizes.x_high,
                    x.h,
                    min(above, last),
                    last,
                    row,
                    1,
                    low * count,
                    end * count,
                )
            else:
                fill(unit, to, 0, source, 1, 0, sizes.x_high, 0, 0, 0, row, 1, 0, 0)
                for h in range(above, last):
                    pixels = to + (h * row + low * count) * bytes_
                    here, wide = source + (h * x.h + low * x.w) * bytes_, end - low
                    fill(unit, pixels, 0, here, 1, 0, wide, x.w, 0, wide, count, 1, 0, count)
            to += sizes.x_high * row * bytes_


def _next_band(unit, array, x, other, sizes, band, call, calls):
    """Where one of so many equal parts of an array's next band begins, and its numbers; none if that does not pay.

    It does if arrays are not near anyway, and there is something to do while they come. Bands are taken for equal parts
    of memory one behind the other, which is so where pixels have no gaps between them.
    """
    bytes_ = itemsize(unit)
    memory = (x.batch * x.n + other.batch * other.n) * bytes_
    windows = other.batch * other.depth * other.height * other.width
    products = windows * sizes.groups * sizes.channels * sizes.taps * sizes.per_group
    far = memory > FAR and products > memory * PRODUCTS
    a_band = array.batch * array.n // sizes.bands
    some = a_band // calls if far else 0
    return array.address + ((band + 1) * a_band + call * some) * bytes_, some


# ---------------------------------------------------------------- the kernels


@straight
def pack_terms(start, stop, unit, counts, kernel, weights, bias, packed):
    """Bring weights into blocks of `columns` output channels: the biases, then terms by tap and input channel."""
    sizes = Sizes(*counts)
    channel_step, d_step, h_step, w_step = weights[3:]
    offsets = np.empty(1 + sizes.channels * sizes.taps, np.int64)
    offsets[0], t = 0, 1
    for d in range(kernel[0]):
        for h in range(kernel[1]):
            for w in range(kernel[2]):
                for c in range(sizes.channels):
                    offsets[t] = (d * d_step + h * h_step + w * w_step + c * channel_step) // itemsize(unit)
                    t += 1
    pack_blocks(
        start, stop, unit, sizes.blocks, sizes.columns, sizes.per_group, offsets.ctypes.data, t - 1, weights, bias,
        packed,
    )  # fmt: skip


@straight
def _convolve(
    start, stop, unit, loop, counts, kernel, stride, dilation, before, x_numbers, out_numbers, weights, bias, packed,
    then,
):  # fmt: skip
    """A work item is a block of output channels of a group in one band of windows.

    Blocks vary fastest, so that a band is copied once for each group and stays in the cache; where x is read in place,
    so does what the band's windows read of it. Results are stored once, in whole vectors. Weights that were not
    `packed` before (0) are packed here.
    """
    sizes = Sizes(*counts)
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, terms, most = itemsize(unit), sizes.channels * sizes.taps, sizes.planes * sizes.high * sizes.wide
    own = np.empty(0 if packed else sizes.groups * sizes.blocks * (1 + terms) * sizes.columns * bytes_, np.uint8)
    if not packed:
        packed = own.ctypes.data
        pack_terms(0, sizes.groups * sizes.blocks, unit, counts, kernel, weights, bias, packed)
    steps = steps_of(sizes, dilation, x)
    offsets = np.empty(terms, np.int64)
    sources, targets = np.empty(most + sizes.rows, np.int64), np.empty(most + sizes.rows, np.int64)
    memory = np.empty((sizes.copied + lanes(unit)) * bytes_, np.uint8)
    a, rows = memory.ctypes.data, sources.ctypes.data
    places, offsets_ = targets.ctypes.data, offsets.ctypes.data
    offsets_of_taps(sizes, kernel, dilation, steps, offsets)
    rest, block = divmod(start, sizes.blocks)
    band, g = divmod(rest, sizes.groups)
    count, laid_out = 0, False
    for _ in range(start, stop):
        where = band_at(sizes, band, out)
        if count == 0:
            count = _windows(sizes, where, kernel, stride, steps, x, out, sources, targets)
        if not sizes.copied:
            a = x.address + g * sizes.channels * bytes_
        elif not laid_out:
            copy_band(unit, sizes, where, kernel, stride, dilation, before, x, out.depth, g * sizes.channels, a)
            laid_out = True
        biases = packed + (g * sizes.blocks + block) * (1 + terms) * sizes.columns * bytes_
        to = out.address + (g * sizes.per_group + block * sizes.columns) * bytes_
        filled = min(sizes.columns, sizes.per_group - block * sizes.columns)
        b = biases + sizes.columns * bytes_
        done, calls = (g * sizes.blocks + block) * parts(count, sizes.rows), sizes.groups * sizes.blocks
        next_x, some_x = _next_band(unit, x, x, out, sizes, band, done, calls * parts(count, sizes.rows))
        next_out, some_out = _next_band(unit, out, x, out, sizes, band, done, calls * parts(count, sizes.rows))
        for p in range(0, count, sizes.rows):
            if some_x | some_out:
                fetch_far(unit, next_x, some_x)
                fetch_far(unit, next_out, some_out)
                next_x, next_out = next_x + some_x * bytes_, next_out + some_out * bytes_
            gather(
                loop, to, places + 8 * p, filled, biases, 0, then == RELU, a, rows + 8 * p, offsets_, terms, b,
                sizes.columns,
            )  # fmt: skip
            if then > RELU:
                for i in range(p, min(p + sizes.rows, count)):
                    row = to + targets[i] * bytes_
                    call(then, row, row, 0, 1, filled)
        block += 1
        if block == sizes.blocks:
            block, g, laid_out = 0, g + 1, False
        if g == sizes.groups:
            g, band, count = 0, band + 1, 0


@straight
def _correlate(
    start, stop, unit, loop, counts, kernel, stride, dilation, before, x_numbers, grad_numbers, total, x_panels,
    grad_panels
):  # fmt: skip
    """A work item is `rows` neighbouring weights (tap, channel) of a block of output channels of a group.

    A band of x, and its output gradients in whole vectors, stay in the cache for all items; gradients that lie so are
    read where they are (of a vector across a group's end, lanes of the next group count nowhere). Each band is summed
    by itself, and the bands' sums are added up in order.
    """
    sizes = Sizes(*counts)
    whole = sizes.per_group % lanes(unit) == 0 or sizes.per_group == sizes.columns  # no vector is read across the end
    x, grads = lines.block(unit, x_numbers), lines.block(unit, grad_numbers)
    bytes_, terms, most = itemsize(unit), sizes.channels * sizes.taps, sizes.planes * sizes.high * sizes.wide
    steps = steps_of(sizes, dilation, x)
    offsets, across = np.empty(terms + sizes.rows, np.int64), np.empty(sizes.rows, np.int64)
    for i in range(sizes.rows):
        across[i] = i * sizes.columns
    sources, targets = np.empty(most + sizes.rows, np.int64), np.empty(most + sizes.rows, np.int64)
    memory = np.empty((sizes.copied + lanes(unit)) * bytes_, np.uint8)
    size_b = (most * sizes.columns + lanes(unit)) * bytes_  # a vector behind each block may be written
    grad_memory = np.empty(sizes.blocks * size_b, np.uint8)
    a, b = memory.ctypes.data, grad_memory.ctypes.data
    rows, places, offsets_ = sources.ctypes.data, across.ctypes.data, offsets.ctypes.data
    offsets_of_taps(sizes, kernel, dilation, steps, offsets)
    offsets[terms:] = offsets[terms - 1]
    tall = (terms + sizes.rows - 1) // sizes.rows
    a_panel = most * sizes.rows * bytes_
    panels = np.empty(tall * a_panel + lanes(unit) * bytes_ if x_panels else 0, np.uint8)
    in_panel, row_in_panel = np.empty(most, np.int64), np.empty(sizes.rows, np.int64)
    for p in range(most):
        in_panel[p] = p * sizes.rows
    for i in range(sizes.rows):
        row_in_panel[i] = i
    for band in range(sizes.bands):
        where = band_at(sizes, band, grads)
        count, wide = _windows(sizes, where, kernel, stride, steps, x, grads, sources, targets), where[5]
        even = _even(targets, count, wide, grads.w)
        next_x, some_x = _next_band(unit, x, x, grads, sizes, band, 0, stop - start)
        next_grads, some_grads = _next_band(unit, grads, x, grads, sizes, band, 0, stop - start)
        item = start
        while item < stop:
            g, first = item // (sizes.blocks * tall), item // tall
            end = min(stop, (g + 1) * sizes.blocks * tall)
            in_place = even and not grad_panels and (whole or (sizes.groups - 1 - g) * sizes.per_group >= lanes(unit))
            if not sizes.copied:
                a = x.address + g * sizes.channels * bytes_
            else:
                copy_band(unit, sizes, where, kernel, stride, dilation, before, x, grads.depth, g * sizes.channels, a)
            for p in range(0, 0 if in_place else count, wide):
                for block in range(first, (end - 1) // tall + 1):
                    channel = g * sizes.per_group + (block - g * sizes.blocks) * sizes.columns
                    filled = min(sizes.columns, (g + 1) * sizes.per_group - channel)
                    source = grads.address + (targets[p] + channel) * bytes_
                    to = b + (block - first) * size_b + p * sizes.columns * bytes_
                    fill(unit, to, 0, source, 1, 0, wide, grads.w, 0, wide, sizes.columns, 1, 0, filled)
            for row in range(tall if x_panels else 0):  # in ascending order: behind a panel the next one is written
                if (row + tall - item % tall) % tall < end - item:
                    gather_lines(
                        unit, panels.ctypes.data + row * a_panel, sizes.rows, a + offsets[row * sizes.rows] * bytes_,
                        rows, count, min(sizes.rows, terms - row * sizes.rows),
                    )  # fmt: skip
            while item < end:
                block, row = divmod(item, tall)
                channel = (block - g * sizes.blocks) * sizes.columns
                filled = min(sizes.columns, sizes.per_group - channel)
                to = total + item * sizes.rows * sizes.columns * bytes_
                here, b_step = b + (block - first) * size_b, sizes.columns
                if in_place:
                    here, b_step = grads.address + (targets[0] + g * sizes.per_group + channel) * bytes_, grads.w
                fetch_far(unit, next_x, some_x)
                fetch_far(unit, next_grads, some_grads)
                next_x, next_grads = next_x + some_x * bytes_, next_grads + some_grads * bytes_
                if x_panels:
                    gather(
                        loop, to, places, filled, to, sizes.columns, 0, panels.ctypes.data + row * a_panel,
                        row_in_panel.ctypes.data, in_panel.ctypes.data, count, here, b_step,
                    )  # fmt: skip
                else:
                    gather(
                        loop, to, places, filled, to, sizes.columns, 0, a, offsets_ + 8 * row * sizes.rows, rows,
                        count, here, b_step,
                    )  # fmt: skip
                item += 1


def _even(places, count, wide, step):
    """Whether places are a step apart, in rows of `wide` and from row to row."""
    even = True
    for p in range(0, count, wide):
        even = even and places[p] - places[0] == p * step
    return even


@straight
def _turn(start, stop, unit, counts, total, tall, out):
    """A work item is a block of output channels: its sums (taps, channels, columns) become rows of `out`.

    Those are (C_out, channels, taps). Matrices are turned twice, the second time each row by itself.
    """
    sizes = Sizes(*counts)
    bytes_, terms = itemsize(unit), sizes.channels * sizes.taps
    memory = np.empty(sizes.columns * terms * bytes_, np.uint8)
    for item in range(start, stop):
        g, block = divmod(item, sizes.blocks)
        first = block * sizes.columns
        here = min(sizes.columns, sizes.per_group - first)
        row, source = out + (g * sizes.per_group + first) * terms * bytes_, memory.ctypes.data
        transpose(unit, source, terms, total + item * tall * sizes.columns * bytes_, sizes.columns, terms, here)
        for _ in range(here):
            transpose(unit, row, sizes.taps, source, sizes.channels, sizes.taps, sizes.channels)
            row += terms * bytes_
            source += terms * bytes_
