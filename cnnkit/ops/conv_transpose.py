"""Transposed convolution in 1, 2 and 3 dimensions, forward and backward."""

from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.ops._shared import EVERYTHING, batched, check_needs, documented
from cnnkit.ops.conv import ConvGrads

_FORWARD = """
    @nd transposed convolution: each number of `x` puts the kernel, times itself, into the result.

    ::

        y[n, o, i] = bias[o] + sum over c and all p, k with p * stride - before + k * dilation = i
                               of  x[n, c, p] * weight[c, o, k]

    with ``p`` a position of `x`, ``k`` one of the kernel, ``i`` one of the output, and ``c`` the channels of `o`'s
    group. This is the gradient of :func:`conv@nd`, with the same arguments and `weight`, with respect to its input
    [1]_: it takes an output's shape back to an input's, and is how decoders make images larger. It does not undo a
    convolution, though some call it a deconvolution.

    Parameters
    ----------
    x : array, shape (N, C_in, @in) or (C_in, @in)
        float16, bfloat16, float32 or float64, with any strides. A channels-last `x` gives a channels-last result.
    weight : array, shape (C_in, C_out // groups, @kernel)
    bias : array, shape (C_out,), optional
    stride, dilation : int or tuple of @n ints
        Steps in elements of the result: between where neighbours in `x` put their kernels, and between the taps of
        one kernel.
    padding : int, tuple of @n ints, tuple of @n (before, after) pairs, "valid", "same" or "same_lower"
        What is cut off the result, being what the convolution adds to its input. "same" is the way back of a "same"
        convolution and makes the result ``size * stride`` long, the odd one cut off after ("same_lower": before).
    output_padding : int or tuple of @n ints
        How much longer the result is, after: a convolution with a stride brings inputs of several lengths to one
        length, and this says which of them is meant. Smaller than the stride or the dilation; with "same", 0.
    groups : int
        Channels are split into so many groups that do not see each other.

    Returns
    -------
    array, shape (N, C_out, @out) or (C_out, @out)
        Each size is ``(size - 1) * stride - before - after + dilation * (k - 1) + output_padding + 1``.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, chapter 4.
"""

_BACKWARD = """
    Gradients of :func:`conv_transpose@nd` with respect to its input, weight and bias.

    ::

        grad_x[n, c, p]      = sum over o, k of  grad_output[n, o, p * stride - before + k * dilation] * weight[c, o, k]
        grad_weight[c, o, k] = sum over n, p of  grad_output[n, o, p * stride - before + k * dilation] * x[n, c, p]
        grad_bias[o]         = sum over n, i of  grad_output[n, o, i]

    The first is :func:`conv@nd` of the output's gradient; outside of it there are zeros.

    Parameters
    ----------
    grad_output : array, shape (N, C_out, @out) or (C_out, @out)
        The gradient with respect to the result.
    x : array, shape (N, C_in, @in) or (C_in, @in)
    weight : array, shape (C_in, C_out // groups, @kernel)
    stride, padding, output_padding, groups, dilation
        What :func:`conv_transpose@nd` was given.
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
    >>> from cnnkit import conv_transpose1d
    >>> x, weight = np.array([[1.0, 2.0, 4.0]]), np.array([[[1.0, 10.0, 100.0]]])
    >>> conv_transpose1d(x, weight, stride=2)
    array([[  1.,  10., 102.,  20., 204.,  40., 400.]])
    >>> conv_transpose1d(x, weight, stride=2, padding="same")
    array([[  1.,  10., 102.,  20., 204.,  40.]])
    """,
)
def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


@documented(
    _FORWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import conv_transpose2d
    >>> x = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> conv_transpose2d(x, np.ones((1, 1, 2, 2)), stride=2)
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.],
            [3., 3., 4., 4.],
            [3., 3., 4., 4.]]])
    >>> conv_transpose2d(x, np.ones((1, 5, 3, 3)), stride=2, padding=1, output_padding=1).shape
    (5, 4, 4)
    """,
)
def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


@documented(
    _FORWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import conv_transpose3d
    >>> conv_transpose3d(np.ones((2, 5, 2, 2, 2)), np.ones((5, 1, 3, 3, 3)), stride=2).shape
    (2, 1, 5, 5, 5)
    """,
)
def conv_transpose3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation)


@documented(
    _BACKWARD,
    1,
    """
    >>> import numpy as np
    >>> from cnnkit import conv_transpose1d_backward
    >>> x, weight = np.array([[1.0, 2.0, 4.0]]), np.array([[[1.0, 10.0, 100.0]]])
    >>> grads = conv_transpose1d_backward(np.ones((1, 6)), x, weight, stride=2, padding="same")
    >>> grads.x, grads.weight
    (array([[111., 111.,  11.]]), array([[[7., 7., 3.]]]))
    """,
)
def conv_transpose1d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_transpose_backward(1, grad_output, x, weight, stride, padding, output_padding, groups, dilation, needs)


@documented(
    _BACKWARD,
    2,
    """
    >>> import numpy as np
    >>> from cnnkit import conv_transpose2d_backward
    >>> x = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> grads = conv_transpose2d_backward(np.ones((1, 4, 4)), x, np.ones((1, 1, 2, 2)), stride=2, needs=("x", "bias"))
    >>> grads.x
    array([[[4., 4.],
            [4., 4.]]])
    >>> grads.bias, grads.weight
    (array([16.]), None)
    """,
)
def conv_transpose2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_transpose_backward(2, grad_output, x, weight, stride, padding, output_padding, groups, dilation, needs)


@documented(
    _BACKWARD,
    3,
    """
    >>> import numpy as np
    >>> from cnnkit import conv_transpose3d_backward
    >>> grads = conv_transpose3d_backward(np.ones((1, 4, 4, 4)), np.ones((5, 2, 2, 2)), np.ones((5, 1, 3, 3, 3)))
    >>> grads.bias
    array([64.])
    """,
)
def conv_transpose3d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> ConvGrads:
    return _conv_transpose_backward(3, grad_output, x, weight, stride, padding, output_padding, groups, dilation, needs)


def _conv_transpose(
    ndim: int,
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Array:
    x, weight, bias = arrays.check(x=x, weight=weight, bias=bias)
    plan = geometry.conv_transpose(ndim, x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    if bias is not None:
        needed, layer = (plan.in_channels,), (weight.shape, groups)
        geometry.check_shape("bias", bias.shape, needed, "weight of shape {} with groups={}", *layer)
    run = dispatch.implementation("conv_transpose", x)
    images = batched(x, ndim)
    y = arrays.empty(_result_shape(x, plan), images)
    run(images, weight, bias, plan, batched(y, ndim))
    return y


def _conv_transpose_backward(
    ndim: int,
    grad_output: Array,
    x: Array,
    weight: Array,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    needs: tuple[str, ...],
) -> ConvGrads:
    """By the convolution from the result to `x`, of which `grad_output` is the input, and `x` an output's gradient."""
    grad_output, x, weight = arrays.check(grad_output=grad_output, x=x, weight=weight)
    plan = geometry.conv_transpose(ndim, x.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    layer = ndim, x.shape, weight.shape
    needed = _result_shape(x, plan)
    geometry.check_shape("grad_output", grad_output.shape, needed, "conv_transpose{}d of x {}, weight {}", *layer)
    check_needs(needs)
    conv, conv_backward, sum_channels = (
        dispatch.implementation(op, x) for op in ("conv", "conv_backward", "sum_channels")
    )
    images, grad = batched(x, ndim), batched(grad_output, ndim)
    grads = ConvGrads(
        arrays.empty(x.shape, images) if "x" in needs else None,
        arrays.empty(weight.shape, weight) if "weight" in needs else None,
        arrays.empty((plan.in_channels,), x) if "bias" in needs else None,
    )
    if grads.x is not None:
        conv(grad, weight, None, plan, None, batched(grads.x, ndim))
    if grads.weight is not None:
        conv_backward(images, grad, weight, plan, None, grads.weight, None)
    if grads.bias is not None:
        sum_channels(grad, grads.bias)
    return grads


def _result_shape(x: Array, plan: geometry.ConvPlan) -> tuple[int, ...]:
    """The shape of the result, batched or not as `x` is: that of the input of the convolution."""
    images = (plan.batch,) if x.ndim > len(plan.input_size) + 1 else ()
    return (*images, plan.in_channels, *plan.input_size)
