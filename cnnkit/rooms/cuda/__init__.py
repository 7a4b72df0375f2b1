"""The CUDA room: kernels written in Numba, compiled without a GPU, started by CuPy. Not yet run on a GPU.

It has what is better than CuPy's own words; the rest of the contract falls back to the array room, which it stands on.
"""

from cnnkit.rooms.cuda.conv import conv, conv_backward, conv_transpose
from cnnkit.rooms.cuda.dense import dense, dense_backward
from cnnkit.rooms.cuda.pool import avg_pool, avg_pool_backward, max_pool

__all__ = [
    "avg_pool",
    "avg_pool_backward",
    "conv",
    "conv_backward",
    "conv_transpose",
    "dense",
    "dense_backward",
    "max_pool",
]
