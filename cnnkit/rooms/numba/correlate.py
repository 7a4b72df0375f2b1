"""Correlation: inner products of lines, which is what the gradient of a convolution's weights is.

Every weight (channel, tap) has a line of what it was multiplied by, one number for each window, and every output
channel has one of its gradients. A dense layer's forward is inner products of rows, which are such lines as they stand.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.convolve import aligned
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import Lines, lay_out, parts
from cnnkit.rooms.numba.machine import FMAS, L2, MULTIPLY_ADDS, keep, kernel
from cnnkit.rooms.numba.tile import Tile, inner, tiles

BAND = 4096  # bytes of a line that are summed at a time: so many of six lines stay in the L1 cache
ONES = (1, 1, 1)


class Sums(NamedTuple):
    """What `_correlate` counts by: lines and their windows, a group's channels on either side and its terms, and how
    many input and output channels are near at a time, their lines a `pitch` apart."""

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
    x_in_place: bool
    grads_in_place: bool
    rows: int
    vectors: int
    loop: int


def correlate(x: Array, grads: Array, plan: ConvPlan, solved: Lines, in_place: bool, total: Array) -> None:
    """Add to total (groups, C_out / groups, terms) the inner products of terms' lines with the groups' gradients."""
    groups, per_group, terms = total.shape
    tile = _tile(total.dtype, terms, per_group)
    bands = parts(solved.run * total.itemsize, BAND)
    band = parts(solved.run, bands * tile.lanes) * tile.lanes
    pitch = lines.pitch(band + solved.reach, tile.lanes)
    half = L2 // 2 // total.itemsize
    near, near_grads = max(1, half // (solved.phases * pitch)), max(1, half // pitch // tile.vectors) * tile.vectors
    grads_in_place = not solved.together and grads[0, 0].flags.c_contiguous
    sums = Sums(
        1 if solved.together else plan.batch, solved.run, band, plan.in_channels // groups, terms, per_group, near,
        near_grads, pitch, solved.reach, solved.phases, in_place, grads_in_place, tile.rows, tile.vectors, tile.loop,
    )  # fmt: skip
    work = plan.batch * volume(plan.output_size) * total.size / MULTIPLY_ADDS
    threads.run(
        _correlate, groups * parts(terms, tile.rows), work,
        tile.unit, lines.block(x), solved.size, plan.stride, solved.table, sums, lines.block(grads), plan.output_size,
        ONES, lines.of_outputs(plan.output_size), total, keep=(x, grads),
    )  # fmt: skip


@lru_cache(1024)
def _tile(dtype: np.dtype, terms: int, per_group: int) -> Tile:
    """The tile that takes the fewest multiply-adds and loads."""

    def cycles(tile: Tile) -> float:
        a_block = max(tile.rows * tile.vectors / FMAS, tile.rows + tile.vectors)
        return parts(terms, tile.rows) * parts(per_group, tile.vectors) * a_block

    return min(tiles("inner", dtype), key=cycles)


@kernel
def _correlate(start, stop, unit, x, size, stride, table, sums, grads, grid, ones, grad_table, total):
    """A work item is `rows` neighbouring weights (channel, tap) of all the output channels of a group.

    A band of lines of some input channels, and the output gradients there of some output channels, stay in the cache
    for all their products. Each band is summed by itself, and the bands' sums are added up in order.
    """
    bytes_, taps, rows, vectors = itemsize(unit), table[sums.phases :], sums.rows, sums.vectors
    blocks = (sums.terms + rows - 1) // rows
    some = max(1, sums.near * len(taps) // rows)  # items whose channels are near
    most = min(sums.channels, (some * rows - 1) // len(taps) + 2)
    step = x.c if sums.x_in_place else sums.phases * sums.pitch
    grad_step = grads.c if sums.grads_in_place else sums.pitch
    numbers = 0 if sums.x_in_place else most * step + lanes(unit)
    grad_numbers = 0 if sums.grads_in_place else min(sums.near_grads, sums.per_group) * grad_step + lanes(unit)
    memory, grad_memory = np.empty(64 + numbers * bytes_, np.uint8), np.empty(64 + grad_numbers * bytes_, np.uint8)
    near, grads_near = aligned(memory.ctypes.data), aligned(grad_memory.ctypes.data)
    products = np.empty((rows, vectors), total.dtype)
    x_offsets, g_offsets = np.empty(rows, np.int64), np.empty(vectors, np.int64)
    products_, x_, g_ = products.ctypes.data, x_offsets.ctypes.data, g_offsets.ctypes.data
    item = start
    while item < stop:
        g, block = divmod(item, blocks)
        count = min(some, blocks - block, stop - item)
        begin, end = block * rows, min((block + count) * rows, sums.terms)
        c, c_last = begin // len(taps), (end - 1) // len(taps)
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
                            grid, ones, grad_table, len(grad_table),
                        )  # fmt: skip
                    for term in range(begin, end, rows):
                        for i in range(rows):
                            channel, tap = divmod(min(term + i, sums.terms - 1), len(taps))
                            x_offsets[i] = (channel - c) * step + taps[tap, 0] * sums.pitch + taps[tap, 1]
                        for j in range(o, o_end, vectors):
                            for k in range(vectors):
                                g_offsets[k] = (min(j + k, o_end - 1) - o) * grad_step
                            inner(sums.loop, products_, source, x_, grad, g_, length)
                            for k in range(min(vectors, o_end - j)):
                                for i in range(min(rows, sums.terms - term)):
                                    total[g, j + k, term + i] += products[i, k]
        item += count
    keep(memory, grad_memory)
