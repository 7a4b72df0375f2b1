"""Activations and softmax: one pass over memory, or one over each row."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel, summing_kernel


def relu(x: Array, out: Array) -> None:
    x_, out_ = _in_memory_order(out, x, out)
    threads.run(_relu, out.size, out.size / 4, x_, out_)


def relu_backward(grad_output: Array, x: Array, out: Array) -> None:
    grad_, x_, out_ = _in_memory_order(out, grad_output, x, out)
    threads.run(_relu_backward, out.size, out.size / 4, grad_, x_, out_)


def softmax(x: Array, axis: int, out: Array) -> None:
    _along(_softmax, axis, out, x)


def softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    _along(_softmax_backward, axis, out, grad_output, x)


def log_softmax(x: Array, axis: int, out: Array) -> None:
    _along(_log_softmax, axis, out, x)


def log_softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    _along(_log_softmax_backward, axis, out, grad_output, x)


def _in_memory_order(out: Array, *given: Array) -> list[Array]:
    """All arrays as flat ones, in the order in which `out`, which has no gaps, lies in memory."""
    order = sorted(range(out.ndim), key=lambda axis: -out.strides[axis])
    return [array.transpose(order).reshape(-1) for array in given]


def as_rows(array: Array, axis: int) -> Array:
    """The array as (others, size of axis), a copy where it must be."""
    moved = np.moveaxis(array, axis, -1)
    return np.ascontiguousarray(moved).reshape(math.prod(moved.shape[:-1]), moved.shape[-1])


def _along(run: Callable[..., Any], axis: int, out: Array, *given: Array) -> None:
    result = np.empty((out.size // max(1, out.shape[axis]), out.shape[axis]), out.dtype)
    threads.run(run, len(result), 6 * out.size, *(as_rows(array, axis) for array in given), result)
    moved = np.moveaxis(out, axis, -1)
    moved[...] = result.reshape(moved.shape)


@kernel
def _relu(start, stop, x, out):
    x, out = x[start:stop], out[start:stop]  # indices from 0 on, of values that are read in any case: vectors
    zero = x.dtype.type(0)
    for i in range(x.size):
        value = x[i]
        out[i] = zero if value < zero else value


@kernel
def _relu_backward(start, stop, grad, x, out):
    grad, x, out = grad[start:stop], x[start:stop], out[start:stop]
    zero = x.dtype.type(0)
    for i in range(x.size):
        value, slope = x[i], grad[i]
        out[i] = zero if value <= zero else slope


@summing_kernel
def row_sum(row):
    total = row.dtype.type(0)
    for k in range(row.size):
        total += row[k]
    return total


@summing_kernel
def _dot(a, b):
    total = a.dtype.type(0)
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@kernel
def exp_shifted(x, p):
    """Fill p with ``exp(x - max(x))``; the maximum and the sum of p."""
    largest = x[0]
    for k in range(x.size):
        largest = x[k] if x[k] > largest else largest
    for k in range(x.size):
        p[k] = math.exp(x[k] - largest)
    return largest, row_sum(p)


@kernel
def _softmax(start, stop, x, out):
    for i in range(start, stop):
        _, total = exp_shifted(x[i], out[i])
        for k in range(x.shape[1]):
            out[i, k] /= total


@kernel
def _softmax_backward(start, stop, grad, x, out):
    _softmax(start, stop, x, out)
    for i in range(start, stop):
        mean = _dot(grad[i], out[i])
        for k in range(x.shape[1]):
            out[i, k] *= grad[i, k] - mean


@kernel
def _log_softmax(start, stop, x, out):
    for i in range(start, stop):
        largest, total = exp_shifted(x[i], out[i])
        log_total = math.log(total)
        for k in range(x.shape[1]):
            out[i, k] = (x[i, k] - largest) - log_total


@kernel
def _log_softmax_backward(start, stop, grad, x, out):
    _softmax(start, stop, x, out)
    for i in range(start, stop):
        total = row_sum(grad[i])
        for k in range(x.shape[1]):
            out[i, k] = grad[i, k] - out[i, k] * total
