"""Softmax and its logarithm: a piece of work is a line along the axis, or as many lines as a vector has lanes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.activation import memory_order
from cnnkit.rooms.numba.functions import exp
from cnnkit.rooms.numba.machine import VECTOR_BYTES, address_of, summing_kernel
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.vectors import (
    at,
    lanes,
    largest,
    load,
    load_all,
    nothing,
    put,
    select,
    size,
    splat,
    store,
    store_all,
    sum_lanes,
)


def softmax(x: Array, axis: int, out: Array) -> None:
    _along(_softmax, axis, out, x)


def softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    _along(_softmax_backward, axis, out, x, grad_output)


def log_softmax(x: Array, axis: int, out: Array) -> None:
    _along(_log_softmax, axis, out, x)


def log_softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    _along(_log_softmax_backward, axis, out, x, grad_output)


class Lines(NamedTuple):
    """The lines along one axis of an array without gaps: of `classes` elements each, `inner` apart.

    Where the axis lies closest together, a line is a piece of work, in vectors along it. Where it does not, a piece is
    as many neighbouring lines as a vector has lanes.
    """

    order: list[int]
    classes: int
    inner: int
    pieces: int

    def arrange(self, array: Array) -> Array:
        """The array's elements as they lie in memory."""
        return np.ascontiguousarray(array.transpose(self.order))


def lines(array: Array, axis: int) -> Lines:
    order = memory_order(array)
    if math.prod(array.shape[each] for each in order[order.index(axis) + 1 :]) * array.itemsize < VECTOR_BYTES // 2:
        order.append(order.pop(order.index(axis)))  # lines that lie apart, but too few together for lanes
    place = order.index(axis)
    sizes = [array.shape[each] for each in order]
    outer, inner = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
    blocks = -(-inner * array.itemsize // VECTOR_BYTES) if inner > 1 else 1
    return Lines(order, sizes[place], inner, outer * blocks)


def _along(run: Callable[..., Any], axis: int, out: Array, *given: Array) -> None:
    layout = lines(out, axis)
    result, *sources = (layout.arrange(array) for array in (out, *given))
    low, places = out.dtype.type(-np.inf), [address_of(array) for array in (*sources, result)]
    threads.run(run, layout.pieces, out.size / 2, low, layout.classes, layout.inner, *places, keep=sources)
    if not np.may_share_memory(result, out):
        out.transpose(layout.order)[...] = result


@summing_kernel
def row_sum(row):
    total = row.dtype.type(0)
    for k in range(row.size):
        total += row[k]
    return total


# ---------------------------------------------------------------- softmax


def place(low, piece, classes, inner):
    """Elements before a piece; vectors in it, bytes between them, lanes in the first, how many less in the next."""
    if inner == 1:
        return piece * classes, (-(-classes // lanes(low)), lanes(low) * size(low), classes, lanes(low))
    outer, block = divmod(piece, -(-inner // lanes(low)))
    first = block * lanes(low)
    return outer * classes * inner + first, (classes, inner * size(low), inner - first, 0)


def exp_shifted(low, x, p, vectors):
    """The largest of each line, and the sum of ``exp(x - largest)``, which go to p unless that is None."""
    n, step, count, less = vectors
    top = splat(low, low)
    for v in range(n):
        value = load(x + v * step, count - v * less, low)
        top = select(value > top, value, top)  # a NaN comes through the sum
    if less:
        top = splat(low, largest(top))
    total = splat(low, nothing(low))
    for v in range(n):
        e = exp(load(x + v * step, count - v * less, low) - top)
        if p is not None:
            store(p + v * step, e, count - v * less)
        total = total + e
    return top, sum_of_lines(low, total, less)


def sum_of_lines(low, lanes_, less):
    """The sum of each line, in all lanes that are its."""
    return splat(low, sum_lanes(lanes_)) if less else lanes_


def _scale(low, p, factor, vectors):
    n, step, count, less = vectors
    for v in range(n):
        store(p + v * step, load(p + v * step, count - v * less, low) * factor, count - v * less)


def log_of_lines(low, x, less, spare):
    """The logarithm of each lane: of one if all are the same. `spare` is room for a vector."""
    store_all(spare, x)
    for lane in range(1 if less else lanes(low)):
        put(spare, lane, math.log(at(spare, lane, low)), low)
    return splat(low, at(spare, 0, low)) if less else load_all(spare, low)


@straight
def _softmax(start, stop, low, classes, inner, x, out):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        p = out + first * size(low)
        _, total = exp_shifted(low, x + first * size(low), p, vectors)
        _scale(low, p, 1.0 / total, vectors)


@straight
def _softmax_backward(start, stop, low, classes, inner, x, grad, out):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        n, step, count, less = vectors
        g, p = grad + first * size(low), out + first * size(low)
        _, total = exp_shifted(low, x + first * size(low), p, vectors)
        zero = nothing(low)
        mean, share = splat(low, zero), 1.0 / total
        for v in range(n):
            lane_count = count - v * less
            mean = mean + load(p + v * step, lane_count, zero) * load(g + v * step, lane_count, zero)
        mean = sum_of_lines(low, mean, less) * share
        for v in range(n):
            slope = load(g + v * step, count - v * less, low) - mean
            store(p + v * step, load(p + v * step, count - v * less, low) * share * slope, count - v * less)


@straight
def _log_softmax(start, stop, low, classes, inner, x, out):
    memory = np.full(lanes(low), low)
    spare = memory.ctypes.data
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        n, step, count, less = vectors
        source, to = x + first * size(low), out + first * size(low)
        top, total = exp_shifted(low, source, None, vectors)
        log_total = log_of_lines(low, total, less, spare)
        for v in range(n):
            value = load(source + v * step, count - v * less, low)
            store(to + v * step, (value - top) - log_total, count - v * less)


@straight
def _log_softmax_backward(start, stop, low, classes, inner, x, grad, out):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        n, step, count, less = vectors
        g, p = grad + first * size(low), out + first * size(low)
        _, total = exp_shifted(low, x + first * size(low), p, vectors)
        zero = nothing(low)
        grads = splat(low, zero)
        for v in range(n):
            grads = grads + load(g + v * step, count - v * less, zero)
        share = sum_of_lines(low, grads, less) / total
        for v in range(n):
            lane_count = count - v * less
            slope = load(g + v * step, lane_count, low) - load(p + v * step, lane_count, low) * share
            store(p + v * step, slope, lane_count)
