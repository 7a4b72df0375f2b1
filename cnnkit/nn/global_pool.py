"""Global pooling: a pooling whose one window is the whole plane."""

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.nn.pool import AvgPool2d, MaxPool2d


class GlobalPool2d(Layer):
    """What the global pooling layers share: they pool with a window that is as large as what they are given."""

    _layer: type[AvgPool2d] | type[MaxPool2d]

    def __call__(self, x: Array) -> Array:
        return self._for(x)(x)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        return self._for(x).forward(x)

    def _for(self, x: Array) -> Layer:
        arrays.check(x=x)
        if x.ndim < 3:
            raise ValueError(f"x has shape {x.shape}, but {self!r} needs (N, C, H, W) or (C, H, W)")
        return self._layer(x.shape[-2:])


class GlobalAvgPool2d(GlobalPool2d):
    """The mean of each channel: ``x`` (N, C, H, W), ``y`` (N, C, 1, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.GlobalAvgPool2d()(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[2.5]]]])
    """

    _layer = AvgPool2d


class GlobalMaxPool2d(GlobalPool2d):
    """The maximum of each channel: ``x`` (N, C, H, W), ``y`` (N, C, 1, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.GlobalMaxPool2d()(np.array([[[[1.0, 4.0], [3.0, 2.0]]]]))
    array([[[[4.]]]])
    """

    _layer = MaxPool2d
