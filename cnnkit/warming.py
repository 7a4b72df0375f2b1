"""Kernels compiled ahead of the first call: by calling what will be called, on arrays of ones."""

import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

import cnnkit
from cnnkit import dispatch
from cnnkit.arrays import Array, namespace
from cnnkit.geometry import boolean, integer
from cnnkit.nn import AvgPool2d, BatchNorm2d, Conv2d, Dense, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from cnnkit.nn.arguments import floating


def warmup(
    model: Layer | None = None,
    input_shape: tuple[int, ...] | None = None,
    *,
    training: bool = False,
    dtype: Any = None,
) -> int:
    """Compile kernels now, so that the first call need not wait for it.

    With a model: all that this model needs for inputs of this shape, by running it once on ones. Without: the kernels
    of the usual layers, forward and backward, which takes about half a minute. Compiled kernels are kept on disk where
    there is a place for them (`show_config` says where), so that a later process only loads them, in milliseconds.

    Parameters
    ----------
    model : cnnkit.nn.Layer, optional
        It stays as it is.
    input_shape : tuple of int, optional
        The shape of `x`, batch included, where a model is given. Kernels serve any shape, but which of them are taken
        depends on it.
    training : bool
        Whether the model's way back is needed too.
    dtype : {"float32", "float64"}, optional
        By default the model's own, or float32.

    Returns
    -------
    int
        How many functions were compiled; 0 if they all were on disk or in memory, or none is needed.

    Raises
    ------
    ValueError
        If `input_shape` does not fit the model.
    TypeError
        If an argument is of the wrong kind, or only one of `model` and `input_shape` is given.

    Examples
    --------
    >>> import cnnkit
    >>> from cnnkit import nn
    >>> model = nn.Sequential(nn.Dense(4, 3), nn.ReLU())
    >>> compiled = cnnkit.warmup(model, (8, 4))
    >>> cnnkit.warmup(model, (8, 4))
    0
    """
    before = compiled()
    if model is None:
        if input_shape is not None:
            raise TypeError(f"input_shape is {input_shape!r}, but there is no model: warmup(model, input_shape)")
        for run in common("float32" if dtype is None else dtype).values():
            run()
    else:
        if not isinstance(model, Layer):
            raise TypeError(f"model is {model!r}, but a layer is needed, such as nn.Sequential(...)")
        _run(model, _shape(input_shape), boolean(training, "training"), dtype)
    return compiled() - before


def compiled() -> int:
    """How many functions this process has compiled."""
    return 0 if dispatch.why_not("numba") else importlib.import_module("cnnkit.rooms.numba.machine").compiled()


def _shape(input_shape: Any) -> tuple[int, ...]:
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"input_shape is {input_shape!r}, but the shape of x is needed, such as (32, 3, 28, 28)")
    return tuple(integer(size, "a size in input_shape", 0) for size in input_shape)


def _run(model: Layer, shape: tuple[int, ...], training: bool, dtype: Any = None) -> None:
    like = next(iter(model.parameters().values()), np.empty(0, "float32"))
    x = namespace(like).ones(shape, like.dtype if dtype is None else floating(dtype))
    if not training:
        model(x)
        return
    y, pullback = copy.deepcopy(model).forward(x, np.random.default_rng(0))  # it may count what it has seen
    pullback(y)


# ---------------------------------------------------------------- what most networks are made of


def common(dtype: Any) -> dict[str, Callable[[], None]]:
    """Calls that compile the usual kernels, by what they are; small arrays that take the kernels of large ones."""
    kind = floating(dtype).name
    return {
        "tiles": lambda: _tiles(kind),
        "convolution": lambda: _layer(Conv2d(3, 8, 3, 2, 1, dtype=kind), (2, 3, 12, 12), "direct"),
        "convolution, many weights": lambda: _layer(Conv2d(64, 64, 3, dtype=kind), (4, 64, 14, 14), "direct"),
        "convolution, channels last": lambda: _layer(Conv2d(64, 64, 3, 2, dtype=kind), (2, 64, 29, 29), "direct", True),
        "convolution to few channels, channels last": lambda: _layer(
            Conv2d(16, 1, 3, dtype=kind), (2, 16, 24, 24), channels_last=True
        ),
        "small groups, channels last": lambda: _layer(
            Conv2d(32, 32, 3, groups=8, dtype=kind), (2, 32, 24, 24), channels_last=True
        ),
        "depthwise with a multiplier, channels last": lambda: _layer(
            Conv2d(16, 32, 3, groups=16, dtype=kind), (2, 16, 24, 24), channels_last=True
        ),
        "Winograd": lambda: _layer(Conv2d(16, 16, 3, padding=1, dtype=kind), (2, 16, 12, 12), "winograd"),
        "Winograd, large images": lambda: _layer(Conv2d(16, 16, 3, dtype=kind), (2, 16, 48, 48), "winograd"),
        "Winograd, other kernels": lambda: _winograd(kind),
        "depthwise": lambda: _layer(_depthwise(kind), (2, 16, 12, 12)),
        "depthwise, stride 2": lambda: _layer(_depthwise(kind, 2), (2, 16, 12, 12)),
        "depthwise, channels last": lambda: _layer(_depthwise(kind), (2, 16, 12, 12), channels_last=True),
        "depthwise 5x5, channels last": lambda: _layer(_depthwise(kind, kernel=5), (2, 16, 16, 16), channels_last=True),
        "depthwise 7x7, channels last": lambda: _layer(_depthwise(kind, kernel=7), (2, 16, 16, 16), channels_last=True),
        "depthwise, stride 2, channels last": lambda: _layer(_depthwise(kind, 2), (2, 16, 12, 12), channels_last=True),
        "depthwise 5x5, stride 2, channels last": lambda: _layer(
            _depthwise(kind, 2, 5), (2, 16, 16, 16), channels_last=True
        ),
        "groups of 2, channels last": lambda: _layer(
            Conv2d(32, 32, 3, groups=16, dtype=kind), (2, 32, 24, 24), channels_last=True
        ),
        "dense": lambda: _layer(Dense(32, 10, dtype=kind), (8, 32)),
        "dense, examples as filters": lambda: _layer(Dense(2048, 256, dtype=kind), (64, 2048)),
        "dense, many examples": lambda: _layer(Dense(64, 64, dtype=kind), (256, 64)),
        "max pooling": lambda: _layer(MaxPool2d(2), (2, 4, 12, 12), dtype=kind),
        "max pooling, overlapping": lambda: _layer(MaxPool2d(3, 2, 1), (2, 4, 12, 12), dtype=kind),
        "max pooling, channels last": lambda: _layer(MaxPool2d(2), (2, 4, 12, 12), channels_last=True, dtype=kind),
        "average pooling": lambda: _layer(AvgPool2d(2), (2, 4, 12, 12), dtype=kind),
        "average pooling, channels last": lambda: _layer(AvgPool2d(2), (2, 4, 12, 12), channels_last=True, dtype=kind),
        "global pooling": lambda: _layer(GlobalAvgPool2d(), (2, 4, 6, 6), dtype=kind),
        "global pooling, channels last": lambda: _layer(
            GlobalAvgPool2d(), (2, 4, 6, 6), channels_last=True, dtype=kind
        ),
        "batch norm": lambda: _layer(BatchNorm2d(4, dtype=kind), (2, 4, 6, 6)),
        "batch norm, channels last": lambda: _layer(BatchNorm2d(4, dtype=kind), (2, 4, 6, 6), channels_last=True),
        "ReLU": lambda: _layer(ReLU(), (8, 32), dtype=kind),
        "softmax": lambda: _softmax(kind),
        "cross-entropy": lambda: _cross_entropy(kind),
    }


def _winograd(dtype: str) -> None:
    for kernel in ((5, 5), (1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1)):
        _layer(Conv2d(64, 64, kernel, dtype=dtype), (2, 64, 20, 20), "winograd")


def _depthwise(dtype: str, stride: int = 1, kernel: int = 3) -> Conv2d:
    return Conv2d(16, 16, kernel, stride, padding=kernel // 2, groups=16, dtype=dtype)


def _tiles(dtype: str) -> None:
    """The innermost loops, which each kernel takes in several sizes."""
    if dispatch.current_backend() == "numba":
        importlib.import_module("cnnkit.rooms.numba.tile").compile_all(np.dtype(dtype))


def _layer(
    layer: Layer, shape: tuple[int, ...], algorithm: str = "auto", channels_last: bool = False, dtype: Any = None
) -> None:
    """Forward, as it is in inference and in training, and backward."""
    x: Array = np.ones(shape, getattr(layer, "dtype", dtype))
    if channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with cnnkit.options(algorithm=algorithm):
        layer(x)
        y, pullback = layer.forward(x)
        pullback(y)


def _softmax(dtype: str) -> None:
    x = np.ones((8, 10), dtype)
    for name in ("softmax", "log_softmax"):
        getattr(cnnkit, f"{name}_backward")(getattr(cnnkit, name)(x), x)


def _cross_entropy(dtype: str) -> None:
    logits, labels = np.ones((8, 10), dtype), np.zeros(8, np.int64)
    cnnkit.cross_entropy_backward(cnnkit.cross_entropy(logits, labels), logits, labels)
