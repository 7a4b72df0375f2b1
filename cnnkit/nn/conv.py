"""Convolution layers over one, two and three spatial axes."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import check_groups, integer, per_axis, short_padding, short_per_axis
from cnnkit.nn.layer import Pullback
from cnnkit.nn.weighted import Rng, WeightedLayer
from cnnkit.ops.conv import (
    conv1d,
    conv1d_backward,
    conv2d,
    conv2d_backward,
    conv3d,
    conv3d_backward,
)


class Conv(WeightedLayer):
    """What the convolution layers share; a subclass says over how many spatial axes, and with which functions."""

    ndim: ClassVar[int]
    _conv: ClassVar[Callable[..., Any]]
    _conv_backward: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ) -> None:
        self.in_channels = integer(in_channels, "in_channels")
        self.out_channels = integer(out_channels, "out_channels")
        self.kernel_size = short_per_axis(kernel_size, self.ndim, "kernel_size")
        self.stride = short_per_axis(stride, self.ndim, "stride")
        self.padding = short_padding(padding, self.ndim)
        self.dilation = short_per_axis(dilation, self.ndim, "dilation")
        self.groups = integer(groups, "groups")
        self._initialise(self._weight_shape(), bias, rng, dtype)

    def _weight_shape(self) -> tuple[int, ...]:
        check_groups(self.groups, in_channels=self.in_channels, out_channels=self.out_channels)
        kernel = per_axis(self.kernel_size, self.ndim, "kernel_size")
        return self.out_channels, self.in_channels // self.groups, *kernel

    def _windows(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    def __call__(self, x: Array) -> Array:
        return self._activated(x, None)

    def _activated(self, x: Array, activation: str | None) -> Array:
        """Infer, with an activation in the same pass."""
        return self._conv(x, self.weight, self.bias, *self._windows(), activation=activation)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            needs = self._needs(needs_x)
            return self._split(self._conv_backward(grad_y, x, self.weight, *self._windows(), needs=needs))

        return self(x), pullback


class Conv1d(Conv):
    """Convolution over one spatial axis.

    ``x`` is (N, in_channels, L), ``y`` (N, out_channels, L'), `weight` (out_channels, in_channels // groups, kL),
    `bias` (out_channels,). Parameters and errors are those of `Conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.Conv1d(2, 4, 5, padding=((4, 0),))  # causal: looks back only
    >>> layer(np.zeros((1, 2, 20), dtype="float32")).shape
    (1, 4, 20)
    """

    ndim = 1
    _conv = staticmethod(conv1d)
    _conv_backward = staticmethod(conv1d_backward)


class Conv2d(Conv):
    """Convolution over two spatial axes, as `cnnkit.conv2d` computes it.

    ``x`` is (N, in_channels, H, W), ``y`` (N, out_channels, H', W'), `weight`
    (out_channels, in_channels // groups, kH, kW), `bias` (out_channels,).

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (int, int)
    padding : int, (int, int), ((int, int), (int, int)), "valid", "same" or "same_lower"
        For all sides, for each axis, or (before, after) for each axis.
    groups : int
        Into how many parts the channels are divided, each with filters of its own.
    bias : bool
        Whether a bias is added.
    rng : numpy.random.Generator or int, optional
        Where the first weights come from (He initialisation): a generator or the seed of one.
    dtype : {"float32", "float64"}
        The dtype of parameters, inputs and outputs.

    Raises
    ------
    ValueError
        If a number is out of its range or `groups` does not divide the channels.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.Conv2d(3, 8, (3, 3), padding=1)
    >>> layer
    Conv2d(3, 8, 3, padding=1)
    >>> layer(np.zeros((1, 3, 28, 28), dtype="float32")).shape
    (1, 8, 28, 28)
    """

    ndim = 2
    _conv = staticmethod(conv2d)
    _conv_backward = staticmethod(conv2d_backward)


class Conv3d(Conv):
    """Convolution over three spatial axes.

    ``x`` is (N, in_channels, D, H, W), ``y`` (N, out_channels, D', H', W'), `weight`
    (out_channels, in_channels // groups, kD, kH, kW), `bias` (out_channels,). Parameters and errors are those of
    `Conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.Conv3d(1, 2, 3, stride=(1, 2, 2))
    >>> layer(np.zeros((1, 1, 8, 9, 9), dtype="float32")).shape
    (1, 2, 6, 4, 4)
    """

    ndim = 3
    _conv = staticmethod(conv3d)
    _conv_backward = staticmethod(conv3d_backward)
