"""Convolution to few output channels, with channels last: lanes are what a window sees.

The numbers that a row of taps sees lie together, taps and channels, as do their weights: a result is a sum of inner
products of such runs. Bands of windows, and what is copied for them, are those of `pixels`.
"""

from functools import lru_cache

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines, pixels
from cnnkit.rooms.numba.activation import NONE, RELU, call, closure
from cnnkit.rooms.numba.convolve import weight_numbers
from cnnkit.rooms.numba.emit import itemsize, lanes
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, address_of
from cnnkit.rooms.numba.moves import AHEAD, copy, fetch, fill
from cnnkit.rooms.numba.pixels import Sizes, Way
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import Tile, inner, tiles

END = 30  # cycles to begin and to end a tile, and
ADD = 3  # to add up the lanes of each of its sums


@lru_cache(1024)
def way(plan: ConvPlan, dtype: np.dtype) -> Way:
    """How a plan is done: tiles are windows by output channels."""
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    row = plan.kernel_size[2] if plan.dilation[2] == 1 and (plan.groups == 1 or not pixels.inside(plan)) else 1
    runs, run = volume(plan.kernel_size) // row, channels * row

    def cycles(tile: Tile) -> float:
        sums = tile.rows * tile.vectors
        a_run = parts(run, tile.lanes) * max(sums / FMAS, tile.rows + tile.vectors) + END + ADD * sums
        width = plan.output_size[2]
        return runs * a_run * parts(per_group, tile.vectors) * parts(width, tile.rows) / width

    tile = min(tiles("inner", dtype), key=cycles)
    sizes = pixels.sizes_of(plan, tile, dtype, pixels.BAND)._replace(blocks=per_group, columns=1)
    stored = 2 * per_group
    work = plan.batch * volume(plan.output_size) * (cycles(tile) + stored) + pixels.copying(sizes, tile)
    return Way(tile, sizes, plan.groups * work)


def forward(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """As `convolve.convolve`, of arrays whose channels lie together."""
    tile, sizes, cycles = way(plan, x.dtype)
    then, memory = closure("relu", 0.0, x.dtype) if then == RELU else (then, None)
    threads.run(
        _sum, sizes.bands * sizes.groups, cycles / 4,
        tile.unit, tile.loop, tile.vectors, tuple(sizes), plan.kernel_size, plan.stride, plan.dilation, plan.before,
        lines.numbers(x), lines.numbers(out), weight_numbers(weight, plan.groups, swapped),
        address_of(bias), then, keep=(x, weight, bias, out, memory),
    )  # fmt: skip


@straight
def _sum(
    start, stop, unit, loop, vectors, counts, kernel, stride, dilation, before, x_numbers, out_numbers, weights, bias,
    then,
):  # fmt: skip
    """A work item is a band of windows, of all output channels of a group.

    x is read once for each row of taps, from the cache after the first time, where it is or in a band's copy; the sums
    of a row of windows stay in the L1 cache until all are done.
    """
    sizes = Sizes(*counts)
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, terms, per_group, rows = itemsize(unit), sizes.channels * sizes.taps, sizes.per_group, sizes.rows
    filter_memory = np.empty(sizes.groups * per_group * (1 + terms) * bytes_, np.uint8)
    filters = filter_memory.ctypes.data
    pixels.pack_terms(0, sizes.groups * per_group, unit, counts, kernel, weights, bias, filters)
    steps = pixels.steps_of(sizes, dilation, x)
    offsets = np.empty(terms, np.int64)
    pixels.offsets_of_taps(sizes, kernel, dilation, steps, offsets)
    run, apart = sizes.channels, stride[2] * steps[2]
    if dilation[2] == 1 and steps[2] == sizes.channels:
        run *= kernel[2]
    near = not sizes.copied and 0 < apart <= 4 * sizes.channels  # pixels lie side by side, and can be asked for ahead
    x_offsets, filter_offsets = np.empty(rows, np.int64), np.empty(vectors, np.int64)
    x_, filter_ = x_offsets.ctypes.data, filter_offsets.ctypes.data
    memory = np.empty((sizes.copied + lanes(unit)) * bytes_, np.uint8)
    sum_memory = np.empty((per_group * sizes.wide + lanes(unit)) * bytes_, np.uint8)
    a, sums = memory.ctypes.data, sum_memory.ctypes.data
    for item in range(start, stop):
        band, g = divmod(item, sizes.groups)
        where = pixels.band_at(sizes, band, out)
        plane, first, left, planes, high, wide = where
        here = filters + g * per_group * (1 + terms) * bytes_
        if sizes.copied:
            pixels.copy_band(unit, sizes, where, kernel, stride, dilation, before, x, out.depth, g * sizes.channels, a)
        for j in range(planes):
            n, d = divmod(plane + j, out.depth)
            for h in range(high):
                source = a + (j * kernel[0] * steps[0] + h * stride[1] * steps[1]) * bytes_
                if not sizes.copied:
                    place = n * x.n + d * stride[0] * x.d + (first + h) * stride[1] * x.h + left * apart
                    source = x.address + (place + g * sizes.channels) * bytes_
                fill(unit, sums, wide, here, per_group, 1 + terms, 1, 0, 0, 1, wide, 0, 0, wide)
                for w in range(0, wide, rows):
                    if near:
                        newest = source + (w * apart + offsets[terms - run]) * bytes_
                        fetch(unit, newest + AHEAD, rows * apart)
                    for i in range(rows):
                        x_offsets[i] = min(w + i, wide - 1) * apart
                    for o in range(0, per_group, vectors):
                        for k in range(vectors):
                            filter_offsets[k] = min(o + k, per_group - 1) * (1 + terms)
                        to, across = sums + (o * wide + w) * bytes_, min(vectors, per_group - o)
                        for t in range(0, terms, run):
                            at = source + offsets[t] * bytes_
                            weight = here + (1 + t) * bytes_
                            inner(loop, to, wide, min(rows, wide - w), across, at, x_, weight, filter_, run)
                if then != NONE:
                    call(then, sums, sums, wide, per_group, wide)
                to = n * out.n + d * out.d + (first + h) * out.h + left * out.w + g * per_group
                for o in range(per_group):
                    copy(unit, out.address + (to + o) * bytes_, out.w, sums + o * wide * bytes_, wide)
