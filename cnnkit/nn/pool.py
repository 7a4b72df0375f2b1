"""Pooling layers over one, two and three spatial axes."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import boolean, integer, short_padding, short_per_axis
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops.pool import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
)


class Pool(Layer):
    """What the pooling layers share; a subclass says over how many spatial axes, and with which functions."""

    ndim: ClassVar[int]
    _pool: ClassVar[Callable[..., Any]]
    _pool_backward: ClassVar[Callable[..., Any]]

    def _parse(self, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any) -> None:
        self.kernel_size = short_per_axis(kernel_size, self.ndim, "kernel_size")
        self.stride = None if stride is None else short_per_axis(stride, self.ndim, "stride")
        self.padding = short_padding(padding, self.ndim)
        self.ceil_mode = boolean(ceil_mode, "ceil_mode")


class MaxPool(Pool):
    """What the max pooling layers share."""

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> None:
        self._parse(kernel_size, stride, padding, ceil_mode)
        self.dilation = short_per_axis(dilation, self.ndim, "dilation")

    def _windows(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def __call__(self, x: Array) -> Array:
        return self._pool(x, *self._windows())

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y, indices = self._pool(x, *self._windows(), return_indices=True)
        shape = x.shape  # and not x itself, which need not stay

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._pool_backward(grad_y, indices, shape), {}

        return y, pullback


class AvgPool(Pool):
    """What the average pooling layers share."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self._parse(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = boolean(count_include_pad, "count_include_pad")
        self.divisor_override = None if divisor_override is None else integer(divisor_override, "divisor_override")

    def _windows(self) -> tuple[Any, ...]:
        window = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return *window, self.count_include_pad, self.divisor_override

    def __call__(self, x: Array) -> Array:
        return self._pool(x, *self._windows())

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        shape = x.shape  # and not x itself, which need not stay

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._pool_backward(grad_y, shape, *self._windows()), {}

        return self(x), pullback


class MaxPool1d(MaxPool):
    """Max pooling over one spatial axis: ``x`` (N, C, L), ``y`` (N, C, L').

    Parameters and errors are those of `MaxPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.MaxPool1d(2)(np.array([[[1.0, 4.0, 3.0, 2.0]]]))
    array([[[4., 3.]]])
    """

    ndim = 1
    _pool = staticmethod(max_pool1d)
    _pool_backward = staticmethod(max_pool1d_backward)


class MaxPool2d(MaxPool):
    """Max pooling over two spatial axes: ``x`` (N, C, H, W), ``y`` (N, C, H', W').

    Parameters
    ----------
    kernel_size, dilation : int or (int, int)
    stride : int or (int, int), optional
        The kernel size unless given.
    padding : int, (int, int), ((int, int), (int, int)), "valid", "same" or "same_lower"
        For all sides, for each axis, or (before, after) for each axis.
    ceil_mode : bool
        Whether a last window that hangs over the edge counts.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.MaxPool2d(2)(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[4.]]]])
    """

    ndim = 2
    _pool = staticmethod(max_pool2d)
    _pool_backward = staticmethod(max_pool2d_backward)


class MaxPool3d(MaxPool):
    """Max pooling over three spatial axes: ``x`` (N, C, D, H, W), ``y`` (N, C, D', H', W').

    Parameters and errors are those of `MaxPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.MaxPool3d((1, 2, 2))(np.zeros((1, 3, 4, 8, 8))).shape
    (1, 3, 4, 4, 4)
    """

    ndim = 3
    _pool = staticmethod(max_pool3d)
    _pool_backward = staticmethod(max_pool3d_backward)


class AvgPool1d(AvgPool):
    """Average pooling over one spatial axis: ``x`` (N, C, L), ``y`` (N, C, L').

    Parameters and errors are those of `AvgPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AvgPool1d(2)(np.array([[[1.0, 4.0, 3.0, 2.0]]]))
    array([[[2.5, 2.5]]])
    """

    ndim = 1
    _pool = staticmethod(avg_pool1d)
    _pool_backward = staticmethod(avg_pool1d_backward)


class AvgPool2d(AvgPool):
    """Average pooling over two spatial axes: ``x`` (N, C, H, W), ``y`` (N, C, H', W').

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        The kernel size unless given.
    padding : int, (int, int), ((int, int), (int, int)), "valid", "same" or "same_lower"
        For all sides, for each axis, or (before, after) for each axis.
    ceil_mode : bool
        Whether a last window that hangs over the edge counts.
    count_include_pad : bool
        Whether padding counts as so many zeros, or is left out of the mean.
    divisor_override : int, optional
        What every sum is divided by, instead of the number of elements.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AvgPool2d(2)(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[2.5]]]])
    """

    ndim = 2
    _pool = staticmethod(avg_pool2d)
    _pool_backward = staticmethod(avg_pool2d_backward)


class AvgPool3d(AvgPool):
    """Average pooling over three spatial axes: ``x`` (N, C, D, H, W), ``y`` (N, C, D', H', W').

    Parameters and errors are those of `AvgPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AvgPool3d(2, stride=1)(np.zeros((1, 3, 4, 8, 8))).shape
    (1, 3, 3, 7, 7)
    """

    ndim = 3
    _pool = staticmethod(avg_pool3d)
    _pool_backward = staticmethod(avg_pool3d_backward)
