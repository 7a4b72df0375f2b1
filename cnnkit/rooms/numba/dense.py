"""Dense layers from the same two loops: forward the inner products of rows, backward two matrix products."""

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.conv import sum_channels
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import correlate


def dense(x: Array, weight: Array, bias: Array | None, activation: str | None, out: Array) -> None:
    """``out[n, o] = <x[n], weight[o]>``: both rows are contiguous, nothing is copied."""
    x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
    y = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    y[...] = 0 if bias is None else bias
    if x.size and weight.size:
        plan = _matrix_plan(*weight.shape)
        correlate(_image(weight), _image(x), plan, lines.solve(plan, together=False), True, y[None])
    if activation == "relu":
        np.maximum(y, 0, out=y)
    if y is not out:
        out[...] = y


def dense_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if grad_x is not None:
        _multiply(grad_output, weight, grad_x)
    if grad_weight is not None:
        _multiply(grad_output.T, x, grad_weight)
    if grad_bias is not None:
        threads.run(sum_channels, grad_bias.size, grad_output.size, _image(grad_output.T), grad_bias)


def _multiply(a: Array, b: Array, out: Array) -> None:
    """``out = a @ b`` as a 1x1 convolution: the rows of b are channels, its columns pixels, a the weights."""
    if not (a.size and b.size):
        out[...] = 0
        return
    convolve(_image(b), a[None, :, :, None, None, None], None, _matrix_plan(*b.shape, len(a)), False, _image(out))


def _matrix_plan(channels: int, pixels: int, out_channels: int = 1) -> ConvPlan:
    """A 1x1 convolution of a (channels, pixels) matrix."""
    one, zero, size = (1, 1, 1), (0, 0, 0), (1, 1, pixels)
    return ConvPlan(1, channels, out_channels, 1, size, one, one, one, zero, zero, size)


def _image(matrix: Array) -> Array:
    """A matrix (C, pixels) as (1, C, 1, 1, pixels)."""
    return matrix[None, :, None, None, :]
