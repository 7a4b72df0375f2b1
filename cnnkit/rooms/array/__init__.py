"""The clear room: every op in the array library's own words, for NumPy and CuPy from one source.

It is what the other rooms are checked against, and what runs where they cannot.
"""

from cnnkit.rooms.array.conv import conv, conv_backward
from cnnkit.rooms.array.dense import dense, dense_backward
from cnnkit.rooms.array.elementwise import (
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    softmax,
    softmax_backward,
)
from cnnkit.rooms.array.loss import cross_entropy, cross_entropy_backward
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
