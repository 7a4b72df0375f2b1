"""The checks of labelled examples, before a model sees them."""

from typing import Any

from cnnkit.arrays import Array, family, one_library
from cnnkit.nn.layer import Layer


def check_data(model: Layer, data: Any, name: str) -> tuple[Array, Array]:
    """`data` as examples and labels, after a check that they fit each other and the model."""
    if not isinstance(model, Layer):
        raise TypeError(f"model is {model!r}, but a layer is needed, such as nn.Sequential(...)")
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{name} is a {type(data).__name__}, but a pair (x, labels) is needed")
    x, labels = data
    for part, array in (("x", x), ("labels", labels)):
        if not family(array):
            raise TypeError(f"{part} of {name} is a {type(array).__name__}, but a numpy or cupy array is needed")
    one_library(x=x, labels=labels)
    _check_labels(x, labels, name)
    _check_classes(model(x[:1]), labels, name)
    return x, labels


def _check_labels(x: Array, labels: Array, name: str) -> None:
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels of {name} are {labels.dtype}, but integers are needed")
    if labels.ndim != 1:
        raise ValueError(f"labels of {name} have shape {labels.shape}, but (N,) is needed: one class for each example")
    if x.ndim < 2 or len(x) != len(labels):
        raise ValueError(f"x of {name} has shape {x.shape}, but {len(labels)} labels need ({len(labels)}, ...)")
    if not len(x):
        raise ValueError(f"{name} has no examples, but at least 1 is needed")


def _check_classes(logits: Array, labels: Array, name: str) -> None:
    """The model's answer to one example tells how many classes there are."""
    if logits.ndim != 2:
        raise ValueError(f"the model makes {logits.shape} of one example of {name}, but logits (1, classes) are needed")
    least, most, last = int(labels.min()), int(labels.max()), logits.shape[1] - 1
    if least < 0 or most > last:
        raise ValueError(f"labels of {name} go from {least} to {most}, but the model's outputs stand for 0 to {last}")
