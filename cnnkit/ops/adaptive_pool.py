"""Adaptive pooling in 1, 2 and 3 dimensions, forward and backward: to an output of a given size."""

from typing import Any

from cnnkit import arrays, geometry
from cnnkit.arrays import FLOATS, INTEGERS, Array
from cnnkit.ops._pooling import RAISES, maxima, maxima_backward, means, means_backward, shape_of_input
from cnnkit.ops._shared import documented

_OUTPUT_SIZE = """
    output_size : int, None or tuple of @n of these
        Size of the output; None is the size of `x`. 1 is global pooling.
"""

_WINDOWS = """
    Along an axis of size `n`, window `p` of `m` reaches from ``floor(p * n / m)`` to ``ceil((p + 1) * n / m)``, as in
    PyTorch. Where `m` divides `n` these are the windows of ordinary pooling with kernel size and stride ``n / m``;
    elsewhere they overlap by one element, and differ in size.
"""

_MAX = f"""
    @nd adaptive max pooling: the largest element under each of as many windows as are asked for.

    ``y[n, c, p] = max over i in window p of x[n, c, i]``. NaN wins.
{_WINDOWS}
    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32, float64 or an integer dtype.{_OUTPUT_SIZE.rstrip()}
    return_indices : bool
        Also return where each maximum was found.

    Returns
    -------
    y : array, shape (N, C, @out) or (C, @out)
    indices : array of int64, shape of `y`
        With `return_indices`: flat positions in the (@in) plane of `x`; of equal elements the first, of several NaN
        the last, as in PyTorch.
{RAISES}"""

_MAX_BACKWARD = f"""
    Gradient of :func:`adaptive_max_pool@nd` with respect to its input; the same as :func:`max_pool@nd_backward`.

    ``grad_x[n, c, i] = sum of grad_output[n, c, p] over the p with indices[n, c, p] = i``

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
    indices : array of int64, same shape
        What ``adaptive_max_pool@nd(..., return_indices=True)`` returned.
    input_shape : tuple of ints
        The shape of `x`.

    Returns
    -------
    array of shape `input_shape`
{RAISES}"""

_AVG = f"""
    @nd adaptive average pooling: the mean of the elements under each of as many windows as are asked for.

    ``y[n, c, p] = mean over i in window p of x[n, c, i]``
{_WINDOWS}
    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32 or float64.{_OUTPUT_SIZE.rstrip()}

    Returns
    -------
    array, shape (N, C, @out) or (C, @out)
{RAISES}"""

_AVG_BACKWARD = f"""
    Gradient of :func:`adaptive_avg_pool@nd` with respect to its input: each element is spread evenly over its window.

    ``grad_x[n, c, i] = sum of grad_output[n, c, p] / (elements of window p) over the windows p that hold i``

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
    input_shape : tuple of ints
        The shape of `x`.

    Returns
    -------
    array of shape `input_shape`
{RAISES}"""


# ---------------------------------------------------------------- max pooling


@documented(
    _MAX,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool1d
    >>> adaptive_max_pool1d(np.array([[3.0, 1.0, 4.0, 1.0, 5.0]]), 2)
    array([[4., 5.]])
    """,
)
def adaptive_max_pool1d(x: Array, output_size: Any, return_indices: bool = False) -> Any:
    return _adaptive_max_pool(1, x, output_size, return_indices)


@documented(
    _MAX,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool2d
    >>> y, indices = adaptive_max_pool2d(np.arange(15.0).reshape(1, 3, 5), (None, 2), return_indices=True)
    >>> y
    array([[[ 2.,  4.],
            [ 7.,  9.],
            [12., 14.]]])
    >>> indices[0, 0]
    array([2, 4])
    """,
)
def adaptive_max_pool2d(x: Array, output_size: Any, return_indices: bool = False) -> Any:
    return _adaptive_max_pool(2, x, output_size, return_indices)


@documented(
    _MAX,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool3d
    >>> adaptive_max_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 1)
    array([[[[7.]]]])
    """,
)
def adaptive_max_pool3d(x: Array, output_size: Any, return_indices: bool = False) -> Any:
    return _adaptive_max_pool(3, x, output_size, return_indices)


@documented(
    _MAX_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool1d_backward
    >>> adaptive_max_pool1d_backward(np.ones((1, 2)), np.array([[2, 4]]), (1, 5))
    array([[0., 0., 1., 0., 1.]])
    """,
)
def adaptive_max_pool1d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(1, grad_output, indices, input_shape)


@documented(
    _MAX_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool2d_backward
    >>> adaptive_max_pool2d_backward(np.ones((1, 1, 1)), np.array([[[3]]]), (1, 2, 2))
    array([[[0., 0.],
            [0., 1.]]])
    """,
)
def adaptive_max_pool2d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(2, grad_output, indices, input_shape)


@documented(
    _MAX_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_max_pool3d_backward
    >>> adaptive_max_pool3d_backward(np.ones((1, 1, 1, 1)), np.array([[[[7]]]]), (1, 2, 2, 2)).ravel()
    array([0., 0., 0., 0., 0., 0., 0., 1.])
    """,
)
def adaptive_max_pool3d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(3, grad_output, indices, input_shape)


def _adaptive_max_pool(ndim: int, x: Array, output_size: Any, return_indices: bool) -> Any:
    (x,) = arrays.check(FLOATS + INTEGERS, x=x)
    return maxima(ndim, x, geometry.adaptive_pool("adaptive_max_pool", ndim, x.shape, output_size), return_indices)


# ---------------------------------------------------------------- average pooling


@documented(
    _AVG,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool1d
    >>> adaptive_avg_pool1d(np.array([[1.0, 3.0, 5.0]]), 2)
    array([[2., 4.]])
    """,
)
def adaptive_avg_pool1d(x: Array, output_size: Any) -> Array:
    return _adaptive_avg_pool(1, x, output_size)


@documented(
    _AVG,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool2d
    >>> adaptive_avg_pool2d(np.arange(16.0).reshape(1, 4, 4), (1, None))
    array([[[6., 7., 8., 9.]]])
    """,
)
def adaptive_avg_pool2d(x: Array, output_size: Any) -> Array:
    return _adaptive_avg_pool(2, x, output_size)


@documented(
    _AVG,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool3d
    >>> adaptive_avg_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 1)
    array([[[[3.5]]]])
    """,
)
def adaptive_avg_pool3d(x: Array, output_size: Any) -> Array:
    return _adaptive_avg_pool(3, x, output_size)


@documented(
    _AVG_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool1d_backward
    >>> adaptive_avg_pool1d_backward(np.array([[2.0, 4.0]]), (1, 3))
    array([[1., 3., 2.]])
    """,
)
def adaptive_avg_pool1d_backward(grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    return _adaptive_avg_pool_backward(1, grad_output, input_shape)


@documented(
    _AVG_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool2d_backward
    >>> adaptive_avg_pool2d_backward(np.ones((1, 1, 1)), (1, 2, 2))
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """,
)
def adaptive_avg_pool2d_backward(grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    return _adaptive_avg_pool_backward(2, grad_output, input_shape)


@documented(
    _AVG_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import adaptive_avg_pool3d_backward
    >>> float(adaptive_avg_pool3d_backward(np.ones((1, 1, 1, 1)), (1, 2, 2, 2))[0, 0, 0, 0])
    0.125
    """,
)
def adaptive_avg_pool3d_backward(grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    return _adaptive_avg_pool_backward(3, grad_output, input_shape)


def _adaptive_avg_pool(ndim: int, x: Array, output_size: Any) -> Array:
    (x,) = arrays.check(x=x)
    plan = geometry.adaptive_pool("adaptive_avg_pool", ndim, x.shape, output_size)
    return means(ndim, x, plan, geometry.adaptive_divisors(plan))


def _adaptive_avg_pool_backward(ndim: int, grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    (grad_output,) = arrays.check(grad_output=grad_output)
    input_shape = shape_of_input(ndim, grad_output, input_shape)
    plan = geometry.adaptive_pool("adaptive_avg_pool", ndim, input_shape, grad_output.shape[-ndim:])
    return means_backward(ndim, grad_output, input_shape, plan, geometry.adaptive_divisors(plan))
