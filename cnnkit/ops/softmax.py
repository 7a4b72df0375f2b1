"""Softmax and its logarithm, forward and backward: arrays of any shape, along one axis."""

from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.foreign import any_library


@any_library
def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax, ``exp(x) / sum(exp(x))`` along `axis`: positive numbers that sum to 1.

    The maximum is subtracted first, so that nothing overflows.

    Parameters
    ----------
    x : array of at least one axis
        float16, bfloat16, float32 or float64.
    axis : int

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If `x` has no such axis.
    TypeError
        If `x` is no array, or of a dtype that is not taken.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import softmax
    >>> softmax(np.log(np.array([1.0, 3.0])))
    array([0.25, 0.75])
    """
    return _along("softmax", axis, x=x)


@any_library
def softmax_backward(grad_output: Array, x: Array, axis: int = -1) -> Array:
    """Gradient of :func:`softmax`: with ``p = softmax(x)``, ``p * (grad_output - sum(grad_output * p))`` along `axis`.

    Parameters
    ----------
    grad_output, x : array, both of one shape
        `x` is what the forward was given.
    axis : int

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If the shapes differ, or `x` has no such axis.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import softmax_backward
    >>> softmax_backward(np.array([1.0, 0.0]), np.log(np.array([1.0, 3.0])))
    array([ 0.1875, -0.1875])
    """
    return _along("softmax_backward", axis, grad_output=grad_output, x=x)


@any_library
def log_softmax(x: Array, axis: int = -1) -> Array:
    """Logarithm of the softmax, ``x - log(sum(exp(x)))`` along `axis`, without its underflow.

    Parameters
    ----------
    x : array of at least one axis
        float16, bfloat16, float32 or float64.
    axis : int

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If `x` has no such axis.
    TypeError
        If `x` is no array, or of a dtype that is not taken.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import log_softmax
    >>> log_softmax(np.array([0.0, 1000.0]))
    array([-1000.,     0.])
    """
    return _along("log_softmax", axis, x=x)


@any_library
def log_softmax_backward(grad_output: Array, x: Array, axis: int = -1) -> Array:
    """Gradient of :func:`log_softmax`: ``grad_output - softmax(x) * sum(grad_output)`` along `axis`.

    Parameters
    ----------
    grad_output, x : array, both of one shape
        `x` is what the forward was given.
    axis : int

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If the shapes differ, or `x` has no such axis.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import log_softmax_backward
    >>> log_softmax_backward(np.array([1.0, 0.0]), np.log(np.array([1.0, 3.0])))
    array([ 0.75, -0.75])
    """
    return _along("log_softmax_backward", axis, grad_output=grad_output, x=x)


def _along(op: str, axis: Any, **given: Any) -> Array:
    """Run `op` on arrays of one shape, along one axis."""
    checked = arrays.check(**given)
    x = checked[-1]
    geometry.check_shape(next(iter(given)), checked[0].shape, x.shape, "x")
    axis = geometry.axis(axis, x.ndim)
    run = dispatch.implementation(op, x)
    out = arrays.empty(x.shape, x)
    if x.size:
        run(*checked, axis, out)
    return out
