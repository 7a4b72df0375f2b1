"""The CPU room: Numba kernels for NumPy arrays, forward and backward, on any number of threads."""

from cnnkit.rooms.numba.activation import activate, activate_backward
from cnnkit.rooms.numba.channels import sum_channels
from cnnkit.rooms.numba.conv import conv, conv_backward, conv_transpose
from cnnkit.rooms.numba.dense import dense, dense_backward
from cnnkit.rooms.numba.dropout import dropout
from cnnkit.rooms.numba.halves import narrow, widen
from cnnkit.rooms.numba.loss import cross_entropy, cross_entropy_backward, mse_loss, mse_loss_backward
from cnnkit.rooms.numba.lp_pool import lp_pool, lp_pool_backward
from cnnkit.rooms.numba.machine import keep_freed_memory
from cnnkit.rooms.numba.norm import norm, norm_backward
from cnnkit.rooms.numba.pool import avg_pool, avg_pool_backward, max_pool
from cnnkit.rooms.numba.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from cnnkit.rooms.numba.unpool import max_pool_backward, max_unpool, max_unpool_backward

__all__ = [
    "activate",
    "activate_backward",
    "avg_pool",
    "avg_pool_backward",
    "conv",
    "conv_backward",
    "conv_transpose",
    "cross_entropy",
    "cross_entropy_backward",
    "dense",
    "dense_backward",
    "dropout",
    "log_softmax",
    "log_softmax_backward",
    "lp_pool",
    "lp_pool_backward",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "max_unpool_backward",
    "mse_loss",
    "mse_loss_backward",
    "narrow",
    "norm",
    "norm_backward",
    "softmax",
    "softmax_backward",
    "sum_channels",
    "widen",
]

keep_freed_memory()
