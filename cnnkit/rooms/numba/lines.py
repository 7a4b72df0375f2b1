"""Lines: a convolution in 1, 2 or 3 dimensions becomes a one-dimensional one.

A *line* holds one number of a channel for each window, in the order of the outputs: tap ``t`` of window ``p`` reads
``line[shift[t] + p]``. Along the first axis that is longer than 1, taps are shifts by whole rows. Along the axes behind
it, where a shift would run over the end of a row, every tap has a line of its own, its *phase*: the row as that tap
sees it, padding included. A stride only means that a line takes every `stride`-th element, so nothing is computed that
no window asks for. Images are too small to fill vectors have their lines `together`, end to end, a phase for every tap.

A band of lines is laid out when it is needed, in memory that stays in the cache, and forgotten. Where a line would be a
copy of memory as it stands (1x1 kernels; one axis without padding and stride) it is read there, *in place*.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, volume
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.tile import fill, itemsize

FILL = (0, 4, 8)  # cycles to lay out a vector of neighbours, of every other number; of others, LANE cycles for each
LANE = 4


class Lines(NamedTuple):
    """The lines of a plan over three spatial axes.

    `size` is the grid of positions of an image, with those that only taps reach; `together` says that one line has all
    images; a line has `run` windows, and taps reach `reach` positions farther. `table` is the phases, per phase the
    element (d, h, w) of the padded image at position 0, and behind them the taps in row-major order, per tap its phase
    and its shift.
    """

    size: Ints
    together: bool
    run: int
    reach: int
    phases: int
    table: Array


class Block(NamedTuple):
    """An array (N, C, D, H, W) as kernels see it: an address, steps in elements, sizes."""

    address: int
    n: int
    c: int
    d: int
    h: int
    w: int
    batch: int
    depth: int
    height: int
    width: int


def address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def block(array: Array) -> Block:
    """The array as numbers; whoever calls keeps it alive."""
    step, (batch, _, *size) = array.itemsize, array.shape
    return Block(address(array), *(stride // step for stride in array.strides), batch, *size)


def solve(plan: ConvPlan, together: bool) -> Lines:
    """The lines of a plan, images each by itself or together."""
    lead = first_axis(plan)
    axes = [_axis(plan, axis, apart=together or axis > lead) for axis in range(3)]
    starts, size = [sorted({start for start, _ in taps}) for _, taps in axes], tuple(length for length, _ in axes)
    phases = list(product(*starts))
    which = {phase: number for number, phase in enumerate(phases)}
    steps = size[1] * size[2], size[2], 1
    taps = []
    for tap in product(*(taps for _, taps in axes)):
        shift = sum(move * step for (_, move), step in zip(tap, steps, strict=True))
        taps.append((which[tuple(start for start, _ in tap)], shift, 0))
    table = np.array(phases + taps, np.int64)
    table.setflags(write=False)  # it is cached
    run = volume(plan.output_size) * (plan.batch if together else 1)
    return Lines(size, together, run, max(shift for _, shift, _ in taps), len(phases), table)


def first_axis(plan: ConvPlan) -> int:
    """The first axis that is longer than 1: the slowest in memory."""
    return next((axis for axis in range(2) if max(plan.output_size[axis], plan.kernel_size[axis]) > 1), 2)


def in_place(plan: ConvPlan) -> bool:
    """Whether a line would be a copy of a contiguous plane: no stride, no padding, only shifts by whole rows."""
    lead = first_axis(plan)
    return (
        plan.stride == (1, 1, 1)
        and plan.before == (0, 0, 0)
        and plan.after == (0, 0, 0)
        and all(plan.kernel_size[axis] == 1 for axis in range(lead + 1, 3))
    )


def _axis(plan: ConvPlan, axis: int, apart: bool) -> tuple[int, list[tuple[int, int]]]:
    """How many positions an axis has, and per tap the first element of its phase and its shift within it."""
    offsets = [k * plan.dilation[axis] for k in range(plan.kernel_size[axis])]
    stride = plan.stride[axis]
    taps = [(offset, 0) if apart else (offset % stride, offset // stride) for offset in offsets]
    return plan.output_size[axis] + max(shift for _, shift in taps), taps


@kernel
def lay_out(tile, to, length, x, first, image, position, channels, size, stride, before, table, phases):
    """Lay out `channels` channels of x from `first` on: each phase's `length` numbers from a position of an image on.

    Every number is written once, in ascending order, whole vectors at a time: what is too much at the end of a row is
    overwritten by the next one. Behind the last image come zeros.
    """
    bytes_ = itemsize(tile)
    row, w_start = divmod(position, size[2])
    row, h_start = divmod(row, size[1])
    n_start, d_start = divmod(row, size[0])
    n_start += image
    for c in range(first, first + channels):
        for phase in range(phases):
            d_first, h_first = table[phase, 0] - before[0], table[phase, 1] - before[1]
            w_first = table[phase, 2] - before[2]
            low = min(size[2], max(0, -(w_first // stride[2])))  # of a row's positions, those that lie in the image
            high = max(low, min(size[2], (x.width - 1 - w_first) // stride[2] + 1))
            n, d, h, w = n_start, d_start, h_start, w_start
            done = 0
            while done < length:
                count = min(size[2] - w, length - done)
                at_d, at_h = d * stride[0] + d_first, h * stride[1] + h_first
                source = x.address
                from_, until = 0, 0
                if n < x.batch and 0 <= at_d < x.depth and 0 <= at_h < x.height:
                    from_ = min(count, max(0, low - w))
                    until = max(from_, min(count, high - w))
                    offset = n * x.n + c * x.c + at_d * x.d + at_h * x.h + (w * stride[2] + w_first) * x.w
                    source += offset * bytes_
                fill(tile, to + done * bytes_, count, source, stride[2] * x.w, from_, until)
                done += count
                w, h = 0, h + 1
                if h == size[1]:
                    h, d = 0, d + 1
                if d == size[0]:
                    d, n = 0, n + 1
            to += length * bytes_

