"""Convolution forward: for each band of windows, all output channels, by outer products.

Everything that is a sum of products over channels and taps comes here: the forward convolution, the input gradient
(with a stride: several results for each window), the two matrix products of a dense layer's way back.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import COLUMNS, Lines, Windows, lay_out, parts
from cnnkit.rooms.numba.machine import FMAS, L1, L2, MASK_REGISTERS, MULTIPLY_ADDS, VECTOR_BYTES, address_of
from cnnkit.rooms.numba.moves import STEPS, copy, gather_lines, pack, transpose, weave
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import Tile, outer, tiles

FEW = 6  # channels that lie together: with no more, results are written one by one, without being turned

GATHERED = 3  # cycles to gather a vector into a panel, whose lines may be as large as the L2 cache: they are read once


class Way(NamedTuple):
    """How windows are summed: on which lines, in bands of so many windows, whose lines begin a `pitch` apart.

    And about how many cycles it takes.
    """

    windows: Windows
    lines: Lines
    tile: Tile
    panels: bool
    in_place: bool
    band: int
    pitch: int
    cycles: float


class Sizes(NamedTuple):
    """What `_convolve` counts by: lines, bands of a line, groups, blocks of output channels, and what they hold.

    `terms` are those of all `residues`, `woven` says how many residues lie next to each other in a row of results.
    Kernels read it in memory: to take it apart argument by argument costs time in each call, and in compiling.
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
    residues: int
    woven: int
    in_place: int
    panels: int
    rows: int
    columns: int


COUNTS = len(Sizes._fields)
TABLE = COUNTS + 12  # what comes before the table of the lines: sizes of lines and windows, and their steps


class Grid(NamedTuple):
    """The windows of an image."""

    depth: int
    height: int
    width: int


class Results(NamedTuple):
    """Where results go in a kernel: the array, its windows, the table of residues, and memory for a tile's sums."""

    out: lines.Block
    grid: Grid
    spacing: Ints
    residues: int
    sums: int


def convolve(
    x: Array,
    weight: Array,
    bias: Array | None,
    plan: ConvPlan,
    then: int,
    out: Array,
    swapped: bool = False,
    back: bool = False,
) -> None:
    """Fill out from x (N, C, *spatial) and weight (C_out, C_in / groups, *kernel), by a plan over three spatial axes.

    What is done `then` to the sums is said by `activation.epilogue`. If `swapped`, the weights' first two axes are
    (C_in, C_out / groups). If `back` also, x is the output gradient of the plan, out its input gradient, and the plan's
    weights stand as they are.
    """
    if not out.size:
        return
    if weight.nbytes > settings.current().max_workspace and out.shape[1] > plan.groups:
        _in_halves(x, weight, bias, plan, then, out, swapped, back)
        return
    near = x.strides[1] == x.itemsize, out.strides[1] == out.itemsize, out.strides[-1] == out.itemsize
    way, sizes, numbers, work = _way(plan, back, x.dtype, x[0, 0].flags.c_contiguous, *near)
    tile, plan_ = way.tile, address_of(numbers)
    weights = weight_numbers(weight, plan.groups, swapped)
    bias_address = address_of(bias)
    packed, there = None, 0
    if threads.many(work) and (sizes.panels or sizes.lines * sizes.bands > 1):
        packed = np.empty((sizes.groups, sizes.blocks, 1 + sizes.terms, sizes.rows), x.dtype)
        there = address_of(packed)
        threads.run(
            _pack, sizes.groups * sizes.blocks, weight.size,
            tile.unit, plan_, weights, bias_address, there, keep=(weight, bias, numbers, packed),
        )  # fmt: skip
    threads.run(
        _convolve, sizes.lines * sizes.bands * sizes.groups * sizes.blocks, work,
        tile.unit, tile.loop, plan_, lines.numbers(x), weights, bias_address, there, then, lines.numbers(out),
        keep=(x, weight, bias, numbers, packed, out),
    )  # fmt: skip


def _in_halves(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool, back: bool
) -> None:
    """The same for half of the output channels of each group at a time: packed weights take half the memory."""
    groups, per_group, channels = plan.groups, out.shape[1] // plan.groups, x.shape[1] // plan.groups
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    for some in (slice(0, per_group // 2), slice(per_group // 2, per_group)):
        inside = (channels, some.stop - some.start)
        one = plan._replace(groups=1, **dict(zip(_channels(back), inside, strict=True)))
        for g in range(groups):
            here = slice(g * per_group + some.start, g * per_group + some.stop)
            filters = weight[g][:, some] if swapped else weight[g][some]
            of = x[:, g * channels : (g + 1) * channels]
            convolve(of, filters, None if bias is None else bias[here], one, then, out[:, here], swapped, back)


def weight_numbers(weight: Array, groups: int, swapped: bool) -> Ints:
    """Weights as numbers for a kernel: address, bytes between groups, between output and input channels, and taps."""
    strides, more = weight.strides, 5 - weight.ndim
    first, second = strides[:2]
    channels = (second, first) if swapped else (first, second)
    a_group = len(weight) // groups * first
    return (address_of(weight), a_group, *channels, *lines.ZEROS[:more], *strides[2:])


def _channels(back: bool) -> tuple[str, str]:
    """What a plan calls the channels that are read and those that are written."""
    return ("out_channels", "in_channels") if back else ("in_channels", "out_channels")


# ---------------------------------------------------------------- the way, and the tile


@lru_cache(1024)
def _way(
    plan: ConvPlan, back: bool, dtype: np.dtype, contiguous: bool, x_last: bool, channels_last: bool, rows: bool
) -> tuple[Way, Sizes, Array, float]:
    """The way that takes the fewest cycles: lines of each image, of all images together, or in place.

    And its sizes, all numbers of it that kernels read, and about how many nanoseconds it takes a core. x has its
    channels last if `x_last`; results lie in `rows`, or with `channels_last`.
    """
    windows = lines.backward(plan) if back else lines.forward(plan)
    channels, per_group = (getattr(plan, name) // plan.groups for name in _channels(back))
    ways = [(lines.solve(windows, together), False) for together in (False, True)]
    if contiguous and windows.in_place and ways[0][0].run >= VECTOR_BYTES // dtype.itemsize:
        ways.append((ways[0][0], True))
    apart = channels * plan.groups if x_last else 0
    taps = len(ways[0][0].table) - ways[0][0].phases - len(windows.residues)
    way = min(
        (_estimate(windows, channels, per_group, taps, dtype, apart, channels_last, *way) for way in ways),
        key=lambda way: way.cycles,
    )
    solved, tile = way.lines, way.tile
    beside = windows.apart[2]
    woven = beside if rows and not channels_last and len(windows.residues) == volume(windows.apart) else 1
    sizes = Sizes(
        1 if solved.together else plan.batch, parts(solved.run, way.band), plan.groups, parts(per_group, tile.rows),
        per_group, channels, channels * taps, solved.run, way.band, way.pitch, solved.reach, solved.phases,
        len(windows.residues), woven if woven in STEPS else 1, int(way.in_place), int(way.panels),
        tile.rows, tile.columns,
    )  # fmt: skip
    work = plan.batch * volume(windows.size) * plan.groups * per_group * channels * taps / MULTIPLY_ADDS
    numbers = [*sizes, *solved.size, *windows.stride, *windows.size, *windows.apart, *solved.table.ravel()]
    return way, sizes, np.array(numbers, np.int64), work


def _estimate(
    windows: Windows,
    channels: int,
    per_group: int,
    taps: int,
    dtype: np.dtype,
    apart: int,
    channels_last: bool,
    solved: Lines,
    in_place: bool,
) -> Way:
    """A way, for each group of channels, and about how many cycles it takes."""
    numbers = channels * (1 if in_place else solved.phases) * (solved.run + solved.reach)
    near = not MASK_REGISTERS and numbers * dtype.itemsize <= L1
    tile, panels, computing = _tile(
        dtype, per_group, channels * taps, len(windows.residues), solved.run, channels_last, near
    )
    room = L2 * (1 + panels) // dtype.itemsize // (channels * solved.phases) - solved.reach - tile.lanes
    bands = parts(solved.run, max(tile.columns, room))
    band = parts(solved.run, bands * tile.columns) * tile.columns
    laid_out = 0 if in_place else solved.phases * (solved.run + bands * solved.reach)
    filling = laid_out * lines.cycles(windows, channels, tile.lanes, apart)
    cycles = (computing + filling) * (1 if solved.together else windows.batch)
    return Way(windows, solved, tile, panels, in_place, band, lines.pitch(band + solved.reach, tile.lanes), cycles)


def _tile(
    dtype: np.dtype, channels: int, terms: int, residues: int, run: int, channels_last: bool, near: bool
) -> tuple[Tile, bool, float]:
    """The tile that takes the fewest cycles for a line, whether its windows are gathered in panels, and how many.

    A term takes a multiply-add for each accumulator, or 1.85 cycles for each vector (it mostly lies across two cache
    lines) and 0.8 for each row, and not less than the 4 that a sum waits for itself (measured on Zen 5, AVX-512; with
    AVX2 on Zen 3 they fit); a tile, some more to begin and to store, and to turn its squares of lanes where channels
    come last. Of panels, and of lines that are `near` as all fit into the L1 cache, only multiply-adds count, but to
    gather a vector into a panel takes GATHERED, once for all channels.
    """

    def cycles(tile: Tile, panels: bool) -> float:
        loads = 0 if panels or near else 1.85 * tile.vectors + 0.8 * tile.rows
        a_term = max(tile.rows * tile.vectors / FMAS, loads, 4)
        an_end = 60 + 2 * tile.rows * tile.vectors
        if channels_last:
            an_end += 16 * tile.vectors * min(channels, tile.rows, 16)
        a_tile = terms * a_term + residues * an_end
        gathering = GATHERED * terms * tile.vectors if panels else 0
        return parts(run, tile.lanes) / tile.vectors * (parts(channels, tile.rows) * a_tile + gathering)

    ways = product(tiles("outer", dtype), (False,) if MASK_REGISTERS else (False, True))
    return min(((tile, panels, cycles(tile, panels)) for tile, panels in ways), key=lambda one: one[2])


def turning(plan: ConvPlan, dtype: np.dtype, back: bool = False) -> float:
    """About how many cycles it takes where channels lie together, and what is read is turned, and what is written."""
    last = _way(plan, back, dtype, False, True, True, False)
    return plan.groups * last[0].cycles


def of_planes(plan: ConvPlan, dtype: np.dtype) -> float:
    """The same of contiguous planes."""
    return plan.groups * _way(plan, False, dtype, True, False, False, True)[0].cycles


# ---------------------------------------------------------------- weights, brought together


@straight
def _pack(start, stop, unit, plan, weights, bias, packed):
    """Bring weights into blocks: a work item is `rows` output channels of a group, of which the rows lie together.

    Each block begins with its biases; behind them come the terms (channel, tap) of each residue, in that order.
    """
    sizes = Sizes(*plan[:COUNTS])
    offsets = np.empty(1 + sizes.terms, np.int64)
    _weight_offsets(unit, sizes, plan + 8 * TABLE, weights, offsets)
    pack_blocks(
        start, stop, unit, sizes.blocks, sizes.rows, sizes.per_group, offsets.ctypes.data, sizes.terms, weights, bias,
        packed,
    )  # fmt: skip


def _weight_offsets(unit, sizes, table, weights, offsets):
    """Where each term's weight is from its output channel's first; before them, that of a bias."""
    channel_step, d_step, h_step, w_step = weights[3:]
    bytes_ = itemsize(unit)
    offsets[0] = 0
    t, first_tap = 1, sizes.phases + sizes.residues
    for residue in range(sizes.residues):
        taps = table[COLUMNS * (sizes.phases + residue)]
        for c in range(sizes.channels):
            for tap in range(first_tap, first_tap + taps):
                place = table + 8 * COLUMNS * tap
                offsets[t] = (c * channel_step + place[2] * d_step + place[3] * h_step + place[4] * w_step) // bytes_
                t += 1
        first_tap += taps


def pack_blocks(start, stop, unit, blocks, rows, per_group, offsets, terms, weights, bias, packed):
    """Bring blocks of `rows` of the `per_group` output channels of a group together: biases, then each term's weights.

    `offsets` are of the bias (0) and of all terms.
    """
    address, group_step, out_step = weights[:3]
    bytes_ = itemsize(unit)
    for item in range(start, stop):
        g, block = divmod(item, blocks)
        first = block * rows
        here = min(rows, per_group - first)
        to = packed + item * (1 + terms) * rows * bytes_
        pack(unit, to, rows, bias + (g * per_group + first) * bytes_, 1, here if bias else 0, offsets, 1)
        source = address + g * group_step + first * out_step
        pack(unit, to + rows * bytes_, rows, source, out_step // bytes_, here, offsets + 8, terms)


# ---------------------------------------------------------------- the kernel


@straight
def _convolve(
    start, stop, unit, loop, plan, x_numbers, weights, bias, packed, then, out_numbers
):  # fmt: skip
    """A work item is a block of output channels of a group in one band of windows.

    Blocks vary fastest: the lines of a band are laid out once (x is read once for each band and phase, mostly from the
    cache), and stay in the cache while all blocks read them. A tile whose windows lie together in `out` goes straight
    there; others go by way of `sums`. What comes `then` is done to a tile's results while they are in the L1 cache.
    Weights that were not `packed` before (0) are packed here, each block when it is needed if there is one band only
    and no panels.
    """
    sizes, table = Sizes(*plan[:COUNTS]), plan + 8 * TABLE
    size, stride = plan[COUNTS : COUNTS + 3], plan[COUNTS + 3 : COUNTS + 6]
    grid, apart = Grid(*plan[COUNTS + 6 : COUNTS + 9]), plan[COUNTS + 9 : COUNTS + 12]
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    if apart == (1, 1, 1):
        out = _rows_joined(out)
        grid = Grid(out.depth, out.height, out.width)
    bytes_, rows, columns = itemsize(unit), sizes.rows, sizes.columns
    a_block = (1 + sizes.terms) * rows * bytes_
    once = not packed and not sizes.panels and sizes.lines * sizes.bands == 1
    own = np.empty(0 if packed else (1 if once else sizes.groups * sizes.blocks) * a_block, np.uint8)
    weight_offsets = np.empty(0 if packed else 1 + sizes.terms, np.int64)
    if not packed:
        packed = own.ctypes.data
        _weight_offsets(unit, sizes, table, weights, weight_offsets)
        if not once:
            pack_blocks(
                0, sizes.groups * sizes.blocks, unit, sizes.blocks, rows, sizes.per_group, weight_offsets.ctypes.data,
                sizes.terms, weights, bias, packed,
            )  # fmt: skip
    step = x.c if sizes.in_place else sizes.phases * sizes.pitch
    offsets, places = np.empty(sizes.terms, np.int64), np.empty(sizes.terms, np.int64)
    _offsets(sizes, table, step, offsets)
    for t in range(sizes.terms):
        places[t] = t * columns if sizes.panels else offsets[t]
    panels = np.empty(columns * sizes.terms * bytes_ if sizes.panels else 0, np.uint8)
    panel = panels.ctypes.data
    memory = np.empty(0 if sizes.in_place else (sizes.channels * step + lanes(unit)) * bytes_, np.uint8)
    near, sums = memory.ctypes.data, np.empty(sizes.woven * rows * columns * bytes_, np.uint8)
    results = Results(out, grid, apart, table + 8 * COLUMNS * sizes.phases, sums.ctypes.data)
    rest, block = divmod(start, sizes.blocks)
    rest, g = divmod(rest, sizes.groups)
    line, band = divmod(rest, sizes.bands)
    item = start
    while item < stop:
        begin, first = band * sizes.band, g * sizes.channels
        end, last = min(begin + sizes.band, sizes.run), min(block + stop - item, sizes.blocks)
        here = near - begin * bytes_
        if sizes.in_place:
            here = x.address + (line * x.n + first * x.c) * bytes_
        else:
            length = end - begin + sizes.reach
            lay_out(
                unit, near, sizes.pitch, length, x, first, sizes.channels, line, begin, size, stride, table,
                sizes.phases,
            )  # fmt: skip
        for p in range(begin, end, columns if sizes.panels else end - begin):
            if sizes.panels:
                count = min(columns, end - p)
                gather_lines(unit, panel, columns, here + p * bytes_, offsets.ctypes.data, sizes.terms, count)
            for b in range(block, last):
                which = g * sizes.blocks + b
                biases = packed + (0 if once else which * a_block)
                if once:
                    pack_blocks(
                        which, which + 1, unit, sizes.blocks, rows, sizes.per_group, weight_offsets.ctypes.data,
                        sizes.terms, weights, bias, packed - which * a_block,
                    )  # fmt: skip
                outputs = g * sizes.per_group + b * rows, min(rows, sizes.per_group - b * rows)
                if sizes.panels:
                    _sum(unit, loop, sizes, results, (line, p), count, outputs, biases, panel, places.ctypes.data, then)
                else:
                    _sum_band(
                        unit, loop, sizes, results, (line, p, end), outputs, biases, here, places.ctypes.data, then
                    )
        item += last - block
        block, g = 0, g + 1
        if g == sizes.groups:
            g, band = 0, band + 1
        if band == sizes.bands:
            band, line = 0, line + 1


def _offsets(sizes, table, step, offsets):
    """Where each term of each residue is, channels being a `step` apart."""
    t, first_tap = 0, sizes.phases + sizes.residues
    for residue in range(sizes.residues):
        taps = table[COLUMNS * (sizes.phases + residue)]
        for c in range(sizes.channels):
            for tap in range(first_tap, first_tap + taps):
                offsets[t] = c * step + table[COLUMNS * tap] * sizes.pitch + table[COLUMNS * tap + 1]
                t += 1
        first_tap += taps


def _sum_band(unit, loop, sizes, results, windows, outputs, biases, here, places, then):
    """Sum the windows from one of an image's line on, a tile after another; here is window 0.

    In place, no vector is read across the end.
    """
    line, p, end = windows
    while p < end:
        count = min(sizes.columns, end - p)
        if sizes.in_place and count % lanes(unit):
            p, count = (p, count - count % lanes(unit)) if count > lanes(unit) else (end - lanes(unit), lanes(unit))
        _sum(unit, loop, sizes, results, (line, p), count, outputs, biases, here + p * itemsize(unit), places, then)
        p += count


def _sum(unit, loop, sizes, results, window, count, outputs, biases, source, places, then):
    """A tile: sum `count` windows from one (line, position) on, which `source` is, for some outputs (first, count)."""
    bytes_, rows, columns, (o, filled) = itemsize(unit), sizes.rows, sizes.columns, outputs
    out, grid, apart = results.out, results.grid, results.spacing
    n, d, h, w = _window(grid, window[1])
    n, term = n + window[0], 0
    for residue in range(sizes.residues):
        first_result = results.residues + 8 * COLUMNS * residue
        terms = sizes.channels * first_result[0]
        z, y, k = first_result[1] + d * apart[0], first_result[2] + h * apart[1], first_result[3] + w * apart[2]
        direct = out.w == 1 and apart[2] == 1 and w + count <= grid.width and z < out.depth and y < out.height
        to, to_step = out.address + (n * out.n + o * out.c + z * out.d + y * out.h + k) * bytes_, out.c
        if not direct:
            to, to_step = results.sums + residue % sizes.woven * rows * columns * bytes_, columns
        a = biases + (1 + term) * rows * bytes_
        outer(loop, to, to_step, filled, count, biases, then == RELU, a, source, places + 8 * term, terms)
        if then > RELU:
            call(then, to, to, to_step, filled, count)
        if not direct and residue % sizes.woven == sizes.woven - 1:
            first_result -= 8 * COLUMNS * (sizes.woven - 1)
            _store(unit, results, sizes, (n, d, h, w), count, o, filled, first_result)
        term += terms


def _rows_joined(out):
    """The results' planes as one row each if they lie so."""
    if out.w == 1 and (out.height == 1 or out.h == out.width) and (out.depth == 1 or out.d == out.height * out.width):
        per_image = out.depth * out.height * out.width
        return lines.Block(out.address, out.n, out.c, out.d, out.h, out.w, out.batch, 1, 1, per_image)
    return out


def _window(grid, p):
    """Where the p-th window of a line is, as image, depth, row and column."""
    row, w = divmod(p, grid.width) if p >= grid.width else (0, p)
    row, h = divmod(row, grid.height) if row >= grid.height else (0, row)
    n, d = divmod(row, grid.depth) if row >= grid.depth else (0, row)
    return n, d, h, w


def _store(unit, results, sizes, window, count, o, channels, residue):
    """Bring the sums of `count` windows from one on to `channels` channels of out from o on, row by row.

    There are sums of `woven` residues from one on, whose results lie side by side. What lies outside is left out.
    """
    bytes_, columns, sums = itemsize(unit), sizes.columns, results.sums
    out, grid, apart = results.out, results.grid, results.spacing
    n, d, h, w = window
    while count > 0:
        here = min(grid.width - w, count)
        z, y, k = residue[1] + d * apart[0], residue[2] + h * apart[1], residue[3] + w * apart[2]
        if z < out.depth and y < out.height and k < out.width:
            to = out.address + (n * out.n + o * out.c + z * out.d + y * out.h + k * out.w) * bytes_
            there = here if w + here < grid.width else min(here, (out.width - k + apart[2] - 1) // apart[2])
            if out.c == 1 and channels > FEW:
                transpose(unit, to, apart[2] * out.w, sums, columns, channels, there)
            else:
                for i in range(channels):
                    row, source = to + i * out.c * bytes_, sums + i * columns * bytes_
                    if sizes.woven == 1:
                        copy(unit, row, apart[2] * out.w, source, there)
                    else:
                        last = min(here * sizes.woven, out.width - k)
                        weave(unit, row, source, sizes.rows * columns, sizes.woven, last)
        sums += here * bytes_
        count -= here
        w, h = 0, h + 1
        if h == grid.height:
            h, d = 0, d + 1
        if d == grid.depth:
            d, n = 0, n + 1
