"""A model's architecture as JSON, and back: layer names and constructor arguments, never code."""

import json
from typing import Any

from cnnkit.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Tanh
from cnnkit.nn.adaptive_pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
)
from cnnkit.nn.conv import Conv1d, Conv2d, Conv3d
from cnnkit.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from cnnkit.nn.dense import Dense
from cnnkit.nn.layer import Layer
from cnnkit.nn.lp_pool import LPPool1d, LPPool2d, LPPool3d
from cnnkit.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from cnnkit.nn.plain import Dropout, Flatten
from cnnkit.nn.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from cnnkit.nn.residual import Residual
from cnnkit.nn.sequential import Sequential

# All that a file can ask for
LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        *(Conv1d, Conv2d, Conv3d, Dense),
        *(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
        *(MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d, GlobalAvgPool2d, GlobalMaxPool2d),
        *(AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d),
        *(AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d),
        *(LPPool1d, LPPool2d, LPPool3d),
        *(BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm, GroupNorm),
        *(ReLU, LeakyReLU, ELU, GELU, SiLU, Sigmoid, Tanh, Softmax, LogSoftmax),
        *(Flatten, Dropout, Sequential, Residual),
    )
}


def to_json(model: Layer) -> str:
    """The architecture of a model made of cnnkit's own layers."""
    return json.dumps(_describe(model))


def from_json(text: str) -> Layer:
    """The model of an architecture, with new parameters; ValueError or TypeError if it describes none."""
    try:
        return _build(json.loads(text))
    except RecursionError:
        raise ValueError("the architecture is nested too deeply") from None


def _describe(value: Any) -> Any:
    """A layer, or a constructor argument, which may be a layer or a tuple of layers."""
    if isinstance(value, tuple):
        return [_describe(one) for one in value]
    if not isinstance(value, Layer):
        return value
    if LAYERS.get(type(value).__name__) is not type(value):
        raise TypeError(f"{value!r} is no layer of cnnkit's own, but only those can be saved and loaded again")
    return {"layer": type(value).__name__} | {name: _describe(one) for name, one in value.config().items()}


def _build(description: Any) -> Layer:
    if not isinstance(description, dict) or description.get("layer") not in LAYERS:
        raise ValueError(f"the architecture has {_shortened(description)} where a layer of cnnkit's is needed")
    config = {name: _argument(value) for name, value in description.items() if name != "layer"}
    return LAYERS[description["layer"]].from_config(**config)


def _argument(value: Any) -> Any:
    """JSON's lists as the tuples they were, and its objects as layers."""
    if isinstance(value, list):
        return tuple(map(_argument, value))
    return _build(value) if isinstance(value, dict) else value


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
