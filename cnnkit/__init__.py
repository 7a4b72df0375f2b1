"""cnnkit: what convolutional networks are made of, forward and backward, on the arrays that people already have.

Everything public is found here by name and imported on first use: importing cnnkit costs little more than NumPy.
"""

import importlib
from typing import Any

from cnnkit._version import __version__

_SPATIAL = {
    "cnnkit.ops.conv": ("conv{n}d", "conv{n}d_backward"),
    "cnnkit.ops.conv_transpose": ("conv_transpose{n}d", "conv_transpose{n}d_backward"),
    "cnnkit.ops.adaptive_pool": tuple(
        f"adaptive_{kind}_pool{{n}}d{way}" for kind in ("max", "avg") for way in ("", "_backward")
    ),
    "cnnkit.ops.unpool": ("max_unpool{n}d", "max_unpool{n}d_backward"),
    "cnnkit.ops.lp_pool": ("lp_pool{n}d", "lp_pool{n}d_backward"),
    "cnnkit.ops.pool": ("max_pool{n}d", "max_pool{n}d_backward", "avg_pool{n}d", "avg_pool{n}d_backward"),
}
_PLAIN = {
    "cnnkit.ops.dense": ("dense", "dense_backward"),
    "cnnkit.ops.activation": tuple(
        f"{name}{way}"
        for name in ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh")
        for way in ("", "_backward")
    ),
    "cnnkit.ops.softmax": ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward"),
    "cnnkit.ops.dropout": ("dropout", "dropout_backward"),
    "cnnkit.ops.loss": ("cross_entropy", "cross_entropy_backward", "mse_loss", "mse_loss_backward"),
    "cnnkit.ops.norm": (
        *("batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward"),
        *("group_norm", "group_norm_backward"),
    ),
    "cnnkit.dispatch": ("use_backend", "backends"),
    "cnnkit.rooms.threads": ("set_num_threads", "get_num_threads"),
    "cnnkit.settings": ("options",),
    "cnnkit.config": ("show_config",),
    "cnnkit.warming": ("warmup",),
}
_HOME = {name: module for module, names in _PLAIN.items() for name in names}
_HOME |= {name.format(n=n): module for module, names in _SPATIAL.items() for name in names for n in (1, 2, 3)}
_MODULES = ("analysis", "datasets", "nn", "optim")

__all__ = ["__version__", *sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"cnnkit.{name}")
    else:
        raise AttributeError(f"module 'cnnkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
