"""What the tile for tensor cores is given: operands channels last, in whole pieces of 16 bytes, and plain integers."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from cnnkit import geometry, settings
from cnnkit.arrays import Array, is_half, lift, namespace
from cnnkit.geometry import ConvPlan, Ints
from cnnkit.rooms.cuda import matrix, problems
from cnnkit.rooms.cuda.problems import Steps


class Problem(NamedTuple):
    """The arguments of a product after its arrays and before its results' steps."""

    counts: Ints
    parameter: Any
    positions: Steps
    features: Steps
    sizes: Ints
    moves: Ints
    xs: Ints
    bs: Ints
    ys: Steps


def wanted(x: Array) -> bool:
    """Whether products of these numbers are summed on tensor cores: of halves always, of float32 where tf32 may be."""
    return is_half(x.dtype) or (x.dtype.name == "float32" and settings.current().tf32)


def fit(x: Array, weight: Array) -> bool:
    """Whether an image and the weight are small enough to be counted in 32 bits, with whole pieces of channels."""
    most = problems.MOST * x.itemsize // matrix.PIECE
    return geometry.volume(x.shape[1:]) <= most and weight.size <= most


def whole_pieces(channels: int, x: Array) -> int:
    vector = matrix.PIECE // x.itemsize
    return problems.blocks(channels, vector) * vector


def channels_last(array: Array, groups: int) -> Array:
    """(N, C, *spatial) as (N, D, H, W, groups, channels), where it lies, or a copy with zeros after the channels."""
    view = lift(array).transpose(0, 2, 3, 4, 1)
    channels = view.shape[4] // groups
    wide = whole_pieces(channels, array)
    shape = (*view.shape[:4], groups)
    if wide == channels and view.flags.c_contiguous and array.data.ptr % matrix.PIECE == 0:
        return view.reshape(*shape, channels)
    xp = namespace(array)
    memory = (xp.empty if wide == channels else xp.zeros)((*shape, wide), array.dtype)
    memory[..., :channels] = view.reshape(*shape, channels)
    return memory


def batches(groups: int, *given: Array) -> Iterator[slice]:
    """So many images at a time as there is room for copies of, in the workspace and in 32 bits; at least one."""
    images = len(given[0])
    numbers = [geometry.volume(one.shape[2:]) * groups * whole_pieces(one.shape[1] // groups, one) for one in given]
    workspace = settings.current().max_workspace // max(1, sum(numbers) * given[0].itemsize)
    at_once = max(1, min(workspace, problems.MOST // max(1, *numbers)))
    for start in range(0, images, at_once):
        yield slice(start, min(start + at_once, images))


def forward(
    x: Array, weight: Array, plan: ConvPlan, out: Array, biased: bool, activation: int, parameter: Any
) -> Problem:
    """The problem of a convolution; x and weight as `channels_last` has them."""
    positions, features, how = _both(x.shape, plan)
    outputs = plan.out_channels // plan.groups
    n, o, *rest = problems.steps(out)
    apart = [abs(step) for step, size in zip((n, *rest), (plan.batch, *plan.output_size), strict=True) if size > 1]
    along = int(abs(o) > min(apart, default=abs(o)))
    counts = (positions, features, outputs, plan.output_size[-1], plan.groups, features, int(biased), activation, along)
    return Problem(counts, parameter, *how, (features, outputs * features), Steps((n, *rest, o, outputs * o, 0)))


def back(x: Array, grad: Array, plan: ConvPlan, terms: int, parameter: Any) -> Problem:
    """The problem of a weight's gradient, in parts (split, o, kd, kh, kw, c) of `terms` positions."""
    positions, features, how = _both(x.shape, plan)
    *_, groups, wide = grad.shape
    outputs, channels = plan.out_channels // groups, plan.in_channels // groups
    counts = (positions, features, outputs, channels, groups, terms, 0, 0, 1)
    lines = (features // plan.kernel_size[0], plan.kernel_size[2] * x.shape[-1], x.shape[-1], 1)
    ys = Steps((*lines, features, outputs * features, groups * outputs * features))
    return Problem(counts, parameter, *how, (groups * wide, wide), ys)


@lru_cache(1024)
def _both(shape: Ints, plan: ConvPlan) -> tuple[int, int, tuple[Steps, Steps, Ints, Ints, Ints]]:
    _, depth, height, width, groups, channels = shape
    pixel = groups * channels
    xs = (depth * height * width * pixel, height * width * pixel, width * pixel, pixel, channels)
    moves = (*plan.stride, *plan.dilation, *plan.before)
    radices = problems.radix(plan.output_size), problems.radix((*plan.kernel_size[1:], channels))
    counts = plan.batch * geometry.volume(plan.output_size), geometry.volume(plan.kernel_size) * channels
    return *counts, (*radices, plan.input_size, moves, xs)
