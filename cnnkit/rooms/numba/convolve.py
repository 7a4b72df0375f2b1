"""Convolution forward: for each band of windows, all output channels, by outer products.

Everything that is a sum of products over channels and taps comes here: the forward convolution, the input gradient (a
convolution of the output gradient for each stride phase), the two matrix products of a dense layer's way back.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import Lines, lay_out, parts
from cnnkit.rooms.numba.machine import FMAS, L2, MULTIPLY_ADDS, VECTOR_BYTES, keep, kernel
from cnnkit.rooms.numba.moves import copy, pack
from cnnkit.rooms.numba.tile import Tile, outer, tiles

FILL = (0, 5, 8, 48)  # cycles to lay out a vector of neighbours, of every other number, of others


class Way(NamedTuple):
    """How a convolution is done: on which lines, in bands of so many windows, whose lines begin a `pitch` apart."""

    lines: Lines
    tile: Tile
    in_place: bool
    band: int
    pitch: int


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
    pitch: int
    reach: int
    phases: int
    in_place: bool
    together: bool
    relu: bool
    rows: int
    columns: int
    loop: int


def convolve(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, relu: bool, out: Array) -> None:
    """Fill out from x (N, C, D, H, W) and weight (groups, C_out / groups, C_in / groups, D, H, W)."""
    if not out.size:
        return
    way = _way(plan, x.dtype, x[0, 0].flags.c_contiguous)
    solved, tile = way.lines, way.tile
    groups, per_group, channels = weight.shape[:3]
    packed = _pack(weight, bias, tile)
    sizes = Sizes(
        1 if solved.together else plan.batch, parts(solved.run, way.band), groups, packed.shape[1], per_group, channels,
        channels * volume(plan.kernel_size), solved.run, way.band, way.pitch, solved.reach, solved.phases,
        way.in_place, solved.together, relu, tile.rows, tile.columns, tile.loop,
    )  # fmt: skip
    threads.run(
        _convolve, sizes.lines * sizes.bands * groups * sizes.blocks,
        plan.batch * volume(plan.output_size) * weight.size / MULTIPLY_ADDS,
        tile.unit, lines.block(x), solved.size, plan.stride, solved.table,
        sizes, lines.address(packed), lines.block(_rows_joined(out)), keep=(x, packed, out),
    )  # fmt: skip


def _rows_joined(out: Array) -> Array:
    """The results (N, C, D, H, W), as (N, C, 1, 1, D * H * W) if they lie so."""
    return out.reshape(*out.shape[:2], 1, 1, -1) if out[0, 0].flags.c_contiguous else out


# ---------------------------------------------------------------- the way, and the tile


@lru_cache(1024)
def _way(plan: ConvPlan, dtype: np.dtype, contiguous: bool) -> Way:
    """The way that takes the fewest cycles: lines of each image, of all images together, or in place."""
    ways = [(lines.solve(plan, together), False) for together in (False, True)]
    if contiguous and lines.in_place(plan) and ways[0][0].run >= VECTOR_BYTES // dtype.itemsize:
        ways.append((ways[0][0], True))
    return min((_cycles(plan, dtype, *way) for way in ways), key=lambda way: way[0])[1]


def _cycles(plan: ConvPlan, dtype: np.dtype, solved: Lines, in_place: bool) -> tuple[float, Way]:
    """About how many cycles a way takes, and the way."""
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    tile, computing = _tile(dtype, per_group, channels * volume(plan.kernel_size), solved.run)
    room = L2 // dtype.itemsize // (channels * solved.phases) - solved.reach - tile.lanes
    bands = parts(solved.run, max(tile.columns, room))
    band = parts(solved.run, bands * tile.columns) * tile.columns
    width = plan.output_size[2]
    a_number = 0 if in_place else FILL[min(plan.stride[2], 3)] * parts(width, tile.lanes) / width
    filling = channels * solved.phases * (solved.run + bands * solved.reach) * a_number
    way = Way(solved, tile, in_place, band, lines.pitch(band + solved.reach, tile.lanes))
    return (computing + filling) * (1 if solved.together else plan.batch), way


def _tile(dtype: np.dtype, channels: int, terms: int, run: int) -> tuple[Tile, float]:
    """The tile that takes the fewest cycles for a line, and how many.

    A term takes a multiply-add for each accumulator, or 1.85 cycles for each vector (it mostly lies across two cache
    lines) and 0.8 for each row, and not less than the 4 that a sum waits for itself (measured on Zen 5, AVX-512); a
    tile, some more to begin and to store.
    """

    def cycles(tile: Tile) -> float:
        a_term = max(tile.rows * tile.vectors / FMAS, 1.85 * tile.vectors + 0.8 * tile.rows, 4)
        a_tile = terms * a_term + 60 + 2 * tile.rows * tile.vectors
        return parts(channels, tile.rows) * parts(run, tile.lanes) / tile.vectors * a_tile

    return min(((tile, cycles(tile)) for tile in tiles("outer", dtype)), key=lambda one: one[1])


# ---------------------------------------------------------------- weights, brought together


def _pack(weight: Array, bias: Array | None, tile: Tile) -> Array:
    """Weights as (groups, blocks of output channels, 1 + terms, rows of a tile), biases before terms."""
    groups, per_group, channels = weight.shape[:3]
    blocks, taps = parts(per_group, tile.rows), volume(weight.shape[3:])
    packed = np.empty((groups, blocks, 1 + channels * taps, tile.rows), weight.dtype)
    bias = np.zeros(groups * per_group, weight.dtype) if bias is None else np.ascontiguousarray(bias)
    steps = tuple(stride // weight.itemsize for stride in weight.strides)
    threads.run(
        _pack_blocks, groups * blocks, weight.size, tile.unit, tile.rows, lines.address(weight), weight.shape, steps,
        lines.address(bias), lines.address(packed), blocks, keep=(weight, bias, packed),
    )  # fmt: skip
    return packed


@kernel
def _pack_blocks(start, stop, unit, rows, weight, shape, steps, bias, packed, blocks):
    """A work item is a block of `rows` output channels; in the last one of a group, what is left over becomes zeros."""
    _, per_group, channels, depth, height, width = shape
    terms = channels * depth * height * width
    offsets = np.empty(1 + terms, np.int64)
    offsets[0] = 0  # of a bias
    t = 1
    for c in range(channels):
        for d in range(depth):
            for h in range(height):
                for w in range(width):
                    offsets[t] = c * steps[2] + d * steps[3] + h * steps[4] + w * steps[5]
                    t += 1
    size, first_offset = itemsize(unit), offsets.ctypes.data
    for item in range(start, stop):
        g, block = divmod(item, blocks)
        first = block * rows
        here = min(rows, per_group - first)
        to = packed + item * (1 + terms) * rows * size
        pack(unit, to, rows, bias + (g * per_group + first) * size, 1, here, first_offset, 1)
        source = weight + (g * steps[0] + first * steps[1]) * size
        pack(unit, to + rows * size, rows, source, steps[1], here, first_offset + 8, terms)
    keep(offsets)


# ---------------------------------------------------------------- the kernel


@kernel
def _convolve(start, stop, unit, x, size, stride, table, sizes, packed, out):
    """A work item is a block of output channels of a group in one band of windows.

    Blocks vary fastest: the lines of a band are laid out once (x is read once for each band and phase, mostly from the
    cache), and stay in the cache while all blocks read them. A tile whose windows lie together in `out` goes straight
    there; others go by way of `sums`.
    """
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
        bias = packed + (g * sizes.blocks + block) * (1 + terms) * rows * bytes_
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
            outer(
                sizes.loop, to, to_step, filled, count, bias, sizes.relu, bias + rows * bytes_, source, offsets_, terms
            )
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
    keep(offsets, memory, sums)


@kernel
def aligned(address):
    """The first address from one on that begins a cache line."""
    return (address + 63) // 64 * 64


@kernel
def _window(out, p):
    """Where the p-th result of a line is, as image, depth, row and column."""
    row, w = divmod(p, out.width) if p >= out.width else (0, p)
    row, h = divmod(row, out.height) if row >= out.height else (0, row)
    n, d = divmod(row, out.depth) if row >= out.depth else (0, row)
    return n, d, h, w


@kernel
def _store(unit, sums, columns, line, p, count, o, channels, out):
    """Bring the sums of `count` windows from p on to `channels` channels of out from o on, row by row."""
    bytes_ = itemsize(unit)
    n, d, h, w = _window(out, p)
    n += line
    while count > 0:
        here = min(out.width - w, count)
        to = out.address + (n * out.n + o * out.c + d * out.d + h * out.h + w * out.w) * bytes_
        for i in range(channels):
            copy(unit, to + i * out.c * bytes_, out.w, sums + i * columns * bytes_, here)
        sums += here * bytes_
        count -= here
        w, h = 0, h + 1
        if h == out.height:
            h, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1
