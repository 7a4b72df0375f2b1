"""Lp pooling layers over one, two and three spatial axes."""

from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import norm_type as checked_norm_type
from cnnkit.nn.arguments import short_per_axis
from cnnkit.nn.layer import Pullback
from cnnkit.nn.pool import Pool
from cnnkit.ops.lp_pool import (
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
)


class LPPool(Pool):
    """What the Lp pooling layers share."""

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type = checked_norm_type(norm_type)
        self._parse(kernel_size, stride, padding, ceil_mode)
        self.dilation = short_per_axis(dilation, self.ndim, "dilation")

    def _windows(self) -> tuple[Any, ...]:
        return self.norm_type, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def __call__(self, x: Array) -> Array:
        return self._pool(x, *self._windows())

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._pool_backward(grad_y, x, *self._windows()), {}

        return self(x), pullback


class LPPool1d(LPPool):
    """Lp pooling over one spatial axis: ``x`` (N, C, L), ``y`` (N, C, L').

    Parameters and errors are those of `LPPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.LPPool1d(2, 2)(np.array([[[3.0, 4.0, 5.0, 12.0]]]))
    array([[[ 5., 13.]]])
    """

    ndim = 1
    _pool = staticmethod(lp_pool1d)
    _pool_backward = staticmethod(lp_pool1d_backward)


class LPPool2d(LPPool):
    """Lp pooling over two spatial axes: ``x`` (N, C, H, W), ``y`` (N, C, H', W').

    Parameters
    ----------
    norm_type : float
        The power, above 0; 2 is the Euclidean norm, ``math.inf`` max pooling. See `cnnkit.lp_pool2d`.
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
    >>> nn.LPPool2d(2, 2)(np.array([[[[1.0, 3.0], [5.0, 1.0]]]]))
    array([[[[6.]]]])
    """

    ndim = 2
    _pool = staticmethod(lp_pool2d)
    _pool_backward = staticmethod(lp_pool2d_backward)


class LPPool3d(LPPool):
    """Lp pooling over three spatial axes: ``x`` (N, C, D, H, W), ``y`` (N, C, D', H', W').

    Parameters and errors are those of `LPPool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.LPPool3d(2, (1, 2, 2))(np.zeros((1, 3, 4, 8, 8))).shape
    (1, 3, 4, 4, 4)
    """

    ndim = 3
    _pool = staticmethod(lp_pool3d)
    _pool_backward = staticmethod(lp_pool3d_backward)
