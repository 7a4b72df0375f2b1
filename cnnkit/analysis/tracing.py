"""Watching a model at work: what each of its layers is given and what it gives.

A model is run as a shallow copy of itself, whose layers note down what they make; the parameters are shared, and the
model itself is not touched. So any layer can be watched, also one of your own that holds others.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer


class Call(NamedTuple):
    """One layer at work."""

    began: int  # its turn among all calls
    name: str  # its place: "" for the model itself, "0", "2.body.1"
    layer: Layer  # itself, not the copy
    x: Array
    y: Array


class FeatureMap(NamedTuple):
    """What one layer made of the images.

    Attributes
    ----------
    name : str
        The layer's place in the model, such as ``"0"`` or ``"2.body.1"``; ``""`` for a model that is one layer.
    layer : Layer
    output : array
        (N, C, \\*sizes) after a convolution, (N, features) after a dense layer.
    """

    name: str
    layer: Layer
    output: Array


def feature_maps(model: Layer, x: Array) -> list[FeatureMap]:
    """Run the model and keep what every layer made.

    Parameters
    ----------
    model : Layer
    x : array
        What the model takes.

    Returns
    -------
    list of FeatureMap
        In the order in which the layers finished: of a block that holds others, these first. A `Sequential` does
        nothing that its layers do not, and is left out. The last output is ``model(x)``.

    Raises
    ------
    TypeError
        If `model` is no layer, or what its layers raise.
    ValueError
        What its layers raise.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import feature_maps
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> for name, layer, output in feature_maps(model, np.zeros((1, 1, 8, 8), "float32")):
    ...     print(name, layer, output.shape)
    0 Conv2d(1, 4, 3) (1, 4, 6, 6)
    1 ReLU() (1, 4, 6, 6)
    2 MaxPool2d(2) (1, 4, 3, 3)
    """
    return [FeatureMap(call.name, call.layer, call.y) for call in trace(model, x) if not is_chain(call.layer)]


def trace(model: Layer, x: Array) -> list[Call]:
    """Run the model; what each layer did, in the order in which they finished, the model itself last."""
    if not isinstance(model, Layer):
        raise TypeError(f"model is {model!r}, but a layer is needed, such as nn.Sequential(...)")
    calls: list[Call] = []
    _watched(model, "", calls, itertools.count())(x)
    return calls


def zeros(model: Layer, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape, of the library and dtype of the model's parameters."""
    like = next(iter(model.parameters().values()), np.empty(0, np.float32))
    return arrays.namespace(like).zeros(shape, like.dtype)


def children(layer: Layer) -> dict[str, Layer]:
    """The layers that a layer holds, by name: those of a sequence by number, others by attribute."""
    held: dict[str, Layer] = {}
    for name, value in vars(layer).items():
        if isinstance(value, Layer):
            held[name] = value
        elif isinstance(value, (tuple, list)):
            held |= {_part(name, i): one for i, one in enumerate(value) if isinstance(one, Layer)}
    return held


def is_chain(layer: object) -> bool:
    """Whether the layer is its layers one after the other, as `Sequential` is."""
    return isinstance(layer, Layer) and hasattr(layer, "layers") and hasattr(layer, "__iter__")


def _part(attribute: str, i: int) -> str:
    return str(i) if attribute == "layers" else f"{attribute}.{i}"


def _watched(layer: Layer, name: str, calls: list[Call], turns: Iterator[int]) -> Layer:
    """A shallow copy of `layer`, and of those that it holds, that notes down each call."""
    twin = copy.copy(layer)
    inner = {part: _watched(one, f"{name}.{part}".strip("."), calls, turns) for part, one in children(layer).items()}
    for attribute, value in vars(layer).items():
        if isinstance(value, Layer):
            setattr(twin, attribute, inner[attribute])
        elif isinstance(value, (tuple, list)):
            setattr(twin, attribute, type(value)(inner.get(_part(attribute, i), one) for i, one in enumerate(value)))

    def call(self: Layer, x: Array) -> Array:
        turn = next(turns)
        y = kind.__call__(self, x)
        calls.append(Call(turn, name, layer, x, y))
        return y

    kind = type(layer)
    twin.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return twin
