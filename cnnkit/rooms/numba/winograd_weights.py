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
from cnnkit.rooms.numba.machine import FMAS, MASK_REGISTERS, address_of
from cnnkit.rooms.numba.patches import FLOAT, Form, gradients, step, weights
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import Tile, gather, tiles
from cnnkit.rooms.numba.winograd import (
    CLEARLY,
    PAD,
    WORK,
    Patches,
    corner,
    cut,
    dilation,
    forms,
    gather_rows,
    gathered_size,
    patches,
    place,
    tile_spectra,
    worse,
)

DIRECTLY = 0.875 if MASK_REGISTERS else 0.65  # of the peak that a direct sum reaches (Zen 4; AVX2: Zen 3)
BAND = 64  # tiles that are summed by themselves, twice as many if one axis has taps
NEAR = 2 << 20  # bytes of sums that are made at a time, if one band has all tiles
FAR = 8 << 20  # the same if bands are added up: for each part, all output gradients are transformed anew


class Sizes(NamedTuple):
    """How a gradient is cut: what the kernel counts by, and how it is chosen."""

    form: Form
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
    taps: int  # blocks of them
    kernel: Ints
    depth: int  # the dilation along it
    patches: Patches
    gradients: int  # the addresses of code
    weights: int
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
    if algorithm == "direct" or x.dtype != FLOAT or not forms(plan.kernel_size[1:]):
        return False
    if plan.stride != (1, 1, 1) or not plan.in_channels * plan.batch:
        return False
    sizes = _sizes(plan, settings.current().max_workspace)
    return sizes.workers > 0 and (algorithm == "winograd" or sizes.pays)


@lru_cache(1024)
def _sizes(plan: ConvPlan, workspace: int) -> Sizes:
    """The form that takes the fewest cycles."""
    ways = [_fit(plan, form, workspace) for form in forms(plan.kernel_size[1:], dilation(plan)[1] > 1)]
    best = min(ways, key=lambda way: _cycles(plan, way) * worse(way.form))
    return best._replace(pays=plan.groups * _cycles(plan, best) * CLEARLY < _cycles_directly(plan))


def _fit(plan: ConvPlan, form: Form, workspace: int) -> Sizes:
    tiles_, tap_blocks = cut(plan, form)
    total, taps = plan.batch * volume(tiles_), volume(tap_blocks)
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups

    def cycles(tile: Tile) -> tuple[float, int]:
        a_term = max(tile.rows * tile.vectors / FMAS, (tile.rows + 1) / 2 + tile.vectors)
        return parts(channels, tile.rows) * parts(per_group, tile.columns) * a_term, tile.columns

    whole = [tile for tile in tiles("gather", FLOAT) if tile.lanes == tile.unit.lanes]
    tile = min(whole, key=cycles)
    blocks, vectors = parts(per_group, tile.columns), parts(channels, tile.lanes)
    knot = dilation(plan)[1]  # not to be parted
    band = parts(parts(total, parts(total, BAND * form.thin)), knot) * knot
    a_vector = form.elements * taps * tile.lanes * blocks * tile.columns * FLOAT.itemsize
    chunk = max(1, min(vectors, (NEAR if band == total else FAR) // a_vector))
    sizes = Sizes(form, tile, tiles_, band, chunk, blocks, 0, False)
    return sizes._replace(workers=workspace // _workspace(plan, sizes))


def _workspace(plan: ConvPlan, sizes: Sizes) -> int:
    """Bytes that a thread takes."""
    tile, form = sizes.tile, sizes.form
    rows = volume(cut(plan, form)[1]) * sizes.chunk * tile.lanes
    near = sizes.band * (rows + PAD) + sizes.blocks * (sizes.band + rows + tile.rows) * tile.columns + 3 * PAD
    return (form.elements * near + gathered_size(plan, form, tile.lanes)) * FLOAT.itemsize


def _cycles(plan: ConvPlan, sizes: Sizes) -> float:
    """What the steps of a group take, as measured on one core of an AMD EPYC of the Zen 4 kind."""
    tile, form, channels = sizes.tile, sizes.form, plan.in_channels // plan.groups
    taps, total = volume(cut(plan, form)[1]), plan.batch * volume(sizes.tiles)
    vectors, out = parts(channels, tile.lanes), parts(plan.out_channels // plan.groups, tile.lanes)
    rows = parts((taps - 1) * vectors * tile.lanes + channels, tile.rows) * tile.rows
    bands, passes = parts(total, sizes.band), parts(vectors, sizes.chunk)
    sums = form.elements * rows * out * (total / FMAS / 0.9 + 12 * bands)
    patches_ = total * vectors * taps * form.elements * 14
    grads = total * out * form.elements * 11 * (passes if bands > 1 else 1)
    return sums + patches_ + grads + rows * out * (form.elements * 7 + 150)


def _cycles_directly(plan: ConvPlan) -> float:
    """What the direct sum takes at its share of the peak."""
    weights_ = plan.out_channels * plan.in_channels // plan.groups * volume(plan.kernel_size)
    return weights_ * plan.batch * volume(plan.output_size) / tiles("gather", FLOAT)[0].lanes / FMAS / DIRECTLY


def weight_gradient(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Fill total (C_out, C_in / groups, *kernel) from gradients (N, C_out, D, H, W) and x (N, C_in, D, H, W).

    False if not all of it is finite: then it is better summed directly, and `total` unfinished.
    """
    sizes = _sizes(plan, settings.current().max_workspace)
    tile, channels = sizes.tile, plan.in_channels // plan.groups
    how = patches(plan, sizes.form)
    job = Job(
        (address_of(x), x.strides, x.shape[2:]), (address_of(grad_output), grad_output.strides, grad_output.shape[2:]),
        plan.before, address_of(total), plan.batch, channels, plan.out_channels // plan.groups,
        volume(how.blocks), plan.kernel_size, plan.dilation[0], how, step("gradients", sizes.form),
        step("weights", sizes.form), sizes.tiles, sizes.band, sizes.chunk, sizes.blocks,
        tile.rows, tile.columns, tile.loop,
    )  # fmt: skip
    items = plan.groups * parts(channels, tile.lanes)
    doubtful = np.zeros(items, np.int64)
    products = volume(how.blocks) * how.elements * plan.batch * volume(sizes.tiles)
    work = total.size / volume(plan.kernel_size) * products / WORK
    work = min(work, sizes.workers * threads.GRAIN)
    threads.run(_correlate, items, work, tile.unit, job, doubtful, keep=(grad_output, x, total))
    return not doubtful.any()


@straight
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
    elements = job.patches.elements
    memory = np.empty(elements * (plane + grads_plane + sums_plane), np.float32)
    spectra = memory.ctypes.data
    grads = spectra + elements * plane * 4
    sums = grads + elements * grads_plane * 4
    gathered = np.empty((job.patches.points[0] * job.patches.pixels + lanes(unit)) * lanes(unit), np.float32)
    nothing = np.zeros(job.columns, np.float32)
    rows, places, offsets = np.empty(job.rows, np.int64), np.empty(job.rows, np.int64), np.empty(job.band, np.int64)
    for i in range(job.rows):
        rows[i], places[i] = i, i * job.columns
    for i in range(job.band):
        offsets[i] = i * step
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
                unit, job.x, job.patches, job.tiles, job.before, job.depth, g * job.channels + c, channels, first,
                last, gathered, spectra, plane, step, padded,
            )  # fmt: skip
            if ready != g or job.band < all_tiles:
                _gradient_spectra(unit, job, g, first, last, gathered, grads, grads_plane)
                ready = g
            more, more_step = nothing.ctypes.data, 0
            for e in range(elements):
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


def _gradient_spectra(unit, job, g, first, last, gathered, to, plane):
    """Transform the gradients of tiles `first` to `last`, of a group, to (elements, blocks, tiles, columns)."""
    row = job.patches.pixels * lanes(unit)
    high, wide = job.patches.outputs
    apart, between = job.patches.dilation
    t = first
    while t < last:
        n, d, down, across = place(job.tiles, t)
        count = min(job.patches.segment, last - t, job.tiles[2] - across)
        h, w = corner(down, high, apart), corner(across, wide, between)
        for o in range(0, job.per_group, lanes(unit)):
            block, i = divmod(o, job.columns)
            channel, left = g * job.per_group + o, job.per_group - o
            gather_rows(unit, job.grads, gathered, row, high, apart, n, channel, left, d, h, w, wide * count)
            here = to + ((block * job.band + t - first) * job.columns + i) * 4
            for k in range(0, wide * count, wide * between):
                for pixel in range(k, k + between):
                    there = gathered.ctypes.data + pixel * lanes(unit) * 4
                    gradients(job.gradients, here, plane, there, row, between * lanes(unit))
                    here += job.columns * 4
        t += count


def _finish(unit, job, g, c, channels, padded, sums, plane, high, doubtful):
    """Turn the sums of some channels from c on into the gradients of their weights."""
    of_depth, of_block = job.kernel[1] * job.kernel[2], job.patches.taps[0] * job.patches.taps[1]
    of_output = job.channels * job.kernel[0] * of_depth
    for o in range(0, job.per_group, lanes(unit)):
        block, i = divmod(o, job.columns)
        for k in range(channels):
            for tap in range(job.taps):
                z, cut = divmod(tap, job.patches.blocks[1] * job.patches.blocks[2])
                skipped = cut * of_block
                to = (g * job.per_group + o) * of_output + ((c + k) * job.kernel[0] + z) * of_depth + skipped
                source = sums + ((block * high + tap * padded + k) * job.columns + i) * 4
                weights(
                    job.weights, job.total + to * 4, of_output, job.per_group - o, source, plane,
                    min(of_block, of_depth - skipped), doubtful.ctypes.data,
                )  # fmt: skip
