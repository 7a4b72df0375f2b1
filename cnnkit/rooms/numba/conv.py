"""Convolution, forward and backward: the ways back are a convolution and a correlation too."""

import numpy as np

from cnnkit import arrays, geometry, settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Phase, volume
from cnnkit.rooms.numba import depthwise, depthwise_planes, lines, overlap, pixels, winograd, winograd_weights
from cnnkit.rooms.numba.activation import NONE, epilogue
from cnnkit.rooms.numba.channels import sum_channels
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import LONG, NEAR, correlate
from cnnkit.rooms.numba.dense import dense, dense_backward, multiply

FEW = 100  # windows: a depthwise layer with no more is done with its channels last
FEW_TERMS = 256  # the same for the gradient of its weights
FEWEST = 128  # windows: with fewer, adding up their sums to the weights' gradient takes as long as they do
ADDED, TURNED, PACKED = 6, 0.5, 1.2  # cycles: to add up a sum's lanes, to turn a number, to bring one together
TOGETHER = 512  # windows of an image: with fewer, the images of a batch are summed end to end


def conv(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: tuple[str, float] | None, out: Array
) -> None:
    if _better_turned(plan, FEW, 2, x, out):
        y = depthwise.empty(out)
        conv(depthwise.turned(x), weight, bias, plan, activation, y)
        depthwise.turn_back(y, out)
        return
    if _sees_all(plan, out):
        dense(_rows(x), _rows(weight), bias, activation, _rows(out))
        return
    bias = None if bias is None else np.ascontiguousarray(bias)
    then, _memory = epilogue(activation, x.dtype)
    _convolve(x, weight, bias, geometry.lift(plan), then, out)


def _better_turned(plan: ConvPlan, windows: int, stride: int, *given: Array) -> bool:
    """Whether a depthwise layer of few windows is done with its channels last, as it is not one of those of planes."""
    few = depthwise.takes_turned(plan, windows, *given)
    return few and not depthwise_planes.takes(geometry.lift(plan), stride, *given)


def _sees_all(plan: ConvPlan, filled: Array) -> bool:
    """Whether the one window is all of the image, so that the layer is a dense one; what it fills has no gaps."""
    return (
        plan.kernel_size == plan.input_size
        and plan.groups == 1
        and not any(plan.before + plan.after)
        and filled.flags.c_contiguous
    )


def _rows(array: Array) -> Array:
    """Images, or filters, as rows of numbers."""
    return array.reshape(len(array), volume(array.shape[1:]))


def _convolve(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """As `convolve`, or by what is made for depthwise layers with channels last, or by Winograd's algorithm."""
    if not out.size:
        return
    if depthwise.takes(plan, x, out):
        depthwise.forward(x, weight, bias, plan, then, out)
        return
    if winograd.chosen(x, out, plan):
        filters = weight.reshape(plan.groups, len(weight) // plan.groups, weight.shape[1], *plan.kernel_size)
        filters = filters.swapaxes(1, 2) if swapped else filters
        if winograd.forward(arrays.lift(x), filters, bias, plan, then, arrays.lift(out)):
            return  # what it found is finite
    if depthwise_planes.takes(plan, 2, x, out):
        depthwise_planes.forward(x, weight, bias, plan, then, out)
        return
    if pixels.takes(plan, x, out):
        pixels.forward(x, weight, bias, plan, then, out, swapped)
        return
    convolve(x, weight, bias, plan, then, out, swapped)


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
        _backward_weight(grad_output, x, geometry.lift(plan), grad_weight)
    if grad_bias is not None:
        sum_channels(grad_output, grad_bias)


def conv_transpose(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    _backward_x(x, weight, plan, out, None if bias is None else np.ascontiguousarray(bias))


def _backward_x(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array, bias: Array | None = None) -> None:
    """Convolutions of the output gradient, the weights flipped, their input and output channels exchanged."""
    if _better_turned(plan, FEW, 1, grad_output, grad_x):
        grad = depthwise.empty(grad_x)
        _backward_x(depthwise.turned(grad_output), weight, plan, grad, bias)
        depthwise.turn_back(grad, grad_x)
        return
    nothing = 0 if bias is None else bias.reshape(-1, *(1,) * (grad_x.ndim - 2))
    if _sees_all(plan, grad_x):
        dense_backward(_rows(grad_output), None, _rows(weight), _rows(grad_x), None, None)
        if bias is not None:
            grad_x += nothing
        return
    phases = geometry.input_gradient(plan)
    if overlap.takes(geometry.lift(plan), weight, grad_x) and not _by_winograd(phases, grad_output, grad_x):
        grad_x[...] = nothing
        overlap.input_gradient(grad_output, weight, geometry.lift(plan), grad_x)
        return
    if len(phases) == 1 or depthwise.takes(plan, grad_output, grad_x) or _by_phases(phases, grad_output, grad_x):
        for phase in phases:
            if phase.plan is None:
                grad_x[phase.of] = nothing
            else:
                flipped, one = weight[phase.kernel], geometry.lift(phase.plan)
                _convolve(grad_output, flipped, bias, one, NONE, grad_x[phase.of], swapped=True)
        return
    if volume(plan.stride) > lines.MANY:
        grad_x[...] = nothing
    convolve(grad_output, weight, bias, geometry.lift(plan), NONE, grad_x, swapped=True, back=True)


def _by_winograd(phases: tuple[Phase, ...], grad_output: Array, grad_x: Array) -> bool:
    """Whether there is one phase, and it is done by Winograd's algorithm."""
    plans = [geometry.lift(phase.plan) for phase in phases if phase.plan]
    return len(plans) == 1 and winograd.chosen(grad_output, grad_x, plans[0])


def _by_phases(phases: tuple[Phase, ...], grad_output: Array, grad_x: Array) -> bool:
    """Whether each phase is better done by itself, as nothing needs to be laid out for several of them."""
    plans = (geometry.lift(phase.plan) for phase in phases if phase.plan)
    return len(phases) <= lines.MANY and all(pixels.takes(plan, grad_output, grad_x) for plan in plans)


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's line with the output gradient's line."""
    if _sees_all(plan, grad_weight):
        dense_backward(_rows(grad_output), _rows(x), None, None, _rows(grad_weight), None)
        return
    if _better_turned(plan, FEW_TERMS, 1, grad_output, x):
        grad_output, x = depthwise.turned(grad_output), depthwise.turned(x)
    if depthwise.takes(plan, grad_output, x):
        by_tap = np.empty((volume(plan.kernel_size), plan.in_channels), x.dtype)
        depthwise.weight_gradient(grad_output, x, plan, by_tap)
        grad_weight[...] = by_tap.T.reshape(grad_weight.shape)
        return
    if depthwise_planes.takes(plan, 1, grad_output, x):
        sums = np.empty((plan.out_channels, volume(plan.kernel_size)), x.dtype)
        depthwise_planes.weight_gradient(grad_output, x, plan, sums)
        grad_weight[...] = sums.reshape(grad_weight.shape)
        return
    total = grad_weight if grad_weight.flags.c_contiguous else np.empty(grad_weight.shape, x.dtype)
    chosen = winograd_weights.chosen(x, plan)
    if not (chosen and winograd_weights.weight_gradient(arrays.lift(grad_output), arrays.lift(x), plan, total)):
        _sum_weight_gradient(grad_output, x, plan, total)
    if total is not grad_weight:
        grad_weight[...] = total


def _better_multiplied(plan: ConvPlan, x: Array) -> bool:
    """Whether a 1x1 kernel sees so few pixels that turning them costs less than adding up lanes of inner products."""
    pixels_, outputs, channels = plan.batch * volume(plan.output_size), plan.out_channels, plan.in_channels
    alone = plan.kernel_size == plan.stride == lines.ONES and plan.input_size == plan.output_size and plan.groups == 1
    cheap = pixels_ * (TURNED * channels + PACKED * outputs) < ADDED * outputs * channels
    return alone and cheap and x.nbytes <= settings.current().max_workspace


def _sum_weight_gradient(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> None:
    total.fill(0)
    if plan.batch * volume(plan.output_size) > FEWEST and pixels.takes(plan, x, grad_output):
        pixels.weight_gradient(grad_output, x, plan, total)
    elif _better_multiplied(plan, x):
        grads, rows = np.moveaxis(grad_output, 1, -1), np.moveaxis(x, 1, -1)
        rows = rows if rows.flags.c_contiguous else np.moveaxis(depthwise.turned(x), 1, -1)
        grads, rows = grads.reshape(-1, plan.out_channels), rows.reshape(-1, plan.in_channels)
        multiply(grads.T, rows, None, NONE, _rows(total))
    else:
        together, per_group = volume(plan.output_size) < TOGETHER, plan.out_channels // plan.groups
        correlate(x, grad_output, plan, together, NEAR if per_group > 1 else LONG, total)
