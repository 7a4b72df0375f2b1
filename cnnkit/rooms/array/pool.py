"""Pooling, one strided view of the input for each position of the window."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

from cnnkit.arrays import Array, namespace
from cnnkit.geometry import AdaptivePlan, Ints, PoolPlan, adaptive_taps, taps, volume


def max_pool(x: Array, plan: PoolPlan | AdaptivePlan, out: Array, indices: Array | None) -> None:
    xp = namespace(x)
    found = xp.empty(out.shape, xp.int64) if indices is None else indices
    found[...] = -1
    out[...] = 0
    for to, of in _meetings(plan, xp):
        value, best = x[of], out[to]
        better = (found[to] < 0) | (value > best) | (value != value)
        out[to] = xp.where(better, value, best)
        found[to] = xp.where(better, _places(of[2:], plan.input_size, xp), found[to])


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    xp = namespace(grad_x)
    total = xp.zeros((grad_x.shape[0] * grad_x.shape[1], volume(grad_x.shape[2:])), grad_x.dtype)
    plane, places, values = _by_planes(grad_output, indices)
    xp.add.at(total, (plane, places), values)
    grad_x[...] = total.reshape(grad_x.shape)


def max_unpool(x: Array, indices: Array, out: Array) -> None:
    xp = namespace(x)
    planes, size = out.shape[0] * out.shape[1], volume(out.shape[2:])
    plane, places, values = _by_planes(x, indices)
    last = xp.zeros((planes, size), xp.uint64)  # 1 + which of the values lies there in the end, 0 if none
    xp.maximum.at(last, (plane, places), xp.arange(1, values.shape[1] + 1, dtype=xp.uint64)[None])
    padded = xp.concatenate([xp.zeros((planes, 1), x.dtype), values], axis=1)
    out[...] = xp.take_along_axis(padded, last.astype(xp.int64), axis=1).reshape(out.shape)


def max_unpool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    plane, places, _ = _by_planes(indices, indices)
    planes = grad_output.reshape(plane.shape[0], volume(grad_output.shape[2:]))
    grad_x[...] = planes[plane, places].reshape(grad_x.shape)


def avg_pool(x: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], out: Array) -> None:
    out[...] = 0
    for to, of in _meetings(plan, namespace(x)):
        out[to] += x[of]
    out /= _table(divisors, out)


def avg_pool_backward(
    grad_output: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    share = grad_output / _table(divisors, grad_output)
    grad_x[...] = 0
    if isinstance(plan, AdaptivePlan):
        for to, of in _meetings(plan.turned(), namespace(grad_x)):
            grad_x[to] += share[of]
    else:
        for to, of in _meetings(plan, namespace(grad_x)):
            grad_x[of] += share[to]


def lp_pool(x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    avg_pool(x**norm_type, plan, divisors, out)
    out *= volume(plan.kernel_size)
    out **= 1 / norm_type


def lp_pool_backward(
    grad_output: Array, x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    """``x**(p - 1) * sum over the windows that hold x of grad_output * total**(1/p - 1) * taps / divisor``."""
    xp, taps = namespace(x), volume(plan.kernel_size)
    total = xp.empty_like(grad_output)
    avg_pool(x**norm_type, plan, divisors, total)
    total *= taps
    power = xp.where(total == 0, 1, total) ** (1 / norm_type - 1)
    avg_pool_backward(xp.where(total == 0, 0, grad_output * power * taps), plan, divisors, grad_x)
    grad_x *= x ** (norm_type - 1)


def _meetings(plan: PoolPlan | AdaptivePlan, xp: Any) -> Iterator[tuple[Any, Any]]:
    """For every position in a window where outputs and inputs meet: slices, or if windows differ open meshes."""
    if isinstance(plan, PoolPlan):
        for _, to, of in taps(plan):
            yield to, of
        return
    every = (slice(None), slice(None))
    for outputs, inputs in adaptive_taps(plan):
        yield every + xp.ix_(*map(xp.asarray, outputs)), every + xp.ix_(*map(xp.asarray, inputs))


def _places(of: Any, size: Ints, xp: Any) -> Array:
    """The flat positions in a plane of what lies there."""
    axes = [xp.arange(one.start, one.stop, one.step) if isinstance(one, slice) else one.ravel() for one in of]
    place = axes[0]
    for one, n in zip(axes[1:], size[1:], strict=True):
        place = place[..., None] * n + one
    return place


def _by_planes(values: Array, indices: Array) -> tuple[Array, Array, Array]:
    """Numbers of planes, and for each plane the indices and the values."""
    planes, each = indices.shape[0] * indices.shape[1], volume(indices.shape[2:])
    return namespace(indices).arange(planes)[:, None], indices.reshape(planes, each), values.reshape(planes, each)


def _table(divisors: tuple[Ints, ...], like: Array) -> Array:
    """The divisor of every window of a plane: the product of its factors along the axes."""
    xp = namespace(like)
    return reduce(xp.multiply.outer, [xp.asarray(factors, like.dtype) for factors in divisors])
