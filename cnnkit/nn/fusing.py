"""Batch norms made part of the convolutions before them."""

import copy
from typing import Any

from cnnkit.nn.conv import Conv, Conv1d, Conv2d, Conv3d
from cnnkit.nn.layer import Layer
from cnnkit.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from cnnkit.nn.residual import Residual
from cnnkit.nn.sequential import Sequential

NORMS: Any = {
    Conv1d: BatchNorm1d,
    Conv2d: BatchNorm2d,
    Conv3d: BatchNorm3d,
}  # these very classes, as a subclass may differ


def fuse(model: Layer) -> Layer:
    """Return a copy for inference, in which every batch norm behind a convolution is part of it.

    With running statistics a batch norm is a factor and a summand for each channel, which the weights and the bias of
    the convolution can take over::

        scale = gamma / sqrt(running_var + eps)
        weight * scale,  (bias - running_mean) * scale + beta

    The copy computes the same but for rounding, in fewer passes over memory, and has fewer parameters. It shares no
    array with `model`, so that it does not follow when that goes on learning. Trained itself, it would learn without
    batch norm.

    Parameters
    ----------
    model : Layer
        What a `Sequential` or a `Residual` holds is fused; any other layer is copied as it is.

    Returns
    -------
    Layer

    Raises
    ------
    TypeError
        If `model` is no layer.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False, rng=0), nn.BatchNorm2d(4), nn.ReLU())
    >>> y, pullback = model.forward(np.random.default_rng(0).normal(1, 2, (8, 3, 9, 9)).astype("float32"))
    >>> nn.fuse(model)
    Sequential(Conv2d(3, 4, 3), ReLU())
    """
    if type(model) is Residual:
        return Residual(fuse(model.body), model.shortcut and fuse(model.shortcut))
    if type(model) is not Sequential:
        if not isinstance(model, Layer):
            raise TypeError(f"model is {model!r}, but a layer is needed, such as nn.Sequential(...)")
        return copy.deepcopy(model)
    layers: list[Layer] = []
    for layer in model:
        before: Any = layers[-1] if layers else None
        if NORMS.get(type(before)) is type(layer) and _fits(layer, before):
            _take_over(before, layer)
        else:
            layers.append(fuse(layer))
    return Sequential(*layers)


def _fits(norm: Any, conv: Conv) -> bool:
    """Whether the norm is of the layer's channels; if not, the error shall be that of the model."""
    return (norm.num_features, norm.dtype) == (conv.out_channels, conv.dtype)


def _take_over(conv: Conv, norm: Any) -> None:
    """In float64, rounded once."""
    scale = (norm.running_var.astype("float64") + norm.eps) ** -0.5
    shift = -norm.running_mean.astype("float64")
    if conv.bias is not None:
        shift = shift + conv.bias
    if norm.affine:
        scale = scale * norm.weight
    shift = shift * scale
    if norm.affine:
        shift = shift + norm.bias
    conv.weight = (conv.weight * scale.reshape(-1, *(1,) * conv.ndim, 1)).astype(conv.dtype)
    conv.bias = shift.astype(conv.dtype)
