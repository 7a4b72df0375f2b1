"""Max unpooling in 1, 2 and 3 dimensions, forward and backward: maxima back to where they were found."""

from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import FLOATS, INTEGERS, Array
from cnnkit.ops._pooling import INDEX, RAISES, within_planes
from cnnkit.ops._shared import batched, documented

_UNPOOL = f"""
    @nd max unpooling: each maximum is put back where it was found, and everything else is zero.

    ``y[n, c, indices[n, c, p]] = x[n, c, p]``. Where windows overlapped, several indices may be equal: the last value
    is kept (PyTorch promises none of them).

    Parameters
    ----------
    x : array, shape (N, C, @in) or (C, @in)
        float16, bfloat16, float32, float64 or an integer dtype.
    indices : array of int64, same shape
        What ``max_pool@nd(..., return_indices=True)`` returned: flat positions in a plane of the result. Others that
        are out of range are an error, but on a GPU, where nobody waits to look at them: where such elements go there
        is not said.
    kernel_size, stride, padding
        What :func:`max_pool@nd` was given. They only say how large the result is.
    output_size : tuple of @n ints, optional
        Size of the result, or its whole shape: what pooling was given, of which several sizes come out the same.
        Unless given, ``(size - 1) * stride - before - after + kernel_size``; it may differ from that by less than
        `stride`.

    Returns
    -------
    array, shape (N, C, *output_size) or (C, *output_size)
{RAISES}"""

_UNPOOL_BACKWARD = f"""
    Gradient of :func:`max_unpool@nd` with respect to its input: what became of the places that it was put in.

    ``grad_x[n, c, p] = grad_output[n, c, indices[n, c, p]]``, where several indices are equal too, as in PyTorch.

    Parameters
    ----------
    grad_output : array, shape (N, C, @out) or (C, @out)
        float16, bfloat16, float32 or float64.
    indices : array of int64, shape (N, C, @in) or (C, @in)
        What :func:`max_unpool@nd` was given.

    Returns
    -------
    array, shape of `indices`
{RAISES}"""


@documented(
    _UNPOOL,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool1d
    >>> max_unpool1d(np.array([[4.0, 5.0]]), np.array([[1, 2]]), 2)
    array([[0., 4., 5., 0.]])
    >>> max_unpool1d(np.array([[4.0, 5.0]]), np.array([[1, 4]]), 2, output_size=(5,))
    array([[0., 4., 0., 0., 5.]])
    """,
)
def max_unpool1d(
    x: Array,
    indices: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: tuple[int, ...] | None = None,
) -> Array:
    return _max_unpool(1, x, indices, kernel_size, stride, padding, output_size)


@documented(
    _UNPOOL,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool2d
    >>> max_unpool2d(np.array([[[7.0, 8.0]]]), np.array([[[0, 7]]]), 2)
    array([[[7., 0., 0., 0.],
            [0., 0., 0., 8.]]])
    """,
)
def max_unpool2d(
    x: Array,
    indices: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: tuple[int, ...] | None = None,
) -> Array:
    return _max_unpool(2, x, indices, kernel_size, stride, padding, output_size)


@documented(
    _UNPOOL,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool3d
    >>> max_unpool3d(np.array([[[[7.0]]]]), np.array([[[[5]]]]), 2).ravel()
    array([0., 0., 0., 0., 0., 7., 0., 0.])
    """,
)
def max_unpool3d(
    x: Array,
    indices: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: tuple[int, ...] | None = None,
) -> Array:
    return _max_unpool(3, x, indices, kernel_size, stride, padding, output_size)


@documented(
    _UNPOOL_BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool1d_backward
    >>> max_unpool1d_backward(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1, 2]]))
    array([[2., 3.]])
    """,
)
def max_unpool1d_backward(grad_output: Array, indices: Array) -> Array:
    return _max_unpool_backward(1, grad_output, indices)


@documented(
    _UNPOOL_BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool2d_backward
    >>> max_unpool2d_backward(np.arange(8.0).reshape(1, 2, 4), np.array([[[0, 7]]]))
    array([[[0., 7.]]])
    """,
)
def max_unpool2d_backward(grad_output: Array, indices: Array) -> Array:
    return _max_unpool_backward(2, grad_output, indices)


@documented(
    _UNPOOL_BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import max_unpool3d_backward
    >>> max_unpool3d_backward(np.arange(8.0).reshape(1, 2, 2, 2), np.array([[[[5]]]]))
    array([[[[5.]]]])
    """,
)
def max_unpool3d_backward(grad_output: Array, indices: Array) -> Array:
    return _max_unpool_backward(3, grad_output, indices)


def _max_unpool(
    ndim: int, x: Array, indices: Array, kernel: Any, stride: Any, padding: Any, output_size: tuple[int, ...] | None
) -> Array:
    (x,) = arrays.check(FLOATS + INTEGERS, x=x)
    (indices,) = arrays.check(INDEX, indices=indices)
    arrays.one_library(x=x, indices=indices)
    size = geometry.unpool(ndim, x.shape, kernel, stride, padding, output_size)
    geometry.check_shape("indices", indices.shape, x.shape, "x")
    within_planes(ndim, indices, "output_size", size)
    run = dispatch.implementation("max_unpool", x)
    y = arrays.empty((*x.shape[:-ndim], *size), batched(x, ndim))
    run(batched(x, ndim), batched(indices, ndim), batched(y, ndim))
    return y


def _max_unpool_backward(ndim: int, grad_output: Array, indices: Array) -> Array:
    (grad_output,) = arrays.check(grad_output=grad_output)
    (indices,) = arrays.check(INDEX, indices=indices)
    arrays.one_library(grad_output=grad_output, indices=indices)
    geometry.split_shape(grad_output.shape, ndim, f"max_unpool{ndim}d_backward", "grad_output")
    wanted = (*grad_output.shape[:-ndim], *indices.shape[-ndim:])
    geometry.check_shape("indices", indices.shape, wanted, "grad_output of shape {}", grad_output.shape)
    within_planes(ndim, indices, "grad_output of shape", grad_output.shape)
    run = dispatch.implementation("max_unpool_backward", grad_output)
    grad_x = arrays.empty(indices.shape, batched(grad_output, ndim))
    run(batched(grad_output, ndim), batched(indices, ndim), batched(grad_x, ndim))
    return grad_x
