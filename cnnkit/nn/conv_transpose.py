"""Transposed convolution layers over one, two and three spatial axes."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import transposed_terms
from cnnkit.nn.arguments import check_groups, integer, per_axis, short_padding, short_per_axis
from cnnkit.nn.layer import Pullback
from cnnkit.nn.weighted import Rng, WeightedLayer
from cnnkit.ops.conv_transpose import (
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    conv_transpose3d,
    conv_transpose3d_backward,
)


class ConvTranspose(WeightedLayer):
    """What these layers share; a subclass says over how many spatial axes, and with which functions."""

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
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ) -> None:
        self.in_channels = integer(in_channels, "in_channels")
        self.out_channels = integer(out_channels, "out_channels")
        self.kernel_size = short_per_axis(kernel_size, self.ndim, "kernel_size")
        self.stride = short_per_axis(stride, self.ndim, "stride")
        self.padding = short_padding(padding, self.ndim)
        self.output_padding = short_per_axis(output_padding, self.ndim, "output_padding", 0)
        self.groups = integer(groups, "groups")
        self.dilation = short_per_axis(dilation, self.ndim, "dilation")
        check_groups(self.groups, in_channels=self.in_channels, out_channels=self.out_channels)
        kernel, steps, between = (
            per_axis(getattr(self, name), self.ndim, name) for name in ("kernel_size", "stride", "dilation")
        )
        shape = self.in_channels, self.out_channels // self.groups, *kernel
        terms = transposed_terms(shape, steps, between, self.groups)
        self._initialise(shape, bias, rng, dtype, fan_in=terms, features=self.out_channels)

    def _windows(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def __call__(self, x: Array) -> Array:
        return self._conv(x, self.weight, self.bias, *self._windows())

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            needs = self._needs(needs_x)
            return self._split(self._conv_backward(grad_y, x, self.weight, *self._windows(), needs=needs))

        return self(x), pullback


class ConvTranspose1d(ConvTranspose):
    """Transposed convolution over one spatial axis.

    ``x`` is (N, in_channels, L), ``y`` (N, out_channels, L'), `weight` (in_channels, out_channels // groups, kL),
    `bias` (out_channels,). Parameters and errors are those of `ConvTranspose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.ConvTranspose1d(2, 4, 5, stride=2, padding="same")
    >>> layer(np.zeros((1, 2, 20), dtype="float32")).shape
    (1, 4, 40)
    """

    ndim = 1
    _conv = staticmethod(conv_transpose1d)
    _conv_backward = staticmethod(conv_transpose1d_backward)


class ConvTranspose2d(ConvTranspose):
    """Transposed convolution over two spatial axes, as `cnnkit.conv_transpose2d` computes it.

    ``x`` is (N, in_channels, H, W), ``y`` (N, out_channels, H', W'), `weight`
    (in_channels, out_channels // groups, kH, kW), `bias` (out_channels,). Arguments stand in PyTorch's order.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride : int or (int, int)
    padding : int, (int, int), ((int, int), (int, int)), "valid", "same" or "same_lower"
        What is cut off the result: on all sides, for each axis, or (before, after) for each axis. With "same" the
        result is `stride` times as long as the input.
    output_padding : int or (int, int)
        How much longer the result is, after.
    groups : int
        Into how many parts the channels are divided, each with filters of its own.
    bias : bool
        Whether a bias is added.
    dilation : int or (int, int)
    rng : numpy.random.Generator or int, optional
        Where the first weights come from: a generator or the seed of one. He initialisation, for which the fan-in is
        how many products make an output: with kernel 4 and stride 2, 2 x 2 of an input's 4 x 4 taps reach the same one.
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
    >>> layer = nn.ConvTranspose2d(8, 3, (3, 3), 2, 1, 1)
    >>> layer
    ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)
    >>> layer(np.zeros((1, 8, 14, 14), dtype="float32")).shape
    (1, 3, 28, 28)
    """

    ndim = 2
    _conv = staticmethod(conv_transpose2d)
    _conv_backward = staticmethod(conv_transpose2d_backward)


class ConvTranspose3d(ConvTranspose):
    """Transposed convolution over three spatial axes.

    ``x`` is (N, in_channels, D, H, W), ``y`` (N, out_channels, D', H', W'), `weight`
    (in_channels, out_channels // groups, kD, kH, kW), `bias` (out_channels,). Parameters and errors are those of
    `ConvTranspose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> layer = nn.ConvTranspose3d(2, 1, 2, stride=(1, 2, 2))
    >>> layer(np.zeros((1, 2, 4, 5, 5), dtype="float32")).shape
    (1, 1, 5, 10, 10)
    """

    ndim = 3
    _conv = staticmethod(conv_transpose3d)
    _conv_backward = staticmethod(conv_transpose3d_backward)
