"""The gradient of 3x3 weights by Winograd's algorithm: F(3x3, 4x4), which is `winograd.py` turned round.

Tiles of outputs, patches of inputs and their spectra are those of the forward. The gradients of a tile's 4x4 outputs
become a spectrum too; each of the 36 elements then is a matrix product by itself, (channels x tiles) @ (tiles x output
channels), and a last transform turns the sums over all tiles into the gradients of 9 taps.

A band of tiles is summed by itself, and bands are added up in order: sums are short, and so are their errors.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba.emit import lanes
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, keep, kernel
from cnnkit.rooms.numba.patches import gradients, weights
from cnnkit.rooms.numba.tile import Tile, gather, tiles
from cnnkit.rooms.numba.winograd import CLEARLY, ELEMENTS, FLOAT, PAD, SEGMENT, WORK, gather_rows, place, tile_spectra

BAND = 64  # tiles that are summed by themselves
NEAR = 2 << 20  # bytes of sums that are made at a time, if one band has all tiles
FAR = 8 << 20  # the same if bands are added up: for each part, all output gradients are transformed anew


class Sizes(NamedTuple):
    """How a gradient is cut: what the kernel counts by, and how it is chosen."""

    tile: Tile
    tiles: Ints  # of an image: (depth, down, across)
    band: int  # tiles
    chunk: int  # vectors of input channels whose sums are near at a time
    blocks: int  # of output channels of a group
    workers: int  # threads for which there is room
    pays: bool  # whether it is clearly faster than the direct sum


class Job(NamedTuple):
    """What the kernel reads: addresses, strides in bytes, sizes."""

    x: tuple[int, Ints, Ints]
    grads: tuple[int, Ints, Ints]
    before: Ints
    total: int
    images: int
    channels: int  # of a group, in
    per_group: int  # output channels of a group
    taps: int  # along the depth
    tiles: Ints
    band: int
    chunk: int
    blocks: int
    rows: int
    columns: int
    loop: int


def chosen(x: Array, plan: ConvPlan) -> bool:
    """Whether a gradient is to be had this way: it can be, in the workspace, and is faster or was asked for."""
    algorithm = settings.current().algorithm
    if algorithm == "direct" or x.dtype != FLOAT or plan.kernel_size[1:] != (3, 3):
        return False
    if plan.stride != (1, 1, 1) or plan.dilation != (1, 1, 1) or not plan.in_channels * plan.batch:
        return False
    sizes = _sizes(plan, settings.current().max_workspace)
    return sizes.workers > 0 and (algorithm == "winograd" or sizes.pays)


@lru_cache(1024)
def _sizes(plan: ConvPlan, workspace: int) -> Sizes:
    d, h, w = plan.output_size
    cut = d, parts(h, 4), parts(w, 4)
    total = plan.batch * volume(cut)
    channels, per_group, taps = plan.in_channels // plan.groups, plan.out_channels // plan.groups, plan.kernel_size[0]

    def cycles(tile: Tile) -> tuple[float, int]:
        a_term = max(tile.rows * tile.vectors / FMAS, (tile.rows + 1) / 2 + tile.vectors)
        return parts(channels, tile.rows) * parts(per_group, tile.columns) * a_term, tile.columns

    whole = [tile for tile in tiles("gather", FLOAT) if tile.lanes == tile.unit.lanes]
    tile = min(whole, key=cycles)
    blocks, vectors = parts(per_group, tile.columns), parts(channels, tile.lanes)
    band = parts(total, parts(total, BAND))
    a_vector = ELEMENTS * taps * tile.lanes * blocks * tile.columns * FLOAT.itemsize
    chunk = max(1, min(vectors, (NEAR if band == total else FAR) // a_vector))
    sizes = Sizes(tile, cut, band, chunk, blocks, 0, False)
    pays = plan.groups * _cycles(plan, sizes, total) * CLEARLY < _cycles_directly(plan)
    return sizes._replace(workers=workspace // _workspace(sizes, taps), pays=pays)


def _workspace(sizes: Sizes, taps: int) -> int:
    """Bytes that a thread takes."""
    tile = sizes.tile
    rows = taps * sizes.chunk * tile.lanes
    near = sizes.band * (rows + PAD) + sizes.blocks * (sizes.band + rows + tile.rows) * tile.columns + 3 * PAD
    return (ELEMENTS * near + 6 * (4 * SEGMENT + 3) * tile.lanes) * FLOAT.itemsize


def _cycles(plan: ConvPlan, sizes: Sizes, total: int) -> float:
    """What the steps of a group take, as measured on one core of an AMD EPYC of the Zen 4 kind."""
    tile, taps, channels = sizes.tile, plan.kernel_size[0], plan.in_channels // plan.groups
    vectors, out = parts(channels, tile.lanes), parts(plan.out_channels // plan.groups, tile.lanes)
    rows = parts((taps - 1) * vectors * tile.lanes + channels, tile.rows) * tile.rows
    bands, passes = parts(total, sizes.band), parts(vectors, sizes.chunk)
    sums = ELEMENTS * rows * out * (total / FMAS / 0.9 + 12 * bands)
    patches = total * vectors * taps * 500
    grads = total * out * 400 * (passes if bands > 1 else 1)
    return sums + patches + grads + rows * out * 400


def _cycles_directly(plan: ConvPlan) -> float:
    """What the direct sum takes at seven eighths of the peak."""
    weights_ = plan.out_channels * plan.in_channels // plan.groups * volume(plan.kernel_size)
    return weights_ * plan.batch * volume(plan.output_size) / tiles("gather", FLOAT)[0].lanes / FMAS / 0.875


def weight_gradient(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Fill total (C_out, C_in / groups, depth, 3, 3) from gradients (N, C_out, D, H, W) and x (N, C_in, D, H, W).

    False if not all of it is finite: then it is better summed directly, and `total` unfinished.
    """
    sizes = _sizes(plan, settings.current().max_workspace)
    tile, channels = sizes.tile, plan.in_channels // plan.groups
    job = Job(
        (x.ctypes.data, x.strides, x.shape[2:]), (grad_output.ctypes.data, grad_output.strides, grad_output.shape[2:]),
        plan.before, total.ctypes.data, plan.batch, channels, plan.out_channels // plan.groups, plan.kernel_size[0],
        sizes.tiles, sizes.band, sizes.chunk, sizes.blocks, tile.rows, tile.columns, tile.loop,
    )  # fmt: skip
    items = plan.groups * parts(channels, tile.lanes)
    doubtful = np.zeros(items, np.int64)
    work = total.size / 9 * ELEMENTS * plan.batch * volume(sizes.tiles) / WORK
    work = min(work, sizes.workers * threads.GRAIN)
    threads.run(_correlate, items, work, tile.unit, job, doubtful, keep=(grad_output, x, total))
    return not doubtful.any()


@kernel
def _correlate(start, stop, unit, job, doubtful):
    """A work item is a vector of input channels of a group, for all its output channels.

    Those of a thread go through the tiles together, `chunk` of them at a time: the sums of all elements are added to
    band by band. Reads x once, the output gradients once for each chunk. Tells at `start` whether something that is not
    finite was found, and then stops.
    """
    vectors = -(-job.channels // lanes(unit))
    all_tiles = job.images * job.tiles[0] * job.tiles[1] * job.tiles[2]
    step = job.taps * job.chunk * lanes(unit) + PAD
    plane, grads_plane = job.band * step + PAD, job.blocks * job.band * job.columns + PAD
    high = job.taps * job.chunk * lanes(unit) + job.rows
    sums_plane = job.blocks * high * job.columns + PAD
    memory = np.empty(ELEMENTS * (plane + grads_plane + sums_plane) + PAD, np.float32)
    spectra = (memory.ctypes.data + 63) // 64 * 64
    grads = spectra + ELEMENTS * plane * 4
    sums = grads + ELEMENTS * grads_plane * 4
    gathered = np.empty((6 * (4 * SEGMENT + 2) + lanes(unit)) * lanes(unit), np.float32)
    nothing = np.zeros(job.columns, np.float32)
    rows, places = np.arange(job.rows), np.arange(job.rows) * job.columns
    offsets = np.arange(job.band) * step
    ready = -1
    item = start
    while item < stop:
        g, vector = divmod(item, vectors)
        here = min(job.chunk, vectors - vector, stop - item)
        c, padded = vector * lanes(unit), here * lanes(unit)
        channels = min(padded, job.channels - c)
        for first in range(0, all_tiles, job.band):
            last = min(first + job.band, all_tiles)
            tile_spectra(
                unit, job.x, job.tiles, job.before, job.taps, g * job.channels + c, channels, first, last, gathered,
                spectra, plane, step, padded,
            )  # fmt: skip
            if ready != g or job.band < all_tiles:
                _gradient_spectra(unit, job, g, first, last, gathered, grads, grads_plane)
                ready = g
            more, more_step = nothing.ctypes.data, 0
            for e in range(ELEMENTS):
                for block in range(job.blocks):
                    b = grads + (e * grads_plane + block * job.band * job.columns) * 4
                    count = min(job.columns, job.per_group - block * job.columns)
                    for row in range(0, (job.taps - 1) * padded + channels, job.rows):
                        to = sums + (e * sums_plane + (block * high + row) * job.columns) * 4
                        if first:
                            more, more_step = to, job.columns
                        a = spectra + (e * plane + row) * 4
                        gather(
                            job.loop, to, places.ctypes.data, count, more, more_step, 0, a,
                            rows.ctypes.data, offsets.ctypes.data, last - first, b, job.columns,
                        )  # fmt: skip
        _finish(unit, job, g, c, channels, padded, sums, sums_plane, high, doubtful[start:])
        if doubtful[start]:
            break
        item += here
    keep(memory, gathered, nothing, rows, places, offsets)


@kernel
def _gradient_spectra(unit, job, g, first, last, gathered, to, plane):
    """Transform the gradients of tiles `first` to `last`, of a group, to (36, blocks, tiles, columns)."""
    row = (4 * SEGMENT + 2) * lanes(unit)
    t = first
    while t < last:
        n, d, down, across = place(job.tiles, t)
        count = min(SEGMENT, last - t, job.tiles[2] - across)
        for o in range(0, job.per_group, lanes(unit)):
            block, i = divmod(o, job.columns)
            channel, left = g * job.per_group + o, job.per_group - o
            gather_rows(unit, job.grads, gathered, 4, n, channel, left, d, 4 * down, 4 * across, 4 * count)
            for k in range(count):
                here = to + ((block * job.band + t - first + k) * job.columns + i) * 4
                gradients(unit, here, plane, gathered.ctypes.data + k * 4 * lanes(unit) * 4, row)
        t += count


@kernel
def _finish(unit, job, g, c, channels, padded, sums, plane, high, doubtful):
    """Turn the sums of some channels from c on into the gradients of their weights."""
    of_output = job.channels * job.taps * 9
    for o in range(0, job.per_group, lanes(unit)):
        block, i = divmod(o, job.columns)
        for k in range(channels):
            for tap in range(job.taps):
                to = job.total + ((g * job.per_group + o) * of_output + ((c + k) * job.taps + tap) * 9) * 4
                source = sums + ((block * high + tap * padded + k) * job.columns + i) * 4
                weights(unit, to, of_output, job.per_group - o, source, plane, doubtful.ctypes.data)
