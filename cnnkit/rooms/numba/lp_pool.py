"""Lp pooling: average pooling of powers, some planes at a time, whose powers stay in the cache. Threads share these.

NaN where a power or a root is not defined, without NumPy's warning, as from a kernel.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.geometry import Ints, PoolPlan, taps, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba.pool import avg_pool, avg_pool_backward

NEAR = 1 << 20  # bytes of powers

Block = tuple[slice, slice]
Blocks = list[Block]


def lp_pool(x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    blocks = list(_blocks(x, plan))
    threads.run(_forward, len(blocks), x.size, blocks, x, norm_type, plan, divisors, out)


def _forward(start: int, stop: int, blocks: Blocks, x: Array, norm_type: float, plan: PoolPlan, *results: Any) -> None:
    divisors, out = results
    for block in blocks[start:stop]:
        _roots(x[block], norm_type, _part(plan, x[block]), divisors, out[block])


def lp_pool_backward(
    grad_output: Array, x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    blocks = list(_blocks(x, plan))
    threads.run(_backward, len(blocks), 2 * x.size, blocks, grad_output, x, norm_type, plan, divisors, grad_x)


def _backward(
    start: int, stop: int, blocks: Blocks, grad_output: Array, x: Array, norm_type: float, plan: PoolPlan, *results: Any
) -> None:
    divisors, grad_x = results
    for block in blocks[start:stop]:
        some = x[block]
        _roots_backward(grad_output[block], some, norm_type, _part(plan, some), divisors, grad_x[block])


def _blocks(x: Array, plan: PoolPlan) -> Iterator[Block]:
    """Images and, unless channels lie together, channels of these: a MiB, or what cannot be parted."""
    planes = max(1, NEAR // max(1, x.itemsize * volume(plan.input_size)))
    images = max(1, planes // max(1, plan.channels))
    channels = plan.channels if arrays.channels_last(x) else min(planes, plan.channels)
    for n in range(0, plan.batch, images):
        for c in range(0, plan.channels, channels or 1):
            yield slice(n, n + images), slice(c, c + channels)


def _part(plan: PoolPlan, x: Array) -> PoolPlan:
    return plan._replace(batch=x.shape[0], channels=x.shape[1])


@np.errstate(all="ignore")
def _roots(x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    avg_pool(_power(x, norm_type), plan, divisors, out)
    out *= volume(plan.kernel_size)
    if norm_type == 2:
        np.sqrt(out, out)
    elif norm_type != 1:
        np.power(out, 1 / norm_type, out)


@np.errstate(all="ignore")
def _roots_backward(
    grad_output: Array, x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    """``x**(p - 1) * sum over the windows that hold x of grad_output * total**(1/p - 1) * taps / divisor``."""
    total: Any = arrays.empty(grad_output.shape, x)
    avg_pool(_power(x, norm_type), plan, divisors, total)
    nowhere = total == 0
    total *= volume(plan.kernel_size)
    share = 1 / np.sqrt(total) if norm_type == 2 else _power(total, 1 / norm_type - 1)
    share *= grad_output
    share *= volume(plan.kernel_size)
    share[nowhere] = 0
    _spread(share, plan, divisors, grad_x)
    if norm_type != 1:
        grad_x *= _power(x, norm_type - 1)


def _power(x: Array, exponent: float) -> Array:
    """Whole powers by multiplication: NumPy's own of negative numbers take a hundred times as long."""
    if not exponent.is_integer() or not 1 <= exponent <= 16:
        return x**exponent
    power = x
    for bit in f"{int(exponent):b}"[1:]:
        power = power * power
        if bit == "1":
            power *= x
    return power


def _spread(share: Array, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array) -> None:
    """The gradient of a mean; with dilation, which means do not have, in one pass for each tap."""
    if set(plan.dilation) == {1}:
        avg_pool_backward(share, plan, divisors, grad_x)
        return
    for axis, factors in enumerate(divisors, 2):
        share /= np.array(factors, share.dtype).reshape(-1, *(1,) * (share.ndim - 1 - axis))
    grad_x[...] = 0
    for _, to, of in taps(plan):
        grad_x[of] += share[to]
