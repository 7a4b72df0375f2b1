"""Convolution forward: for each band of windows, all output channels, by outer products.

Everything that is a sum of products over channels and taps comes here: the forward convolution, the input gradient (a
convolution of the output gradient for each stride phase), the two matrix products of a dense layer's way back.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import Lines, lay_out, parts
from cnnkit.rooms.numba.machine import FMAS, L2, MULTIPLY_ADDS, VECTOR_BYTES, keep, kernel, part
from cnnkit.rooms.numba.moves import copy, pack, transpose
from cnnkit.rooms.numba.tile import Tile, outer, tiles

FILL = (0, 5, 8, 11, 14, 48)  # cycles to lay out a vector of numbers 1, 2, 3, 4 and more apart


class Way(NamedTuple):
    """How a convolution is done: on which lines, in bands of so many windows, whose lines begin a `pitch` apart."""

    lines: Lines
    tile: Tile
    in_place: bool
    band: int
    pitch: int


class Sizes(NamedTuple):
    """What `_convolve` counts by: lines, bands of a line, groups, blocks of output channels, and what they hold.

    It comes to kernels as a plain tuple of ints, which Numba takes faster.
    """

    lines: int
    bands: int
    groups: int
    blocks: int
    per_group: int
    channels: int
    terms: int
    run: int
    band: int
    pitch: int
    reach: int
    phases: int
    in_place: int
    rows: int
    columns: int


def convolve(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """Fill out from x (N, C, *spatial) and weight (C_out, C_in / groups, *kernel), by a plan over three spatial axes.

    What is done `then` to the sums is said by `activation.epilogue`. If `swapped`, the weights' first two axes are
    (C_in, C_out / groups), as they are on the way back.
    """
    if not out.size:
        return
    if weight.nbytes > settings.current().max_workspace and plan.out_channels > plan.groups:
        _in_halves(x, weight, bias, plan, then, out, swapped)
        return
    way, sizes, work = _way(plan, x.dtype, x[0, 0].flags.c_contiguous, out.strides[1] == out.itemsize)
    solved, tile, counts = way.lines, way.tile, tuple(sizes)
    strides, more = weight.strides, 5 - weight.ndim
    first, second = strides[:2]
    taps = (*lines.ZEROS[:more], *strides[2:])
    steps = (second, first, *taps) if swapped else (first, second, *taps)
    weights = (weight.ctypes.data, (sizes.channels if swapped else sizes.per_group) * first, *steps)
    bias_address = 0 if bias is None else bias.ctypes.data
    packed, there = None, 0
    if threads.many(work):
        packed = np.empty((sizes.groups, sizes.blocks, 1 + sizes.terms, sizes.rows), x.dtype)
        there = packed.ctypes.data
        threads.run(
            _pack, sizes.groups * sizes.blocks, weight.size,
            tile.unit, counts, weights, plan.kernel_size, bias_address, there, keep=(weight, bias, packed),
        )  # fmt: skip
    threads.run(
        _convolve, sizes.lines * sizes.bands * sizes.groups * sizes.blocks, work,
        tile.unit, tile.loop, lines.numbers(x), solved.size, plan.stride, solved.table,
        counts, weights, plan.kernel_size, bias_address, there, then, lines.numbers(out),
        keep=(x, weight, bias, packed, out),
    )  # fmt: skip


def _in_halves(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool
) -> None:
    """The same for half of the output channels of each group at a time: packed weights take half the memory."""
    groups, per_group = plan.groups, plan.out_channels // plan.groups
    shape = (groups, -1, *weight.shape[1:])
    for some in (slice(0, per_group // 2), slice(per_group // 2, per_group)):
        count = some.stop - some.start
        for g in range(groups):
            rows = np.arange(g * per_group, (g + 1) * per_group)[some]
            channels = slice(g * plan.in_channels // groups, (g + 1) * plan.in_channels // groups)
            part = weight.reshape(shape)[g][:, some] if swapped else weight.reshape(shape)[g][some]
            to = out[:, rows[0] : rows[-1] + 1]
            one = plan._replace(in_channels=plan.in_channels // groups, out_channels=count, groups=1)
            convolve(x[:, channels], part, None if bias is None else bias[rows], one, then, to, swapped)


# ---------------------------------------------------------------- the way, and the tile


@lru_cache(1024)
def _way(plan: ConvPlan, dtype: np.dtype, contiguous: bool, channels_last: bool) -> tuple[Way, Sizes, float]:
    """The way that takes the fewest cycles: lines of each image, of all images together, or in place.

    And its sizes, and about how many nanoseconds it takes a core.
    """
    ways = [(lines.solve(plan, together), False) for together in (False, True)]
    if contiguous and lines.in_place(plan) and ways[0][0].run >= VECTOR_BYTES // dtype.itemsize:
        ways.append((ways[0][0], True))
    way = min((_cycles(plan, dtype, channels_last, *way) for way in ways), key=lambda way: way[0])[1]
    solved, tile = way.lines, way.tile
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    terms = channels * volume(plan.kernel_size)
    sizes = Sizes(
        1 if solved.together else plan.batch, parts(solved.run, way.band), plan.groups, parts(per_group, tile.rows),
        per_group, channels, terms, solved.run, way.band, way.pitch, solved.reach, solved.phases, int(way.in_place),
        tile.rows, tile.columns,
    )  # fmt: skip
    work = plan.batch * volume(plan.output_size) * plan.out_channels * terms / MULTIPLY_ADDS
    return way, sizes, work


def _cycles(plan: ConvPlan, dtype: np.dtype, channels_last: bool, solved: Lines, in_place: bool) -> tuple[float, Way]:
    """About how many cycles a way takes, and the way."""
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    tile, computing = _tile(dtype, per_group, channels * volume(plan.kernel_size), solved.run, channels_last)
    room = L2 // dtype.itemsize // (channels * solved.phases) - solved.reach - tile.lanes
    bands = parts(solved.run, max(tile.columns, room))
    band = parts(solved.run, bands * tile.columns) * tile.columns
    width = plan.output_size[2]
    a_number = 0 if in_place else FILL[min(plan.stride[2], 5)] * parts(width, tile.lanes) / width
    filling = channels * solved.phases * (solved.run + bands * solved.reach) * a_number
    way = Way(solved, tile, in_place, band, lines.pitch(band + solved.reach, tile.lanes))
    return (computing + filling) * (1 if solved.together else plan.batch), way


def _tile(dtype: np.dtype, channels: int, terms: int, run: int, channels_last: bool) -> tuple[Tile, float]:
    """The tile that takes the fewest cycles for a line, and how many.

    A term takes a multiply-add for each accumulator, or 1.85 cycles for each vector (it mostly lies across two cache
    lines) and 0.8 for each row, and not less than the 4 that a sum waits for itself (measured on Zen 5, AVX-512); a
    tile, some more to begin and to store, and to turn its squares of lanes where channels come last.
    """

    def cycles(tile: Tile) -> float:
        a_term = max(tile.rows * tile.vectors / FMAS, 1.85 * tile.vectors + 0.8 * tile.rows, 4)
        a_tile = terms * a_term + 60 + 2 * tile.rows * tile.vectors
        if channels_last:
            a_tile += 10 * tile.lanes * parts(tile.rows, tile.lanes) * tile.vectors
        return parts(channels, tile.rows) * parts(run, tile.lanes) / tile.vectors * a_tile

    return min(((tile, cycles(tile)) for tile in tiles("outer", dtype)), key=lambda one: one[1])


# ---------------------------------------------------------------- weights, brought together


@kernel
def _pack(start, stop, unit, counts, weights, kernel_size, bias, packed):
    """Bring weights into blocks: a work item is `rows` output channels of a group, of which the rows lie together.

    Each block begins with its biases; behind them come its terms (channel, tap), in that order.
    """
    sizes = Sizes(*counts)
    rows, bytes_ = sizes.rows, itemsize(unit)
    address, group_step, out_step, channel_step, d_step, h_step, w_step = weights
    depth, height, width = kernel_size
    offsets = np.empty(1 + sizes.terms, np.int64)
    offsets[0] = 0  # of a bias
    t = 1
    for c in range(sizes.channels):
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    offsets[t] = (c * channel_step + d * d_step + h * h_step + w * w_step) // bytes_
                    t += 1
    first_offset = offsets.ctypes.data
    for item in range(start, stop):
        g, block = divmod(item, sizes.blocks)
        first = block * rows
        here = min(rows, sizes.per_group - first)
        to = packed + item * (1 + sizes.terms) * rows * bytes_
        pack(unit, to, rows, bias + (g * sizes.per_group + first) * bytes_, 1, here if bias else 0, first_offset, 1)
        source = address + g * group_step + first * out_step
        pack(unit, to + rows * bytes_, rows, source, out_step // bytes_, here, first_offset + 8, sizes.terms)
    keep(offsets)


# ---------------------------------------------------------------- the kernel


@kernel
def _convolve(
    start, stop, unit, loop, x_numbers, size, stride, table, counts, weights, kernel_size, bias, packed, then,
    out_numbers,
):  # fmt: skip
    """A work item is a block of output channels of a group in one band of windows.

    Blocks vary fastest: the lines of a band are laid out once (x is read once for each band and phase, mostly from the
    cache), and stay in the cache while all blocks read them. A tile whose windows lie together in `out` goes straight
    there; others go by way of `sums`. What comes `then` is done to a tile's results while they are in the L1 cache.
    Weights that were not `packed` before (0) are packed here.
    """
    sizes = Sizes(*counts)
    x, out = lines.block(unit, x_numbers), _rows_joined(lines.block(unit, out_numbers))
    own = np.empty(
        0 if packed else sizes.groups * sizes.blocks * (1 + sizes.terms) * sizes.rows * itemsize(unit), np.uint8
    )
    if not packed:
        packed = own.ctypes.data
        _pack(0, sizes.groups * sizes.blocks, unit, counts, weights, kernel_size, bias, packed)
    bytes_, terms, rows, columns = itemsize(unit), sizes.terms, sizes.rows, sizes.columns
    step = x.c if sizes.in_place else sizes.phases * sizes.pitch
    taps = table[sizes.phases :]
    offsets = np.empty(terms, np.int64)
    for t in range(terms):
        c, tap = divmod(t, len(taps))
        offsets[t] = c * step + taps[tap, 0] * sizes.pitch + taps[tap, 1]
    memory = np.empty(64 if sizes.in_place else 64 + (sizes.channels * step + lanes(unit)) * bytes_, np.uint8)
    sums = np.empty(64 + rows * columns * bytes_, np.uint8)
    near, sums_, offsets_ = aligned(memory.ctypes.data), aligned(sums.ctypes.data), offsets.ctypes.data
    relu = then == RELU
    rest, block = divmod(start, sizes.blocks)
    rest, g = divmod(rest, sizes.groups)
    line, band = divmod(rest, sizes.bands)
    new = True
    for _ in range(start, stop):
        p = band * sizes.band
        end = min(p + sizes.band, sizes.run)
        first = g * sizes.channels
        here = near - p * bytes_
        if sizes.in_place:
            here = x.address + (line * x.n + first * x.c) * bytes_
        elif new:
            length = end - p + sizes.reach
            lay_out(
                unit, near, sizes.pitch, length, x, first, sizes.channels, line, p, size, stride, table, sizes.phases
            )
        biases = packed + (g * sizes.blocks + block) * (1 + terms) * rows * bytes_
        o = g * sizes.per_group + block * rows
        filled = min(rows, (g + 1) * sizes.per_group - o)
        while p < end:
            count = min(columns, end - p)
            if sizes.in_place and count % lanes(unit):  # no vector is read across the end
                p, count = (p, count - count % lanes(unit)) if count > lanes(unit) else (end - lanes(unit), lanes(unit))
            n, d, h, w = _window(out, p)
            to, to_step = out.address + ((line + n) * out.n + o * out.c + d * out.d + h * out.h + w) * bytes_, out.c
            direct = out.w == 1 and w + count <= out.width
            if not direct:
                to, to_step = sums_, columns
            source = here + p * bytes_
            outer(loop, to, to_step, filled, count, biases, relu, biases + rows * bytes_, source, offsets_, terms)
            if then > RELU:
                call(then, to, to, to_step, filled, count)
            if not direct:
                _store(unit, sums_, columns, line, p, count, o, filled, out)
            p += count
        block += 1
        new = block == sizes.blocks
        if new:
            block, g = 0, g + 1
        if g == sizes.groups:
            g, band = 0, band + 1
        if band == sizes.bands:
            band, line = 0, line + 1
    keep(offsets, memory, sums, own)


@part
def aligned(address):
    """The first address from one on that begins a cache line."""
    return (address + 63) // 64 * 64


@part
def _rows_joined(out):
    """The results' planes as one row each if they lie so."""
    if out.w == 1 and (out.height == 1 or out.h == out.width) and (out.depth == 1 or out.d == out.height * out.width):
        per_image = out.depth * out.height * out.width
        return lines.Block(out.address, out.n, out.c, out.d, out.h, out.w, out.batch, 1, 1, per_image)
    return out


@part
def _window(out, p):
    """Where the p-th result of a line is, as image, depth, row and column."""
    row, w = divmod(p, out.width) if p >= out.width else (0, p)
    row, h = divmod(row, out.height) if row >= out.height else (0, row)
    n, d = divmod(row, out.depth) if row >= out.depth else (0, row)
    return n, d, h, w


@part
def _store(unit, sums, columns, line, p, count, o, channels, out):
    """Bring the sums of `count` windows from p on to `channels` channels of out from o on, row by row."""
    bytes_ = itemsize(unit)
    n, d, h, w = _window(out, p)
    n += line
    while count > 0:
        here = min(out.width - w, count)
        to = out.address + (n * out.n + o * out.c + d * out.d + h * out.h + w * out.w) * bytes_
        if out.c == 1:
            transpose(unit, to, out.w, sums, columns, channels, here)
        else:
            for i in range(channels):
                copy(unit, to + i * out.c * bytes_, out.w, sums + i * columns * bytes_, here)
        sums += here * bytes_
        count -= here
        w, h = 0, h + 1
        if h == out.height:
            h, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1
