"""Adaptive pooling layers over one, two and three spatial axes, and global pooling, which is adaptive pooling to 1."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import short_output_size
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops.adaptive_pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
    adaptive_max_pool1d,
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
)


class AdaptivePool(Layer):
    """What the adaptive layers share; a subclass says over how many spatial axes, and with which functions."""

    ndim: ClassVar[int]
    _pool: ClassVar[Callable[..., Any]]
    _pool_backward: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: Any) -> None:
        self.output_size = short_output_size(output_size, self.ndim)

    def __call__(self, x: Array) -> Array:
        return self._pool(x, self.output_size)


class AdaptiveMaxPool(AdaptivePool):
    """What the adaptive max pooling layers share."""

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y, indices = self._pool(x, self.output_size, return_indices=True)
        shape = x.shape  # and not x itself, which need not stay

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._pool_backward(grad_y, indices, shape), {}

        return y, pullback


class AdaptiveAvgPool(AdaptivePool):
    """What the adaptive average pooling layers share."""

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y, shape = self(x), x.shape  # and not x itself, which need not stay

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._pool_backward(grad_y, shape), {}

        return y, pullback


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """Adaptive max pooling over one spatial axis: ``x`` (N, C, L), ``y`` (N, C, L').

    Parameters and errors are those of `AdaptiveMaxPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AdaptiveMaxPool1d(2)(np.array([[[1.0, 4.0, 3.0]]]))
    array([[[4., 4.]]])
    """

    ndim = 1
    _pool = staticmethod(adaptive_max_pool1d)
    _pool_backward = staticmethod(adaptive_max_pool1d_backward)


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """Adaptive max pooling over two spatial axes: ``x`` (N, C, H, W), ``y`` (N, C, H', W').

    Parameters
    ----------
    output_size : int, None or tuple of two of these
        The size of `y`; None is the size of `x`.

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
    >>> nn.AdaptiveMaxPool2d((1, None))(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[3., 4.]]]])
    """

    ndim = 2
    _pool = staticmethod(adaptive_max_pool2d)
    _pool_backward = staticmethod(adaptive_max_pool2d_backward)


class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """Adaptive max pooling over three spatial axes: ``x`` (N, C, D, H, W), ``y`` (N, C, D', H', W').

    Parameters and errors are those of `AdaptiveMaxPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AdaptiveMaxPool3d((None, 7, 7))(np.zeros((1, 3, 4, 13, 13))).shape
    (1, 3, 4, 7, 7)
    """

    ndim = 3
    _pool = staticmethod(adaptive_max_pool3d)
    _pool_backward = staticmethod(adaptive_max_pool3d_backward)


class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """Adaptive average pooling over one spatial axis: ``x`` (N, C, L), ``y`` (N, C, L').

    Parameters and errors are those of `AdaptiveAvgPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AdaptiveAvgPool1d(2)(np.array([[[1.0, 4.0, 3.0]]]))
    array([[[2.5, 3.5]]])
    """

    ndim = 1
    _pool = staticmethod(adaptive_avg_pool1d)
    _pool_backward = staticmethod(adaptive_avg_pool1d_backward)


class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """Adaptive average pooling over two spatial axes: ``x`` (N, C, H, W), ``y`` (N, C, H', W').

    Parameters
    ----------
    output_size : int, None or tuple of two of these
        The size of `y`; None is the size of `x`.

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
    >>> nn.AdaptiveAvgPool2d((1, None))(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[2., 3.]]]])
    """

    ndim = 2
    _pool = staticmethod(adaptive_avg_pool2d)
    _pool_backward = staticmethod(adaptive_avg_pool2d_backward)


class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """Adaptive average pooling over three spatial axes: ``x`` (N, C, D, H, W), ``y`` (N, C, D', H', W').

    Parameters and errors are those of `AdaptiveAvgPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.AdaptiveAvgPool3d((None, 7, 7))(np.zeros((1, 3, 4, 13, 13))).shape
    (1, 3, 4, 7, 7)
    """

    ndim = 3
    _pool = staticmethod(adaptive_avg_pool3d)
    _pool_backward = staticmethod(adaptive_avg_pool3d_backward)


class GlobalAvgPool2d(AdaptiveAvgPool2d):
    """The mean of each channel: ``x`` (N, C, H, W), ``y`` (N, C, 1, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.GlobalAvgPool2d()(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[2.5]]]])
    """

    def __init__(self) -> None:
        super().__init__(1)


class GlobalMaxPool2d(AdaptiveMaxPool2d):
    """The maximum of each channel: ``x`` (N, C, H, W), ``y`` (N, C, 1, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.GlobalMaxPool2d()(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[4.]]]])
    """

    def __init__(self) -> None:
        super().__init__(1)
