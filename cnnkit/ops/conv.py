"""Convolution in 1, 2 and 3 dimensions, forward and backward."""

from typing import Any, NamedTuple

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.ops._shared import EVERYTHING, batched, check_needs, documented, fused


class ConvGrads(NamedTuple):
    """The gradients of a convolution; what was not asked for is None."""

    x: Array | None
    weight: Array | None
    bias: Array | None


_FORWARD = """
    @nd convolution: slide a kernel over `x` and sum the products under it.

    ::

        y[n, o, p] = bias[o] + sum over c, k of  x[n, c, p * stride - before + k * dilation] * weight[o, c, k]

    with ``p`` a position of the output, ``k`` one of the kernel, and ``c`` the channels of `o`'s group; outside of
    `x` it is zero. As in every deep-learning library this is a correlation: the kernel is not flipped [1]_.

    Parameters
    ----------
    x : array, shape (N, C_in, @in) or (C_in, @in)
        float16, bfloat16, float32 or float64, with any strides. A channels-last `x` gives a channels-last result.
    weight : array, shape (C_out, C_in // groups, @kernel)
    bias : array, shape (C_out,), optional
    stride, dilation : int or tuple of @n ints
        Steps in elements of `x`: between windows, and between the taps of one window.
    padding : int, tuple of @n ints, tuple of @n (before, after) pairs, "valid", "same" or "same_lower"
        Zeros added around `x`. "same" makes the output ``ceil(size / stride)`` long, the odd zero after
        ("same_lower": before).
    groups : int
        Channels are split into so many groups that do not see each other.
    activation : {None, "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh"}
        Applied to the result in the same pass, with the parameters that the function of that name has unless told.
    out : array, shape of the result, optional
        Takes the result; it may not overlap an input.

    Returns
    -------
    array, shape (N, C_out, @out) or (C_out, @out)
        Each size is ``(size + before + after - dilation * (k - 1) - 1) // stride + 1``.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.
"""

_BACKWARD = """
    Gradients of :func:`conv@nd` with respect to its input, weight and bias.

    ::

        grad_x[n, c, i]      = sum of grad_output[n, o, p] * weight[o, c, k]
                               over o and all p, k with p * stride - before + k * dilation = i
        grad_weight[o, c, k] = sum over n, p of  grad_output[n, o, p] * x[n, c, p * stride - before + k * dilation]
        grad_bias[o]         = sum over n, p of  grad_output[n, o, p]

    Parameters
    ----------
    grad_output : array, shape (N, C_out, @out) or (C_out, @out)
        The gradient with respect to the result.
    x : array, shape (N, C_in, @in) or (C_in, @in)
    weight : array, shape (C_out, C_in // groups, @kernel)
    stride, padding, dilation, groups
        What :func:`conv@nd` was given.
    needs : tuple of "x", "weight", "bias"
        The gradients that are wanted.

    Returns
    -------
    ConvGrads
        A NamedTuple ``(x, weight, bias)``; what is not in `needs` is None and costs nothing.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.
"""


@documented(
    _FORWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import conv1d
    >>> x = np.array([[1.0, 2.0, 4.0, 8.0]])
    >>> conv1d(x, np.array([[[-1.0, 1.0]]]))
    array([[1., 2., 4.]])
    """,
)
def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, activation, out)


@documented(
    _FORWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import conv2d
    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> conv2d(x, np.ones((1, 1, 3, 3)))
    array([[[45., 54.],
            [81., 90.]]])
    >>> conv2d(x, np.ones((1, 1, 3, 3)), stride=2, padding="same").shape
    (1, 2, 2)
    """,
)
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, activation, out)


@documented(
    _FORWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import conv3d
    >>> conv3d(np.ones((2, 1, 4, 4, 4)), np.ones((5, 1, 3, 3, 3))).shape
    (2, 5, 2, 2, 2)
    """,
)
def conv3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, activation, out)


@documented(
    _BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import conv1d_backward
    >>> x = np.array([[1.0, 2.0, 4.0, 8.0]])
    >>> conv1d_backward(np.ones((1, 3)), x, np.array([[[-1.0, 1.0]]])).weight
    array([[[ 7., 14.]]])
    """,
)
def conv1d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_backward(1, grad_output, x, weight, stride, padding, dilation, groups, needs)


@documented(
    _BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import conv2d_backward
    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> grads = conv2d_backward(np.ones((1, 2, 2)), x, np.ones((1, 1, 3, 3)), needs=("x", "bias"))
    >>> grads.x
    array([[[1., 2., 2., 1.],
            [2., 4., 4., 2.],
            [2., 4., 4., 2.],
            [1., 2., 2., 1.]]])
    >>> grads.bias, grads.weight
    (array([4.]), None)
    """,
)
def conv2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_backward(2, grad_output, x, weight, stride, padding, dilation, groups, needs)


@documented(
    _BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import conv3d_backward
    >>> grads = conv3d_backward(np.ones((2, 5, 2, 2, 2)), np.ones((2, 1, 4, 4, 4)), np.ones((5, 1, 3, 3, 3)))
    >>> grads.bias
    array([16., 16., 16., 16., 16.])
    """,
)
def conv3d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_backward(3, grad_output, x, weight, stride, padding, dilation, groups, needs)


def _conv(
    ndim: int,
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    activation: str | None,
    out: Array | None,
) -> Array:
    x, weight, bias = arrays.check(x=x, weight=weight, bias=bias)
    plan = geometry.conv(ndim, x.shape, weight.shape, stride, padding, dilation, groups)
    if bias is not None:
        geometry.check_shape("bias", bias.shape, weight.shape[:1], "weight of shape {}", weight.shape)
    applied = fused(activation)
    run = dispatch.implementation("conv", x)
    images = batched(x, ndim)
    y = arrays.result(out, _output_shape(x, plan), images, (x, weight, bias))
    run(images, weight, bias, plan, applied, batched(y, ndim))
    return y


def _conv_backward(
    ndim: int,
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    needs: tuple[str, ...],
) -> ConvGrads:
    grad_output, x, weight = arrays.check(grad_output=grad_output, x=x, weight=weight)
    plan = geometry.conv(ndim, x.shape, weight.shape, stride, padding, dilation, groups)
    layer = ndim, x.shape, weight.shape
    geometry.check_shape("grad_output", grad_output.shape, _output_shape(x, plan), "conv{}d of x {}, weight {}", *layer)
    check_needs(needs)
    run = dispatch.implementation("conv_backward", x)
    images = batched(x, ndim)
    grads = ConvGrads(
        arrays.empty(x.shape, images) if "x" in needs else None,
        arrays.empty(weight.shape, weight) if "weight" in needs else None,
        arrays.empty((plan.out_channels,), x) if "bias" in needs else None,
    )
    grad_x = None if grads.x is None else batched(grads.x, ndim)
    run(batched(grad_output, ndim), images, weight, plan, grad_x, grads.weight, grads.bias)
    return grads


def _output_shape(x: Array, plan: geometry.ConvPlan) -> tuple[int, ...]:
    """The shape of the result, batched or not as `x` is."""
    images = (plan.batch,) if x.ndim > len(plan.output_size) + 1 else ()
    return (*images, plan.out_channels, *plan.output_size)
