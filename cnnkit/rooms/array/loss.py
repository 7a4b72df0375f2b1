"""Losses in the array library's own words."""

from cnnkit.arrays import Array, namespace
from cnnkit.rooms.array.softmax import log_softmax, softmax


def cross_entropy(logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    xp = namespace(logits)
    log_p = xp.empty_like(logits)
    log_softmax(logits, 1, log_p)
    hit = xp.take_along_axis(log_p, labels[:, None].astype(xp.int64), 1)[:, 0]
    hit = xp.where((labels >= 0) & (labels < logits.shape[1]), hit, float("nan"))  # labels on a GPU were not looked at
    out[...] = (label_smoothing - 1) * hit
    if label_smoothing:
        out -= label_smoothing * log_p.mean(1)


def cross_entropy_backward(scale: Array, logits: Array, labels: Array, label_smoothing: float, out: Array) -> None:
    softmax(logits, 1, out)
    classes = logits.shape[1]
    which = namespace(logits).arange(classes).reshape(-1, *(1,) * (logits.ndim - 2))
    out -= (labels[:, None] == which) * out.dtype.type(1 - label_smoothing) + out.dtype.type(label_smoothing / classes)
    out *= scale[:, None]


def mse_loss(y: Array, target: Array, out: Array) -> None:
    out[...] = (y - target) ** 2


def mse_loss_backward(scale: float, y: Array, target: Array, out: Array) -> None:
    out[...] = 2 * scale * (y - target)
