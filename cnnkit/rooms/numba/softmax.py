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
    return top, _shifted(low, x, p, top, vectors, along)


def _shifted(low, x, p, top, vectors, along):
    """The sum of ``exp(x - top)``, which go to p unless that is None."""
    (whole, n, step, count), total = vectors, splat(low, nothing(low))
    for v in range(whole):
        total = total + _exponentials(low, x + v * step, None if p is None else p + v * step, top, None)
    for v in range(whole, n):
        total = total + _exponentials(low, x + v * step, None if p is None else p + v * step, top, count)
    return sum_of_lines(low, total, along)


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


def _exponentials(low, x, p, top, count):
    e = exp(load_some(x, count, low) - top)
    if p is not None:
        store_some(p, e, count)
    return e


def sum_of_lines(low, lanes_, along):
    """The sum of each line, in all lanes that are its."""
    return splat(low, sum_lanes(lanes_)) if along else lanes_


def log_of_lines(low, x, along, spare):
    """The logarithm of each lane: of one if all are the same. `spare` is room for a vector."""
    store_all(spare, x)
    for lane in range(1 if along else lanes(low)):
        put(spare, lane, math.log(at(spare, lane, low)), low)
    return splat(low, at(spare, 0, low)) if along else load_all(spare, low)


@straight
def _softmax(start, stop, low, classes, inner, x, out):
    """The next piece's largest are sought before this one is divided by its sum: neither waits for the other."""
    first, vectors = place(low, start, classes, inner)
    top = _tops(low, x + first * size(low), vectors, inner == 1)
    for piece in range(start, stop):
        here, p = x + first * size(low), out + first * size(low)
        whole, n, step, count = vectors
        share = 1.0 / _shifted(low, here, p, top, vectors, inner == 1)
        first, vectors = place(low, min(piece + 1, stop - 1), classes, inner)
        top = _tops(low, x + first * size(low), vectors, inner == 1)
        for v in range(whole):
            store_all(p + v * step, load_all(p + v * step, low) * share)
        for v in range(whole, n):
            store(p + v * step, load(p + v * step, count, low) * share, count)


@straight
def _softmax_backward(start, stop, low, classes, inner, x, grad, out):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        whole, n, step, count = vectors
        g, p, zero = grad + first * size(low), out + first * size(low), nothing(low)
        _, total = exp_shifted(low, x + first * size(low), p, vectors, inner == 1)
        mean, share = splat(low, zero), 1.0 / total
        for v in range(whole):
            mean = mean + load_all(p + v * step, zero) * load_all(g + v * step, zero)
        for v in range(whole, n):
            mean = mean + load(p + v * step, count, zero) * load(g + v * step, count, zero)
        mean = sum_of_lines(low, mean, inner == 1) * share
        for v in range(whole):
            slope = load_all(g + v * step, low) - mean
            store_all(p + v * step, load_all(p + v * step, low) * share * slope)
        for v in range(whole, n):
            slope = load(g + v * step, count, low) - mean
            store(p + v * step, load(p + v * step, count, low) * share * slope, count)


@straight
def _log_softmax(start, stop, low, classes, inner, x, out):
    memory = np.full(lanes(low), low)
    spare = memory.ctypes.data
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        whole, n, step, count = vectors
        source, to = x + first * size(low), out + first * size(low)
        top, total = exp_shifted(low, source, None, vectors, inner == 1)
        log_total = log_of_lines(low, total, inner == 1, spare)
        for v in range(whole):
            store_all(to + v * step, (load_all(source + v * step, low) - top) - log_total)
        for v in range(whole, n):
            store(to + v * step, (load(source + v * step, count, low) - top) - log_total, count)


@straight
def _log_softmax_backward(start, stop, low, classes, inner, x, grad, out):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        whole, n, step, count = vectors
        g, p, zero = grad + first * size(low), out + first * size(low), nothing(low)
        _, total = exp_shifted(low, x + first * size(low), p, vectors, inner == 1)
        grads = splat(low, zero)
        for v in range(whole):
            grads = grads + load_all(g + v * step, zero)
        for v in range(whole, n):
            grads = grads + load(g + v * step, count, zero)
        share = sum_of_lines(low, grads, inner == 1) / total
        for v in range(whole):
            store_all(p + v * step, load_all(g + v * step, low) - load_all(p + v * step, low) * share)
        for v in range(whole, n):
            store(p + v * step, load(g + v * step, count, low) - load(p + v * step, count, low) * share, count)
