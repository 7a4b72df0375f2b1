"""Lp pooling: average pooling of powers.

Powers are an array as large as `x`, written and read once; roots are taken of the outputs. NaN where a power or a root
is not defined, without NumPy's warning, as from a kernel.
"""

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import Ints, PoolPlan, taps, volume
from cnnkit.rooms.numba.pool import avg_pool, avg_pool_backward


def lp_pool(x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], out: Array) -> None:
    with np.errstate(all="ignore"):
        avg_pool(_power(x, norm_type), plan, divisors, out)
        out *= volume(plan.kernel_size)
        if norm_type == 2:
            np.sqrt(out, out)
        elif norm_type != 1:
            np.power(out, 1 / norm_type, out)


def lp_pool_backward(
    grad_output: Array, x: Array, norm_type: float, plan: PoolPlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    """``x**(p - 1) * sum over the windows that hold x of grad_output * total**(1/p - 1) * taps / divisor``."""
    with np.errstate(all="ignore"):
        total = np.empty_like(grad_output)
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
