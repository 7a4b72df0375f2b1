"""The CPU room: Numba kernels for NumPy arrays, forward and backward, on any number of threads."""

from cnnkit.rooms.numba.conv import conv, conv_backward, conv_transpose, sum_channels
from cnnkit.rooms.numba.dense import dense, dense_backward
from cnnkit.rooms.numba.elementwise import (
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    softmax,
    softmax_backward,
)
from cnnkit.rooms.numba.halves import narrow, widen
from cnnkit.rooms.numba.loss import cross_entropy, cross_entropy_backward
from cnnkit.rooms.numba.norm import norm, norm_backward
from cnnkit.rooms.numba.pool import avg_pool, avg_pool_backward, max_pool, max_pool_backward

__all__ = [
    "avg_pool",
    "avg_pool_backward",
    "conv",
    "conv_backward",
    "conv_transpose",
    "cross_entropy",
    "cross_entropy_backward",
    "dense",
    "dense_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool",
    "max_pool_backward",
    "narrow",
    "norm",
    "norm_backward",
    "relu",
    "relu_backward",
    "softmax",
    "softmax_backward",
    "sum_channels",
    "widen",
]
