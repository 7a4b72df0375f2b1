"""Convolution on lines (see `lines.py`), forward and backward, made of the two loops of `tile.py`.

The way back to the input is a forward convolution too, one for each stride phase; the way back to the weights takes the
inner products of lines.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.elementwise import row_sum
from cnnkit.rooms.numba.lines import Grid, Operand
from cnnkit.rooms.numba.machine import L2, WORKSPACE, kernel
from cnnkit.rooms.numba.tile import Tile, columns, copy, inner, lanes, outer, rows, tiles, vectors

MULTIPLY_ADDS = 64  # a nanosecond and core, about


def conv(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: str | None, out: Array) -> None:
    plan3 = geometry.lift(plan)
    forward(arrays.lift(x), _grouped(weight, plan), bias, plan3, activation == "relu", arrays.lift(out))


def conv_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    plan: ConvPlan,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if grad_x is not None:
        _backward_x(grad_output, weight, plan, grad_x)
    if grad_weight is not None:
        _backward_weight(arrays.lift(grad_output), arrays.lift(x), geometry.lift(plan), grad_weight)
    if grad_bias is not None:
        threads.run(sum_channels, plan.out_channels, grad_output.size, arrays.lift(grad_output), grad_bias)


def _grouped(weight: Array, plan: ConvPlan) -> Array:
    """Weights as (groups, C_out / groups, C_in / groups, D, H, W)."""
    kernel_size = (1,) * (5 - weight.ndim) + weight.shape[2:]
    return weight.reshape(plan.groups, plan.out_channels // plan.groups, weight.shape[1], *kernel_size)


def _chunks(plan: ConvPlan, itemsize: int, lines_of_output: bool) -> Iterator[tuple[slice, ConvPlan]]:
    """Parts of the batch whose lines fit in the workspace, an image at least."""
    grid, layout = lines.solve(plan._replace(batch=1))
    elements = plan.in_channels * layout.length + (plan.out_channels * volume(grid.size) if lines_of_output else 0)
    step = max(1, WORKSPACE // max(1, elements * itemsize))
    for first in range(0, plan.batch, step):
        images = slice(first, min(first + step, plan.batch))
        yield images, plan._replace(batch=images.stop - first)


@lru_cache(128)
def _offsets(shift: tuple[int, ...], channels: int, step: int) -> Array:
    """Per (channel, tap) of a group, in the order of the weights, where it lies from the group's first line."""
    offsets = np.add.outer(np.arange(channels) * step, np.array(shift)).ravel()
    offsets.setflags(write=False)  # it is cached
    return offsets


# ---------------------------------------------------------------- forward


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, relu: bool, out: Array) -> None:
    """Convolve x (N, C, D, H, W) with weight (groups, C_out / groups, C_in / groups, D, H, W)."""
    channels, terms = weight.shape[1], volume(weight.shape[2:])
    if lines.has_lines(x, plan):
        grid = lines.grid_in_place(plan)
        tile = _outer_tile(x.dtype, channels, terms, grid.run)
        if grid.run >= tile.columns:
            _sweep(tile, lines.in_place(x), grid, weight, bias, relu, out)
            return
    for images, part in _chunks(plan, x.itemsize, lines_of_output=False):
        grid, layout = lines.solve(part)
        tile = _outer_tile(x.dtype, channels, terms, grid.run)
        _sweep(tile, lines.lay_out(x[images], part, grid, layout), grid, weight, bias, relu, out[images])


@lru_cache(1024)
def _outer_tile(dtype: np.dtype, channels: int, terms: int, run: int) -> Tile:
    """The tile that takes the fewest cycles, by what was measured of them (on Zen 5, AVX-512).

    A term takes half a cycle for each multiply-add, or 1.85 for each vector (it mostly lies across two cache lines) and
    0.8 for each row, and not less than the 4 that a sum waits for itself; a tile, some more to begin and to store.
    """

    def cycles(tile: Tile) -> float:
        a_term = max(tile.rows * tile.vectors / 2, 1.85 * tile.vectors + 0.8 * tile.rows, 4)
        a_tile = terms * a_term + 60 + 2 * tile.rows * tile.vectors
        return -(-channels // tile.rows) * -(-run // tile.columns) * a_tile

    return min(tiles("outer", dtype), key=cycles)


def _sweep(tile: Tile, source: Operand, grid: Grid, weight: Array, bias: Array | None, relu: bool, out: Array) -> None:
    """Compute all positions of all lines, tile by tile."""
    groups = weight.shape[0]
    packed, biases = _pack(weight, bias, tile)
    offsets = _offsets(grid.shift, weight.shape[2], source.channel)
    alike = grid.images == out.shape[0] and grid.size[1:] == out.shape[3:] and out[0, 0].flags.c_contiguous
    gapless = alike and grid.run >= tile.columns
    stretches = -(-grid.run // tile.columns)
    group_step = weight.shape[2] * source.channel
    items = grid.images * stretches * groups * packed.shape[1]
    threads.run(
        _convolve, items, grid.images * grid.run * weight.size / MULTIPLY_ADDS,
        tile, source.address, source.image, group_step, lines.address(offsets), packed, biases, relu,
        out, lines.address(out), gapless, grid.images, grid.size, grid.run, keep=(source, offsets),
    )  # fmt: skip


def _pack(weight: Array, bias: Array | None, tile: Tile) -> tuple[Array, Array]:
    """Weights as (groups, blocks of output channels, terms, rows of a tile), and biases likewise: rows lie together."""
    groups, per_group = weight.shape[:2]
    blocks = -(-per_group // tile.rows)
    packed = np.empty((groups, blocks, volume(weight.shape[2:]), tile.rows), weight.dtype)
    threads.run(_pack_blocks, groups * blocks, weight.size, weight.reshape(*weight.shape[:3], -1), packed)
    biases = np.zeros((groups, blocks * tile.rows), weight.dtype)
    if bias is not None:
        biases[:, :per_group] = bias.reshape(groups, per_group)
    return packed, biases


@kernel
def _pack_blocks(start, stop, weight, packed):
    """Bring weight (groups, C_out / groups, C_in / groups, taps) into blocks; rows that are left over become zeros."""
    _, per_group, channels, taps = weight.shape
    _, blocks, _, size = packed.shape
    for item in range(start, stop):
        g, block = divmod(item, blocks)
        here = min(size, per_group - block * size)
        for c in range(channels):
            for i in range(here):
                for t in range(taps):
                    packed[g, block, c * taps + t, i] = weight[g, block * size + i, c, t]
        for t in range(channels * taps):
            for i in range(here, size):
                packed[g, block, t, i] = 0


@kernel
def _convolve(
    start, stop, tile, source, image_step, group_step, offsets, packed, biases, relu,
    out, out_address, gapless, images, size, run,
):  # fmt: skip
    """A work item is one tile: some output channels of a group at neighbouring positions of a line.

    Blocks of channels vary fastest, so that the stretch of lines that they all read stays in the cache. Where positions
    and outputs lie alike (`gapless`), a full tile goes straight to `out`; else by way of `sums`. The last stretch of
    a line begins early enough to end with it.
    """
    groups, blocks, terms, _ = packed.shape
    per_group = out.shape[1] // groups
    stretches = -(-run // columns(tile))
    sums = np.empty((rows(tile), columns(tile)), out.dtype)
    sums_address, weights, bias = sums.ctypes.data, packed.ctypes.data, biases.ctypes.data
    image_out, channel_out, itemsize = out.strides[0], out.strides[1], out.itemsize
    rest, block = divmod(start, blocks)
    rest, g = divmod(rest, groups)
    n, stretch = divmod(rest, stretches)
    for _ in range(start, stop):
        p = max(0, min(stretch * columns(tile), run - columns(tile)))
        here = source + (n * image_step + g * group_step + p) * itemsize
        row = (g * blocks + block) * rows(tile)
        first = g * per_group + block * rows(tile)
        last = min(first + rows(tile), (g + 1) * per_group)
        direct = gapless and last - first == rows(tile)
        to = out_address + n * image_out + first * channel_out + p * itemsize if direct else sums_address
        step = channel_out // itemsize if direct else columns(tile)
        outer(tile, to, step, bias + row * itemsize, relu, weights + row * terms * itemsize, here, offsets, terms)
        if not direct:
            _store(tile, sums, n, p, min(p + columns(tile), run), first, last, out, out_address, size)
        block += 1
        if block == blocks:
            block, g = 0, g + 1
        if g == groups:
            g, stretch = 0, stretch + 1
        if stretch == stretches:
            stretch, n = 0, n + 1


@kernel
def _store(tile, sums, image, p, end, first, last, out, out_address, size):
    """Bring the sums for positions p to end to channels `first` to `last` of out; those between windows are dropped."""
    depth, height, width = out.shape[2:]
    contiguous = out.strides[4] == out.itemsize
    at = 0
    row, w = divmod(p, size[2])
    row, h = divmod(row, size[1])
    n, d = divmod(row, size[0])
    n += image
    while p < end:
        length = min(size[2] - w, end - p)
        there = min(length, width - w) if h < height and d < depth else 0
        if there > 0 and contiguous:
            to = out_address + n * out.strides[0] + d * out.strides[2] + h * out.strides[3] + w * out.itemsize
            for o in range(first, last):
                source = sums.ctypes.data + (o - first) * sums.strides[0] + at * out.itemsize
                copy(tile, to + o * out.strides[1], source, there)
        elif there > 0:
            for o in range(first, last):
                for j in range(there):
                    out[n, o, d, h, w + j] = sums[o - first, at + j]
        p += length
        at += length
        w, h = 0, h + 1
        if h == size[1]:
            h, d = 0, d + 1
        if d == size[0]:
            d, n = 0, n + 1


# ---------------------------------------------------------------- backward


def _backward_x(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array) -> None:
    """Convolutions of the output gradient, the weights flipped, their input and output channels exchanged."""
    for phase in geometry.input_gradient(plan):
        if phase.plan is None:
            grad_x[phase.of] = 0
            continue
        flipped = _grouped(weight, plan)[(slice(None), *_three(phase.kernel))].swapaxes(1, 2)
        part = arrays.lift(grad_x[phase.of])
        forward(arrays.lift(grad_output), flipped, None, geometry.lift(phase.plan), False, part)


def _three(kernel_slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Slices of (C_out, C_in, *kernel) over three kernel axes."""
    return (*kernel_slices[:2], *(slice(None),) * (5 - len(kernel_slices)), *kernel_slices[2:])


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's stretch of a line with the output gradient's line."""
    terms = plan.in_channels // plan.groups * volume(plan.kernel_size)
    total = np.zeros((plan.groups, plan.out_channels // plan.groups, terms), x.dtype)
    in_place = lines.has_lines(x, plan)
    if in_place and plan.output_size == plan.input_size and grad_output[0, 0].flags.c_contiguous:
        grid = lines.grid_in_place(plan)
        correlate(lines.in_place(x), lines.in_place(grad_output), grid, plan, total)
        grad_weight[...] = total.reshape(grad_weight.shape)
        return
    for images, part in _chunks(plan, x.itemsize, lines_of_output=True):
        if in_place:
            grid, source = lines.grid_in_place(part), lines.in_place(x[images])
        else:
            grid, layout = lines.solve(part)
            source = lines.lay_out(x[images], part, grid, layout)
        correlate(source, lines.lay_out_windows(grad_output[images], grid), grid, part, total)
    grad_weight[...] = total.reshape(grad_weight.shape)


def correlate(x: Operand, grads: Operand, grid: Grid, plan: ConvPlan, total: Array) -> None:
    """Add to total (groups, C_out / groups, terms) the inner products of terms' lines with the groups' gradients."""
    groups, per_group, terms = total.shape
    wide, narrow = tiles("inner", total.dtype)
    tile = wide if per_group > narrow.vectors else narrow
    channels = plan.in_channels // groups
    offsets = _offsets(grid.shift, channels, x.channel)
    masks = lines.window_masks(grid, plan, tile.lanes)
    items = groups * -(-terms // tile.rows)
    work = grid.images * grid.run * total.size / MULTIPLY_ADDS
    threads.run(
        _correlate, items, work,
        tile, x.address, x.image, channels * x.channel, offsets, grads.address, grads.image, grads.channel,
        grid.images, masks, total, keep=(x, grads),
    )  # fmt: skip


@kernel
def _correlate(
    start, stop, tile, x, x_image, x_group, offsets, grads, grad_image, grad_channel, images, masks, total
):  # fmt: skip
    """A work item is `rows` neighbouring weights (channel, tap) of all the output channels of a group.

    Output channels and positions are taken in parts whose gradients stay in the cache; each part is summed by itself,
    and the parts' sums are added up in order.
    """
    _, per_group, terms = total.shape
    blocks = -(-terms // rows(tile))
    itemsize = total.itemsize
    sums = np.empty((rows(tile), vectors(tile)), total.dtype)
    x_offsets = np.empty(rows(tile), np.int64)
    g_offsets = np.empty(vectors(tile), np.int64)
    sums_, x_, g_ = sums.ctypes.data, x_offsets.ctypes.data, g_offsets.ctypes.data
    near = min(per_group, 32 * vectors(tile))
    part = min(512, max(16, L2 // (near * lanes(tile) * itemsize)))
    for n in range(images):
        for start_o in range(0, per_group, near):
            for block in range(0, masks.size, part):
                p = block * lanes(tile)
                count = min(part, masks.size - block)
                here = masks.ctypes.data + block * 4
                for item in range(start, stop):
                    g, term = divmod(item, blocks)
                    term *= rows(tile)
                    for i in range(rows(tile)):
                        x_offsets[i] = n * x_image + g * x_group + offsets[min(term + i, terms - 1)] + p
                    for o in range(start_o, min(start_o + near, per_group), vectors(tile)):
                        for j in range(vectors(tile)):
                            channel = g * per_group + min(o + j, per_group - 1)
                            g_offsets[j] = n * grad_image + channel * grad_channel + p
                        inner(tile, sums_, x, x_, grads, g_, here, count)
                        for j in range(min(vectors(tile), per_group - o)):
                            for i in range(min(rows(tile), terms - term)):
                                total[g, o + j, term + i] += sums[i, j]


@kernel
def sum_channels(start, stop, grad, out):
    """The sum of each channel of grad (N, C, D, H, W): rows in vector order, then row by row in float64."""
    batch, _, depth, height, _ = grad.shape
    for c in range(start, stop):
        total = np.float64(0)
        for n in range(batch):
            for d in range(depth):
                for h in range(height):
                    total += row_sum(grad[n, c, d, h])
        out[c] = total
