"""A model's architecture as JSON, and back: layer names and constructor arguments, never code."""

import json
from typing import Any

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
from cnnkit.nn.dense import Dense
from cnnkit.nn.layer import Layer
from cnnkit.nn.lp_pool import LPPool1d, LPPool2d, LPPool3d
from cnnkit.nn.plain import Dropout, Flatten, ReLU
from cnnkit.nn.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from cnnkit.nn.sequential import Sequential

# All that a file can ask for
LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        *(Conv1d, Conv2d, Conv3d, Dense),
        *(MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d, GlobalAvgPool2d, GlobalMaxPool2d),
        *(AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d),
        *(AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d),
        *(LPPool1d, LPPool2d, LPPool3d),
        *(ReLU, Flatten, Dropout, Sequential),
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


def _describe(layer: Layer) -> dict[str, Any]:
    if LAYERS.get(type(layer).__name__) is not type(layer):
        raise TypeError(f"{layer!r} is no layer of cnnkit's own, but only those can be saved and loaded again")
    config = layer.config()
    if isinstance(layer, Sequential):
        config = {"layers": [_describe(one) for one in layer]}
    return {"layer": type(layer).__name__, **config}


def _build(description: Any) -> Layer:
    if not isinstance(description, dict) or description.get("layer") not in LAYERS:
        raise ValueError(f"the architecture has {_shortened(description)} where a layer of cnnkit's is needed")
    config = {name: _tuples(value) for name, value in description.items() if name != "layer"}
    kind = LAYERS[description["layer"]]
    if kind is Sequential:
        return Sequential(*(_build(one) for one in config.get("layers", ())))
    return kind(**config)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
