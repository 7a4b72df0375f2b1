"""Convolution, forward and backward: the ways back are a convolution and a correlation too."""

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import correlate
from cnnkit.rooms.numba.elementwise import row_sum
from cnnkit.rooms.numba.machine import kernel

TOGETHER = 512  # windows of an image: with fewer, the images of a batch are summed end to end


def conv(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: str | None, out: Array) -> None:
    plan3 = geometry.lift(plan)
    convolve(arrays.lift(x), _grouped(weight, plan), bias, plan3, activation == "relu", arrays.lift(out))


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
        flipped = _grouped(weight, plan)[(slice(None), *_three(phase.kernel))].swapaxes(1, 2)
        part = arrays.lift(grad_x[phase.of])
        convolve(arrays.lift(grad_output), flipped, None, geometry.lift(phase.plan), False, part)


def _three(kernel_slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Slices of (C_out, C_in, *kernel) over three kernel axes."""
    return (*kernel_slices[:2], *(slice(None),) * (5 - len(kernel_slices)), *kernel_slices[2:])


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's line with the output gradient's line."""
    shape = plan.groups, plan.out_channels // plan.groups, plan.in_channels // plan.groups * volume(plan.kernel_size)
    total = np.zeros(shape, x.dtype)
    if x.size and grad_output.size:
        together = volume(plan.output_size) < TOGETHER
        solved = lines.solve(plan, together)
        in_place = not together and x[0, 0].flags.c_contiguous and lines.in_place(plan)
        correlate(x, grad_output, plan, solved, in_place, total)
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
