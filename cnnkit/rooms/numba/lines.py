"""Lines: a convolution in 1, 2 or 3 dimensions becomes a one-dimensional one.

A *line* is one channel laid out in memory so that every window is a single number, the position ``p`` of its first
tap, and every tap a single shift: tap ``t`` of window ``p`` reads ``line[shift[t] + p]``, whatever the number of axes
and the dilation. Positions between the windows (at the end of each row, say) are computed and thrown away.

Where there is neither padding nor stride, the planes of ``x`` are such lines as they stand. Otherwise one pass lays the
channels out: the padded images of the batch end to end and, where windows step by a stride, split into *phases*, the
elements with equal remainder one after the other, so that neighbouring windows still read neighbouring elements.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.tile import copy, tiles

OVERRUN = 256  # elements behind the last line: no tile is wider


class Grid(NamedTuple):
    """Where windows and taps lie in the lines of a plan over three spatial axes.

    `size` is the grid of positions of one image, `images` how many lines a channel has (1 where a batch is laid end to
    end), `run` the positions of a line up to its last window, `shift` per tap (row-major) its offset.
    """

    size: Ints
    images: int
    run: int
    shift: Ints


class Layout(NamedTuple):
    """How channels are laid out: `phases` the remainders (d, h, w) that are kept, one after the other in a line of
    `length` elements, each `phase_length` long, with `slack` zeros behind the last line for taps and tiles to reach."""

    phases: tuple[Ints, ...]
    phase_length: int
    length: int
    slack: int


class Operand(NamedTuple):
    """Lines in memory: element ``address + (n * image + c * channel + p) * itemsize``; `memory` keeps them alive."""

    memory: Array
    address: int
    image: int
    channel: int


def address(array: Array) -> int:
    return array.__array_interface__["data"][0]


# ---------------------------------------------------------------- lines as they stand


def has_lines(x: Array, plan: ConvPlan) -> bool:
    """Whether the planes of x serve as they stand: no stride, no padding, no gaps."""
    return (
        plan.stride == (1, 1, 1)
        and plan.before == (0, 0, 0)
        and plan.after == (0, 0, 0)
        and plan.batch > 0
        and x[0, 0].flags.c_contiguous
    )


@lru_cache(1024)
def grid_in_place(plan: ConvPlan) -> Grid:
    size = plan.input_size
    return Grid(size, plan.batch, _last(plan, size) + 1, _steps(plan, size))


def in_place(x: Array) -> Operand:
    return Operand(x, address(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize)


# ---------------------------------------------------------------- lines laid out


@lru_cache(1024)
def solve(plan: ConvPlan) -> tuple[Grid, Layout]:
    """The lines of a plan, images end to end."""
    size = tuple(_positions(plan, axis) for axis in range(3))
    remainders = [sorted({tap % plan.stride[axis] for tap in taps}) for axis, taps in enumerate(_taps(plan))]
    phases = tuple(product(*remainders))
    length = plan.batch * volume(size)
    run = length - volume(size) + _last(plan, size) + 1
    steps = _steps(plan, size)
    which = {phase: n for n, phase in enumerate(phases)}
    remainder = [tuple(t % s for t, s in zip(tap, plan.stride, strict=True)) for tap in product(*_taps(plan))]
    shift = tuple(which[phase] * length + step for phase, step in zip(remainder, steps, strict=True))
    return Grid(size, 1, run, shift), Layout(phases, length, length * len(phases), max(steps) + OVERRUN)


def _last(plan: ConvPlan, size: Ints) -> int:
    """The position of an image's last window."""
    d, h, w = plan.output_size
    return ((d - 1) * size[1] + h - 1) * size[2] + w - 1


def _taps(plan: ConvPlan) -> list[list[int]]:
    """Per axis, how many elements each tap lies behind the first one."""
    return [[k * d for k in range(n)] for n, d in zip(plan.kernel_size, plan.dilation, strict=True)]


def _steps(plan: ConvPlan, size: Ints) -> Ints:
    """Per tap, how many positions it lies behind the first one, in its phase."""
    return tuple(_step(tap, plan.stride, size) for tap in product(*_taps(plan)))


def _step(tap: Ints, stride: Ints, size: Ints) -> int:
    d, h, w = (t // s for t, s in zip(tap, stride, strict=True))
    return (d * size[1] + h) * size[2] + w


def _positions(plan: ConvPlan, axis: int) -> int:
    """How long the grid is along an axis: with stride 1 the padding behind a row also serves before the next one."""
    stride, size, before = plan.stride[axis], plan.input_size[axis], plan.before[axis]
    span = plan.dilation[axis] * (plan.kernel_size[axis] - 1) + 1
    needed = (plan.output_size[axis] - 1) * stride + span
    if stride > 1:
        return -(-needed // stride)
    return needed - max(0, min(before, needed - before - size, span - 1))


def lay_out(x: Array, plan: ConvPlan, grid: Grid, layout: Layout) -> Operand:
    """All channels of x (N, C, D, H, W) as lines."""
    return _filled(x, grid.size, layout, plan.stride, plan.before)


def lay_out_windows(y: Array, grid: Grid) -> Operand:
    """All channels of something that has one number per window, at the windows' positions; zero between them."""
    run = y.shape[0] * volume(grid.size)
    return _filled(y, grid.size, Layout(((0, 0, 0),), run, run, 0), (1, 1, 1), (0, 0, 0))


def _filled(x: Array, size: Ints, layout: Layout, stride: Ints, before: Ints) -> Operand:
    lines = np.empty(x.shape[1] * layout.length + layout.slack, x.dtype)
    lines[lines.size - layout.slack :] = 0
    phases = np.array(layout.phases)
    items = x.shape[0] * x.shape[1]
    one, work = tiles("inner", x.dtype)[0], lines.size / 2
    args = (one, x, address(x), size, phases, stride, before, lines, layout.phase_length, layout.length)
    threads.run(_fill, items, work, *args)
    return Operand(lines, address(lines), volume(size), layout.length)


@kernel
def _fill(start, stop, tile, x, x_address, size, phases, stride, before, lines, phase_length, length):
    """Copy images of channels into their lines, padding with zeros: x is read once, the lines are written once."""
    batch, _, depth, height, width = x.shape
    contiguous = stride[2] == 1 and x.strides[4] == x.itemsize
    to = lines.ctypes.data
    for item in range(start, stop):
        c, n = divmod(item, batch)
        for phase in range(len(phases)):
            at = c * length + phase * phase_length + n * (size[0] * size[1] * size[2])
            d0, h0, w0 = phases[phase, 0] - before[0], phases[phase, 1] - before[1], phases[phase, 2] - before[2]
            low = min(size[2], max(0, -(w0 // stride[2])))
            high = max(low, min(size[2], (width - 1 - w0) // stride[2] + 1))
            for i in range(size[0]):
                d = i * stride[0] + d0
                for j in range(size[1]):
                    h = j * stride[1] + h0
                    if 0 <= d < depth and 0 <= h < height:
                        for k in range(low):
                            lines[at + k] = 0
                        if contiguous:
                            row = x_address + n * x.strides[0] + c * x.strides[1] + d * x.strides[2] + h * x.strides[3]
                            copy(tile, to + (at + low) * x.itemsize, row + (low + w0) * x.itemsize, high - low)
                        else:
                            for k in range(low, high):
                                lines[at + k] = x[n, c, d, h, k * stride[2] + w0]
                        for k in range(high, size[2]):
                            lines[at + k] = 0
                    else:
                        for k in range(size[2]):
                            lines[at + k] = 0
                    at += size[2]


def window_masks(grid: Grid, plan: ConvPlan, lanes: int) -> Array:
    """One 32-bit word for every `lanes` positions of a line; bit l says that a window of the plan is there."""
    there = np.zeros((plan.batch // grid.images, *grid.size), np.uint8)
    d, h, w = plan.output_size
    there[:, :d, :h, :w] = 1
    words = -(-grid.run // lanes)
    bits = np.zeros((words, 32), np.uint8)
    flat = np.zeros(words * lanes, np.uint8)
    flat[: grid.run] = there.ravel()[: grid.run]
    bits[:, :lanes] = flat.reshape(words, lanes)
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32).ravel()
