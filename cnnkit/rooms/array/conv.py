"""Convolution as one matrix product per kernel position, over strided views: no padded copy, no im2col buffer."""

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, taps
from cnnkit.rooms.array.activation import activate


def conv(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: tuple[str, float] | None, out: Array
) -> None:
    out[...] = 0 if bias is None else _per_channel(bias, out)
    for tap, to, of in taps(plan):
        out[to] += _spread(_tap(weight, tap, plan) @ _flat(x[of], plan.groups), out[to])
    if activation is not None:
        activate(activation, out, out)


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
        conv_transpose(grad_output, weight, None, plan, grad_x)
    if grad_weight is not None:
        for tap, to, of in taps(plan):
            product = _flat(grad_output[to], plan.groups) @ _flat(x[of], plan.groups).swapaxes(1, 2)
            grad_weight[(..., *tap)] = product.reshape(weight.shape[:2])
    if grad_bias is not None:
        sum_channels(grad_output, grad_bias)


def conv_transpose(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    """The way back of `conv` to its input: each tap hands on to where it met the input."""
    out[...] = 0 if bias is None else _per_channel(bias, out)
    for tap, to, of in taps(plan):
        out[of] += _spread(_tap(weight, tap, plan).swapaxes(1, 2) @ _flat(x[to], plan.groups), out[of])


def sum_channels(x: Array, out: Array) -> None:
    out[...] = x.sum((0, *range(2, x.ndim)))


def _tap(weight: Array, tap: tuple[int, ...], plan: ConvPlan) -> Array:
    """One kernel position's weights as (groups, C_out / groups, C_in / groups)."""
    return weight[(..., *tap)].reshape(plan.groups, plan.out_channels // plan.groups, plan.in_channels // plan.groups)


def _flat(array: Array, groups: int) -> Array:
    """(N, C, *spatial) as (groups, C / groups, N * pixels)."""
    n, c, *spatial = array.shape
    pixels = n
    for size in spatial:
        pixels *= size
    return array.swapaxes(0, 1).reshape(groups, c // groups, pixels)


def _spread(flat: Array, like: Array) -> Array:
    """The way back from `_flat`, to the shape of `like`."""
    n, c, *spatial = like.shape
    return flat.reshape(c, n, *spatial).swapaxes(0, 1)


def _per_channel(bias: Array, like: Array) -> Array:
    return bias.reshape(-1, *(1,) * (like.ndim - 2))
