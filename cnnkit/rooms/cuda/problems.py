"""What kernels are given of plans and arrays: plain integers and small tables. Nothing here knows a GPU."""

from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit import geometry
from cnnkit.arrays import Array, channels_last
from cnnkit.geometry import AdaptivePlan, ConvPlan, Ints, PoolPlan

MOST = 2**31 - 1 - 1024  # numbers of an array: a block more must not overflow
BLOCKS = 2**16 - 1  # along the others


class Steps(tuple[int, ...]):
    """Steps of a lifted array, in elements; kernels take them in 64 bits."""


def steps(array: Array) -> Steps:
    return _steps(array.strides, array.itemsize)


@lru_cache(1024)
def _steps(strides: tuple[int, ...], size: int) -> Steps:
    images, channels, *spatial = (stride // size for stride in strides)
    return Steps((images, channels, *(0,) * (3 - len(spatial)), *spatial))


def packed(args: tuple[Any, ...]) -> list[Any]:
    """The arguments of a kernel one by one, as wide as it takes them."""
    flat: list[Any] = []
    for one in args:
        wide = np.int64 if isinstance(one, Steps) else np.int32
        flat += [wide(number) for number in one] if isinstance(one, tuple) else [one]
    return [np.int32(one) if isinstance(one, int) else one for one in flat]


def conv(
    x: Array, weight: Array, plan: ConvPlan, out: Array, with_bias: bool, relu: bool
) -> tuple[Ints, Ints, Ints, Steps, Steps, Steps]:
    """The problem that all kernels of `convolve` take."""
    plan = geometry.lift(plan)
    counts = (
        *(plan.in_channels // plan.groups, plan.out_channels // plan.groups, plan.batch),
        *(int(with_bias), int(relu), int(channels_last(out))),
    )
    sizes = (*plan.input_size, *plan.kernel_size, *plan.output_size)
    moves = (*plan.stride, *plan.dilation, *plan.before)
    return counts, sizes, moves, steps(x), steps(weight), steps(out)


def fits(*used: Array) -> bool:
    """Whether arrays are small enough for kernels that count in 32 bits, and numbers lie whole elements apart."""
    return all(
        one.size <= MOST and not any(step % one.itemsize for step in one.strides) for one in used if one is not None
    )


def blocks(count: int, threads: int) -> int:
    return -(-count // threads)


def turned(weight: Array, groups: int) -> Array:
    """The weight of the way back: inputs and outputs of each group exchanged."""
    if groups == 1:
        return weight.swapaxes(0, 1)
    o, c, *kernel = weight.shape
    return weight.reshape(groups, o // groups, c, *kernel).swapaxes(1, 2).reshape(groups * c, o // groups, *kernel)


@lru_cache(128)
def windows(plan: PoolPlan | AdaptivePlan, back: bool, divisors: tuple[Ints, ...] | None = None) -> Any:
    """Begin and number of taps of every window, one after the other along all axes, and the factors of divisors."""
    plan = geometry.lift(plan)
    axes = geometry.held_by(plan) if back else geometry.windows(plan)
    table = [(first, taps) for firsts, counts in axes for first, taps in zip(firsts, counts, strict=True)]
    factors = [factor for axis in ((1,),) * (3 - len(divisors or ())) + (divisors or ()) for factor in axis]
    return [number for row in table for number in row], [float(factor) for factor in factors]
