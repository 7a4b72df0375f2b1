"""The CPU room: Numba kernels for NumPy arrays, forward and backward, on any number of threads."""

from cnnkit.rooms.numba.conv import conv, conv_backward
from cnnkit.rooms.numba.dense import dense, dense_backward
from cnnkit.rooms.numba.elementwise import (
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    softmax,
    softmax_backward,
)
from cnnkit.rooms.numba.loss import cross_entropy, cross_entropy_backward
from cnnkit.rooms.numba.lp_pool import lp_pool, lp_pool_backward
from cnnkit.rooms.numba.pool import avg_pool, avg_pool_backward, max_pool
from cnnkit.rooms.numba.unpool import max_pool_backward, max_unpool, max_unpool_backward

__all__ = [
    "avg_pool",
    "avg_pool_backward",
    "conv",
    "conv_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dense",
    "dense_backward",
    "log_softmax",
    "log_softmax_backward",
    "lp_pool",
    "lp_pool_backward",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "max_unpool_backward",
    "relu",
    "relu_backward",
    "softmax",
    "softmax_backward",
]
