"""Max and average pooling in 1, 2 and 3 dimensions, forward and backward."""

from typing import Any

from cnnkit import arrays, geometry
from cnnkit.arrays import FLOATS, INTEGERS, Array
from cnnkit.ops._pooling import PARAMETERS, RAISES, maxima, maxima_backward, means, means_backward, shape_of_input
from cnnkit.ops._shared import documented

_MAX = f"""
    @nd max pooling: the largest element under each window.

    ``y[n, c, p] = max over k of x[n, c, p * stride - before + k * dilation]``. NaN wins; padding never does.

    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32, float64 or an integer dtype.{PARAMETERS.rstrip()}
    dilation : int or tuple of @n ints
        Step between the taps of one window.
    ceil_mode : bool
        Also take a last window that hangs over the end, if it begins inside `x` or the padding before it.
    return_indices : bool
        Also return where each maximum was found.
    out : array, optional
        Filled with `y` and returned in its place: its shape and dtype, and no memory in common with `x`.

    Returns
    -------
    y : array, shape (N, C, @out) or (C, @out)
    indices : array of int64, shape of `y`
        With `return_indices`: flat positions in the (@in) plane of the unpadded `x`; of equal elements the first,
        of several NaN the last, as in PyTorch.
{RAISES}"""

_MAX_BACKWARD = f"""
    Gradient of :func:`max_pool@nd` with respect to its input: each element goes to where its maximum was found.

    ``grad_x[n, c, i] = sum of grad_output[n, c, p] over the p with indices[n, c, p] = i``

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
    indices : array of int64, same shape
        What ``max_pool@nd(..., return_indices=True)`` returned. Others that are out of range are an error, but on a
        GPU, where nobody waits to look at them: where such elements go there is not said.
    input_shape : tuple of ints
        The shape of `x`.

    Returns
    -------
    array of shape `input_shape`
{RAISES}"""

_AVG = f"""
    @nd average pooling: the mean of the elements under each window.

    ``y[n, c, p] = sum over k of x[n, c, p * stride - before + k] / divisor``

    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32 or float64.{PARAMETERS.rstrip()}
    ceil_mode : bool
        Also take a last window that hangs over the end, if it begins inside `x` or the padding before it.
    count_include_pad : bool
        Whether padding counts as elements (zeros) in the mean.
    divisor_override : int, optional
        Divide by this instead of by the number of elements.
    out : array, optional
        Filled with the result and returned: its shape and dtype, and no memory in common with `x`.

    Returns
    -------
    array, shape (N, C, @out) or (C, @out)
{RAISES}"""

_AVG_BACKWARD = f"""
    Gradient of :func:`avg_pool@nd` with respect to its input: each element is spread evenly over its window.

    ``grad_x[n, c, i] = sum of grad_output[n, c, p] / divisor over the windows p that hold i``

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
    input_shape : tuple of ints
        The shape of `x`.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        What :func:`avg_pool@nd` was given.

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
    >>> from cnnkit import max_pool1d
    >>> max_pool1d(np.array([[3.0, 1.0, 4.0, 1.0, 5.0]]), 3, stride=1)
    array([[4., 4., 5.]])
    """,
)
def max_pool1d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Any:
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out)


@documented(
    _MAX,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import max_pool2d
    >>> y, indices = max_pool2d(np.arange(16.0).reshape(1, 4, 4), 2, return_indices=True)
    >>> y
    array([[[ 5.,  7.],
            [13., 15.]]])
    >>> indices
    array([[[ 5,  7],
            [13, 15]]])
    """,
)
def max_pool2d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Any:
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out)


@documented(
    _MAX,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import max_pool3d
    >>> max_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 2)
    array([[[[7.]]]])
    """,
)
def max_pool3d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Any:
    return _max_pool(3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out)


@documented(
    _MAX_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import max_pool1d_backward
    >>> max_pool1d_backward(np.ones((1, 3)), np.array([[2, 2, 4]]), (1, 5))
    array([[0., 0., 2., 0., 1.]])
    """,
)
def max_pool1d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(1, grad_output, indices, input_shape)


@documented(
    _MAX_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import max_pool2d_backward
    >>> max_pool2d_backward(np.ones((1, 1, 1)), np.array([[[3]]]), (1, 2, 2))
    array([[[0., 0.],
            [0., 1.]]])
    """,
)
def max_pool2d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(2, grad_output, indices, input_shape)


@documented(
    _MAX_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import max_pool3d_backward
    >>> max_pool3d_backward(np.ones((1, 1, 1, 1)), np.array([[[[7]]]]), (1, 2, 2, 2)).ravel()
    array([0., 0., 0., 0., 0., 0., 0., 1.])
    """,
)
def max_pool3d_backward(grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    return maxima_backward(3, grad_output, indices, input_shape)


def _max_pool(
    ndim: int,
    x: Array,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
    out: Array | None,
) -> Any:
    (x,) = arrays.check(FLOATS + INTEGERS, x=x)
    plan = geometry.pool("max_pool", ndim, x.shape, kernel, stride, padding, dilation, ceil_mode)
    return maxima(ndim, x, plan, return_indices, out)


# ---------------------------------------------------------------- average pooling


@documented(
    _AVG,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool1d
    >>> avg_pool1d(np.array([[1.0, 3.0, 5.0, 7.0]]), 2)
    array([[2., 6.]])
    """,
)
def avg_pool1d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out)


@documented(
    _AVG,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool2d
    >>> avg_pool2d(np.arange(16.0).reshape(1, 4, 4), 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    >>> avg_pool2d(np.ones((1, 2, 2)), 2, padding=1)
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """,
)
def avg_pool2d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out)


@documented(
    _AVG,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool3d
    >>> avg_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 2)
    array([[[[3.5]]]])
    """,
)
def avg_pool3d(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    return _avg_pool(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out)


@documented(
    _AVG_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool1d_backward
    >>> avg_pool1d_backward(np.array([[2.0, 4.0]]), (1, 4), 2)
    array([[1., 1., 2., 2.]])
    """,
)
def avg_pool1d_backward(
    grad_output: Array,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    parameters = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg_pool_backward(1, grad_output, input_shape, *parameters)


@documented(
    _AVG_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool2d_backward
    >>> avg_pool2d_backward(np.ones((1, 1, 1)), (1, 2, 2), 2)
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """,
)
def avg_pool2d_backward(
    grad_output: Array,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    parameters = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg_pool_backward(2, grad_output, input_shape, *parameters)


@documented(
    _AVG_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import avg_pool3d_backward
    >>> float(avg_pool3d_backward(np.ones((1, 1, 1, 1)), (1, 2, 2, 2), 2)[0, 0, 0, 0])
    0.125
    """,
)
def avg_pool3d_backward(
    grad_output: Array,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    parameters = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg_pool_backward(3, grad_output, input_shape, *parameters)


def _avg_pool(
    ndim: int,
    x: Array,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    out: Array | None,
) -> Array:
    (x,) = arrays.check(x=x)
    plan = geometry.pool("avg_pool", ndim, x.shape, kernel, stride, padding, 1, ceil_mode)
    return means(ndim, x, plan, geometry.pool_divisors(plan, count_include_pad, divisor_override), out)


def _avg_pool_backward(
    ndim: int,
    grad_output: Array,
    input_shape: tuple[int, ...],
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    (grad_output,) = arrays.check(grad_output=grad_output)
    input_shape = shape_of_input(ndim, grad_output, input_shape)
    plan = geometry.pool("avg_pool", ndim, input_shape, kernel, stride, padding, 1, ceil_mode)
    shape = (*input_shape[:-ndim], *plan.output_size)
    geometry.check_shape(
        "grad_output", grad_output.shape, shape, "avg_pool{}d of an input of shape {}", ndim, input_shape
    )
    divisors = geometry.pool_divisors(plan, count_include_pad, divisor_override)
    return means_backward(ndim, grad_output, input_shape, plan, divisors)
