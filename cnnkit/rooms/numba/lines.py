"""Lines: a convolution in 1, 2 or 3 dimensions becomes a one-dimensional one.

A *line* holds one number of a channel for each window, in the order of the outputs: tap ``t`` of window ``p`` reads
``line[shift[t] + p]``. Along the first axis that is longer than 1, taps are shifts by whole rows. Along the axes behind
it, where a shift would run over the end of a row, every tap has a line of its own, its *phase*: the row as that tap
sees it, padding included. A stride only means that a line takes every `stride`-th element, so nothing is computed that
no window asks for. Images are too small to fill vectors have their lines `together`, end to end, a phase for every tap.

A band of lines is laid out when it is needed, in memory that stays in the cache, and forgotten. Where a line would be a
copy of memory as it stands (1x1 kernels; one axis without padding and stride) it is read there, *in place*.

On the way back through a stride, the results (elements of the input gradient) of each remainder by the stride, a
*residue*, have taps of their own; all read the same lines.
"""

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Ints, Slices, input_gradient, volume
from cnnkit.rooms.numba.emit import itemsize
from cnnkit.rooms.numba.machine import address_of
from cnnkit.rooms.numba.moves import STEPS, fill, transpose
from cnnkit.rooms.numba.straight import apart


class Residue(NamedTuple):
    """Results that are summed alike: where the first is, and along each axis its taps.

    A tap is the element of x that window 0 meets with it (negative in the padding), and its place in the kernel.
    """

    first: Ints
    taps: tuple[list[tuple[int, int]], ...]


class Windows(NamedTuple):
    """What is summed: windows on a grid of `size`, `stride` elements of x apart; a result for each residue of each.

    The results of a residue lie `apart` from each other.
    """

    batch: int
    input_size: Ints
    stride: Ints
    size: Ints
    apart: Ints
    residues: list[Residue]

    def offsets(self, axis: int) -> list[int]:
        """The elements that window 0 meets."""
        return sorted({offset for residue in self.residues for offset, _ in residue.taps[axis]})

    @property
    def lead(self) -> int:
        """The first axis that is longer than 1: the slowest in memory."""
        return next((axis for axis in range(2) if self.size[axis] > 1 or len(self.offsets(axis)) > 1), 2)

    @property
    def in_place(self) -> bool:
        """Whether a line would be a copy of a contiguous plane: no stride, no padding, only shifts by whole rows."""
        axes = [self.offsets(axis) for axis in range(3)]
        return (
            self.stride == ONES
            and all(offsets == [0] for offsets in axes[self.lead + 1 :])
            and all(offsets[0] == 0 for offsets in axes)
            and self.input_size == tuple(n + offsets[-1] for n, offsets in zip(self.size, axes, strict=True))
        )


class Lines(NamedTuple):
    """The lines of windows over three spatial axes.

    `size` is the grid of positions of an image, with those that only taps reach; `together` says that one line has all
    images; a line has `run` windows, and taps reach `reach` positions farther. `table` has the phases, per phase the
    element (d, h, w) of the image at position 0, negative in the padding, and which rows and columns of positions, from
    and below, lie in the image; then the residues, per residue its number of taps and its first result (d, h, w); then
    all taps in that order, per tap its phase, its shift, and its place (d, h, w) in the kernel.
    """

    size: Ints
    together: bool
    run: int
    reach: int
    phases: int
    table: Array
    at: int  # the table's address


COLUMNS = 7  # of a table
FILL = (0, 5, 8, 11, 14, 48)  # cycles to lay out a vector of numbers 1, 2, 3, 4 and more apart
TURN = 300  # cycles to turn a square of as many vectors as they have lanes
TURN_NEAR = 110  # the same if the rows lie together
ZEROS, ONES = (0, 0, 0), (1, 1, 1)
MANY = 16  # residues
NEAR = STEPS[-1]  # numbers of a row that are no farther apart are taken by whole vectors


class Block(NamedTuple):
    """An array (N, C, D, H, W) in a kernel: an address, steps in elements, sizes."""

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


def numbers(array: Array) -> Ints:
    """An array (N, C, *spatial) as numbers for a kernel: its address, strides and sizes over three spatial axes.

    Whoever calls keeps the array alive. Plain tuples of ints are what Numba takes fastest.
    """
    strides, shape, more = array.strides, array.shape, 5 - array.ndim
    return (address_of(array), *strides[:2], *ZEROS[:more], *strides[2:], shape[0], *ONES[:more], *shape[2:])


def block(unit, numbers):
    """The `numbers` of an array as a `Block`."""
    bytes_ = itemsize(unit)
    address, n, c, d, h, w, batch, depth, height, width = numbers
    return Block(address, n // bytes_, c // bytes_, d // bytes_, h // bytes_, w // bytes_, batch, depth, height, width)


def forward(plan: ConvPlan) -> Windows:
    """The windows of a convolution."""
    taps = tuple(
        [(k * dilation - before, k) for k in range(size)]
        for size, dilation, before in zip(plan.kernel_size, plan.dilation, plan.before, strict=True)
    )
    return Windows(plan.batch, plan.input_size, plan.stride, plan.output_size, ONES, [Residue(ZEROS, taps)])


def backward(plan: ConvPlan) -> Windows:
    """Windows on the output gradient of a convolution: one for each stride, with as many results of the input gradient.

    Where there are too many, those that no tap reaches are left out.
    """
    reached = {
        tuple(of.start for of in phase.of[2:]): _gradient_taps(phase.kernel[2:], phase.plan, plan.kernel_size)
        for phase in input_gradient(plan)
        if phase.plan
    }
    every = product(*map(range, plan.stride)) if volume(plan.stride) <= MANY else reached
    residues = [Residue(one, reached.get(one, ([], [], []))) for one in every]
    size = tuple(parts(n, stride) for n, stride in zip(plan.input_size, plan.stride, strict=True))
    return Windows(plan.batch, plan.output_size, ONES, size, plan.stride, residues)


def _gradient_taps(kernel: Slices, plan: ConvPlan, kernel_size: Ints) -> tuple[list[tuple[int, int]], ...]:
    axes = zip(kernel, kernel_size, plan.before, plan.dilation, strict=True)
    return tuple(
        [(move * j - before, k) for j, k in enumerate(range(size)[taken])] for taken, size, before, move in axes
    )


def solve(windows: Windows, together: bool) -> Lines:
    """The lines of windows, images each by itself or together."""
    axes = [_places(windows, axis, apart=together or axis > windows.lead) for axis in range(3)]
    starts = [sorted({start for start, _ in places.values()}) for places in axes]
    size = tuple(n + max(shift for _, shift in places.values()) for n, places in zip(windows.size, axes, strict=True))
    which = {phase: number for number, phase in enumerate(product(*starts))}
    table = [
        (*phase, *(end for axis in (1, 2) for end in _inside(phase[axis], windows, size, axis))) for phase in which
    ]
    table += [(math.prod(map(len, taps)), *first, 0, 0, 0) for first, taps in windows.residues]
    reach = 0
    for residue in windows.residues:
        for tap in product(*residue.taps):
            places = [axis[offset] for axis, (offset, _) in zip(axes, tap, strict=True)]
            (_, d), (_, h), (_, w) = places
            shift = (d * size[1] + h) * size[2] + w
            reach = max(reach, shift)
            table.append((which[tuple(start for start, _ in places)], shift, *(k for _, k in tap), 0, 0))
    run = volume(windows.size) * (windows.batch if together else 1)
    numbers_ = np.array(table, np.int64)
    return Lines(size, together, run, reach, len(which), numbers_, numbers_.ctypes.data)


def cycles(windows: Windows, channels: int, lanes: int, apart: int) -> float:
    """About how many cycles it takes to lay out a window of one phase, of all channels.

    If channels lie together, pixels are `apart`, else that is 0.
    """
    width, step = windows.size[2], windows.stride[2]
    beside = min(len(windows.offsets(2)), lanes)  # phases that are turned into lines together
    a_vector = channels * (FILL[step] if step <= NEAR else min(FILL[NEAR + 1], TURN_NEAR / beside))
    if apart > 1:
        a_vector = channels * FILL[apart * step] if apart * step <= NEAR else parts(channels, lanes) * TURN
    return a_vector * parts(width, lanes) / width


def _places(windows: Windows, axis: int, apart: bool) -> dict[int, tuple[int, int]]:
    """Per offset along an axis the first element of its phase, and its shift within it."""
    offsets, stride = windows.offsets(axis), windows.stride[axis]
    low = offsets[0]
    return {
        offset: (offset, 0) if apart else (low + (offset - low) % stride, (offset - low) // stride)
        for offset in offsets
    }


@lru_cache(1024)
def of_outputs(size: Ints) -> tuple[int, Array]:
    """The table of lines of something that has one number for each window, of an image of a size; first its address."""
    table = np.array([(0, 0, 0, 0, size[1], 0, size[2])], np.int64)
    return table.ctypes.data, table


def _inside(first: int, windows: Windows, size: Ints, axis: int) -> tuple[int, int]:
    """The positions low <= k < high of an axis that lie in the image, if position 0 is element `first`."""
    stride, positions = windows.stride[axis], size[axis]
    low = min(positions, max(0, -(first // stride)))
    return low, max(low, min(positions, (windows.input_size[axis] - 1 - first) // stride + 1))


def parts(n: int, size: int) -> int:
    """How many parts of a size n takes."""
    return -(-n // size)


def pitch(length: int, lanes: int) -> int:
    """How far apart lines of a length begin: a vector behind each, and not all in one set of the cache."""
    apart = parts(length, lanes) * lanes + lanes
    return apart if apart % (16 * lanes) else apart + lanes


@apart
def lay_out(unit, to, pitch, length, x, first, channels, image, position, size, stride, table, phases):
    """Lay out `channels` channels of x from `first` on: each phase's `length` numbers from a position of an image on.

    A line begins every `pitch` numbers, phases of a channel next to each other. Every number is written once, in
    ascending order and whole vectors: what is too much at the end of some rows is overwritten by the next ones, and
    behind a line there must be room for a vector. Behind the last image come zeros.
    """
    bytes_ = itemsize(unit)
    row, w_start = divmod(position, size[2])
    row, h_start = divmod(row, size[1])
    n_start, d_start = divmod(row, size[0])
    n_start += image
    head = min(size[2] - w_start, length) if w_start else 0
    lie_together = x.c == 1 and channels > 1 and stride[2] * x.w > NEAR  # channels do: they are turned into lines
    turned = lie_together or (x.w == 1 and stride[2] > NEAR)  # and so are phases, where they lie side by side
    whole = (length - head) // size[2]
    phase, beside = 0, 1
    while phase < phases:
        row = table + 8 * COLUMNS * phase
        d_first, h_first, w_first, h_low, h_high, w_low, w_high = (
            row[0], row[1], row[2], row[3], row[4], row[5], row[6],
        )  # fmt: skip
        if turned and not lie_together:
            beside = _neighbours(table, phase, phases, size[2])
        n, d, h, w, left, done = n_start, d_start, h_start, w_start, whole, 0
        while done < length:
            rows, count = 1, size[2]
            if done < head:
                count = head
            elif left:
                rows = min(size[1] - h, left)
                left -= rows
            else:
                count = length - done
            at = d * stride[0] + d_first
            low, high = max(0, min(w_low - w, count)), max(0, min(w_high - w, count))
            above, below = max(0, min(h_low - h, rows)), max(0, min(h_high - h, rows))
            if n >= x.batch or at < 0 or at >= x.depth:
                above, below = 0, 0
            offset = (
                n * x.n + first * x.c + at * x.d + (h * stride[1] + h_first) * x.h + (w * stride[2] + w_first) * x.w
            )
            to_rows, from_rows = to + (phase * pitch + done) * bytes_, x.address + offset * bytes_
            if not lie_together and beside == 1:
                fill(
                    unit, to_rows, phases * pitch, from_rows, channels, x.c,
                    rows, stride[1] * x.h, above, below, count, stride[2] * x.w, low, high,
                )  # fmt: skip
            else:
                if low > 0 or high < count or above > 0 or below < rows:
                    for i in range(beside):
                        there = to_rows + i * pitch * bytes_
                        fill(unit, there, phases * pitch, from_rows, channels, 0, rows, 0, 0, 0, count, 1, 0, 0)
                for j in range(above, below):
                    row = from_rows + (j * stride[1] * x.h + low * stride[2] * x.w) * bytes_
                    there, wide = to_rows + (j * count + low) * bytes_, high - low
                    if lie_together:
                        transpose(unit, there, phases * pitch, row, stride[2] * x.w, wide, channels)
                    else:
                        for c in range(channels):
                            here = there + c * phases * pitch * bytes_
                            transpose(unit, here, pitch, row + c * x.c * bytes_, stride[2], wide, beside)
            done += rows * count
            w, h = 0, h + rows
            if h == size[1]:
                h, d = 0, d + 1
            if d == size[0]:
                d, n = 0, n + 1
        phase += beside


def _neighbours(table, phase, phases, width):
    """How many phases from one on lie side by side in x for every position of a row; 1 if not even two do."""
    first, end = table + 8 * COLUMNS * phase, phase
    while end < phases:
        row = table + 8 * COLUMNS * end
        beside = row[0] == first[0] and row[1] == first[1] and row[2] == first[2] + end - phase
        if not (beside and row[5] == 0 and row[6] == width):
            break
        end += 1
    return max(1, end - phase)
