"""Depthwise convolution of planes: square kernels of 3, 5 or 7, where rows lie together in memory.

Nothing is laid out: vectors of columns go down the planes (`plane_loops`); with few registers, forward, rows are
(`plane_blocks`). The way back to the input is, without stride, the same with the taps reversed.
"""

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.emit import itemsize, lanes, unit
from cnnkit.rooms.numba.machine import address_of
from cnnkit.rooms.numba.plane_blocks import BETTER, band_of, blocks, line_pitch, line_rows
from cnnkit.rooms.numba.plane_loops import TAPS, between, every_other, every_other_taps, plane_taps, planes
from cnnkit.rooms.numba.straight import LINE, straight

NEAR = 4096  # bytes of rows that are taken from left to right at a time: memory is read in its order, nearly
BANDWIDTH = 4  # numbers read or written in a nanosecond, about
TERMS = 32  # multiply-adds in a nanosecond, about


def takes(plan: ConvPlan, most: int, *given: Array) -> bool:
    """Whether a plan over three spatial axes is of the kind done here: one input channel for each output, a stride of
    `most` at most.
    """
    taps = plan.kernel_size[2]
    return (
        plan.in_channels == plan.groups
        and plan.kernel_size == (1, taps, taps)
        and taps in TAPS
        and plan.stride == (1, plan.stride[2], plan.stride[2])
        and plan.stride[2] <= most
        and plan.dilation == lines.ONES
        and not plan.before[0]
        and not plan.after[0]
        and max(plan.before) < taps
        and all(array.strides[-1] == array.itemsize for array in given)
    )


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array) -> None:
    """Fill out (N, C_out, *spatial) from x (N, C, *spatial) and weight (C_out, 1, *kernel)."""
    taps = np.ascontiguousarray(weight)
    first = np.zeros(plan.out_channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    threads.run(
        _blocks if BETTER else _forward, plan.batch * plan.out_channels, _work(plan),
        unit(x.dtype), lines.numbers(x), plan.out_channels, plan.out_channels // plan.groups, plan.kernel_size[2],
        plan.stride[2], plan.before[1:], address_of(taps), address_of(first), then, lines.numbers(out),
        keep=(x, taps, first, out),
    )  # fmt: skip


def takes_back(plan: ConvPlan, *given: Array) -> bool:
    """Whether `strided_input_gradient` does the way back; without stride that is a forward convolution."""
    return plan.stride[2] == 2 and plan.in_channels == plan.out_channels and takes(plan, 2, *given)


def strided_input_gradient(grad: Array, weight: Array, bias: Array | None, plan: ConvPlan, grad_x: Array) -> None:
    """Fill grad_x (N, C, *spatial) from the output's gradient and weight (C, 1, *kernel), on top of a bias."""
    taps = np.ascontiguousarray(weight)
    first = np.zeros(plan.in_channels, grad.dtype) if bias is None else np.ascontiguousarray(bias)
    threads.run(
        _strided_input_gradient, plan.batch * plan.in_channels, _work(plan),
        unit(grad.dtype), lines.numbers(grad), plan.in_channels, plan.kernel_size[2], plan.before[1:],
        address_of(taps), address_of(first), lines.numbers(grad_x), keep=(grad, taps, first, grad_x),
    )  # fmt: skip


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, total: Array) -> None:
    """Fill total (C_out, taps) with the sums over all windows of the output gradient times what the taps met."""
    threads.run(
        _weight_gradient, plan.out_channels, _work(plan),
        unit(x.dtype), lines.numbers(grad), lines.numbers(x), plan.out_channels // plan.groups, plan.kernel_size[2],
        plan.stride[2], plan.before[1:], total, keep=(grad, x),
    )  # fmt: skip


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    outputs = plan.batch * plan.out_channels * volume(plan.output_size)
    return outputs * (2 / BANDWIDTH + volume(plan.kernel_size) / TERMS)


@straight
def _forward(start, stop, unit, x_numbers, channels, each, taps, stride, before, weight, bias, then, out_numbers):
    """A work item is a channel of an image: its planes are read once and written once."""
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, area = itemsize(unit), taps * taps
    nothing = np.zeros((x.width + lanes(unit)) * bytes_, np.uint8)
    band = max(4 * taps, NEAR // (x.width * bytes_))
    for item in range(start, stop):
        n, o = divmod(item, channels)
        for d in range(out.depth):
            to = out.address + (n * out.n + o * out.c + d * out.d) * bytes_
            plane = x.address + (n * x.n + o // each * x.c + d * x.d) * bytes_
            filters, first = weight + o * area * bytes_, bias + o * bytes_
            for h in range(0, out.height, band):
                row, above, rows = to + h * out.h * bytes_, before[0] - h * stride, min(band, out.height - h)
                if stride == 1:
                    planes(
                        unit, taps, row, out.h, plane, x.h, nothing.ctypes.data, filters, first, then == RELU,
                        x.height, x.width, above, before[1], rows, out.width,
                    )  # fmt: skip
                else:
                    every_other(
                        unit, taps, row, out.h, plane, x.h, nothing.ctypes.data, filters, first, then == RELU,
                        x.height, x.width, above, before[1], rows, out.width,
                    )  # fmt: skip
            if then > RELU:
                call(then, to, to, out.h, out.height, out.width)


@straight
def _blocks(start, stop, unit, x_numbers, channels, each, taps, stride, before, weight, bias, then, out_numbers):
    """The same, a band of rows at a time, whose rows of x are laid out in the L1 cache."""
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_ = itemsize(unit)
    pitch = line_pitch(taps, x.width, out.width, lanes(unit))
    band = min(out.height, band_of(pitch * stride * bytes_, stride))
    memory = np.zeros(pitch * stride * line_rows(taps, stride, band) * bytes_ + LINE, np.uint8)
    near = (memory.ctypes.data + LINE - 1) // LINE * LINE
    for item in range(start, stop):
        n, o = divmod(item, channels)
        for d in range(out.depth):
            to = out.address + (n * out.n + o * out.c + d * out.d) * bytes_
            plane = x.address + (n * x.n + o // each * x.c + d * x.d) * bytes_
            for h in range(0, out.height, band):
                blocks(
                    unit, taps, stride, to + h * out.h * bytes_, out.h, plane, x.h, near, pitch, band < out.height,
                    weight + o * taps * taps * bytes_, bias + o * bytes_, then == RELU, x.height, x.width,
                    before[0] - h * stride, before[1], min(band, out.height - h), out.width,
                )  # fmt: skip
            if then > RELU:
                call(then, to, to, out.h, out.height, out.width)


@straight
def _strided_input_gradient(start, stop, unit, grad_numbers, channels, taps, before, weight, bias, x_numbers):
    """A work item is a channel of an image: its gradients are read once and x's written once."""
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, pairs = itemsize(unit), (x.height + before[0] + 1) // 2
    nothing = np.zeros((grad.width + lanes(unit)) * bytes_, np.uint8)
    band = max(4 * taps, NEAR // (x.width * bytes_))
    for item in range(start, stop):
        n, c = divmod(item, channels)
        for d in range(x.depth):
            to = x.address + (n * x.n + c * x.c + d * x.d) * bytes_
            plane = grad.address + (n * grad.n + c * grad.c + d * grad.d) * bytes_
            for pair in range(0, pairs, band):
                between(
                    unit, taps, to, x.h, plane, grad.h, nothing.ctypes.data, weight + c * taps * taps * bytes_,
                    bias + c * bytes_, x.height, x.width, before[0], before[1], grad.height, grad.width, pair,
                    min(band, pairs - pair),
                )  # fmt: skip


@straight
def _weight_gradient(start, stop, unit, grad_numbers, x_numbers, each, taps, stride, before, total):
    """A work item is an output channel; those of a thread go through the images together, in the order of memory.

    Sums over a plane stay in registers; planes are added up in float64.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, area = itemsize(unit), taps * taps
    nothing = np.zeros((x.width + lanes(unit)) * bytes_, np.uint8)
    of_plane, sums = np.empty(area, total.dtype), np.zeros((stop - start, area), np.float64)
    for n in range(grad.batch):
        for o in range(start, stop):
            for d in range(grad.depth):
                plane_grad = grad.address + (n * grad.n + o * grad.c + d * grad.d) * bytes_
                plane = x.address + (n * x.n + o // each * x.c + d * x.d) * bytes_
                if stride == 1:
                    plane_taps(
                        unit, taps, of_plane.ctypes.data, plane_grad, grad.h, plane, x.h, nothing.ctypes.data,
                        x.height, x.width, before[0], before[1], grad.height, grad.width,
                    )  # fmt: skip
                else:
                    every_other_taps(
                        unit, taps, of_plane.ctypes.data, plane_grad, grad.h, plane, x.h, nothing.ctypes.data,
                        x.height, x.width, before[0], before[1], grad.height, grad.width,
                    )  # fmt: skip
                for t in range(area):
                    sums[o - start, t] += of_plane[t]
    for o in range(start, stop):
        for t in range(area):
            total[o, t] = sums[o - start, t]
