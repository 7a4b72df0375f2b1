"""The clear room: every op in the array library's own words, for NumPy and CuPy from one source.

It is what the other rooms are checked against, and what runs where they cannot.
"""

from cnnkit.rooms.array.activation import activate, activate_backward
from cnnkit.rooms.array.conv import conv, conv_backward, conv_transpose, sum_channels
from cnnkit.rooms.array.dense import dense, dense_backward
from cnnkit.rooms.array.dropout import dropout
from cnnkit.rooms.array.halves import narrow, widen
from cnnkit.rooms.array.loss import cross_entropy, cross_entropy_backward, mse_loss, mse_loss_backward
from cnnkit.rooms.array.norm import norm, norm_backward
from cnnkit.rooms.array.pool import (
    avg_pool,
    avg_pool_backward,
    lp_pool,
    lp_pool_backward,
    max_pool,
    max_pool_backward,
    max_unpool,
    max_unpool_backward,
)
from cnnkit.rooms.array.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward

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
