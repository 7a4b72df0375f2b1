"""A model as a table: what comes out of each layer, and what it costs."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnkit import arrays, dispatch, geometry
from cnnkit.analysis.receptive import follow, ndim_of, pixel, shortest
from cnnkit.analysis.tracing import Call, children, is_chain, trace, zeros
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer

WIDTHS = (26, 16, 11, 7, 8, 7)  # and a space between them: 80


class SummaryRow(NamedTuple):
    """One layer, of those that hold others the whole.

    Attributes
    ----------
    name : str
        Its place in the model, such as ``"0"`` or ``"2.body.1"``.
    layer : Layer
    output_shape : tuple of int
    parameters : int
        How many numbers it learns.
    multiply_adds : int
        Multiplications of a weight, each with its addition, for the whole input.
    activation_bytes : int
        The memory of its output; 0 if that is the input, seen otherwise.
    receptive_field : int, tuple or None
        How many pixels of the input one output sees (see `receptive_field`); infinity for all of them; None where a
        layer does not tell.
    """

    name: str
    layer: Layer
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    receptive_field: Any


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` returns: plain data that prints as a table.

    Attributes
    ----------
    model : str
        The class of the model.
    input_shape : tuple of int
    dtype : str
    rows : tuple of SummaryRow
    parameters, multiply_adds, activation_bytes : int
        The sums over all layers; the input counts as an activation.
    parameter_bytes : int
    state : int
        How many numbers it remembers that are not trained, such as running means.
    axes : int
        How many spatial axes there are.
    """

    model: str
    input_shape: tuple[int, ...]
    dtype: str
    rows: tuple[SummaryRow, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    parameter_bytes: int
    state: int
    axes: int

    def __str__(self) -> str:
        head = [("", "", "", "mult-", "", "sees"), ("layer", "output", "parameters", "adds", "memory", "pixels")]
        rule = "-" * (sum(WIDTHS) + len(WIDTHS) - 1)
        lines = [*map(_line, head), rule, *(_line(self._cells(row)) for row in self.rows), rule]
        lines.append(f"{self.model}, given {_shape(self.input_shape)} {self.dtype}")
        lines.append(f"parameters     {self.parameters:>18,}   {in_units(self.parameter_bytes, 'B')}")
        if self.state:
            lines.append(f"not trained    {self.state:>18,}")
        lines.append(f"multiply-adds  {self.multiply_adds:>18,}")
        lines.append(f"activations    {self.activation_elements:>18,}   {in_units(self.activation_bytes, 'B')}")
        return "\n".join(lines)

    __repr__ = __str__

    @property
    def activation_elements(self) -> int:
        """How many numbers `activation_bytes` are."""
        return self.activation_bytes // np.dtype(self.dtype).itemsize

    def _cells(self, row: SummaryRow) -> tuple[str, ...]:
        """A line of the table; of what layers hold and do, the row of the block that they form says nothing."""
        block = bool(children(row.layer))
        return (
            _label(row),
            _shape(row.output_shape),
            "" if block or not row.parameters else f"{row.parameters:,}",
            "" if block or not row.multiply_adds else in_units(row.multiply_adds),
            in_units(row.activation_bytes, "B") if row.activation_bytes else "",
            self._sees(row.receptive_field),
        )

    def _sees(self, field: Any) -> str:
        if field is None:
            return ""
        sizes = field if isinstance(field, tuple) else (field,) * self.axes
        image = self.input_shape[-len(sizes) :]
        everything = all(size >= n for size, n in zip(sizes, image, strict=True))
        return "all" if everything else "x".join(map(str, sizes))


def summary(model: Layer, input_shape: tuple[int, ...]) -> Summary:
    """Tabulate a model: output shapes, parameters, multiply-adds, memory and receptive field of every layer.

    The model is run once, on zeros, by plain NumPy on the CPU: nothing is compiled.

    Parameters
    ----------
    model : Layer
    input_shape : tuple of int
        What the model takes, with the batch: (N, C, H, W). Multiply-adds and memory are those of the whole batch.

    Returns
    -------
    Summary
        Print it. Its `rows` hold the numbers.

    Raises
    ------
    ValueError
        If the model cannot take this shape; the note says which layer cannot.
    TypeError
        If `model` is no layer, or `input_shape` has something else than ints.

    Examples
    --------
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import summary
    >>> convolution = nn.Conv2d(1, 8, 3, padding=1)
    >>> model = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dense(128, 10))
    >>> table = summary(model, (1, 1, 8, 8))
    >>> table.parameters, table.multiply_adds, table.rows[2].output_shape, table.rows[2].receptive_field
    (1370, 5888, (1, 8, 4, 4), 4)
    >>> [row.receptive_field for row in table.rows]
    [3, 3, 4, 4, 10]
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model is {model!r}, but a layer is needed, such as nn.Sequential(...)")
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"input_shape is {input_shape!r}, but a tuple such as (1, 3, 32, 32) is needed")
    shape = tuple(geometry.integer(size, "input_shape") for size in input_shape)
    x = zeros(model, shape)
    with dispatch.use_backend("numpy") if arrays.family(x) == "numpy" else nullcontext():
        calls = trace(model, x)
    learned = model.parameters().values()
    trained = sum(array.size for array in learned)
    axes = ndim_of([model], None)
    rows = _rows(model, calls, shape[-axes:] if len(shape) > axes else None)
    return Summary(
        type(model).__name__,
        shape,
        x.dtype.name,
        rows,
        trained,
        sum(row.multiply_adds for row in rows if not children(row.layer)),
        x.nbytes + sum(row.activation_bytes for row in rows),
        sum(array.nbytes for array in learned),
        sum(array.size for array in model.state_dict().values()) - trained,
        axes,
    )


def multiply_adds(layer: Layer, x: Array, y: Array) -> int:
    """What a layer with a weight multiplies: each output takes as many products as its channel has weights.

    A transposed convolution does it the other way round: each input is multiplied by its channel's weights.
    Normalisations are not counted, whatever the shape of their weight.
    """
    weight = layer.parameters().get("weight")
    if weight is None or weight.ndim < 2 or hasattr(layer, "normalized_shape"):
        return 0
    return (x if hasattr(layer, "output_padding") else y).size * weight[0].size


def _rows(model: Layer, calls: list[Call], image: tuple[int, ...] | None) -> tuple[SummaryRow, ...]:
    """A row for each call in the order in which they began; a `Sequential` does nothing that its layers do not."""
    sees = {} if image is None else _receptive_fields(model, calls, image)
    memory = _new_bytes(calls)
    shown = sorted(call for call in calls if not is_chain(call.layer))
    return tuple(
        SummaryRow(
            call.name,
            call.layer,
            call.y.shape,
            sum(array.size for array in call.layer.parameters().values()),
            sum(multiply_adds(one.layer, one.x, one.y) for one in calls if _belongs(one, call)),
            memory[call.began],
            sees.get(call.name),
        )
        for call in shown
    )


def _belongs(one: Call, whole: Call) -> bool:
    return one.name == whole.name or one.name.startswith(f"{whole.name}.")


def _new_bytes(calls: list[Call]) -> dict[int, int]:
    """By turn, the bytes that a call made; none if its output is its input, or a part's output, seen otherwise."""
    made: dict[int, int] = {}
    known: set[int] = set()
    for call in calls:
        same = id(call.y) in known or arrays.namespace(call.y).may_share_memory(call.x, call.y)
        made[call.began] = 0 if same else call.y.nbytes
        known.add(id(call.y))
    return made


def _receptive_fields(model: Layer, calls: list[Call], image: tuple[int, ...]) -> dict[str, Any]:
    """By name, as far as layers tell what they see, or keep the size of what they are given."""
    sizes = {call.name: (call.x.shape[2:], call.y.shape[2:]) for call in calls}
    fields: dict[str, Any] = {}
    with suppress(TypeError, KeyError):
        for name, _, reach in follow("", model, pixel(len(image), image), lambda name: len({*sizes[name]}) == 1):
            fields[name] = shortest(reach.size)
    return fields


def _line(cells: tuple[str, ...]) -> str:
    first, *others = zip(cells, WIDTHS, strict=True)
    return " ".join([f"{first[0]:<{first[1]}.{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]).rstrip()


def _label(row: SummaryRow) -> str:
    """Place and kind, with the kernel and the stride of what has them."""
    parts = [row.name, type(row.layer).__name__]
    kernel = getattr(row.layer, "kernel_size", None)
    if kernel is not None:
        ndim = getattr(row.layer, "ndim", 1)
        parts.append("x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel,) * ndim)))
    stride = getattr(row.layer, "stride", None)
    if stride not in (None, 1, kernel):
        parts.append("/" + "x".join(map(str, stride if isinstance(stride, tuple) else (stride,))))
    return " ".join(filter(None, parts))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def in_units(number: float, unit: str = "") -> str:
    """A number in three digits with k, M, G or T: 864 B, 3.46 kB, 12.3 MB."""
    steps = 0
    while number >= 999.5 and steps < 4:
        number, steps = number / 1000, steps + 1
    digits = f"{number:.3g}" if steps else f"{number:g}"
    return f"{digits} {('', 'k', 'M', 'G', 'T')[steps]}{unit}".rstrip()
