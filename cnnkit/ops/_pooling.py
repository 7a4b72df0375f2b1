"""What the pooling functions share: parts of their docstrings, and pooling by a plan once arguments are known."""

from typing import Any

import numpy as np

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.geometry import AdaptivePlan, Ints, PoolPlan
from cnnkit.ops._shared import batched

INDEX = (np.dtype("int64"),)

PARAMETERS = """
    kernel_size : int or tuple of @n ints
        Size of a window.
    stride : int or tuple of @n ints, optional
        Step between windows; the kernel size if not given.
    padding : int, tuple of @n ints, tuple of @n (before, after) pairs, "valid", "same" or "same_lower"
        Widens `x`, by at most half a window; see :func:`conv@nd`.
"""

RAISES = """
    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is no array, or of a dtype that is not taken.
"""


def maxima(ndim: int, x: Array, plan: PoolPlan | AdaptivePlan, return_indices: bool, out: Array | None = None) -> Any:
    """``y`` or ``(y, indices)``, with `y` written to `out` if there is one."""
    geometry.boolean(return_indices, "return_indices")
    run = dispatch.implementation("max_pool", x)
    shape = (*x.shape[:-ndim], *plan.output_size)
    y = arrays.result(out, shape, batched(x, ndim), (x,))
    indices = arrays.empty(shape, batched(x, ndim), INDEX[0]) if return_indices else None
    run(batched(x, ndim), plan, batched(y, ndim), None if indices is None else batched(indices, ndim))
    return y if indices is None else (y, indices)


def maxima_backward(ndim: int, grad_output: Array, indices: Array, input_shape: tuple[int, ...]) -> Array:
    (grad_output,) = arrays.check(grad_output=grad_output)
    (indices,) = arrays.check(INDEX, indices=indices)
    arrays.one_library(grad_output=grad_output, indices=indices)
    input_shape = shape_of_input(ndim, grad_output, input_shape)
    geometry.check_shape("indices", indices.shape, grad_output.shape, "grad_output")
    within_planes(ndim, indices, "input_shape", input_shape)
    run = dispatch.implementation("max_pool_backward", grad_output)
    grad_x = arrays.empty(input_shape, batched(grad_output, ndim))
    run(batched(grad_output, ndim), batched(indices, ndim), batched(grad_x, ndim))
    return grad_x


def means(
    ndim: int, x: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], out: Array | None = None
) -> Array:
    run = dispatch.implementation("avg_pool", x)
    y = arrays.result(out, (*x.shape[:-ndim], *plan.output_size), batched(x, ndim), (x,))
    run(batched(x, ndim), plan, divisors, batched(y, ndim))
    return y


def means_backward(
    ndim: int,
    grad_output: Array,
    input_shape: tuple[int, ...],
    plan: PoolPlan | AdaptivePlan,
    divisors: tuple[Ints, ...],
) -> Array:
    run = dispatch.implementation("avg_pool_backward", grad_output)
    grad_x = arrays.empty(input_shape, batched(grad_output, ndim))
    run(batched(grad_output, ndim), plan, divisors, batched(grad_x, ndim))
    return grad_x


def shape_of_input(ndim: int, grad_output: Array, input_shape: Any) -> tuple[int, ...]:
    """`input_shape` as a tuple of ints that fits `grad_output` in batch and channels."""
    if not isinstance(input_shape, (tuple, list)) or not all(hasattr(n, "__index__") for n in input_shape):
        given = "an array" if hasattr(input_shape, "dtype") else repr(input_shape)
        raise TypeError(f"input_shape is {given}, but a tuple of ints is needed")
    shape = tuple(geometry.integer(n, "input_shape", 0) for n in input_shape)
    geometry.split_shape(shape, ndim, f"pooling over {ndim} axes", "input_shape")
    if len(shape) != grad_output.ndim or shape[:-ndim] != grad_output.shape[:-ndim]:
        raise ValueError(f"grad_output has shape {grad_output.shape}, which does not fit an input of shape {shape}")
    return shape


def within_planes(ndim: int, indices: Array, name: str, shape: Ints) -> None:
    """Complain unless all `indices` are places in a plane of `shape`, which is called `name`."""
    plane = geometry.volume(shape[-ndim:])
    if indices.size and not plane:
        raise ValueError(f"indices point into planes of at least 1 element, but {name} {shape} has none")
    if not arrays.within(indices, plane):
        low, high = int(indices.min()), int(indices.max())
        raise ValueError(f"indices reach from {low} to {high}, but {name} {shape} needs 0 to {plane - 1}")
