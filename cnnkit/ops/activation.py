"""Activations, forward and backward: functions of every number of arrays of any shape."""

import inspect
from collections.abc import Callable
from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.foreign import any_library
from cnnkit.geometry import number
from cnnkit.ops._shared import Function

APPROXIMATIONS = {"none": "gelu", "tanh": "gelu_tanh"}

FORWARD = """

Parameters
----------
x : array of any shape
    float16, bfloat16, float32 or float64, with any strides.
@parameterReturns
-------
array, shape of `x`

Raises
------
@errorsTypeError
    If `x` is no array, or of a dtype that is not taken@kinds.

Examples
--------
>>> import numpy as np
"""
BACKWARD = """

Parameters
----------
grad_output, x : array, both of one shape
    `x` is what the forward was given.
@parameterReturns
-------
array, shape of `x`

Raises
------
ValueError
    If the shapes differ@choices.
TypeError
    If an argument is no array, or dtypes or libraries are mixed@kinds.

Examples
--------
>>> import numpy as np
"""
SLOPE = "negative_slope : float\n    What negative numbers are multiplied by.\n"
ALPHA = "alpha : float\n    What large negative numbers come to, without its sign.\n"
APPROXIMATE = (
    'approximate : {"none", "tanh"}\n    The function itself, or a formula that some networks were trained with.\n'
)


def documented(sections: str, example: str, parameter: str = "") -> Callable[[Function], Function]:
    """Add the sections that all activations have to a function's docstring."""
    chosen = parameter is APPROXIMATE
    words = {
        "@parameter": f"{parameter}\n",
        "@errors": "ValueError\n    If `approximate` is neither.\n" if chosen else "",
        "@choices": ", or `approximate` is neither of its words" if chosen else "",
        "@kinds": ", or a parameter is no number" if parameter and not chosen else "",
    }
    for word, meaning in words.items():
        sections = sections.replace(word, meaning)

    def decorate(function: Function) -> Function:
        function.__doc__ = f"{inspect.getdoc(function)}{sections}{inspect.cleandoc(example)}\n"
        return any_library(function)

    return decorate


@documented(
    FORWARD,
    """
    >>> from cnnkit import relu
    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """,
)
def relu(x: Array) -> Array:
    """Rectified linear unit, ``max(x, 0)``; NaN stays NaN."""
    return _forward(("relu", 0.0), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import relu_backward
    >>> relu_backward(np.array([5.0, 5.0, 5.0]), np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 5.])
    """,
)
def relu_backward(grad_output: Array, x: Array) -> Array:
    """Gradient of :func:`relu`: `grad_output` where ``x > 0`` (or NaN), else 0.

    The result of the forward serves as well as its `x`.
    """
    return _backward(("relu", 0.0), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import leaky_relu
    >>> leaky_relu(np.array([-1.0, 0.0, 2.0]), 0.1)
    array([-0.1,  0. ,  2. ])
    """,
    SLOPE,
)
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """Leaky rectified linear unit, `x` where ``x > 0``, else ``negative_slope * x`` (Maas et al. 2013)."""
    return _forward(("leaky_relu", number(negative_slope, "negative_slope")), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import leaky_relu_backward
    >>> leaky_relu_backward(np.array([5.0, 5.0]), np.array([-1.0, 2.0]), 0.1)
    array([0.5, 5. ])
    """,
    SLOPE,
)
def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float = 0.01) -> Array:
    """Gradient of :func:`leaky_relu`: `grad_output` where ``x > 0``, else ``negative_slope * grad_output``."""
    return _backward(("leaky_relu", number(negative_slope, "negative_slope")), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import elu
    >>> elu(np.array([-np.log(2.0), 0.0, 2.0]))
    array([-0.5,  0. ,  2. ])
    """,
    ALPHA,
)
def elu(x: Array, alpha: float = 1.0) -> Array:
    """Exponential linear unit, `x` where ``x > 0``, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016).

    Small negative numbers keep their precision.
    """
    return _forward(("elu", number(alpha, "alpha")), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import elu_backward
    >>> elu_backward(np.array([4.0, 4.0]), np.array([-np.log(2.0), 2.0]))
    array([2., 4.])
    """,
    ALPHA,
)
def elu_backward(grad_output: Array, x: Array, alpha: float = 1.0) -> Array:
    """Gradient of :func:`elu`: `grad_output` where ``x > 0``, else ``alpha * exp(x) * grad_output``."""
    return _backward(("elu", number(alpha, "alpha")), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import gelu
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """,
    APPROXIMATE,
)
def gelu(x: Array, approximate: str = "none") -> Array:
    """Gaussian error linear unit, ``x * P(x)`` with the normal distribution function P (Hendrycks and Gimpel 2016).

    With ``approximate="tanh"`` P is ``(1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) / 2``. ``gelu(-inf)`` is 0.
    """
    return _forward((approximation(approximate), 0.0), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import gelu_backward
    >>> gelu_backward(np.array([1.0, 1.0, 1.0]), np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.0833,  0.5   ,  1.0833])
    """,
    APPROXIMATE,
)
def gelu_backward(grad_output: Array, x: Array, approximate: str = "none") -> Array:
    """Gradient of :func:`gelu`: `grad_output` times ``P(x) + x * P'(x)``; 0 and 1 times it at the infinities."""
    return _backward((approximation(approximate), 0.0), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import silu
    >>> silu(np.array([-np.log(3.0), 0.0, np.log(3.0)])).round(4)
    array([-0.2747,  0.    ,  0.824 ])
    """,
)
def silu(x: Array) -> Array:
    """Sigmoid linear unit (swish), ``x / (1 + exp(-x))`` (Elfwing et al. 2018); ``silu(-inf)`` is 0."""
    return _forward(("silu", 0.0), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import silu_backward
    >>> silu_backward(np.array([2.0, 2.0]), np.array([0.0, 100.0]))
    array([1., 2.])
    """,
)
def silu_backward(grad_output: Array, x: Array) -> Array:
    """Gradient of :func:`silu`: `grad_output` times ``s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``.

    At the infinities that is 0 and 1 times it.
    """
    return _backward(("silu", 0.0), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import sigmoid
    >>> sigmoid(np.array([-np.log(3.0), 0.0, 1000.0]))
    array([0.25, 0.5 , 1.  ])
    """,
)
def sigmoid(x: Array) -> Array:
    """Logistic function, ``1 / (1 + exp(-x))``."""
    return _forward(("sigmoid", 0.0), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import sigmoid_backward
    >>> sigmoid_backward(np.array([16.0, 16.0]), np.array([-np.log(3.0), 0.0]))
    array([3., 4.])
    """,
)
def sigmoid_backward(grad_output: Array, x: Array) -> Array:
    """Gradient of :func:`sigmoid`: `grad_output` times ``s * (1 - s)`` with ``s = sigmoid(x)``.

    It is precise where the forward is all but 1, too.
    """
    return _backward(("sigmoid", 0.0), grad_output, x)


@documented(
    FORWARD,
    """
    >>> from cnnkit import tanh
    >>> tanh(np.array([-np.inf, 0.0, np.log(3.0)]))
    array([-1. ,  0. ,  0.8])
    """,
)
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return _forward(("tanh", 0.0), x)


@documented(
    BACKWARD,
    """
    >>> from cnnkit import tanh_backward
    >>> tanh_backward(np.array([25.0, 25.0]), np.array([0.0, np.log(3.0)])).round(4)
    array([25.,  9.])
    """,
)
def tanh_backward(grad_output: Array, x: Array) -> Array:
    """Gradient of :func:`tanh`: `grad_output` times ``1 - tanh(x) ** 2``.

    It is precise where the forward is all but 1, too.
    """
    return _backward(("tanh", 0.0), grad_output, x)


def approximation(approximate: Any) -> str:
    if not isinstance(approximate, str) or approximate not in APPROXIMATIONS:
        raise ValueError(f"approximate is {approximate!r}, but must be 'none' or 'tanh'")
    return APPROXIMATIONS[approximate]


def _forward(activation: tuple[str, float], x: Array) -> Array:
    (x,) = arrays.check(x=x)
    run = dispatch.implementation("activate", x)
    y = arrays.empty(x.shape, x)
    run(activation, x, y)
    return y


def _backward(activation: tuple[str, float], grad_output: Array, x: Array) -> Array:
    grad_output, x = arrays.check(grad_output=grad_output, x=x)
    geometry.check_shape("grad_output", grad_output.shape, x.shape, "x")
    run = dispatch.implementation("activate_backward", x)
    grad_x = arrays.empty(x.shape, x)
    run(activation, grad_output, x, grad_x)
    return grad_x
