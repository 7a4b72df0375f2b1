"""Every shape formula and every shape error, for any number of spatial axes.

A call's parameters are parsed into tuples of plain integers (:func:`per_axis`, :func:`parse_padding`) and solved once
into a frozen plan, which is cached. Whoever needs a size asks the plan; nobody else adds up strides and paddings.

Notation: ``size`` is the length of a spatial axis of ``x``, ``span = dilation * (kernel - 1) + 1`` what one window
covers of it, ``before`` and ``after`` the padding, ``start = o * stride - before`` where window ``o`` begins.
"""

import itertools
import math
import operator
import sys
from collections.abc import Iterator
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
Slices = tuple[slice, ...]

AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
PADDINGS = ("valid", "same", "same_lower")
LARGEST = 1 << 40  # of any parameter: products of two such numbers and a size still are plain machine integers
_CACHED_PLANS = 1024  # bounded: a program with more shapes than this solves some of them again


class ConvPlan(NamedTuple):
    """One convolution, solved. Sizes are tuples over the spatial axes; channel counts are those of all groups."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input_size: Ints
    kernel_size: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    output_size: Ints

    @property
    def output_shape(self) -> Ints:
        return (self.batch, self.out_channels, *self.output_size)


class PoolPlan(NamedTuple):
    """One pooling, solved; the spatial fields mean what they mean in :class:`ConvPlan`."""

    batch: int
    channels: int
    input_size: Ints
    kernel_size: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    output_size: Ints

    @property
    def output_shape(self) -> Ints:
        return (self.batch, self.channels, *self.output_size)


class AdaptivePlan(NamedTuple):
    """One pooling to a given size, solved: windows that differ in size, see :func:`adaptive_windows`."""

    batch: int
    channels: int
    input_size: Ints
    output_size: Ints

    def turned(self) -> "AdaptivePlan":
        """The way back: its windows hold the outputs whose windows hold an element of x."""
        return self._replace(input_size=self.output_size, output_size=self.input_size)


# ---------------------------------------------------------------- parsing: what users write, as tuples of ints


def integer(value: Any, name: str, least: int = 1) -> int:
    """`value` as an int of at least `least`; ``True`` and ``2.0`` are no ints."""
    if type(value) is int and least <= value <= LARGEST:
        return value
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, but an int is needed")
    try:
        plain = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but an int is needed") from None
    if plain < least:
        raise ValueError(f"{name} is {plain}, but must be at least {least}")
    if plain > LARGEST:
        raise ValueError(f"{name} is {plain}, but must be at most {LARGEST}")
    return plain


def boolean(value: Any, name: str) -> bool:
    """`value`, which must be True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, but True or False is needed")
    return value


def number(value: Any, name: str) -> float:
    """`value` as a float; ``True`` is no number."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, but a number is needed")
    return float(value)


def per_axis(value: Any, ndim: int, name: str, least: int = 1) -> Ints:
    """An int for all spatial axes, or one int for each."""
    if not isinstance(value, (tuple, list)):
        return (integer(value, name, least),) * ndim
    if len(value) != ndim:
        raise ValueError(f"{name} is {value!r}, but needs an int or {_count(ndim, 'int')}")
    return tuple(integer(one, name, least) for one in value)


def parse_padding(padding: Any, ndim: int) -> str | Pairs:
    """A padding in any of its forms as ``(before, after)`` pairs, or as one of the names in `PADDINGS`."""
    if isinstance(padding, str):
        if padding not in PADDINGS:
            raise ValueError(f"padding is {padding!r}, but the known names are {', '.join(map(repr, PADDINGS))}")
        return padding
    if hasattr(padding, "__index__"):
        return ((integer(padding, "padding", 0),) * 2,) * ndim
    wanted = f"an int, {_count(ndim, 'int')} or {_count(ndim, '(before, after) pair')}"
    if not isinstance(padding, (tuple, list)):
        raise TypeError(f"padding is {padding!r}, but needs {wanted}")
    if len(padding) != ndim:
        raise ValueError(f"padding is {padding!r}, but needs {wanted}")
    return tuple(_padding_pair(one, padding) for one in padding)


def _padding_pair(one: Any, padding: Any) -> tuple[int, int]:
    if not isinstance(one, (tuple, list)):
        return (integer(one, "padding", 0),) * 2
    if len(one) != 2:
        raise ValueError(f"padding is {padding!r}, but {one!r} is no (before, after) pair")
    return integer(one[0], "padding", 0), integer(one[1], "padding", 0)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


# ---------------------------------------------------------------- convolution


def conv(ndim: int, x: Ints, weight: Ints, stride: Any, padding: Any, dilation: Any, groups: Any) -> ConvPlan:
    """The plan of a convolution of an array of shape `x` (batched or not) with `weight`."""
    if type(stride) is type(padding) is type(dilation) is type(groups) is int:  # what equals an int may be none: True
        return _parsed_conv(ndim, x, weight, stride, padding, dilation, groups)
    return _parse_conv(ndim, x, weight, stride, padding, dilation, groups)


def _parse_conv(ndim: int, x: Ints, weight: Ints, stride: Any, padding: Any, dilation: Any, groups: Any) -> ConvPlan:
    return _conv(
        ndim,
        x,
        weight,
        per_axis(stride, ndim, "stride"),
        parse_padding(padding, ndim),
        per_axis(dilation, ndim, "dilation"),
        integer(groups, "groups"),
    )


_parsed_conv = lru_cache(_CACHED_PLANS)(_parse_conv)


@lru_cache(_CACHED_PLANS)
def _conv(
    ndim: int, x: Ints, weight: Ints, stride: Ints, padding: str | Pairs, dilation: Ints, groups: int
) -> ConvPlan:
    batch, channels, size = split_shape(x, ndim, f"conv{ndim}d")
    if len(weight) != ndim + 2 or min(weight) < 1:
        kernel = ", ".join(f"k{axis}" for axis in AXES[ndim])
        raise ValueError(
            f"weight has shape {weight}, but conv{ndim}d needs (C_out, C_in // groups, {kernel}), none of them 0"
        )
    if weight[0] % groups:
        raise ValueError(
            f"weight of shape {weight} has {weight[0]} output channels, which groups={groups} does not divide"
        )
    if channels != weight[1] * groups:
        raise ValueError(
            f"x has {channels} channels, but weight of shape {weight} with groups={groups} needs {weight[1] * groups}"
        )
    kernel_size = weight[2:]
    before, after = _solve_padding(padding, size, kernel_size, stride, dilation)
    output_size = _output_size(size, kernel_size, stride, dilation, before, after, ceil_mode=False)
    return ConvPlan(batch, channels, weight[0], groups, size, kernel_size, stride, dilation, before, after, output_size)


def split_shape(x: Ints, ndim: int, op: str, name: str = "x") -> tuple[int, int, Ints]:
    """``(N, C, *spatial)`` or ``(C, *spatial)`` as batch, channels and sizes; an unbatched array is a batch of one."""
    if len(x) == ndim + 2:
        return x[0], x[1], x[2:]
    if len(x) == ndim + 1:
        return 1, x[0], x[1:]
    axes = ", ".join(AXES[ndim])
    raise ValueError(f"{name} has shape {x}, but {op} needs (N, C, {axes}) or (C, {axes})")


def _solve_padding(padding: str | Pairs, size: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> tuple[Ints, Ints]:
    """Padding as (before of each axis, after of each axis); "same" makes the output ``ceil(size / stride)`` long."""
    if padding == "valid":
        return (0,) * len(size), (0,) * len(size)
    if not isinstance(padding, str):
        return tuple(pair[0] for pair in padding), tuple(pair[1] for pair in padding)
    total = tuple(
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    )
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (less, more) if padding == "same" else (more, less)


def _output_size(
    size: Ints, kernel: Ints, stride: Ints, dilation: Ints, before: Ints, after: Ints, ceil_mode: bool
) -> Ints:
    axes = zip(AXES[len(size)], size, kernel, stride, dilation, before, after, strict=True)
    return tuple(_output_length(axis, n, k, s, d, b, a, ceil_mode) for axis, n, k, s, d, b, a in axes)


def _output_length(axis: str, n: int, k: int, s: int, d: int, before: int, after: int, ceil_mode: bool) -> int:
    """``(n + before + after - d*(k-1) - 1) // s + 1``; with `ceil_mode` one more if that begins before the padding."""
    room = n + before + after - d * (k - 1) - 1
    if room < 0:
        raise ValueError(
            f"a window of {k} with dilation {d} spans {d * (k - 1) + 1} along {axis}, "
            f"but x has {n} there, {n + before + after} with padding"
        )
    length = room // s + 1
    if ceil_mode and room % s and length * s < n + before:
        length += 1
    return length


# ---------------------------------------------------------------- transposed convolution


def conv_transpose(
    ndim: int, x: Ints, weight: Ints, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> ConvPlan:
    """The plan of the convolution whose input gradient the transposed one is: from its result back to `x`."""
    if type(stride) is type(padding) is type(output_padding) is type(groups) is type(dilation) is int:
        return _parsed_conv_transpose(ndim, x, weight, stride, padding, output_padding, groups, dilation)
    return _parse_conv_transpose(ndim, x, weight, stride, padding, output_padding, groups, dilation)


def _parse_conv_transpose(
    ndim: int, x: Ints, weight: Ints, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> ConvPlan:
    return _conv_transpose(
        ndim,
        x,
        weight,
        per_axis(stride, ndim, "stride"),
        parse_padding(padding, ndim),
        per_axis(output_padding, ndim, "output_padding", 0),
        integer(groups, "groups"),
        per_axis(dilation, ndim, "dilation"),
    )


_parsed_conv_transpose = lru_cache(_CACHED_PLANS)(_parse_conv_transpose)


@lru_cache(_CACHED_PLANS)
def _conv_transpose(
    ndim: int,
    x: Ints,
    weight: Ints,
    stride: Ints,
    padding: str | Pairs,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> ConvPlan:
    op = f"conv_transpose{ndim}d"
    batch, channels, size = split_shape(x, ndim, op)
    if len(weight) != ndim + 2 or min(weight) < 1:
        kernel = ", ".join(f"k{axis}" for axis in AXES[ndim])
        raise ValueError(f"weight has shape {weight}, but {op} needs (C_in, C_out // groups, {kernel}), none of them 0")
    if weight[0] % groups:
        raise ValueError(
            f"weight of shape {weight} has {weight[0]} input channels, which groups={groups} does not divide"
        )
    if channels != weight[0]:
        raise ValueError(f"x has {channels} channels, but weight of shape {weight} needs {weight[0]}")
    spans = tuple(d * (k - 1) + 1 for k, d in zip(weight[2:], dilation, strict=True))
    covered = tuple((n - 1) * s + span for n, s, span in zip(size, stride, spans, strict=True))
    longest = tuple(n * s for n, s in zip(size, stride, strict=True))  # what a "same" convolution shortens to x
    before, after = _solve_padding(padding, longest, weight[2:], stride, dilation)
    _check_output_padding(padding, output_padding, longest, stride, dilation)
    if padding in ("same", "same_lower"):  # a span that is shorter than the stride leaves a rest
        output_padding = tuple(max(s - span, 0) for s, span in zip(stride, spans, strict=True))
    axes = zip(AXES[ndim], size, covered, before, after, output_padding, strict=True)
    result = tuple(_transposed_length(*one) for one in axes)
    after = tuple(a - more for a, more in zip(after, output_padding, strict=True))  # the last window ends there
    return ConvPlan(
        batch, weight[1] * groups, channels, groups, result, weight[2:], stride, dilation, before, after, size
    )


def _check_output_padding(padding: str | Pairs, given: Ints, longest: Ints, stride: Ints, dilation: Ints) -> None:
    for axis, more, length, s, d in zip(AXES[len(given)], given, longest, stride, dilation, strict=True):
        if more and padding in ("same", "same_lower"):
            raise ValueError(
                f"output_padding is {more} along {axis}, but must be 0 with padding {padding!r}, "
                f"which makes the result {length} long there"
            )
        if more >= max(s, d):
            raise ValueError(
                f"output_padding is {more} along {axis}, but must be smaller than the stride, {s}, or the dilation, {d}"
            )


def _transposed_length(axis: str, n: int, covered: int, before: int, after: int, more: int) -> int:
    """``(n - 1) * stride + dilation*(k-1) + 1 - before - after + more``: what n windows cover, less the padding."""
    if n < 1:
        raise ValueError(f"x has {n} along {axis}, but needs at least 1 there")
    length = covered - before - after + more
    if length < 1:
        raise ValueError(
            f"padding takes {before + after} along {axis}, but x is spread to {covered + more} there, "
            "and the result needs at least 1"
        )
    return length


def transposed_terms(weight: Ints, stride: Ints, dilation: Ints, groups: int) -> float:
    """How many products make one element of a transposed convolution, on average over those that taps reach.

    Taps ``stride / gcd(stride, dilation)`` apart reach the same elements, those between them others.
    """
    apart = (min(k, s // math.gcd(s, d)) for k, s, d in zip(weight[2:], stride, dilation, strict=True))
    return weight[0] // groups * math.prod(weight[2:]) / math.prod(apart)


# ---------------------------------------------------------------- pooling


def pool(
    op: str, ndim: int, x: Ints, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> PoolPlan:
    """The plan of a pooling of an array of shape `x` (batched or not); `stride` None is the kernel size."""
    steps = kernel if stride is None else stride
    if type(kernel) is type(steps) is type(padding) is type(dilation) is int and type(ceil_mode) is bool:
        return _parsed_pool(op, ndim, x, kernel, stride, padding, dilation, ceil_mode)
    return _parse_pool(op, ndim, x, kernel, stride, padding, dilation, ceil_mode)


def _parse_pool(
    op: str, ndim: int, x: Ints, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> PoolPlan:
    kernel = per_axis(kernel, ndim, "kernel_size")
    return _pool(
        f"{op}{ndim}d",
        ndim,
        x,
        kernel,
        kernel if stride is None else per_axis(stride, ndim, "stride"),
        parse_padding(padding, ndim),
        per_axis(dilation, ndim, "dilation"),
        boolean(ceil_mode, "ceil_mode"),
    )


_parsed_pool = lru_cache(_CACHED_PLANS)(_parse_pool)


@lru_cache(_CACHED_PLANS)
def _pool(
    op: str, ndim: int, x: Ints, kernel: Ints, stride: Ints, padding: str | Pairs, dilation: Ints, ceil_mode: bool
) -> PoolPlan:
    batch, channels, size = split_shape(x, ndim, op)
    before, after = _solve_padding(padding, size, kernel, stride, dilation)
    for pad, k, d in zip(before + after, kernel * 2, dilation * 2, strict=True):
        span = d * (k - 1) + 1
        if pad > span // 2:
            raise ValueError(
                f"padding is {pad}, but a window that spans {span} may have at most half of it, {span // 2}"
            )
    output_size = _output_size(size, kernel, stride, dilation, before, after, ceil_mode)
    plan = PoolPlan(batch, channels, size, kernel, stride, dilation, before, after, output_size)
    _refuse_empty_windows(plan, ndim)
    return plan


def _refuse_empty_windows(plan: PoolPlan, ndim: int) -> None:
    """A window all of whose taps fall on padding has no maximum and no mean (dilated windows near an edge can)."""
    for a in range(ndim):
        first = -(-plan.before[a] // plan.stride[a])  # windows from here on begin inside x
        edges = itertools.chain(range(min(first, plan.output_size[a])), range(first, plan.output_size[a])[-2:])
        for o in edges:
            start = o * plan.stride[a] - plan.before[a]
            skipped = max(0, -(start // plan.dilation[a]))
            if skipped >= plan.kernel_size[a] or start + skipped * plan.dilation[a] >= plan.input_size[a]:
                raise ValueError(
                    f"window {o} along {AXES[ndim][a]} meets nothing of x, "
                    f"which has {plan.input_size[a]} there, only padding"
                )


def pool_divisors(plan: PoolPlan, count_include_pad: Any, divisor_override: Any) -> tuple[Ints, ...]:
    """Per axis, for each output, the factor of what an average is divided by: a window's divisor is their product.

    Padding counts if `count_include_pad`, what `ceil_mode` lets hang over beyond the padding never does.
    """
    count_include_pad = boolean(count_include_pad, "count_include_pad")
    if divisor_override is None:
        return _pool_divisors(plan, count_include_pad)
    divisor = integer(divisor_override, "divisor_override", -LARGEST)
    if divisor == 0:
        raise ValueError("divisor_override is 0, but nothing can be divided by it")
    ones = [(1,) * n for n in plan.output_size]
    return ((divisor,) * plan.output_size[0], *ones[1:])


@lru_cache(_CACHED_PLANS)
def _pool_divisors(plan: PoolPlan, count_include_pad: bool) -> tuple[Ints, ...]:
    return tuple(_window_lengths(plan, axis, count_include_pad) for axis in range(len(plan.output_size)))


def _window_lengths(plan: PoolPlan, axis: int, count_include_pad: bool) -> Ints:
    size, kernel, before = plan.input_size[axis], plan.kernel_size[axis], plan.before[axis]
    low, high = (-before, size + plan.after[axis]) if count_include_pad else (0, size)
    stride, dilation, windows = plan.stride[axis], plan.dilation[axis], plan.output_size[axis]
    starts = range(-before, -before + windows * stride, stride)
    first = min(windows, -(-(low + before) // stride))  # from here on windows are whole, up to the one at `last`
    last = max(first, min(windows, (high - dilation * (kernel - 1) - 1 + before) // stride + 1))
    left = tuple(_taps_between(at, kernel, dilation, low, high) for at in starts[:first])
    right = tuple(_taps_between(at, kernel, dilation, low, high) for at in starts[last:])
    return left + (kernel,) * (last - first) + right


def _taps_between(start: int, kernel: int, dilation: int, low: int, high: int) -> int:
    """How many of the taps ``start + k * dilation`` are from `low` to ``high - 1``."""
    return min(kernel, -(-(high - start) // dilation)) - max(0, -(-(low - start) // dilation))


@lru_cache(_CACHED_PLANS // 8)
def windows(plan: PoolPlan | AdaptivePlan) -> tuple[tuple[Ints, Ints], ...]:
    """Per axis, for each output, the first element that its window holds, and how many of its taps lie in x."""
    axes = range(len(plan.output_size))
    if isinstance(plan, AdaptivePlan):
        return tuple(adaptive_windows(plan.input_size[a], plan.output_size[a]) for a in axes)
    found = []
    for a in axes:
        size, step = plan.input_size[a], plan.dilation[a]
        starts = [o * plan.stride[a] - plan.before[a] for o in range(plan.output_size[a])]
        first = tuple(start + max(0, -(start // step)) * step for start in starts)
        found.append((first, tuple(_taps_between(start, plan.kernel_size[a], step, 0, size) for start in starts)))
    return tuple(found)


@lru_cache(_CACHED_PLANS // 8)
def held_by(plan: PoolPlan | AdaptivePlan) -> tuple[tuple[Ints, Ints], ...]:
    """Per axis, for each element of x, the first window that holds it, and how many do; without dilation."""
    if isinstance(plan, AdaptivePlan):
        return windows(plan.turned())
    found = []
    for a, n in enumerate(plan.input_size):
        first = tuple(max(0, -((plan.kernel_size[a] - 1 - i - plan.before[a]) // plan.stride[a])) for i in range(n))
        last = tuple(min(plan.output_size[a] - 1, (i + plan.before[a]) // plan.stride[a]) for i in range(n))
        found.append((first, tuple(max(0, z - f + 1) for f, z in zip(first, last, strict=True))))
    return tuple(found)


# ---------------------------------------------------------------- adaptive pooling, unpooling


def adaptive_pool(op: str, ndim: int, x: Ints, output_size: Any) -> PoolPlan | AdaptivePlan:
    """The plan of a pooling to `output_size`, in which None is the size of `x`; equal windows make an ordinary one."""
    return _adaptive_pool(f"{op}{ndim}d", ndim, x, parse_output_size(output_size, ndim))


def parse_output_size(output_size: Any, ndim: int) -> tuple[int | None, ...]:
    """An int or None for all spatial axes, or one of these for each."""
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * ndim
    if len(sizes) != ndim:
        raise ValueError(f"output_size is {output_size!r}, but needs an int or None, or {ndim} of them")
    return tuple(None if size is None else integer(size, "output_size") for size in sizes)


@lru_cache(_CACHED_PLANS)
def _adaptive_pool(op: str, ndim: int, x: Ints, sizes: tuple[int | None, ...]) -> PoolPlan | AdaptivePlan:
    batch, channels, size = split_shape(x, ndim, op)
    if 0 in size:
        raise ValueError(f"x has shape {x}, but {op} needs at least 1 element along every spatial axis")
    output_size = tuple(n if m is None else m for n, m in zip(size, sizes, strict=True))
    if any(n % m for n, m in zip(size, output_size, strict=True)):
        return AdaptivePlan(batch, channels, size, output_size)
    kernel, ones, zeros = tuple(n // m for n, m in zip(size, output_size, strict=True)), (1,) * ndim, (0,) * ndim
    return PoolPlan(batch, channels, size, kernel, kernel, ones, zeros, zeros, output_size)


def adaptive_divisors(plan: PoolPlan | AdaptivePlan) -> tuple[Ints, ...]:
    """Per axis how long each window is, as :func:`pool_divisors` says it of other poolings."""
    if isinstance(plan, PoolPlan):
        return _pool_divisors(plan, True)
    return tuple(adaptive_windows(n, m)[1] for n, m in zip(plan.input_size, plan.output_size, strict=True))


@lru_cache(_CACHED_PLANS // 8)
def adaptive_windows(n: int, m: int) -> tuple[Ints, Ints]:
    """Where each of `m` windows over `n` elements begins and how long it is: from ``o n / m`` to ``(o + 1) n / m``.

    Both are rounded outwards. So an element `i` is held by the windows from ``i m / n`` to ``(i + 1) m / n``.
    """
    first = tuple(o * n // m for o in range(m))
    return first, tuple(-(-(o + 1) * n // m) - at for o, at in enumerate(first))


def adaptive_taps(plan: AdaptivePlan) -> Iterator[tuple[tuple[Ints, ...], tuple[Ints, ...]]]:
    """Every position in a window, with the outputs and the inputs along each axis that meet there; no output twice."""
    axes = [_meet_adaptive(n, m) for n, m in zip(plan.input_size, plan.output_size, strict=True)]
    for met in itertools.product(*axes):
        yield tuple(to for to, _ in met), tuple(of for _, of in met)


def _meet_adaptive(n: int, m: int) -> list[tuple[Ints, Ints]]:
    first, count = adaptive_windows(n, m)
    met = [[(o, first[o] + k) for o in range(m) if k < count[o]] for k in range(max(count))]
    return [(tuple(o for o, _ in each), tuple(i for _, i in each)) for each in met]


def unpool(ndim: int, x: Ints, kernel: Any, stride: Any, padding: Any, output_size: Any) -> Ints:
    """The spatial size of what max pooling with these windows made `x` of.

    Pooling loses up to ``stride - 1`` elements, or with `ceil_mode` makes up as many: `output_size` says which of the
    sizes it was; unless given, the one with which windows end where it ends.
    """
    _, _, size = split_shape(x, ndim, f"max_unpool{ndim}d")
    kernel = per_axis(kernel, ndim, "kernel_size")
    stride = kernel if stride is None else per_axis(stride, ndim, "stride")
    pads = parse_padding(padding, ndim)
    if isinstance(pads, str):
        pads = tuple((0, 0) if pads == "valid" else (max(k - s, 0), 0) for k, s in zip(kernel, stride, strict=True))
    exact = tuple((n - 1) * s + k - sum(pad) for n, k, s, pad in zip(size, kernel, stride, pads, strict=True))
    if output_size is None:
        wanted = exact
    elif isinstance(output_size, (tuple, list)) and _ends_a_shape(output_size, x, ndim):
        wanted = tuple(integer(n, "output_size") for n in output_size[-ndim:])
    else:
        raise ValueError(f"output_size is {output_size!r}, but needs {_count(ndim, 'int')} or the shape of the result")
    for axis, n, out, s, pooled in zip(AXES[ndim], wanted, exact, stride, size, strict=True):
        if not max(out - s, 0) < n < out + s:
            raise ValueError(
                f"output_size is {n} along {axis}, but x has {pooled} there, "
                f"which such windows make of {max(out - s + 1, 1)} to {out + s - 1}"
            )
    return wanted


def _ends_a_shape(size: Any, x: Ints, ndim: int) -> bool:
    """Whether `size` has one number for each spatial axis, behind nothing or behind batch and channels of `x`."""
    return len(size) == ndim or (len(size) == len(x) and tuple(size[:-ndim]) == x[:-ndim])


def norm_type(value: Any) -> float:
    """The power of Lp pooling: a number above 0, infinity included."""
    power = number(value, "norm_type")
    if not power > 0:
        raise ValueError(f"norm_type is {value!r}, but must be above 0")
    return power


# ---------------------------------------------------------------- windows as slices


def taps(plan: ConvPlan | PoolPlan) -> Iterator[tuple[Ints, Slices, Slices]]:
    """Every kernel position, in row-major order, with the slices of the output and of the input that meet there.

    ``y[to] += w[tap] * x[of]`` over all taps is a convolution: padding is what no slice reaches.
    The slices begin with ``...``-like full slices for batch and channels.
    """
    every = (slice(None), slice(None))
    axes = [[_meet(plan, axis, k) for k in range(size)] for axis, size in enumerate(plan.kernel_size)]
    for tap in itertools.product(*(range(size) for size in plan.kernel_size)):
        met = [axes[axis][k] for axis, k in enumerate(tap)]
        yield tap, every + tuple(to for to, _ in met), every + tuple(of for _, of in met)


def _meet(plan: ConvPlan | PoolPlan, axis: int, k: int) -> tuple[slice, slice]:
    stride, size = plan.stride[axis], plan.input_size[axis]
    offset = k * plan.dilation[axis] - plan.before[axis]
    low = max(0, -(offset // stride))
    high = min(plan.output_size[axis], (size - 1 - offset) // stride + 1)
    if low >= high:
        return slice(0, 0, 1), slice(0, 0, 1)
    return slice(low, high), slice(low * stride + offset, (high - 1) * stride + offset + 1, stride)


class Phase(NamedTuple):
    """One residue class of the input gradient: ``grad_x[..., *of]`` is a stride-1 convolution of the output gradient.

    Its weights are ``weight[..., *kernel]`` (flipped by the negative steps) with input and output channels exchanged.
    `plan` is None where the gradient is zero, as far as later phases do not say otherwise.
    """

    of: Slices
    kernel: Slices
    plan: ConvPlan | None


@lru_cache(_CACHED_PLANS // 8)
def input_gradient(plan: ConvPlan) -> tuple[Phase, ...]:
    """The gradient with respect to ``x`` as plain convolutions, one for each combination of stride residues.

    Input ``i = r + stride * q`` meets output ``o`` at the ``k`` with ``o * stride - before + k * dilation = i``.
    Those ``k`` lie ``stride / g`` apart, ``g = gcd(stride, dilation)``, and ``o`` then moves by ``dilation / g``.
    There are no more phases than taps, but for one that comes first and is all zeros, if taps do not reach all inputs.
    """
    axes = [_phases_along(plan, axis) for axis in range(len(plan.stride))]
    phases = tuple(_join_phase(plan, parts) for parts in itertools.product(*axes))
    every = (slice(None),) * (2 + len(axes))
    missed = any(len(one) < min(s, n) for one, s, n in zip(axes, plan.stride, plan.input_size, strict=True))
    return (Phase(every, every, None), *phases) if missed else phases


def _phases_along(plan: ConvPlan, axis: int) -> list[tuple[slice, slice, Ints]]:
    """Along one axis the residues that taps reach, in the order of the inputs."""
    stride, dilation, before = plan.stride[axis], plan.dilation[axis], plan.before[axis]
    taps: dict[int, list[int]] = {}
    for k in range(plan.kernel_size[axis]):
        taps.setdefault((k * dilation - before) % stride, []).append(k)
    return [_phase_axis(plan, axis, r, taps[r]) for r in sorted(taps) if r < plan.input_size[axis]]


def _phase_axis(plan: ConvPlan, axis: int, r: int, ks: list[int]) -> tuple[slice, slice, Ints]:
    """Along one axis: the slices of grad_x and the kernel, and the plan's (size, kernel, dilation, before, after)."""
    size, out, stride, dilation = plan.input_size[axis], plan.output_size[axis], plan.stride[axis], plan.dilation[axis]
    of, count = slice(r, size, stride), len(range(r, size, stride))
    step = ks[1] - ks[0] if len(ks) > 1 else 1
    move = dilation * step // stride if len(ks) > 1 else 1
    first = (r + plan.before[axis] - ks[-1] * dilation) // stride  # what q = 0 meets at the flipped kernel's first tap
    after = count - 1 + first + (len(ks) - 1) * move - (out - 1)
    flipped = slice(ks[-1], ks[0] - 1 if ks[0] else None, -step)
    return of, flipped, (count, len(ks), move, -first, after)


def _join_phase(plan: ConvPlan, parts: tuple[tuple[slice, slice, Ints], ...]) -> Phase:
    every = (slice(None), slice(None))
    of, flipped, sizes = zip(*parts, strict=True)
    count, kernel, dilation, before, after = zip(*sizes, strict=True)
    ones = (1,) * len(parts)
    sub = ConvPlan(
        plan.batch, plan.out_channels, plan.in_channels, plan.groups,
        plan.output_size, kernel, ones, dilation, before, after, count,
    )  # fmt: skip
    return Phase(every + of, every + flipped, sub)


class Section(NamedTuple):
    """Windows that meet x with the same taps: ``y[of]`` is the convolution of ``x[taken]`` with ``weight[kernel]``.

    Its `plan` has no padding.
    """

    of: Slices
    taken: Slices
    kernel: Slices
    plan: ConvPlan


@lru_cache(_CACHED_PLANS)
def sections(plan: ConvPlan) -> tuple[Section, ...]:
    """The windows by the taps that meet x; none if a window lies in the padding as a whole."""
    axes = [_sections_along(plan, axis) for axis in range(len(plan.stride))]
    return tuple(_join_section(plan, parts) for parts in itertools.product(*axes))


def _sections_along(plan: ConvPlan, axis: int) -> list[tuple[slice, slice, slice]]:
    """Along one axis the slices of y, x and the kernel; none as above."""
    stride, dilation, kernel, size = (
        one[axis] for one in (plan.stride, plan.dilation, plan.kernel_size, plan.input_size)
    )

    def met(o: int) -> tuple[int, int]:
        start = o * stride - plan.before[axis]
        return max(0, -(start // dilation)), min(kernel, (size - 1 - start) // dilation + 1)

    found = []
    for (low, high), group in itertools.groupby(range(plan.output_size[axis]), met):
        if low >= high:
            return []
        windows = [*group]
        first, last = (o * stride - plan.before[axis] for o in (windows[0], windows[-1]))
        taken = slice(first + low * dilation, last + (high - 1) * dilation + 1)
        found.append((slice(windows[0], windows[-1] + 1), taken, slice(low, high)))
    return found


def _join_section(plan: ConvPlan, parts: tuple[tuple[slice, slice, slice], ...]) -> Section:
    every = (slice(None), slice(None))
    of, taken, kernel = zip(*parts, strict=True)
    out, size, taps = (tuple(one.stop - one.start for one in axes) for axes in (of, taken, kernel))
    none = (0,) * len(parts)
    inside = plan._replace(input_size=size, kernel_size=taps, before=none, after=none, output_size=out)
    return Section(every + of, every + taken, every + kernel, inside)


@lru_cache(_CACHED_PLANS)
def lift(plan: Any, ndim: int = 3) -> Any:
    """The same plan over `ndim` spatial axes: axes of size 1 are put in front."""
    extra = ndim - len(plan.output_size)
    one = {"input_size": 1, "kernel_size": 1, "stride": 1, "dilation": 1, "before": 0, "after": 0, "output_size": 1}
    lifted = one.keys() & set(plan._fields)
    return plan._replace(**{name: (one[name],) * extra + getattr(plan, name) for name in lifted})


# ---------------------------------------------------------------- normalisation: x as (N, G, K, P)


@lru_cache(_CACHED_PLANS)
def batch_norm(x: Ints, training: bool) -> Ints:
    """The groups are the channels, one by one; their statistics are those of all images."""
    if len(x) < 2:
        raise ValueError(f"x has shape {x}, but batch_norm needs (N, C) or (N, C, *spatial)")
    count = x[0] * volume(x[2:])
    if training and count < 2:
        raise ValueError(
            f"x of shape {x} has {count} values per channel, but batch_norm needs at least 2 when training"
        )
    return x[0], x[1], 1, volume(x[2:])


@lru_cache(_CACHED_PLANS)
def group_norm(x: Ints, num_groups: int) -> Ints:
    """Statistics are those of one image and group."""
    if len(x) < 2:
        raise ValueError(f"x has shape {x}, but group_norm needs (N, C) or (N, C, *spatial)")
    check_groups(x[1], num_groups, "x of shape {} has {} channels", x, x[1])
    return x[0], num_groups, x[1] // num_groups, volume(x[2:])


def check_groups(channels: int, num_groups: int, what: str, *numbers: Any) -> None:
    if channels % num_groups:
        raise ValueError(f"{what.format(*numbers)}, which num_groups={num_groups} does not divide")


def layer_norm(x: Ints, normalized_shape: Ints) -> Ints:
    """Every number of `normalized_shape`, the last axes of x, is a channel of one group; the other axes are images."""
    axes = len(normalized_shape)
    if not axes:
        raise ValueError("normalized_shape is (), but layer_norm needs at least 1 axis")
    if x[-axes:] != normalized_shape:
        raise ValueError(f"x has shape {x}, but normalized_shape {normalized_shape} must be its last axes")
    return volume(x[:-axes]), 1, volume(normalized_shape), 1


def sizes(value: Any, name: str) -> Ints:
    """An int or several as a tuple of ints."""
    if isinstance(value, (tuple, list)):
        return tuple(integer(one, name) for one in value)
    return (integer(value, name),)


def spatial_axes(x: Ints, allowed: Ints, op: str) -> None:
    """Complain unless x is (N, C, *spatial) with as many spatial axes as one of `allowed`."""
    if len(x) - 2 not in allowed:
        forms = " or ".join(f"({', '.join(('N', 'C', *AXES.get(n, ())))})" for n in allowed)
        raise ValueError(f"x has shape {x}, but {op} needs {forms}")


# ---------------------------------------------------------------- dense, and the shapes of what comes back


def dense(x: Ints, weight: Ints) -> Ints:
    """The shape of ``x @ weight.T`` for x (..., in) and weight (out, in)."""
    if len(weight) != 2:
        raise ValueError(f"weight has shape {weight}, but dense needs (out_features, in_features)")
    if not x or x[-1] != weight[1]:
        raise ValueError(
            f"x of shape {x} has {x[-1] if x else 'no'} features, but weight of shape {weight} needs {weight[1]}"
        )
    return (*x[:-1], weight[0])


def check_shape(name: str, given: Ints, needed: Ints, why: str, *numbers: Any) -> None:
    """One sentence for every array that must have a shape that follows from the other arguments.

    `why` has a pair of braces for each of `numbers`: the sentence is put together for those who read it.
    """
    if given != needed:
        raise ValueError(f"{name} has shape {given}, but {why.format(*numbers)} needs {needed}")


def volume(size: Ints) -> int:
    return math.prod(size)


def axis(value: Any, ndim: int) -> int:
    """`value` as an axis from 0 to ndim - 1; negative ones count from the end."""
    number = integer(value, "axis", -sys.maxsize)
    if not -ndim <= number < ndim:
        raise ValueError(f"axis is {number}, but x has {ndim} axes")
    return number % ndim


def labels(logits: Ints, labels: Ints) -> None:
    """Labels have the shape of the logits without the class axis, which is axis 1."""
    if len(logits) < 2:
        raise ValueError(f"logits have shape {logits}, but cross_entropy needs (N, K) or (N, K, *spatial)")
    if logits[1] < 1:
        raise ValueError(f"logits have shape {logits}, but cross_entropy needs at least 1 class")
    check_shape("labels", labels, (logits[0], *logits[2:]), "logits of shape {}", logits)
