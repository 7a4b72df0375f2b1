"""Softmax and its logarithm: a piece of work is a line along the axis, or as many lines as a vector has lanes."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import Ints
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
    load_some,
    nothing,
    put,
    select,
    size,
    splat,
    store,
    store_all,
    store_some,
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
    return _lines(array.shape, array.strides, array.itemsize, axis)


@lru_cache(128)
def _lines(shape: Ints, strides: Ints, itemsize: int, axis: int) -> Lines:
    order = memory_order(strides)
    if math.prod(shape[each] for each in order[order.index(axis) + 1 :]) * itemsize < VECTOR_BYTES // 2:
        order.append(order.pop(order.index(axis)))  # lines that lie apart, but too few together for lanes
    place = order.index(axis)
    sizes = [shape[each] for each in order]
    outer, inner = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
    blocks = -(-inner * itemsize // VECTOR_BYTES) if inner > 1 else 1
    return Lines(order, sizes[place], inner, outer * blocks)


def _along(run: Callable[..., Any], axis: int, out: Array, *given: Array) -> None:
    layout = lines(out, axis)
    result, *sources = (layout.arrange(array) for array in (out, *given))
    low, places = out.dtype.type(-np.inf), [address_of(array) for array in (*sources, result)]
    threads.run(run, layout.pieces, out.size * 0.3, low, layout.classes, layout.inner, *places, keep=sources)
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
    """Elements before a piece; its vectors: so many whole ones, so many in all, bytes between them, lanes in others."""
    if inner == 1:
        whole, rest = divmod(classes, lanes(low))
        return piece * classes, (whole, whole + min(rest, 1), lanes(low) * size(low), rest)
    outer, block = divmod(piece, -(-inner // lanes(low)))
    first = block * lanes(low)
    return outer * classes * inner + first, (
        classes if inner - first >= lanes(low) else 0,
        classes,
        inner * size(low),
        inner - first,
    )


def exp_shifted(low, x, p, vectors, along):
    """The largest of each line, and the sum of ``exp(x - largest)``, which go to p unless that is None."""
    top = _tops(low, x, vectors, along)
    return top, sum_of_lines(low, _shifted(low, x, None, None, p, top, vectors)[0], along)


def _shifted(low, x, g, weighted, p, top, vectors):
    """By lanes the sums of ``exp(x - top)``, which go to p unless that is None, and of g, or of g times these if it is
    `weighted`, unless g is None."""
    (whole, n, step, count), total, grads = vectors, splat(low, nothing(low)), splat(low, nothing(low))
    for v in range(whole):
        p_, g_ = None if p is None else p + v * step, None if g is None else g + v * step
        total, grads = _exponentials(low, x + v * step, g_, weighted, p_, top, None, total, grads)
    for v in range(whole, n):
        p_, g_ = None if p is None else p + v * step, None if g is None else g + v * step
        total, grads = _exponentials(low, x + v * step, g_, weighted, p_, top, count, total, grads)
    return total, grads


def _exponentials(low, x, g, weighted, p, top, count, total, grads):
    e = exp(load_some(x, count, low) - top)
    if p is not None:
        store_some(p, e, count)
    if g is not None:
        slope = load_some(g, count, nothing(low))
        grads = grads + (e * slope if weighted else slope)
    return total + e, grads


def _tops(low, x, vectors, along):
    """The largest of each line, in all lanes that are its; a NaN comes through the sum."""
    whole, n, step, count = vectors
    a = b = c = d = splat(low, low)
    fours = whole - whole % 4
    for v in range(0, fours, 4):
        p = x + v * step
        a, b = _top(load_all(p, low), a), _top(load_all(p + step, low), b)
        c, d = _top(load_all(p + 2 * step, low), c), _top(load_all(p + 3 * step, low), d)
    for v in range(fours, whole):
        a = _top(load_all(x + v * step, low), a)
    for v in range(whole, n):
        b = _top(load(x + v * step, count, low), b)
    top = _top(_top(a, b), _top(c, d))
    return splat(low, largest(top)) if along else top


def _top(value, top):
    return select(value > top, value, top)


def sum_of_lines(low, lanes_, along):
    """The sum of each line, in all lanes that are its."""
    return splat(low, sum_lanes(lanes_)) if along else lanes_


def log_of_lines(low, x, along, spare):
    """The logarithm of each lane: of one if all are the same. `spare` is room for a vector."""
    store_all(spare, x)
    for lane in range(1 if along else lanes(low)):
        put(spare, lane, math.log(at(spare, lane, low)), low)
    return splat(low, at(spare, 0, low)) if along else load_all(spare, low)


def _pieces(start, stop, low, classes, inner, x, grad, weighted, keep, out, numbers, result):
    """Pieces of work: their exponentials (left in `out` if these are to `keep`) and sums, the `numbers` that each line
    has of these, and its `result`. The next piece's largest are sought before that, for neither waits for the other."""
    memory, along, item = np.full(lanes(low), low), inner == 1, size(low)
    first, vectors = place(low, start, classes, inner)
    top = _tops(low, x + first * item, vectors, along)
    for piece in range(start, stop):
        here, g, p = x + first * item, None if grad is None else grad + first * item, out + first * item
        whole, n, step, count = vectors
        total, grads = _shifted(low, here, g, weighted, p if keep else None, top, vectors)
        total, grads = sum_of_lines(low, total, along), sum_of_lines(low, grads, along)
        known = numbers(low, top, total, grads, along, memory.ctypes.data)
        first, vectors = place(low, min(piece + 1, stop - 1), classes, inner)
        top = _tops(low, x + first * item, vectors, along)
        for v in range(whole):
            store_all(p + v * step, result(low, here + v * step, g, p + v * step, v * step, None, known))
        for v in range(whole, n):
            store(p + v * step, result(low, here + v * step, g, p + v * step, v * step, count, known), count)


@straight
def _softmax(start, stop, low, classes, inner, x, out):
    _pieces(start, stop, low, classes, inner, x, None, None, True, out, _share, _scaled)


def _share(low, top, total, grads, along, spare):
    return 1.0 / total


def _scaled(low, x, g, p, v, count, share):
    return load_some(p, count, low) * share


@straight
def _softmax_backward(start, stop, low, classes, inner, x, grad, out):
    _pieces(start, stop, low, classes, inner, x, grad, True, True, out, _share_and_mean, _from_mean)


def _share_and_mean(low, top, total, grads, along, spare):
    share = 1.0 / total
    return share, grads * share


def _from_mean(low, x, g, p, v, count, known):
    share, mean = known
    return load_some(p, count, low) * share * (load_some(g + v, count, low) - mean)


@straight
def _log_softmax(start, stop, low, classes, inner, x, out):
    _pieces(start, stop, low, classes, inner, x, None, None, False, out, _top_and_log, _logarithm)


def _top_and_log(low, top, total, grads, along, spare):
    return top, log_of_lines(low, total, along, spare)


def _logarithm(low, x, g, p, v, count, known):
    top, log_total = known
    return (load_some(x, count, low) - top) - log_total


@straight
def _log_softmax_backward(start, stop, low, classes, inner, x, grad, out):
    _pieces(start, stop, low, classes, inner, x, grad, False, True, out, _share_of_grads, _less_share)


def _share_of_grads(low, top, total, grads, along, spare):
    return grads / total


def _less_share(low, x, g, p, v, count, share):
    return load_some(g + v, count, low) - load_some(p, count, low) * share
