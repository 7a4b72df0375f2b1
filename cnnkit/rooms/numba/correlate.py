"""Correlation: inner products of lines, which is what the gradient of a convolution's weights is.

Every weight (channel, tap) has a line of what it was multiplied by, one number for each window, and every output
channel has one of its gradients.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.emit import itemsize, lanes, unit
from cnnkit.rooms.numba.lines import COLUMNS, Lines, lay_out, parts
from cnnkit.rooms.numba.machine import FMAS, L2, MULTIPLY_ADDS, VECTOR_BYTES, address_of
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import Tile, inner, tiles

NEAR = 4096  # bytes of a line that are summed at a time, so that a tile's lines stay in the L1 cache for the next tile
TOGETHER = 8 * VECTOR_BYTES  # windows of an image (32 vectors): with fewer, a batch's images are summed end to end
FILLED = 2  # numbers that are laid out in a nanosecond, about
LONG = 16384  # the same, where no tile comes that needs the lines again
KEPT = 8 << 20  # bytes: if the gradients' lines are no more, they are laid out beforehand, for all channels of x


class Sums(NamedTuple):
    """What `_correlate` counts by: lines and their windows, a group's channels on either side and its terms, and how
    many input and output channels are near at a time, their lines a `pitch` apart.

    It comes to the kernel as a plain tuple of ints, which Numba takes faster.
    """

    lines: int
    run: int
    band: int
    channels: int
    terms: int
    per_group: int
    near: int
    near_grads: int
    pitch: int
    reach: int
    phases: int
    x_in_place: int
    grads_in_place: int
    rows: int
    vectors: int


def correlate(x: Array, grads: Array, plan: ConvPlan, together: bool, stretch: int, total: Array) -> None:
    """Add to total (groups, C_out / groups, terms) the inner products of terms' lines with their group's gradients.

    Images are taken each by itself or `together`, and lines summed in stretches of so many bytes, `NEAR` or `LONG`.
    """
    if not (x.size and grads.size):
        return
    contiguous, in_place = (not together and array[0, 0].flags.c_contiguous for array in (x, grads))
    tile, solved, sums, work = _way(plan, total.dtype, together, stretch, contiguous, in_place)
    laid_out, numbers = None, lines.numbers(grads)
    if _again(sums) and plan.out_channels * sums.run * grads.itemsize <= min(KEPT, settings.current().max_workspace):
        laid_out = _laid_out(grads, plan, sums.run)
        numbers = (address_of(laid_out), 0, laid_out.strides[0], *lines.ZEROS, *numbers[6:])
        tile, solved, sums, work = _way(plan, total.dtype, together, stretch, contiguous, True)
    grad_table, table = lines.of_outputs(plan.output_size)
    threads.run(
        _correlate, plan.groups * parts(sums.terms, sums.rows), work,
        tile.unit, tile.loop, lines.numbers(x), solved.size, plan.stride, solved.at, tuple(sums),
        numbers, plan.output_size, lines.ONES, grad_table, address_of(total), keep=(x, grads, laid_out, table, total),
    )  # fmt: skip


def _again(sums: Sums) -> bool:
    """Whether lines of gradients that are not in place would be laid out several times, for not all of x is near."""
    return sums.lines == 1 and not sums.grads_in_place and sums.channels > sums.near


def _laid_out(grads: Array, plan: ConvPlan, run: int) -> Array:
    """The gradients' lines of all output channels."""
    vector = unit(grads.dtype)
    to = np.empty((plan.out_channels, lines.pitch(run, vector.lanes)), grads.dtype)
    grad_table, table = lines.of_outputs(plan.output_size)
    threads.run(
        _lay_out, plan.out_channels, grads.size / FILLED,
        vector, lines.numbers(grads), to.shape[1], run, plan.output_size, lines.ONES, grad_table, address_of(to),
        keep=(grads, table, to),
    )  # fmt: skip
    return to


@lru_cache(1024)
def _way(
    plan: ConvPlan, dtype: np.dtype, together: bool, stretch: int, contiguous: bool, grads_in_place: bool
) -> tuple[Tile, Lines, Sums, float]:
    """The tile, the lines, what to count by, and about how many nanoseconds it takes a core."""
    per_group, channels = plan.out_channels // plan.groups, plan.in_channels // plan.groups
    windows = lines.forward(plan)
    terms, solved = channels * volume(plan.kernel_size), lines.solve(windows, together)
    tile = inner_tile(dtype, terms, per_group)
    bands = parts(solved.run * dtype.itemsize, stretch)
    band = parts(solved.run, bands * tile.lanes) * tile.lanes
    pitch = lines.pitch(band + solved.reach, tile.lanes)
    half = L2 // 2 // dtype.itemsize
    near, near_grads = max(1, half // (solved.phases * pitch)), max(1, half // pitch // tile.vectors) * tile.vectors
    sums = Sums(
        1 if together else plan.batch, solved.run, band, channels, terms, per_group, near, near_grads, pitch,
        solved.reach, solved.phases, int(contiguous and windows.in_place), int(grads_in_place), tile.rows, tile.vectors,
    )  # fmt: skip
    return tile, solved, sums, plan.batch * volume(plan.output_size) * plan.out_channels * terms / MULTIPLY_ADDS


def cycles(plan: ConvPlan, dtype: np.dtype, planes: bool) -> float:
    """About how many cycles it takes; where channels lie together, instead of planes, all lines are turned."""
    together = volume(plan.output_size) < TOGETHER
    tile, _, sums, _ = _way(plan, dtype, together, NEAR, planes, planes and not together)
    vectors = parts(sums.run, sums.band) * parts(sums.band, tile.lanes)
    a_band = 4 * parts(sums.terms, tile.rows) * parts(sums.per_group, tile.vectors) * tile.rows * tile.vectors
    computing = vectors * _a_vector(tile, sums.terms, sums.per_group) + parts(sums.run, sums.band) * a_band
    apart = (0, 0) if planes else (plan.in_channels, plan.out_channels)
    outputs, filling = lines.forward(plan)._replace(stride=lines.ONES), 0.0
    if not sums.x_in_place:
        filling += sums.phases * lines.cycles(lines.forward(plan), sums.channels, tile.lanes, apart[0])
    if not sums.grads_in_place:
        filling += lines.cycles(outputs, sums.per_group, tile.lanes, apart[1])
    return plan.groups * sums.lines * (computing + sums.run * filling)


def inner_tile(dtype: np.dtype, terms: int, per_group: int) -> Tile:
    """The tile that takes the fewest multiply-adds and loads."""
    return min(tiles("inner", dtype), key=lambda tile: _a_vector(tile, terms, per_group))


def _a_vector(tile: Tile, terms: int, per_group: int) -> float:
    """About how many cycles a vector of windows takes."""
    a_block = max(tile.rows * tile.vectors / FMAS, tile.rows + tile.vectors)
    return parts(terms, tile.rows) * parts(per_group, tile.vectors) * a_block


@straight
def _lay_out(start, stop, unit, grad_numbers, pitch, run, grid, ones, table, to):
    """A work item is the line of an output channel."""
    grads = lines.block(unit, grad_numbers)
    channels = to + start * pitch * itemsize(unit)
    lay_out(unit, channels, pitch, run, grads, start, stop - start, 0, 0, grid, ones, table, 1)


@straight
def _correlate(
    start, stop, unit, loop, x_numbers, size, stride, table, counts, grad_numbers, grid, ones, grad_table, total
):  # fmt: skip
    """A work item is `rows` neighbouring weights (channel, tap) of all the output channels of a group.

    A band of lines of some input channels, and the output gradients there of some output channels, stay in the cache
    for all their products. Each band is summed by itself, and the bands' sums are added up in order.
    """
    sums = Sums(*counts)
    x, grads = lines.block(unit, x_numbers), lines.block(unit, grad_numbers)
    bytes_, taps, rows, vectors = itemsize(unit), table[COLUMNS * sums.phases], sums.rows, sums.vectors
    places = table + 8 * COLUMNS * (sums.phases + 1)
    blocks = (sums.terms + rows - 1) // rows
    some = max(1, sums.near * taps // rows)  # items whose channels are near
    most = min(sums.channels, (some * rows - 1) // taps + 2)
    step = x.c if sums.x_in_place else sums.phases * sums.pitch
    grad_step = grads.c if sums.grads_in_place else sums.pitch
    memory = np.empty(0 if sums.x_in_place else (most * step + lanes(unit)) * bytes_, np.uint8)
    some_grads = 0 if sums.grads_in_place else min(sums.near_grads, sums.per_group) * grad_step + lanes(unit)
    grad_memory = np.empty(some_grads * bytes_, np.uint8)
    near, grads_near = memory.ctypes.data, grad_memory.ctypes.data
    x_offsets, g_offsets = np.empty(rows, np.int64), np.empty(vectors, np.int64)
    x_, g_ = x_offsets.ctypes.data, g_offsets.ctypes.data
    item = start
    while item < stop:
        g, block = divmod(item, blocks)
        count = min(some, blocks - block, stop - item)
        begin, end = block * rows, min((block + count) * rows, sums.terms)
        c, c_last = begin // taps, (end - 1) // taps
        first = g * sums.channels + c
        for line in range(sums.lines):
            for p in range(0, sums.run, sums.band):
                length = min(sums.band, sums.run - p)
                source = near
                if sums.x_in_place:
                    source = x.address + (line * x.n + first * x.c + p) * bytes_
                else:
                    lay_out(
                        unit, near, sums.pitch, length + sums.reach, x, first, c_last + 1 - c, line, p,
                        size, stride, table, sums.phases,
                    )  # fmt: skip
                for o in range(0, sums.per_group, sums.near_grads):
                    o_end = min(o + sums.near_grads, sums.per_group)
                    channel, grad = g * sums.per_group + o, grads_near
                    if sums.grads_in_place:
                        grad = grads.address + (line * grads.n + channel * grads.c + p) * bytes_
                    else:
                        lay_out(
                            unit, grads_near, sums.pitch, length, grads, channel, o_end - o, line, p,
                            grid, ones, grad_table, 1,
                        )  # fmt: skip
                    for term in range(begin, end, rows):
                        for i in range(rows):
                            channel, tap = divmod(min(term + i, sums.terms - 1), taps)
                            place = places + 8 * COLUMNS * tap
                            x_offsets[i] = (channel - c) * step + place[0] * sums.pitch + place[1]
                        here = min(rows, sums.terms - term)
                        for j in range(o, o_end, vectors):
                            for k in range(vectors):
                                g_offsets[k] = (min(j + k, o_end - 1) - o) * grad_step
                            to = total + ((g * sums.per_group + j) * sums.terms + term) * bytes_
                            inner(loop, to, sums.terms, here, o_end - j, source, x_, grad, g_, length)
        item += count
