"""Dense layers from the same two loops: forward the inner products of rows, backward two matrix products."""

import math
from functools import lru_cache

import numpy as np

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan
from cnnkit.rooms import threads
from cnnkit.rooms.numba import pixels
from cnnkit.rooms.numba.activation import NONE, activate, epilogue
from cnnkit.rooms.numba.channels import sum_channels
from cnnkit.rooms.numba.convolve import convolve
from cnnkit.rooms.numba.correlate import LONG, inner_tile
from cnnkit.rooms.numba.depthwise import empty, turn_back
from cnnkit.rooms.numba.emit import itemsize
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import L2, MULTIPLY_ADDS, VECTOR_BYTES, address_of, keep, kernel
from cnnkit.rooms.numba.tile import Tile, inner

MANY = 320  # examples for which bringing weights together pays
MANY_TERMS = 2048  # of some examples, which stay in the L2 cache
LONG_ROW = 3072  # bytes: of longer ones, the ten of a tile of inner products do not stay in the L1 cache


def dense(x: Array, weight: Array, bias: Array | None, activation: tuple[str, float] | None, out: Array) -> None:
    """``out[n, o] = <x[n], weight[o]>``, by the loop whose lanes or rows the examples fill.

    Of many long examples, a 1x1 convolution, whose pixels they are. Of some long ones, the same with the sides
    exchanged: weights are pixels with their channels last, read as they stand, and examples are filters. Else inner
    products of rows, while a tile's rows stay in the L1 cache.
    """
    if len(x) >= MANY and x.nbytes > L2:
        bias = None if bias is None else np.ascontiguousarray(bias)
        then, _memory = epilogue(activation, x.dtype)
        multiply(weight, x.T, bias, then, out.T)
        return
    x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
    y = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    y[...] = 0 if bias is None else bias
    if not _by_pixels(x, weight, y):
        _add_products(weight, x, y)
    if activation is not None:
        activate(activation, y, y)
    if y is not out:
        out[...] = y


def _by_pixels(x: Array, weight: Array, y: Array) -> bool:
    """Add the products to y with examples as filters, if that is better: of as many terms as stay in the cache."""
    terms, workspace = x.shape[1], settings.current().max_workspace
    if terms * x.itemsize < LONG_ROW or 2 * x.itemsize * len(x) <= VECTOR_BYTES or not y.size:
        return False
    some = [slice(i, min(i + MANY_TERMS, terms)) for i in range(0, terms, MANY_TERMS)]
    plans = [_matrix_plan(each.stop - each.start, len(weight), len(x)) for each in some]
    if any(math.isinf(pixels.forward_cycles(plan, x.dtype, workspace)) for plan in plans):
        return False
    sums, products = empty(y[None]), np.empty_like(y)
    for each, plan in zip(some, plans, strict=True):
        pixels.forward(weight[:, each].T[None], x[:, each], None, plan, NONE, sums)
        turn_back(sums, products[None])
        y += products
    return True


def _add_products(weight: Array, x: Array, out: Array) -> None:
    """Add to out (examples, outputs) the inner products of the rows of x with those of the weights; none has gaps."""
    tile, stretch, some, near = _way(*weight.shape, len(x), out.dtype)
    threads.run(
        _products, parts(len(weight), tile.rows), weight.size * len(x) / MULTIPLY_ADDS,
        tile.unit, tile.loop, tile.rows, tile.vectors, stretch, some, near, address_of(weight), address_of(x),
        address_of(out), *weight.shape, len(x), keep=(weight, x, out),
    )  # fmt: skip


@lru_cache(1024)
def _way(outputs: int, features: int, examples: int, dtype: np.dtype) -> tuple[Tile, int, int, int]:
    """The tile, the features that are summed at a time, and how many tiles of weights and examples are near then."""
    tile = inner_tile(dtype, outputs, examples)
    stretches = max(1, parts(features * dtype.itemsize, LONG))
    stretch = parts(features, stretches * tile.lanes) * tile.lanes
    rows = L2 // 2 // dtype.itemsize // max(1, stretch)
    return tile, max(1, stretch), max(1, rows // tile.rows), max(1, rows // tile.vectors) * tile.vectors


@kernel
def _products(
    start, stop, unit, loop, rows, vectors, stretch, some, near, weight, x, out, outputs, features, examples
):  # fmt: skip
    """A work item is a tile's rows of outputs, for all examples: weights are read once, x once for `some` items."""
    bytes_ = itemsize(unit)
    weights, examples_ = np.empty(rows, np.int64), np.empty(vectors, np.int64)
    for item in range(start, stop, some):
        for p in range(0, features, stretch):
            length = min(stretch, features - p)
            for first in range(0, examples, near):
                for block in range(item, min(item + some, stop)):
                    o = block * rows
                    for i in range(rows):
                        weights[i] = min(o + i, outputs - 1) * features + p
                    for e in range(first, min(first + near, examples), vectors):
                        for j in range(vectors):
                            examples_[j] = min(e + j, examples - 1) * features + p
                        inner(
                            loop, out + (e * outputs + o) * bytes_, outputs, min(rows, outputs - o), examples - e,
                            weight, weights.ctypes.data, x, examples_.ctypes.data, length,
                        )  # fmt: skip
    keep(weights, examples_)


def dense_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    """Products of what is there: x only for the gradient of the weights, weight only for that of x."""
    if grad_x is not None:
        multiply(grad_output, weight, None, NONE, grad_x)
    if grad_weight is not None:
        multiply(grad_output.T, x, None, NONE, grad_weight)
    if grad_bias is not None:
        sum_channels(grad_output.T[None], grad_bias)


def multiply(a: Array, b: Array, bias: Array | None, then: int, out: Array) -> None:
    """``out = a @ b + bias`` as a 1x1 convolution: the rows of b are channels, its columns pixels, a the weights."""
    if not (a.size and b.size):
        out[...] = 0
        return
    convolve(b[None], a, bias, _matrix_plan(*b.shape, len(a)), then, out[None])


@lru_cache(1024)
def _matrix_plan(channels: int, pixels: int, out_channels: int) -> ConvPlan:
    """A 1x1 convolution of a (channels, pixels) matrix."""
    one, zero, size = (1, 1, 1), (0, 0, 0), (1, 1, pixels)
    return ConvPlan(1, channels, out_channels, 1, size, one, one, one, zero, zero, size)
