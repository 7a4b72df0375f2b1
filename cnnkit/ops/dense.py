"""The dense (fully connected) layer, forward and backward."""

from typing import NamedTuple

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.foreign import any_library
from cnnkit.ops._shared import EVERYTHING, check_needs, fused


class DenseGrads(NamedTuple):
    """The gradients of a dense layer; what was not asked for is None."""

    x: Array | None
    weight: Array | None
    bias: Array | None


@any_library
def dense(
    x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None, out: Array | None = None
) -> Array:
    """Dense layer: every output is a weighted sum of all inputs.

    ``y[..., o] = bias[o] + sum over i of x[..., i] * weight[o, i]``, that is ``x @ weight.T + bias``.

    Parameters
    ----------
    x : array, shape (..., in_features)
        float16, bfloat16, float32 or float64, with any strides.
    weight : array, shape (out_features, in_features)
    bias : array, shape (out_features,), optional
    activation : {None, "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh"}
        Applied to the result in the same pass, with the parameters that the function of that name has unless told.
    out : array, shape of the result, optional
        Takes the result; it may not overlap an input.

    Returns
    -------
    array, shape (..., out_features)

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import dense
    >>> dense(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0], [0.0, -1.0]]), np.array([0.5, 0.0]))
    array([[ 3.5, -2. ]])
    """
    x, weight, bias = arrays.check(x=x, weight=weight, bias=bias)
    shape = geometry.dense(x.shape, weight.shape)
    if bias is not None:
        geometry.check_shape("bias", bias.shape, weight.shape[:1], "weight of shape {}", weight.shape)
    applied = fused(activation)
    run = dispatch.implementation("dense", x)
    rows = _rows(x)
    y = arrays.result(out, shape, rows, (x, weight, bias))
    y_rows = _rows(y)
    run(rows, weight, bias, applied, y_rows)
    if y_rows is not y and not y.flags.c_contiguous:  # only an `out` of the user's: y_rows may be a copy of it
        y[...] = y_rows.reshape(shape)
    return y


@any_library
def dense_backward(grad_output: Array, x: Array, weight: Array, *, needs: tuple[str, ...] = EVERYTHING) -> DenseGrads:
    """Gradients of :func:`dense` with respect to its input, weight and bias.

    ``grad_x = grad_output @ weight``, ``grad_weight = grad_output.T @ x`` and ``grad_bias = grad_output.sum(0)``, all
    leading axes taken as one.

    Parameters
    ----------
    grad_output : array, shape (..., out_features)
        The gradient with respect to the result.
    x : array, shape (..., in_features)
    weight : array, shape (out_features, in_features)
    needs : tuple of "x", "weight", "bias"
        The gradients that are wanted.

    Returns
    -------
    DenseGrads
        A NamedTuple ``(x, weight, bias)``; what is not in `needs` is None and costs nothing.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import dense_backward
    >>> grads = dense_backward(np.ones((3, 2)), np.ones((3, 4)), np.ones((2, 4)), needs=("weight", "bias"))
    >>> grads.weight.shape, grads.bias
    ((2, 4), array([3., 3.]))
    """
    grad_output, x, weight = arrays.check(grad_output=grad_output, x=x, weight=weight)
    shape = geometry.dense(x.shape, weight.shape)
    geometry.check_shape("grad_output", grad_output.shape, shape, "dense of x {}, weight {}", x.shape, weight.shape)
    check_needs(needs)
    run = dispatch.implementation("dense_backward", x)
    rows = _rows(x)
    grads = DenseGrads(
        arrays.empty(x.shape, rows) if "x" in needs else None,
        arrays.empty(weight.shape, rows) if "weight" in needs else None,
        arrays.empty(weight.shape[:1], rows) if "bias" in needs else None,
    )
    grad_x = None if grads.x is None else _rows(grads.x)
    run(_rows(grad_output), rows, weight, grad_x, grads.weight, grads.bias)
    return grads


def _rows(array: Array) -> Array:
    """All leading axes as one."""
    return array if array.ndim == 2 else array.reshape(geometry.volume(array.shape[:-1]), array.shape[-1])
