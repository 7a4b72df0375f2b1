"""The layers without windows, parameters or numbers of their own: Flatten, Dropout."""

import math

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops.dropout import check_rate, dropout, dropout_backward


class Flatten(Layer):
    """All axes but the first in one: ``x`` (N, C, H, W), ``y`` (N, C * H * W), in C order.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.Flatten()(np.zeros((5, 3, 2, 2))).shape
    (5, 12)
    """

    def __call__(self, x: Array) -> Array:
        arrays.check(x=x)
        return x.reshape(*x.shape[:1], math.prod(x.shape[1:]))

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y, shape = self(x), x.shape

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return grad_y.reshape(shape), {}

        return y, pullback


class Dropout(Layer):
    """While training, set each element to 0 with probability `rate`, and divide the others by ``1 - rate``.

    Inference leaves `x` as it is (Srivastava et al. 2014). `x` may have any shape.

    Parameters
    ----------
    rate : float
        In [0, 1).

    Raises
    ------
    ValueError
        If `rate` is out of its range.
    TypeError
        If `rate` is no number, or if `forward` is given no `rng`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> y, pullback = nn.Dropout(0.5).forward(np.ones(6), rng=np.random.default_rng(0))
    >>> y
    array([2., 2., 2., 0., 0., 0.])
    """

    def __init__(self, rate: float) -> None:
        self.rate = check_rate(rate)

    def __call__(self, x: Array) -> Array:
        return x

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        arrays.check(x=x)
        if rng is None:
            raise TypeError(f"rng is {rng!r}, but {self!r} draws from a numpy.random.Generator while training")
        y, kept = dropout(x, self.rate, rng=rng)

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return dropout_backward(grad_y, kept, self.rate), {}

        return y, pullback
