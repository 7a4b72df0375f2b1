"""Convolution, forward and backward: the ways back are a convolution and a correlation too."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit import arrays, geometry, settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, Phase, Section, volume
from cnnkit.rooms.numba import (
    depthwise,
    depthwise_pixels,
    depthwise_planes,
    few,
    grouped,
    lines,
    overlap,
    pixels,
    winograd,
    winograd_weights,
)  # fmt: skip
from cnnkit.rooms.numba.activation import NONE, activate, epilogue
from cnnkit.rooms.numba.channels import sum_channels
from cnnkit.rooms.numba.convolve import convolve, of_planes, turning
from cnnkit.rooms.numba.correlate import LONG, NEAR, TOGETHER, correlate
from cnnkit.rooms.numba.correlate import cycles as correlating
from cnnkit.rooms.numba.dense import PACK, dense, dense_backward, matrix_plan, multiply, products_cycles
from cnnkit.rooms.numba.machine import MULTIPLY_ADDS

WIDE = 4  # windows along an axis: fewer are not worth leaving out a tap for
FEW = 100  # windows: a depthwise layer with no more is done with its channels last
FEW_TERMS = 256  # the same for the gradient of its weights
CALL = 40_000  # cycles of a call of a kernel
FEWEST = 128  # windows: with fewer, adding up their sums to the weights' gradient takes as long as they do
TURNED, PACKED = 0.5, 1.5  # cycles: to turn a number, to bring one together
MULTIPLYING = 1.3  # times the cycles of a convolution: as many terms as pixels do not stay in the L1 cache


def conv(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: tuple[str, float] | None, out: Array
) -> None:
    if not x.size:  # there is nothing but padding
        y = np.zeros(out.shape, out.dtype)
        if bias is not None:
            y += bias.reshape(-1, *(1,) * (out.ndim - 2))
        if activation is not None:
            activate(activation, y, y)
        out[...] = y
        return
    if _sees_all(plan, out):
        images, outputs = plan.batch, plan.out_channels
        features = plan.in_channels * volume(plan.kernel_size)
        one, filters, y = x.reshape(images, features), weight.reshape(outputs, features), out.reshape(images, outputs)
        dense(one, filters, bias, activation, y)
        return
    if _alone(plan) and _by_rows(x, weight, bias, plan, activation, out):
        return
    if _better_turned(plan, FEW, 2, x, out):
        y = depthwise.empty(out)
        conv(depthwise.turned(x), weight, bias, plan, activation, y)
        depthwise.turn_back(y, out)
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


def _alone(plan: ConvPlan) -> bool:
    """Whether a window is a pixel, and all of its channels."""
    size = plan.input_size
    return volume(plan.kernel_size) == volume(plan.stride) == plan.groups == 1 and size == plan.output_size


def _by_rows(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: tuple[str, float] | None, out: Array
) -> bool:
    """Fill out by a dense layer whose examples are pixels, of which planes are turned; False if that does not pay."""
    planes, workspace = x.flags.c_contiguous and out.flags.c_contiguous, settings.current().max_workspace
    if not _products_pay(plan, x.dtype, workspace, planes):
        return False
    if planes and x.nbytes + out.nbytes <= workspace:
        y = depthwise.empty(out)
        dense(_pixels(depthwise.turned(x)), _rows(weight), bias, activation, _pixels(y))
        depthwise.turn_back(y, out)
        return True
    if not all(np.moveaxis(array, 1, -1).flags.c_contiguous for array in (x, out)):
        return False
    dense(_pixels(x), _rows(weight), bias, activation, _pixels(out))
    return True


@lru_cache(1024)
def _products_pay(plan: ConvPlan, dtype: np.dtype, workspace: int, planes: bool) -> bool:
    """Whether inner products of pixels and weights as they stand are better than bringing weights together."""
    pixels_, channels, outputs = plan.batch * volume(plan.output_size), plan.in_channels, plan.out_channels
    if not pixels_ * channels * outputs:
        return False
    one = geometry.lift(plan)
    best = of_planes(one, dtype) if planes else min(_ways(one, dtype, workspace).values())
    turned = TURNED * pixels_ * (channels + outputs) if planes else 0
    return products_cycles(outputs, channels, pixels_, dtype) + turned < best + PACK * channels * outputs


def _pixels(array: Array) -> Array:
    """Pixels, one after another, as rows of numbers."""
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def _rows(array: Array) -> Array:
    """Images, or filters, as rows of numbers."""
    return array.reshape(len(array), volume(array.shape[1:]))


def _convolve(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array, swapped: bool = False
) -> None:
    """As `convolve`, or by what is made for depthwise layers with channels last, or by Winograd's algorithm."""
    if not out.size:
        return
    if _sections(plan):
        x, weight, out = (arrays.lift(array) for array in (x, weight, out))
        for part in _sections(plan):
            _convolve(x[part.taken], weight[part.kernel], bias, part.plan, then, out[part.of], swapped)
        return
    if depthwise.takes(plan, x, out):
        if depthwise_pixels.takes(plan) and depthwise_pixels.forward(x, weight, bias, plan, then, out):
            return
        run = grouped.forward if _copies_pay(plan, x.dtype) else depthwise.forward
        run(x, weight, bias, plan, then, out)
        return
    if winograd.chosen(x, out, plan):
        filters = weight.reshape(plan.groups, len(weight) // plan.groups, weight.shape[1], *plan.kernel_size)
        filters = filters.swapaxes(1, 2) if swapped else filters
        if winograd.forward(arrays.lift(x), filters, bias, plan, then, arrays.lift(out)):
            return  # what it found is finite
    if depthwise_planes.takes(plan, 2, x, out):
        depthwise_planes.forward(x, weight, bias, plan, then, out)
        return
    way = forward_way(plan, x.dtype, settings.current().max_workspace) if pixels.together(x, out) else None
    run = way.forward if way else convolve
    run(x, weight, bias, plan, then, out, swapped)


@lru_cache(1024)
def _sections(plan: ConvPlan) -> tuple[Section, ...]:
    """The plan's sections if leaving out taps that lie in the padding saves more than summing each by itself costs."""
    if max(plan.before + plan.after) < WIDE:
        return ()
    sections = geometry.sections(plan)
    work, left = volume(plan.output_size) * volume(plan.kernel_size), 0
    for one in sections:
        left += volume(one.plan.output_size) * volume(one.plan.kernel_size)
        if any(part < WIDE for part, whole in zip(one.plan.output_size, plan.output_size, strict=True) if whole > 1):
            return ()
    weights = plan.out_channels * plan.in_channels // plan.groups
    saved = (work - left) * plan.batch * weights / MULTIPLY_ADDS * 4
    packed = weights * sum(volume(one.plan.kernel_size) for one in sections)
    return sections if 5 * left < 4 * work and saved > CALL * len(sections) + 4 * packed else ()


@lru_cache(1024)
def forward_way(plan: ConvPlan, dtype: np.dtype, workspace: int) -> Any:
    """The module that takes the fewest cycles where channels lie together; None if that is turning. In three axes."""
    if not plan.in_channels:
        return None
    ways = _ways(plan, dtype, workspace)
    return min(ways, key=lambda way: ways[way])


def _ways(plan: ConvPlan, dtype: np.dtype, workspace: int) -> dict[Any, float]:
    """Cycles of all ways."""
    return {
        None: turning(plan, dtype),
        pixels: pixels.forward_cycles(plan, dtype, workspace),
        few: few.way(plan, dtype).cycles,
        grouped: grouped.cycles(plan, dtype),
        depthwise: depthwise.cycles(plan, dtype) * depthwise.GIVEN,
        depthwise_pixels: depthwise_pixels.cycles(plan, dtype),
    }


@lru_cache(1024)
def gradient_way(plan: ConvPlan, dtype: np.dtype) -> Callable[..., bool]:
    """The same for the gradient of the weights; the plan is over its own axes."""
    one = geometry.lift(plan)
    phases = [geometry.lift(phase.plan) for phase in geometry.input_gradient(plan) if phase.plan]
    ways = {
        _along_gradients: pixels.gradient_cycles(one, dtype),
        _by_copies: grouped.cycles(one, dtype),
        _by_groups: depthwise.cycles(one, dtype) * depthwise.GIVEN,
        _along_x: sum(pixels.gradient_cycles(phase, dtype) + CALL for phase in phases),
        _turned: correlating(one, dtype, False),
    }
    return min(ways, key=lambda way: ways[way])


def _copies_pay(plan: ConvPlan, dtype: np.dtype) -> bool:
    """Whether a depthwise plan is better done on copies with zeros around them."""
    return grouped.cycles(plan, dtype) < depthwise.cycles(plan, dtype)


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
        _backward_weight(grad_output, x, plan, grad_weight)
    if grad_bias is not None:
        sum_channels(grad_output, grad_bias)


def conv_transpose(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    _backward_x(x, weight, plan, out, None if bias is None else np.ascontiguousarray(bias))


def _backward_x(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array, bias: Array | None = None) -> None:
    """Convolutions of the output gradient, the weights flipped, their input and output channels exchanged."""
    nothing = 0 if bias is None else bias.reshape(-1, *(1,) * (grad_x.ndim - 2))
    if not (grad_output.size and grad_x.size):
        grad_x[...] = nothing
        return
    if _better_turned(plan, FEW, 2, grad_output, grad_x):
        grad = depthwise.empty(grad_x)
        _backward_x(depthwise.turned(grad_output), weight, plan, grad, bias)
        depthwise.turn_back(grad, grad_x)
        return
    if _sees_all(plan, grad_x):
        dense_backward(_rows(grad_output), None, _rows(weight), _rows(grad_x), None, None)
        if bias is not None:
            grad_x += nothing
        return
    if depthwise_planes.takes_back(geometry.lift(plan), grad_output, grad_x):
        depthwise_planes.strided_input_gradient(grad_output, weight, bias, geometry.lift(plan), grad_x)
        return
    if depthwise_pixels.takes_back(geometry.lift(plan), grad_output, grad_x):
        depthwise_pixels.strided_input_gradient(grad_output, weight, bias, geometry.lift(plan), grad_x)
        return
    phases = geometry.input_gradient(plan)
    if overlap.takes(geometry.lift(plan), weight, grad_x) and not _by_winograd(phases, grad_output, grad_x):
        grad_x[...] = nothing
        overlap.input_gradient(grad_output, weight, geometry.lift(plan), grad_x)
        return
    if len(phases) == 1 or depthwise.takes(plan, grad_output, grad_x) or _by_phases(plan, grad_output, grad_x):
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


def _by_phases(plan: ConvPlan, grad_output: Array, grad_x: Array) -> bool:
    """Whether each phase is better done by itself, as nothing needs to be laid out for several of them."""
    workspace = settings.current().max_workspace
    return pixels.together(grad_output, grad_x) and _phases_pay(plan, grad_x.dtype, workspace)


@lru_cache(1024)
def _phases_pay(plan: ConvPlan, dtype: np.dtype, workspace: int) -> bool:
    plans = [geometry.lift(phase.plan) for phase in geometry.input_gradient(plan) if phase.plan]
    if not plan.out_channels or len(plans) > lines.MANY:
        return False
    cycles = sum(CALL + min(_ways(one, dtype, workspace).values()) for one in plans)
    return cycles < turning(geometry.lift(plan), dtype, back=True)


def _backward_weight(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Every weight's gradient is the inner product of its tap's line with the output gradient's line."""
    if not (grad_output.size and x.size):
        grad_weight[...] = 0
        return
    if _sees_all(plan, grad_weight):
        dense_backward(_rows(grad_output), _rows(x), None, None, _rows(grad_weight), None)
        return
    one = geometry.lift(plan)
    if _better_turned(one, FEW_TERMS, 2, grad_output, x):
        grad_output, x = depthwise.turned(grad_output), depthwise.turned(x)
    if depthwise.takes(one, grad_output, x):
        if depthwise_pixels.takes(one) and depthwise_pixels.weight_gradient(grad_output, x, one, grad_weight):
            return
        run = grouped.weight_gradient if _copies_pay(one, x.dtype) else depthwise.weight_gradient
        run(grad_output, x, one, grad_weight)
        return
    if depthwise_planes.takes(one, 2, grad_output, x):
        sums = np.empty((plan.out_channels, volume(plan.kernel_size)), x.dtype)
        depthwise_planes.weight_gradient(grad_output, x, one, sums)
        grad_weight[...] = sums.reshape(grad_weight.shape)
        return
    total = grad_weight if grad_weight.flags.c_contiguous else np.empty(grad_weight.shape, x.dtype)
    chosen = winograd_weights.chosen(x, one)
    if not (chosen and winograd_weights.weight_gradient(arrays.lift(grad_output), arrays.lift(x), one, total)):
        _correlate(grad_output, x, plan, total)
    if total is not grad_weight:
        grad_weight[...] = total


def _correlate(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> None:
    """The same; where channels lie together, lanes are channels of one or of the other, or windows after turning."""
    many = plan.batch * volume(plan.output_size) > FEWEST
    way = gradient_way(plan, x.dtype) if many and pixels.together(x, grad_output) else _turned
    if not way(grad_output, x, plan, total):
        _along_gradients(grad_output, x, plan, total)


def _turned(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Lanes are windows: of `correlate`; or input channels, of a matrix product."""
    one = geometry.lift(plan)
    if _better_multiplied(one, x):
        grads, rows = np.moveaxis(grad_output, 1, -1), np.moveaxis(x, 1, -1)
        rows = rows if rows.flags.c_contiguous else np.moveaxis(depthwise.turned(x), 1, -1)
        grads, rows = grads.reshape(-1, plan.out_channels), rows.reshape(-1, plan.in_channels)
        multiply(grads.T, rows, _rows(total))
        return True
    total.fill(0)
    together, stretch = volume(plan.output_size) < TOGETHER, NEAR if plan.out_channels > plan.groups else LONG
    correlate(x, grad_output, one, together, stretch, total)
    return True


def _better_multiplied(plan: ConvPlan, x: Array) -> bool:
    """Whether a 1x1 kernel's gradient is a matrix product better than inner products of lines."""
    few = _alone(plan) and x.nbytes <= settings.current().max_workspace
    return few and _multiplying_pays(plan, x.dtype, x.flags.c_contiguous)


@lru_cache(1024)
def _multiplying_pays(plan: ConvPlan, dtype: np.dtype, planes: bool) -> bool:
    """Planes are turned, and gradients are brought together, which both takes longer the more pixels there are."""
    pixels_, outputs, channels = plan.batch * volume(plan.output_size), plan.out_channels, plan.in_channels
    bringing = pixels_ * (TURNED * channels * planes + PACKED * outputs)
    multiplying = MULTIPLYING * of_planes(matrix_plan(pixels_, channels, outputs), dtype)
    return multiplying + bringing < correlating(plan, dtype, planes)


def _along_gradients(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Lanes are output channels: of `pixels`."""
    pixels.weight_gradient(grad_output, x, geometry.lift(plan), total)
    return True


def _by_copies(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Lanes are output channels: of `grouped`."""
    grouped.weight_gradient(grad_output, x, geometry.lift(plan), total)
    return True


def _by_groups(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Lanes are channels of both: of `depthwise`."""
    depthwise.weight_gradient(grad_output, x, geometry.lift(plan), total)
    return True


def _along_x(grad_output: Array, x: Array, plan: ConvPlan, total: Array) -> bool:
    """Lanes are input channels: the weights' gradient of the way back to the input, which is convolutions too.

    Whether all of it is finite: zeros around the output gradient are multiplied, which makes NaN of an infinite x.
    """
    total.fill(0)
    by_group = total.reshape(plan.groups, -1, *total.shape[1:]).swapaxes(1, 2)
    for phase in geometry.input_gradient(plan):
        if phase.plan:
            found = np.empty((plan.in_channels, len(total) // plan.groups, *phase.plan.kernel_size), total.dtype)
            pixels.weight_gradient(x[phase.of], grad_output, geometry.lift(phase.plan), found)
            by_group[(slice(None), *phase.kernel)] = found.reshape(by_group[(slice(None), *phase.kernel)].shape)
    return bool(np.isfinite(total).all())
