"""The layers without windows or parameters: ReLU, Flatten, Dropout."""

import math

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops.elementwise import relu, relu_backward


class ReLU(Layer):
    """Rectified linear unit: ``y = max(x, 0)``, for `x` of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def __call__(self, x: Array) -> Array:
        return relu(x)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y = relu(x)

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return relu_backward(grad_y, y), {}  # y serves as well as x, and the next layer keeps it anyway

        return y, pullback


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
        if isinstance(rate, (bool, str)) or not hasattr(rate, "__float__"):
            raise TypeError(f"rate is {rate!r}, but a number is needed")
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate!r}, but must be at least 0 and below 1")
        self.rate = float(rate)

    def __call__(self, x: Array) -> Array:
        return x

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        arrays.check(x=x)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng is {rng!r}, but {self!r} draws from a numpy.random.Generator while training")
        kept = rng.random(x.shape, dtype=np.float32) >= self.rate
        scale = (kept / (1 - self.rate)).astype(x.dtype)

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return grad_y * scale, {}

        return x * scale, pullback
