"""Activations in the array library's own words."""

from collections.abc import Callable
from typing import Any

from cnnkit.arrays import Array, namespace
from cnnkit.rooms import normal

FAR = 1000.0  # beyond, a logistic function is 0 or 1
FAR_NORMAL = 50.0  # beyond, so is the normal distribution
ROOT = 0.7978845608028654  # sqrt(2 / pi)
CUBIC = 0.044715  # Hendrycks and Gimpel 2016, arXiv:1606.08415


def activate(activation: tuple[str, float], x: Array, out: Array) -> None:
    name, parameter = activation
    out[...] = _FORWARD[name](namespace(x), x, parameter)


def activate_backward(activation: tuple[str, float], grad_output: Array, x: Array, out: Array) -> None:
    name, parameter = activation
    if name == "relu":
        out[...] = namespace(x).where(x <= 0, 0, grad_output)  # a NaN among the gradients stops here
    else:
        out[...] = grad_output * _SLOPE[name](namespace(x), x, parameter)


def _logistic(xp: Any, x: Array) -> tuple[Array, Array]:
    """``1 / (1 + exp(-x))`` and its slope, without overflow."""
    e = xp.exp(-abs(x))
    return xp.where(x > 0, 1, e) / (1 + e), e / (1 + e) ** 2


def _normal(xp: Any, x: Array) -> tuple[Array, Array]:
    """The normal distribution's probability of less than x, and its density."""
    q = normal.SCALE / (abs(x) + normal.SCALE)
    tail = q * 0
    for coefficient in normal.LONG:
        tail = tail * (2 * q - 1) + coefficient
    e = xp.exp(-x * x / 2)
    tail *= q * e
    return xp.where(x > 0, 1 - tail, tail), e * (ROOT / 2)


def _gelu_slope(xp: Any, x: Array, _parameter: float) -> Array:
    x = x.clip(-FAR_NORMAL, FAR_NORMAL)
    share, density = _normal(xp, x)
    return share + x * density


def _gelu_tanh_slope(xp: Any, x: Array, _parameter: float) -> Array:
    x = x.clip(-FAR_NORMAL, FAR_NORMAL)
    share, slope = _logistic(xp, 2 * ROOT * (x + CUBIC * x**3))
    return share + x * slope * 2 * ROOT * (1 + 3 * CUBIC * x**2)


def _silu_slope(xp: Any, x: Array, _parameter: float) -> Array:
    share, slope = _logistic(xp, x)
    return share + x.clip(-FAR, FAR) * slope


def _gelu_tanh(xp: Any, x: Array, _parameter: float) -> Array:
    near = x.clip(-FAR_NORMAL, FAR_NORMAL)
    return xp.maximum(x, -FAR_NORMAL) * _logistic(xp, 2 * ROOT * (near + CUBIC * near**3))[0]


_FORWARD: dict[str, Callable[[Any, Array, float], Array]] = {
    "relu": lambda xp, x, _: xp.maximum(x, 0),
    "leaky_relu": lambda xp, x, slope: xp.where(x > 0, x, x * slope),
    "elu": lambda xp, x, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0))),
    "gelu": lambda xp, x, _: xp.maximum(x, -FAR_NORMAL) * _normal(xp, x.clip(-FAR_NORMAL, FAR_NORMAL))[0],
    "gelu_tanh": _gelu_tanh,
    "silu": lambda xp, x, _: xp.maximum(x, -FAR) * _logistic(xp, x)[0],
    "sigmoid": lambda xp, x, _: _logistic(xp, x)[0],
    "tanh": lambda xp, x, _: xp.tanh(x),
}
_SLOPE: dict[str, Callable[[Any, Array, float], Array]] = {
    "leaky_relu": lambda xp, x, slope: xp.where(x > 0, x.dtype.type(1), x.dtype.type(slope)),
    "elu": lambda xp, x, alpha: xp.where(x > 0, 1, alpha * xp.exp(xp.minimum(x, 0))),
    "gelu": _gelu_slope,
    "gelu_tanh": _gelu_tanh_slope,
    "silu": _silu_slope,
    "sigmoid": lambda xp, x, _: _logistic(xp, x)[1],
    "tanh": lambda xp, x, _: 4 * _logistic(xp, 2 * x.clip(-FAR, FAR))[1],
}
