"""Pooling, one strided view of the input for each position of the window."""

from functools import reduce

from cnnkit.arrays import Array, namespace
from cnnkit.geometry import Ints, PoolPlan, taps, volume


def max_pool(x: Array, plan: PoolPlan, out: Array, indices: Array | None) -> None:
    xp = namespace(x)
    found = xp.empty(out.shape, xp.int64) if indices is None else indices
    found[...] = -1
    out[...] = 0
    position = xp.arange(volume(plan.input_size)).reshape(plan.input_size)
    for _, to, of in taps(plan):
        value, best = x[of], out[to]
        better = (found[to] < 0) | (value > best) | (value != value)
        out[to] = xp.where(better, value, best)
        found[to] = xp.where(better, position[of[2:]], found[to])


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    xp = namespace(grad_x)
    n, c, *spatial = grad_x.shape
    planes = n * c
    total = xp.zeros((planes, volume(tuple(spatial))), grad_x.dtype)
    outputs = volume(grad_output.shape[2:])
    plane = xp.arange(planes)[:, None]
    xp.add.at(total, (plane, indices.reshape(planes, outputs)), grad_output.reshape(planes, outputs))
    grad_x[...] = total.reshape(grad_x.shape)


def avg_pool(x: Array, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    out[...] = 0
    for _, to, of in taps(plan):
        out[to] += x[of]
    out /= _table(divisors, out)


def avg_pool_backward(grad_output: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    share = grad_output / _table(divisors, grad_output)
    grad_x[...] = 0
    for _, to, of in taps(plan):
        grad_x[of] += share[to]


def _table(divisors: tuple[Ints, ...], like: Array) -> Array:
    """The divisor of every window of a plane: the product of its factors along the axes."""
    xp = namespace(like)
    return reduce(xp.multiply.outer, [xp.asarray(factors, like.dtype) for factors in divisors])
