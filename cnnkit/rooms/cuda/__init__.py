"""The CUDA room: kernels written in Numba, compiled without a GPU, started by CuPy. Not yet run on a GPU.

It has what is better than CuPy's own words; for the rest of the contract those of the array room serve.
"""

from cnnkit.rooms.array import (
    activate,
    activate_backward,
    cross_entropy,
    cross_entropy_backward,
    dropout,
    log_softmax,
    log_softmax_backward,
    lp_pool,
    lp_pool_backward,
    max_unpool,
    max_unpool_backward,
    mse_loss,
    mse_loss_backward,
    narrow,
    norm,
    norm_backward,
    softmax,
    softmax_backward,
    sum_channels,
    widen,
)
from cnnkit.rooms.cuda.conv import conv, conv_backward, conv_transpose
from cnnkit.rooms.cuda.dense import dense, dense_backward
from cnnkit.rooms.cuda.pool import avg_pool, avg_pool_backward, max_pool, max_pool_backward

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
