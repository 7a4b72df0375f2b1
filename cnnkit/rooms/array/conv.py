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
    if grad_bias is not None:
        grad_bias[...] = grad_output.sum((0, *range(2, grad_output.ndim)))
    if grad_x is not None:
        grad_x[...] = 0
    for tap, to, of in taps(plan):
        grad = _flat(grad_output[to], plan.groups)
        if grad_x is not None:
            grad_x[of] += _spread(_tap(weight, tap, plan).swapaxes(1, 2) @ grad, grad_x[of])
        if grad_weight is not None:
            product = grad @ _flat(x[of], plan.groups).swapaxes(1, 2)
            grad_weight[(..., *tap)] = product.reshape(weight.shape[:2])


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
