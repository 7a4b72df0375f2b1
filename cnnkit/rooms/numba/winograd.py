"""Winograd convolution F(4x4, 3x3): a quarter of the products of a direct convolution; `patches.py` has the algebra.

Images are cut into tiles of 4x4 outputs. A tile's patch of 6x6 inputs becomes a *spectrum* of 36 elements, and so does
every filter; each element then is a matrix product by itself, (tiles x channels) @ (channels x output channels), and a
last transform turns sums of spectra into outputs. The taps along the depth count as more channels.

A work item is a *band* of neighbouring tiles (of one row of tiles, of several, of several images) for a block of output
channels. A thread keeps a band's spectra and the block's sums near, and the part of the filters that it is at; only
inputs, outputs and weights come from memory and go there.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import lanes
from cnnkit.rooms.numba.machine import FMAS, keep, kernel
from cnnkit.rooms.numba.moves import copy, transpose
from cnnkit.rooms.numba.patches import bring, filters, outputs, peek, poke, spectrum, turn
from cnnkit.rooms.numba.tile import Tile, product, tiles

ELEMENTS = 36  # of a spectrum
SEGMENT = 7  # tiles whose patches are gathered together: 30 pixels a row, two vectors
PAD = 16  # numbers between planes, lest all of them lie in the same few places of the cache
WORK = 64  # a nanosecond and core, about: multiply-adds
BAND = 48  # tiles that are done together; more do not make it faster
FEW = 128  # tiles that are not worth writing the spectra of all filters to memory
CHUNK = 64  # channels whose filters are transformed together: they stay in the L2 cache
SLOWER = 150  # times: a tile of a channel that is summed directly by itself, and one of a direct convolution
CLEARLY = 1.1  # how much faster it must be than the direct sum

FLOAT = np.dtype(np.float32)
PRODUCTS = tiles("product", FLOAT)


class Sizes(NamedTuple):
    """How a convolution is cut: see `_solve`."""

    tile: Tile
    tiles: Ints  # of an image: (depth, down, across)
    band: int  # tiles
    chunk: int  # channels whose filters are transformed together
    blocks: int  # of output channels of a group
    ready: bool  # whether the filters are transformed before all else
    workers: int  # threads for which there is room
    pays: bool  # whether it is clearly faster than the direct sum


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
    weight_strides: Ints  # of group, output channel, channel, depth; the 9 taps lie together
    flipped: bool
    bias: int
    bias_step: int  # numbers of a group
    then: int  # to do to the outputs: see `activation.epilogue`
    images: int
    groups: int
    channels: int  # of a group, in
    per_group: int  # output channels of a group
    taps: int  # along the depth
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
    if algorithm == "direct" or x.dtype != FLOAT or plan.kernel_size[1:] != (3, 3):
        return False
    if plan.stride != (1, 1, 1) or plan.dilation != (1, 1, 1) or not plan.in_channels:
        return False
    sizes = _sizes(plan)
    return sizes is not None and (algorithm == "winograd" or sizes.pays)


def _sizes(plan: ConvPlan) -> Sizes | None:
    return _solve(plan, settings.current().max_workspace, threads.get_num_threads())


@lru_cache(1024)
def _solve(plan: ConvPlan, workspace: int, workers: int) -> Sizes | None:
    """How it is done by at most so many threads; None if not even one fits the workspace.

    Whether it is done, and pays, does not depend on the threads: else results would.
    """
    alone = _fit(plan, workspace, 1)
    if alone is None:
        return None
    pays = _cycles(plan, alone) * CLEARLY < _cycles_directly(plan)
    most = next(fit for n in range(workers, 0, -1) if (fit := _fit(plan, workspace, n)))
    return most._replace(pays=pays)


def _fit(plan: ConvPlan, workspace: int, workers: int) -> Sizes | None:
    """The tile that computes least, and bands that fit the workspace; None if none do."""
    d, h, w = plan.output_size
    tiles = (d, -(-h // 4), -(-w // 4))
    total = plan.batch * volume(tiles)
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups

    def products(tile: Tile) -> int:
        return _up(total if total <= FEW else BAND, tile.rows) * _up(per_group, tile.columns)

    tile = min(PRODUCTS, key=products)
    blocks = -(-per_group // tile.columns)
    chunk = min(CHUNK, _up(channels, tile.lanes))
    for band, ready in [(BAND, True)] * (total > FEW) + [(FEW, False), (BAND, False), (tile.rows, False)]:
        items = -(-total // band) * plan.groups * blocks
        band = -(-total // -(-total // band)) if items >= workers else -(-total * plan.groups * blocks // workers)
        sizes = Sizes(tile, tiles, _up(band, tile.rows), chunk, blocks, ready, workers, False)
        if _workspace(plan, sizes, workers) <= workspace:
            return sizes
    return None


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _workspace(plan: ConvPlan, sizes: Sizes, workers: int) -> int:
    """Bytes that a convolution takes besides its result."""
    tile, taps = sizes.tile, plan.kernel_size[0]
    channels = plan.in_channels // plan.groups
    near = _band_step(tile, taps, channels) + tile.columns
    numbers = ELEMENTS * (sizes.band * near + 2 * PAD) + _part_size(tile, sizes.chunk) + PAD
    numbers += (6 * (4 * SEGMENT + 2) + 5 * tile.lanes) * tile.lanes
    ready = plan.groups * sizes.blocks * taps * -(-channels // sizes.chunk) * _part_size(tile, sizes.chunk) + PAD
    biases = plan.groups * sizes.blocks * tile.columns
    return (workers * numbers + sizes.ready * ready + biases) * FLOAT.itemsize


def _band_step(tile: Tile, taps: int, channels: int) -> int:
    return taps * _up(channels, tile.lanes) + PAD


def _part_size(tile: Tile, chunk: int) -> int:
    return ELEMENTS * (chunk * tile.columns + PAD)


def _cycles(plan: ConvPlan, sizes: Sizes) -> float:
    """What the steps take, as measured on one core of an AMD EPYC of the Zen 4 kind (AVX-512, one FMA a cycle)."""
    tile, terms = sizes.tile, plan.in_channels // plan.groups * plan.kernel_size[0]
    total = plan.batch * volume(sizes.tiles)
    bands = -(-total // sizes.band)
    out = -(-plan.out_channels // plan.groups // tile.lanes)
    sums = _up(total, tile.rows) * ELEMENTS * terms * sizes.blocks * tile.vectors / FMAS / 0.9
    patches = total * -(-terms // tile.lanes) * 500
    outputs_ = total * out * 400
    filters_ = terms * out * 280 * (1 if sizes.ready else bands)
    return plan.groups * (sums + patches + outputs_ + filters_) + 20_000


def _cycles_directly(plan: ConvPlan) -> float:
    """What the direct sum takes at seven eighths of the peak, and to pack its weights."""
    weights = plan.out_channels * plan.in_channels // plan.groups * volume(plan.kernel_size)
    return weights * (plan.batch * volume(plan.output_size) / PRODUCTS[0].lanes / FMAS / 0.875 + 1)


# ---------------------------------------------------------------- forward


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array) -> bool:
    """Convolve x (N, C, D, H, W) with weight (groups, C_out / groups, C_in / groups, depth, 3, 3).

    False if so much is not finite that all is better summed directly; `out` then is unfinished.
    """
    sizes = _sizes(plan)
    assert sizes is not None  # it was chosen
    groups, per_group, channels, taps = weight.shape[:4]
    near = sizes.blocks * sizes.tile.columns
    biases = np.zeros((groups, near), FLOAT)
    if bias is not None:
        biases[:, :per_group] = bias.reshape(groups, per_group)
    if weight.strides[4:] not in ((12, 4), (-12, -4)):
        weight = np.ascontiguousarray(weight)
    flipped = weight.strides[5] < 0
    job = Job(
        x.ctypes.data, x.strides, x.shape[2:], plan.before, out.ctypes.data, out.strides, out.shape[2:],
        weight.ctypes.data - 32 * flipped, weight.strides[:4], flipped, biases.ctypes.data, near, then,
        x.shape[0], groups, channels, per_group, taps, sizes.tiles, sizes.band, sizes.chunk, sizes.blocks, 0, 0,
        sizes.tile.rows, sizes.tile.columns, sizes.tile.loop,
    )  # fmt: skip
    held = [x, weight, biases, out]
    if sizes.ready:
        parts = groups * sizes.blocks * taps * -(-channels // sizes.chunk)
        held.append(np.empty(parts * _part_size(sizes.tile, sizes.chunk) + PAD, FLOAT))
        job = job._replace(spectra=_up(held[-1].ctypes.data, 64))
        threads.run(_make_ready, parts, weight.size * 10 / WORK, sizes.tile.unit, job, keep=held)
    total = plan.batch * volume(sizes.tiles)
    items = -(-total // sizes.band) * groups * sizes.blocks
    doubtful = np.zeros(items, np.int64)
    job = job._replace(repairs=total * groups * per_group // SLOWER)
    work = min(total * ELEMENTS * channels * taps * near * groups / WORK, sizes.workers * threads.GRAIN)
    threads.run(_convolve, items, work, sizes.tile.unit, job, doubtful, keep=held)
    return bool(doubtful.sum() <= job.repairs)


# ---------------------------------------------------------------- kernels


@kernel
def _make_ready(start, stop, unit, job):
    """A work item is the spectra of the filters of a block of output channels for a chunk of channels."""
    size = ELEMENTS * (job.chunk * job.columns + PAD)
    parts = job.taps * -(-job.channels // job.chunk)
    for item in range(start, stop):
        rest, part = divmod(item, parts)
        g, block = divmod(rest, job.blocks)
        _filter_spectra(unit, job, g, block, part, job.spectra + item * size * 4)


@kernel
def _filter_spectra(unit, job, g, block, part, to):
    """Transform the filters of a block of output channels for one part of the terms, to (36, channels, block)."""
    plane = job.chunk * job.columns + PAD
    tap, first = _part(job, part)
    source = job.weight + g * job.weight_strides[0] + tap * job.weight_strides[3] + first * job.weight_strides[2]
    for i in range(0, min(job.columns, job.per_group - block * job.columns), lanes(unit)):
        o = block * job.columns + i
        here = source + o * job.weight_strides[1]
        for c in range(min(job.chunk, job.channels - first)):
            filters(
                unit, to + (c * job.columns + i) * 4, plane, here + c * job.weight_strides[2],
                job.weight_strides[1] // 4, job.per_group - o, job.flipped,
            )  # fmt: skip


@kernel
def _part(job, part):
    """The tap along the depth, and the first channel, of a part of the terms."""
    tap, chunk = divmod(part, -(-job.channels // job.chunk))
    return tap, chunk * job.chunk


@kernel
def _convolve(start, stop, unit, job, doubtful):
    """A work item is a band of tiles for a block of output channels; blocks vary fastest and share the band's spectra.

    Reads the band's inputs and the block's filters once, writes its outputs once. Tells at `start` how many tiles of a
    channel had results that are not finite. With more than may be repaired it stops: all will be summed directly.
    """
    padded = -(-job.channels // lanes(unit)) * lanes(unit)
    step = job.taps * padded + PAD
    plane, sums_plane = job.band * step + PAD, job.band * job.columns + PAD
    part_size = ELEMENTS * (job.chunk * job.columns + PAD)
    parts = job.taps * -(-job.channels // job.chunk)
    total = job.images * job.tiles[0] * job.tiles[1] * job.tiles[2]
    memory = np.empty(ELEMENTS * (plane + sums_plane) + part_size + PAD, np.float32)
    spectra = (memory.ctypes.data + 63) // 64 * 64
    sums = spectra + ELEMENTS * plane * 4
    own = sums + ELEMENTS * sums_plane * 4
    gathered = np.empty((6 * (4 * SEGMENT + 2) + lanes(unit)) * lanes(unit), np.float32)
    pixels = np.empty((lanes(unit), 4, lanes(unit)), np.float32)
    doubt = np.zeros(lanes(unit) // 4, np.int64)
    ready = -1
    for item in range(start, stop):
        rest, block = divmod(item, job.blocks)
        band, g = divmod(rest, job.groups)
        first = band * job.band
        last = min(first + job.band, total)
        if rest != ready:
            tile_spectra(
                unit, (job.x, job.x_strides, job.size), job.tiles, job.before, job.taps, g * job.channels,
                job.channels, first, last, gathered, spectra, plane, step, padded,
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
            for e in range(ELEMENTS):
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
    keep(memory, gathered, pixels, doubt)


@kernel
def place(tiles, t):
    """Where a tile lies: image, depth, row of tiles, tile of the row."""
    rest, across = divmod(t, tiles[2])
    rest, down = divmod(rest, tiles[1])
    n, d = divmod(rest, tiles[0])
    return n, d, down, across


@kernel
def tile_spectra(unit, x, tiles, before, taps, channel, channels, first, last, gathered, to, plane, step, padded):
    """Transform the patches of tiles `first` to `last`, of some channels, to (36, tiles, taps, channels)."""
    row = (4 * SEGMENT + 2) * lanes(unit)
    for tap in range(taps):
        t = first
        while t < last:
            n, d, down, across = place(tiles, t)
            count = min(SEGMENT, last - t, tiles[2] - across)
            for c in range(0, channels, lanes(unit)):
                z, h, w = d + tap - before[0], 4 * down - before[1], 4 * across - before[2]
                gather_rows(unit, x, gathered, 6, n, channel + c, channels - c, z, h, w, 4 * count + 2)
                for i in range(count):
                    here = to + ((t - first + i) * step + tap * padded + c) * 4
                    spectrum(unit, here, plane, gathered.ctypes.data + i * 4 * lanes(unit) * 4, row)
            t += count


@kernel
def gather_rows(unit, x, gathered, rows, n, c, channels, z, h0, w0, width):
    """Some rows of `width` pixels, channels side by side, zeros where the padding is."""
    address, strides, size = x
    row = (4 * SEGMENT + 2) * lanes(unit)
    low = min(width, max(0, -w0))
    high = max(low, min(width, size[2] - w0))
    inside = 0 <= z < size[0] and low < high
    for i in range(rows):
        h = h0 + i
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
            for p in range(low, high):
                pixel = gathered.ctypes.data + (at + p * lanes(unit)) * 4
                copy(unit, pixel, 1, source + (p - low) * strides[4], min(channels, lanes(unit)))
        else:
            for p in range(high - low):
                for k in range(min(channels, lanes(unit))):
                    number = source + p * strides[4] + k * strides[1]
                    gathered[at + (low + p) * lanes(unit) + k] = peek(number)
        for k in range(high * lanes(unit), width * lanes(unit)):
            gathered[at + k] = 0


@kernel
def _finish(unit, job, g, block, first, last, sums, plane, pixels, doubt, repairs):
    """Turn a band's sums into outputs: as many tiles of a row as make a vector of pixels, and then their lines.

    Says how many tiles of a channel have results that are not finite; up to `repairs` of them are summed directly.
    """
    found = 0
    strides = job.out_strides
    here = pixels.ctypes.data
    for i in range(0, min(job.columns, job.per_group - block * job.columns), lanes(unit)):
        o = block * job.columns + i
        count = min(lanes(unit), job.per_group - o)
        bias = job.bias + (g * job.bias_step + o) * 4
        t = first
        while t < last:
            n, d, down, across = place(job.tiles, t)
            together = min(lanes(unit) // 4, last - t, job.tiles[2] - across)
            for k in range(together):
                source = sums + ((t + k - first) * job.columns + i) * 4
                outputs(unit, here + k * 16, source, plane, bias, job.then == RELU, doubt.ctypes.data + k * 8)
            if job.then > RELU:
                call(job.then, here, here, 0, 1, count * 4 * lanes(unit))
            h, w = 4 * down, 4 * across
            high, wide = min(4, job.out_size[1] - h), min(4 * together, job.out_size[2] - w)
            to = job.out + n * strides[0] + (g * job.per_group + o) * strides[1] + d * strides[2]
            to += h * strides[3] + w * strides[4]
            if strides[4] == 4:
                bring(unit, to, strides[1] // 4, strides[3] // 4, here, count, high, wide)
            elif strides[1] == 4:
                for row in range(high):
                    line = here + row * lanes(unit) * 4
                    transpose(unit, to + row * strides[3], strides[4] // 4, line, 4 * lanes(unit), count, wide)
            else:
                _bring_apart(to, strides, pixels, count, high, wide)
            for k in range(together):
                for c in range(count if doubt[k] else 0):
                    if doubt[k] >> c & 1:
                        found += 1
                        if found <= repairs:
                            _sum_directly(job, g, o + c, n, d, h, w + 4 * k)
            t += together
    return found


@kernel
def _bring_apart(to, strides, pixels, channels, high, wide):
    """What `bring` does, to rows whose pixels do not lie side by side."""
    for c in range(channels):
        for i in range(high):
            for j in range(wide):
                poke(to + c * strides[1] + i * strides[3] + j * strides[4], pixels[c, i, j])


@kernel
def _sum_directly(job, g, o, n, d, h0, w0):
    """The outputs of a tile by the definition, for one output channel of a group: padding is zeros."""
    strides = job.out_strides
    to = job.out + n * strides[0] + (g * job.per_group + o) * strides[1] + d * strides[2]
    bias = job.bias + (g * job.bias_step + o) * 4
    for h in range(h0, min(h0 + 4, job.out_size[1])):
        for w in range(w0, min(w0 + 4, job.out_size[2])):
            total: Any = peek(bias)
            for c in range(job.channels):
                for tap in range(job.taps * 9):
                    total += _input(job, n, g * job.channels + c, d, h, w, tap) * _weight(job, g, o, c, tap)
            if job.then == RELU and total < 0:
                total = np.float32(0)
            place = to + h * strides[3] + w * strides[4]
            poke(place, total)
            if job.then > RELU:
                call(job.then, place, place, 0, 1, 1)


@kernel
def _input(job, n, c, d, h, w, tap):
    """What the tap of a window meets."""
    z, y, x = d + tap // 9 - job.before[0], h + tap % 9 // 3 - job.before[1], w + tap % 3 - job.before[2]
    if 0 <= z < job.size[0] and 0 <= y < job.size[1] and 0 <= x < job.size[2]:
        s = job.x_strides
        return peek(job.x + n * s[0] + c * s[1] + z * s[2] + y * s[3] + x * s[4])
    return np.float32(0)


@kernel
def _weight(job, g, o, c, tap):
    s = job.weight_strides
    near = 8 - tap % 9 if job.flipped else tap % 9
    return peek(job.weight + g * s[0] + o * s[1] + c * s[2] + tap // 9 * s[3] + near * 4)
