"""Winograd convolution: fewer products than a direct one has, a quarter for 3x3 taps; `patches.py` has the algebra.

Images are cut into tiles, of 4x4 outputs for 3x3 taps. A tile's patch of 6x6 inputs becomes a *spectrum* of 36
elements, and so does every filter; each element then is a matrix product by itself, (tiles x channels) @ (channels x
output channels), and a last transform turns sums of spectra into outputs. Other kernels have other `Form`s: the sizes
of a tile and its patch, and the addresses of the transforms' code, are numbers to what stands here.

What a form has not enough taps for counts as more channels: the taps along the depth, and blocks of a long kernel.
Outputs that see pixels of one phase of a dilated kernel are a tile, too: tiles then lie between each other. As many
neighbours as the dilation across are a *knot*, whose pixels leave no gaps; it is never parted.

A work item is a *band* of neighbouring tiles (of one row of tiles, of several, of several images) for a block of output
channels. A thread keeps a band's spectra and the block's sums near, and the part of the filters that it is at; only
inputs, outputs and weights come from memory and go there.
"""

import math
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import lanes
from cnnkit.rooms.numba.machine import FMAS, MASK_REGISTERS, address_of
from cnnkit.rooms.numba.patches import (
    ALONE,
    FLOAT,
    POINTS,
    Axis,
    Form,
    filters,
    move,
    outputs,
    peek,
    poke,
    spectrum,
    step,
    turn,
    turn_back,
)
from cnnkit.rooms.numba.straight import apart, straight
from cnnkit.rooms.numba.tile import Tile, product, tiles

PIXELS = 30  # of a row that are gathered together, for as many tiles as they suffice, or more for a knot: two vectors
PAD = 16  # numbers between planes, lest all of them lie in the same few places of the cache
WORK = 64  # a nanosecond and core, about: multiply-adds
BAND = 48  # tiles that are done together, twice as many if one axis has taps; more do not make it faster
FEW = 128  # tiles that are not worth writing the spectra of all filters to memory
CHUNK = 64  # channels whose filters are transformed together: they stay in the L2 cache
SLOWER = 150  # times: a tile of a channel that is summed directly by itself, and one of a direct convolution
DIRECTLY = 0.875 if MASK_REGISTERS else 0.75  # of the peak that a direct sum reaches (Zen 4; AVX2: Zen 3)
CLEARLY = 1.1  # how much faster it must be than the direct sum
WORTH = 1.15  # the same for eight points instead of six, whose errors are half as large

PRODUCTS = tiles("product", FLOAT)


class Sizes(NamedTuple):
    """How a convolution is cut: see `_solve`."""

    form: Form
    tile: Tile
    tiles: Ints  # of an image: (depth, down, across)
    band: int  # tiles
    chunk: int  # channels whose filters are transformed together
    blocks: int  # of output channels of a group
    ready: bool  # whether the filters are transformed before all else
    workers: int  # threads for which there is room
    pays: bool  # whether it is clearly faster than the direct sum


class Patches(NamedTuple):
    """How tiles lie on an image, in numbers that kernels read; pairs are (down, across)."""

    spectrum: int  # the address of its code
    elements: int  # of a spectrum
    points: Ints  # the sizes of a patch
    outputs: Ints  # and of a tile
    taps: Ints  # of a block
    blocks: Ints  # of the kernel's taps: (depth, down, across); the last two are 1 if the form has all of its taps
    dilation: Ints
    segment: int  # tiles whose patches are gathered together: whole knots
    pixels: int  # of a row that they have


class Job(NamedTuple):
    """What the kernels read: addresses, strides in bytes, sizes."""

    x: int
    x_strides: Ints
    size: Ints
    before: Ints
    out: int
    out_strides: Ints
    out_size: Ints
    weight: int
    weight_strides: Ints  # of group, output channel, channel, depth; the taps of a depth lie together
    flipped: bool
    kernel: Ints
    dilation: Ints
    filters: int  # the addresses of code
    outputs: int
    bias: int
    bias_step: int  # numbers of a group
    then: int  # to do to the outputs: see `activation.epilogue`
    images: int
    groups: int
    channels: int  # of a group, in
    per_group: int  # output channels of a group
    taps: int  # blocks of them
    patches: Patches
    tiles: Ints
    band: int
    chunk: int
    blocks: int
    spectra: int  # of all filters, if they are ready
    repairs: int  # tiles of a channel that may be summed directly
    rows: int
    columns: int
    loop: int  # of a product's tile


# ---------------------------------------------------------------- what is done, and how


def chosen(x: Array, out: Array, plan: ConvPlan) -> bool:
    """Whether a convolution is to be done this way: it can be, in the workspace, and is faster or was asked for."""
    algorithm = settings.current().algorithm
    if algorithm == "direct" or x.dtype != FLOAT or not forms(plan.kernel_size[1:]):
        return False
    if plan.stride != (1, 1, 1) or not plan.in_channels:
        return False
    sizes = _sizes(plan)
    return sizes is not None and (algorithm == "winograd" or sizes.pays)


def _sizes(plan: ConvPlan) -> Sizes | None:
    return _solve(plan, settings.current().max_workspace, threads.get_num_threads())


@lru_cache
def forms(kernel: Ints, dilated: bool = False) -> tuple[Form, ...]:
    """Those that a kernel (down, across) can be done by: two axes at 6 points, one alone also at 8, and in blocks.

    Two axes at 8 points would have clearly larger errors; one at 8 has those of two at 6. Beside the direct sum, errors
    are largest for few taps: those of two taps along both axes, and of three taps at 8 points, are three times its.
    """
    if min(kernel) > 1:
        down, across = kernel
        form = Form(Axis(down, 7 - down), Axis(across, 7 - across, dilated))
        return (form,) if all(2 < taps < 6 for taps in kernel) else ()
    taps = max(kernel)
    sizes = [(size, points + 1 - size) for points in POINTS for size in range(2 if points == 6 else 4, points)]
    axes = [Axis(*size, dilated) for size in sizes]
    axes = [axis for axis in axes if axis.taps == -(-taps // -(-taps // axis.taps))]  # blocks are no longer than needed
    return tuple(Form(axis, ALONE) if kernel[0] > 1 else Form(ALONE, axis) for axis in axes)


def worse(form: Form) -> float:
    """What cycles of a form are weighed by, for its errors."""
    return WORTH if max(axis.points for axis in form) > 6 else 1


@lru_cache(1024)
def _solve(plan: ConvPlan, workspace: int, workers: int) -> Sizes | None:
    """How it is done by at most so many threads; None if not even one fits the workspace.

    Whether it is done, and pays, does not depend on the threads: else results would. Nor does the form, on either.
    """
    form = _form(plan)
    alone = _fit(plan, form, workspace, 1)
    if alone is None:
        return None
    pays = _cycles(plan, alone) * CLEARLY < _cycles_directly(plan)
    most = next(fit for n in range(workers, 0, -1) if (fit := _fit(plan, form, workspace, n)))
    return most._replace(pays=pays)


def _form(plan: ConvPlan) -> Form:
    """The form that takes the fewest cycles, were there no limit to the workspace."""
    ways = [
        fit for form in forms(plan.kernel_size[1:], dilation(plan)[1] > 1) if (fit := _fit(plan, form, sys.maxsize, 1))
    ]
    return min(ways, key=lambda way: _cycles(plan, way) * worse(way.form)).form


def cut(plan: ConvPlan, form: Form) -> tuple[Ints, Ints]:
    """Into how many tiles an image is cut, and into how many blocks the taps, both (depth, down, across)."""
    axes = zip(plan.output_size[1:], plan.kernel_size[1:], dilation(plan), form, strict=True)
    both = [(-(-size // (axis.outputs * d)) * d, -(-taps // axis.taps)) for size, taps, d, axis in axes]
    tiles_, blocks = zip((plan.output_size[0], plan.kernel_size[0]), *both, strict=True)
    return tiles_, blocks


def dilation(plan: ConvPlan) -> Ints:
    """Pixels between taps, (down, across); 1 where there is one tap."""
    return tuple(d if taps > 1 else 1 for taps, d in zip(plan.kernel_size[1:], plan.dilation[1:], strict=True))


@lru_cache(1024)
def patches(plan: ConvPlan, form: Form) -> Patches:
    points, outs, taps = zip(*((axis.points, axis.outputs, axis.taps) for axis in form), strict=True)
    d = dilation(plan)
    pixels = _pixels(plan, form)
    segment = ((pixels - points[1] * d[1]) // (outs[1] * d[1]) + 1) * d[1]
    return Patches(step("spectrum", form), form.elements, points, outs, taps, cut(plan, form)[1], d, segment, pixels)


def _pixels(plan: ConvPlan, form: Form) -> int:
    """Of a row that are gathered together: enough for one knot."""
    return max(PIXELS, form.across.points * dilation(plan)[1])


def gathered_size(plan: ConvPlan, form: Form, lanes: int) -> int:
    """Numbers of the rows of pixels that `tile_spectra` needs."""
    return (form.down.points * _pixels(plan, form) + lanes) * lanes


def _fit(plan: ConvPlan, form: Form, workspace: int, workers: int) -> Sizes | None:
    """The tile that computes least, and bands that fit the workspace; None if none do."""
    tiles, _ = cut(plan, form)
    total = plan.batch * volume(tiles)
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    most = BAND * form.thin

    def products(tile: Tile) -> int:
        return _up(total if total <= FEW else most, tile.rows) * _up(per_group, tile.columns)

    tile = min(PRODUCTS, key=products)
    blocks = -(-per_group // tile.columns)
    chunk = min(CHUNK, _up(channels, tile.lanes))
    for band, ready in [(most, True)] * (total > FEW) + [(FEW, False), (most, False), (tile.rows, False)]:
        items = -(-total // band) * plan.groups * blocks
        band = -(-total // -(-total // band)) if items >= workers else -(-total * plan.groups * blocks // workers)
        band = _up(band, math.lcm(tile.rows, dilation(plan)[1]))
        sizes = Sizes(form, tile, tiles, band, chunk, blocks, ready, workers, False)
        if _workspace(plan, sizes, workers) <= workspace:
            return sizes
    return None


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _workspace(plan: ConvPlan, sizes: Sizes, workers: int) -> int:
    """Bytes that a convolution takes besides its result."""
    tile, form, taps = sizes.tile, sizes.form, volume(cut(plan, sizes.form)[1])
    channels = plan.in_channels // plan.groups
    near = _band_step(tile, taps, channels) + tile.columns
    part = _part_size(form, tile, sizes.chunk)
    numbers = form.elements * (sizes.band * near + 2 * PAD) + part + PAD
    numbers += gathered_size(plan, form, tile.lanes)
    numbers += form.down.outputs * _up(form.across.outputs * dilation(plan)[1], tile.lanes) * tile.lanes
    ready = plan.groups * sizes.blocks * taps * -(-channels // sizes.chunk) * part + PAD
    biases = plan.groups * sizes.blocks * tile.columns
    return (workers * numbers + sizes.ready * ready + biases) * FLOAT.itemsize


def _band_step(tile: Tile, taps: int, channels: int) -> int:
    return taps * _up(channels, tile.lanes) + PAD


def _part_size(form: Form, tile: Tile, chunk: int) -> int:
    return form.elements * (chunk * tile.columns + PAD)


def _cycles(plan: ConvPlan, sizes: Sizes) -> float:
    """What the steps take, as measured on one core of an AMD EPYC of the Zen 4 kind (AVX-512, one FMA a cycle)."""
    tile, form = sizes.tile, sizes.form
    terms = plan.in_channels // plan.groups * volume(cut(plan, form)[1])
    total = plan.batch * volume(sizes.tiles)
    bands = -(-total // sizes.band)
    out = -(-plan.out_channels // plan.groups // tile.lanes)
    sums = _up(total, tile.rows) * form.elements * terms * sizes.blocks * tile.vectors / FMAS / 0.9
    patches_ = total * -(-terms // tile.lanes) * form.elements * 14
    outputs_ = total * out * form.elements * 11
    filters_ = terms * out * (form.elements * 4 + 130) * (1 if sizes.ready else bands)
    return plan.groups * (sums + patches_ + outputs_ + filters_) + 20_000


def _cycles_directly(plan: ConvPlan) -> float:
    """What the direct sum takes at its share of the peak, and to pack its weights."""
    weights = plan.out_channels * plan.in_channels // plan.groups * volume(plan.kernel_size)
    return weights * (plan.batch * volume(plan.output_size) / PRODUCTS[0].lanes / FMAS / DIRECTLY + 1)


# ---------------------------------------------------------------- forward


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array) -> bool:
    """Convolve x (N, C, D, H, W) with weight (groups, C_out / groups, C_in / groups, depth, height, width).

    False if so much is not finite that all is better summed directly; `out` then is unfinished.
    """
    sizes = _sizes(plan)
    assert sizes is not None  # it was chosen
    groups, per_group, channels = weight.shape[:3]
    near = sizes.blocks * sizes.tile.columns
    biases = np.zeros((groups, near), FLOAT)
    if bias is not None:
        biases[:, :per_group] = bias.reshape(groups, per_group)
    weight = weight.reshape(*weight.shape[:4], -1)
    if weight.strides[4] not in (4, -4):
        weight = np.ascontiguousarray(weight)
    flipped = weight.strides[4] < 0
    how = patches(plan, sizes.form)
    taps = volume(how.blocks)
    job = Job(
        address_of(x), x.strides, x.shape[2:], plan.before, address_of(out), out.strides, out.shape[2:],
        address_of(weight) - 4 * (weight.shape[4] - 1) * flipped, weight.strides[:4], flipped, plan.kernel_size,
        plan.dilation, step("filters", sizes.form), step("outputs", sizes.form), address_of(biases), near, then,
        x.shape[0], groups, channels, per_group, taps, how, sizes.tiles, sizes.band, sizes.chunk, sizes.blocks, 0, 0,
        sizes.tile.rows, sizes.tile.columns, sizes.tile.loop,
    )  # fmt: skip
    held = [x, weight, biases, out]
    if sizes.ready:
        parts = groups * sizes.blocks * taps * -(-channels // sizes.chunk)
        held.append(np.empty(parts * _part_size(sizes.form, sizes.tile, sizes.chunk) + PAD, FLOAT))
        job = job._replace(spectra=_up(address_of(held[-1]), 64))
        work = groups * per_group * channels * taps * how.elements * 3 / WORK
        threads.run(_make_ready, parts, work, sizes.tile.unit, job, keep=held)
    total = plan.batch * volume(sizes.tiles)
    items = -(-total // sizes.band) * groups * sizes.blocks
    doubtful = np.zeros(items, np.int64)
    job = job._replace(repairs=total * groups * per_group // SLOWER)
    work = min(total * how.elements * channels * taps * near * groups / WORK, sizes.workers * threads.GRAIN)
    threads.run(_convolve, items, work, sizes.tile.unit, job, doubtful, keep=held)
    return bool(doubtful.sum() <= job.repairs)


# ---------------------------------------------------------------- kernels


@straight
def _make_ready(start, stop, unit, job):
    """A work item is the spectra of the filters of a block of output channels for a chunk of channels."""
    size = job.patches.elements * (job.chunk * job.columns + PAD)
    parts = job.taps * -(-job.channels // job.chunk)
    for item in range(start, stop):
        rest, part = divmod(item, parts)
        g, block = divmod(rest, job.blocks)
        _filter_spectra(unit, job, g, block, part, job.spectra + item * size * 4)


def _filter_spectra(unit, job, g, block, part, to):
    """Transform the filters of a block of output channels for one part of the terms, to (elements, channels, block)."""
    plane = job.chunk * job.columns + PAD
    tap, first = _part(job, part)
    z, skipped, here = _taps(job, tap)
    source = job.weight + g * job.weight_strides[0] + z * job.weight_strides[3] + first * job.weight_strides[2]
    low, high = 0, here
    size = job.patches.taps[0] * job.patches.taps[1]
    if job.flipped:  # the block's first taps lie last, and those that it has not would lie in front
        skipped, low, high = job.kernel[1] * job.kernel[2] - skipped - size, size - here, size
    for i in range(0, min(job.columns, job.per_group - block * job.columns), lanes(unit)):
        o = block * job.columns + i
        place = source + o * job.weight_strides[1] + skipped * 4
        for c in range(min(job.chunk, job.channels - first)):
            filters(
                job.filters, to + (c * job.columns + i) * 4, plane, place + c * job.weight_strides[2],
                job.weight_strides[1] // 4, job.per_group - o, low, high, job.flipped,
            )  # fmt: skip


def _part(job, part):
    """The block of taps, and the first channel, of a part of the terms."""
    tap, chunk = divmod(part, -(-job.channels // job.chunk))
    return tap, chunk * job.chunk


def _taps(job, tap):
    """A block's depth, how many taps of that depth come before it, and how many it has."""
    size = job.patches.taps[0] * job.patches.taps[1]
    z, block = divmod(tap, job.patches.blocks[1] * job.patches.blocks[2])
    return z, block * size, min(size, job.kernel[1] * job.kernel[2] - block * size)


@straight
def _convolve(start, stop, unit, job, doubtful):
    """A work item is a band of tiles for a block of output channels; blocks vary fastest and share the band's spectra.

    Reads the band's inputs and the block's filters once, writes its outputs once. Tells at `start` how many tiles of a
    channel had results that are not finite. With more than may be repaired it stops: all will be summed directly.
    """
    padded = -(-job.channels // lanes(unit)) * lanes(unit)
    step = job.taps * padded + PAD
    plane, sums_plane = job.band * step + PAD, job.band * job.columns + PAD
    part_size = job.patches.elements * (job.chunk * job.columns + PAD)
    parts = job.taps * -(-job.channels // job.chunk)
    total = job.images * job.tiles[0] * job.tiles[1] * job.tiles[2]
    elements = job.patches.elements
    high, wide = job.patches.outputs[0], job.patches.outputs[1] * job.patches.dilation[1]
    memory = np.empty(elements * (plane + sums_plane) + part_size, np.float32)
    spectra = memory.ctypes.data
    sums = spectra + elements * plane * 4
    own = sums + elements * sums_plane * 4
    gathered = np.empty((job.patches.points[0] * job.patches.pixels + lanes(unit)) * lanes(unit), np.float32)
    across = -(-wide // lanes(unit)) * lanes(unit)
    pixels = np.empty((high, across, lanes(unit)), np.float32)
    doubt = np.zeros(pixels.shape[1], np.int64)
    ready = -1
    for item in range(start, stop):
        rest, block = divmod(item, job.blocks)
        band, g = divmod(rest, job.groups)
        first = band * job.band
        last = min(first + job.band, total)
        if rest != ready:
            tile_spectra(
                unit, (job.x, job.x_strides, job.size), job.patches, job.tiles, job.before, job.dilation[0],
                g * job.channels, job.channels, first, last, gathered, spectra, plane, step, padded,
            )  # fmt: skip
            ready = rest
        for part in range(parts):
            if job.spectra:
                weights = job.spectra + ((g * job.blocks + block) * parts + part) * part_size * 4
            else:
                weights = own
                _filter_spectra(unit, job, g, block, part, own)
            tap, c = _part(job, part)
            count = min(job.chunk, job.channels - c)
            for e in range(elements):
                a = spectra + (e * plane + tap * padded + c) * 4
                b = weights + e * (job.chunk * job.columns + PAD) * 4
                for t in range(0, last - first, job.rows):
                    to = sums + (e * sums_plane + t * job.columns) * 4
                    product(job.loop, to, job.columns, part == 0, a + t * step * 4, step, b, count)
        doubtful[start] += _finish(
            unit, job, g, block, first, last, sums, sums_plane, pixels, doubt, job.repairs - doubtful[start]
        )
        if doubtful[start] > job.repairs:
            break


def place(tiles, t):
    """Where a tile lies: image, depth, row of tiles, tile of the row."""
    rest, across = divmod(t, tiles[2])
    rest, down = divmod(rest, tiles[1])
    n, d = divmod(rest, tiles[0])
    return n, d, down, across


def corner(tile, outputs, dilation):
    """The first pixel, along an axis, of a tile; of a knot, if it is a knot's first one."""
    if dilation == 1:
        return tile * outputs
    knot, between = divmod(tile, dilation)
    return knot * outputs * dilation + between


def tile_spectra(
    unit, x, patches, tiles, before, depth, channel, channels, first, last, gathered, to, plane, step, padded
):
    """Transform the patches of tiles `first` to `last`, of some channels, to (elements, tiles, blocks, channels)."""
    row = patches.pixels * lanes(unit)
    apart, between = patches.dilation
    knot = patches.outputs[1] * between
    for tap in range(patches.blocks[0] * patches.blocks[1] * patches.blocks[2]):
        rest, right = divmod(tap, patches.blocks[2])
        deep, below = divmod(rest, patches.blocks[1])
        right, below = right * patches.taps[1] * between - before[2], below * patches.taps[0] * apart - before[1]
        deep = deep * depth - before[0]
        t = first
        while t < last:
            n, d, down, across = place(tiles, t)
            count = min(patches.segment, last - t, tiles[2] - across)
            h, w = corner(down, patches.outputs[0], apart) + below, corner(across, patches.outputs[1], between) + right
            z, pixels = d + deep, patches.outputs[1] * (count - between) + patches.points[1] * between
            for c in range(0, channels, lanes(unit)):
                gather_rows(
                    unit, x, gathered, row, patches.points[0], apart, n, channel + c, channels - c, z, h, w, pixels
                )  # fmt: skip
                here = to + ((t - first) * step + tap * padded + c) * 4
                for k in range(0, patches.outputs[1] * count, knot):
                    for pixel in range(k, k + between):
                        there = gathered.ctypes.data + pixel * lanes(unit) * 4
                        spectrum(patches.spectrum, here, plane, there, row, between * lanes(unit))
                        here += step * 4
            t += count


@apart
def gather_rows(unit, x, gathered, row, rows, apart, n, c, channels, z, h0, w0, width):
    """Some rows of `width` pixels, `apart` from each other, channels side by side, zeros where the padding is."""
    address, strides, size = x
    low = min(width, max(0, -w0))
    high = max(low, min(width, size[2] - w0))
    inside = 0 <= z < size[0] and low < high
    for i in range(rows):
        h = h0 + i * apart
        at = i * row
        if not (inside and 0 <= h < size[1]):
            for k in range(width * lanes(unit)):
                gathered[at + k] = 0
            continue
        source = address + n * strides[0] + c * strides[1] + z * strides[2] + h * strides[3] + (w0 + low) * strides[4]
        for k in range(low * lanes(unit)):
            gathered[at + k] = 0
        if strides[4] == 4:
            to = gathered.ctypes.data + (at + low * lanes(unit)) * 4
            turn(unit, to, source, strides[1] // 4, channels, high - low)
        elif strides[1] == 4:
            to = gathered.ctypes.data + (at + low * lanes(unit)) * 4
            move(unit, to, lanes(unit), source, strides[4] // 4, channels, high - low)
        else:
            for p in range(high - low):
                for k in range(min(channels, lanes(unit))):
                    number = source + p * strides[4] + k * strides[1]
                    gathered[at + (low + p) * lanes(unit) + k] = peek(number)
        for k in range(high * lanes(unit), width * lanes(unit)):
            gathered[at + k] = 0


def _finish(unit, job, g, block, first, last, sums, plane, pixels, doubt, repairs):
    """Turn a band's sums into outputs: as many tiles of a row as make a vector of pixels, and then their lines.

    Says how many tiles of a channel have results that are not finite; up to `repairs` of them are summed directly.
    """
    found = 0
    strides = job.out_strides
    tall, broad = job.patches.outputs
    apart, between = job.patches.dilation
    here, row = pixels.ctypes.data, pixels.shape[1] * lanes(unit)
    most = pixels.shape[1] // (broad * between) * between
    for i in range(0, min(job.columns, job.per_group - block * job.columns), lanes(unit)):
        o = block * job.columns + i
        count = min(lanes(unit), job.per_group - o)
        bias = job.bias + (g * job.bias_step + o) * 4
        t = first
        while t < last:
            n, d, down, across = place(job.tiles, t)
            together = min(most, last - t, job.tiles[2] - across)
            source, found_here = sums + ((t - first) * job.columns + i) * 4, doubt.ctypes.data
            for k in range(0, broad * together, broad * between):
                for pixel in range(k, k + between):
                    outputs(
                        job.outputs, here + pixel * lanes(unit) * 4, row, between * lanes(unit), source, plane, bias,
                        job.then == RELU, found_here,
                    )  # fmt: skip
                    source += job.columns * 4
                    found_here += 8
            h, w = corner(down, tall, apart), corner(across, broad, between)
            high = min(tall, (job.out_size[1] - h + apart - 1) // apart)
            wide = min(broad * together, job.out_size[2] - w)
            to = job.out + n * strides[0] + (g * job.per_group + o) * strides[1] + d * strides[2]
            to += h * strides[3] + w * strides[4]
            if job.then > RELU:
                for line in range(high):
                    call(job.then, here + line * row * 4, here + line * row * 4, 0, 1, wide * lanes(unit))
            if strides[4] == 4:
                turn_back(unit, to, strides[1] // 4, apart * strides[3] // 4, here, row, count, high, wide)
            for line in range(0 if strides[4] == 4 else high):
                begin, there = here + line * row * 4, to + line * apart * strides[3]
                if strides[1] == 4:
                    move(unit, there, strides[4] // 4, begin, lanes(unit), count, wide)
                else:
                    _bring_apart(there, strides, pixels[line], count, wide)
            for k in range(together):
                for c in range(count if doubt[k] else 0):
                    if doubt[k] >> c & 1:
                        found += 1
                        if found <= repairs:
                            _sum_directly(job, g, o + c, n, d, h, corner(across + k, broad, between))
            t += together
    return found


def _bring_apart(to, strides, pixels, channels, wide):
    """What `turn_back` does, to a row whose pixels do not lie side by side."""
    for c in range(channels):
        for j in range(wide):
            poke(to + c * strides[1] + j * strides[4], pixels[j, c])


def _sum_directly(job, g, o, n, d, h0, w0):
    """The outputs of a tile by the definition, for one output channel of a group: padding is zeros."""
    strides = job.out_strides
    to = job.out + n * strides[0] + (g * job.per_group + o) * strides[1] + d * strides[2]
    bias = job.bias + (g * job.bias_step + o) * 4
    taps = job.kernel[0] * job.kernel[1] * job.kernel[2]
    apart, between = job.patches.dilation
    for h in range(h0, min(h0 + job.patches.outputs[0] * apart, job.out_size[1]), apart):
        for w in range(w0, min(w0 + job.patches.outputs[1] * between, job.out_size[2]), between):
            total: Any = peek(bias)
            for c in range(job.channels):
                for tap in range(taps):
                    total += _input(job, n, g * job.channels + c, d, h, w, tap) * _weight(job, g, o, c, tap)
            if job.then == RELU and total < 0:
                total = np.float32(0)
            place = to + h * strides[3] + w * strides[4]
            poke(place, total)
            if job.then > RELU:
                call(job.then, place, place, 0, 1, 1)


def _input(job, n, c, d, h, w, tap):
    """What the tap of a window meets."""
    rest, right = divmod(tap, job.kernel[2])
    deep, below = divmod(rest, job.kernel[1])
    z, y, x = (
        d + deep * job.dilation[0] - job.before[0],
        h + below * job.dilation[1] - job.before[1],
        w + right * job.dilation[2] - job.before[2],
    )
    if 0 <= z < job.size[0] and 0 <= y < job.size[1] and 0 <= x < job.size[2]:
        s = job.x_strides
        return peek(job.x + n * s[0] + c * s[1] + z * s[2] + y * s[3] + x * s[4])
    return np.float32(0)


def _weight(job, g, o, c, tap):
    s = job.weight_strides
    deep, near = divmod(tap, job.kernel[1] * job.kernel[2])
    near = job.kernel[1] * job.kernel[2] - 1 - near if job.flipped else near
    return peek(job.weight + g * s[0] + o * s[1] + c * s[2] + deep * s[3] + near * 4)
