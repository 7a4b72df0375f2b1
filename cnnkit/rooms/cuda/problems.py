"""What kernels are given of plans and arrays: plain integers and small tables. Nothing here knows a GPU."""

from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit import geometry, settings
from cnnkit.arrays import Array, channels_last
from cnnkit.geometry import AdaptivePlan, ConvPlan, Ints, PoolPlan

MOST = 2**31 - 1 - 1024  # numbers of an array: a block more must not overflow
BLOCKS = 2**16 - 1  # along the others
ENOUGH = 512  # blocks: for 132 multiprocessors with room for two or three each
SHORTEST = 8  # steps of a split: fewer cost more to add up than they gain


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


Problem = tuple[Ints, Ints, Ints, Steps, Steps, Steps, Steps]


def conv(x: Array, weight: Array, plan: ConvPlan, out: Array, with_bias: bool = False, activation: int = 0) -> Problem:
    """The problem that all kernels of `convolve` take."""
    plan = geometry.lift(plan)
    channels, outputs = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    terms = channels * geometry.volume(plan.kernel_size)
    counts = (channels, outputs, plan.batch, int(with_bias), activation, int(channels_last(out)), plan.groups, terms)
    sizes = (*plan.input_size, *plan.kernel_size, *plan.output_size)
    moves = (*plan.stride, *plan.dilation, *plan.before)
    xs, ws, ys = steps(x), steps(weight), steps(out)
    return counts, sizes, moves, xs, ws, ys, Steps((channels * xs[1], outputs * ws[0], outputs * ys[1], 0))


def weight_gradient(x: Array, grad_output: Array, plan: ConvPlan, parts: Array, terms: int) -> Problem:
    """The gradient of a weight as a convolution of x by the output gradient, of `terms` products for each split.

    What was an image is a channel and what was a channel is an image; positions of the output are taps, and taps are
    positions; stride and dilation change places. `parts` are (splits, *weight).
    """
    plan = geometry.lift(plan)
    channels, outputs = plan.in_channels // plan.groups, plan.out_channels // plan.groups
    counts = (plan.batch, outputs, channels, 0, 0, 0, plan.groups, terms)
    sizes = (*plan.input_size, *plan.output_size, *plan.kernel_size)
    moves = (*plan.dilation, *plan.stride, *plan.before)
    xs, gs, ps = (exchanged(steps(one)) for one in (x, grad_output, parts[0]))
    groups = Steps((channels * xs[0], outputs * gs[0], outputs * ps[1], parts.strides[0] // parts.itemsize))
    return counts, sizes, moves, xs, gs, ps, groups


def exchanged(first: Steps) -> Steps:
    """Steps of an array whose first two axes change places."""
    return Steps((first[1], first[0], *first[2:]))


@lru_cache(1024)
def radix(sizes: Ints) -> Steps:
    """Each size with the factor and the shift that divide by it, see `places.digits`."""
    shifts = [31 + (size - 1).bit_length() for size in sizes]
    return Steps(n for size, s in zip(sizes, shifts, strict=True) for n in (size, -(-(1 << s) // size), s))


def split(terms: int, depth: int, blocks_: int, each: int) -> tuple[int, int]:
    """Splits of a long sum, and the terms of each, if `blocks_` tiles are too few: by the shapes, not by the GPU.

    `each` is the bytes that a split's results take, of which there is a workspace for.
    """
    most = min(ENOUGH // blocks_, terms // (SHORTEST * depth), settings.current().max_workspace // each)
    long = blocks(blocks(terms, max(1, most)), depth) * depth
    return blocks(terms, long), long


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
