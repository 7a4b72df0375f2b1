"""Dense layers from the same two loops: forward the inner products of rows, backward two matrix products."""

from functools import lru_cache
from typing import Any

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines, pixels
from cnnkit.rooms.numba.activation import NONE, activate, epilogue
from cnnkit.rooms.numba.channels import sum_channels
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import LONG
from cnnkit.rooms.numba.depthwise import empty, turn_back
from cnnkit.rooms.numba.emit import itemsize
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, L2, MASK_REGISTERS, MULTIPLY_ADDS, VECTOR_BYTES, address_of
from cnnkit.rooms.numba.moves import copy
from cnnkit.rooms.numba.straight import apart, straight
from cnnkit.rooms.numba.tile import Tile, inner, tiles
from cnnkit.rooms.numba.vectors import at, lanes, load_all, load_some, size, splat, store_all, store_some

LONG_ROW = 3072  # bytes of a row that are summed at a time where other rows come that need it again: all stay in L1
MANY_TERMS = 2048  # of some examples, which stay in the L2 cache
SUMMED = 4096  # terms of a matrix product that are summed at a time, and so stay near
END = 120 if MASK_REGISTERS else 75  # cycles to add up the lanes of a tile's sums
A_ROW = 2 if VECTOR_BYTES == 64 else 1  # loads of a vector of weights: of 64 bytes mostly lie across two cache lines
PACK = 2  # cycles to bring a weight together
CALL = 10_000  # cycles that it takes beside
FEW, SMALL = 512, 1 << 19  # examples, and products, whose ways back are one small kernel
BY_FILTERS = 50_000  # the same, of examples as filters: a plan, and two arrays more


def dense(x: Array, weight: Array, bias: Array | None, activation: tuple[str, float] | None, out: Array) -> None:
    """``out[n, o] = <x[n], weight[o]>``, in the way that takes the fewest cycles.

    A 1x1 convolution of pixels with their channels last, which examples are, or, with the sides exchanged, weights, and
    examples are its filters; or, where bringing filters together does not pay, inner products of rows as they stand.
    """
    if not out.size:
        return
    way = _best_way(len(weight), *x.shape[::-1], x.dtype, settings.current().max_workspace)
    if way is None:
        bias = None if bias is None else np.ascontiguousarray(bias)
        then, _memory = epilogue(activation, x.dtype)
        x, y = np.ascontiguousarray(x), out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        pixels.forward(x.T[None], weight, bias, matrix_plan(x.shape[1], len(x), len(weight)), then, y.T[None])
    else:
        x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
        y = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        y[...] = 0 if bias is None else bias
        way(weight, x, y)
        if activation is not None:
            activate(activation, y, y)
    if y is not out:
        out[...] = y


@lru_cache(1024)
def _best_way(outputs: int, features: int, examples: int, dtype: np.dtype, workspace: int) -> Any:
    """The function that adds up the products; None if examples are pixels."""
    if not features:
        return _add_products
    as_pixels = pixels.forward_cycles(matrix_plan(features, examples, outputs), dtype, workspace)
    terms = (stop - start for start, stop in _stretches(features))
    as_filters = (pixels.forward_cycles(matrix_plan(n, outputs, examples), dtype, workspace) + CALL for n in terms)
    ways = {
        _add_products: products_cycles(outputs, features, examples, dtype),
        None: as_pixels + PACK * outputs * features + CALL,
        _add_by_filters: BY_FILTERS + sum(as_filters) + PACK * examples * (features + outputs),
    }
    return min(ways, key=lambda way: ways[way])


def _stretches(features: int) -> list[tuple[int, int]]:
    """Terms of some examples that stay in the L2 cache, from one to another."""
    return [(start, min(start + MANY_TERMS, features)) for start in range(0, features, MANY_TERMS)]


def _add_by_filters(weight: Array, x: Array, out: Array) -> None:
    """As `_add_products`, examples being filters that are brought together, and weights read as they stand."""
    sums, products = empty(out[None]), np.empty_like(out)
    for start, stop in _stretches(x.shape[1]):
        plan = matrix_plan(stop - start, len(weight), len(x))
        pixels.forward(weight[:, start:stop].T[None], x[:, start:stop], None, plan, NONE, sums)
        turn_back(sums, products[None])
        out += products


def products_cycles(outputs: int, features: int, examples: int, dtype: np.dtype) -> float:
    """About how many cycles the inner products of rows take."""
    tile, stretch, *_ = _way(outputs, features, examples, dtype)
    a_tile = parts(features, tile.lanes) * _a_vector(tile) + parts(features, stretch) * END
    return parts(outputs, tile.rows) * parts(examples, tile.vectors) * a_tile


def _a_vector(tile: Tile) -> float:
    """Cycles that a vector of terms takes a tile: multiply-adds or loads, as rows of weights lie across cache lines."""
    return max(tile.rows * tile.vectors / FMAS, A_ROW * tile.rows + tile.vectors)


def _add_products(weight: Array, x: Array, out: Array) -> None:
    """Add to out (examples, outputs) the inner products of the rows of x with those of the weights; none has gaps."""
    tile, *counts = _way(*weight.shape, len(x), out.dtype)
    threads.run(
        _products, parts(len(weight), tile.rows), weight.size * len(x) / MULTIPLY_ADDS,
        tile.unit, tile.loop, tile.rows, tile.vectors, *counts, address_of(weight), address_of(x), address_of(out),
        *weight.shape, len(x), keep=(weight, x, out),
    )  # fmt: skip


@lru_cache(1024)
def _way(outputs: int, features: int, examples: int, dtype: np.dtype) -> tuple[Tile, int, int, int, int]:
    """The tile, the features that are summed at a time, how many tiles of weights and examples are near then, and how
    far apart the copies of examples are.
    """

    def cycles(tile: Tile) -> float:
        return parts(outputs, tile.rows) * parts(examples, tile.vectors) * _a_vector(tile)

    tile = min(tiles("inner", dtype), key=cycles)
    stretches = max(1, parts(features * dtype.itemsize, LONG if examples <= tile.vectors else LONG_ROW))
    stretch = max(1, parts(features, stretches * tile.lanes) * tile.lanes)
    rows, pitch = L2 // dtype.itemsize // stretch, lines.pitch(stretch, tile.lanes)
    near = min(parts(examples, tile.vectors), max(1, rows // tile.vectors)) * tile.vectors
    return tile, stretch, max(1, rows // tile.rows), near, pitch


@straight
def _products(
    start, stop, unit, loop, rows, vectors, stretch, some, near, pitch, weight, x, out, outputs, features, examples
):  # fmt: skip
    """A work item is a tile's rows of outputs, for all examples: weights are read once, x once for `some` items.

    Weights are read as they stand. Examples are copied, so that their rows begin with cache lines, and not all in the
    same places of the cache as the weights' rows.
    """
    bytes_ = itemsize(unit)
    weights, examples_ = np.empty(rows, np.int64), np.empty(vectors, np.int64)
    memory = np.empty(near * pitch * bytes_, np.uint8)
    copies = memory.ctypes.data
    for item in range(start, stop, some):
        for p in range(0, features, stretch):
            length = min(stretch, features - p)
            for first in range(0, examples, near):
                last = min(first + near, examples)
                for e in range(first, last):
                    copy(unit, copies + (e - first) * pitch * bytes_, 1, x + (e * features + p) * bytes_, length)
                for block in range(item, min(item + some, stop)):
                    o = block * rows
                    for i in range(rows):
                        weights[i] = min(o + i, outputs - 1) * features + p
                    for e in range(first, last, vectors):
                        for j in range(vectors):
                            examples_[j] = (min(e + j, last - 1) - first) * pitch
                        inner(
                            loop, out + (e * outputs + o) * bytes_, outputs, min(rows, outputs - o), last - e,
                            weight, weights.ctypes.data, copies, examples_.ctypes.data, length,
                        )  # fmt: skip


def dense_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    """Products of what is there: x only for the gradient of the weights, weight only for that of x (else None)."""
    results, (examples, outputs) = (grad_x, grad_weight, grad_bias), grad_output.shape
    features = (weight if x is None else x).shape[1]
    few = examples <= FEW and examples * outputs * features <= SMALL
    if few and all(result is None or result.flags.c_contiguous for result in results):
        given = [None if array is None else np.ascontiguousarray(array) for array in (grad_output, x, weight)]
        places = [address_of(array) for array in (*given, *results)]
        zero, one = grad_output.dtype.type(0), grad_output.dtype.type(1)
        _small_backward(0, 1, zero, one, examples, outputs, features, *places)
        return
    if grad_x is not None:
        multiply(grad_output, weight, grad_x)
    if grad_weight is not None:
        multiply(grad_output.T, x, grad_weight)
    if grad_bias is not None:
        sum_channels(grad_output.T[None], grad_bias)


@straight
def _small_backward(
    start, stop, zero, one, examples, outputs, features, grad, x, weight, grad_x, grad_weight, grad_bias
):  # fmt: skip
    """All at once, by addresses: results that are not wanted have none."""
    row, ones = outputs * size(zero), np.full(1, one)
    if grad_x:
        _small_product(zero, grad, row, size(zero), weight, examples, outputs, features, grad_x)
    if grad_weight:
        _small_product(zero, grad, size(zero), row, x, outputs, examples, features, grad_weight)
    if grad_bias:
        _small_product(zero, ones.ctypes.data, 0, 0, grad, 1, examples, outputs, grad_bias)


@apart
def _small_product(zero, a, a_row, a_term, b, rows, terms, columns, out):
    """``out = a @ b``; steps of a are in bytes, b and out (rows, columns) have no gaps.

    The last rows and columns are done with some of those before once more, where there are enough.
    """
    width, step = lanes(zero), columns * size(zero)
    for i in range(0, rows, 4):
        i0, i1, i2, i3 = i, min(i + 1, rows - 1), min(i + 2, rows - 1), min(i + 3, rows - 1)
        sources = a + i0 * a_row, a + i1 * a_row, a + i2 * a_row, a + i3 * a_row
        to = out + i0 * step, out + i1 * step, out + i2 * step, out + i3 * step
        if columns >= 2 * width:
            for j in range(0, columns, 2 * width):
                _small_tile(zero, sources, a_term, b, terms, step, min(j, columns - 2 * width), None, to)
        else:
            for j in range(0, columns, width):
                _small_tile(zero, sources, a_term, b, terms, step, j, columns - j, to)


def _small_tile(zero, a, a_term, b, terms, step, column, count, out):
    """Four rows of two vectors of columns, or of one of `count` columns unless that is None."""
    place, second, none = column * size(zero), lanes(zero) * size(zero), splat(zero, zero)
    (a0, a1, a2, a3), (to0, to1, to2, to3) = a, out
    s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = none
    for t in range(terms):
        p, q = b + t * step + place, t * a_term
        v = load_some(p, count, none)
        f0, f1, f2, f3 = at(a0 + q, 0, zero), at(a1 + q, 0, zero), at(a2 + q, 0, zero), at(a3 + q, 0, zero)
        s0, s1, s2, s3 = s0 + v * f0, s1 + v * f1, s2 + v * f2, s3 + v * f3
        if count is None:
            v = load_all(p + second, zero)
            t0, t1, t2, t3 = t0 + v * f0, t1 + v * f1, t2 + v * f2, t3 + v * f3
    store_some(to0 + place, s0, count)
    store_some(to1 + place, s1, count)
    store_some(to2 + place, s2, count)
    store_some(to3 + place, s3, count)
    if count is None:
        store_all(to0 + place + second, t0)
        store_all(to1 + place + second, t1)
        store_all(to2 + place + second, t2)
        store_all(to3 + place + second, t3)


def multiply(a: Array, b: Array, out: Array) -> None:
    """``out = a @ b`` as 1x1 convolutions: the rows of b are channels, its columns pixels, a the weights.

    So many terms at a time that they stay in the caches; the sums of each are added up in order.
    """
    if not (a.size and b.size):
        out[...] = 0
        return
    to = out
    for start in range(0, len(b), SUMMED):
        some = slice(start, start + SUMMED)
        rows, plan = b[some], matrix_plan(len(b[some]), b.shape[1], len(a))
        convolve(rows[None], a[:, some], None, plan, NONE, to[None])
        if to is out:
            to = np.empty_like(out) if len(b) > SUMMED else out
        else:
            out += to


@lru_cache(1024)
def matrix_plan(channels: int, pixels: int, out_channels: int) -> ConvPlan:
    """A 1x1 convolution of a (channels, pixels) matrix."""
    one, zero, size = (1, 1, 1), (0, 0, 0), (1, 1, pixels)
    return ConvPlan(1, channels, out_channels, 1, size, one, one, one, zero, zero, size)
