"""The receptive field: which part of the image one number of a feature map can see.

A window of `k` taps over features that see `size` pixels each, `jump` pixels apart, sees ``size + (k - 1) * jump``.

What a layer does is read off its attributes: with `kernel_size` (and `stride`, `padding`, `dilation`, if it has them)
it slides a window, with `output_padding` it is a transposed convolution, with `output_size` an adaptive pooling, with
`in_features` or a name that begins with ``Global`` it sees everything; other layers of cnnkit's take each number by
itself (the statistics of a normalisation, and the sum of a softmax, are not counted). A layer of your own says the same
with a class attribute: ``kernel_size = 1``.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

from cnnkit import geometry
from cnnkit.analysis.tracing import children, is_chain
from cnnkit.nn.layer import Layer

WINDOW = ("kernel_size", "stride", "padding", "dilation")  # what describes a layer, in the order of a tuple


class ReceptiveField(NamedTuple):
    """What one layer's numbers see of the image; each an int if it is the same along all axes, else a tuple.

    Number ``o`` along an axis sees the pixels from ``start + o * jump`` to ``start + o * jump + size - 1``.

    Attributes
    ----------
    name : str
        The layer's place in the model, or its name in the description; ``"input"`` for the image itself.
    layer : object
        The layer or its description.
    size : int or tuple
        How many pixels it spans; infinity for "everything" where the size of the image is not known.
    jump : int or tuple
        How many pixels neighbours are apart: the product of all strides so far (a Fraction after upsampling).
    start : int or tuple
        The first pixel that the first number sees; negative in the padding.
    coverage : float or None
        The part of the image that a number in the middle sees; None where the size of the image is not known.
    """

    name: str
    layer: Any
    size: Any
    jump: Any
    start: Any
    coverage: float | None


class Reach(NamedTuple):
    """The same along each axis, and how many numbers there are (None: not known)."""

    size: tuple[Any, ...]
    jump: tuple[Any, ...]
    start: tuple[Any, ...]
    length: tuple[int, ...] | None


def receptive_field(layers: Any, input_size: Any = None) -> list[ReceptiveField]:
    """Follow the receptive field through a network, layer by layer.

    ::

        size' = size + (k - 1) * dilation * jump       jump' = jump * stride       start' = start - before * jump

    Parameters
    ----------
    layers : Layer or iterable
        A model; or layers and descriptions of layers in their order. A description is an int (the kernel size), a
        tuple (kernel size, stride, padding, dilation) or a dict of these: ``{"name": "conv1", "kernel_size": 7,
        "stride": 2}``. What is left out is as in `cnnkit.conv2d`.
    input_size : int or tuple of int, optional
        The size of the image: along all axes, or along each. Without it there is no coverage, and dense layers and
        global pooling see infinitely far.

    Returns
    -------
    list of ReceptiveField
        First that of the image itself, a pixel; then one for each layer. Of a `Residual` the layers on both ways and
        then their sum, which sees all that either sees. What `GroupNorm`, `LayerNorm` and `Softmax` make of each number
        through the statistics of others is not counted.

    Raises
    ------
    ValueError
        If a number is out of its range, a window fits nowhere, or "same" padding with a stride needs `input_size`.
    TypeError
        If something is no layer, or a layer of your own does not say what it sees (``kernel_size = 1``: one number).

    References
    ----------
    .. [1] A. Araujo, W. Norris, J. Sim, "Computing receptive fields of convolutional neural networks", Distill, 2019.

    Examples
    --------
    >>> from cnnkit.analysis import receptive_field
    >>> [row.size for row in receptive_field([3, 3, 3])]
    [1, 3, 5, 7]
    >>> last = receptive_field([(7, 2, 3), (3, 2, 1), 3], input_size=224)[-1]
    >>> last.size, last.jump, last.start, round(last.coverage, 4)
    (19, 4, -5, 0.0072)
    """
    named = list(_named(layers))
    ndim = ndim_of([layer for _, layer in named], input_size)
    length = None if input_size is None else geometry.per_axis(input_size, ndim, "input_size")
    reach = pixel(ndim, length)
    rows = [_row("input", None, reach, length)]
    for name, layer in named:
        for place, one, after in follow(name, layer, reach):
            rows.append(_row(place, one, after, length))
            reach = after
    return rows


def pixel(ndim: int, length: tuple[int, ...] | None) -> Reach:
    """What a pixel of the image sees: itself."""
    return Reach((1,) * ndim, (1,) * ndim, (0,) * ndim, length)


def _named(layers: Any) -> Iterator[tuple[str, Any]]:
    """What a network is made of, by name."""
    if isinstance(layers, Layer):
        return iter([("", layers)])
    if isinstance(layers, (str, Mapping)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers is {layers!r}, but a model or a list of layers is needed")
    return ((_name(i, layer), _window(i, layer)) for i, layer in enumerate(layers))


def _name(i: int, layer: Any) -> str:
    return str(layer.get("name", i)) if isinstance(layer, Mapping) else str(i)


def _window(i: int, layer: Any) -> Any:
    """A description as something with a layer's attributes."""
    if isinstance(layer, Layer):
        return layer
    if isinstance(layer, Mapping):
        given = {key: value for key, value in layer.items() if key != "name"}
        unknown = sorted(map(str, given.keys() - set(WINDOW)))
        if unknown or "kernel_size" not in given:
            what = f"has {', '.join(unknown)}" if unknown else "has no kernel_size"
            raise TypeError(f"layer {i} {what}, but a description has {', '.join(('name', *WINDOW))}")
        return SimpleNamespace(**given)
    values = layer if isinstance(layer, tuple) else (layer,)
    if not 1 <= len(values) <= len(WINDOW):
        raise TypeError(f"layer {i} is {layer!r}, but a tuple ({', '.join(WINDOW)}) is needed")
    return SimpleNamespace(**dict(zip(WINDOW, values, strict=False)))


def ndim_of(layers: Any, input_size: Any) -> int:
    """How many axes there are: as the image, the layers or the kernels say; 2 where nothing does."""
    if isinstance(input_size, (tuple, list)):
        return len(input_size)
    for layer in layers:
        kernel = getattr(layer, "kernel_size", None)
        ndim = getattr(layer, "ndim", len(kernel) if isinstance(kernel, (tuple, list)) else None)
        if ndim is None and isinstance(layer, Layer) and children(layer):
            ndim = ndim_of(children(layer).values(), None)
        if ndim is not None:
            return ndim
    return 2


def follow(
    name: str, layer: Any, reach: Reach, preserves: Callable[[str], bool] = lambda name: False
) -> Iterator[tuple[str, Any, Reach]]:
    """(name, layer, reach) of the layer or of all that it is made of, the whole last.

    `preserves` says of layers that do not tell what they see whether their results are as large as what they get.
    """
    if is_chain(layer):
        for part, inner in children(layer).items():
            for place, one, after in follow(f"{name}.{part}".strip("."), inner, reach, preserves):
                yield place, one, after
                reach = after
    elif hasattr(layer, "shortcut"):  # Residual: all ways begin here and end in a sum
        ends = []  # without a layer there, the shortcut is a number by itself, which the body sees anyway
        for part, inner in children(layer).items():
            end = reach
            for place, one, end in follow(f"{name}.{part}".strip("."), inner, reach, preserves):
                yield place, one, end
            ends.append(end)
        yield name, layer, _union(ends)
    else:
        yield name, layer, _through(name, layer, reach, preserves)


def _union(ways: list[Reach]) -> Reach:
    """What a sum of numbers at the same place sees."""
    starts = tuple(map(min, zip(*(way.start for way in ways), strict=True)))
    stops = [[a + b for a, b in zip(way.start, way.size, strict=True)] for way in ways]
    sizes = tuple(max(stop) - start for stop, start in zip(zip(*stops, strict=True), starts, strict=True))
    if math.inf in sum((way.size for way in ways), ()):
        sizes = (math.inf,) * len(starts)
    return ways[0]._replace(size=sizes, start=starts)


def _through(name: str, layer: Any, reach: Reach, preserves: Callable[[str], bool]) -> Reach:
    """What is seen after one layer."""
    if hasattr(layer, "kernel_size"):
        return _transposed(layer, reach) if hasattr(layer, "output_padding") else _slide(name, layer, reach)
    if hasattr(layer, "output_size"):
        return _adaptive(layer, reach)
    if hasattr(layer, "in_features") or type(layer).__name__.startswith("Global"):
        return _everything(reach)
    if type(layer).__module__.startswith("cnnkit.nn.") and not children(layer):
        return reach
    weighted = any(array.ndim > 1 for array in layer.parameters().values())  # as if it mixed what it is given
    if preserves(name) and not weighted and not children(layer):
        return reach
    raise TypeError(
        f"layer {name} is {layer!r}, which does not say what it sees: give it kernel_size (1 for a number by itself)"
    )


def _slide(name: str, layer: Any, reach: Reach) -> Reach:
    """A window over neighbours."""
    ndim = len(reach.size)
    kernel = geometry.per_axis(layer.kernel_size, ndim, "kernel_size")
    stride = getattr(layer, "stride", 1)  # a pooling's None is the kernel size
    stride = kernel if stride is None else geometry.per_axis(stride, ndim, "stride")
    dilation = geometry.per_axis(getattr(layer, "dilation", 1), ndim, "dilation")
    padding = geometry.parse_padding(getattr(layer, "padding", 0), ndim)
    if reach.length is None and padding in ("same", "same_lower") and max(stride) > 1:
        raise ValueError(f"layer {name} has padding={padding!r} and a stride, so input_size is needed")
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    size = reach.length or spans
    if getattr(layer, "ceil_mode", False):
        plan: Any = geometry.pool("pool", ndim, (1, *size), kernel, stride, padding, dilation, True)
    else:
        plan = geometry.conv(ndim, (1, *size), (1, 1, *kernel), stride, padding, dilation, 1)
    return Reach(
        tuple(s + (span - 1) * j for s, span, j in zip(reach.size, spans, reach.jump, strict=True)),
        tuple(j * s for j, s in zip(reach.jump, stride, strict=True)),
        tuple(a - b * j for a, b, j in zip(reach.start, plan.before, reach.jump, strict=True)),
        reach.length and plan.output_size,
    )


def _transposed(layer: Any, reach: Reach) -> Reach:
    """A window laid down for each number: result ``o`` meets inputs ``q`` with ``o = q * stride - before + k``."""
    ndim = len(reach.size)
    solve: Any = geometry
    kernel = geometry.per_axis(layer.kernel_size, ndim, "kernel_size")
    windows = layer.stride, layer.padding, layer.output_padding, 1, layer.dilation
    plan = solve.conv_transpose(ndim, (1, *(reach.length or kernel)), (1, 1, *kernel), *windows)
    axes = list(zip(reach.size, reach.jump, reach.start, kernel, plan.stride, plan.dilation, plan.before, strict=True))
    apart = [s // math.gcd(s, d) for *_, s, d, _ in axes]  # the taps that meet the same result
    met = [(k - 1) // step * step * d // s for (*_, k, s, d, _), step in zip(axes, apart, strict=True)]
    return Reach(
        tuple(size + more * jump for (size, jump, *_), more in zip(axes, met, strict=True)),
        tuple(_plain(Fraction(jump) / s) for _, jump, _, _, s, _, _ in axes),
        tuple(start - (d * (k - 1) - b) // s * jump for _, jump, start, k, s, d, b in axes),
        reach.length and plan.input_size,
    )


def _adaptive(layer: Any, reach: Reach) -> Reach:
    """Window ``i`` of ``n`` goes from ``floor(i * length / n)`` to ``ceil((i + 1) * length / n)``."""
    ndim = len(reach.size)
    wanted = layer.output_size if isinstance(layer.output_size, (tuple, list)) else (layer.output_size,) * ndim
    if all(n == 1 for n in wanted):
        return _everything(reach)
    if reach.length is None:
        raise ValueError(f"{layer!r} has windows that depend on the image, so input_size is needed")
    counts = tuple(length if n is None else n for n, length in zip(wanted, reach.length, strict=True))
    axes = list(zip(reach.size, reach.jump, counts, reach.length, strict=True))
    longest = [max(-(-(i + 1) * n // c) - i * n // c for i in range(c)) for _, _, c, n in axes]
    return Reach(
        tuple(size + (k - 1) * jump for (size, jump, _, _), k in zip(axes, longest, strict=True)),
        tuple(_plain(jump * Fraction(n, c)) for _, jump, c, n in axes),
        reach.start,
        counts,
    )


def _everything(reach: Reach) -> Reach:
    """One window over all that there is."""
    ones = (1,) * len(reach.size)
    if reach.length is None:
        return reach._replace(size=(math.inf,) * len(ones), start=(-math.inf,) * len(ones))
    spans = zip(reach.size, reach.jump, reach.length, strict=True)
    return reach._replace(size=tuple(size + (n - 1) * jump for size, jump, n in spans), length=ones)


def _row(name: str, layer: Any, reach: Reach, image: tuple[int, ...] | None) -> ReceptiveField:
    coverage = None
    if image is not None:
        parts = zip(reach.size, image, strict=True)
        coverage = math.prod(min(float(size), n) / n for size, n in parts)
    size, jump, start = map(shortest, reach[:3])
    return ReceptiveField(name or type(layer).__name__, layer, size, jump, start, coverage)


def shortest(values: tuple[Any, ...]) -> Any:
    """One number if it is the same for all axes; Fractions that are whole as ints."""
    plain = tuple(map(_plain, values))
    return plain[0] if len(set(plain)) == 1 else plain


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else value
