"""Convolution in groups of few channels, with channels last: a depthwise one of copies of x.

Where every output channel sees C channels of x, there are C copies of x that have a channel for each output channel:
the first, second ... of those that it sees. They are planes of a depth axis, over which a depthwise convolution sums.
Copies are made for a band of rows at a time and stay in the cache. Rows are copied with zeros around them, so that
neighbouring windows meet them with the same taps: with wide kernels that pays where C is 1, too.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import depthwise, lines
from cnnkit.rooms.numba.depthwise import Window
from cnnkit.rooms.numba.emit import itemsize, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import L2, VECTOR_BYTES, address_of
from cnnkit.rooms.numba.moves import STEPS, repeat
from cnnkit.rooms.numba.straight import straight

SPREAD = 8  # cycles to copy a vector
NEAR = 8 * L2  # bytes of copies: rows are copied again for each band, and are read in order


class Sizes(NamedTuple):
    """What the kernels count by: groups, channels of x and of the results in each; columns of a copy, of which so many
    are before x; rows of results and of copies in a band, and how many bands an image has.

    It comes to kernels as a plain tuple of ints, which Numba takes faster.
    """

    groups: int
    channels: int
    per_group: int
    wide: int
    before: int
    band: int
    high: int
    bands: int


@lru_cache(1024)
def cycles(plan: ConvPlan, dtype: np.dtype) -> float:
    """About how many cycles it takes, over three spatial axes; infinitely many if it cannot be done."""
    channels, per_group = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    flat = plan.input_size[0] == plan.kernel_size[0] == plan.output_size[0] == 1
    if not flat or not 0 < max(channels, per_group) <= STEPS[-1] or plan.out_channels < depthwise.FEWEST:
        return math.inf
    sizes, vectors = _sizes(plan, dtype), parts(plan.out_channels, VECTOR_BYTES // dtype.itemsize)
    copied = sizes.bands * sizes.high * sizes.wide * channels
    if copied * plan.out_channels * dtype.itemsize > 2 * NEAR * sizes.bands:
        return math.inf
    return depthwise.cycles(_copied(plan, sizes), dtype) + plan.batch * vectors * copied * SPREAD


@lru_cache(1024)
def _sizes(plan: ConvPlan, dtype: np.dtype) -> Sizes:
    (_, height, width), (_, down, across) = plan.output_size, plan.stride
    spans = [(k - 1) * d + 1 for k, d in zip(plan.kernel_size, plan.dilation, strict=True)]
    wide, channels = (width - 1) * across + spans[2], plan.in_channels // plan.groups
    room = NEAR // dtype.itemsize // (wide * plan.out_channels * channels)
    band = parts(height, parts(height, max(1, (room - spans[1]) // down + 1)))
    return Sizes(
        plan.groups, channels, plan.out_channels // plan.groups, wide, plan.before[2], band,
        (band - 1) * down + spans[1], parts(height, band),
    )  # fmt: skip


@lru_cache(1024)
def _copied(plan: ConvPlan, sizes: Sizes) -> ConvPlan:
    """The depthwise plan over the copies."""
    return plan._replace(
        in_channels=plan.out_channels,
        groups=plan.out_channels,
        input_size=(sizes.channels, plan.input_size[1], sizes.wide),
        kernel_size=(sizes.channels, *plan.kernel_size[1:]),
        before=(0, plan.before[1], 0),
    )


def forward(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """As `convolve.convolve`, of arrays whose channels lie together."""
    sizes = _sizes(plan, x.dtype)
    copied = _copied(plan, sizes)
    by = depthwise.window(copied)
    if swapped:
        weight = weight.reshape(sizes.groups, sizes.channels, sizes.per_group, *weight.shape[2:]).swapaxes(1, 2)
    packed = np.ascontiguousarray(weight.reshape(plan.out_channels, -1).T)
    first = np.zeros(plan.out_channels, x.dtype) if bias is None else bias
    threads.run(
        _forward, plan.batch * sizes.bands, cycles(plan, x.dtype) / 4,
        unit(x.dtype), depthwise.windows_loop(x.dtype, 1), lines.numbers(x), tuple(sizes), by,
        depthwise.stretches(copied), address_of(packed), address_of(first), then, lines.numbers(out),
        keep=(x, packed, first, out),
    )  # fmt: skip


def weight_gradient(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Fill grad_weight (C_out, C_in / groups, *kernel)."""
    sizes, vector = _sizes(plan, x.dtype), unit(x.dtype)
    copied = _copied(plan, sizes)
    total = np.zeros((volume(copied.kernel_size), plan.out_channels), np.float64)
    threads.run(
        _weight_gradient, parts(plan.out_channels, vector.lanes), cycles(plan, x.dtype) / 4,
        vector, *depthwise.sums_loop(x.dtype, 1), x.dtype.type(0), lines.numbers(grad_output), lines.numbers(x),
        tuple(sizes), depthwise.window(copied), depthwise.stretches(copied), total, keep=(grad_output, x),
    )  # fmt: skip
    grad_weight[...] = total.T.reshape(grad_weight.shape)


def _copy(unit, to, x, n, h, sizes, apart):
    """Copy row h of image n, once for each of a group's channels: copies are `apart`."""
    bytes_, m = itemsize(unit), sizes.per_group
    low, high = max(0, -sizes.before), min(x.width, sizes.wide - sizes.before)
    run, times = (high - low) * sizes.groups, 1
    if x.w != sizes.groups * sizes.channels:
        run, times = sizes.groups, high - low
    to += (sizes.before + low) * sizes.groups * m * bytes_
    source = x.address + (n * x.n + h * x.h + low * x.w) * bytes_
    for _ in range(times):
        for c in range(sizes.channels):
            repeat(unit, to + c * apart * bytes_, source + c * bytes_, sizes.channels, m, run)
        to += run * m * bytes_
        source += x.w * bytes_


def _copy_band(unit, to, x, n, first, end, window, sizes):
    """Copy the rows that rows `first` to `end` of the results see; what then are the numbers of an array of copies."""
    bytes_ = itemsize(unit)
    row = sizes.wide * window.channels
    apart = sizes.high * row
    top = first * window.stride[1] - window.before[1]
    bottom = (end - 1) * window.stride[1] - window.before[1] + (window.size[1] - 1) * window.dilation[1]
    for h in range(max(0, top), min(x.height, bottom + 1)):
        _copy(unit, to + (h - top) * row * bytes_, x, n, h, sizes, apart)
    steps = 0, bytes_, apart * bytes_, row * bytes_, window.channels * bytes_
    return to - top * row * bytes_, *steps, x.batch, sizes.channels, x.height, sizes.wide


@straight
def _forward(start, stop, unit, loop, x_numbers, counts, window, stretches, weight, bias, then, out_numbers):
    """A work item is a band of rows of an image's results: what they see is copied, and read where it is copied to."""
    sizes, x, out = Sizes(*counts), lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_ = itemsize(unit)
    memory = np.zeros(64 + sizes.channels * sizes.high * sizes.wide * window.channels * bytes_, np.uint8)
    to = memory.ctypes.data
    for item in range(start, stop):
        n, band = divmod(item, sizes.bands)
        first = band * sizes.band
        end = min(out.height, first + sizes.band)
        copies = _copy_band(unit, to, x, n, first, end, window, sizes)
        rows = n * out.height
        depthwise.forward_kernel(
            (rows + first) * len(stretches), (rows + end) * len(stretches), unit, loop, copies, window, stretches,
            weight, bias, then, out_numbers,
        )  # fmt: skip


@straight
def _weight_gradient(start, stop, unit, loop, some, zero, grad_numbers, x_numbers, counts, window, stretches, total):
    """A work item is a vector of output channels; a thread goes through bands, as `depthwise` through images."""
    sizes, x, grad = Sizes(*counts), lines.block(unit, x_numbers), lines.block(unit, grad_numbers)
    bytes_ = itemsize(unit)
    memory = np.zeros(64 + sizes.channels * sizes.high * sizes.wide * window.channels * bytes_, np.uint8)
    to = memory.ctypes.data
    address, n_step, c_step, d_step, h_step, w_step = grad_numbers[:6]
    for n in range(x.batch):
        for first in range(0, grad.height, sizes.band):
            end = min(grad.height, first + sizes.band)
            copies = _copy_band(unit, to, x, n, first, end, window, sizes)
            here = address + n * n_step + first * h_step
            before = window.before[0], window.before[1] - first * window.stride[1], window.before[2]
            depthwise.gradient_kernel(
                start, stop, unit, loop, 1, some, zero,
                (here, n_step, c_step, d_step, h_step, w_step, 1, 1, end - first, grad.width), copies,
                Window(window.size, window.stride, window.dilation, before, window.channels, window.taps),
                stretches, total,
            )  # fmt: skip
