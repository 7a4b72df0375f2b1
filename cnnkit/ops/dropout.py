"""Dropout, forward and backward."""

from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.foreign import any_library


@any_library
def dropout(x: Array, rate: float, *, rng: Any) -> tuple[Array, Array]:
    """Set each number to 0 with probability `rate`, and divide the others by ``1 - rate`` (Srivastava et al. 2014).

    That is dropout while training; inference leaves `x` as it is. Whatever the memory order of `x`, the same numbers
    are drawn for it.

    Parameters
    ----------
    x : array of any shape
        float16, bfloat16, float32 or float64.
    rate : float
        In [0, 1).
    rng : numpy.random.Generator
        What is drawn from, in C order; of CuPy arrays a cupy.random.Generator.

    Returns
    -------
    y : array, shape of `x`
    kept : array of bools, shape of `x`
        What :func:`dropout_backward` needs: where a number was kept.

    Raises
    ------
    ValueError
        If `rate` is out of its range.
    TypeError
        If `x` is no array, `rate` no number or `rng` no generator.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import dropout
    >>> y, kept = dropout(np.ones(6), 0.5, rng=np.random.default_rng(0))
    >>> y
    array([2., 2., 2., 0., 0., 0.])
    >>> kept
    array([ True,  True,  True, False, False, False])
    """
    (x,) = arrays.check(x=x)
    rate = check_rate(rate)
    if not isinstance(rng, arrays.namespace(x).random.Generator):
        raise TypeError(f"rng is {rng!r}, but a {arrays.family(x)}.random.Generator is needed")
    kept = arrays.namespace(x).asarray(rng.random(x.shape, dtype=arrays.FLOATS[0]) >= rate)
    return _scaled(x, kept, rate), kept


@any_library
def dropout_backward(grad_output: Array, kept: Array, rate: float) -> Array:
    """Gradient of :func:`dropout`: ``grad_output / (1 - rate)`` where a number was kept, else 0.

    Parameters
    ----------
    grad_output : array of any shape
    kept : array of bools, shape of `grad_output`
        What :func:`dropout` returned.
    rate : float
        What :func:`dropout` was given.

    Returns
    -------
    array, shape of `grad_output`

    Raises
    ------
    ValueError
        If the shapes differ, or `rate` is out of its range.
    TypeError
        If an argument is no array, `kept` not one of bools, or `rate` no number.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import dropout_backward
    >>> dropout_backward(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    array([2., 0.])
    """
    (grad_output,) = arrays.check(grad_output=grad_output)
    (kept,) = arrays.check(arrays.BOOLS, kept=kept)
    arrays.one_library(grad_output=grad_output, kept=kept)
    geometry.check_shape("kept", kept.shape, grad_output.shape, "grad_output")
    return _scaled(grad_output, kept, check_rate(rate))


def check_rate(rate: Any) -> float:
    if not 0 <= geometry.number(rate, "rate") < 1:
        raise ValueError(f"rate is {rate!r}, but must be at least 0 and below 1")
    return float(rate)


def _scaled(x: Array, kept: Array, rate: float) -> Array:
    run = dispatch.implementation("dropout", x)
    y = arrays.empty(x.shape, x)
    run(x, kept, 1 / (1 - rate), y)
    return y
