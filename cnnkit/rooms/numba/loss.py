"""Losses: one pass over each example's row of logits."""

import math

import numpy as np

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.elementwise import as_rows, exp_shifted
from cnnkit.rooms.numba.machine import kernel


def cross_entropy(logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    losses = np.empty(labels.size, out.dtype)
    args = as_rows(logits, 1), labels.reshape(-1), out.dtype.type(label_smoothing), losses
    threads.run(_cross_entropy, labels.size, 6 * logits.size, *args)
    out[...] = losses.reshape(out.shape)


def cross_entropy_backward(scale: Array, logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    grads = np.empty((labels.size, logits.shape[1]), out.dtype)
    args = scale.reshape(-1), as_rows(logits, 1), labels.reshape(-1), out.dtype.type(label_smoothing), grads
    threads.run(_cross_entropy_backward, labels.size, 6 * logits.size, *args)
    moved = np.moveaxis(out, 1, -1)
    moved[...] = grads.reshape(moved.shape)


@kernel
def _cross_entropy(start, stop, logits, labels, label_smoothing, losses):
    p = np.empty(logits.shape[1], logits.dtype)
    for i in range(start, stop):
        largest, total = exp_shifted(logits[i], p)
        log_total = math.log(total)
        loss = log_total - (logits[i, labels[i]] - largest)
        if label_smoothing > 0:
            shifted = np.float64(0)
            for k in range(logits.shape[1]):
                shifted += logits[i, k] - largest
            even = log_total - shifted / logits.shape[1]
            loss = (1 - label_smoothing) * loss + label_smoothing * even
        losses[i] = loss


@kernel
def _cross_entropy_backward(start, stop, scale, logits, labels, label_smoothing, grads):
    even = label_smoothing / logits.shape[1]
    for i in range(start, stop):
        _, total = exp_shifted(logits[i], grads[i])
        for k in range(logits.shape[1]):
            wanted = even + (1 - label_smoothing if k == labels[i] else 0)
            grads[i, k] = scale[i] * (grads[i, k] / total - wanted)
