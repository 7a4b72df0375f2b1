"""What kernels are given of plans and arrays: plain integers and small tables. Nothing here knows a GPU."""

from functools import lru_cache
from typing import Any

from cnnkit import geometry
from cnnkit.arrays import Array, channels_last
from cnnkit.geometry import AdaptivePlan, ConvPlan, Ints, PoolPlan

MOST = 2**31 - 1 - 1024  # numbers of an array: a block more must not overflow
BLOCKS = 2**16 - 1  # along the others


Steps = tuple[int, ...]  # of a lifted array, in elements; kernels take them in 64 bits


def steps(array: Array) -> Steps:
    return _steps(array.strides, array.itemsize)


@lru_cache(1024)
def _steps(strides: tuple[int, ...], size: int) -> Steps:
    images, channels, *spatial = (stride // size for stride in strides)
    return images, channels, *(0,) * (3 - len(spatial)), *spatial


def conv(
    x: Array, weight: Array, plan: ConvPlan, out: Array, with_bias: bool, relu: bool
) -> tuple[Ints, Ints, Ints, Steps, Steps, Steps]:
    """The problem that all kernels of `convolve` take."""
    return *_conv(plan, with_bias, relu, channels_last(out)), steps(x), steps(weight), steps(out)


@lru_cache(1024)
def _conv(plan: ConvPlan, with_bias: bool, relu: bool, last: bool) -> tuple[Ints, Ints, Ints]:
    plan = geometry.lift(plan)
    channels, outputs = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    counts = channels, outputs, plan.batch, int(with_bias), int(relu), int(last)
    sizes = (*plan.input_size, *plan.kernel_size, *plan.output_size)
    return counts, sizes, (*plan.stride, *plan.dilation, *plan.before)


def fits(*used: Array) -> bool:
    """Whether arrays are small enough for kernels that count in 32 bits, and numbers lie whole elements apart."""
    return all(_fits(one.size, one.strides, one.itemsize) for one in used if one is not None)


@lru_cache(1024)
def _fits(count: int, strides: tuple[int, ...], size: int) -> bool:
    return count <= MOST and not any(stride % size for stride in strides)


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
