"""Lp pooling in 1, 2 and 3 dimensions, forward and backward: the norm of the elements under each window."""

import math
from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.ops._pooling import PARAMETERS, RAISES, maxima, maxima_backward
from cnnkit.ops._shared import batched, documented

_NORM_TYPE = """
    norm_type : float
        The power, above 0; 2 is the Euclidean norm, ``math.inf`` max pooling.
"""

_REST = """
    dilation : int or tuple of @n ints
        Step between the taps of one window.
    ceil_mode : bool
        Also take a last window that hangs over the end, if it begins inside `x` or the padding before it. Its sum is
        scaled to a whole window's number of taps, as in PyTorch.
"""

_LP = f"""
    @nd Lp pooling: the root of the sum of powers under each window.

    ``y[n, c, p] = (sum over k of x[n, c, p * stride - before + k * dilation] ** norm_type) ** (1 / norm_type)``

    Powers keep their sign, as in PyTorch: with an odd `norm_type` negative elements count against positive ones, and a
    negative sum has no root (NaN, but for ``norm_type=1``, the plain sum); with one that is no integer a negative
    element is NaN. Take the absolute value of `x` first for the norm of the textbooks. Padding is zeros.

    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32 or float64.{_NORM_TYPE.rstrip()}{PARAMETERS.rstrip()}{_REST.rstrip()}

    Returns
    -------
    array, shape (N, C, @out) or (C, @out)
{RAISES}
    Notes
    -----
    Powers are neither scaled nor guarded: in float32 the squares of 1e20 are infinite. They are made some planes at a
    time (on a GPU and with the backend "numpy": as one array of the size of `x`).
    """

_LP_BACKWARD = f"""
    Gradient of :func:`lp_pool@nd` with respect to its input.

    ``grad_x[n, c, i] = x[n, c, i] ** (norm_type - 1) * sum of grad_output[n, c, p] * y[n, c, p] ** (1 - norm_type)``
    over the windows p that hold i. Windows whose sum of powers is 0 pass nothing on, as in PyTorch: there the
    derivative does not exist (and with ``norm_type=1``, where it does, PyTorch's is 0 too).

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
    x : array, shape (N, C, @in) or (C, @in)
    norm_type, kernel_size, stride, padding, dilation, ceil_mode
        What :func:`lp_pool@nd` was given.

    Returns
    -------
    array, shape of `x`
{RAISES}"""


@documented(
    _LP,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool1d
    >>> lp_pool1d(np.array([[3.0, 4.0, 5.0, 12.0]]), 2, 2)
    array([[ 5., 13.]])
    """,
)
def lp_pool1d(
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool(1, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


@documented(
    _LP,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool2d
    >>> lp_pool2d(np.ones((1, 2, 4)), 2, 2)
    array([[[2., 2.]]])
    >>> lp_pool2d(np.arange(4.0).reshape(1, 2, 2), float("inf"), 2)
    array([[[3.]]])
    """,
)
def lp_pool2d(
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool(2, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


@documented(
    _LP,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool3d
    >>> lp_pool3d(np.ones((1, 2, 2, 2)), 3, 2)
    array([[[[2.]]]])
    """,
)
def lp_pool3d(
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool(3, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


@documented(
    _LP_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool1d_backward
    >>> lp_pool1d_backward(np.array([[5.0]]), np.array([[3.0, 4.0]]), 2, 2)
    array([[3., 4.]])
    """,
)
def lp_pool1d_backward(
    grad_output: Array,
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool_backward(1, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


@documented(
    _LP_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool2d_backward
    >>> lp_pool2d_backward(np.ones((1, 1, 1)), np.ones((1, 2, 2)), 2, 2)
    array([[[0.5, 0.5],
            [0.5, 0.5]]])
    """,
)
def lp_pool2d_backward(
    grad_output: Array,
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool_backward(2, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


@documented(
    _LP_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import lp_pool3d_backward
    >>> lp_pool3d_backward(np.ones((1, 1, 1, 1)), np.zeros((1, 2, 2, 2)), 2, 2).any()
    np.False_
    """,
)
def lp_pool3d_backward(
    grad_output: Array,
    x: Array,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    return _lp_pool_backward(3, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode)


def _lp_pool(ndim: int, x: Array, norm_type: float, *window: Any) -> Array:
    (x,) = arrays.check(x=x)
    norm_type = geometry.norm_type(norm_type)
    plan = geometry.pool("lp_pool", ndim, x.shape, *window)
    if norm_type == math.inf:
        return maxima(ndim, x, plan, return_indices=False)
    run = dispatch.implementation("lp_pool", x)
    y = arrays.empty((*x.shape[:-ndim], *plan.output_size), batched(x, ndim))
    run(batched(x, ndim), norm_type, plan, geometry.pool_divisors(plan, True, None), batched(y, ndim))
    return y


def _lp_pool_backward(ndim: int, grad_output: Array, x: Array, norm_type: float, *window: Any) -> Array:
    grad_output, x = arrays.check(grad_output=grad_output, x=x)
    norm_type = geometry.norm_type(norm_type)
    plan = geometry.pool("lp_pool", ndim, x.shape, *window)
    shape = (*x.shape[:-ndim], *plan.output_size)
    geometry.check_shape("grad_output", grad_output.shape, shape, "lp_pool{}d of x {}", ndim, x.shape)
    if norm_type == math.inf:
        _, indices = maxima(ndim, x, plan, return_indices=True)
        return maxima_backward(ndim, grad_output, indices, x.shape)
    run = dispatch.implementation("lp_pool_backward", grad_output)
    grad_x = arrays.empty(x.shape, batched(x, ndim))
    divisors = geometry.pool_divisors(plan, True, None)
    run(batched(grad_output, ndim), batched(x, ndim), norm_type, plan, divisors, batched(grad_x, ndim))
    return grad_x
