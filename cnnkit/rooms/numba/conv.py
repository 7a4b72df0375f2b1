"""Convolution, forward and backward: the ways back are a convolution and a correlation too."""

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import depthwise, lines
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import LONG, NEAR, correlate
from cnnkit.rooms.numba.elementwise import row_sum
from cnnkit.rooms.numba.machine import kernel

TOGETHER = 512  # windows of an image: with fewer, the images of a batch are summed end to end


def conv(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: str | None, out: Array) -> None:
    plan3, x, out = geometry.lift(plan), arrays.lift(x), arrays.lift(out)
    if depthwise.takes(plan3, x, out):
        depthwise.forward(x, weight, bias, plan3, activation == "relu", out)
    else:
        convolve(x, _grouped(weight, plan), bias, plan3, activation == "relu", out)


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


def _backward_x(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array) -> None:
    """Convolutions of the output gradient, the weights flipped, their input and output channels exchanged."""
    for phase in geometry.input_gradient(plan):
        if phase.plan is None:
            grad_x[phase.of] = 0
            continue
        grad, part, plan3 = arrays.lift(grad_output), arrays.lift(grad_x[phase.of]), geometry.lift(phase.plan)
        if depthwise.takes(plan3, grad, part):
            depthwise.forward(grad, weight[phase.kernel], None, plan3, False, part)
            continue
        flipped = _grouped(weight, plan)[(slice(None), *_three(phase.kernel))].swapaxes(1, 2)
        convolve(grad, flipped, None, plan3, False, part)


def _three(kernel_slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Slices of (C_out, C_in, *kernel) over three kernel axes."""
    return (*kernel_slices[:2], *(slice(None),) * (5 - len(kernel_slices)), *kernel_slices[2:])


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's line with the output gradient's line."""
    if depthwise.takes(plan, grad_output, x):
        by_tap = np.empty((volume(plan.kernel_size), plan.in_channels), x.dtype)
        depthwise.weight_gradient(grad_output, x, plan, by_tap)
        grad_weight[...] = by_tap.T.reshape(grad_weight.shape)
        return
    shape = plan.groups, plan.out_channels // plan.groups, plan.in_channels // plan.groups * volume(plan.kernel_size)
    total = np.zeros(shape, x.dtype)
    if x.size and grad_output.size:
        together = volume(plan.output_size) < TOGETHER
        solved = lines.solve(plan, together)
        in_place = not together and x[0, 0].flags.c_contiguous and lines.in_place(plan)
        stretch = NEAR if shape[1] > 1 else LONG
        correlate(x, grad_output, plan, solved, in_place, stretch, total)
    grad_weight[...] = total.reshape(grad_weight.shape)


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
