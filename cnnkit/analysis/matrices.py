"""A convolution as what it is: a dense layer whose matrix is sparse and tied."""

import math
from typing import Any

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array


def conv_matrix(
    weight: Array,
    input_shape: tuple[int, ...],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Write a convolution as a matrix: ``conv_matrix(weight, x.shape) @ x.ravel()`` is ``conv(x, weight).ravel()``.

    Row by row it is a dense layer: few weights are not zero, and all rows of a channel have the same ones. Its
    transpose is the gradient with respect to the input, ``matrix.T @ grad_output.ravel()``, which is why that is also
    called transposed convolution [1]_.

    Parameters
    ----------
    weight : array, shape (C_out, C_in // groups, \\*kernel)
        With one, two or three kernel axes; float32 or float64, of NumPy.
    input_shape : tuple of int
        (C_in, \\*sizes): the shape of one image.
    stride, padding, dilation, groups
        As in `cnnkit.conv2d`.

    Returns
    -------
    scipy.sparse.csr_array, shape (C_out * outputs, C_in * inputs)
        Of the dtype of `weight`. Weights that are zero are stored like the others: its pattern is that of the layer.

    Raises
    ------
    ImportError
        If SciPy is not installed.
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If `weight` is no such array.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit.analysis import conv_matrix
    >>> matrix = conv_matrix(np.array([[[1.0, 2.0]]]), (1, 4))
    >>> matrix.toarray()
    array([[1., 2., 0., 0.],
           [0., 1., 2., 0.],
           [0., 0., 1., 2.]])
    >>> conv_matrix(np.ones((1, 1, 3, 3)), (1, 6, 6)).shape
    (16, 36)
    """
    sparse = _scipy_sparse()
    weight = arrays.plain(weight, "weight", (np.dtype("float32"), np.dtype("float64")))
    if arrays.family(weight) != "numpy":
        raise TypeError("weight is a cupy array, but the matrix is one of SciPy, for NumPy: give weight.get()")
    plan = _plan(weight, input_shape, stride, padding, dilation, groups)
    outputs, inputs = (math.prod(plan.output_size), math.prod(plan.input_size))
    rows, columns, values = zip(*_entries(weight, plan), strict=True)
    size = plan.out_channels * outputs, plan.in_channels * inputs
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_array(entries, shape=size).tocsr()


def _plan(weight: Array, input_shape: Any, *windows: Any) -> geometry.ConvPlan:
    ndim = weight.ndim - 2
    if ndim not in geometry.AXES:
        raise ValueError(f"weight has shape {weight.shape}, but (C_out, C_in // groups, *kernel) is needed")
    shape = tuple(geometry.integer(size, "input_shape") for size in input_shape)
    if len(shape) != ndim + 1:
        needed = ", ".join(geometry.AXES[ndim])
        raise ValueError(f"input_shape is {shape}, but weight of shape {weight.shape} needs (C, {needed}): one image")
    return geometry.conv(ndim, shape, weight.shape, *windows)


def _entries(weight: Array, plan: geometry.ConvPlan) -> Any:
    """For each tap: the rows, columns and values of what it connects, over all channels and positions."""
    outputs, inputs = math.prod(plan.output_size), math.prod(plan.input_size)
    output_index = np.arange(outputs).reshape(1, 1, *plan.output_size)
    input_index = np.arange(inputs).reshape(1, 1, *plan.input_size)
    out_channel = np.arange(plan.out_channels)[:, None, None]
    per_group = weight.shape[1]
    first = out_channel // (plan.out_channels // plan.groups) * per_group  # input channel of the output's group
    in_channel = first + np.arange(per_group)[:, None]
    for tap, to, of in geometry.taps(plan):
        row = out_channel * outputs + output_index[to].ravel()
        column = in_channel * inputs + input_index[of].ravel()
        value = weight[(..., *tap)][:, :, None]
        yield tuple(np.broadcast_to(part, column.shape).ravel() for part in (row, column, value))


def _scipy_sparse() -> Any:
    try:
        import scipy.sparse
    except ImportError:
        raise ImportError('conv_matrix needs SciPy: pip install "cnnkit[analysis]"') from None
    return scipy.sparse
