"""Convolution on lines (see `lines.py`), forward and backward, made of the two loops of `tile.py`.

The way back to the input is a forward convolution too, one for each stride phase; the way back to the weights takes the
inner products of lines.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines, winograd
from cnnkit.rooms.numba.elementwise import row_sum
from cnnkit.rooms.numba.lines import Lines, lay_out
from cnnkit.rooms.numba.machine import FMAS, L2, keep, kernel
from cnnkit.rooms.numba.tile import Tile, columns, copy, inner, itemsize, lanes, outer, pack, rows, tiles, vectors

MULTIPLY_ADDS = 64  # a nanosecond and core, about
BAND = 4096  # bytes of a line that are summed at a time in the weights' gradient: six lines of them stay in the L1 cache
TOGETHER = 512  # windows of an image: with fewer, the images of a batch are summed end to end


def conv(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: str | None, out: Array) -> None:
    plan3 = geometry.lift(plan)
    forward(arrays.lift(x), _grouped(weight, plan), bias, plan3, activation == "relu", arrays.lift(out))


def conv_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    plan: ConvPlan,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if grad_x is not None:
        _backward_x(grad_output, weight, plan, grad_x)
    if grad_weight is not None:
        _backward_weight(arrays.lift(grad_output), arrays.lift(x), geometry.lift(plan), grad_weight)
    if grad_bias is not None:
        threads.run(sum_channels, plan.out_channels, grad_output.size, arrays.lift(grad_output), grad_bias)


def _grouped(weight: Array, plan: ConvPlan) -> Array:
    """Weights as (groups, C_out / groups, C_in / groups, D, H, W)."""
    kernel_size = (1,) * (5 - weight.ndim) + weight.shape[2:]
    return weight.reshape(plan.groups, plan.out_channels // plan.groups, weight.shape[1], *kernel_size)


# ---------------------------------------------------------------- forward


class Work(NamedTuple):
    """How a forward convolution is done: which lines, in which bands, by which tile.

    A band is `band` windows of a line; its lines are `length` numbers each, or lie `in_place`.
    """

    lines: Lines
    tile: Tile
    in_place: bool
    band: int
    length: int


class Sizes(NamedTuple):
    """What `_convolve` counts by: lines, bands of a line, groups, blocks of output channels, and what they hold."""

    lines: int
    bands: int
    groups: int
    blocks: int
    per_group: int
    channels: int
    terms: int
    run: int
    band: int
    length: int
    phases: int
    in_place: bool
    together: bool


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, relu: bool, out: Array) -> None:
    """Convolve x (N, C, D, H, W) with weight (groups, C_out / groups, C_in / groups, D, H, W)."""
    if not out.size:
        return
    if winograd.chosen(x, plan) and winograd.forward(x, weight, bias, plan, relu, out):
        return
    work = _plan_work(plan, x.dtype, x[0, 0].flags.c_contiguous)
    lines_, tile = work.lines, work.tile
    groups, per_group, channels = weight.shape[:3]
    packed = _pack(weight, bias, tile)
    together = lines_.together
    sizes = Sizes(
        1 if together else plan.batch, -(-lines_.run // work.band), groups, packed.shape[1], per_group, channels,
        channels * volume(plan.kernel_size), lines_.run, work.band, work.length, lines_.phases, work.in_place, together,
    )  # fmt: skip
    items = sizes.lines * sizes.bands * groups * sizes.blocks
    threads.run(
        _convolve, items, plan.batch * volume(plan.output_size) * weight.size / MULTIPLY_ADDS,
        tile, lines.block(x), lines_.size, plan.stride, plan.before, lines_.table,
        sizes, lines.address(packed), relu, lines.block(_rows_joined(out)), keep=(x, packed, out),
    )  # fmt: skip


def _rows_joined(out: Array) -> Array:
    """The results (N, C, D, H, W), as (N, C, 1, 1, D * H * W) if they lie so."""
    plane = out[0, 0]
    return out.reshape(*out.shape[:2], 1, 1, -1) if plane.flags.c_contiguous else out


@lru_cache(1024)
def _plan_work(plan: ConvPlan, dtype: np.dtype, contiguous: bool) -> Work:
    """The way that takes the fewest cycles, of lines in place, of each image, and of all images together."""
    ways = [_lines_work(lines.solve(plan, together), plan, dtype, False) for together in (False, True)]
    if contiguous and lines.in_place(plan) and ways[0][1].lines.run >= ways[0][1].tile.lanes:
        ways.append(_lines_work(ways[0][1].lines, plan, dtype, True))
    return min(ways, key=lambda way: way[0])[1]


def _lines_work(solved: Lines, plan: ConvPlan, dtype: np.dtype, in_place: bool) -> tuple[float, Work]:
    """The cycles of a vector of windows, and the work."""
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    tile = _outer_tile(dtype, per_group, channels * volume(plan.kernel_size), solved.run)
    room = L2 // dtype.itemsize // (channels * solved.phases) - solved.reach - tile.lanes
    bands = -(-solved.run // max(tile.columns, room))
    band = min(-(-solved.run // bands // tile.columns) * tile.columns, -(-solved.run // tile.lanes) * tile.lanes)
    band = -(-(-(-solved.run // bands)) // tile.columns) * tile.columns
    length = -(-(band + solved.reach) // tile.lanes) * tile.lanes
    length += tile.lanes if length * dtype.itemsize % 1024 == 0 else 0  # lines do not all meet in one set of the cache
    full = -(-solved.run // tile.lanes) * tile.lanes / solved.run * (1 if solved.together else 1)
    filling = 0 if in_place else channels * solved.phases * lines.FILL[min(plan.stride[2], 2)] * length / band
    computing = channels * volume(plan.kernel_size) * per_group
    return full * (filling + computing), Work(solved, tile, in_place, band, length)


@lru_cache(1024)
def _outer_tile(dtype: np.dtype, channels: int, terms: int, run: int) -> Tile:
    """The tile that takes the fewest cycles, by what was measured of them (on Zen 5, AVX-512).

    A term takes half a cycle for each multiply-add, or 1.85 for each vector (it mostly lies across two cache lines) and
    0.8 for each row, and not less than the 4 that a sum waits for itself; a tile, some more to begin and to store.
    """

    def cycles(tile: Tile) -> float:
        a_term = max(tile.rows * tile.vectors / FMAS, 1.85 * tile.vectors + 0.8 * tile.rows, 4)
        a_tile = terms * a_term + 60 + 2 * tile.rows * tile.vectors
        return -(-channels // tile.rows) * -(-run // tile.lanes) / tile.vectors * a_tile

    return min(tiles("outer", dtype), key=cycles)


def _pack(weight: Array, bias: Array | None, tile: Tile) -> Array:
    """Weights as (groups, blocks of output channels, 1 + terms, rows of a tile): biases and then terms, rows together."""
    groups, per_group, channels = weight.shape[:3]
    blocks, taps = -(-per_group // tile.rows), volume(weight.shape[3:])
    packed = np.empty((groups, blocks, 1 + channels * taps, tile.rows), weight.dtype)
    bias = np.zeros(groups * per_group, weight.dtype) if bias is None else np.ascontiguousarray(bias)
    steps = tuple(stride // weight.itemsize for stride in weight.strides)
    threads.run(
        _pack_blocks, groups * blocks, weight.size,
        tile, lines.address(weight), weight.shape, steps, lines.address(bias), lines.address(packed), blocks,
        keep=(weight, bias, packed),
    )  # fmt: skip
    return packed


@kernel
def _pack_blocks(start, stop, tile, weight, shape, steps, bias, packed, blocks):
    """Bring weight (groups, C_out / groups, C_in / groups, D, H, W) into blocks; rows that are left over become zeros."""
    _, per_group, channels, depth, height, width = shape
    offsets = np.empty(channels * depth * height * width, np.int64)
    t = 0
    for c in range(channels):
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    offsets[t] = c * steps[2] + d * steps[3] + h * steps[4] + w * steps[5]
                    t += 1
    one = np.zeros(1, np.int64)
    size = itemsize(tile)
    for item in range(start, stop):
        g, block = divmod(item, blocks)
        first = block * rows(tile)
        here = min(rows(tile), per_group - first)
        to = packed + item * (1 + offsets.size) * rows(tile) * size
        pack(tile, to, bias + (g * per_group + first) * size, 1, here, one.ctypes.data, 1)
        source = weight + (g * steps[0] + first * steps[1]) * size
        pack(tile, to + rows(tile) * size, source, steps[1], here, offsets.ctypes.data, offsets.size)
    keep(one)


@kernel
def _convolve(start, stop, tile, x, size, stride, before, table, sizes, packed, relu, out):
    """A work item is a block of output channels of a group in one band of windows.

    Blocks vary fastest: the lines of a band are laid out once (x is read once for each band and phase, mostly from the
    cache), and stay in the cache while all blocks read them.
    """
    bytes_, terms = itemsize(tile), sizes.terms
    offsets = np.empty(terms, np.int64)
    step = x.c if sizes.in_place else sizes.phases * sizes.length
    taps = table[sizes.phases :]
    for t in range(terms):
        c, tap = divmod(t, len(taps))
        offsets[t] = c * step + taps[tap, 0] * sizes.length + taps[tap, 1]
    memory = np.empty(0 if sizes.in_place else (sizes.channels * step + 2 * 64) * bytes_, np.uint8)
    near = (memory.ctypes.data + 63) // 64 * 64
    sums = np.empty((rows(tile) * columns(tile) + 16) * bytes_, np.uint8)
    offsets_, sums_ = offsets.ctypes.data, (sums.ctypes.data + 63) // 64 * 64
    per_image = out.depth * out.height * out.width
    simple = out.w == 1 and out.width == per_image and not sizes.together
    rest, block = divmod(start, sizes.blocks)
    rest, g = divmod(rest, sizes.groups)
    line, band = divmod(rest, sizes.bands)
    new = True
    for _ in range(start, stop):
        p = band * sizes.band
        end = min(p + sizes.band, sizes.run)
        if sizes.in_place:
            here = x.address + (line * x.n + g * sizes.channels * x.c) * bytes_
        else:
            here = near - p * bytes_
            if new:
                first = g * sizes.channels
                lay_out(tile, near, sizes.length, x, first, line, p, sizes.channels, size, stride, before, table, sizes.phases)
        weights = packed + (g * sizes.blocks + block) * (1 + terms) * rows(tile) * bytes_
        o = g * sizes.per_group + block * rows(tile)
        filled = min(rows(tile), (g + 1) * sizes.per_group - o)
        while p < end:
            count = min(columns(tile), end - p)
            if sizes.in_place and count % lanes(tile):  # nothing is read behind the end
                if count < lanes(tile):
                    p, count = end - lanes(tile), lanes(tile)
                else:
                    count -= count % lanes(tile)
            terms_ = weights + rows(tile) * bytes_
            n, w = (line, p) if simple else divmod(p, per_image)
            if simple or (out.w == 1 and w % out.width + count <= out.width):
                if not simple:
                    n += line
                row, w = divmod(w, out.width)
                d, h = divmod(row, out.height)
                to = out.address + (n * out.n + o * out.c + d * out.d + h * out.h + w) * bytes_
                outer(tile, to, out.c, filled, count, weights, relu, terms_, here + p * bytes_, offsets_, terms)
            else:
                outer(tile, sums_, columns(tile), filled, count, weights, relu, terms_, here + p * bytes_, offsets_, terms)
                _store(tile, sums_, line, p, count, o, filled, out)
            p += count
        block += 1
        new = block == sizes.blocks
        if new:
            block, g = 0, g + 1
        if g == sizes.groups:
            g, band = 0, band + 1
        if band == sizes.bands:
            band, line = 0, line + 1
    keep(offsets, memory, sums)


@kernel
def _store(tile, sums, image, p, count, o, channels, out):
    """Bring the sums of `count` windows from p on to `channels` channels of out from o on, row by row."""
    bytes_ = itemsize(tile)
    row, w = divmod(p, out.width)
    row, h = divmod(row, out.height)
    n, d = divmod(row, out.depth)
    n += image
    while count > 0:
        here = min(out.width - w, count)
        to = out.address + (n * out.n + o * out.c + d * out.d + h * out.h + w * out.w) * bytes_
        for i in range(channels):
            copy(tile, to + i * out.c * bytes_, out.w, sums + i * columns(tile) * bytes_, here)
        sums += here * bytes_
        count -= here
        w, h = 0, h + 1
        if h == out.height:
            h, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1


# ---------------------------------------------------------------- backward


def _backward_x(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array) -> None:
    """Convolutions of the output gradient, the weights flipped, their input and output channels exchanged."""
    for phase in geometry.input_gradient(plan):
        if phase.plan is None:
            grad_x[phase.of] = 0
            continue
        flipped = _grouped(weight, plan)[(slice(None), *_three(phase.kernel))].swapaxes(1, 2)
        part = arrays.lift(grad_x[phase.of])
        forward(arrays.lift(grad_output), flipped, None, geometry.lift(phase.plan), False, part)


def _three(kernel_slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Slices of (C_out, C_in, *kernel) over three kernel axes."""
    return (*kernel_slices[:2], *(slice(None),) * (5 - len(kernel_slices)), *kernel_slices[2:])


class Sums(NamedTuple):
    """What `_correlate` counts by: of each group `terms` weights for each of `per_group` output channels, of `channels`
    input channels; `run` windows of each of some `lines`, in bands; how many channels of each side are near at a time."""

    lines: int
    run: int
    band: int
    channels: int
    terms: int
    per_group: int
    near: int
    near_grads: int
    length: int
    phases: int
    in_place: bool
    grads_in_place: bool


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's line with the output gradient's line."""
    shape = plan.groups, plan.out_channels // plan.groups, plan.in_channels // plan.groups * volume(plan.kernel_size)
    total = np.zeros(shape, x.dtype)
    if x.size and grad_output.size:
        together = volume(plan.output_size) < TOGETHER
        solved = lines.solve(plan, together)
        in_place = not together and x[0, 0].flags.c_contiguous and lines.in_place(plan)
        correlate(x, grad_output, plan, solved, in_place, total)
    grad_weight[...] = total.reshape(grad_weight.shape)


def correlate(x: Array, grads: Array, plan: ConvPlan, solved: Lines, in_place: bool, total: Array) -> None:
    """Add to total (groups, C_out / groups, terms) the inner products of terms' lines with the groups' gradients."""
    groups, per_group, terms = total.shape
    tile = _inner_tile(total.dtype, terms, per_group)
    bands = -(-solved.run * total.itemsize // BAND)
    band = -(-(-(-solved.run // bands)) // tile.lanes) * tile.lanes
    length = -(-(band + solved.reach) // tile.lanes) * tile.lanes
    length += tile.lanes if length * total.itemsize % 1024 == 0 else 0
    near = max(1, L2 // 2 // total.itemsize // (solved.phases * length))
    near_grads = max(1, L2 // 2 // total.itemsize // length // tile.vectors) * tile.vectors
    sums = Sums(
        1 if solved.together else plan.batch, solved.run, band, plan.in_channels // groups, terms, per_group,
        near, near_grads, length, solved.phases, in_place, not solved.together and grads[0, 0].flags.c_contiguous,
    )  # fmt: skip
    work = plan.batch * volume(plan.output_size) * total.size / MULTIPLY_ADDS
    threads.run(
        _correlate, groups * -(-terms // tile.rows), work,
        tile, lines.block(x), solved.size, plan.stride, plan.before, solved.table, sums, lines.block(grads),
        plan.output_size, total, keep=(x, grads),
    )  # fmt: skip


@lru_cache(1024)
def _inner_tile(dtype: np.dtype, terms: int, per_group: int) -> Tile:
    """The tile that takes the fewest multiply-adds and loads."""

    def cycles(tile: Tile) -> float:
        a_block = max(tile.rows * tile.vectors / FMAS, tile.rows + tile.vectors)
        return -(-terms // tile.rows) * -(-per_group // tile.vectors) * a_block

    return min(tiles("inner", dtype), key=cycles)


@kernel
def _correlate(start, stop, tile, x, size, stride, before, table, sums, grads, grid, total):
    """A work item is `rows` neighbouring weights (channel, tap) of all the output channels of a group.

    A band of lines of some input channels, and the output gradients there of some output channels, stay in the cache
    for all their products. Each band is summed by itself, and the bands' sums are added up in order.
    """
    bytes_, taps = itemsize(tile), table[sums.phases :]
    blocks = -(-sums.terms // rows(tile))
    some = max(1, sums.near * len(taps) // rows(tile))  # items whose channels are near
    most = min(sums.channels, (some * rows(tile) - 1) // len(taps) + 2)
    memory = np.empty(0 if sums.in_place else (most * sums.phases * sums.length + 32) * bytes_, np.uint8)
    wanted = 0 if sums.grads_in_place else (min(sums.near_grads, sums.per_group) * sums.length + 32) * bytes_
    grad_memory = np.empty(wanted, np.uint8)
    near, grads_near = (memory.ctypes.data + 63) // 64 * 64, (grad_memory.ctypes.data + 63) // 64 * 64
    plain, ones, zeros = np.zeros((1, 3), np.int64), (1, 1, 1), (0, 0, 0)
    step = x.c if sums.in_place else sums.phases * sums.length
    grad_step = grads.c if sums.grads_in_place else sums.length
    products = np.empty((rows(tile), vectors(tile)), total.dtype)
    x_offsets, g_offsets = np.empty(rows(tile), np.int64), np.empty(vectors(tile), np.int64)
    products_, x_, g_ = products.ctypes.data, x_offsets.ctypes.data, g_offsets.ctypes.data
    item = start
    while item < stop:
        g, block = divmod(item, blocks)
        count = min(some, blocks - block, stop - item)
        first = block * rows(tile) // len(taps)
        last = (min((block + count) * rows(tile), sums.terms) - 1) // len(taps)
        for line in range(sums.lines):
            for p in range(0, sums.run, sums.band):
                here = min(sums.band, sums.run - p)
                if sums.in_place:
                    source = x.address + (line * x.n + (g * sums.channels + first) * x.c + p) * bytes_
                else:
                    source, channel = near, g * sums.channels + first
                    lay_out(
                        tile, near, sums.length, x, channel, line, p, last + 1 - first,
                        size, stride, before, table, sums.phases,
                    )  # fmt: skip
                for o in range(0, sums.per_group, sums.near_grads):
                    end = min(o + sums.near_grads, sums.per_group)
                    channel = g * sums.per_group + o
                    if sums.grads_in_place:
                        grad = grads.address + (line * grads.n + channel * grads.c + p) * bytes_
                    else:
                        grad = grads_near
                        lay_out(
                            tile, grads_near, sums.length, grads, channel, line, p, end - o,
                            grid, ones, zeros, plain, 1,
                        )  # fmt: skip
                    for term in range(block * rows(tile), (block + count) * rows(tile), rows(tile)):
                        for i in range(rows(tile)):
                            c, tap = divmod(min(term + i, sums.terms - 1), len(taps))
                            x_offsets[i] = (c - first) * step + taps[tap, 0] * sums.length + taps[tap, 1]
                        for j in range(o, end, vectors(tile)):
                            for k in range(vectors(tile)):
                                g_offsets[k] = (min(j + k, end - 1) - o) * grad_step
                            inner(tile, products_, source, x_, grad, g_, here)
                            for k in range(min(vectors(tile), end - j)):
                                for i in range(min(rows(tile), sums.terms - term)):
                                    total[g, j + k, term + i] += products[i, k]
        item += count
    keep(memory, grad_memory)


@kernel
def sum_channels(start, stop, grad, out):
    """The sum of each channel of grad (N, C, D, H, W): rows in vector order, then row by row in float64."""
    batch, _, depth, height, _ = grad.shape
    for c in range(start, stop):
        total = np.float64(0)
        for n in range(batch):
            for d in range(depth):
                for h in range(height):
                    total += row_sum(grad[n, c, d, h])
        out[c] = total
