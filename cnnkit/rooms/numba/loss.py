"""Losses: one pass over each example's line of logits, or over all numbers."""

import math
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.activation import pointwise
from cnnkit.rooms.numba.machine import address_of
from cnnkit.rooms.numba.softmax import Lines, exp_shifted, lines, place, sum_of_lines
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.vectors import at, lanes, load, load_all, nothing, put, size, splat, store, store_all


def cross_entropy(logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    layout = lines(logits, 1)
    losses = _by_example(layout, out)
    laid = losses if losses.flags.c_contiguous else np.empty(losses.shape, out.dtype)
    _run(_cross_entropy, layout, logits, labels, label_smoothing, laid)
    if laid is not losses:
        losses[...] = laid


def cross_entropy_backward(scale: Array, logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    layout = lines(logits, 1)
    grads = layout.arrange(out)
    scales = np.ascontiguousarray(_by_example(layout, scale))
    _run(_cross_entropy_backward, layout, logits, labels, label_smoothing, grads, scales)
    if not np.may_share_memory(grads, out):
        out.transpose(layout.order)[...] = grads


def mse_loss(y: Array, target: Array, out: Array) -> None:
    pointwise("squared_error", 0.0, out, y, target)


def mse_loss_backward(scale: float, y: Array, target: Array, out: Array) -> None:
    pointwise("squared_error_backward", 2 * float(scale), out, y, target)


def _by_example(layout: Lines, array: Array) -> Array:
    """An array of one number an example, its axes in the order of the logits' in memory."""
    return array if array.ndim == 1 else array.transpose([axis - (axis > 1) for axis in layout.order if axis != 1])


def _run(run: Any, layout: Lines, logits: Array, labels: Array, label_smoothing: float, *results: Array) -> None:
    sources = layout.arrange(logits), np.ascontiguousarray(_by_example(layout, labels), np.int64)
    places = [address_of(array) for array in (*sources, *results)]
    low, smoothing = logits.dtype.type(-np.inf), logits.dtype.type(label_smoothing)
    args = low, layout.classes, layout.inner, smoothing, *places
    threads.run(run, layout.pieces, logits.size * 0.3, *args, keep=(sources, results))


def _examples(low, first, classes, inner):
    """The first example of a piece of work, and how many it has."""
    if inner == 1:
        return first // classes, 1
    outer, lane = divmod(first, classes * inner)
    return outer * inner + lane, min(lanes(low), inner - lane)


@straight
def _cross_entropy(start, stop, low, classes, inner, smoothing, logits, labels, losses):
    memory = np.full(3 * lanes(low), low)
    tops = memory.ctypes.data
    totals, evens = tops + lanes(low) * size(low), tops + 2 * lanes(low) * size(low)
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        example, examples = _examples(low, first, classes, inner)
        x = logits + first * size(low)
        top, total = exp_shifted(low, x, None, vectors, inner == 1)
        store_all(tops, top)
        store_all(totals, total)
        if smoothing > 0:
            store_all(evens, _mean_shifted(low, x, vectors, top, at(tops, 0, low), classes, inner == 1))
        for lane in range(examples):
            log_total, label = math.log(at(totals, lane, low)), at(labels, example + lane, example)
            loss = np.float64(log_total - (at(x, label * inner + lane, low) - at(tops, lane, low)))
            if smoothing > 0:
                loss = (1 - smoothing) * loss + smoothing * (log_total - at(evens, lane, low))
            put(losses, example + lane, loss, low)


def _mean_shifted(low, x, vectors, top, fill, classes, along):
    """The mean of ``x - top`` over each line: divided first, for the sum of large numbers is none."""
    whole, n, step, count = vectors
    mean = splat(low, nothing(low))
    for v in range(whole):
        mean = mean + (load_all(x + v * step, fill) - top) * (1 / classes)
    for v in range(whole, n):
        mean = mean + (load(x + v * step, count, fill) - top) * (1 / classes)
    return sum_of_lines(low, mean, along)


@straight
def _cross_entropy_backward(start, stop, low, classes, inner, smoothing, logits, labels, grads, scales):
    for piece in range(start, stop):
        first, vectors = place(low, piece, classes, inner)
        whole, n, step, count = vectors
        example, examples = _examples(low, first, classes, inner)
        p = grads + first * size(low)
        _, total = exp_shifted(low, logits + first * size(low), p, vectors, inner == 1)
        scale = load(scales + example * size(low), examples, low)
        if inner == 1:
            scale = splat(low, at(scales, example, low))
        share, even = scale / total, scale * (smoothing / classes)
        for v in range(whole):
            store_all(p + v * step, load_all(p + v * step, low) * share - even)
        for v in range(whole, n):
            store(p + v * step, load(p + v * step, count, low) * share - even, count)
        for lane in range(examples):
            label = at(labels, example + lane, example) * inner + lane
            put(p, label, at(p, label, low) - at(scales, example + lane, low) * (1 - smoothing), low)
