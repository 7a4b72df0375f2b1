"""Layers that apply a function of `cnnkit` to every number, or along one axis."""

import sys
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.arguments import integer, number
from cnnkit.nn.layer import Layer, Pullback
from cnnkit.ops import activation as of
from cnnkit.ops import softmax as along


class Activation(Layer):
    """What these layers share; a subclass says which functions, and takes their parameters under their names."""

    _function: ClassVar[Callable[..., Any]]
    _backward: ClassVar[Callable[..., Any]]

    def __call__(self, x: Array) -> Array:
        return self._function(x, **vars(self))

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        y = self(x)
        kept = self._kept(x, y)

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            return self._backward(grad_y, kept, **vars(self)), {}

        return y, pullback

    def _kept(self, x: Array, y: Array) -> Array:
        """What the way back is given."""
        return x


class ReLU(Activation):
    """Rectified linear unit: ``y = max(x, 0)``, for `x` of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    _function = staticmethod(of.relu)
    _backward = staticmethod(of.relu_backward)

    def _kept(self, x: Array, y: Array) -> Array:
        return y  # it serves as well as x, and the next layer keeps it anyway


class LeakyReLU(Activation):
    """Leaky rectified linear unit: `x` where it is positive, else ``negative_slope * x``, for `x` of any shape.

    Parameters
    ----------
    negative_slope : float

    Raises
    ------
    TypeError
        If `negative_slope` is no number.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.LeakyReLU(0.1)(np.array([-1.0, 2.0]))
    array([-0.1,  2. ])
    """

    _function = staticmethod(of.leaky_relu)
    _backward = staticmethod(of.leaky_relu_backward)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = number(negative_slope, "negative_slope")


class ELU(Activation):
    """Exponential linear unit: `x` where it is positive, else ``alpha * (exp(x) - 1)``, for `x` of any shape.

    Parameters
    ----------
    alpha : float

    Raises
    ------
    TypeError
        If `alpha` is no number.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.ELU()(np.array([-np.log(2.0), 2.0]))
    array([-0.5,  2. ])
    """

    _function = staticmethod(of.elu)
    _backward = staticmethod(of.elu_backward)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number(alpha, "alpha")


class GELU(Activation):
    """Gaussian error linear unit, as `cnnkit.gelu` computes it, for `x` of any shape.

    Parameters
    ----------
    approximate : {"none", "tanh"}

    Raises
    ------
    ValueError
        If `approximate` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.GELU()(np.array([-1.0, 1.0])).round(4)
    array([-0.1587,  0.8413])
    """

    _function = staticmethod(of.gelu)
    _backward = staticmethod(of.gelu_backward)

    def __init__(self, approximate: str = "none") -> None:
        of.approximation(approximate)
        self.approximate = approximate


class SiLU(Activation):
    """Sigmoid linear unit (swish): ``y = x * sigmoid(x)``, for `x` of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.SiLU()(np.array([0.0, 1000.0]))
    array([   0., 1000.])
    """

    _function = staticmethod(of.silu)
    _backward = staticmethod(of.silu_backward)


class Sigmoid(Activation):
    """Logistic function: ``y = 1 / (1 + exp(-x))``, for `x` of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.Sigmoid()(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """

    _function = staticmethod(of.sigmoid)
    _backward = staticmethod(of.sigmoid_backward)


class Tanh(Activation):
    """Hyperbolic tangent, for `x` of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.Tanh()(np.array([-1000.0, 0.0]))
    array([-1.,  0.])
    """

    _function = staticmethod(of.tanh)
    _backward = staticmethod(of.tanh_backward)


class Softmax(Activation):
    """Softmax along `axis`: ``y = exp(x) / sum(exp(x))``.

    Parameters
    ----------
    axis : int

    Raises
    ------
    TypeError
        If `axis` is no int.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.Softmax()(np.log(np.array([1.0, 3.0])))
    array([0.25, 0.75])
    """

    _function = staticmethod(along.softmax)
    _backward = staticmethod(along.softmax_backward)

    def __init__(self, axis: int = -1) -> None:
        self.axis = integer(axis, "axis", -sys.maxsize)


class LogSoftmax(Activation):
    """Logarithm of the softmax along `axis`: ``y = x - log(sum(exp(x)))``.

    Parameters
    ----------
    axis : int

    Raises
    ------
    TypeError
        If `axis` is no int.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.LogSoftmax()(np.array([0.0, 1000.0]))
    array([-1000.,     0.])
    """

    _function = staticmethod(along.log_softmax)
    _backward = staticmethod(along.log_softmax_backward)

    def __init__(self, axis: int = -1) -> None:
        self.axis = integer(axis, "axis", -sys.maxsize)
